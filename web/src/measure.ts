// Lengths, angles and regions on a slice: for the eyes, kept by the page alone.
import type { Frame, Plane } from './api'
import { intensity, shown } from './reading'
import type { At, Spot } from './shapes'

export type Ruler = 'ruler' | 'angle' | 'region'
export interface Measure { kind: Ruler; plane: Plane; t: number; line: Spot[]; text: string }

export function measures(kind: string): kind is Ruler { return kind === 'ruler' || kind === 'angle' || kind === 'region' }

const COLOUR = '#ffd866'
const [BESIDE, EDGE] = [8, 22] // px of a text from its place, and from the edges of the view, where letters and the scale bar are

function length([a, b]: Spot[], [mmY, mmX]: [number, number]): number { return Math.hypot((a[0] - b[0]) * mmY, (a[1] - b[1]) * mmX) }

/** Between two lines, at most a right angle, as Cobb's is told. */
function degrees([a, b, c, d]: Spot[], [mmY, mmX]: [number, number]): number {
  const way = (from: Spot, to: Spot): number => Math.atan2((to[0] - from[0]) * mmY, (to[1] - from[1]) * mmX)
  const turn = Math.abs(way(a, b) - way(c, d)) % Math.PI
  return (Math.min(turn, Math.PI - turn) * 180) / Math.PI
}

/** Whether a place lies in an outline: by the lines that a ray to the right crosses. */
function within([y, x]: Spot, line: Spot[]): boolean {
  return line.filter(([y1, x1], i) => {
    const [y2, x2] = line[(i + 1) % line.length]
    return y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1
  }).length % 2 === 1
}

function region(line: Spot[], frame: Frame, [mmY, mmX]: [number, number], unit: string): string {
  const values: number[] = []
  for (let y = 0; y < frame.rows; y++) for (let x = 0; x < frame.columns; x++) if (within([y, x], line)) values.push(intensity(frame, [y, x])[0])
  if (!values.length) return 'no pixel'
  const mean = values.reduce((sum, each) => sum + each, 0) / values.length
  const deviation = Math.sqrt(values.reduce((sum, each) => sum + (each - mean) ** 2, 0) / values.length)
  const range = (frame.high - frame.low) / 10
  return `${(values.length * mmY * mmX).toFixed(1)} mm² · ${shown(mean, range)} ± ${shown(deviation, range)}${unit ? ` ${unit}` : ''}`
}

/** What a line, two lines or an outline measure; an angle waits for its second line. */
export function measured(kind: Ruler, plane: Plane, t: number, line: Spot[], before: Measure | undefined, frame: Frame, spacing: [number, number], unit: string): Measure {
  if (kind === 'region') return { kind, plane, t, line, text: region(line, frame, spacing, unit) }
  const ends = [line[0], line[line.length - 1]]
  if (kind === 'ruler') return { kind, plane, t, line: ends, text: `${length(ends, spacing).toFixed(1)} mm` }
  const both = before?.kind === 'angle' && before.line.length === 2 && before.plane === plane && before.t === t ? [...before.line, ...ends] : ends
  return { kind, plane, t, line: both, text: both.length === 4 ? `${degrees(both, spacing).toFixed(1)}°` : '' }
}

export function paintMeasure(brush: CanvasRenderingContext2D, at: At, { kind, line, text }: Measure, width: number, height: number): void {
  brush.strokeStyle = brush.fillStyle = COLOUR
  brush.lineWidth = 1.5
  brush.beginPath()
  line.forEach((spot, i) => { const [top, left] = at(spot); if (i === 0 || (kind === 'angle' && i === 2)) brush.moveTo(left, top); else brush.lineTo(left, top) })
  if (kind === 'region') brush.closePath()
  brush.stroke()
  const places = line.map(at)
  const seen = places.some(([top]) => top >= 0) && places.some(([top]) => top < height) && places.some(([, left]) => left >= 0) && places.some(([, left]) => left < width)
  if (text && seen) paintText(brush, places[places.length - 1], text, width, height)
}

/** Text beside a place, on the side that has room, on a dark ground, and within the view wherever the place is. */
function paintText(brush: CanvasRenderingContext2D, [top, left]: Spot, text: string, width: number, height: number): void {
  brush.font = '600 12px system-ui'
  const wide = Math.min(brush.measureText(text).width, width - 2 * EDGE)
  const within = (place: number, low: number, high: number): number => Math.max(low, Math.min(high, place))
  const x = within(left + BESIDE + wide <= width - EDGE ? left + BESIDE : left - BESIDE - wide, EDGE, width - EDGE - wide)
  const y = within(top - 6, EDGE + 12, height - EDGE - 12)
  brush.fillStyle = 'rgba(10, 13, 18, .8)'
  brush.beginPath()
  brush.roundRect(x - 4, y - 13, wide + 8, 18, 4)
  brush.fill()
  brush.fillStyle = COLOUR
  brush.fillText(text, x, y, wide)
}

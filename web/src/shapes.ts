// What is drawn on a slice, as lines on a canvas: what was said, what is on its way, what is being drawn.
import type { Gesture, Plane } from './api'

export type Spot = [number, number] // row, column
export type At = (spot: Spot) => Spot
export type Range = [number, number] // both included
export interface Span { s: Range; p: Range; l: Range }

const DARK = '#10141a'

/** The corners of a box, in both planes' order. */
export function corners([from, to]: Spot[]): [Spot, Spot] {
  return [[Math.min(from[0], to[0]), Math.min(from[1], to[1])], [Math.max(from[0], to[0]), Math.max(from[1], to[1])]]
}

/** Whether two lines, from end to end, cross. */
export function cross([a, b]: Spot[], [c, d]: Spot[]): boolean {
  const side = (from: Spot, to: Spot, spot: Spot): number => Math.sign((to[0] - from[0]) * (spot[1] - from[1]) - (to[1] - from[1]) * (spot[0] - from[0]))
  return side(a, b, c) !== side(a, b, d) && side(c, d, a) !== side(c, d, b)
}

/** A line with fewer places, none nearer to the one before than this. */
export function thinned(line: Spot[], apart: number): Spot[] {
  const kept = [line[0]]
  for (const spot of line) {
    const last = kept[kept.length - 1]
    if (Math.hypot(spot[0] - last[0], spot[1] - last[1]) >= apart) kept.push(spot)
  }
  return kept.length > 4000 ? thinned(kept, apart * 2) : kept
}

function rectangle(brush: CanvasRenderingContext2D, at: At, [low, high]: [Spot, Spot]): void {
  const [top, left] = at([low[0] - 0.5, low[1] - 0.5])
  const [bottom, right] = at([high[0] + 0.5, high[1] + 0.5])
  brush.rect(left, top, right - left, bottom - top)
}

function path(brush: CanvasRenderingContext2D, at: At, line: Spot[]): void {
  line.forEach((spot, i) => { const [top, left] = at(spot); if (i) brush.lineTo(left, top); else brush.moveTo(left, top) })
  if (line.length === 1) { const [top, left] = at(line[0]); brush.lineTo(left + 0.1, top) }
}

export function mark(brush: CanvasRenderingContext2D, [top, left]: Spot, colour: string, positive: boolean): void {
  brush.beginPath()
  brush.arc(left, top, 6, 0, 2 * Math.PI)
  brush.fillStyle = positive ? colour : DARK
  brush.strokeStyle = positive ? DARK : colour
  brush.lineWidth = 2
  brush.fill()
  brush.stroke()
  brush.beginPath()
  brush.strokeStyle = positive ? DARK : colour
  brush.moveTo(left - 3, top); brush.lineTo(left + 3, top)
  if (positive) { brush.moveTo(left, top - 3); brush.lineTo(left, top + 3) }
  brush.stroke()
}

/** Something drawn; where it is outside, dark inside its line, and marked with a minus. */
export function shape(brush: CanvasRenderingContext2D, at: At, kind: Gesture['kind'], line: Spot[], colour: string, inside: boolean, width = 0): void {
  if (!line.length) return
  brush.lineJoin = brush.lineCap = 'round'
  brush.beginPath()
  if (kind === 'box') rectangle(brush, at, corners([line[0], line[line.length - 1]]))
  else if (kind === 'diameter' && line.length === 4) { path(brush, at, line.slice(0, 2)); path(brush, at, line.slice(2)) }
  else path(brush, at, line)
  if (kind === 'lasso') brush.closePath()
  if (kind === 'scribble') {
    brush.lineWidth = Math.max(2, width)
    brush.strokeStyle = inside ? colour : DARK
    brush.stroke()
  } else if (!inside) {
    brush.fillStyle = 'rgba(16, 20, 26, .55)'
    brush.fill()
  }
  brush.lineWidth = 1.5
  brush.strokeStyle = colour
  if (kind === 'box' || !inside) brush.setLineDash(inside ? [5, 4] : [2, 4])
  if (kind !== 'scribble' || !inside) brush.stroke()
  brush.setLineDash([])
  if (!inside) mark(brush, at(kind === 'box' ? corners([line[0], line[line.length - 1]])[0] : line[line.length >> 1]), colour, false)
}

/** Rows, columns and frames of a box in 3D in a plane; planes are as `Work.place` has them, `up` the last axial frame. */
export function cut(span: Span, plane: Plane, up: number): { t: Range; y: Range; x: Range } {
  const down: Range = [up - span.s[1], up - span.s[0]]
  if (plane === 'coronal') return { t: span.p, y: down, x: span.l }
  if (plane === 'sagittal') return { t: span.l, y: down, x: span.p }
  return { t: span.s, y: span.p, x: span.l }
}

/** The other way round. */
export function span(plane: Plane, t: Range, y: Range, x: Range, up: number): Span {
  const risen: Range = [up - y[1], up - y[0]]
  if (plane === 'coronal') return { s: risen, p: t, l: x }
  if (plane === 'sagittal') return { s: risen, p: x, l: t }
  return { s: t, p: y, l: x }
}

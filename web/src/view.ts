// One plane: the slice, what is outlined on it, and the gestures that outline it.
import type { Frame, Plane, Row } from './api'
import { Stroke, within } from './brush'
import { glow, grey, outlines, palette, rgb, tint } from './colours'
import { fill, h, icon } from './dom'
import { fuse } from './fusion'
import { measured, measures, paintMeasure } from './measure'
import type { Ruler } from './measure'
import { counted, reading, scale } from './reading'
import type { Count } from './reading'
import { corners, mark, shape, thinned } from './shapes'
import type { At, Spot } from './shapes'
import type { Change, Draft, Owner, Work } from './work'

type Drawn = 'box' | 'solid' | 'lasso' | 'scribble' | 'diameter'
interface Drag { from: Spot; line: Spot[]; kind: Drawn | Ruler | 'brush' | 'window' | 'pan'; inside: boolean; x: number; y: number; owner: Owner }
interface Keyed { kind: Drawn; line: Spot[]; inside: boolean; owner: Owner }
const BY_ENDS = new Set<string>(['box', 'solid', 'diameter']) // two places tell all
const BY_KEYS = new Set<string>(['lasso', 'scribble', 'diameter'])
const DRAWN = new Set<string>(['box', 'solid', 'lasso', 'scribble', 'diameter', 'brush', 'ruler', 'angle', 'region'])
const POINTING_NOWHERE = new Set<string>(['look', 'ruler', 'angle', 'region'])
const LEAST_LETTERED = 80 // pixels of the screen: in less letters would hide the slice
const COLOUR = '#4cc9f0' // of the first structure
const LATE = 'That slice was still on its way: nothing was drawn on it. Point again.'

export class SliceView {
  readonly element: HTMLElement
  readonly canvas = h('canvas', { tabindex: '0', role: 'application' })
  private readonly slider: HTMLInputElement
  private readonly strip = h('canvas', { class: 'strip', width: '1', height: '1', 'aria-hidden': 'true' })
  private readonly counter = h('output', { class: 'counter' })
  private readonly readout = h('output', { class: 'readout', 'aria-hidden': 'true' })
  private readonly layers = { image: document.createElement('canvas'), fused: document.createElement('canvas'), tint: document.createElement('canvas'), glow: document.createElement('canvas') }
  private frame: Frame | null = null
  private second: Frame | null = null
  private labels: Uint8Array | null = null
  private doubt: Uint8Array | null = null
  private edges = new Map<number, Path2D>()
  private shownT = -1
  private frameT = -1 // of which the frame is: it comes a moment after the slice is chosen
  private zoom = 1
  private shift: Spot = [0, 0]
  private drag: Drag | null = null
  private keyed: Keyed | null = null // what is being drawn by keys
  private stroke: Stroke | null = null
  private strokeOwner: Owner = { label: 0 }
  private hover: Spot | null = null
  private stop = new AbortController()

  constructor(private readonly work: Work, readonly plane: Plane, title: string, private readonly attempt: (what: Promise<unknown>) => void, onLarge: () => void) {
    const frames = work.plane(plane)?.frames ?? 1
    this.slider = h('input', { type: 'range', min: '0', max: String(frames - 1), 'aria-label': `${title}: slice`, oninput: () => this.go(Number(this.slider.value)) })
    this.element = h('section', { class: `view ${plane}`, 'aria-label': title },
      h('header', {}, h('h2', {}, title), this.readout, this.counter,
        h('button', { class: 'quiet', title: 'This view large, or all views (F)', 'aria-label': `${title} large`, onclick: onLarge }, icon('large'))),
      h('div', { class: 'stage' }, this.canvas),
      h('div', { class: 'slices' }, this.strip, this.slider))
    new ResizeObserver(() => this.paint()).observe(this.canvas)
    this.listen()
    work.listen((change) => this.on(change))
    void this.load()
  }

  private on(change: Change): void {
    this.hold()
    if (change === 'cursor') { if (this.work.place(this.plane).t !== this.shownT) { this.drop(); void this.load() } else this.paint() }
    if (change === 'labels' || change === 'overlay') void this.loadLabels()
    if (change === 'window') { this.drawImage(); this.paint() }
    if (change === 'state' || change === 'looks') { this.drawTint(); this.paint() }
    if (change === 'fusion') void this.load()
    if (change === 'rows') this.paintStrip()
    if (change === 'tool') {
      if (this.keyed && (this.keyed.kind === 'box' || this.keyed.kind === 'solid') && this.canvas.dataset.tool === this.work.tool) this.keyed.inside = !this.work.outside
      else if (this.canvas.dataset.tool === this.work.tool) this.stroke = this.keyed = null
      else this.drop()
      this.canvas.dataset.tool = this.work.tool
      this.paint()
    }
    if (change === 'brush' || change === 'pending' || change === 'solid') this.paint()
  }

  go(t: number): void { if (this.drawing) return; const { y, x } = this.work.place(this.plane); this.drop(); this.work.move(this.plane, t, y, x) }

  /** Whether something is being drawn with the pointer: the slice stays until it is. */
  private get drawing(): boolean { return !!this.drag && this.drag.kind !== 'window' && this.drag.kind !== 'pan' }
  private drop(): void { this.stroke = this.keyed = null; if (this.drawing) this.drag = null }

  /** Whether the slice that was chosen is on the screen: nobody can point at what is not seen. */
  private seen(): boolean {
    const seen = !!this.frame && this.frameT === this.shownT
    if (!seen || this.work.message === LATE) this.work.remark(seen ? '' : LATE)
    return seen
  }

  /** What was begun by keys is of the structure that was chosen then; where another one is chosen it is dropped. */
  private hold(): void {
    if (!this.keyed) return
    const { owner } = this.work
    if (this.keyed.owner.label && this.keyed.owner.label !== owner.label) { this.keyed = null; this.paint() } else this.keyed.owner = owner
  }
  step(by: number): void { this.go(this.work.place(this.plane).t + by) }

  private get count(): Count { return counted(this.work.plane(this.plane)) }
  private number(t: number): number { return this.count.of(t) }

  private async load(): Promise<void> {
    const { t } = this.work.place(this.plane)
    this.shownT = t
    const frames = this.work.plane(this.plane)?.frames ?? 1
    this.slider.value = String(t)
    const { axis, first, last } = this.count
    this.slider.setAttribute('aria-valuetext', `${this.number(t)} of ${first} to ${last}`)
    this.counter.value = axis ? `${axis} ${this.number(t)} of ${first}–${last}` : [`${this.number(t)} / ${last}`, this.work.names[t]].filter(Boolean).join(' · ')
    this.canvas.setAttribute('aria-label', this.described())
    this.stop.abort()
    this.stop = new AbortController()
    const [frame, second] = await Promise.all([this.work.frame(this.plane, t), this.work.fusedFrame(this.plane, t), this.loadLabels(false)]).catch((error: unknown) => {
      if (!(error instanceof DOMException)) this.attempt(Promise.reject(error))
      return [null, null]
    })
    if (!frame || this.shownT !== t) return
    this.frame = frame
    this.frameT = t
    this.second = second
    if (this.plane === 'image') this.work.came(frame)
    this.drawImage()
    this.drawTint()
    this.paint()
    for (const near of [t + 1, t - 1, t + 2]) if (near >= 0 && near < frames) void this.work.frame(this.plane, near).catch(() => undefined)
  }

  private async loadLabels(draw = true): Promise<void> {
    const t = this.shownT
    const { signal } = this.stop
    try {
      const labels = await this.work.labels(this.plane, t, signal)
      const doubt = this.work.doubt ? await this.work.doubtOf(this.plane, t, signal).catch(() => null) : null
      if (t !== this.shownT) return
      this.labels = labels
      this.doubt = doubt
    } catch {
      if (!this.work.shutOut || !this.frame || t !== this.shownT) return
      this.labels = new Uint8Array(this.frame.rows * this.frame.columns)
      this.doubt = null
    }
    if (draw) { this.drawTint(); this.paint() }
  }

  private drawImage(): void {
    if (!this.frame) return
    const { image } = this.layers
    image.width = this.frame.columns
    image.height = this.frame.rows
    const [low, high] = this.plane === 'image' ? [this.frame.black, this.frame.white] : this.work.window
    image.getContext('2d')?.putImageData(grey(this.frame, low, high), 0, 0)
    if (!this.second || !this.work.fused) return
    const { fused } = this.layers
    fused.width = this.second.columns
    fused.height = this.second.rows
    fused.getContext('2d')?.putImageData(fuse(this.second, this.work.fused), 0, 0)
  }

  /** How firm the tint of a structure is. */
  private readonly firm = (label: number): number => {
    const { filled, opacity } = this.work.look(label)
    return filled ? Math.min(255, Math.round(((label === this.work.label ? 92 : 64) * opacity) / 25)) : 0
  }

  private drawTint(): void {
    if (!this.frame || !this.labels || this.labels.length !== this.frame.rows * this.frame.columns) return
    const { rows, columns } = this.frame
    for (const layer of [this.layers.tint, this.layers.glow]) { layer.width = columns; layer.height = rows }
    this.layers.tint.getContext('2d')?.putImageData(tint(this.labels, rows, columns, palette(this.work.visible), this.firm, false), 0, 0)
    this.edges = outlines(this.labels, rows, columns)
    if (this.doubt) this.layers.glow.getContext('2d')?.putImageData(glow(this.doubt, rows, columns), 0, 0)
  }

  /** Where the slice lies on the canvas: corner, and size of a pixel. */
  private layout(): { left: number; top: number; wide: number; high: number } {
    const [mmY, mmX] = this.work.plane(this.plane)?.spacing ?? [1, 1]
    const rows = this.frame?.rows ?? 1
    const columns = this.frame?.columns ?? 1
    const fit = Math.min(this.canvas.clientWidth / (columns * mmX), this.canvas.clientHeight / (rows * mmY)) * this.zoom
    const [wide, high] = [mmX * fit, mmY * fit]
    return { left: (this.canvas.clientWidth - columns * wide) / 2 + this.shift[1], top: (this.canvas.clientHeight - rows * high) / 2 + this.shift[0], wide, high }
  }

  private spot(event: MouseEvent): Spot {
    const bounds = this.canvas.getBoundingClientRect()
    const { left, top, wide, high } = this.layout()
    return [(event.clientY - bounds.top - top) / high - 0.5, (event.clientX - bounds.left - left) / wide - 0.5]
  }

  private holds([y, x]: Spot): boolean {
    return !!this.frame && y >= -0.5 && x >= -0.5 && y < this.frame.rows - 0.5 && x < this.frame.columns - 0.5
  }

  paint(): void {
    const ratio = window.devicePixelRatio || 1
    const { clientWidth: width, clientHeight: height } = this.canvas
    if (!width || !height) return
    this.canvas.width = width * ratio
    this.canvas.height = height * ratio
    const brush = this.canvas.getContext('2d')
    if (!brush || !this.frame) return
    brush.scale(ratio, ratio)
    const { left, top, wide, high } = this.layout()
    const size: [number, number, number, number] = [left, top, this.frame.columns * wide, this.frame.rows * high]
    brush.imageSmoothingEnabled = wide < 3
    brush.drawImage(this.layers.image, ...size)
    if (this.second && this.work.fused) brush.drawImage(this.layers.fused, ...size)
    brush.imageSmoothingEnabled = false
    if (this.work.overlay && this.labels) { brush.drawImage(this.layers.tint, ...size); this.paintOutlines(brush, new DOMMatrix([wide, 0, 0, high, left, top])) }
    if (this.work.doubt && this.doubt) brush.drawImage(this.layers.glow, ...size)
    const at = ([y, x]: Spot): Spot => [top + (y + 0.5) * high, left + (x + 0.5) * wide]
    this.paintCross(brush, at)
    this.paintSaid(brush, at)
    for (const each of this.work.measures) if (each.plane === this.plane && each.t === this.shownT) paintMeasure(brush, at, each, width, height)
    this.paintDrag(brush, at)
    if (this.work.tool === 'brush') this.paintBrush(brush, size, at)
    this.paintLetters(brush, width, height)
    this.paintScale(brush, width, height, wide)
    this.read()
    this.paintWaiting(brush, height)
    this.canvas.setAttribute('aria-label', this.described())
  }

  private paintWaiting(brush: CanvasRenderingContext2D, height: number): void {
    const count = this.work.pending.length
    this.element.dataset.pending = String(count)
    if (!this.work.pending.some((each) => each.plane === this.plane)) return
    brush.fillStyle = '#dfe6ee'
    brush.font = '13px system-ui'
    brush.fillText(this.work.first ? 'loading the network, then outlining …' : count > 1 ? `outlining, ${count - 1} more wait …` : 'outlining …', 10, height - 26)
  }

  private described(): string {
    const { t, y, x } = this.work.place(this.plane)
    if (this.frameT !== t) return `${this.plane} slice ${this.number(t)}: loading`
    const label = this.labels && this.frame ? this.labels[y * this.frame.columns + x] : 0
    const name = this.work.state.structures.find((each) => each.label === label)?.name ?? 'nothing outlined'
    return `${this.plane} slice ${this.number(t)}, cursor at row ${y}, column ${x}: ${name}. Arrows move, Page Up and Down change the slice, Enter clicks, minus clicks outside, B begins a box.${this.work.tool === 'brush' ? ' With the brush, Enter or minus begins a stroke, arrows draw it, Enter ends it.' : BY_KEYS.has(this.work.tool) ? ' With this tool, Enter or minus begins a line, arrows draw it, Enter ends it.' : ''}`
  }

  /** Where the slice's sides lie in the patient. */
  private paintLetters(brush: CanvasRenderingContext2D, width: number, height: number): void {
    const letters = Math.min(width, height) < LEAST_LETTERED ? '' : { axial: 'RLAP', coronal: 'RLSI', sagittal: 'APSI', image: '' }[this.plane]
    this.canvas.dataset.letters = letters
    brush.font = '600 12px system-ui'
    brush.textAlign = 'center'
    brush.fillStyle = 'rgba(223, 230, 238, .75)'
    const places: Spot[] = [[height / 2 + 4, 12], [height / 2 + 4, width - 12], [16, width / 2], [height - 8, width / 2]]
    places.forEach(([top, left], i) => brush.fillText(letters[i] ?? '', left, top))
    brush.textAlign = 'left'
  }

  /** Thin lines; dashed in white where the slice was pointed at, since its outline is what a person made of it. */
  private paintOutlines(brush: CanvasRenderingContext2D, place: DOMMatrix): void {
    const here = this.work.state.said.filter((each) => each.plane === this.plane && each.t === this.shownT && each.kind !== 'slices' && each.kind !== 'interpolate')
    const said = new Set(here.map((each) => each.label))
    this.canvas.dataset.prompted = [...said].join(' ')
    for (const { label, colour } of this.work.visible) {
      const edge = this.edges.get(label)
      if (!edge) continue
      const path = new Path2D()
      path.addPath(edge, place)
      brush.strokeStyle = colour
      brush.lineWidth = label === this.work.label ? 2 : 1.5
      brush.stroke(path)
      if (!said.has(label)) continue
      brush.strokeStyle = '#ffffff'
      brush.lineWidth = 1
      brush.setLineDash([3, 5])
      brush.stroke(path)
      brush.setLineDash([])
    }
  }

  private paintScale(brush: CanvasRenderingContext2D, width: number, height: number, wide: number): void {
    if (!this.work.info.affine) return // images may have no size in mm
    const [, mmX] = this.work.plane(this.plane)?.spacing ?? [1, 1]
    const bar = scale(mmX / wide, width / 4)
    this.canvas.dataset.scale = `${bar.mm} mm, ${bar.wide.toFixed(1)} px`
    brush.fillStyle = 'rgba(223, 230, 238, .85)'
    brush.fillRect(width - 12 - bar.wide, height - 10, bar.wide, 2)
    brush.font = '12px system-ui'
    brush.textAlign = 'right'
    brush.fillText(bar.mm < 10 ? `${bar.mm} mm` : `${bar.mm / 10} cm`, width - 12, height - 15)
    brush.textAlign = 'left'
  }

  /** What lies under the pointer, or else under the cross hair. */
  private read(): void {
    const { y, x } = this.work.place(this.plane)
    const spot: Spot = this.hover && this.holds(this.hover) ? this.hover : [y, x]
    const plane = this.work.plane(this.plane)
    if (!this.frame || !plane || this.frameT !== this.shownT || !this.holds(spot)) return
    const label = this.labels?.[Math.round(spot[0]) * this.frame.columns + Math.round(spot[1])]
    this.readout.value = reading(this.work.info, plane, this.frame, this.shownT, spot, this.work.state.structures.find((each) => each.label === label))
  }

  private paintCross(brush: CanvasRenderingContext2D, at: (spot: Spot) => Spot): void {
    const { y, x } = this.work.place(this.plane)
    const [top, left] = at([y, x])
    brush.strokeStyle = document.activeElement === this.canvas ? 'rgba(122, 190, 255, .8)' : 'rgba(122, 190, 255, .35)'
    brush.lineWidth = 1
    brush.beginPath()
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) { brush.moveTo(left + dx * 8, top + dy * 8); brush.lineTo(left + dx * 4000, top + dy * 4000) }
    brush.stroke()
  }

  private paintSaid(brush: CanvasRenderingContext2D, at: At): void {
    for (const said of this.work.state.said) {
      const colour = this.work.state.structures.find((each) => each.label === said.label)?.colour ?? '#ffffff'
      this.paintGesture(brush, at, said, colour, said.fresh ? 1 : 0.45)
    }
    for (const draft of this.work.pending) this.paintGesture(brush, at, draft, this.work.active?.colour ?? COLOUR, 0.5)
    if (this.work.solid) this.paintSolid(brush, at, this.work.solid.span, this.work.colourOf(this.work.solid.owner) ?? COLOUR, this.work.solid.inside)
  }

  private paintGesture(brush: CanvasRenderingContext2D, at: At, said: Draft, colour: string, alpha: number): void {
    const { points = [], positive = [], frames = [], kind } = said
    if (kind === 'erase' || kind === 'ball') return
    brush.globalAlpha = alpha
    if (frames.length) this.paintSolid(brush, at, this.work.spanOf(said), colour, positive[0] ?? true)
    else if (said.plane === this.plane && said.t === this.shownT && kind === 'points') points.forEach((point, i) => mark(brush, at(point), colour, positive[i]))
    else if (said.plane === this.plane && said.t === this.shownT) shape(brush, at, kind, points, colour, positive[0] ?? true, (said.width ?? 3) * this.layout().wide)
    brush.globalAlpha = 1
  }

  /** A box in 3D where it cuts this plane; faint on slices before and behind it. */
  private paintSolid(brush: CanvasRenderingContext2D, at: At, box: NonNullable<Work['solid']>['span'], colour: string, inside: boolean): void {
    const { t, y, x } = this.work.cutOf(box, this.plane)
    const before = brush.globalAlpha
    if (this.shownT < t[0] || this.shownT > t[1]) brush.globalAlpha = before * 0.4
    shape(brush, at, 'box', [[y[0], x[0]], [y[1], x[1]]], colour, inside)
    brush.globalAlpha = before
  }

  private paintDrag(brush: CanvasRenderingContext2D, at: At): void {
    const { drag } = this
    const colour = this.work.colourOf(drag?.owner ?? this.work.owner) ?? COLOUR
    if (drag && drag.line.length > 1 && measures(drag.kind)) {
      paintMeasure(brush, at, this.measure(drag.kind, drag.line), this.canvas.clientWidth, this.canvas.clientHeight)
    } else if (drag && drag.line.length > 1 && !measures(drag.kind) && drag.kind !== 'window' && drag.kind !== 'pan' && drag.kind !== 'brush') {
      shape(brush, at, drag.kind === 'solid' ? 'box' : drag.kind, drag.line, colour, drag.inside, this.width * this.layout().wide)
    } else if (this.keyed) shape(brush, at, this.keyed.kind === 'solid' ? 'box' : this.keyed.kind, this.keyed.line, colour, this.keyed.inside, this.width * this.layout().wide)
  }

  private measure(kind: Ruler, line: Spot[]): ReturnType<typeof measured> {
    return measured(kind, this.plane, this.shownT, line, this.work.measures.at(-1), this.frame as Frame, this.work.plane(this.plane)?.spacing ?? [1, 1], this.work.info.unit)
  }

  /** Of a scribble, in pixels. */
  private get width(): number { return Math.max(1, Math.min(100, 2 * this.work.radius - 1)) }

  /** The stroke so far, and how large the brush is, where it would paint. */
  private paintBrush(brush: CanvasRenderingContext2D, size: [number, number, number, number], at: (spot: Spot) => Spot): void {
    const { y, x } = this.work.place(this.plane)
    const [r, g, b] = rgb(this.work.colourOf(this.stroke ? this.strokeOwner : this.work.owner) ?? COLOUR)
    if (this.stroke) {
      const layer = new OffscreenCanvas(this.stroke.columns, this.stroke.rows)
      const colour: [number, number, number] = this.stroke.positive ? [r, g, b] : [16, 20, 26]
      layer.getContext('2d')?.putImageData(tint(this.stroke.pixels, this.stroke.rows, this.stroke.columns, new Map([[1, colour]]), () => 92), 0, 0)
      brush.drawImage(layer, ...size)
    }
    const hovered = document.querySelector('.stage canvas:hover')
    this.canvas.dataset.circle = String(!!this.stroke || (hovered ?? document.activeElement) === this.canvas)
    if (this.canvas.dataset.circle === 'false') return
    const [mmY, mmX] = this.work.plane(this.plane)?.spacing ?? [1, 1]
    const [top, left] = at(this.drag || this.hover ? this.hover ?? [y, x] : [y, x])
    const reach = (this.work.radius * Math.min(mmY, mmX) * size[2]) / ((this.frame?.columns ?? 1) * mmX)
    brush.strokeStyle = `rgb(${r}, ${g}, ${b})`
    brush.lineWidth = 1
    brush.beginPath()
    brush.arc(left, top, Math.max(2, reach), 0, 2 * Math.PI)
    brush.stroke()
  }

  private draw(): void {
    const { y, x } = this.work.place(this.plane)
    this.stroke?.to([y, x])
    this.paint()
  }

  private begin(spot: Spot, positive: boolean): void {
    if (!this.frame) return
    this.strokeOwner = this.work.owner
    this.stroke = new Stroke(this.frame.rows, this.frame.columns, this.work.plane(this.plane)?.spacing ?? [1, 1], this.work.radius, positive, spot, this.work.ball ? undefined : this.touched())
    this.paint()
  }

  /** Which pixels the brush may touch: those of the intensities that were asked for. */
  private touched(): (pixel: number) => boolean {
    const { frame } = this
    const [low, high] = this.work.range
    if (!frame || frame.channels === 3 || (low === null && high === null)) return () => true
    return (pixel) => within(frame.codes[pixel], frame.low, frame.high, [low, high])
  }

  private end(): void {
    const { stroke, strokeOwner: owner } = this
    this.stroke = null
    if (stroke && this.work.ball) this.say({ kind: 'ball', points: thinned(stroke.line.map((spot) => this.clip(spot)), Math.max(0.5, this.work.radius / 4)), positive: [stroke.positive], width: 2 * this.work.radius }, owner)
    else if (stroke) {
      const { shownT: t, plane } = this
      const complete = async (draft: Draft, label: number): Promise<Draft> => {
        const before = await this.work.labels(plane, t)
        const runs = stroke.over(before, label)
        if (stroke.missed) throw new Error(stroke.missed)
        if (runs.length) return { ...draft, runs }
        if (!label || !before.includes(label)) throw new Error(`There is nothing of it on this ${plane === 'image' ? 'image' : 'slice'}.`)
        if (plane !== 'image') throw new Error('Nothing would be left on this slice; undo instead, or remove the structure.')
        return { ...draft, kind: 'box', points: [[0, 0], [stroke.rows - 1, stroke.columns - 1]], positive: [false] } // all of the image is outside
      }
      this.attempt(this.work.say({ plane, t, kind: 'mask' }, complete, owner))
    }
    this.paint()
  }

  /** How sure the tracking was, slice by slice, over the slider. */
  private paintStrip(): void {
    const frames = this.work.plane(this.plane)?.frames ?? 1
    this.strip.width = frames
    const brush = this.strip.getContext('2d')
    if (!brush) return
    for (const row of this.work.rows) {
      if (row.plane !== this.plane || !row.area) continue
      brush.fillStyle = row.said ? '#7abeff' : row.look ? '#ff9a18' : `rgba(120, 220, 160, ${0.25 + 0.75 * row.sure})`
      brush.fillRect(row.t, 0, 1, 1)
    }
  }

  private say(form: Omit<Draft, 'plane' | 't'>, owner?: Owner): void { this.attempt(this.work.say({ plane: this.plane, t: this.shownT, ...form }, undefined, owner)) }
  private click([y, x]: Spot, positive: boolean): void { this.say({ kind: 'points', points: [[y, x]], positive: [positive] }) }

  private listen(): void {
    this.canvas.addEventListener('pointerdown', (event) => this.down(event))
    this.canvas.addEventListener('pointermove', (event) => this.moved(event))
    this.canvas.addEventListener('pointerup', (event) => this.up(event))
    this.canvas.addEventListener('pointercancel', () => { this.drag = null; this.stroke = null; this.paint() })
    this.canvas.addEventListener('pointerleave', () => { this.hover = null; this.paint() })
    this.canvas.addEventListener('pointerenter', () => { if (this.work.tool === 'brush') this.work.tell('brush') })
    this.canvas.addEventListener('contextmenu', (event) => event.preventDefault())
    this.canvas.addEventListener('wheel', (event) => this.wheel(event), { passive: false })
    this.canvas.addEventListener('keydown', (event) => this.key(event))
    this.canvas.addEventListener('focus', () => this.paint())
    this.canvas.addEventListener('blur', () => { if (document.activeElement !== this.canvas) this.keyed = null; this.paint() }) // not where another window is looked at
    this.canvas.addEventListener('dblclick', () => { if (this.work.tool === 'look') { this.zoom = 1; this.shift = [0, 0]; this.paint() } })
  }

  private down(event: PointerEvent): void {
    this.canvas.focus({ preventScroll: true })
    this.canvas.setPointerCapture(event.pointerId)
    this.drop()
    const spot = this.spot(event)
    const { tool } = this.work
    const kind = event.button === 2 ? 'window' : event.button === 1 ? 'pan' : DRAWN.has(tool) ? (tool as Drag['kind']) : null
    const other = event.shiftKey || event.altKey
    if (kind !== 'window' && kind !== 'pan' && !this.seen()) return
    if (kind === 'brush') this.begin(spot, this.work.outside === other)
    if (kind) { this.drag = { from: spot, line: [spot], kind, inside: this.work.outside === other || kind === 'diameter', x: event.clientX, y: event.clientY, owner: this.work.owner }; return }
    if (!this.holds(spot)) return
    this.work.move(this.plane, this.shownT, spot[0], spot[1])
    if (tool !== 'look') this.click(spot, tool === 'plus' ? !other : false)
  }

  private moved(event: PointerEvent): void {
    const drag = this.drag
    this.hover = this.spot(event)
    if (this.work.tool === 'brush' && !drag) this.paint()
    else this.read()
    if (!drag) {
      if (this.work.tool === 'look' && event.buttons === 1) { const [y, x] = this.spot(event); this.work.move(this.plane, this.shownT, y, x) }
      return
    }
    const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y]
    if (drag.kind === 'window' || drag.kind === 'pan') { drag.x = event.clientX; drag.y = event.clientY }
    if (drag.kind === 'window') {
      const [low, high] = this.work.window
      const unit = (high - low) / 300
      const [level, width] = [(low + high) / 2 - dy * unit, Math.max((high - low) + 2 * dx * unit, 1e-6)]
      this.work.window = [level - width / 2, level + width / 2]
      this.work.tell('window')
    } else if (drag.kind === 'pan') {
      this.shift = [this.shift[0] + dy, this.shift[1] + dx]
      this.paint()
    } else {
      if (['box', 'solid', 'diameter', 'ruler', 'angle'].includes(drag.kind)) drag.line = [drag.from, this.spot(event)]
      else if (drag.kind === 'brush') this.stroke?.to(this.spot(event))
      else drag.line.push(this.spot(event))
      this.paint()
    }
  }

  private up(event: PointerEvent): void {
    const drag = this.drag
    this.drag = null
    if (!drag || !this.frame || drag.kind === 'window' || drag.kind === 'pan') return
    if (drag.kind === 'brush') return this.end()
    const line = [...drag.line, this.spot(event)].map((spot) => this.clip(spot))
    if (measures(drag.kind)) this.work.measure(this.measure(drag.kind, line))
    else this.drawn(drag.kind, line, drag.inside, drag.owner)
    this.paint()
  }

  private clip([y, x]: Spot): Spot {
    const { rows, columns } = this.frame ?? { rows: 1, columns: 1 }
    return [Math.max(-0.49, Math.min(rows - 0.51, y)), Math.max(-0.49, Math.min(columns - 0.51, x))]
  }

  /** A line from the first place to the last has been drawn. */
  private drawn(kind: Drawn, line: Spot[], inside: boolean, owner: Owner): void {
    const [from, to] = [line[0], line[line.length - 1]]
    const positive = [inside]
    if (kind === 'scribble') return this.say({ kind, points: thinned(line, 0.7), positive, width: this.width }, owner)
    if (kind === 'lasso') { const points = thinned(line, 0.3); if (points.length > 2) this.say({ kind, points, positive }, owner); return }
    if (kind === 'diameter') { if (Math.hypot(to[0] - from[0], to[1] - from[1]) >= 1) this.attempt(this.work.diameter(this.plane, this.shownT, [from, to], owner)); return }
    const [low, high] = corners([from, to].map(([y, x]) => [Math.round(y), Math.round(x)] as Spot))
    if (low[0] >= high[0] || low[1] >= high[1]) return
    if (kind === 'solid') this.work.outline(this.plane, this.shownT, [low, high], inside, owner)
    else this.say({ kind, points: [low, high], positive }, owner)
  }

  /** Where the page itself is scrolled, as narrow ones are, a view takes the wheel once it has been pointed at. */
  private wheel(event: WheelEvent): void {
    const { scrollHeight, clientHeight } = document.documentElement
    if (!event.ctrlKey && scrollHeight > clientHeight && document.activeElement !== this.canvas) return
    event.preventDefault()
    if (!event.ctrlKey) return this.step(event.deltaY > 0 ? -1 : 1)
    const [y, x] = this.spot(event)
    const before = this.layout()
    this.zoom = Math.max(1, Math.min(16, this.zoom * (event.deltaY > 0 ? 0.87 : 1.15)))
    const after = this.layout()
    this.shift = [this.shift[0] + (before.top + (y + 0.5) * before.high) - (after.top + (y + 0.5) * after.high), this.shift[1] + (before.left + (x + 0.5) * before.wide) - (after.left + (x + 0.5) * after.wide)]
    if (this.zoom === 1) this.shift = [0, 0]
    this.paint()
  }

  /** Begin to draw by keys. */
  private trace(kind: Drawn, from: Spot, inside: boolean): void {
    this.drop()
    this.keyed = { kind, line: [from], inside, owner: this.work.owner }
    this.paint()
  }

  private key(event: KeyboardEvent): void {
    const points = ['Enter', '-', 'b'].includes(event.key)
    if (event.ctrlKey || event.metaKey || (!this.work.mayEdit && points)) return
    const { t, y, x } = this.work.place(this.plane)
    const by = event.shiftKey ? 10 : 1
    const moves: Record<string, [number, number, number]> = {
      ArrowUp: [0, -by, 0], ArrowDown: [0, by, 0], ArrowLeft: [0, 0, -by], ArrowRight: [0, 0, by], PageUp: [1, 0, 0], PageDown: [-1, 0, 0],
    }
    const move = moves[event.key]
    const { keyed } = this
    if ((move && this.drawing) || (points && !this.seen())) { /* not in the middle of a line, nor on what is not seen */ }
    else if (move && !move[0] && keyed) {
      this.work.move(this.plane, t, y + move[1], x + move[2])
      const to = this.work.place(this.plane)
      keyed.line = [...(BY_ENDS.has(keyed.kind) ? [keyed.line[0]] : keyed.line), [to.y, to.x]]
      this.paint()
    } else if (move && !move[0] && this.stroke) { this.work.move(this.plane, t, y + move[1], x + move[2]); this.draw() }
    else if (move) { this.hover = null; this.drop(); this.work.move(this.plane, t + move[0], y + move[1], x + move[2]) }
    else if (event.key === 'Enter' && this.stroke) this.end()
    else if (event.key === 'Enter' && keyed) { this.keyed = null; this.drawn(keyed.kind, keyed.line, keyed.inside, keyed.owner); this.paint() }
    else if (event.key === 'Escape' && (this.stroke || keyed || this.drawing)) { this.drop(); this.paint() }
    else if (this.work.tool === 'brush' && (event.key === 'Enter' || event.key === '-')) { this.hover = null; this.begin([y, x], event.key === 'Enter' && !this.work.outside) }
    else if (BY_KEYS.has(this.work.tool) && (event.key === 'Enter' || event.key === '-')) {
      const inside = this.work.tool === 'diameter' || (event.key === 'Enter' && !this.work.outside)
      this.hover = null
      this.trace(this.work.tool as Drawn, [y, x], inside)
    } else if (event.key === 'Enter' && this.work.solid && this.work.tool === 'solid') this.attempt(this.work.use())
    else if (event.key === 'Escape' && this.work.solid) this.work.discard()
    else if (points && event.key !== 'b' && POINTING_NOWHERE.has(this.work.tool)) this.work.remark('This tool outlines nothing. Choose Inside (Q) or Outside (A) to click.')
    else if (event.key === 'Enter') this.click([y, x], this.work.tool !== 'minus')
    else if (event.key === '-') this.click([y, x], false)
    else if (event.key === 'b') this.trace(this.work.tool === 'solid' ? 'solid' : 'box', [y, x], !this.work.outside)
    else {
      if (event.key === 't') { this.drop(); this.paint() } // it is not of what is tracked
      return
    }
    event.preventDefault()
    event.stopPropagation()
  }
}

/** Small pictures of a whole set. */
export class Sheet {
  readonly element = h('section', { class: 'sheet', 'aria-label': 'All images' })
  private readonly tiles: { canvas: HTMLCanvasElement; button: HTMLButtonElement; note: HTMLElement }[] = []
  private readonly seen = new Set<number>()
  private readonly watcher: IntersectionObserver

  constructor(private readonly work: Work, private readonly small: (t: number) => Promise<{ frame: Frame; labels: Uint8Array }>) {
    const count = work.plane('image')?.frames ?? 0
    this.watcher = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const t = Number((entry.target as HTMLElement).dataset.t)
        if (entry.isIntersecting) { this.seen.add(t); void this.draw(t) } else this.seen.delete(t)
      }
    })
    for (let t = 0; t < count; t++) {
      const canvas = h('canvas', { width: '8', height: '8', 'aria-hidden': 'true' })
      const note = h('span', { class: 'note' })
      const button = h('button', { class: 'tile', 'data-t': String(t), 'aria-label': `Image ${t + 1}`, onclick: () => work.move('image', t, 0, 0) }, canvas, h('span', {}, String(t + 1)), note)
      this.tiles.push({ canvas, button, note })
      this.watcher.observe(button)
    }
    fill(this.element, ...this.tiles.map((tile) => tile.button))
    work.listen((change) => {
      if (change === 'labels' || change === 'state' || change === 'looks') for (const t of this.seen) void this.draw(t)
      if (change === 'cursor' || change === 'rows' || change === 'state') this.mark()
    })
    this.mark()
  }

  private mark(): void {
    this.tiles.forEach(({ button, note }, t) => {
      button.toggleAttribute('aria-current', t === this.work.image)
      const rows = this.work.rows.filter((row) => row.t === t)
      const found = rows.filter((row) => row.area || row.said) // of what is not there, nothing can be wrong
      const guessed = found.filter((row) => !row.said)
      const sure = (rows: Row[]): string => `${Math.round(100 * Math.min(...rows.map((row) => row.sure)))} %`
      const name = (label: number): string => this.work.state.structures.find((each) => each.label === label)?.name ?? ''
      note.textContent = guessed.length ? sure(guessed) : found.length ? 'prompted' : rows.length ? 'nothing' : ''
      button.title = found.map((row) => `${name(row.label)}: ${row.said ? 'prompted' : sure([row])}`).join(', ')
      button.classList.toggle('unsure', guessed.some((row) => row.look))
    })
  }

  private async draw(t: number): Promise<void> {
    const { frame, labels } = await this.small(t).catch(() => ({ frame: null, labels: null }))
    if (!frame || !labels) return
    const { canvas } = this.tiles[t]
    canvas.width = frame.columns
    canvas.height = frame.rows
    const brush = canvas.getContext('2d')
    const layer = new OffscreenCanvas(frame.columns, frame.rows)
    brush?.putImageData(grey(frame, frame.black, frame.white), 0, 0)
    if (labels.length === frame.rows * frame.columns) layer.getContext('2d')?.putImageData(tint(labels, frame.rows, frame.columns, palette(this.work.visible), () => 64), 0, 0)
    brush?.drawImage(layer, 0, 0)
  }
}

// One plane: the slice, what is outlined on it, and the gestures that outline it.
import type { Frame, Plane } from './api'
import { Stroke } from './brush'
import { glow, grey, inside, palette, rgb, tint } from './colours'
import { fill, h, icon } from './dom'
import type { Change, Work } from './work'

type Spot = [number, number] // row, column
const COLOUR = '#4cc9f0' // of the first structure

export class SliceView {
  readonly element: HTMLElement
  readonly canvas = h('canvas', { tabindex: '0', role: 'application' })
  private readonly slider: HTMLInputElement
  private readonly strip = h('canvas', { class: 'strip', width: '1', height: '1', 'aria-hidden': 'true' })
  private readonly counter = h('output', { class: 'counter' })
  private readonly layers = { image: document.createElement('canvas'), tint: document.createElement('canvas'), glow: document.createElement('canvas') }
  private frame: Frame | null = null
  private labels: Uint8Array | null = null
  private doubt: Uint8Array | null = null
  private shownT = -1
  private zoom = 1
  private shift: Spot = [0, 0]
  private drag: { from: Spot; line: Spot[]; kind: 'box' | 'lasso' | 'brush' | 'window' | 'pan'; x: number; y: number } | null = null
  private corner: Spot | null = null
  private stroke: Stroke | null = null
  private hover: Spot | null = null
  private waiting = false
  private stop = new AbortController()

  constructor(private readonly work: Work, readonly plane: Plane, title: string, private readonly attempt: (what: Promise<unknown>) => void, onLarge: () => void) {
    const frames = work.plane(plane)?.frames ?? 1
    this.slider = h('input', { type: 'range', min: '0', max: String(frames - 1), 'aria-label': `${title}: slice`, oninput: () => this.go(Number(this.slider.value)) })
    this.element = h('section', { class: `view ${plane}`, 'aria-label': title },
      h('header', {}, h('h2', {}, title), this.counter,
        h('button', { class: 'quiet', title: 'This view large, or all views (F)', 'aria-label': `${title} large`, onclick: onLarge }, icon('large'))),
      h('div', { class: 'stage' }, this.canvas),
      h('div', { class: 'slices' }, this.strip, this.slider))
    new ResizeObserver(() => this.paint()).observe(this.canvas)
    this.listen()
    work.listen((change) => this.on(change))
    void this.load()
  }

  private on(change: Change): void {
    if (change === 'cursor') { if (this.work.place(this.plane).t !== this.shownT) void this.load(); else this.paint() }
    if (change === 'labels' || change === 'overlay') void this.loadLabels()
    if (change === 'window') { this.drawImage(); this.paint() }
    if (change === 'state') { this.drawTint(); this.paint() }
    if (change === 'rows') this.paintStrip()
    if (change === 'tool') { this.canvas.dataset.tool = this.work.tool; this.stroke = null; this.paint() }
    if (change === 'brush') this.paint()
  }

  go(t: number): void { const { y, x } = this.work.place(this.plane); this.corner = null; this.stroke = null; this.work.move(this.plane, t, y, x) }
  step(by: number): void { this.go(this.work.place(this.plane).t + by) }

  private async load(): Promise<void> {
    const { t } = this.work.place(this.plane)
    this.shownT = t
    const frames = this.work.plane(this.plane)?.frames ?? 1
    this.slider.value = String(t)
    this.slider.setAttribute('aria-valuetext', `${t + 1} of ${frames}`)
    this.counter.value = this.work.names[t] && this.plane === 'image' ? `${t + 1} / ${frames} · ${this.work.names[t]}` : `${t + 1} / ${frames}`
    this.stop.abort()
    this.stop = new AbortController()
    const [frame] = await Promise.all([this.work.frame(this.plane, t), this.loadLabels(false)]).catch((error: unknown) => {
      if (!(error instanceof DOMException)) this.attempt(Promise.reject(error))
      return [null]
    })
    if (!frame || this.shownT !== t) return
    this.frame = frame
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
    } catch { return }
    if (draw) { this.drawTint(); this.paint() }
  }

  private drawImage(): void {
    if (!this.frame) return
    const { image } = this.layers
    image.width = this.frame.columns
    image.height = this.frame.rows
    const [low, high] = this.plane === 'image' ? [this.frame.low, this.frame.high] : this.work.window
    image.getContext('2d')?.putImageData(grey(this.frame, low, high), 0, 0)
  }

  private drawTint(): void {
    if (!this.frame || !this.labels || this.labels.length !== this.frame.rows * this.frame.columns) return
    const { rows, columns } = this.frame
    for (const layer of [this.layers.tint, this.layers.glow]) { layer.width = columns; layer.height = rows }
    this.layers.tint.getContext('2d')?.putImageData(tint(this.labels, rows, columns, palette(this.work.state.structures), this.work.label), 0, 0)
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
    brush.imageSmoothingEnabled = false
    if (this.work.overlay && this.labels) brush.drawImage(this.layers.tint, ...size)
    if (this.work.doubt && this.doubt) brush.drawImage(this.layers.glow, ...size)
    const at = ([y, x]: Spot): Spot => [top + (y + 0.5) * high, left + (x + 0.5) * wide]
    this.paintCross(brush, at)
    this.paintSaid(brush, at)
    this.paintDrag(brush, at)
    if (this.work.tool === 'brush') this.paintBrush(brush, size, at)
    this.paintLetters(brush, width, height)
    if (this.waiting) { brush.fillStyle = '#dfe6ee'; brush.font = '13px system-ui'; brush.fillText(this.work.first ? 'loading the network, then outlining …' : 'outlining …', 10, height - 12) }
    this.canvas.setAttribute('aria-label', this.described())
  }

  private described(): string {
    const { t, y, x } = this.work.place(this.plane)
    const label = this.labels && this.frame ? this.labels[y * this.frame.columns + x] : 0
    const name = this.work.state.structures.find((each) => each.label === label)?.name ?? 'nothing outlined'
    return `${this.plane} slice ${t + 1}, cursor at row ${y}, column ${x}: ${name}. Arrows move, Page Up and Down change the slice, Enter clicks, minus clicks outside, B begins a box.${this.work.tool === 'brush' ? ' With the brush, Enter or minus begins a stroke, arrows draw it, Enter ends it.' : ''}`
  }

  /** Where the slice's sides lie in the patient. */
  private paintLetters(brush: CanvasRenderingContext2D, width: number, height: number): void {
    const letters = { axial: 'RLAP', coronal: 'RLSI', sagittal: 'APSI', image: '' }[this.plane]
    brush.font = '600 12px system-ui'
    brush.textAlign = 'center'
    brush.fillStyle = 'rgba(223, 230, 238, .75)'
    const places: Spot[] = [[height / 2 + 4, 12], [height / 2 + 4, width - 12], [16, width / 2], [height - 8, width / 2]]
    places.forEach(([top, left], i) => brush.fillText(letters[i] ?? '', left, top))
    brush.textAlign = 'left'
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

  private paintSaid(brush: CanvasRenderingContext2D, at: (spot: Spot) => Spot): void {
    for (const said of this.work.state.said) {
      if (said.plane !== this.plane || said.t !== this.shownT) continue
      const colour = this.work.state.structures.find((each) => each.label === said.label)?.colour ?? '#ffffff'
      brush.globalAlpha = said.fresh ? 1 : 0.45
      if (said.kind === 'box') {
        const [top, left] = at([Math.min(said.points[0][0], said.points[1][0]) - 0.5, Math.min(said.points[0][1], said.points[1][1]) - 0.5])
        const [bottom, right] = at([Math.max(said.points[0][0], said.points[1][0]) + 0.5, Math.max(said.points[0][1], said.points[1][1]) + 0.5])
        brush.strokeStyle = colour
        brush.setLineDash([5, 4])
        brush.strokeRect(left, top, right - left, bottom - top)
        brush.setLineDash([])
      } else {
        said.points.forEach((point, i) => this.mark(brush, at(point), colour, said.positive[i]))
      }
      brush.globalAlpha = 1
    }
  }

  private mark(brush: CanvasRenderingContext2D, [top, left]: Spot, colour: string, positive: boolean): void {
    brush.beginPath()
    brush.arc(left, top, 6, 0, 2 * Math.PI)
    brush.fillStyle = positive ? colour : '#10141a'
    brush.strokeStyle = positive ? '#10141a' : colour
    brush.lineWidth = 2
    brush.fill()
    brush.stroke()
    brush.beginPath()
    brush.strokeStyle = positive ? '#10141a' : colour
    brush.moveTo(left - 3, top); brush.lineTo(left + 3, top)
    if (positive) { brush.moveTo(left, top - 3); brush.lineTo(left, top + 3) }
    brush.stroke()
  }

  private paintDrag(brush: CanvasRenderingContext2D, at: (spot: Spot) => Spot): void {
    const { y, x } = this.work.place(this.plane)
    const line: Spot[] = this.drag && this.drag.kind !== 'window' && this.drag.kind !== 'brush' ? this.drag.line : this.corner ? [this.corner, [y, x]] : []
    if (line.length < 2) return
    const [r, g, b] = rgb(this.work.active?.colour ?? '#ffffff')
    brush.strokeStyle = `rgb(${r}, ${g}, ${b})`
    brush.fillStyle = `rgba(${r}, ${g}, ${b}, .15)`
    brush.lineWidth = 1.5
    brush.beginPath()
    if (this.drag?.kind === 'lasso') {
      line.forEach((spot, i) => { const [top, left] = at(spot); if (i) brush.lineTo(left, top); else brush.moveTo(left, top) })
      brush.closePath()
    } else {
      const [top, left] = at(line[0])
      const [bottom, right] = at(line[line.length - 1])
      brush.rect(left, top, right - left, bottom - top)
    }
    brush.fill()
    brush.stroke()
  }

  /** The stroke so far, and how large the brush is. */
  private paintBrush(brush: CanvasRenderingContext2D, size: [number, number, number, number], at: (spot: Spot) => Spot): void {
    const { y, x } = this.work.place(this.plane)
    const [r, g, b] = rgb(this.work.active?.colour ?? COLOUR)
    if (this.stroke) {
      const layer = new OffscreenCanvas(this.stroke.columns, this.stroke.rows)
      const colour: [number, number, number] = this.stroke.positive ? [r, g, b] : [16, 20, 26]
      layer.getContext('2d')?.putImageData(tint(this.stroke.pixels, this.stroke.rows, this.stroke.columns, new Map([[1, colour]]), 1), 0, 0)
      brush.drawImage(layer, ...size)
    }
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
    this.stroke = new Stroke(this.frame.rows, this.frame.columns, this.work.plane(this.plane)?.spacing ?? [1, 1], this.work.radius, positive, spot)
    this.paint()
  }

  private end(): void {
    const { stroke } = this
    this.stroke = null
    const runs = stroke?.over(this.labels, this.work.label) ?? []
    if (runs.length) this.say('mask', { runs })
    else if (stroke) this.attempt(Promise.reject(new Error('Nothing would be left on this slice; undo instead, or remove the structure.')))
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

  private say(kind: 'points' | 'box' | 'mask', form: { points?: Spot[]; positive?: boolean[]; runs?: number[] }): void {
    this.waiting = true
    this.paint()
    const done = this.work.say({ plane: this.plane, t: this.shownT, kind, ...form }).finally(() => { this.waiting = false; this.paint() })
    this.attempt(done)
  }

  private click([y, x]: Spot, positive: boolean): void { this.say('points', { points: [[y, x]], positive: [positive] }) }

  private listen(): void {
    this.canvas.addEventListener('pointerdown', (event) => this.down(event))
    this.canvas.addEventListener('pointermove', (event) => this.moved(event))
    this.canvas.addEventListener('pointerup', (event) => this.up(event))
    this.canvas.addEventListener('pointercancel', () => { this.drag = null; this.stroke = null; this.paint() })
    this.canvas.addEventListener('pointerleave', () => { this.hover = null; this.paint() })
    this.canvas.addEventListener('contextmenu', (event) => event.preventDefault())
    this.canvas.addEventListener('wheel', (event) => this.wheel(event), { passive: false })
    this.canvas.addEventListener('keydown', (event) => this.key(event))
    this.canvas.addEventListener('focus', () => this.paint())
    this.canvas.addEventListener('blur', () => this.paint())
    this.canvas.addEventListener('dblclick', () => { if (this.work.tool === 'look') { this.zoom = 1; this.shift = [0, 0]; this.paint() } })
  }

  private down(event: PointerEvent): void {
    this.canvas.focus({ preventScroll: true })
    this.canvas.setPointerCapture(event.pointerId)
    const spot = this.spot(event)
    const { tool } = this.work
    const kind = event.button === 2 ? 'window' : event.button === 1 ? 'pan' : tool === 'box' || tool === 'lasso' || tool === 'brush' ? tool : null
    if (kind === 'brush') this.begin(spot, !(event.shiftKey || event.altKey))
    if (kind) { this.drag = { from: spot, line: [spot], kind, x: event.clientX, y: event.clientY }; return }
    if (!this.holds(spot)) return
    this.work.move(this.plane, this.shownT, spot[0], spot[1])
    if (tool !== 'look') this.click(spot, tool === 'plus' ? !(event.shiftKey || event.altKey) : false)
  }

  private moved(event: PointerEvent): void {
    const drag = this.drag
    if (this.work.tool === 'brush') { this.hover = this.spot(event); if (!drag) this.paint() }
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
      if (drag.kind === 'box') drag.line = [drag.from, this.spot(event)]
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
    const { rows, columns } = this.frame
    const clip = ([y, x]: Spot): Spot => [Math.max(-0.49, Math.min(rows - 0.51, y)), Math.max(-0.49, Math.min(columns - 0.51, x))]
    if (drag.kind === 'box') {
      const [from, to] = [clip(drag.from), clip(this.spot(event))]
      if (Math.abs(from[0] - to[0]) >= 1 && Math.abs(from[1] - to[1]) >= 1) this.say('box', { points: [from, to].map(([y, x]) => [Math.round(y), Math.round(x)] as Spot) })
    } else {
      const runs = inside(drag.line.map(clip), rows, columns)
      if (runs.length) this.say('mask', { runs })
    }
    this.paint()
  }

  private wheel(event: WheelEvent): void {
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

  private key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey) return
    const { t, y, x } = this.work.place(this.plane)
    const by = event.shiftKey ? 10 : 1
    const moves: Record<string, [number, number, number]> = {
      ArrowUp: [0, -by, 0], ArrowDown: [0, by, 0], ArrowLeft: [0, 0, -by], ArrowRight: [0, 0, by], PageUp: [1, 0, 0], PageDown: [-1, 0, 0],
    }
    const move = moves[event.key]
    if (move && !move[0] && this.stroke) { this.work.move(this.plane, t, y + move[1], x + move[2]); this.draw() }
    else if (move) { this.stroke = null; this.work.move(this.plane, t + move[0], y + move[1], x + move[2]) }
    else if (event.key === 'Enter' && this.stroke) this.end()
    else if (event.key === 'Escape' && this.stroke) { this.stroke = null; this.paint() }
    else if (this.work.tool === 'brush' && (event.key === 'Enter' || event.key === '-')) { this.hover = null; this.begin([y, x], event.key === 'Enter') }
    else if (event.key === 'Enter' && this.corner) { const from = this.corner; this.corner = null; this.say('box', { points: [from, [y, x]] }) }
    else if (event.key === 'Enter') this.click([y, x], this.work.tool !== 'minus')
    else if (event.key === '-') this.click([y, x], false)
    else if (event.key === 'b') { this.corner = [y, x]; this.paint() }
    else if (event.key === 'Escape' && this.corner) { this.corner = null; this.paint() }
    else return
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
      if (change === 'labels' || change === 'state') for (const t of this.seen) void this.draw(t)
      if (change === 'cursor' || change === 'rows') this.mark()
    })
    this.mark()
  }

  private mark(): void {
    this.tiles.forEach(({ button, note }, t) => {
      button.toggleAttribute('aria-current', t === this.work.image)
      const rows = this.work.rows.filter((row) => row.t === t)
      const sure = Math.min(1, ...rows.map((row) => row.sure))
      note.textContent = rows.length ? (rows.some((row) => row.said) ? 'said' : `${Math.round(100 * sure)} %`) : ''
      button.classList.toggle('unsure', rows.some((row) => row.look))
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
    brush?.putImageData(grey(frame, frame.low, frame.high), 0, 0)
    if (labels.length === frame.rows * frame.columns) layer.getContext('2d')?.putImageData(tint(labels, frame.rows, frame.columns, palette(this.work.state.structures), 0), 0, 0)
    brush?.drawImage(layer, 0, 0)
  }
}

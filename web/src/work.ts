// What is open, and everything that can be done with it; views listen for what has changed.
import * as api from './api'
import type { Frame, Gesture, Info, Plane, Row, State, Structure, Told } from './api'
import { fused } from './fusion'
import type { Fused } from './fusion'
import type { Measure, Ruler } from './measure'
import { reworded } from './names'
import { corners, cross, cut, span } from './shapes'
import type { Range, Span, Spot } from './shapes'

export type Tool = 'plus' | 'minus' | 'box' | 'solid' | 'lasso' | 'scribble' | 'diameter' | 'brush' | 'look' | Ruler
export type Change = 'state' | 'cursor' | 'window' | 'tool' | 'labels' | 'rows' | 'progress' | 'overlay' | 'brush' | 'pending' | 'solid' | 'looks' | 'fusion'
export type Draft = Omit<Gesture, 'label'>
/** Which structure something is of: one that is there; one that is asked for, whose label comes with it; 0 where there is none yet. */
export interface Owner { label: number }
export interface Solid { span: Span; plane: Plane; t: number; inside: boolean; owner: Owner }
export interface Look { hidden: boolean; opacity: number; filled: boolean }
export interface Cursor { s: number; p: number; l: number }
export interface Progress { done: number; total: number; seconds: number }
const KEPT_FRAMES = 160
const ASK_AGAIN_MS = 1000 // where the server did not answer
const REST_MS = 250 // on a slice, before the network looks at it
const UNKNOWN: [number, number] = [Infinity, Infinity]
const PLAIN: Look = { hidden: false, opacity: 25, filled: true }

export class Work {
  state: State
  rows: Row[] = []
  cursor: Cursor
  image = 0
  seen = '' // intensities of the image in view that the network sees, in words
  private shown = UNKNOWN // rows and columns of the image of a set, as soon as it is there
  tool: Tool = 'plus'
  outside = false
  solid: Solid | null = null
  pending: Draft[] = []
  measures: Measure[] = []
  radius = 4
  ball = false // whether the brush paints a ball over neighbouring slices
  range: [number | null, number | null] = [null, null] // of intensities that the brush touches
  label = 0 // of the structure that is chosen
  window: [number, number]
  overlay = true
  looks = new Map<number, Look>()
  fused: Fused | null
  doubt = false
  views = 'one'
  progress: Progress | null = null
  message = ''
  names: string[] = []
  first = true
  shutOut = false // whether the server is another one, which does not let this page in
  private labelsAge = 0
  private readonly frames = new Map<string, Promise<Frame>>()
  private readonly listeners: ((change: Change) => void)[] = []
  private stream: EventSource | null = null // that was followed last; none once this is closed
  private readonly waiting: (() => void)[] = [] // for the end of the tracking
  private waits = 0 // for a server that does not answer
  private turn: Promise<unknown> = Promise.resolve()
  private epoch = 0
  private adding = 0 // structures that are asked for and not there yet
  private coming: Owner | null = null // the last of them, unless another structure was chosen since
  private before = 0 // label of the structure that was chosen before
  private asking = false // what was done in another tab
  private resting = 0

  constructor(readonly info: Info, readonly mayEdit: boolean) {
    if (!mayEdit) this.tool = 'look'
    this.fused = info.overlay && fused(info.overlay)
    this.state = info.state
    this.label = info.state.structures.at(-1)?.label ?? 0
    const size = (name: Plane): number => this.plane(name)?.frames ?? 1
    this.cursor = { s: size('axial') >> 1, p: size('coronal') >> 1, l: size('sagittal') >> 1 }
    this.window = info.window ?? info.extent ?? [0, 255]
    void this.loadRows()
    this.rest('axial', this.cursor.s)
    if (this.state.busy) this.follow()
  }

  plane(name: Plane): api.PlaneInfo | undefined { return this.info.planes.find((each) => each.name === name) }
  get active(): Structure | undefined { return this.state.structures.find((each) => each.label === this.label) }
  /** The structure that the next gesture is of. */
  get owner(): Owner { return this.coming ?? { label: this.active?.label ?? 0 } }
  /** The label of the structure that is chosen; 0 while that is one on its way. */
  get chosen(): number { return this.coming ? 0 : this.label }
  colourOf({ label }: Owner): string | undefined { return this.state.structures.find((each) => each.label === label)?.colour }

  /** Gestures from now on are of this structure, whatever else is still on its way. */
  choose(label: number): void {
    this.coming = null
    this.pick(label)
  }

  private pick(label: number): void {
    if (label === this.label) return
    this.before = this.label
    this.label = label
  }

  /** On the result that stands. */
  get warnings(): string[] { return this.state.warnings.map((text) => reworded(text, this.state.structures)) }
  listen(listener: (change: Change) => void): void { this.listeners.push(listener) }
  tell(change: Change): void {
    for (const listener of this.listeners) listener(change)
    if (change === 'progress' && !this.progress) for (const done of this.waiting.splice(0)) done()
  }
  private path(rest: string): string { return `sessions/${this.info.id}/${rest}` }

  /** Frame, row and column of the cursor in a plane. Slices run to S, P, L; rows to P, I, I; columns to L, L, P. */
  place(plane: Plane): { t: number; y: number; x: number } {
    const { s, p, l } = this.cursor
    const up = (this.plane('axial')?.frames ?? 1) - 1 - s
    if (plane === 'axial') return { t: s, y: p, x: l }
    if (plane === 'coronal') return { t: p, y: up, x: l }
    if (plane === 'sagittal') return { t: l, y: up, x: p }
    return { t: this.image, y: p, x: l }
  }

  move(plane: Plane, t: number, y: number, x: number): void {
    const info = this.plane(plane)
    if (!info) return
    const fit = (value: number, size: number): number => Math.max(0, Math.min(size - 1, Math.round(value)))
    t = fit(t, info.frames)
    if (plane === 'image' && t !== this.image) this.shown = UNKNOWN
    const [rows, columns] = plane === 'image' ? this.shown : info.size
    const up = (this.plane('axial')?.frames ?? 1) - 1
    y = fit(y, rows)
    x = fit(x, columns)
    if (plane === 'axial') this.cursor = { s: t, p: y, l: x }
    if (plane === 'coronal') this.cursor = { s: up - y, p: t, l: x }
    if (plane === 'sagittal') this.cursor = { s: up - y, p: x, l: t }
    if (plane === 'image') { this.image = t; this.cursor = { s: 0, p: y, l: x } }
    this.rest(plane, t)
    this.tell('cursor')
  }

  /** An image of a set is there, which may be smaller than the one before: the cross hair stays on it. */
  came({ rows, columns, seen }: Frame): void {
    this.shown = [rows, columns]
    if (this.seen !== seen) { this.seen = seen; this.tell('window') }
    const { p, l } = this.cursor
    if (p >= rows || l >= columns) this.move('image', this.image, p, l)
  }

  /** Whoever stays on a slice may point at it or one beside it: the network sees them before. */
  private rest(plane: Plane, t: number): void {
    window.clearTimeout(this.resting)
    if (this.mayEdit && this.info.kind === 'volume') this.resting = window.setTimeout(() => { if (!this.pending.length) void api.get(this.path(`ahead/${plane}/${t}`)).catch(() => undefined) }, REST_MS)
  }

  look(label: number): Look { return this.looks.get(label) ?? PLAIN }
  appear(label: number, change: Partial<Look>): void { this.looks.set(label, { ...this.look(label), ...change }); this.tell('looks') }
  get visible(): Structure[] { return this.state.structures.filter((each) => !this.look(each.label).hidden) }

  fusedFrame(plane: Plane, t: number): Promise<Frame | null> { return this.fused ? this.frame(plane, t, 'overlay') : Promise.resolve(null) }

  frame(plane: Plane, t: number, what = 'frames'): Promise<Frame> {
    const key = `${what}/${plane}/${t}`
    let found = this.frames.get(key)
    if (!found) {
      found = api.frame(this.info.id, plane, t, 0, what)
      found.catch(() => this.frames.delete(key))
    }
    this.frames.delete(key)
    this.frames.set(key, found)
    if (this.frames.size > KEPT_FRAMES) this.frames.delete(this.frames.keys().next().value as string)
    return found
  }

  labels(plane: Plane, t: number, signal?: AbortSignal): Promise<Uint8Array> { return api.bytes(this.path(`labels/${plane}/${t}`), signal) }
  doubtOf(plane: Plane, t: number, signal?: AbortSignal): Promise<Uint8Array> { return api.bytes(this.path(`doubt/${plane}/${t}`), signal) }

  private windows(state: State): string { return [...new Set([this.info.seen_as, ...state.structures.filter((each) => each.said).map((each) => each.seen_as)])].sort().join() }

  private take(state: State): void {
    if (state.version < this.state.version) return // an answer that was overtaken
    const others = this.info.kind === 'set' && this.windows(state) !== this.windows(this.state)
    this.state = state
    if (!this.active) this.label = (state.structures.find((each) => each.label === this.before) ?? state.structures.at(-1))?.label ?? 0
    const owner = this.solid?.owner.label
    if (owner && !state.structures.some((each) => each.label === owner)) { this.discard(); this.remark('The box in 3D went with its structure.') } // another one may get its label
    this.tell('state')
    this.tell('labels')
    if (!others) return
    this.frames.clear() // images of a CT are shown as the network sees them, which depends on what was pointed at
    this.tell('fusion')
  }

  /** One after the other. Those that wait when somebody else was first are dropped: they were meant for what was seen then. */
  private next(what: () => Promise<void>): Promise<void> {
    const { epoch } = this
    if (!this.mayEdit) return Promise.resolve()
    const done = this.turn.then(() => (epoch === this.epoch ? what() : undefined))
    this.turn = done.catch(() => undefined)
    return done
  }

  /** Ask for a change, with the version of the moment; where somebody else was first, show what they did. */
  private async change(path: string, form: object = {}, again = true): Promise<void> {
    const { version, tracked } = this.state
    try {
      const state = await api.post<State>(this.path(path), { version, ...form })
      this.message = '' // of what was done before
      this.take(state)
    } catch (error) {
      if (!(error instanceof api.Problem) || error.status !== 409) throw error
      await this.refresh()
      const ours = this.state.version === version + 1 && this.state.tracked !== tracked // our own tracking ended meanwhile
      if (ours && again) return this.change(path, form, false)
      if (this.state.version !== version) this.epoch++
      throw error
    }
  }

  async refresh(): Promise<void> {
    const info = await api.get<Info>(`sessions/${this.info.id}`)
    this.take(info.state)
    await this.loadRows()
  }

  /** What was done in another tab meanwhile, or is being done; asked for where nothing of this one is on its way. */
  async catchUp(): Promise<void> {
    if (this.progress || this.pending.length || this.adding || this.asking) return
    if (this.shutOut) return this.recover() // another tab may have been let in
    this.asking = true
    try {
      const { version, busy } = this.state
      const { state } = await api.get<Info>(`sessions/${this.info.id}`)
      if (state.version === version && state.busy === busy) return
      this.take(state)
      await this.loadRows()
      if (state.busy && !this.progress) this.follow()
    } finally {
      this.asking = false
    }
  }

  async loadRows(): Promise<void> {
    this.rows = await api.get<Row[]>(this.path('rows')).catch(() => [])
    this.tell('rows')
  }

  /** A new structure, which is chosen unless another one was since it was asked for; it looks as usual, whatever had its label before. */
  private async begin(name: string, owner: Owner): Promise<void> {
    const first = !this.active
    await this.change('structures', { name })
    owner.label = this.state.structures.at(-1)?.label ?? 0
    this.looks.delete(owner.label)
    if (first || this.coming === owner) this.pick(owner.label)
    if (this.coming === owner) this.coming = null
    this.tell('state')
  }

  /** Gestures from now on are of the new structure, also those that come before it is there. Its label; 0 where it was dropped. */
  async add(name = ''): Promise<number> {
    const owner = (this.coming = { label: 0 })
    this.adding++
    try {
      await this.next(async () => {
        try {
          await this.begin(name, owner)
        } catch (error) {
          this.epoch++ // gestures that wait for it must not touch another one
          throw error
        }
      })
    } finally {
      this.adding--
      if (this.coming === owner) this.coming = null
    }
    return owner.label
  }

  /** A structure that is asked for and not there yet is renamed before anything that is said after; nothing where it was dropped. */
  rename(which: number | Promise<number>, name: string, colour: string): Promise<void> {
    return this.next(async () => {
      const label = await which
      if (label) await this.change(`structures/${label}`, { name, colour })
    })
  }

  statistics(): Promise<api.Statistics[]> { return api.get(this.path('statistics')) }

  /** A change of structures that is no gesture; what is told of it is shown. The first structure that is new is chosen. */
  edit(path: string, form: object = {}): Promise<void> {
    return this.next(async () => {
      const before = new Set(this.state.structures.map((each) => each.label))
      await this.change(path, form)
      const added = this.state.structures.filter((each) => !before.has(each.label)).map((each) => each.label)
      for (const label of added) this.looks.delete(label)
      if (added.length) this.pick(added[0])
      this.note(this.state.notes)
      await this.loadRows()
    })
  }

  /** A word in the status line, until the next change. */
  remark(text: string): void { this.message = text; this.tell('progress') }

  /** Show what is told of a change. */
  private note(notes: string[] = []): void {
    this.message = reworded(notes.join('; '), this.state.structures)
    this.tell('state')
    this.tell('progress')
  }

  async loadOutlines(files: File[]): Promise<void> {
    if (files.length) await this.edit('outlines', { upload: await api.send(files) }).catch((error: unknown) => { throw api.about(error, files.map((file) => file.name)) })
  }

  /** Lay a second image over this one. */
  async lay(files: File[]): Promise<void> {
    if (!files.length) return
    const id = await api.send(files)
    try {
      await api.post(`sessions/${id}/open`)
    } catch (error) {
      await api.remove(`sessions/${id}`).catch(() => undefined)
      throw api.about(error, files.map((file) => file.name))
    }
    this.laid((await api.post<{ overlay: api.Overlay | null }>(this.path('overlay'), { upload: id })).overlay)
  }

  async unlay(): Promise<void> { this.laid((await api.post<{ overlay: api.Overlay | null }>(this.path('overlay'))).overlay) }

  private laid(overlay: api.Overlay | null): void {
    for (const key of [...this.frames.keys()]) if (key.startsWith('overlay/')) this.frames.delete(key)
    this.info.overlay = overlay
    this.fused = overlay && fused(overlay)
    this.tell('fusion')
  }

  drop(label: number): Promise<void> { return this.next(async () => { await this.change(`structures/${label}/remove`); await this.loadRows() }) }

  /** A gesture on the structure that is chosen now, or was when it was begun; `fill` completes it when its turn comes. */
  async say(draft: Draft, fill: (draft: Draft, label: number) => Promise<Draft> = async (same) => same, owner = this.owner): Promise<void> {
    if (!this.mayEdit) return
    this.pending = [...this.pending, draft]
    try {
      this.tell('pending')
      await this.next(async () => {
        const own = owner.label ? owner : { label: this.active?.label ?? 0 }
        const form = await fill(draft, own.label) // refused, it leaves no structure behind
        const begun = !own.label
        if (begun) await this.begin('', own)
        try {
          await this.change('say', { ...form, label: own.label })
        } catch (error) {
          if (begun && error instanceof api.Problem && error.status === 422) await this.change('undo')
          throw error
        }
        this.first = false
        if (this.state.notes?.length) this.note(this.state.notes)
      })
    } finally {
      this.pending = this.pending.filter((each) => each !== draft)
      this.tell('pending')
    }
  }

  /** Tracking keeps to these slices; null for all. */
  limit(plane: Plane, frames: Range | null): Promise<void> {
    return this.ofActive({ plane, t: frames?.[0] ?? 0, kind: 'slices', frames: frames ?? [], positive: [!!frames] })
  }

  erase(plane: Plane, frames: Range): Promise<void> { return this.ofActive({ plane, t: frames[0], kind: 'erase', frames }) }

  /** What is said beside the views is of the structure that is shown there. */
  private ofActive(draft: Draft): Promise<void> { return this.say(draft, undefined, { label: this.label }) }

  /** What was said last of the whole structure that is chosen, unless it was taken back. */
  ofWhole(kind: 'slices' | 'interpolate'): api.Said | undefined { return this.state.said.find((each) => each.kind === kind && each.label === this.label && each.positive[0] !== false) }

  /** The last outline of the structure that is chosen, where there is another in its plane with slices between. */
  get joinable(): api.Said | undefined {
    const drawn = this.state.said.filter((each) => each.label === this.label && (each.kind === 'mask' || (each.kind === 'lasso' && each.positive[0] !== false)))
    return drawn.reverse().find((one) => drawn.some((other) => other.plane === one.plane && Math.abs(other.t - one.t) > 1))
  }

  /** Expect the shapes between outlines, or no more. */
  async join(on: boolean): Promise<void> {
    const at = this.joinable ?? this.ofWhole('interpolate')
    if (at) await this.ofActive({ plane: at.plane, t: at.t, kind: 'interpolate', positive: [on] })
  }

  /** A diameter; where it crosses one that is there without the short one, both are one gesture, the longer first. */
  diameter(plane: Plane, t: number, line: [Spot, Spot], owner: Owner): Promise<void> {
    const [mmY, mmX] = this.plane(plane)?.spacing ?? [1, 1]
    const mm = ([a, b]: Spot[]): number => Math.hypot((a[0] - b[0]) * mmY, (a[1] - b[1]) * mmX)
    const both = async (draft: Draft, label: number): Promise<Draft> => {
      const first = this.state.said.find((each) => each.kind === 'diameter' && each.label === label && each.plane === plane && each.t === t)?.points
      if (first?.length !== 2 || !cross(first, line)) return draft
      return { ...draft, points: mm(first) >= mm(line) ? [...first, ...line] : [...line, ...first] }
    }
    return this.say({ plane, t, kind: 'diameter', points: line }, both, owner)
  }

  /** Until nothing is tracked any more: nothing can be taken back before. */
  private async idle(): Promise<void> { while (this.progress) await new Promise<void>((done) => this.waiting.push(done)) }

  undo(): Promise<void> { return this.back('undo') }
  redo(): Promise<void> { return this.back('redo') }

  /** A structure that comes back is chosen, as it was when it came first. */
  private back(what: 'undo' | 'redo'): Promise<void> {
    return this.next(async () => {
      await this.idle()
      if (!(what === 'undo' ? this.state.can_undo : this.state.can_redo)) return
      const before = new Set(this.state.structures.map((each) => each.label))
      await this.change(what)
      const returned = this.state.structures.find((each) => !before.has(each.label))
      if (returned) { this.pick(returned.label); this.tell('state') }
      await this.loadRows()
    })
  }

  /** Asked for twice, as by a double click, it is done once. */
  track(): Promise<void> {
    if (this.solid) return Promise.reject(new Error('A box in 3D is drawn, but not used. Use or discard it first (tool 3D box: Enter or Esc).'))
    return this.next(async () => { if (this.progress || !this.state.fresh) return; await this.change('track', { views: this.views }); this.follow() })
  }

  private get up(): number { return (this.plane('axial')?.frames ?? 1) - 1 }
  cutOf(box: Span, plane: Plane): { t: Range; y: Range; x: Range } { return cut(box, plane, this.up) }

  spanOf({ plane, kind, frames = [], points = [] }: Draft): Span {
    const [rows, columns] = this.plane(plane)?.size ?? [1, 1]
    const [low, high] = corners(kind === 'slices' ? [[0, 0], [rows - 1, columns - 1]] : points)
    return span(plane, [frames[0], frames[1]], [low[0], high[0]], [low[1], high[1]], this.up)
  }

  /** A rectangle of a box in 3D: the first is as deep as it is wide and high on average, one in another plane says how deep it is. */
  outline(plane: Plane, t: number, [low, high]: [Spot, Spot], inside: boolean, owner: Owner): void {
    const info = this.plane(plane)
    if (!info) return
    const [mmY, mmX] = info.spacing
    const mmT = plane === 'axial' ? this.plane('coronal')?.spacing[0] ?? 1 : plane === 'coronal' ? this.plane('axial')?.spacing[0] ?? 1 : this.plane('axial')?.spacing[1] ?? 1
    const reach = Math.max(1, Math.round(((high[0] - low[0] + 1) * mmY + (high[1] - low[1] + 1) * mmX) / 4 / mmT))
    const known = this.solid && this.solid.plane !== plane ? this.cutOf(this.solid.span, plane).t : null
    const depth: Range = known ?? [Math.max(0, t - reach), Math.min(info.frames - 1, t + reach)]
    const box = span(plane, depth, [low[0], high[0]], [low[1], high[1]], this.up)
    this.solid = known && this.solid ? { ...this.solid, span: box } : { span: box, plane, t, inside, owner }
    this.tell('solid')
  }

  resize(plane: Plane, t: Range): void {
    if (!this.solid) return
    const { y, x } = this.cutOf(this.solid.span, plane)
    this.solid = { ...this.solid, span: span(plane, t, y, x, this.up) }
    this.tell('solid')
  }

  /** Keep what was measured; an angle's second line completes its first. */
  measure(one: Measure): void {
    if (one.line.length === 4) this.measures.pop()
    this.measures.push(one)
    this.tell('brush')
  }

  forget(): void { this.measures = []; this.tell('brush') }

  discard(): void { this.solid = null; this.tell('solid') }

  /** The box in 3D becomes a gesture on the slice that it was begun on, or the nearest of its own. */
  async use(): Promise<void> {
    if (!this.solid) return
    const { solid, solid: { span: box, plane, inside, owner } } = this
    const { t, y, x } = this.cutOf(box, plane)
    const on = Math.max(t[0], Math.min(t[1], solid.t))
    this.discard()
    const draft: Draft = { plane, t: on, kind: 'box', points: [[y[0], x[0]], [y[1], x[1]]], positive: [inside], frames: [t[0], t[1]] }
    await this.say(draft, undefined, owner).catch((error: unknown) => { this.solid ??= solid; this.tell('solid'); throw error }) // refused, it can be changed
  }

  /** The command that says the same as was said here; the file's name is known here alone. */
  async options(): Promise<string> {
    const { text } = await api.get<{ text: string }>(this.path(`options?views=${this.views}`))
    return this.names.length === 1 ? text.replace('medsam2 segment IMAGE', () => `medsam2 segment '${this.names[0].replace(/'/g, "'\\''")}'`) : text
  }

  async push(): Promise<void> {
    const { message } = await api.post<{ message: string }>(this.path('push'))
    this.message = message
    this.tell('progress')
  }

  async cancel(keep = false): Promise<void> { if (this.progress) await api.post(this.path('cancel'), { keep }) }

  /** Listen to the tracking that goes on. */
  private follow(): void {
    this.stream?.close()
    const stream = (this.stream = new EventSource(`api/${this.path('events')}`))
    this.progress = { done: 0, total: 0, seconds: 0 }
    this.tell('progress')
    stream.addEventListener('frame', (event) => this.onFrame(JSON.parse(event.data as string) as Told))
    for (const kind of ['done', 'cancelled', 'failed', 'idle']) stream.addEventListener(kind, (event) => void this.onEnd(stream, kind, event))
    stream.onerror = () => { if (this.stream === stream) void this.onBreak(stream) }
  }

  private onFrame(told: Told): void {
    if (this.progress) this.progress = { done: told.done, total: told.total, seconds: told.seconds }
    this.tell('progress')
    const now = performance.now()
    const seen = told.plane && this.place(told.plane).t === told.t
    if (!seen && now - this.labelsAge < 300) return
    this.labelsAge = now
    this.tell('labels')
  }

  private async onEnd(stream: EventSource, kind: string, event: MessageEvent): Promise<void> {
    stream.close()
    this.progress = null
    const told = JSON.parse((event.data as string) || '{}') as Told
    const text = reworded(told.message || '', this.state.structures)
    this.message = kind === 'failed' ? `Tracking failed: ${text}` : kind === 'cancelled' ? 'Cancelled; nothing was changed.' : '' // warnings are the result's, and go with it
    await this.refresh().catch(() => this.recover())
    this.tell('progress')
  }

  /** Nobody tells any more how far it is: the server may have ended, or the way to it. */
  private async onBreak(stream: EventSource): Promise<void> {
    stream.close()
    this.progress = null
    await this.recover()
  }

  /** Ask until the server answers; then what it has is shown, and tracking that goes on is followed. */
  private async recover(): Promise<void> {
    window.clearTimeout(this.waits)
    const broke = 'The connection to the server broke.'
    const { message, state: { tracked } } = this
    try {
      await this.refresh()
      this.shutOut = false
      this.message = this.state.busy || this.state.tracked !== tracked ? '' : `${broke} It answers again; what was being applied was not kept.`
      this.tell('fusion') // slices that could not be loaded
      if (this.state.busy && this.stream) this.follow()
    } catch (error) {
      const status = error instanceof api.Problem ? error.status : 0
      const why = error instanceof api.Problem && status ? error.message : 'Asking again until it answers …'
      this.shutOut = status === 401
      this.message = `${this.shutOut ? 'The server was started anew.' : broke} ${why[0].toUpperCase()}${why.slice(1)}${this.shutOut ? '.' : ''}`
      if (this.shutOut) this.tell('labels') // slices of what was being tracked are not kept
      else if (this.stream && status !== 404) this.waits = window.setTimeout(() => void this.recover(), ASK_AGAIN_MS)
      if (this.message === message) return
    }
    this.tell('state')
    this.tell('progress')
  }

  /** Frames that are worth a look, that on which most of the outline is expected to be wrong first, over all structures. */
  worthALook(): Row[] { return this.rows.filter((row) => row.why).sort((a, b) => (a.rank ?? 0) - (b.rank ?? 0)).slice(0, 8) }

  close(): void { this.stream?.close(); this.stream = null; for (const timer of [this.resting, this.waits]) window.clearTimeout(timer) }
}

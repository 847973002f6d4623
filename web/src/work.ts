// What is open, and everything that can be done with it; views listen for what has changed.
import * as api from './api'
import type { Frame, Gesture, Info, Plane, Row, State, Structure, Told } from './api'

export type Tool = 'plus' | 'minus' | 'box' | 'lasso' | 'brush' | 'look'
export type Change = 'state' | 'cursor' | 'window' | 'tool' | 'labels' | 'rows' | 'progress' | 'overlay' | 'brush'
export interface Cursor { s: number; p: number; l: number }
export interface Progress { done: number; total: number; began: number }
const KEPT_FRAMES = 160

export class Work {
  state: State
  rows: Row[] = []
  cursor: Cursor
  image = 0
  tool: Tool = 'plus'
  radius = 4
  label = 0
  window: [number, number]
  overlay = true
  doubt = false
  views = 'one'
  progress: Progress | null = null
  message = ''
  names: string[] = []
  first = true
  private labelsAge = 0
  private readonly frames = new Map<string, Promise<Frame>>()
  private readonly listeners: ((change: Change) => void)[] = []
  private stream: EventSource | null = null

  constructor(readonly info: Info) {
    this.state = info.state
    this.label = info.state.structures.at(-1)?.label ?? 0
    const size = (name: Plane): number => this.plane(name)?.frames ?? 1
    this.cursor = { s: size('axial') >> 1, p: size('coronal') >> 1, l: size('sagittal') >> 1 }
    this.window = info.window ?? info.extent ?? [0, 255]
    void this.loadRows()
    if (this.state.busy) this.follow()
  }

  plane(name: Plane): api.PlaneInfo | undefined { return this.info.planes.find((each) => each.name === name) }
  get active(): Structure | undefined { return this.state.structures.find((each) => each.label === this.label) }
  listen(listener: (change: Change) => void): void { this.listeners.push(listener) }
  tell(change: Change): void { for (const listener of this.listeners) listener(change) }
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
    const [rows, columns] = info.size
    const up = (this.plane('axial')?.frames ?? 1) - 1
    t = fit(t, info.frames)
    if (plane !== 'image') { y = fit(y, rows); x = fit(x, columns) }
    if (plane === 'axial') this.cursor = { s: t, p: y, l: x }
    if (plane === 'coronal') this.cursor = { s: up - y, p: t, l: x }
    if (plane === 'sagittal') this.cursor = { s: up - y, p: x, l: t }
    if (plane === 'image') { this.image = t; this.cursor = { s: 0, p: Math.max(0, Math.round(y)), l: Math.max(0, Math.round(x)) } }
    this.tell('cursor')
  }

  frame(plane: Plane, t: number): Promise<Frame> {
    const key = `${plane}/${t}`
    let found = this.frames.get(key)
    if (!found) {
      found = api.frame(this.info.id, plane, t)
      found.catch(() => this.frames.delete(key))
    }
    this.frames.delete(key)
    this.frames.set(key, found)
    if (this.frames.size > KEPT_FRAMES) this.frames.delete(this.frames.keys().next().value as string)
    return found
  }

  labels(plane: Plane, t: number, signal?: AbortSignal): Promise<Uint8Array> { return api.bytes(this.path(`labels/${plane}/${t}`), signal) }
  doubtOf(plane: Plane, t: number, signal?: AbortSignal): Promise<Uint8Array> { return api.bytes(this.path(`doubt/${plane}/${t}`), signal) }

  private take(state: State): void {
    this.state = state
    if (!this.active) this.label = state.structures.at(-1)?.label ?? 0
    this.tell('state')
    this.tell('labels')
  }

  /** Ask for a change; where somebody else was first, show what they did. */
  private async change(path: string, form: object = {}): Promise<boolean> {
    try {
      this.take(await api.post<State>(this.path(path), { version: this.state.version, ...form }))
      return true
    } catch (error) {
      if (error instanceof api.Problem && error.status === 409) await this.refresh()
      throw error
    }
  }

  async refresh(): Promise<void> {
    const info = await api.get<Info>(`sessions/${this.info.id}`)
    this.take(info.state)
    await this.loadRows()
  }

  async loadRows(): Promise<void> {
    this.rows = await api.get<Row[]>(this.path('rows')).catch(() => [])
    this.tell('rows')
  }

  async add(name = ''): Promise<void> {
    await this.change('structures', { name })
    this.label = this.state.structures.at(-1)?.label ?? 0
    this.tell('state')
  }

  async rename(label: number, name: string, colour: string): Promise<void> { await this.change(`structures/${label}`, { name, colour }) }
  async drop(label: number): Promise<void> { await this.change(`structures/${label}/remove`); await this.loadRows() }

  async say(gesture: Omit<Gesture, 'label'>): Promise<void> {
    if (!this.active) await this.add()
    await this.change('say', { ...gesture, label: this.label })
    this.first = false
  }

  async undo(): Promise<void> { if (this.state.can_undo) { await this.change('undo'); await this.loadRows() } }
  async redo(): Promise<void> { if (this.state.can_redo) { await this.change('redo'); await this.loadRows() } }

  async track(): Promise<void> {
    await this.change('track', { views: this.views })
    this.follow()
  }

  async push(): Promise<void> {
    const { message } = await api.post<{ message: string }>(this.path('push'))
    this.message = message
    this.tell('progress')
  }

  async cancel(): Promise<void> { if (this.progress) await api.post(this.path('cancel')) }

  /** Listen to the tracking that goes on. */
  private follow(): void {
    this.stream?.close()
    const stream = (this.stream = new EventSource(`api/${this.path('events')}`))
    this.progress = { done: 0, total: 0, began: performance.now() }
    this.tell('progress')
    stream.addEventListener('frame', (event) => this.onFrame(JSON.parse(event.data as string) as Told))
    for (const kind of ['done', 'cancelled', 'failed', 'idle']) stream.addEventListener(kind, (event) => void this.onEnd(stream, kind, event))
    stream.onerror = () => {
      if (stream.readyState === EventSource.CLOSED && this.stream === stream) void this.onEnd(stream, 'failed', new MessageEvent('failed', { data: '{"message":"the connection broke"}' }))
    }
  }

  private onFrame(told: Told): void {
    if (this.progress) this.progress = { ...this.progress, done: told.done, total: told.total }
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
    this.message = kind === 'failed' ? `Tracking failed: ${told.message}` : kind === 'cancelled' ? 'Cancelled; nothing was changed.' : told.message || ''
    await this.refresh()
    this.tell('progress')
  }

  /** Frames of a plane that are worth a look: where sureness collapses, else where it is least. */
  worthALook(): Row[] {
    const open = this.rows.filter((row) => row.area > 0 && !row.said)
    const marked = open.filter((row) => row.look)
    return (marked.length ? marked : open).sort((a, b) => a.sure - b.sure).slice(0, 6)
  }

  close(): void { this.stream?.close() }
}

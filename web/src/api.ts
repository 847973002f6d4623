// What the server is asked, and what it answers. Every change names the version that was seen.
import { h } from './dom'
import { named, suffix } from './names'

export type Plane = 'axial' | 'coronal' | 'sagittal' | 'image'
export interface Structure { label: number; name: string; colour: string; value: number; locked: boolean; edited: boolean; ml: number | null; images: number | null; said: number; window: [number, number]; seen_as: string }
export type Kind = 'points' | 'box' | 'mask' | 'scribble' | 'lasso' | 'diameter' | 'slices' | 'interpolate' | 'erase' | 'ball'
export interface Said { label: number; plane: Plane; t: number; kind: Kind; points: [number, number][]; positive: boolean[]; frames: number[]; width: number; fresh: boolean }
export interface State {
  version: number; structures: Structure[]; said: Said[]; can_undo: boolean; can_redo: boolean; fresh: number; tracked: number; busy: boolean; warnings: string[]; notes?: string[]
}
export interface Overlay { modality: string | null; unit: string; hung_as: string; window: [number, number]; extent: [number, number] }
export interface Statistics { label: number; name: string; volume_ml: number | null; mean: number | null; sd: number | null; minimum: number | null; maximum: number | null; intensity_unit: string }
export interface PlaneInfo { name: Plane; frames: number; size: [number, number]; spacing: [number, number]; voxel?: number[][] }
/** Which of several images of a source is open. */
export interface Picked { series?: number; frame?: number }
export interface Info {
  id: string; kind: 'volume' | 'set'; shape: number[]; picked: Picked; planes: PlaneInfo[]; modality: string | null; window: [number, number] | null; hung_as: string; seen_as: string
  unit: string; affine?: number[][]; extent: [number, number] | null; dicom: boolean; downloads: Record<string, string>; missing: Record<string, string>; pacs: boolean; files: number[]; names: string[]; warnings: string[]; overlay: Overlay | null; state: State
}
export interface Summary { id: string; kind: 'volume' | 'set' | 'damaged'; planes: Record<string, number>; shape: number[]; structures: string[]; changed?: number; problem?: string }
export interface About {
  library: { id: number; name: string; kind: string }[]; single: boolean; pacs: boolean; most_upload_mb: number; may_edit: boolean; visitor: string; windows: Record<string, [number, number]>
}
export interface Row { label: number; plane: Plane; t: number; sure: number; area: number; said: boolean; look: boolean; rank?: number; gain?: number; why?: string }
export interface Frame { rows: number; columns: number; channels: number; low: number; high: number; black: number; white: number; whole: boolean; seen: string; codes: Uint16Array | Uint8Array }
export interface Told { kind: string; done: number; total: number; plane: Plane; t: number; message: string; seconds: number }
export interface Gesture {
  label: number; plane: Plane; t: number; kind: Kind; points?: [number, number][]; positive?: boolean[]; runs?: number[]; frames?: number[]; width?: number
}
export interface Series { number: number; modality: string; description: string; images: number; date: string }

export class Problem extends Error {
  constructor(message: string, readonly status: number, readonly choices: string[] = []) { super(message) }
}

/** A refusal of what was sent, with the names of its files; what is no fault of theirs stays as it is. */
export function about(error: unknown, names: string[]): unknown {
  return error instanceof Problem && error.status === 422 ? new Problem(named(error.message, names), error.status) : error
}

export const SILENT = 'The server does not answer. Is medsam2 serve still running? What was done so far is kept.'
let back = (): void => undefined

/** What is done whenever the server answers. */
export function onAnswer(what: () => void): void { back = what }

async function asked(path: string, options: RequestInit = {}): Promise<Response> {
  let answer: Response
  try {
    answer = await fetch(`api/${path}`, { ...options, credentials: 'same-origin' })
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') throw error
    throw new Problem(SILENT, 0)
  }
  back()
  if (answer.ok) return answer
  const told = (await answer.json().catch(() => ({}))) as { error?: string; choices?: string[] }
  throw new Problem(told.error ?? `The server answered ${answer.status}.`, answer.status, told.choices ?? [])
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await (await asked(path, { signal })).json()) as T
}

export async function post<T>(path: string, form: object = {}): Promise<T> {
  const body = JSON.stringify(form)
  return (await (await asked(path, { method: 'POST', body, headers: { 'content-type': 'application/json' } })).json()) as T
}

export async function remove(path: string): Promise<void> {
  await asked(path, { method: 'DELETE' })
}

export async function bytes(path: string, signal?: AbortSignal): Promise<Uint8Array> {
  return new Uint8Array(await (await asked(path, { signal })).arrayBuffer())
}

/** A file that the server makes, under the name given or the server's, in the browser's downloads; refused, it says why. */
export async function save(path: string, name = ''): Promise<void> {
  const answer = await asked(path)
  const href = URL.createObjectURL(await answer.blob())
  const called = name || (/filename="([^"]+)"/.exec(answer.headers.get('content-disposition') ?? '')?.[1] ?? '')
  h('a', { href, download: called }).click()
  setTimeout(() => URL.revokeObjectURL(href), 60_000)
}

export async function frame(id: string, plane: Plane, t: number, side = 0, what = 'frames'): Promise<Frame> {
  const answer = await asked(`sessions/${id}/${what}/${plane}/${t}${side ? `?side=${side}` : ''}`)
  const told = (name: string): number => Number(answer.headers.get(`x-${name}`))
  const buffer = await answer.arrayBuffer()
  const channels = told('channels')
  const codes = channels === 3 ? new Uint8Array(buffer) : new Uint16Array(buffer)
  return { rows: told('rows'), columns: told('columns'), channels, low: told('low'), high: told('high'), black: told('black'), white: told('white'), whole: told('whole') === 1, seen: answer.headers.get('x-seen-as') ?? '', codes }
}

/** Send files as a session of its own, which is not yet opened; how much of all has come is told. */
export async function send(files: File[], progress: (share: number) => void = () => undefined): Promise<string> {
  const { id } = await post<{ id: string }>('sessions')
  const total = files.reduce((sum, file) => sum + file.size, 0)
  let sent = 0
  try {
    for (const file of files) {
      await upload(id, file, (part) => progress((sent + part * file.size) / total))
      sent += file.size
    }
  } catch (error) {
    await remove(`sessions/${id}`).catch(() => undefined)
    throw error
  }
  return id
}

/** Send a file; names stay here, since they may name a person: the server is told the suffix alone. */
function upload(id: string, file: File, progress: (share: number) => void): Promise<void> {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest()
    request.open('PUT', `api/sessions/${id}/files?suffix=${suffix(file.name)}`)
    request.upload.onprogress = (event) => progress(event.total ? event.loaded / event.total : 0)
    request.onerror = () => failed(new Problem('The upload broke off.', 0))
    request.onload = () => {
      if (request.status === 200) return done()
      let message = `The server answered ${request.status}.`
      try { message = (JSON.parse(request.responseText) as { error: string }).error } catch { /* no reason was given */ }
      failed(new Problem(message, request.status))
    }
    request.send(file)
  })
}

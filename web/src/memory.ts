// What the browser remembers of a session: its title, which file each image is, the tool, the place. Names of files stay here; they go when the session goes.
import type { Info } from './api'
import { called, named, picked, picking, plural } from './names'
import type { Cursor, Look, Tool, Work } from './work'

interface Kept { title?: string; stem?: string; names?: string[]; warnings?: string[]; tool?: Tool; cursor?: Cursor; image?: number; label?: number; views?: string; window?: [number, number]; looks?: [number, Look][] }
const KEY = 'medsam2.sessions'

function all(): Record<string, Kept> {
  try { return JSON.parse(localStorage.getItem(KEY) ?? '{}') as Record<string, Kept> } catch { return {} }
}

function write(sessions: Record<string, Kept>): void {
  try { localStorage.setItem(KEY, JSON.stringify(sessions)) } catch { /* a browser that keeps nothing */ }
}

export function title(id: string): string { return all()[id]?.title ?? '' }
export function stem(id: string): string { return all()[id]?.stem ?? '' }
/** Of each image of a set, or the only file. */
export function names(id: string): string[] { return all()[id]?.names ?? [] }
/** What its reader noticed, with the names of files that the server does not know. */
export function warnings(id: string): string[] | undefined { return all()[id]?.warnings }

/** Forget all sessions but these. */
export function only(ids: string[]): void { write(Object.fromEntries(Object.entries(all()).filter(([id]) => ids.includes(id)))) }

/** A session is called after its folder, or its files that could be read, which of several images in them it is, and the day; files of DICOM are often called after identifiers as long as a line. */
export function name(info: Info, files: string[], stem: string): void {
  if (!files.length) return
  const { id, kind, dicom, modality, files: numbers, shape, warnings } = info
  const read = kind === 'set' ? called(numbers, files) : files
  const one = `${read[0] ?? files[0]}${read.length > 1 ? ` and ${read.length - 1} more` : ''}`
  const what = files.length < 2 ? files[0] : stem || (dicom ? `${modality ?? 'DICOM'} series of ${plural(shape[2] ?? files.length, 'slice')}` : one)
  write({ ...all(), [id]: { title: [what, ...picked(info), new Date().toLocaleDateString()].join(' · '), stem: picking(stem, picked(info)), names: kind === 'set' || read.length === 1 ? read : [], warnings: warnings.map((text) => (files.length > 1 ? named(text, files) : text)) } })
}

export function keep(work: Work): void {
  const { tool, cursor, image, label, views, window } = work
  const looks = [...work.looks]
  write({ ...all(), [work.info.id]: { ...all()[work.info.id], tool, cursor, image, label, views, window, looks } })
}

/** Tool and place as they were left. */
export function restore(work: Work): void {
  const { tool, cursor, image, label, views, window, looks } = all()[work.info.id] ?? {}
  if (tool && work.mayEdit) work.tool = tool
  if (cursor) work.cursor = cursor
  if (image !== undefined) work.image = image
  if (views) work.views = views
  if (window) work.window = window
  if (looks) work.looks = new Map(looks)
  if (label && work.state.structures.some((each) => each.label === label)) work.label = label
}

// Puts the page together.
import * as api from './api'
import type { About, Info, Plane, Summary } from './api'
import { fill, h, icon, typing } from './dom'
import * as memory from './memory'
import { called, named, numbered, plural, reworded } from './names'
import { Panel, TOOL_KEYS, missing, offered } from './panel'
import { size as sizeOf } from './reading'
import { Start } from './start'
import { Sheet, SliceView } from './view'
import { Work } from './work'

const app = document.getElementById('app') as HTMLElement
const alerts = h('div', { class: 'alerts', role: 'alert' })
document.body.append(alerts)
let opened: Work | null = null
let leave = (): void => undefined // what is open

api.onAnswer(() => { for (const each of [...alerts.children]) if (each.textContent === api.SILENT) each.remove() })

/** Do something; if it fails, say why in words. */
function attempt(what: Promise<unknown>): void {
  what.catch((error: unknown) => {
    const text = error instanceof Error ? reworded(error.message, opened?.state.structures ?? []) : 'Something went wrong.'
    const note = h('div', { class: 'alert' }, h('span', {}, text), h('button', { class: 'quiet', 'aria-label': 'Dismiss', onclick: () => note.remove() }, icon('close')))
    for (const each of [...alerts.children]) if (each.textContent === text) each.remove() // said once
    while (alerts.children.length > 2) alerts.firstElementChild?.remove()
    alerts.append(note)
    setTimeout(() => note.remove(), 12000)
  })
}

async function home(first = false): Promise<void> {
  history.replaceState(null, '', '#')
  const [about, sessions] = await Promise.all([api.get<About>('about'), api.get<Summary[]>('sessions')])
  memory.only(sessions.map((each) => each.id))
  document.title = 'Medical SAM 2'
  const start = new Start(about, sessions, (info, names, stem) => open(info, names, stem, about), (what) => { fill(alerts); attempt(what) })
  fill(app, start.element)
  if (first && about.single) start.begin(about.library[0])
}

const KEYS: [string, string][] = [
  ['Q A X C S E G D V', 'tool: inside, outside, box, 3D box, lasso, scribble, diameter, brush, look'], ['M J R', 'tool: ruler, angle, region'], ['I, Shift', 'what is drawn is outside (box, 3D box, lasso, scribble); the brush erases'], ['Arrows', 'move the cross hair (Shift: ten pixels)'], ['Page Up/Down, wheel', 'next or previous slice'],
  ['Enter, −', 'click inside, click outside, at the cross hair'], ['B … Enter', 'box from here to there, by the arrows (by the mouse: X); with the tool 3D box, Enter once more uses it'], ['Enter … Enter, − … Enter', 'with the brush: paint, wipe, along the arrows'], ['Enter … Enter, − … Enter', 'scribble, lasso, diameter: along the arrows, inside or outside'], ['K', 'the brush paints a ball over neighbouring slices, or a disc'], ['[ ]', 'size of the brush, width of the scribble'], ['T, Esc', 'apply to volume, cancel (first what is being drawn)'], ['Z, Y', 'undo, redo'],
  ['N … Enter, Esc', 'new structure and its name; Esc keeps the usual name, a click does too'], ['1–9', 'choose a structure'], ['L', 'review next'], ['H', 'hide the structure, show it again'], ['O, U', 'outlines, uncertainty'], ['W', 'next window (right drag: by hand)'], ['F', 'one view large, all views'], ['Ctrl + wheel', 'zoom (middle drag: pan)'],
]

function help(): void {
  const dialog = h('dialog', { class: 'help', 'aria-label': 'Keys' }, h('h2', {}, 'Keys'),
    h('dl', {}, ...KEYS.flatMap(([key, what]) => [h('dt', {}, key), h('dd', {}, what)])),
    h('form', { method: 'dialog' }, h('button', { class: 'primary', autofocus: true }, 'Close')))
  document.body.append(dialog)
  dialog.addEventListener('close', () => dialog.remove())
  dialog.showModal()
}

function open(info: Info, names: string[], stem: string, about: About): void {
  leave()
  fill(alerts) // of what was tried before
  history.replaceState(null, '', `#${info.id}`)
  const work = (opened = new Work(info, about.may_edit))
  memory.name(info, names, stem)
  work.names = info.names.length ? called(info.files, info.names) : !names.length ? memory.names(info.id) : info.kind === 'set' ? called(info.files, names) : names
  if (info.kind === 'set' && !work.names.length) work.names = numbered(info.files)
  memory.restore(work)
  const title = memory.title(info.id)
  document.title = title ? `${title} – Medical SAM 2` : 'Medical SAM 2'
  const panel = new Panel(work, about, attempt)
  const grid = h('main', { class: `views ${info.kind}` })
  const views: SliceView[] = []
  const large = (element: HTMLElement) => (): void => {
    const on = !element.classList.contains('large')
    for (const each of grid.children) each.classList.toggle('large', on && each === element)
    grid.classList.toggle('one', on)
  }
  const add = (plane: Plane, title: string): void => {
    const view: SliceView = new SliceView(work, plane, title, attempt, () => large(view.element)())
    views.push(view)
    grid.append(view.element)
  }
  if (info.kind === 'set') {
    add('image', 'Image')
    const small = async (t: number): Promise<{ frame: api.Frame; labels: Uint8Array }> => {
      const [frame, labels] = await Promise.all([api.frame(info.id, 'image', t, 128), api.bytes(`sessions/${info.id}/labels/image/${t}?side=128`)])
      return { frame, labels }
    }
    grid.append(new Sheet(work, small).element)
  } else {
    add('axial', 'Axial'); add('coronal', 'Coronal'); add('sagittal', 'Sagittal')
    grid.append(solid(work, large))
  }
  const undo = h('button', { class: 'edits', title: 'Undo (Z)', 'aria-label': 'Undo', onclick: () => attempt(work.undo()) }, icon('undo'))
  const redo = h('button', { class: 'edits', title: 'Redo (Y)', 'aria-label': 'Redo', onclick: () => attempt(work.redo()) }, icon('redo'))
  const status = h('p', { class: 'status', role: 'status', 'aria-live': 'polite' })
  const size = info.kind === 'set' ? plural(info.planes[0].frames, 'image') : `${sizeOf(info.planes)} voxels${info.modality ? ` · ${info.modality}` : ''}`
  const bar = h('header', { class: 'bar' },
    h('h1', {}, h('button', { class: 'brand', title: 'Back to the start; the session is kept', onclick: () => { leave(); attempt(home()) } }, 'Medical SAM 2')), h('span', { class: 'size', title }, title ? `${title} · ${size}` : size),
    ...(memory.warnings(info.id) ?? info.warnings).slice(0, 2).map((text) => reworded(info.names.length > 1 ? named(text, info.names) : text, [])).map((text) => h('span', { class: 'warning', title: text }, text)),
    work.mayEdit ? null : h('span', { class: 'warning' }, 'For looking alone'), status, undo, redo, h('button', { title: 'Keys (?)', onclick: help }, 'Keys'))
  work.listen((change) => {
    if (change !== 'state' && change !== 'progress' && change !== 'pending') return
    undo.disabled = !work.state.can_undo && !work.pending.length && !work.progress
    redo.disabled = !work.state.can_redo && !work.pending.length && !work.progress
    const text = work.message || (work.progress && 'Applying …') || work.warnings.join('; ') || (work.state.tracked && !work.state.fresh ? 'Applied.' : '')
    if (status.textContent !== text) status.textContent = status.title = text // else it is read aloud again
  })
  work.tell('state')
  work.tell('tool')
  fill(app, h('div', { class: `work${work.mayEdit ? '' : ' looking'}` }, bar, panel.element, grid))
  const keys = (event: KeyboardEvent): void => key(event, work, panel, views, large)
  const keep = (): void => memory.keep(work)
  const back = (): void => { if (document.visibilityState === 'visible') void work.catchUp().catch(() => undefined) } // the next gesture says it, if the server is gone
  const gone = new AbortController()
  const until = { signal: gone.signal }
  window.addEventListener('pagehide', keep, until)
  window.addEventListener('focus', back, until)
  document.addEventListener('visibilitychange', back, until)
  document.addEventListener('keydown', keys, until)
  leave = () => { leave = () => undefined; opened = null; keep(); gone.abort(); work.close(); panel.structures.close() }
  views[0]?.canvas.focus()
}

function solid(work: Work, large: (element: HTMLElement) => () => void): HTMLElement {
  const canvas = h('canvas', { 'aria-label': '3D view; drag to turn it', role: 'img' })
  const note = h('p', { class: 'over', role: 'status' }, 'Preparing the 3D view …')
  const element: HTMLElement = h('section', { class: 'view solid', 'aria-label': '3D' },
    h('header', {}, h('h2', {}, '3D'), h('button', { class: 'quiet', 'aria-label': '3D large', title: 'This view large, or all views', onclick: () => large(element)() }, icon('large'))),
    h('div', { class: 'stage' }, canvas, note))
  const show = async (): Promise<void> => {
    const { Solid } = await import('./solid')
    const scene = new Solid(canvas, work.info.id)
    await scene.open()
    let waiting = false
    const update = (): void => {
      if (waiting || work.progress) return
      waiting = true
      setTimeout(() => { waiting = false; void scene.show(work.state.structures, work.visible).catch(() => undefined) }, 250)
    }
    work.listen((change) => { if (change === 'state' || change === 'progress' || change === 'looks') update() })
    update()
    note.remove()
    element.dataset.ready = 'true'
  }
  setTimeout(() => void show().catch(() => { note.textContent = 'There is no 3D view here: the browser offers no WebGL 2. Everything else works.' }), 300)
  return element
}

function key(event: KeyboardEvent, work: Work, panel: Panel, views: SliceView[], large: (element: HTMLElement) => () => void): void {
  if (typing(event.target) || document.querySelector('dialog:modal') || (event.target as Element).closest('dialog[open]')) return
  const pressed = event.key.toLowerCase()
  if ((event.ctrlKey || event.metaKey) && !['z', 'y'].includes(pressed)) return
  const tool = TOOL_KEYS.get(pressed)
  const focused = views.find((view) => view.canvas === document.activeElement) ?? views[0]
  const structure = work.state.structures[Number(pressed) - 1]
  if (pressed === 'z' && event.shiftKey) attempt(work.redo())
  else if (pressed === 'z') attempt(work.undo())
  else if (pressed === 'y') attempt(work.redo())
  else if (tool && offered(work, tool)) { work.tool = tool; work.tell('tool') }
  else if (tool && missing(work, tool)) attempt(Promise.reject(new Error(missing(work, tool))))
  else if (pressed === 'i') { work.outside = !work.outside; work.tell('tool') }
  else if (pressed === 'k' && work.tool === 'brush' && work.info.kind === 'volume') { work.ball = !work.ball; work.tell('tool') }
  else if (pressed === 'enter' && work.solid && work.tool === 'solid' && !(event.target instanceof HTMLButtonElement)) attempt(work.use())
  else if (pressed === 't' && work.state.fresh && !work.progress) attempt(work.track())
  else if (pressed === 'escape' && work.progress) attempt(work.cancel())
  else if (pressed === 'n') panel.structures.add()
  else if (structure) { work.choose(structure.label); work.tell('state'); work.tell('labels') }
  else if (pressed === 'h' && work.active) work.appear(work.label, { hidden: !work.look(work.label).hidden })
  else if (pressed === 'l') panel.next()
  else if (pressed === 'o') { work.overlay = !work.overlay; work.tell('overlay') }
  else if (pressed === 'u') { work.doubt = !work.doubt; work.tell('overlay') }
  else if (pressed === 'f') large(focused.element)()
  else if (pressed === '[' || pressed === ']') panel.resize(pressed === ']' ? 1 : -1)
  else if (pressed === '?') help()
  else if (pressed === 'w' && work.info.kind === 'set') attempt(Promise.reject(new Error('Windows are for volumes alone: an image of a set is shown as the network sees it.')))
  else if (pressed === 'w') {
    const all = panel.windows()
    panel.see(all[(all.findIndex((each) => each.join() === work.window.join()) + 1) % all.length])
  } else return
  event.preventDefault()
}

/** The session that the address names, or the first page. */
async function begin(first: boolean): Promise<void> {
  const id = location.hash.slice(1)
  if (/^[0-9a-f]{32}$/.test(id)) {
    try {
      const [info, about] = await Promise.all([api.get<Info>(`sessions/${id}`), api.get<About>('about')])
      return open(info, [], '', about)
    } catch (error) {
      if (!(error instanceof api.Problem) || error.status !== 404) throw error
      leave()
      await home(first)
      throw new Error('The session of this address is gone: it was removed, or kept elsewhere. Open its image again.')
    }
  }
  leave()
  await home(first)
}

window.addEventListener('hashchange', () => { if (location.hash.slice(1) !== (opened?.info.id ?? '')) attempt(begin(false)) })
attempt(begin(true))

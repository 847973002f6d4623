// The first thing that is seen: drop, choose, or go on.
import * as api from './api'
import type { About, Info, Series, Summary } from './api'
import { fill, h } from './dom'
import { only, title } from './memory'
import { named, plural, stem, suffix } from './names'

interface Named { names: string[]; stem: string }
interface Ways { series?: number; frame?: number }
const NAMELESS: Named = { names: [], stem: '' }
const once = (what: () => void) => (event: MouseEvent): void => { if (event.detail < 2) what() } // a double click is one

export class Start {
  readonly element = h('main', { class: 'start' })
  private readonly status = h('p', { class: 'status', role: 'status', 'aria-live': 'polite' })
  private readonly choices = h('div', { class: 'choices' })
  private busy = false
  private asked = '' // the session of which it is asked how it is read

  constructor(private readonly about: About, private readonly sessions: Summary[], private readonly onOpen: (info: Info, names: string[], stem: string) => void, private readonly attempt: (what: Promise<unknown>) => void) {
    const files = h('input', { type: 'file', multiple: true, class: 'unseen', id: 'files', tabindex: '-1', 'aria-label': 'Files to open', onchange: () => this.send([...(files.files ?? [])]) })
    const folder = h('input', { type: 'file', webkitdirectory: true, class: 'unseen', id: 'folder', tabindex: '-1', 'aria-label': 'Folder to open', onchange: () => this.send([...(folder.files ?? [])]) })
    const drop = h('div', { class: 'drop' },
      h('p', { class: 'big' }, 'Drop a volume or images here'),
      h('p', {}, 'NIfTI, NRRD, MetaImage, a DICOM series (all its files, or its folder), or a set of PNG, JPEG or TIFF images.'),
      h('div', { class: 'row' },
        h('button', { class: 'primary', onclick: () => files.click() }, 'Choose files'),
        h('button', { onclick: () => folder.click() }, 'Choose a folder')),
      files, folder)
    drop.addEventListener('dragover', (event) => { event.preventDefault(); drop.classList.add('over') })
    drop.addEventListener('dragleave', () => drop.classList.remove('over'))
    drop.addEventListener('drop', (event) => {
      event.preventDefault()
      drop.classList.remove('over')
      void gathered(event.dataTransfer).then((found) => this.send(found))
    })
    fill(this.element,
      h('h1', {}, 'Medical SAM 2'),
      h('p', { class: 'lead' }, 'Click on a structure, see its outline, apply it to the volume, correct it, download it. Nothing leaves this machine.'),
      about.may_edit ? null : h('p', {}, 'You came in by a link that is for looking alone.'),
      ...(about.may_edit ? [drop, this.status, this.choices, this.library(), this.pacs()] : []), this.kept(),
      h('p', { class: 'fine' }, 'For research. Not a medical device.'), this.leaving())
  }

  private library(): HTMLElement | null {
    if (!this.about.library.length) return null
    const entry = (each: About['library'][number]): HTMLElement =>
      h('li', {}, h('button', { class: 'line', onclick: once(() => this.begin(each)) }, h('span', {}, each.name), h('small', {}, each.kind)))
    return h('section', {}, h('h2', {}, 'From the folder that was named'), h('ul', {}, ...this.about.library.map(entry)))
  }

  private kept(): HTMLElement | null {
    if (!this.sessions.length) return null
    const entry = (each: Summary): HTMLElement => {
      const what = each.kind === 'set' ? plural(each.planes.image, 'image') : `${each.shape.join(' × ')} voxels`
      const when = each.changed ? new Date(1000 * each.changed).toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' }) : ''
      const called = [title(each.id), each.structures.join(', ') || 'nothing outlined yet'].filter(Boolean).join(' · ')
      const line: HTMLElement = h('li', {},
        each.problem ? h('span', { class: 'line warn' }, each.problem) : h('button', { class: 'line', title: called, onclick: once(() => this.attempt(this.alone(async () => { await this.forget(this.asked); this.onOpen(await api.get<Info>(`sessions/${each.id}`), [], '') }))) },
          h('span', {}, called), h('small', { title: when ? 'Last changed' : undefined }, [what, when].filter(Boolean).join(' · '))),
        this.about.may_edit && removal([each.problem ?? called, when].filter(Boolean).join(' · '), () => this.attempt(api.remove(`sessions/${each.id}`).then(() => { line.remove(); only(this.sessions.map((other) => other.id).filter((id) => id !== each.id)) }))))
      return line
    }
    return h('section', {}, h('h2', {}, 'Go on where you were'), h('ul', {}, ...this.sessions.map(entry)))
  }

  /** Who came in by the printed address alone has nothing to sign in with again. */
  private leaving(): HTMLElement | null {
    if (this.about.visitor === 'token') return null
    const leave = async (): Promise<void> => { await fetch('logout', { method: 'POST' }); location.assign('login') }
    return h('p', { class: 'fine row' }, ['link', 'password'].includes(this.about.visitor) ? '' : `Signed in as ${this.about.visitor}.`, h('button', { onclick: () => this.attempt(leave()) }, 'Sign out'))
  }

  private pacs(): HTMLElement | null {
    if (!this.about.pacs) return null
    const field = h('input', { id: 'patient', autocomplete: 'off', placeholder: 'patient ID' })
    const list = h('ul', {})
    const line = (each: Series): HTMLElement =>
      h('li', {}, h('button', { class: 'line', onclick: once(() => this.attempt(this.opened(() => api.post<{ id: string }>('pacs/open', { number: each.number }), NAMELESS, 'Fetching the series …'))) },
        h('span', {}, `${each.modality} · ${each.description || 'series'}`), h('small', {}, `${plural(each.images, 'image')} · ${each.date}`)))
    const find = (event: Event): void => {
      event.preventDefault()
      this.attempt(api.post<Series[]>('pacs/series', { patient: field.value }).then((found) => {
        fill(list, ...found.map(line))
        if (!found.length) this.status.textContent = 'Nothing was found.'
      }))
    }
    return h('section', {}, h('h2', {}, 'From the PACS'), h('form', { class: 'row', onsubmit: find }, h('label', { for: 'patient' }, 'Patient ID'), field, h('button', {}, 'Find series')), list)
  }

  begin({ id, name }: About['library'][number]): void {
    const called = { names: [name], stem: name.slice(0, name.length - suffix(name).length) }
    this.attempt(this.opened(() => api.post<{ id: string }>('sessions', { library: id }), called, 'Reading …'))
  }

  private send(files: File[]): void {
    const kept = files.filter((file) => file.size > 0 && !file.name.startsWith('.') && !/^(dicomdir|thumbs\.db)$/i.test(file.name))
    if (!kept.length) { this.status.textContent = 'There is no file in what was chosen.'; return }
    const total = kept.reduce((sum, file) => sum + file.size, 0)
    if (total > this.about.most_upload_mb * 1048576) { this.status.textContent = `That is more than the ${this.about.most_upload_mb} MB that this server takes.`; return }
    kept.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }))
    this.attempt(this.opened(() => this.uploaded(kept), { names: kept.map((file) => file.name), stem: stem(kept) }, 'Reading …'))
  }

  private async uploaded(files: File[]): Promise<{ id: string }> {
    const share = (part: number): void => { this.status.textContent = `Copying ${files.length} file${files.length > 1 ? 's' : ''}: ${Math.round(100 * part)} %` }
    share(0)
    return { id: await api.send(files, share) }
  }

  /** One image at a time: each would begin a session, of which but one is shown. */
  private async alone(what: () => Promise<void>): Promise<void> {
    if (this.busy) throw new Error('Another image is being opened; wait until it is there.')
    this.busy = true
    this.element.setAttribute('aria-busy', 'true')
    try { await what() } finally {
      this.busy = false
      this.element.removeAttribute('aria-busy')
    }
  }

  private opened(session: () => Promise<{ id: string }>, called: Named, say: string): Promise<void> {
    return this.alone(async () => {
      fill(this.choices)
      this.status.textContent = say
      try {
        await this.forget(this.asked)
        const { id } = await session()
        await this.read(id, called, {})
      } catch (error) {
        this.status.textContent = ''
        throw api.about(error, called.names)
      }
    })
  }

  private async forget(id: string): Promise<void> {
    this.asked = ''
    if (id) await api.remove(`sessions/${id}`).catch(() => undefined)
  }

  private async read(id: string, called: Named, how: Ways): Promise<void> {
    this.status.textContent = 'Reading …'
    try {
      this.onOpen(await api.post<Info>(`sessions/${id}/open`, how), called.names, called.stem)
    } catch (error) {
      if (error instanceof api.Problem && asking(error.choices)) return this.choose(id, called, error, how)
      if (this.asked !== id) await this.forget(id) // else another answer may do
      if (error instanceof api.Problem && error.choices.length) throw new api.Problem(error.message.replace(/; choose one$/, '; the page cannot choose, the command line can'), error.status)
      throw error
    }
  }

  /** The file can be read in several ways: the user says which. */
  private choose(id: string, called: Named, problem: api.Problem, how: Ways): void {
    const ask = asking(problem.choices)
    if (!ask) return
    const question = named(problem.message.replace(/ or all$/, ''), called.names)
    const number = h('input', { type: 'number', id: 'which', min: String(ask.first), max: String(ask.last), value: String(ask.first) })
    const open = (event: Event): void => {
      event.preventDefault()
      this.attempt(this.alone(() => this.read(id, called, { ...how, [ask.option]: Number(number.value) }).catch((error: unknown) => { this.status.textContent = question; throw api.about(error, called.names) })))
    }
    this.asked = id
    this.status.textContent = question
    fill(this.choices,
      h('ul', { class: 'fine' }, ...ask.lines.map((line) => h('li', {}, line))),
      h('form', { class: 'row', onsubmit: open }, h('label', { for: 'which' }, ask.name), number, h('button', { class: 'primary' }, 'Open')))
    number.focus()
  }
}

/** What the page has a field for, of the ways to read a file that the command line's options would pick. */
function asking(choices: string[]): { option: keyof Ways; name: string; lines: string[]; first: number; last: number } | null {
  const option = choices.some((choice) => choice.startsWith('--series ')) ? 'series' : 'frame'
  const known = choices.filter((choice) => choice.startsWith(`--${option} `))
  const numbers = known.flatMap((choice) => [...choice.matchAll(/--(?:series|frame) (\d+)/g)].map((found) => Number(found[1])))
  if (!numbers.length) return null
  const name = option === 'series' ? 'Series' : known.some((choice) => choice.includes('page)')) ? 'Page' : 'Time point'
  return { option, name, lines: known.map((choice) => choice.replaceAll(`--${option} `, '')), first: Math.min(...numbers), last: Math.max(...numbers) }
}

/** A button that removes a session when it is pressed for the second time; a double click is one. */
function removal(called: string, remove: () => void): HTMLElement {
  const say = (text: string): void => { button.textContent = text; button.setAttribute('aria-label', `${text} ${called}`) }
  const asking = (): boolean => button.classList.contains('warn')
  const ask = (on: boolean): void => { button.classList.toggle('warn', on); say(on ? 'Remove for good?' : 'Remove') }
  const button = h('button', { class: 'quiet', title: 'Close this session and remove what was kept of it', onblur: () => ask(false),
    onkeydown: (event: KeyboardEvent) => { if (event.key === 'Escape') ask(false) },
    onclick: (event: MouseEvent) => { if (!asking()) ask(true); else if (event.detail < 2) remove() } })
  ask(false)
  return button
}

/** The files that were dropped, those of folders too. */
async function gathered(data: DataTransfer | null): Promise<File[]> {
  const entries = [...(data?.items ?? [])].map((item) => item.webkitGetAsEntry()).filter((entry) => entry !== null)
  if (!entries.length) return [...(data?.files ?? [])]
  const files: File[] = []
  const walk = async (entry: FileSystemEntry): Promise<void> => {
    if (entry.isFile) {
      const file = await new Promise<File>((done, failed) => (entry as FileSystemFileEntry).file(done, failed))
      Object.defineProperty(file, 'webkitRelativePath', { value: entry.fullPath.slice(1) }) // as of a folder that is chosen
      files.push(file)
    }
    else {
      const reader = (entry as FileSystemDirectoryEntry).createReader()
      for (;;) {
        const some = await new Promise<FileSystemEntry[]>((done, failed) => reader.readEntries(done, failed))
        if (!some.length) return
        for (const each of some) await walk(each)
      }
    }
  }
  for (const entry of entries) await walk(entry)
  return files
}

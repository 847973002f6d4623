// The structures: list, looks, order, numbers, locks; merged, split, finished, measured, read from a file.
import type { Structure } from './api'
import { fill, h, icon, leave, redraw } from './dom'
import { plural } from './names'
import { millilitres } from './reading'
import type { Work } from './work'

/** Field, text, unit, least, most, step; the server has the same limits. */
const FINISHING: [string, string, string, number, number, string][] = [
  ['smooth_mm', 'Smooth', 'mm', 0, 100, 'any'], ['grow_mm', 'Grow (− shrinks)', 'mm', -100, 100, 'any'], ['min_volume_ml', 'Least part', 'mL', 0, 100_000, 'any'],
]
const FINISHING_IMAGES: typeof FINISHING = [['least_px', 'Least part', 'pixels', 0, 1_000_000_000, '1']] // which may have no size in mm

/** From a field to the view that had the focus before, or the first: keys are the page's again. */
function back(view: Element | null): void {
  const canvas = view instanceof HTMLCanvasElement ? view : document.querySelector<HTMLElement>('.stage canvas')
  canvas?.focus({ preventScroll: true })
}

export class Structures {
  readonly element: HTMLElement
  private readonly list = h('ul', { class: 'structures', 'aria-label': 'Structures' })
  private readonly details = h('dialog', { class: 'details', 'aria-label': 'Structure', onkeydown: (event: KeyboardEvent) => { if (event.key === 'Escape') { event.stopPropagation(); this.details.close(); back(null) } } })
  private readonly table = h('dialog', { class: 'help', 'aria-label': 'Statistics' })
  private shown = 0
  private readonly renaming = new Map<number, string>() // names that are on their way
  private naming: { item: HTMLElement; before: Set<number> } | null = null // a new structure whose name is being typed

  constructor(private readonly work: Work, private readonly attempt: (what: Promise<unknown>) => void) {
    const files = h('input', { type: 'file', class: 'unseen', id: 'outlines', tabindex: '-1', multiple: true, 'aria-label': 'Earlier segmentation', onchange: () => { attempt(work.loadOutlines([...(files.files ?? [])])); files.value = '' } })
    const quiet = (name: string, title: string, what: () => void): HTMLElement => h('button', { title, 'aria-label': title, class: 'quiet', onclick: what }, icon(name))
    const volume = work.info.kind === 'volume'
    this.element = h('section', {},
      h('div', { class: 'head' }, h('h2', {}, 'Structures'),
        h('div', { class: 'row' },
          volume ? quiet('table', 'Statistics', () => attempt(this.measure())) : null,
          volume ? h('span', { class: 'edits' }, quiet('open', 'Load an earlier segmentation', () => files.click()), files) : null,
          h('span', { class: 'edits' }, quiet('plus', 'New structure (N)', () => this.add())))),
      this.list)
    document.body.append(this.details, this.table)
    this.details.addEventListener('close', () => { this.shown = 0 })
    work.listen((change) => {
      if (change === 'state' || change === 'looks') this.draw()
      if ((change === 'state' || change === 'looks') && this.shown) redraw(this.details, () => { if (this.shown) this.detail(this.shown) })
    })
    this.draw()
  }

  close(): void { this.details.remove(); this.table.remove() }

  private draw(): void {
    redraw(this.list, () => {
      const { naming, work } = this
      const items = work.state.structures.filter((each) => naming?.before.has(each.label) ?? true).map((each) => this.item(each))
      naming?.item.classList.toggle('active', !naming.before.has(work.chosen))
      if (naming) items.push(naming.item)
      fill(this.list, ...(items.length ? items : [h('li', { class: 'hint' }, `Click on something in ${work.info.kind === 'set' ? 'an image' : 'a slice'}: it becomes the first structure.`)]))
    })
  }

  /** A new structure, whose name is typed at once: its field has the focus before the server answers, and keeps it. */
  add(): void {
    const { work, attempt } = this
    if (!work.mayEdit) return
    const view = document.activeElement
    const before = new Set(work.state.structures.map((each) => each.label))
    let usual = `structure ${1 + Math.max(0, ...before)}`
    const name = h('input', { class: 'name', value: usual, maxlength: '80', 'aria-label': 'Name of the new structure', onblur: () => { if (document.activeElement !== name) take(name.value) }, // not where another window is looked at
      onkeydown: (event: KeyboardEvent) => {
        if (event.isComposing || (event.key !== 'Enter' && event.key !== 'Escape')) return
        event.preventDefault()
        take(event.key === 'Enter' ? name.value : usual)
        back(view)
      } })
    const colour = h('input', { type: 'color', disabled: true, 'aria-label': 'Colour of the new structure' })
    const naming = (this.naming = { item: h('li', { class: 'active' }, colour, name, h('button', { class: 'quiet', disabled: true, 'aria-hidden': 'true' }, icon('eye'))), before })
    this.list.querySelector('.hint')?.remove()
    this.list.querySelector('.active')?.classList.remove('active')
    this.list.append(naming.item)
    name.select()
    name.focus()
    const made = work.add()
    const end = (): void => { naming.item.remove(); if (this.naming === naming) this.naming = null; this.draw() }
    let taken = false
    const take = (wanted: string): void => {
      if (taken) return
      taken = true
      const renamed = wanted.trim() && wanted !== usual ? work.rename(made.catch(() => 0), wanted, '') : made.then(() => undefined, () => undefined)
      attempt(renamed.finally(end))
    }
    attempt(made.then((label) => {
      const own = work.state.structures.find((each) => each.label === label)
      if (!own) return end()
      naming.item.style.setProperty('--colour', (colour.value = own.colour))
      if (name.value === usual && !taken) { name.value = own.name; name.select() }
      usual = own.name
    }, (error: unknown) => { end(); throw error }))
  }

  private item(each: Structure): HTMLElement {
    const { work } = this
    const rename = async (): Promise<void> => {
      const wanted = name.value
      this.renaming.set(each.label, wanted)
      try { await work.rename(each.label, wanted, '') } catch (error) { name.value = each.name; throw error } finally {
        if (this.renaming.get(each.label) === wanted) this.renaming.delete(each.label)
        this.draw()
      }
    }
    const name = h('input', { class: 'name', value: this.renaming.get(each.label) ?? each.name, maxlength: '80', readonly: !work.mayEdit, 'aria-label': `Name of structure ${each.label}`, onchange: () => this.attempt(rename()), onfocus: () => this.choose(each.label),
      onkeydown: (event: KeyboardEvent) => { if (event.isComposing || (event.key !== 'Enter' && event.key !== 'Escape')) return; if (event.key === 'Escape') name.value = each.name; back(null); event.preventDefault() } })
    const colour = h('input', { type: 'color', value: each.colour, disabled: !work.mayEdit, 'aria-label': `Colour of ${each.name}`, onchange: () => this.attempt(work.rename(each.label, '', colour.value).catch((error: unknown) => { colour.value = each.colour; throw error })) })
    const { hidden } = work.look(each.label)
    const quiet = (shape: string, title: string, what: () => void, pressed?: boolean): HTMLElement => h('button', { class: 'quiet', title: title.replace(` ${each.name}`, ''), 'aria-label': title, 'aria-pressed': pressed === undefined ? undefined : String(pressed),
      onclick: (event: Event) => { event.stopPropagation(); what() } }, icon(shape))
    return h('li', { class: `${each.label === work.chosen ? 'active' : ''}${hidden ? ' hidden' : ''}`, colour: each.colour, 'data-label': String(each.label), 'aria-current': each.label === work.chosen ? 'true' : undefined, onclick: () => this.choose(each.label) },
      colour, name,
      work.info.kind === 'set' ? h('span', { class: 'ml', title: 'Where it was found' }, each.images ? plural(each.images, 'image') : each.said ? 'not applied' : '–')
        : h('span', { class: 'ml', title: 'Volume of the tracked outline' }, each.ml === null ? (each.said ? 'this slice' : '–') : `${millilitres(each.ml)} mL`),
      each.locked ? icon('lock') : null,
      quiet(hidden ? 'shut' : 'eye', `Hide ${each.name}`, () => work.appear(each.label, { hidden: !hidden }), hidden),
      quiet('more', `More of ${each.name}`, () => { this.choose(each.label); this.detail(each.label); if (!this.details.open) this.details.show() }))
  }

  choose(label: number): void {
    const { chosen } = this.work
    this.work.choose(label)
    if (chosen === label) return
    for (const item of this.list.children) item.classList.toggle('active', (item as HTMLElement).dataset.label === String(label))
    this.work.tell('labels')
  }

  private detail(label: number): void {
    const { work } = this
    const each = work.state.structures.find((one) => one.label === label)
    if (!each) return this.details.close()
    this.shown = label
    const { opacity, filled } = work.look(label)
    const slider = h('input', { type: 'range', min: '0', max: '100', value: String(opacity), 'aria-label': 'Opacity', oninput: () => work.appear(label, { opacity: Number(slider.value) }) })
    const check = (text: string, on: boolean, what: (on: boolean) => void): HTMLElement => {
      const box = h('input', { type: 'checkbox', checked: on, onchange: () => what(box.checked) })
      return h('label', { class: 'row' }, box, text)
    }
    if (this.details.contains(document.activeElement) && document.activeElement?.getAttribute('aria-label') === 'Opacity') return // it is being moved
    fill(this.details, h('div', { class: 'head' }, h('h2', {}, each.name), h('button', { class: 'quiet', 'aria-label': 'Close', onclick: () => this.details.close() }, icon('close'))),
      h('label', { class: 'row' }, 'Opacity', slider), check('Filled', filled, (on) => work.appear(label, { filled: on })),
      work.mayEdit ? this.editing(each) : null)
    this.details.setAttribute('aria-label', `Structure ${each.name}`)
  }

  private editing(each: Structure): HTMLElement {
    const { work, attempt } = this
    const path = `structures/${each.label}`
    const value = h('input', { type: 'number', min: '1', max: '65535', step: '1', value: String(each.value), onkeydown: leave, onchange: () => { if (value.value) put({ value: Number(value.value) }); else value.value = String(each.value) } })
    const locked = h('input', { type: 'checkbox', checked: each.locked, onchange: () => put({ locked: locked.checked }) })
    const put = (form: object): void => attempt(work.edit(path, form).catch((error: unknown) => { // refused: what stands is shown again, though the field has the focus
      const now = work.state.structures.find((one) => one.label === each.label) ?? each
      value.value = String(now.value)
      locked.checked = now.locked
      throw error
    }))
    const others = work.state.structures.filter((one) => one.label !== each.label)
    const place = work.state.structures.indexOf(each)
    const into = h('select', { 'aria-label': 'Merge into' }, ...others.map((one) => h('option', { value: String(one.label) }, one.name)))
    const move = (by: number, text: string): HTMLElement => h('button', { title: 'Where several would have a voxel, the upper one takes it', disabled: place + by < 0 || place + by > others.length, onclick: () => attempt(work.edit(`${path}/move`, { by })) }, text)
    const parts: HTMLElement[] = [
      h('label', { class: 'row' }, 'Number in files', value),
      h('label', { class: 'row' }, locked, 'Locked'),
    ]
    const volume = work.info.kind === 'volume'
    if (volume) parts.push(h('div', { class: 'row' }, move(-1, 'Up'), move(1, 'Down')))
    if (others.length) parts.push(h('div', { class: 'row' }, h('button', { onclick: (event: MouseEvent) => { if (event.detail < 2) attempt(work.edit(`${path}/merge`, { into: Number(into.value) })) } }, 'Merge into'), into))
    parts.push(h('button', { title: `Parts that do not hang together become structures of their own${volume ? '' : ': the largest of all images, the second largest, …'}`, onclick: () => attempt(work.edit(`${path}/split`)) }, 'Split into parts'), this.finishing(path))
    if (!volume && each.edited) parts.push(h('p', { class: 'fine' }, 'Edited: it changes on images alone that are pointed at.'))
    return h('div', { class: 'rows' }, ...parts, h('button', { onclick: () => attempt(work.drop(each.label)) }, 'Remove'))
  }

  /** As the command line finishes: holes, largest part, smoothness, size, small parts, in this order; of a set each image by itself. */
  private finishing(path: string): HTMLElement {
    const box = (text: string): { input: HTMLInputElement; row: HTMLElement } => { const input = h('input', { type: 'checkbox' }); return { input, row: h('label', { class: 'row' }, input, text) } }
    const [holes, largest] = [box('Fill holes'), box('Largest part alone')]
    const numbers = (this.work.info.kind === 'volume' ? FINISHING : FINISHING_IMAGES).map(([key, text, unit, min, max, step]) => { const input = h('input', { type: 'number', min: String(min), max: String(max), step, placeholder: '–', onkeydown: leave }); return { key, input, row: h('label', { class: 'row' }, text, input, unit) } })
    const form = (): object => ({ fill_holes: holes.input.checked, largest: largest.input.checked, ...Object.fromEntries(numbers.filter(({ input }) => input.value).map(({ key, input }) => [key, Number(input.value)])) })
    return h('fieldset', { class: 'rows' }, h('legend', {}, 'Finish'), holes.row, largest.row, ...numbers.map(({ row }) => row), h('button', { onclick: () => this.attempt(this.work.edit(`${path}/finish`, form())) }, 'Finish it'))
  }

  private async measure(): Promise<void> {
    const rows = this.work.state.tracked ? await this.work.statistics() : []
    if (!rows.length) throw new Error('Statistics are of structures that were applied: apply the changes first.')
    const number = (value: number | null): string => (value === null ? '–' : value.toFixed(Math.abs(value) < 10 ? 2 : 1).replace('-', '−'))
    const unit = rows[0]?.intensity_unit ? ` ${rows[0].intensity_unit}` : ''
    const head = ['Number', 'Structure', 'mL', `Mean${unit}`, 'SD', 'Smallest', 'Largest']
    fill(this.table, h('h2', {}, 'Statistics'),
      h('table', {}, h('thead', {}, h('tr', {}, ...head.map((text) => h('th', { scope: 'col' }, text)))),
        h('tbody', {}, ...rows.map((row) => h('tr', {}, h('td', {}, String(row.label)), h('th', { scope: 'row' }, row.name), h('td', {}, row.volume_ml === null ? '–' : millilitres(row.volume_ml)), ...[row.mean, row.sd, row.minimum, row.maximum].map((value) => h('td', {}, number(value))))))),
      h('p', { class: 'fine' }, 'Of what was tracked; Volumes (CSV) has it with places.'),
      h('form', { method: 'dialog' }, h('button', { class: 'primary', autofocus: true }, 'Close')))
    this.table.showModal()
  }
}

// Beside the views: structures, tools, tracking, what to review, and downloads.
import * as api from './api'
import type { About, Plane, Row } from './api'
import { SIZES } from './brush'
import { fill, h, icon, leave, redraw, windowFields } from './dom'
import { FusionPanel } from './fusion'
import { stem } from './memory'
import { download, withheld } from './names'
import { counted } from './reading'
import type { Range } from './shapes'
import { Structures } from './structures'
import type { Change, Tool, Work } from './work'

const TOOLS: [Tool, string, string, string][] = [
  ['plus', 'Inside', 'Q', 'Click inside the structure; with Shift, outside of it'],
  ['minus', 'Outside', 'A', 'Click where the outline is too large'],
  ['box', 'Box', 'X', 'Draw a box around it on this slice'],
  ['solid', '3D box', 'C', 'Draw a box around all of it: a rectangle here, its depth in another view'],
  ['lasso', 'Lasso', 'S', 'Draw its outline yourself'],
  ['scribble', 'Scribble', 'E', 'Draw a line inside of it; [ and ] change the width'],
  ['diameter', 'Diameter', 'G', 'Draw its longest diameter, from end to end; then, if you like, the short one across it'],
  ['brush', 'Brush', 'D', 'Paint the outline; with Shift, wipe it away; [ and ] change the size'],
  ['ruler', 'Ruler', 'M', 'Measure a length in mm; nothing is outlined'],
  ['angle', 'Angle', 'J', 'Measure the angle between two lines; nothing is outlined'],
  ['region', 'Region', 'R', 'Measure area and mean intensity of what you draw around; nothing is outlined'],
  ['look', 'Look', 'V', 'Move the cross hair; nothing is outlined'],
]
const TWO_SIDED = new Set<Tool>(['box', 'solid', 'lasso', 'scribble', 'brush'])
/** Of volumes alone: images are flat, and may have no size in mm. */
const SOLID_ONLY = new Set<Tool>(['solid', 'ruler', 'angle', 'region'])
/** For whom may look alone. */
const LOOKING = new Set<Tool>(['look', 'ruler', 'angle', 'region'])
export const TOOL_KEYS = new Map(TOOLS.map(([tool, , key]) => [key.toLowerCase(), tool]))

/** Why a tool is not offered, where its key would seem to do nothing. */
export function missing(work: Work, tool: Tool): string {
  const name = TOOLS.find(([each]) => each === tool)?.[1] ?? tool
  return SOLID_ONLY.has(tool) && work.info.kind === 'set' ? `${name} is for volumes alone: images are flat, and may have no size in mm.` : ''
}

export function offered(work: Work, tool: Tool): boolean { return (!SOLID_ONLY.has(tool) || work.info.kind === 'volume') && (work.mayEdit || LOOKING.has(tool)) }

/** Browsers give pages that come unprotected from another machine no clipboard. */
async function copied(text: string): Promise<void> {
  if (!navigator.clipboard) throw new Error(`The browser gives no clipboard here; copy it yourself: ${text}`)
  await navigator.clipboard.writeText(text)
}

interface Field { plane: 'axial' | 'coronal' | 'sagittal'; first: HTMLInputElement; last: HTMLInputElement }

export class Panel {
  readonly element = h('aside', { class: 'panel', 'aria-label': 'Structures and tools' })
  readonly structures: Structures
  private readonly fusion: HTMLElement | null
  private readonly tools = h('div', { class: 'tools', role: 'radiogroup', 'aria-label': 'Tool' })
  private readonly size = h('div', { class: 'size' })
  private readonly side = h('div', { class: 'side', role: 'radiogroup', 'aria-label': 'What is drawn is' })
  private readonly solid = h('div', { class: 'solidbox' })
  private readonly range = h('div', { class: 'row numbers range' })
  private fields: Field[] = []
  private last: Row | null = null // of what to review, that was gone to
  private readonly limits = h('div', { class: 'limits' })
  private readonly go = h('div', { class: 'go' })
  private readonly look = h('div', { class: 'look' })
  private readonly shown = h('div', { class: 'row wrap' })
  private readonly downloads = h('div', { class: 'row wrap' })

  constructor(private readonly work: Work, private readonly about: About, private readonly attempt: (what: Promise<unknown>) => void) {
    const volume = work.info.kind === 'volume'
    this.structures = new Structures(work, attempt)
    this.fusion = volume ? new FusionPanel(work, attempt).element : null
    fill(this.element, this.structures.element,
      h('section', {}, h('h2', {}, 'Tool'), this.tools, this.side, this.size, this.range, this.solid),
      h('section', { class: 'edits' }, h('h2', {}, volume ? 'Whole volume' : 'All images'), volume ? this.limits : null, this.go),
      h('section', {}, h('h2', {}, 'Review next'), this.look),
      h('section', {}, h('h2', {}, 'Show'), this.shown),
      h('section', {}, h('h2', {}, 'Download'), this.downloads))
    if (volume) this.limiting()
    work.listen((change) => this.on(change))
    for (const change of ['state', 'tool', 'progress', 'rows', 'overlay'] as Change[]) this.on(change)
  }

  private on(change: Change): void {
    if (change === 'state') { this.going(); this.downloading(); this.showing() }
    if (change === 'tool') { this.choosing(); this.boxing() }
    if (change === 'solid') this.boxing()
    if (change === 'progress') this.going()
    if (change === 'rows' || change === 'state') redraw(this.look, () => this.looking())
    if (change === 'overlay' || change === 'window') this.showing()
  }

  private choosing(): void {
    const button = ([tool, name, key, title]: (typeof TOOLS)[number]): HTMLElement =>
      h('button', { role: 'radio', 'aria-checked': String(this.work.tool === tool), title: `${title} (${key})`, class: this.work.tool === tool ? 'active' : '', onclick: () => { this.work.tool = tool; this.work.tell('tool') } }, icon(tool), name)
    fill(this.tools, ...TOOLS.filter(([tool]) => offered(this.work, tool)).map(button))
    const { work } = this
    const half = (outside: boolean, text: string): HTMLElement => h('button', { role: 'radio', 'aria-checked': String(work.outside === outside), class: work.outside === outside ? 'active' : '',
      title: work.tool === 'brush' ? (outside ? 'Wipe the structure away (I, or Shift while painting)' : 'Paint the structure (I)') : outside ? 'What is drawn is not the structure (I, or Shift while drawing)' : 'What is drawn is the structure, or holds it (I)', onclick: () => { work.outside = outside; work.tell('tool') } }, text)
    const words = work.tool === 'brush' ? ['Paint', 'Erase'] : ['Draw inside', 'Draw outside']
    fill(this.side, ...(TWO_SIDED.has(work.tool) ? [half(false, words[0]), half(true, words[1])] : []))
    this.ranging()
    if (['ruler', 'angle', 'region'].includes(work.tool)) return fill(this.size, h('button', { onclick: () => work.forget() }, 'Forget what was measured'))
    if (work.tool !== 'brush' && work.tool !== 'scribble') return fill(this.size)
    const slider = h('input', { type: 'range', min: '0', max: String(SIZES.length - 1), value: String(SIZES.indexOf(this.work.radius)), 'aria-valuetext': `radius of ${this.work.radius} pixels`, oninput: () => this.sized(Number(slider.value)) })
    const ball = work.tool === 'brush' && work.info.kind === 'volume' ? h('button', { class: work.ball ? 'active' : '', 'aria-pressed': String(work.ball), title: 'A ball, over neighbouring slices too, in place of a disc on this one (K)', onclick: () => { work.ball = !work.ball; work.tell('tool') } }, '3D ball') : null
    fill(this.size, h('label', {}, work.tool === 'brush' ? 'Brush size' : 'Line width', slider), ball)
  }

  /** Intensities that the brush touches, of a volume or grey images; empty fields are no limits. */
  private ranging(): void {
    const { work } = this
    if (work.tool !== 'brush' || work.ball) return fill(this.range)
    const field = (end: 0 | 1, name: string): HTMLElement => {
      const input = h('input', { type: 'number', step: 'any', placeholder: 'any', 'aria-label': `Paint ${name}`, value: work.range[end] ?? undefined, onkeydown: leave, onchange: () => { work.range[end] = Number.isFinite(input.valueAsNumber) ? input.valueAsNumber : null } })
      return h('label', { class: 'row', title: 'The brush paints and erases pixels of these intensities alone' }, name, input)
    }
    fill(this.range, field(0, 'from'), field(1, 'to'), work.info.unit || null)
  }

  /** The box in 3D that is not yet used: its slices along each axis, as the command line counts them; fields stay, so that one can go on to the next. */
  private boxing(): void {
    const { work } = this
    if (work.tool !== 'solid' || !work.solid) {
      this.fields = []
      return fill(this.solid, work.tool === 'solid' ? h('p', { class: 'fine' }, 'Draw a rectangle around it in one view; draw in another view, or change the numbers, for its depth.') : null)
    }
    if (!this.fields.length) {
      this.fields = (['axial', 'coronal', 'sagittal'] as const).map((plane) => this.field(plane))
      fill(this.solid, ...this.fields.map(({ plane, first, last }) => h('div', { class: 'row' }, h('span', { class: 'name' }, `${plane} ${this.axis(plane)}`), first, '–', last)),
        h('div', { class: 'row' }, h('button', { class: 'primary', title: 'Enter', onclick: () => this.attempt(work.use()) }, `${work.solid.inside ? 'Use' : 'Exclude'} this box`), h('button', { title: 'Esc', onclick: () => work.discard() }, 'Discard')))
    }
    for (const { plane, first, last } of this.fields) {
      const { t } = work.cutOf(work.solid.span, plane)
      ;[first.value, last.value] = this.numbers(plane, t)
    }
  }

  private axis(plane: Plane): string { return counted(this.work.plane(plane)).axis }

  /** The first and the last slice of a range, as they are counted. */
  private numbers(plane: Plane, range: number[]): string[] { return range.map(counted(this.work.plane(plane)).of).sort((a, b) => a - b).map(String) }

  private field(plane: 'axial' | 'coronal' | 'sagittal'): Field {
    const count = counted(this.work.plane(plane))
    const take = (): void => {
      const [low, high] = [first, last].map((each) => count.frame(Number(each.value))).sort((a, b) => a - b)
      this.work.resize(plane, low < high ? [low, high] : low ? [low - 1, low] : [0, 1])
    }
    const input = (what: string): HTMLInputElement => h('input', { type: 'number', min: String(count.first), max: String(count.last), 'aria-label': `${what} ${plane} slice`, onkeydown: leave, onchange: take })
    const [first, last] = [input('First'), input('Last')]
    return { plane, first, last }
  }

  /** Between which slices the chosen structure is tracked, and whether shapes between its outlines are expected. */
  private limiting(): void {
    const { work, attempt } = this
    const plane = h('select', { 'aria-label': 'Slices of', onchange: () => hold(plane.value as Plane) }, ...(['axial', 'coronal', 'sagittal'] as const).map((name) => h('option', { value: name }, `${name} ${this.axis(name)}`)))
    const [first, last] = ['From', 'To'].map((what) => h('input', { type: 'number', min: '0', 'aria-label': `${what} slice`, placeholder: what.toLowerCase(), onkeydown: (event: KeyboardEvent) => { if (event.key === 'Enter') set() } }))
    const range = (): Range => {
      const count = counted(work.plane(plane.value as Plane))
      for (const { value } of [first, last]) if (value && (Number(value) < count.first || Number(value) > count.last)) throw new Error(`${plane.value} ${count.axis} has slices ${count.first} to ${count.last}.`)
      const [low, high] = [first, last].map((each, i) => count.frame(each.value ? Number(each.value) : [count.first, count.last][i])).sort((a, b) => a - b)
      return [low, high]
    }
    const ask = async (what: 'limit' | 'erase'): Promise<void> => work[what](plane.value as Plane, range())
    const set = (): void => {
      const old = work.ofWhole('slices')
      const other = old && old.plane !== plane.value && `Limits are of one axis: those of ${old.plane} ${this.axis(old.plane)} hold no more.`
      attempt(ask('limit').then(() => { if (other) work.remark(other) }, (error: unknown) => { hold(); throw error })) // refused: what holds is shown again
    }
    const limit = h('button', { title: 'Track the structure on these slices alone', onclick: set }, 'Limit')
    const all = h('button', { title: 'Track it on all slices', onclick: () => attempt(work.limit(plane.value as Plane, null)) }, 'All')
    const join = h('button', { class: 'wide', title: 'Expect, on the slices between two outlines (brush, lasso), the shapes between them; what is tracked counts beside', onclick: () => attempt(work.join(!work.ofWhole('interpolate'))) }, 'Shapes between outlines')
    const erase = h('button', { title: 'Take the structure off these slices', onclick: () => attempt(first.value && last.value ? ask('erase') : Promise.reject(new Error('Say from which slice to which it is erased.'))) }, 'Erase')
    fill(this.limits, h('div', { class: 'row' }, plane, first, '–', last), h('div', { class: 'row' }, limit, all, erase), join)
    const hold = (axis?: Plane): void => {
      const limits = work.ofWhole('slices')
      if (limits && !axis) plane.value = limits.plane
      ;[first.value, last.value] = limits && limits.plane === plane.value ? this.numbers(limits.plane, limits.frames) : ['', '']
    }
    const show = (): void => {
      const [limits, joined] = [work.ofWhole('slices'), !!work.ofWhole('interpolate')]
      if (![first, last].includes(document.activeElement as HTMLInputElement)) hold()
      const there = !!work.active?.said || (work.active?.ml ?? null) !== null // one that was loaded, merged or split can be erased from slices
      limit.disabled = !work.active?.said || !!work.progress
      erase.disabled = !there || !!work.progress
      all.disabled = !limits
      join.disabled = !joined && !work.joinable
      join.classList.toggle('active', joined)
      join.setAttribute('aria-pressed', String(joined))
      this.limits.hidden = !there
    }
    work.listen((change) => { if (change === 'state' || change === 'labels' || change === 'progress') show() })
    show()
  }

  private sized(place: number): void {
    this.work.radius = SIZES[Math.max(0, Math.min(SIZES.length - 1, place))]
    this.work.tell('brush')
  }

  /** A larger or smaller brush. */
  resize(by: number): void { this.sized(SIZES.indexOf(this.work.radius) + by); this.choosing() }

  private going(): void {
    const { work } = this
    if (work.progress) {
      const { done, total, seconds } = work.progress
      const left = done > 2 && total > done ? ` · about ${Math.max(1, Math.round((seconds / done) * (total - done)))} s left` : ''
      return fill(this.go,
        h('progress', { max: String(total || 1), value: total ? String(done) : undefined, 'aria-label': 'Tracking' }),
        h('p', { class: 'fine' }, total ? `${done} of ${total}${left}` : 'Looking at the slice …'),
        h('div', { class: 'row' }, h('button', { title: 'Stop here; slices that were tracked stay', disabled: !done, onclick: () => this.attempt(work.cancel(true)) }, 'Stop and keep'), h('button', { title: 'Stop, as if it had not been begun (Esc)', onclick: () => this.attempt(work.cancel()) }, 'Cancel')))
    }
    const { fresh, tracked } = work.state
    const views = h('select', { 'aria-label': 'Views', onchange: () => { work.views = views.value } },
      ...[['one', 'one view: fast'], ['three', 'three views'], ['six', 'six views: slow']].map(([value, text]) => h('option', { value, selected: work.views === value }, text)))
    const word = work.info.kind === 'set' ? 'Apply to all images' : tracked ? 'Apply changes to volume' : 'Apply to volume'
    const progress = fresh ? `${fresh} change${fresh > 1 ? 's' : ''} not yet applied` : tracked ? 'All changes are applied.' : 'Nothing to apply yet.'
    const told = [work.message, ...work.warnings].filter(Boolean).join('; ')
    fill(this.go, h('button', { class: 'primary wide', title: `${word} (T)`, disabled: !fresh, onclick: () => this.attempt(work.track()) }, word),
      work.info.kind === 'volume' ? views : null, h('p', { class: 'fine' }, progress), told ? h('p', { class: 'fine warn' }, told) : null)
  }

  private looking(): void {
    const found = this.work.worthALook()
    const name = (label: number): string => this.work.state.structures.find((each) => each.label === label)?.name ?? ''
    const button = (row: (typeof found)[number]): HTMLElement =>
      {
      const why = ` · ${row.why === 'unsure' ? `${Math.round(100 * row.sure)} % sure` : row.why}`
      return h('button', { class: `line${row.look ? ' unsure' : ''}`, onclick: () => this.jump(row) },
        h('span', {}, [row.plane, this.axis(row.plane), counted(this.work.plane(row.plane)).of(row.t)].filter((part) => part !== '').join(' ')), h('small', { title: `${name(row.label)}${why}. A correction here may mend about ${row.gain} voxels` }, h('bdi', {}, name(row.label)), why))
    }
    fill(this.look, ...found.map(button))
    if (!found.length) fill(this.look, h('p', { class: 'fine' }, `${this.work.info.kind === 'set' ? 'Images' : 'Slices'} where a look is worth most are listed here.`))
  }

  private jump(row: Row): void {
    this.last = row
    this.structures.choose(row.label)
    const { y, x } = this.work.place(row.plane)
    this.work.move(row.plane, row.t, y, x)
  }

  next(): void {
    const found = this.work.worthALook()
    const { last } = this
    const at = found.findIndex((row) => row.label === last?.label && row.plane === last.plane && row.t === last.t) // several may lie on one slice
    const row = found[(at + 1) % found.length]
    if (row) this.jump(row)
  }

  private showing(): void { redraw(this.shown, () => this.show()) }

  private show(): void {
    const { work } = this
    const flag = (name: 'overlay' | 'doubt', text: string, key: string): HTMLElement =>
      h('button', { class: work[name] ? 'active' : '', 'aria-pressed': String(work[name]), title: key, onclick: () => { work[name] = !work[name]; work.tell('overlay') } }, text)
    const window = ([name, value]: [string, [number, number]]): HTMLElement => {
      const active = name === known.find(([, other]) => other.join() === work.window.join())?.[0]
      return h('button', { class: active ? 'active' : '', 'aria-pressed': String(active), title: name === auto ? work.info.hung_as : undefined, onclick: () => this.see(value) }, name)
    }
    const auto = `auto: ${work.info.hung_as.split(/[:,]/)[0]}`
    const known: [string, [number, number]][] = [[auto, work.info.window ?? [0, 1]]]
    const asked = work.state.structures.find((each) => each.label === work.label && each.said > 0)
    if (asked) known.push(['network', asked.window])
    if (work.info.unit === 'HU') known.push(...Object.entries(this.about.windows))
    if (work.info.extent) known.push(['all', work.info.extent])
    const sees = `The network sees ${work.seen || (asked?.seen_as ?? work.info.seen_as)}.`
    fill(this.shown, flag('overlay', 'Outlines', 'O'), work.info.kind === 'volume' ? flag('doubt', 'Uncertainty', 'U') : null, this.fusion,
      ...(work.info.kind === 'volume' ? [h('span', { class: 'break' }), ...known.map(window), windowFields('', () => work.window, (value) => this.see(value), this.attempt)] : []),
      h('p', { class: 'fine sees', title: `${sees} Another window for everything: medsam2 serve --window` }, sees))
  }

  see(value: [number, number]): void { this.work.window = [...value]; this.work.tell('window') }

  /** All windows to go through, each once. */
  windows(): [number, number][] {
    const { window, extent } = this.work.info
    const all: [number, number][] = [window ?? [0, 1], ...(this.work.info.unit === 'HU' ? Object.values(this.about.windows) : []), ...(extent ? [extent] : [])]
    return [...new Map(all.map((each) => [each.join(), each])).values()]
  }

  /** What was said so far, for the command line: the options in the clipboard, and a file. */
  private said(): HTMLElement[] {
    const { work } = this
    if (work.info.kind === 'set' || !work.state.said.length) return []
    const copy = h('button', { title: 'All that was said, as a command: medsam2 segment …', onclick: () => this.attempt(work.options().then(async (text) => { await copied(text); [copy.textContent, copy.title] = text.startsWith('#') ? ['Copied in part', text.replace(/\n?[^#\n][^\n]*$/, '')] : ['Copied', copy.title] })) }, 'Copy as options')
    return [copy, this.link('prompts', '', 'Prompts', 'All that was said, for medsam2 segment --prompts')]
  }

  /** A download, which the page asks for itself: of one that is refused, a browser says nothing. */
  private link(path: string, called: string, text: string, title?: string): HTMLElement {
    const save = async (): Promise<void> => {
      link.setAttribute('aria-busy', 'true')
      try { await api.save(`sessions/${this.work.info.id}/${path}`, called) } finally { link.removeAttribute('aria-busy') }
    }
    const link = h('a', { class: 'button', href: `api/sessions/${this.work.info.id}/${path}`, download: called, title,
      onclick: (event: Event) => { event.preventDefault(); if (!link.hasAttribute('aria-busy')) this.attempt(save()) } }, icon('down'), text)
    return link
  }

  private downloading(): void {
    const { work } = this
    if (!work.state.tracked) return fill(this.downloads, h('p', { class: 'fine' }, !work.mayEdit ? 'Nothing was applied yet.' : work.info.kind === 'set' ? 'Apply to all images first.' : 'Apply to the volume first.'), ...this.said())
    const links = Object.entries(work.info.downloads).map(([form, name]) => this.link(`download/${form}`, download(stem(work.info.id), form), name))
    fill(this.downloads, ...links, ...this.said(),
      work.info.pacs && work.mayEdit ? h('button', { onclick: () => this.attempt(work.push()) }, 'Send to the PACS') : null,
      ...withheld(work.info.missing).map((text) => h('p', { class: 'fine' }, text)),
      work.state.fresh ? h('p', { class: 'fine warn' }, 'Changes not yet applied are not in it.') : null)
  }
}

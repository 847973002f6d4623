// Elements in one call; text is always text, so that no name can become markup.

type Child = Node | string | null | undefined | false
type Props = Record<string, unknown>

export function h<K extends keyof HTMLElementTagNameMap>(tag: K, props: Props = {}, ...children: Child[]): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag)
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === false || value === null) continue
    if (key.startsWith('on') && typeof value === 'function') element.addEventListener(key.slice(2), value as EventListener)
    else if (key === 'colour') element.style.setProperty('--colour', String(value))
    else element.setAttribute(key, value === true ? '' : String(value))
  }
  element.append(...children.filter((child): child is Node | string => child instanceof Node || typeof child === 'string'))
  return element
}

export function fill(element: Element, ...children: Child[]): void {
  element.replaceChildren(...children.filter((child): child is Node | string => child instanceof Node || typeof child === 'string'))
}

/** Whether an element takes what is typed: while it has the focus, keys are its own. */
export function typing(element: EventTarget | null): element is HTMLElement {
  return element instanceof HTMLElement && (element.isContentEditable || element.matches('textarea, select, input:not([type="range"])'))
}

/** Enter ends a number, so that keys are the page's again. */
export function leave(event: KeyboardEvent): void { if (event.key === 'Enter' && !event.isComposing) (event.target as HTMLElement).blur() }

const waiting = new Map<Element, () => void>()
let pressed: EventTarget | null = null

function held(element: Element): boolean {
  const { activeElement } = document
  return (typing(activeElement) && element.contains(activeElement)) || (pressed instanceof Node && element.contains(pressed))
}

function settle(): void {
  for (const [element, draw] of waiting) if (!held(element)) { waiting.delete(element); draw() }
}

/** Draw an element anew. Where one of its fields is being typed into, or a button of it pressed, that waits: text and focus, or the click, would be lost. */
export function redraw(element: Element, draw: () => void): void {
  if (held(element)) waiting.set(element, draw)
  else { waiting.delete(element); draw() }
}

document.addEventListener('pointerdown', (event) => { pressed = event.target }, true)
for (const kind of ['pointerup', 'pointercancel']) document.addEventListener(kind, () => setTimeout(() => { pressed = null; settle() }), true) // the click comes first
document.addEventListener('focusout', () => setTimeout(settle), true)

/** Level and width of a window, as numbers; what is none, and what is no width, is refused, and what holds comes back. */
export function windowFields(of: string, window: () => [number, number], set: (window: [number, number]) => void, attempt: (what: Promise<unknown>) => void): HTMLElement {
  const field = (name: 'Level' | 'Width'): HTMLElement => {
    const read = (): string => { const [low, high] = window(); return String(Number((name === 'Level' ? (low + high) / 2 : high - low).toPrecision(5))) }
    const take = async (): Promise<void> => {
      const [low, high] = window()
      const value = input.valueAsNumber
      const [level, width] = name === 'Level' ? [value, high - low] : [(low + high) / 2, value]
      if (Number.isFinite(value) && width > 0) return set([level - width / 2, level + width / 2])
      input.value = read()
      throw new Error(name === 'Level' ? 'The level is a number.' : 'The width is a number above 0.')
    }
    const input = h('input', { type: 'number', step: 'any', 'aria-label': `${name}${of}`, value: read(), onkeydown: leave, onchange: () => attempt(take()) })
    return h('label', { class: 'row' }, name, input)
  }
  return h('div', { class: 'row numbers' }, field('Level'), field('Width'))
}

const shapes: Record<string, string> = {
  look: 'M12 3v6M12 15v6M3 12h6M15 12h6',
  plus: 'M12 5v14M5 12h14',
  minus: 'M5 12h14',
  box: 'M5 5h14v14H5z',
  solid: 'M4 8l8-4 8 4v8l-8 4-8-4zM4 8l8 4 8-4M12 12v8',
  scribble: 'M3 16c3-8 5-8 6-3s3 5 5-1 4-6 7-4',
  ruler: 'M4 15 15 4l5 5L9 20zM8 11l2 2M11 8l2 2M14 5l2 2',
  angle: 'M5 19h14M5 19 16 6M11 19a6 6 0 0 0-2-4.6',
  region: 'M12 4c5 0 8 3 8 8s-3 8-8 8-8-3-8-8 3-8 8-8zM9 12h6',
  diameter: 'M5 19 19 5M5 14v5h5M14 5h5v5',
  lasso: 'M5 13c-3-6 4-9 8-8s8 4 6 9-9 6-12 3c-1 2 0 4-2 5',
  brush: 'M20 4c-4 2-8 6-10 10l1 1c4-2 8-6 9-11zM8 15c-3 0-3 4-5 5 3 1 7 0 7-3',
  undo: 'M9 7 4 12l5 5M4 12h10a6 6 0 0 1 6 6',
  redo: 'm15 7 5 5-5 5M20 12H10a6 6 0 0 0-6 6',
  close: 'm6 6 12 12M18 6 6 18',
  large: 'M4 10V4h6M20 14v6h-6M4 4l7 7M20 20l-7-7',
  eye: 'M2 12s4-7 10-7 10 7 10 7-4 7-10 7S2 12 2 12zM12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6z',
  shut: 'M3 5l18 14M2 12s4-7 10-7 10 7 10 7-4 7-10 7S2 12 2 12z',
  lock: 'M6 11h12v9H6zM8 11V8a4 4 0 0 1 8 0v3',
  more: 'M5 12h.01M12 12h.01M19 12h.01',
  table: 'M4 5h16v14H4zM4 10h16M4 15h16M10 5v14',
  open: 'M4 19V6h6l2 2h8v3M4 19l3-8h14l-3 8z',
  down: 'M12 4v12m-5-5 5 5 5-5M5 20h14',
}

export function icon(name: string): SVGElement {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg')
  svg.setAttribute('viewBox', '0 0 24 24')
  svg.setAttribute('aria-hidden', 'true')
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path')
  path.setAttribute('d', shapes[name] ?? '')
  svg.append(path)
  return svg
}

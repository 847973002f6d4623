// A second image over the slices: another modality or sequence, wherever it lies, through a window of its own.
import type { Frame, Overlay } from './api'
import { fill, h, redraw, windowFields } from './dom'
import type { Work } from './work'

export interface Fused { opacity: number; window: [number, number]; hot: boolean }

export function fused(overlay: Overlay): Fused { return { opacity: 50, window: overlay.window, hot: overlay.modality === 'PT' || overlay.modality === 'NM' } }

/** Code 0 lies beyond the second image and stays clear; hot iron is clear at its lower end, too. */
export function fuse(frame: Frame, { opacity, window: [low, high], hot }: Fused): ImageData {
  const out = new ImageData(frame.columns, frame.rows)
  const pixels = new Uint32Array(out.data.buffer)
  const scale = (frame.high - frame.low) / 65534
  const factor = 255 / Math.max(high - low, 1e-12)
  const firm = Math.round(2.55 * opacity)
  for (let i = 0; i < pixels.length; i++) {
    const code = frame.codes[i]
    if (!code) continue
    const level = Math.max(0, Math.min(255, Math.round((frame.low + (code - 1) * scale - low) * factor)))
    const [red, green, blue] = hot ? [Math.min(255, 2 * level), Math.max(0, Math.min(255, 2 * level - 160)), Math.max(0, 4 * level - 765)] : [level, level, level]
    const alpha = hot ? Math.min(firm, Math.round((firm * level) / 48)) : firm
    pixels[i] = ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0
  }
  return out
}

/** In the panel: which image, how firm, through which window. */
export class FusionPanel {
  readonly element = h('div', { class: 'fusion' })

  constructor(private readonly work: Work, private readonly attempt: (what: Promise<unknown>) => void) {
    work.listen((change) => { if (change === 'fusion') redraw(this.element, () => this.draw()) })
    this.draw()
  }

  private draw(): void {
    const { work, attempt } = this
    const now = work.fused
    if (!now) {
      const files = h('input', { type: 'file', class: 'unseen', id: 'overlay', tabindex: '-1', multiple: true, 'aria-label': 'Second image', onchange: () => attempt(work.lay([...(files.files ?? [])])) })
      return fill(this.element, work.mayEdit ? h('button', { title: 'PET on CT, another sequence: laid over the slices where its own geometry says', onclick: () => files.click() }, 'Overlay') : null, files)
    }
    const set = (change: Partial<Fused>): void => { work.fused = { ...now, ...change }; work.tell('fusion') }
    const slider = h('input', { type: 'range', min: '0', max: '100', value: String(now.opacity), 'aria-label': 'Opacity of the second image', onchange: () => set({ opacity: Number(slider.value) }) })
    fill(this.element,
      h('div', { class: 'row' }, h('span', { title: `Auto is ${work.info.overlay?.hung_as ?? ''}` }, work.info.overlay?.modality ?? 'Second image'), slider,
        h('button', { class: now.hot ? 'active' : '', 'aria-pressed': String(now.hot), onclick: () => set({ hot: !now.hot }) }, 'Hot'),
        work.mayEdit ? h('button', { 'aria-label': 'Remove the second image', onclick: () => attempt(work.unlay()) }, '×') : null),
      windowFields(' of the second image', () => work.fused?.window ?? now.window, (window) => set({ window }), attempt))
  }
}

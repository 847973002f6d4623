// The 3D view: a volume, thinned on the server, with the labels over it as an image of its own.
import { NVImage, Niivue } from '@niivue/niivue'
import type { Structure } from './api'
import { rgb } from './colours'

export class Solid {
  private readonly niivue = new Niivue({
    backColor: [0.055, 0.07, 0.09, 1], show3Dcrosshair: false, isColorbar: false, isOrientCube: true, loadingText: '', dragAndDropEnabled: false, isResizeCanvas: true,
  })
  private labels: NVImage | null = null

  constructor(private readonly canvas: HTMLCanvasElement, private readonly id: string) {}

  async open(): Promise<void> {
    await this.niivue.attachToCanvas(this.canvas)
    this.niivue.setSliceType(this.niivue.sliceTypeRender)
    await this.niivue.loadVolumes([{ url: `api/sessions/${this.id}/solid/image.nii.gz`, name: 'image.nii.gz', colormap: 'gray', opacity: 1 }])
    this.niivue.setRenderAzimuthElevation(160, 12)
  }

  /** Show the labels as they are now; what is shown beside them is faint once there are any. */
  async show(structures: Structure[], visible: Structure[]): Promise<void> {
    const next = await NVImage.loadFromUrl({ url: `api/sessions/${this.id}/solid/labels.nii.gz`, name: 'labels.nii.gz', opacity: 1 })
    const colours = structures.map((each) => rgb(each.colour))
    const column = (i: number): number[] => [0, ...colours.map((colour) => colour[i])]
    next.setColormapLabel({
      R: column(0), G: column(1), B: column(2), A: [0, ...structures.map((each) => (visible.includes(each) ? 255 : 0))], I: [0, ...structures.map((each) => each.label)],
      labels: ['', ...structures.map((each) => each.name)],
    })
    if (this.labels) this.niivue.removeVolume(this.labels)
    this.labels = next
    this.niivue.addVolume(next)
    this.niivue.setOpacity(0, structures.some((each) => each.said) ? 0.25 : 1)
    this.niivue.updateGLVolume()
  }
}

// A stroke of the brush: discs along a line on one slice, and what the structure is afterwards.

export const SIZES = [0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32] // radius in pixels, of the finer side where they are not square

/** Whether a code stands for an intensity within limits, as it is read: to half a step of the codes, so that the limits belong to it. */
export function within(code: number, low: number, high: number, [from, to]: [number | null, number | null]): boolean {
  const step = (high - low) / 65535
  const value = low + code * step
  return value >= (from ?? -Infinity) - step / 2 && value <= (to ?? Infinity) + step / 2
}

export class Stroke {
  readonly pixels: Uint8Array
  readonly line: [number, number][]
  private crossed = false // whether it touched the image, whatever the intensities there

  constructor(readonly rows: number, readonly columns: number, private readonly spacing: [number, number], private readonly radius: number, readonly positive: boolean, from: [number, number], private readonly allowed: (pixel: number) => boolean = () => true) {
    this.pixels = new Uint8Array(rows * columns)
    this.line = [from]
    this.dab(from)
  }

  /** On to a row and column, in discs so near each other that no gap is left. */
  to([y, x]: [number, number]): void {
    const [fromY, fromX] = this.line[this.line.length - 1]
    const [mmY, mmX] = this.spacing
    const step = Math.max(1, this.radius) * Math.min(mmY, mmX) // in mm: along thick slices a pixel is more than a radius
    const steps = Math.max(1, Math.ceil(2 * Math.max(Math.abs(y - fromY) * mmY, Math.abs(x - fromX) * mmX) / step))
    for (let i = 1; i <= steps; i++) this.dab([fromY + ((y - fromY) * i) / steps, fromX + ((x - fromX) * i) / steps])
    this.line.push([y, x])
  }

  private dab([y, x]: [number, number]): void {
    const [mmY, mmX] = this.spacing
    const reach = this.radius * Math.min(mmY, mmX)
    const [high, wide] = [reach / mmY, reach / mmX]
    for (let row = Math.max(0, Math.ceil(y - high)); row <= Math.min(this.rows - 1, y + high); row++) {
      for (let column = Math.max(0, Math.ceil(x - wide)); column <= Math.min(this.columns - 1, x + wide); column++) {
        if (Math.hypot((row - y) * mmY, (column - x) * mmX) <= reach) this.touch(row * this.columns + column)
      }
    }
    const [row, column] = [Math.round(y), Math.round(x)] // a small brush paints at least the pixel under it
    if (row >= 0 && row < this.rows && column >= 0 && column < this.columns) this.touch(row * this.columns + column)
  }

  private touch(pixel: number): void { this.crossed = true; if (this.allowed(pixel)) this.pixels[pixel] = 1 }

  /** Why it touched nothing; empty where it did. */
  get missed(): string {
    if (!this.crossed) return 'The stroke lies outside of the image.'
    return this.pixels.includes(1) ? '' : 'No pixel under the stroke has an intensity between from and to.'
  }

  /** The structure as runs, start and length, with the stroke added to it or wiped off it. */
  over(labels: Uint8Array | null, label: number): number[] {
    const runs: number[] = []
    for (let i = 0; i < this.pixels.length; i++) {
      const was = label > 0 && labels?.[i] === label
      if (!(this.pixels[i] ? this.positive : was)) continue
      if (runs.length && runs[runs.length - 2] + runs[runs.length - 1] === i) runs[runs.length - 1]++
      else runs.push(i, 1)
    }
    return runs
  }
}

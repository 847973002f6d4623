// What a place on a slice reads: voxel, millimetres, intensity, structure; and how long something on it is.
import type { Frame, Info, PlaneInfo, Structure } from './api'
import type { Spot } from './shapes'

type Rows = number[][]

const times = (matrix: Rows, place: number[]): number[] => matrix.map((row) => row.reduce((sum, each, i) => sum + each * (place[i] ?? 1), 0))

/** Voxel of the file, from 0, of a frame's row and column. */
export function voxel(plane: PlaneInfo, t: number, [y, x]: Spot): number[] { return plane.voxel ? times(plane.voxel, [t, Math.round(y), Math.round(x)]) : [] }

/** How the slices of a plane are counted: along an axis of the file, as the command line does, which may run the other way; images from 1. */
export interface Count { axis: string; first: number; last: number; of: (t: number) => number; frame: (number: number) => number }

export function counted(plane: PlaneInfo | undefined): Count {
  const most = (plane?.frames ?? 1) - 1
  const along = plane?.voxel?.findIndex((row) => Math.abs(row[0]) > 0.5) ?? -1
  const [step, from] = along < 0 ? [1, 1] : [plane?.voxel?.[along][0] ?? 1, plane?.voxel?.[along][3] ?? 0]
  const of = (t: number): number => from + step * t
  const ends = [of(0), of(most)]
  return { axis: 'IJK'[along] ?? '', first: Math.min(...ends), last: Math.max(...ends), of, frame: (number) => Math.max(0, Math.min(most, Math.round((number - from) / step))) }
}

/** How many voxels a volume has along each axis of its file. */
export function size(planes: PlaneInfo[]): string {
  return ['I', 'J', 'K'].map((axis) => planes.find((each) => counted(each).axis === axis)?.frames ?? 1).join(' × ')
}

/** Intensity of a pixel; red, green and blue of a colour image. */
export function intensity(frame: Frame, [y, x]: Spot): number[] {
  const at = Math.round(y) * frame.columns + Math.round(x)
  if (frame.channels === 3) return [0, 1, 2].map((channel) => frame.codes[3 * at + channel])
  return [frame.low + (frame.codes[at] * (frame.high - frame.low)) / 65535]
}

/** A number with as many digits as the range that it comes from is worth. */
export function shown(value: number, range: number): string { return value.toFixed(range >= 200 ? 0 : range >= 20 ? 1 : range >= 2 ? 2 : 3).replace('-', '−') }

/** A volume in mL: of what is tiny two digits that tell something. */
export function millilitres(ml: number): string { return ml.toFixed(ml > 0 && ml < 1 ? 1 - Math.floor(Math.log10(ml)) : ml < 10 ? 2 : 1) }

/** All of it in one line; millimetres last, where a narrow window may cut it off. */
export function reading(info: Info, plane: PlaneInfo, frame: Frame, t: number, spot: Spot, structure: Structure | undefined): string {
  const place = voxel(plane, t, spot)
  const where = place.length ? `I ${place[0]}  J ${place[1]}  K ${place[2]}` : `X ${Math.round(spot[1])}  Y ${Math.round(spot[0])}`
  const mm = place.length && info.affine ? `${times(info.affine, place).map((each) => each.toFixed(1).replace('-', '−')).join('  ')} mm` : ''
  const value = `${intensity(frame, spot).map((each) => shown(each, frame.channels === 3 || frame.whole ? 255 : frame.high - frame.low)).join(' ')}${info.unit ? ` ${info.unit}` : ''}`
  return [where, value, structure?.name, mm].filter(Boolean).join('  ·  ')
}

/** A length for the scale bar: 1, 2 or 5 times a power of ten, as long as it may be in pixels of the screen. */
export function scale(mmPerPixel: number, most: number): { mm: number; wide: number } {
  const limit = mmPerPixel * most
  const power = 10 ** Math.floor(Math.log10(limit))
  const mm = [5, 2, 1].map((each) => each * power).find((each) => each <= limit) ?? power
  return { mm, wide: mm / mmPerPixel }
}

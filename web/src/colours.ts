// Frames and labels as pixels.
import type { Frame, Structure } from './api'

export type Rgb = [number, number, number]

export function rgb(colour: string): Rgb {
  return [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)) as Rgb
}

export function palette(structures: Structure[]): Map<number, Rgb> {
  return new Map(structures.map((each) => [each.label, rgb(each.colour)]))
}

/** A frame through a window. */
export function grey(frame: Frame, low: number, high: number): ImageData {
  const out = new ImageData(frame.columns, frame.rows)
  const pixels = new Uint32Array(out.data.buffer)
  if (frame.channels === 3) {
    for (let i = 0; i < pixels.length; i++) {
      pixels[i] = 0xff000000 | (frame.codes[3 * i + 2] << 16) | (frame.codes[3 * i + 1] << 8) | frame.codes[3 * i]
    }
    return out
  }
  const scale = (frame.high - frame.low) / 65535
  const factor = 255 / Math.max(high - low, 1e-12)
  for (let i = 0; i < pixels.length; i++) {
    const value = (frame.low + frame.codes[i] * scale - low) * factor
    const level = value <= 0 ? 0 : value >= 255 ? 255 : value | 0
    pixels[i] = 0xff000000 | (level << 16) | (level << 8) | level
  }
  return out
}

/** Where each label ends, along the sides of pixels: drawn as thin as the screen allows. */
export function outlines(labels: Uint8Array, rows: number, columns: number): Map<number, Path2D> {
  const found = new Map<number, Path2D>()
  const line = (label: number, x: number, y: number, toX: number, toY: number): void => {
    const path = found.get(label) ?? new Path2D()
    path.moveTo(x, y)
    path.lineTo(toX, toY)
    found.set(label, path)
  }
  const at = (y: number, x: number): number => (y < 0 || x < 0 || y >= rows || x >= columns ? 0 : labels[y * columns + x])
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const label = at(y, x)
      if (!label) continue
      if (at(y - 1, x) !== label) line(label, x, y, x + 1, y)
      if (at(y + 1, x) !== label) line(label, x, y + 1, x + 1, y + 1)
      if (at(y, x - 1) !== label) line(label, x, y, x, y + 1)
      if (at(y, x + 1) !== label) line(label, x + 1, y, x + 1, y + 1)
    }
  }
  return found
}

/** Labels as a tint, with a firm border of pixels where they are not outlined besides; how firm each label's is, from 0 to 255, is asked. */
export function tint(labels: Uint8Array, rows: number, columns: number, colours: Map<number, Rgb>, firm: (label: number) => number, border = true): ImageData {
  const out = new ImageData(columns, rows)
  const pixels = new Uint32Array(out.data.buffer)
  for (let y = 0, i = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++, i++) {
      const label = labels[i]
      const colour = label ? colours.get(label) : undefined
      if (!colour) continue
      const inner = !border || (x > 0 && x < columns - 1 && y > 0 && y < rows - 1 && labels[i - 1] === label && labels[i + 1] === label &&
        labels[i - columns] === label && labels[i + columns] === label)
      const alpha = inner ? firm(label) : 235
      pixels[i] = ((alpha << 24) | (colour[2] << 16) | (colour[1] << 8) | colour[0]) >>> 0
    }
  }
  return out
}

/** Doubt as a glow from nothing to amber. */
export function glow(doubt: Uint8Array, rows: number, columns: number): ImageData {
  const out = new ImageData(columns, rows)
  const pixels = new Uint32Array(out.data.buffer)
  for (let i = 0; i < pixels.length; i++) if (doubt[i] > 8) pixels[i] = ((Math.min(220, doubt[i]) << 24) | (0x18 << 16) | (0x9a << 8) | 0xff) >>> 0
  return out
}

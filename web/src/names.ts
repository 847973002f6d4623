// Names of files, which stay in the browser: what is downloaded is called after them, as the command line calls it; and of structures.
import type { Info, Structure } from './api'

const SUFFIX = /(\.(nii|nrrd|nhdr|mha|mhd|raw|hdr|img|dcm|zip|png|jpe?g|tiff?|bmp))?(\.gz)?$/i

export function suffix(file: string): string { return SUFFIX.exec(file)?.[0].toLowerCase() ?? '' }

/** The one file without its suffix, or the folder of all of them; nothing where they have none in common. */
export function stem(files: File[]): string {
  if (files.length === 1) return files[0].name.replace(SUFFIX, '')
  const folders = new Set(files.map((file) => file.webkitRelativePath.split('/').slice(0, -1).join('/')))
  return folders.size === 1 ? [...folders][0].split('/').at(-1) ?? '' : ''
}

/** Which of several images of its source it is: "series 2", "time point 1", "page 0". */
export function picked({ kind, picked: { series, frame } }: Info): string[] {
  return [...(series === undefined ? [] : [`series ${series}`]), ...(frame === undefined ? [] : [`${kind === 'set' ? 'page' : 'time point'} ${frame}`])]
}

/** The same behind a stem: "cine_t2", "study_series1". */
export function picking(stem: string, which: string[]): string { return [stem, ...which.map((each) => each.replace('time point ', 't').replace(' ', ''))].filter(Boolean).join('_') }

/** A number of things: "1 image", "2 images". */
export function plural(count: number, what: string): string { return `${count} ${what}${count === 1 ? '' : 's'}` }

/** What a download is called: "ct.1_labels.nii.gz". */
export function download(stem: string, form: string): string {
  const [what, end] = form === 'csv' ? ['volumes', form] : /json/.test(form) ? ['annotations', form] : ['labels', form]
  return `${stem ? `${stem}_` : ''}${what}.${end}`
}

/** The name of each image's file, by its number; none where it is not known. */
export function called(files: number[], names: string[]): string[] { return files.every((number) => number <= names.length) ? files.map((number) => names[number - 1]) : [] }

/** Images whose names nobody knows have the numbers of their files, where others were left out and these differ from their own. */
export function numbered(files: number[]): string[] { return new Set(files).size === files.length ? files.map((number, i) => (number === i + 1 ? '' : `file ${number}`)) : [] }

/** What the server tells of files, which it knows by their numbers, or of the only one, under their names. */
export function named(text: string, names: string[]): string {
  const told = text.replace(/\bfile (\d+)\b/g, (words, number) => names[Number(number) - 1] ?? words)
  return names.length === 1 && told === text ? `${names[0]}: ${text}` : told
}

/** Formats that the source cannot have, and why: a line for each reason. */
export function withheld(missing: Record<string, string>): string[] {
  const why = new Map<string, string[]>()
  for (const [name, text] of Object.entries(missing)) {
    const reason = text.replace(/^it lacks/, 'its files lack').replace(/, to which an? [\w-]+ refers$/, '')
    why.set(reason, [...(why.get(reason) ?? []), name])
  }
  return [...why].map(([reason, names]) => `No ${names.join(', no ')}: ${reason}.`)
}

/** What the server tells in the command line's words, in the page's: "object 2" has a name here, "slice 10 of axis k" is K 10, and options are buttons. */
export function reworded(text: string, structures: Structure[]): string {
  const named = text.replace(/\bobject (\d+)\b/g, (words, label) => structures.find((each) => each.label === Number(label))?.name ?? words)
  const counted = named.replace(/\b(slices?) (\d[^;:()]*?) of axis ([ijk])\b/g, (_, slices: string, which: string, axis: string) => `${slices} ${axis.toUpperCase()} ${which}`)
  return counted.replace(/,? or [^,;]* with --[a-z-]+|,? ?\(--[a-z][^()]*\)/g, '').replace(/--series (?=\d)/g, 'series ').replace(/\btake `views=one`/g, 'take one view').replace(/`views=three` uses/g, 'three views use').replace(/`islands` keeps (it|them)/g, 'a click inside a part keeps it')
}

"""Files of prompts: JSON that says what was pointed at, for several objects with their names.

```json
{
  "version": 1,
  "coordinates": "voxel",
  "objects": [{"label": 1, "name": "liver", "points": [[32, 30, 4]], "negative": [[5, 5, 4]]}]
}
```

Coordinates are voxel indices in the order of the image's file, or millimetres in RAS+ ("mm"). Paths of masks are relative to
the file of prompts, and do not leave its folder.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medical_sam2 import io
from medical_sam2.errors import AmbiguousError, FormatError, MedicalSam2Error, PromptError
from medical_sam2.io import atomic
from medical_sam2.io.coordinates import LETTERS, Places, Unit
from medical_sam2.io.labels import MOST_OBJECTS, MaskRule, Outline, is_ground
from medical_sam2.io.safe_open import load_json
from medical_sam2.plugins import suggestion
from medical_sam2.prompts import Box, Index, Mask, Point, Prompt, is_solid_box, split_planes
from medical_sam2.strokes import Diameter, Lasso, Scribble, ShapeInterpolation, SliceRange, Stroke
from medical_sam2.volume import Colour, Volume

VERSION = 1
FAR = 1e9  # no coordinate of any image; larger integers do not even become floats
KEYS = ("version", "coordinates", "objects")
SHAPES = {"points": 3, "negative": 3, "boxes": 6, "negative_boxes": 6, "diameters": 6}
"""Key of an object → how many numbers a row of it has; of diameters it may be twice as many."""
STROKE_KEYS = {"scribbles": ("places", "positive", "width"), "lassos": ("places", "positive")}
PROMPT_KEYS = (*SHAPES, *STROKE_KEYS, "slices", "masks")
OBJECT_KEYS = ("label", "name", *PROMPT_KEYS, "interpolate")
MASK_KEYS = ("file", "label", "axis", "threshold")


@dataclass(frozen=True)
class NamedPrompts:
    """Prompts, and what their objects are called."""

    prompts: tuple[Prompt, ...]  # of any objects
    names: Mapping[int, str] = field(default_factory=dict[int, str])  # label → name of the structure, where it has one
    files: tuple[Path, ...] = ()  # masks that a file of prompts names
    colours: Mapping[int, Colour] = field(default_factory=dict[int, Colour])  # label → colour, where a mask shows one
    notes: tuple[str, ...] = ()  # what is to be told of how they are taken, one line each

    @property
    def labels(self) -> tuple[int, ...]:
        """The objects, in order."""
        return tuple(sorted({prompt.object for prompt in self.prompts}))


def load_prompts(path: Path | str, volume: Volume) -> NamedPrompts:
    """Read a file of prompts for an image.

    Raises:
        FormatError: no JSON of this kind: an unknown key (the nearest valid one is named), NaN, a newer version.
        PromptError: a prompt that lies outside of the image, on nothing, or contradicts itself.
        GeometryError: a mask on another grid.
    """
    path = Path(path)
    try:
        return parse_prompts(load_json(path, newest=VERSION), volume, path.parent)
    except MedicalSam2Error as error:
        raise error.about(path) from None


def parse_prompts(content: dict[str, Any], volume: Volume, folder: Path | None) -> NamedPrompts:
    """The prompts that the content of such a file means in an image.

    Args:
        content: as JSON gives it.
        volume: the image.
        folder: that its masks lie in, or below; None where a person names each of them, wherever they lie.

    Raises:
        FormatError, PromptError, GeometryError: as `load_prompts`.
    """
    unit, entries = _parse(content, folder)
    reader = _Placer(places := Places(volume, unit), folder or Path(), files := list[Path]())
    prompts = tuple(prompt for entry in entries for prompt in reader.place(entry))
    names = {entry.label: entry.name for entry in entries if entry.name}
    return NamedPrompts(prompts, names, tuple(files), notes=(*describe_shared_names(names), *places.notes))


def describe_prompts(path: Path | str) -> dict[str, Any]:
    """What a file of prompts says, as far as that is known without its image: coordinates, and its objects with their counts.

    Raises:
        FormatError, PromptError: as `load_prompts`, but for what lies outside of the image or in its masks.
    """
    path = Path(path)
    try:
        unit, entries = _parse(load_json(path, newest=VERSION), path.parent)
    except MedicalSam2Error as error:
        raise error.about(path) from None
    for mask in (mask for entry in entries for mask in entry.masks):
        if not (path.parent / mask.file).exists():
            raise FormatError(f"its mask {mask.file} is not there", "put it beside the file of prompts", subject=path)
    counted = [f"{entry.label}{f' {entry.name}' * bool(entry.name)}: {', '.join(entry.counts())}" for entry in entries]
    return {
        "coordinates": unit,
        "objects": counted,
        "warnings": describe_shared_names({entry.label: entry.name for entry in entries}),
    }


def _parse(content: dict[str, Any], folder: Path | None) -> tuple[Unit, "list[_Entry]"]:
    """The unit and the objects of a file, each key checked; nothing is compared with an image yet."""
    _check_keys(content, KEYS, "the file")
    unit = content.get("coordinates", "voxel")
    if unit not in ("voxel", "mm"):
        raise FormatError(f"coordinates {unit!r} are unknown", 'write "voxel" or "mm"')
    entries = [_parse_entry(entry, folder) for entry in _list(content.get("objects"), "objects", empty=False)]
    if len({entry.label for entry in entries}) < len(entries):
        raise FormatError("two objects have the same label", "give each object one entry")
    return unit, entries


# The page lets structures share a name, so that such files are written, and have to be read.
def describe_shared_names(names: Mapping[int, str]) -> list[str]:
    """A line for each name that two objects (label → name) have or more: whoever names one of them means another, too."""
    shared: dict[str, list[str]] = {}
    for label, name in sorted(names.items()):
        shared.setdefault(name, []).append(str(label))
    return [
        f"objects {', '.join(labels[:-1])} and {labels[-1]} are {'both' if len(labels) == 2 else 'all'} called {name!r}: "
        "name them apart, or speak of them by their numbers"
        for name, labels in shared.items()
        if name and len(labels) > 1
    ]


def save_prompts(path: Path | str, prompts: Sequence[Prompt], names: Mapping[int, str], like: Volume) -> None:
    """Write a file of prompts in voxel coordinates; outlines become label files beside it (`NAME-1-01234567.nii.gz` …).

    Their names tell what is in them, so that an earlier file of prompts keeps its own outlines until it is replaced.

    Raises:
        InputError: the folder is missing or not writable.
    """
    path = Path(path)
    files: dict[int, dict[str, Any]] = {}
    for number, mask in enumerate((prompt for prompt in prompts if isinstance(prompt, Mask)), 1):
        digest = sha256(repr(mask.array_ijk.shape).encode() + np.packbits(mask.array_ijk).tobytes()).hexdigest()
        file = f"{path.stem}-{number}-{digest[:8]}.nii.gz"
        io.save(mask.array_ijk.astype(np.uint8), path.with_name(file), like)
        files[id(mask)] = {"file": file, **({"label": 1} if is_ground(mask.array_ijk) else {})}  # else reading it would ask
    entries = as_objects(prompts, names, lambda mask: files[id(mask)])
    content = {"version": VERSION, "coordinates": "voxel", "objects": entries}
    atomic.write_bytes(path, atomic.encode(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"))


def as_objects(
    prompts: Iterable[Prompt], names: Mapping[int, str], describe: Callable[[Mask], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Prompts as the `objects` of a file, in voxel coordinates, by name; `describe` says what to write of a mask."""
    entries: dict[int, dict[str, Any]] = {}
    for prompt in prompts:
        name = {"name": names[prompt.object]} if prompt.object in names else {}
        entry = entries.setdefault(prompt.object, {"label": prompt.object, **name})
        if isinstance(prompt, Point):
            entry.setdefault("points" if prompt.positive else "negative", []).append(_numbers(prompt.index_ijk))
        elif isinstance(prompt, Box):
            key = "boxes" if prompt.positive else "negative_boxes"
            entry.setdefault(key, []).append([*_numbers(prompt.low_ijk), *_numbers(prompt.high_ijk)])
        elif isinstance(prompt, Diameter):
            entry.setdefault("diameters", []).append([number for place in prompt.places_ijk for number in _numbers(place)])
        elif isinstance(prompt, Stroke):
            width = {"width": prompt.width} if isinstance(prompt, Scribble) else {}
            drawn = {"places": [_numbers(place) for place in prompt.places_ijk], "positive": prompt.positive, **width}
            entry.setdefault(f"{prompt.kind}s", []).append(drawn)
        elif isinstance(prompt, SliceRange):
            entry["slices"] = [prompt.first, prompt.last, *(() if prompt.axis is None else LETTERS[prompt.axis])]
        elif isinstance(prompt, ShapeInterpolation):
            entry["interpolate"] = True
        elif isinstance(prompt, Mask):
            axis = {} if prompt.axis is None else {"axis": LETTERS[prompt.axis]}
            entry.setdefault("masks", []).append({**describe(prompt), **axis})
    return list(entries.values())


# Whoever gives a limit twice means one of them; what both leave is nobody's wish.
def check_limits_given_once(prompts: Iterable[Prompt]) -> None:
    """Refuse two ranges of slices along one axis, or two boxes in 3D, around one object; raises PromptError."""
    limits = Counter((prompt.object, kind) for prompt in prompts if (kind := _kind_of_limit(prompt)))
    for (label, kind), count in sorted(limits.items()):
        if count > 1:
            raise PromptError(f"object {label} has two {kind}, and each limits it", "give one of them")


def _kind_of_limit(prompt: Prompt) -> str:
    if isinstance(prompt, SliceRange):
        return "ranges of slices" if prompt.axis is None else f"ranges of slices of axis {LETTERS[prompt.axis]}"
    return "boxes in 3D" if is_solid_box(prompt) else ""


def masks_from(found: Iterable[Outline]) -> list[Mask]:
    """Outlines in an image's grid as prompts."""
    return [mask for outline in found for mask in _outlines(outline.inside, outline.label)]


def _outlines(inside: NDArray[np.bool_], object: int) -> list[Mask]:
    """Drawn in planes that cross, or along the axis with the fewest outlined slices; of several such tracking chooses."""
    if len(crossing := split_planes(Mask(inside, object))) > 1:
        return crossing
    slices = [int(inside.any(axis=tuple({0, 1, 2} - {axis})).sum()) for axis in range(3)]
    fewest = [axis for axis in range(3) if slices[axis] == min(slices)]
    return [Mask(inside, object, axis=fewest[0] if len(fewest) == 1 else None)]


@dataclass(frozen=True)
class _MaskEntry:
    file: str
    value: int | None
    threshold: float | None
    axis: str | None


@dataclass(frozen=True)
class _StrokeEntry:
    places: list[float]
    positive: bool
    width: float


@dataclass(frozen=True)
class _Entry:
    label: int
    name: str
    rows: dict[str, list[list[float]]]
    strokes: dict[str, list[_StrokeEntry]]
    slices: tuple[int, int, str | None] | None
    masks: list[_MaskEntry]
    interpolate: bool

    def counts(self) -> Iterator[str]:
        """How many it has of each kind."""
        several = {**self.rows, **self.strokes, "masks": self.masks}
        yield from (f"{len(found)} {key.replace('_', ' ')}" for key, found in several.items() if found)
        if self.slices is not None:
            yield f"slices {self.slices[0]} to {self.slices[1]}"
        if self.interpolate:
            yield "interpolated"


# The file comes from anywhere: JSON takes true for a number, and names go into files and onto terminals.
def _parse_entry(entry: object, folder: Path | None) -> _Entry:
    """One object."""
    content = _check_keys(entry, OBJECT_KEYS, "an object")
    label = content.get("label", 1)
    if isinstance(label, bool) or not isinstance(label, int) or not 1 <= label <= MOST_OBJECTS:
        raise FormatError(f"label {str(label)[:20]!r} is no label", f"number objects from 1 to {MOST_OBJECTS}")
    name = content.get("name", "")
    if not isinstance(name, str) or not name.isprintable() or len(name) > 200:
        raise FormatError(f"the name of object {label} is no line of text", "write a short name")
    rows = {key: [_parse_row(row, key) for row in _list(content.get(key, []), key)] for key in SHAPES}
    strokes = {key: [_parse_stroke(each, key) for each in _list(content.get(key, []), key)] for key in STROKE_KEYS}
    slices = _parse_slices(content["slices"], label) if "slices" in content else None
    masks = [_parse_mask(mask, folder) for mask in _list(content.get("masks", []), "masks")]
    interpolate = content.get("interpolate", False)
    if not isinstance(interpolate, bool):
        raise FormatError(f"interpolate of object {label} is neither true nor false", "write one of them")
    if not (any(rows.values()) or any(strokes.values()) or masks or slices):
        raise PromptError(f"object {label} has no prompt", f"give it one of {', '.join(PROMPT_KEYS)}")
    return _Entry(label, name, rows, strokes, slices, masks, interpolate)


def _parse_row(row: object, key: str) -> list[float]:
    """Numbers of a prompt; a diameter may have four ends."""
    both = key == "diameters" and isinstance(row, list) and len(row) == 2 * SHAPES[key]
    return _row(row, SHAPES[key] * (1 + both), key)


def _parse_stroke(entry: object, key: str) -> _StrokeEntry:
    """Something drawn: its places, one after the other."""
    drawn = _check_keys(entry, STROKE_KEYS[key], f"an entry of {key}")
    positive, width = drawn.get("positive", True), drawn.get("width", Scribble.width)
    if not isinstance(positive, bool) or type(width) not in (int, float):
        raise FormatError(f"an entry of {key} is not clear", 'write "positive": true or false, "width": NUMBER')
    places = [number for row in _list(drawn.get("places"), "places", empty=False) for number in _row(row, 3, "places")]
    return _StrokeEntry(places, positive, width)


def _parse_slices(content: object, label: int) -> tuple[int, int, str | None]:
    """The first, the last, and the axis where it is given."""
    axis = str(content[2]) if isinstance(content, list) and len(content) == 3 else None
    if axis is not None and axis not in tuple(LETTERS):
        raise FormatError(f"the axis of the slices of object {label} is none", 'write [first, last] or [first, last, "k"]')
    first, last = _row(content[:2] if isinstance(content, list) and axis else content, 2, "slices")
    if type(first) is not int or type(last) is not int:
        raise FormatError(f"the slices of object {label} are no whole numbers", "write [first, last]")
    return first, last, axis


def _parse_mask(entry: object, folder: Path | None) -> _MaskEntry:
    """One mask, in the folder of the prompts or below: a file from elsewhere must not make us open any other."""
    content = _check_keys(entry, MASK_KEYS, "a mask")
    file, value, axis, threshold = (content.get(key) for key in MASK_KEYS)
    if not isinstance(file, str) or not file:
        raise FormatError("a mask has no file", "write the path of a label file")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise FormatError("the label of a mask is no label", "number labels from 1")
    if axis is not None and (not isinstance(axis, str) or axis not in set(LETTERS)):
        raise FormatError("the axis of a mask is unknown", "write i, j or k")
    if threshold is not None and type(threshold) not in (int, float):
        raise FormatError("the threshold of a mask is no number", "write the smallest number that is inside")
    if value is not None and threshold is not None:
        raise FormatError("a mask has a label and a threshold", "write one of them: what is exactly that, or at least that")
    if "\0" in file:
        raise FormatError(f"mask {file[:40]!r} is no path", "give a path without a zero byte")
    if folder is not None and not os.path.realpath(folder / file).startswith(f"{os.path.realpath(folder)}{os.sep}"):
        raise FormatError(f"mask {file!r} lies outside the folder of the prompts", "put it beside the file of prompts")
    return _MaskEntry(file, value, threshold, axis)


@dataclass(frozen=True)
class _Placer:
    places: Places
    folder: Path
    files: list[Path]

    def place(self, entry: _Entry) -> list[Prompt]:
        """The prompts of an object, in the image."""
        label, rows = entry.label, entry.rows
        found: list[Prompt] = []
        point, box = self.places.point, self.places.box
        for key, make in {"points": point, "negative": point, "boxes": box, "negative_boxes": box}.items():
            found += (make(row, label, positive="negative" not in key) for row in rows[key])
        found += (Diameter(self.places.along("diameter", row), label) for row in rows["diameters"])
        for each in entry.strokes["scribbles"]:
            found.append(Scribble(self.places.along("scribble", each.places), label, each.positive, each.width))
        for each in entry.strokes["lassos"]:
            found.append(Lasso(self.places.along("lasso", each.places), label, each.positive))
        for stroke in found:
            if isinstance(stroke, Stroke):  # drawn once now, so that what cannot be drawn is refused with the name of the file
                stroke.region(self.places.volume.shape, min(stroke.planes()))
        if entry.slices is not None:
            first, last, axis = entry.slices
            found.append(SliceRange(first, last, label, None if axis is None else LETTERS.index(axis)))
        for mask in entry.masks:
            found += self._masks(mask, label)
        return found + [ShapeInterpolation(label)] * entry.interpolate

    def _masks(self, entry: _MaskEntry, label: int) -> list[Mask]:
        """An outline; a soft mask is asked about in the words of the file, not in options."""
        path = self.folder / entry.file
        self.files.append(path)
        try:
            rule = MaskRule(label, entry.threshold, value=entry.value)
            (outline,) = io.load_outlines(path, self.places.volume, rule)
        except AmbiguousError as error:
            if any("--geometry-from" in choice for choice in error.choices):  # it is asked about the image, too
                raise error.about(path) from None
            choices = ('"threshold": NUMBER (what is at least that)', '"label": NUMBER (what is exactly that)')
            raise AmbiguousError(error.problem, "write one beside its file", subject=path, choices=choices) from None
        return masks_from([outline]) if entry.axis is None else [Mask(outline.inside, label, LETTERS.index(entry.axis))]


def _check_keys(content: object, known: Sequence[str], what: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise FormatError(f"{what} is no JSON object", f"write {{...}} with {', '.join(known)}")
    for key in content:
        if key not in known:
            raise FormatError(f"{what} has the unknown key {str(key)[:40]!r}", suggestion(str(key), known))
    return content


def _list(content: object, key: str, *, empty: bool = True) -> list[Any]:
    if not isinstance(content, list):
        raise FormatError(f"{key} is no list", f'write "{key}": [...]')
    if not (content or empty):
        raise PromptError(f"{key} is empty", f'write something into "{key}": [...]')
    return content


def _row(content: object, count: int, key: str) -> list[float]:
    numbers = content if isinstance(content, list) and len(content) == count else []
    if not numbers or not all(type(number) in (int, float) and abs(number) < FAR for number in numbers):
        remedy = "write the first and the last" if count == 2 else "write i, j, k" + " of two corners" * (count == 6)
        raise FormatError(f"an entry of {key} is not {count} numbers", remedy)
    return numbers


def _numbers(index: Index) -> list[float]:
    return [int(number) if float(number).is_integer() else float(number) for number in index]

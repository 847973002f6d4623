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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medical_sam2 import io
from medical_sam2.errors import AmbiguousError, FormatError, MedicalSam2Error, PromptError
from medical_sam2.io import atomic
from medical_sam2.io.labels import MOST_OBJECTS, MaskRule, Outline
from medical_sam2.io.safe_open import load_json
from medical_sam2.plugins import suggestion
from medical_sam2.prompts import Box, Index, Mask, Point, Prompt
from medical_sam2.strokes import Diameter, Lasso, Scribble, ShapeInterpolation, SliceRange, Stroke
from medical_sam2.volume import Volume

VERSION = 1
FAR = 1e9  # no coordinate of any image; larger integers do not even become floats
LETTERS = "ijk"
KEYS = ("version", "coordinates", "objects")
PROMPT_KEYS = ("points", "negative", "boxes", "negative_boxes", "scribbles", "lassos", "diameters", "slices", "masks")
OBJECT_KEYS = ("label", "name", "interpolate", *PROMPT_KEYS)
STROKE_KEYS = ("places", "positive", "width")
MASK_KEYS = ("file", "label", "threshold", "axis")
Unit = Literal["voxel", "mm"]


@dataclass(frozen=True)
class NamedPrompts:
    """Prompts, and what their objects are called.

    Args:
        prompts: of any objects.
        names: label → name of the structure, where it has one.
        files: masks that a file of prompts names.
    """

    prompts: tuple[Prompt, ...]
    names: Mapping[int, str] = field(default_factory=dict[int, str])
    files: tuple[Path, ...] = ()

    @property
    def labels(self) -> tuple[int, ...]:
        """The objects, in order."""
        return tuple(sorted({prompt.object for prompt in self.prompts}))


@dataclass(frozen=True)
class Places:
    """Coordinates that a user gave, as voxel indices of an image.

    Args:
        volume: the image.
        unit: "voxel", in the order of its file, or "mm" in RAS+.
    """

    volume: Volume
    unit: Unit = "voxel"

    def point(self, numbers: Sequence[float], object: int, *, positive: bool = True) -> Point:
        """A click.

        Raises:
            PromptError: it lies outside of the image; the message says where it would lie in the other unit.
        """
        return Point(self._index("point", numbers), object, positive)

    def box(self, numbers: Sequence[float], object: int, *, positive: bool = True) -> Box:
        """A box on one slice or in 3D, from any two opposite corners: six numbers.

        Raises:
            PromptError: it lies outside of the image, or has no area.
        """
        corners = self._index("box", numbers[:3]), self._index("box", numbers[3:])
        i, j, k = (min(pair) for pair in zip(*corners, strict=True))
        i2, j2, k2 = (max(pair) for pair in zip(*corners, strict=True))
        return Box((i, j, k), (i2, j2, k2), object, positive)

    def along(self, what: str, numbers: Sequence[float]) -> tuple[Index, ...]:
        """Place after place of something drawn: three numbers each.

        Raises:
            PromptError: one lies outside of the image.
        """
        return tuple(self._index(what, numbers[n : n + 3]) for n in range(0, len(numbers), 3))

    def _index(self, what: str, numbers: Sequence[float]) -> Index:
        i, j, k = (float(number) for number in numbers)
        if not all(map(isfinite, (i, j, k))):
            raise PromptError(f"{what} {_shown((i, j, k))} is not finite", "give three numbers")
        index = self.volume.to_voxel((i, j, k)) if self.unit == "mm" else (i, j, k)
        if not _lies_in(self.volume, index):
            raise PromptError(*self._outside(what, (i, j, k)))
        return index

    def _outside(self, what: str, given: Index) -> tuple[str, str]:
        size = "×".join(map(str, self.volume.shape))
        if self.unit == "mm":
            problem = f"{what} at {_shown(given)} mm lies outside the image of {size} voxels"
            voxels = "these look like voxel indices: say so (leave out --mm, or coordinates: voxel)"
            return problem, voxels if _lies_in(
                self.volume, given
            ) else "give RAS+ millimetres: x to Right, y Anterior, z Superior"
        problem = f"{what} at voxel {_shown(given)} lies outside the image of {size} voxels"
        if _lies_in(self.volume, self.volume.to_voxel(given)):
            return problem, "these look like millimetres: say so (--mm, or coordinates: mm)"
        return problem, "give voxel indices from 0 to the size less one"


def load_prompts(path: Path | str, volume: Volume) -> NamedPrompts:
    """Read a file of prompts for an image.

    Raises:
        FormatError: no JSON of this kind: an unknown key (the nearest valid one is named), NaN, a newer version.
        PromptError: a prompt that lies outside of the image, on nothing, or contradicts itself.
        GeometryError: a mask on another grid.
    """
    path = Path(path)
    content = load_json(path, newest=VERSION)
    try:
        _check_keys(content, KEYS, "the file")
        unit = content.get("coordinates", "voxel")
        if unit not in ("voxel", "mm"):
            raise FormatError(f"coordinates {unit!r} are unknown", 'write "voxel" or "mm"')
        reader = _Reader(Places(volume, unit), path.parent)
        objects = [reader.entry(entry) for entry in _list(content.get("objects"), "objects", empty=False)]
    except MedicalSam2Error as error:
        raise error.about(path) from None
    labels = [label for label, _, _ in objects]
    if len(set(labels)) < len(labels):
        raise FormatError("two objects have the same label", "give each object one entry", subject=path)
    prompts = tuple(prompt for _, _, own in objects for prompt in own)
    return NamedPrompts(prompts, {label: name for label, name, _ in objects if name}, tuple(reader.files))


def save_prompts(path: Path | str, prompts: Sequence[Prompt], names: Mapping[int, str], like: Volume) -> None:
    """Write a file of prompts in voxel coordinates; outlines become label files beside it (`NAME-1-01234567.nii.gz` …).

    Their names tell what is in them, so that an earlier file of prompts keeps its own outlines until it is replaced.

    Raises:
        InputError: the folder is missing or not writable.
    """
    path = Path(path)
    files: dict[int, str] = {}
    for number, mask in enumerate((prompt for prompt in prompts if isinstance(prompt, Mask)), 1):
        digest = sha256(repr(mask.array_ijk.shape).encode() + np.packbits(mask.array_ijk).tobytes()).hexdigest()
        files[id(mask)] = f"{path.stem}-{number}-{digest[:8]}.nii.gz"
        io.save(mask.array_ijk.astype(np.uint8), path.with_name(files[id(mask)]), like)
    entries = as_objects(prompts, names, lambda mask: {"file": files[id(mask)]})
    content = {"version": VERSION, "coordinates": "voxel", "objects": entries}
    atomic.write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def as_objects(
    prompts: Iterable[Prompt], names: Mapping[int, str], describe: Callable[[Mask], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Prompts as the `objects` of a file, in voxel coordinates.

    Args:
        prompts: of any objects.
        names: label → name.
        describe: what to write of a mask.
    """
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
            entry["slices"] = [prompt.first, prompt.last]
        elif isinstance(prompt, ShapeInterpolation):
            entry["interpolate"] = True
        elif isinstance(prompt, Mask):
            axis = {} if prompt.axis is None else {"axis": LETTERS[prompt.axis]}
            entry.setdefault("masks", []).append({**describe(prompt), **axis})
    return list(entries.values())


def masks_from(found: Iterable[Outline]) -> list[Mask]:
    """Outlines in an image's grid as prompts."""
    return [_outline(outline.inside, outline.label) for outline in found]


def _outline(inside: NDArray[np.bool_], object: int) -> Mask:
    """Drawn along the axis with the fewest outlined slices; where several have as few, tracking chooses among them."""
    slices = [int(inside.any(axis=tuple({0, 1, 2} - {axis})).sum()) for axis in range(3)]
    fewest = [axis for axis in range(3) if slices[axis] == min(slices)]
    return Mask(inside, object, axis=fewest[0] if len(fewest) == 1 else None)


@dataclass(frozen=True)
class _Reader:
    places: Places
    folder: Path
    files: list[Path] = field(default_factory=list[Path])

    # The file comes from anywhere: JSON takes true for a number, and names go into files and onto terminals.
    def entry(self, entry: object) -> tuple[int, str, list[Prompt]]:
        """Label, name and prompts of one entry."""
        content = _check_keys(entry, OBJECT_KEYS, "an object")
        label = content.get("label", 1)
        if isinstance(label, bool) or not isinstance(label, int) or not 1 <= label <= MOST_OBJECTS:
            raise FormatError(f"label {str(label)[:20]!r} is no label", f"number objects from 1 to {MOST_OBJECTS}")
        name = content.get("name", "")
        if not isinstance(name, str) or not name.isprintable() or len(name) > 200:
            raise FormatError(f"the name of object {label} is no line of text", "write a short name")
        clicks = [
            self.places.point(_row(row, 3, key), label, positive=key == "points")
            for key in ("points", "negative")
            for row in _list(content.get(key, []), key)
        ]
        boxes = [
            self.places.box(_row(row, 6, key), label, positive=key == "boxes")
            for key in ("boxes", "negative_boxes")
            for row in _list(content.get(key, []), key)
        ]
        strokes = [*self._strokes(content, label)]
        masks = [self._mask(entry, label) for entry in _list(content.get("masks", []), "masks")]
        if not [*clicks, *boxes, *strokes, *masks]:
            raise PromptError(f"object {label} has no prompt", f"give it one of {', '.join(PROMPT_KEYS)}")
        return label, name, [*clicks, *boxes, *strokes, *masks]

    def _strokes(self, content: Mapping[str, Any], label: int) -> Iterator[Prompt]:
        """What is drawn by hand, and the slices that are looked at."""
        for key, kind in (("scribbles", Scribble), ("lassos", Lasso)):
            for each in _list(content.get(key, []), key):
                drawn = _check_keys(each, STROKE_KEYS if kind is Scribble else STROKE_KEYS[:2], f"an entry of {key}")
                positive, width = drawn.get("positive", True), drawn.get("width", Scribble.width)
                if not isinstance(positive, bool) or type(width) not in (int, float):
                    raise FormatError(f"an entry of {key} is not clear", 'write "positive": true or false, "width": NUMBER')
                numbers = [n for row in _list(drawn.get("places"), "places", empty=False) for n in _row(row, 3, "places")]
                places = self.places.along(kind.kind, numbers)
                yield Scribble(places, label, positive, width) if kind is Scribble else Lasso(places, label, positive)
        for row in _list(content.get("diameters", []), "diameters"):
            numbers = _row(row, 12 if isinstance(row, list) and len(row) == 12 else 6, "diameters")
            yield Diameter(self.places.along("diameter", numbers), label)
        if "slices" in content:
            first, last = _row(content["slices"], 2, "slices")
            if type(first) is not int or type(last) is not int:
                raise FormatError(f"the slices of object {label} are no whole numbers", "write [first, last]")
            yield SliceRange(first, last, label)
        if not isinstance(content.get("interpolate", False), bool):
            raise FormatError(f"interpolate of object {label} is neither true nor false", "write one of them")
        if content.get("interpolate"):
            yield ShapeInterpolation(label)

    # The file comes from anywhere: each key is checked, and a soft mask is asked about in its words, not in options.
    def _mask(self, entry: object, label: int) -> Mask:
        content = _check_keys(entry, MASK_KEYS, "a mask")
        file, value, axis = content.get("file"), content.get("label"), content.get("axis")
        if not isinstance(file, str) or not file:
            raise FormatError("a mask has no file", "write the path of a label file")
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise FormatError("the label of a mask is no label", "number labels from 1")
        if axis is not None and (not isinstance(axis, str) or axis not in set(LETTERS)):
            raise FormatError("the axis of a mask is unknown", "write i, j or k")
        threshold = content.get("threshold")
        if threshold is not None and type(threshold) not in (int, float):
            raise FormatError("the threshold of a mask is no number", "write the smallest number that is inside")
        path = self._beside(file)
        self.files.append(path)
        try:
            (mask,) = masks_from(io.load_outlines(path, self.places.volume, MaskRule(label, threshold, value=value)))
        except AmbiguousError as error:
            choices = ('"threshold": NUMBER (what is at least that)', '"label": NUMBER (what is exactly that)')
            raise AmbiguousError(error.problem, "write one beside its file", subject=path, choices=choices) from None
        return mask if axis is None else Mask(mask.array_ijk, label, axis=LETTERS.index(axis))

    def _beside(self, file: str) -> Path:
        """A file in the folder of the prompts or below: a file from elsewhere must not make us open any other."""
        path = self.folder / file
        if "\0" in file:
            raise FormatError(f"mask {file[:40]!r} is no path", "give a path without a zero byte")
        if not os.path.realpath(path).startswith(f"{os.path.realpath(self.folder)}{os.sep}"):
            raise FormatError(f"mask {file!r} lies outside the folder of the prompts", "put it beside the file of prompts")
        return path


def _check_keys(content: object, known: Sequence[str], what: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise FormatError(f"{what} is no JSON object", f"write {{...}} with {', '.join(known)}")
    for key in content:
        if key not in known:
            raise FormatError(f"{what} has the unknown key {str(key)[:40]!r}", suggestion(str(key), known))
    return content


def _list(content: object, key: str, *, empty: bool = True) -> list[Any]:
    if not isinstance(content, list) or not (content or empty):
        raise FormatError(f"{key} is no list", f'write "{key}": [...]')
    return content


def _row(content: object, count: int, key: str) -> list[float]:
    numbers = content if isinstance(content, list) and len(content) == count else []
    if not numbers or not all(type(number) in (int, float) and abs(number) < FAR for number in numbers):
        remedy = "write the first and the last" if count == 2 else "write i, j, k" + " of two corners" * (count == 6)
        raise FormatError(f"an entry of {key} is not {count} numbers", remedy)
    return numbers


def _lies_in(volume: Volume, index: Sequence[float]) -> bool:
    return all(-0.5 <= place < size - 0.5 for place, size in zip(index, volume.shape, strict=True))


def _numbers(index: Index) -> list[float]:
    return [int(number) if float(number).is_integer() else float(number) for number in index]


def _shown(index: Sequence[float]) -> str:
    return f"({', '.join(f'{number:g}' for number in index)})"

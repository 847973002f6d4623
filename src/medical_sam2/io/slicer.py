"""Segmentations of 3D Slicer (.seg.nrrd): segments in layers that may overlap, cropped to what was drawn."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medical_sam2.errors import FormatError, PromptError
from medical_sam2.io import labels, nrrd
from medical_sam2.io.options import Options
from medical_sam2.io.outlines import Outline
from medical_sam2.volume import Volume

KEY = re.compile(r"Segment(\d+)_(ID|Name|Layer|LabelValue)")
MOST_NAME = 200


@dataclass(frozen=True)
class Segment:
    """One segment, as the header describes it.

    Args:
        layer: which of the numbers of a voxel tells of it, from 0.
        value: that number inside of it.
        name: what it is called.
    """

    layer: int
    value: int
    name: str


def segments(path: Path) -> list[Segment]:
    """The segments of an NRRD file in their order; none where 3D Slicer did not write it as a segmentation.

    Raises:
        FormatError: a layer or a value that is no number.
    """
    told: dict[int, dict[str, str]] = {}
    for key, value in nrrd.key_values(path).items():
        if match := KEY.fullmatch(key):
            told.setdefault(int(match[1]), {})[match[2]] = value.strip()
    layered = any("Layer" in own for own in told.values())  # versions before 4.11 gave each segment a layer of its own
    return [
        Segment(
            _whole(own.get("Layer", "0" if layered else str(place)), path),
            _whole(own.get("LabelValue", "1"), path),
            _name(own.get("Name", "")),
        )
        for place, (_, own) in enumerate(sorted(told.items()))
    ]


def load(path: Path, like: Volume) -> list[Outline]:
    """What was drawn of each segment, in the grid of `like`; numbers that layers share are given anew, in their order.

    Raises:
        FormatError: a number that no segment has, or a layer that is not there.
        GeometryError: another grid, or something is drawn outside of the image.
        PromptError: nothing is drawn.
    """
    all_segments = segments(path)
    shared = max(Counter(segment.value for segment in all_segments).values()) > 1
    found: dict[int, Outline] = {}
    for layer in sorted({segment.layer for segment in all_segments}):
        own = {segment.value: number for number, segment in enumerate(all_segments, 1) if segment.layer == layer}
        array = labels.placed(_layer(path, layer), like).array
        drawn = {int(value) for value in np.unique(array)} - {0}
        if strange := sorted(drawn - own.keys()):
            raise FormatError(f"it holds the number {strange[0]}, which is none of its segments", "save it again", subject=path)
        for value in drawn:
            number = own[value]
            found[number] = Outline(number if shared else value, array == value, all_segments[number - 1].name)
    if not found:
        raise PromptError("the segmentation is empty", "outline at least one voxel", subject=path)
    return [found[number] for number in sorted(found)]


def label_map(path: Path, like: Volume) -> Volume:
    """The same as one label map.

    Raises:
        FormatError: segments overlap, and so on as `load`.
    """
    found = load(path, like)
    array = np.zeros(like.shape, np.min_scalar_type(max(outline.label for outline in found)))
    for outline in found:
        if overlap := np.count_nonzero(array[outline.inside]):
            problem = f"its segments overlap in {overlap} voxels, and a label map holds one number for each"
            raise FormatError(problem, "export it without overlaps", subject=path)
        array[outline.inside] = outline.label
    return Volume(array, like.affine, "SEG", path)


def _layer(path: Path, layer: int) -> Volume:
    found = nrrd.read(path, Options(clean=False, layer=layer))
    return Volume(labels.integers(found.array, path), found.affine, "SEG", path)


def _whole(text: str, path: Path) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise FormatError(f"a segment has the number {text[:20]!r}", "save it again", subject=path)
    return int(text)


def _name(text: str) -> str:
    """A name that can be shown: one line of letters."""
    return text if text.isprintable() and len(text) <= MOST_NAME else ""

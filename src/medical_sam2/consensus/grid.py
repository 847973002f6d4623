"""The working grid: a region around a tracked object, at a resolution that costs little.

Shapes: I J K voxels of the file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from medical_sam2.fusion import Slabs
from medical_sam2.region import box_of, region_around

SIDE, VOXELS = 64, 2_000_000  # pixels along a side of a slice, voxels in all, at most
MARGIN = 1.75  # side of the region over the object's, in a slice
REACH = 3.0  # and over the prompted outline's at most: what tracking found further away is left as it is
BEYOND, LEAST_BEYOND = 1.0, 3  # slices before and after what was found: in radii, and at least

Floats = NDArray[np.float32]
MaskArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Tracked:
    """What is known of an object once it has been tracked.

    Args:
        estimate: probability (I, J, K).
        grey: index along I → intensities (J, K) in [0, 1].
        axis: array axis of the slices that were prompted.
        prompted: their indices.
        confidence: of each slice along that axis, 0 where it was not tracked.
        spacing_mm: between voxels.
    """

    estimate: Slabs
    grey: Callable[[int], Floats]
    axis: int
    prompted: Sequence[int]
    confidence: NDArray[np.floating]
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Grid:
    """The working grid: boxes of voxels, no finer than the volume's own, each slice by itself.

    Args:
        low: first voxel of the region.
        high: the one after its last.
        shape: boxes along each array axis.
    """

    low: tuple[int, int, int]
    high: tuple[int, int, int]
    shape: tuple[int, int, int]

    def means(self, slab: Callable[[int], Floats]) -> Floats:
        """Means over the boxes, of shape `shape`, of a volume that is handed out slab by slab."""
        first, second, third = (means_of(self.high[a] - self.low[a], self.shape[a]) for a in range(3))
        found = np.zeros(self.shape, np.float32)
        for i in range(self.low[0], self.high[0]):
            part = second @ slab(i)[self.low[1] : self.high[1], self.low[2] : self.high[2]] @ third.T
            for box in np.flatnonzero(first[:, i - self.low[0]]):
                found[box] += first[box, i - self.low[0]] * part
        return found


def working_grid(what: Tracked) -> Grid | None:
    """The region around an object; None where nothing was found on the prompted slices."""
    shape, plane = what.estimate.shape, [a for a in range(3) if a != what.axis]
    outline, found, slices = _shadows(what)
    if not outline.any():
        return None
    mm = [what.spacing_mm[a] for a in plane]
    radius = np.sqrt(outline.sum() * mm[0] * mm[1] / np.pi)
    x, y, right, down = box_of(outline)
    far = (REACH - 1) / 2 * max((right - x + 1) * mm[1], (down - y + 1) * mm[0])
    left, top, far_right, bottom = box_of(found)
    box = (
        max(left, x - far / mm[1]),
        max(top, y - far / mm[0]),
        min(far_right, right + far / mm[1]),
        min(bottom, down + far / mm[0]),
    )
    region = region_around(box, (shape[plane[0]], shape[plane[1]]), margin=MARGIN, pixel_hw=(mm[0], mm[1]))
    beyond = max(LEAST_BEYOND, int(np.ceil(BEYOND * radius / what.spacing_mm[what.axis])))
    there = np.flatnonzero(slices)
    first, last = max(0, int(there[0]) - beyond), min(shape[what.axis], int(there[-1]) + beyond + 1)
    side = min(SIDE, int(np.sqrt(VOXELS / (last - first))))
    scale = min(1.0, side / max(region.shape_hw))
    sides = {what.axis: (first, last, last - first)}
    for axis, start, length in zip(plane, (region.top, region.left), region.shape_hw, strict=True):
        sides[axis] = (start, start + length, max(2, round(length * scale)))
    low, high, boxes = zip(*(sides[axis] for axis in range(3)), strict=True)
    return Grid(cast("tuple[int, int, int]", low), cast("tuple[int, int, int]", high), cast("tuple[int, int, int]", boxes))


def _shadows(what: Tracked) -> tuple[MaskArray, MaskArray, MaskArray]:
    """What was found on the prompted slices, and on any slice, as seen along the slices' axis; and on which slices."""
    shape, axis = what.estimate.shape, what.axis
    plane = tuple(shape[a] for a in range(3) if a != axis)
    outline, found, slices = np.zeros(plane, bool), np.zeros(plane, bool), np.zeros(shape[axis], bool)
    for i in range(shape[0]):
        there = np.asarray(what.estimate[i]) > 0.5
        if not there.any():
            continue
        if axis == 0:
            slices[i] = True
            found |= there
            if i in what.prompted:
                outline |= there
        else:
            slices |= there.any(axis=2 - axis)
            found[i] = there.any(axis=axis - 1)
            outline[i] = there.take(list(what.prompted), axis - 1).any(axis=axis - 1)
    return outline, found, slices


def means_of(length: int, boxes: int) -> Floats:
    """(boxes, length): what each box of equal size takes of each voxel."""
    edges = np.linspace(0, length, boxes + 1)
    shares = np.minimum(edges[1:, None], np.arange(1, length + 1)) - np.maximum(edges[:-1, None], np.arange(length))
    return (np.clip(shares, 0, None) * boxes / length).astype(np.float32)


def between(length: int, boxes: int) -> Floats:
    """(length, boxes): linear interpolation from the middles of the boxes."""
    place = np.clip((np.arange(length) + 0.5) * boxes / length - 0.5, 0, boxes - 1)
    return np.clip(1 - np.abs(place[:, None] - np.arange(boxes)), 0, None).astype(np.float32)

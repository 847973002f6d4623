"""Where an image is, and where it is only padding: planes of one value at its borders, whatever the value (METHOD §4)."""

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

NOISE = 0.7  # share of the variance that neighbours do not have in common, from which on there is nothing but noise
PLANES, PAIRS = 8, 64  # that are looked at, at most; that are needed, at least


def content_box(array: NDArray[np.generic], axes: int | None = None) -> tuple[slice, ...]:
    """An image without the planes at its borders that hold a single value each: padding, whatever the value.

    Args:
        array: of any dimension.
        axes: how many of them are looked at, from the first; all unless told.

    Returns:
        Where it lies, for each of these axes. Everything where all is one value, or where the content is nothing but noise:
        that is no image with padding around it, but a thing on a background.
    """
    count = array.ndim if axes is None else axes
    ends = [[0, size] for size in array.shape[:count]]
    moved = True
    while moved:
        moved = False
        for axis, side in product(range(count), (0, 1)):
            while ends[axis][0] < ends[axis][1] and _flat(array, ends, axis, side):
                ends[axis][side] += 1 - 2 * side
                moved = True
    whole, box = tuple(slice(0, size) for size in array.shape[:count]), tuple(slice(low, high) for low, high in ends)
    nothing = any(low >= high for low, high in ends)
    return whole if nothing or (box != whole and only_noise(array[box])) else box


def only_noise(array: NDArray[np.generic], background: float | None = None) -> bool:
    """Whether neighbours have no more in common than any two values: there is no structure inside, along any axis.

    Args:
        array: an image.
        background: a value that is left out.
    """
    step = max(1, array.shape[-1] // PLANES)
    part = array[..., step // 2 :: step].astype(np.float64) if array.ndim > 2 else array.astype(np.float64)
    known = np.isfinite(part) if background is None else np.isfinite(part) & (part != background)
    spread = float(part[known].var()) if known.any() else 0.0
    shares: list[float] = []
    for axis in range(min(2, part.ndim)):
        one, other = (np.take(part, range(first, part.shape[axis] - 1 + first), axis) for first in (0, 1))
        both = np.take(known, range(part.shape[axis] - 1), axis) & np.take(known, range(1, part.shape[axis]), axis)
        if np.count_nonzero(both) >= PAIRS:
            shares.append(float(np.mean((one[both] - other[both]) ** 2)) / 2)
    return bool(shares) and spread > 0 and min(shares) >= NOISE * spread


def _flat(array: NDArray[np.generic], ends: list[list[int]], axis: int, side: int) -> bool:
    """Whether the outermost plane holds one value; a glance at a few of its voxels comes first."""
    places = [slice(low, high) for low, high in ends]
    places[axis] = slice(ends[axis][0], ends[axis][0] + 1) if side == 0 else slice(ends[axis][1] - 1, ends[axis][1])
    plane = array[tuple(places)]
    if plane.size < 2:
        return False
    first: Any = plane[(0,) * plane.ndim]
    for part in (plane[tuple(slice(None, None, max(1, size // 7)) for size in plane.shape)], plane):
        if not ((part == first) if first == first else (part != part)).all():  # noqa: PLR0124 - not a number
            return False
    return True

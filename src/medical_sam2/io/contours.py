"""Masks as polygons along the edges of their pixels, and back: pixel for pixel the same.

Places are (x, y), column and row: the centre of the first pixel is (0, 0), and its corners lie at ±0.5. A pixel belongs to
what its centre lies in; a centre that lies on a line belongs to it too, as other programs draw along the centres of pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray

ON_LINE_PX = 0.01
"""A centre that is not farther from a line lies on it: files round what they store."""
LEVEL = 0.6
"""Between 0 and 1, and over the middle: pixels that touch at a corner alone are apart."""


@dataclass(frozen=True, eq=False)
class Polygon:
    """One part of an object, with its holes.

    Args:
        outer: (N, 2) corners in x and y, the first not repeated; what is inside lies where y turns to when x grows.
        holes: (M, 2) corners of each, the other way round.
    """

    outer: NDArray[np.float64]
    holes: tuple[NDArray[np.float64], ...] = ()


def trace_polygons(mask_hw: NDArray[np.bool_]) -> list[Polygon]:
    """The parts of a mask, which hang together by edges of pixels; no outline touches itself.

    Args:
        mask_hw: (H, W), any part of it drawn, or none.
    """
    found: list[Polygon] = []
    for outer, *holes in _trace(mask_hw):
        first, *inner = sorted(_simple_rings(outer), key=lambda ring: -abs(_area(ring)))  # around the others lies the part
        inner += [ring for hole in holes for ring in _simple_rings(hole)]
        found.append(Polygon(_turned(first, 1), tuple(_turned(ring, -1) for ring in inner)))
    return found


def trace_rings(mask_hw: NDArray[np.bool_], inset_px: float = 0.0) -> list[NDArray[np.float64]]:
    """One ring (N, 2) for each part of a mask: holes are joined with what surrounds them by a channel along edges (keyhole).

    Args:
        mask_hw: (H, W), any part of it drawn, or none.
        inset_px: how far the ring lies inside, less than half a pixel: it then touches itself nowhere, channels are twice as
            wide, and its corners, rounded, are pixels of the object, as programs expect that fill from pixel to pixel.
    """
    found: list[NDArray[np.float64]] = []
    for outer, *holes in _trace(mask_hw):
        ring = _turned(outer, 1)
        for hole in sorted(holes, key=lambda hole: tuple(hole[_leftmost(hole)])):
            ring = _join(ring, _turned(hole, -1))
        found.append(_inset(_corners(ring), inset_px) if inset_px else ring)
    return found


# Each pixel is given two samples along either axis, at its edges: what is traced between 1 and 0 then lies on the edges.
def _trace(mask_hw: NDArray[np.bool_]) -> Iterator[list[NDArray[np.float64]]]:
    """Of each part its outline and those of its holes, by their corners."""
    rows, columns = (np.flatnonzero(mask_hw.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return
    framed = np.pad(mask_hw[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    doubled = framed.repeat(2, axis=0).repeat(2, axis=1).astype(np.float64)
    x, y = (_edges(int(along[0]), int(along[-1])) for along in (columns, rows))
    traced = contour_generator(x, y, doubled, fill_type="OuterOffset").filled(LEVEL, 2.0)
    for points, offsets in zip(*traced, strict=True):
        yield [_corners(ring) for ring in np.split(points, offsets[1:-1])]


def _edges(first: int, last: int) -> NDArray[np.float64]:
    """Both edges of each pixel of a row, and of one more on either side."""
    return np.arange(first - 1.0, last + 2.0).repeat(2) + np.tile([-0.5, 0.5], last - first + 3)


def _corners(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """A ring without points that repeat another, or lie between their neighbours on a straight line."""
    ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)]
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _simple_rings(ring: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """The loops of a ring, cut where it passes a corner twice."""
    if len(np.unique(ring, axis=0)) == len(ring):
        yield ring
        return
    path: list[tuple[float, float]] = []
    places: dict[tuple[float, float], int] = {}
    for x, y in ring.tolist():
        if (start := places.get((x, y))) is not None:
            yield np.array(path[start:])
            for passed in path[start:]:
                del places[passed]
            del path[start:]
        places[x, y] = len(path)
        path.append((x, y))
    yield np.array(path)


def _area(ring: NDArray[np.float64]) -> float:
    x, y = ring.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


def _turned(ring: NDArray[np.float64], sign: int) -> NDArray[np.float64]:
    return ring if _area(ring) * sign > 0 else ring[::-1]


def _leftmost(ring: NDArray[np.float64]) -> int:
    return int(np.lexsort((ring[:, 1], ring[:, 0]))[0])


# To the left of a hole's leftmost corner lies the object, up to the first line: the outline's, or of a hole joined before.
def _join(ring: NDArray[np.float64], hole: NDArray[np.float64]) -> NDArray[np.float64]:
    first = _leftmost(hole)
    x, y = hole[first]
    ends = np.roll(ring, -1, axis=0)
    met = (ring[:, 0] == ends[:, 0]) & (ring[:, 0] <= x)
    met &= (np.minimum(ring[:, 1], ends[:, 1]) <= y) & (y <= np.maximum(ring[:, 1], ends[:, 1]))
    edge = max(np.flatnonzero(met), key=lambda place: ring[place, 0])
    bridge = np.array([[ring[edge, 0], y]])
    around = np.roll(hole, -first, axis=0)
    return np.concatenate([ring[: edge + 1], bridge, around, around[:1], bridge, ring[edge + 1 :]])


def _inset(ring: NDArray[np.float64], by: float) -> NDArray[np.float64]:
    """A ring of horizontal and vertical edges, each moved towards what is inside."""
    ahead = np.sign(np.roll(ring, -1, axis=0) - ring)
    inwards = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1)
    return ring + by * np.sign(inwards + np.roll(inwards, 1, axis=0))


def fill_polygons(rings: Sequence[NDArray[np.float64]], shape_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels that an odd number of rings surrounds, and those on a line: a ring within another one is a hole.

    Args:
        rings: (N, 2) corners in x and y each, in any direction; parts beyond the image are cut off.
        shape_hw: rows and columns of the image.
    """
    inside, on_line = fill_and_trace(rings, shape_hw)
    return inside | on_line


def fill_and_trace(
    rings: Sequence[NDArray[np.float64]], shape_hw: tuple[int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The same in two parts: what lies inside (of a pixel on a line nobody can tell), and what lies on a line."""
    starts = np.concatenate([np.empty((0, 2)), *rings])
    ends = np.concatenate([np.empty((0, 2)), *(np.roll(ring, -1, axis=0) for ring in rings)])
    height, width = shape_hw
    rows, x = _crossings(starts[:, ::-1], ends[:, ::-1], height, 0.0)
    places = rows * (width + 1) + np.clip(np.ceil(x), 0, width).astype(np.int64)
    flips = np.bincount(places, minlength=height * (width + 1)).reshape(height, width + 1)
    inside = (np.cumsum(flips[:, :width], axis=1) % 2).astype(bool)
    on_line = np.zeros(shape_hw, bool)
    _mark(on_line, starts[:, ::-1], ends[:, ::-1])  # steep lines pass between columns, flat ones between rows
    _mark(on_line.T, starts, ends)
    return inside, on_line


def _mark(on_line: NDArray[np.bool_], starts: NDArray[np.float64], ends: NDArray[np.float64]) -> None:
    along, across = _crossings(starts, ends, on_line.shape[0], ON_LINE_PX)
    nearest = np.rint(across).astype(np.int64)
    on = (np.abs(across - nearest) <= ON_LINE_PX) & (nearest >= 0) & (nearest < on_line.shape[1])
    on_line[along[on], nearest[on]] = True


def _crossings(
    starts: NDArray[np.float64], ends: NDArray[np.float64], size: int, more: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Where edges (from, to; along, across) cross the whole numbers from 0 to `size`: these, and how far across.

    Each edge has its lower end and not its upper one, so that a ring crosses evenly; with `more`, both ends and so much beyond.
    """
    upwards = starts[:, :1] <= ends[:, :1]
    low, high = np.where(upwards, starts, ends), np.where(upwards, ends, starts)
    first = np.clip(np.ceil(low[:, 0] - more), 0, size).astype(np.int64)
    last = np.floor(high[:, 0] + more) + 1 if more else np.ceil(high[:, 0])
    counts = np.maximum(np.clip(last, 0, size).astype(np.int64) - first, 0)
    edges = np.repeat(np.arange(len(starts)), counts)
    along = np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edges]
    length = high[edges, 0] - low[edges, 0]
    part = np.divide(along - low[edges, 0], length, out=np.zeros(len(edges)), where=length > 0)
    return along, low[edges, 1] + np.clip(part, 0, 1) * (high[edges, 1] - low[edges, 1])

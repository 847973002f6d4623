"""GrowCut by shortest paths: every voxel goes to the seed from which the fewest and weakest edges lie on the way.

Vezhnevets and Konouchine's cellular automaton settles where Dijkstra's algorithm does (Zhu et al., 2014): each voxel
takes the label of the seed that is nearest along a path whose length is the sum of differences of intensity.
"""

from math import prod

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from medical_sam2.tracking.consensus import STEP, log_odds, signed_distance, sweep
from medical_sam2.tracking.consensus import UNREACHED as FAR

BAND = 0.25  # radii on either side of the outline that are seeds of neither
Floats = NDArray[np.float32]


def grow_cut(
    picture: Floats, seeds: NDArray[np.int32], steps: tuple[float, ...], *, distance: float = 0.01
) -> NDArray[np.int32]:
    """The label of the nearest seed.

    Args:
        picture: (…) grey in [0, 1], of two or three dimensions, or those and 3 colours.
        seeds: (…) labels from 1, 0 where there is no seed; at least one seed.
        steps: distance between neighbours along each axis.
        distance: what a step of length 1 costs beside its difference of intensity.

    Returns:
        (…) labels, 0 nowhere.
    """
    places = np.arange(seeds.size).reshape(seeds.shape)
    rows, columns, costs = [], [], []
    for axis, step in enumerate(steps):
        differs = np.abs(np.diff(picture, axis=axis))
        if picture.ndim > seeds.ndim:
            differs = differs.max(axis=-1)
        costs.append((differs + distance * step).ravel())
        rows.append(places.take(range(seeds.shape[axis] - 1), axis).ravel())
        columns.append(places.take(range(1, seeds.shape[axis]), axis).ravel())
    size = prod(seeds.shape)
    graph = coo_array(
        (np.concatenate(costs).astype(np.float64), (np.concatenate(rows), np.concatenate(columns))), shape=(size, size)
    ).tocsr()
    _, _, sources = dijkstra(graph, directed=False, indices=np.flatnonzero(seeds), min_only=True, return_predecessors=True)
    return seeds.ravel()[sources].reshape(seeds.shape)


def nearer(stack_thw: Floats, start: int, mask_hw: NDArray[np.bool_], *, goes_on: tuple[bool, bool]) -> NDArray[np.bool_]:
    """What is nearer to the inside of an outline than to its outside, to the sides and to the ends of the stack.

    Args:
        stack_thw: (T, h, w) grey in [0, 1].
        start: the outlined slice.
        mask_hw: (h, w) its outline.
        goes_on: whether slices follow, before the first and after the last.
    """
    outline = np.zeros(stack_thw.shape, bool)
    outline[start] = mask_hw
    step = 1 / max(1.0, float(np.sqrt(mask_hw.sum() / np.pi)))  # pixels in radii
    smooth = np.asarray(ndimage.gaussian_filter(stack_thw, (0, 1, 1)), np.float32)
    odds = (log_odds(stack_thw, outline, [start]) + log_odds(smooth, outline, [start])) / 2
    likely = 1 / (1 + np.exp(-np.clip(odds, -4, 4)))
    slopes = [np.square(np.gradient(smooth, axis=a)) for a in range(3) if smooth.shape[a] > 1]
    edge = np.clip(np.sqrt(np.sum(slopes, axis=0)) / (2 * max(float(stack_thw[start][mask_hw].std()), 0.03)), 0, 3)
    signed = signed_distance(mask_hw, np.array([step, step]))
    inside, outside = np.zeros(outline.shape, bool), np.zeros(outline.shape, bool)
    inside[start], outside[start] = signed <= -min(BAND, -0.8 * float(signed.min())), signed > BAND
    outside[:, [0, -1]] = outside[:, :, [0, -1]] = True
    for end, on in zip((0, -1), goes_on, strict=True):
        outside[end] |= on
    cost = np.stack([edge + 1 - likely, edge + likely], dtype=np.float32) + np.float32(STEP)
    seeds = np.where(np.stack([inside, outside & ~inside]), np.float32(0), np.float32(FAR))
    into, out_of = sweep(seeds, cost, [step] * 3, rounds=2)
    return smoothed(into < out_of)


def rim(seeds_thw: NDArray[np.int32], label: int) -> None:
    """Mark the border of each slice (T, H, W) as seeds of a label, in place, where nothing else is marked."""
    border = np.ones(seeds_thw.shape[1:], bool)
    border[1:-1, 1:-1] = False
    seeds_thw[:, border] = np.where(seeds_thw[:, border] == 0, label, seeds_thw[:, border])


def smoothed(labels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without the ragged edge that shortest paths leave: a median over direct neighbours."""
    return np.asarray(ndimage.median_filter(labels, size=3))

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


def rim(seeds_thw: NDArray[np.int32], label: int) -> None:
    """Mark the border of each slice (T, H, W) as seeds of a label, in place, where nothing else is marked."""
    border = np.ones(seeds_thw.shape[1:], bool)
    border[1:-1, 1:-1] = False
    seeds_thw[:, border] = np.where(seeds_thw[:, border] == 0, label, seeds_thw[:, border])


def smoothed(labels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without the ragged edge that shortest paths leave: a median over direct neighbours."""
    return np.asarray(ndimage.median_filter(labels, size=3))

"""Geodesic distances: the length of the cheapest way from what is surely inside an object, and from what is surely outside.

Raster scans find them fast and nearly (Criminisi et al., 2008).

Shapes: M distance maps of n h w boxes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
MaskArray = NDArray[np.bool_]
STEP = 0.02  # what a way of one radius costs where nothing is in the way
UNREACHED = 1e3


def geodesics(
    tracked: Floats, likely: Floats, edge: Floats, seeds: tuple[MaskArray, MaskArray], steps: NDArray[np.float64]
) -> list[Floats]:
    """How much nearer inside (1) than outside (-1) each box is: along edges, edges and greys, tracking and greys.

    Args:
        tracked: (n, h, w) probability of the object in [0, 1].
        likely: (n, h, w) the same by the grey alone.
        edge: (n, h, w) strength, 0 where there is none.
        seeds: (n, h, w) what is surely inside, and outside.
        steps: sides of a box, in radii of the object.
    """
    mixed = (2 * tracked + likely) / 3
    greys = edge / 2 + np.square(1 - likely), edge / 2 + np.square(likely)
    start, ways = np.where(np.stack(seeds), np.float32(0), np.float32(UNREACHED)), list[Floats]()
    for costs in ((edge, edge), greys, (np.square(1 - mixed), np.square(mixed))):  # one after the other: a third of the memory
        inside, outside = sweep(start, np.stack(costs, dtype=np.float32) + np.float32(STEP), steps.tolist())
        ways.append((outside - inside) / (outside + inside + np.float32(1e-3)))
    return ways


def sweep(distance_Mnhw: Floats, cost_Mnhw: Floats, steps: Sequence[float], rounds: int = 1) -> Floats:
    """Geodesic distances by scans along each axis, there and back: from each layer to the nine nearest boxes of the next.

    Args:
        distance_Mnhw: 0 at the seeds, large elsewhere.
        cost_Mnhw: of a way of length 1, above 0.
        steps: sides of a box.
        rounds: of six scans each; more follow ways that turn back more often.
    """
    for axis in [0, 1, 2] * rounds:
        distance, cost = (np.moveaxis(each, 1 + axis, 0).copy() for each in (distance_Mnhw, cost_Mnhw))
        straight = steps[axis]
        oblique = float(np.hypot(straight, min(step for a, step in enumerate(steps) if a != axis)))
        price = (cost[1:] + cost[:-1]) / 2
        along, across = price * straight, price * oblique
        for layers, back in ((range(1, len(distance)), -1), (range(len(distance) - 2, -1, -1), 1)):
            for layer in layers:
                here, before, between = distance[layer], distance[layer + back], min(layer, layer + back)
                np.minimum(here, before + along[between], out=here)
                np.minimum(here, _least_around(before) + across[between], out=here)
        distance_Mnhw = np.moveaxis(distance, 0, 1 + axis)
    return distance_Mnhw


def _least_around(layer_Mab: Floats) -> Floats:
    """The least of each box and its eight neighbours."""
    for axis in (1, 2):
        least, line = layer_Mab.copy().swapaxes(axis, 2), layer_Mab.swapaxes(axis, 2)
        np.minimum(least[..., 1:], line[..., :-1], out=least[..., 1:])
        np.minimum(least[..., :-1], line[..., 1:], out=least[..., :-1])
        layer_Mab = least.swapaxes(axis, 2)
    return layer_Mab

"""Ways through a volume: how far a voxel is from inside and from outside where edges and unlike greys are in the way.

A geodesic distance is the length of the cheapest way. Raster scans find it fast and nearly (Criminisi et al., 2008).

Shapes: n h w boxes of a grid, M distance maps.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from medical_sam2.consensus.grid import Floats, MaskArray

BINS, BLUR, RARE = 32, 1.5, 0.004  # of the histograms of grey: how many, how they are smoothed, the least share
STEP = 0.02  # what a way of one radius costs where nothing is in the way
FAR = 1e3


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
    costs = [edge, edge, edge / 2 + np.square(1 - likely), edge / 2 + np.square(likely), np.square(1 - mixed), np.square(mixed)]
    cost = torch.from_numpy(np.stack(costs, dtype=np.float32) + np.float32(STEP))
    start = torch.where(torch.from_numpy(np.stack([*seeds] * 3)), 0.0, FAR)
    far = sweep(start, cost, steps.tolist()).numpy()
    return [(far[k + 1] - far[k]) / (far[k + 1] + far[k] + np.float32(1e-3)) for k in (0, 2, 4)]


def sweep(distance_Mnhw: Tensor, cost_Mnhw: Tensor, steps: Sequence[float], rounds: int = 1) -> Tensor:
    """Geodesic distances by scans along each axis, there and back: from each layer to the nine nearest boxes of the next.

    Args:
        distance_Mnhw: 0 at the seeds, large elsewhere; changed in place.
        cost_Mnhw: of a way of length 1, above 0.
        steps: sides of a box.
        rounds: of six scans each; more follow ways that turn back more often.
    """
    for axis in [0, 1, 2] * rounds:
        distance, cost = distance_Mnhw.movedim(1 + axis, 0), cost_Mnhw.movedim(1 + axis, 0)
        straight = steps[axis]
        oblique = float(np.hypot(straight, min(step for a, step in enumerate(steps) if a != axis)))
        for layers, back in ((range(1, len(distance)), -1), (range(len(distance) - 2, -1, -1), 1)):
            for layer in layers:
                before, price = distance[layer + back], (cost[layer] + cost[layer + back]) / 2
                around = -F.max_pool2d(-before[:, None], 3, 1, 1)[:, 0]
                torch.minimum(distance[layer], before + price * straight, out=distance[layer])
                torch.minimum(distance[layer], around + price * oblique, out=distance[layer])
    return distance_Mnhw


def log_odds(grey: Floats, inside: MaskArray, slices: Sequence[int]) -> Floats:
    """How much likelier each grey (n, h, w) in [0, 1] is inside than outside: a logarithm, by histograms of some slices."""
    place, on = np.clip((grey * BINS).astype(int), 0, BINS - 1), list(slices)
    shares = []
    for where in (inside[on], ~inside[on]):
        count = ndimage.gaussian_filter1d(np.bincount(place[on][where], minlength=BINS).astype(float), BLUR, mode="nearest")
        shares.append(count / max(count.sum(), 1e-6) + RARE)
    return np.log(shares[0] / shares[1]).astype(np.float32)[place]


def signed_distance(mask_hw: MaskArray, steps: NDArray[np.float64]) -> Floats:
    """Distance from the border of a mask (h, w): negative inside."""
    outside, inside = (np.asarray(ndimage.distance_transform_edt(each, sampling=steps)) for each in (~mask_hw, mask_hw))
    return (outside - inside).astype(np.float32)

"""What the consensus asks beside the network: how far it is to what is sure, and where an outline goes from slice to slice.

Geodesic distances are the lengths of the cheapest ways from what is surely inside an object, and from what is surely outside.
Raster scans find them fast and nearly (Criminisi et al., 2008).

Optical flow lays neighbours over each other, then one after the other. Between two slices it is Lucas and Kanade's method in a
window around each pixel, repeated from coarse to fine (Le Besnerais and Champagnat, 2005), for all pairs of neighbours at once.
Libraries solve one pair at a time: scikit-image's takes four times as long, OpenCV's is one of 70 MB that overwrites others of
its kind (docs/log.md, 2026-11-30).

Shapes: M distance maps of n h w boxes; n slices, h w pixels, C planes.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Floats = NDArray[np.float32]
MaskArray = NDArray[np.bool_]
Costs = tuple[NDArray[np.floating], NDArray[np.floating]]
STEP = 0.02  # what a way of one radius costs where nothing is in the way
UNREACHED = 1e3
SMALLEST = 16  # pixels along the shorter side of the coarsest pictures, at least
WINDOW = 3  # pixels to each side of one that move with it
ROUNDS = 3  # at each size
FAINT = 1e-4  # square of a slope; along fainter ones a pixel hardly moves
FARTHEST = 2.0  # pixels in a round
AT_ONCE = 32  # pairs of slices: of all at once the planes would be a third of a gigabyte


def path_costs(tracked: Floats, likely: Floats, edge: Floats) -> tuple[Costs, Costs, Costs]:
    """What ways of length 1 cost inside and outside of an object: along edges, edges and greys, tracking and greys.

    Args:
        tracked: probability of the object in [0, 1].
        likely: the same by the grey alone.
        edge: strength, 0 where there is none.
    """
    mixed = (2 * tracked + likely) / 3
    greys = edge / 2 + np.square(1 - likely), edge / 2 + np.square(likely)
    return (edge, edge), greys, (np.square(1 - mixed), np.square(mixed))


def geodesics(costs: Iterable[Costs], seeds: tuple[MaskArray, MaskArray], steps: Sequence[float]) -> list[Floats]:
    """How much nearer inside (1) than outside (-1) each box is, by each kind of costs.

    Args:
        costs: (n, h, w) of a way of length 1, from 0, inside and outside.
        seeds: (n, h, w) what is surely inside, and outside.
        steps: sides of a box, in the unit of lengths.
    """
    start, ways = np.where(np.stack(seeds), np.float32(0), np.float32(UNREACHED)), list[Floats]()
    for pair in costs:  # one after the other: a third of the memory
        inside, outside = sweep(start, np.stack(pair, dtype=np.float32) + np.float32(STEP), steps)
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


def follow_flow(grey_nhw: NDArray[np.float32], nearest: Sequence[int]) -> Tensor:
    """How many columns and rows further on each pixel lay on its prompted slice: (n, 2, h, w).

    Args:
        grey_nhw: slices in [0, 1].
        nearest: of each slice the prompted one that it is followed to; itself where it is one.
    """
    towards = [t + (to > t) - (to < t) for t, to in enumerate(nearest)]
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        slices = torch.from_numpy(np.ascontiguousarray(grey_nhw, np.float32))[:, None]
        lots = zip(slices.split(AT_ONCE), slices[towards].split(AT_ONCE), strict=True)
        steps = torch.cat([estimate_flow(here, there) for here, there in lots])
        ways = torch.zeros_like(steps)
        for t in sorted(range(len(ways)), key=lambda t: abs(nearest[t] - t)):
            if towards[t] != t:
                ways[t] = steps[t] + shift(ways[towards[t]][None], steps[t][None])[0]
    return ways


def estimate_flow(here_n1hw: Tensor, there_n1hw: Tensor) -> Tensor:
    """How many columns and rows further on another picture in [0, 1] shows what is here: (n, 2, h, w)."""
    pairs = [(here_n1hw, there_n1hw)]
    while min(pairs[-1][0].shape[-2:]) >= 2 * SMALLEST:
        here, there = (F.avg_pool2d(each, 2, ceil_mode=True) for each in pairs[-1])
        pairs.append((here, there))
    flow = torch.zeros(len(here_n1hw), 2, *pairs[-1][0].shape[-2:])
    for here, there in reversed(pairs):
        (height, width), (rows, columns) = here.shape[-2:], flow.shape[-2:]
        scale = torch.tensor([width / columns, height / rows])[:, None, None]
        flow = F.interpolate(flow, (height, width), mode="bilinear") * scale
        for _ in range(ROUNDS):
            flow = _average(flow + _correct_flow(here, shift(there, flow)), 1)
    return flow


def _correct_flow(here: Tensor, moved: Tensor) -> Tensor:
    """What is missing of a flow, by the slopes of the picture that it moved: least squares in a window around each pixel."""
    edges = F.pad(moved, (1, 1, 1, 1), "replicate")
    x, y = (edges[..., 1:-1, 2:] - edges[..., 1:-1, :-2]) / 2, (edges[..., 2:, 1:-1] - edges[..., :-2, 1:-1]) / 2
    error = here - moved
    xx, xy, yy, xe, ye = _average(torch.cat([x * x, x * y, y * y, x * error, y * error], 1), WINDOW).split(1, 1)
    xx, yy = xx + FAINT, yy + FAINT
    return (torch.cat([yy * xe - xy * ye, xx * ye - xy * xe], 1) / (xx * yy - xy * xy)).clamp(-FARTHEST, FARTHEST)


def _average(planes: Tensor, window: int) -> Tensor:
    """Of a square around each pixel, or of what of it lies on the picture."""
    for sides, margins in (((2 * window + 1, 1), (window, 0)), ((1, 2 * window + 1), (0, window))):
        planes = F.avg_pool2d(planes, sides, 1, margins, count_include_pad=False)
    return planes


def shift(planes_nChw: Tensor, flow_n2hw: Tensor) -> Tensor:
    """Planes (n, C, h, w) as they are so many columns and rows further on; beyond a picture its border goes on."""
    height, width = flow_n2hw.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    places = columns + flow_n2hw[:, 0], rows + flow_n2hw[:, 1]
    grid = torch.stack([2 * at / max(1, side - 1) - 1 for at, side in zip(places, (width, height), strict=True)], -1)
    return F.grid_sample(planes_nChw, grid, "bilinear", "border", align_corners=True)

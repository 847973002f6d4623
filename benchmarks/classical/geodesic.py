"""GrowCut by shortest paths, and a method that weighs geodesic distances, greys and optical flow.

Vezhnevets and Konouchine's cellular automaton settles where Dijkstra's algorithm does (Zhu et al., 2014): each voxel
takes the label of the seed that is nearest along a path whose length is the sum of differences of intensity.

`geodesic_odds` sums up what speaks for the object at a voxel: how much nearer it is to the inside of the outline than to its
outside, to the sides and to the ends of the stack (ways that are long over edges and through unlike greys; Criminisi et al.,
2008), how like its grey is, and where optical flow from slice to slice takes the outline (DIS of OpenCV; Kroeger et al., 2016).
The weights of a logistic regression, fitted by `benchmarks/geodesic_weights.py`, are all that was learnt.

Shapes: T slices, h w pixels of the working grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import PolynomialFeatures

from medical_sam2.tracking.consensus import log_odds, signed_distance
from medical_sam2.tracking.witnesses import STEP, sweep
from medical_sam2.tracking.witnesses import UNREACHED as FAR

BAND = 0.25  # radii on either side of the outline that are seeds of neither
RING = 0.75  # radii around the outline: what the object has to be told from
BLUR = 0.1  # radii by which the sum is smoothed
SMALLEST = 32  # pixels along a side that optical flow sees, at least
WEIGHTS: Mapping[str, float] = {
    "grey": 0.74,
    "grey around": 0.52,
    "grey beside": 0.21,
    "classifier": 1.63,
    "edges and greys": 1.78,
    "edges": 1.76,
    "outline": -1.30,
    "moved outline": -2.49,
    "depth": -2.21,
    "mismatch": -1.55,
    "grey of slice": 0.21,
    "least grey": 0.54,
    "bias": -0.18,
}  # of the logarithm of odds
Floats = NDArray[np.float32]
MaskArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class OutlinedStack:
    """Slices of which one is outlined.

    Args:
        stack_thw: (T, h, w) grey in [0, 1].
        start: the outlined slice.
        mask_hw: (h, w) its outline, not empty.
        steps: between slices, rows and columns, in radii √(area/π) of the outline.
        goes_on: whether slices follow, before the first and after the last.
    """

    stack_thw: Floats
    start: int
    mask_hw: MaskArray
    steps: tuple[float, float, float]
    goes_on: tuple[bool, bool]

    @cached_property
    def smooth_thw(self) -> Floats:
        """By a pixel."""
        return np.asarray(ndimage.gaussian_filter(self.stack_thw, (0, 1, 1)), np.float32)

    @cached_property
    def around_thw(self) -> Floats:
        """By a quarter of a radius."""
        along, across = min(0.25 / self.steps[0], 1.0), float(np.clip(0.25 / self.steps[1], 1, 3))
        return np.asarray(ndimage.gaussian_filter(self.stack_thw, (along, across, across)), np.float32)

    @cached_property
    def signed_hw(self) -> Floats:
        """Distance from the outline in radii, negative inside."""
        return signed_distance(self.mask_hw, np.array(self.steps[1:]))

    @property
    def ring_hw(self) -> MaskArray:
        """Around the outline."""
        ring = (self.signed_hw > 0) & (self.signed_hw <= RING)
        return ring if ring.any() else ~self.mask_hw

    @property
    def spread(self) -> float:
        """Of the greys in the outline."""
        return max(float(self.stack_thw[self.start][self.mask_hw].std()), 0.03)

    @cached_property
    def edge_thw(self) -> Floats:
        """Slope, where 1 is twice the spread in a pixel; at most 3."""
        slopes = [np.square(np.gradient(self.smooth_thw, axis=a)) for a in range(3) if self.stack_thw.shape[a] > 1]
        return np.clip(np.sqrt(np.sum(slopes, axis=0)) / (2 * self.spread), 0, 3).astype(np.float32)

    def odds(self, grey_thw: Floats, outside_hw: MaskArray) -> Floats:
        """Logarithm of how much likelier each grey is in the outline than in some pixels of that slice, within ±4."""
        inside, outside = (np.broadcast_to(each, grey_thw.shape) for each in (self.mask_hw, outside_hw))
        return np.clip(log_odds(grey_thw, inside, [self.start], outside), -4, 4)

    def seeds(self) -> tuple[MaskArray, MaskArray]:
        """(T, h, w) what is surely inside; what is surely outside: around the outline, at the sides, at the ends."""
        inside, outside = np.zeros(self.stack_thw.shape, bool), np.zeros(self.stack_thw.shape, bool)
        inside[self.start] = self.signed_hw <= -min(BAND, -0.8 * float(self.signed_hw.min()))
        outside[self.start] = self.signed_hw > BAND
        outside[:, [0, -1]] = outside[:, :, [0, -1]] = True
        for end, on in zip((0, -1), self.goes_on, strict=True):
            outside[end] |= on
        return inside, outside & ~inside


def find_alike(seen: OutlinedStack) -> MaskArray:
    """(T, h, w): the outline where it was given; elsewhere what is likelier the object than not, and hangs together with it."""
    clues = compute_clues(seen)
    odds = np.sum([weight * clues[name] for name, weight in WEIGHTS.items()], axis=0)
    blur = [float(np.clip(BLUR / step, 0.3, 2.5)) for step in seen.steps]
    found = np.asarray(ndimage.gaussian_filter(np.clip(odds, -4, 4), blur) > 0)
    found[seen.start] = seen.mask_hw
    parts, _ = ndimage.label(found)
    return np.isin(parts, np.unique(parts[seen.start][seen.mask_hw]))


def compute_clues(seen: OutlinedStack) -> dict[str, NDArray[np.floating]]:
    """Clues by name, each (T, h, w), about within ±3."""
    shape, ring = seen.stack_thw.shape, seen.ring_hw
    grey, smooth = (seen.odds(values, ~seen.mask_hw) for values in (seen.stack_thw, seen.smooth_thw))
    from_inside = nearness(seen, np.asarray(1 / (1 + np.exp(-(grey + smooth) / 2)), np.float32))
    ways = follow_flow(seen.stack_thw, seen.start)
    moved = np.stack([_taken(seen.signed_hw, way) for way in ways])
    mismatch = np.abs(np.stack([_taken(seen.smooth_thw[seen.start], way) for way in ways]) - seen.smooth_thw) / seen.spread
    alike = np.array([each[there].mean() if there.any() else -3.0 for each, there in zip(smooth, moved < 0, strict=True)])
    alike -= alike[seen.start]
    least = np.concatenate([np.minimum.accumulate(alike[seen.start :: -1])[:0:-1], np.minimum.accumulate(alike[seen.start :])])
    depth = np.abs(np.arange(shape[0]) - seen.start) * seen.steps[0]
    planes = {"depth": np.minimum(depth, 2) / 2, "grey of slice": np.tanh(alike / 2), "least grey": np.tanh(least / 2)}
    return {
        "grey": grey / 4,
        "grey around": seen.odds(seen.around_thw, ~seen.mask_hw) / 4,
        "grey beside": seen.odds(seen.smooth_thw, ring) / 4,
        "classifier": classified(seen),
        **from_inside,
        "outline": np.broadcast_to(np.clip(seen.signed_hw, -1, 2), shape),
        "moved outline": np.clip(moved, -1, 2),
        "mismatch": np.clip(ndimage.gaussian_filter(mismatch, (0, 2, 2)), 0, 3) / 2,
        **{name: np.broadcast_to(each[:, None, None], shape) for name, each in planes.items()},
        "bias": np.ones(shape, np.float32),
    }


def nearness(seen: OutlinedStack, likely_thw: Floats) -> dict[str, Floats]:
    """How much nearer inside (1) than outside (-1): along ways without edges, and without edges and unlike greys."""
    costs = [seen.edge_thw + 1 - likely_thw, seen.edge_thw + likely_thw, seen.edge_thw, seen.edge_thw]
    cost = np.stack(costs, dtype=np.float32) + np.float32(STEP)
    start = np.where(np.stack([*seen.seeds()] * 2), np.float32(0), np.float32(FAR))
    far = sweep(start, cost, seen.steps, rounds=2)
    into, out_of = far[::2], far[1::2]
    return dict(zip(("edges and greys", "edges"), (out_of - into) / (out_of + into + np.float32(1e-3)), strict=True))


def classified(seen: OutlinedStack) -> Floats:
    """Ridge regression (scikit-learn) to ±1 on a quadratic of slopes and greys at three scales, learnt on the outline."""
    rows, columns = (np.gradient(seen.smooth_thw, axis=a) if seen.stack_thw.shape[a] > 1 else np.float32(0) for a in (1, 2))
    slopes = np.hypot(rows, columns)
    planes = np.stack(
        [seen.stack_thw, seen.smooth_thw, seen.around_thw, np.broadcast_to(slopes, seen.stack_thw.shape)], axis=-1
    )
    of_slice, inside = planes[seen.start].reshape(-1, 4), seen.mask_hw.ravel()
    if inside.all():
        return np.zeros(seen.stack_thw.shape, np.float32)
    quadratic = PolynomialFeatures(2, include_bias=False)
    scaled = quadratic.fit_transform(np.clip((planes.reshape(-1, 4) - of_slice.mean(0)) / (of_slice.std(0) + 0.02), -3, 3))
    own = scaled.reshape(*seen.stack_thw.shape, -1)[seen.start].reshape(inside.size, -1)
    ridge = RidgeClassifier(alpha=0.005 * inside.size, class_weight="balanced").fit(own, inside)
    score = ridge.decision_function(scaled).reshape(seen.stack_thw.shape)
    return np.clip(ndimage.gaussian_filter(score, (0, 0.7, 0.7)), -2, 2).astype(np.float32)


def follow_flow(stack_thw: Floats, start: int) -> Floats:
    """(T, h, w, 2): the column and row of the start slice that each pixel comes from, by optical flow from slice to slice."""
    _, height, width = stack_thw.shape
    sides = [(0, max(0, SMALLEST - side)) for side in (height, width)]
    smooth = ndimage.gaussian_filter(np.pad(stack_thw, [(0, 0), *sides], mode="edge"), (0, 1, 1))
    pictures = np.clip(255 * smooth, 0, 255).astype(np.uint8)
    flow = cv2.DISOpticalFlow.create(cv2.DISOpticalFlow_PRESET_MEDIUM)
    flow.setFinestScale(0)
    flow.setPatchStride(4)
    place = np.stack(np.meshgrid(*(np.arange(side, dtype=np.float32) for side in pictures.shape[:0:-1])), axis=-1)
    ways = np.repeat(place[None], len(stack_thw), axis=0)
    for step, slices in ((-1, range(start + 1, len(stack_thw))), (1, range(start - 1, -1, -1))):
        for t in slices:
            back = place + cv2.GaussianBlur(flow.calc(pictures[t], pictures[t + step], np.zeros_like(place)), (0, 0), 2.0)
            ways[t] = _taken(ways[t + step], back)
    return ways[:, :height, :width]


def _taken(plane: Floats, way: Floats) -> Floats:
    """A plane (h, w) or (h, w, 2) at the places (h, w, 2) that a way names."""
    return np.asarray(cv2.remap(plane, way[..., 0], way[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)


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

"""A consensus in 3D once an object has been tracked: where its slices, its greys and its distances from the prompt disagree.

Tracking goes on beyond the end of a structure and drifts into neighbours that look alike. A region around the object is looked
at once more, as one small volume (`Grid`): how likely tracking found each voxel, how like the greys of the prompted slice it
is, how far it lies from inside and from outside along paths that edges make long, where optical flow takes the outline, and how
steadily the slices on the way were tracked (`compute_features`). A gate of a few hundred numbers, learnt beside the network's
weights (`Gate`), says by how much the logit of each voxel changes. Slices that were prompted keep their answer, and nothing
changes outside of the region.

Shapes: I J K voxels of the file, n h w the working grid with the slices first, F features.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from medical_sam2.model.device import later, map_on_cores
from medical_sam2.model.weights import read_small_network
from medical_sam2.tracking.confidence import RefinedSlices, dice_of
from medical_sam2.tracking.frames import box_of, region_around
from medical_sam2.tracking.fusion import Fusion, Slabs
from medical_sam2.tracking.witnesses import follow_flow, geodesics, path_costs, shift

SIDE, VOXELS = 64, 2_000_000  # pixels along a side of a slice, voxels in all, at most
MARGIN = 1.75  # side of the region over the object's, in a slice
REACH = 3.0  # and over the prompted outline's at most: what tracking found further away is left as it is
BEYOND, LEAST_BEYOND = 1.0, 3  # slices before and after what was found: in radii, and at least

Floats = NDArray[np.float32]
MaskArray = NDArray[np.bool_]
BINS, BINS_BLUR, RARE = 32, 1.5, 0.004  # of the histograms of grey: how many, how they are smoothed, the least share
SURE = 6.0  # logits are cut there
BAND = 0.25  # radii on either side of the prompted outline that are seeds of neither
BLUR = 0.25  # radii by which features are smoothed
FEATURES = (
    *("tracked", "tracked around", "grey", "grey around", "grey of all found", "edge", "lightness"),
    *("edges", "edges and greys", "all", "outline", "moved outline", "moved greys"),
    *("confidence", "least confidence", "overlap", "least overlap", "grey of slice", "agreement", "grey tells", "border tells"),
)
GATE_FILE = "consensus.safetensors"
KNOWN_OF_SLICES = (
    "confidence",
    "least confidence",
    "agreement",
    "border tells",
)  # of each slice, to whoever judges it afterwards
MOST_CHANGE = 12.0  # that a logit changes by


@dataclass(frozen=True, eq=False)
class TrackedObject:
    """An object once it has been tracked."""

    estimate: Slabs  # probability (I, J, K)
    grey: Callable[[int], Floats]  # index along I → intensities (J, K) in [0, 1]
    axis: int  # array axis of the slices that were prompted
    prompted: Sequence[int]  # their indices
    confidence: NDArray[np.floating]  # of each slice along that axis, 0 where it was not tracked
    spacing_mm: tuple[float, float, float]  # between voxels


@dataclass(frozen=True, eq=False)
class Grid:
    """The working grid: boxes of voxels, no finer than the volume's own, each slice by itself."""

    low: tuple[int, int, int]  # first voxel of the region
    high: tuple[int, int, int]  # the one after its last
    shape: tuple[int, int, int]  # boxes along each array axis

    def means(self, slab: Callable[[int], Floats]) -> Floats:
        """Means over the boxes, of shape `shape`, of a volume that is handed out slab by slab."""
        first, second, third = (means_of(self.high[a] - self.low[a], self.shape[a]) for a in range(3))
        found = np.zeros(self.shape, np.float32)
        for i in range(self.low[0], self.high[0]):
            part = second @ slab(i)[self.low[1] : self.high[1], self.low[2] : self.high[2]] @ third.T
            for box in np.flatnonzero(first[:, i - self.low[0]]):
                found[box] += first[box, i - self.low[0]] * part
        return found


def working_grid(what: TrackedObject) -> Grid | None:
    """The region around an object; None where nothing was found on the prompted slices."""
    shape, plane = what.estimate.shape, [a for a in range(3) if a != what.axis]
    outline, found, slices = _projections(what)
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


def _projections(what: TrackedObject) -> tuple[MaskArray, MaskArray, MaskArray]:
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


@lru_cache(maxsize=8)
def between(length: int, boxes: int) -> Floats:
    """(length, boxes): linear interpolation from the middles of the boxes."""
    place = np.clip((np.arange(length) + 0.5) * boxes / length - 0.5, 0, boxes - 1)
    return np.clip(1 - np.abs(place[:, None] - np.arange(boxes)), 0, None).astype(np.float32)


def log_odds(grey: Floats, inside: MaskArray, slices: Sequence[int], outside: MaskArray | None = None) -> Floats:
    """How much likelier each grey (n, h, w) in [0, 1] is inside than outside: a logarithm, by histograms of some slices.

    Outside is all that is not inside, or what is said to be.
    """
    place, on = np.clip((grey * BINS).astype(int), 0, BINS - 1), list(slices)
    shares = []
    for where in (inside[on], ~inside[on] if outside is None else outside[on]):
        count = ndimage.gaussian_filter1d(
            np.bincount(place[on][where], minlength=BINS).astype(float), BINS_BLUR, mode="nearest"
        )
        shares.append(count / max(count.sum(), 1e-6) + RARE)
    return np.log(shares[0] / shares[1]).astype(np.float32)[place]


def signed_distance(mask_hw: MaskArray, steps: NDArray[np.float64]) -> Floats:
    """Distance from the border of a mask (h, w): negative inside."""
    outside, inside = (np.asarray(ndimage.distance_transform_edt(each, sampling=steps)) for each in (~mask_hw, mask_hw))
    return (outside - inside).astype(np.float32)


@dataclass(frozen=True, eq=False)
class PromptedSlices:
    """The prompted slices, on the working grid."""

    slices: Sequence[int]  # those on which the object is
    outline: MaskArray  # (n, h, w) the object there, nothing elsewhere
    steps: NDArray[np.float64]  # sides of a box of the grid, in radii of the object
    goes_on: tuple[bool, bool]  # whether the volume does, before the first slice and after the last

    @property
    def nearest(self) -> NDArray[np.int64]:
        """Of each slice the nearest prompted one."""
        places = np.array(sorted(self.slices))
        return places[np.abs(np.arange(len(self.outline))[:, None] - places).argmin(axis=1)]

    @property
    def signed(self) -> Floats:
        """Distance (n, h, w) from the nearest prompted outline within the slice, in radii; negative inside."""
        distances = {t: signed_distance(self.outline[t], self.steps[1:]) for t in self.slices}
        return np.stack([distances[t] for t in self.nearest.tolist()])

    def seeds(self, signed: Floats) -> tuple[MaskArray, MaskArray]:
        """What is surely inside, and outside: well within and around the outlines, and at the sides and ends of the grid."""
        inside = self.outline & (signed <= -np.minimum(BAND, -0.8 * signed.min(axis=(1, 2), keepdims=True)))
        outside = np.zeros(inside.shape, bool)
        outside[list(self.slices)] = signed[list(self.slices)] > BAND
        outside[:, [0, -1]] = outside[:, :, [0, -1]] = True
        for place, on in zip((0, -1), self.goes_on, strict=True):
            outside[place] |= on and not self.outline[place].any()
        return inside, outside & ~inside


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """Features of the working grid, those of single slices after those of voxels; together on one slice at a time."""

    voxels: Sequence[Floats]  # maps (n, h, w), the prompted axis first
    slices: Sequence[NDArray[np.floating]]  # numbers (n,) each

    def __len__(self) -> int:
        """How many slices."""
        return len(self.voxels[0])

    def __getitem__(self, t: int) -> Floats:
        """All features (h, w, F) of a slice."""
        shape_hw = self.voxels[0][t].shape
        found = [*(each[t] for each in self.voxels), *(np.broadcast_to(each[t], shape_hw) for each in self.slices)]
        return np.stack(found, axis=-1, dtype=np.float32)

    def of_slices(self, names: Sequence[str]) -> Floats:
        """Numbers (n, N) by name."""
        return np.stack([self.slices[FEATURES.index(name) - len(self.voxels)] for name in names], axis=1, dtype=np.float32)


def compute_features(what: TrackedObject, grid: Grid) -> FeatureMaps:
    """The features that the gate sees."""
    slabs = [lambda i: np.asarray(what.estimate[i], np.float32), what.grey]
    tracked, grey = (np.moveaxis(means, what.axis, 0) for means in map_on_cores(grid.means, slabs))
    confidence = what.confidence[grid.low[what.axis] : grid.high[what.axis]]
    return _features(tracked, grey, confidence, _prompted_slices(what, grid, tracked))


def logit_of(probability: Floats) -> Floats:
    """The logit of probabilities in [0, 1], finite."""
    return np.clip(np.log((probability + 1e-3) / (1 - probability + 1e-3)), -SURE, SURE)


def _prompted_slices(what: TrackedObject, grid: Grid, tracked: Floats) -> PromptedSlices:
    low, high = grid.low[what.axis], grid.high[what.axis]
    peaks = {t - low: tracked[t - low].max() for t in what.prompted if low <= t < high}
    slices = [t for t, peak in peaks.items() if peak >= max(peaks.values()) / 2]  # on the others it is said to be absent
    outline = np.zeros(tracked.shape, bool)
    outline[slices] = tracked[slices] >= np.minimum(0.5, tracked[slices].max(axis=(1, 2), keepdims=True))
    box_mm = _sides_of_boxes(what, grid)
    goes_on = low > 0, high < what.estimate.shape[what.axis]
    return PromptedSlices(slices, outline, box_mm / _radius(outline[slices], box_mm[1:]), goes_on)


def _prompted_in(what: TrackedObject, grid: Grid) -> list[int]:
    """Prompted slices of the working grid."""
    return [t - grid.low[what.axis] for t in what.prompted if grid.low[what.axis] <= t < grid.high[what.axis]]


def _sides_of_boxes(what: TrackedObject, grid: Grid) -> NDArray[np.float64]:
    """Of the working grid in mm, across the slices first."""
    order = (what.axis, *(a for a in range(3) if a != what.axis))
    return np.array([what.spacing_mm[a] * (grid.high[a] - grid.low[a]) / grid.shape[a] for a in order])


def _radius(outlines: MaskArray, box_mm: NDArray[np.float64]) -> float:
    """Three times the mean depth: the radius of a disc; about half the width of rings, of bands, of each of many parts."""
    depth = [np.asarray(ndimage.distance_transform_edt(one, sampling=box_mm))[one] for one in outlines]
    return 3 * max(float(np.concatenate(depth).mean()), float(box_mm.min()) / 3)


def _features(tracked: Floats, grey: Floats, confidence: NDArray[np.floating], prompted: PromptedSlices) -> FeatureMaps:
    smooth, signed = np.asarray(ndimage.gaussian_filter(grey, (0, 1, 1)), np.float32), prompted.signed
    slices, outlines = list(prompted.slices), prompted.outline[list(prompted.slices)]
    mean, spread = float(grey[slices][outlines].mean()), max(float(grey[slices][outlines].std()), 0.03)
    slopes = [np.square(np.gradient(smooth, axis=a)) for a in range(3) if smooth.shape[a] > 1]
    edge = np.clip(np.sqrt(np.sum(slopes, axis=0)) / (2 * spread), 0, 3)
    found = np.where(prompted.outline.any(axis=(1, 2), keepdims=True), prompted.outline, tracked > 0.5)
    alike, alike_around = (log_odds(values, prompted.outline, slices) for values in (grey, smooth))
    likely = np.asarray(1 / (1 + np.exp(-np.clip((alike + alike_around) / 2, -4, 4))), np.float32)
    followed = later(partial(_follow_outline, smooth, prompted, signed))
    ways = geodesics(path_costs(tracked, likely, edge), prompted.seeds(signed), prompted.steps.tolist())
    reliability = dice_of(likely[slices] > 0.5, outlines), _contrast(edge[slices], np.abs(signed[slices]) < BAND)
    moved, mismatch = followed.result()
    along = [
        *_slice_features(found, confidence, alike_around, ways[1] > 0, prompted.nearest),
        *np.full((2, len(grey)), [[x] for x in reliability]),
    ]
    blur = np.clip(BLUR / prompted.steps, 0.5, (1.0, 2.5, 2.5)).tolist()
    logit = logit_of(tracked)
    voxels = [
        logit / 3,
        ndimage.gaussian_filter(logit, blur) / 3,
        alike / 2,
        ndimage.gaussian_filter(alike_around, blur) / 2,
        log_odds(smooth, found, range(len(found))) / 2,
        edge / 2,
        np.clip((grey - mean) / (2 * spread), -2, 2),
        *ways,
        np.clip(signed, -1, 2),
        np.clip(moved, -1, 2),
        np.clip(ndimage.gaussian_filter(mismatch / spread, (0, 2, 2)), 0, 3) / 2,
    ]
    return FeatureMaps(voxels, along)


def _follow_outline(smooth: Floats, prompted: PromptedSlices, signed: Floats) -> tuple[Floats, Floats]:
    """Where optical flow takes the prompted outlines: the distance from them; and how unlike the greys are that meet there."""
    low, high = np.percentile(smooth[list(prompted.slices)], (1, 99))
    ways = follow_flow(np.clip((smooth - low) / (high - low + 1e-3), 0, 1), prompted.nearest.tolist())
    there = torch.from_numpy(np.stack([signed, smooth[prompted.nearest]], axis=1))
    moved, greys = shift(there, ways).numpy().swapaxes(0, 1)
    return moved, np.abs(greys - smooth)


def _slice_features(
    found: MaskArray, confidence: NDArray[np.floating], alike: Floats, reached: MaskArray, nearest: NDArray[np.int64]
) -> list[NDArray[np.floating]]:
    """How steadily the slices were tracked, each and at worst on the way from the prompt, and how like it they are."""
    ways = list(enumerate(nearest.tolist()))
    steady = np.array([1.0 if t == n else dice_of(found[t], found[t + (1 if n > t else -1)]) for t, n in ways])
    least = [np.array([each[min(t, n) : max(t, n) + 1].min() for t, n in ways]) for each in (confidence, steady)]
    grey = np.array([alike[t][found[t]].mean() if found[t].any() else -3.0 for t, _ in ways])
    return [confidence, least[0], steady, least[1], grey / 2, np.array([dice_of(reached[t], found[t]) for t, _ in ways])]


def _contrast(edge: Floats, on: MaskArray) -> float:
    """How much stronger edges are on the outline than elsewhere, in [-1, 1]."""
    return float(edge[on].mean() - edge[~on].mean()) / 3 if on.any() and not on.all() else 0.0


class Gate(nn.Sequential):
    """Features (N, F) → what is added to the logit (N, 1).

    Args:
        hidden: units of each of the two hidden layers.
        features: F.
    """

    def __init__(self, hidden: int = 16, features: int = len(FEATURES)) -> None:
        layers = nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        super().__init__(*layers)

    @classmethod
    def beside(cls, weights: Path, name: str = GATE_FILE, features: int = len(FEATURES)) -> "Gate | None":
        """The gate beside a file of weights, None where there is none; raises WeightsError if it is broken or outdated."""
        file = weights.with_name(name)
        return read_small_network(file, lambda tensors: cls(len(tensors["0.bias"]), features), "the consensus")


@dataclass(frozen=True, eq=False)
class RefinedProbability:
    """Probabilities (I, J, K) by slabs, as a fusion hands them out: the tracked ones, their logits changed in the region."""

    estimate: Fusion  # that was tracked
    grid: Grid  # of the change
    change: Floats  # of the logits, of its shape
    # slice of the prompted axis → predicted IoU in [0, 1], of the slices in the region that were not prompted
    confidence: Mapping[int, float] = field(default_factory=dict[int, float])

    def result(self) -> Floats:
        """All slabs."""
        return np.stack([self[index] for index in range(self.shape[0])])

    def uncertainty(self) -> Floats:
        """How much the views disagree; the consensus does not change it."""
        return self.estimate.uncertainty()

    @property
    def shape(self) -> tuple[int, ...]:
        """(I, J, K)."""
        return self.estimate.shape

    def __getitem__(self, index: int) -> Floats:
        """The probability (J, K) of one slab."""
        slab = np.asarray(self.estimate[index], np.float32)
        low, high = self.grid.low, self.grid.high
        if not low[0] <= index < high[0]:
            return slab
        first, second, third = (between(high[a] - low[a], self.grid.shape[a]) for a in range(3))
        change = second @ np.tensordot(first[index - low[0]], self.change, 1) @ third.T
        if not change.any():
            return slab
        slab, rows, columns = slab.copy(), slice(low[1], high[1]), slice(low[2], high[2])
        part = slab[rows, columns]
        changed = 1 / (1 + np.exp(-(logit_of(part) + change)))
        slab[rows, columns] = np.where(change == 0, part, changed)
        return slab


def apply_consensus(gate: Gate, what: TrackedObject, fusion: Fusion, judge: Gate | None = None) -> Fusion | RefinedProbability:
    """The probabilities of an object after the consensus; as they were where nothing was found on the prompted slices."""
    grid = working_grid(what)
    if grid is None:
        return fusion
    seen = compute_features(what, grid)
    change = change_of_logits(gate, what, grid, seen)
    confidence = {} if judge is None else predict_iou(judge, what, grid, refined_slices(what, grid, seen, change))
    return RefinedProbability(fusion, grid, np.ascontiguousarray(np.moveaxis(change, 0, what.axis)), confidence)


def change_of_logits(gate: Gate, what: TrackedObject, grid: Grid, seen: FeatureMaps) -> Floats:
    """What is added to the logits of the working grid (n, h, w); 0 on prompted slices."""
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):  # slice by slice: of all voxels at once it is large
        change = torch.cat(map_on_cores(lambda t: gate(torch.from_numpy(seen[t])), range(len(seen))))
    change_nhw = change.clamp(-MOST_CHANGE, MOST_CHANGE).numpy().reshape(seen.voxels[0].shape)
    change_nhw[_prompted_in(what, grid)] = 0
    return change_nhw


def refined_slices(what: TrackedObject, grid: Grid, seen: FeatureMaps, change: Floats) -> RefinedSlices:
    """The slices of the working grid before and after a change of their logits."""
    sides = _sides_of_boxes(what, grid)
    plane = [axis for axis in range(3) if axis != what.axis]
    box_px = float(np.prod([(grid.high[a] - grid.low[a]) / grid.shape[a] for a in plane]))
    known = seen.of_slices(KNOWN_OF_SLICES)
    logits = 3 * seen.voxels[0]
    return RefinedSlices(logits, logits + change, known, _prompted_in(what, grid), sides.tolist(), box_px)


def predict_iou(judge: Gate, what: TrackedObject, grid: Grid, slices: RefinedSlices) -> dict[int, float]:
    """Slice of the file → its predicted IoU in [0, 1]; not of prompted ones."""
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        sure = judge(torch.from_numpy(slices.features())).sigmoid()[:, 0].tolist()
    return {t + grid.low[what.axis]: one for t, one in enumerate(sure) if t not in slices.prompted}

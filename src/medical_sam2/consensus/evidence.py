"""What speaks for and against each voxel of the working grid: tracking, greys, edges, ways, and the slices on the way.

Shapes: n h w the working grid with the slices first, F features, M distance maps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medical_sam2.consensus.geodesics import geodesics, log_odds, signed_distance
from medical_sam2.consensus.grid import Floats, Grid, MaskArray, Tracked

SURE = 6.0  # logits are cut there
BAND = 0.25  # radii on either side of the prompted outline that are seeds of neither
BLUR = 0.25  # radii by which features are smoothed
FEATURES = (
    *("tracked", "tracked around", "grey", "grey around", "grey of all found", "edge", "lightness"),
    *("edges", "edges and greys", "all", "outline"),
    *("confidence", "least confidence", "overlap", "least overlap", "grey of slice", "agreement", "grey tells", "border tells"),
)


@dataclass(frozen=True, eq=False)
class Prompted:
    """What is known from the prompted slices, on the working grid.

    Args:
        slices: those on which the object is.
        outline: (n, h, w) the object there, nothing elsewhere.
        steps: sides of a box of the grid, in radii of the object.
        goes_on: whether the volume does, before the first slice and after the last.
    """

    slices: Sequence[int]
    outline: MaskArray
    steps: NDArray[np.float64]
    goes_on: tuple[bool, bool]

    @property
    def nearest(self) -> NDArray[np.int64]:
        """Of each slice the nearest prompted one."""
        places = np.array(sorted(self.slices))
        return places[np.abs(np.arange(len(self.outline))[:, None] - places).argmin(axis=1)]

    @property
    def signed(self) -> Floats:
        """Distance (n, h, w) from the nearest prompted outline within the slice, in radii; negative inside."""
        known = {t: signed_distance(self.outline[t], self.steps[1:]) for t in self.slices}
        return np.stack([known[t] for t in self.nearest.tolist()])

    def seeds(self, signed: Floats) -> tuple[MaskArray, MaskArray]:
        """What is surely inside, and outside: well within and around the outlines, and at the sides and ends of the grid."""
        inside = self.outline & (signed <= -np.minimum(BAND, -0.8 * signed.min(axis=(1, 2), keepdims=True)))
        outside = np.zeros(inside.shape, bool)
        outside[list(self.slices)] = signed[list(self.slices)] > BAND
        outside[:, [0, -1]] = outside[:, :, [0, -1]] = True
        for place, on in zip((0, -1), self.goes_on, strict=True):
            outside[place] |= on and not self.outline[place].any()
        return inside, outside & ~inside


def described(what: Tracked, grid: Grid) -> Floats:
    """Features (n, h, w, F) of the working grid, the prompted axis first."""
    tracked = np.moveaxis(grid.means(lambda i: np.asarray(what.estimate[i], np.float32)), what.axis, 0)
    grey = np.moveaxis(grid.means(what.grey), what.axis, 0)
    confidence = what.confidence[grid.low[what.axis] : grid.high[what.axis]]
    return _features(tracked, grey, confidence, _prompted(what, grid, tracked))


def logit_of(probability: Floats) -> Floats:
    """The logit of probabilities in [0, 1], finite."""
    return np.clip(np.log((probability + 1e-3) / (1 - probability + 1e-3)), -SURE, SURE)


def _prompted(what: Tracked, grid: Grid, tracked: Floats) -> Prompted:
    low, high = grid.low[what.axis], grid.high[what.axis]
    peaks = {t - low: tracked[t - low].max() for t in what.prompted if low <= t < high}
    slices = [t for t, peak in peaks.items() if peak >= max(peaks.values()) / 2]  # on the others it was said not to be
    outline = np.zeros(tracked.shape, bool)
    outline[slices] = tracked[slices] >= np.minimum(0.5, tracked[slices].max(axis=(1, 2), keepdims=True))
    order = (what.axis, *(a for a in range(3) if a != what.axis))
    box_mm = np.array([what.spacing_mm[a] * (grid.high[a] - grid.low[a]) / grid.shape[a] for a in order])
    goes_on = low > 0, high < what.estimate.shape[what.axis]
    return Prompted(slices, outline, box_mm / _radius(outline[slices], box_mm[1:]), goes_on)


def _radius(outlines: MaskArray, box_mm: NDArray[np.float64]) -> float:
    """Three times the mean depth: the radius of a disc; about half the width of rings, of bands, of each of many parts."""
    depth = [np.asarray(ndimage.distance_transform_edt(one, sampling=box_mm))[one] for one in outlines]
    return 3 * max(float(np.concatenate(depth).mean()), float(box_mm.min()) / 3)


def _features(tracked: Floats, grey: Floats, confidence: NDArray[np.floating], said: Prompted) -> Floats:
    smooth, signed = np.asarray(ndimage.gaussian_filter(grey, (0, 1, 1)), np.float32), said.signed
    slices, outlines = list(said.slices), said.outline[list(said.slices)]
    mean, spread = float(grey[slices][outlines].mean()), max(float(grey[slices][outlines].std()), 0.03)
    slopes = [np.square(np.gradient(smooth, axis=a)) for a in range(3) if smooth.shape[a] > 1]
    edge = np.clip(np.sqrt(np.sum(slopes, axis=0)) / (2 * spread), 0, 3)
    found = np.where(said.outline.any(axis=(1, 2), keepdims=True), said.outline, tracked > 0.5)
    alike, alike_around = (log_odds(values, said.outline, slices) for values in (grey, smooth))
    likely = np.asarray(1 / (1 + np.exp(-np.clip((alike + alike_around) / 2, -4, 4))), np.float32)
    ways = geodesics(tracked, likely, edge, said.seeds(signed), said.steps)
    tells = _dice(likely[slices] > 0.5, outlines), _contrast(edge[slices], np.abs(signed[slices]) < BAND)
    along = [
        *_of_slices(found, confidence, alike_around, ways[1] > 0, said.nearest),
        *np.full((2, len(grey)), [[x] for x in tells]),
    ]
    blur = np.clip(BLUR / said.steps, 0.5, (1.0, 2.5, 2.5)).tolist()
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
    ]
    planes = [np.broadcast_to(each[:, None, None], grey.shape) for each in along]
    return np.stack([*voxels, *planes], axis=-1, dtype=np.float32)


def _of_slices(
    found: MaskArray, confidence: NDArray[np.floating], alike: Floats, reached: MaskArray, nearest: NDArray[np.int64]
) -> list[NDArray[np.floating]]:
    """How steadily the slices were tracked, each and at worst on the way from the prompt, and how like it they are."""
    ways = list(enumerate(nearest.tolist()))
    steady = np.array([1.0 if t == n else _dice(found[t], found[t + (1 if n > t else -1)]) for t, n in ways])
    least = [np.array([each[min(t, n) : max(t, n) + 1].min() for t, n in ways]) for each in (confidence, steady)]
    grey = np.array([alike[t][found[t]].mean() if found[t].any() else -3.0 for t, _ in ways])
    return [confidence, least[0], steady, least[1], grey / 2, np.array([_dice(reached[t], found[t]) for t, _ in ways])]


def _contrast(edge: Floats, on: MaskArray) -> float:
    """How much stronger edges are on the outline than elsewhere, in [-1, 1]."""
    return float(edge[on].mean() - edge[~on].mean()) / 3 if on.any() and not on.all() else 0.0


def _dice(one: MaskArray, other: MaskArray) -> float:
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 0.0

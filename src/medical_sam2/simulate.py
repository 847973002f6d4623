"""A simulated person who prompts: where to click next, which box to draw, and how carelessly.

Clicks follow the custom of interactive segmentation: take the largest connected region where prediction and truth differ,
click its innermost point (the one farthest from the region's border), or one at random; a positive click where something
was missed, a negative one where too much was outlined.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medical_sam2.errors import GeometryError
from medical_sam2.prompts import FramePrompt, Point
from medical_sam2.volume import bounding_box

MaskArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Click:
    """Where to click."""

    index: tuple[int, ...]  # one whole number per array axis: (row, column) of a slice, (i, j, k) of a volume
    positive: bool  # whether that place belongs to the object

    def on_frame(self) -> FramePrompt:
        """The click on a slice, in pixels."""
        row, column = self.index
        return FramePrompt.click(column, row, positive=self.positive)

    def in_volume(self, object: int = 1) -> Point:
        """The click in a volume, on a voxel."""
        i, j, k = self.index
        return Point((i, j, k), object=object, positive=self.positive)


@dataclass(frozen=True)
class Noise:
    """How far a person's prompts lie from the perfect ones: 0 everywhere is a perfect hand. Lengths are relative to the object.

    Its radius on a frame is that of a disc of the same area, √(area/π).
    """

    # standard deviation of the normal error of each edge of a box, over the box's side along it; clipped to the image
    box: float = 0.0
    # standard deviation of the normal error of a click along each axis, over the radius; rounded, clipped to the image. A click
    # may so miss the object
    click: float = 0.0
    # standard deviation of the normal error of an outline, outwards or inwards, over the radius. It varies smoothly along the
    # outline: white noise, smoothed by a Gaussian of half the radius
    mask: float = 0.0


NOISE_LEVELS: Mapping[str, Noise] = {
    "none": Noise(),
    "expert": Noise(box=0.03, click=0.1, mask=0.03),
    "trained": Noise(box=0.07, click=0.2, mask=0.08),
    "lay": Noise(box=0.15, click=0.4, mask=0.15),
}
"""Levels to test robustness with: chosen, not measured on people."""


def next_click(
    truth: MaskArray,
    predicted: MaskArray,
    rng: np.random.Generator,
    *,
    spread: float = 0.0,
    spacing: Sequence[float] | None = None,
    joined: bool = False,
) -> Click | None:
    """The click that a person would give next, or None where nothing is wrong.

    Args:
        truth: bool, a slice (H, W) or a volume (I, J, K).
        predicted: the same shape.
        rng: decides between equally good places.
        spread: 0 for the innermost point of the largest wrong region; otherwise the click is drawn from that region with
            density exp(−d²/2·spread²), d the distance from that point in pixels (in units of `spacing` where given);
            `math.inf` draws from the region uniformly.
        spacing: distance of pixels along each axis; None for 1.
        joined: whether what is missed and what is too much are one region where they touch, also at an edge or a corner; else
            the larger of the largest of both is clicked on.

    Raises:
        GeometryError: the shapes differ.

    >>> truth, predicted = np.zeros((7, 7), bool), np.zeros((7, 7), bool)
    >>> truth[1:6, 1:6] = True
    >>> next_click(truth, predicted, np.random.default_rng(0))
    Click(index=(3, 3), positive=True)
    """
    if truth.shape != predicted.shape:
        raise GeometryError(f"the truth has shape {truth.shape}, the prediction {predicted.shape}", "compare them in one grid")
    if joined:
        region = _largest(truth != predicted, corners=True)
    else:
        missed, excess = _largest(truth & ~predicted), _largest(predicted & ~truth)
        region = missed if missed.size >= excess.size else excess
    if region.size == 0:
        return None
    index = _draw(region, rng, spread, np.ones(truth.ndim) if spacing is None else np.asarray(spacing, float))
    return Click(index, bool(truth[index]))


@dataclass(frozen=True, eq=False)
class _Region:
    """A connected region: its mask in a window of the array, where the window begins, and its size in voxels."""

    mask: MaskArray
    low: NDArray[np.intp]
    size: int


def _largest(wrong: MaskArray, *, corners: bool = False) -> _Region:
    """The largest component that hangs together by faces, or by edges and corners too."""
    boxes = ndimage.find_objects(wrong.view(np.uint8) if wrong.flags.c_contiguous else wrong.astype(np.uint8))
    if not boxes:
        return _Region(np.zeros((0,) * wrong.ndim, bool), np.zeros(wrong.ndim, np.intp), 0)
    parts = np.empty(wrong[boxes[0]].shape, np.int32)
    ndimage.label(wrong[boxes[0]], np.ones((3,) * wrong.ndim) if corners else None, output=parts)
    sizes = np.bincount(parts.ravel())[1:]
    label = int(sizes.argmax()) + 1
    window = ndimage.find_objects(parts)[label - 1]
    low = np.array([outer.start + inner.start for outer, inner in zip(boxes[0], window, strict=True)])
    return _Region(parts[window] == label, low, int(sizes[label - 1]))


def _draw(region: _Region, rng: np.random.Generator, spread: float, spacing: NDArray[np.float64]) -> tuple[int, ...]:
    places = np.argwhere(region.mask)
    if math.isinf(spread):
        place = rng.choice(places)
    else:
        # the image's border counts as the region's border: nobody clicks on the last pixel
        depth = _depth(np.pad(region.mask, 1), spacing)
        place = rng.choice(np.argwhere(depth == depth.max())) - 1
        if spread > 0:
            squared = (((places - place) * spacing) ** 2).sum(axis=1)
            density = np.exp(-squared / (2 * spread**2))
            place = rng.choice(places, p=density / density.sum())
    return tuple(int(along) for along in place + region.low)


def jitter_click(click: Click, truth: MaskArray, noise: Noise, rng: np.random.Generator) -> Click:
    """The click of a careless hand, see `Noise.click`; `truth` (H, W) is not empty."""
    if noise.click == 0:
        return click
    moved = np.rint(click.index + rng.normal(0, noise.click * _radius(truth), size=truth.ndim))
    inside = np.clip(moved, 0, np.array(truth.shape) - 1)
    return Click(tuple(int(along) for along in inside), click.positive)


def jitter_box(truth: MaskArray, noise: Noise, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """The box (x_low, y_low, x_high, y_high) that a careless hand draws around `truth` (H, W), not empty: see `Noise.box`."""
    rows, columns = bounding_box(truth)
    corners = np.array([[columns.start, rows.start], [columns.stop - 1, rows.stop - 1]], float)
    if noise.box > 0:
        corners += rng.normal(0, 1, (2, 2)) * noise.box * (corners[1] - corners[0] + 1)
        corners = np.sort(np.clip(corners, 0, np.array(truth.shape[::-1]) - 1), axis=0)
    (x_low, y_low), (x_high, y_high) = corners.tolist()
    return x_low, y_low, x_high, y_high


def jitter_mask(truth: MaskArray, noise: Noise, rng: np.random.Generator) -> MaskArray:
    """The outline that a careless hand draws of `truth` (H, W), not empty: see `Noise.mask`; never empty."""
    if noise.mask == 0 or truth.all():
        return truth.copy()
    radius = _radius(truth)
    outwards = np.where(truth, 0.5 - _depth(truth, (1, 1)), _depth(~truth, (1, 1)) - 0.5)  # 0 on the line between pixels
    drawn = outwards < _smooth_noise(truth.shape, radius / 2, rng) * noise.mask * radius
    return drawn if drawn.any() else truth.copy()


def _smooth_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Normal noise of deviation 1 at each pixel, correlated over `sigma` pixels; it wraps around at the borders."""
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), sigma, mode="wrap")
    kernels = (ndimage.gaussian_filter1d(np.eye(1, size)[0], sigma, mode="wrap") for size in shape)
    return smooth / math.prod(float(np.linalg.norm(kernel)) for kernel in kernels)


def _radius(truth: MaskArray) -> float:
    return math.sqrt(np.count_nonzero(truth) / math.pi)


def _depth(mask: MaskArray, spacing: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each element of the mask from what lies outside of it."""
    return np.asarray(ndimage.distance_transform_edt(mask, spacing))


def draw_scribble(truth: MaskArray, share: float = 0.8) -> list[tuple[float, float]]:
    """Places (x, y) along the middle of the largest part of an object (H, W), not empty: `share` of its length."""
    region = _largest(truth)
    places, depth = np.argwhere(region.mask), _depth(np.pad(region.mask, 1), (1, 1))[1:-1, 1:-1][region.mask]
    along = _principal_axis(places)
    low, high = along.min() + (1 - share) / 2 * np.ptp(along), along.max() - (1 - share) / 2 * np.ptp(along)
    bins = np.round(along).astype(int)
    chosen: list[tuple[float, float]] = []
    for step in range(math.floor(low), math.ceil(high) + 1):
        here = np.flatnonzero((bins == step) & (along >= low) & (along <= high))
        if len(here):
            y, x = places[here[depth[here].argmax()]] + region.low
            chosen.append((float(x), float(y)))
    if not chosen:
        y, x = places[depth.argmax()] + region.low
        chosen = [(float(x), float(y))]
    return chosen


def draw_lasso(truth: MaskArray) -> list[tuple[float, float]]:
    """Corners (x, y) of the outline of the largest part of an object (H, W), not empty, along the edges of its pixels."""
    region = _largest(truth)
    filled = np.pad(np.asarray(ndimage.binary_fill_holes(region.mask)), 1)
    onwards: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for (dy, dx), begin, end in (
        ((-1, 0), (0, 0), (0, 1)),
        ((0, 1), (0, 1), (1, 1)),
        ((1, 0), (1, 1), (1, 0)),
        ((0, -1), (1, 0), (0, 0)),
    ):
        for y, x in np.argwhere(filled & ~np.roll(filled, (-dy, -dx), (0, 1))).tolist():
            onwards.setdefault((y + begin[0], x + begin[1]), []).append((y + end[0], x + end[1]))
    # one way along all edges (Hierholzer): where the outline touches itself, the even-odd rule does not mind the order
    waiting, line = [next(iter(onwards))], list[tuple[int, int]]()
    while waiting:
        if onwards.get(waiting[-1]):
            waiting.append(onwards[waiting[-1]].pop())
        else:
            line.append(waiting.pop())
    (top, left), (height, width) = region.low, truth.shape
    return [(min(x - 1.5 + left, width - 0.51), min(y - 1.5 + top, height - 0.51)) for y, x in line[:-1]]


def draw_diameters(truth: MaskArray) -> list[tuple[float, float]]:
    """Ends (x, y) of the longest diameter of the largest part of an object (H, W), not empty, and of the longest one across.

    As RECIST measures, between the centres of pixels; all four ends where the object has a width.
    """
    region = _largest(truth)
    rim = np.argwhere(region.mask & ~np.asarray(ndimage.binary_erosion(region.mask), bool))[:, ::-1].astype(float)
    squared = ((rim[:, None] - rim[None]) ** 2).sum(axis=2)
    one, other = np.unravel_index(int(squared.argmax()), squared.shape)
    direction = (rim[other] - rim[one]) / max(math.sqrt(squared[one, other]), 1e-9)
    along, across = np.round(rim @ direction).astype(int), rim @ np.array([-direction[1], direction[0]])
    chords = [np.flatnonzero(along == step) for step in np.unique(along)]
    widest = max(chords, key=lambda here: float(np.ptp(across[here])))
    ends = [rim[one], rim[other], rim[widest[across[widest].argmin()]], rim[widest[across[widest].argmax()]]]
    left_top = region.low[::-1]
    places = [(float(x), float(y)) for x, y in np.array(ends) + left_top]
    return places if np.ptp(across[widest]) > 0 else places[:2]


def _principal_axis(places: NDArray[np.intp]) -> NDArray[np.float64]:
    """How far each place (N, 2) lies along the longest direction of all."""
    centred = places - places.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    return np.asarray(centred @ axes[0])

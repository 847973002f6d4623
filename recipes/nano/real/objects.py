"""Objects that an image itself suggests: between Otsu's thresholds, in basins of its gradient, of supervoxels.

Works on volumes (D, H, W) and on pictures (H, W) alike.
"""

from collections.abc import Callable, Sequence

import numpy as np
import SimpleITK
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medical_sam2.data.cases import Task

Mask = NDArray[np.bool_]
Regions = NDArray[np.int64]
LEAST_AREA = 0.004  # of a slice, on the slice where an object is largest
MOST = 0.35  # of the image
RAGGED = 6.0  # border² / (4π area) on the slice where an object is largest; 1 for a disc, 2.5 for an ellipse of 1:6
FRAME = 0.15  # of the image's edge, which only what surrounds everything takes up
DARK = 10.0  # grey levels under which what reaches the edge is air outside of the body
MANY = 255


def _image(grey: NDArray[np.float32]) -> SimpleITK.Image:
    """For SimpleITK, with few slices further apart than pixels."""
    image = SimpleITK.GetImageFromArray(grey)
    if grey.ndim == 3:
        image.SetSpacing((1.0, 1.0, float(np.clip(0.5 * grey.shape[-1] / len(grey), 1, 4))))
    return image


def bands(rng: np.random.Generator, grey: NDArray[np.float32], *, connected: bool = True) -> Regions:
    """What lies between thresholds that Otsu's method finds; each connected piece is a region, or each band is."""
    smooth = SimpleITK.SmoothingRecursiveGaussian(_image(grey), [float(rng.uniform(0.6, 2))] * grey.ndim)
    found = SimpleITK.OtsuMultipleThresholds(smooth, int(rng.integers(1, 5)))
    if not connected:
        return SimpleITK.GetArrayFromImage(found).astype(np.int64) + 1
    levels = SimpleITK.GetArrayFromImage(found)
    regions = np.zeros(grey.shape, np.int64)
    for level in range(int(levels.max()) + 1):
        pieces = _pieces(levels == level)
        regions += np.where(pieces > 0, pieces + regions.max(), 0)
    return regions


def basins(rng: np.random.Generator, grey: NDArray[np.float32]) -> Regions:
    """Watershed of the gradient; the shallower ones flow together."""
    slope = SimpleITK.GradientMagnitudeRecursiveGaussian(_image(grey), float(rng.uniform(0.8, 2.5)))
    height = float(np.quantile(SimpleITK.GetArrayViewFromImage(slope), rng.uniform(0.6, 0.93)))
    return SimpleITK.GetArrayFromImage(SimpleITK.MorphologicalWatershed(slope, height, markWatershedLine=False)).astype(
        np.int64
    )


def superpixels(rng: np.random.Generator, grey: NDArray[np.float32]) -> Regions:
    """SLIC's supervoxels, neighbours of like intensity merged."""
    side = float(np.exp(rng.uniform(np.log(5), np.log(14))))
    sides = [max(1, round(min(side, n / 8))) for n in reversed(grey.shape)]
    filtered = SimpleITK.SLIC(_image(grey), superGridSize=sides, spatialProximityWeight=float(rng.uniform(3, 12)))
    return merged(SimpleITK.GetArrayFromImage(filtered).astype(np.int64), grey, float(rng.uniform(5, 16)))


def merged(regions: Regions, grey: NDArray[np.float32], step: float) -> Regions:
    """Regions joined with their neighbours of nearly the same mean, those within `step` grey levels."""
    count = int(regions.max()) + 1
    sizes = np.bincount(regions.ravel(), minlength=count)
    means = np.bincount(regions.ravel(), grey.ravel(), minlength=count) / np.maximum(sizes, 1)
    pairs: list[NDArray[np.int64]] = []
    for axis in range(regions.ndim):
        one, other = (np.take(regions, range(start, n), axis) for start, n in _neighbours(regions.shape[axis]))
        pairs.append(np.unique(one[one != other] * count + other[one != other]))
    first, second = np.divmod(np.unique(np.concatenate(pairs)), count)
    alike = np.abs(means[first] - means[second]) < step
    graph = coo_array((np.ones(alike.sum(), np.int8), (first[alike], second[alike])), shape=(count, count))
    return connected_components(graph, directed=False)[1][regions].astype(np.int64)


def _pieces(mask: Mask) -> Regions:
    """Numbers of the connected pieces, 0 outside."""
    pieces = np.zeros(mask.shape, np.int64)
    ndimage.label(mask, output=pieces)
    return pieces


def _neighbours(size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (0, size - 1), (1, size)


METHODS: tuple[Callable[[np.random.Generator, NDArray[np.float32]], Regions], ...] = (bands, basins, superpixels)


def objects_in(rng: np.random.Generator, grey: NDArray[np.float32], count: int, *, groups: float = 0.0) -> list[Mask]:
    """Up to `count` objects of plausible sizes, found by two of the methods; they may overlap.

    Args:
        rng: every choice comes from it.
        grey: (D, H, W) or (H, W), from 0 to 255.
        count: objects at most.
        groups: odds that whole bands, of any number of pieces, are among the objects.
    """
    found: list[Mask] = []
    for method in rng.permutation(len(METHODS))[:2]:
        found += _some(rng, grey, METHODS[method](rng, grey), count // 2)
    if rng.uniform() < groups:
        found += _some(rng, grey, bands(rng, grey, connected=False), 2, whole=True)
    return [found[k] for k in rng.permutation(len(found))[:count]]


def _some(
    rng: np.random.Generator, grey: NDArray[np.float32], regions: Regions, count: int, *, whole: bool = False
) -> list[Mask]:
    """Some of the regions, larger ones rather than smaller ones."""
    sizes = np.bincount(regions.ravel()).astype(float)
    slice_px = regions.shape[-1] * regions.shape[-2]
    fit = np.flatnonzero((sizes >= LEAST_AREA * slice_px * (1 if regions.ndim == 2 else 4)) & (sizes <= MOST * regions.size))
    if not len(fit):
        return []
    weights = sizes[fit] ** 0.6
    order = rng.choice(fit, min(3 * count, len(fit)), replace=False, p=weights / weights.sum())
    boxes = ndimage.find_objects(regions + 1)
    made: list[Mask] = []
    for region in order:
        if len(made) == count:
            break
        mask = _tidied(rng, regions, int(region), boxes[region], whole=whole)
        frame = FRAME if mask.any() and grey[mask].mean() > DARK else FRAME / 8
        if plausible(mask, ragged=40.0 if whole or rng.uniform() < 0.1 else RAGGED, frame=frame):
            made.append(mask)
    return made


def plausible(mask: Mask, *, ragged: float = RAGGED, frame: float = FRAME) -> bool:
    """Whether it is large enough to see, compact enough to mean something, and not what surrounds everything else."""
    slices = mask.reshape(-1, *mask.shape[-2:])
    largest = slices[slices.sum(axis=(1, 2)).argmax()]
    area = int(largest.sum())
    if area < LEAST_AREA * largest.size:
        return False
    inner = np.asarray(ndimage.binary_erosion(largest, border_value=1), bool)
    border = int((largest & ~inner).sum())
    edge = np.concatenate([slices[:, [0, -1]].ravel(), slices[:, :, [0, -1]].ravel()])
    return border**2 / (4 * np.pi * area) < ragged and bool(edge.mean() < frame)


def _tidied(rng: np.random.Generator, regions: Regions, region: int, box: tuple[slice, ...], *, whole: bool) -> Mask:
    """A region as somebody would outline it: smooth, without holes, in one piece."""
    wide = tuple(slice(max(0, side.start - 4), side.stop + 4) for side in box)
    sigmas = np.full(regions.ndim, rng.uniform(0.7, 1.7))
    if regions.ndim == 3:
        sigmas[0] *= min(1.0, 1.5 * len(regions) / regions.shape[-1])
    piece: Mask = np.asarray(ndimage.gaussian_filter((regions[wide] == region).astype(np.float32), sigmas, truncate=2.5)) > 0.5
    if not whole and piece.any():
        cross = ndimage.generate_binary_structure(2, 1).reshape((1,) * (regions.ndim - 2) + (3, 3))
        bridges = int(rng.integers(0, 5))  # as wide are cut off
        open_ = np.asarray(ndimage.binary_opening(piece, cross, bridges), bool) if bridges else piece
        piece = open_ if open_.any() else piece
        pieces = _pieces(piece)
        piece = np.asarray(ndimage.binary_fill_holes(pieces == np.argmax(np.bincount(pieces.ravel())[1:]) + 1), bool)
    mask = np.zeros(regions.shape, bool)
    mask[wide] = piece
    return mask


def outlined(masks: Sequence[Mask], shape: Sequence[int]) -> tuple[NDArray[np.uint8], tuple[Task, ...]]:
    """Objects that may overlap as one map of labels and the unions that give them back; the last are left out if it is full."""
    codes = np.zeros(shape, np.uint32)
    for bit, mask in enumerate(masks):
        codes |= mask.astype(np.uint32) << np.uint32(bit)
    values, labels = np.unique(codes, return_inverse=True)
    if len(values) > MANY:
        return outlined(masks[:-1], shape)
    if values[0] != 0:
        values, labels = np.concatenate([[0], values]), labels + 1
    tasks = [tuple(int(label) for label in np.flatnonzero(values >> bit & 1)) for bit in range(len(masks))]
    return labels.reshape(tuple(shape)).astype(np.uint8), tuple(task for task in tasks if task)

"""From slice to slice: the outline of one slice becomes that of the next, outwards from the prompted one.

Shapes: T slices, h w pixels of the working grid.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import random_walker

Floats = NDArray[np.float32]
MaskArray = NDArray[np.bool_]
Step: TypeAlias = Callable[[Floats, Floats, Floats], Floats]
"""(a slice, its outline in [0, 1], the next slice) → the outline of the next slice in [0, 1]."""


def outwards(step: Step, stack_thw: Floats, start: int, mask_hw: MaskArray) -> Floats:
    """Outlines (T, h, w) in [0, 1] of all slices; once nothing is left, nothing comes back.

    Args:
        step: from one slice to the next.
        stack_thw: (T, h, w) in [0, 1].
        start: the prompted slice.
        mask_hw: (h, w) its outline.
    """
    found = np.zeros(stack_thw.shape, np.float32)
    found[start] = mask_hw
    for way in (range(start + 1, len(stack_thw)), range(start - 1, -1, -1)):
        before = start
        for t in way:
            if (found[before] >= 0.5).sum() < 2:
                break
            found[t] = step(stack_thw[before], found[before], stack_thw[t])
            before = t
    return found


def registered(before_hw: Floats, outline_hw: Floats, next_hw: Floats, *, smoothing: float = 1.0, rounds: int = 20) -> Floats:
    """Deformable registration (SimpleITK, symmetric-forces demons at two resolutions); the outline moves along.

    Args:
        before_hw: a slice.
        outline_hw: its outline.
        next_hw: the next slice.
        smoothing: standard deviation in pixels by which the displacement is smoothed in each round.
        rounds: of demons, at each resolution.
    """
    moving, fixed = (sitk.GetImageFromArray(picture) for picture in (before_hw, next_hw))
    field = displacement(fixed, moving, smoothing=smoothing, rounds=rounds)
    transform = sitk.DisplacementFieldTransform(field)
    return moved(outline_hw, fixed, transform)


def displacement(
    fixed: sitk.Image, moving: sitk.Image, *, smoothing: float, rounds: int, initial: sitk.Image | None = None
) -> sitk.Image:
    """Demons at half and full resolution; a grid of fewer than 32 pixels at full resolution alone."""
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetNumberOfThreads(1)  # more only get into each other's way on pictures of this size
    demons.SetNumberOfIterations(rounds)
    demons.SetStandardDeviations(smoothing)
    field = initial
    for shrink in (2, 1):
        if shrink == 2 and min(fixed.GetSize()) < 32:
            continue
        coarse = [_halved(image) if shrink == 2 else image for image in (fixed, moving)]
        first = [] if field is None else [sitk.Resample(field, coarse[0])]
        field = demons.Execute(*coarse, *first)
    return sitk.Cast(sitk.Resample(field, fixed), sitk.sitkVectorFloat64)


def _halved(image: sitk.Image) -> sitk.Image:
    return sitk.Shrink(sitk.DiscreteGaussian(image, [1.0, 1.0]), [2, 2])


def moved(outline_hw: Floats, fixed: sitk.Image, transform: sitk.Transform) -> Floats:
    """An outline as it lies on the fixed picture."""
    outline = sitk.GetImageFromArray(np.ascontiguousarray(outline_hw, np.float32))
    return sitk.GetArrayFromImage(sitk.Resample(outline, fixed, transform, sitk.sitkLinear, 0.0))


def walked(before_hw: Floats, outline_hw: Floats, next_hw: Floats, *, band: float = 0.25, beta: float = 500.0) -> Floats:
    """Random walker (scikit-image) on the next slice: seeds are the last outline, shrunk, and what lies well outside of it.

    Args:
        before_hw: a slice.
        outline_hw: its outline.
        next_hw: the next slice.
        band: pixels that are left to decide on either side of the outline, over its radius √(area/π); at least one.
        beta: how hard it is to walk over an edge.
    """
    seeds = seeded(outline_hw >= 0.5, band)
    if not {0, 1, 2} <= set(np.unique(seeds).tolist()) or np.ptp(next_hw) == 0:
        return outline_hw
    return walk(next_hw, seeds, beta=beta)


def walk(picture: Floats, seeds: NDArray[np.int32], *, beta: float) -> Floats:
    """The probability of seed 1 at each pixel (h, w) of a picture (h, w) or (h, w, 3); 0, 1 and 2 are all among the seeds."""
    colours = None if picture.ndim == seeds.ndim else -1
    # its solver is stopped early: it may overshoot a little, and says so
    found = random_walker(picture, seeds, beta=beta, mode="cg_j", return_full_prob=True, prob_tol=1.0, channel_axis=colours)
    return np.clip(found[0], 0, 1).astype(np.float32)


def seeded(mask_hw: MaskArray, band: float) -> NDArray[np.int32]:
    """1 inside a mask, 2 outside, 0 in the band between; the innermost pixels are seeds however thin the mask."""
    inside, outside = (np.asarray(ndimage.distance_transform_edt(each)) for each in (mask_hw, ~mask_hw))
    width = max(1.0, band * float(np.sqrt(mask_hw.sum() / np.pi)))
    seeds = np.zeros(mask_hw.shape, np.int32)
    seeds[inside > min(width, float(inside.max()) - 0.5)] = 1
    seeds[outside > width] = 2
    return seeds

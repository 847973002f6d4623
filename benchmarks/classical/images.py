"""Classical methods on a set of images: one image and its outline are the template, each other image is outlined like it.

Their settings were chosen on synthetic sets (seed 777_100_001), never on real ones.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import cv2
import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from classical.colours import Colours
from classical.geodesic import grow_cut, smoothed
from classical.propagate import displacement, moved, walk
from classical.working import fitting, resized

Floats = NDArray[np.float32]
MaskArray = NDArray[np.bool_]
OnImage: TypeAlias = Callable[[Floats], MaskArray]
"""A picture (H, W) or (H, W, 3) in [0, 1] → its outline (H, W)."""
OnSet: TypeAlias = Callable[[Floats, MaskArray], OnImage]
"""A template in [0, 1] and its outline, not empty → what outlines the other pictures."""

SIDE = 128  # pixels of a picture, at most, for registration, random walker and GrowCut
FINE = 256  # and for the classifier
SURE = 0.8  # likeness from which a pixel is a seed; less than one minus it is a seed of the background


def copied(template: Floats, mask_hw: MaskArray) -> OnImage:
    """The same outline on every picture, stretched to its size."""
    return lambda picture: resized(mask_hw, _shape(picture)) >= 0.5


def registered(template: Floats, mask_hw: MaskArray) -> OnImage:
    """Affine registration by mutual information, then symmetric-forces demons (SimpleITK), of grey pictures."""
    square = (SIDE, SIDE)
    moving, outline = _grey(template, square), resized(mask_hw, square)

    def on(picture: Floats) -> MaskArray:
        fixed = _grey(picture, square)
        alike = sitk.HistogramMatching(moving, fixed, 64, 7)
        transform = sitk.CompositeTransform(2)
        transform.AddTransform(_affine(fixed, alike))
        turned = sitk.Resample(alike, fixed, transform, sitk.sitkLinear, 0.0)
        transform.AddTransform(sitk.DisplacementFieldTransform(displacement(fixed, turned, smoothing=2.0, rounds=20)))
        return resized(moved(outline, fixed, transform), _shape(picture)) >= 0.5

    return on


def colours(template: Floats, mask_hw: MaskArray) -> OnImage:
    """What has the colours of the object."""
    likeness = _learnt(template, mask_hw)
    return lambda picture: resized(likeness(picture), _shape(picture)) >= 0.5


def walked(template: Floats, mask_hw: MaskArray) -> OnImage:
    """The random walker (scikit-image) between the pixels that the classifier is sure of."""
    return _between(template, mask_hw, lambda picture, seeds: walk(picture, seeds, beta=500.0) >= 0.5)


def grown_cut(template: Floats, mask_hw: MaskArray) -> OnImage:
    """GrowCut between the pixels that the classifier is sure of."""
    return _between(template, mask_hw, lambda picture, seeds: smoothed(grow_cut(picture, seeds, (1.0, 1.0)) == 1))


def _between(template: Floats, mask_hw: MaskArray, decide: Callable[[Floats, NDArray[np.int32]], MaskArray]) -> OnImage:
    likeness = _learnt(template, mask_hw)

    def on(picture: Floats) -> MaskArray:
        shape = fitting(_shape(picture), SIDE)
        likely = resized(likeness(picture), shape)
        seeds = np.where(likely > SURE, 1, np.where(likely < 1 - SURE, 2, 0)).astype(np.int32)
        seen = resized(picture, shape)
        decidable = {0, 1, 2} <= set(np.unique(seeds).tolist()) and np.ptp(seen) > 0
        found = decide(seen, seeds) if decidable else likely >= 0.5
        return resized(found, _shape(picture)) >= 0.5

    return on


def _learnt(template: Floats, mask_hw: MaskArray) -> Callable[[Floats], Floats]:
    shape = fitting(_shape(template), FINE)
    inside = resized(mask_hw, shape)
    learnt = Colours.learnt(resized(template, shape), inside >= min(0.5, float(inside.max())))
    return lambda picture: learnt.likeness(resized(picture, fitting(_shape(picture), FINE)))


def _affine(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.25, 1)  # the seed: the clock unless told
    method.SetNumberOfThreads(1)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 60)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2])
    method.SetSmoothingSigmasPerLevel([2, 1])
    first = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(2), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method.SetInitialTransform(first, inPlace=False)
    try:
        return method.Execute(fixed, moving)
    except RuntimeError:  # pictures that lie too far apart to compare: left where they are
        return first


def _grey(picture: Floats, shape_hw: tuple[int, int]) -> sitk.Image:
    light = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY) if picture.ndim == 3 else picture
    return sitk.GetImageFromArray(resized(np.asarray(light), shape_hw))


def _shape(picture: NDArray[np.generic]) -> tuple[int, int]:
    return picture.shape[0], picture.shape[1]


IMAGE_METHODS: Mapping[str, OnSet] = {
    "copy": copied,
    "registration": registered,
    "random walker": walked,
    "classifier": colours,
    "grow cut": grown_cut,
}

"""How well a prediction agrees with the truth: overlap, surface distances in mm, volume.

The rules for empty masks, the same for every measure:

- truth and prediction empty: nan, "left out". It says nothing about a model, so it is never a perfect score; leave it out
  of a mean (`np.nanmean`).
- exactly one empty: the worst value, 0 for an overlap, inf for a distance or an error (-1 for a volume that was missed). MONAI
  gives nan for the distance, which would hide a structure that was missed altogether.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import GeometryError, InputError
from medical_sam2.volume import bounding_box, check_array

Mask = NDArray[np.bool_]
ROUNDING = 1e-9  # three voxels of 0.1 mm are 0.3 mm, whatever their sum is in binary


@dataclass(frozen=True)
class Scores:
    """All measures of one object."""

    dice: float  # Dice coefficient in [0, 1]
    iou: float  # intersection over union in [0, 1]
    hausdorff95_mm: float  # the larger of the two directed 95th percentiles of the surface distances
    surface_dice: float  # share of both surfaces within the tolerance of the other one, in [0, 1]
    volume_error: float  # relative and signed, 0 is perfect, -1 nothing found


def score(truth: Mask, predicted: Mask, spacing_mm: Sequence[float], *, tolerance_mm: float = 1.0) -> Scores:
    """All measures of one object, with the surface distances computed once.

    Args:
        truth: bool, any number of dimensions; other dtypes count as true where not zero.
        predicted: the same shape.
        spacing_mm: distance of voxel centres along each axis.
        tolerance_mm: surface distance that counts as agreement in the surface Dice.

    Raises:
        GeometryError: the shapes differ or the spacing does not fit.
        InputError: masks that are no arrays of numbers; a tolerance that is negative, or no number.
    """
    truth, predicted = _pair(truth, predicted)
    _check_tolerance(tolerance_mm)
    distances = surface_distances(truth, predicted, spacing_mm)
    return Scores(
        dice=dice(truth, predicted),
        iou=iou(truth, predicted),
        hausdorff95_mm=_larger_percentile(distances),
        surface_dice=_share_within(distances, tolerance_mm),
        volume_error=volume_error(truth, predicted),
    )


def dice(truth: Mask, predicted: Mask) -> float:
    """Dice coefficient 2|A∩B| / (|A| + |B|), in [0, 1].

    >>> dice(np.array([True, True, False]), np.array([True, False, False]))
    0.6666666666666666
    """
    both, one, other = _counts(truth, predicted)
    return 2 * both / (one + other) if one + other else math.nan


def iou(truth: Mask, predicted: Mask) -> float:
    """Intersection over union |A∩B| / |A∪B|, in [0, 1]."""
    both, one, other = _counts(truth, predicted)
    return both / (one + other - both) if one + other else math.nan


def volume_error(truth: Mask, predicted: Mask) -> float:
    """Relative volume error (|B| − |A|) / |A| with A the truth: positive where too much was outlined."""
    _, one, other = _counts(truth, predicted)
    if one:
        return (other - one) / one
    return math.inf if other else math.nan


def hausdorff95(truth: Mask, predicted: Mask, spacing_mm: Sequence[float]) -> float:
    """95 % Hausdorff distance in mm, as MONAI defines it: the larger of the two directed 95th percentiles.

    Other libraries pool both directions, or average them, and report other figures for the same masks.

    >>> truth, predicted = np.zeros((2, 9, 9), bool)
    >>> truth[2:5, 2:5] = predicted[2:5, 3:6] = True
    >>> hausdorff95(truth, predicted, spacing_mm=(1.0, 0.5))
    0.5
    """
    return _larger_percentile(surface_distances(truth, predicted, spacing_mm))


def surface_dice(truth: Mask, predicted: Mask, spacing_mm: Sequence[float], tolerance_mm: float) -> float:
    """Share of the surface voxels of both masks within `tolerance_mm` of the other surface, in [0, 1]; raises as `score`."""
    _check_tolerance(tolerance_mm)
    return _share_within(surface_distances(truth, predicted, spacing_mm), tolerance_mm)


def surface_distances(
    truth: Mask, predicted: Mask, spacing_mm: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances in mm from each surface voxel of the truth to the predicted surface, and back.

    The surface is what erosion by the face neighbours removes; beyond the image's border lies background. Both arrays
    are empty where both masks are; where one mask is empty, so is its own array, and the other one is inf throughout.

    A k-d tree over the surface voxels is exact, and faster than distance transforms of the cropped masks: 0.35 s
    against 1.35 s for an organ of 100×200×250 voxels, 0.5 s against 7 s where the two masks lie far apart.
    """
    truth, predicted = _pair(truth, predicted)
    spacing = np.asarray(spacing_mm, np.float64)
    if spacing.shape != (truth.ndim,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise GeometryError(f"spacing {tuple(spacing_mm)} does not fit a {truth.ndim}D mask", "give positive mm for each axis")
    one, other = (np.argwhere(_surface(mask)) * spacing for mask in _crop(truth, predicted))
    return _nearest(one, other), _nearest(other, one)


def _nearest(points_mm: NDArray[np.float64], others_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(points_mm) == 0 or len(others_mm) == 0:
        return np.full(len(points_mm), np.inf)
    from scipy.spatial import KDTree  # a third of a second to load: tracking measures without distances

    return KDTree(others_mm, leafsize=32).query(points_mm)[0]


def _larger_percentile(distances: tuple[NDArray[np.float64], NDArray[np.float64]]) -> float:
    filled = [each for each in distances if len(each)]
    if not filled:
        return math.nan
    # interpolating between infinities gives nan, so a mask that is missed altogether is answered before
    return max(float(np.percentile(each, 95)) if np.isfinite(each[0]) else math.inf for each in filled)


def _share_within(distances: tuple[NDArray[np.float64], NDArray[np.float64]], tolerance_mm: float) -> float:
    pooled = np.concatenate(distances)
    return float(np.mean(pooled <= tolerance_mm * (1 + ROUNDING))) if len(pooled) else math.nan


def _check_tolerance(tolerance_mm: float) -> None:
    if not (isinstance(tolerance_mm, Real) and tolerance_mm >= 0):  # NaN is not, either
        raise InputError(f"a tolerance of {repr(tolerance_mm)[:40]} mm is none", "give 0 or more")


def _surface(mask: Mask) -> Mask:
    """Voxels of the mask with a face neighbour outside: shifted views are eight times faster than scipy's erosion."""
    padded, inner = np.pad(mask, 1), mask.copy()
    for axis, size in enumerate(mask.shape):
        for start in (0, 2):
            window = [slice(1, -1)] * mask.ndim
            window[axis] = slice(start, start + size)
            inner &= padded[tuple(window)]
    return mask & ~inner


def _crop(one: Mask, other: Mask) -> tuple[Mask, Mask]:
    """Both masks, cropped to the box around everything in either."""
    box = bounding_box(one | other)
    return one[box], other[box]


def _counts(truth: Mask, predicted: Mask) -> tuple[int, int, int]:
    truth, predicted = _pair(truth, predicted)
    return int(np.count_nonzero(truth & predicted)), int(np.count_nonzero(truth)), int(np.count_nonzero(predicted))


def _pair(truth: Mask, predicted: Mask) -> tuple[Mask, Mask]:
    for mask in (truth, predicted):
        check_array(mask, "mask", "biuf")
    if truth.shape != predicted.shape:
        raise GeometryError(f"the truth has shape {truth.shape}, the prediction {predicted.shape}", "compare them in one grid")
    return truth.astype(bool, copy=False), predicted.astype(bool, copy=False)

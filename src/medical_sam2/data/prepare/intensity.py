"""Intensities: clipped as their modality asks for, then minus mean over standard deviation; and as grey levels to train on.

The order of METHOD §4: crop to non-zero, clip, normalise; inside the mask of non-zero alone where cropping took away a quarter
or more.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medical_sam2.errors import FormatError
from medical_sam2.intensity_window import PERCENTILES, Window

CLIPPED = {"MR", "DX", "CR", "XA", "RF", "CBCT", "US", "IVUS", "MG", "OCT", "OPT"}
"""MR, X-ray (cone-beam CT among it: no Hounsfield units), ultrasound, mammography, optical coherence tomography."""
HOUNSFIELD = "CT"
MUCH = 0.75  # of the voxels are left: from here on, what is left decides
Rule = Literal["window", "percentiles", "whole"]


def rule_for(modality: str) -> Rule:
    """What is clipped: CT by window and foreground, MR and its like by percentiles, the rest not at all."""
    if modality == HOUNSFIELD:
        return "window"
    return "percentiles" if modality in CLIPPED else "whole"


@dataclass(frozen=True)
class Levels:
    """How the intensities of an image were changed.

    Args:
        low: intensities under it were raised to it; it becomes black.
        high: likewise, white.
        mean: subtracted.
        std: divided by.
    """

    low: float
    high: float
    mean: float
    std: float

    def normalise(self, array: NDArray[Any], inside: NDArray[np.bool_] | None) -> NDArray[np.float32]:
        """Clipped, minus mean, over standard deviation; 0 outside of the mask."""
        z = ((np.clip(array.astype(np.float64), self.low, self.high) - self.mean) / self.std).astype(np.float32)
        if inside is not None:
            z[~inside] = 0
        return z

    def grey(self, array: NDArray[Any]) -> NDArray[np.uint8]:
        """The same intensities from black to white."""
        return Window(self.low, self.high).as_bytes(array)


def levels_of(array: NDArray[Any], inside: NDArray[np.bool_] | None, rule: Rule) -> Levels:
    """The levels of one image by itself.

    Raises:
        FormatError: all its intensities are the same.
    """
    values = (array if inside is None else array[inside]).astype(np.float64).ravel()
    low, high = (
        float(x) for x in (np.percentile(values, PERCENTILES) if rule == "percentiles" else (values.min(), values.max()))
    )
    if high <= low:
        low, high = float(values.min()), float(values.max())
    clipped = np.clip(values, low, high)
    std = float(clipped.std(dtype=np.float64))
    if std == 0:
        raise FormatError("all its intensities are the same: there is nothing to see", "remove or replace the image")
    return Levels(low, high, float(clipped.mean(dtype=np.float64)), std)


@dataclass(frozen=True)
class ContentBox:
    """The box around what is not zero.

    Args:
        box: slices of each axis.
        inside: within the box, what is not zero with its holes filled; None where cropping took away little.
    """

    box: tuple[slice, ...]
    inside: NDArray[np.bool_] | None


def cut_to_content(images: Sequence[NDArray[Any]], labels: NDArray[Any] | None) -> ContentBox:
    """Where any channel is not zero; labels are never cut off.

    Raises:
        FormatError: everything is zero.
    """
    content = np.logical_or.reduce([image != 0 for image in images])
    kept = content if labels is None else content | (labels > 0)
    if not content.any():
        raise FormatError("all its intensities are zero: there is nothing to see", "remove or replace the image")
    box = tuple(_nonzero_extent(kept, axis) for axis in range(kept.ndim))
    inner = kept[box]
    filled = None if inner.size > MUCH * kept.size else np.asarray(ndimage.binary_fill_holes(inner), bool)
    return ContentBox(box, filled)


def _nonzero_extent(mask: NDArray[np.bool_], axis: int) -> slice:
    found = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
    return slice(int(found[0]), int(found[-1]) + 1)


BINS = 4096


@dataclass(frozen=True, eq=False)
class ForegroundHistogram:
    """Counts of foreground voxels within a window; histograms add up, in any order, to the same sum.

    Args:
        counts: (BINS,) voxels of each bin, from the low to the high end of the window.
    """

    counts: NDArray[np.int64]

    @classmethod
    def of(cls, values: NDArray[Any], window_hu: tuple[float, float]) -> "ForegroundHistogram":
        """The histogram of these values, clipped to the window."""
        clipped = np.clip(values.astype(np.float32), *window_hu)
        return cls(np.histogram(clipped, BINS, range=window_hu)[0].astype(np.int64))


def levels_of_all(histograms: Iterable[ForegroundHistogram], window_hu: tuple[float, float]) -> Levels:
    """Percentiles of the foreground of all cases, and its mean and standard deviation between them.

    Raises:
        FormatError: no case has a foreground, or all of it has one intensity.
    """
    counts = sum((histogram.counts for histogram in histograms), np.zeros(BINS, np.int64))
    total = int(counts.sum())
    if total == 0:
        raise FormatError("no case has a voxel to take the scale of the CT from", "check the images and labels")
    low_hu, high_hu = window_hu
    centres = low_hu + (np.arange(BINS) + 0.5) * (high_hu - low_hu) / BINS
    places = np.searchsorted(np.cumsum(counts), [total * share / 100 for share in PERCENTILES])
    low, high = (float(x) for x in centres[np.minimum(places, BINS - 1)])
    clipped = np.clip(centres, low, high)
    mean = float((counts * clipped).sum() / total)
    std = float(np.sqrt((counts * (clipped - mean) ** 2).sum() / total))
    if std == 0:
        raise FormatError(f"the foreground has one intensity within {low_hu:g} to {high_hu:g} HU", "choose another window")
    return Levels(low, high, mean, std)

"""CT: one scale for the whole data set, read off the Hounsfield units of everything that is outlined in it (METHOD §4)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medical_sam2.data.prepare.intensity import PERCENTILES, Levels
from medical_sam2.errors import FormatError

BINS = 4096


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of foreground voxels within a window; histograms add up, in any order, to the same sum.

    Args:
        counts: (BINS,) voxels of each bin, from the low to the high end of the window.
    """

    counts: NDArray[np.int64]

    @classmethod
    def of(cls, values: NDArray[Any], window_hu: tuple[float, float]) -> "Histogram":
        """The histogram of these values, clipped to the window."""
        clipped = np.clip(values.astype(np.float32), *window_hu)
        return cls(np.histogram(clipped, BINS, range=window_hu)[0].astype(np.int64))


def levels_of_all(histograms: Iterable[Histogram], window_hu: tuple[float, float]) -> Levels:
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

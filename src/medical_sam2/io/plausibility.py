"""What is odd about a volume that was read, whatever its format: it may be used, but somebody should look."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medical_sam2.intensity_window import in_hounsfield, percentile_window
from medical_sam2.volume import Volume

ONE_SLICE = "it has one slice only: there is nothing to track through"
EXTREME = 1000.0  # times the usual range, beyond which a value is no intensity
SMALLEST_MM, LARGEST_MM = 0.05, 5000.0  # of a voxel and of the whole, where a patient lay in the scanner


def oddities(volume: Volume) -> tuple[str, ...]:
    """One line each: a single slice, intensities far from all others, a CT with voxels or an extent of no patient."""
    return tuple(line for line in (_one_slice(volume), _extreme(volume), _size(volume)) if line)


def _one_slice(volume: Volume) -> str:
    return ONE_SLICE if volume.shape.count(1) == 1 else ""


def _extreme(volume: Volume) -> str:
    array: NDArray[Any] = volume.array
    if array.dtype.kind != "f":
        return ""
    usual = percentile_window(array)
    room = EXTREME * (usual.high - usual.low)
    lowest, highest = float(array.min()), float(array.max())
    if lowest >= usual.low - room and highest <= usual.high + room:
        return ""
    count = int(np.count_nonzero((array < usual.low - room) | (array > usual.high + room)))
    worst = max(lowest, highest, key=abs)
    return f"{count} voxels hold extreme values, up to {worst:g}, where others end at {usual.high:g}: they are black or white"


def _size(volume: Volume) -> str:
    smallest, spacing = min(volume.spacing_mm), volume.spacing_mm
    largest = max(size * mm for size, mm in zip(volume.shape, spacing, strict=True))
    if (smallest >= SMALLEST_MM and largest <= LARGEST_MM) or not in_hounsfield(volume.array, volume.modality):
        return ""
    voxel = " × ".join(f"{mm:g}" for mm in spacing)
    return f"its voxels are {voxel} mm, which no CT of a patient has: check the units, since volumes in mL follow from them"

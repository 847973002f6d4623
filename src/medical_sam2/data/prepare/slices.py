"""Volumes as stacks of slices to train on: over the two axes of highest resolution, never resampled from slice to slice."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medical_sam2.views import AXIAL, CORONAL, SAGITTAL, View
from medical_sam2.volume import Volume

SAME = 1.05  # spacings that differ by less are the same


def view_of(volume: Volume) -> View:
    """The view whose slices lie in the two axes of highest resolution; the file's own slices where all are alike."""
    spacing = volume.spacing_mm
    through = max((2, 1, 0), key=spacing.__getitem__)
    if spacing[through] < SAME * spacing[2]:
        through = 2
    return next(view for view in (AXIAL, CORONAL, SAGITTAL) if view.order(volume.orientation)[0] == through)


def target(shape_hw: tuple[int, int], size: int) -> tuple[int, int]:
    """Height and width when the longer side shrinks to `size`; smaller slices stay as they are."""
    scale = min(1.0, size / max(shape_hw))
    height, width = (max(1, round(side * scale)) for side in shape_hw)
    return height, width


def resize(pictures: NDArray[np.uint8], shape_hw: tuple[int, int], *, nearest: bool = False) -> NDArray[np.uint8]:
    """Each picture of a stack (T, H, W) or (T, H, W, 3) at another size: bicubic for images, nearest for labels."""
    if pictures.shape[1:3] == shape_hw:
        return np.ascontiguousarray(pictures)
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC
    size = (shape_hw[1], shape_hw[0])
    return np.stack([np.asarray(Image.fromarray(np.ascontiguousarray(one)).resize(size, method)) for one in pictures])


def areas(parts_thw: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(T, 256) pixels of each value on each slice."""
    return np.stack([np.bincount(one.ravel(), minlength=256) for one in parts_thw])


def flat(array_hw: NDArray[Any]) -> NDArray[Any]:
    """A picture (H, W) as a volume of one slice in the order of NIfTI: (W, H, 1)."""
    return np.ascontiguousarray(array_hw.T)[:, :, None]

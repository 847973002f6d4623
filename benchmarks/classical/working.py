"""The grid that classical methods work on: a region around the prompt, at a resolution that they can afford.

Shapes: T slices, H W pixels of a slice, h w of the working grid.
"""

from dataclasses import dataclass
from math import sqrt

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medical_sam2.tracking.frames import Region, box_of, region_around

Floats = NDArray[np.float32]
MaskArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Working:
    """A stack as a method sees it.

    Args:
        stack_thw: (T, h, w) in [0, 1].
        mask_hw: (h, w) bool, the prompted outline, never empty.
        region: the part of each slice that is seen.
        shape_hw: of a whole slice.
    """

    stack_thw: Floats
    mask_hw: MaskArray
    region: Region
    shape_hw: tuple[int, int]

    def back(self, found_thw: NDArray[np.generic]) -> MaskArray:
        """An answer (T, h, w), bool or in [0, 1], on the whole slices (T, H, W); nothing lies outside the region."""
        whole = np.zeros((len(found_thw), *self.shape_hw), bool)
        for t, found_hw in enumerate(found_thw):
            if found_hw.any():
                whole[t, self.region.rows, self.region.columns] = resized(found_hw, self.region.shape_hw) >= 0.5
        return whole


def working(
    stack_thw: Floats,
    mask_hw: MaskArray,
    *,
    margin: float,
    side: int,
    most: int | None = None,
    pixel_hw: tuple[float, float] = (1.0, 1.0),
) -> Working:
    """The region around a mask.

    Args:
        stack_thw: (T, H, W) in [0, 1].
        mask_hw: (H, W), not empty.
        margin: side of the region over the longer side of the mask's box.
        side: most pixels along a side of the working grid.
        most: most voxels of the working grid.
        pixel_hw: height and width of a pixel, in whose units the region is square.
    """
    region = region_around(box_of(mask_hw), mask_hw.shape, margin=margin, pixel_hw=pixel_hw)
    shape = fitting(region.shape_hw, side if most is None else min(side, int(sqrt(most / len(stack_thw)))))
    seen = np.stack([resized(slice_hw[region.rows, region.columns], shape) for slice_hw in stack_thw])
    inside = resized(mask_hw[region.rows, region.columns], shape)
    return Working(seen, inside >= min(0.5, float(inside.max())), region, mask_hw.shape)


def fitting(shape_hw: tuple[int, int], side: int) -> tuple[int, int]:
    """A shape of the same proportions with no side over `side`; small ones stay as they are."""
    scale = min(1.0, side / max(shape_hw))
    height, width = (max(1, round(length * scale)) for length in shape_hw)
    return height, width


def resized(picture: NDArray[np.generic], shape_hw: tuple[int, int]) -> Floats:
    """A picture (H, W) or (H, W, 3) at another size: means of pixels where it shrinks, linear where it grows."""
    values = np.ascontiguousarray(picture, np.float32)
    if values.shape[:2] == shape_hw:
        return values
    shrinks = shape_hw[0] <= values.shape[0] and shape_hw[1] <= values.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(values, shape_hw[::-1], interpolation=how), np.float32)


def connected(mask: MaskArray) -> NDArray[np.int32]:
    """The parts of a mask that hang together by faces, numbered from 1."""
    parts = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, output=parts)
    return parts

"""The region of interest: the part of a frame that the network is shown, so that a small object fills its input.

Shapes: H W frame. Pixels are counted from the frame's first one; a region lies inside its frame.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST = 24  # pixels that a region has along each axis, where the frame has them


@dataclass(frozen=True)
class Region:
    """Rows and columns of a frame.

    Args:
        top: first row.
        left: first column.
        height: rows.
        width: columns.
    """

    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        """Of the frame."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """Of the frame."""
        return slice(self.left, self.left + self.width)

    @property
    def shape_hw(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.height, self.width


def region_around(
    box_xyxy: tuple[float, float, float, float],
    shape_hw: tuple[int, int],
    *,
    margin: float,
    pixel_hw: tuple[float, float] = (1.0, 1.0),
    offset_xy: tuple[float, float] = (0.0, 0.0),
) -> Region:
    """A region with a box in its middle, square in millimetres where the frame has room; it is moved, not cut, at a border.

    Args:
        box_xyxy: x_low, y_low, x_high, y_high in pixels, inclusive.
        shape_hw: of the frame.
        margin: side of the region over the longer side of the box.
        pixel_hw: height and width of a pixel in mm.
        offset_xy: moves the middle, in sides of the region.
    """
    x_low, y_low, x_high, y_high = box_xyxy
    side_mm = margin * max((y_high - y_low + 1) * pixel_hw[0], (x_high - x_low + 1) * pixel_hw[1])
    middles = ((y_low + y_high + 1) / 2, (x_low + x_high + 1) / 2)
    spans = [
        _span(middle, side_mm / mm, offset, length)
        for middle, mm, offset, length in zip(middles, pixel_hw, reversed(offset_xy), shape_hw, strict=True)
    ]
    (top, height), (left, width) = spans
    return Region(top, left, height, width)


def box_of(mask_hw: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The tight box x_low, y_low, x_high, y_high of a mask that is not empty, inclusive."""
    rows, columns = np.flatnonzero(mask_hw.any(1)), np.flatnonzero(mask_hw.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def _span(middle: float, side: float, offset: float, length: int) -> tuple[int, int]:
    size = min(length, max(LEAST, round(side)))
    return round(min(max(middle + offset * size - size / 2, 0), length - size)), size

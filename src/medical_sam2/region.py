"""The region of interest: the part of a frame that the network is shown, so that a small object fills its input.

Shapes: H W frame. Pixels are counted from the frame's first one; a region lies inside its frame.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

LEAST = 24  # pixels that a region has along each axis, where the frame has them
TOUCHED = 0.04  # share of a border that an object covers where it reaches it
WHOLE = 0.75  # share of the frame's sides from which on the whole frame is shown
BoxXyxy: TypeAlias = tuple[float, float, float, float]
"""x_low, y_low, x_high, y_high in pixels, inclusive."""


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

    def touched(self, mask_hw: NDArray[np.bool_]) -> bool:
        """Whether an object in a frame (H, W) reaches a border of the region behind which the frame goes on."""
        height, width = mask_hw.shape
        shown, (down, right) = mask_hw[self.rows, self.columns], (self.top + self.height, self.left + self.width)
        edges = (
            (self.top > 0, shown[0]),
            (down < height, shown[-1]),
            (self.left > 0, shown[:, 0]),
            (right < width, shown[:, -1]),
        )
        return any(inner and edge.mean() > TOUCHED for inner, edge in edges)


@dataclass(frozen=True)
class Canvas:
    """A frame as far as regions care.

    Args:
        shape_hw: rows and columns.
        pixel_hw: height and width of a pixel in mm, or in any other unit.
    """

    shape_hw: tuple[int, int]
    pixel_hw: tuple[float, float] = (1.0, 1.0)

    def around(self, box_xyxy: BoxXyxy, margin: float) -> Region | None:
        """The region with a box in its middle, see `region_around`; None where it is nearly the whole frame."""
        region = region_around(box_xyxy, self.shape_hw, margin=margin, pixel_hw=self.pixel_hw)
        (height, width), (high, wide) = region.shape_hw, self.shape_hw
        return None if height >= WHOLE * high and width >= WHOLE * wide else region


def region_around(
    box_xyxy: BoxXyxy,
    shape_hw: tuple[int, int],
    *,
    margin: float,
    pixel_hw: tuple[float, float] = (1.0, 1.0),
    offset_xy: tuple[float, float] = (0.0, 0.0),
) -> Region:
    """A region with a box in its middle, square in millimetres where the frame has room; it is moved, not cut, at a border.

    Args:
        box_xyxy: that lies in the middle.
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


def box_of(mask_hw: NDArray[np.bool_]) -> BoxXyxy:
    """The tight box of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask_hw.any(1)), np.flatnonzero(mask_hw.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])


def around_all(boxes: Iterable[BoxXyxy]) -> BoxXyxy:
    """The box that holds some boxes."""
    lows_x, lows_y, highs_x, highs_y = zip(*boxes, strict=True)
    return min(lows_x), min(lows_y), max(highs_x), max(highs_y)


def _span(middle: float, side: float, offset: float, length: int) -> tuple[int, int]:
    size = min(length, max(LEAST, round(side)))
    return round(min(max(middle + offset * size - size / 2, 0), length - size)), size

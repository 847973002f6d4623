"""Regions lie inside their frame, hold their object where it fits, and are square in millimetres where there is room."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_sam2.tracking.frames import LEAST, Region, around_all, box_of, region_around

sides = st.integers(8, 300)


@given(st.data(), sides, sides, st.floats(1.0, 4.0), st.floats(0.3, 3.0))
def test_a_region_holds_its_box_and_stays_in_the_frame(
    data: st.DataObject, height: int, width: int, margin: float, mm: float
) -> None:
    x = sorted(data.draw(st.tuples(st.integers(0, width - 1), st.integers(0, width - 1))))
    y = sorted(data.draw(st.tuples(st.integers(0, height - 1), st.integers(0, height - 1))))
    region = region_around((x[0], y[0], x[1], y[1]), (height, width), margin=margin, pixel_hw=(mm, 1.0))
    assert 0 <= region.left <= x[0] <= x[1] < region.left + region.width <= width
    assert 0 <= region.top <= y[0] <= y[1] < region.top + region.height <= height


def test_it_is_square_in_millimetres() -> None:
    region = region_around((100, 100, 139, 119), (400, 400), margin=2.0, pixel_hw=(2.0, 1.0))
    assert region.shape_hw == (40, 80)  # 80 mm each way
    assert (region.left, region.top) == (80, 90)


def test_at_a_border_it_is_moved_and_not_cut() -> None:
    assert region_around((0, 0, 9, 19), (100, 100), margin=2.0) == Region(0, 0, 40, 40)
    assert region_around((95, 95, 99, 99), (100, 100), margin=2.0) == Region(100 - LEAST, 100 - LEAST, LEAST, LEAST)


def test_an_offset_moves_the_middle() -> None:
    assert region_around((50, 50, 69, 69), (200, 200), margin=2.0, offset_xy=(0.25, 0.0)) == Region(40, 50, 40, 40)


def test_only_borders_with_something_behind_count_as_touched() -> None:
    mask = np.zeros((50, 60), bool)
    mask[10:30, 0:20] = True
    assert not Region(0, 0, 50, 40).touched(mask)
    assert Region(0, 5, 50, 40).touched(mask)
    assert Region(12, 0, 30, 40).touched(mask)
    assert Region(0, 0, 30, 60).touched(mask)
    mask[:] = False
    mask[10, 5] = True  # a single pixel does not make it grow
    assert not Region(0, 5, 50, 40).touched(mask)


def test_boxes_are_tight_and_joined() -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:7, 9:21] = True
    assert box_of(mask) == (9, 4, 20, 6)
    assert around_all([box_of(mask), (0, 5, 1, 19)]) == (0, 4, 20, 19)


def test_a_mask_that_is_empty_has_no_box() -> None:
    with pytest.raises(IndexError):
        box_of(np.zeros((3, 3), bool))

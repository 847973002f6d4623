"""Where a further view starts: the same as if the whole volume of probabilities were there."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medical_sam2.tracking.fusion import LEAST_START_MARGIN, Mean, find_start
from medical_sam2.views import AXIAL, View
from tests.strategies import codes, indices, seeds, shapes, views


@given(st.data(), shapes, seeds, views, codes)
def test_slab_by_slab_as_on_the_whole(
    data: st.DataObject, shape: tuple[int, int, int], seed: int, view: View, axes: str
) -> None:
    volume = np.random.default_rng(seed).random(shape).astype(np.float32) ** 3
    volume[data.draw(indices(shape))] = 0.9
    start = find_start(volume, view, axes)
    stack = view.apply(volume, axes)
    surplus = np.clip(stack.astype(np.float64) - 0.5, 0, None).sum(axis=(1, 2))
    assert start is not None
    assert surplus[start.frame] >= surplus.max() - 1e-5
    assert (start.mask_hw == (stack[start.frame] > 0.5)).all()
    assert set(np.flatnonzero(surplus)) <= set(start.frames) <= set(range(len(stack)))


def test_it_looks_a_margin_further() -> None:
    volume = np.zeros((2, 2, 100), np.float32)
    volume[:, :, 40:60] = 0.9
    volume[:, :, 50] = 1
    for view, frames in ((AXIAL, range(34, 66)), (AXIAL.reversed, range(34, 66))):
        start = find_start(volume, view, "RAS")
        assert start is not None
        assert start.frames == frames
        assert view.apply(volume)[start.frame].min() == 1
    assert LEAST_START_MARGIN == 6


def test_nothing_is_found_in_nothing() -> None:
    assert find_start(np.full((2, 3, 4), 0.5, np.float32), AXIAL, "RAS") is None
    assert find_start(Mean((2, 3, 4)), AXIAL, "RAS") is None

"""Optical flow from slice to slice: it finds shifts, adds them up, and follows each slice to its nearest prompted one."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from medical_sam2.tracking.witnesses import estimate_flow, follow_flow, shift


def texture(seed: int = 0) -> NDArray[np.float32]:
    """A smooth random picture in [0, 1]."""
    picture = ndimage.gaussian_filter(np.random.default_rng(seed).random((60, 52)), 2.5, mode="wrap")
    return ((picture - picture.min()) / np.ptp(picture)).astype(np.float32)


def drifting(steps: list[tuple[float, float]]) -> NDArray[np.float32]:
    """A picture on slices, each so many rows and columns further than the first."""
    return np.stack([ndimage.shift(texture(), step, order=1, mode="grid-wrap") for step in steps]).astype(np.float32)


@pytest.mark.parametrize(("rows", "columns"), [(0.0, 0.0), (1.5, -0.75), (-4.0, 3.0)])
def test_a_shift_is_found(rows: float, columns: float) -> None:
    first, second = torch.from_numpy(drifting([(0, 0), (rows, columns)]))[:, None, None]
    flow = estimate_flow(first, second)[0, :, 10:-10, 10:-10]
    assert flow[0].median() == pytest.approx(columns, abs=0.1)
    assert flow[1].median() == pytest.approx(rows, abs=0.1)


def test_ways_add_up_from_both_sides() -> None:
    """The further from the prompted slice, the further back its pixels lie there; nothing moves on that slice itself."""
    way = follow_flow(drifting([(2.0 * t, -1.0 * t) for t in range(7)]), [3] * 7)[:, :, 20:-20, 20:-20]
    assert way.shape[:2] == (7, 2)
    assert way[:, 0].flatten(1).median(1).values.tolist() == pytest.approx([-3, -2, -1, 0, 1, 2, 3], abs=0.3)
    assert way[:, 1].flatten(1).median(1).values.tolist() == pytest.approx([6, 4, 2, 0, -2, -4, -6], abs=0.3)
    assert not way[3].any()


def test_each_slice_is_followed_to_its_nearest() -> None:
    way = follow_flow(drifting([(0, 2.0 * t) for t in range(6)]), [0, 0, 0, 5, 5, 5])[:, 0, 20:-20, 20:-20]
    assert way.flatten(1).median(1).values.tolist() == pytest.approx([0, -2, -4, 4, 2, 0], abs=0.3)


def test_what_is_flat_does_not_move() -> None:
    assert not follow_flow(np.full((3, 9, 4), 0.5, np.float32), [1, 1, 1]).any()


def test_a_shift_reads_further_on() -> None:
    planes = torch.arange(12.0).reshape(1, 1, 3, 4)
    flow = torch.tensor([1.0, 0.0])[None, :, None, None].expand(1, 2, 3, 4)
    assert shift(planes, flow)[0, 0].tolist() == [[1, 2, 3, 3], [5, 6, 7, 7], [9, 10, 11, 11]]

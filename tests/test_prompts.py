"""Prompts: they land on the slice, pixel for pixel, that the voxels were copied to."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_sam2.errors import PromptError
from medical_sam2.prompts import Box, Fixed, FramePrompt, Mask, Point, split_planes
from medical_sam2.views import AXIAL, CORONAL, SAGITTAL, SIX_VIEWS, View
from tests.strategies import codes, indices, masks, shapes, views

Shape = tuple[int, int, int]


@given(st.data(), views, codes, shapes, st.booleans())
def test_a_point_lands_on_its_voxel(data: st.DataObject, view: View, axes: str, shape: Shape, positive: bool) -> None:
    i, j, k = data.draw(indices(shape))
    array = np.zeros(shape, bool)
    array[i, j, k] = True
    ((t, prompt),) = Point((i, j, k), positive=positive).project(view, shape, axes).items()
    x, y = prompt.points_xy[0].astype(int)
    assert view.apply(array, axes)[t, y, x]
    assert prompt.labels.tolist() == [int(positive)]
    assert prompt.points_xy.dtype == np.float32
    assert prompt.box_xyxy is None
    assert prompt.mask_hw is None


@given(st.data(), views, codes, shapes)
def test_a_view_and_its_reverse_agree_on_the_slice(data: st.DataObject, view: View, axes: str, shape: Shape) -> None:
    i, j, k = (data.draw(st.floats(-0.5, size - 0.5, exclude_max=True)) for size in shape)
    point = Point((i, j, k))
    frames = view.apply(np.arange(math.prod(shape)).reshape(shape), axes)
    backwards = view.reversed.apply(np.arange(math.prod(shape)).reshape(shape), axes)
    (t,), (reverse,) = point.project(view, shape, axes), point.project(view.reversed, shape, axes)
    np.testing.assert_array_equal(frames[t], backwards[reverse])


@given(views, codes, shapes, st.integers(0, 2), st.sampled_from([-1.0, -0.51, math.nan, math.inf, -math.inf, "size"]))
def test_a_point_outside_is_refused(view: View, axes: str, shape: Shape, axis: int, place: float | str) -> None:
    index = [0.0, 0.0, 0.0]
    index[axis] = shape[axis] - 0.5 if isinstance(place, str) else place
    with pytest.raises(PromptError, match="outside"):
        Point((index[0], index[1], index[2])).project(view, shape, axes)


def box_of(data: st.DataObject, shape: Shape) -> tuple[Box, int]:
    """A box on one slice, and the axis of the slice."""
    axis = data.draw(st.integers(0, 2))
    low, high = [0, 0, 0], [0, 0, 0]
    for place, size in enumerate(shape):
        if place == axis:
            low[place] = high[place] = data.draw(st.integers(0, size - 1))
        else:
            low[place], high[place] = sorted(data.draw(st.lists(st.integers(0, size - 1), min_size=2, max_size=2, unique=True)))
    return Box((low[0], low[1], low[2]), (high[0], high[1], high[2])), axis


@given(st.data(), views, codes, st.tuples(*[st.integers(2, 6)] * 3))
def test_a_box_encloses_its_voxels_on_its_plane_alone(data: st.DataObject, view: View, axes: str, shape: Shape) -> None:
    box, axis = box_of(data, shape)
    assert box.planes() == {axis}
    projected = box.project(view, shape, axes)
    if view.order(axes)[0] != axis:
        assert projected == {}
        return
    array = np.zeros(shape, bool)
    array[tuple(slice(int(low), int(high) + 1) for low, high in zip(box.low_ijk, box.high_ijk, strict=True))] = True
    ((t, prompt),) = projected.items()
    assert prompt.box_xyxy is not None
    x_low, y_low, x_high, y_high = prompt.box_xyxy.astype(int)
    stack = np.zeros_like(view.apply(array, axes))
    stack[t, y_low : y_high + 1, x_low : x_high + 1] = True
    np.testing.assert_array_equal(stack, view.apply(array, axes))


@given(st.floats(2.5, 3.5, exclude_max=True), st.floats(2.5, 3.5, exclude_max=True))
def test_a_box_may_lie_anywhere_within_its_slice(one: float, other: float) -> None:
    box = Box((1, 1, min(one, other)), (4, 4, max(one, other)))
    assert set(box.project(AXIAL, (6, 6, 6))) == {3}
    assert set(box.project(AXIAL.reversed, (6, 6, 6))) == {2}


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        ((1, 1, 1), (1, 1, 4), "one slice"),
        ((1, 1, 1), (1, 1, 1), "one slice"),
        ((1, 1, math.nan), (4, 4, 2), "finite"),
        ((1, 1, 2), (4, math.inf, 2), "finite"),
    ],
)
def test_a_box_that_is_no_rectangle_is_refused(low: tuple[float, ...], high: tuple[float, ...], said: str) -> None:
    with pytest.raises(PromptError, match=said):
        Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))


@given(st.data(), st.tuples(*[st.integers(2, 6)] * 3), views, codes)
def test_a_box_of_any_two_opposite_corners(data: st.DataObject, shape: Shape, view: View, axes: str) -> None:
    box, axis = box_of(data, shape)
    turned = data.draw(st.tuples(*[st.booleans()] * 3))
    pairs = list(zip(box.low_ijk, box.high_ijk, strict=True))
    one, other = (tuple(pair[swap != last] for pair, swap in zip(pairs, turned, strict=True)) for last in (False, True))
    again = Box(one, other, 3)  # type: ignore[arg-type]
    assert (again.low_ijk, again.high_ijk, again.planes()) == (box.low_ijk, box.high_ijk, {axis})
    said, as_said = (each.project(view, shape, axes) for each in (again, box))
    assert {t: prompt.box_xyxy.tolist() for t, prompt in said.items()} == {
        t: each.box_xyxy.tolist() for t, each in as_said.items()
    }


def test_a_box_outside_is_refused_in_every_view() -> None:
    for view in SIX_VIEWS:
        with pytest.raises(PromptError, match="outside"):
            Box((1, 1, 2), (9, 4, 2)).project(view, (6, 6, 6))


@given(st.data(), views, codes, shapes, st.integers(0, 2))
def test_a_mask_is_cut_into_the_slices_of_its_plane(
    data: st.DataObject, view: View, axes: str, shape: Shape, axis: int
) -> None:
    array = data.draw(masks(shape, some=True))
    projected = Mask(array, axis=axis).project(view, shape, axes)
    if view.order(axes)[0] != axis:
        assert projected == {}
        return
    stack = view.apply(array, axes)
    assert set(projected) == set(np.flatnonzero(stack.any(axis=(1, 2))).tolist())
    for t, prompt in projected.items():
        np.testing.assert_array_equal(prompt.mask_hw, stack[t])
        assert not np.shares_memory(prompt.mask_hw, array)


def test_a_mask_on_one_slice_knows_its_plane() -> None:
    array = np.zeros((5, 6, 7), bool)
    array[1:4, 2:5, 3] = True
    assert Mask(array).planes() == {2}
    assert set(Mask(array).project(AXIAL, array.shape)) == {3}
    assert Mask(array).project(CORONAL, array.shape) == {}
    array[1:4, 2:5, 4] = True
    assert Mask(array).planes() == {0, 1, 2}
    assert Mask(array, axis=0).planes() == {0}


def test_masks_that_cannot_work_are_refused() -> None:
    with pytest.raises(PromptError, match="empty"):
        Mask(np.zeros((3, 3, 3), bool))
    with pytest.raises(PromptError, match="grid"):
        Mask(np.ones((3, 3, 3), bool)).project(SAGITTAL, (3, 3, 4))


@given(st.lists(st.tuples(st.floats(0, 9, width=32), st.floats(0, 9, width=32), st.booleans()), min_size=1, max_size=5))
def test_joined_clicks_keep_their_order(clicks: list[tuple[float, float, bool]]) -> None:
    prompt = FramePrompt.click(*clicks[0][:2], positive=clicks[0][2])
    for x, y, positive in clicks[1:]:
        prompt |= FramePrompt.click(x, y, positive=positive)
    assert prompt.points_xy.tolist() == [[x, y] for x, y, _ in clicks]
    assert prompt.labels.tolist() == [int(positive) for *_, positive in clicks]


def test_joining_keeps_the_later_box_and_unites_masks() -> None:
    one, other = np.eye(3, dtype=bool), np.eye(3, dtype=bool)[::-1]
    both = FramePrompt.box(0, 0, 1, 1) | FramePrompt.box(1, 1, 2, 2) | FramePrompt.mask(one) | FramePrompt.mask(other)
    assert both.box_xyxy is not None
    assert both.box_xyxy.tolist() == [1, 1, 2, 2]
    np.testing.assert_array_equal(both.mask_hw, one | other)
    kept = both | FramePrompt.click(1, 1)
    assert kept.box_xyxy is both.box_xyxy
    np.testing.assert_array_equal(kept.mask_hw, both.mask_hw)
    assert (FramePrompt.click(0, 0) | FramePrompt.click(1, 1)).mask_hw is None


def test_fixed_speaks_once_as_a_frame_opens() -> None:
    click = FramePrompt.click(1, 2)
    prompter = Fixed({3: click})
    assert prompter(3, None) is click
    assert prompter(3, np.zeros((4, 4), bool)) is None
    assert prompter(2, None) is None


def test_a_negative_click_in_an_outline_takes_a_disc_out_of_it() -> None:
    rows, columns = np.indices((60, 80))
    disc = np.hypot(columns - 40, rows - 30) < 20
    outline, out = FramePrompt.mask(disc), FramePrompt.click(40, 30, positive=False)
    around = np.hypot(columns - 40, rows - 30)
    assert ((outline | out).cleared_hw() == (around < 20 / 4)).all()  # a quarter of the outline's radius
    assert ((outline | out | FramePrompt.click(44, 30)).cleared_hw() == (around < 2)).all()  # half-way to a positive click
    rim = (outline | FramePrompt.click(57, 30, positive=False)).cleared_hw()
    assert (rim == (np.hypot(columns - 57, rows - 30) < 3)).all()  # the border
    assert np.argwhere((outline | FramePrompt.click(59, 30, positive=False)).cleared_hw()).tolist() == [[30, 59]]
    small = FramePrompt.mask(np.pad(np.ones((3, 3), bool), 4)) | FramePrompt.click(5.4, 5.4, positive=False)
    assert np.argwhere(small.cleared_hw()).tolist() == [[5, 5]]  # the clicked pixel, whose middle lies further than the disc
    corner = FramePrompt.mask(np.ones((9, 9), bool)) | FramePrompt.click(-0.5, 8.4, positive=False)
    assert corner.cleared_hw()[8, 0]
    assert corner.cleared_hw().sum() < 4
    for nothing in (outline, outline | FramePrompt.click(40, 30), outline | FramePrompt.click(2, 2, positive=False), out):
        assert not nothing.cleared_hw().any()


def ball(axes_and_slices: dict[int, list[int]]) -> np.ndarray:
    """The outlines of a ball on some slices of some axes."""
    i, j, k = np.ogrid[:20, :20, :20]
    inside, drawn = (i - 10) ** 2 + (j - 9) ** 2 + (k - 8) ** 2 < 36, np.zeros((20, 20, 20), bool)
    for axis, slices in axes_and_slices.items():
        np.moveaxis(drawn, axis, 0)[slices] = np.moveaxis(inside, axis, 0)[slices]
    return drawn


@pytest.mark.parametrize("planes", [{2: [8], 0: [10]}, {1: [9], 2: [7]}, {0: [11], 1: [9], 2: [8]}, {2: [6, 9], 0: [10]}])
def test_planes_that_cross_are_an_outline_each(planes: dict[int, list[int]]) -> None:
    parts = {part.axis: part for part in split_planes(Mask(ball(planes), 3))}
    assert parts.keys() == planes.keys()
    for axis, slices in planes.items():
        drawn, alone = (np.moveaxis(each, axis, 0) for each in (parts[axis].array_ijk, ball({axis: slices})))
        assert np.flatnonzero(drawn.any((1, 2))).tolist() == slices
        assert (drawn & alone).sum() == alone.sum()
        assert parts[axis].object == 3


@pytest.mark.parametrize("planes", [{2: [8]}, {2: [6, 9]}, {0: [*range(20)]}, {2: [5, 6, 7, 8, 9, 10]}])
def test_what_was_drawn_in_one_plane_stays_one_outline(planes: dict[int, list[int]]) -> None:
    mask = Mask(ball(planes))
    assert split_planes(mask) == [mask]


def test_an_outline_whose_axis_is_named_is_not_split() -> None:
    mask = Mask(ball({2: [8], 0: [10]}), 1, 2)
    assert split_planes(mask) == [mask]

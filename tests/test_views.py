"""Views: exact permutations in all 48 × 48 pairs of view and array orientation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_sam2.errors import ConfigError
from medical_sam2.views import AXIAL, CORONAL, OPPOSITE, SAGITTAL, SIX_VIEWS, THREE_VIEWS, View, check_code
from tests.strategies import CODES, codes, indices, shapes, views


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    """An array whose elements all differ."""
    return np.arange(np.prod(shape)).reshape(shape)


def test_there_are_48_orientations() -> None:
    assert len(set(CODES)) == 48
    assert all(check_code(code) == code for code in CODES)


@pytest.mark.parametrize("axes", CODES)
def test_invert_undoes_apply_in_every_pair(axes: str) -> None:
    array = numbered((2, 3, 4))
    for view in map(View, CODES):
        stack = view.apply(array, axes)
        np.testing.assert_array_equal(view.invert(stack, axes), array)
        np.testing.assert_array_equal(view.apply(view.invert(stack, axes), axes), stack)


@given(views, codes, shapes)
def test_apply_and_invert_copy_nothing(view: View, axes: str, shape: tuple[int, int, int]) -> None:
    array = numbered(shape)
    stack = view.apply(array, axes)
    assert np.shares_memory(stack, array)
    assert np.shares_memory(view.invert(stack, axes), array)


@given(st.data(), views, codes, shapes)
def test_project_tells_where_apply_puts_a_voxel(
    data: st.DataObject, view: View, axes: str, shape: tuple[int, int, int]
) -> None:
    array, index = numbered(shape), data.draw(indices(shape))
    t, row, column = view.project(index, shape, axes)
    assert view.apply(array, axes)[int(t), int(row), int(column)] == array[index]


@given(views, codes, shapes)
def test_project_keeps_fractions(view: View, axes: str, shape: tuple[int, int, int]) -> None:
    fractions = {round(place % 1, 6) for place in view.project((0.25, 0.25, 0.25), shape, axes)}
    assert fractions <= {0.25, 0.75}


@given(views, codes, shapes)
def test_frames_run_to_the_first_letter(view: View, axes: str, shape: tuple[int, int, int]) -> None:
    """Walking along any array axis moves the stack along the letter of that axis, or against its opposite."""
    for place, letter in enumerate(axes):
        step = [0, 0, 0]
        step[place] = 1
        moved = np.subtract(view.project(step, shape, axes), view.project((0, 0, 0), shape, axes))
        expected = [(letter == towards) - (OPPOSITE[letter] == towards) for towards in view.code]
        np.testing.assert_array_equal(moved, expected)


@given(views, codes, shapes)
def test_reversed_plays_the_same_frames_backwards(view: View, axes: str, shape: tuple[int, int, int]) -> None:
    array = numbered(shape)
    np.testing.assert_array_equal(view.reversed.apply(array, axes), view.apply(array, axes)[::-1])
    assert view.reversed.reversed == view
    assert view.reversed.name == view.name


@given(views, codes)
def test_spacing_and_shape_go_with_the_axes(view: View, axes: str) -> None:
    shape = (2, 3, 4)
    assert view.spacing(shape, axes) == view.apply(numbered(shape), axes).shape


def test_named_views_are_those_of_a_reading_room() -> None:
    """Of an array in RAS, the picture's top left corner is right anterior, right superior, anterior superior."""
    array = numbered((2, 3, 4))
    assert AXIAL.apply(array)[0, 0, 0] == array[1, 2, 0]
    assert CORONAL.apply(array)[0, 0, 0] == array[1, 2, 3]
    assert SAGITTAL.apply(array)[0, 0, 0] == array[1, 2, 3]
    assert [view.name for view in THREE_VIEWS] == ["axial", "coronal", "sagittal"]
    assert {view.name for view in SIX_VIEWS} == {"axial", "coronal", "sagittal"}
    assert len(set(SIX_VIEWS)) == 6


@given(st.text(max_size=4).filter(lambda text: text not in CODES))
def test_other_codes_are_refused(code: str) -> None:
    with pytest.raises(ConfigError, match="RAS"):
        View(code)
    with pytest.raises(ConfigError, match="RAS"):
        AXIAL.order(code)

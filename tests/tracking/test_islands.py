"""Islands: what no prompt touches goes, what hangs together with a prompt stays."""

import tracemalloc

import numpy as np
import pytest

from medical_sam2.prompts import Box, FramePrompt, Mask, Point
from medical_sam2.tracking.finishing import remove_islands
from medical_sam2.tracking.limits import describe_missed_clicks, describe_missed_points


def two_parts() -> np.ndarray:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[2:6, 2:6, 2:6] = 1
    labels[12:16, 12:16, 12:16] = 1
    labels[2:6, 12:16, 2:6] = 2
    return labels


@pytest.mark.parametrize(
    "prompt",
    [Point((3, 3, 3)), Box((1, 1, 3), (7, 7, 3)), Mask(np.pad(np.ones((2, 2, 1), bool), ((3, 15), (3, 15), (3, 16))))],
)
def test_the_part_that_was_prompted_stays(prompt: Point | Box | Mask) -> None:
    labels = two_parts()
    remove_islands(labels, [prompt])
    assert labels[3, 3, 3] == 1
    assert not labels[12:16, 12:16, 12:16].any()
    assert (labels == 2).sum() == 64  # another object is left alone


def test_both_parts_stay_where_both_are_prompted() -> None:
    labels = two_parts()
    remove_islands(labels, [Point((3, 3, 3)), Point((13, 13, 13))])
    assert (labels == two_parts()).all()


@pytest.mark.parametrize("clicked", [False, True])
def test_a_crumb_in_a_box_goes_unless_it_is_clicked_on(clicked: bool) -> None:
    labels = two_parts()
    labels[12:16, 12:16, 12:16] = 0
    labels[13, 13, 3] = 1
    labels[8:10, 8:10, 3] = 1  # a sixteenth of the largest part
    told = remove_islands(labels, [Box((1, 1, 3), (15, 15, 3)), *([Point((13, 13, 3))] if clicked else [])])
    assert told == ([] if clicked else ["object 1 lost 1 small part in its box (1 voxel); `islands` keeps it"])
    assert labels[3, 3, 3] == labels[8, 8, 3] == 1
    assert labels[13, 13, 3] == clicked


@pytest.mark.parametrize("kept_by", [None, "click", "box in 3D"])
def test_a_crumb_beside_the_object_on_the_slice_of_a_box_goes(kept_by: str | None) -> None:
    """No slice was missed there that the gap could come of; in a box in 3D one may have been."""
    labels = two_parts()
    labels[12:16, 12:16, 12:16] = 0
    labels[8, 8, 3] = 1  # two voxels beside
    labels[2:6, 2:6, 7:9] = 1  # beyond a slice that was missed
    labels[4, 4, 7:9] = 0
    box = Box((1, 1, 1), (15, 15, 17)) if kept_by == "box in 3D" else Box((1, 1, 3), (15, 15, 3))
    told = remove_islands(labels, [box, *([Point((8, 8, 3))] if kept_by == "click" else [])])
    assert told == ([] if kept_by else ["object 1 lost 1 small part in its box (1 voxel); `islands` keeps it"])
    assert labels[8, 8, 3] == bool(kept_by)
    assert (labels[2:6, 2:6, 7:9] == 1).sum() == 30


def test_a_missed_slice_does_not_cut_the_object() -> None:
    labels = np.zeros((9, 9, 20), np.uint8)
    labels[3:6, 3:6, 2:18] = 1
    labels[:, :, 9:11] = 0
    before = labels.copy()
    remove_islands(labels, [Point((4, 4, 4))])
    assert (labels == before).all()


def test_nothing_goes_where_no_prompt_touches_the_object() -> None:
    labels = two_parts()
    remove_islands(labels, [Point((0, 19, 0)), Point((3, 3, 3), positive=False)])
    assert (labels == two_parts()).all()


def test_an_object_that_was_not_found_is_no_error() -> None:
    labels = two_parts()
    remove_islands(labels, [Point((3, 3, 3), object=9)])
    assert (labels == two_parts()).all()


def test_prompts_beside_the_object_touch_nothing_of_it() -> None:
    labels = two_parts()
    labels[:2] = 0
    remove_islands(labels, [Point((0, 0, 0)), Box((0, 0, 3), (1, 1, 3)), Box((3, 3, 3), (19, 4, 3))])
    assert labels[3, 3, 3] == 1
    assert not labels[12:16, 12:16, 12:16].any()


def test_memory_does_not_grow_with_the_number_of_an_object() -> None:
    labels = np.zeros((9, 9, 9), np.uint32)
    labels[1:3, 1:3, 1:3], labels[8, 8, 8] = 4_000_000_000, 4_000_000_000
    click = Point((1, 1, 1))
    object.__setattr__(click, "object", 4_000_000_000)  # a prompt refuses it; a label map may hold it
    remove_islands(labels, [click])
    assert (labels > 0).sum() == 8


def test_who_has_what_was_clicked_on_is_named() -> None:
    """Of two objects that are clicked on at one place one gets nothing: that it was not found would be half of the truth."""
    labels = np.ones((3, 3, 3), np.uint8)
    (line,) = describe_missed_points([labels], [Point((1, 1, 1), 1), Point((1, 1, 1), 2)])
    assert line == "the positive click on object 2 at 1 1 1 lies outside of what was found: object 1 is there"
    (line,) = describe_missed_clicks(labels[0], {1: FramePrompt.click(2, 1), 2: FramePrompt.click(2, 1)})
    assert line == "the positive click on object 2 at 2 1 lies outside of what was found: object 1 is there"


def test_clicks_that_are_not_followed_are_named() -> None:
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1, 1, 1] = 2
    followed = [Point((1, 1, 1), 2), Point((0, 1, 1), 2, positive=False), Point((1, 1, 1), 1, positive=False)]
    assert describe_missed_points([labels], followed) == []
    assert describe_missed_points([labels], [Point((0, 0, 0), 7)]) == []  # it is named as not found at all
    (one, two) = describe_missed_points([labels], [Point((0, 0.2, 3), 2), Point((1, 1, 1), 2, positive=False)])
    assert one == "the positive click on object 2 at 0 0 3 lies outside of what was found"
    assert two == "the negative click on object 2 at 1 1 1 lies inside what was found"
    image = np.array([[0, 3], [0, 0]], np.uint8)
    assert describe_missed_clicks(image, {3: FramePrompt.click(1, 0)}) == []
    assert describe_missed_clicks(image, {3: FramePrompt.click(0, 1)}) == [
        "the positive click on object 3 at 0 1 lies outside of what was found"
    ]


def test_no_more_is_held_than_a_number_for_each_voxel_of_the_object() -> None:
    labels = np.zeros((80, 80, 80), np.uint8)
    labels[4:76, 4:76, 4:76] = labels[0, 0, 0] = 1
    tracemalloc.start()
    try:
        remove_islands(labels, [Point((40, 40, 40))])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert labels.sum() == 72**3  # the corner is gone
    assert peak < 9 * labels.size  # bytes; 22 where counts were taken of all voxels at once


def test_more_parts_than_sixteen_bits_can_number_are_one_object_across_gaps() -> None:
    labels = np.zeros((110, 110, 50), np.uint8)
    labels[::2, ::2, ::2] = 1  # 75625 parts, each a voxel away from the next
    before = labels.copy()
    remove_islands(labels, [Point((2, 2, 2))])
    assert (labels == before).all()

"""What is tracked where: order of frames, planes of prompts, groups, the choice of views."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_sam2.errors import ConfigError, PromptError
from medical_sam2.prompts import Box, FramePrompt, Mask, Point, Prompt
from medical_sam2.strokes import Diameter, SliceRange
from medical_sam2.tracking.limits import redraw
from medical_sam2.tracking.plan import (
    PLANES,
    drawn_prompts,
    frame_prompts,
    grouped,
    largest_frame,
    order_objects,
    order_outward,
    plan_tracking,
    primary_view,
    unused_prompts,
    views_named,
)
from medical_sam2.views import AXIAL, CORONAL, SAGITTAL, THREE_VIEWS, View
from medical_sam2.volume import Volume
from tests.phantoms import phantom, segmenter
from tests.strategies import codes, masks, seeds


def volume(shape: tuple[int, int, int] = (40, 50, 60), spacing: tuple[float, float, float] = (1, 1, 1)) -> Volume:
    return Volume(np.zeros(shape, np.uint8), np.diag([*spacing, 1.0]))


@given(st.sets(st.integers(0, 30), min_size=1), st.integers(0, 30), st.integers(1, 30), st.data())
def test_outward_visits_every_frame_once_and_steps_to_neighbours(
    prompted: set[int], first: int, count: int, data: st.DataObject
) -> None:
    frames, start = range(first, first + count), data.draw(st.sampled_from(sorted(prompted)))
    shown, ahead, behind = order_outward(prompted, frames, start)
    assert sorted([*shown, *ahead, *behind]) == sorted(prompted | set(frames))
    assert set(shown) == prompted
    assert shown[-1] == start
    assert all(earlier < later for earlier, later in pairwise([start, *ahead]))
    assert all(earlier > later for earlier, later in pairwise([start, *behind]))


def test_the_largest_outline_or_box_comes_first_and_clicks_have_no_size() -> None:
    small, large = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    small[4, 4] = large[2:7, 2:7] = True
    click, box = FramePrompt.click(4, 4), FramePrompt.box(1, 1, 7, 7)
    assert largest_frame({2: FramePrompt.mask(small), 5: FramePrompt.mask(large), 9: click}) == 5
    assert largest_frame({5: FramePrompt.mask(large), 9: box}) == 9
    assert largest_frame({7: click, 3: click}) == 3


def test_objects_prompted_on_the_same_slices_go_together_where_their_largest_ones_are_the_same() -> None:
    boxes = [
        Box((4, 4, k), (4 + size, 4 + size, k), object=n) for n, k, size in ((1, 10, 5), (1, 20, 9), (2, 10, 6), (2, 20, 9))
    ]
    assert [sorted(group.prompts) for group in grouped(volume(), boxes)] == [[1, 2]]
    boxes[2] = Box((4, 4, 10), (24, 24, 10), object=2)
    assert [sorted(group.prompts) for group in grouped(volume(), boxes)] == [[1], [2]]


def test_clicks_lie_in_the_plane_of_the_finest_pixels() -> None:
    click = [Point((1, 1, 1))]
    assert primary_view(volume(spacing=(1, 1, 5)), click) == AXIAL
    assert primary_view(volume(spacing=(1, 5, 1)), click) == CORONAL
    assert primary_view(volume(spacing=(5, 1, 1)), click) == SAGITTAL
    assert primary_view(volume(spacing=(1, 1, 0.9)), click) == AXIAL
    assert primary_view(volume((40, 50, 1), (1, 1, 0.1)), click) == AXIAL
    assert primary_view(volume((1, 50, 60), (0.1, 1, 1)), click) == SAGITTAL


@given(codes, st.integers(0, 2), st.floats(0.2, 8))
def test_drawn_prompts_lie_in_the_plane_that_they_were_drawn_in(code: str, axis: int, thickness: float) -> None:
    order = View(code).order()
    affine = np.eye(4)
    affine[:3, :3] = 0
    for place, letter in enumerate(code):
        affine["RLAPSI".index(letter) // 2, place] = (1 if letter in "RAS" else -1) * (thickness if place == 0 else 1)
    image = Volume(np.zeros((7, 8, 9)), affine)
    low, high = [1, 2, 3], [4, 5, 6]
    low[axis] = high[axis] = 2
    box = Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    view = primary_view(image, [box, Point((1, 1, 1))])
    assert view.axis == order[axis]
    assert list(drawn_prompts(image, [box, Point((1, 1, 1))], view)) == list(frame_prompts(image, [box], view))
    others = [other for other in THREE_VIEWS if other.axis != view.axis]
    assert not any(drawn_prompts(image, [box], other) for other in others)


def test_an_outline_that_lies_in_two_planes_takes_that_of_the_box_beside_it() -> None:
    line = np.zeros((7, 8, 9), bool)
    line[3, 2:5, 4] = True
    image = volume((7, 8, 9))
    box = Box((3, 1, 1), (3, 5, 5))
    for own in ([Mask(line), box], [box, Mask(line)]):
        assert primary_view(image, own) == SAGITTAL


def test_objects_prompted_on_the_same_slices_go_together() -> None:
    prompts = [Point((1, 1, z), label) for label, z in ((4, 8), (2, 3), (9, 8), (2, 7))]
    groups = grouped(volume(), prompts)
    assert [list(group.prompts) for group in groups] == [[2], [4, 9]]
    assert [sorted(said) for group in groups for said in group.prompts.values()] == [[3, 7], [8], [8]]
    part = groups[1].part([9])
    assert list(part.prompts) == list(part.given) == [9]


def test_clicks_on_one_slice_are_one_prompt() -> None:
    prompts = [Point((1, 2, 3)), Point((5, 6, 3), positive=False), Box((0, 0, 3), (9, 9, 3))]
    (group,) = grouped(volume(), prompts)
    said = group.prompts[1][3]
    assert said.labels.tolist() == [1, 0]
    assert said.box_xyxy is not None


def test_what_cannot_be_tracked_is_refused() -> None:
    negative = Point((1, 1, 1), 5, positive=False)
    for prompts in ([], [negative], [Point((1, 1, 60))]):
        with pytest.raises(PromptError):
            grouped(volume(), prompts)
    with pytest.raises(PromptError, match="object 0 is no label"):
        Point((1, 1, 1), 0)
    assert list(grouped(volume(), [negative], correctable={5})[0].prompts) == [5]
    with pytest.raises(PromptError):
        grouped(volume(), [negative], correctable={4})


LINE = np.indices((40, 50, 60))[2] == 4


@pytest.mark.parametrize("other", [Mask(LINE, 1, 2), Box((2, 2, 4), (6, 6, 4)), Diameter(((2, 2, 4), (6, 6, 4)))])
def test_the_rectangle_of_a_box_in_3d_gives_way_to_what_says_more(other: Prompt) -> None:
    """An outline on its middle slice; its limits hold."""
    solid = Box((0, 0, 2), (39, 49, 6))
    for both in ([solid, other], [other, solid]):
        (group,) = grouped(volume(), both, [AXIAL])
        (alone,) = grouped(volume(), [other], [AXIAL])
        ((t, shown),), ((_, wanted),) = group.prompts[1].items(), alone.prompts[1].items()
        assert t in alone.prompts[1]
        for found, expected in zip(vars(shown).values(), vars(wanted).values(), strict=True):
            assert np.array_equal(found, expected) if found is not None else expected is None
        assert group.limits[1].within[2] == slice(2, 7)


@pytest.mark.parametrize(
    ("both", "message"),
    [
        ([Box((1, 1, 4), (3, 3, 4)), Box((4, 4, 4), (6, 6, 4))], "object 1 has two boxes on axial slice 4"),
        ([Mask(LINE, 1, 2), Box((4, 4, 4), (6, 6, 4))], "object 1 has an outline and a box on axial slice 4"),
        ([Point((1, 1, 4)), Point((1, 1, 4), positive=False)], "a positive and a negative click on one place on axial slice 4"),
    ],
)
@pytest.mark.parametrize("turn", [1.0, -1.0])
def test_prompts_that_cannot_both_be_followed_are_refused(both: list[Prompt], message: str, turn: float) -> None:
    with pytest.raises(PromptError, match=message):
        grouped(volume(spacing=(1, 1, turn)), both)


def test_views_by_name() -> None:
    image = volume()
    assert views_named("one", image, CORONAL) == ((CORONAL,), ())
    assert views_named("three", image, CORONAL)[0] == (CORONAL, AXIAL, SAGITTAL)
    six, _ = views_named("six", image, SAGITTAL)
    assert six[:2] == (SAGITTAL, SAGITTAL.reversed)
    assert len(set(six)) == 6
    assert {view.axis for view in six} == {0, 1, 2}
    for name, view in PLANES.items():
        assert views_named(name, image, view)[0] == (view,)
    assert views_named([AXIAL, CORONAL, AXIAL], image, CORONAL)[0] == (CORONAL, AXIAL)
    with pytest.raises(ConfigError, match="choose one of one, three"):
        views_named("all", image, AXIAL)


def test_an_outline_that_is_next_to_nothing_beside_the_next_one_is_told() -> None:
    drawn = np.zeros((40, 50, 60), bool)
    drawn[18:23, 20:32, 29] = drawn[20, 25, 30] = True
    (warning,) = plan_tracking(volume(), [Mask(drawn, axis=2)], "one").warnings
    assert warning == (
        "object 1 is outlined by 1 pixel on axial slice 30, and by 60 on the next one: "
        "clear it if that was a slip of the brush, or outline it there"
    )
    drawn[20, 26, 30] = True  # an object may end so
    assert not plan_tracking(volume(), [Mask(drawn, axis=2)], "one").warnings


def test_a_part_of_a_few_pixels_far_from_the_rest_of_an_outline_is_told() -> None:
    drawn = np.zeros((40, 50, 60), bool)
    drawn[18:28, 20:32, 29] = True
    drawn[20, 40, 29] = True  # a pixel nearby may be meant
    assert not plan_tracking(volume(), [Mask(drawn, axis=2)], "one").warnings
    drawn[2, 2, 29] = True
    (warning,) = plan_tracking(volume(), [Mask(drawn, axis=2)], "one").warnings
    assert warning == (
        "object 1 has a part of few pixels far from the rest of its outline on axial slice 29: "
        "clear it if that was a slip of the brush"
    )
    drawn[2:12, 2:12, 29] = True  # no few pixels
    assert not plan_tracking(volume(), [Mask(drawn, axis=2)], "one").warnings


def test_an_outline_of_one_pixel_is_said_to_be_no_click() -> None:
    """Of an object that is larger elsewhere it is where it ends."""
    one, more = np.zeros((40, 50, 60), bool), np.zeros((40, 50, 60), bool)
    one[20, 25, 30] = more[18:23, 20:30, 29] = True
    (warning,) = plan_tracking(volume(), [Mask(one, axis=2)], "one").warnings
    assert warning.startswith("object 1 is outlined by a single pixel")
    assert plan_tracking(volume(), [Mask(one | more, axis=2)], "one").warnings == ()
    assert plan_tracking(volume(), [Point((20, 25, 30))], "one").warnings == ()


def test_auto_leaves_out_what_is_too_coarse_and_says_so() -> None:
    assert views_named("auto", volume(), AXIAL) == ((AXIAL, CORONAL, SAGITTAL), ())
    thick, (told,) = views_named("auto", volume(spacing=(1, 1, 4)), AXIAL)
    assert thick == (AXIAL,)
    assert told.startswith("coronal and sagittal slices are left out")
    narrow, (told,) = views_named("auto", volume((20, 50, 60)), AXIAL)
    assert narrow == (AXIAL, SAGITTAL)
    assert told.startswith("coronal slices are left out: too coarse (20×50×60 voxels of 1×1×1 mm)")


def test_prompts_in_planes_that_are_not_tracked_are_told() -> None:
    mask = np.zeros((40, 50, 60), bool)
    mask[5, 1:9, 1:9] = True
    prompts = [Box((1, 1, 3), (9, 9, 3)), Box((1, 4, 1), (9, 4, 9)), Mask(mask), Point((1, 1, 1))]
    (group,) = grouped(volume(), prompts)
    box, outline = unused_prompts(volume(), replace(group, views=(AXIAL,)))
    assert "box of object 1" in box
    assert "counts on its own slice only" in outline
    (limited,) = grouped(volume(), [prompts[0], SliceRange(2, 30, axis=0)])
    assert not unused_prompts(volume(), replace(limited, views=(AXIAL,))), "slices of another axis limit all the same"
    assert not unused_prompts(volume(), replace(group, views=THREE_VIEWS))


@given(seeds, st.data())
def test_redrawing_touches_one_object_and_what_it_covers(seed: int, data: st.DataObject) -> None:
    labels = np.random.default_rng(seed).integers(0, 4, (3, 5, 6), dtype=np.uint8)
    mask = data.draw(masks((5, 6)))
    before = labels.copy()
    redraw(labels, 2, {1: FramePrompt.mask(mask)})
    assert ((labels[1] == 2) == mask).all()
    assert (labels[[0, 2]] == before[[0, 2]]).all()
    untouched = ~mask & (before[1] != 2)
    assert (labels[1][untouched] == before[1][untouched]).all()


def test_a_corrected_outline_is_not_redrawn() -> None:
    labels = np.zeros((1, 4, 4), np.uint8)
    mask = FramePrompt.mask(np.ones((4, 4), bool))
    for prompt in (mask | FramePrompt.click(1, 1), mask | FramePrompt.box(0, 0, 1, 1), FramePrompt.click(1, 1)):
        redraw(labels, 1, {0: prompt})
        assert not labels.any()


def test_a_negative_click_in_an_outline_is_taken_out_of_what_was_found() -> None:
    labels = np.full((1, 5, 5), 3, np.uint8)
    labels[:, :, :3] = 1
    redraw(labels, 1, {0: FramePrompt.mask(np.ones((5, 5), bool)) | FramePrompt.click(1, 2, positive=False)})
    assert labels[0, 2, 1] == 0
    assert (labels[0, :, 3:] == 3).all()
    assert (labels[0, [0, 4], :3] == 1).all()


@pytest.mark.parametrize("name", ["three", "six", "auto", [AXIAL, CORONAL, SAGITTAL]])
def test_strips_of_a_single_row_are_no_view(name: str | list[View]) -> None:
    """The other planes of a volume of one slice show nothing, and would have a vote; they are named once."""
    flat = Volume(np.zeros((40, 50, 1)), np.eye(4))
    kept, (told,) = views_named(name, flat, AXIAL)
    assert kept == ((AXIAL, AXIAL.reversed) if name == "six" else (AXIAL,))
    assert told == "coronal and sagittal slices are left out: strips of a single row of pixels (40×50×1 voxels)"
    assert (len(views_named(name, volume((40, 50, 2)), AXIAL)[0]) > len(kept)) == (name != "auto")
    assert views_named("coronal", flat, CORONAL) == ((CORONAL,), ()), "what is named alone is tracked"
    narrow = Volume(np.zeros((40, 1, 30)), np.eye(4))
    assert {view.name for view in views_named(name, narrow, CORONAL)[0]} == {"coronal"}


def test_a_picture_is_tracked_in_one_view_whatever_is_asked() -> None:
    case = phantom()
    flat = replace(case.volume, array=case.volume.array[:, :, 5:6])
    one, three = (segmenter().segment_volume(flat, [Point((5, 6, 0))], views=views, window="0,1") for views in ("one", "three"))
    assert (one.labels == three.labels).all()
    assert [row.view for row in three.confidence] == ["SPL"]
    assert "strips of a single row" in " ".join(three.warnings)


def test_a_number_is_that_of_an_object_whatever_another_one_is_called() -> None:
    assert order_objects(["2", 1, "liver"], [1, 2, 3], {1: "2", 2: "1", 3: "liver"}) == (2, 1, 3)

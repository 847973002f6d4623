"""Corrections mend what they touch and nothing else."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medical_sam2.errors import ConfigError, GeometryError, PromptError
from medical_sam2.metrics import dice
from medical_sam2.prompts import Box, Mask, Point, Prompt
from medical_sam2.segmenter import Segmenter
from medical_sam2.strokes import Lasso
from medical_sam2.tracking.correction import distance_to_border
from medical_sam2.tracking.frames import Region
from medical_sam2.tracking.view_tracker import ViewTracker
from medical_sam2.tracking.volume_tracker import FrameDone
from medical_sam2.views import THREE_VIEWS, View
from medical_sam2.volume import Segmentation, Volume
from tests.phantoms import segmenter

LONG = 40


def column() -> tuple[Volume, NDArray[np.uint8]]:
    """Two columns beside each other through 40 slices."""
    truth = np.zeros((14, 12, LONG), np.uint8)
    truth[2:6, 3:9] = 1
    truth[8:12, 3:9] = 2
    noise = np.random.default_rng(0).uniform(-0.01, 0.01, truth.shape)
    return Volume(np.choose(truth, [0.2, 0.8, 0.5]) + noise, np.eye(4)), truth


def correct(volume: Volume, prompts: list[Any], earlier: NDArray[Any], **options: Any) -> Segmentation:
    settings: dict[str, Any] = {"views": "axial", **options}
    return segmenter().segment_volume(volume, prompts, earlier=earlier, window="0,1", **settings)


def test_a_leak_is_mended_and_far_slices_are_left_alone() -> None:
    volume, truth = column()
    earlier = truth.copy()
    earlier[0:2, 3:9, 10:16] = 1  # a leak
    earlier[13, 11, 35] = 1  # another one, far from the click
    before = earlier.copy()
    found = correct(volume, [Point((1, 5, 12), positive=False)], earlier)
    assert (earlier == before).all()
    assert (found.labels[:, :, :30] == truth[:, :, :30]).all()
    assert (found.labels[:, :, 30:] == earlier[:, :, 30:]).all()
    touched = {row.slice for row in found.confidence}
    assert set(range(10, 16)) <= touched <= set(range(9, 17))
    assert [row.slice for row in found.confidence if row.prompted] == [12]


@pytest.mark.parametrize(("place", "mended"), [((2, 5, 4), slice(0, 10)), ((49, 6, 4), slice(30, 60))])
def test_a_click_mends_what_lies_near_to_it(place: tuple[int, int, int], mended: slice) -> None:
    """A notch at one end, and a large part at the other: each click mends its own, though the network finds both."""
    truth = np.zeros((60, 12, 9), np.uint8)
    truth[2:58, 3:9] = 1
    earlier = truth.copy()
    earlier[2:4, 5:7, 3:6] = 0
    earlier[40:58, 3:9, 3:6] = 0
    expected = earlier.copy()
    expected[mended] = truth[mended]
    found = correct(Volume(np.where(truth, 0.8, 0.2), np.diag([2.0, 2.0, 2.0, 1.0])), [Point(place)], earlier)
    np.testing.assert_array_equal(found.labels, expected)


def test_the_distance_to_the_border_of_a_voxel() -> None:
    mask = np.zeros((50, 9, 9), bool)
    mask[10:, 3:6, 3:6] = True
    assert distance_to_border(mask, (30, 4, 4), (1.0, 2.0, 5.0)) == 4.0
    assert distance_to_border(mask, (0, 4, 4), (3.0, 2.0, 5.0)) == 30.0, "farther than the first search goes"
    assert distance_to_border(mask[:, 4, 4], (49,), (3.0,)) == 120.0
    assert distance_to_border(mask[20:, 4, 4], (4,), (3.0,)) == np.inf


def test_what_has_no_like_on_the_slice_nearer_to_the_click_stays() -> None:
    volume, truth = column()
    earlier = truth.copy()
    earlier[0:2, 3:9, 10:17] = 1  # a leak
    earlier[2, 3:9, 17:] = 0  # taken away by hand, where the leak ends
    for prompts in ([Point((1, 5, 12), positive=False), Point((4, 5, 12))], [Box((2, 3, 12), (5, 8, 12))]):
        found = correct(volume, prompts, earlier)  # clicks have a reach, a box has none
        assert (found.labels[:, :, :17] == truth[:, :, :17]).all()
        assert (found.labels[:, :, 17:] == earlier[:, :, 17:]).all()


def test_slices_between_two_clicks_are_mended() -> None:
    volume, truth = column()
    earlier = truth.copy()
    earlier[0:2, 3:9, [8, 15, 22]] = 1
    found = correct(volume, [Point((1, 5, z), positive=False) for z in (8, 22)], earlier)
    assert (found.labels == truth).all()


def test_a_missing_end_is_found() -> None:
    volume, truth = column()
    earlier = np.where(np.arange(LONG) < 20, truth, 0).astype(np.uint8)
    found = correct(volume, [Point((4, 5, 30))], earlier)
    assert ((found.labels == 1) == (truth == 1)).all()
    assert ((found.labels == 2) == (earlier == 2)).all()


def test_a_click_on_a_slice_without_the_object_is_seen_as_large_as_the_network_takes_it_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was found of the object, or hardly anything, does not decide how much of a slice is shown."""
    volume = Volume(np.where(np.indices((90, 90, 9)).min(0) >= 0, 0.8, 0.2), np.eye(4))
    earlier = np.zeros(volume.shape, np.uint8)
    earlier[40:44, 40:44, 0] = 1
    shown, track_frames, large = list[Region | None](), ViewTracker.track_frames, np.zeros((90, 90), bool)
    large[20:60, 20:60] = True

    def watch(self: ViewTracker, view: View, prompts: Any, order: Any, banks: Any, region: Region | None) -> Any:
        shown.append(region)
        return track_frames(self, view, prompts, order, banks, region)

    monkeypatch.setattr(ViewTracker, "track_frames", watch)
    for sure, larger in ((0.9, True), (0.4, False)):
        monkeypatch.setattr(ViewTracker, "ask", lambda *a, sure=sure: (large, 0.4 if a[2] and a[2].width < 28 else sure))
        shown.clear()
        correct(volume, [Point((42, 42, 6))], earlier)
        (region, *_) = shown
        assert region
        assert (region.width >= 40) == larger


def test_a_new_object_joins_the_earlier_ones_whatever_its_label() -> None:
    volume, truth = column()
    earlier = (truth == 1).astype(np.uint8)
    found = correct(volume, [Point((9, 5, 20), 300)], earlier)
    assert ((found.labels == 300) == (truth == 2)).all()
    assert ((found.labels == 1) == (truth == 1)).all()


def test_an_object_that_is_clicked_on_for_another_gives_way() -> None:
    volume, truth = column()
    earlier = np.where(truth == 1, 2, truth).astype(np.uint8)  # all is taken for object 2
    found = correct(volume, [Point((4, 5, 20), 1)], earlier)
    assert (found.labels == truth).all()
    (told,) = [line for line in found.warnings if "took" in line]
    assert told.startswith(f"object 1 took {(truth == 1).sum()} voxels of object 2: ")
    kept = correct(volume, [Point((9, 5, 20), 2)], np.where(truth == 1, 1, truth))
    assert (kept.labels == truth).all()
    assert not any("took" in line for line in kept.warnings), "it gained nothing of another"


def test_a_drawn_slice_stays_as_drawn() -> None:
    volume, truth = column()
    drawn = np.zeros(truth.shape, bool)
    drawn[1:6, 3:8, 20] = True
    found = correct(volume, [Mask(drawn, 1, 2)], truth)
    assert ((found.labels == 1)[:, :, 20] == drawn[:, :, 20]).all()
    rest = [z for z in range(LONG) if z != 20]
    assert (found.labels[:, :, rest] == truth[:, :, rest]).all()


def test_clicks_on_the_first_and_the_last_slice() -> None:
    volume, truth = column()
    earlier = truth.copy()
    earlier[0:2, 3:9, [0, LONG - 1]] = 1
    found = correct(volume, [Point((1, 5, z), positive=False) for z in (0, LONG - 1)], earlier)
    assert (found.labels == truth).all()


@pytest.fixture(scope="module")
def nano() -> Segmenter:
    return Segmenter.from_pretrained(device="cpu", precision="fp32", image_size=128)


def two_balls() -> tuple[Volume, NDArray[np.bool_], NDArray[np.bool_]]:
    """A volume of seven slices, and its two balls of one intensity."""
    i, j, k = np.indices((64, 60, 7))
    flat = ((j - 30) / 8) ** 2 + ((k - 3) / 3.2) ** 2
    one, other = ((i - 18) / 8) ** 2 + flat < 1, ((i - 45) / 8) ** 2 + flat < 1
    noise = np.random.default_rng(1).normal(0, 10, one.shape)
    return Volume(np.where(one | other, 400, 150) + noise, np.diag([1.5, 1.5, 5, 1])), one, other


@pytest.mark.parametrize("prompt", [Point((45, 30, 3)), Box((37, 22, 3), (53, 38, 3))])
def test_a_part_that_is_added_takes_nothing_away(nano: Segmenter, prompt: Point | Box) -> None:
    volume, one, other = two_balls()
    found = nano.segment_volume(volume, [prompt], earlier=one.astype(np.uint8), views="axial").labels > 0
    assert (found[:32] == one[:32]).all()
    assert dice(found[32:], other[32:]) > 0.9


def test_a_part_that_is_removed_leaves_the_other_alone(nano: Segmenter) -> None:
    volume, one, other = two_balls()
    no = Point((45, 30, 3), positive=False)
    found = nano.segment_volume(volume, [no], earlier=(one | other).astype(np.uint8), views="axial").labels > 0
    assert (found[:32] == one[:32]).all()
    assert not (found & ~(one | other)).any()
    assert not found[45, 30, 3]
    assert dice(found[32:], other[32:]) < 0.6


def test_a_click_beside_an_outline_keeps_it(nano: Segmenter) -> None:
    volume, one, other = two_balls()
    drawn = one & (np.arange(7) == 3)
    found = nano.segment_volume(volume, [Mask(drawn), Point((45, 30, 3))], views="axial").labels > 0
    assert found[drawn].all()
    assert dice(found, one | other) > 0.9


@pytest.mark.parametrize("views", ["axial", "three"])
def test_a_negative_click_inside_of_a_drawn_outline_holds(views: str) -> None:
    """Whatever the network says: this one takes what is bright."""
    volume, truth = column()
    drawn = (truth == 1) & (np.arange(LONG) == 20)
    no = Point((3, 5, 20), positive=False)
    found = segmenter().segment_volume(volume, [Mask(drawn, 1, 2), no], window="0,1", views=views)
    assert found.labels[3, 5, 20] == 0
    assert not found.warnings
    assert (found.labels[:, :, 20] == 1).sum() >= (truth[:, :, 20] == 1).sum() - 5
    mended = correct(volume, [no], truth).labels
    assert mended[3, 5, 20] == 0
    assert (mended[:, :, :20] == truth[:, :, :20]).all()


@pytest.mark.parametrize(
    "prompt",
    [
        Point((32, 32, 5)),
        Box((20, 20, 5), (44, 44, 5)),
        Lasso(((22, 22, 5), (42, 22, 5), (42, 42, 5), (22, 42, 5))),
    ],
    ids=lambda prompt: type(prompt).__name__,
)
def test_a_negative_click_on_another_slice_leaves_the_prompted_one(nano: Segmenter, prompt: Prompt) -> None:
    i, j, k = np.indices((64, 64, 10))
    inside = (i - 32) ** 2 + (j - 32) ** 2 + (k - 5) ** 2 < 144
    volume = Volume(np.where(inside, 120, 40) + np.random.default_rng(0).normal(0, 8, inside.shape), np.eye(4))
    alone = nano.segment_volume(volume, [prompt], views="axial").labels
    assert alone[32, 32, 8] == 1
    both = nano.segment_volume(volume, [prompt, Point((32, 32, 8), positive=False)], views="axial").labels
    assert both[32, 32, 8] == 0
    assert (both[:, :, 5] == alone[:, :, 5]).all()


def test_what_means_nothing_in_a_correction_is_not_refused_where_a_negative_click_makes_one() -> None:
    volume, _ = column()
    clicks = [Point((4, 5, 20)), Point((4, 5, 30), positive=False)]
    asked: dict[str, Any] = {"islands": True, "every_slice": True, "fusion": "vote", "views": "three"}
    assert segmenter().segment_volume(volume, clicks[:1], window="0,1", **asked).labels[4, 5, 30] == 1
    assert segmenter().segment_volume(volume, clicks, window="0,1", **asked).labels[4, 5, 20] == 1


def test_a_negative_click_on_the_background_changes_nothing() -> None:
    volume, truth = column()
    earlier = truth.copy()
    earlier[2:4, 3:5, 18:23] = 0  # what a second look would add
    assert (correct(volume, [Point((13, 11, 20), positive=False)], earlier).labels == earlier).all()


def test_clicks_that_the_result_follows_already_change_nothing(nano: Segmenter) -> None:
    """A click inside and one outside of an outline that is too small and has a spur: neither is asked about."""
    volume, one, _ = two_balls()
    earlier = one & (np.indices(one.shape)[0] < 22)
    earlier[10:12, 40:50, 3] = True
    clicks = [Point((18, 30, 3)), Point((60, 4, 3), positive=False)]
    assert (nano.segment_volume(volume, clicks, earlier=earlier.astype(np.uint8), views="axial").labels == earlier).all()
    wrong = Point((11, 45, 3), positive=False)
    found = nano.segment_volume(volume, [clicks[0], wrong], earlier=earlier.astype(np.uint8), views="axial").labels > 0
    assert not found[11, 45, 3]
    assert not (found & ~earlier).any()  # the click inside asks for nothing more


def test_progress_ends_at_its_total() -> None:
    volume, truth = column()
    told: list[FrameDone] = []
    correct(volume, [Point((4, 5, 20), 1), Point((9, 5, 10), 2)], truth, on_frame=told.append)
    assert told[-1].done == told[-1].total == len(told) < LONG
    assert all(each.done <= each.total for each in told)


def test_two_boxes_in_3d_of_one_object_are_refused() -> None:
    volume, _ = column()
    boxes = [Box((2, 3, 10), (6, 7, 30)), Box((2, 3, 20), (6, 7, 35))]
    with pytest.raises(PromptError, match="object 1 has two boxes in 3D"):
        segmenter().segment_volume(volume, boxes, window="0,1")


def test_what_cannot_be_corrected_is_refused() -> None:
    volume, truth = column()
    no = Point((4, 5, 20), positive=False)
    with pytest.raises(PromptError, match="object 7 has negative clicks only"):
        correct(volume, [replace(no, object=7)], truth)
    with pytest.raises(PromptError, match="object 1 has negative clicks only, and is none of the earlier result's: 255"):
        correct(volume, [no], (truth == 1) * np.uint8(255))
    several: list[Any] = ["three", "six", "auto", THREE_VIEWS]
    idle: list[dict[str, Any]] = [
        {"islands": True},
        {"every_slice": True},
        {"fusion": "vote"},
        *({"views": x} for x in several),
    ]
    for setting in idle:
        with pytest.raises(ConfigError, match=f"^`{next(iter(setting))}` changes nothing"):
            correct(volume, [Point((4, 5, 20))], truth, **setting)
    with pytest.raises(ConfigError, match="unknown views 'axal'"):
        correct(volume, [Point((4, 5, 20))], truth, views="axal")
    with pytest.raises(PromptError, match="on a slice where it is not"):
        correct(volume, [no], np.where(np.arange(LONG) < 20, truth, 0))
    with pytest.raises(GeometryError, match="the earlier result has shape"):
        correct(volume, [no], truth[1:])


def test_names_and_colours_of_the_earlier_result_stay() -> None:
    """As on the command line; those that are given go first."""
    volume, truth = column()
    earlier = Segmentation(truth, volume.affine, {1: "left", 2: "right"}, colours={2: (9, 8, 7)})
    click = [Point((1, 5, 12), positive=False)]
    found = segmenter().segment_volume(volume, click, earlier=earlier, window="0,1", names={1: "column"})
    assert found.names == {1: "column", 2: "right"}
    assert found.colours == {2: (9, 8, 7)}
    assert segmenter().segment_volume(volume, click, earlier=earlier, window="0,1").names == earlier.names


@pytest.mark.parametrize("white", [np.uint8(255), np.uint16(65535), np.float32(255)])
def test_object_1_is_asked_about_where_a_mask_of_black_and_white_is_corrected(white: np.generic) -> None:
    """It is what prompts are of that name none; whoever names the white, or another number, is understood."""
    volume, truth = column()
    mask = (truth == 1).astype(white.dtype) * white
    click = Point((4, 5, 20))
    problem = f"object 1 is none of the earlier result's, which has object {white:.0f} alone"
    for prompt in (click, Mask(truth == 1)):
        with pytest.raises(PromptError, match=problem):
            correct(volume, [prompt], mask)
    meant, new = replace(click, object=int(white)), Point((10, 5, 20))
    assert (correct(volume, [meant], mask).labels == mask).all()  # it is inside already
    for prompts in ([meant, new], [replace(new, object=2)]):
        found = correct(volume, prompts, mask).labels
        assert (found[4, 5, 20], found[10, 5, 20]) == (white, prompts[-1].object)

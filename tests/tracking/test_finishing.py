"""Finishing: in millimetres on any grid, in one order, and no object into another."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medical_sam2.errors import ConfigError, GeometryError, InputError
from medical_sam2.prompts import Box, Mask, Point
from medical_sam2.strokes import Scribble
from medical_sam2.tracking.finishing import FinishingSettings, FinishingSteps, finish, grow, smooth
from medical_sam2.tracking.limits import limits_of
from medical_sam2.volume import Segmentation

GRIDS = [(1.0, 1.0, 1.0), (0.7, 0.7, 3.0), (2.5, 0.8, 1.1)]


def ball(spacing: tuple[float, float, float], radius_mm: float, side_mm: float = 40.0) -> NDArray[np.bool_]:
    """A ball in the middle of a grid."""
    shape = [round(side_mm / mm) for mm in spacing]
    far = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)]
    return np.sqrt(sum(d**2 for d in np.meshgrid(*far, indexing="ij"))) <= radius_mm  # type: ignore[no-any-return]


def segmentation(labels: NDArray[Any], spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Segmentation:
    return Segmentation(labels.astype(np.uint8), np.diag([*spacing, 1.0]))


@pytest.mark.parametrize("spacing", GRIDS)
def test_balls_grow_and_shrink_by_millimetres(spacing: tuple[float, float, float]) -> None:
    mask = ball(spacing, 10)
    for by in (4.0, -4.0):
        found = grow(mask, by, spacing).sum() * math.prod(spacing)
        assert found == pytest.approx(4 / 3 * math.pi * (10 + by) ** 3, rel=0.27)
        radii = [np.flatnonzero(grow(mask, by, spacing).any(axis=tuple({0, 1, 2} - {a}))) for a in range(3)]
        for along, mm in zip(radii, spacing, strict=True):
            assert abs((along[-1] - along[0] + 1) * mm / 2 - (10 + by)) <= mm


@pytest.mark.parametrize("spacing", GRIDS)
def test_smoothing_keeps_the_volume_and_takes_the_roughness(spacing: tuple[float, float, float]) -> None:
    clean = ball(spacing, 12)
    noise = np.random.default_rng(0).random(clean.shape)
    near = grow(clean, 3, spacing) & ~grow(clean, -3, spacing)
    rough = np.where(near, noise < 0.5, clean)
    found = smooth(rough, 2.0, spacing)
    assert found.sum() == rough.sum()
    assert surface(found) < 0.7 * surface(rough)
    assert (found & clean).sum() * 2 / (found.sum() + clean.sum()) > 0.9


def surface(mask: NDArray[np.bool_]) -> int:
    """Faces between inside and outside."""
    return sum(int(np.diff(mask, axis=axis).sum()) for axis in range(3))


def test_a_ball_stays_a_ball() -> None:
    for spacing in GRIDS:
        mask = ball(spacing, 10)
        found = smooth(mask, 1.5, spacing)
        assert (found ^ mask).sum() <= 0.12 * mask.sum()


def test_holes_parts_and_small_parts() -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[2:12, 2:12, 2:12] = 1
    labels[5:7, 5:7, 5:7] = 0
    labels[5, 5, 5] = 2
    labels[15:17, 15:17, 15:17] = 1
    labels[18, 2, 2] = 1
    found, changes = finish(segmentation(labels), {1: FinishingSteps(fill_holes=True)})
    assert (found.labels == 1).sum() == 1000 - 1 + 8 + 1
    assert found.labels[5, 5, 5] == 2
    assert (changes[0].before, changes[0].after, changes[0].left_to_others) == (992 + 9, 999 + 9, 1)
    assert "1 voxel was left to other objects" in found.warnings[0]
    found, _ = finish(segmentation(labels), {1: FinishingSteps(largest=True)})
    assert (found.labels == 1).sum() == 992
    found, _ = finish(segmentation(labels), {1: FinishingSteps(min_volume_ml=0.005)})
    assert (found.labels == 1).sum() == 992 + 8


def test_the_order_is_fixed() -> None:
    """A bridge that shrinking cuts does not decide which part is the largest, and what it leaves too small is dropped."""
    labels = np.zeros((30, 12, 12), np.uint8)
    labels[1:11, 1:11, 1:11] = 1
    labels[11:18, 5, 5] = 1
    labels[18:25, 2:9, 2:9] = 1
    steps = FinishingSteps(largest=True, grow_mm=-1, min_volume_ml=0.2)
    found, changes = finish(segmentation(labels), {1: steps})
    assert [change.step for change in changes] == ["largest", "grow_mm", "min_volume_ml"]
    assert changes[0].before == changes[0].after
    assert (found.labels > 0).sum() == 8**3 + 1, "a foot of the bridge"
    assert changes[1].after == 8**3 + 5**3 + 2


def test_no_object_grows_into_another() -> None:
    labels = np.zeros((20, 10, 10), np.uint8)
    labels[2:6], labels[9:13] = 2, 1
    found, changes = finish(segmentation(labels), {2: FinishingSteps(grow_mm=4), 1: FinishingSteps(grow_mm=4)})
    assert (found.labels[9:13] == 1).all()
    assert (found.labels[2:6] == 2).all()
    assert (found.labels[6:9] == 1).all(), "the smaller label goes first"
    assert (found.labels[:2] == 2).all()
    assert {change.object: change.left_to_others for change in changes} == {1: 100, 2: 400}
    assert len([line for line in found.warnings if "left to other objects" in line]) == 2


def test_other_objects_stay() -> None:
    labels = np.zeros((20, 10, 10), np.uint8)
    labels[2:6], labels[9:13] = 2, 7
    found, _ = finish(segmentation(labels), {2: FinishingSteps(grow_mm=1, smooth_mm=1)})
    assert ((found.labels == 7) == (labels == 7)).all()


def test_nothing_grows_into_what_prompts_leave_out() -> None:
    """Beyond a box in 3D, into a negative box; a scribble that shrinking takes is told."""
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[5:15, 5:15, 5:15] = 1
    drawn = [
        Box((4, 0, 0), (19, 19, 19)),
        Box((14, 15, 0), (19, 19, 19), positive=False),
        Scribble(((5, 5, 10), (14, 5, 10)), width=1),
    ]
    limits = limits_of(drawn, labels.shape, 2)
    assert limits is not None
    found, _ = finish(segmentation(labels), {1: FinishingSteps(grow_mm=3)}, drawn, {1: limits})
    free = finish(segmentation(labels), {1: FinishingSteps(grow_mm=3)})[0].labels
    allowed = np.ones(labels.shape, bool)
    allowed[:4], allowed[14:, 15:] = False, False
    assert free[3, 10, 10] == free[15, 16, 10] == 1
    assert (found.labels == free * allowed).all()
    told = finish(segmentation(labels), {1: FinishingSteps(grow_mm=-1)}, drawn, {1: limits})[0].warnings
    assert told == ("object 1 lost 10 scribbled voxels",)
    spur = Scribble(((9, 2, 9), (9, 8, 9)), width=1)
    labels[9, 2:9, 9] = 1
    limits = limits_of([spur], labels.shape, 2)
    assert limits is not None
    for own, stays in (({}, False), ({1: limits}, True)):
        found, _ = finish(segmentation(labels), {1: FinishingSteps(smooth_mm=2)}, [spur], own)
        assert found.labels[9, 2:9, 9].all() == stays, "smoothing takes no scribble"


def test_objects_that_overlap_are_finished_whole() -> None:
    one, other = np.zeros((20, 12, 12), bool), np.zeros((20, 12, 12), bool)
    one[2:14, 2:10, 2:10], other[6:10, 4:8, 4:8] = True, True
    labels = np.where(other, 2, one).astype(np.uint8)
    found = replace(segmentation(labels), layers=(one.astype(np.uint8), other * np.uint8(2)))
    done, changes = finish(found, {1: FinishingSteps(fill_holes=True), 2: FinishingSteps(grow_mm=-1)})
    assert (done.mask(1) == one).all(), "what lies in it is no hole"
    assert done.mask(2).sum() == 2**3
    assert [(change.object, change.before, change.after) for change in changes] == [(1, 768, 768), (2, 64, 8)]
    assert (done.labels == np.where(done.mask(2), 2, one)).all()


def test_what_a_correction_took_and_finishing_gave_up_goes_back() -> None:
    """To an object that nobody asked about; one that was asked about gave it up because somebody said so."""
    earlier = np.zeros((20, 20, 9), np.uint16)
    earlier[:10], earlier[10:, :10], earlier[10:, 10:] = 1, 300, 2
    corrected = np.where((earlier == 1) | (np.random.default_rng(0).random(earlier.shape) < 0.2), 1, earlier).astype(np.uint16)
    corrected[19, 15:, 8] = 0  # of object 2, by a prompt of it
    result, asked = Segmentation(corrected, np.eye(4)), [Point((0, 0, 0), 1), Point((19, 19, 8), 2, positive=False)]
    plain = finish(result, {1: FinishingSteps(largest=True, smooth_mm=1)}, asked)[0]
    found, changes = finish(result, {1: FinishingSteps(largest=True, smooth_mm=1)}, asked, earlier=earlier)
    lost = (corrected == 1) & (plain.labels == 0)
    back = lost & (earlier == 300)
    assert back.any()
    assert (lost & (earlier == 2)).any()
    assert (found.labels == np.where(back, 300, plain.labels)).all()
    assert found.warnings == (*plain.warnings, f"object 1 gave {back.sum()} voxels back to object 300")
    assert changes == finish(result, {1: FinishingSteps(largest=True, smooth_mm=1)}, asked)[1]


def test_a_whole_object_that_was_taken_comes_back() -> None:
    """Its number does not fit into the labels of the others."""
    earlier = np.zeros((9, 9, 9), np.int64)
    earlier[1:4, 1:4, 1:4], earlier[7, 7, 7] = 1, 300
    found, _ = finish(segmentation(earlier != 0), {1: FinishingSteps(largest=True)}, earlier=earlier)
    assert (found.labels == earlier).all()
    with pytest.raises(GeometryError, match=r"shape \(8, 9, 9\), the corrected one \(9, 9, 9\)"):
        finish(segmentation(earlier != 0), {1: FinishingSteps(largest=True)}, earlier=earlier[1:])
    with pytest.raises(InputError, match="no earlier result"):
        finish(segmentation(earlier != 0), {1: FinishingSteps(largest=True)}, earlier=earlier.tolist())


def test_an_outline_that_is_changed_is_told() -> None:
    labels = np.zeros((20, 20, 9), np.uint8)
    labels[4:15, 4:15, 2:7] = 1
    mask = np.zeros(labels.shape, bool)
    mask[..., 4] = labels[..., 4] == 1
    told = finish(segmentation(labels), {1: FinishingSteps(grow_mm=1)}, [Mask(mask)])[0].warnings
    assert told == ("the outline of object 1 on slice 4 of axis k was changed by 44 voxels",)
    assert finish(segmentation(labels), {1: FinishingSteps(largest=True)}, [Mask(mask)])[0].warnings == ()


def test_nothing_left_is_told() -> None:
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[3:5, 3:5, 3:5] = 1
    found, changes = finish(segmentation(labels), {1: FinishingSteps(grow_mm=-3, min_volume_ml=1)})
    assert not found.labels.any()
    assert len(changes) == 1
    assert found.warnings == ("object 1 has nothing left (--shrink 3)",)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (FinishingSteps(grow_mm=0.5), "growing or shrinking by 0.5 mm changes nothing"),
        (FinishingSteps(grow_mm=-0.5), "growing or shrinking by 0.5 mm changes nothing"),
        (FinishingSteps(smooth_mm=0.1), "smoothing by 0.1 mm changes nothing"),
        (FinishingSteps(smooth_mm=0.49), "smoothing by 0.49 mm changes nothing.*; give more than half of that"),
        (FinishingSteps(min_volume_ml=0.0005), "drops nothing"),
        (FinishingSteps(smooth_mm=math.nan), "makes no sense"),
        (FinishingSteps(min_volume_ml=-1), "makes no sense"),
    ],
)
def test_what_changes_nothing_is_refused(steps: FinishingSteps, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        finish(segmentation(ball((1.0, 1.0, 1.0), 5)), {1: steps})


@pytest.mark.parametrize("spacing", GRIDS)
def test_smoothing_that_is_refused_would_have_changed_nothing(spacing: tuple[float, float, float]) -> None:
    """Not even where every voxel is at random; and a little more than the least does change such an object."""
    for share in (0.05, 0.5, 0.95):
        rough = np.random.default_rng(0).random((20, 20, 20)) < share
        assert (smooth(rough, 0.499 * min(spacing), spacing) == rough).all()
    assert (smooth(rough, min(spacing), spacing) != rough).any()


def test_a_length_that_changed_nothing_is_told() -> None:
    """Smoothing keeps the number of voxels, so that it is counted how many are others."""
    clean = ball((1.0, 1.0, 1.0), 10)
    found, (change,) = finish(segmentation(clean), {1: FinishingSteps(smooth_mm=0.6)})
    assert (change.changed, found.warnings) == (0, ("object 1: --smooth 0.6 changed no voxel",))
    rough = clean ^ (np.random.default_rng(0).random(clean.shape) < 0.02)
    found, (change,) = finish(segmentation(rough), {1: FinishingSteps(smooth_mm=0.6)})
    assert change.before == change.after
    assert change.changed == ((found.labels == 1) != rough).sum() > 0
    assert not found.warnings
    assert not finish(segmentation(clean), {1: FinishingSteps(True, True, min_volume_ml=0.1)})[0].warnings


def test_words_of_the_command_line() -> None:
    options = FinishingSettings(smooth=("1", "liver=2"), shrink=("3=4",), largest=True)
    steps = options.steps([1, 3], {1: "liver"})
    assert steps == {1: FinishingSteps(False, True, 2.0), 3: FinishingSteps(False, True, 1.0, -4.0)}
    assert FinishingSettings().steps([1], {}) == {}
    for words, said in (
        ({"smooth": ("spleen=2",)}, "there is no object 'spleen'; the objects are liver, 3"),
        ({"grow": ("1",), "shrink": ("liver=1",)}, "object 1 is to grow and to shrink"),
        ({"smooth": ("0",)}, "'0' is no positive number"),
        ({"smooth": ("liver=1", "2", "liver=3")}, "--smooth liver=3: it is given twice"),
        ({"grow": ("1", "2")}, "--grow 2: it is given twice"),
        ({"min_volume": ("x",)}, "'x' is no positive number"),
    ):
        with pytest.raises(ConfigError, match=said):
            FinishingSettings(**words).steps([1, 3], {1: "liver"})  # type: ignore[arg-type]


def test_a_number_is_that_of_an_object_whatever_another_one_is_called() -> None:
    steps = FinishingSettings(grow=("2=1", "liver=3")).steps([1, 2, 3], {1: "2", 2: "1", 3: "liver"})
    assert steps == {2: FinishingSteps(grow_mm=1), 3: FinishingSteps(grow_mm=3)}


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ({"largest": True}, "the positive click on object 1 at 1 1 1 lies outside of what was found, since it was finished"),
        (
            {"min_volume_ml": 0.1},
            "the positive click on object 1 at 1 1 1 lies outside of what was found, since it was finished",
        ),
        ({"grow_mm": 1.0}, "the negative click on object 1 at 15 9 4 lies inside what was found, since it was finished"),
    ],
)
def test_clicks_that_finishing_undoes_are_told(step: dict[str, Any], told: str) -> None:
    """Those only that were followed until then."""
    labels = np.zeros((20, 20, 9), np.uint8)
    labels[4:15, 4:15, 2:7] = 1
    labels[1, 1, 1] = 1
    clicks = [
        Point((9, 9, 4)),
        Point((1, 1, 1)),
        Point((15, 9, 4), positive=False),
        Point((18, 18, 8)),
        Point((9, 9, 5), positive=False),
    ]
    assert finish(segmentation(labels), {1: FinishingSteps(**step)}, clicks)[0].warnings == (told,)

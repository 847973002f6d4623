"""The network is shown a region around the object, and a larger one where the object outgrows it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medical_sam2.intensity_window import Window
from medical_sam2.model.backbone import Memory
from medical_sam2.model.memory_bank import SelfSorting
from medical_sam2.prompts import Box, FramePrompt, Mask, Point, Prompt
from medical_sam2.tracking.correction import correct_labels
from medical_sam2.tracking.frame_order import ENDED
from medical_sam2.tracking.frames import Canvas, FrameStack, Region, box_of, group_regions, grow_region, object_box, region_for
from medical_sam2.tracking.fusion import Mean
from medical_sam2.tracking.plan import grouped
from medical_sam2.tracking.view_tracker import TrackingConfig
from medical_sam2.tracking.volume_tracker import GroupTracker
from medical_sam2.views import AXIAL, THREE_VIEWS
from medical_sam2.volume import Volume
from tests.backbones import Brightness

SHAPE = (150, 120, 20)


def cone() -> tuple[Volume, NDArray[np.bool_]]:
    """A square of 10 to 86 voxels, larger on each slice."""
    truth = np.zeros(SHAPE, bool)
    for k in range(SHAPE[2]):
        truth[60 - 5 - 2 * k : 60 + 5 + 2 * k, 50 - 5 - 2 * k : 50 + 5 + 2 * k, k] = True
    noise = np.random.default_rng(0).uniform(-0.01, 0.01, SHAPE)
    return Volume((np.where(truth, 0.8, 0.2) + noise).astype(np.float32), np.eye(4)), truth


def tracked(volume: Volume, prompts: Sequence[Prompt], *, zoom: bool = True) -> tuple[GroupTracker, Any, Brightness]:
    backbone = Brightness()
    config = TrackingConfig(backbone, lambda x: backbone.encode(x[None]), volume, Window(0, 1), SelfSorting, zoom=zoom)
    tracker, fusions = GroupTracker(config), {}
    for group in grouped(volume, prompts):
        fusions |= (own := {label: Mean(volume.shape, volume.orientation) for label in group.prompts})
        tracker.run(group, (group.view, *(view for view in THREE_VIEWS if view != group.view)), own)
    return tracker, fusions, backbone


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def prompt(kind: str, truth: NDArray[np.bool_], k: int) -> Prompt:
    if kind == "click":
        return Point((60, 50, k))
    mask = np.zeros(SHAPE, bool)
    mask[:, :, k] = truth[:, :, k]
    places = np.argwhere(mask)
    low, high = ((float(x), float(y), float(z)) for x, y, z in (places.min(0), places.max(0)))
    return Mask(mask, axis=2) if kind == "mask" else Box(low, high)


@pytest.mark.parametrize("kind", ["mask", "box", "click"])
def test_an_object_that_outgrows_its_region_is_followed(kind: str) -> None:
    volume, truth = cone()
    tracker, fusions, _ = tracked(volume, [prompt(kind, truth, 1)])
    assert dice(fusions[1].result() > 0.5, truth) > 0.97
    axial = sorted(row.slice for row in tracker.rows if row.view == AXIAL.code)
    assert axial == list(range(SHAPE[2]))  # each slice counts once, although some were looked at twice


def test_what_was_remembered_is_shown_anew_in_a_larger_region() -> None:
    volume, truth = cone()
    kept: list[list[tuple[int, bool]]] = []
    maps: dict[int, set[float]] = {}

    class Watched(SelfSorting):
        def keep(self, bank: list[Memory], new: Memory) -> list[Memory]:
            found = super().keep(bank, new)
            if new.t not in maps:
                kept.append([(m.t, m.prompted) for m in found])
            maps.setdefault(new.t, set()).add(float(new.map_Chw.sum()))
            return found

    mask = np.zeros(SHAPE, bool)
    mask[:, :, 0] = truth[:, :, 0]  # one way alone
    backbone = Brightness()
    config = TrackingConfig(
        backbone, lambda x: backbone.encode(x[None]), volume, Window(0, 1), partial(Watched, size=4), zoom=True
    )
    tracker = GroupTracker(config)
    (group,) = grouped(volume, [Mask(mask, axis=2)])
    tracker.run(group, (AXIAL,), {1: Mean(SHAPE)})
    again = {t for t, seen in maps.items() if len(seen) > 1}  # encoded in several regions
    assert len(again - {0}) >= 3
    assert min(len(rows) for rows in kept[3:]) >= 3  # it never starts again from the prompt alone
    assert all([t for t, prompted in rows if prompted] == [0] for rows in kept)
    assert all(len({t for t, _ in rows}) == len(rows) for rows in kept)


def test_a_small_object_is_outlined_finer_than_in_whole_slices() -> None:
    truth = np.zeros((400, 400, 6), bool)
    truth[201:210, 100:107, :] = True
    volume = Volume(np.where(truth, np.float32(0.8), np.float32(0.2)), np.eye(4))
    mask = np.zeros(truth.shape, bool)
    mask[:, :, 2] = truth[:, :, 2]
    near, whole = (tracked(volume, [Mask(mask, axis=2)], zoom=zoom)[1][1].result() > 0.5 for zoom in (True, False))
    assert dice(near, truth) == 1
    assert dice(whole, truth) < 0.9


def test_nothing_outside_of_the_region_is_outlined() -> None:
    volume, _ = cone()
    stack = FrameStack(volume, AXIAL, Window(0, 1), 64, Region(10, 20, 30, 40))
    inside = stack.to_frame(torch.full((1, 16, 16), 10.0))[0]
    assert inside.shape == stack.shape_thw[1:]
    assert (inside[10:40, 20:60] > 0.99).all()
    assert inside.sum() == pytest.approx(inside[10:40, 20:60].sum())


def click_box(sure: Callable[[Region | None], float]) -> tuple[list[Region | None], tuple[float, ...], NDArray[np.bool_]]:
    """Regions that were looked at and the box that was found, where the answer on whole frames is too large."""
    volume, truth = cone()
    stack = FrameStack(volume, AXIAL, Window(0, 1), 64)
    plane = AXIAL.apply(truth)[0]
    regions: list[Region | None] = []

    def look(region: Region | None, t: int, said: FramePrompt) -> tuple[NDArray[np.bool_], float]:
        regions.append(region)
        return (plane if region else np.roll(plane, 3, 0) | plane), sure(region)

    _, row, column = AXIAL.project((60, 50, 0), SHAPE)
    return regions, object_box(stack.canvas, {0: FramePrompt.click(column, row)}, look), plane


def test_a_click_is_looked_at_in_regions_of_several_sizes_and_agreement_counts() -> None:
    regions, box, plane = click_box(lambda region: 0.5)
    assert [region and region.height for region in regions] == [37, None, 24]
    assert box == box_of(plane)


def test_what_seems_to_be_small_is_looked_at_more_closely() -> None:
    canvas, regions = Canvas((400, 300)), dict[int, list[int]]()
    for side in (30, 60):
        mask = np.zeros((400, 300), bool)
        mask[100 : 100 + side, 100 : 100 + side] = True
        sides = regions[side] = []

        def look(
            region: Region | None, t: int, said: FramePrompt, *, mask: NDArray[np.bool_] = mask, sides: list[int] = sides
        ) -> tuple[NDArray[np.bool_], float]:
            sides.append(region.width if region else 300)
            return mask, 0.5

        assert object_box(canvas, {0: FramePrompt.click(105, 105)}, look) == box_of(mask)
    assert regions[60] == [93, 300]
    assert regions[30] == [93, 300, 30]


def test_of_answers_alike_the_surest_counts() -> None:
    _, box, plane = click_box(lambda region: 0.2 if region else 1.0)
    assert box != box_of(plane)


def test_where_a_click_hits_nothing_the_whole_frame_is_shown() -> None:
    volume, _ = cone()
    stack = FrameStack(volume, AXIAL, Window(0, 1), 64)
    nothing = np.zeros(stack.shape_thw[1:], bool)
    box = object_box(stack.canvas, {4: FramePrompt.click(5, 5)}, lambda region, t, said: (nothing, 0.9))
    assert region_for(stack.canvas, box) is None


@pytest.mark.parametrize(("near", "box"), [(0.45, (100.0, 100.0, 107.0, 107.0)), (0.4, (80.0, 80.0, 149.0, 149.0))])
def test_a_click_beside_an_outline_of_another_slice_may_mean_something_larger(near: float, box: tuple[float, ...]) -> None:
    """A small outline, as near an object's end, must not decide how much of a larger section can be seen."""
    canvas, outline = Canvas((400, 300)), np.zeros((400, 300), bool)
    outline[100:108, 100:108] = True

    def look(region: Region | None, t: int, said: FramePrompt) -> tuple[NDArray[np.bool_], float]:
        mask, small = np.zeros((400, 300), bool), region is not None and region.width < 40
        mask[(slice(98, 110),) * 2 if small else (slice(80, 150),) * 2] = True
        return mask, near if small else 0.5

    prompts = {0: FramePrompt.mask(outline), 5: FramePrompt.click(105, 105)}
    assert object_box(canvas, prompts, look) == box
    assert object_box(canvas, {**prompts, 5: FramePrompt.click(105, 105, positive=False)}, look) == box_of(outline)


def test_objects_alike_share_a_region_and_others_do_not() -> None:
    volume, _ = cone()
    stack = FrameStack(volume, AXIAL, Window(0, 1), 64)
    lots = group_regions(stack.canvas, {1: (10, 10, 29, 29), 2: (14, 12, 33, 31), 3: (80, 70, 89, 79), 4: (5, 5, 115, 100)})
    assert [labels for _, labels in lots] == [(1, 2), (3,), (4,)]
    assert lots[2][0] is None


def test_a_region_grows_up_to_the_whole_frame() -> None:
    volume, _ = cone()
    stack, region = FrameStack(volume, AXIAL, Window(0, 1), 64), Region(40, 50, 30, 30)
    sides = []
    while region:
        sides.append(region.height)
        region = grow_region(stack.canvas, region)  # type: ignore[assignment]
    assert sides == [30, 48, 77]


def test_objects_with_regions_of_their_own_give_what_each_gives_alone() -> None:
    volume, truth = cone()
    array = np.asarray(volume.array).copy()
    array[130:140, 100:110, :] = 0.5
    both = Volume(array, np.eye(4))
    first, second = prompt("mask", truth, 3), Point((134, 105, 3), object=2)
    _, joint, _ = tracked(both, [first, second])
    for label, said in ((1, first), (2, second)):
        _, alone, _ = tracked(both, [said])
        assert (joint[label].result() == alone[label].result()).all()


def test_a_correction_follows_an_object_out_of_its_region() -> None:
    volume, truth = cone()
    earlier = truth.astype(np.uint8)
    earlier[:, :, 5:] = 0
    tracker, _, _ = tracked(volume, [Point((60, 50, 0))])
    mended = correct_labels(tracker, grouped(volume, [Point((60, 50, 12))]), earlier)  # the middle of what is missed
    assert dice(mended == 1, truth) > 0.97


def test_tracking_ends_where_the_objects_have_ended() -> None:
    truth = np.zeros((40, 40, 60), bool)
    truth[10:20, 10:20, 25:32] = True
    volume = Volume(np.where(truth, np.float32(0.8), np.float32(0.2)), np.eye(4))
    tracker, fusions, _ = tracked(volume, [Point((15, 15, 30))])
    axial = sorted(row.slice for row in tracker.rows if row.view == AXIAL.code)
    assert axial == list(range(25 - ENDED, 32 + ENDED))
    assert ((fusions[1].result() > 0.5) == truth).all()
    assert fusions[1].result()[15, 15, 0] == 0

"""One view after the other: what each starts from, how far it looks, what it remembers."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medical_sam2.intensity_window import Window
from medical_sam2.model.backbone import Features, FramePrediction, Fused, Instruction, Memory, Recalled
from medical_sam2.model.memory_bank import PolicyBank, SelfSorting
from medical_sam2.model.sam2 import ABSENT
from medical_sam2.prompts import Mask, Prompt
from medical_sam2.tracking.fusion import Mean
from medical_sam2.tracking.plan import grouped
from medical_sam2.tracking.view_tracker import ObjectBanks, TrackingConfig, ViewTracker
from medical_sam2.tracking.volume_tracker import GroupTracker
from medical_sam2.views import AXIAL, CORONAL, SAGITTAL, SIX_VIEWS, THREE_VIEWS, View
from medical_sam2.volume import Volume
from tests.backbones import Brightness
from tests.phantoms import Phantom, phantom


def tracked(
    volume: Volume,
    prompts: Sequence[Prompt],
    views: Sequence[View] = THREE_VIEWS,
    backbone: Brightness | None = None,
    policy: Callable[[], SelfSorting] = SelfSorting,
    **options: Any,
) -> tuple[GroupTracker, dict[int, Mean], Brightness]:
    backbone = backbone or Brightness()
    config = TrackingConfig(backbone, lambda x: backbone.encode(x[None]), volume, Window(0, 1), policy, **options)
    tracker, fusions = GroupTracker(config), {}
    for group in grouped(volume, prompts):
        fusions |= (own := {label: Mean(volume.shape, volume.orientation) for label in group.prompts})
        tracker.run(group, (group.view, *(view for view in views if view != group.view)), own)
    return tracker, fusions, backbone


def played(tracker: GroupTracker, view: View) -> list[int]:
    return [row.slice for row in tracker.rows if row.view == view.code]


@pytest.fixture
def case() -> Phantom:
    return phantom()


def test_the_first_view_is_played_whole_and_further_ones_about_the_object(case: Phantom) -> None:
    long = Volume(np.pad(case.volume.array, ((0, 0), (0, 40), (0, 0)), constant_values=0.2), np.eye(4))
    tracker, fusions, _ = tracked(long, [case.prompt("click", 1, 2)])
    assert sorted(played(tracker, AXIAL)) == list(range(16))
    assert sorted(played(tracker, CORONAL)) == list(range(16))  # rows 4 to 9, six more on each side
    assert sorted(played(tracker, SAGITTAL)) == list(range(11))
    assert ((fusions[1].result() > 0.5)[:, :13] == (case.truth == 1)).all()


def test_a_further_view_starts_where_the_object_is_largest(case: Phantom) -> None:
    tracker, _, _ = tracked(case.volume, [case.prompt("click", 1, 2)])
    for view in (CORONAL, SAGITTAL):
        first = next(row for row in tracker.rows if row.view == view.code)
        areas = (view.apply(case.truth) == 1).sum(axis=(1, 2))
        assert not first.prompted, "it begins with an estimate"
        assert areas[view.apply(np.indices(case.truth.shape)[view.order()[0]])[:, 0, 0] == first.slice] == areas.max()


def outlined(case: Phantom, slices: Sequence[int]) -> list[Mask]:
    """The first object, as it is on some axial slices."""
    return [Mask((case.truth == 1) & (np.arange(case.truth.shape[2]) == k), 1, 2) for k in slices]


def test_tracking_begins_where_the_largest_outline_was_drawn(case: Phantom) -> None:
    tracker, _, _ = tracked(case.volume, outlined(case, [5, 9]), (AXIAL,))  # the nose makes slice 5 larger
    assert [row.slice for row in tracker.rows][:4] == [9, 5, 6, 7]
    mirrored = replace(case, truth=case.truth[..., ::-1], volume=replace(case.volume, array=case.volume.array[..., ::-1]))
    tracker, _, _ = tracked(mirrored.volume, outlined(mirrored, [6, 10]), (AXIAL,))
    assert [row.slice for row in tracker.rows][:4] == [6, 10, 11, 12]


def test_an_outline_that_is_much_smaller_than_the_largest_is_taken_as_drawn_and_not_remembered(case: Phantom) -> None:
    kept: dict[int, bool] = {}

    class Watched(SelfSorting):
        def keep(self, bank: list[Memory], new: Memory) -> list[Memory]:
            bank = super().keep(bank, new)
            kept[new.t] = any(memory.t == new.t and memory.prompted for memory in bank)
            return bank

    large, other = outlined(case, [6, 9])
    drawn = np.zeros(case.truth.shape, bool)
    drawn[4:6, 5:7, 11] = True
    backbone = Brightness()
    tracker = GroupTracker(TrackingConfig(backbone, lambda x: backbone.encode(x[None]), case.volume, Window(0, 1), Watched))
    (group,) = grouped(case.volume, [large, other, Mask(drawn, 1, 2)])
    fusion = Mean(case.volume.shape)
    tracker.run(group, (AXIAL,), {1: fusion})
    assert {t: kept[t] for t in (6, 9, 11)} == {6: True, 9: True, 11: False}
    assert [row.slice for row in tracker.rows if row.prompted] == [11, 9, 6]
    assert ((fusion.result() > 0.5)[:, :, 11] == drawn[:, :, 11]).all()


class Shy(Brightness):
    """Never sure that the object is on a frame."""

    def decode(self, frame: Features, fused: Fused, instructions: Sequence[Instruction | None]) -> FramePrediction:
        found = super().decode(frame, fused, instructions)
        asked = torch.tensor([one is not None for one in instructions])
        hidden = torch.where(asked[:, None, None], found.logits_Bhw, ABSENT)
        return replace(found, logits_Bhw=hidden, presence_B=torch.where(asked, 1.0, -1.0))


def test_between_two_outlines_an_object_is_there_whatever_the_network_says_and_beyond_it_is_not(case: Phantom) -> None:
    there = np.flatnonzero((case.truth == 1).any((0, 1))).tolist()
    first, last = there[1], there[-2]
    tracker, fusions, _ = tracked(case.volume, outlined(case, [first, last]), (AXIAL,), Shy())
    found = (fusions[1].result() > 0.5).any((0, 1))
    assert np.flatnonzero(found).tolist() == there[1:-1]
    assert all(row.confidence > 0 for row in tracker.rows if first <= row.slice <= last)
    _, fusions, _ = tracked(case.volume, outlined(case, [first]), (AXIAL,), Shy())
    assert np.flatnonzero((fusions[1].result() > 0.5).any((0, 1))).tolist() == [first]


@pytest.mark.parametrize(("views", "last_is_kept"), [((AXIAL,), False), ((AXIAL, CORONAL), True)])
def test_the_last_frame_each_way_is_remembered_only_where_another_view_follows(
    case: Phantom, views: tuple[View, ...], last_is_kept: bool
) -> None:
    class Remembering(Brightness):
        kept: list[int]

        def memorise(self, frame: Features, prediction: FramePrediction, t: int, prompted: Sequence[bool]) -> list[Memory]:
            self.kept.append(t)
            return super().memorise(frame, prediction, t, prompted)

    backbone = Remembering()
    backbone.kept = []
    tracker, _, _ = tracked(case.volume, [case.prompt("click", 1, 2)], views, backbone)
    own = played(tracker, AXIAL)
    ends = {min(own), max(own)}
    assert ends & {*backbone.kept} == (ends if last_is_kept else set())
    assert {*own} - ends <= {*backbone.kept}


def test_each_way_remembers_nothing_of_the_other_and_further_views_of_both(case: Phantom) -> None:
    """The memories that frames are seen with."""
    seen: dict[int, set[int]] = {}

    class Watched(SelfSorting):
        def weigh(self, bank: list[Memory], t: int, query_C: Tensor) -> list[Recalled]:
            seen[t] = {memory.t for memory in bank}
            return super().weigh(bank, t, query_C)

    policy, start = partial(Watched, size=40, threshold=-1.0), case.prompt("click", 1, 2)
    tracker, _, _ = tracked(case.volume, [start], (AXIAL, CORONAL), policy=policy, every_frame=True)
    (middle,), frames = (row.slice for row in tracker.rows if row.prompted), range(16)
    for t in frames:
        assert seen.get(t, set()) == {*range(middle, t), *range(t + 1, middle + 1)}
    assert next(known for t, known in seen.items() if t not in frames) >= {*frames}


def test_an_object_that_was_not_found_stays_out_of_further_views(case: Phantom) -> None:
    lost = replace(case.volume, array=np.full(case.truth.shape, 0.2, np.float32))
    nothing = np.zeros(case.truth.shape, np.float32)
    tracker, fusions, backbone = tracked(lost, [case.prompt("click", 2, 2)], (AXIAL,))
    assert (fusions[2].result() > 0.5).all()  # all is as bright as what was clicked on
    backbone.counts.decoded.clear()
    fusions[2] = Mean(nothing.shape)
    tracker._track_further_view(
        CORONAL, grouped(lost, [case.prompt("click", 2, 2)])[0], {2: PolicyBank(SelfSorting)}, fusions, 0
    )
    assert not backbone.counts.decoded


def test_an_outline_in_another_plane_is_used_there(case: Phantom) -> None:
    drawn = np.zeros(case.truth.shape, bool)
    drawn[3:5, 7, 5:7] = True
    tracker, fusions, _ = tracked(case.volume, [case.prompt("box", 1, 2), Mask(drawn, 1, 1)], (AXIAL, CORONAL))
    told = [row.slice for row in tracker.rows if row.prompted and row.view == CORONAL.code]
    assert 7 in told
    assert fusions[1].result()[7, 7, 8] == pytest.approx(0.5, abs=0.01)  # one view against the other
    assert fusions[1].result()[4, 7, 6] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("joint", "most"), [(True, 7), (False, 7)])
def test_a_joint_bank_carries_memories_from_view_to_view(case: Phantom, joint: bool, most: int) -> None:
    banks: list[SelfSorting] = []
    seen: list[set[int]] = []

    class Watched(SelfSorting):
        def __post_init__(self) -> None:
            super().__post_init__()
            banks.append(self)

        def keep(self, bank: list[Memory], new: Memory) -> list[Memory]:
            kept = super().keep(bank, new)
            seen.append({m.t // 1_000_000 for m in kept})
            assert len(kept) <= most
            return kept

    backbone = Brightness()
    config = TrackingConfig(backbone, lambda x: backbone.encode(x[None]), case.volume, Window(0, 1), Watched, joint)
    tracker = GroupTracker(config)
    (group,) = grouped(case.volume, [case.prompt("mask", 1, 2)])
    tracker.run(group, (AXIAL, CORONAL, SAGITTAL), {1: Mean(case.volume.shape)})
    assert len(banks) == (1 if joint else 3)
    assert max(len(places) for places in seen) == (3 if joint else 1)


def test_what_a_further_view_starts_from_is_remembered_as_an_answer(case: Phantom) -> None:
    stored: list[Memory] = []

    class Watched(SelfSorting):
        def keep(self, bank: list[Memory], new: Memory) -> list[Memory]:
            stored.append(new)
            return super().keep(bank, new)

    backbone = Brightness()
    tracker = GroupTracker(TrackingConfig(backbone, lambda x: backbone.encode(x[None]), case.volume, Window(0, 1), Watched))
    (group,) = grouped(case.volume, [case.prompt("mask", 1, 2)])
    fusion = Mean(case.volume.shape)
    tracker.run(group, THREE_VIEWS, {1: fusion})
    assert sum(m.prompted for m in stored) == 1
    starts = [next(m for m in stored if m.t // 1_000_000 == place) for place in (1, 2)]
    for start in starts:
        assert start.confidence == pytest.approx(1, abs=0.01)  # the mean probability inside, no longer the decoder's .9
        assert start.confidence != pytest.approx(0.9, abs=0.01)


def test_six_views_play_each_plane_both_ways(case: Phantom) -> None:
    tracker, fusions, _ = tracked(case.volume, [case.prompt("mask", 1, 2)], SIX_VIEWS)
    for view in THREE_VIEWS:
        assert sorted(played(tracker, view)) == sorted(played(tracker, view.reversed))
    order = list(dict.fromkeys(row.view for row in tracker.rows))
    assert order[:2] == [AXIAL.code, AXIAL.reversed.code]
    assert [View(code).axis for code in order[2::2]] == [View(code).axis for code in order[3::2]]
    assert ((fusions[1].result() > 0.5) == (case.truth == 1)).all()


def test_further_views_come_by_likeness_to_the_first() -> None:
    """The summary of the backbone is the mean brightness: the plane whose middle slices are as bright comes first."""
    array = np.random.default_rng(0).uniform(0.4, 0.41, (24, 24, 24)).astype(np.float32)
    array[10:14] = 0.9  # bright to the sagittal view's middle sample alone

    class Signed(Brightness):
        def encode(self, frames_N3SS: torch.Tensor) -> Any:
            found = super().encode(frames_N3SS)
            mean = found.summary_BC
            return replace(found, summary_BC=torch.cat([mean - 0.48, 0.1 + 0 * mean], 1))

    backbone = Signed()
    for bright, expected in ((array, [CORONAL, SAGITTAL]), (array.transpose(1, 0, 2), [SAGITTAL, CORONAL])):
        volume = Volume(bright, np.eye(4))
        config = TrackingConfig(backbone, lambda x: backbone.encode(x[None]), volume, Window(0, 1), SelfSorting)
        assert ViewTracker(config).order_by_likeness(AXIAL, [CORONAL, SAGITTAL]) == expected


def test_banks_of_single_objects_as_one() -> None:
    def memory(value: float) -> Memory:
        part = torch.full((2,), value)
        return Memory(0, True, part[:, None, None], part, part, 1.0)

    single = [PolicyBank(SelfSorting) for _ in range(2)]
    together = ObjectBanks(single)
    assert together.recall(0, torch.ones(1, 2)) == [[], []]
    together.store([memory(1), memory(2)])
    assert [[m.pointer_C[0].item() for m in bank.memories[0]] for bank in single] == [[1], [2]]
    assert [[r.memory.pointer_C[0].item() for r in own] for own in together.recall(1, torch.ones(1, 2))] == [[1], [2]]
    alone = ObjectBanks(single[1:])
    alone.store([memory(3)])
    assert [len(bank.memories[0]) for bank in single] == [1, 2]

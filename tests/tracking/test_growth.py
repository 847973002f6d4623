"""Objects that are prompted at an end: tracked once more by parts of the network that learnt from there."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from medical_sam2.errors import WeightsError
from medical_sam2.model.backbone import Features, FramePrediction, Fused, Instruction, Memory
from medical_sam2.model.nano import Nano, nano
from medical_sam2.prompts import Box, Mask, Point, Prompt
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.growth import END_FILE, grew, lies_between, load_end_network, may_begin_at_end, stayed_small
from medical_sam2.tracking.view_tracker import ViewTracker
from medical_sam2.volume import SliceConfidence, Volume
from tests.backbones import Brightness


class Fading(Brightness):
    """Loses an object on the slices beside the prompted one, unless what it remembers of it is large, but not too large."""

    def __init__(self, least: float, most: float = 1.0) -> None:
        super().__init__()
        self.least, self.most = least, most  # share of the frame that an outline must fill, and may

    def memorise(self, frame: Features, prediction: FramePrediction, t: int, prompted: Sequence[bool]) -> list[Memory]:
        memories = super().memorise(frame, prediction, t, prompted)
        shares = [float((logits > 0).float().mean()) for logits in prediction.logits_Bhw]
        for memory, share in zip(memories, shares, strict=True):
            if not self.least <= share <= self.most:
                memory.pointer_C.fill_(5.0)  # as bright as nothing
        return memories


def cone() -> tuple[Volume, np.ndarray[Any, np.dtype[np.bool_]]]:
    """An object that grows from a few voxels on slice 3 to its largest on slice 9, and ends on slice 13; and its outline."""
    rows, columns = np.ogrid[:64, :64]
    inside = np.zeros((64, 64, 18), bool)
    for k in range(3, 14):
        inside[..., k] = (rows - 32) ** 2 + (columns - 30) ** 2 < (3 + 2 * min(k - 3, 13 - k)) ** 2
    noise = np.random.default_rng(0).uniform(-0.01, 0.01, inside.shape)
    return Volume((0.2 + 0.6 * inside + noise).astype(np.float32), np.eye(4)), inside


def slice_of(inside: np.ndarray[Any, np.dtype[np.bool_]], k: int) -> Mask:
    return Mask(inside & (np.arange(inside.shape[2]) == k), 1, 2)


def at_end(inside: np.ndarray[Any, np.dtype[np.bool_]], kind: str) -> Prompt:
    """A prompt on the first slice of it."""
    places = np.argwhere(inside[..., 3])
    low, high = (tuple(map(int, corner)) for corner in (places.min(0), places.max(0)))
    prompts: dict[str, Prompt] = {
        "mask": slice_of(inside, 3),
        "click": Point((32, 30, 3)),
        "box": Box((*low, 3), (*high, 3)),  # type: ignore[arg-type]
    }
    return prompts[kind]


def outline(prompts: Sequence[Prompt], network: nn.Module, other: nn.Module | None, **options: Any) -> Any:
    volume, _ = cone()
    segmenter = Segmenter(network, device="cpu", end_network=other)  # type: ignore[arg-type]
    return segmenter.segment_volume(volume, prompts, window="0,1", zoom=False, **options)


def rows_of(areas: Sequence[int], prompted: Sequence[int]) -> list[SliceConfidence]:
    return [SliceConfidence(1, "SPL", k, 0.9, area, k in prompted) for k, area in enumerate(areas)]


def test_what_is_thinner_than_a_slice_begins_at_no_end() -> None:
    rows = rows_of([0, 0, 0, 12, 0, 0], [3])  # a radius of 1.95 pixels
    assert may_begin_at_end(rows, range(6), 0.22)
    assert not may_begin_at_end(rows, range(6), 0.21)


@pytest.mark.parametrize(
    ("areas", "prompted", "expected"),
    [
        ([0, 0, 0, 4, 3, 2, 1, 0, 0, 0], [3], True),  # little before and after
        ([9, 9, 9, 9, 9, 9, 9, 9, 9, 9], [4], False),
        ([0, 0, 0, 9, 9, 9, 9, 9, 9, 9], [3], True),  # nothing before
        ([9, 9, 9, 9, 9, 9, 9, 9, 9, 9], [0], False),  # nothing can be before, and all that can be after is
        ([9, 9, 0, 0, 0, 0, 0, 0, 0, 0], [0], True),
        ([0, 0, 9, 9, 9, 9, 9, 0, 0, 0], [2, 6], False),  # both ends are outlined: nothing more is looked for
        ([9, 9, 9, 9, 9, 9, 9, 9, 9, 9], [], False),  # a further view
    ],
)
def test_a_prompt_with_hardly_a_slice_on_one_side_may_lie_at_an_end(
    areas: list[int], prompted: list[int], expected: bool
) -> None:
    assert may_begin_at_end(rows_of(areas, prompted), range(10), 1.0) is expected


@pytest.mark.parametrize(
    ("areas", "prompted", "expected"),
    [
        ([0, 10, 20, 39, 12, 0], [1, 4], True),
        ([0, 10, 20, 40, 12, 0], [1, 4], False),
        ([0, 10, 0, 0, 12, 0], [1, 4], False),  # nothing leads inside
        ([0, 10, 12, 9, 0, 0], [1, 2], False),  # nothing lies between them
        ([0, 10, 20, 39, 12, 0], [1], False),
        ([0, 10, 20, 39, 12, 0], [1, 3, 4], False),
    ],
)
def test_between_two_prompts_an_object_may_stay_small(areas: list[int], prompted: list[int], expected: bool) -> None:
    assert stayed_small(rows_of(areas, prompted)) is expected


def test_the_second_answer_must_find_several_times_as_much_beside_the_prompts() -> None:
    before = rows_of([0, 10, 20, 0], [1])
    assert grew(before, rows_of([0, 10, 30, 30], [1]))
    assert not grew(before, rows_of([0, 10, 30, 29], [1])), "the prompted slice does not count"
    assert not grew(before, rows_of([0, 10, 29, 29, 29], [1])), "it is hardly larger than what was prompted"
    nothing = rows_of([0, 1, 0, 0], [1])
    assert grew(nothing, rows_of([0, 1, 3, 0], [1]))
    assert not grew(nothing, nothing)


@pytest.mark.parametrize("kind", ["mask", "click", "box"])
@pytest.mark.parametrize("views", ["axial", "three", "six"])
def test_from_its_end_an_object_is_found_by_what_learnt_from_ends(kind: str, views: str) -> None:
    _, inside = cone()
    prompt = at_end(inside, kind)
    alone = outline([prompt], Fading(0.01), None, views=views)
    assert (alone.labels > 0)[..., 4:].sum() == 0
    found = outline([prompt], Fading(0.01), Brightness(), views=views)
    assert ((found.labels > 0) == inside).mean() > 0.995
    assert [line for line in found.warnings if "one of its ends" in line] == [
        "object 1 seems to be prompted at one of its ends: it was followed as it grows from there, and outlined once more "
        "from inside, through 11 slices in place of 1; look at its other end, or prompt the slice on which it is largest, "
        "which is surer"
    ]
    first = [row for row in found.confidence if row.view == found.confidence[0].view]
    assert len({row.slice for row in first}) == len(first), "one row a slice, of the answer that was taken"
    assert [row.slice for row in first if row.prompted] == [3]
    assert max(row.area_px for row in first) == inside.sum((0, 1)).max()


@pytest.mark.parametrize("kind", ["mask", "click", "box"])
@pytest.mark.parametrize("views", ["axial", "three", "six"])
def test_what_is_found_from_an_end_is_outlined_from_inside(kind: str, views: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What learnt from ends loses the object where it is large; from there the network itself finds all of it."""
    _, inside = cone()
    prompt = at_end(inside, kind)
    with monkeypatch.context() as without:
        without.setattr(ViewTracker, "outline_inside", lambda *_: None)
        alone = outline([prompt], Fading(0.01), Fading(0, 0.03), views="axial")
    assert (alone.labels > 0).sum() < 0.7 * inside.sum()
    found = outline([prompt], Fading(0.01), Fading(0, 0.03), views=views)
    assert ((found.labels > 0) == inside).mean() > 0.995
    assert (found.labels[..., 3] > 0).sum() == inside[..., 3].sum(), "what was prompted is kept"
    assert len([line for line in found.warnings if "through 11 slices in place of 1" in line]) == 1
    first = [row for row in found.confidence if row.view == found.confidence[0].view]
    assert len({row.slice for row in first}) == len(first), "one row a slice"
    assert [row.slice for row in first if row.prompted] == [3], "nobody prompted the other one"


class Thin(Brightness):
    """From an outline of a few pixels it finds the middle of an object alone; from a large one all of it."""

    def memorise(self, frame: Features, prediction: FramePrediction, t: int, prompted: Sequence[bool]) -> list[Memory]:
        memories = super().memorise(frame, prediction, t, prompted)
        for memory, logits in zip(memories, prediction.logits_Bhw, strict=True):
            memory.pointer_C[0] += 10.0 * float((logits > 0).float().mean() < 0.01)
        return memories

    def decode(self, frame: Features, fused: Fused, instructions: Sequence[Instruction | None]) -> FramePrediction:
        small = (fused.map_BChw > 5).flatten(1).any(1)
        found = super().decode(frame, replace(fused, map_BChw=fused.map_BChw - 10.0 * small[:, None, None, None]), instructions)
        rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
        outside = ((rows - 32) ** 2 + (columns - 30) ** 2 > 9)[None] & small[:, None, None]
        tracked = torch.tensor([each is None for each in instructions])[:, None, None]
        return replace(found, logits_Bhw=torch.where(outside & tracked, -10.0, found.logits_Bhw))


def test_between_its_ends_an_object_is_outlined_by_a_click_halfway() -> None:
    """Outlined on its first and last slice, nothing of it was found between them."""
    _, inside = cone()
    ends = [slice_of(inside, 3), slice_of(inside, 13)]
    alone = outline(ends, Fading(0.01), None)
    assert (alone.labels > 0)[..., 4:13].sum() == 0
    found = outline(ends, Fading(0.01), Fading(0.01))
    assert ((found.labels > 0) == inside).mean() > 0.995
    assert len([line for line in found.warnings if "prompted at both of its ends" in line]) == 1
    assert sorted(row.slice for row in found.confidence if row.prompted) == [3, 13]


@pytest.mark.parametrize("pair", [(6, 10), (3, 4), (3, 8), (8, 13)])
def test_what_is_prompted_elsewhere_is_not_outlined_halfway(pair: tuple[int, int]) -> None:
    """On slices that are a third as large as the largest one, or more; on neighbours."""
    _, inside = cone()
    found = outline([slice_of(inside, k) for k in pair], Brightness(), Brightness())
    assert not [line for line in found.warnings if "ends" in line]


@pytest.mark.parametrize(
    ("sure", "area", "expected"), [(0.45, 36, True), (0.44, 36, False), (0.45, 35, False), (0.9, 0, False)]
)
def test_a_click_halfway_must_be_sure_and_mean_something_larger(sure: float, area: int, expected: bool) -> None:
    mask = np.arange(100).reshape(10, 10) < area
    rows = rows_of([0, 10, 50, 12], [1, 3])
    assert bool(lies_between((2, mask, sure), 0.9, rows, lambda: of_areas([0, 10, 50, 12]), 2)) is expected


def of_areas(areas: Sequence[int]) -> np.ndarray:
    """A mask (10, 10, K) with so many voxels on each slice."""
    return np.stack([np.arange(100).reshape(10, 10) < area for area in areas], axis=2)


@pytest.mark.parametrize(
    ("alike", "areas", "expected"),
    [(0.5, [10, 4, 4, 12], True), (0.49, [10, 4, 4, 12], False), (0.9, [10, 5, 6, 12], False), (0.9, [10, 0, 0, 12], True)],
)
def test_what_was_lost_between_two_prompts_is_looked_for_where_a_click_halfway_agrees(
    alike: float, areas: list[int], expected: bool
) -> None:
    """Neither sure nor larger: alike the shape that leads from one prompt to the other."""
    mask = np.arange(100).reshape(10, 10) < 11
    rows = rows_of([10, 90, 90, 12], [0, 3])  # whatever was tracked: what is left of it counts
    assert bool(lies_between((2, mask, 0.2), alike, rows, lambda: of_areas(areas), 2)) is expected


def test_between_its_ends_an_object_is_outlined_from_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outlined on its first and last slice, it stayed as small as there; a click halfway says nothing."""
    _, inside = cone()
    monkeypatch.setattr(ViewTracker, "outline_between", lambda *_: None)
    ends = [slice_of(inside, 3), slice_of(inside, 13)]
    alone = outline(ends, Thin(), None)
    assert (alone.labels > 0)[..., 4:13].sum() < 0.3 * inside[..., 4:13].sum()
    found = outline(ends, Thin(), Fading(0.01))
    assert ((found.labels > 0) == inside).mean() > 0.995
    assert [line for line in found.warnings if "prompted at both of its ends" in line]
    assert sorted(row.slice for row in found.confidence if row.prompted) == [3, 13]
    middle = outline([*ends, slice_of(inside, 8)], Thin(), Fading(0.01))
    assert not [line for line in middle.warnings if "both of its ends" in line]


def test_where_the_second_answer_finds_no_more_the_first_one_stays() -> None:
    _, inside = cone()
    alone = outline([slice_of(inside, 3)], Fading(0.01), None)
    found = outline([slice_of(inside, 3)], Fading(0.01), Fading(0.01))
    assert (found.labels == alone.labels).all()
    assert found.confidence == alone.confidence
    assert found.warnings == alone.warnings


def test_an_object_that_is_found_on_both_sides_is_not_tracked_twice() -> None:
    _, inside = cone()
    other = Brightness()
    found = outline([slice_of(inside, 8)], Brightness(), other)
    assert ((found.labels > 0) == inside).mean() > 0.995
    assert not other.counts.decoded


def test_only_the_object_at_its_end_is_tracked_again() -> None:
    _, inside = cone()
    other = Brightness()
    twice = [slice_of(inside, 3), Point((2, 2, 3), 2)]  # what is around it goes on through the whole volume
    found = outline(twice, Fading(0.01), other)
    assert ((found.labels == 1) == inside).mean() > 0.995
    assert (found.labels == 2).sum() > 0.9 * (~inside).sum()
    assert set(other.counts.decoded) == {1}


def test_progress_counts_what_is_tracked_again() -> None:
    _, inside = cone()
    seen: list[Any] = []
    outline([slice_of(inside, 3)], Fading(0.01), Brightness(), on_frame=seen.append)
    assert seen[-1].done == seen[-1].total == len(seen)
    assert all(frame.done <= frame.total for frame in seen)


def test_parts_beside_the_weights_replace_their_like_and_all_others_are_shared(tmp_path: Path) -> None:
    network = nano(64)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert load_end_network(network, tmp_path / "model.safetensors") is None
    save_file({"finest.bias": torch.full((16,), 2.0, dtype=torch.float16)}, tmp_path / END_FILE)
    other: Any = load_end_network(network, tmp_path / "model.safetensors")
    assert other.vision_encoder is network.vision_encoder
    assert other.finest.bias.tolist() == [2.0] * 16
    assert other.finest.weight.equal(network.finest.weight)
    assert other.finest.weight is not network.finest.weight
    assert all(tensor.equal(before[name]) for name, tensor in network.state_dict().items()), "the network stays as it was"
    assert load_end_network(Brightness(), tmp_path / "model.safetensors") is None, (
        "a network of the user's own has no such parts"
    )


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({"finest.bias": torch.ones(4)}, "does not fit"),
        ({"finest.other": torch.ones(16)}, "does not fit"),
        ({"finest.bias": torch.full((16,), float("nan"))}, "NaN"),
    ],
)
def test_parts_of_another_network_are_refused_by_name(tmp_path: Path, tensors: dict[str, Tensor], problem: str) -> None:
    save_file(tensors, tmp_path / END_FILE)
    with pytest.raises(WeightsError, match=problem) as refused:
        load_end_network(nano(64), tmp_path / "model.safetensors")
    assert END_FILE in str(refused.value)


def test_the_embedded_network_brings_such_parts_and_shares_the_rest() -> None:
    segmenter = Segmenter.from_pretrained("nano", device="cpu")
    network, other = segmenter.network, segmenter.end_network
    assert isinstance(network, Nano)
    assert isinstance(other, Nano)
    assert other.vision_encoder is network.vision_encoder
    assert other.memory_encoder is network.memory_encoder
    first, second = (each.memory_attention.state_dict() for each in (network, other))
    assert any(not tensor.equal(second[name]) for name, tensor in first.items())
    frame = torch.rand(1, 3, network.image_size, network.image_size)
    with torch.no_grad():
        seen, same = network.encode(frame), other.encode(frame)
    assert seen.top_BChw.equal(same.top_BChw), "what was seen serves both"
    assert all(seen.own[name].equal(same.own[name]) for name in seen.own)

"""Clips: from seed and step alone, with an object on their first frame; tasks are balanced whatever their numbers."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medical_sam2.data import clips
from medical_sam2.data.cases import CaseEntry, PoolReader, TrainingCase, read_pool
from medical_sam2.data.clips import Augmentation, Balance, ClipSampler
from medical_sam2.errors import FormatError
from tests.pools import balls, write_case, write_pool


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> ClipSampler:
    folder: Path = tmp_path_factory.mktemp("pool")
    write_pool(folder, seed=5)
    return ClipSampler(PoolReader(folder), seed=1)


def test_a_clip_starts_with_its_objects(sampler: ClipSampler) -> None:
    for number in range(20):
        clip = sampler.clip(np.random.default_rng(number), frames=3, objects=2, size=64, smallest=0.01)
        assert clip.frames_T3SS.shape == (3, 3, 64, 64)
        assert clip.labels_TSS.shape == (3, 64, 64)
        assert 1 <= len(clip.truth_OTSS) <= 2
        assert bool((clip.truth_OTSS[:, 0].float().mean((1, 2)) >= 0.01).all())
        assert float(clip.frames_T3SS.min()) >= 0
        assert float(clip.frames_T3SS.max()) <= 1


def test_a_step_is_the_same_every_time(sampler: ClipSampler) -> None:
    once, again = (sampler.batch(3, range(2), frames=2, objects=1, size=64) for _ in range(2))
    assert all(torch.equal(a.frames_T3SS, b.frames_T3SS) for a, b in zip(once, again, strict=True))
    other = sampler.batch(4, range(2), frames=2, objects=1, size=64)
    assert not torch.equal(once[0].frames_T3SS, other[0].frames_T3SS)


def test_data_sets_are_drawn_alike_however_many_cases_they_have(tmp_path: Path) -> None:
    for name, count in (("many", 6), ("few", 1)):
        write_pool(tmp_path / name, volumes=count, sets=0, seed=5)
        for path in (tmp_path / name).glob("*.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"name": name}))
    reader = read_pool(tmp_path)
    assert len(reader.entries) == 7
    drawn = {"cases": Counter[str](), "data-sets": Counter[str]()}
    for sampling, counter in drawn.items():
        sampler = ClipSampler(reader, seed=1, sampling=sampling)  # type: ignore[arg-type]
        for number in range(300):
            position, _ = next(sampler._candidates(np.random.default_rng(number)))
            counter[reader.entries[position].name] += 1
    assert 0.4 < drawn["data-sets"]["few"] / 300 < 0.6
    assert drawn["cases"]["few"] / 300 < 0.25


def test_both_kinds_are_drawn_in_their_share(sampler: ClipSampler) -> None:
    volumes = ClipSampler(sampler.reader, seed=1, sets=0.0)
    clip = volumes.clip(np.random.default_rng(0), frames=2, objects=1, size=64)
    assert torch.equal(clip.frames_T3SS[:, 0], clip.frames_T3SS[:, 1])  # a volume is grey


def entry(index: int, names: tuple[str, ...], modality: str) -> CaseEntry:
    return CaseEntry(index, "volume", tuple((n + 1,) for n in range(len(names))), "set", names, modality)


def test_a_rare_task_comes_as_often_as_a_frequent_one() -> None:
    balance = Balance([*(entry(n, ("liver",), "CT") for n in range(99)), entry(99, ("lesion",), "CT")])
    rng = np.random.default_rng(0)
    rare = np.mean([balance.draw(rng)[0] == "lesion" for _ in range(2000)])
    assert abs(rare - 0.5) < 0.05


def test_a_case_shows_the_object_that_was_drawn() -> None:
    balance = Balance([entry(0, ("liver", "lesion", "lesion"), "CT"), entry(1, ("lesion",), "MR")])
    rng = np.random.default_rng(0)
    drawn = {balance.case(rng, "lesion", "CT") for _ in range(50)}
    assert drawn == {(0, 1), (0, 2)}
    assert balance.case(rng, "lesion", "MR") == (1, 0)


def test_a_clip_is_a_function_of_seed_step_and_place(sampler: ClipSampler) -> None:
    """So a run on several processes, or one that goes on, sees the same clips."""

    def frames(seed: int, step: int, places: list[int]) -> list[torch.Tensor]:
        drawn = ClipSampler(sampler.reader, seed).batch(step, places, frames=2, objects=2, size=32)
        return [clip.frames_T3SS for clip in drawn]

    both, alone, turned = frames(1, 7, [0, 3]), frames(1, 7, [3]), frames(1, 7, [3, 0])
    assert torch.equal(both[1], alone[0])
    assert torch.equal(both[0], turned[1])
    assert not torch.equal(both[0], both[1])
    for seed, step, place in ((2, 7, 3), (1, 8, 3), (1, 7, 4)):
        assert not torch.equal(frames(seed, step, [place])[0], alone[0])


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PoolReader:
    """Cases that are white where an object is and black elsewhere, whose colours stay as they are."""
    monkeypatch.setattr(Augmentation, "recolour", lambda self, frames: frames)
    for index, kind in ((0, "volume"), (1, "set")):
        case = balls(index, kind)  # type: ignore[arg-type]
        white = np.where(case.labels > 0, 255, 0).astype(np.uint8)
        images = white if kind == "volume" else white[..., None].repeat(3, -1)
        write_case(tmp_path, index, replace(case, images=images, tasks=((1, 2, 3),)))
    return PoolReader(tmp_path)


@pytest.mark.parametrize("sets", [0.0, 1.0])
@pytest.mark.parametrize("regions", [0.0, 1.0])
def test_image_and_labels_of_a_clip_move_together(plain: PoolReader, sets: float, regions: float) -> None:
    sampler = ClipSampler(plain, seed=1, sets=sets, regions=regions)
    for number in range(12):
        clip = sampler.clip(np.random.default_rng(number), frames=3, objects=1, size=64)
        shown, truth = clip.frames_T3SS[:, 0] > 0.5, clip.truth_OTSS[0]
        assert clip.ordered == (sets == 0.0)
        assert float((shown != truth).float().mean()) < 0.05
        assert torch.equal(truth, clip.labels_TSS > 0)


def numbered(folder: Path, side: int) -> PoolReader:
    """A volume whose slices are as grey as they are far, with an object of some side in the middle of the middle third."""
    labels = np.zeros((21, 48, 48), np.uint8)
    labels[7:14, 24 - side // 2 : 24 + side // 2, 24 - side // 2 : 24 + side // 2] = 1
    images = np.broadcast_to(10 * np.arange(21, dtype=np.uint8)[:, None, None], labels.shape)
    write_case(folder, 0, TrainingCase(np.ascontiguousarray(images), labels, ((1,),), "volume", "numbered"))
    return PoolReader(folder)


def test_a_region_shows_the_object_larger(tmp_path: Path) -> None:
    reader = numbered(tmp_path, side=8)

    def share(regions: float) -> float:
        sampler = ClipSampler(reader, seed=1, sets=0.0, regions=regions)
        drawn = [sampler.clip(np.random.default_rng(n), frames=1, objects=1, size=32) for n in range(15)]
        return float(np.median([clip.truth_OTSS[0, 0].float().mean() for clip in drawn]))

    assert share(1.0) > 2 * share(0.0)


def test_slices_follow_each_other_and_some_clips_go_beyond_the_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Augmentation, "recolour", lambda self, frames: frames)
    sampler = ClipSampler(numbered(tmp_path, side=30), seed=1, sets=0.0, regions=0.0)
    ends, directions = 0, set[float]()
    for number in range(40):
        clip = sampler.clip(np.random.default_rng(number), frames=4, objects=1, size=32)
        assert clip.truth_OTSS[0, 0].any(), "the first frame shows it"
        levels = clip.frames_T3SS[:, 0, 14:18, 14:18].mean((1, 2))
        steps = (levels[1:] - levels[:-1]).sign()
        assert len(set(steps[steps != 0].tolist())) <= 1, "in one direction"
        directions |= set(steps[steps != 0].tolist())
        ends += not bool(clip.truth_OTSS[0, -1].any())
    assert directions == {-1.0, 1.0}
    assert 5 < ends < 35


def test_clips_begin_at_ends_as_often_as_told(tmp_path: Path) -> None:
    ball = (np.square(np.indices((40, 40, 40)) - 20).sum(0) < 15**2).astype(np.uint8)
    write_case(tmp_path, 0, TrainingCase(100 * ball, ball, ((1,),), "volume", "ball"))
    reader, grown = PoolReader(tmp_path), dict[float, int]()
    for inwards in (0.0, 1.0):
        sampler = ClipSampler(reader, seed=1, sets=0.0, regions=1.0, ends=0.0, inwards=inwards)
        drawn = [
            sampler.clip(np.random.default_rng(number), frames=4, objects=1, size=64).truth_OTSS[0] for number in range(20)
        ]
        grown[inwards] = sum(int(truth[1].sum() > 1.3 * truth[0].sum()) for truth in drawn)
    assert grown[1.0] > grown[0.0] + 6


def test_a_region_may_lie_where_the_object_is_later(tmp_path: Path) -> None:
    ball = (np.square(np.indices((60, 60, 60)) - 30).sum(0) < 25**2).astype(np.uint8)
    write_case(tmp_path, 0, TrainingCase(100 * ball, ball, ((1,),), "volume", "ball"))
    reader, filled = PoolReader(tmp_path), dict[float, float]()
    for later in (0.0, 1.0):
        sampler = ClipSampler(reader, seed=1, sets=0.0, regions=1.0, ends=0.0, inwards=1.0, later=later)
        drawn = [
            sampler.clip(np.random.default_rng(number), frames=6, objects=1, size=64).truth_OTSS[0] for number in range(20)
        ]
        filled[later] = float(np.mean([float(truth.float().mean((1, 2)).max()) for truth in drawn]))
    assert filled[1.0] < 0.8 * filled[0.0], "what grows from a small first slice does not outgrow the region"


def test_empty_cases_are_passed_over_and_an_empty_pool_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "TRIES", 4)
    empty = TrainingCase(np.zeros((8, 32, 32), np.uint8), np.zeros((8, 32, 32), np.uint8), ((1,),), "volume", "empty")
    write_case(tmp_path, 0, empty)
    with pytest.raises(FormatError, match="no object that is large enough"):
        ClipSampler(PoolReader(tmp_path), seed=1).clip(np.random.default_rng(0), frames=2, objects=1, size=32)
    write_case(tmp_path, 1, balls(1, "volume"))
    sampler = ClipSampler(PoolReader(tmp_path), seed=1)
    for number in range(4):
        assert sampler.clip(np.random.default_rng(number), frames=2, objects=1, size=32).truth_OTSS[:, 0].any()


def test_objects_too_small_for_a_frame_are_left_out(plain: PoolReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "TRIES", 6)
    sampler = ClipSampler(plain, seed=1, regions=0.0)
    for number in range(10):
        clip = sampler.clip(np.random.default_rng(number), frames=1, objects=3, size=48, smallest=0.1)
        assert float(clip.truth_OTSS[:, 0].float().mean((1, 2)).min()) >= 0.1
    with pytest.raises(FormatError, match="lower `smallest`"):
        sampler.clip(np.random.default_rng(0), frames=1, objects=1, size=48, smallest=0.99)


def test_tasks_are_sampled_with_the_object_that_was_drawn(tmp_path: Path) -> None:
    write_pool(tmp_path, volumes=3, sets=0, seed=2)
    for path in tmp_path.glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"task_names": ["body", "core", "body"]}))
    sampler = ClipSampler(PoolReader(tmp_path), seed=1, sampling="tasks")
    names = Counter[str]()
    for number in range(200):
        position, place = next(sampler._candidates(np.random.default_rng(number)))
        assert place is not None
        names[sampler.reader.entries[position].task_names[place]] += 1
    assert 0.4 < names["core"] / 200 < 0.6, "as often as the two bodies together"


CHANGES = (lambda a: a.degrees != 0, lambda a: a.scale != 1, lambda a: a.shift != (0.0, 0.0))


@pytest.mark.parametrize("sets", [0.0, 1.0])
def test_the_paper_s_table_is_drawn_as_it_is(plain: PoolReader, sets: float, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Augmentation] = []
    warp = Augmentation.warp

    def noted(self: Augmentation, frames: torch.Tensor, size: int, *, nearest: bool = False) -> torch.Tensor:
        done.append(self)
        return warp(self, frames, size, nearest=nearest)

    monkeypatch.setattr(Augmentation, "warp", noted)
    shares: dict[str, list[float]] = {}
    for name in ("paper", "strong"):
        sampler = ClipSampler(plain, 1, sets=sets, regions=0.0, augmentation=name)  # type: ignore[arg-type]
        done.clear()
        for number in range(150):
            sampler.clip(np.random.default_rng(number), frames=2, objects=1, size=16)
        shares[name] = [float(np.mean([bool(value(each)) for each in done])) for value in CHANGES]
    turned, scaled, moved = shares["paper"]
    assert abs(turned - 0.15) < 0.06
    assert abs(scaled - 0.15) < 0.06
    assert moved == 0
    assert shares["strong"][2] > 0.2
    assert sets or shares["strong"][0] > 0.4


def test_the_paper_s_images_of_a_set_are_changed_each_by_itself(plain: PoolReader, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[object] = []
    draw = Augmentation.draw

    def noted(rng: np.random.Generator, odds: object = None) -> Augmentation:
        drawn.append(odds)
        return draw(rng, odds)  # type: ignore[arg-type]

    monkeypatch.setattr(Augmentation, "draw", noted)
    for name, expected in (("paper", [None] * 3), ("strong", [clips.EAGER, None, None, None])):
        drawn.clear()
        ClipSampler(plain, 1, sets=1.0, regions=0.0, augmentation=name).clip(  # type: ignore[arg-type]
            np.random.default_rng(3), frames=3, objects=1, size=16
        )
        assert drawn == expected

"""Clips: from seed and step alone, with an object on their first frame; tasks are balanced whatever their numbers."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from medical_sam2.data.cases import CaseEntry, PoolReader, read_pool
from medical_sam2.data.clips import Balance, ClipSampler
from tests.pools import write_pool


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

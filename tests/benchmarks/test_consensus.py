"""The gate of the consensus in volumes: what it is fitted on."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import consensus
from benchmarks.consensus import (
    SYNTHETIC,
    Example,
    _real,  # pyright: ignore[reportPrivateUsage]
    joined,
    load_tracked,
    mirrored,
    slices_to_prompt,
    track,
)
from medical_sam2.evaluate.cases import VolumeTask
from medical_sam2.tracking.consensus import FEATURES, Gate
from medical_sam2.volume import Volume
from tests.data.nnunet import picture_set, volume_set
from tests.phantoms import segmenter


def test_structures_of_drawn_volumes(tmp_path: Path) -> None:
    """Each structure by its name, on the grid of its image; pictures are left alone."""
    drawn = [*_real(volume_set(tmp_path / "Dataset001_Volumes", cases=3), Namespace(seed=0, cases=2))]
    assert {path for path, *_ in drawn} == {"Dataset001_Volumes"}
    assert len({name for _, name, *_ in drawn}) == len(drawn) >= 2
    assert all(truth.shape == volume.shape and truth.any() for _, _, volume, truth in drawn)
    assert not [*_real(picture_set(tmp_path / "Dataset002_Pictures"), Namespace(seed=0, cases=2))]


def ball(padding: int = 0) -> VolumeTask:
    """A ball of radius 6 in the middle of 12 slices, with so many empty planes at the start of each axis."""
    i, j, k = np.indices((32, 32, 12))
    truth = ((i - 16) ** 2 + (j - 16) ** 2 + (2 * (k - 6)) ** 2) < 36
    grey = np.random.default_rng(0).normal(40 + 80 * truth, 5).astype(np.float32)
    grey, truth = (np.pad(each, [(padding, 0)] * 3) for each in (grey, truth))
    return VolumeTask(Volume(grey, np.diag([1.0, 1.0, 2.0, 1.0])), truth)


def test_outlines_lie_on_a_large_slice_at_the_ends_and_at_the_quarters() -> None:
    task = ball()
    areas = task.truth_thw.sum(axis=(1, 2))
    there = np.flatnonzero(areas).tolist()
    chosen = slices_to_prompt(task, ("mask", "click"), np.random.default_rng(0))
    assert {*chosen} == {"mask", "click", "mask first", "mask last", "mask ends", "mask quarters"}
    assert chosen["mask first"] + chosen["mask last"] == chosen["mask ends"] == [there[0], there[-1]]
    assert chosen["mask"] == chosen["click"]
    assert areas[chosen["mask"]] >= 0.4 * areas.max()
    assert {*slices_to_prompt(task, ("click",), np.random.default_rng(0))} == {"click"}


def test_what_was_found_lies_on_the_truth_where_the_volume_has_empty_planes(tmp_path: Path) -> None:
    """They are cut away before anything is tracked."""
    network = segmenter()
    network.gate = Gate().requires_grad_(False)
    kept = []
    for padding in (0, 5):
        task = ball(padding)
        arrays = track(network, task, "mask", [task.start], np.random.default_rng(0))
        np.savez(file := tmp_path / f"{padding}.npz", dataset="balls", **arrays)
        name, found, truth, what = load_tracked(file)
        assert name == "balls"
        assert found.shape == truth.shape == tuple(what.estimate.shape)
        (at,) = what.prompted
        assert (truth[at] == (found[at] > 0.5)).all()
        kept.append((found, truth, what.prompted))
    assert (kept[0][1] == kept[1][1]).all()
    assert kept[0][2] == kept[1][2]


def gates(count: int) -> list[Gate]:
    torch.manual_seed(0)
    return [Gate(3, 5) for _ in range(count)]


def test_gates_in_one_give_their_mean() -> None:
    own, seen = gates(3), torch.rand(7, 5)
    assert torch.allclose(joined(own)(seen), sum(gate(seen) for gate in own) / 3, atol=1e-6)


def test_light_and_dark_are_alike() -> None:
    """The mirror image of a gate says of a dark object what the gate says of a light one."""
    gate, seen = Gate().requires_grad_(False), torch.rand(7, len(FEATURES))
    dark = seen.clone()
    dark[:, FEATURES.index("lightness")] *= -1
    assert torch.equal(mirrored(gate)(dark), gate(seen))
    assert not torch.equal(mirrored(gate)(seen), gate(seen))


def test_a_gate_learns_from_outlines_and_from_synthetic_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What boxes and clicks find is tested, and teaches nothing."""
    parts = torch.zeros(4, 5), torch.zeros(4), torch.ones(4)
    examples = [Example(name, kind, *parts, extra=0.0) for name in ("a", SYNTHETIC) for kind in ("mask", "box", "click")]
    shown = list[tuple[str, str]]()
    monkeypatch.setattr(
        consensus,
        "fitted_once",
        lambda each, _: shown.extend((e.dataset, e.kind) for e in each) or Gate().requires_grad_(False),
    )
    consensus.fitted(examples, 0)
    assert set(shown) == {("a", "mask"), (SYNTHETIC, "mask"), (SYNTHETIC, "box"), (SYNTHETIC, "click")}

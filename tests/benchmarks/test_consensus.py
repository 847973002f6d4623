"""The gate of the consensus in volumes: what it is fitted on."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from benchmarks.consensus import Example, _real, fitted, held_out, join_gates, several  # pyright: ignore[reportPrivateUsage]
from medical_sam2.tracking.consensus import FEATURES
from tests.data.nnunet import picture_set, volume_set


def test_structures_of_drawn_volumes(tmp_path: Path) -> None:
    """Each structure by its name, on the grid of its image; pictures are left alone."""
    drawn = [*_real(volume_set(tmp_path / "Dataset001_Volumes", cases=3), Namespace(seed=0, cases=2))]
    assert {path for path, *_ in drawn} == {"Dataset001_Volumes"}
    assert len({name for _, name, *_ in drawn}) == len(drawn) >= 2
    assert all(truth.shape == volume.shape and truth.any() for _, _, volume, truth in drawn)
    assert not [*_real(picture_set(tmp_path / "Dataset002_Pictures"), Namespace(seed=0, cases=2))]


def made(name: str, kind: str, sign: float, seed: int) -> Example:
    """Tracking knows nothing; the third feature tells all, or, where the sign is negative, tells it the wrong way round."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(400, len(FEATURES), generator=generator) / 3
    share = (sign * features[:, 2] > 0).float()
    return Example(name, kind, features, share, torch.full((400,), 1 / 200), 0.0)


def test_gates_side_by_side_are_one_their_mean_learnt_from_outlines_and_boxes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.consensus.STEPS", 80)
    examples = [made(name, "mask", 1.0, seed) for seed, name in enumerate("abab")]
    clicks = [made(name, "click", -1.0, seed) for seed, name in enumerate("abab", 4)]
    gates = [fitted(examples, seed) for seed in (3, 4, 5)]
    x = examples[0].features
    assert torch.allclose(join_gates(gates)(x), torch.stack([gate(x) for gate in gates]).mean(0), atol=1e-4)
    assert torch.equal(several(examples, 1)(x), join_gates(gates)(x))
    assert all(each.dice(several(examples, 1)(each.features)[:, 0]) > each.dice(0.0) + 0.2 for each in examples)
    rows = [line.split("|") for line in held_out([*examples, *clicks], 0).splitlines() if line.startswith("| a")]
    assert float(rows[0][4]) < 0.75, "clicks, which are the other way round, are measured, too, and not learnt from"

"""The gate of the consensus in volumes: what it is fitted on."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from benchmarks import consensus
from benchmarks.consensus import SYNTHETIC, Example, _real, joined, mirrored  # pyright: ignore[reportPrivateUsage]
from medical_sam2.tracking.consensus import FEATURES, Gate
from tests.data.nnunet import picture_set, volume_set


def test_structures_of_drawn_volumes(tmp_path: Path) -> None:
    """Each structure by its name, on the grid of its image; pictures are left alone."""
    drawn = [*_real(volume_set(tmp_path / "Dataset001_Volumes", cases=3), Namespace(seed=0, cases=2))]
    assert {path for path, *_ in drawn} == {"Dataset001_Volumes"}
    assert len({name for _, name, *_ in drawn}) == len(drawn) >= 2
    assert all(truth.shape == volume.shape and truth.any() for _, _, volume, truth in drawn)
    assert not [*_real(picture_set(tmp_path / "Dataset002_Pictures"), Namespace(seed=0, cases=2))]


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

"""Checkpoints: whole or not at all."""

from pathlib import Path

import pytest
import torch

from medical_sam2.errors import FormatError
from medical_sam2.train.loop import load_checkpoint, save_checkpoint


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(5.0), "b": torch.ones(2, 3, dtype=torch.bfloat16)}
    save_checkpoint(tmp_path / "last.safetensors", tensors, {"step": "7"})
    back, facts = load_checkpoint(tmp_path / "last.safetensors")
    assert facts == {"step": "7"}
    assert all(torch.equal(back[name], value) for name, value in tensors.items())
    assert [path.name for path in tmp_path.iterdir()] == ["last.safetensors"]


def test_half_a_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, {"a": torch.zeros(1000)}, {})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(FormatError, match="no complete checkpoint"):
        load_checkpoint(path)

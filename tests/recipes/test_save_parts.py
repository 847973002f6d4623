"""What a run trained, kept without the rest of the network."""

import json
from pathlib import Path

import pytest
import torch

import save_parts
from medical_sam2.model.nano import nano
from medical_sam2.model.weights import load_backbone, save_backbone
from medical_sam2.tracking.growth import END_FILE, load_end_network


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run from saved weights that moved its memory attention."""
    network = nano(64)
    save_backbone(network, tmp_path / "start", dtype=torch.float16)
    with torch.no_grad():
        for parameter in network.memory_attention.parameters():
            parameter.add_(0.5)
    save_backbone(network, tmp_path / "run" / "weights", dtype=torch.float16)
    facts = {"parts": ["memory_attention."], "start": str(tmp_path / "start")}
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(facts))
    return tmp_path / "run"


def test_the_parts_that_were_trained_are_kept_as_they_lie_beside_the_weights(run: Path) -> None:
    kept = save_parts.trained_parts(run)
    assert kept
    assert all(name.startswith("memory_attention.") for name in kept)
    start = run.parent / "start"
    (start / END_FILE).write_bytes(save_parts.save(kept, {"format": "pt"}))
    network, wanted = load_backbone(start), load_backbone(run / "weights").state_dict()
    other = load_end_network(network, start / "model.safetensors")
    assert isinstance(other, torch.nn.Module)
    assert all(tensor.equal(wanted[name]) for name, tensor in other.state_dict().items())


def test_a_run_that_trained_something_else_as_well_is_refused(run: Path) -> None:
    facts = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps(facts | {"parts": ["mend."]}))
    with pytest.raises(SystemExit, match="is none of its parts"):
        save_parts.trained_parts(run)
    (run / "recipe.json").write_text(json.dumps(facts | {"parts": []}))
    with pytest.raises(SystemExit, match="trained all weights"):
        save_parts.trained_parts(run)

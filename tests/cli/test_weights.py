"""`medsam2 weights`: answers of the command."""

import json
from pathlib import Path

import pytest
import torch

from medical_sam2.cli import main
from medical_sam2.model.weights import load_backbone, save_backbone
from tests.model.conftest import tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_backbone(tiny(), tmp_path / "tiny")
    return tmp_path / "tiny"


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 15
    assert lines[0].startswith("nano ")
    assert "facebook/sam2.1-hiera-base-plus" in lines[3]


def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[1].items() >= {"name": "sam2.1-tiny", "source": "facebook/sam2.1-hiera-tiny", "image_size": 1024}.items()


def test_info(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "info", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    expected = {"encoder": "pyramid", "image_size": 64, "precision": "float32", "mean": [0.485, 0.456, 0.406]}
    assert told.items() >= expected.items()
    assert told["parameters"] == sum(tensor.numel() for tensor in tiny().state_dict().values())


def test_a_size_that_no_file_tells_is_asked_for(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = (folder / "model.safetensors").rename(tmp_path / "alone.safetensors")
    assert main(["weights", "info", str(alone)]) == 0
    assert "image_size   not in the file: give --image-size" in capsys.readouterr().out
    assert main(["weights", "convert", str(alone), "-o", str(tmp_path / "out")]) == 4
    message = capsys.readouterr().err
    assert message.startswith(f"{alone}: the file does not tell what size of input")
    assert "--image-size 512 (as MedSAM2's weights), --image-size 1024 (as SAM 2's" in message
    assert not (tmp_path / "out").exists()


def test_info_for_a_person(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "info", str(folder)]) == 0
    assert "mean         0.485 0.456 0.406" in capsys.readouterr().out


def test_convert(folder: Path, tmp_path: Path) -> None:
    arguments = ["weights", "convert", str(folder), "-o", str(tmp_path / "out"), "--precision", "bf16", "--image-size", "96"]
    assert main(arguments) == 0
    converted = load_backbone(tmp_path / "out")
    assert converted.image_size == 96
    before = tiny().state_dict()
    for name, tensor in converted.state_dict().items():
        assert torch.equal(tensor, before[name].bfloat16().float())


@pytest.mark.parametrize("command", ["info", "convert"])
def test_a_foreign_file(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.yaml"
    path.write_text("model: {_target_: builtins.open, file: canary, mode: w}")
    output = ["-o", str(tmp_path / "out")] if command == "convert" else []
    assert main(["weights", command, str(path), *output]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "unknown format '.yaml' of weights" in message
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.yaml"]

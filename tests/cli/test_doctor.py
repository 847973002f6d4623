"""`medsam2 doctor` tells the truth about what is there, and fails where something is not."""

import hashlib
import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from medical_sam2.cli import installation, installed_version
from medical_sam2.cli.installation import Device, Health, as_json, as_text, embedded, examine, missing


@pytest.fixture
def healthy(tmp_path: Path) -> Health:
    """This machine, with good weights."""
    return replace(examine(), weights=tuple(embedded(weights_in(tmp_path))))


def weights_in(folder: Path) -> Path:
    """The folder, with one set of weights in it."""
    (folder / "nano").mkdir()
    save_file({"a": np.zeros(3, np.float32)}, folder / "nano" / "model.safetensors")
    return folder


def test_it_knows_this_machine() -> None:
    health = examine()
    assert health.versions["numpy"] == np.__version__
    assert health.cores >= 1
    assert health.memory_gib > 0


def test_it_knows_every_extra() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert set(installation.EXTRAS) == set(project["optional-dependencies"]) - {"docs", "dev"}


def test_good_weights_are_no_problem(healthy: Health, tmp_path: Path) -> None:
    content = (tmp_path / "nano" / "model.safetensors").read_bytes()
    assert [(found.name, found.sha256) for found in healthy.weights] == [("nano", hashlib.sha256(content).hexdigest())]
    assert healthy.problems == ()


def test_broken_weights_are_a_problem(healthy: Health, tmp_path: Path) -> None:
    path = tmp_path / "nano" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    (problem,) = replace(healthy, weights=tuple(embedded(tmp_path))).problems
    assert problem.startswith("weights nano: the file is broken")


def test_no_weights_are_a_problem(healthy: Health, tmp_path: Path) -> None:
    assert list(embedded(tmp_path / "absent")) == []
    assert len(replace(healthy, weights=()).problems) == 1


def test_an_absent_package_is_a_problem(healthy: Health) -> None:
    assert installed_version("a-package-that-does-not-exist") is None
    (problem,) = replace(healthy, versions={"torch": None}).problems
    assert problem == "torch is not installed; run: pip install torch"


def test_missing_modules_are_named() -> None:
    assert missing(("numpy", "a_module_that_does_not_exist")) == ("a_module_that_does_not_exist",)


def test_text_and_object_say_the_same(healthy: Health) -> None:
    gpus = (Device("cuda:0", "A card", 24.0), Device("mps", "A chip", None))
    health = replace(healthy, devices=gpus)
    told, text = json.loads(as_json(health)), as_text(health)
    assert told["problems"] == []
    assert told["weights"][0]["sha256"] in text
    assert "cuda:0 A card, 24.0 GiB" in text
    assert "mps A chip" in text
    assert "none" not in text


@pytest.mark.parametrize(("weights", "code"), [(True, 0), (False, 2)])
def test_exit_code(
    healthy: Health, weights: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    health = healthy if weights else replace(healthy, weights=())
    monkeypatch.setattr(installation, "examine", lambda: health)
    assert installation.doctor(one_object=True) == code
    assert bool(json.loads(capsys.readouterr().out)["problems"]) == bool(code)

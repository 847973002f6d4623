"""`medsam2 evaluate`, as a user types it."""

import csv
import json
from pathlib import Path

import pytest
import torch

from medical_sam2.cli import experiment_runs, main
from medical_sam2.cli.experiments import EvaluationOptions
from medical_sam2.model.weights import save_backbone
from tests.data.nnunet import blob, picture_set, put, volume_set
from tests.evaluate.studies import forget_cases
from tests.model.conftest import tiny


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Tiny random ones."""
    forget_cases()
    torch.manual_seed(0)
    save_backbone(tiny(), tmp_path / "tiny")
    return tmp_path / "tiny"


def run(out: Path, weights: Path, *words: str) -> int:
    usual = ("--device", "cpu", "--precision", "fp32", "--threads", "1", "--weights", str(weights))
    return main(["evaluate", "-o", str(out), *usual, *words])


def test_a_small_study(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", str(volume_set(tmp_path / "Dataset001_Liver")), str(picture_set(tmp_path / "Dataset002_Eyes"))]
    words = (*data, "--protocol", "memory", "--method", "fifo", "--cases", "1", "--images", "2", "--json")
    assert run(tmp_path / "out", weights, *words) == 0
    shown = capsys.readouterr()
    (study,) = json.loads(shown.out)["studies"]
    assert (study["protocol"]["name"], study["answers"], study["fresh"], study["failed"]) == ("memory", 5, 3, {})
    with (tmp_path / "out" / "memory" / "rows.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [each["case"] for each in rows] == ["case0", "eye0", "eye2", "eye0", "eye2"]
    assert 0 <= float(rows[0]["dice"]) <= 1
    assert "volumes, one frame prompted" in (tmp_path / "out" / "memory" / "tables.md").read_text()
    assert "](reliability-volumes.png)" in (tmp_path / "out" / "memory" / "tables.md").read_text()
    assert (tmp_path / "out" / "memory" / "reliability-volumes.svg").is_file()
    assert run(tmp_path / "out", weights, *words) == 0
    assert [each["fresh"] for each in json.loads(capsys.readouterr().out)["studies"]] == [0]


def test_distractors_need_another_set(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of one set alone nothing would be told: the command says so, and leaves no reports that are empty."""
    eyes, liver = str(picture_set(tmp_path / "Dataset002_Eyes")), str(volume_set(tmp_path / "Dataset001_Liver"))
    for data, told in (((eyes, liver), "names one set of images alone"), ((liver,), "names no set of images")):
        assert run(tmp_path / "out", weights, "--data", *data, "--protocol", "distractors") == 2
        assert f"distractors mixes images of one set into another one, and --data {told}; give two" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_refused(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = volume_set(tmp_path / "Dataset001_Liver", cases=1)
    for words, told in (
        (("--protocol", "noize"), "did you mean 'noise'"),
        (("--protocol", "noise", "--method", "fifa"), "did you mean 'fifo'"),
        (("--protocol", "noise", "--cases", "0"), "--cases 0 leaves nothing"),
    ):
        assert run(tmp_path / "out", weights, "--data", str(folder), *words) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    put(folder / "labelsTr" / "case0.nii.gz", blob((24, 20, 8), {}))
    assert run(tmp_path / "out", weights, "--data", str(folder), "--protocol", "ablation") == 2
    assert "left out: Liver case0 liver: the structure is not in this case" in capsys.readouterr().err


def test_a_volume_click_by_click(tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", str(volume_set(tmp_path / "Dataset001_Liver")), "--cases", "1", "--structures", "1"]
    assert run(tmp_path / "out", weights, *data, "--protocol", "challenge", "clicks", "--quiet") == 0
    capsys.readouterr()
    for name, clicks in (("challenge", range(6)), ("clicks", range(1, 11))):
        with (tmp_path / "out" / name / "rows.csv").open() as stream:
            assert [int(each["clicks"]) for each in csv.DictReader(stream)] == list(clicks)
        page = (tmp_path / "out" / name / "tables.md").read_text()
        assert "NoC85 (never)" in page
        assert f"| method | {' | '.join(map(str, clicks))} |" in page
    assert "Dice after so many clicks" in (tmp_path / "out" / "report.html").read_text()


def test_all_are_the_paper_s(tmp_path: Path) -> None:
    folder = volume_set(tmp_path / "Dataset001_Liver", cases=1)
    planned = experiment_runs.choose_studies((folder,), ("all",), EvaluationOptions())
    assert [each.protocol.name for each in planned] == ["universal", "one-prompt", "frequency", "ablation", "memory", "noise"]

"""`medsam2 evaluate`, as a user types it."""

import csv
import json
import sys
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
    assert "memory: 5 rows; 3 answers were made now; see tables.md" in shown.err
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


OWN = """
import numpy as np
from medical_sam2.evaluate.methods.interface import MethodAnswer

class Own:
    def on_volume(self, inputs, task, prompts):
        masks = list(task.truth_thw)
        WRONG
        return MethodAnswer(masks)

    def on_images(self, inputs, images, prompts):
        return MethodAnswer([np.zeros(9, bool) for _ in images])

METHOD = Own()
"""


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("masks[0] = masks[0].T", "its mask of frame 0 is 24 × 20, expected 20 × 24; give rows × columns of the frame"),
        ("masks.pop()", "it answered 7 masks, expected 8; give one of each frame"),
        ("masks[3] = masks[3] / 2", "its mask of frame 3 is of type float64, expected bool; decide what is inside"),
        ("return masks", "it answered with list; answer with MethodAnswer(masks)"),
        ("return MethodAnswer(masks, {8: 0.5})", "it is sure of what are no frames; give frame → number, from 0 to 7"),
        ("np.hypot(masks, masks[0].T)", "ValueError: operands could not be broadcast together with shapes"),
    ],
)
@pytest.mark.parametrize("protocol", ["memory", "clicks"])
def test_the_fault_of_an_own_method_is_no_defect(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str], wrong: str, told: str, protocol: str
) -> None:
    """It is named, with the place where it raised; once it is mended, a further run asks it again, and integers are masks."""
    own, data = tmp_path / "own.py", str(volume_set(tmp_path / "Dataset001_Liver", cases=1))
    words = ("--data", data, "--protocol", protocol, "--method", f"{own}:METHOD", "--json")
    own.write_text(OWN.replace("WRONG", wrong))
    assert run(tmp_path / "out", weights, *words) == 2
    shown = capsys.readouterr()
    (study,) = json.loads(shown.out)["studies"]
    assert (study["answers"], study["failed"], list(study["faults"])) == (0, {}, ["Liver case0 liver"])
    (line,) = (line for line in shown.err.splitlines() if line.startswith("failed: "))
    assert line.startswith(f"failed: Liver case0 liver: {own}:METHOD: {told}")
    assert "Error" not in told or "(own.py:8); mend it, and run it again" in line
    for name in [name for name in sys.modules if name.startswith("own_")]:
        sys.modules.pop(name)
    own.write_text(OWN.replace("WRONG", "masks[0] = masks[0].astype(int)"))
    assert run(tmp_path / "out", weights, *words) == 0
    with (tmp_path / "out" / protocol / "rows.csv").open() as stream:
        assert {float(each["dice"]) for each in csv.DictReader(stream)} == {1.0}


def test_the_fault_of_an_own_method_in_another_process_and_of_images(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside a method that answers, whose rows stay; the report tells of both."""
    own, data = tmp_path / "own.py", str(picture_set(tmp_path / "Dataset002_Eyes"))
    own.write_text(OWN)
    words = ("--data", data, "--protocol", "memory", "--method", f"{own}:METHOD", "--method", "fifo", "--structures", "1")
    assert run(tmp_path / "out", weights, *words, "--workers", "2") == 2
    told = f"Eyes disc: {own}:METHOD: its mask of frame 0 is 9, expected 40 × 50; give rows × columns of the frame"
    assert f"failed: {told}, and run it again" in capsys.readouterr().err
    assert told in (tmp_path / "out" / "summary.md").read_text()
    with (tmp_path / "out" / "memory" / "rows.csv").open() as stream:
        assert {each["method"] for each in csv.DictReader(stream)} == {"fifo"}


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

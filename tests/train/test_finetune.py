"""Fine-tuning: cases apart, a folder of weights that loads, a report; recipes that suit the network."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from medical_sam2.cli import main
from medical_sam2.data.data_sets import read_data_set
from medical_sam2.data.prepare import split_cases
from medical_sam2.errors import ConfigError
from medical_sam2.model.modules import Sam2Config
from medical_sam2.model.sam2 import Sam2
from medical_sam2.model.weights import load_backbone, save_backbone
from medical_sam2.train.config import choose_recipe
from tests.data.nnunet import picture_set, volume_set
from tests.train.jobs import tiny_network

SHORT = ("workers=0", "phases.0.frames=2", "phases.0.clips=1")
WORDS = [*(word for setting in SHORT for word in ("--set", setting)), "--prompt", "mask", "--device", "cpu"]


def test_the_same_cases_are_held_out_each_time_and_never_learnt_from(tmp_path: Path) -> None:
    dataset = read_data_set(volume_set(tmp_path, cases=10))
    split, again, other = (split_cases(dataset, 0.3, seed) for seed in (1, 1, 2))
    assert split == again != other
    assert (len(split.train), len(split.held_out)) == (7, 3)
    assert not set(split.train) & set(split.held_out)
    few = split_cases(dataset, 4, 1, most=2)
    assert (len(few.train), len(few.held_out)) == (2, 4)
    assert not split_cases(dataset, 0, 1).held_out
    with pytest.raises(ConfigError, match="10 of 10 cases would be held out"):
        split_cases(dataset, 10, 1)


def test_cases_with_the_same_image_lie_on_one_side(tmp_path: Path) -> None:
    folder = volume_set(tmp_path, cases=8)
    for copy in (2, 5):
        shutil.copyfile(folder / "imagesTr" / "case0_0000.nii.gz", folder / "imagesTr" / f"case{copy}_0000.nii.gz")
    dataset = read_data_set(folder)
    for seed in range(8):
        for held_out in (1, 3, 7):
            split = split_cases(dataset, held_out, seed)
            sides = [{case.identifier for case in side} for side in (split.train, split.held_out)]
            assert {"case0", "case2", "case5"} <= sides[0] or {"case0", "case2", "case5"} <= sides[1]
            assert all(sides)
            assert len(sides[0]) + len(sides[1]) == 8
            assert split.alike == (("case0", "case2", "case5"),)
            assert len(sides[1]) <= max(3, held_out)


def test_copies_of_a_single_image_are_refused_or_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = volume_set(tmp_path / "data", cases=3), tmp_path / "out"
    for copy in (1, 2):
        shutil.copyfile(folder / "imagesTr" / "case0_0000.nii.gz", folder / "imagesTr" / f"case{copy}_0000.nii.gz")
    save_backbone(tiny_network(), tmp_path / "start")
    command = ["finetune", str(folder), "-o", str(out), "--weights", str(tmp_path / "start"), "--steps", "1", *WORDS]
    assert main([*command, "--held-out", "1"]) == 2
    assert "all 3 cases have the same image" in (told := capsys.readouterr().err)
    assert "--held-out 0" in told
    assert not out.exists()
    assert main([*command, "--held-out", "0"]) == 0
    assert "case0, case1, case2 have the same image: they lie on one side of the split" in capsys.readouterr().err


def test_nano_learns_faster_than_sam_2() -> None:
    with torch.device("meta"):
        large = Sam2(Sam2Config())
    small = choose_recipe(tiny_network(), "nano", Path("pool"), seed=0, steps=10)
    official = choose_recipe(large, "sam2.1-tiny", Path("pool"), seed=0, steps=10)
    assert small.rate > 10 * official.rate
    assert (official.rate, official.layer_decay, official.weight_decay, official.clip) == (5e-6, 0.9, 0.1, 0.1)
    assert official.rate * official.encoder_rate == pytest.approx(3e-6)
    assert (official.losses.focal, official.losses.dice, official.losses.iou, official.losses.presence) == (20, 1, 1, 1)
    assert official.phases[0].frames == 8


@pytest.mark.parametrize("make", [volume_set, picture_set])
def test_a_data_set_becomes_weights_and_a_report(make: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path / "data", cases=3)  # type: ignore[operator]
    save_backbone(tiny_network(), tmp_path / "start")
    out = tmp_path / "out"
    command = ["finetune", str(folder), "-o", str(out), "--weights", str(tmp_path / "start"), "--steps", "2", "--held-out", "1"]
    command += WORDS
    assert main(command) == 0, capsys.readouterr().err
    told = json.loads((out / "report.json").read_text())
    assert (len(told["held_out"]), len(told["train"]), told["steps"]) == (1, 2, 2)
    assert {row["prompt"] for row in told["dice"]} == {"mask"}
    assert "before" in capsys.readouterr().err
    before, after = load_backbone(tmp_path / "start").state_dict(), load_backbone(out).state_dict()
    assert any(not torch.equal(after[name], value) for name, value in before.items())
    assert main(command) == 2
    assert "--resume" in capsys.readouterr().err


def test_with_one_case_the_remedy_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = volume_set(tmp_path / "data", cases=1)
    save_backbone(tiny_network(), tmp_path / "start")
    command = ["finetune", str(folder), "-o", str(tmp_path / "out"), "--weights", str(tmp_path / "start"), "--steps", "1"]
    assert main([*command, *WORDS]) == 2
    assert "there is one case" in (told := capsys.readouterr().err)
    assert "--held-out 0" in told
    assert not (tmp_path / "out").exists()
    assert main([*command, *WORDS, "--held-out", "0"]) == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["dice"] == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("--held-out", "nan"),
            "--held-out: nan is neither a share of the cases nor how many; give a number below 1, or a whole one",
        ),
        (("--held-out", "-1"), "--held-out: -1 is neither a share of the cases nor how many"),
        (("--held-out", "1.5"), "--held-out: 1.5 is neither"),
        (("--max-minutes", "0"), "--max-minutes: 0 minutes leave nothing to learn; give more than 0"),
        (("--max-minutes", "nan"), "--max-minutes: nan minutes leave nothing to learn"),
        (("--seed", "-1"), "--seed: -1 begins no random numbers; give 0 to 4294967295"),
        (("--steps", "0"), "--steps: 0 leaves nothing to learn; give 1 or more"),
        (("--most", "0"), "--most: 0 leaves nothing to learn; give 1 or more"),
        (("--set", "ratte=1"), "unknown setting 'ratte'; did you mean 'rate'?"),
        (("--set", "rate=fast"), "rate"),
        (("--set", 'parts=["nothing."]'), "no weight of the network begins with 'nothing.'"),
        (("--set", "adapter=lora"), "the image encoder of these weights has no attention to add to"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_before_anything_is_written(
    words: tuple[str, ...], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = volume_set(tmp_path / "data", cases=3)
    assert main(["finetune", str(folder), "-o", str(tmp_path / "out"), *WORDS, *words]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", ["warp", "cuda:99"])
def test_a_device_that_is_none_is_refused_before_anything_is_written(
    device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = volume_set(tmp_path / "data", cases=3)
    assert main(["finetune", str(folder), "-o", str(tmp_path / "out"), *WORDS[:-1], device]) == 2
    assert device in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_that_failed_before_it_learnt_begins_again_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once its data is mended, also with other cases; one that has learnt, and a folder of others, are refused as ever."""
    folder = volume_set(tmp_path / "data", cases=3)
    save_backbone(tiny_network(), tmp_path / "start")
    out = tmp_path / "out"
    command = ["finetune", str(folder), "-o", str(out), "--weights", str(tmp_path / "start"), "--steps", "1", *WORDS]
    whole = {path: path.read_bytes() for path in (folder / "imagesTr").iterdir()}
    for path, data in whole.items():
        path.write_bytes(data[:200])
    assert main([*command, "--held-out", "1"]) == 2
    assert json.loads((out / "split.json").read_text())["held_out"]
    for path, data in whole.items():
        path.write_bytes(data)
    capsys.readouterr()
    assert main([*command, "--held-out", "2"]) == 0, capsys.readouterr().err
    report = json.loads((out / "report.json").read_text())
    assert (len(report["train"]), len(report["held_out"])) == (1, 2)
    for name in ("report.json", "model.safetensors", "config.json"):
        (out / name).unlink()
    assert main(command) == 2, "it has learnt"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    command[3] = str(tmp_path / "mine")
    assert main(command) == 2
    assert capsys.readouterr().err.count("the folder is not empty") == 2


def test_a_run_that_goes_on_is_judged_before_it_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Likewise: other prompts, or cases that changed since, are judged anew."""
    folder = volume_set(tmp_path / "data", cases=3)
    save_backbone(tiny_network(), tmp_path / "start")
    out = tmp_path / "out"
    command = ["finetune", str(folder), "-o", str(out), "--weights", str(tmp_path / "start"), "--steps", "1"]
    assert main([*command, *WORDS, "--seed", "3"]) == 0
    first = json.loads((out / "report.json").read_text())["dice"]
    assert "\nbefore: " in capsys.readouterr().err
    label = next(folder.glob(f"labelsTr/{json.loads((out / 'split.json').read_text())['held_out'][0]}*"))
    for again, change in ((False, []), (True, ["--prompt", "box"]), (True, [])):
        (out / "report.json").unlink()  # as if it had been killed while judging
        assert main([*command, *WORDS, *change, "--resume"]) == 0
        assert ("before: " in capsys.readouterr().err) is again
        if not again:
            assert json.loads((out / "report.json").read_text())["dice"] == first
    label.touch()
    (out / "report.json").unlink()
    assert main([*command, *WORDS, "--resume"]) == 0
    assert "before: " in capsys.readouterr().err


def test_a_run_that_goes_on_keeps_its_cases_and_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = volume_set(tmp_path / "data", cases=3)
    save_backbone(tiny_network(), tmp_path / "start")
    command = ["finetune", str(folder), "-o", str(tmp_path / "out"), "--weights", str(tmp_path / "start"), "--held-out", "1"]
    command += [*WORDS, "--steps", "1"]
    assert main(command) == 0
    first = (tmp_path / "out" / "split.json").read_text()
    capsys.readouterr()
    short, other = ["finetune", str(folder), "-o", str(tmp_path / "out")], [*command, "--resume"]
    other[other.index("--held-out") + 1] = "2"
    for words, told in (
        (other, "--held-out and --most give other cases than this run was begun with"),
        ([*command, "--resume", "--seed", "5"], "this run was begun with seed = 0, not 5"),
        ([*short, "--resume", "--steps", "3"], "this run was begun with phases.0.steps = 1, not 3"),
        ([*short, "--resume", "--weights", "sam2.1-tiny"], f"with start = {tmp_path / 'start'}, not sam2.1-tiny"),
    ):
        assert main(words) == 2
        assert told in capsys.readouterr().err
    report = (tmp_path / "out" / "report.json").read_bytes()
    assert main([*short, "--resume"]) == 0
    assert "this run is finished, all 1 steps of it" in capsys.readouterr().err
    assert (tmp_path / "out" / "report.json").read_bytes() == report
    (tmp_path / "out" / "report.json").unlink()  # as if it had been killed while judging
    assert main([*short, "--resume", *WORDS]) == 0
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {part: found[part] for part in ("train", "held_out")} == json.loads(first)
    assert found["weights"] == str(tmp_path / "start")

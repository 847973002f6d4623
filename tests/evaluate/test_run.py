"""Studies: the truth scores as the truth, what cannot be measured is named, and a run that was stopped goes on."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medical_sam2.errors import ConfigError
from medical_sam2.evaluate import answer
from medical_sam2.evaluate.protocols import Condition
from medical_sam2.evaluate.run import DESCRIPTION, LINES, run_studies
from medical_sam2.evaluate.study import EvaluationJob, NetworkSettings, Row, StudyResult
from tests.data.nnunet import blob, picture_set, put, volume_set
from tests.evaluate.studies import run_study, small_study, use_brightness


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, ...]:
    """A set of volumes, and one of pictures of which the last shows nothing; answered by a known network."""
    use_brightness(monkeypatch)
    pictures = picture_set(tmp_path / "Dataset002_Eyes")
    put(pictures / "labelsTr" / "eye2.png", blob((40, 50), {}))
    put(pictures / "imagesTr" / "eye2_0000.png", blob((40, 50, 3), {}))
    return volume_set(tmp_path / "Dataset001_Liver"), pictures


def test_truth_as_prediction_is_perfect_everywhere(data: tuple[Path, ...], tmp_path: Path) -> None:
    found = run_study(small_study(data), tmp_path / "out")
    scored = [row for row in found.rows if not row.empty]
    assert [row.kind for row in scored] == ["volume"] * 2 + ["set"] * 4
    assert {(row.dice, row.iou, row.hausdorff95, row.surface_dice, row.volume_error) for row in scored} == {(1, 1, 0, 1, 0)}
    assert {row.dice_prompted for row in scored} == {1}
    assert [(row.case, row.structure) for row in found.rows if row.empty] == [("eye2", "disc"), ("eye2", "cup")]
    assert {row.unit for row in scored if row.kind == "volume"} == {"mm"}
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth = rng.random((4, 9, 8)) < 0.4
        told = np.arange(4) < 2
        whole = answer.compute_measures(truth, truth, (3.0, 0.5, 0.7), 1.0, {"prompted": told, "propagated": ~told})
        assert (whole["dice"], whole["hausdorff95"], whole["dice_prompted"], whole["iou_propagated"]) == (1, 0, 1, 1)


def test_prompted_and_propagated_frames_are_apart(data: tuple[Path, ...], tmp_path: Path) -> None:
    methods = ("without memory", "fifo")
    found = run_study(small_study(data[:1], Condition("mask", None, None), methods=methods, watch=True), tmp_path / "out")
    alone, tracked = found.rows[:2]
    assert (alone.frames, alone.prompted, alone.dice_prompted, alone.dice_propagated) == (8, 1, 1.0, 0.0)
    assert 0 < alone.dice < 1
    assert tracked.prompted == 1
    assert len(tracked.sure) > 0
    assert not math.isnan(tracked.dice_propagated)


def test_a_stopped_run_goes_on(data: tuple[Path, ...], tmp_path: Path) -> None:
    told: list[str] = []
    out = tmp_path / "out"
    whole = run_study(
        small_study(data), out, on_done=lambda each: told.append(f"{each.done}/{each.total} {each.share:.2f} {each.what}")
    )
    assert told == [
        "0/4 0.00 nothing yet",
        "1/4 0.36 Liver case0 liver",
        "2/4 0.73 Liver case1 liver",
        "3/4 0.86 Eyes disc",
        "4/4 1.00 Eyes cup",
    ]
    lines = (out / LINES).read_bytes()
    (out / LINES).write_bytes(lines[:-40])
    again = run_study(small_study(data), out)
    assert again.fresh == 1
    assert _timeless(again) == _timeless(whole)
    assert len((out / LINES).read_text().splitlines()) == 4
    assert run_study(small_study(data), out).fresh == 0
    with pytest.raises(ConfigError, match="another protocol"):
        run_study(small_study(data, seeds=(1,)), out)
    assert json.loads((out / DESCRIPTION).read_text())["protocol"]["seeds"] == [0]


def _timeless(outcome: StudyResult) -> str:
    return repr([replace(row, seconds=0.0, peak_mb=0.0) for row in outcome.rows])  # nan is not equal to itself, its words are


def test_what_is_not_measured_is_named(data: tuple[Path, ...], tmp_path: Path) -> None:
    put(data[0] / "labelsTr" / "case0.nii.gz", blob((24, 20, 8), {}))
    put(data[0] / "imagesTs" / "case7_0000.nii.gz", blob((24, 20, 8), {}))
    found = run_study(small_study(data[:1]), tmp_path / "out")
    assert found.skipped == {"Liver case0 liver": "the structure is not in this case", "Liver case7": "it has no label map"}
    assert not found.failed


def test_what_protocols_share_is_answered_once(data: tuple[Path, ...], tmp_path: Path) -> None:
    known = answer.load_network(NetworkSettings())
    one, other = (
        small_study(data[:1]),
        small_study(data[:1], name="other", methods=("+ resampling", "self-sorting"), watch=True),
    )
    found = run_studies([one, other], [tmp_path / "one", tmp_path / "other"])
    assert [each.fresh for each in found] == [2, 4]
    assert {row.method for row in found[1].rows} == {"+ resampling", "self-sorting"}
    scores = [[(row.case, row.dice, row.iou) for row in each.rows if row.method == "self-sorting"] for each in found]
    assert scores[0] == scores[1]
    assert len(known.network.counts.decoded) <= 2 * 8, "each slice of each case once"


def test_suggested_frames_are_as_many_as_chance_takes(data: tuple[Path, ...], tmp_path: Path) -> None:
    chance, suggested = (
        run_study(small_study(data, Condition("mask", 0.6, 0.6, choice=choice)), tmp_path / choice)
        for choice in ("random", "suggest")
    )
    for one, other in zip(chance.rows, suggested.rows, strict=True):
        assert (one.case, one.structure, one.choice, other.choice) == (other.case, other.structure, "random", "suggest")
    counts = [[row.prompted for row in each.rows if row.kind == "volume"] for each in (chance, suggested)]
    assert counts[0] == counts[1]
    sums = [sum(row.prompted for row in each.rows if row.structure == "disc") for each in (chance, suggested)]
    assert sums[0] == sums[1]


def test_a_run_that_was_killed_asks_only_what_is_left(
    data: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_study(small_study(data), tmp_path / "whole")
    asked: list[str] = []

    def dies_at(limit: int) -> None:
        def answered(job: EvaluationJob) -> list[Row]:
            lines = tmp_path / "out" / LINES
            assert lines.read_text().count("\n") == len(asked), "each row is on the disk before the next answer is asked"
            if len(asked) == limit:
                raise KeyboardInterrupt
            asked.append(f"{job.case} {job.structure}")
            return answer.answer_job(job)

        monkeypatch.setattr("medical_sam2.evaluate.run.answer_job", answered)

    dies_at(2)
    monkeypatch.setattr("medical_sam2.evaluate.run.TOGETHER", 1)
    with pytest.raises(KeyboardInterrupt):
        run_study(small_study(data), tmp_path / "out")
    assert len((tmp_path / "out" / LINES).read_text().splitlines()) == 2
    assert not (tmp_path / "out" / "rows.csv").exists(), "tables are of whole studies"
    dies_at(-1)
    again = run_study(small_study(data), tmp_path / "out")
    assert (again.fresh, len(asked), len(set(asked))) == (2, 4, 4)
    assert _timeless(again) == _timeless(whole)


def test_a_defect_of_one_answer_is_named_and_tried_again(
    data: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(job: EvaluationJob) -> list[Row]:
        if job.case == "case1":
            raise ZeroDivisionError("division by zero")
        return answer.answer_job(job)

    monkeypatch.setattr("medical_sam2.evaluate.run.answer_job", fails)
    found = run_study(small_study(data[:1]), tmp_path / "out")
    assert found.failed == {"Liver case1 liver": "ZeroDivisionError: division by zero"}
    assert [row.case for row in found.rows] == ["case0"]
    monkeypatch.setattr("medical_sam2.evaluate.run.answer_job", answer.answer_job)
    mended = run_study(small_study(data[:1]), tmp_path / "out")
    assert (mended.fresh, mended.failed, [row.case for row in mended.rows]) == (1, {}, ["case0", "case1"])


def test_two_data_sets_of_one_name_are_refused(data: tuple[Path, ...], tmp_path: Path) -> None:
    other = volume_set(tmp_path / "again" / "Dataset007_Liver")
    with pytest.raises(ConfigError, match="two data sets are called Liver"):
        run_study(small_study((data[0], other)), tmp_path / "out")

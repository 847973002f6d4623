"""One answer, measured: by hand, without what nobody outlined, and told from another by all of its prompts."""

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medical_sam2 import io
from medical_sam2.evaluate import answer
from medical_sam2.evaluate.answer import (
    HashedPrompts,
    answer_job,
    compute_measures,
    mean_by_stage,
    peak_memory,
    reset_peak_memory,
)
from medical_sam2.evaluate.cases import FramePrompts, VolumeTask, draw_prompt, load_case, open_data_set
from medical_sam2.evaluate.methods.interface import MethodAnswer, MethodInputs
from medical_sam2.evaluate.protocols import EVERY_KIND, OF_VOLUMES, Condition, Kind
from medical_sam2.evaluate.study import EvaluationJob, NetworkSettings, Row
from medical_sam2.prompts import Box, FramePrompt, Prompt
from medical_sam2.segmenter import Segmenter
from medical_sam2.strokes import Scribble, ShapeInterpolation, SliceRange
from medical_sam2.volume import Segmentation, Volume
from tests.data.nnunet import blob, describe, picture_set, put, volume_set
from tests.evaluate.studies import forget_cases, small_study, use_brightness


def bar(length: int, start: int = 0) -> np.ndarray:
    """A line of voxels on two slices."""
    return blob((2, 3, 20), {1: (slice(None), slice(1, 2), slice(start, start + length))}).astype(bool)


def test_measures_by_hand() -> None:
    truth, found = bar(8), bar(6, start=2)
    first = np.array([True, False])
    whole = compute_measures(truth, found, (3.0, 1.0, 1.0), 1.0, {"prompted": first, "propagated": ~first})
    assert (whole["dice"], whole["iou"]) == pytest.approx((2 * 6 / 14, 6 / 8))
    assert (whole["dice_prompted"], whole["iou_propagated"]) == pytest.approx((12 / 14, 0.75))
    assert whole["volume_error"] == pytest.approx(-0.25)
    assert whole["hausdorff95"] > 0
    far = compute_measures(truth, found, (3.0, 1.0, 10.0), 1.0, {})
    assert far["hausdorff95"] == pytest.approx(10 * whole["hausdorff95"], rel=0.3), "in the unit of the spacing"
    assert compute_measures(truth, found, (3.0, 1.0, 1.0), 5.0, {})["surface_dice"] == 1.0


def test_one_of_both_empty_is_a_miss_and_both_are_not_scored() -> None:
    nothing = bar(0)
    missed, both = (compute_measures(one, nothing, (1.0, 1.0, 1.0), 1.0, {}) for one in (bar(5), nothing))
    assert (missed["dice"], missed["hausdorff95"], missed["volume_error"]) == (0.0, math.inf, -1.0)
    assert math.isnan(both["dice"])


def test_information_in_ten_stages() -> None:
    assert mean_by_stage([]) == mean_by_stage([math.nan, math.inf]) == ()
    assert mean_by_stage([1.0, 2.0, math.nan]) == (1.0, 2.0)
    assert mean_by_stage(list(np.arange(40.0))) == tuple(4 * n + 1.5 for n in range(10))


def test_the_memory_of_an_answer_is_the_most_that_was_held_while_it_was_made() -> None:
    np.ones(2**25).sum()  # 256 MB, before
    before = reset_peak_memory()
    assert peak_memory() - before < 50
    np.ones(2**24).sum()
    assert peak_memory() - before == pytest.approx(128, abs=30)


def test_an_answer_goes_without_memory_that_no_system_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "PROCESS", tmp_path / "none")
    assert math.isnan(reset_peak_memory())
    assert math.isnan(peak_memory())
    monkeypatch.setattr(answer, "PROCESS", tmp_path)
    (tmp_path / "status").write_text("Name:\tpython\n")
    assert math.isnan(reset_peak_memory())


def test_prompts_are_equal_where_all_of_them_is() -> None:
    mask = np.pad(np.ones((3, 3), bool), 2)
    each = [
        {0: FramePrompt.click(1, 2)},
        {1: FramePrompt.click(1, 2)},
        {0: FramePrompt.click(2, 1)},
        {0: FramePrompt.click(1, 2, positive=False)},
        {0: FramePrompt.box(1, 2, 5, 6)},
        {0: FramePrompt.mask(mask)},
        {0: FramePrompt.mask(~mask)},
        {0: FramePrompt.click(1, 2), 1: FramePrompt.click(1, 2)},
        {},
    ]
    assert len({HashedPrompts.of(prompts) for prompts in each}) == len(each)
    assert HashedPrompts.of({0: FramePrompt.mask(mask)}) == HashedPrompts.of({0: FramePrompt.mask(mask.copy())})
    assert HashedPrompts.of({1: each[0][0], 0: each[4][0]}) == HashedPrompts.of({0: each[4][0], 1: each[0][0]})


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvaluationJob:
    use_brightness(monkeypatch)
    folder = volume_set(tmp_path / "Dataset001_Liver", cases=1)
    protocol = small_study((folder,)).protocol
    return EvaluationJob(folder, "case0", "liver", "self-sorting", Condition("mask", None), 0, protocol, NetworkSettings())


class Everything:
    """A method that outlines all there is."""

    def on_volume(self, inputs: MethodInputs, task: VolumeTask, prompts: FramePrompts) -> MethodAnswer:
        return MethodAnswer(list(np.ones_like(task.truth_thw)))


def test_what_nobody_outlined_is_neither_hit_nor_miss(job: EvaluationJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer, "find_method", lambda _: Everything())
    label = blob((24, 20, 8), {1: (slice(6, 16), slice(5, 14), slice(2, 6)), 2: (slice(18, 22), slice(5, 14), slice(2, 6))})
    put(job.folder / "labelsTr" / "case0.nii.gz", label)
    inside, ignored = int((label == 1).sum()), int((label == 2).sum())
    for name, expected in (("spleen", label.size), ("ignore", label.size - ignored)):
        describe(job.folder, labels={"background": 0, "liver": 1, name: 2})
        forget_cases()
        (row,) = answer_job(job)
        assert row.dice == pytest.approx(2 * inside / (inside + expected))


def test_an_answer_that_cannot_be_made_says_why(job: EvaluationJob) -> None:
    put(job.folder / "labelsTr" / "case0.nii.gz", blob((24, 20, 8), {1: (slice(6, 7), slice(5, 14), slice(2, 6))}))
    forget_cases()
    (row,) = answer_job(job)
    assert "single row" in row.skipped
    assert (row.method, row.case, row.seed, math.isnan(row.dice)) == ("self-sorting", "case0", 0, True)


def test_a_case_is_loaded_once_and_seen_through_its_window(job: EvaluationJob) -> None:
    shown = job.load()
    assert load_case(job.folder, "case0", (), "liver", ()) is shown
    assert shown.task is not None
    assert len(shown.truths) == 8
    assert shown.spacings[0] == pytest.approx((3.0, 0.9, 0.8))
    seen = shown.viewer({3: FramePrompt.mask(shown.truths[3])})(3)
    assert (float(seen.min()), float(seen.max()) <= 1.0) == (0.0, True)
    assert seen[shown.truths[3]].mean() > seen[~shown.truths[3]].mean()


class Recorded:
    """A method that outlines all there is, and notes what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[FramePrompts, Sequence[Prompt]]] = []

    def on_volume(self, inputs: MethodInputs, task: VolumeTask, prompts: FramePrompts) -> MethodAnswer:
        self.told.append((prompts, inputs.volume_prompts))
        return MethodAnswer(list(np.ones_like(task.truth_thw)))


def label_of(job: EvaluationJob) -> np.ndarray:
    """The label map of its case, (24, 20, 8)."""
    return np.asarray(io.load(job.folder / "labelsTr" / "case0.nii.gz").array)


def asked(job: EvaluationJob, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> tuple[FramePrompts, Sequence[Prompt], Row]:
    """What a method is told by a prompt of a kind, and the row of its answer."""
    method = Recorded()
    monkeypatch.setattr(answer, "find_method", lambda _: method)
    answer.answer_once.cache_clear()
    (row,) = answer_job(replace(job, condition=Condition(kind, None)))
    ((prompts, told),) = method.told
    return prompts, told, row


def test_each_kind_of_prompt_says_what_it_means(job: EvaluationJob, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, (start,) = dict[str, FramePrompt](), asked(job, "mask", monkeypatch)[0]
    for kind in ("click", "box", "mask", "scribble", "diameter", "lasso"):
        prompts, told, _ = asked(job, kind, monkeypatch)
        plain[kind] = prompts[start]
        assert [type(each) for each in told] == ([Scribble] if kind == "scribble" else [])
    settled, diameter, drawn = plain["scribble"].settled_hw, plain["diameter"], plain["lasso"].mask_hw
    truth = plain["mask"].mask_hw
    assert settled is not None
    assert truth is not None
    assert 3 < int((settled > 0).sum()) == int(((settled > 0) & truth).sum()), "a line, all of it inside"
    assert (diameter.box_xyxy is not None, len(diameter.labels)) == (True, 1)
    np.testing.assert_array_equal(drawn, truth)
    (line,) = asked(job, "scribble", monkeypatch)[1]
    task = job.load().task
    assert task is not None
    shown = line.project(task.view, task.volume.shape, task.volume.orientation)[start]
    np.testing.assert_array_equal(shown.settled_hw, settled, "the same line, in voxels")


def test_where_it_ends_is_told_to_the_network_and_cut_off_for_all(job: EvaluationJob, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = int((label_of(job) == 1).sum())
    prompts, told, row = asked(job, "box and slices", monkeypatch)
    assert [type(each) for each in told] == [Box, SliceRange]
    assert told[1] == SliceRange(2, 5)
    assert row.dice == pytest.approx(2 * inside / (inside + 24 * 20 * 4)), "the four slices that it lies on"
    prompts, told, row = asked(job, "box in 3D", monkeypatch)
    assert told == (Box((6, 5, 2), (15, 13, 5)),)
    assert (list(prompts), row.dice) == ([4], 1.0), "the object of this test is a box"
    assert asked(job, "mask", monkeypatch)[2].dice == pytest.approx(2 * inside / (inside + 24 * 20 * 8))


def test_what_lies_beside_a_structure_in_its_box_is_told_to_be_outside() -> None:
    truth = np.zeros((12, 14), bool)
    truth[2:10, 2:5] = truth[7:10, 2:12] = True
    prompt = draw_prompt(truth, "box and negative lasso", np.random.default_rng(0))
    beside = np.zeros_like(truth)
    beside[2:7, 5:12] = True
    assert prompt.settled_hw is not None
    np.testing.assert_array_equal(prompt.settled_hw, -beside.astype(np.int8))
    full = draw_prompt(np.pad(np.ones((3, 4), bool), 2), "box and negative lasso", np.random.default_rng(0))
    assert (full.box_xyxy is not None, full.settled_hw) == (True, None), "nothing lies beside it"
    inside = np.zeros((9, 9), bool)
    inside[[2, 4, 6], [2, 4, 6]] = True
    found = draw_prompt(inside, "box and negative lasso", np.random.default_rng(0))
    assert (found.box_xyxy is not None, found.settled_hw) == (True, None), "a line around the rest would take a part of it in"


def test_outlines_are_those_of_both_ends_and_of_the_one_that_chance_takes(
    job: EvaluationJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, told, row = asked(job, "outlines", monkeypatch)
    assert ({*prompts} >= {2, 5}, told, row.prompted) == (True, (), len(prompts))
    joined, told, _ = asked(job, "joined outlines", monkeypatch)
    assert ({*joined}, type(told[-1]), len(told)) == ({*prompts}, ShapeInterpolation, len(prompts) + 1)


def test_the_network_and_other_programs_hear_all_of_a_prompt(job: EvaluationJob) -> None:
    scores = {kind: answer_job(replace(job, condition=Condition(kind, None)))[0].dice for kind in EVERY_KIND}
    assert not any(math.isnan(score) for score in scores.values()), scores
    task = job.load().task
    assert task is not None
    heard = list[Sequence[Prompt]]()

    def listen(_: Segmenter, volume: Volume, prompts: Sequence[Prompt], **__: object) -> Segmentation:
        heard.append(prompts)
        return Segmentation(np.zeros(volume.shape, np.uint8), volume.affine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Segmenter, "segment_volume", listen)
        answer.answer_once.cache_clear()
        answer_job(replace(job, condition=Condition("box in 3D", None)))
    assert heard == [(Box((6, 5, 2), (15, 13, 5)),)]
    script = job.folder / "listen.py"
    script.write_text("import shutil, sys\nshutil.copy(sys.argv[1], sys.argv[3])\n")
    command = f"{sys.executable} {script} {{prompts}} {{image}} {job.folder / 'heard.json'} {{output}}"
    answer_job(replace(job, condition=Condition("scribble", None), method=f"listener={command}"))
    assert '"scribbles"' in (job.folder / "heard.json").read_text()


def test_kinds_of_volumes_are_not_asked_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_brightness(monkeypatch)
    folder = picture_set(tmp_path / "Dataset002_Cells")
    cases = tuple(case.identifier for case in open_data_set(folder).cases)
    whole = EvaluationJob(
        folder, "", "disc", "self-sorting", Condition(), 0, small_study((folder,)).protocol, NetworkSettings(), cases
    )
    for kind in EVERY_KIND:
        rows = answer_job(replace(whole, condition=Condition(kind, None, None)))
        assert [("in volumes alone" in row.skipped) for row in rows] == [kind in OF_VOLUMES] * len(rows), (kind, rows)

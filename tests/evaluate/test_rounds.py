"""A box, then clicks in the largest error: where they fall, what they come to, and what a method is told."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from medical_sam2.errors import PromptError
from medical_sam2.evaluate import answer
from medical_sam2.evaluate.answer import answer_job
from medical_sam2.evaluate.cases import FramePrompts, MaskArray, SimulatedReader, VolumeTask
from medical_sam2.evaluate.methods.interface import MethodAnswer, MethodInputs
from medical_sam2.evaluate.protocols import PROTOCOLS, Condition
from medical_sam2.evaluate.study import EvaluationJob, NetworkSettings, Row
from medical_sam2.evaluate.tables import last_rounds, protocol_sections, summarise_rounds
from medical_sam2.prompts import FramePrompt
from medical_sam2.simulate import next_click
from tests.data.nnunet import picture_set, volume_set
from tests.evaluate.studies import run_study, small_study, use_brightness

CHALLENGE = PROTOCOLS["challenge"]


def reader(truth_thw: MaskArray, prompt: str) -> SimulatedReader:
    condition = Condition(prompt, volume=None, clicks=2)  # type: ignore[arg-type]
    return SimulatedReader(list(truth_thw), condition, prompt, of_volume=True, seed=0, case="a")  # type: ignore[arg-type]


def ball() -> MaskArray:
    truth = np.zeros((9, 9, 9), bool)
    truth[2:7, 2:7, 2:7] = True
    return truth


def test_the_first_prompt_is_a_box_on_the_middle_slice_or_a_click_in_the_middle_of_all() -> None:
    ((t, box),) = reader(ball(), "box").opening().items()
    assert (t, box.box_xyxy.tolist() if box.box_xyxy is not None else None) == (4, [2, 2, 6, 6])
    ((t, click),) = reader(ball(), "click").opening().items()
    assert (t, click.points_xy.tolist(), click.labels.tolist()) == (4, [[4, 4]], [1])


def test_a_click_falls_into_the_middle_of_the_largest_error() -> None:
    found = ball()
    found[2:7, 2:5, 2:7] = False
    ((t, click),) = reader(ball(), "box").further_click(found, 1).items()
    assert (t, click.points_xy[0, 1], click.labels.tolist()) == (4, 3, [1])
    ((_, click),) = reader(ball(), "box").further_click(np.ones_like(found), 1).items()
    assert click.labels.tolist() == [0]
    assert reader(ball(), "box").further_click(ball(), 1) == {}


def test_errors_that_touch_at_a_corner_are_one_where_they_are_joined() -> None:
    truth, found = np.zeros((2, 1, 12), bool), np.zeros((2, 1, 12), bool)
    truth[0, 0, :3], found[1, 0, 3:6] = True, True  # three missed and three too many, that touch
    truth[0, 0, 7:12] = True  # five missed in a row
    rng = np.random.default_rng(0)
    apart, joined = (next_click(truth, found, rng, joined=each) for each in (False, True))
    assert apart is not None
    assert joined is not None
    assert apart.index[2] >= 7
    assert joined.index[2] < 6


class Told:
    """A method that outlines a slice when it is clicked on, and refuses one slice; it knows nothing of its earlier answers."""

    def __init__(self) -> None:
        self.heard: list[dict[int, FramePrompt]] = []

    def on_volume(self, inputs: MethodInputs, task: VolumeTask, prompts: FramePrompts) -> MethodAnswer:
        self.heard.append(dict(prompts))
        if len(self.heard) == 3:
            raise PromptError("no", "none")
        return MethodAnswer([mask & (t in prompts) for t, mask in enumerate(task.truth_thw)])

    def on_images(self, inputs: MethodInputs, images: Sequence[NDArray[np.generic]], prompts: FramePrompts) -> MethodAnswer: ...


class Mending(Told):
    """The same, that goes on from its earlier answer."""

    def correct_volume(
        self, inputs: MethodInputs, task: VolumeTask, earlier_thw: MaskArray, prompts: FramePrompts
    ) -> MethodAnswer:
        assert len(prompts) == 1
        return MethodAnswer([mask | earlier_thw[t] for t, mask in enumerate(self.on_volume(inputs, task, prompts).masks)])


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvaluationJob:
    use_brightness(monkeypatch)
    folder = volume_set(tmp_path / "Dataset001_Liver", cases=1)
    return EvaluationJob(folder, "case0", "liver", "self-sorting", CHALLENGE.conditions[0], 0, CHALLENGE, NetworkSettings())


@pytest.mark.parametrize("method", [Told(), Mending()])
def test_a_method_hears_all_prompts_or_mends_its_answer(
    job: EvaluationJob, monkeypatch: pytest.MonkeyPatch, method: Told
) -> None:
    monkeypatch.setattr(answer, "find_method", lambda _: method)
    rows = answer_job(job)
    slices = sum(bool(truth.any()) for truth in job.load().truths)
    assert [row.clicks for row in rows] == [0, 1, 2, 3, 4, 5]
    assert [row.prompted for row in rows][:2] == [1, 2]
    assert rows[1].dice > rows[0].dice > 0
    assert rows[2].dice == rows[1].dice, "a click that is refused changes nothing"
    assert slices == 4
    assert rows[-1].dice == rows[4].dice == 1.0, "nothing is wrong any more: nobody is asked"
    assert len(method.heard) == 5
    assert [len(each) for each in method.heard] == ([1, 2, 3, 3, 4] if not isinstance(method, Mending) else [1] * 5)


def test_the_network_mends_around_each_click(job: EvaluationJob) -> None:
    rows = answer_job(job)
    assert [row.clicks for row in rows] == [0, 1, 2, 3, 4, 5]
    assert all(not row.skipped for row in rows)
    assert rows[-1].dice >= rows[0].dice > 0.5


def row(clicks: int, dice: float, iou: float, surface: float = 1.0) -> Row:
    blank = Row("d", "volume", "c", "s", "m", "box", "none", "one", 0)
    return replace(blank, clicks=clicks, dice=dice, iou=iou, surface_dice=surface, seconds=20.0)


def test_sums_by_hand() -> None:
    rows = [row(0, 0.1, 0.1), row(1, 0.2, 0.2), row(2, 0.6, 0.5), row(3, 0.8, 0.85), row(4, 0.8, 0.84), row(5, 1.0, 0.89)]
    found = summarise_rounds(rows[::-1])
    assert found.dice_auc == pytest.approx(0.1 + 0.6 + 0.8 + 0.8 + 0.5 - 0.0)
    assert found.surface_auc == pytest.approx(3.5), "a Dice of .2 or less counts no surface"
    assert (found.dice, found.surface, found.clicks, found.reached) == (1.0, 1.0, (3, 5), (True, False))
    assert found.seconds == 120.0
    assert summarise_rounds([row(0, 0.9, 0.95), row(1, 0.9, 0.95)]).clicks == (0, 0), "a box alone may be enough"
    perfect = summarise_rounds([row(n, 1.0, 1.0) for n in range(6)])
    assert (perfect.dice_auc, perfect.surface_auc) == (4.0, 4.0)


def test_tables_of_means_hold_the_last_round_alone() -> None:
    rows = [row(n, 0.1 * n, 0.1 * n) for n in range(6)]
    assert [each.clicks for each in last_rounds(rows)] == [5]
    assert last_rounds([replace(each, clicks=0) for each in rows]) == [replace(each, clicks=0) for each in rows]
    sections = protocol_sections(replace(CHALLENGE, methods=("m",)), rows, {})
    tables = {table.title: table for section in sections for table in section.tables}
    assert tables["Dice after so many clicks"].rows == (("m", "0.000", "0.100", "0.200", "0.300", "0.400", "0.500"),)
    assert tables["Sums over the rounds"].rows[0][-1] == "120.0 (1)"
    assert tables["Means over cases"].rows[0][2].startswith("0.500")


def test_images_are_not_clicked_on_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_brightness(monkeypatch)
    found = run_study(small_study((picture_set(tmp_path / "Dataset002_Cells"),), CHALLENGE.conditions[0]), tmp_path / "out")
    assert "in volumes alone" in next(iter(found.skipped.values()))


def test_an_answer_to_one_box_is_not_taken_for_one_to_a_box_and_clicks(job: EvaluationJob) -> None:
    assert replace(job, condition=replace(job.condition, clicks=0)).answer_key != job.answer_key

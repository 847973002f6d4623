"""How sure an answer is of its slices: features by hand, the judge that ships, and what a user is told in the end."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medical_sam2.errors import WeightsError
from medical_sam2.model.catalogue import MODEL_FILE, NAMED_WEIGHTS
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.confidence import HIDDEN, SLICE_FEATURES, SLICES_FILE, RefinedSlices, count_areas
from medical_sam2.tracking.consensus import Gate, RefinedProbability, apply_consensus
from medical_sam2.volume import SliceConfidence
from tests.backbones import Brightness
from tests.phantoms import phantom
from tests.tracking.test_consensus import MIDDLE, SHAPE, adds, ball, shipped, tracked


def judge_of_slices() -> Gate:
    judge = Gate.beside(NAMED_WEIGHTS["nano"].folder / MODEL_FILE, SLICES_FILE, len(SLICE_FEATURES))
    assert judge is not None
    return judge


def says(logit: float) -> Gate:
    """A judge that says the same of every slice."""
    judge = Gate(HIDDEN, len(SLICE_FEATURES))
    for parameter in judge.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(judge[-1].bias, logit)  # type: ignore[arg-type]
    return judge.requires_grad_(False)


def test_features_of_a_slice() -> None:
    before = np.full((4, 10, 10), -5.0, np.float32)
    before[:3, :4, :4] = 5
    after = before.copy()
    after[1, :4, 2:4] = -5  # half of it is taken away
    after[2] = -5  # and all of it
    told = np.arange(16, dtype=np.float32).reshape(4, 4)
    seen = RefinedSlices(before, after, told, [0], (3.0, 2.0, 2.0), 4.0).features()
    names = dict(zip(SLICE_FEATURES, seen.T, strict=True))
    assert (seen[:, :4] == told).all()
    assert names["unchanged"] == pytest.approx([1, 2 / 3, 0, 0])
    assert names["least overlap"] == pytest.approx([1, 2 / 3, 0, 0])
    assert names["probability"] == pytest.approx([1 / (1 + np.exp(-5))] * 2 + [0, 0])
    assert names["area over prompted"] == pytest.approx(np.log(np.array([16.5, 8.5, 0.5, 0.5]) / 16.5))
    assert names["area"] == pytest.approx(np.log1p([64, 32, 0, 0]))
    assert names["distance"] == pytest.approx(np.log1p(np.arange(4) * 3 / np.sqrt(64 / np.pi)))


def test_far_beyond_an_object_s_end_the_judge_is_less_sure_than_within() -> None:
    """The decoder is as sure of every slice here: that it is not the same object any more it cannot know."""
    beyond = ball() | (ball()[:, :, MIDDLE][..., None] & (np.arange(SHAPE[2]) > MIDDLE))
    found = apply_consensus(shipped(), *tracked(ball(), beyond), judge_of_slices())
    assert isinstance(found, RefinedProbability)
    sure = found.confidence
    assert MIDDLE not in sure, "the prompted slice is what was drawn"
    assert np.mean([sure[t] for t in range(MIDDLE - 3, MIDDLE)]) > 0.6
    assert max(sure[t] for t in range(MIDDLE + 9, SHAPE[2]) if t in sure) < 0.45


def test_without_a_judge_the_decoder_is_believed() -> None:
    found = apply_consensus(shipped(), *tracked(ball(), ball()))
    assert isinstance(found, RefinedProbability)
    assert not found.confidence


def segmented(slice_judge: Gate | None, change: float) -> tuple[SliceConfidence, ...]:
    case = phantom("LPS")
    segmenter = Segmenter(Brightness(), device="cpu", precision="fp32", gate=adds(change), slice_judge=slice_judge)
    return segmenter.segment_volume(case.volume, [case.prompt("mask", 1, 2)], window="0,1", views="one").confidence


def test_a_user_is_told_what_the_judge_says() -> None:
    plain, judged = segmented(None, 0.0), segmented(says(-2.0), 0.0)
    assert any(row.area_px for row in plain if not row.prompted)
    assert [row.key for row in plain] == [row.key for row in judged]
    told = 1 / (1 + np.exp(2))
    assert {row.source for row in plain} == {row.source for row in judged if row.prompted} == {"decoder"}
    assert {round(row.confidence, 5) for row in judged if row.source == "consensus"} == {round(told, 5)}
    assert {round(row.confidence, 5) for row in judged if not row.prompted} >= {round(told, 5)}
    assert [row.confidence for row in judged if row.prompted] == [row.confidence for row in plain if row.prompted]


def test_what_a_further_view_begins_with_nobody_prompted() -> None:
    """It is an estimate, as sure as what it was made of."""
    case = phantom("LPS")
    segmenter = Segmenter(Brightness(), device="cpu", precision="fp32")
    prompt = case.prompt("mask", 1, 2)
    rows = segmenter.segment_volume(case.volume, [prompt], window="0,1", views="three").confidence
    first = rows[0].view
    assert {row.view for row in rows if row.prompted} == {first}
    assert len({row.view for row in rows}) == 3
    assert max(row.confidence for row in rows if row.view != first) < 1


def test_areas_are_those_of_the_labels_that_are_handed_out() -> None:
    """A consensus that takes everything away leaves what was drawn, and rows say so."""
    rows = segmented(None, -99.0)
    assert any(row.area_px for row in rows if row.prompted)
    assert not any(row.area_px for row in rows if not row.prompted)


def test_areas_along_each_axis_and_in_layers() -> None:
    labels, layer = np.zeros((4, 5, 6), np.uint8), np.zeros((4, 5, 6), np.uint8)
    labels[1:3, 2, 3:5] = 1
    labels[0, 0, 0] = 9  # an earlier object that nobody asks about
    layer[1, 2, 4] = layer[1, 2, 5] = 1
    ways = {"a": 0, "b": 1, "c": 2}
    rows = [SliceConfidence(1, view, t, 0.5, -1) for view, axis in ways.items() for t in range(labels.shape[axis])]

    def areas(*shown: np.ndarray) -> list[list[int]]:
        found = count_areas(rows, shown, ways)
        return [[row.area_px for row in found if row.view == view] for view in ways]

    assert areas(labels) == [[0, 2, 2, 0], [0, 0, 4, 0, 0], [0, 0, 0, 2, 2, 0]]
    assert areas(labels, layer) == [[0, 3, 2, 0], [0, 0, 5, 0, 0], [0, 0, 0, 2, 2, 1]]


def test_a_broken_judge_is_refused_by_name(tmp_path: Path) -> None:
    save_file(dict(Gate(HIDDEN, 3).state_dict()), tmp_path / SLICES_FILE)
    with pytest.raises(WeightsError, match=SLICES_FILE):
        Gate.beside(tmp_path / MODEL_FILE, SLICES_FILE, len(SLICE_FEATURES))

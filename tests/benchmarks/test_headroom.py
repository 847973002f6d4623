"""Headroom of memories in volumes: what the bank is told is the truth of what the network is shown, and can gain."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import headroom
from benchmarks.headroom import ALONE, BANKS, OWN, TRUE_IOU, TRUE_MASKS, ask_volume, report
from medical_sam2.evaluate.cases import EvaluationCase, VolumeTask
from medical_sam2.metrics import iou
from medical_sam2.model.backbone import Backbone, Features, FramePrediction
from medical_sam2.model.memory_bank import SelfSorting
from medical_sam2.prompts import FramePrompt
from medical_sam2.tracking.frames import to_network
from medical_sam2.volume import Volume
from tests.phantoms import segmenter

Turn = Callable[[NDArray[Any]], NDArray[Any]]
TURNS: dict[str, tuple[Turn, NDArray[np.float64]]] = {
    "as it is": (lambda a: a, np.diag([-1.0, -1, 3, 1])),
    "flipped": (lambda a: a[:, ::-1, ::-1], np.diag([-1.0, 1, -3, 1])),
    "turned": (
        lambda a: a.transpose(2, 0, 1)[::-1],
        np.array([[0, -1.0, 0, 0], [0, 0, -1.0, 0], [-3.0, 0, 0, 0], [0, 0, 0, 1]]),
    ),
}


def made(turn: str = "as it is", *, levels: int = 1) -> EvaluationCase:
    """A block in padding that moves to one side from slice to slice, out of every region, between levels of grey."""
    rng, truth = np.random.default_rng(0), np.zeros((60, 50, 26), bool)
    image = np.zeros(truth.shape)
    image[4:-4, 4:-4, 2:-2] = rng.uniform(0, 0.1, (52, 42, 22))
    for n in range(16):
        truth[8 + 2 * n : 18 + 2 * n, 16 : 26 + n // 4, 5 + n] = True
        image[truth & (np.arange(26) == 5 + n)] = 1 - 0.08 * (n % levels)
    way, affine = TURNS[turn]
    task = VolumeTask(Volume(np.ascontiguousarray(way(image)), affine), np.ascontiguousarray(way(truth)))
    return EvaluationCase("made/first/block", list(task.truth_thw), [], [None], task)


@pytest.mark.parametrize("turn", TURNS)
def test_the_bank_is_told_the_truth_of_what_the_network_is_shown(turn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[tuple[tuple[int, ...], float]]()

    def seen(
        network: Backbone, truth: NDArray[np.bool_], frame: Features, found: FramePrediction
    ) -> tuple[FramePrediction, float]:
        if truth.any():
            shown = to_network(FramePrompt.mask(truth), truth.shape, network.image_size).mask_hw
            assert shown is not None
            told.append((truth.shape, float(iou(shown, frame.top_BChw[0, 0].numpy() > 0.3))))
        return headroom.of_true_masks(network, truth, frame, found)

    monkeypatch.setitem(BANKS, TRUE_MASKS, (SelfSorting, seen))
    ask_volume(made(turn), "mask", segmenter(), 0, TRUE_MASKS)
    shapes, right = zip(*told, strict=True)
    assert len(set(shapes)) > 1, "the region grew"
    assert min(right) > 0.8
    assert len(right) >= 15


def test_memories_of_true_masks_gain_where_an_object_changes() -> None:
    case, network = made(levels=3), segmenter()
    answers = {one.key: one for bank in BANKS for one in [ask_volume(case, "click", network, 0, bank)]}
    whole = {key[3]: one.whole or 0 for key, one in answers.items()}
    assert whole[OWN] == pytest.approx(whole[ALONE], abs=0.01)
    assert whole[TRUE_MASKS] > whole[ALONE] + 0.1, "what lies between the levels finds all of them"
    text = report(answers, "")
    assert "## Volumes" in text
    assert "## Sets" not in text
    assert "headroom or more: made/first block (+" in text


def test_memories_are_admitted_by_their_true_iou() -> None:
    case, network = made(), segmenter()
    found = ask_volume(case, "mask", network, 0, TRUE_IOU)
    assert found.whole == ask_volume(case, "mask", network, 0, OWN).whole
    assert network.network.memorise.__func__ is type(network.network).memorise, "the network is as it was"

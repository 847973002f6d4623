"""The judge of slices: how it is measured, and that it learns."""

import numpy as np
import pytest

from benchmarks.slice_confidence import Answer, calibration_error, fitted, judged, suggested
from medical_sam2.tracking.confidence import SLICE_FEATURES


def answer(dataset: str, seed: int) -> Answer:
    """Slices whose IoU is the feature "unchanged", of which the decoder knows nothing."""
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 1, (20, len(SLICE_FEATURES))).astype(np.float32)
    overlap = rng.uniform(0.05, 0.95, 20).astype(np.float32)
    features[:, SLICE_FEATURES.index("unchanged")] = overlap
    area, decoder = np.full(20, 50, np.float32), np.full(20, 0.9, np.float32)
    return Answer(dataset, np.arange(20), features, decoder, area, overlap, 2 * overlap / (1 + overlap), flawed=True)


def test_calibration_error_of_bins() -> None:
    """Two bins: one is sure of .85 and right with .6, one says what is."""
    predicted = np.array([0.85, 0.85, 0.15, 0.15], np.float32)
    truth = np.array([0.5, 0.7, 0.1, 0.2], np.float32)
    assert calibration_error(predicted, truth) == pytest.approx((2 * 0.25 + 0) / 4)
    assert calibration_error(truth, truth) == 0


def test_a_judge_learns_what_the_decoder_does_not_know() -> None:
    answers = [answer(name, seed) for seed, name in enumerate(["one"] * 6 + ["other"] * 6)]
    judge, new = fitted(answers, seed=0), answer("third", 99)
    assert np.abs(judged(judge, new) - new.iou).mean() < 0.12 < np.abs(new.decoder - new.iou).mean()


def test_three_slices_that_are_no_neighbours_are_suggested() -> None:
    each = answer("one", 0)
    sure = np.full(20, 0.9, np.float32)
    sure[[4, 5, 12, 17]] = 0.1, 0.05, 0.2, 0.3
    assert each.slices[suggested(each, sure)].tolist() == [5, 12, 17], "slice 4 is mended with slice 5"

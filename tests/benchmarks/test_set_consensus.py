"""The network of the consensus in sets learns what the looks tell better than tracking."""

import numpy as np
import pytest
import torch

from benchmarks.set_consensus import Answers, Examples, describe_judge, held_out
from medical_sam2.tracking.set_consensus import ANSWER, FEATURES


def made(name: str, seed: int) -> Examples:
    """Tracking is wrong on every fourth pixel; the regression knows better."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((6, 32, 32), np.float32)
    truth[:, 8:20, 6:24] = 1
    features = rng.normal(0, 0.3, (6, len(FEATURES), 32, 32))
    wrong = rng.uniform(size=truth.shape) < 0.25
    features[:, 0] = np.where((truth > 0) != wrong, 1, -1) * 0.3
    features[:, FEATURES.index("regression")] = 2 * truth - 1
    return Examples(name, torch.from_numpy(features).half(), torch.from_numpy(truth))


def shorter(patch: pytest.MonkeyPatch, **settings: int) -> None:
    """Fitting as the test needs it."""
    for name, value in settings.items():
        patch.setattr(f"benchmarks.set_consensus.{name}", value)


def test_the_table_shows_what_is_gained_on_sets_that_the_network_did_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    shorter(monkeypatch, FOLD_STEPS=60)
    text, answers = held_out([made(name, seed) for seed, name in enumerate("abcd")], 0)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line[2:3] in "abcd" and line.startswith("|")]
    assert [row[0] for row in rows] == list("abcd")
    assert all(float(row[3]) > float(row[2]) + 0.1 for row in rows)
    assert sorted(each.dataset for each in answers) == list("abcd")
    for each in answers:
        assert each.features.shape == (6, len(ANSWER))
        assert each.iou.min() > 0.85  # of the answers after the change, not of what was tracked


def test_a_judge_of_other_sets_knows_what_tracking_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    answers = []
    for name in "abcdef":
        features = rng.normal(0, 0.2, (40, len(ANSWER))).astype(np.float32)
        iou = rng.uniform(0.1, 0.9, 40).astype(np.float32)
        features[:, ANSWER.index("expected")] = iou
        features[:, ANSWER.index("confidence")] = rng.uniform(0.9, 1, 40)
        answers.append(Answers(name, features, iou))
    monkeypatch.setattr("slice_confidence.STEPS", 300)
    tracking, judge = describe_judge(answers, 0).splitlines()
    error = [float(line.split("calibration error ")[1].split(",")[0]) for line in (tracking, judge)]
    assert error[0] > 0.3
    assert error[1] < 0.1
    assert float(judge.split("rank correlation ")[1].split(",")[0]) > 0.8

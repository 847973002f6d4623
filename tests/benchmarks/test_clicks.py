"""The judge of clicks, as it is fitted: networks side by side are one, and it learns what tells good masks from bad."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.clicks import Example, fit, judge_tensors, scale_of, table
from medical_sam2.tracking.click_outline import FEATURES, JUDGE_FILE, OutlineJudge


def some(sets: int, each: int) -> list[Example]:
    """Clicks on which the third feature tells the Dice."""
    rng, rows = np.random.default_rng(0), []
    for number in range(sets * each):
        features = rng.normal(3, 2, (6, len(FEATURES))).astype(np.float32)
        features[:, FEATURES.index("in a set")] = number % 2
        scores = 1 / (1 + np.exp(-(features[:, 2] - 3)))
        rows.append(Example(features, scores.astype(np.float32), 0, f"set {number % sets}"))
    return rows


def test_networks_side_by_side_are_one_judge(tmp_path) -> None:
    rows = some(2, 10)
    scale = scale_of(rows)
    networks = [fit(rows, scale, seed) for seed in range(2)]
    save_file(judge_tensors(networks, scale), tmp_path / JUDGE_FILE)
    judge = OutlineJudge.beside(tmp_path / "model.safetensors")
    assert judge is not None
    with torch.inference_mode():
        x = torch.from_numpy((rows[0].features - scale[0]) / scale[1])
        mean = sum(network(x).sigmoid() for network in networks)[:, 0] / 2
    assert np.allclose(judge.predict_dice(rows[0].features), mean, atol=1e-4)


def test_the_table_shows_what_is_gained_on_sets_that_the_judge_never_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.clicks.NETWORKS", 1)
    lines = table(some(5, 12)).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| as in a volume", "| as in a set"]
    for line in lines[2:]:
        before, by_judge, _, best = line.strip("| ").split(" | ")[2:6]
        assert float(by_judge) > float(before) + 0.1
        assert float(best) >= float(by_judge)

"""The classifier solved from memory: scikit-learn's ridge regression, by its sums."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from medical_sam2.model.backbone import Memory, Recalled
from medical_sam2.model.nano_modules import LEAST_SHARE, PixelClassifier

SIDE, DEPTH = 12, 5


def pixels(seed: int) -> Tensor:
    own = torch.randn(1, DEPTH - 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return torch.cat([own, torch.ones(1, 1, SIDE, SIDE)], 1)


def inside(seed: int) -> Tensor:
    return torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)).round()


def remembered(parts: PixelClassifier, seeds: list[int], weights: list[float] | None = None) -> list[Recalled]:
    blank = torch.zeros(1)
    weights = weights or [0.0] * len(seeds)
    sums = [parts.sums(pixels(seed), inside(seed))[0] for seed in seeds]
    memories = [Memory(t, True, blank, blank, blank, 1.0, own={"sums": own}) for t, own in enumerate(sums)]
    return [Recalled(memory, log_weight=weight) for memory, weight in zip(memories, weights, strict=True)]


@torch.no_grad()
def test_it_is_weighted_ridge_regression() -> None:
    parts = PixelClassifier()
    score = parts(pixels(7), [remembered(parts, [1, 2], [0.0, math.log(3)])])[0]
    rows, targets, shares = [], [], []
    for seed, share in ((1, 0.25), (2, 0.75)):
        x, y = pixels(seed)[0].flatten(1).T.numpy(), inside(seed).flatten().numpy()
        least = LEAST_SHARE * y.size
        rows.append(x)
        targets.append(2 * y - 1)
        shares.append(share * np.where(y > 0, 1 / (y.sum() + least), 1 / ((1 - y).sum() + least)))
    x, y, weight = np.concatenate(rows), np.concatenate(targets), np.concatenate(shares)
    alpha = math.exp(float(parts.ridge)) * float(np.mean(np.diag(x.T @ (x * weight[:, None]))))
    solved = Ridge(alpha=alpha, fit_intercept=False).fit(x, y, sample_weight=weight)
    expected = solved.predict(pixels(7)[0].flatten(1).T.numpy()).reshape(SIDE, SIDE)
    assert np.allclose(score.numpy(), expected, atol=1e-4)


@torch.no_grad()
def test_both_sides_count_alike_however_small_one_is() -> None:
    parts, mask = PixelClassifier(), torch.zeros(1, SIDE, SIDE)
    mask[0, 3, 4:6] = 1
    picture = torch.cat([mask[:, None], torch.ones(1, 1, SIDE, SIDE)], 1)
    blank = torch.zeros(1)
    memory = Memory(0, True, blank, blank, blank, 1.0, own={"sums": parts.sums(picture, mask)[0]})
    score = parts(picture, [[Recalled(memory)]])[0]
    assert (score[mask[0] > 0] > 0.8).all()
    assert (score[mask[0] == 0] < -0.8).all()


@torch.no_grad()
def test_without_a_past_nothing_is_found() -> None:
    parts = PixelClassifier()
    assert not parts(pixels(7), [[], remembered(parts, [1])])[0].any()


@torch.no_grad()
@pytest.mark.parametrize("empty", [0.0, 1.0])
def test_a_frame_without_one_of_the_sides_gives_finite_scores(empty: float) -> None:
    parts, blank = PixelClassifier(), torch.zeros(1)
    sums = parts.sums(pixels(1), torch.full((1, SIDE, SIDE), empty))[0]
    score = parts(pixels(2), [[Recalled(Memory(0, True, blank, blank, blank, 1.0, own={"sums": sums}))]])
    assert score.isfinite().all()


def test_gradients_reach_what_was_remembered() -> None:
    parts, seen = PixelClassifier(), pixels(1).requires_grad_()
    blank = torch.zeros(1)
    memory = Memory(0, False, blank, blank, blank, 1.0, own={"sums": parts.sums(seen, inside(1))[0]})
    parts(pixels(2), [[Recalled(memory)]]).square().sum().backward()
    assert seen.grad is not None
    assert seen.grad.abs().sum() > 0

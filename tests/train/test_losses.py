"""Losses: zero where nothing is wrong, and only what should teach teaches."""

import torch

from medical_sam2.model.backbone import FramePrediction
from medical_sam2.train.config import LossWeights
from medical_sam2.train.train_step import ConsistencyLoss, compute_frame_loss


def prediction(logits: torch.Tensor, iou: float = 1.0, presence: float = 20.0) -> FramePrediction:
    count = logits.shape[0]
    sure = torch.full((count, logits.shape[1]), iou)
    return FramePrediction(logits[:, 0], sure[:, 0], torch.full((count,), presence), torch.zeros(count, 8), logits, sure)


def square() -> torch.Tensor:
    truth = torch.zeros(1, 32, 32)
    truth[:, 8:24, 8:24] = 1
    return truth


def sure_of(truth: torch.Tensor) -> torch.Tensor:
    small = torch.nn.functional.interpolate(truth[:, None], size=(8, 8), mode="area")
    return (small * 2 - 1) * 30


def test_the_right_answer_costs_nothing() -> None:
    loss = compute_frame_loss(prediction(sure_of(square())), square(), LossWeights(), given_B=torch.tensor([False]))
    assert float(loss) < 1e-3


def test_of_several_masks_only_the_best_one_pays() -> None:
    right = sure_of(square())
    both = torch.cat([right, -right], 1)
    answer = prediction(both)
    iou_only = LossWeights(focal=1, dice=1, iou=0, presence=0)
    assert float(compute_frame_loss(answer, square(), iou_only, given_B=torch.tensor([False]))) < 1e-3


def test_a_wrong_confidence_costs() -> None:
    right = sure_of(square())
    humble = compute_frame_loss(prediction(right, iou=0.2), square(), LossWeights(), given_B=torch.tensor([False]))
    assert abs(float(humble) - 0.8 * LossWeights().iou) < 1e-3


def test_an_absent_object_costs_only_where_it_is_claimed() -> None:
    nothing = torch.zeros(1, 32, 32)
    wrong_mask = sure_of(square())
    denied = compute_frame_loss(prediction(wrong_mask, presence=-20.0), nothing, LossWeights(), given_B=torch.tensor([False]))
    claimed = compute_frame_loss(prediction(wrong_mask), nothing, LossWeights(), given_B=torch.tensor([False]))
    assert float(denied) < 1e-3
    assert float(claimed) > 1


def test_a_given_mask_teaches_nothing() -> None:
    wrong = -sure_of(square())
    assert float(compute_frame_loss(prediction(wrong), square(), LossWeights(), given_B=torch.tensor([True]))) == 0


def test_features_that_tell_structures_apart_cost_less() -> None:
    labels = torch.zeros(2, 32, 32)
    labels[:, :, 16:] = 1
    labels[:, :16] += 2
    apart = torch.nn.functional.one_hot(labels.long(), 4).permute(0, 3, 1, 2).float()
    consistency = ConsistencyLoss(samples=32)
    generator = torch.Generator().manual_seed(0)
    good = consistency(apart, labels, generator)
    bad = consistency(torch.ones_like(apart), labels, torch.Generator().manual_seed(0))
    assert float(good) < float(bad)

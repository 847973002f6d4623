"""What training minimises, frame by frame and object by object.

Shapes: B objects, K proposed masks, h w logits at stride 4, N frames, C channels, S network size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from medical_sam2.model.backbone import FramePrediction


@dataclass(frozen=True)
class LossWeights:
    """How much each loss counts.

    `focal` 20, `dice` 1, `iou` 1, `presence` 1, `gamma` 2, `alpha` 0.25 is SAM 2's own recipe, for fine-tuning.
    From scratch the focal loss stays at the empty mask for long, so cross-entropy (`gamma` 0, `focal` 1) with dice moves first.
    """

    focal: float = 1.0  # pixel-wise cross-entropy, focused by `gamma`
    dice: float = 1.0  # one less the soft Dice
    iou: float = 0.5  # L1 between predicted and true IoU, of every proposed mask
    presence: float = 0.25  # cross-entropy of the object being on the frame
    absent: float = 0.0  # cross-entropy of all proposed masks with the empty one, where the object is not on the frame
    gamma: float = 0.0  # exponent of the focal loss
    alpha: float = -1.0  # share of the object's pixels in the focal loss, the others have the rest; below 0 both count alike
    consistency: float = 0.2  # contrast of the features of different structures, see `consistency`


def compute_frame_loss(prediction: FramePrediction, truth_BSS: Tensor, weights: LossWeights, *, given_B: Tensor) -> Tensor:
    """Loss of one frame, summed over objects.

    Of several proposed masks only the one of lowest loss is supervised, but every predicted IoU is. Where the object is
    absent its presence is, and with the weight `absent` every proposed mask, which should be empty.

    Args:
        prediction: of the frame.
        truth_BSS: float in {0, 1}.
        given_B: bool, objects whose mask was given as prompt: there is nothing to learn from.
    """
    logits = prediction.candidates_BKhw.float()
    target = F.interpolate(truth_BSS[:, None], size=logits.shape[-2:], mode="area").expand_as(logits)
    there = truth_BSS.flatten(1).any(1).float()
    learns = there * (~given_B).float()
    mask_loss = weights.focal * _focal_loss(logits, target, weights) + weights.dice * _dice_loss(logits, target)
    best = mask_loss.argmin(1, keepdim=True)
    with torch.no_grad():
        true_iou = _measure_iou(logits > 0, target > 0.5)
    iou_loss = (prediction.candidate_iou_BK.float() - true_iou).abs().mean(1)
    presence = F.binary_cross_entropy_with_logits(prediction.presence_B.float().clamp(-20, 20), there, reduction="none")
    total = learns * (mask_loss.gather(1, best)[:, 0] + weights.iou * iou_loss)
    total = total + weights.absent * (1 - there) * F.softplus(logits).mean((1, 2, 3))
    return (total + weights.presence * presence * (~given_B)).sum()


def _focal_loss(logits: Tensor, target: Tensor, weights: LossWeights) -> Tensor:
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if weights.gamma > 0:
        probability = logits.sigmoid()
        agreement = probability * target + (1 - probability) * (1 - target)
        entropy = entropy * (1 - agreement) ** weights.gamma
    if weights.alpha >= 0:
        entropy = entropy * (weights.alpha * target + (1 - weights.alpha) * (1 - target))
    return entropy.mean((2, 3))


def _dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    probability = logits.sigmoid()
    both = (probability * target).sum((2, 3))
    return 1 - (2 * both + 1) / (probability.sum((2, 3)) + target.sum((2, 3)) + 1)


def _measure_iou(mask: Tensor, truth: Tensor) -> Tensor:
    both = (mask & truth).sum((2, 3)).float()
    return both / (mask | truth).sum((2, 3)).clamp(min=1)


class ConsistencyLoss(nn.Module):
    """Supervised contrast of feature-map pixels: alike where the structure is the same, on any frame of the clip.

    Every labelled structure teaches, not only the objects that were prompted, so features become distinctive long before
    tracking works. After Khosla et al., Supervised Contrastive Learning (2020).

    Args:
        samples: pixels drawn per frame.
        temperature: of the cosines.
    """

    def __init__(self, samples: int = 48, temperature: float = 0.1) -> None:
        super().__init__()
        self.samples, self.temperature = samples, temperature

    def forward(self, map_TChw: Tensor, labels_TSS: Tensor, generator: torch.Generator) -> Tensor:
        """Mean loss over the drawn pixels of one clip of T frames."""
        count, _, height, width = map_TChw.shape
        labels = F.interpolate(labels_TSS[:, None].float(), size=(height, width), mode="nearest")[:, 0].flatten(1)
        places = torch.rand((count, height * width), generator=generator).argsort(1)[:, : self.samples].to(map_TChw.device)
        tokens = map_TChw.flatten(2).transpose(1, 2).gather(1, places[..., None].expand(-1, -1, map_TChw.shape[1]))
        tokens = F.normalize(tokens.float(), dim=-1).flatten(0, 1)
        labels = labels.to(map_TChw.device).gather(1, places).flatten()
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        score = (tokens @ tokens.T / self.temperature).masked_fill(itself, -1e4)
        same = (labels[:, None] == labels) & ~itself
        anchor = same.any(-1) & (labels > 0)
        log_share = score - score.logsumexp(-1, keepdim=True)
        per_anchor = -(log_share * same).sum(-1) / same.sum(-1).clamp(min=1)
        return (per_anchor * anchor).sum() / anchor.sum().clamp(min=1)

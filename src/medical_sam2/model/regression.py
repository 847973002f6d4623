"""Pixels told apart by a classifier that is solved, not trained: what `nano` adds to SAM 2's memory for colours, textures.

Every memory keeps the sums that ridge regression needs of its pixels and their mask; on a new frame the memories' sums are
added up by their weights, and the solution

    w = (Σ_m ω_m A_m + λ I)⁻¹ Σ_m ω_m b_m,    A = Σ_p s_p x_p x_pᵀ,    b = Σ_p s_p x_p y_p

scores its pixels x, with y = ±1 inside and outside and weights s under which both sides count alike. Gradients
flow through the solution, so the features learn to be told apart by it. Closed-form learners of this kind are known from
few-shot learning (Bertinetto et al., Meta-learning with differentiable closed-form solvers, 2019) and from video objects
(Robinson et al., Learning fast and robust target models for video object segmentation, 2020).

Shapes: N frames, B objects, E features with a constant one, h w map of stride 2 or 4.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from medical_sam2.model.backbone import Recalled

LEAST = 1e-4  # share of a frame under which a side counts less than the other
GUESS = 0.3  # weight of a memory that nobody prompted, at first
CHUNK = 2048  # pixels at a time, whose features stay in cache


class Regression(nn.Module):
    """Sums of memories, and their solution.

    Args:
        sums_name: field of a memory that its sums are kept in.
        ridge: at first; the logarithm of its share of the features' mean square.
    """

    def __init__(self, sums_name: Literal["sums_EE", "coarse_sums_EE"] = "sums_EE", ridge: float = -4.0) -> None:
        super().__init__()
        self.sums_name = sums_name
        self.ridge = nn.Parameter(torch.tensor(ridge))
        self.guess = nn.Parameter(torch.tensor(GUESS).log())

    def sums(self, features_BEhw: Tensor, inside_Bhw: Tensor) -> Tensor:
        """A and b of one frame for each object, side by side: (B, E, E + 1).

        Args:
            features_BEhw: of the frame; B may be 1.
            inside_Bhw: probability of the object in each pixel.
        """
        with torch.autocast(features_BEhw.device.type, enabled=False):
            y_Bn = inside_Bhw.to(_exact(features_BEhw.device)).flatten(1)
            x_BEn = features_BEhw.flatten(2).expand(len(y_Bn), -1, -1)
            least = LEAST * y_Bn.shape[1]
            within_Bn = y_Bn / (y_Bn.sum(1, keepdim=True) + least)
            without_Bn = (1 - y_Bn) / ((1 - y_Bn).sum(1, keepdim=True) + least)
            pieces = zip(*(part.split(CHUNK, -1) for part in (x_BEn, within_Bn, without_Bn)), strict=True)
            return torch.stack([_summed(*piece) for piece in pieces]).sum(0)

    def forward(self, features_BEhw: Tensor, recall: Sequence[Sequence[Recalled]]) -> Tensor:
        """The score of each pixel for each object, about −1 outside and 1 inside: (B, h, w); 0 for one without a past."""
        known = [[(r, getattr(r.memory, self.sums_name)) for r in memories if r.map] for memories in recall]
        features = features_BEhw.expand(len(recall), -1, -1, -1)
        return torch.stack([self._score(own, sums) for own, sums in zip(features, known, strict=True)])

    def _score(self, features_Ehw: Tensor, memories: Sequence[tuple[Recalled, Tensor | None]]) -> Tensor:
        known = [(r, sums) for r, sums in memories if sums is not None]
        if not known:
            return features_Ehw.new_zeros(features_Ehw.shape[1:], dtype=torch.float32)
        device = features_Ehw.device
        with torch.autocast(device.type, enabled=False):
            trust = [r.log_weight + self.guess * (not r.memory.prompted) for r, _ in known]
            share_M = torch.stack(trust).float().softmax(0)
            sums = torch.stack([own for _, own in known])
            a_EE, b_E1 = torch.einsum("m,mef->ef", share_M.to(sums.dtype), sums).split([sums.shape[1], 1], 1)
            ridge = self.ridge.exp() * a_EE.diagonal().mean().clamp(min=1e-6)
            w_E1 = torch.linalg.solve(a_EE + ridge * torch.eye(len(a_EE), dtype=sums.dtype, device=device), b_E1)
            return torch.einsum("ehw,e->hw", features_Ehw.float(), w_E1[:, 0].float()).clamp(-3, 3)


def _summed(x_BEn: Tensor, within_Bn: Tensor, without_Bn: Tensor) -> Tensor:
    """A and b (B, E, E + 1) of some pixels, from their features and shares of either side."""
    x_BEn = x_BEn.to(within_Bn.dtype)
    signs_B1n = (within_Bn - without_Bn)[:, None]
    return x_BEn @ torch.cat([x_BEn * (within_Bn + without_Bn)[:, None], signs_B1n], 1).transpose(1, 2)


def _exact(device: torch.device) -> torch.dtype:
    """Sums and solution are amplified rounding where features are alike; MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64

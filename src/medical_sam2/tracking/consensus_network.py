"""The network that decides what a consensus in a set of images makes of its witnesses: a small U-Net.

It is learnt beside the network's weights; with it, a judge of the answers that it makes. Skip connections between halves of equal size as in U-Net (Ronneberger et al., 2015);
no normalisation, for the features say by their size how sure they are.

Shapes: N images, F features, h w grid.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from medical_sam2.tracking.consensus import Gate
from medical_sam2.tracking.slice_confidence import HIDDEN

WIDTHS = (16, 24, 32, 48)  # channels at the grid, and at each half of it


class ConsensusNetwork(nn.Module):
    """Features of a grid → what is added to the logit of each of its pixels.

    Its `judge` takes what describes an answer (N, A) → the logit of the answer's predicted IoU (N, 1).

    Args:
        features: F.
        described: A.
        widths: channels at each size, from the grid to the smallest.
    """

    def __init__(self, features: int, described: int, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.mix = nn.Conv2d(features, widths[0], 1)
        self.down = nn.ModuleList(_two_convolutions(*pair) for pair in pairwise([widths[0], *widths]))
        self.up = nn.ModuleList(_two_convolutions(deep + own, own) for own, deep in reversed([*pairwise(widths)]))
        self.change = nn.Conv2d(widths[0], 1, 1)
        for part in self.change.parameters():
            nn.init.zeros_(part)  # nothing changes before it has learnt
        self.judge = Gate(HIDDEN, described)

    def forward(self, features_NFhw: Tensor) -> Tensor:
        """(N, h, w); h and w of any size."""
        x, kept = F.relu(self.mix(features_NFhw)), list[Tensor]()
        for depth, part in enumerate(self.down):
            x = part(F.avg_pool2d(x, 2, ceil_mode=True) if depth else x)
            kept.append(x)
        for part, same in zip(self.up, reversed(kept[:-1]), strict=True):
            larger = F.interpolate(x, size=same.shape[-2:], mode="bilinear", align_corners=False)
            x = part(torch.cat([larger, same], 1))
        return self.change(x)[:, 0]


def _two_convolutions(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width_in, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU())

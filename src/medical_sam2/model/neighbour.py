"""The mask of the frame before, moved by likeness: what `nano` adds to SAM 2's memory for slices in their order.

Neighbouring slices of a volume show nearly the same, a little shifted. Each pixel of the frame looks at the window around its
own place in the frame nearest in time, and takes over the mask from where that looks alike,

    p_i = Σ_j a_ij y_j,    a = softmax_{j in window of i}( k_i·k_j / τ − β |i − j|² )

with unit keys k at stride 4. Local matching of this kind beside global matching is known from FEELVOS (Voigtlaender et al.,
2019). Three pictures come out: the mask as it was, the mask moved, and how alike the best place is.

Shapes: B objects, D channels of a key, h w map of stride 4, O places of a window.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from medical_sam2.model.backbone import Recalled

REACH = 3  # pixels of stride 4 that a place may move in each direction
ACROSS = 2 * REACH + 1
PICTURES = 3


class Neighbour(nn.Module):
    """Window matching with the frame nearest in time."""

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(math.log(1 / 0.05)))
        self.nearness = nn.Parameter(torch.tensor(math.log(1 / (2 * 2.0**2))))

    def forward(self, key_BDhw: Tensor, recall: Sequence[Sequence[Recalled]]) -> Tensor:
        """The three pictures of each object (B, 3, h, w); 0 for one that has no neighbour in time."""
        keys = key_BDhw.expand(len(recall), -1, -1, -1)
        return torch.stack([self._matched(key, memories) for key, memories in zip(keys, recall, strict=True)])

    def _matched(self, key_Dhw: Tensor, memories: Sequence[Recalled]) -> Tensor:
        near = next((r.memory for r in memories if r.near), None)
        if near is None or near.look_Dhw is None or near.cover_4hw is None:
            return key_Dhw.new_zeros(PICTURES, *key_Dhw.shape[1:], dtype=torch.float32)
        mask_hw = F.pixel_shuffle(near.cover_4hw[None].float(), 2)[0, 0]
        likeness_Ohw = _likeness(key_Dhw, near.look_Dhw)
        places_Ohw = _windows(mask_hw[None])[0]
        pull_O11 = self.nearness.exp() * _distances(key_Dhw.device)[:, None, None]
        share_Ohw = (likeness_Ohw.float() * self.sharpness.exp() - pull_O11).softmax(0)
        return torch.stack([2 * mask_hw - 1, 2 * (share_Ohw * places_Ohw).sum(0) - 1, likeness_Ohw.float().amax(0)])


def _likeness(key_Dhw: Tensor, other_Dhw: Tensor) -> Tensor:
    """Cosine of each pixel with those of the window around its place in the other frame: (O, h, w); −1 outside of it.

    Shift by shift: all windows at once would be 49 copies of the frame.
    """
    _, height, width = key_Dhw.shape
    within = _windows(torch.ones_like(key_Dhw[:1]))[0]
    framed = F.pad(other_Dhw.to(key_Dhw.dtype), [REACH] * 4)
    shifted = (framed[:, y : y + height, x : x + width] for y in range(ACROSS) for x in range(ACROSS))
    return torch.stack([(key_Dhw * other).sum(0) for other in shifted]) + within - 1


def _windows(map_Dhw: Tensor) -> Tensor:
    """The window around each pixel (D, O, h, w), 0 outside of the frame."""
    return F.unfold(map_Dhw[None], ACROSS, padding=REACH)[0].view(map_Dhw.shape[0], ACROSS**2, *map_Dhw.shape[1:])


def _distances(device: torch.device) -> Tensor:
    """Squared distance of each place of the window from its middle."""
    along = torch.arange(-REACH, REACH + 1, device=device, dtype=torch.float32) ** 2
    return (along[:, None] + along).flatten()

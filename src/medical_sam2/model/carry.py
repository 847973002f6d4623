"""Masks carried over from memory by likeness: what `nano` adds to SAM 2's memory attention.

A pixel of the frame is likely inside if the remembered pixels that look like it were inside. With unit keys k at stride 8,
remembered masks y and the log-weights w of the bank, over all pixels j of all memories m,

    p_i = Σ a_ij y_j,    a = softmax_j( k_i·k_j / τ − g_m · d²(i, j) / 2σ² + w_m )

where d is the distance in the frame and g_m in [0, 1] grows with how alike the two frames are place by place: neighbouring
slices are, so place counts; images of different patients are not, so it does not. Masks are carried with the four pixels of
stride 4 under each key. The result is a residual of the mask logits and is shown to the decoder, which learns to mend it.
Label propagation of this kind is the core of STM (Oh et al., 2019) and of few-shot segmentation by matching pixels.

Shapes: B objects, N frames, D channels of a key, h w feature map of stride 8, n = h·w, M memories.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from medical_sam2.model.backbone import FramePrediction, Recalled

SUBPIXELS = 16  # mask logits (stride 4) under one pixel of the deepest map (stride 16)
SURE = 0.005
CHUNK = 128  # pixels at a time


class Carry(nn.Module):
    """Keys, their comparison, and the embedding that shows the carried mask to the decoder.

    Args:
        width: channels of the feature maps.
        depth: D, channels of a key.
    """

    def __init__(self, width: int, depth: int = 64) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, depth // 2, 1, bias=False)
        self.second = nn.Conv2d(width, depth // 2, 1, bias=False)
        self.sharpness = nn.Parameter(torch.tensor(math.log(1 / 0.05)))
        self.nearness = nn.Parameter(torch.tensor(math.log(1 / (2 * 0.12**2))))
        self.alike = nn.Parameter(torch.tensor([15.0, 0.8]))
        self.trust = nn.Parameter(torch.tensor(1.0))
        self.embed = nn.Sequential(nn.Conv2d(SUBPIXELS, width, 1), nn.GELU(), nn.Conv2d(width, width, 1))

    @torch.no_grad()
    def reset(self) -> None:
        """Random orthonormal keys keep the angles between features."""
        for projection in (self.first, self.second):
            nn.init.orthogonal_(projection.weight.view(projection.weight.shape[:2]))

    def keys(self, first_NChw: Tensor, second_NChw: Tensor) -> Tensor:
        """Unit keys (N, D, h, w) from the maps of stride 4 and 8."""
        fine = F.normalize(self.first(F.avg_pool2d(first_NChw, 2)).float(), dim=1)
        coarse = F.normalize(self.second(second_NChw).float(), dim=1)
        return torch.cat([fine, coarse], 1) / math.sqrt(2)

    def inside(self, prediction: FramePrediction, hard_B: Tensor) -> Tensor:
        """What of each pixel of the mask logits (B, h, w) counts as inside, in [0, 1]."""
        logits = prediction.logits_Bhw.float()
        return torch.where(hard_B[:, None, None], (logits > 0).float(), logits.sigmoid())

    def cover(self, inside_Bhw: Tensor) -> Tensor:
        """What of each object a memory carries: (B, 4, h, w), the mask of stride 2 at stride 4, folded under stride 8."""
        return F.pixel_unshuffle(F.avg_pool2d(inside_Bhw[:, None], 2), 2)

    def forward(self, key_BDhw: Tensor, recall: Sequence[Sequence[Recalled]]) -> Tensor:
        """Carried mask logits of each object, folded: (B, 16, h/2, w/2); 0 for an object without a past."""
        keys = key_BDhw.expand(len(recall), -1, -1, -1)
        return torch.stack([self._carried(key, memories) for key, memories in zip(keys, recall, strict=True)])

    def _carried(self, key_Dhw: Tensor, memories: Sequence[Recalled]) -> Tensor:
        _, height, width = key_Dhw.shape
        seen = [(r, r.memory.key_Dhw, r.memory.cover_4hw) for r in memories if r.map]
        useful = [
            (r.log_weight, key.flatten(1), cover.flatten(1)) for r, key, cover in seen if key is not None and cover is not None
        ]
        if not useful:
            return key_Dhw.new_zeros(SUBPIXELS, height // 2, width // 2)
        query_Dn = key_Dhw.flatten(1)
        keys_MDn = torch.stack([key for _, key, _ in useful])
        cover_M4n = torch.stack([cover for _, _, cover in useful])
        weight_M = torch.tensor([weight for weight, _, _ in useful], device=query_Dn.device)
        slope, middle = self.alike
        gate_M = torch.sigmoid(slope * ((query_Dn * keys_MDn).sum(1).mean(-1) - middle))
        with torch.autocast(query_Dn.device.type, enabled=False):  # squares of places need all digits
            pull_M = gate_M.float() * self.nearness.exp()
            place_3n = _places(height, width, query_Dn.device)
            query_nE = torch.cat([query_Dn.float() * self.sharpness.exp(), place_3n, torch.ones_like(place_3n[:1])]).T
            key_MEn = torch.cat([keys_MDn.float(), _pulled(place_3n, pull_M, weight_M)], 1)
            inside_n4 = _read(query_nE, key_MEn.transpose(0, 1).flatten(1), cover_M4n.transpose(0, 1).flatten(1).float())
        fine = F.pixel_shuffle(inside_n4.T.reshape(1, 4, height, width), 2)
        return F.pixel_unshuffle(fine.clamp(SURE, 1 - SURE).logit(), 4)[0]


def _places(height: int, width: int, device: torch.device) -> Tensor:
    """Row and column of each pixel in sides of the frame, from its middle, and the sum of their squares: (3, n)."""
    rows = (torch.arange(height, device=device) / height - 0.5).repeat_interleave(width)
    columns = (torch.arange(width, device=device) / width - 0.5).repeat(height)
    return torch.stack([rows, columns, rows**2 + columns**2])


def _pulled(place_3n: Tensor, pull_M: Tensor, weight_M: Tensor) -> Tensor:
    """What turns −pull·d² + w into a product with (row, column, square, 1): (M, 4, n)."""
    pull_M1, weight_M1 = pull_M[:, None], weight_M[:, None]
    rows, columns, squares = place_3n
    parts = (2 * pull_M1 * rows, 2 * pull_M1 * columns, -pull_M1.expand(-1, len(rows)), weight_M1 - pull_M1 * squares)
    return torch.stack(parts, 1)


def _read(query_nE: Tensor, key_EK: Tensor, value_4K: Tensor) -> Tensor:
    """Attention; in pieces, in the same place, unless gradients are needed, which keep all scores anyway."""
    if torch.is_grad_enabled():
        return F.linear((query_nE @ key_EK).softmax(-1), value_4K)
    scores, read = query_nE.new_empty(min(CHUNK, len(query_nE)), key_EK.shape[1]), list[Tensor]()
    for part in query_nE.split(CHUNK):
        own = torch.mm(part, key_EK, out=scores[: len(part)])
        read.append(F.linear(torch.softmax(own, -1, out=own), value_4K))
    return torch.cat(read)

"""Fewer tokens for memory attention: away from the border of an object, four neighbouring ones become their mean.

A memory says nearly the same in four neighbouring tokens that all lie inside of its object, or all outside. Their mean counts
four times (log 4 is added to its score), so that most of the keys go: of the large maps of SAM 2 at 512 and 1024 pixels that
is most of the work. Answers differ a little; it is off unless asked for, and then nothing here is called.

Shapes: B objects, M memories of an object, h w memory map, K = M·h·w tokens of maps, P further tokens of pointers, C channels.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from medical_sam2.model.backbone import Recalled

INSIDE = "inside"
"""What a memory keeps of its mask for this, by this name (1, h, w): the share of each token that is inside the object."""
BORDER = 0.1  # difference of these shares within reach, from which a token lies at the border


def share_inside(mask_B1SS: Tensor, height: int, width: int) -> Tensor:
    """The share of each token (B, 1, h, w) that is inside the mask, which is in [0, 1]."""
    return F.adaptive_avg_pool2d((mask_B1SS > 0.5).float(), (height, width))


class PooledTokens:
    """Which tokens of the maps are attended to one by one, and which four as their mean.

    Args:
        recall: for each object the memories whose maps are attended to, at least one memory in all.
        size: h and w of a map, even.
        margin: tokens from the border up to which they are attended to one by one, from 0.
    """

    def __init__(self, recall: Sequence[Sequence[Recalled]], size: tuple[int, int], margin: int) -> None:
        self._size, self._most = size, max(len(memories) for memories in recall)
        self._single: list[Tensor] = []
        self._blocks: list[Tensor] = []
        for memories in recall:
            near = [_near_border(r.memory.own[INSIDE], margin) for r in memories]
            blocks_MHW = torch.stack([F.max_pool2d(each, 2)[0] for each in near]) if near else torch.zeros(0, 1, 1)
            single_Mhw = blocks_MHW.repeat_interleave(2, 1).repeat_interleave(2, 2)
            self._single.append(single_Mhw.flatten().nonzero()[:, 0])
            self._blocks.append((blocks_MHW.flatten() == 0).nonzero()[:, 0])
        self.count = max(len(a) + len(b) for a, b in zip(self._single, self._blocks, strict=True))

    def means(self, tokens_BKC: Tensor) -> Tensor:
        """Tokens, or means of four (B, `count` + P, C), zeros where an object has fewer; what follows the maps stays."""
        height, width = self._size
        maps = self._most * height * width
        found = tokens_BKC.new_zeros(len(tokens_BKC), self.count + tokens_BKC.shape[1] - maps, tokens_BKC.shape[2])
        found[:, self.count :] = tokens_BKC[:, maps:]
        for row_KC, own_KC, single, blocks in zip(found, tokens_BKC, self._single, self._blocks, strict=True):
            pairs = own_KC[:maps].view(self._most, height // 2, 2, width // 2, 2, -1)
            row_KC[: len(single)] = own_KC[single]
            row_KC[len(single) : len(single) + len(blocks)] = pairs.mean((2, 4)).flatten(0, 2)[blocks]
        return found

    def rotations(self, rotation_LD: Tensor) -> Tensor:
        """What turns the keys of these (B, `count`, D / 2), by the rotation of each token of a map.

        Where four keys are alike, the mean of the turned ones is their mean, turned by the mean of the rotations.
        """
        maps = rotation_LD.repeat(self._most, 1).expand(len(self._single), -1, -1)
        return torch.complex(self.means(maps.real), self.means(maps.imag))

    def log_weights(self, bias_BK: Tensor) -> Tensor:
        """Log-weights (B, `count` + P) of these, by those of the tokens, which are the same within a memory."""
        found = self.means(bias_BK[..., None].clamp(min=torch.finfo(bias_BK.dtype).min / 8))[..., 0]
        for row_K, single, blocks in zip(found, self._single, self._blocks, strict=True):
            row_K[len(single) : len(single) + len(blocks)] += math.log(4)
            row_K[len(single) + len(blocks) : self.count] = -torch.inf
        found[:, self.count :] = bias_BK[:, bias_BK.shape[1] - (found.shape[1] - self.count) :]
        return found


def _near_border(inside_1hw: Tensor, margin: int) -> Tensor:
    """1 where the share of tokens inside changes within so many tokens and one, else 0 (1, h, w)."""
    reach = 2 * (margin + 1) + 1
    most, least = (sign * F.max_pool2d(sign * inside_1hw.float(), reach, 1, reach // 2) for sign in (1, -1))
    return (most - least > BORDER).float()

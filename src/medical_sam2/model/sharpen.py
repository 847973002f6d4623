"""Borders at stride 2: what `nano` adds after SAM 2's mask logits of stride 4, for thin and small structures.

A few convolutions see the mended mask, what mended it, the encoder's finest map, and the score of the solved classifier, and
add to the logits, enlarged. It begins as a network that changes nothing.

Shapes: B objects, K proposed masks, h w map of stride 4, H W map of stride 2.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from medical_sam2.model.mend import nothing
from medical_sam2.model.tracker import upsampled

WIDTH = 16
SURE = 10.0  # logits are shown in tens


class Sharpen(nn.Module):
    """Enlarges mask logits.

    Args:
        finest: channels of the encoder's map of stride 2.
        hidden: channels of what mended the mask.
    """

    def __init__(self, finest: int, hidden: int) -> None:
        super().__init__()
        self.shrink = nn.Conv2d(hidden, WIDTH, 1)
        self.first = nn.Conv2d(finest + WIDTH + 2, WIDTH, 3, padding=1)
        self.second = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.last = nn.Conv2d(WIDTH, 1, 1)

    @torch.no_grad()
    def reset(self) -> None:
        """Change nothing at first."""
        nothing(self.last)

    def forward(
        self, masks_BKhw: Tensor, hidden_Xchw: Tensor, finest_BCHW: Tensor, score_BHW: Tensor, best_B: Tensor | None = None
    ) -> Tensor:
        """Logits (B, K, H, W) of the same masks.

        Args:
            masks_BKhw: mended.
            hidden_Xchw: what mended them, X = B·K.
            finest_BCHW: of the encoder; B may be 1.
            score_BHW: of the solved classifier.
            best_B: which of the masks is wanted: the others are only enlarged; all are wanted unless given.
        """
        large = upsampled(masks_BKhw.flatten(0, 1), (finest_BCHW.shape[-2], finest_BCHW.shape[-1]))
        large_BKHW = large.unflatten(0, masks_BKhw.shape[:2])
        if best_B is None:
            return self._sharp(large_BKHW, hidden_Xchw, finest_BCHW, score_BHW)
        rows, hidden_BKchw = torch.arange(len(best_B), device=best_B.device), hidden_Xchw.unflatten(0, masks_BKhw.shape[:2])
        sharp = self._sharp(large_BKHW[rows, best_B][:, None], hidden_BKchw[rows, best_B], finest_BCHW, score_BHW)
        return large_BKHW.index_put((rows, best_B), sharp[:, 0])

    def _sharp(self, large_BKHW: Tensor, hidden_Xchw: Tensor, finest_BCHW: Tensor, score_BHW: Tensor) -> Tensor:
        (count, several), side = large_BKHW.shape[:2], large_BKHW.shape[-2:]
        large = large_BKHW.flatten(0, 1)[:, None]
        above = F.interpolate(self.shrink(hidden_Xchw), size=side, mode="nearest")
        seen = finest_BCHW.expand(count, -1, -1, -1).repeat_interleave(several, 0)
        score = score_BHW[:, None].repeat_interleave(several, 0)
        shown = large.detach().clamp(-SURE, SURE) / SURE
        x = F.relu(self.first(torch.cat([above, seen, shown.to(above.dtype), score.to(above.dtype)], 1)), inplace=True)
        x = F.relu(x + self.second(x), inplace=True)
        return (large + self.last(x))[:, 0].unflatten(0, (count, several))

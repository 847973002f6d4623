"""Masks mended pixel by pixel: what `nano` adds to SAM 2's mask decoder.

SAM 2's decoder hears clicks and boxes as a few tokens and thinks at stride 16. Here the prompts are drawn as pictures, as
interactive networks of this field take them (RITM, Sofiiuk et al., 2022; nnInteractive, Isensee et al., 2025), and a small
U-shaped network sees them beside the proposed mask, the carried mask and the fine features, and adds to the mask's logits. It
begins as a network that changes nothing.

Shapes: B objects, K proposed masks, D channels of a key, h w mask logits at stride 4.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from medical_sam2.model.backbone import Instruction
from medical_sam2.model.pyramid import Residual
from medical_sam2.prompts import FramePrompt

WIDTHS = (24, 32, 48, 64)  # channels at stride 4, 8, 16, 32
HINTS = 11
"""Pictures: clicks inside, outside, box, likeness to the clicks, earlier answer, carried mask; those of `Neighbour`; the scores
of `Regression` at stride 2 and 4."""
CLICK = 1.5  # standard deviation of a click in pixels of the logits
STRIDE = 4
SURE = 10.0  # logits are shown in tens


class Mend(nn.Module):
    """Adds to mask logits what the fine features and the pictures of the prompts tell.

    Args:
        fine: channels of the decoder's maps of stride 4 and 8.
        width: channels of the deepest map.
    """

    def __init__(self, fine: tuple[int, int], width: int) -> None:
        super().__init__()
        inputs = (fine[0] + 2 + HINTS, fine[1], width, 0)
        self.enter = nn.ModuleList(nn.Conv2d(wide, own, 1) for wide, own in zip(inputs[1:3], WIDTHS[1:3], strict=True))
        self.first = nn.Conv2d(inputs[0], WIDTHS[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(above, own, 3, stride=2, padding=1) for above, own in pairwise(WIDTHS))
        self.blocks = nn.ModuleList(Residual(own) for own in WIDTHS)
        self.up = nn.ModuleList(nn.Conv2d(own, above, 1) for above, own in pairwise(WIDTHS))
        self.ascend = nn.ModuleList(Residual(own) for own in WIDTHS[:-1])
        self.last = nn.Conv2d(WIDTHS[0], 1, 3, padding=1)
        self.judge = nn.Linear(2 * WIDTHS[-1], 2)

    @torch.no_grad()
    def reset(self) -> None:
        """Change nothing at first."""
        for part in (self.last, self.judge):
            nothing(part)

    def forward(
        self, fine: tuple[Tensor, Tensor], top_BChw: Tensor, masks_BKhw: Tensor, hints_BHhw: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, K, h, w) of the same masks; the finest map that made them (B·K, c, h, w); (B, K, 2) what it adds to the
        predicted IoU and to the logit of presence."""
        count, several = masks_BKhw.shape[:2]
        flat = masks_BKhw.flatten(0, 1)[:, None].detach()
        entries = [_each(part, count, several) for part in (fine[0], hints_BHhw, fine[1], top_BChw)]
        x = self.first(torch.cat([entries[0], flat.clamp(-SURE, SURE) / SURE, flat.sigmoid(), entries[1]], 1))
        x = self.blocks[0](F.relu(x, inplace=True))
        levels = [x]
        for depth, down in enumerate(self.down, 1):
            x = down(x)
            if depth < len(self.down):
                x = x + self.enter[depth - 1](entries[depth + 1])
            x = self.blocks[depth](F.relu(x, inplace=True))
            levels.append(x)
        judged = self.judge(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)).unflatten(0, (count, several))
        for depth in reversed(range(len(self.up))):
            above = F.interpolate(self.up[depth](x), size=levels[depth].shape[-2:], mode="nearest")
            x = self.ascend[depth](levels[depth] + above)
        return masks_BKhw + self.last(x)[:, 0].unflatten(0, (count, several)), x, judged


def nothing(part: nn.Conv2d | nn.Linear) -> None:
    """Let a layer answer 0 until it learns."""
    part.weight.zero_()
    if part.bias is not None:
        part.bias.zero_()


def draw(told: Sequence[Instruction | None], side: int, keys_BDhw: Tensor, carried_B1hw: Tensor | None) -> Tensor:
    """The pictures (B, 6, h, w) of what was said of each object on a frame, and of the carried mask.

    Args:
        told: for each object.
        side: h and w, of the mask logits.
        keys_BDhw: unit keys of stride 8, one for all objects or one each.
        carried_B1hw: carried mask logits at stride 4, 0 for what has no past.
    """
    device = keys_BDhw.device
    keys = keys_BDhw.expand(len(told), -1, -1, -1)
    rows = torch.arange(side, device=device, dtype=torch.float32)
    pictures = torch.stack([_said(None if one is None else one.prompt, rows) for one in told])
    alike = torch.stack([_alike(None if one is None else one.prompt, key) for one, key in zip(told, keys, strict=True)])
    alike = F.interpolate(alike[:, None], size=(side, side), mode="bilinear", align_corners=False)
    earlier = torch.stack([_earlier(one, rows) for one in told])[:, None]
    carried = torch.zeros_like(earlier) if carried_B1hw is None else carried_B1hw / SURE
    return torch.cat([pictures, alike, earlier, carried], 1)


def _said(prompt: FramePrompt | None, rows: Tensor) -> Tensor:
    """Clicks inside and outside, and the box: (3, h, w); +1 in a box and −1 around it, 0 where there is none."""
    picture = rows.new_zeros(3, len(rows), len(rows))
    if prompt is None:
        return picture
    places = (torch.from_numpy(prompt.points_xy).to(rows) + 0.5) / STRIDE - 0.5
    for (x, y), inside in zip(places, prompt.labels, strict=True):
        spot = torch.exp(-((rows[:, None] - y) ** 2 + (rows - x) ** 2) / (2 * CLICK**2))
        picture[0 if inside else 1] = torch.maximum(picture[0 if inside else 1], spot)
    if prompt.box_xyxy is not None:
        edges = torch.from_numpy(prompt.box_xyxy).to(rows) + torch.tensor([-0.5, -0.5, 0.5, 0.5], device=rows.device)
        x_low, y_low, x_high, y_high = ((edges + 0.5) / STRIDE - 0.5).tolist()
        across = (rows - x_low + 0.5).clamp(0, 1) * (x_high - rows + 0.5).clamp(0, 1)
        along = (rows - y_low + 0.5).clamp(0, 1) * (y_high - rows + 0.5).clamp(0, 1)
        picture[2] = 2 * along[:, None] * across - 1
    return picture


def _alike(prompt: FramePrompt | None, key_Dhw: Tensor) -> Tensor:
    """Cosine (h/2, w/2) with the keys under the clicks inside, the largest; 0 without such clicks."""
    inside = None if prompt is None else prompt.points_xy[prompt.labels == 1]
    if inside is None or not len(inside):
        return key_Dhw.new_zeros(key_Dhw.shape[1:]).float()
    side = key_Dhw.shape[-1]
    columns, rows = ((torch.from_numpy(inside) + 0.5) / (2 * STRIDE)).long().clamp(0, side - 1).unbind(1)
    return torch.einsum("dhw,dn->nhw", key_Dhw.float(), key_Dhw[:, rows, columns].float()).amax(0)


def _earlier(one: Instruction | None, rows: Tensor) -> Tensor:
    """The earlier answer on the same frame, in tens."""
    if one is None or one.earlier_hw is None:
        return rows.new_zeros(len(rows), len(rows))
    logits = one.earlier_hw.detach().float()[None, None]
    return (
        F.interpolate(logits, size=(len(rows), len(rows)), mode="bilinear", align_corners=False)[0, 0].clamp(-SURE, SURE) / SURE
    )


def _each(part: Tensor, count: int, several: int) -> Tensor:
    """One for each proposed mask of each object."""
    return part.expand(count, -1, -1, -1).repeat_interleave(several, 0)

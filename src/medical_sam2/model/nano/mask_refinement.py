"""What `nano` adds behind SAM 2's mask decoder: masks mended at stride 4 (`MaskRefiner`) and enlarged to stride 2
(`MaskUpsampler`); and how well a mask fills the box that was drawn around its object (`box_filling`), which a tight box is
touched by on all four sides. Both networks begin as ones that change nothing.

Shapes: B objects, K proposed masks, D channels of a key, h w map or mask logits at stride 4, H W map of stride 2.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from medical_sam2.model.backbone import Instruction
from medical_sam2.model.device import map_on_cores
from medical_sam2.model.image_encoders import Residual
from medical_sam2.model.tracker import upsample
from medical_sam2.prompts import FramePrompt

WIDTHS = (24, 32, 48, 64)  # channels at stride 4, 8, 16, 32
HINTS = 10
"""Pictures: clicks inside, outside, box, likeness to the clicks, earlier answer, propagated mask; those of `LocalMatching`; the
score of `PixelClassifier`. One of stride 4 adds its score."""
OF_A_MASK = 2  # pictures of each mask: its logits and what counts as inside
CLICK = 1.5  # standard deviation of a click in pixels of the logits
STRIDE = 4
LOGIT_SCALE = 10.0  # logits are shown in tens
UPSAMPLER_WIDTH = 16
FILLED = 0.75  # share of a box from which on a mask is taken to be what it was drawn around
AS_GOOD = 0.9  # share of the best filling from which on the predicted IoU decides


class MaskRefiner(nn.Module):
    """Adds to mask logits what the fine features and the pictures of the prompts tell.

    SAM 2's decoder hears clicks and boxes as a few tokens and thinks at stride 16. Here the prompts are drawn as pictures, as
    interactive networks of this field take them (RITM, Sofiiuk et al., 2022; nnInteractive, Isensee et al., 2025), and a small
    U-shaped network sees them beside the proposed mask, the propagated mask and the fine features.

    Args:
        fine: channels of the decoder's maps of stride 4 and 8.
        width: channels of the deepest map.
    """

    def __init__(self, fine: tuple[int, int], width: int) -> None:
        super().__init__()
        inputs = fine[0] + OF_A_MASK + HINTS, fine[1], width, 0
        self.enter = nn.ModuleList(nn.Conv2d(wide, own, 1) for wide, own in zip(inputs[1:3], WIDTHS[1:3], strict=True))
        self.first = nn.Conv2d(inputs[0], WIDTHS[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(above, own, 3, stride=2, padding=1) for above, own in pairwise(WIDTHS))
        self.blocks = nn.ModuleList(Residual(own) for own in WIDTHS)
        self.up = nn.ModuleList(nn.Conv2d(own, above, 1) for above, own in pairwise(WIDTHS))
        self.ascend = nn.ModuleList(Residual(own) for own in WIDTHS[:-1])
        self.last = nn.Conv2d(WIDTHS[0], 1, 3, padding=1)
        self.judge = nn.Linear(2 * WIDTHS[-1], 2)

    def initialise(self) -> None:
        """Change nothing at first."""
        for part in (self.last, self.judge):
            zero_initialise(part)

    def forward(
        self,
        fine: tuple[Tensor, Tensor],
        top_BChw: Tensor,
        masks_BKhw: Tensor,
        hints_BHhw: Tensor,
        choose: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, K, h, w) of the same masks; the finest map that made them (B·K, c, h, w); (B, K, 2) what it adds to the
        predicted IoU and to the logit of presence.

        Args:
            choose: the last of these → which mask of each object is wanted (B,): the others stay as they were proposed, and
                the finest map is that of the wanted ones (B, c, h, w). All are wanted unless given.
        """
        count = len(masks_BKhw)
        finest, entries = fine[0].expand(count, -1, -1, -1), (fine[1], top_BChw)
        shared = [self._see_shared(torch.cat([finest, hints_BHhw], 1), finest.shape[1])]
        shared += [enter(entry.expand(count, -1, -1, -1)) for enter, entry in zip(self.enter, entries, strict=True)]
        several = masks_BKhw.shape[1] > 1 and (choose is not None or not torch.is_grad_enabled())
        # always in two parts, on however many cores: how sums are rounded depends on how many masks are mended at once
        parts = [masks_BKhw[:, :1], masks_BKhw[:, 1:]] if several else [masks_BKhw]
        seen = map_on_cores(partial(self._descend, shared=shared), parts)
        judged = torch.cat([own for _, own in seen], 1)
        if choose is None:
            mended = map_on_cores(lambda n: self._ascend(parts[n], seen[n][0]), range(len(parts)))
            hidden = torch.cat([x.unflatten(0, (count, -1)) for _, x in mended], 1).flatten(0, 1)
            return torch.cat([logits for logits, _ in mended], 1), hidden, judged
        rows, best = torch.arange(count, device=judged.device), choose(judged)
        places = torch.where(best > 0, count + rows * (masks_BKhw.shape[1] - 1) + best - 1, rows)  # the first mask of all first
        levels = [_select_rows(torch.cat(maps), places) for maps in zip(*(levels for levels, _ in seen), strict=True)]
        logits, hidden = self._ascend(masks_BKhw[rows, best][:, None], levels)
        return masks_BKhw.index_put((rows, best), logits[:, 0]), hidden, judged

    def _descend(self, masks_BKhw: Tensor, shared: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """The maps (B·K, c, h, w) of each level, from what all masks of an object share there; and what they are judged."""
        x = _add_to_masks(self._see_masks(masks_BKhw), shared[0])
        x = self.blocks[0](F.relu(x, inplace=True))
        levels = [x]
        for depth, down in enumerate(self.down, 1):
            x = down(x)
            if depth < len(self.down):
                x = _add_to_masks(x, shared[depth])
            x = self.blocks[depth](F.relu(x, inplace=True))
            levels.append(x)
        judged = self.judge(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))
        return levels, judged.unflatten(0, masks_BKhw.shape[:2])

    def _ascend(self, masks_BKhw: Tensor, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The mended logits, and the finest map, from the maps of each level."""
        x = levels[-1]
        for depth in reversed(range(len(self.up))):
            above = F.interpolate(self.up[depth](x), size=levels[depth].shape[-2:], mode="nearest")
            x = self.ascend[depth](levels[depth] + above)
        return masks_BKhw + self.last(x)[:, 0].unflatten(0, masks_BKhw.shape[:2]), x

    def _see_shared(self, pictures_BChw: Tensor, fine: int) -> Tensor:
        """The first layer's part of what all masks of an object see: fine features, of so many channels, and hints."""
        weight = torch.cat([self.first.weight[:, :fine], self.first.weight[:, fine + OF_A_MASK :]], 1)
        pictures, weight = (part.contiguous(memory_format=torch.channels_last) for part in (pictures_BChw, weight))
        return F.conv2d(pictures, weight, self.first.bias, padding=1)

    def _see_masks(self, masks_BKhw: Tensor) -> Tensor:
        """The first layer's part of each mask itself."""
        flat = masks_BKhw.flatten(0, 1)[:, None].detach()
        weight = self.first.weight[:, -HINTS - OF_A_MASK : -HINTS]
        pictures = torch.cat([_scaled(flat), flat.sigmoid()], 1)
        pictures, weight = (part.contiguous(memory_format=torch.channels_last) for part in (pictures, weight))
        return F.conv2d(pictures, weight, padding=1)


class MaskUpsampler(nn.Module):
    """Enlarges mask logits to stride 2, for thin and small structures.

    A few convolutions see the mended mask, what mended it, the encoder's finest map, and the score of the solved classifier,
    and add to the logits, enlarged.

    Args:
        finest: channels of the encoder's map of stride 2.
        hidden: channels of what mended the mask.
    """

    def __init__(self, finest: int, hidden: int) -> None:
        super().__init__()
        self.shrink = nn.Conv2d(hidden, UPSAMPLER_WIDTH, 1)
        self.first = nn.Conv2d(finest + UPSAMPLER_WIDTH + 2, UPSAMPLER_WIDTH, 3, padding=1)
        self.second = nn.Conv2d(UPSAMPLER_WIDTH, UPSAMPLER_WIDTH, 3, padding=1)
        self.last = nn.Conv2d(UPSAMPLER_WIDTH, 1, 1)

    def initialise(self) -> None:
        """Change nothing at first."""
        zero_initialise(self.last)

    def forward(
        self, masks_BKhw: Tensor, hidden_Xchw: Tensor, finest_BCHW: Tensor, score_BHW: Tensor, best_B: Tensor | None = None
    ) -> Tensor:
        """Logits (B, K, H, W) of the same masks.

        Args:
            hidden_Xchw: what mended them, X = B·K; of the wanted ones, X = B, where not all are.
            finest_BCHW: of the encoder; B may be 1.
            best_B: which of the masks is wanted: the others are only enlarged; all are wanted unless given.
        """
        large = upsample(masks_BKhw.flatten(0, 1), (finest_BCHW.shape[-2], finest_BCHW.shape[-1]))
        large_BKHW = large.unflatten(0, masks_BKhw.shape[:2])
        if best_B is None:
            return self._sharpen(large_BKHW, hidden_Xchw, finest_BCHW, score_BHW)
        rows = torch.arange(len(best_B), device=best_B.device)
        sharp = self._sharpen(large_BKHW[rows, best_B][:, None], hidden_Xchw, finest_BCHW, score_BHW)
        return large_BKHW.index_put((rows, best_B), sharp[:, 0])

    def _sharpen(self, large_BKHW: Tensor, hidden_Xchw: Tensor, finest_BCHW: Tensor, score_BHW: Tensor) -> Tensor:
        (count, several), side = large_BKHW.shape[:2], large_BKHW.shape[-2:]
        large = large_BKHW.flatten(0, 1)[:, None]
        above = F.interpolate(self.shrink(hidden_Xchw), size=side, mode="nearest")
        seen = _repeat_for_masks(finest_BCHW, count, several)
        score = _repeat_for_masks(score_BHW[:, None], count, several)
        pictures = torch.cat([_scaled(large.detach()).to(above.dtype), score.to(above.dtype)], 1)
        pictures = pictures.contiguous(memory_format=torch.channels_last)  # else all is copied once more, channels first
        x = F.relu(self.first(torch.cat([above, seen, pictures], 1)), inplace=True)
        x = F.relu(x + self.second(x), inplace=True)
        return (large + self.last(x))[:, 0].unflatten(0, (count, several))


@torch.no_grad()
def zero_initialise(part: nn.Conv2d | nn.Linear) -> None:
    """Let a layer answer 0 until it learns."""
    part.weight.zero_()
    if part.bias is not None:
        part.bias.zero_()


def draw_hints(
    instructions: Sequence[Instruction | None], side: int, keys_BDhw: Tensor, propagated_B1hw: Tensor | None
) -> Tensor:
    """The pictures (B, 6, h, w) of what each object was prompted with on a frame, and of the propagated mask.

    Args:
        side: h and w, of the mask logits.
        keys_BDhw: unit keys of stride 8, one for all objects or one each.
        propagated_B1hw: mask logits at stride 4, 0 for what has no past.
    """
    device = keys_BDhw.device
    prompts = [None if one is None else one.prompt for one in instructions]
    keys = keys_BDhw.expand(len(instructions), -1, -1, -1)
    rows = torch.arange(side, device=device, dtype=torch.float32)
    pictures = torch.stack([_draw_prompt(prompt, rows) for prompt in prompts])
    alike = torch.stack([_likeness_to_clicks(prompt, key) for prompt, key in zip(prompts, keys, strict=True)])
    alike = F.interpolate(alike[:, None], size=(side, side), mode="bilinear", align_corners=False)
    earlier = torch.stack([_draw_earlier(one, rows) for one in instructions])[:, None]
    propagated = torch.zeros_like(earlier) if propagated_B1hw is None else propagated_B1hw / LOGIT_SCALE
    return torch.cat([pictures, alike, earlier, propagated], 1)


def _draw_prompt(prompt: FramePrompt | None, rows: Tensor) -> Tensor:
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


def _likeness_to_clicks(prompt: FramePrompt | None, key_Dhw: Tensor) -> Tensor:
    """Cosine (h/2, w/2) with the keys under the clicks inside, the largest; 0 without such clicks."""
    inside = None if prompt is None else prompt.points_xy[prompt.labels == 1]
    if inside is None or not len(inside):
        return key_Dhw.new_zeros(key_Dhw.shape[1:]).float()
    side = key_Dhw.shape[-1]
    columns, rows = ((torch.from_numpy(inside) + 0.5) / (2 * STRIDE)).long().clamp(0, side - 1).unbind(1)
    return torch.einsum("dhw,dn->nhw", key_Dhw.float(), key_Dhw[:, rows, columns].float()).amax(0)


def _draw_earlier(one: Instruction | None, rows: Tensor) -> Tensor:
    """The earlier answer on the same frame, in tens."""
    if one is None or one.earlier_hw is None:
        return rows.new_zeros(len(rows), len(rows))
    logits = one.earlier_hw.detach().float()[None, None]
    return _scaled(F.interpolate(logits, size=(len(rows), len(rows)), mode="bilinear", align_corners=False)[0, 0])


def _scaled(logits: Tensor) -> Tensor:
    return logits.clamp(-LOGIT_SCALE, LOGIT_SCALE) / LOGIT_SCALE


def _add_to_masks(map_Xchw: Tensor, shared_Bchw: Tensor) -> Tensor:
    """A map for each mask of each object, and one for each object on top of it."""
    count = len(shared_Bchw)
    return (map_Xchw.unflatten(0, (count, -1)) + shared_Bchw[:, None]).flatten(0, 1)


def _select_rows(maps_Xchw: Tensor, places_B: Tensor) -> Tensor:
    """Some of the maps, with channels last as they were."""
    return maps_Xchw.permute(0, 2, 3, 1).index_select(0, places_B).permute(0, 3, 1, 2)


def _repeat_for_masks(part: Tensor, count: int, several: int) -> Tensor:
    each = part.expand(count, -1, -1, -1)
    return each if several == 1 else each.repeat_interleave(several, 0)


def box_filling(logits_BKhw: Tensor, boxes_xyxy: Sequence[NDArray[np.float32]], stride: int) -> Tensor:
    """Share of the box's rows, times that of its columns, that a mask reaches, times its share inside of the box: (B, K).

    Args:
        logits_BKhw: inside where above 0.
        boxes_xyxy: corners in pixels of the network's input, inclusive.
        stride: of the logits in such pixels.
    """
    return torch.stack([_filling_of_one(own > 0, box, stride) for own, box in zip(logits_BKhw, boxes_xyxy, strict=True)])


def best_filling(filling_BK: Tensor, iou_BK: Tensor) -> Tensor:
    """The surest of the masks that fill the box about as well as the best does: (B,)."""
    as_good = filling_BK >= AS_GOOD * filling_BK.amax(1, keepdim=True)
    return iou_BK.masked_fill(~as_good, -1.0).argmax(1)


def _filling_of_one(mask_Khw: Tensor, box_xyxy: NDArray[np.float32], stride: int) -> Tensor:
    side = mask_Khw.shape[-1]
    left, top, right, bottom = (min(max(int(along // stride), 0), side - 1) for along in box_xyxy.tolist())
    inside = mask_Khw[:, top : bottom + 1, left : right + 1]
    rows, columns = (inside.any(axis).float().mean(-1) for axis in (2, 1))
    return rows * columns * inside.sum((1, 2)) / mask_Khw.sum((1, 2)).clamp(min=1)

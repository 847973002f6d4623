"""`nano`, the small network that ships: SAM 2's parts with an encoder, ways into memory and a way to a finer mask of its own.

Its own parts are in `nano_modules`. Here is how they work together, what of the prompts they are shown, and how well a mask
fills the box that was drawn around its object, which a tight box is touched by on all four sides.

Shapes: B objects, K proposed masks, D channels of a key, h w map or mask logits at stride 4, H W map of stride 2.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from medical_sam2.model.backbone import Features, FramePrediction, Fused, Instruction, Memory, Recall, clone_rows, gather
from medical_sam2.model.device import later
from medical_sam2.model.image_encoders import ConvPyramid, initialise_weights
from medical_sam2.model.modules import Sam2Config
from medical_sam2.model.nano_modules import (
    LOGIT_SCALE,
    WIDTHS,
    LocalMatching,
    MaskPropagation,
    MaskRefiner,
    MaskUpsampler,
    PixelClassifier,
    fold_mask,
    in_tens,
    inside_probability,
)
from medical_sam2.model.sam2 import Pixels, Sam2
from medical_sam2.model.tracker import upsample
from medical_sam2.prompts import FramePrompt

WIDTH = 128
FINEST = 16  # channels at stride 2, and of each half of the keys of stride 4
CLICK = 1.5  # standard deviation of a click in pixels of the logits
STRIDE = 4
FILLED = 0.75  # share of a box from which on a mask is taken to be what it was drawn around
AS_GOOD = 0.9  # share of the best filling from which on the predicted IoU decides
PIXELS = Pixels(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


class Nano(Sam2):
    """SAM 2 with a convolutional encoder, with masks propagated from memory by likeness, moved from the slice before, told by a
    classifier of pixels, mended pixel by pixel, and enlarged to stride 2.

    What it keeps of its own, by name. In features: "key" and "look" (unit keys of stride 8 and 4), "finest" (the map of
    stride 2). In memories: the same "key" and "look", "mask" (folded under the key) and "sums" (of the classifier). In a fused
    frame: "propagated" mask logits, folded at stride 16; "neighbour", the pictures of `LocalMatching` at stride 4; "score" of
    the classifier at stride 2.
    """

    logit_stride = 2
    vision_encoder: ConvPyramid

    def __init__(
        self,
        config: Sam2Config,
        vision_encoder: nn.Module,
        *,
        pixels: Pixels | None = None,
        memory_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(config, vision_encoder, pixels=pixels, memory_dtype=memory_dtype)
        # the names of the parts are those of the weights in every file that there is
        self.carry = MaskPropagation(self.width)
        self.mend = MaskRefiner((self.width // 8, self.width // 4), self.width)
        stem: Any = self.vision_encoder.stem[0]
        self.finest = nn.Conv2d(stem.out_channels, FINEST, 1)
        self.look = nn.Conv2d(self.width, FINEST, 1, bias=False)
        self.neighbour, self.regression, self.sharpen = LocalMatching(), PixelClassifier(), MaskUpsampler(FINEST, WIDTHS[0])

    @property
    def width(self) -> int:
        """Channels of the feature maps."""
        return int(self.no_memory_embedding.shape[-1])

    def encode(self, frames_N3SS: Tensor) -> Features:
        """See N frames: features with B = N, keys among them."""
        stem, first, second, top = self.vision_encoder.all_maps(frames_N3SS)
        fine = (self.mask_decoder.conv_s0(first), self.mask_decoder.conv_s1(second))
        finest = self.finest(stem)
        halves = (F.normalize(part.float(), dim=1) for part in (self.look(first), F.avg_pool2d(finest, 2)))
        look = (torch.cat([*halves], 1) / math.sqrt(2)).to(finest.dtype)
        key, look = (part.contiguous() for part in (self.carry.keys(first, second), look))  # which no convolution sees
        return Features(top, fine, top.mean((2, 3)), {"key": key, "look": look, "finest": finest})

    def fuse(self, frame: Features, recall: Recall) -> Fused:
        """The deepest map in the light of memory, and what else memory tells."""
        attended = later(partial(super().fuse, frame, recall))
        pixels = _pixel_features(frame) if any(recall) else frame.own["finest"]  # without a past nothing is scored
        own = {
            "propagated": self.carry(frame.own["key"], recall),
            "neighbour": self.neighbour(frame.own["look"], recall),
            "score": self.regression(pixels, recall)[:, None],
        }
        fused = attended.result()
        return replace(fused, own={name: part.to(fused.map_BChw.dtype) for name, part in own.items()})

    def memorise(self, frame: Features, prediction: FramePrediction, t: int, prompted: Sequence[bool]) -> list[Memory]:
        """What to remember of the frame, with its keys and masks."""
        remembered = later(partial(super().memorise, frame, prediction, t, prompted))
        inside = inside_probability(prediction, torch.tensor(prompted, device=self.device))
        shared = {name: frame.own[name].expand(len(prompted), -1, -1, -1) for name in ("key", "look")}
        each = {"mask": fold_mask(inside), "sums": self.regression.sums(_pixel_features(frame), inside)}
        parts = {**shared, **{name: clone_rows(part) for name, part in each.items()}}
        rows = [{name: part[b] for name, part in parts.items()} for b in range(len(prompted))]
        return [replace(memory, own={**memory.own, **row}) for memory, row in zip(remembered.result(), rows, strict=True)]

    def _answer(
        self, frame: Features, fused: Fused, instructions: Sequence[Instruction | None], *, several: bool = False
    ) -> FramePrediction:
        """As SAM 2; where the answer does not fill the box that was drawn, that one of several proposals that fills it best."""
        answer = super()._answer(frame, fused, instructions, several=several)
        boxes = bare_boxes(instructions)
        if boxes is None or several or self.training:
            return answer
        # the single mask is the better one where it fills the box, so that several are asked for only where it does not
        fill_B = box_filling(answer.logits_Bhw[:, None], boxes, self.logit_stride)[:, 0]
        lacking = [b for b, fill in enumerate(fill_B.tolist()) if fill < FILLED]
        if not lacking:
            return answer
        other = self._answer(frame.select(lacking), fused.select(lacking), [instructions[b] for b in lacking], several=True)
        other_fill = box_filling(other.logits_Bhw[:, None], [boxes[b] for b in lacking], self.logit_stride)[:, 0]
        better = other_fill > fill_B[lacking]
        other = replace(other, iou_B=torch.maximum(other.iou_B, answer.iou_B[lacking]))
        places = [b for b, taken in zip(lacking, better.tolist(), strict=True) if taken]
        rest = [b for b in range(len(instructions)) if b not in places]
        parts = [(answer.select(rest), rest), (other.select(better.nonzero()[:, 0].tolist()), places)]
        return gather(*zip(*[(part, own) for part, own in parts if own], strict=True))

    def choose(self, masks_BKhw: Tensor, iou_BK: Tensor, instructions: Sequence[Instruction | None]) -> Tensor:
        """The surest of the proposed masks; where boxes were drawn, of those that fill theirs."""
        boxes = bare_boxes(instructions)
        if boxes is None or iou_BK.shape[1] == 1:
            return super().choose(masks_BKhw, iou_BK, instructions)
        return best_filling(box_filling(masks_BKhw, boxes, self.logit_stride), iou_BK)

    def _run_decoder(
        self, frame: Features, fused: Fused, sparse: Tensor, dense_BChw: Tensor, *, several: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with torch.autocast(self.device.type, enabled=False):  # few operations, from which all decisions come
            frame, top = replace(frame, fine_BChw=_in_float32(frame.fine_BChw)), fused.map_BChw.float()
            if not fused.own:  # a mask that was given: memory has no say
                return super()._run_decoder(frame, Fused(top), sparse, dense_BChw, several=several)
            propagated = fused.own["propagated"].float()
            past = (propagated != 0).flatten(1).any(1)[:, None, None, None]
            shown = Fused(top + self.carry.embed(propagated) * past)
            masks, iou, tokens, presence = super()._run_decoder(frame, shown, sparse, dense_BChw, several=several)
            return masks + self.carry.trust * F.pixel_shuffle(propagated, 4), iou, tokens, presence

    def refine(
        self, frame: Features, fused: Fused, proposed: tuple[Tensor, Tensor, Tensor], instructions: Sequence[Instruction | None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The proposed masks in the light of fine features, of the prompts drawn as pictures, and of memory; at stride 2."""
        masks_BKhw, iou_BK, presence_B1 = proposed
        propagated_B1hw, score_B1HW = F.pixel_shuffle(fused.own["propagated"], 4), fused.own["score"]
        drawn = draw_hints(instructions, masks_BKhw.shape[-1], frame.own["key"], propagated_B1hw)
        hints = torch.cat([drawn, fused.own["neighbour"], F.avg_pool2d(score_B1HW, 2)], 1)
        wanted = {one.wanted for one in instructions if one is not None}
        every = self.training or bare_boxes(instructions) is not None

        def choose(judged_BK2: Tensor) -> Tensor:
            return self.choose(masks_BKhw, (iou_BK + judged_BK2[..., 0]).clamp(0, 1), instructions)

        with torch.autocast(self.device.type, enabled=False):  # this too decides which mask is taken
            seen = _in_float32(frame.fine_BChw), fused.map_BChw.float(), masks_BKhw, hints.float()
            asked = every or "every" in wanted
            masks, hidden, judged_BK2 = self.mend(*seen, None if asked else choose)
        best = None if every else choose(judged_BK2)
        if best is not None and asked:
            hidden = hidden.unflatten(0, masks.shape[:2])[torch.arange(len(best), device=best.device), best]
        if not every and wanted == {"rough"}:
            masks = upsample(masks.flatten(0, 1), self.image_size // self.logit_stride).unflatten(0, masks.shape[:2])
        else:
            masks = self.sharpen(masks, hidden, frame.own["finest"], score_B1HW[:, 0], best)
        iou_BK = (iou_BK + judged_BK2[..., 0]).clamp(0, 1)
        return masks, iou_BK, presence_B1 + judged_BK2[..., 1].mean(1, keepdim=True)


def bare_boxes(instructions: Sequence[Instruction | None]) -> list[NDArray[np.float32]] | None:
    """The boxes that were drawn, where each object got one and nothing else."""
    bare = [one.prompt for one in instructions if one is not None and one.earlier_hw is None and not len(one.prompt.points_xy)]
    boxes = [prompt.box_xyxy for prompt in bare if prompt.box_xyxy is not None and prompt.mask_hw is None]
    return boxes if len(boxes) == len(instructions) else None


def _in_float32(maps: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    first, second = maps
    return first.float(), second.float()


def _pixel_features(frame: Features) -> Tensor:
    """Features of each pixel at stride 2 for its classifier: the finest map, the keys of stride 4 below, and a constant."""
    finest, look = frame.own["finest"], frame.own["look"][:, :FINEST]
    below = F.interpolate(look, scale_factor=2, mode="nearest") * math.sqrt(FINEST)
    return torch.cat([finest, below, torch.ones_like(finest[:, :1])], 1)


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
    return in_tens(F.interpolate(logits, size=(len(rows), len(rows)), mode="bilinear", align_corners=False)[0, 0])


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


def nano(image_size: int = 256) -> Nano:
    """The untrained network: a convolutional pyramid, two blocks of memory attention, SAM 2's heads at half the width.

    Args:
        image_size: side of its square input in pixels, a multiple of 32.
    """
    network = Nano(nano_configuration(image_size), ConvPyramid(neck=WIDTH), pixels=PIXELS)
    initialise_weights(network)
    for part in (network.carry, network.mend, network.sharpen):
        part.initialise()
    with torch.no_grad():
        for layer in (network.finest, network.look):
            nn.init.orthogonal_(layer.weight.view(layer.weight.shape[:2]))
        blocks: Any = network.memory_encoder.memory_fuser.layers
        for block in blocks:
            block.scale.fill_(0.1)
        for parameter in (network.no_memory_embedding, network.no_object_pointer, network.memory_temporal_positional_encoding):
            nn.init.normal_(parameter, std=0.02)
        match_by_content(network)
    return network


def match_by_content(network: Sam2) -> None:
    """Let untrained memory attention compare image features with remembered ones.

    With random projections it takes thousands of steps until a query finds its like in memory. Here the memory is a random
    orthonormal projection of the frame's features (beside the mask), keys project it back, and queries are the features
    themselves, so that likeness of features is what attention starts from.
    """
    encoder, width = network.memory_encoder, WIDTH
    layers: Any = network.memory_attention.layers
    convolutions: tuple[Any, Any] = (encoder.projection, encoder.feature_projection)
    projection = torch.empty(encoder.projection.weight.shape[0], width)
    nn.init.orthogonal_(projection)
    encoder.projection.weight.copy_(projection[:, :, None, None])
    encoder.feature_projection.weight.copy_(torch.eye(width)[:, :, None, None])
    for convolution in convolutions:
        convolution.bias.zero_()
    for layer in layers:
        layer.cross_attn_image.q_proj.weight.copy_(torch.eye(width))
        layer.cross_attn_image.k_proj.weight.copy_(projection.T)
        layer.cross_attn_image.q_proj.bias.zero_()
        layer.cross_attn_image.k_proj.bias.zero_()


def nano_configuration(image_size: int = 256) -> Sam2Config:
    """Sizes of all parts but the image encoder's."""
    return Sam2Config(
        image_size,
        hiera=None,
        width=WIDTH,
        decoder_heads=4,
        decoder_hidden=512,
        iou_hidden=WIDTH,
        attention_layers=2,
        attention_hidden=512,
        fuser_hidden=512,
    )

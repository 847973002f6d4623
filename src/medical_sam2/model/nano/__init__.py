"""`nano`, the small network that ships: SAM 2's parts with an encoder, ways into memory and a way to a finer mask of its own.

`memory_matching` has what it finds in memory, `mask_refinement` what it does to masks; import from here.
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
from medical_sam2.model.nano.mask_refinement import (
    FILLED,
    WIDTHS,
    MaskRefiner,
    MaskUpsampler,
    best_filling,
    box_filling,
    draw_hints,
)
from medical_sam2.model.nano.memory_matching import (
    LocalMatching,
    MaskPropagation,
    PixelClassifier,
    fold_mask,
    inside_probability,
)
from medical_sam2.model.sam2 import Pixels, Sam2
from medical_sam2.model.tracker import upsample

WIDTH = 128
FINEST = 16  # channels at stride 2, and of each half of the keys of stride 4
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

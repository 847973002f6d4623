"""`nano`: the small network that ships with the package."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import Sam2VideoConfig

from medical_sam2.model.backbone import Features, FramePrediction, Instruction, Memory, Recall, apart, gather
from medical_sam2.model.carry import SUBPIXELS, Carry
from medical_sam2.model.filling import FILLED, best_filling, filling
from medical_sam2.model.mend import WIDTHS, Mend, draw
from medical_sam2.model.neighbour import PICTURES, Neighbour
from medical_sam2.model.pyramid import ConvPyramid, reset
from medical_sam2.model.regression import Regression
from medical_sam2.model.sam2 import Pixels, Sam2
from medical_sam2.model.sharpen import Sharpen
from medical_sam2.model.tracker import select

WIDTH = 128
FINEST = 16  # channels at stride 2, and of each half of the keys of stride 4
DEEP = 32  # channels that the classifier of stride 4 takes of the deepest map
WIDE_RIDGE = -2.0  # its ridge at first: four times as many features as the other's need more
FOLDED = (SUBPIXELS, PICTURES * SUBPIXELS, 4 * SUBPIXELS, SUBPIXELS)
"""Channels behind the deepest map's, at stride 16: carried mask and pictures of the neighbour (stride 4), scores of
both classifiers (stride 2, stride 4)."""
PIXELS = Pixels(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


class Nano(Sam2):
    """SAM 2 with a convolutional encoder, with masks carried over from memory by likeness, moved from the slice before, told
    by a classifier of pixels, mended pixel by pixel, and sharpened at stride 2.

    Arguments as of `Sam2`; the encoder gives its maps as a tuple.
    """

    logit_stride = 2
    vision_encoder: ConvPyramid

    def __init__(
        self,
        config: Sam2VideoConfig,
        vision_encoder: nn.Module,
        *,
        pixels: Pixels | None = None,
        memory_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(config, vision_encoder, pixels=pixels, memory_dtype=memory_dtype)
        self.carry = Carry(self.width)
        self.mend = Mend((self.width // 8, self.width // 4), self.width)
        self.finest = nn.Conv2d(self.vision_encoder.stem[0].out_channels, FINEST, 1)
        self.look = nn.Conv2d(self.width, FINEST, 1, bias=False)
        self.deep = nn.Conv2d(self.width, DEEP, 1, bias=False)
        self.neighbour, self.sharpen = Neighbour(), Sharpen(FINEST, WIDTHS[0])
        self.regression, self.coarse_regression = Regression(), Regression("coarse_sums_EE", ridge=WIDE_RIDGE)

    @property
    def width(self) -> int:
        """Channels of the feature maps."""
        return int(self.no_memory_embedding.shape[-1])

    def encode(self, frames_N3SS: Tensor) -> Features:
        """See N frames: features with B = N, keys among them."""
        stem, first, second, top = self.vision_encoder.see(frames_N3SS)
        fine = (self.mask_decoder.conv_s0(first), self.mask_decoder.conv_s1(second))
        finest = self.finest(stem)
        halves = (F.normalize(part.float(), dim=1) for part in (self.look(first), F.avg_pool2d(finest, 2)))
        look = (torch.cat([*halves], 1) / math.sqrt(2)).to(finest.dtype)
        keys = (part.contiguous() for part in (self.carry.keys(first, second), look))  # which no convolution sees
        return Features(top, fine, top.mean((2, 3)), *keys, finest)

    def fuse(self, frame: Features, recall: Recall) -> Tensor:
        """The deepest map in the light of memory; behind its channels, folded, what else memory tells: see `FOLDED`."""
        fused = super().fuse(frame, recall)
        pictures = F.pixel_unshuffle(self.neighbour(known(frame.look_BDhw), recall), 4)
        score = F.pixel_unshuffle(self.regression(_pixels(frame), recall)[:, None], 8)
        coarse = F.pixel_unshuffle(self.coarse_regression(self._coarse(frame), recall)[:, None], 4)
        told = (self.carry(known(frame.key_BDhw), recall), pictures, score, coarse)
        return torch.cat([fused, *(part.to(fused.dtype) for part in told)], 1)

    def memorise(self, frame: Features, prediction: FramePrediction, t: int, prompted: Sequence[bool]) -> list[Memory]:
        """What to remember of the frame, with its keys and masks."""
        memories = super().memorise(frame, prediction, t, prompted)
        inside = self.carry.inside(prediction, torch.tensor(prompted, device=self.device))
        sums = self.regression.sums(_pixels(frame), inside)
        coarse = self.coarse_regression.sums(self._coarse(frame), F.avg_pool2d(inside[:, None], 2)[:, 0])
        keys, looks = (known(part).expand(len(memories), -1, -1, -1) for part in (frame.key_BDhw, frame.look_BDhw))
        rows = zip(memories, keys, apart(self.carry.cover(inside)), looks, apart(sums), apart(coarse), strict=True)
        return [
            replace(memory, key_Dhw=key, cover_4hw=cover, look_Dhw=look, sums_EE=fine, coarse_sums_EE=wide)
            for memory, key, cover, look, fine, wide in rows
        ]

    def _coarse(self, frame: Features) -> Tensor:
        """Features of each pixel at stride 4 for its classifier: keys of both strides, the deepest map, and a constant."""
        look = known(frame.look_BDhw)
        deep = F.normalize(self.deep(frame.top_BChw).float(), dim=1).to(look.dtype)
        key, deep = (F.interpolate(part, size=look.shape[-2:], mode="bilinear") for part in (known(frame.key_BDhw), deep))
        return torch.cat([part * math.sqrt(part.shape[1]) for part in (look, key, deep)] + [torch.ones_like(look[:, :1])], 1)

    def _answer(
        self, frame: Features, fused_BChw: Tensor, told: Sequence[Instruction | None], *, several: bool = False
    ) -> FramePrediction:
        """As SAM 2; where the answer does not fill the box that was drawn, that one of several proposals that fills it best."""
        answer = super()._answer(frame, fused_BChw, told, several=several)
        boxes = bare_boxes(told)
        if boxes is None or several or self.training:
            return answer
        fill_B = filling(answer.logits_Bhw[:, None], boxes, self.logit_stride)[:, 0]
        lacking = [b for b, fill in enumerate(fill_B.tolist()) if fill < FILLED]
        if not lacking:
            return answer
        other = self._answer(frame.pick(lacking), fused_BChw[lacking], [told[b] for b in lacking], several=True)
        better = filling(other.logits_Bhw[:, None], [boxes[b] for b in lacking], self.logit_stride)[:, 0] > fill_B[lacking]
        other = replace(other, iou_B=torch.maximum(other.iou_B, answer.iou_B[lacking]))
        places = [b for b, taken in zip(lacking, better.tolist(), strict=True) if taken]
        rest = [b for b in range(len(told)) if b not in places]
        parts = [(select(answer, rest), rest), (select(other, better.nonzero()[:, 0].tolist()), places)]
        return gather(*zip(*[(part, own) for part, own in parts if own], strict=True))

    def chosen(self, masks_BKhw: Tensor, iou_BK: Tensor, told: Sequence[Instruction | None]) -> Tensor:
        """The surest of the proposed masks; where boxes were drawn, of those that fill theirs."""
        boxes = bare_boxes(told)
        if boxes is None or iou_BK.shape[1] == 1:
            return super().chosen(masks_BKhw, iou_BK, told)
        return best_filling(filling(masks_BKhw, boxes, self.logit_stride), iou_BK)

    def _decoder(
        self, frame: Features, fused_BChw: Tensor, sparse: Tensor, dense_BChw: Tensor, *, several: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with torch.autocast(self.device.type, enabled=False):  # few operations, from which all decisions come
            frame, fused_BChw = replace(frame, fine_BChw=_exact(frame.fine_BChw)), fused_BChw.float()
            if fused_BChw.shape[1] == self.width:
                return super()._decoder(frame, fused_BChw, sparse, dense_BChw, several=several)
            top, carried, *_ = fused_BChw.split([self.width, *FOLDED], 1)
            past = (carried != 0).flatten(1).any(1)[:, None, None, None]
            shown = top + self.carry.embed(carried) * past
            masks, iou, tokens, presence = super()._decoder(frame, shown, sparse, dense_BChw, several=several)
            return masks + self.carry.trust * F.pixel_shuffle(carried, 4), iou, tokens, presence

    def mended(
        self,
        frame: Features,
        fused_BChw: Tensor,
        proposed: tuple[Tensor, Tensor, Tensor],
        told: Sequence[Instruction | None],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The proposed masks in the light of fine features, of the prompts drawn as pictures, and of memory; at stride 2."""
        masks_BKhw, iou_BK, presence_B1 = proposed
        top, carried, pictures, score, coarse = fused_BChw.split([self.width, *FOLDED], 1)
        score_B1HW = F.pixel_shuffle(score, 8)
        hints = draw(told, masks_BKhw.shape[-1], known(frame.key_BDhw), F.pixel_shuffle(carried, 4))
        further = (F.pixel_shuffle(pictures, 4), F.avg_pool2d(score_B1HW, 2), F.pixel_shuffle(coarse, 4))
        hints = torch.cat([hints, *further], 1)
        with torch.autocast(self.device.type, enabled=False):  # this too decides which mask is taken
            masks, hidden, judged_BK2 = self.mend(_exact(frame.fine_BChw), top.float(), masks_BKhw, hints.float())
        iou_BK = (iou_BK + judged_BK2[..., 0]).clamp(0, 1)
        best = None if self.training or bare_boxes(told) else self.chosen(masks, iou_BK, told)
        masks = self.sharpen(masks, hidden, known(frame.finest_BChw), score_B1HW[:, 0], best)
        return masks, iou_BK, presence_B1 + judged_BK2[..., 1].mean(1, keepdim=True)


def bare_boxes(told: Sequence[Instruction | None]) -> list[NDArray[np.float32]] | None:
    """The boxes that were drawn, where each object got one and nothing else."""
    bare = [one.prompt for one in told if one is not None and one.earlier_hw is None and not len(one.prompt.points_xy)]
    boxes = [prompt.box_xyxy for prompt in bare if prompt.box_xyxy is not None and prompt.mask_hw is None]
    return boxes if len(boxes) == len(told) else None


def known(part: Tensor | None) -> Tensor:
    """What every frame seen by `Nano` has."""
    if part is None:
        raise TypeError("these features were not made by this network")
    return part


def _exact(maps: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The decoder's fine maps in float32."""
    first, second = maps
    return first.float(), second.float()


def _pixels(frame: Features) -> Tensor:
    """Features of each pixel at stride 2 for its classifier: the finest map, the keys of stride 4 below, and a constant."""
    finest, look = known(frame.finest_BChw), known(frame.look_BDhw)[:, :FINEST]
    below = F.interpolate(look, scale_factor=2, mode="nearest") * math.sqrt(FINEST)
    return torch.cat([finest, below, torch.ones_like(finest[:, :1])], 1)


def nano(image_size: int = 256) -> Nano:
    """The untrained network: a convolutional pyramid, two blocks of memory attention, SAM 2's heads at half the width.

    Args:
        image_size: side of its square input in pixels, a multiple of 32.
    """
    network = Nano(configuration(image_size), ConvPyramid(neck=WIDTH), pixels=PIXELS)
    reset(network)
    network.carry.reset()
    network.mend.reset()
    network.sharpen.reset()
    with torch.no_grad():
        for layer in (network.finest, network.look, network.deep):
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


def configuration(image_size: int = 256) -> Sam2VideoConfig:
    """Sizes of all parts but the image encoder's."""
    return Sam2VideoConfig(
        vision_config=None,
        prompt_encoder_config={"hidden_size": WIDTH, "image_size": image_size},
        mask_decoder_config={
            "hidden_size": WIDTH,
            "mlp_dim": 512,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": WIDTH,
        },
        image_size=image_size,
        memory_attention_hidden_size=WIDTH,
        memory_attention_num_layers=2,
        memory_attention_feed_forward_hidden_size=512,
        memory_attention_rope_feat_sizes=[image_size // 16, image_size // 16],
        memory_attention_dropout=0.0,
        memory_attention_rope_dropout=0.0,
        memory_encoder_hidden_size=WIDTH,
        memory_fuser_embed_dim=WIDTH,
        memory_fuser_intermediate_dim=512,
        mask_downsampler_embed_dim=WIDTH,
    )

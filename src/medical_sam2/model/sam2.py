"""SAM 2 behind the four verbs: the one file that knows the modules of `transformers`.

The leaf modules of `transformers.Sam2VideoModel` are used as they are; the heads, the prompt-as-mask path, the memory
attention and the loop are ours, batched over objects and differentiable. Two corrections bring it to the official
predictor's output where transformers deviates: the object pointer of a mask prompt comes from the single-mask token, and
the memory of a frame is encoded from the low-resolution mask, upsampled.

Shapes: B objects, N frames, C channels, h w feature map, S network input size, P points, K proposed masks, M memories.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel, Sam2VideoConfig, Sam2VisionModel
from transformers.models.sam2_video import modeling_sam2_video as modules

from medical_sam2.model import recollection
from medical_sam2.model.activation import overwrite
from medical_sam2.model.attention import KeptKeys, attend
from medical_sam2.model.backbone import Features, FramePrediction, Instruction, Memory, Recall, apart, gather
from medical_sam2.model.hiera import see
from medical_sam2.model.told import kind, points
from medical_sam2.model.tracker import fitted, upsampled

ABSENT = -1024.0  # logit of a mask whose object is judged absent
MASK_SCALE, MASK_BIAS = 20.0, -10.0  # a mask given as prompt becomes logits of +10 and −10


@dataclass(frozen=True)
class Pixels:
    """How intensities reach the network: in [0, 1], less the mean, over the standard deviation of each channel."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


def keep_drawn(prediction: FramePrediction, instructions: Sequence[Instruction | None]) -> FramePrediction:
    """Clicks on an outline that was drawn: positive ones take nothing of it away, negative ones add nothing to it."""
    rows = [_kept(row_hw, one) for row_hw, one in zip(prediction.logits_Bhw, instructions, strict=True)]
    return replace(prediction, logits_Bhw=torch.stack(rows))


def _kept(logits_hw: Tensor, one: Instruction | None) -> Tensor:
    if one is None or one.earlier_hw is not None or one.prompt.mask_hw is None:
        return logits_hw
    inside = torch.as_tensor(one.prompt.mask_hw, dtype=torch.float32, device=logits_hw.device)
    drawn_hw = fitted(inside[None, None] * MASK_SCALE + MASK_BIAS, logits_hw.shape[-1])[0, 0].to(logits_hw.dtype)
    if one.prompt.labels.all():
        return torch.maximum(logits_hw, drawn_hw)
    return logits_hw if one.prompt.labels.any() else torch.minimum(logits_hw, drawn_hw)


class Sam2(nn.Module):
    """A SAM 2 network as a `Backbone`; `logit_stride` is the stride of its mask logits in pixels of the input.

    Args:
        config: transformers' configuration of the whole network.
        vision_encoder: frames (N, 3, S, S) → maps of stride 4, 8, 16; transformers' Hiera unless given.
        pixels: normalisation that the weights expect.
        memory_dtype: type that memories are rounded to; the official code rounds to bfloat16.
    """

    logit_stride = 4

    def __init__(
        self,
        config: Sam2VideoConfig,
        vision_encoder: nn.Module | None = None,
        *,
        pixels: Pixels | None = None,
        memory_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        prompts: Any = config.prompt_encoder_config
        masks: Any = config.mask_decoder_config
        masks._attn_implementation = "sdpa"
        self.config, self.memory_dtype, self.pixels = config, memory_dtype, pixels or Pixels()
        width, depth = int(masks.hidden_size), config.memory_encoder_output_channels
        self.vision_encoder = vision_encoder or AutoModel.from_config(config.vision_config)
        self.prompt_encoder = modules.Sam2VideoPromptEncoder(prompts)
        self.mask_decoder = modules.Sam2VideoMaskDecoder(masks)
        self.memory_attention = modules.Sam2VideoMemoryAttention(config)
        self.memory_encoder = modules.Sam2VideoMemoryEncoder(config)
        self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)
        self.object_pointer_proj = modules.Sam2VideoFeedForward(width, width, width, 3)
        self.no_memory_embedding = nn.Parameter(torch.zeros(1, 1, width))
        self.no_memory_positional_encoding = nn.Parameter(torch.zeros(1, 1, width))
        self.memory_temporal_positional_encoding = nn.Parameter(torch.zeros(config.num_maskmem, 1, 1, depth))
        self.no_object_pointer = nn.Parameter(torch.zeros(1, width))
        if config.enable_temporal_pos_encoding_for_object_pointers:
            self.temporal_positional_encoding_projection_layer = nn.Linear(width, depth)
        if config.enable_occlusion_spatial_embedding:
            self.occlusion_spatial_embedding_parameter = nn.Parameter(torch.zeros(1, depth))
        overwrite(self)
        self._keys = KeptKeys()

    @property
    def image_size(self) -> int:
        """Side S of the square input in pixels."""
        size: Any = self.config.image_size
        return int(size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.no_memory_embedding.device

    def resize(self, image_size: int) -> None:
        """Take another input size from now on: no weight depends on it."""
        if image_size == self.image_size:
            return
        side = image_size // 16
        self.config.image_size = image_size
        self.prompt_encoder.input_image_size = image_size
        self.prompt_encoder.image_embedding_size = (side, side)
        self.prompt_encoder.mask_input_size = (4 * side, 4 * side)
        self.config.memory_attention_rope_feat_sizes = [side, side]
        positions = self.memory_attention.precompute_positions(self.config)
        self.memory_attention.register_buffer("position_ids", positions.to(self.device), persistent=False)

    def normalised(self, frames_N3SS: Tensor) -> Tensor:
        """Intensities in [0, 1] as the weights expect them."""
        mean, std = (torch.tensor(x, device=frames_N3SS.device).view(1, 3, 1, 1) for x in (self.pixels.mean, self.pixels.std))
        return (frames_N3SS - mean) / std

    def encode(self, frames_N3SS: Tensor) -> Features:
        """See N frames: features with B = N."""
        encoder = self.vision_encoder
        maps = see(encoder, frames_N3SS) if isinstance(encoder, Sam2VisionModel) else encoder(frames_N3SS)
        first, second, top = maps
        fine = (self.mask_decoder.conv_s0(first), self.mask_decoder.conv_s1(second))
        return Features(top, fine, top.mean((2, 3)))

    def fuse(self, frame: Features, recall: Recall) -> Tensor:
        """The frame's deepest map in the light of what each of B objects remembers, or marked as having no past."""
        top_BChw = frame.top_BChw
        past = [b for b, memories in enumerate(recall) if memories]
        alone = top_BChw + self.no_memory_embedding.view(1, -1, 1, 1)
        alone = alone.expand(len(recall), -1, -1, -1)
        if not past:
            return alone
        fused = self._attend(frame.pick(past).top_BChw, [recall[b] for b in past])
        if len(past) == len(recall):
            return fused
        order = torch.tensor([*past, *(b for b in range(len(recall)) if b not in past)], device=fused.device).argsort()
        return torch.cat([fused, alone[[b for b in range(len(recall)) if b not in past]]])[order]

    def decode(self, frame: Features, fused_BChw: Tensor, instructions: Sequence[Instruction | None]) -> FramePrediction:
        """The mask of each object; objects told the same kind of thing are decoded together."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for b, instruction in enumerate(instructions):
            groups.setdefault(kind(instruction), []).append(b)
        answers = []
        for sort, places in groups.items():
            told = [instructions[b] for b in places]
            part, seen = fused_BChw[places], frame.pick(places)
            answers.append(
                self._take_mask(seen, told) if sort[0] == "mask" else keep_drawn(self._answer(seen, part, told), told)
            )
        return answers[0] if len(answers) == 1 else gather(answers, list(groups.values()))

    def memorise(self, frame: Features, prediction: FramePrediction, t: int, prompted: Sequence[bool]) -> list[Memory]:
        """What to remember of the frame, for each object; a prompted frame's mask is remembered as a hard one."""
        mask_B1SS = upsampled(prediction.logits_Bhw, self.image_size)[:, None]
        hard = torch.tensor(prompted, device=mask_B1SS.device)[:, None, None, None]
        soft = torch.where(hard, (mask_B1SS > 0).float(), mask_B1SS.sigmoid())
        soft = soft * self.config.sigmoid_scale_for_mem_enc + self.config.sigmoid_bias_for_mem_enc
        top_BChw = frame.top_BChw.expand(len(prompted), -1, -1, -1)
        maps_BMhw, _ = self.memory_encoder(top_BChw, soft)
        if self.config.enable_occlusion_spatial_embedding:
            absent = (prediction.presence_B <= 0)[:, None, None, None]
            maps_BMhw = maps_BMhw + absent * self.occlusion_spatial_embedding_parameter[..., None, None]
        if self.memory_dtype is not None:
            maps_BMhw = maps_BMhw.to(self.memory_dtype)
        confidence = prediction.confidence_B.detach().tolist()
        summary_BC = frame.summary_BC.expand(len(prompted), -1)
        rows = zip(prompted, apart(maps_BMhw), apart(prediction.pointer_BC), summary_BC, confidence, strict=True)
        return [Memory(t, *row) for row in rows]

    def _attend(self, top_BChw: Tensor, recall: Recall) -> Tensor:
        """Memory attention over ragged memories: maps first, then object pointers, each padded."""
        _, channels, height, width = top_BChw.shape
        mapped = [[r for r in memories if r.map] for memories in recall]
        maps, maps_bias = recollection.maps(self, mapped, height * width)
        pointers, place, pointers_bias = recollection.pointers(
            self, [[r for r in memories if r.pointer] for memories in recall]
        )
        position = recollection.position(self, height, width)
        keys = self._keys.of(self.memory_attention, mapped, position, partial(recollection.time, self), pointers.shape[1])
        if keys is None:
            place = torch.cat([recollection.places(self, mapped, position), place], 1)
        memory, bias = torch.cat([maps, pointers], 1), torch.cat([maps_bias, pointers_bias], 1)
        sine_Chw = recollection.sine(channels, height, width, top_BChw.device, top_BChw.dtype)
        tokens = (top_BChw + 0.1 * sine_Chw).flatten(2).transpose(1, 2)
        fused = attend(self.memory_attention, tokens, memory, place, bias, pointers.shape[1], keys=keys)
        return fused.transpose(1, 2).reshape(-1, channels, height, width)

    def _answer(
        self, frame: Features, fused_BChw: Tensor, told: Sequence[Instruction | None], *, several: bool = False
    ) -> FramePrediction:
        """Prompt encoder and mask decoder; several masks are proposed where the prompt leaves room, or where asked for."""
        points_BP2, labels_BP, dense = self._sparse(told)
        several = several or int((labels_BP[0] >= 0).sum()) <= self.config.multimask_max_pt_num
        sparse, dense_BChw = self._encoded(points_BP2, labels_BP, dense)
        masks, iou, tokens, presence = self._decoder(frame, fused_BChw, sparse, dense_BChw, several=several)
        masks, iou, presence = self.mended(frame, fused_BChw, (masks, iou, presence), told)
        best = self.chosen(masks, iou, told)
        token = tokens[torch.arange(len(told), device=best.device), best]
        return self._prediction(masks, iou, token, presence[:, 0], best)

    def chosen(self, masks_BKhw: Tensor, iou_BK: Tensor, told: Sequence[Instruction | None]) -> Tensor:
        """Which of the proposed masks is the answer (B,): the surest."""
        return iou_BK.argmax(-1)

    def mended(
        self,
        frame: Features,
        fused_BChw: Tensor,
        proposed: tuple[Tensor, Tensor, Tensor],
        told: Sequence[Instruction | None],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The proposed masks (B, K, h, w), their IoUs (B, K) and the presence (B, 1) as they are; a network may mend them."""
        return proposed

    def _decoder(
        self, frame: Features, fused_BChw: Tensor, sparse: Tensor, dense_BChw: Tensor, *, several: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        grid = self._grid().expand(fused_BChw.shape[0], -1, -1, -1)
        fine = [part.expand(fused_BChw.shape[0], -1, -1, -1) for part in frame.fine_BChw]
        dense_BChw = dense_BChw.expand(fused_BChw.shape[0], -1, -1, -1)
        answer = self.mask_decoder(fused_BChw, grid, sparse, dense_BChw, several, fine)
        masks, iou, tokens, presence = (part[:, 0] for part in answer)
        return masks, iou, tokens, presence

    def _prediction(self, masks: Tensor, iou: Tensor, token_BC: Tensor, presence_B: Tensor, best: Tensor) -> FramePrediction:
        rows = torch.arange(len(best), device=best.device)
        seen = (presence_B > 0)[:, None]
        pointer = torch.where(seen, self.object_pointer_proj(token_BC), self.no_object_pointer)
        logits = torch.where(seen[..., None], masks[rows, best], masks.new_tensor(ABSENT))
        return FramePrediction(logits, iou[rows, best], presence_B, pointer, masks, iou)

    def _take_mask(self, frame: Features, told: Sequence[Instruction | None]) -> FramePrediction:
        """A mask given as prompt is the answer; the decoder only makes its object pointer, from the single-mask token."""
        given = [instruction.prompt.mask_hw for instruction in told if instruction is not None]
        mask_B1SS = torch.as_tensor(np.stack([m for m in given if m is not None]), device=self.device)[:, None].float()
        hinted = self._fit(self.mask_downsample(mask_B1SS))
        blank = [None] * len(told)
        points_BP2, labels_BP, _ = self._sparse(blank)
        sparse, dense = self._encoded(points_BP2, labels_BP, hinted)
        top_BChw = frame.top_BChw.expand(len(told), -1, -1, -1)
        _, _, tokens, presence = self._decoder(frame, top_BChw, sparse, dense, several=False)
        shown = mask_B1SS.flatten(1).any(1)
        seen = ((presence[:, 0] > 0) & shown)[:, None]
        pointer = torch.where(seen, self.object_pointer_proj(tokens[:, 0]), self.no_object_pointer)
        logits = fitted(mask_B1SS * MASK_SCALE + MASK_BIAS, self.image_size // self.logit_stride)
        sure, there = torch.ones_like(presence[:, 0]), shown * MASK_SCALE + MASK_BIAS
        return FramePrediction(logits[:, 0], sure, there, pointer, logits, sure[:, None])

    def _fit(self, mask: Tensor) -> Tensor:
        """A mask at the size that the prompt encoder takes (stride 4)."""
        return fitted(mask, self.prompt_encoder.mask_input_size[0])

    def _sparse(self, told: Sequence[Instruction | None]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Points (B, P, 2) with their labels: corners of a box first (labels 2 and 3), then clicks; earlier logits."""
        pairs = [points(None if one is None else one.prompt) for one in told]
        points_BP2 = torch.as_tensor(np.stack([xy for xy, _ in pairs]), dtype=torch.float32, device=self.device)
        labels_BP = torch.as_tensor(np.stack([sort for _, sort in pairs]), dtype=torch.long, device=self.device)
        earlier = [logits for one in told if one is not None and (logits := self._earlier(one)) is not None]
        return points_BP2, labels_BP, torch.stack(earlier)[:, None].to(points_BP2.dtype) if earlier else None

    def _encoded(self, points_BP2: Tensor, labels_BP: Tensor, mask_B1hw: Tensor | None) -> tuple[Tensor, Tensor]:
        """Prompts as tokens and as a map; in float32, since places are told by their last digits."""
        with torch.autocast(self.device.type, enabled=False):
            mask = None if mask_B1hw is None else mask_B1hw.float()
            sparse, dense = self.prompt_encoder(points_BP2[:, None], labels_BP[:, None], None, mask)
        return sparse, dense

    def _earlier(self, one: Instruction) -> Tensor | None:
        """Logits that clicks correct: the earlier answer, or the mask that was given with them."""
        logits = one.earlier_hw
        if logits is None and one.prompt.mask_hw is not None:
            mask = torch.as_tensor(one.prompt.mask_hw, dtype=torch.float32, device=self.device)
            logits = mask * MASK_SCALE + MASK_BIAS
        return None if logits is None else self._fit(logits[None, None])[0, 0]

    def _grid(self) -> Tensor:
        """Positional encoding of the feature map's pixels, in the same random Fourier features as the prompts."""
        height, width = self.prompt_encoder.image_embedding_size
        rows = (torch.arange(height, device=self.device) + 0.5) / height
        columns = (torch.arange(width, device=self.device) + 0.5) / width
        xy = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
        with torch.autocast(self.device.type, enabled=False):
            return self.prompt_encoder.shared_embedding(xy[None])[0].permute(2, 0, 1)[None]

"""SAM 2 behind the four verbs: its parts put together, batched over objects and differentiable.

The numbers are those of the official predictor: the object pointer of a mask prompt comes from the single-mask token, and the
memory of a frame is encoded from the low-resolution mask, upsampled.

Shapes: B objects, N frames, C channels, h w feature map, S network input size, P points, K proposed masks, M memories.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from medical_sam2.errors import ConfigError
from medical_sam2.model import memory_attention as attention
from medical_sam2.model.backbone import Features, FramePrediction, Fused, Instruction, Memory, Recall, clone_rows, gather
from medical_sam2.model.image_encoders import HieraEncoder
from medical_sam2.model.memory_attention import INSIDE, KeptKeys, MemoryAttention, PooledTokens, attend, share_inside
from medical_sam2.model.modules import FeedForward, HieraSizes, MaskDecoder, MemoryEncoder, PromptEncoder, Sam2Config
from medical_sam2.model.tracker import fit_square, upsample
from medical_sam2.prompts import FramePrompt

ABSENT = -1024.0  # logit of a mask whose object is judged absent
MASK_SCALE, MASK_BIAS = 20.0, -10.0  # a mask given as prompt becomes logits of +10 and −10; so does one to be remembered
AMBIGUOUS = 1  # points at most that leave room for several masks


@dataclass(frozen=True)
class Pixels:
    """How intensities reach the network: in [0, 1], less the mean, over the standard deviation of each channel."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


def keep_drawn(prediction: FramePrediction, instructions: Sequence[Instruction | None]) -> FramePrediction:
    """Clicks on an outline that was drawn: positive ones take nothing of it away, negative ones add nothing to it."""
    if not any(one and one.prompt.mask_hw is not None and one.earlier_hw is None for one in instructions):
        return prediction
    rows = [_kept(row_hw, one) for row_hw, one in zip(prediction.logits_Bhw, instructions, strict=True)]
    return replace(prediction, logits_Bhw=torch.stack(rows))


def _kept(logits_hw: Tensor, one: Instruction | None) -> Tensor:
    """The logits of one object; where an earlier answer is corrected, or nothing was drawn, as they are."""
    if one is None or one.earlier_hw is not None or one.prompt.mask_hw is None:
        return logits_hw
    inside = torch.as_tensor(one.prompt.mask_hw, dtype=torch.float32, device=logits_hw.device)
    drawn_hw = fit_square(inside[None, None] * MASK_SCALE + MASK_BIAS, logits_hw.shape[-1])[0, 0].to(logits_hw.dtype)
    if one.prompt.labels.all():
        return torch.maximum(logits_hw, drawn_hw)
    return logits_hw if one.prompt.labels.any() else torch.minimum(logits_hw, drawn_hw)


class Sam2(nn.Module):
    """A SAM 2 network as a `Backbone`; `logit_stride` is the stride of its mask logits in pixels of the input.

    `pool_margin` is how many tokens from the border of an object its memories are attended to token by token, and beyond as
    means of four (`PooledTokens`); None, as it is at first, for all tokens one by one, as SAM 2 does.

    Args:
        config: sizes of the whole network.
        vision_encoder: frames (N, 3, S, S) → maps of stride 4, 8, 16; a Hiera unless given.
        pixels: normalisation that the weights expect.
        memory_dtype: type that memories are rounded to; the official code rounds to bfloat16.
    """

    logit_stride = 4
    pool_margin: int | None = None

    def __init__(
        self,
        config: Sam2Config,
        vision_encoder: nn.Module | None = None,
        *,
        pixels: Pixels | None = None,
        memory_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config, self.memory_dtype, self.pixels = config, memory_dtype, pixels or Pixels()
        width, depth = config.width, config.memory_width
        self.vision_encoder = vision_encoder or HieraEncoder(config.hiera or HieraSizes(), width)
        self.prompt_encoder = PromptEncoder(width, config.mask_channels, config.image_size)
        self.mask_decoder = MaskDecoder(config)
        self.memory_attention = MemoryAttention(config)
        self.memory_encoder = MemoryEncoder(config)
        self.mask_downsample = nn.Conv2d(1, 1, kernel_size=4, stride=4)
        self.object_pointer_proj = FeedForward(width, width, width, 3)
        self.no_memory_embedding = nn.Parameter(torch.zeros(1, 1, width))
        self.no_memory_positional_encoding = nn.Parameter(torch.zeros(1, 1, width))
        self.memory_temporal_positional_encoding = nn.Parameter(torch.zeros(config.memory_times, 1, 1, depth))
        self.no_object_pointer = nn.Parameter(torch.zeros(1, width))
        if config.times_of_pointers:
            self.temporal_positional_encoding_projection_layer = nn.Linear(width, depth)
        if config.marks_absence:
            self.occlusion_spatial_embedding_parameter = nn.Parameter(torch.zeros(1, depth))
        self._keys = KeptKeys()

    @property
    def image_size(self) -> int:
        """Side S of the square input in pixels."""
        return self.config.image_size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.no_memory_embedding.device

    def resize(self, image_size: int) -> None:
        """Take another input size from now on: no weight depends on it."""
        self.config = replace(self.config, image_size=image_size)
        self.prompt_encoder.image_size = image_size

    def pool_memories(self, margin: int) -> None:
        """Attend to memories by means of four tokens from now on, farther than so many tokens from the object's border.

        Raises:
            ConfigError: that is no distance, or the maps are of an odd size.
        """
        if isinstance(margin, bool) or not isinstance(cast("object", margin), Integral) or margin < 0:
            raise ConfigError(f"pool_memory {margin!r} is no distance in tokens", "give 0 or more")
        if self.image_size % 32:
            raise ConfigError(f"maps of {self.image_size} pixels have no 2 × 2 tokens to pool", "give an image size in 32s")
        self.pool_margin = margin

    def normalised(self, frames_N3SS: Tensor) -> Tensor:
        """Intensities in [0, 1] as the weights expect them."""
        mean, std = (torch.tensor(x, device=frames_N3SS.device).view(1, 3, 1, 1) for x in (self.pixels.mean, self.pixels.std))
        return (frames_N3SS - mean) / std

    def encode(self, frames_N3SS: Tensor) -> Features:
        """See N frames: features with B = N."""
        first, second, top = self.vision_encoder(frames_N3SS)
        fine = (self.mask_decoder.conv_s0(first), self.mask_decoder.conv_s1(second))
        return Features(top, fine, top.mean((2, 3)))

    def fuse(self, frame: Features, recall: Recall) -> Fused:
        """The frame's deepest map in the light of what each of B objects remembers, or marked as having no past."""
        top_BChw = frame.top_BChw
        past = [b for b, memories in enumerate(recall) if memories]
        alone = top_BChw + self.no_memory_embedding.view(1, -1, 1, 1)
        alone = alone.expand(len(recall), -1, -1, -1)
        if not past:
            return Fused(alone)
        fused = self._attend(frame.select(past).top_BChw, [recall[b] for b in past])
        if len(past) == len(recall):
            return Fused(fused)
        order = torch.tensor([*past, *(b for b in range(len(recall)) if b not in past)], device=fused.device).argsort()
        return Fused(torch.cat([fused, alone[[b for b in range(len(recall)) if b not in past]]])[order])

    def decode(self, frame: Features, fused: Fused, instructions: Sequence[Instruction | None]) -> FramePrediction:
        """The mask of each object; objects with prompts of the same kind are decoded together."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for b, instruction in enumerate(instructions):
            groups.setdefault(_kind_of(instruction), []).append(b)
        answers = []
        for sort, places in groups.items():
            given, seen = [instructions[b] for b in places], frame.select(places)
            by_mask = sort[0] == "mask"
            answer = self._take_mask(seen, given) if by_mask else self._answer(seen, fused.select(places), given)
            answers.append(answer if by_mask else keep_drawn(answer, given))
        return answers[0] if len(answers) == 1 else gather(answers, list(groups.values()))

    def memorise(self, frame: Features, prediction: FramePrediction, t: int, prompted: Sequence[bool]) -> list[Memory]:
        """What to remember of the frame, for each object; a prompted frame's mask is remembered as a hard one."""
        mask_B1SS = upsample(prediction.logits_Bhw, self.image_size)[:, None]
        hard = torch.tensor(prompted, device=mask_B1SS.device)[:, None, None, None]
        soft = torch.where(hard, (mask_B1SS > 0).float(), mask_B1SS.sigmoid())
        soft = soft * MASK_SCALE + MASK_BIAS
        top_BChw = frame.top_BChw.expand(len(prompted), -1, -1, -1)
        maps_BMhw = self.memory_encoder(top_BChw, soft)
        if self.config.marks_absence:
            absent = (prediction.presence_B <= 0)[:, None, None, None]
            maps_BMhw = maps_BMhw + absent * self.occlusion_spatial_embedding_parameter[..., None, None]
        if self.memory_dtype is not None:
            maps_BMhw = maps_BMhw.to(self.memory_dtype)
        confidence = prediction.confidence_B.detach().tolist()
        summary_BC = frame.summary_BC.expand(len(prompted), -1)
        rows = zip(prompted, clone_rows(maps_BMhw), clone_rows(prediction.pointer_BC), summary_BC, confidence, strict=True)
        memories = [Memory(t, *row) for row in rows]
        if self.pool_margin is None:
            return memories
        inside = share_inside((mask_B1SS > 0).float(), *maps_BMhw.shape[-2:])
        return [replace(memory, own={**memory.own, INSIDE: one}) for memory, one in zip(memories, inside, strict=True)]

    def _attend(self, top_BChw: Tensor, recall: Recall) -> Tensor:
        """Memory attention over ragged memories: maps first, then object pointers, each padded."""
        _, channels, height, width = top_BChw.shape
        mapped = [[r for r in memories if r.map] for memories in recall]
        maps, maps_bias = attention.map_tokens(self, mapped, height * width)
        pointers, place, pointers_bias = attention.pointer_tokens(
            self, [[r for r in memories if r.pointer] for memories in recall]
        )
        position = attention.position_encoding(self, height, width)
        pooled = None if self.pool_margin is None else PooledTokens(mapped, (height, width), self.pool_margin)
        time = partial(attention.time_encoding, self)
        kept = None if pooled else self._keys.of(self.memory_attention, mapped, position, time, pointers.shape[1])
        if kept is None:
            place = torch.cat([attention.map_positions(self, mapped, position), place], 1)
        memory, bias = torch.cat([maps, pointers], 1), torch.cat([maps_bias, pointers_bias], 1)
        sine_Chw = attention.sine_encoding(channels, height, width, top_BChw.device, top_BChw.dtype)
        tokens = (top_BChw + 0.1 * sine_Chw).flatten(2).transpose(1, 2)
        fused = attend(self.memory_attention, tokens, memory, place, bias, pointers.shape[1], keys=kept, pooled=pooled)
        return fused.transpose(1, 2).reshape(-1, channels, height, width)

    def _answer(
        self, frame: Features, fused: Fused, instructions: Sequence[Instruction | None], *, several: bool = False
    ) -> FramePrediction:
        """Prompt encoder and mask decoder; several masks are proposed where the prompt leaves room, or where asked for."""
        points_BP2, labels_BP, dense = self._sparse(instructions)
        several = several or int((labels_BP[0] >= 0).sum()) <= AMBIGUOUS
        sparse, dense_BChw = self._encoded(points_BP2, labels_BP, dense)
        masks, iou, tokens, presence = self._run_decoder(frame, fused, sparse, dense_BChw, several=several)
        masks, iou, presence = self.refine(frame, fused, (masks, iou, presence), instructions)
        best = self.choose(masks, iou, instructions)
        token = tokens[torch.arange(len(instructions), device=best.device), best]
        return self._prediction(masks, iou, token, presence[:, 0], best)

    def choose(self, masks_BKhw: Tensor, iou_BK: Tensor, instructions: Sequence[Instruction | None]) -> Tensor:
        """Which of the proposed masks is the answer (B,): the surest."""
        return iou_BK.argmax(-1)

    def refine(
        self, frame: Features, fused: Fused, proposed: tuple[Tensor, Tensor, Tensor], instructions: Sequence[Instruction | None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The proposed masks (B, K, h, w), their IoUs (B, K) and the presence (B, 1) as they are; a network may mend them."""
        return proposed

    def _run_decoder(
        self, frame: Features, fused: Fused, sparse: Tensor, dense_BChw: Tensor, *, several: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with torch.autocast(self.device.type, enabled=False):
            grid = self.prompt_encoder.grid()
        grid, dense, first, second = (
            part.expand(len(fused.map_BChw), -1, -1, -1) for part in (grid, dense_BChw, *frame.fine_BChw)
        )
        return self.mask_decoder(fused.map_BChw, grid, sparse, dense, (first, second), several=several)

    def _prediction(self, masks: Tensor, iou: Tensor, token_BC: Tensor, presence_B: Tensor, best: Tensor) -> FramePrediction:
        rows = torch.arange(len(best), device=best.device)
        seen = (presence_B > 0)[:, None]
        pointer = torch.where(seen, self.object_pointer_proj(token_BC), self.no_object_pointer)
        logits = torch.where(seen[..., None], masks[rows, best], masks.new_tensor(ABSENT))
        return FramePrediction(logits, iou[rows, best], presence_B, pointer, masks, iou)

    def _take_mask(self, frame: Features, instructions: Sequence[Instruction | None]) -> FramePrediction:
        """A mask given as prompt is the answer; the decoder only makes its object pointer, from the single-mask token."""
        given = [instruction.prompt.mask_hw for instruction in instructions if instruction is not None]
        mask_B1SS = torch.as_tensor(np.stack([m for m in given if m is not None]), device=self.device)[:, None].float()
        hinted = self._fit(self.mask_downsample(mask_B1SS))
        points_BP2, labels_BP, _ = self._sparse([None] * len(instructions))
        sparse, dense = self._encoded(points_BP2, labels_BP, hinted)
        top = Fused(frame.top_BChw.expand(len(instructions), -1, -1, -1))
        _, _, tokens, presence = self._run_decoder(frame, top, sparse, dense, several=False)
        shown = mask_B1SS.flatten(1).any(1)
        seen = ((presence[:, 0] > 0) & shown)[:, None]
        pointer = torch.where(seen, self.object_pointer_proj(tokens[:, 0]), self.no_object_pointer)
        logits = fit_square(mask_B1SS * MASK_SCALE + MASK_BIAS, self.image_size // self.logit_stride)
        sure, there = torch.ones_like(presence[:, 0]), shown * MASK_SCALE + MASK_BIAS
        return FramePrediction(logits[:, 0], sure, there, pointer, logits, sure[:, None])

    def _fit(self, mask: Tensor) -> Tensor:
        """A mask at the size that the prompt encoder takes (stride 4)."""
        return fit_square(mask, 4 * self.prompt_encoder.side)

    def _sparse(self, instructions: Sequence[Instruction | None]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Points (B, P, 2) with their labels: corners of a box first (labels 2 and 3), then clicks; earlier logits."""
        pairs = [_points_of(None if one is None else one.prompt) for one in instructions]
        points_BP2 = torch.as_tensor(np.stack([xy for xy, _ in pairs]), dtype=torch.float32, device=self.device)
        labels_BP = torch.as_tensor(np.stack([sort for _, sort in pairs]), dtype=torch.long, device=self.device)
        earlier = [logits for one in instructions if one is not None and (logits := self._earlier(one)) is not None]
        return points_BP2, labels_BP, torch.stack(earlier)[:, None].to(points_BP2.dtype) if earlier else None

    def _encoded(self, points_BP2: Tensor, labels_BP: Tensor, mask_B1hw: Tensor | None) -> tuple[Tensor, Tensor]:
        """Prompts as tokens and as a map; in float32, since places are instructions by their last digits."""
        with torch.autocast(self.device.type, enabled=False):
            mask = None if mask_B1hw is None else mask_B1hw.float()
            return self.prompt_encoder(points_BP2, labels_BP, mask)

    def _earlier(self, one: Instruction) -> Tensor | None:
        """Logits that clicks correct: the earlier answer, or the mask that was given with them."""
        logits = one.earlier_hw
        if logits is None and one.prompt.mask_hw is not None:
            mask = torch.as_tensor(one.prompt.mask_hw, dtype=torch.float32, device=self.device)
            logits = mask * MASK_SCALE + MASK_BIAS
        return None if logits is None else self._fit(logits[None, None])[0, 0]


def _points_of(prompt: FramePrompt | None) -> tuple[np.ndarray, np.ndarray]:
    """Points (P, 2) and labels (P,): corners of a box first (2 and 3), then clicks (1 inside, 0 outside); −1 is no point."""
    if prompt is None or (prompt.box_xyxy is None and not len(prompt.points_xy)):
        return np.zeros((1, 2), np.float32), np.full(1, -1, np.int64)  # "not a point", as SAM 2 says nothing
    if prompt.box_xyxy is None:
        return prompt.points_xy, prompt.labels
    corners = prompt.box_xyxy.reshape(2, 2)
    return np.concatenate([corners, prompt.points_xy]), np.concatenate([[2, 3], prompt.labels])


def _kind_of(instruction: Instruction | None) -> tuple[object, ...]:
    """What objects must agree in to be decoded together."""
    if instruction is None:
        return ("nothing",)
    prompt = instruction.prompt
    if prompt.mask_hw is not None and not len(prompt.points_xy):
        return ("mask",)
    bare = instruction.earlier_hw is None and prompt.mask_hw is None
    return ("points", len(prompt.points_xy), prompt.box_xyxy is not None, bare)

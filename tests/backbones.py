"""A backbone whose answer is known: it outlines what is as bright as what was pointed at, and counts what it is asked."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from medical_sam2.model.backbone import Features, FramePrediction, Fused, Instruction, Memory, Recall

TOLERANCE = 0.1  # of the intensity, in [0, 1]


@dataclass
class Counts:
    """Calls of each verb."""

    encoded: list[bytes] = field(default_factory=list, repr=False)
    decoded: list[int] = field(default_factory=list, repr=False)
    most_memories: int = 0


class Brightness(nn.Module):
    """Remembers the intensity under a prompt, and finds it again; a box points at its middle, a mask at its median.

    An outline is answered with itself; a frame on which nothing is as bright is one where the object is absent.
    """

    def __init__(self, image_size: int = 64) -> None:
        super().__init__()
        self.image_size = image_size
        self.counts = Counts()

    def encode(self, frames_N3SS: Tensor) -> Features:
        self.counts.encoded.append(frames_N3SS.numpy().tobytes())
        frame = frames_N3SS[:, :1]
        return Features(frame, (frame, frame), frame.mean((2, 3)))

    def fuse(self, frame: Features, recall: Recall) -> Fused:
        """Remembered intensity, -1 where there is none, as a map of one pixel."""
        self.counts.most_memories = max(self.counts.most_memories, *(sum(r.map for r in own) for own in recall))
        known = [torch.stack([r.memory.pointer_C[0] for r in own]).median() if own else torch.tensor(-1.0) for own in recall]
        return Fused(torch.stack(known)[:, None, None, None])

    def decode(self, frame: Features, fused: Fused, instructions: Sequence[Instruction | None]) -> FramePrediction:
        self.counts.decoded.append(len(instructions))
        picture = frame.top_BChw[0, 0]
        known = [self._pointed(picture, told, fused.map_BChw[b, 0, 0, 0]) for b, told in enumerate(instructions)]
        masks = [self._mask(picture, told, value) for told, value in zip(instructions, known, strict=True)]
        there = torch.stack([mask.any() for mask in masks]).float()
        logits = torch.stack(masks).float() * 20 - 10
        return FramePrediction(logits, 0.9 * there, there * 2 - 1, torch.stack(known)[:, None], logits[:, None], there[:, None])

    def memorise(self, frame: Features, prediction: FramePrediction, t: int, prompted: Sequence[bool]) -> list[Memory]:
        sure = prediction.confidence_B.tolist()
        return [
            Memory(t, prompted[b], frame.top_BChw[0, :, ::8, ::8], prediction.pointer_BC[b], frame.summary_BC[0], sure[b])
            for b in range(len(prompted))
        ]

    def _pointed(self, picture: Tensor, told: Instruction | None, remembered: Tensor) -> Tensor:
        if told is None:
            return remembered
        prompt = told.prompt
        if prompt.mask_hw is not None:
            return picture[torch.as_tensor(prompt.mask_hw)].median()
        inside = prompt.points_xy[prompt.labels == 1]
        if prompt.box_xyxy is None and not len(inside):
            return remembered
        x, y = inside[0] if prompt.box_xyxy is None else prompt.box_xyxy.reshape(2, 2).mean(0)
        last = self.image_size - 1
        return picture[min(max(round(float(y)), 0), last), min(max(round(float(x)), 0), last)]

    def _mask(self, picture: Tensor, told: Instruction | None, value: Tensor) -> Tensor:
        if told is not None and told.prompt.mask_hw is not None and not len(told.prompt.points_xy):
            return torch.as_tensor(told.prompt.mask_hw)
        return (picture - value).abs() < TOLERANCE

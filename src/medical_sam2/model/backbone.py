"""What tracking asks of a network: four verbs, and the nouns that pass between them.

Shapes: B objects (or clips) in lock step, N frames, C channels, h w feature map, S network input size, P clicks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from medical_sam2.prompts import FramePrompt

Own: TypeAlias = Mapping[str, Tensor]
"""What a network keeps beside what every network has, by name; a part has a row for each frame or object, as the others do."""


@dataclass(frozen=True, eq=False)
class Features:
    """One frame seen by the encoder, the same for all its objects."""

    top_BChw: Tensor  # deepest map (stride 16) that memory attention works on; B is 1 where objects share the frame
    fine_BChw: tuple[Tensor, Tensor]  # maps of stride 4 and 8 that the decoder takes its borders from
    summary_BC: Tensor  # mean of the deepest map, the "image embedding" that likeness (equation 4) is measured on
    own: Own = field(default_factory=dict)  # further maps of the network

    def select(self, places_B: Tensor | list[int]) -> "Features":
        """Features of some of the frames or clips; shared features stay shared."""
        if self.top_BChw.shape[0] == 1:
            return self
        first, second = self.fine_BChw
        own = _select_rows(self.own, places_B)
        return Features(self.top_BChw[places_B], (first[places_B], second[places_B]), self.summary_BC[places_B], own)


@dataclass(frozen=True, eq=False)
class Fused:
    """One frame in the light of what each of B objects remembers."""

    map_BChw: Tensor  # deepest map, which the decoder works on
    own: Own = field(default_factory=dict)  # what else the network found in memory

    def select(self, places_B: list[int]) -> "Fused":
        """The same for some of the objects."""
        return Fused(self.map_BChw[places_B], _select_rows(self.own, places_B))


def _select_rows(own: Own, places_B: Tensor | list[int]) -> Own:
    return {name: part[places_B] for name, part in own.items()}


@dataclass(frozen=True, eq=False)
class FramePrediction:
    """What the decoder says of each object on one frame."""

    logits_Bhw: Tensor  # mask logits at stride 4, or finer; an absent object's are all far below zero
    iou_B: Tensor  # predicted IoU of that mask in [0, 1]: the confidence that sorts the bank
    presence_B: Tensor  # logit that the object is on the frame
    pointer_BC: Tensor  # object pointer
    candidates_BKhw: Tensor  # every mask that the decoder proposed, ungated, for the losses of training
    candidate_iou_BK: Tensor  # their predicted IoUs

    @property
    def confidence_B(self) -> Tensor:
        """Predicted IoU, 0 where the object is judged absent."""
        return self.iou_B * (self.presence_B > 0)

    def assume_present(self, sure_B: Sequence[bool]) -> "FramePrediction":
        """The same, where some objects are known to be on the frame: they get their surest mask, present or not."""
        overruled = torch.tensor(sure_B, device=self.presence_B.device) & (self.presence_B <= 0)
        if not overruled.any():
            return self
        best = self.candidate_iou_BK.argmax(1)
        masks = self.candidates_BKhw[torch.arange(len(best), device=best.device), best]
        logits = torch.where(overruled[:, None, None], masks.to(self.logits_Bhw.dtype), self.logits_Bhw)
        presence = torch.where(overruled, torch.finfo(self.presence_B.dtype).tiny, self.presence_B)
        return replace(self, logits_Bhw=logits, presence_B=presence)

    def select(self, places: Sequence[int]) -> "FramePrediction":
        """The prediction of some of the objects."""
        index = torch.as_tensor(places, dtype=torch.long)
        return FramePrediction(**{each.name: getattr(self, each.name)[index] for each in fields(self)})


@dataclass(frozen=True, eq=False)
class Memory:
    """One frame remembered for one object."""

    t: int  # index of the frame
    prompted: bool  # whether a person prompted it
    map_Chw: Tensor  # output of the memory encoder
    pointer_C: Tensor  # object pointer
    summary_C: Tensor  # image embedding of the frame
    confidence: float  # predicted IoU in [0, 1], 0 where the object is judged absent
    own: Own = field(default_factory=dict)  # what the network remembers beside, without a row per object


@dataclass(frozen=True, eq=False)
class Recalled:
    """One memory as it is attended to."""

    memory: Memory  # what is remembered
    log_weight: float = 0.0  # added to every attention score of this memory: log of how many times it counts
    # which temporal encoding it gets: 0 that of a prompted frame, d that of distance d, None no encoding
    place: int | None = None
    elapsed: float | None = None  # frames since, for the time of its pointer, as a share of the longest; None without time
    map: bool = True  # whether its map is attended to (SAM 2 keeps more pointers than maps)
    pointer: bool = True  # whether its pointer is attended to
    near: bool = False  # whether it is the frame next to this one, as slices of a volume are


Recall = Sequence[Sequence[Recalled]]
"""For each object, what it remembers; an empty sequence is an object that has no past."""


Wanted: TypeAlias = Literal["answer", "every", "rough"]
"""The answer; every mask that is proposed, as good as the answer; or the answer without its finest borders, in less time."""


@dataclass(frozen=True, eq=False)
class Instruction:
    """A prompt for one object as the decoder takes it."""

    prompt: FramePrompt  # clicks, box or mask in pixels of the network's input
    earlier_hw: Tensor | None = None  # logits of an earlier answer on the same frame that the clicks correct
    first: bool = True  # whether the frame was prompted before it was tracked
    wanted: Wanted = "answer"


class Backbone(Protocol):
    """A network that outlines objects frame by frame.

    Frames reach it with intensities in [0, 1]; those of a `Sam2` are normalised by whoever calls `encode`.
    """

    @property
    def image_size(self) -> int:
        """Side S of the square input in pixels."""
        ...

    def encode(self, frames_N3SS: Tensor) -> Features:
        """See N frames: features with B = N."""
        ...

    def fuse(self, frame: Features, recall: Recall) -> Fused:
        """The frame in the light of what each of B objects remembers."""
        ...

    def decode(self, frame: Features, fused: Fused, instructions: Sequence[Instruction | None]) -> FramePrediction:
        """The mask of each object, prompted or not."""
        ...

    def memorise(self, frame: Features, prediction: FramePrediction, t: int, prompted: Sequence[bool]) -> list[Memory]:
        """What to remember of the frame, for each object."""
        ...


def gather(predictions: Sequence[FramePrediction], places: Sequence[Sequence[int]]) -> FramePrediction:
    """Put predictions of groups of objects back into one, in the objects' order."""
    order = torch.tensor([place for group in places for place in group]).argsort()
    width = max(p.candidate_iou_BK.shape[1] for p in predictions)

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(p, name) for p in predictions])[order]

    def padded(name: str) -> Tensor:
        parts = [getattr(p, name) for p in predictions]
        return torch.cat([x[:, [*range(x.shape[1]), *[0] * (width - x.shape[1])]] for x in parts])[order]

    return FramePrediction(
        logits_Bhw=joined("logits_Bhw"),
        iou_B=joined("iou_B"),
        presence_B=joined("presence_B"),
        pointer_BC=joined("pointer_BC"),
        candidates_BKhw=padded("candidates_BKhw"),
        candidate_iou_BK=padded("candidate_iou_BK"),
    )


def clone_rows(batch: Tensor) -> Sequence[Tensor]:
    """The rows of a batch, each with numbers of its own: one that is kept must not keep the others in memory."""
    return [part.clone() for part in batch] if len(batch) > 1 else list(batch)

"""A network that keeps less for the backward pass: what each verb computed is computed again when gradients pass."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from medical_sam2.model.backbone import Features, FramePrediction, Instruction, Memory, Recall
from medical_sam2.model.sam2 import Sam2

T = TypeVar("T")


class Frugal:
    """The four verbs of a network under activation checkpointing; frames are seen one by one. A `Backbone`.

    Args:
        network: whose weights learn.
    """

    def __init__(self, network: Sam2) -> None:
        self.network = network

    @property
    def image_size(self) -> int:
        """Side S of the square input in pixels."""
        return self.network.image_size

    def encode(self, frames_N3SS: Tensor) -> Features:
        """See N frames, one after the other."""
        return _joined([_again(self.network.encode, frame) for frame in frames_N3SS.split(1)])

    def fuse(self, frame: Features, recall: Recall) -> Tensor:
        """As the network."""
        return _again(self.network.fuse, frame, recall)

    def decode(self, frame: Features, fused_BChw: Tensor, instructions: Sequence[Instruction | None]) -> FramePrediction:
        """As the network."""
        return _again(self.network.decode, frame, fused_BChw, instructions)

    def memorise(self, frame: Features, prediction: FramePrediction, t: int, prompted: Sequence[bool]) -> list[Memory]:
        """As the network."""
        return _again(self.network.memorise, frame, prediction, t, prompted)


def _again(verb: Callable[..., T], *arguments: Any) -> T:
    answer: Any = checkpoint(verb, *arguments, use_reentrant=False, determinism_check="none")
    return answer


def _joined(frames: Sequence[Features]) -> Features:
    first, second = (torch.cat([frame.fine_BChw[level] for frame in frames]) for level in (0, 1))
    top, summary = torch.cat([frame.top_BChw for frame in frames]), torch.cat([frame.summary_BC for frame in frames])
    further = (_all([getattr(frame, name) for frame in frames]) for name in ("key_BDhw", "look_BDhw", "finest_BChw"))
    return Features(top, (first, second), summary, *further)


def _all(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None

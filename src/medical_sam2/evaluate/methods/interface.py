"""Who answers: one small interface, so that our network, classical methods and other programs are measured alike.

Shapes: T slices of the prompted view, or images of a set; H W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from medical_sam2.evaluate.cases import FramePrompts, MaskArray, VolumeTask
from medical_sam2.prompts import Prompt
from medical_sam2.segmenter import Segmenter


@dataclass(frozen=True, eq=False)
class MethodAnswer:
    """An answer."""

    masks: Sequence[MaskArray]  # (H, W) bool of every frame
    # frame → predicted IoU in [0, 1], of frames that nobody prompted; empty where there is none
    sure: Mapping[int, float] = field(default_factory=dict)
    # mutual information in nats of what was attended to, frame after frame, where it was watched
    information: Sequence[float] = ()


@dataclass(frozen=True)
class TrainingCases:
    """What a method may learn from that is trained for the task: labelled cases that are not measured."""

    folder: Path  # of the data set
    structure: str  # that is asked for
    cases: tuple[str, ...]  # identifiers


@dataclass(frozen=True)
class MethodInputs:
    """What a method may look at beside the case and the prompts."""

    segmenter: Segmenter  # the network
    views: str = "one"  # of volumes
    fusion: str = "mean"  # of views
    order: Sequence[int] = ()  # in which the images of a set are visited
    watch: bool = False  # whether the bank's mutual information is recorded
    limit_s: float = 600.0  # that a command of another program may take
    training: TrainingCases | None = None  # cases to learn the task from
    # all prompts of a volume in voxels, where they say more than those of its slices do (a line, where it ends); else empty
    volume_prompts: Sequence[Prompt] = ()


class Method(Protocol):
    """Answers prompts. The truth within a task is not for it to look at: only `volume` and `view`."""

    def on_volume(self, inputs: MethodInputs, task: VolumeTask, prompts: FramePrompts) -> MethodAnswer:
        """Outline a structure on all slices of the view (T, H, W)."""
        ...

    def on_images(self, inputs: MethodInputs, images: Sequence[NDArray[np.generic]], prompts: FramePrompts) -> MethodAnswer:
        """Outline a structure on all images of a set."""
        ...


@runtime_checkable
class Correcting(Protocol):
    """A method that mends its earlier answer where it is clicked on; others are asked anew, with all prompts so far."""

    def correct_volume(
        self, inputs: MethodInputs, task: VolumeTask, earlier_thw: MaskArray, prompts: FramePrompts
    ) -> MethodAnswer:
        """The earlier answer after one more click."""
        ...

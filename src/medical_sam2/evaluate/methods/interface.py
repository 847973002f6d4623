"""Who answers: one small interface, so that our network, classical methods and other programs are measured alike.

Shapes: T slices of the prompted view, or images of a set; H W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medical_sam2.evaluate.cases import VolumeTask
from medical_sam2.evaluate.prompting import FramePrompts, MaskArray
from medical_sam2.segmenter import Segmenter


@dataclass(frozen=True, eq=False)
class MethodAnswer:
    """An answer.

    Args:
        masks: (H, W) bool of every frame.
        sure: frame → predicted IoU in [0, 1], of frames that nobody prompted; empty where there is none.
        information: mutual information in nats of what was attended to, frame after frame, where it was watched.
    """

    masks: Sequence[MaskArray]
    sure: Mapping[int, float] = field(default_factory=dict)
    information: Sequence[float] = ()


@dataclass(frozen=True)
class TrainingCases:
    """What a method may learn from that is trained for the task: labelled cases that are not measured.

    Args:
        folder: of the data set.
        structure: that is asked for.
        cases: identifiers.
    """

    folder: Path
    structure: str
    cases: tuple[str, ...]


@dataclass(frozen=True)
class MethodInputs:
    """What a method may look at beside the case and the prompts.

    Args:
        segmenter: the network.
        views: of volumes.
        fusion: of views.
        order: in which the images of a set are visited.
        watch: whether the bank's mutual information is recorded.
        limit_s: that a command of another program may take.
        training: cases to learn the task from.
    """

    segmenter: Segmenter
    views: str = "one"
    fusion: str = "mean"
    order: Sequence[int] = ()
    watch: bool = False
    limit_s: float = 600.0
    training: TrainingCases | None = None


class Method(Protocol):
    """Answers prompts. The truth within a task is not for it to look at: only `volume` and `view`."""

    def on_volume(self, inputs: MethodInputs, task: VolumeTask, prompts: FramePrompts) -> MethodAnswer:
        """Outline a structure on all slices of the view (T, H, W)."""
        ...

    def on_images(self, inputs: MethodInputs, images: Sequence[NDArray[np.generic]], prompts: FramePrompts) -> MethodAnswer:
        """Outline a structure on all images of a set."""
        ...

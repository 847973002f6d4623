"""Who answers: one small interface, so that our network, classical methods and other programs are measured alike.

Shapes: T slices of the prompted view, or images of a set; H W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medical_sam2.evaluate.tasks import MaskArray, VolumeTask
from medical_sam2.intensity_window import Window, choose_window
from medical_sam2.prompts import FramePrompt, intensities
from medical_sam2.segmenter import Segmenter

Said = Mapping[int, FramePrompt]
"""Frame → what was said there, in its pixels."""


@dataclass(frozen=True, eq=False)
class Found:
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
class Training:
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
class Asked:
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
    training: Training | None = None


class Method(Protocol):
    """Answers prompts. The truth within a task is not for it to look at: only `volume` and `view`."""

    def on_volume(self, asked: Asked, task: VolumeTask, said: Said) -> Found:
        """Outline a structure on all slices of the view (T, H, W)."""
        ...

    def on_images(self, asked: Asked, images: Sequence[NDArray[np.generic]], said: Said) -> Found:
        """Outline a structure on all images of a set."""
        ...


def slices_of(task: VolumeTask) -> NDArray[np.generic]:
    """The slices (T, H, W) of the prompted view, as stored, not a copy."""
    return task.view.apply(task.volume.array, task.volume.orientation)


def window_of(task: VolumeTask, said: Said) -> Window:
    """The window that the network would see the prompted structure through."""
    slices = slices_of(task)
    inside = [intensities(slices[t], prompt) for t, prompt in sorted(said.items())]
    return choose_window(task.volume, inside=np.concatenate(inside) if inside else None)

"""Who answers: one small interface, so that our network, classical methods and other programs are measured alike.

What methods that somebody else wrote raise, and what is wrong with their answers, is told as theirs.

Shapes: T slices of the prompted view, or images of a set; H W pixels.
"""

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import InputError, MedicalSam2Error
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


class MethodError(InputError):
    """Somebody's own method failed, or its answer cannot be used; once it is mended, a further run asks it again."""


@dataclass(frozen=True)
class UserMethod:
    """A method whose faults are named as its own."""

    name: str  # of it, such as `own.py:METHOD`
    method: Method  # it

    def on_volume(self, inputs: MethodInputs, task: VolumeTask, prompts: FramePrompts) -> MethodAnswer:
        """Its answer; raises MethodError."""
        return self._ask(lambda: self.method.on_volume(inputs, task, prompts), task.truth_thw)

    def on_images(self, inputs: MethodInputs, images: Sequence[NDArray[np.generic]], prompts: FramePrompts) -> MethodAnswer:
        """Its answer; raises MethodError."""
        return self._ask(lambda: self.method.on_images(inputs, images, prompts), images)

    def _ask(self, call: Callable[[], MethodAnswer], frames: Sequence[NDArray[Any]] | NDArray[Any]) -> MethodAnswer:
        try:
            found = call()
        except MedicalSam2Error:
            raise  # it refuses, as ours do
        except Exception as error:  # whatever foreign code raises is its fault
            problem = f"{type(error).__name__}: {error} ({self._place(error)})"
            raise MethodError(problem, "mend it", subject=self.name) from error
        return check_answer(found, [frame.shape[:2] for frame in frames], self.name)

    def _place(self, error: Exception) -> str:
        """File and line, the deepest ones of the method's own file where the error passed through it."""
        frames = traceback.extract_tb(error.__traceback__)
        kind = self.method if isinstance(self.method, type) else type(self.method)
        file = getattr(sys.modules.get(kind.__module__), "__file__", None)
        last = ([each for each in frames if each.filename == file] or frames)[-1]
        return f"{Path(last.filename).name}:{last.lineno}"


@dataclass(frozen=True)
class UserCorrecting(UserMethod):
    """The same of a method that mends its earlier answer."""

    method: Any

    def correct_volume(
        self, inputs: MethodInputs, task: VolumeTask, earlier_thw: MaskArray, prompts: FramePrompts
    ) -> MethodAnswer:
        """Its answer; raises MethodError."""
        return self._ask(lambda: self.method.correct_volume(inputs, task, earlier_thw, prompts), task.truth_thw)


def guard_method(name: str, method: Method) -> Method:
    """Somebody's method, so that its faults are not taken for defects of this program."""
    return UserCorrecting(name, method) if isinstance(method, Correcting) else UserMethod(name, method)


def check_answer(found: MethodAnswer, shapes_hw: Sequence[tuple[int, ...]], name: str) -> MethodAnswer:
    """The answer with masks of bool, if there is one for each frame in its shape, and what is sure is told of frames.

    Raises:
        MethodError: it is something else.
    """
    if not isinstance(found, MethodAnswer):  # pyright: ignore[reportUnnecessaryIsInstance]  # foreign code answers what it likes
        raise MethodError(f"it answered with {type(found).__name__}", "answer with MethodAnswer(masks)", subject=name)
    masks = [np.asarray(mask) for mask in found.masks]
    if len(masks) != len(shapes_hw):
        problem = f"it answered {len(masks)} masks, expected {len(shapes_hw)}"
        raise MethodError(problem, "give one of each frame", subject=name)
    for t, (mask, shape) in enumerate(zip(masks, shapes_hw, strict=True)):
        if mask.shape != shape:
            problem = f"its mask of frame {t} is {_say_shape(mask.shape)}, expected {_say_shape(shape)}"
            raise MethodError(problem, "give rows × columns of the frame", subject=name)
        if mask.dtype.kind not in "biu":
            problem = f"its mask of frame {t} is of type {mask.dtype}, expected bool"
            raise MethodError(problem, "decide what is inside", subject=name)
    frames = range(len(masks))
    if not isinstance(found.sure, Mapping) or any(t not in frames for t in found.sure):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise MethodError("it is sure of what are no frames", f"give frame → number, from 0 to {len(masks) - 1}", subject=name)
    return replace(found, masks=[mask != 0 for mask in masks])


def _say_shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) or "a single number"

"""What is to be outlined, and how well it was: a structure of a volume, or of a set of images, loaded once.

Shapes: I J K voxels in the order of the file, T slices of the view that is prompted, H W pixels of a slice or an image.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medical_sam2.data.data_sets import Case, DataSet, LoadedCase, read_data_set
from medical_sam2.errors import PromptError
from medical_sam2.evaluate.prompting import FramePrompts, Kind, MaskArray, check_boxable, draw_prompt
from medical_sam2.intensity_window import Window, choose_window, percentile_window
from medical_sam2.metrics import dice
from medical_sam2.prompts import Box, FramePrompt, Mask, Point, Prompt, intensities
from medical_sam2.tracking.plan import array_axis, primary_view
from medical_sam2.views import View
from medical_sam2.volume import Volume


@dataclass(frozen=True, eq=False)
class VolumeTask:
    """One structure of a volume, prompted on its largest slice in the plane of the finest pixels.

    Raises:
        PromptError: the structure lies on fewer than two slices, or is a single row of pixels on the largest.
    """

    volume: Volume  # the image
    truth_ijk: MaskArray  # (I, J, K) bool, in its grid

    def __post_init__(self) -> None:
        if (self.truth_thw.any(axis=(1, 2))).sum() < 2:
            raise PromptError("the structure lies on fewer than two slices", "leave it out")
        check_boxable(self.truth_thw[self.start])

    @property
    def view(self) -> View:
        """In which slices it is prompted."""
        return primary_view(self.volume, [Point((0, 0, 0))])

    @property
    def truth_thw(self) -> MaskArray:
        """The structure along the view, not a copy."""
        return self.view.apply(self.truth_ijk, self.volume.orientation)

    @property
    def start(self) -> int:
        """The largest slice."""
        return int(self.truth_thw.sum(axis=(1, 2)).argmax())

    def prompt(self, kind: Kind, rng: np.random.Generator) -> Prompt:
        """That of the user; the generator decides between equally good places for a click."""
        return self.in_volume(self.start, draw_prompt(self.truth_thw[self.start], kind, rng))

    def in_volume(self, t: int, prompt: FramePrompt) -> Prompt:
        """An outline, a box or a click on a slice of the view, in voxels."""
        if prompt.mask_hw is not None:
            only = np.zeros(self.truth_ijk.shape, bool)
            self.view.apply(only, self.volume.orientation)[t] = prompt.mask_hw
            return Mask(only, axis=array_axis(self.volume, self.view))
        if prompt.box_xyxy is not None:
            x_low, y_low, x_high, y_high = (round(along) for along in prompt.box_xyxy.tolist())
            corners = np.array([self._voxel(t, y_low, x_low), self._voxel(t, y_high, x_high)])
            (i, j, k), (l, m, n) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()  # noqa: E741
            return Box((i, j, k), (l, m, n))
        x, y = (round(along) for along in prompt.points_xy[0].tolist())
        return Point(self._voxel(t, y, x))

    def frame_prompt(self, prompt: Prompt) -> FramePrompt:
        """The same in pixels of the prompted slice."""
        return prompt.project(self.view, self.volume.shape, self.volume.orientation)[self.start]

    @property
    def slices_thw(self) -> NDArray[np.generic]:
        """The slices of the prompted view, as stored, not a copy."""
        return self.view.apply(self.volume.array, self.volume.orientation)

    def window(self, prompts: FramePrompts) -> Window:
        """The window that the network would see the prompted structure through."""
        slices_thw = self.slices_thw
        inside = [intensities(slices_thw[t], prompt) for t, prompt in sorted(prompts.items())]
        return choose_window(self.volume, inside=np.concatenate(inside) if inside else None)

    def score(self, found_thw: MaskArray) -> float:
        """Dice over all slices but the prompted one, in [0, 1]."""
        others = np.arange(len(found_thw)) != self.start
        return dice(self.truth_thw[others], found_thw[others])

    def _voxel(self, t: int, row: int, column: int) -> tuple[int, int, int]:
        axes, index = self.volume.orientation, [0, 0, 0]
        for place, flip, along in zip(self.view.order(axes), self.view.flipped(axes), (t, row, column), strict=True):
            index[place] = self.volume.shape[place] - 1 - along if flip else along
        return index[0], index[1], index[2]


@dataclass(frozen=True, eq=False)
class SetTask:
    """One structure of a set of images, prompted on one of them.

    Raises:
        PromptError: the template does not show the structure, or as a single row of pixels.
    """

    images: Sequence[NDArray[np.generic]]  # (H, W) or (H, W, 3) each, of any size
    truths: Sequence[MaskArray]  # (H, W) bool each
    template: int  # the image that is prompted

    def __post_init__(self) -> None:
        check_boxable(self.truths[self.template])

    def prompt(self, kind: Kind, rng: np.random.Generator) -> FramePrompt:
        """That of the user on the template."""
        return draw_prompt(self.truths[self.template], kind, rng)

    def scores(self, found: Mapping[int, MaskArray]) -> dict[int, float]:
        """Dice of each image but the template; nan where the structure is neither there nor found."""
        return {i: dice(truth, found[i]) for i, truth in enumerate(self.truths) if i != self.template}


@dataclass(frozen=True, eq=False)
class EvaluationCase:
    """Frames that show a structure."""

    name: str  # data set, case and structure: what the draw of prompts depends on
    truths: Sequence[MaskArray]  # (H, W) bool of each frame
    ignored: Sequence[MaskArray]  # (H, W) bool of each frame, where nobody outlined anything
    # of the pixels of each frame in mm, (T, H, W) of a volume; None where a picture does not tell
    spacings: Sequence[tuple[float, ...] | None]
    task: VolumeTask | None = None  # the volume
    images: Sequence[NDArray[np.generic]] = ()  # of the set

    def viewer(self, prompts: FramePrompts) -> Callable[[int], NDArray[np.float32]]:
        """A frame → it (H, W) or (H, W, 3) in [0, 1], as the network would see it."""
        if self.task is None:
            return lambda t: percentile_window(self.images[t]).apply(self.images[t])
        window, slices = self.task.window(prompts), self.task.slices_thw
        return lambda t: window.apply(slices[t])


@lru_cache(maxsize=64)
def open_data_set(folder: Path) -> DataSet:
    """The listing of a data set."""
    return read_data_set(folder)


@lru_cache(maxsize=2)
def load_case(folder: Path, case: str, cases: tuple[str, ...], structure: str) -> EvaluationCase:
    """A structure of a volume, or of the images of a set.

    Args:
        folder: of the data set.
        case: identifier of the volume; empty for a set.
        cases: identifiers of the images of a set.
        structure: name.

    Raises:
        PromptError: there is nothing to measure.
    """
    return _load_volume(folder, case, structure) if case else _load_set(folder, cases, structure)


@lru_cache(maxsize=1)
def load_images(folder: Path, identifiers: tuple[str, ...]) -> list[LoadedCase]:
    """Volumes or images of a data set, with their labels; structures of the same ones share them."""
    data = open_data_set(folder)
    by_name: dict[str, Case] = {case.identifier: case for case in data.cases}
    return [data.load(by_name[identifier]) for identifier in identifiers]


def _load_volume(folder: Path, case: str, structure: str) -> EvaluationCase:
    data, (loaded,) = open_data_set(folder), load_images(folder, (case,))
    volume, labels = loaded.images[0], loaded.labels
    if labels is None or not isinstance(volume, Volume):
        raise PromptError("it has no label map", "add one")
    truth = data.mask(labels, structure)
    if not truth.any():
        raise PromptError("the structure is not in this case")
    task = VolumeTask(volume, truth)
    ignored = _ignored(task.view.apply(labels, volume.orientation), data.ignore)
    spacing = task.view.spacing(volume.spacing_mm, volume.orientation)
    return EvaluationCase(f"{data.name}/{case}/{structure}", list(task.truth_thw), list(ignored), [spacing], task)


def _load_set(folder: Path, cases: tuple[str, ...], structure: str) -> EvaluationCase:
    data, loaded = open_data_set(folder), load_images(folder, cases)
    labels = [one.labels for one in loaded if one.labels is not None]
    spacings = [one.images[0].spacing_mm for one in loaded]
    return EvaluationCase(
        f"{data.name}/{structure}",
        [data.mask(each, structure) for each in labels],
        [_ignored(each, data.ignore) for each in labels],
        [(spacing[0], spacing[1]) if spacing is not None and len(spacing) == 2 else None for spacing in spacings],
        images=[one.images[0].array for one in loaded],
    )


def _ignored(labels: NDArray[Any], ignore: int | None) -> MaskArray:
    return np.zeros(labels.shape, bool) if ignore is None else np.asarray(labels == ignore)

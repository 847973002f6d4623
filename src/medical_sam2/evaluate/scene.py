"""What is outlined in a case, loaded once: a structure of a volume, or of all images of a set, as frames.

Shapes: T slices of the prompted view, or images of a set; H W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medical_sam2.data.data_sets import Case, LoadedCase
from medical_sam2.errors import PromptError
from medical_sam2.evaluate.job import Job, data_set
from medical_sam2.evaluate.methods.method import Asked, Found, Method, Said, slices_of, window_of
from medical_sam2.evaluate.tasks import MaskArray, VolumeTask
from medical_sam2.intensity_window import percentile_window
from medical_sam2.volume import Volume

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Scene:
    """Frames that show a structure.

    Args:
        name: data set, case and structure: what the draw of prompts depends on.
        truths: (H, W) bool of each frame.
        unknown: (H, W) bool of each frame, where nobody outlined anything.
        spacings: of the pixels of each frame in mm, (T, H, W) of a volume; None where a picture does not tell.
        task: the volume.
        images: of the set.
    """

    name: str
    truths: Sequence[MaskArray]
    unknown: Sequence[MaskArray]
    spacings: Sequence[tuple[float, ...] | None]
    task: VolumeTask | None = None
    images: Sequence[NDArray[np.generic]] = ()

    def ask(self, method: Method, asked: Asked, said: Said) -> Found:
        """The answer of a method, without what nobody outlined."""
        if self.task is not None:
            found = method.on_volume(asked, self.task, said)
        else:
            found = method.on_images(asked, self.images, said)
        return replace(found, masks=[mask & ~void for mask, void in zip(found.masks, self.unknown, strict=True)])

    def seen(self, said: Said) -> Callable[[int], Floats]:
        """A frame → it (H, W) or (H, W, 3) in [0, 1], as the network would see it."""
        if self.task is None:
            return lambda t: percentile_window(self.images[t]).apply(self.images[t])
        window, slices = window_of(self.task, said), slices_of(self.task)
        return lambda t: window.apply(slices[t])


def scene(job: Job) -> Scene:
    """That of a job.

    Raises:
        PromptError: there is nothing to measure.
    """
    return _scene(job.folder, job.case, job.cases, job.structure)


@lru_cache(maxsize=2)
def _scene(folder: Path, case: str, cases: tuple[str, ...], structure: str) -> Scene:
    return _volume(folder, case, structure) if case else _set(folder, cases, structure)


@lru_cache(maxsize=1)
def _loaded(folder: Path, identifiers: tuple[str, ...]) -> list[LoadedCase]:
    data = data_set(folder)
    by_name: dict[str, Case] = {case.identifier: case for case in data.cases}
    return [data.load(by_name[identifier]) for identifier in identifiers]


def _volume(folder: Path, case: str, structure: str) -> Scene:
    data, (loaded,) = data_set(folder), _loaded(folder, (case,))
    volume, labels = loaded.images[0], loaded.labels
    if labels is None or not isinstance(volume, Volume):
        raise PromptError("it has no label map", "add one")
    if volume.modality is None and data.modality == "CT":
        volume = replace(volume, modality="CT")
    truth = data.mask(labels, structure)
    if not truth.any():
        raise PromptError("the structure is not in this case")
    task = VolumeTask(volume, truth)
    void = _void(task.view.apply(labels, volume.orientation), data.ignore)
    spacing = task.view.spacing(volume.spacing_mm, volume.orientation)
    return Scene(f"{data.name}/{case}/{structure}", list(task.truth_thw), list(void), [spacing], task)


def _set(folder: Path, cases: tuple[str, ...], structure: str) -> Scene:
    data, loaded = data_set(folder), _loaded(folder, cases)
    labels = [one.labels for one in loaded if one.labels is not None]
    spacings = [one.images[0].spacing_mm for one in loaded]
    return Scene(
        f"{data.name}/{structure}",
        [data.mask(each, structure) for each in labels],
        [_void(each, data.ignore) for each in labels],
        [(spacing[0], spacing[1]) if spacing is not None and len(spacing) == 2 else None for spacing in spacings],
        images=[one.images[0].array for one in loaded],
    )


def _void(labels: NDArray[Any], ignore: int | None) -> MaskArray:
    return np.zeros(labels.shape, bool) if ignore is None else np.asarray(labels == ignore)

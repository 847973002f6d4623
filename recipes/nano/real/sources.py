"""The real images that cases are made from: volumes as stacks of slices, pictures in colour with the outlines of their set."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medical_sam2.data.cases import Task
from medical_sam2.data.data_sets import Case, DataSet
from medical_sam2.data.prepare.images import HOUNSFIELD, choose_view
from medical_sam2.data.prepare.units import DataSource
from medical_sam2.errors import FormatError
from medical_sam2.intensity_window import in_hounsfield, percentile_window
from medical_sam2.volume import Volume


@dataclass(frozen=True, eq=False)
class Stack:
    """A volume as slices.

    Args:
        name: of its data set or file.
        array: (D, H, W) float32 intensities.
        spacing_mm: of slices, rows and columns.
        hounsfield: whether the intensities are Hounsfield units.
    """

    name: str
    array: NDArray[np.float32]
    spacing_mm: tuple[float, float, float]
    hounsfield: bool


@dataclass(frozen=True, eq=False)
class Shot:
    """A picture of a set.

    Args:
        name: of its set.
        array: (H, W, 3) float32 from 0 to 1.
        labels: (H, W) uint8, None where nobody outlined anything.
        tasks: structures of the set, each a union of labels.
    """

    name: str
    array: NDArray[np.float32]
    labels: NDArray[np.uint8] | None
    tasks: tuple[Task, ...]


@dataclass(frozen=True, eq=False)
class Material:
    """Everything that cases may be made from.

    Args:
        stacks: volumes.
        shots: pictures.
    """

    stacks: tuple[Stack, ...]
    shots: tuple[Shot, ...]


@dataclass(frozen=True)
class Picked:
    """Which images are used.

    Args:
        folders: nnU-Net raw data sets, folders of images, DICOM series, files.
        half: of each data set and folder of images only every second case, at positions 1, 3, 5 … of the identifiers in order:
            the others stay unseen, to measure with. A file or series that is named itself is used.
        masks: whether the outlines of sets are objects too, beside those that are made. Outlines of volumes never are.
    """

    folders: tuple[Path, ...]
    half: bool = False
    masks: bool = True


@lru_cache(maxsize=2)
def read_material(picked: Picked) -> Material:
    """Read every image once.

    Raises:
        InputError: a folder is missing.
        FormatError: there is no image in it, or a broken one.
    """
    stacks: list[Stack] = []
    shots: list[Shot] = []
    for folder in picked.folders:
        dataset = DataSource(folder).open()
        cases = chosen(dataset, half=picked.half)
        if not cases:
            raise FormatError("it has no second case, so none is left to use", "name its image itself", subject=folder)
        for case in cases:
            loaded = dataset.load(case)
            for image in loaded.images:
                if isinstance(image, Volume):
                    stacks.append(_stack(dataset, image))
                else:
                    shots.append(_shot(dataset, image.array, loaded.labels if picked.masks else None))
    return Material(tuple(stacks), tuple(shots))


def chosen(dataset: DataSet, *, half: bool) -> tuple[Case, ...]:
    """The cases of a data set that are used; see `Picked.half`."""
    cases = sorted(dataset.cases, key=lambda case: case.identifier)
    named_itself = len(cases) == 1 and dataset.folder in cases[0].images
    return tuple(cases if named_itself or not half else cases[1::2])


def _stack(dataset: DataSet, volume: Volume) -> Stack:
    view, axes = choose_view(volume), volume.orientation
    array = np.ascontiguousarray(view.apply(volume.array, axes), np.float32)
    slices, rows, columns = (volume.spacing_mm[axis] for axis in view.order(axes))
    return Stack(dataset.name, array, (slices, rows, columns), in_hounsfield(volume.array, volume.modality or _known(dataset)))


def _known(dataset: DataSet) -> str | None:
    """What a data set says of its modality; folders without a description say nothing."""
    return HOUNSFIELD if dataset.modality == HOUNSFIELD else None


def _shot(dataset: DataSet, array: NDArray[Any], labels: NDArray[Any] | None) -> Shot:
    share = array.astype(np.float32) / 255 if array.dtype == np.uint8 else percentile_window(array).apply(array)
    colour = np.repeat(share[..., None], 3, axis=-1) if share.ndim == 2 else share
    tasks = tuple(dataset.structures.values()) if labels is not None else ()
    return Shot(dataset.name, colour.astype(np.float32, copy=False), None if labels is None else labels.astype(np.uint8), tasks)

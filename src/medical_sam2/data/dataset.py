"""Data sets of images with labels, as they lie on disk: what belongs together, and nothing loaded until it is asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medical_sam2 import io
from medical_sam2.data.cases import Kind
from medical_sam2.errors import ConfigError, FormatError, GeometryError
from medical_sam2.io import Picture
from medical_sam2.io.labels import fit, integers
from medical_sam2.plugins import suggestion
from medical_sam2.volume import Volume

Split = Literal["train", "test"]
SAME_GRID_MM = 1e-3
COLOURS = 3


@dataclass(frozen=True)
class Case:
    """One subject, or one image of a set.

    Args:
        identifier: its name, unique in the data set.
        images: a file (or folder with a DICOM series) for each channel, or one with all of them.
        label: its label map; None where there is none (test cases).
        split: "train" or "test".
    """

    identifier: str
    images: tuple[Path, ...]
    label: Path | None
    split: Split = "train"


@dataclass(frozen=True, eq=False)
class LoadedCase:
    """A case in memory.

    Args:
        images: a volume for each channel, all on one grid; or one picture.
        labels: (I, J, K) or (H, W) unsigned integers on the grid of the images, None where there are none.
    """

    images: tuple[Volume, ...] | tuple[Picture]
    labels: NDArray[np.unsignedinteger] | None


@dataclass(frozen=True)
class DataSet:
    """Images of one kind, with the same structures outlined in each.

    Args:
        name: what it is called.
        folder: where it lies.
        kind: "volume", or "set" for 2D images in no order.
        channels: what each channel shows ("CT"; "T1", "FLAIR"; "R", "G", "B").
        structures: name → values of the label map whose union it is; nested regions overlap.
        cases: training cases first, then test cases, each sorted by name.
        modality: what took the images ("CT", "MR", "fundus" …).
        ignore: value of the label map where nobody outlined anything, if there is one.
        prompt: "click", "box" or "mask", where the paper (METHOD §7) or the data set says.
        licence: of the data, where known.
        remap: number in the files of labels → value that is meant, where they differ; numbers that are not named are refused.
        opener: reads a file of images or labels of another format than `medical_sam2.io` knows.
    """

    name: str
    folder: Path
    kind: Kind
    channels: tuple[str, ...]
    structures: Mapping[str, tuple[int, ...]]
    cases: tuple[Case, ...]
    modality: str
    ignore: int | None = None
    prompt: str | None = None
    licence: str | None = None
    remap: Mapping[int, int] | None = None
    opener: Callable[[Path], Volume] | None = None

    @property
    def colour(self) -> bool:
        """Whether its images are colour pictures."""
        return self.kind == "set" and len(self.channels) == COLOURS

    def split(self, split: Split) -> tuple[Case, ...]:
        """The cases to train on, or those to test on."""
        return tuple(case for case in self.cases if case.split == split)

    def load(self, case: Case, *, max_bytes: int | None = None) -> LoadedCase:
        """Read the images and labels of a case.

        Raises:
            FormatError: a file is broken, of another kind, or its labels hold values that the data set does not declare.
            GeometryError: channels or labels that do not share a grid.
            ResourceError: too large.
        """
        if self.kind == "volume":
            return self._volumes(case, max_bytes)
        picture = _picture(case, max_bytes)
        if picture.colour and not self.colour:
            channels = ", ".join(self.channels)
            raise FormatError(f"it is in colour, and its channels are {channels}", "declare R, G, B", subject=case.images[0])
        if case.label is None:
            return LoadedCase((picture,), None)
        return LoadedCase((picture,), self._checked(_picture_labels(case.label, picture, max_bytes), case.label))

    def mask(self, labels: NDArray[Any], structure: str) -> NDArray[np.bool_]:
        """Where a structure is, in a label map of this data set.

        Raises:
            ConfigError: there is no such structure.
        """
        if structure not in self.structures:
            raise ConfigError(f"unknown structure {structure!r}", suggestion(structure, self.structures), subject=self.name)
        return np.isin(labels, self.structures[structure])

    def _volumes(self, case: Case, max_bytes: int | None) -> LoadedCase:
        volumes = tuple(self._volume(path, max_bytes) for path in case.images)
        first = volumes[0]
        for volume, path in zip(volumes, case.images, strict=True):
            if volume.shape != first.shape or np.abs(volume.affine - first.affine).max() > SAME_GRID_MM:
                raise GeometryError("it does not share the grid of the first channel", "resample it", subject=path)
        if case.label is None:
            return LoadedCase(volumes, None)
        labels = io.load_labels(case.label, first) if self.opener is None else fit(self.opener(case.label), first)
        return LoadedCase(volumes, self._checked(labels.array, case.label))

    def _volume(self, path: Path, max_bytes: int | None) -> Volume:
        return io.load(path, max_bytes=max_bytes) if self.opener is None else self.opener(path)

    def _checked(self, labels: NDArray[Any], path: Path) -> NDArray[Any]:
        if self.remap is not None:
            labels = _remapped(labels, self.remap, path)
        known = {0, *(value for values in self.structures.values() for value in values)}
        known |= set() if self.ignore is None else {self.ignore}
        strange = sorted(set(np.unique(labels).tolist()) - known)
        if strange:
            listed = ", ".join(map(str, strange[:5])) + (" …" if len(strange) > 5 else "")
            raise FormatError(
                f"it holds values that {self.name} does not declare: {listed}", "declare or remove them", subject=path
            )
        return labels


def _picture(case: Case, max_bytes: int | None) -> Picture:
    """The picture of a case; three files of grey values become one of three colours."""
    planes = tuple(_one_picture(path, max_bytes) for path in case.images)
    if len(planes) == 1:
        return planes[0]
    if len({plane.shape for plane in planes}) > 1 or any(plane.colour for plane in planes):
        raise GeometryError("its channels are not grey images of one size", "export them again", subject=case.images[0])
    kinds = sorted({plane.array.dtype.name for plane in planes})
    if len(planes) != 3 or kinds != ["uint8"]:
        problem = f"{len(planes)} channels of {', '.join(kinds)} make no colour image"
        raise FormatError(problem, "give one channel, or three of bytes", subject=case.images[0])
    return Picture(np.stack([plane.array for plane in planes], axis=-1), planes[0].spacing_mm, source=planes[0].source)


def _one_picture(path: Path, max_bytes: int | None) -> Picture:
    found = io.read(path, all_frames=True, max_bytes=max_bytes)
    if isinstance(found, Volume):
        return _flat(found, path)
    picture, *more = found
    if more:
        raise FormatError(f"it holds {1 + len(more)} pictures", "store one picture in each file", subject=path)
    return picture


def _flat(volume: Volume, path: Path) -> Picture:
    """A volume of one slice as a picture: rows downwards are its second long axis."""
    if 1 not in volume.shape:
        raise FormatError(f"a volume of shape {volume.shape} is no picture", "give single slices", subject=path)
    through = max(axis for axis in range(3) if volume.shape[axis] == 1)
    columns_mm, rows_mm = (volume.spacing_mm[axis] for axis in range(3) if axis != through)
    array: NDArray[Any] = np.take(volume.array, 0, axis=through).T
    return Picture(array, (rows_mm, columns_mm), volume.modality, path, warnings=volume.warnings)


def _picture_labels(path: Path, like: Picture, max_bytes: int | None) -> NDArray[Any]:
    found = _one_picture(path, max_bytes)
    array: NDArray[Any] = found.array
    if found.colour and bool((array == array[..., :1]).all()):
        array = array[..., 0]
    if array.ndim != 2:
        raise FormatError("it is in colour: no label map", "store the label of each pixel as one number", subject=path)
    if found.shape != like.shape:
        raise GeometryError(
            f"the labels have {found.shape} pixels, the image {like.shape}", "resample the labels", subject=path
        )
    return integers(array, path)


def _remapped(labels: NDArray[Any], remap: Mapping[int, int], path: Path) -> NDArray[Any]:
    strange = sorted(set(np.unique(labels).tolist()) - set(remap))
    if strange:
        raise FormatError(f"it holds the value {strange[0]}, not {sorted(remap)}", "check what it is", subject=path)
    table = np.zeros(max(remap) + 1, np.min_scalar_type(max(remap.values())))
    table[list(remap)] = list(remap.values())
    return table[labels]

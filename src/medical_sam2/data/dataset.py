"""Data sets of images with labels, as they lie on disk: what belongs together, and nothing loaded until it is asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
        strict: whether values that no structure has are refused; else they count as background.
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
    opener: Callable[[Path], Volume | Picture] | None = None
    strict: bool = True

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
        picture = self._picture(case, max_bytes)
        if case.label is None:
            return LoadedCase((picture,), None)
        labels = _fitting(_grey(self._open_picture(case.label, max_bytes)), picture, case.label)
        return LoadedCase((picture,), self._checked(labels, case.label))

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
        labels = io.load_labels(case.label, first) if self.opener is None else fit(self._volume(case.label, max_bytes), first)
        return LoadedCase(volumes, self._checked(labels.array, case.label))

    def _volume(self, path: Path, max_bytes: int | None) -> Volume:
        found = io.load(path, max_bytes=max_bytes) if self.opener is None else self.opener(path)
        if not isinstance(found, Volume):
            raise FormatError("this is a picture, not a volume", "give volumes", subject=path)
        return found

    def _picture(self, case: Case, max_bytes: int | None) -> Picture:
        """The picture of a case; three files of grey values become one of three colours."""
        planes = tuple(self._open_picture(path, max_bytes) for path in case.images)
        picture = planes[0] if len(planes) == 1 else _together(planes, case.images[0])
        if not picture.colour or self.colour:
            return picture
        picture = _grey(picture)
        if picture.colour:
            channels = ", ".join(self.channels)
            raise FormatError(f"it is in colour, and its channels are {channels}", "declare R, G, B", subject=case.images[0])
        return picture

    def _open_picture(self, path: Path, max_bytes: int | None) -> Picture:
        found = io.read(path, all_frames=True, max_bytes=max_bytes) if self.opener is None else self.opener(path)
        if isinstance(found, Volume):
            return _flat(found, path)
        if isinstance(found, Picture):
            return found
        picture, *more = found
        if more:
            raise FormatError(f"it holds {1 + len(more)} pictures", "store one picture in each file", subject=path)
        return picture

    def _checked(self, labels: NDArray[Any], path: Path) -> NDArray[Any]:
        if self.remap is not None:
            labels = _remapped(labels, self.remap, path)
        known = {0, *(value for values in self.structures.values() for value in values)}
        known |= set() if self.ignore is None else {self.ignore}
        strange = sorted(set(np.unique(labels).tolist()) - known)
        if strange and not self.strict:
            return np.where(np.isin(labels, strange), labels.dtype.type(0), labels)
        if strange:
            listed = ", ".join(map(str, strange[:5])) + (" …" if len(strange) > 5 else "")
            raise FormatError(
                f"it holds values that {self.name} does not declare: {listed}", "declare or remove them", subject=path
            )
        return labels


def _together(planes: Sequence[Picture], path: Path) -> Picture:
    """Three grey pictures as the colours of one."""
    if len({plane.shape for plane in planes}) > 1 or any(plane.colour for plane in planes):
        raise GeometryError("its channels are not grey images of one size", "export them again", subject=path)
    kinds = sorted({plane.array.dtype.name for plane in planes})
    if len(planes) != COLOURS or kinds != ["uint8"]:
        problem = f"{len(planes)} channels of {', '.join(kinds)} make no colour image"
        raise FormatError(problem, "give one channel, or three of bytes", subject=path)
    return Picture(np.stack([plane.array for plane in planes], axis=-1), planes[0].spacing_mm, source=planes[0].source)


def _grey(picture: Picture) -> Picture:
    """The same picture with one channel, if its three are alike."""
    array: NDArray[Any] = picture.array
    alike = picture.colour and bool((array == array[..., :1]).all())
    return replace(picture, array=np.ascontiguousarray(array[..., 0])) if alike else picture


def _flat(volume: Volume, path: Path) -> Picture:
    """A volume of one slice as a picture: rows downwards are its second long axis."""
    if 1 not in volume.shape:
        raise FormatError(f"a volume of shape {volume.shape} is no picture", "give single slices", subject=path)
    through = max(axis for axis in range(3) if volume.shape[axis] == 1)
    columns_mm, rows_mm = (volume.spacing_mm[axis] for axis in range(3) if axis != through)
    array: NDArray[Any] = np.take(volume.array, 0, axis=through).T
    return Picture(array, (rows_mm, columns_mm), volume.modality, path, warnings=volume.warnings)


def _fitting(found: Picture, like: Picture, path: Path) -> NDArray[Any]:
    """The numbers of a picture of labels that belongs to another one."""
    if found.colour:
        raise FormatError("it is in colour: no label map", "store the label of each pixel as one number", subject=path)
    if found.shape != like.shape:
        problem = f"the labels have {found.shape} pixels, the image {like.shape}"
        raise GeometryError(problem, "resample the labels", subject=path)
    return integers(found.array, path)


def _remapped(labels: NDArray[Any], remap: Mapping[int, int], path: Path) -> NDArray[Any]:
    strange = sorted(set(np.unique(labels).tolist()) - set(remap))
    if strange:
        raise FormatError(f"it holds the value {strange[0]}, which means nothing here", "check what it is", subject=path)
    table = np.zeros(max(remap) + 1, np.min_scalar_type(max(remap.values())))
    table[list(remap)] = list(remap.values())
    return table[labels]

"""Data sets of images with labels, as they lie on disk: what belongs together, and nothing loaded until it is asked for.

`read_data_set`: nnU-Net raw data sets, after dataset_format.md of https://github.com/MIC-DKFZ/nnUNet: several channels (a
colour picture holds its three in one file), labels, regions (a list of values), an `ignore` label, cases listed under the key
`dataset`; version 1's `labels` (value → name) and `modality` are understood.
`read_folder`: a folder `images` with, if there are any, `labels` of the same names; or images without labels, to be converted.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medical_sam2 import io
from medical_sam2.data.cases import Kind, modality_of
from medical_sam2.errors import ConfigError, FormatError, GeometryError, InputError, list_first, say_count
from medical_sam2.io import Picture, load_pictures
from medical_sam2.io.label_grid import fit, integers, turn_to_image
from medical_sam2.io.registry import DICOM, Format, data_suffixes, recognise, suffixes
from medical_sam2.io.voxels import as_picture
from medical_sam2.plugins import suggestion
from medical_sam2.volume import Volume

Split = Literal["train", "test"]
SAME_GRID_MM = 1e-3
COLOURS = 3


@dataclass(frozen=True)
class Case:
    """One subject, or one image of a set."""

    identifier: str  # its name, unique in the data set
    images: tuple[Path, ...]  # a file (or folder with a DICOM series) for each channel, or one with all of them
    label: Path | None  # its label map; None where there is none (test cases)
    split: Split = "train"  # "train" or "test"


@dataclass(frozen=True, eq=False)
class LoadedCase:
    """A case in memory."""

    images: tuple[Volume, ...] | tuple[Picture]  # a volume for each channel, all on one grid; or one picture
    # (I, J, K) or (H, W) unsigned integers on the grid of the images, None where there are none
    labels: NDArray[np.unsignedinteger] | None


@dataclass(frozen=True)
class DataSet:
    """Images of one kind, with the same structures outlined in each."""

    name: str  # what it is called
    folder: Path  # where it lies
    kind: Kind  # "volume", or "set" for 2D images in no order
    channels: tuple[str, ...]  # what each channel shows ("CT"; "T1", "FLAIR"; "R", "G", "B")
    structures: Mapping[str, tuple[int, ...]]  # name → values of the label map whose union it is; nested regions overlap
    cases: tuple[Case, ...]  # training cases first, then test cases, each sorted by name
    modality: str  # what took the images ("CT", "MR", "fundus" …)
    ignore: int | None = None  # value of the label map where nobody outlined anything, if there is one
    prompt: str | None = None  # "click", "box" or "mask", where the paper (METHOD §7) or the data set says
    licence: str | None = None  # of the data, where known
    # number in the files of labels → value that is meant, where they differ; numbers that are not named are refused
    remap: Mapping[int, int] | None = None
    # reads a file of images or labels of another format than `medical_sam2.io` knows
    opener: Callable[[Path], Volume | Picture] | None = None
    strict: bool = True  # whether values that no structure has are refused; else they count as background

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
        labels = _check_labels(_as_grey(self._open_picture(case.label, max_bytes)), picture, case.label)
        return LoadedCase((picture,), self._checked(labels, case.label))

    def mask(self, labels: NDArray[Any], structure: str) -> NDArray[np.bool_]:
        """Where a structure is, in a label map of this data set; raises ConfigError if there is no such structure."""
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
        return replace(found, modality="CT") if found.modality is None and self.modality == "CT" else found

    def _picture(self, case: Case, max_bytes: int | None) -> Picture:
        """The picture of a case; three files of grey values become one of three colours."""
        planes = tuple(self._open_picture(path, max_bytes) for path in case.images)
        picture = planes[0] if len(planes) == 1 else _merge_channels(planes, case.images[0])
        if not picture.colour or self.colour:
            return picture
        picture = _as_grey(picture)
        if picture.colour:
            channels = ", ".join(self.channels)
            raise FormatError(f"it is in colour, and its channels are {channels}", "declare R, G, B", subject=case.images[0])
        return picture

    def _open_picture(self, path: Path, max_bytes: int | None) -> Picture:
        found = io.read(path, all_frames=True, max_bytes=max_bytes) if self.opener is None else self.opener(path)
        if isinstance(found, Volume):
            return _as_picture(found, path)
        if isinstance(found, Picture):
            return found
        picture, *more = found
        if more:
            raise FormatError(f"it holds {1 + len(more)} pictures", "store one picture in each file", subject=path)
        return picture

    def _checked(self, labels: NDArray[Any], path: Path) -> NDArray[Any]:
        if self.remap is not None:
            labels = _remap(labels, self.remap, path)
        declared = {0, *(value for values in self.structures.values() for value in values)}
        declared |= set() if self.ignore is None else {self.ignore}
        strange = sorted(set(np.unique(labels).tolist()) - declared)
        if strange and not self.strict:
            return np.where(np.isin(labels, strange), labels.dtype.type(0), labels)
        if strange:
            problem = f"it holds values that {self.name} does not declare: {list_first(strange, 5)}"
            raise FormatError(problem, "declare or remove them", subject=path)
        return labels


def _merge_channels(planes: Sequence[Picture], path: Path) -> Picture:
    if len({plane.turned for plane in planes}) == 1:
        planes = [turn_to_image(plane, planes[0]) for plane in planes]
    if len({(plane.shape, plane.turned) for plane in planes}) > 1 or any(plane.colour for plane in planes):
        raise GeometryError("its channels are not grey images of one size", "export them again", subject=path)
    kinds = sorted({plane.array.dtype.name for plane in planes})
    if len(planes) != COLOURS or kinds != ["uint8"]:
        problem = f"{len(planes)} channels of {', '.join(kinds)} make no colour image"
        raise FormatError(problem, "give one channel, or three of bytes", subject=path)
    array = np.stack([plane.array for plane in planes], axis=-1)
    return Picture(array, planes[0].spacing_mm, source=path, turned=planes[0].turned, grid=planes[0].grid)


def _as_grey(picture: Picture) -> Picture:
    """The same picture with one channel, if its three are alike."""
    array: NDArray[Any] = picture.array
    alike = picture.colour and bool((array == array[..., :1]).all())
    return replace(picture, array=np.ascontiguousarray(array[..., 0])) if alike else picture


def _as_picture(volume: Volume, path: Path) -> Picture:
    """A volume of one slice as a picture: rows downwards are its second long axis."""
    if 1 not in volume.shape:
        raise FormatError(f"a volume of shape {volume.shape} is no picture", "give single slices", subject=path)
    return as_picture(volume, path)


def _check_labels(found: Picture, like: Picture, path: Path) -> NDArray[Any]:
    if found.colour:
        raise FormatError("it is in colour: no label map", "store the label of each pixel as one number", subject=path)
    found = turn_to_image(found, like)
    if found.shape != like.shape:
        problem = f"the labels have {found.shape} pixels, the image {like.shape}"
        raise GeometryError(problem, "resample the labels", subject=path)
    return integers(found.array, path)


def _remap(labels: NDArray[Any], remap: Mapping[int, int], path: Path) -> NDArray[Any]:
    strange = sorted(set(np.unique(labels).tolist()) - set(remap))
    if strange:
        raise FormatError(f"it holds the value {strange[0]}, which means nothing here", "check what it is", subject=path)
    table = np.zeros(max(remap) + 1, np.min_scalar_type(max(remap.values())))
    table[list(remap)] = list(remap.values())
    return table[labels]


DESCRIPTION = "dataset.json"
BACKGROUND, IGNORE = "background", "ignore"
CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
FOLDERS: Mapping[Split, tuple[str, str]] = {"train": ("imagesTr", "labelsTr"), "test": ("imagesTs", "labelsTs")}


def is_data_set(folder: Path) -> bool:
    """Whether a folder claims to be an nnU-Net raw data set."""
    return (folder / DESCRIPTION).is_file()


def read_data_set(folder: Path | str) -> DataSet:
    """List an nnU-Net raw data set; no image is opened.

    Raises:
        InputError: no such folder.
        FormatError: no data set, labels that are none, a case without its channels or its label.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("there is no such folder", "give the folder that holds dataset.json", subject=folder)
    if not is_data_set(folder):
        raise FormatError("it holds no dataset.json", "give an nnU-Net raw data set (Dataset001_Name)", subject=folder)
    path = folder / DESCRIPTION
    description = io.load_json(path, newest=None)
    channels = _read_channels(description, path)
    ending = _read_ending(description, path)
    structures, ignore = _read_labels(description, path)
    kind = _read_kind(description, ending, path)
    cases = tuple(
        _list_cases(description, folder, len(channels), kind)
        if "dataset" in description
        else _find_cases(folder, ending, channels, kind)
    )
    if not cases:
        raise FormatError(f"imagesTr holds no CASE_0000{ending}", "put the images there", subject=folder)
    return DataSet(
        name=str(description.get("name") or re.sub(r"^Dataset\d+_", "", folder.resolve().name)),
        folder=folder,
        kind=kind,
        channels=channels,
        structures=structures,
        cases=cases,
        modality=modality_of(channels),
        ignore=ignore,
        prompt=_read_text(description, "prompt"),
        licence=_read_text(description, "licence") or _read_text(description, "license"),
    )


def _read_channels(description: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    named = description.get("channel_names", description.get("modality"))
    if not isinstance(named, dict) or not named or not all(key.isdigit() for key in named):
        raise FormatError('it tells no "channel_names"', 'write them as {"0": "CT"}', subject=path)
    if sorted(map(int, named)) != list(range(len(named))):
        raise FormatError('its "channel_names" do not count from 0', 'write them as {"0": "T1", "1": "T2"}', subject=path)
    return tuple(str(named[key]) for key in sorted(named, key=int))


def _read_ending(description: Mapping[str, Any], path: Path) -> str:
    ending = description.get("file_ending", ".nii.gz")
    if not isinstance(ending, str) or not ending.startswith("."):
        raise FormatError('its "file_ending" is no ending', 'write it as ".nii.gz"', subject=path)
    return ending


def _read_kind(description: Mapping[str, Any], ending: str, path: Path) -> Kind:
    if "Tiff3D" in str(description.get("overwrite_image_reader_writer", "")):
        raise FormatError("its volumes are TIFF files, which do not tell their geometry", "convert them to NIfTI", subject=path)
    kind = description.get("kind", "set" if ending.lower() in suffixes("picture") else "volume")
    if kind not in ("volume", "set"):
        raise FormatError(f"its kind {kind!r} is unknown", 'write "volume" or "set", or leave it out', subject=path)
    return kind


def _read_labels(description: Mapping[str, Any], path: Path) -> tuple[dict[str, tuple[int, ...]], int | None]:
    """Structures by name, and the value that marks what nobody outlined."""
    # nnU-Net's first version wrote value → name, the second name → value; the keys tell which.
    named = description.get("labels")
    if not isinstance(named, dict) or not named:
        raise FormatError('it tells no "labels"', 'write them as {"background": 0, "liver": 1}', subject=path)
    if all(key.isdigit() and isinstance(name, str) for key, name in named.items()):
        named = {name: int(key) for key, name in named.items()}
    values = {name: _read_values(name, value, path) for name, value in named.items()}
    ignore = values.pop(IGNORE, None)
    structures = {name: value for name, value in values.items() if name != BACKGROUND and value != (0,)}
    if not structures:
        raise FormatError("its labels name nothing but the background", "name the structures", subject=path)
    return structures, None if ignore is None else ignore[0]


def _read_values(name: str, value: Any, path: Path) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in values):
        raise FormatError(f"the label {name!r} has no whole number", "give a number, or a list for a region", subject=path)
    return tuple(sorted(set(values)))


def _find_cases(folder: Path, ending: str, channels: tuple[str, ...], kind: Kind) -> list[Case]:
    """The cases of both splits, by the names of their files."""
    cases: list[Case] = []
    for split, (images, labels) in FOLDERS.items():
        by_case: dict[str, dict[int, Path]] = {}
        for path in sorted((folder / images).glob(f"*{ending}")):
            name = CHANNEL.fullmatch(path.name.removesuffix(ending))
            if path.name.startswith("."):
                continue
            if name is None:
                raise FormatError("its name tells no channel", f"call it CASE_0000{ending}", subject=path)
            by_case.setdefault(name["case"], {})[int(name["channel"])] = path
        for identifier, files in sorted(by_case.items()):
            label = folder / labels / f"{identifier}{ending}"
            present = label if label.is_file() else None
            case = Case(identifier, _order_channels(files, folder / images), present, split)
            cases.append(_check_case(case, len(channels), kind, label))
    return cases


def _order_channels(files: Mapping[int, Path], folder: Path) -> tuple[Path, ...]:
    missing = next((number for number in range(len(files)) if number not in files), None)
    if missing is not None:
        some = next(iter(files.values()))
        raise FormatError(f"channel {missing:04d} of the case of {some.name} is missing", "add its file", subject=folder)
    return tuple(files[number] for number in sorted(files))


def _check_case(case: Case, channels: int, kind: Kind, label: Path) -> Case:
    whole = kind == "set" and channels == COLOURS and len(case.images) == 1
    if len(case.images) != channels and not whole:
        problem = f"the case has {say_count(len(case.images), 'file')}, and {say_count(channels, 'channel', 'are')} declared"
        raise FormatError(problem, "add the others", subject=case.images[0])
    if case.split == "train" and case.label is None:
        raise FormatError("this label map is missing", "add it, or move its image to imagesTs", subject=label)
    return case


def _list_cases(description: Mapping[str, Any], folder: Path, channels: int, kind: Kind) -> list[Case]:
    """The cases that the description lists itself, with paths relative to its folder."""
    listed = description["dataset"]
    path = folder / DESCRIPTION
    if not isinstance(listed, dict):
        raise FormatError('its "dataset" is no table of cases', "give images and label of each", subject=path)
    cases: list[Case] = []
    for identifier, files in sorted(listed.items()):
        if not isinstance(files, dict) or not isinstance(files.get("images"), list) or not isinstance(files.get("label"), str):
            raise FormatError(f"the case {identifier!r} tells no images and label", "give both", subject=path)
        images = tuple(folder / str(image) for image in files["images"])
        label = folder / files["label"]
        for image in images:
            if not image.exists():
                raise FormatError("this image is missing", "correct its path in dataset.json", subject=image)
        cases.append(_check_case(Case(identifier, images, label if label.is_file() else None), channels, kind, label))
    return cases


def _read_text(description: Mapping[str, Any], key: str) -> str | None:
    value = description.get(key)
    return value if isinstance(value, str) and value else None


IMAGES, LABELS = "images", "labels"
IMAGE_NAME = re.compile(r"(?P<name>.+?)(\.nii|\.hdr)?(\.gz)?(\.[A-Za-z0-9]{1,6})?$")


def read_folder(folder: Path, structures: Mapping[str, tuple[int, ...]], modality: str | None = None) -> DataSet:
    """List images that lie in no published layout.

    Images without labels count as test cases. Values of the label maps that no structure has count as background.

    Args:
        folder: with `images` and `labels`; or a file, a DICOM series, a folder of images.
        structures: name → values in the label maps.
        modality: what took the images, as a DICOM code; unless given, what the first DICOM file says, or unknown.

    Raises:
        InputError: nothing there.
        FormatError: no image, labels without names, a name twice.
    """
    # Everything that could pair an image with the wrong labels is refused, for no later step can notice it.
    if not folder.exists():
        raise InputError("there is no such file or folder", "check the path", subject=folder)
    images = _find_images(folder / IMAGES if (folder / IMAGES).is_dir() else folder)
    if not images:
        raise FormatError("there is no image in it", "give a data set, or a folder with images and labels", subject=folder)
    labels = {stem(path): path for path in _find_images(folder / LABELS)} if (folder / LABELS).is_dir() else {}
    if labels and not structures:
        raise FormatError("nothing tells what its labels mean", "name them, as --label liver=1", subject=folder / LABELS)
    names = [stem(path) for path in images]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise FormatError(f"two images are called {twice!r}", "rename one of them", subject=folder)
    if alone := next((path for name, path in sorted(labels.items()) if name not in names), None):
        raise FormatError("there is no image of this name", "name labels as their images", subject=alone)
    kind, modality = _kind_of_image(images[0]), modality or _read_modality(images[0])
    colour = kind == "set" and load_pictures(images[0])[0].colour
    channels = ("R", "G", "B") if colour else (modality or "unknown",)
    found = (Case(name, (path,), labels.get(name)) for name, path in zip(names, images, strict=True))
    cases = tuple(case if case.label else replace(case, split="test") for case in found)
    return DataSet(
        name=folder.resolve().name,
        folder=folder,
        kind=kind,
        channels=channels,
        structures=dict(structures),
        cases=cases,
        modality=modality or ("RGB" if colour else "unknown"),
        strict=False,
    )


def stem(path: Path) -> str:
    """The name of an image without its suffixes; of a folder its name.

    >>> stem(Path("a/ct.1.nii.gz"))
    'ct.1'
    """
    if path.is_dir():
        return path.name
    found = IMAGE_NAME.fullmatch(path.name)
    return found["name"] if found else path.name


def _find_images(folder: Path) -> list[Path]:
    """Files that are images, and folders of DICOM files; one DICOM series is one image."""
    # A folder of DICOM files is one image: of a folder that holds series, each is one; else the folder itself is.
    if not folder.is_dir():
        return [folder] if recognise(folder) else []
    files = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    data_files = data_suffixes()  # read through the header beside them
    kinds = {path: _recognise_file(path) for path in files if path.is_file() and path.suffix.lower() not in data_files}
    if any(kind is DICOM for kind in kinds.values()) and folder.name not in (IMAGES, LABELS):
        return [folder]
    series = [path for path in files if path.is_dir() and any(_recognise_file(inner) is DICOM for inner in _first_files(path))]
    return sorted([path for path, kind in kinds.items() if kind] + series)


def _read_modality(image: Path) -> str | None:
    file = next((path for path in _first_files(image) if _recognise_file(path) is DICOM), None) if image.is_dir() else image
    if file is None or _recognise_file(file) is not DICOM:
        return None
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        return str(dcmread(file, specific_tags=["Modality"], stop_before_pixels=True, force=True).get("Modality", "")) or None
    except (InvalidDicomError, OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _first_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file()][:3]


def _recognise_file(path: Path) -> Format | str | None:
    """What a file is; a broken one counts, so that it is named when it is read."""
    try:
        return recognise(path)
    except FormatError:
        return "broken"


def _kind_of_image(image: Path) -> Kind:
    found = None if image.is_dir() else _recognise_file(image)
    return "set" if isinstance(found, Format) and found.kind == "picture" else "volume"

"""nnU-Net raw data sets: `dataset.json`, `imagesTr/CASE_0000.EXT`, `labelsTr/CASE.EXT`, and `imagesTs` with or without labels.

Written as https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md describes them: 2D pictures and 3D
images, several channels (a colour picture holds its three in one file), labels, regions (a list of values), an `ignore` label,
cases listed under the key `dataset`; version 1's `labels` (value → name) and `modality` are understood.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medical_sam2 import io
from medical_sam2.data.cases import Kind
from medical_sam2.data.dataset import COLOURS, Case, DataSet, Split
from medical_sam2.errors import FormatError, InputError
from medical_sam2.io.registry import suffixes

DESCRIPTION = "dataset.json"
BACKGROUND, IGNORE = "background", "ignore"
CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
FOLDERS: Mapping[Split, tuple[str, str]] = {"train": ("imagesTr", "labelsTr"), "test": ("imagesTs", "labelsTs")}
MODALITIES = {
    "CT": ("ct",),
    "MR": ("mr", "mri", "t1", "t1w", "t1c", "t1ce", "t1gd", "t2", "t2w", "flair", "adc", "dwi", "cine", "lge", "bssfp"),
    "US": ("us", "ultrasound", "echo"),
    "DX": ("xray", "x-ray", "x_ray", "dx", "cr", "radiograph"),
    "MG": ("mg", "mammography", "mammogram"),
    "OCT": ("oct",),
    "PT": ("pet", "pt"),
}


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
    told = io.load_json(path, newest=None)
    channels = _channels(told, path)
    ending = _ending(told, path)
    structures, ignore = _labels(told, path)
    kind = _kind(told, ending, path)
    cases = tuple(_listed(told, folder, len(channels), kind) if "dataset" in told else _found(folder, ending, channels, kind))
    if not cases:
        raise FormatError(f"imagesTr holds no CASE_0000{ending}", "put the images there", subject=folder)
    return DataSet(
        name=str(told.get("name") or re.sub(r"^Dataset\d+_", "", folder.resolve().name)),
        folder=folder,
        kind=kind,
        channels=channels,
        structures=structures,
        cases=cases,
        modality=modality_of(channels),
        ignore=ignore,
        prompt=_text(told, "prompt"),
        licence=_text(told, "licence") or _text(told, "license"),
    )


def modality_of(channels: tuple[str, ...]) -> str:
    """The DICOM code of what took the images, as far as the names of the channels tell; else those names.

    >>> modality_of(("T1", "FLAIR")), modality_of(("R", "G", "B")), modality_of(("CT_windowed",)), modality_of(("grey",))
    ('MR', 'RGB', 'CT', 'grey')
    """
    names = [name.lower() for name in channels]
    if names in (["r", "g", "b"], ["red", "green", "blue"]):
        return "RGB"
    found = {code for name in names for code, words in MODALITIES.items() if {name, re.split(r"[ _]", name)[0]} & set(words)}
    return found.pop() if len(found) == 1 else "+".join(channels)


def _channels(told: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    named = told.get("channel_names", told.get("modality"))
    if not isinstance(named, dict) or not named or not all(key.isdigit() for key in named):
        raise FormatError('it tells no "channel_names"', 'write them as {"0": "CT"}', subject=path)
    if sorted(map(int, named)) != list(range(len(named))):
        raise FormatError('its "channel_names" do not count from 0', 'write them as {"0": "T1", "1": "T2"}', subject=path)
    return tuple(str(named[key]) for key in sorted(named, key=int))


def _ending(told: Mapping[str, Any], path: Path) -> str:
    ending = told.get("file_ending", ".nii.gz")
    if not isinstance(ending, str) or not ending.startswith("."):
        raise FormatError('its "file_ending" is no ending', 'write it as ".nii.gz"', subject=path)
    return ending


def _kind(told: Mapping[str, Any], ending: str, path: Path) -> Kind:
    if "Tiff3D" in str(told.get("overwrite_image_reader_writer", "")):
        raise FormatError("its volumes are TIFF files, which do not tell their geometry", "convert them to NIfTI", subject=path)
    kind = told.get("kind", "set" if ending.lower() in suffixes("picture") else "volume")
    if kind not in ("volume", "set"):
        raise FormatError(f"its kind {kind!r} is unknown", 'write "volume" or "set", or leave it out', subject=path)
    return kind


def _labels(told: Mapping[str, Any], path: Path) -> tuple[dict[str, tuple[int, ...]], int | None]:
    """Structures by name, and the value that marks what nobody outlined."""
    named = told.get("labels")
    if not isinstance(named, dict) or not named:
        raise FormatError('it tells no "labels"', 'write them as {"background": 0, "liver": 1}', subject=path)
    if all(key.isdigit() and isinstance(name, str) for key, name in named.items()):
        named = {name: int(key) for key, name in named.items()}
    values = {name: _values(name, value, path) for name, value in named.items()}
    ignore = values.pop(IGNORE, None)
    structures = {name: value for name, value in values.items() if name != BACKGROUND and value != (0,)}
    if not structures:
        raise FormatError("its labels name nothing but the background", "name the structures", subject=path)
    return structures, None if ignore is None else ignore[0]


def _values(name: str, told: Any, path: Path) -> tuple[int, ...]:
    values = told if isinstance(told, list) else [told]
    if not values or not all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values):
        raise FormatError(f"the label {name!r} has no whole number", "give a number, or a list for a region", subject=path)
    return tuple(sorted(set(values)))


def _found(folder: Path, ending: str, channels: tuple[str, ...], kind: Kind) -> list[Case]:
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
            cases.append(
                _checked(Case(identifier, _in_order(files, folder / images), present, split), len(channels), kind, label)
            )
    return cases


def _in_order(files: Mapping[int, Path], folder: Path) -> tuple[Path, ...]:
    missing = next((number for number in range(len(files)) if number not in files), None)
    if missing is not None:
        some = next(iter(files.values()))
        raise FormatError(f"channel {missing:04d} of the case of {some.name} is missing", "add its file", subject=folder)
    return tuple(files[number] for number in sorted(files))


def _checked(case: Case, channels: int, kind: Kind, label: Path) -> Case:
    whole = kind == "set" and channels == COLOURS and len(case.images) == 1
    if len(case.images) != channels and not whole:
        raise FormatError(
            f"the case has {len(case.images)} files, and {channels} channels are declared",
            "add the others",
            subject=case.images[0],
        )
    if case.split == "train" and case.label is None:
        raise FormatError("this label map is missing", "add it, or move its image to imagesTs", subject=label)
    return case


def _listed(told: Mapping[str, Any], folder: Path, channels: int, kind: Kind) -> list[Case]:
    """The cases that the description lists itself, with paths relative to its folder."""
    listed = told["dataset"]
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
        cases.append(_checked(Case(identifier, images, label if label.is_file() else None), channels, kind, label))
    return cases


def _text(told: Mapping[str, Any], key: str) -> str | None:
    value = told.get(key)
    return value if isinstance(value, str) and value else None

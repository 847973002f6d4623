"""Files of published data sets that need more than their format: spacings that stand elsewhere, masks slice by slice,
many pictures in one file.
"""

import csv
import json
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medical_sam2 import io
from medical_sam2.errors import ConfigError, FormatError, InputError
from medical_sam2.io.atomic import write_bytes, writing
from medical_sam2.io.labels import read_label_map
from medical_sam2.io.safe_open import open_regular
from medical_sam2.volume import Volume

TDSC_MM = (0.200, 0.073, 0.475674)  # of the longest, the middle and the shortest axis, of 843 × 546 × 270 to 865 × 682 × 354
PARTS = {"train": "Tr", "val": "Ts", "test": "Ts"}
TABLE, COLUMN = "meta.csv", "spacing"


def read_tdsc(path: Path) -> Volume:
    """Read a volume; where its header says nothing but 1 mm, with the spacing that was published for all."""
    found = io.load(path)
    if not np.allclose(found.spacing_mm, 1):
        return found
    longest_first = np.argsort([-length for length in found.shape], kind="stable")
    spacing = np.empty(3)
    spacing[longest_first] = TDSC_MM
    return _spaced(found, spacing.tolist(), "the header tells no spacing: that of the publication is taken")


def read_by_table(path: Path) -> Volume:
    """Read a volume; where its header says nothing but 1 mm, with the spacing of its line in meta.csv, two folders up.

    Raises:
        FormatError: the table is missing, or has other lines than there are files.
    """
    found = io.load(path)
    if not np.allclose(found.spacing_mm, 1):
        return found
    table, files = path.parents[1] / TABLE, sorted(file.name for file in path.parent.glob("[!.]*.nii.gz"))
    spacings = _read_spacings(table)
    if len(spacings) != len(files):
        problem = f"it has {len(spacings)} lines for {len(files)} files, which it belongs to in their order"
        raise FormatError(problem, "download the data set again, whole", subject=table)
    return _spaced(found, spacings[files.index(path.name)], f"the spacing is that of {TABLE}")


def _read_spacings(table: Path) -> list[list[float]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            lines = [row[COLUMN].strip("()[] ").split(",") for row in csv.DictReader(stream)]
        spacings = [[float(number) for number in numbers] for numbers in lines]
    except (OSError, KeyError, ValueError, AttributeError):
        spacings = [[]]
    if any(len(one) != 3 or not all(0 < mm < np.inf for mm in one) for one in spacings):
        raise FormatError(f"it tells no {COLUMN} of three numbers for each file", "put it beside the folders", subject=table)
    return spacings


def _spaced(found: Volume, spacing: Sequence[float], note: str) -> Volume:
    affine = found.affine.copy()
    affine[:3, :3] *= np.asarray(spacing)
    return replace(found, affine=affine, warnings=(*found.warnings, note))


def read_slice_masks(path: Path) -> Volume:
    """Read a DICOM series; or a folder `Ground`, with a picture for each file of the series beside it, both in order of names.

    Raises:
        FormatError: there are not as many pictures as slices, or one has another size.
    """
    if path.name != "Ground":
        return io.load(path)
    beside = path.parent / "DICOM_anon"
    series = beside / "InPhase" if (beside / "InPhase").is_dir() else beside
    volume, files = io.load(series), sorted(series.glob("[!.]*.dcm"))
    masks, places = sorted(path.glob("[!.]*.png")), [_slice_of(file, volume) for file in files]
    if len(masks) != len(files) or sorted(places) != list(range(volume.shape[2])):
        problem = f"it has {len(masks)} masks for {len(files)} files of {volume.shape[2]} slices"
        raise FormatError(problem, "download the case again", subject=path)
    labels = np.zeros(volume.shape, np.uint8)
    for mask, k in zip(masks, places, strict=True):
        labels[:, :, k] = _read_mask(mask, volume.shape[:2])
    return replace(volume, array=labels, source=path)


def _slice_of(file: Path, volume: Volume) -> int:
    """Where a file lies in its series: its name need not follow its place in the patient."""
    from pydicom import dcmread

    left, posterior, superior = map(float, dcmread(file, specific_tags=["ImagePositionPatient"]).ImagePositionPatient)
    return round(volume.to_voxel((-left, -posterior, superior))[2])


def _read_mask(file: Path, shape_ij: tuple[int, ...]) -> NDArray[np.uint8]:
    found = np.asarray(read_label_map(file)).astype(np.uint8).T
    if found.shape != shape_ij:
        raise FormatError("it has another size than its slice", "download the case again", subject=file)
    return found


def unpack_medsegbench(
    file: Path, folder: Path, structures: Sequence[str] = ("foreground",), *, modality: str = "image"
) -> int:
    """Make an nnU-Net raw data set of a file of MedSegBench, whose pictures to validate become test cases, too.

    Keys and types are those of the project's own reader (zekikus/MedSegBench 0af5ce2); no file of it was seen.

    Args:
        file: NAME_512.npz and the like.
        folder: to write.
        structures: names of the labels 1, 2 …
        modality: name of the channel of grey pictures.

    Returns:
        How many pictures there are.

    Raises:
        InputError: the folder holds something.
        ConfigError: names that no data set can have.
        FormatError: the file is broken or of another kind, or holds more labels than names were given.
    """
    odd = [name for name in structures if name in {"background", "ignore"} or not name.isprintable() or not name.strip()]
    if odd or len({*structures}) < len(structures):
        problem = f"{odd[0]!r} is no name of a structure" if odd else "a name is given twice"
        raise ConfigError(problem, "give each label a name of its own, without that of the background", subject="--structures")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("the folder is not empty", "choose another one", subject=folder)
    for part in PARTS:  # all of them, before anything is written
        _read_part(file, part, len(structures))
    count, colours = 0, False
    for part, ending in PARTS.items():
        images, labels = _read_part(file, part, len(structures))
        colours = images.ndim == 4
        for n, (image, label) in enumerate(zip(images, labels, strict=True)):
            _write_picture(image, folder / f"images{ending}" / f"{part}{n:05d}_0000.png")
            _write_picture(label, folder / f"labels{ending}" / f"{part}{n:05d}.png")
        count += len(images)
    channels = ["R", "G", "B"] if colours else [modality]
    about = {
        "channel_names": {str(n): name for n, name in enumerate(channels)},
        "labels": {"background": 0, **{name: n for n, name in enumerate(structures, 1)}},
        "file_ending": ".png",
        "kind": "set",
    }
    write_bytes(folder / "dataset.json", json.dumps(about).encode())
    return count


def _read_part(file: Path, part: str, structures: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pictures of a part, and their labels."""
    images, labels = (_read_stack(file, f"{part}_{what}") for what in ("images", "label"))
    if len(images) != len(labels) or images.shape[1:3] != labels.shape[1:3] or labels.max(initial=0) > structures:
        problem = f"{part}: {images.shape} of images, {labels.shape} of labels up to {labels.max(initial=0)}"
        raise FormatError(problem, f"{structures} structures were named; name each label", subject=file)
    return images, labels


def _read_stack(file: Path, key: str) -> NDArray[np.uint8]:
    """Pictures (N, H, W) or (N, H, W, 3)."""
    try:
        with open_regular(file) as stream, np.load(stream, allow_pickle=False) as archive:
            found = archive[key]
    except (OSError, ValueError, KeyError, TypeError, EOFError, OverflowError, zipfile.BadZipFile):
        raise FormatError(
            f"it holds no pictures called {key}, or is no whole NPZ file", "give a file of MedSegBench, whole", subject=file
        ) from None
    if found.dtype not in (np.uint8, np.bool_) or found.ndim not in {3, 4} or (found.ndim == 4 and found.shape[3] != 3):
        raise FormatError(f"{key}: {found.dtype} of {found.shape}", "give a file of MedSegBench", subject=file)
    return found.astype(np.uint8)


def _write_picture(array: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as stream:
        Image.fromarray(array).save(stream, "PNG")

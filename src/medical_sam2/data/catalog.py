"""Published data sets: where each is obtained, how it is laid out, and how a downloaded folder becomes a `DataSet`.

They stand in catalog.toml. One of your own needs no edit there: it is one file with an `Entry`, named as `file.py:ENTRY` or
`module:ENTRY`. Here, too, are readers of files that need more than their format: spacings that stand elsewhere, masks slice by
slice, many pictures in one file.
"""

import csv
import gzip
import json
import re
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medical_sam2 import io
from medical_sam2.data.cases import Kind
from medical_sam2.data.data_sets import Case, DataSet, Split
from medical_sam2.errors import ConfigError, FormatError, InputError, say_count
from medical_sam2.io import Picture
from medical_sam2.io.atomic import write_bytes, writing
from medical_sam2.io.label_grid import fit
from medical_sam2.io.labels import read_label_map
from medical_sam2.io.safe_open import GZIP_MAGIC, open_regular, require_memory
from medical_sam2.plugins import find
from medical_sam2.volume import Volume

HOLE = "{case}"
SAFE = re.compile(r"[^\w.-]+")
SPACING_MM = 0.3
MOST_PIXELS = 64 << 20
GHOST = "._"  # of files that macOS leaves beside each file of an archive
WHITE: Mapping[int, int] = {value: int(value >= 128) for value in range(256)}
"""Masks that are black and white, with or without greys along their borders."""
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
    if images.shape[:3] != labels.shape[:3]:
        problem = f"its {part}_images are {_count_pictures(images)}, its {part}_label {_count_pictures(labels)}"
        raise FormatError(problem, "download it again", subject=file)
    if labels.max(initial=0) > structures:
        problem = f"its {part}_label holds labels up to {labels.max()}, and {say_count(structures, 'structure', 'were')} named"
        raise FormatError(problem, "name each label, in their order: --structures FIRST SECOND …", subject=file)
    return images, labels


def _count_pictures(stack: NDArray[np.uint8]) -> str:
    return f"{len(stack)} pictures of {stack.shape[1]} × {stack.shape[2]} pixels"


def _read_stack(file: Path, key: str) -> NDArray[np.uint8]:
    """Pictures (N, H, W) or (N, H, W, 3)."""
    try:
        with open_regular(file) as stream, np.load(stream, allow_pickle=False) as archive:
            found = archive[key]
    except KeyError:
        raise FormatError(f"it holds no pictures called {key}", "give a file of MedSegBench", subject=file) from None
    except (OSError, ValueError, TypeError, EOFError, OverflowError, zipfile.BadZipFile):
        raise FormatError("this is no NPZ file, or not all of one", "download it again", subject=file) from None
    if found.dtype not in (np.uint8, np.bool_):
        raise FormatError(f"its {key} are {found.dtype}, not bytes", "give a file of MedSegBench", subject=file)
    if found.ndim not in {3, 4} or (found.ndim == 4 and found.shape[3] != 3):
        problem = f"its {key} have the shape {found.shape}, not that of grey or RGB pictures"
        raise FormatError(problem, "give a file of MedSegBench", subject=file)
    return found.astype(np.uint8)


def _write_picture(array: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as stream:
        Image.fromarray(array).save(stream, "PNG")


@dataclass(frozen=True)
class Layout:
    """Where images and labels lie, relative to the folder of the data set."""

    # a path for each channel: `{case}` is the name of the case, the same wherever it stands; `*` any part of a name; `**/` any
    # folders or none, so that it does not matter which folder of the download is given
    images: tuple[str, ...]
    label: str = ""  # likewise; "" where there are none
    split: Split = "train"  # what these cases are for
    prefix: str = ""  # of the cases' names, where two layouts would give the same ones
    some: bool = False  # whether cases without a label are no mistake, and left out
    only: str = ""  # expression that the whole name of a case must match; all unless given


@dataclass(frozen=True)
class Entry:
    """A published data set."""

    title: str  # its name
    about: str  # one line about it
    url: str  # page on which it is described and obtained
    access: str  # what one has to do to obtain it
    licence: str  # of the data; says so where nobody tells
    citation: str  # the paper
    kind: Kind  # "volume", or "set" for 2D images in no order
    modality: str  # what took the images
    channels: tuple[str, ...]  # what each channel shows
    structures: Mapping[str, tuple[int, ...]]  # name → values of the label maps
    prompt: Literal["click", "box", "mask"]  # what the paper prompts it with (METHOD §7)
    layouts: tuple[Layout, ...]  # as published; all that fit are read
    # what is believed and was not seen in the data or its documentation; what a user must know. One line each.
    unconfirmed: tuple[str, ...] = ()
    remap: Mapping[int, int] | None = None  # number in the files of labels → value that is meant, where they differ
    opener: Callable[[Path], Volume | Picture] | None = None  # reads a file of another format than `medical_sam2.io` knows

    def read(self, folder: Path) -> DataSet:
        """The data set in a folder that was downloaded and unpacked; no image is opened.

        Raises:
            InputError: no such folder.
            FormatError: nothing lies where it should, or an image to train on has no labels.
        """
        if not folder.is_dir():
            raise InputError("there is no such folder", "give the folder that was downloaded", subject=folder)
        found = {case.images: case for layout in self.layouts for case in _cases(folder, layout)}
        cases = sorted(found.values(), key=lambda case: (case.split != "train", case.identifier))
        if not cases:
            expected = " or ".join(dict.fromkeys(layout.images[0].replace(HOLE, "CASE") for layout in self.layouts))
            raise FormatError(f"{self.title} is not there: no {expected}", "give the folder that holds these", subject=folder)
        return DataSet(
            name=self.title,
            folder=folder,
            kind=self.kind,
            channels=self.channels,
            structures=self.structures,
            cases=tuple(cases),
            modality=self.modality,
            prompt=self.prompt,
            licence=self.licence,
            remap=self.remap,
            opener=self.opener,
        )


def _cases(folder: Path, layout: Layout) -> Iterator[Case]:
    """The cases of one layout, by the files of their first channel."""
    first, *others = (_by_case(folder, template) for template in layout.images)
    labels = _by_case(folder, layout.label) if layout.label else {}
    taken = set(labels.values())
    for name, path in first.items():
        unwanted = layout.only and not re.fullmatch(layout.only, name)
        if path in taken or unwanted or (layout.some and name not in labels):
            continue
        images = (
            path,
            *(_of(name, other, folder, template) for other, template in zip(others, layout.images[1:], strict=True)),
        )
        label = _of(name, labels, folder, layout.label) if layout.label else None
        yield Case(layout.prefix + SAFE.sub("_", name), images, label, layout.split)


def _by_case(folder: Path, template: str) -> dict[str, Path]:
    """Name of the case → its file, the first one where several fit."""
    pattern = _pattern(template)
    found: dict[str, Path] = {}
    for path in sorted(folder.glob(template.replace(HOLE, "*"))):
        match = pattern.fullmatch(path.relative_to(folder).as_posix())
        if match is not None and not path.name.startswith(GHOST):
            found.setdefault(match["case"], path)
    return found


def _pattern(template: str) -> re.Pattern[str]:
    """The template as an expression; later mentions of the case repeat the first."""
    words = {r"\*\*/": "(?:.*/)?", r"\*": "[^/]*"}
    text = re.escape(template)
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    hole = re.escape(HOLE)
    return re.compile(text.replace(hole, "(?P<case>[^/]+)", 1).replace(hole, "(?P=case)"))


def _of(name: str, files: Mapping[str, Path], folder: Path, template: str) -> Path:
    if name not in files:
        wanted = template.replace(HOLE, name)
        raise FormatError(f"{wanted} is missing", "download the data set again, or remove the case", subject=folder)
    return files[name]


def read_array(path: Path) -> Volume:
    """Read a volume (slice, row, column) of 0.3 mm voxels; it knows no place in the patient.

    Raises:
        FormatError: no array of numbers with three axes.
        ResourceError: too large.
    """
    open_regular(path).close()
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise FormatError("this is no NumPy array of numbers", "download it again", subject=path) from None
    if not isinstance(mapped, np.memmap) or mapped.ndim != 3 or mapped.dtype.kind not in "iufb":
        raise FormatError("it holds no volume", "check what it is", subject=path)
    require_memory(mapped.nbytes, path)
    array = np.ascontiguousarray(mapped.transpose(2, 1, 0))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise FormatError("it holds values that are not finite", "download it again", subject=path)
    return Volume(array, np.diag([-SPACING_MM, -SPACING_MM, SPACING_MM, 1.0]), source=path)


def read_first(path: Path) -> Volume:
    """Read a volume of several sequences, stored like time points, as the first of them; labels as they are."""
    return io.load(path, frame=0 if path.parent.name.startswith("images") else None)


def read_masks(values: Mapping[str, int], path: Path) -> Volume:
    """Read an image, or a folder with a mask for each structure, named after it, as one label map.

    Args:
        values: name of a structure → its value.
        path: an image, or a folder.

    Raises:
        FormatError: the folder holds none of the masks.
        GeometryError: two masks do not share a grid.
    """
    if not path.is_dir():
        return io.load(path)
    present = {file: value for name, value in values.items() if (file := path / f"{name}.nii.gz").is_file()}
    if not present:
        raise FormatError("it holds no mask of a structure", "download the case again", subject=path)
    first = io.load(next(iter(present)))
    labels = np.zeros(first.shape, np.min_scalar_type(max(values.values())))
    for file, value in present.items():
        labels[np.not_equal(fit(io.load(file), first).array, 0)] = value
    return replace(first, array=labels, source=path)


def read_ppm(path: Path) -> Picture:
    """Read a portable pixmap, gzipped or not; raises FormatError if it is none, or broken."""
    with open_regular(path) as stream:
        zipped = stream.read(2) == GZIP_MAGIC
        stream.seek(0)
        try:
            content = cast(IO[bytes], gzip.GzipFile(fileobj=stream)) if zipped else stream
            with Image.open(content, formats=("PPM",)) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise FormatError(f"it has {image.width} × {image.height} pixels", "check what it is", subject=path)
                return Picture(np.array(image if image.mode == "L" else image.convert("RGB")), source=path)
        except (OSError, ValueError, EOFError, SyntaxError, zlib.error):
            raise FormatError("this is no whole PPM image", "download it again", subject=path) from None


OPENERS: Mapping[str, Callable[[Path], Volume | Picture]] = {
    "read_array": read_array,
    "read_by_table": read_by_table,
    "read_first": read_first,
    "read_ppm": read_ppm,
    "read_slice_masks": read_slice_masks,
    "read_tdsc": read_tdsc,
}


def _read_layout(values: dict[str, Any]) -> Layout:
    images: Any = tuple(values["images"])
    return Layout(**{**values, "images": images})


def _read_entry(values: dict[str, Any]) -> Entry:
    """An entry of the table, where readers and the remapping of black and white masks have names."""
    remap, opener, structures = values.get("remap"), values.get("opener"), values["structures"]
    structures = _TABLE[structures]["structures"] if isinstance(structures, str) else structures
    by_name = partial(read_masks, {name: own[0] for name, own in structures.items()})
    tables: dict[str, Any] = {
        "channels": tuple(values["channels"]),
        "structures": {name: tuple(own) for name, own in structures.items()},
        "layouts": tuple(_read_layout(layout) for layout in values["layouts"]),
        "unconfirmed": tuple(values.get("unconfirmed", ())),
        "remap": WHITE if remap == "white" else remap and {int(number): value for number, value in remap.items()},
        "opener": opener and {**OPENERS, "read_masks": by_name}[opener],
    }
    return Entry(**(values | tables))


_TABLE = tomllib.loads((files("medical_sam2") / "data" / "catalog.toml").read_text(encoding="utf-8"))
ENTRIES: Mapping[str, Entry] = {name: _read_entry(values) for name, values in _TABLE.items()}


def find_entry(name: str) -> Entry:
    """The entry of that name, or of a `module:attribute` or `file.py:attribute`.

    Raises:
        ConfigError: there is none; the nearest name is suggested.
    """
    return find(ENTRIES, name, what="data set")

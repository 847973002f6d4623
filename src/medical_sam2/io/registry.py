"""The formats: what each is called, how its files are recognised, who reads and writes them, and what they can carry.

A further format is one file with a `Format`. Who installs it as a package names it in the entry-point group
`medical_sam2.formats`; one that lies anywhere is named on the command line (`--format my_format.py:MINE`).

```python
def save(array, path, like):                                 # (I, J, K) labels or numbers, in the grid of the volume `like`
    write_bytes(path, numpy_bytes(array))

MINE = Format("NumPy", (".npy",), written=(".npy",), writer=save, carries=frozenset({"several objects"}))
```

A format that carries colours or overlaps has an `exporter` instead of a `writer`: it is given the whole `Segmentation`.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import entry_points
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import ConfigError, FormatError, InputError
from medical_sam2.io.safe_open import GZIP_MAGIC, as_stored, begins, guarded, is_dicom, is_nifti, open_content, open_regular
from medical_sam2.plugins import find
from medical_sam2.volume import Segmentation, Volume

Carried = Literal["names", "colours", "probability", "overlaps", "several objects"]
Form = Literal["sform", "qform"]
Kind = Literal["volume", "picture", "archive"]
GROUP = "medical_sam2.formats"
HEAD = 600
"""So many bytes tell what a file is."""


class TableNote(str):
    """A line that says which of names and colours a file does not hold as they are: a table of labels beside it does."""

    __slots__ = ()


@dataclass(frozen=True)
class Options:
    """How to read."""

    geometry_from: Form | None = None  # which of two contradicting NIfTI forms counts
    frame: int | None = None  # which time point or page, from 0
    series: int | str | None = None  # which DICOM series of a folder, from 1, or its SeriesInstanceUID
    allow_gap: bool = False  # fill missing slices by interpolation instead of refusing
    max_bytes: int | None = None  # most bytes of voxels that may be unpacked
    all_frames: bool = False  # each page or frame is a picture
    # replace NaN and infinities, turn colours to grey, look for constant images (not for masks, whose numbers count)
    clean: bool = True
    layer: int | None = None  # which of the numbers of a voxel, from 0

    # Within a reader a wrong type would look like a damaged file.
    def __post_init__(self) -> None:
        if self.geometry_from not in (None, "sform", "qform"):
            raise InputError(f"geometry_from {self.geometry_from!r} is unknown", "use sform or qform")
        for name in ("frame", "max_bytes", "layer"):
            if (given := getattr(self, name)) is not None and (isinstance(given, bool) or not isinstance(given, Integral)):
                raise InputError(f"{name}={repr(given)[:40]} is no whole number", "give one, or leave it out")
        if isinstance(self.series, bool) or not isinstance(self.series, str | Integral | None):
            remedy = "give its number, from 1, or its SeriesInstanceUID"
            raise InputError(f"series={repr(self.series)[:40]} names no series", remedy)


@dataclass(frozen=True, eq=False)
class Loaded(Volume):
    """A volume that remembers what its format needs for writing something beside it, bit for bit in the same grid."""

    origin: object | None = None  # the reader's own notes; writers of the same format understand them
    geometry_from: Form | None = None  # which form of a NIfTI file was asked for; it counts for its labels, too


@dataclass(frozen=True, eq=False)
class Picture:
    """A 2D image, as its file stores it (rows downwards, columns to the right).

    Args:
        array: (H, W) intensities, or (H, W, 3) RGB bytes.
        spacing_mm: distance between rows and between columns, where the file tells.
        modality: DICOM code of the modality where known.
        source: the file.
        frame: which page or frame of it, from 0.
        warnings: what the reader noticed, one line each.
        alpha: (H, W) how opaque each pixel is, where a mask was read and stores it.
        turned: EXIF orientation, by which viewers turn or mirror what is stored; 1 where they do not.
        grid: where it lies in the patient, of zeros, where it was stored as a volume of one slice.
    """

    array: NDArray[np.generic]
    spacing_mm: tuple[float, float] | None = None
    modality: str | None = None
    source: Path | None = None
    frame: int = 0
    warnings: tuple[str, ...] = ()
    alpha: NDArray[np.generic] | None = None
    turned: int = 1
    grid: Volume | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.array.shape[0], self.array.shape[1]

    @property
    def colour(self) -> bool:
        """Whether it has three channels."""
        return self.array.ndim == 3


@dataclass(frozen=True, eq=False)
class Format:
    """A kind of file.

    Readers and writers may be given as "module:function": they are then imported when they are needed.

    Args:
        name: as people call it.
        suffixes: of files that hold all of an image, lower case.
        headers: suffixes of files whose voxels lie in another one,
        data: and of that other one.
        kind: what a file holds.
        matches: whether a file is one of these, by its first bytes.
        by_name: suffixes that decide where the first bytes do not.
        reader: (path, options) → a volume or pictures.
        grid: (path, options) → a volume of zeros in the grid of the file, from its header alone, where that is possible.
        written: suffixes of files that are written, the usual one first.
        writer: (array, path, volume) writes labels or numbers in the grid of a volume; names (label → name) come fourth where
            the format carries them. It may return lines that say what the file does not hold.
        exporter: (segmentation, path, volume) writes a segmentation with all that the format carries, instead of a writer; its
            `maps` hold each object whole, where its `layers` overlap too. It may return such lines as well.
        check: (volume, path) refuses a volume beside which this format cannot be written, before anything is computed.
        carries: what of a segmentation is kept; label numbers always are.
        renames: (label → name) → the names as they are written, where the format has no room for any name.
        annotator: (annotated images, label → name) → bytes, for sets of images; see `medical_sam2.io.annotations`.
        annotated: how names of files end that it makes.
        of_each_image: it makes a file for each image, not one for the set.
        dimensions: of the images in it.
        media_type: for the web.
        listed: in messages, where not by its name.
        one_object: whether a file holds one object only.
    """

    name: str
    suffixes: tuple[str, ...]
    headers: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    kind: Kind = "volume"
    matches: Callable[[bytes], bool] = lambda head: False
    by_name: tuple[str, ...] = ()
    reader: str | Callable[..., Any] | None = None
    grid: str | Callable[..., Any] | None = None
    written: tuple[str, ...] = ()
    writer: str | Callable[..., Any] | None = None
    exporter: str | Callable[[Segmentation, Path, Volume], Any] | None = None
    check: str | Callable[[Volume, Path], None] | None = None
    carries: frozenset[Carried] = frozenset()
    renames: str | Callable[[Mapping[int, str]], Mapping[int, str]] | None = None
    annotator: str | Callable[..., bytes] | None = None
    annotated: str = ""
    of_each_image: bool = False
    dimensions: tuple[int, ...] = (3,)
    media_type: str = "application/octet-stream"
    listed: str = ""
    one_object: bool = False

    def read(self, path: Path, options: Options) -> Any:
        """What a file holds: a volume, or pictures."""
        return _function(self.reader)(path, options)

    def check_source(self, like: Volume, path: Path) -> None:
        """Refuse a volume beside which this format cannot be written; raises what the format's own `check` does."""
        if self.check:
            _function(self.check)(like, path)

    def describe_changed_names(self, names: Mapping[int, str]) -> list[str]:
        """A line for each name that does not fit as it is."""
        written = _function(self.renames)(names).items() if self.renames and "names" in self.carries else ()
        why = "since its name does not fit" + "; the whole name is in its description" * (self in OF_A_SERIES)
        return [f'{self.name} calls object {label} "{name}", {why}' for label, name in written if name != names[label]]

    def annotate(self, images: Iterable[Any], names: Mapping[int, str]) -> bytes:
        """The content of a file with these annotated images, or with this one."""
        return _function(self.annotator)(images, names)

    @property
    def written_here(self) -> bool:
        """Whether segmentations are written in this format."""
        return bool(self.writer or self.exporter)

    def write(self, array: NDArray[np.generic], path: Path, like: Volume, names: Mapping[int, str]) -> list[str]:
        """Write labels, or a map of numbers, in the grid of `like`; what the file does not hold is said, one line each."""
        if not self.writer and array.dtype.kind not in "biu":
            raise FormatError(f"{self.name} holds objects, not a map of numbers", "save it to .nii.gz", subject=path)
        if not self.writer:
            return self.export(Segmentation(array, like.affine, names), path, like)  # type: ignore[arg-type]  # integers
        named = (names,) if "names" in self.carries else ()
        return list(_function(self.writer)(array, path, like, *named) or ())

    def export(self, found: Segmentation, path: Path, like: Volume) -> list[str]:
        """Write a segmentation in the grid of `like`; what the file does not hold of it is said, one line each.

        Raises:
            FormatError: its objects overlap, and the format holds one object at a voxel.
        """
        if found.overlaps and "overlaps" not in self.carries:
            problem = f"objects overlap, and {self.name} holds one object at each voxel"
            raise FormatError(problem, f"save to {', '.join(written('overlaps'))}", subject=path)
        held = {"names": found.names, "colours": found.chosen_colours, "probability": found.probability}
        lost = [what for what, given in held.items() if given and (what not in self.carries or what == "probability")]
        notes = [TableNote(f"{path.name} does not hold {' and '.join(lost)}")] if lost else []
        if self.describe_changed_names(found.names):  # else nobody looks through the labels
            there = {label: found.names[label] for label in found.objects() if label in found.names}
            notes += map(TableNote, self.describe_changed_names(there))
        if self.exporter:
            return [*notes, *(_function(self.exporter)(found, path, like) or ())]
        return [*notes, *self.write(found.labels, path, like, found.names)]


def _function(named: str | Callable[..., Any] | None) -> Callable[..., Any]:
    return find({}, named, what="format")  # type: ignore[return-value]


# By content first: names lie. DICOM before all others, since its preamble may be the beginning of another format.
def recognise(path: Path) -> Format | None:
    """The format of a file by its content; by its name only where the content cannot tell. None if nobody reads it.

    Raises:
        InputError: missing, unreadable, or no regular file.
        FormatError: empty, or gzip that breaks within its first bytes.
    """
    with open_regular(path) as stream:
        head = stream.read(HEAD)
    named = Path(path.name.lower().removesuffix(".gz")).suffix
    if head.startswith(GZIP_MAGIC):
        with open_content(path) as content:
            head = content.stream.read(HEAD)
        if head[257:262] == b"ustar":
            raise FormatError("this is a tar archive", "unpack it and give one image of it", subject=path)
        return NIFTI if is_nifti(head) or named in NIFTI.by_name else None
    for format in (DICOM, *BUILT_IN):  # DICOM first: what comes before its mark may be another format's
        if format.matches(head):
            return format
    return next((format for format in formats() if named in format.by_name or (format.reader and format.matches(head))), None)


LABELS_OR_NUMBERS: frozenset[Carried] = frozenset({"probability", "several objects"})
_slices_or_volumes = partial(Format, dimensions=(2, 3))
_grids = partial(_slices_or_volumes, carries=LABELS_OR_NUMBERS)
NIFTI = _grids(
    "NIfTI",
    (".nii.gz", ".nii"),
    headers=(".hdr",),
    data=(".img",),
    matches=is_nifti,
    by_name=(".img", ".hdr"),
    reader="medical_sam2.io.nifti:read",
    grid="medical_sam2.io.nifti:read_grid",
    written=(".nii.gz", ".nii"),
    writer="medical_sam2.io.nifti:save",
    listed="NIfTI (.nii, .nii.gz, .hdr/.img)",
)
NRRD = _grids(
    "NRRD",
    (".nrrd",),
    headers=(".nhdr",),
    data=(".raw",),
    matches=begins(b"NRRD"),
    reader="medical_sam2.io.nrrd:read",
    grid="medical_sam2.io.nrrd:read_grid",
    written=(".nrrd",),
    writer="medical_sam2.io.nrrd:save",
)
METAIMAGE = _grids(
    "MetaImage",
    (".mha",),
    headers=(".mhd",),
    data=(".raw", ".zraw"),
    matches=lambda head: head.lstrip().startswith((b"ObjectType", b"NDims")),
    by_name=(".mha", ".mhd"),
    reader="medical_sam2.io.metaimage:read",
    grid="medical_sam2.io.metaimage:read_grid",
    written=(".mha",),
    writer="medical_sam2.io.metaimage:save",
    listed="MHA/MHD",
)
DICOM = _slices_or_volumes(
    "DICOM", (".dcm",), matches=is_dicom, reader="medical_sam2.io.dicom:read", grid="medical_sam2.io.dicom:read_grid"
)
WHOLE: frozenset[Carried] = frozenset({"overlaps"})
NAMED: frozenset[Carried] = frozenset({"names", "several objects"})
COLOURED: frozenset[Carried] = frozenset({"colours", "several objects"})
SEGMENTS = WHOLE | NAMED | COLOURED
DICOM_SEG = Format(
    "DICOM-SEG",
    (".dcm",),
    written=(".dcm",),
    exporter="medical_sam2.io.dicom.segmentation:save",
    check="medical_sam2.io.dicom.segmentation:check",
    carries=SEGMENTS,
    renames="medical_sam2.io.dicom.segmentation:segment_labels",
    media_type="application/dicom",
)
RTSTRUCT = replace(
    DICOM_SEG,
    name="RTSTRUCT",
    written=(".rtstruct.dcm",),
    exporter="medical_sam2.io.dicom.structures:save",
    check="medical_sam2.io.dicom.structures:check",
)
OF_A_SERIES = (DICOM_SEG, RTSTRUCT)
"""Those that refer to the images of a DICOM series, and so are written for a volume that was read from one."""
SLICER = Format(
    "3D Slicer",
    (".seg.nrrd",),
    written=(".seg.nrrd",),
    exporter="medical_sam2.io.nrrd:save_segments",
    renames="medical_sam2.io.nrrd:segment_names",
    carries=SEGMENTS,
)
_mesh = partial(Format, check="medical_sam2.io.meshes:check", renames="medical_sam2.io.meshes:object_names", listed="mesh")
STL = _mesh("STL", (".stl",), written=(".stl",), exporter="medical_sam2.io.meshes:save_stl", carries=WHOLE, one_object=True)
PLY = replace(
    STL,
    name="PLY",
    suffixes=(".ply",),
    written=(".ply",),
    exporter="medical_sam2.io.meshes:save_ply",
    carries=WHOLE | {"colours"},
)
OBJ = _mesh("OBJ", (".obj",), written=(".obj",), exporter="medical_sam2.io.meshes:save_obj", carries=WHOLE | NAMED)
_picture = partial(Format, kind="picture", reader="medical_sam2.io.images:read", carries=COLOURED, dimensions=(2,))
PNG = _picture("PNG", (".png",), matches=begins(b"\x89PNG\r\n\x1a\n"), written=(".png",))
JPEG = _picture("JPEG", (".jpg", ".jpeg"), matches=begins(b"\xff\xd8\xff"))
TIFF = _picture("TIFF", (".tif", ".tiff"), matches=begins(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))
BMP = _picture("BMP", (".bmp",), matches=lambda head: head.startswith(b"BM") and head[6:10] == bytes(4))
ZIP = Format(
    "zip",
    (".zip",),
    kind="archive",
    matches=begins(b"PK\x03\x04", b"PK\x05\x06"),
    reader="medical_sam2.io.archive:read",
    listed="a zip with one of them",
)
_annotations = partial(Format, suffixes=(), kind="picture", dimensions=(2,), media_type="application/json")
COCO = _annotations("COCO", annotator="medical_sam2.io.annotations:coco", annotated=".coco.json", carries=NAMED)
GEOJSON = _annotations(
    "GeoJSON",
    annotator="medical_sam2.io.annotations:geojson",
    annotated=".geojson",
    of_each_image=True,
    carries=NAMED | COLOURED,
    media_type="application/geo+json",
)
LABEL_STUDIO = _annotations(
    "Label Studio", annotator="medical_sam2.io.annotations:label_studio", annotated=".labelstudio.json", carries=NAMED
)
ANNOTATIONS = (COCO, GEOJSON, LABEL_STUDIO)
VOLUMES = (NIFTI, NRRD, METAIMAGE, DICOM, DICOM_SEG, RTSTRUCT, SLICER, STL, PLY, OBJ)
BUILT_IN = (*VOLUMES, PNG, JPEG, TIFF, BMP, ZIP, *ANNOTATIONS)


def formats(plugins: Sequence[str] = ()) -> Iterator[Format]:
    """All formats: those of this package, those of installed packages, and plug-ins (module:attribute, file.py:attribute).

    Raises:
        ConfigError: a plug-in that cannot be loaded, or is no format.
    """
    yield from BUILT_IN
    yield from installed()
    yield from map(_plugin, plugins)


@cache
def installed() -> tuple[Format, ...]:
    """The formats of other packages, by their entry points; looked for once."""
    return tuple(_plugin(entry.value) for entry in entry_points(group=GROUP))


def _plugin(name: str) -> Format:
    found = find({format.name.lower(): format for format in BUILT_IN}, name, what="format")
    if not isinstance(found, Format):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"{name} is no format", "make it a medical_sam2.io.registry.Format")
    return found


def is_uploadable(suffix: str) -> bool:
    """Whether a file that ends so may hold an image, or a half of one: .gz may follow, and DICOM files need no suffix."""
    plain = suffix.removesuffix(".gz")
    return not plain or plain in {*suffixes(headers=True), *data_suffixes()}


def readable() -> str:
    """What is read, in words."""
    *single, last = [format.listed or format.name for format in formats() if format.reader]
    return f"{', '.join(single)} or {last}"


def writable() -> str:
    """What is written, in words."""
    chosen = [format for format in formats() if format.written_here]
    listed = [f"{s} for a {each.listed or each.name}" if each.check else s for each in chosen for s in each.written]
    return f"{', '.join(listed[:-1])} or {listed[-1]}"


def suffixes(kind: Kind | None = None, *, headers: bool = False) -> tuple[str, ...]:
    """Suffixes of files that hold an image: of one kind or of all, with those of headers if wanted."""
    chosen = [format for format in formats() if format.reader and kind in (None, format.kind)]
    return tuple(suffix for format in chosen for suffix in (*format.suffixes, *(format.headers if headers else ())))


def data_suffixes() -> frozenset[str]:
    """Suffixes of files that hold the voxels of a header beside them."""
    return frozenset(suffix for format in formats() for suffix in format.data)


def header_suffixes() -> frozenset[str]:
    """Suffixes of headers whose voxels lie beside them."""
    return frozenset(suffix for format in formats() for suffix in format.headers)


def written(carries: Carried | None = None, plugins: Sequence[str] = ()) -> tuple[str, ...]:
    """Suffixes of files that labels of a volume can be written to: of all formats, or of those that carry something."""
    chosen = [format for format in formats(plugins) if format.written_here and carries in (None, *format.carries)]
    return tuple(suffix for format in chosen for suffix in format.written)


def annotation_formats(names: Sequence[str] | None = None) -> list[Format]:
    """The formats of annotations that are called so ("coco", "label-studio"), or plug-ins, each once; all that are known.

    Raises:
        ConfigError: there is none.
    """
    known = {format.name.lower().replace(" ", "-"): format for format in formats() if format.annotator}
    found = [find(known, name, what="format of annotations") for name in dict.fromkeys(known if names is None else names)]
    if strange := [name for name, format in zip(names or (), found, strict=False) if not getattr(format, "annotator", None)]:
        raise ConfigError(f"{strange[0]} is no format of annotations", f"use {', '.join(known)}")
    return found  # type: ignore[return-value]


def writer_of(path: Path, plugins: Sequence[str] = ()) -> Format:
    """The format in which a file of this name is written.

    Raises:
        InputError: there is none.
        ConfigError: a plug-in that cannot be loaded.
    """
    name = path.name.lower()
    endings = {suffix: format for format in formats(plugins) if format.written_here for suffix in format.written}
    found = endings.get(max(filter(name.endswith, endings), key=len, default=""))  # the longest: .seg.nrrd is no .nrrd
    if found is None:
        kind = repr(path.suffix or "files without suffix")
        raise InputError(f"images are not written as {kind}", f"use {', '.join(written(plugins=plugins))}", subject=path)
    return found


def read_file(path: Path, options: Options) -> Volume | tuple[Picture, ...]:
    """What a file, a folder with a DICOM series or a zip with one of them holds, by its content.

    Raises:
        FormatError: nobody reads it; and what the reader raises.
    """
    with guarded(path):
        path = as_stored(path)
        format = DICOM if os.path.isdir(path) else recognise(path)
        if format is None:
            raise FormatError("its format is unknown", f"give {readable()}", subject=path)
        if format is not ZIP:  # the options are of what it holds
            _check_options(format, options)
        return format.read(path, options)


def read_grid(path: Path, options: Options) -> Volume | None:
    """A volume of zeros in the grid of a file, from its header alone; None where its format does not tell it so soon.

    Raises:
        InputError: it is not there; and what the reader raises.
    """
    with guarded(path):
        path = as_stored(path)
        format = DICOM if os.path.isdir(path) else recognise(path)
        if format is None or not format.grid:
            return None
        _check_options(format, options)
        return _function(format.grid)(path, options)


def _check_options(format: Format, options: Options) -> None:
    """Refuse an option that has no effect on a format."""
    for name, needed in (("series", DICOM), ("allow_gap", DICOM), ("geometry_from", NIFTI)):
        if getattr(options, name) not in (None, False) and format is not needed:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} changes nothing: this is {format.name}, not {needed.name}", "leave it out")

"""DICOM series and objects as volumes or pictures: which files belong together, and their values as one array.

Beside it: `headers` (files and tags), `grid` (where slices lie), `pixels` (decoded and checked), `segmentation` (DICOM-SEG).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from filecmp import cmp
from itertools import groupby
from pathlib import Path
from typing import Any
from warnings import catch_warnings

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medical_sam2.errors import AmbiguousError, FormatError, InputError, MedicalSam2Error, require_index, say_count
from medical_sam2.io import voxels
from medical_sam2.io.dicom import grid as grids
from medical_sam2.io.dicom.grid import is_reconstruction
from medical_sam2.io.dicom.headers import (
    TOMOGRAPHIC,
    Plane,
    count_kinds,
    describe_series,
    is_localizer,
    list_files,
    planes,
    read_dataset,
    text,
    whole_number,
)
from medical_sam2.io.dicom.pixels import DicomPixels, decode
from medical_sam2.io.registry import DICOM, Format, Loaded, Options, Picture, recognise
from medical_sam2.io.safe_open import require_memory
from medical_sam2.io.voxels import size_warning

FILES_BESIDE = {"DICOMDIR"}
NOT_IMAGES = {"SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "SR", "PR", "KO", "REG", "RWV", "DOC"}


@dataclass(frozen=True)
class DicomOrigin:
    """The file and frame of each slice along the third axis; None for one that was interpolated."""

    slices: tuple[tuple[Path, int] | None, ...]
    affine: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Image:
    """One readable image object."""

    path: Path
    header: Dataset
    planes: list[Plane]


def read(path: Path, options: Options) -> Loaded | tuple[Picture, ...]:
    """Read a file, or one series of a folder: a volume where it has a geometry, else pictures.

    Raises:
        FormatError: damaged or incomplete files.
        GeometryError: slices that make no regular grid.
        AmbiguousError: several series or time points.
    """
    with catch_warnings(action="ignore"):  # the parser quotes values in its warnings, and values may name a person
        return _read(path, options)


def read_grid(path: Path, options: Options) -> Loaded | None:
    """A volume of zeros in the grid of a series, from its headers; None where these are pictures. Raises as `read` does."""
    with catch_warnings(action="ignore"):  # as above
        images = _images(path, options, [])
        if not _is_volume(images):
            return None
        grid, columns, rows = _grid(images, path, options, [])
    zeros = np.broadcast_to(np.zeros((), np.int16), (columns, rows, len(grid.slices)))
    return Loaded(zeros, grid.affine, source=path, origin=_origin(grid))


def _read(path: Path, options: Options) -> Loaded | tuple[Picture, ...]:
    notes: list[str] = []
    images = _images(path, options, notes)
    notes += _number_note(images)
    if any("YES" in text(image.header, "BurnedInAnnotation").upper() for image in images):
        notes.append("BurnedInAnnotation is YES: a person's name may be written into the pixels")
    if _is_volume(images):
        return _volume(images, path, options, notes)
    return _pictures(images, path, options, notes)


def _images(path: Path, options: Options, notes: list[str]) -> list[_Image]:
    return _series(_scan(path, notes), path, options, notes) if path.is_dir() else [_open(path)]


def _open(path: Path) -> _Image:
    header = read_dataset(path, pixels=False)
    if text(header, "Modality") in NOT_IMAGES:
        kind = text(header, "Modality")
        raise FormatError(f"this DICOM object ({kind}) holds no image", "give the image that it belongs to", subject=path)
    return _image(path, header)


def _image(path: Path, header: Dataset) -> _Image:
    found = planes(header, path)
    return _Image(path, header, grids.place_frames(found, header, path) if is_reconstruction(header) else found)


def _scan(folder: Path, notes: list[str]) -> list[_Image]:
    """Every image object below a folder; whatever else lies there is counted, by kind."""
    images, junk, others = [], [], 0
    for path in list_files(folder, notes):
        if path.name in FILES_BESIDE:
            continue
        header = _header(path)
        if header is None:
            junk.append(path)
        elif not _claims_image(header):
            others += 1
        else:
            images.append(_image(path, header))
    if not images:
        raise FormatError(
            f"the folder holds no DICOM images ({say_count(len(junk) + others, 'other file')})",
            _advice(folder) or "give a file or a folder of DICOM files",
            subject=folder,
        )
    if junk:
        notes.append(f"{say_count(len(junk), 'file', 'were')} skipped, no readable DICOM image: {count_kinds(junk)}")
    if others:
        notes.append(f"{say_count(others, 'DICOM object', 'were')} skipped, without an image")
    return images


# The folder may be meant for another command, or one of its files: the refusal says which.
def _advice(folder: Path) -> str:
    """What to do with a folder that is no DICOM series: one of its files may be meant, or another command."""
    found: list[tuple[Format, Path]] = []
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        with suppress(MedicalSam2Error):
            found += [(format, file)] if (format := recognise(file)) else []
    volumes = [file for format, file in found if format.kind == "volume" and format is not DICOM]
    if volumes:
        return f"outline all with `medsam2 segment-volumes {folder}`, or one, such as {volumes[0]}"
    pictures = any(format.kind == "picture" for format, _ in found)
    return f"outline pictures with `medsam2 segment-images {folder}`" if pictures else ""


def _header(path: Path) -> Dataset | None:
    """The header of a file; None if it is no DICOM, or cut before it says what it is."""
    try:
        header = read_dataset(path, pixels=False)
    except InputError:
        return None
    return header if text(header, "SOPClassUID") or "Rows" in header else None


def _claims_image(header: Dataset) -> bool:
    if text(header, "Modality") in NOT_IMAGES:
        return False
    return "Rows" in header or "Image Storage" in getattr(header.get("SOPClassUID"), "name", "")


def _series(images: list[_Image], folder: Path, options: Options, notes: list[str]) -> list[_Image]:
    """The images of the one series, or of the wanted one."""
    groups: dict[str, list[_Image]] = defaultdict(list)
    for image in images:
        groups[text(image.header, "SeriesInstanceUID")].append(image)
    ordered = sorted(groups.items(), key=lambda item: (text(item[1][0].header, "SeriesNumber").zfill(12), item[0]))
    chosen = _only_volume(ordered, folder, notes) if options.series is None else _pick(ordered, options.series, folder)
    _check_one_patient(chosen, folder)
    return _without_localizers(chosen, notes)


def _only_volume(ordered: list[tuple[str, list[_Image]]], folder: Path, notes: list[str]) -> list[_Image]:
    """The one series, or the only one that is no localizer; what is left out so is told; raises AmbiguousError for several."""
    described = describe_series([(group[0].header, [p for image in group for p in image.planes]) for _, group in ordered])
    listed = [f"--series {n} ({line})" for n, line in enumerate(described, 1)]
    scouts = [all(is_localizer(image.header) for image in group) for _, group in ordered]
    if len(ordered) > 1 and scouts.count(False) != 1:
        raise AmbiguousError(f"the folder holds {len(ordered)} series", "choose one", subject=folder, choices=listed)
    if len(ordered) > 1:
        notes.append(f"left out: {', '.join(line for line, scout in zip(listed, scouts, strict=True) if scout)}")
    return ordered[scouts.index(False) if len(ordered) > 1 else 0][1]


def _pick(ordered: list[tuple[str, list[_Image]]], wanted: int | str, folder: Path) -> list[_Image]:
    for n, (uid, group) in enumerate(ordered, 1):
        if str(wanted) in (str(n), uid):
            return group
    raise InputError(f"there is no series {wanted} among {len(ordered)}", f"use 1 to {len(ordered)}", subject=folder)


def _check_one_patient(images: Iterable[_Image], folder: Path) -> None:
    for name, word in (
        ("PatientID", "patients"),
        ("StudyInstanceUID", "studies"),
        ("FrameOfReferenceUID", "frames of reference"),
    ):
        if len({text(image.header, name) for image in images}) > 1:
            raise FormatError(
                f"its slices share a series but belong to different {word} ({name} differs)",
                "separate the files by patient and study",
                subject=folder,
            )


MEANINGS = ("Modality", "Units", "DecayCorrection", "SUVType")
"""What tells what a voxel's number means: units, and when a tracer's decay is corrected to."""


def _check_one_meaning(images: Iterable[_Image], used: set[Path], folder: Path) -> None:
    """Refuse slices whose numbers do not mean the same: counts beside becquerels a millilitre, for one."""
    for name in MEANINGS:
        if len({text(image.header, name) for image in images if image.path in used}) > 1:
            problem = f"its slices differ in {name}, so their values cannot be compared"
            raise FormatError(problem, "separate them, or export the series again", subject=folder)


def _without_localizers(images: list[_Image], notes: list[str]) -> list[_Image]:
    """Overview images may share the identifier of the series, and lie across it."""
    kept = [image for image in images if not is_localizer(image.header)]
    if not kept or len(kept) == len(images):
        return images
    notes.append(f"{say_count(len(images) - len(kept), 'localizer image')} of the series left out")
    return kept


def _is_volume(images: Sequence[_Image]) -> bool:
    header = images[0].header
    samples = whole_number(header, "SamplesPerPixel", 1, path=images[0].path)
    if samples > 1 and len(images) == 1 and len(images[0].planes) == 1:
        return False
    placed = any(plane.orientation and plane.position for image in images for plane in image.planes)
    return placed or text(header, "Modality") in TOMOGRAPHIC


def _volume(images: Sequence[_Image], source: Path, options: Options, notes: list[str]) -> Loaded:
    grid, columns, rows = _grid(images, source, options, notes)
    require_memory(4 * columns * rows * len(grid.slices), source, options.max_bytes)
    stack, odd = stack_slices(grid.slices, options)
    notes += [*odd, *_header_notes(images)]
    array, odd = voxels.clean(stack) if options.clean else (stack, [])
    notes += odd + size_warning((columns, rows, len(grid.slices)))
    modality = text(images[0].header, "Modality") or None
    volume = array.transpose(2, 1, 0)
    return Loaded(
        volume, grid.affine, modality=modality, source=source, warnings=tuple(dict.fromkeys(notes)), origin=_origin(grid)
    )


def _grid(images: Sequence[_Image], source: Path, options: Options, notes: list[str]) -> tuple[grids.SliceGrid, int, int]:
    """Where the slices lie, and their columns and rows."""
    found = _without_copies([plane for image in images for plane in image.planes], source, options, notes)
    grid = grids.build(found, source, frame=options.frame, allow_gap=options.allow_gap)
    _check_one_meaning(images, {plane.path for plane in grid.slices if plane is not None}, source)
    notes += grid.warnings
    return grid, *found[0].size


def _origin(grid: grids.SliceGrid) -> DicomOrigin:
    return DicomOrigin(tuple((plane.path, plane.frame) if plane else None for plane in grid.slices), grid.affine)


# An identifier alone is no proof: some tools give all slices the same one, and others keep it for slices that were edited.
def _without_copies(planes: Sequence[Plane], source: Path, options: Options, notes: list[str]) -> list[Plane]:
    """Leave out slices that are there a second time, pixel for pixel, and count them.

    Raises:
        FormatError: two that claim to be the same slice and differ.
    """
    kept: dict[tuple[object, ...], Plane] = {}
    copies: list[Plane] = []
    compared: dict[tuple[Path, Path], bool] = {}
    for plane in planes:
        first = kept.setdefault((plane.uid or plane.path, plane.frame, plane.position, plane.times), plane)
        if first is plane:
            continue
        pair = first.path, plane.path
        if pair not in compared:
            compared[pair] = cmp(*pair, shallow=False) or _same_pixels(planes, *pair, options)
        if not compared[pair] or _written(first) != _written(plane):
            names = " and ".join(path.name for path in pair)
            problem = f"{names} have the same SOPInstanceUID and the same place, and differ"
            raise FormatError(problem, "remove the one that does not belong to it", subject=source)
        copies.append(plane)
    if copies:
        files = dict.fromkeys(plane.path for plane in copies)
        notes.append(
            f"{say_count(len(copies), 'slice', 'are')} there twice, in {say_count(len(files), 'further file')}; "
            "copies were left out"
        )
    if shared := len(kept) - len({(plane.uid or plane.path, plane.frame) for plane in kept.values()}):
        notes.append(
            f"{say_count(shared, 'slice', 'have')} the SOPInstanceUID of another one; their places and times tell them apart"
        )
    return list(kept.values())


def _same_pixels(planes: Sequence[Plane], one: Path, other: Path, options: Options) -> bool:
    """Whether two files hold the same frames, however they are stored."""
    first, second = ([plane.frame for plane in planes if plane.path == path] for path in (one, other))
    if first != second:
        return False
    pairs = zip(*(decode(path, first, options.max_bytes).frames for path in (one, other)), strict=True)
    return all(np.array_equal(*pair) for pair in pairs)


def _written(plane: Plane) -> tuple[object, ...]:
    """What decides how a slice's pixels are read."""
    return plane.size, plane.orientation, plane.spacing, plane.scaling


def _number_note(images: Sequence[_Image]) -> list[str]:
    """A word if an InstanceNumber is there but no number."""
    if all(not text(image.header, "InstanceNumber") or image.planes[0].times[-1] is not None for image in images):
        return []
    return ["InstanceNumber is no number; slices are put in order by their positions alone"]


# Files that can be read but mean less than they seem to: whoever measures intensities must know.
def _header_notes(images: Sequence[_Image]) -> list[str]:
    notes: list[str] = []
    if any("ModalityLUTSequence" in image.header for image in images):
        notes.append("it has a modality lookup table, which was not applied: values are as stored")
    if any(plane.scaling[0] < 0 for image in images for plane in image.planes):
        notes.append("RescaleSlope is negative: stored values are turned upside down")
    if any(is_reconstruction(i.header) and not text(i.header, "SpacingBetweenSlices") and len(i.planes) > 1 for i in images):
        notes.append(
            "SpacingBetweenSlices is missing: slices are taken to follow each other along the normal, by their thickness"
        )
    if len({text(image.header, "PixelRepresentation") for image in images}) > 1:
        notes.append("PixelRepresentation differs between slices: some are read as signed numbers, others as unsigned ones")
    if len({"RescaleSlope" in image.header for image in images}) > 1:
        notes.append("RescaleSlope is missing in some slices; their values are as stored and may not fit the others")
    return notes


def _pictures(images: Sequence[_Image], source: Path, options: Options, notes: list[str]) -> tuple[Picture, ...]:
    """Every frame a picture, in the order of the files' instance numbers."""
    ordered = sorted((plane for image in images for plane in image.planes), key=_order)
    if options.frame is not None:
        require_index("frame", options.frame, len(ordered), source)
        ordered = [ordered[options.frame]]
    modality = text(images[0].header, "Modality") or None
    return tuple(_picture(plane, modality, options, notes) for plane in ordered)


def _order(plane: Plane) -> tuple[float, Path, int]:
    number = plane.times[-1]
    return (np.inf if number is None else number), plane.path, plane.frame


def _picture(plane: Plane, modality: str | None, options: Options, notes: list[str]) -> Picture:
    pixels = decode(plane.path, [plane.frame], options.max_bytes)
    (frame,) = pixels.frames
    array = voxels.rescale(pixels.upright(frame), *plane.scaling) if frame.ndim == 2 else frame
    array, odd = voxels.clean(np.array(array)) if options.clean else (array, [])
    spacing = (plane.spacing[0], plane.spacing[1]) if plane.spacing else None
    lines = tuple(dict.fromkeys((*notes, *pixels.warnings, *pixels.doubts(frame), *odd)))
    return Picture(array, spacing, modality, plane.path, plane.frame, lines)


@dataclass
class _Stack:
    """An array that grows wider when a slice does not fit its type, and remembers which values are real."""

    shape: tuple[int, int, int]
    lowest: float = np.inf
    highest: float = -np.inf
    padded: bool = False
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.array: NDArray[Any] = np.zeros(self.shape, np.uint8)

    def put(self, k: int, frame: NDArray[Any], real: NDArray[Any] | None) -> None:
        """Store slice k; `real` marks pixels that are no padding, None if all are."""
        if not np.can_cast(_narrow(frame), self.array.dtype):
            self.array = self.array.astype(np.promote_types(self.array.dtype, _narrow(frame)))
        self.array[k] = frame
        valid = frame if real is None else frame[real]
        if valid.size:
            self.lowest, self.highest = min(self.lowest, valid.min()), max(self.highest, valid.max())
        self.padded |= valid.size < frame.size


def _narrow(frame: NDArray[Any]) -> np.dtype:
    """int16 where the values fit (uint8 for bytes), else the next wider type; floats as they are."""
    if frame.dtype.kind == "f" or frame.dtype == np.uint8:
        return frame.dtype
    low, high = int(frame.min()), int(frame.max())
    kinds = (np.int16, np.uint16, np.int32, np.uint32)
    return next(
        (np.dtype(kind) for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max), np.dtype(np.int64)
    )


# In one pass, file by file, since a series may not fit into memory twice: the type widens, and padding goes, as slices come.
def stack_slices(slices: tuple[Plane | None, ...], options: Options) -> tuple[NDArray[Any], list[str]]:
    """The array (slice, row, column) of planes in order, and what was odd about them.

    Padding (PixelPaddingValue) becomes the smallest real value, so that it cannot set an intensity window. MONOCHROME1 series
    keep their stored voxels. Modality LUTs are not applied (noted).
    """
    known = [plane for plane in slices if plane is not None]
    columns, rows = known[0].size
    whole = all(float(number).is_integer() for plane in known for number in plane.scaling)
    made = _Stack((len(slices), rows, columns))
    places = {id(plane): k for k, plane in enumerate(slices) if plane is not None}
    for plane, frame, pixels in _frames(known, options):
        made.put(places[id(plane)], _rescaled(_flat(frame, made.notes), plane, whole), _real(frame, pixels))
        made.notes += [note for note in (*pixels.warnings, *pixels.doubts(frame)) if note not in made.notes]
    if made.padded and made.lowest <= made.highest:
        _remove_padding(made.array, made.lowest, made.highest)
    _interpolate(made.array, [plane is not None for plane in slices])
    return made.array, made.notes


def _frames(known: list[Plane], options: Options) -> Iterator[tuple[Plane, NDArray[Any], DicomPixels]]:
    """Each plane with its pixels; every file is opened once."""
    by_file = sorted(known, key=lambda plane: (str(plane.path), plane.frame))
    for path, group in groupby(by_file, key=lambda plane: plane.path):
        members = list(group)
        pixels = decode(path, [plane.frame for plane in members], options.max_bytes)
        for plane, frame in zip(members, pixels.frames, strict=True):
            yield plane, frame, pixels


def _flat(frame: NDArray[Any], notes: list[str]) -> NDArray[Any]:
    if frame.ndim == 2:
        return frame
    note = "a colour image; it was turned to grey"
    notes += [note] * (note not in notes)
    return voxels.grey(frame)


def _rescaled(frame: NDArray[Any], plane: Plane, whole: bool) -> NDArray[Any]:
    slope, intercept = plane.scaling
    if frame.dtype.kind == "f" or not whole:
        return voxels.rescale(frame.astype(np.float32), slope, intercept)
    if (slope, intercept) == (1, 0):
        return frame
    return frame.astype(np.int64) * int(slope) + int(intercept)


def _real(frame: NDArray[Any], pixels: DicomPixels) -> NDArray[Any] | None:
    if pixels.padding is None or frame.ndim != 2:
        return None
    low, high = pixels.padding
    return (frame < low) | (frame > high)


def _remove_padding(array: NDArray[Any], lowest: float, highest: float) -> None:
    """Whatever lies outside the range of real values is padding."""
    for piece in array:
        piece[(piece < lowest) | (piece > highest)] = lowest


def _interpolate(array: NDArray[Any], known: list[bool]) -> None:
    """Fill unknown slices linearly from their neighbours; the first and the last are known."""
    places = np.flatnonzero(known)
    for k in np.flatnonzero(~np.array(known)):
        before, after = places[places < k].max(), places[places > k].min()
        weight = (k - before) / (after - before)
        mixed = (1 - weight) * array[before] + weight * array[after]
        array[k] = mixed if array.dtype.kind == "f" else np.rint(mixed)

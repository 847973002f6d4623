"""DICOM files as parsed data sets, and their headers as typed records, whatever the parser makes of damaged ones.

Only the tags that reading needs are ever parsed, and no message repeats what they say of a person.
"""

import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from mimetypes import MimeTypes
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from medical_sam2.errors import FormatError, GeometryError, InputError, ResourceError, list_first, say_count
from medical_sam2.io.registry import HEAD
from medical_sam2.io.safe_open import DEFLATE_RATIO, explain, free_memory, guarded, is_dicom, open_regular

UID_TAGS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
TIME_TAGS = (
    "TimeSlotVector",
    "RRIntervalVector",
    "EnergyWindowVector",
    "TemporalPositionIdentifier",
    "TriggerTime",
    "EchoTime",
    "DiffusionBValue",
    "AcquisitionNumber",
    "AcquisitionTime",
    "InstanceNumber",
)
TAGS = [
    *UID_TAGS,
    *TIME_TAGS,
    *("SOPClassUID", "PatientID", "Modality", "SeriesNumber", "ImageType", "BurnedInAnnotation", "ConvolutionKernel"),
    *(
        "Rows",
        "Columns",
        "NumberOfFrames",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
    ),
    *("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"),
    *("SliceThickness", "SpacingBetweenSlices", "NumberOfSlices", "SliceVector", "DetectorInformationSequence"),
    *("RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "PixelPaddingRangeLimit", "ModalityLUTSequence"),
    *("Units", "DecayCorrection", "SUVType"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]


SUFFIXES = {*MimeTypes(filenames=()).types_map[True], ".dcm", ".ima", ".nii", ".gz", ".log", ".db", ".ini"}
"""Of files that are met beside images."""
TOMOGRAPHIC = {"CT", "MR", "PT", "NM"}
"""Modalities whose images mean nothing without their place in the patient."""


def read_dataset(path: Path, *, pixels: bool) -> Dataset:
    """Parse a file: the tags of `TAGS` alone, or everything where the pixels are wanted.

    Raises:
        FormatError: what is no DICOM, damaged, or would unpack to more than the memory holds.
    """
    with open_regular(path) as stream, guarded(path):
        head = stream.read(HEAD)
        stream.seek(0)
        if not is_dicom(head):
            raise FormatError("this is no DICOM file", "check what it is", subject=path)
        bare = head[128:132] != b"DICM"
        if not bare:
            _check_deflated(stream, path)
        chosen: dict[str, Any] = {} if pixels else {"specific_tags": TAGS, "stop_before_pixels": True}
        dataset = dcmread(stream, force=bare, **chosen)
        if len(dataset) == 0:
            raise FormatError("the file is incomplete: it holds no DICOM elements", "copy it again", subject=path)
        return dataset


def complete_uids(header: Dataset) -> Dataset:
    """The header, with class and instance of the object from the file's own preface where de-identification emptied them."""
    for name in ("SOPClassUID", "SOPInstanceUID"):
        if not header.get(name):
            setattr(header, name, header.file_meta.get(f"MediaStorage{name}", ""))
    return header


def _check_deflated(stream: BinaryIO, path: Path) -> None:
    """Unpack a deflated data set once, piece by piece, before the parser does so at one blow."""
    header = dcmread(stream, specific_tags=[], stop_before_pixels=True) if _deflated(stream) else None
    stream.seek(0)
    if header is None:
        return
    stream.seek(144 + int(header.file_meta.FileMetaInformationGroupLength))
    unpacker, total, limit = zlib.decompressobj(-zlib.MAX_WBITS), 0, (free_memory() or 1 << 32) // 4
    while not unpacker.eof and (packed := unpacker.unconsumed_tail or stream.read(1 << 16)):
        total += len(unpacker.decompress(packed, 1 << 20))
        if total > limit:
            raise ResourceError("its deflated content does not fit into memory", "check where it came from", subject=path)
    if not unpacker.eof:
        raise FormatError("its deflated content is truncated", "copy it again", subject=path)
    stream.seek(0)


def _deflated(stream: BinaryIO) -> bool:
    """Whether the file meta information names the deflated transfer syntax (looked for as text: nothing is parsed yet)."""
    found = str(DeflatedExplicitVRLittleEndian).encode() in stream.read(1024)
    stream.seek(0)
    return found


# A link that leads nowhere is a slice that is missing without anybody noticing; a link to a folder may lead in circles.
def list_files(folder: Path, notes: list[str], most: int = 50_000) -> list[Path]:
    """The regular files below a folder, in a stable order; links to folders are not followed, and counted in the notes.

    Raises:
        InputError: more files than any study has, a part that may not be read, or links to files that are not there.
    """
    found: list[Path] = []
    lost: list[str] = []
    links = 0
    for place, folders, names in os.walk(folder, onerror=partial(_refuse, folder), followlinks=False):
        folders.sort()
        links += sum(Path(place, name).is_symlink() for name in folders)
        paths = [Path(place, name) for name in sorted(names)]
        found += [path for path in paths if path.is_file()]
        lost += [path.name for path in paths if path.is_symlink() and not path.exists() and not path.name.startswith(".")]
        if len(found) > most:
            raise InputError(f"holds more than {most} files", "give the folder of one study", subject=folder)
    if lost:
        problem = f"{len(lost)} of its files are links that lead nowhere ({list_first(lost, 5)}), so slices may be missing"
        raise InputError(problem, "fetch the files, or remove the links", subject=folder)
    if links:
        notes.append(f"{say_count(links, 'link')} to folders not followed")
    return found


# Notes are stored in reports, and a name may be a patient's: so is what follows the last full stop of "DOE.JOHN".
def count_kinds(paths: Iterable[Path]) -> str:
    """How many files there are of each usual suffix, for notes, which tell no names.

    >>> count_kinds([Path("DOE_JOHN.pdf"), Path("DOE.JOHN"), Path("a.pdf")])
    '2 .pdf, 1 of another kind'
    """
    counted = Counter(suffix if (suffix := path.suffix.lower()) in SUFFIXES else "of another kind" for path in paths)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counted.items()))


def _refuse(folder: Path, error: OSError) -> None:
    raise explain(error, Path(error.filename or folder))


Numbers: TypeAlias = tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Plane:
    """One slice: a file, or a frame of one."""

    path: Path  # the file
    frame: int  # which frame of it, from 0
    size: tuple[int, int]  # columns and rows
    position: Numbers | None  # LPS mm of the centre of the first pixel, None where the header does not say
    orientation: Numbers | None  # direction of rows, then of columns, None where the header does not say
    spacing: Numbers | None  # mm between rows, then between columns, None where the header does not say
    step: float | None  # what the header says of the distance between slices in mm, None if nothing
    thickness: float | None  # of the slice in mm, None where the header does not say
    scaling: tuple[float, float]  # slope and intercept
    times: tuple[float | None, ...]  # what could tell time points apart, by tag
    uid: str  # SOPInstanceUID


def is_localizer(header: Dataset) -> bool:
    """Whether an image is an overview (scout), on which others were planned."""
    return "LOCALIZER" in text(header, "ImageType").upper()


# Descriptions of a series are free text, and people write names into them: numbers and the scanner's own words must do.
def describe_series(groups: Sequence[tuple[Dataset, Sequence[Plane]]]) -> list[str]:
    """What tells series apart, a line each, of one header and all slices of each: nothing of who the patient is."""
    facts = [_series_facts(header, found) for header, found in groups]
    differs = [len(set(column)) > 1 for column in zip(*facts, strict=True)]
    lines: list[str] = []
    for (header, found), own in zip(groups, facts, strict=True):
        columns, rows = found[0].size
        kind = f"{text(header, 'Modality') or 'unknown'}{', localizer' * is_localizer(header)}"
        more = [fact for fact, told in zip(own, differs, strict=True) if told and fact]
        lines.append(", ".join([kind, f"{say_count(len(found), 'slice')} of {columns}×{rows}", *more]))
    return lines


def _series_facts(header: Dataset, found: Sequence[Plane]) -> tuple[str, ...]:
    """Number, thickness, distance, echo time and kernel, in words; "" for what the header does not say."""
    number, thickness, echo = text(header, "SeriesNumber"), found[0].thickness, _soft(header, "EchoTime")
    kernel = re.sub(r"[\[\]']", "", text(header, "ConvolutionKernel"))
    distance = _usual_distance(found)
    return (
        f"series number {number}" if number.isdecimal() else "",
        "" if thickness is None else f"{thickness:g} mm thick",
        "" if distance is None else f"{distance:.3g} mm apart",
        "" if echo is None else f"echo time {echo:g} ms",
        f"kernel {kernel}" if re.fullmatch(r"[\w ,.+-]{1,20}", kernel) else "",
    )


def _usual_distance(found: Sequence[Plane]) -> float | None:
    """Millimetres from slice to slice, at the median; None where they do not say where they lie."""
    if found[0].orientation is None or any(plane.position is None for plane in found):
        return None
    normal = np.cross(found[0].orientation[:3], found[0].orientation[3:])
    steps = np.diff(np.unique(np.round([np.dot(plane.position or (), normal) for plane in found], 2)))
    return float(np.median(steps)) if len(steps) else None


def text(dataset: Dataset, name: str) -> str:
    """A tag as text, "" if missing or unreadable."""
    try:
        return str(dataset.get(name) or "")
    except Exception:  # a value that cannot be parsed is as good as none for tags that are read as text
        return ""


# The parser gives numbers, lists, strings or exceptions of any kind for the same tag.
def floats(dataset: Dataset, name: str, count: int | None = None, *, path: Path) -> Numbers | None:
    """The finite numbers of a tag, None if missing or empty; raises FormatError for no numbers, or not `count` of them."""
    value = None
    try:
        value = dataset.get(name)
        if value is None or value == "":
            return None
        found = tuple(
            float(item) for item in (value if isinstance(value, Sequence) and not isinstance(value, str) else [value])
        )
    except Exception:
        raise FormatError(f"its {name} cannot be read", "repair the header", subject=path) from None
    if not found:
        return None
    if (count is not None and len(found) != count) or not np.isfinite(found).all():
        raise FormatError(f"its {name} does not hold {count or 'finite'} numbers", "repair the header", subject=path)
    return found


def number(dataset: Dataset, name: str, default: float | None, *, path: Path) -> float | None:
    """The single number of a tag, or the default."""
    found = floats(dataset, name, 1, path=path)
    return default if found is None else found[0]


def whole_number(dataset: Dataset, name: str, default: int | None, *, path: Path) -> int:
    """The whole number of a tag, at least 0; FormatError if it is missing and there is no default."""
    found = number(dataset, name, default, path=path)
    if found is None:
        raise FormatError(f"its {name} is missing", "repair the header", subject=path)
    if found < 0 or found != int(found):
        raise FormatError(f"its {name} is {found:g}", "repair the header", subject=path)
    return int(found)


def check_uids(dataset: Dataset, path: Path) -> None:
    """Refuse identifiers that are none: somebody might build a path of them."""
    for name in UID_TAGS:
        if not re.fullmatch(r"[0-9.]{0,64}", text(dataset, name)):
            raise FormatError(f"its {name} is no valid identifier", "repair the header", subject=path)


def planes(dataset: Dataset, path: Path) -> list[Plane]:
    """The slices that an image object holds; raises FormatError for sizes or geometry that cannot be read."""
    check_uids(dataset, path)
    rows, columns = (whole_number(dataset, name, None, path=path) for name in ("Rows", "Columns"))
    if not rows or not columns:
        raise FormatError(f"it declares {rows} Rows and {columns} Columns", "repair the header", subject=path)
    frames = frame_count(dataset, path)
    with guarded(path):
        shared = _first(dataset, "SharedFunctionalGroupsSequence")
        groups = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])
    if groups and len(groups) != frames:
        raise FormatError(f"it declares {frames} frames and describes {len(groups)}", "repair the header", subject=path)
    described = groups or [Dataset()] * frames
    return [_plane(path, t, (columns, rows), (group, shared, dataset)) for t, group in enumerate(described)]


def frame_count(dataset: Dataset, path: Path) -> int:
    """How many frames an image object has, no more than its file can hold; raises FormatError for none, or more."""
    frames = whole_number(dataset, "NumberOfFrames", 1, path=path)
    if not frames:
        raise FormatError("its NumberOfFrames is 0", "repair the header", subject=path)
    if frames > 1 and (least := _least_bytes(dataset, frames, path)) > (held := path.stat().st_size):
        raise FormatError(
            f"it declares {frames} frames, which need {least} bytes, and the file holds {held}: it is truncated, or its "
            "NumberOfFrames is wrong",
            "copy it again",
            subject=path,
        )
    return frames


def picture_count(path: Path) -> int:
    """How many pictures a file holds: its frames, or one where they make a volume."""
    header = read_dataset(path, pixels=False)
    return 1 if text(header, "Modality") in TOMOGRAPHIC else frame_count(header, path)


def _least_bytes(dataset: Dataset, frames: int, path: Path) -> int:
    """The least that so many frames take in a file: eight bytes each where they are compressed (the head of an item)."""
    syntax = UID(text(getattr(dataset, "file_meta", Dataset()), "TransferSyntaxUID"))
    if syntax.is_transfer_syntax and syntax.is_encapsulated:
        return 8 * frames
    rows, columns, bits = (whole_number(dataset, name, 1, path=path) for name in ("Rows", "Columns", "BitsAllocated"))
    least = rows * columns * bits * frames // 8
    return least // DEFLATE_RATIO if syntax == DeflatedExplicitVRLittleEndian else least


def _plane(path: Path, t: int, size: tuple[int, int], places: tuple[Dataset, ...]) -> Plane:
    """One frame; each value is looked for in the frame's own group, the shared one, then in the image itself."""

    def find(name: str, group: str, count: int) -> Numbers | None:
        for place in places:
            with guarded(path):
                inner = place if place is places[-1] else _first(place, group)
            if (found := floats(inner, name, count, path=path)) is not None:
                return found
        return None

    measures = "PixelMeasuresSequence"
    slope = find("RescaleSlope", "PixelValueTransformationSequence", 1)
    intercept = find("RescaleIntercept", "PixelValueTransformationSequence", 1)
    if slope and slope[0] == 0:
        raise FormatError("its RescaleSlope is 0", "repair the header", subject=path)
    step, thickness = find("SpacingBetweenSlices", measures, 1), find("SliceThickness", measures, 1)
    return Plane(
        path=path,
        frame=t,
        size=size,
        position=find("ImagePositionPatient", "PlanePositionSequence", 3),
        orientation=find("ImageOrientationPatient", "PlaneOrientationSequence", 6),
        spacing=_spacing(find("PixelSpacing", measures, 2), path),
        step=abs(step[0]) if step else None,
        thickness=abs(thickness[0]) if thickness else None,
        scaling=(slope[0] if slope else 1.0, intercept[0] if intercept else 0.0),
        times=(
            _soft(_first(places[0], "FrameContentSequence"), "TemporalPositionIndex"),
            *(_soft(places[-1], name) for name in TIME_TAGS),
        ),
        uid=text(places[-1], "SOPInstanceUID"),
    )


def _spacing(found: Numbers | None, path: Path) -> Numbers | None:
    if found is not None and min(found) <= 0:
        raise GeometryError("its PixelSpacing is not positive", "repair the header", subject=path)
    return found


def _soft(dataset: Dataset, name: str) -> float | None:
    """A number that only helps to sort: None if it is no number."""
    try:
        value = dataset.get(name)
        return None if value is None else float(value)
    except Exception:  # whatever the parser makes of it, it is not needed
        return None


def _first(dataset: Dataset, name: str) -> Dataset:
    items = dataset.get(name)
    return items[0] if items else Dataset()

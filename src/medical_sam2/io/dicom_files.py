"""DICOM files as parsed data sets, whatever the parser makes of damaged ones; only the tags that reading needs."""

import os
import zlib
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medical_sam2.errors import FormatError, InputError, ResourceError
from medical_sam2.io.files import explain, free_memory, guarded, open_regular
from medical_sam2.io.registry import HEAD, is_dicom

TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PatientID",
    "Modality",
    "SeriesNumber",
    "ImageType",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SliceThickness",
    "SpacingBetweenSlices",
    "RescaleSlope",
    "RescaleIntercept",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "ModalityLUTSequence",
    "BurnedInAnnotation",
    "TemporalPositionIdentifier",
    "AcquisitionNumber",
    "TriggerTime",
    "EchoTime",
    "DiffusionBValue",
    "AcquisitionTime",
    "InstanceNumber",
    "DetectorInformationSequence",
    "NumberOfSlices",
    "SliceVector",
    "RRIntervalVector",
    "TimeSlotVector",
    "EnergyWindowVector",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]


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


def walk(folder: Path, notes: list[str], most: int = 50_000) -> list[Path]:
    """The regular files below a folder, in a stable order; links to folders are not followed, and named in the notes.

    Raises:
        InputError: more files than any study has, a part that may not be read, or links to files that are not there.
    """
    found: list[Path] = []
    lost: list[str] = []
    for place, folders, names in os.walk(folder, onerror=partial(_refuse, folder), followlinks=False):
        folders.sort()
        notes += [f"{name} is a link to a folder; it was not followed" for name in folders if Path(place, name).is_symlink()]
        paths = [Path(place, name) for name in sorted(names)]
        found += [path for path in paths if path.is_file()]
        lost += [path.name for path in paths if path.is_symlink() and not path.exists() and not path.name.startswith(".")]
        if len(found) > most:
            raise InputError(f"holds more than {most} files", "give the folder of one study", subject=folder)
    if lost:
        shown = ", ".join(lost[:5]) + (" …" if len(lost) > 5 else "")
        problem = f"{len(lost)} of its files are links that lead nowhere ({shown}), so slices may be missing"
        raise InputError(problem, "fetch the files, or remove the links", subject=folder)
    return found


def _refuse(folder: Path, error: OSError) -> None:
    raise explain(error, Path(error.filename or folder))

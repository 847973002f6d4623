"""DICOM Segmentation objects, written through highdicom for the very images that were segmented."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat

from medical_sam2.errors import ConfigError, FormatError, GeometryError
from medical_sam2.io import atomic, labels
from medical_sam2.io.dicom import DicomOrigin
from medical_sam2.io.files import guarded, open_regular
from medical_sam2.io.options import Loaded
from medical_sam2.volume import Volume

MAKER = "medical-sam2"
NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
EMPTIED = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDate", "StudyTime", "StudyID")


def save(array: NDArray[Any], path: Path, like: Volume, names: Mapping[int, str]) -> None:
    """Write labels as a binary DICOM-SEG: one segment for each label, one frame for each slice that it touches.

    Patient, study and frame of reference come from the source series; every frame carries its own slice's position, so tilted
    gantries stay right. Slices that were interpolated have no source and are left out.

    Raises:
        GeometryError: `like` was not read from DICOM files that are still there.
        FormatError: nothing is segmented.
    """
    origin = _origin(like, path)
    array = labels.integers(array, path)
    found = [int(label) for label in np.unique(array) if label]
    if not found:
        raise FormatError("nothing is segmented, and a DICOM-SEG cannot be empty", "save to another format", subject=path)
    sources, frames = _in_source_order(origin, np.searchsorted([0, *found], array).astype(np.uint16))
    descriptions = [(label, names.get(label, f"object {label}")) for label in found]
    with catch_warnings():
        simplefilter("ignore")
        data = _encode(sources, frames, descriptions, path)
    atomic.write_bytes(path, data)


def check(like: Volume, path: Path) -> None:
    """Refuse, before there are any labels, what `save` would refuse of the images that they belong to.

    Raises:
        GeometryError: `like` was not read from DICOM files.
        FormatError: these lack what a DICOM-SEG refers to.
        ConfigError: highdicom is missing.
    """
    _highdicom(path)
    _in_source_order(_origin(like, path), np.zeros(like.shape, np.uint16))


def _origin(like: Volume, path: Path) -> DicomOrigin:
    origin = like.origin if isinstance(like, Loaded) else None
    if not isinstance(origin, DicomOrigin):
        raise GeometryError(
            "a DICOM-SEG refers to DICOM images, and this volume was not read from DICOM files (or from a zip of them)",
            "save to .nii.gz, .nrrd or .mha",
            subject=path,
        )
    return origin


def _in_source_order(origin: DicomOrigin, array: NDArray[np.uint16]) -> tuple[list[Dataset], NDArray[np.uint16]]:
    """The source objects and the frames (frame, row, column) in their order."""
    stack = array.transpose(2, 1, 0)
    known = [(k, place) for k, place in enumerate(origin.slices) if place is not None]
    files = list(dict.fromkeys(place[0] for _, place in known))
    spacing_mm = float(np.linalg.norm(origin.affine[:3, 2]))
    sources = [_without_pixels(file, spacing_mm) for file in files]
    if len(files) == len(known):
        return sources, np.ascontiguousarray(stack[[k for k, _ in known]])
    if len(files) > 1:
        raise GeometryError("slices are spread over several multi-frame objects", "save to another format")
    if "PerFrameFunctionalGroupsSequence" not in sources[0]:  # nuclear medicine: highdicom asks each frame for its place
        problem = "a DICOM-SEG cannot refer to the frames of this object, which do not say each where it lies"
        raise GeometryError(problem, "save to .nii.gz, .nrrd or .mha", subject=files[0])
    frames = np.zeros((int(sources[0].NumberOfFrames), *stack.shape[1:]), np.uint16)
    for k, (_, frame) in known:
        frames[frame] = stack[k]
    return sources, frames


def _without_pixels(path: Path, spacing_mm: float) -> Dataset:
    """A source image, with what de-identification emptied taken from the file's own preface, and its texts in UTF-8."""
    with open_regular(path) as stream, guarded(path):
        header = dcmread(stream, stop_before_pixels=True, force=True)  # read before: it may lack its preamble
        for name in ("SOPClassUID", "SOPInstanceUID"):
            if not header.get(name):
                setattr(header, name, header.file_meta.get(f"MediaStorage{name}", ""))
        for name in EMPTIED:  # which a conforming file holds, if empty, and some tools take out altogether
            header.setdefault(name, "")
        header.decode()
        header.SpecificCharacterSet = "ISO_IR 192"
    missing = [name for name in NEEDED if not header.get(name)]
    if missing:
        raise FormatError(f"it lacks {', '.join(missing)}, to which a DICOM-SEG refers", "save to .nii.gz", subject=path)
    if not header.get("SliceThickness"):  # highdicom asks for it, and some scanners leave it out
        header.SliceThickness = DSfloat(spacing_mm, auto_format=True)
    return header


def _encode(sources: list[Dataset], frames: NDArray[np.uint16], descriptions: list[tuple[int, str]], path: Path) -> bytes:
    hd, codes = _highdicom(path)
    algorithm = hd.AlgorithmIdentificationSequence(name=MAKER, version=_version(), family=codes.cid7162.ArtificialIntelligence)
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name[:64],
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
            algorithm_identification=algorithm,
            tracking_id=f"{MAKER} label {label}",  # read back by dicom_seg_read
            tracking_uid=hd.UID(),
        )
        for number, (label, name) in enumerate(descriptions, 1)
    ]
    with guarded(path):
        segmentation = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=frames,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=hd.UID(),
            series_number=9000,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name=MAKER,
            software_versions=_version(),
            device_serial_number="1",
            series_description="Segmentation",
            content_label="SEGMENTATION",
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )
        buffer = BytesIO()
        segmentation.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _highdicom(path: Path) -> tuple[ModuleType, ModuleType]:
    try:
        import highdicom
        from pydicom.sr.codedict import codes
    except ImportError:
        raise ConfigError("DICOM-SEG needs highdicom", "install medical-sam2[dicom]", subject=path) from None
    return highdicom, codes  # type: ignore[return-value]


def _version() -> str:
    try:
        return version(MAKER)
    except PackageNotFoundError:
        return "0"

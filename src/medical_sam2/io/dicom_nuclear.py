"""Nuclear medicine: reconstructed slices in one object, whose header places the first and counts the others from there.

DICOM PS3.3, C.8.4.8 to C.8.4.15: position and orientation belong to the detector; the sign of SpacingBetweenSlices tells on
which side of the first slice, along the normal, the others lie; a vector tells which slice, and which time, each frame is.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from medical_sam2.errors import FormatError, GeometryError
from medical_sam2.io.dicom_headers import TIME_TAGS, Numbers, Plane, floats, number, text
from medical_sam2.io.files import guarded

VECTORS = ("TimeSlotVector", "RRIntervalVector", "EnergyWindowVector")
FAR = 0.01
"""Numbers of two spellings of a place (mm, or parts of a direction) that differ by less are the same."""


def is_reconstruction(dataset: Dataset) -> bool:
    """Whether an object holds slices that were reconstructed from the views of a gamma camera."""
    return text(dataset, "Modality") == "NM" and "RECON" in text(dataset, "ImageType").upper()


def placed(planes: Sequence[Plane], dataset: Dataset, path: Path) -> list[Plane]:
    """The frames of a reconstruction, each at its own place.

    Raises:
        FormatError: vectors that do not fit the frames.
        GeometryError: no place, two different ones, or no distance between slices.
    """
    with guarded(path):
        detector = next(iter(dataset.get("DetectorInformationSequence") or []), Dataset())
    position = _same("ImagePositionPatient", 3, detector, planes[0].position, path)
    orientation = _same("ImageOrientationPatient", 6, detector, planes[0].orientation, path)
    slots = _slots(dataset, len(planes), path)
    step = number(dataset, "SpacingBetweenSlices", planes[0].thickness, path=path)
    if max(slots) > 0 and not step:
        raise GeometryError("SpacingBetweenSlices is missing", "export the image again with its geometry", subject=path)
    normal = np.cross(orientation[:3], orientation[3:])
    normal /= np.linalg.norm(normal) or 1
    made = [
        replace(plane, position=tuple(np.add(position, slot * (step or 0) * normal).tolist()), orientation=orientation)
        for plane, slot in zip(planes, slots, strict=True)
    ]
    return _timed(made, dataset, path)


def _same(name: str, count: int, detector: Dataset, beside: Numbers | None, path: Path) -> Numbers:
    """What the detector tells, or the image itself, where only one does; both must agree."""
    told = floats(detector, name, count, path=path)
    found = told or beside
    if found is None:
        raise GeometryError(
            f"{name} is missing, here and in DetectorInformationSequence, so nothing says where its voxels lie",
            "export the image again with its geometry",
            subject=path,
        )
    if told and beside and np.abs(np.subtract(told, beside)).max() > FAR:
        raise GeometryError(f"it holds two different {name}", "export the image again", subject=path)
    return found


def _slots(dataset: Dataset, frames: int, path: Path) -> list[int]:
    """Which slice each frame is, from 0."""
    vector = floats(dataset, "SliceVector", path=path)
    if vector is None or frames == 1:
        return list(range(frames))
    if len(vector) != frames or min(vector) < 1 or any(slot != int(slot) for slot in vector):
        raise FormatError("its SliceVector does not number its frames", "repair the header", subject=path)
    return [int(slot) - 1 for slot in vector]


def _timed(planes: list[Plane], dataset: Dataset, path: Path) -> list[Plane]:
    """With what tells frames of the same slice apart."""
    vectors = {name: found for name in VECTORS if (found := floats(dataset, name, path=path)) and len(found) == len(planes)}
    columns = {1 + TIME_TAGS.index(name): vector for name, vector in vectors.items()}
    return [
        replace(plane, times=tuple(columns[c][t] if c in columns else time for c, time in enumerate(plane.times)))
        for t, plane in enumerate(planes)
    ]

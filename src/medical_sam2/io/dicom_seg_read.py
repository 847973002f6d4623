"""DICOM Segmentation objects as labels of an image: every frame goes where its own position says."""

import re
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medical_sam2.errors import FormatError, GeometryError
from medical_sam2.io import dicom_headers, values
from medical_sam2.io.dicom_files import read_dataset
from medical_sam2.io.dicom_headers import Plane, text, whole
from medical_sam2.io.dicom_pixels import segmentation_frames
from medical_sam2.io.files import guarded
from medical_sam2.io.grid import from_lps
from medical_sam2.io.labels import SAME_MM
from medical_sam2.volume import Volume

OURS = re.compile(r"medical-sam2 label ([1-9][0-9]{0,9})")


def is_segmentation(path: Path) -> bool:
    """Whether a DICOM file holds a segmentation."""
    return text(read_dataset(path, pixels=False), "Modality") == "SEG"


def load(path: Path, like: Volume) -> Volume:
    """The segments in the grid of `like`; label numbers are those that this package wrote, else the segments' own.

    Raises:
        FormatError: damaged, or with fractions instead of yes and no.
        GeometryError: a frame that lies on no slice of the image.
    """
    with catch_warnings():
        simplefilter("ignore")
        dataset = read_dataset(path, pixels=True)
        numbers = _label_numbers(dataset, path)
        planes = dicom_headers.planes(dataset, path)
        segments = _segments(dataset, len(planes), path)
        labels = np.zeros(like.shape, np.min_scalar_type(max(numbers.values(), default=0)))
        overlaps = 0
        for plane, number, frame in zip(planes, segments, segmentation_frames(dataset, path), strict=True):
            target = _slice_of(labels, plane, like, path)
            overlaps += int(np.count_nonzero(target[frame.T > 0]))
            _put(target, frame.T, number, numbers)
    notes = [f"segments overlap in {overlaps} voxels; the later one counts there"] if overlaps else []
    return Volume(values.compact(labels), like.affine, "SEG", path, tuple(notes))


def _label_numbers(dataset: Dataset, path: Path) -> dict[int, int]:
    """Segment number → label."""
    if text(dataset, "SegmentationType") not in ("BINARY", "LABELMAP"):
        raise FormatError("its segments are fractional: it is no label map", "threshold it first", subject=path)
    with guarded(path):
        items = list(dataset.get("SegmentSequence") or [])
    own = {whole(item, "SegmentNumber", None, path=path): OURS.fullmatch(text(item, "TrackingID")) for item in items}
    if all(own.values()):
        return {number: int(found[1]) for number, found in own.items() if found}
    return {number: number for number in own}


def _segments(dataset: Dataset, count: int, path: Path) -> list[int]:
    """The segment of each frame; 0 for frames that hold the numbers themselves."""
    if text(dataset, "SegmentationType") == "LABELMAP":
        return [0] * count
    with guarded(path):
        shared = next(iter(dataset.get("SharedFunctionalGroupsSequence") or []), Dataset())
        groups = [
            group if "SegmentIdentificationSequence" in group else shared for group in dataset.PerFrameFunctionalGroupsSequence
        ]
        return [int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber) for group in groups]


def _put(target: NDArray[Any], frame: NDArray[Any], number: int, numbers: dict[int, int]) -> None:
    if number:
        target[frame > 0] = numbers.get(number, number)
        return
    for value, label in numbers.items():
        target[frame == value] = label


def _slice_of(labels: NDArray[Any], plane: Plane, like: Volume, path: Path) -> NDArray[Any]:
    """The part of the volume that a frame covers, as a view (column, row)."""
    if plane.position is None or plane.orientation is None or plane.spacing is None:
        raise GeometryError("its frames do not say where they lie", "export it again", subject=path)
    directions = np.reshape(plane.orientation, (2, 3))
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = directions[0] * plane.spacing[1], directions[1] * plane.spacing[0]
    lps[:3, 2], lps[:3, 3] = np.cross(directions[0], directions[1]), plane.position
    turn = np.linalg.inv(like.affine) @ from_lps(lps)
    steps, start = np.rint(turn[:3, :2]).astype(int), np.rint(turn[:3, 3]).astype(int)
    ends = np.array([[c, r, 0, 1] for c in (0, plane.size[0] - 1) for r in (0, plane.size[1] - 1)])
    meant = np.column_stack([steps, np.zeros(3), start])
    off = np.linalg.norm((like.affine[:3, :3] @ (turn[:3] - meant) @ ends.T), axis=0).max()
    if (np.abs(steps).sum(axis=0) != 1).any() or off > 10 * SAME_MM:
        raise GeometryError("its frames do not lie on the image's slices", "resample it to the image's grid", subject=path)
    axes = [int(np.flatnonzero(step)[0]) for step in steps.T]
    third = ({0, 1, 2} - set(axes)).pop()
    first = [0 if steps[axis, n] > 0 else labels.shape[axis] - 1 for n, axis in enumerate(axes)]
    covers = [labels.shape[axis] for axis in axes] == list(plane.size) and [start[axis] for axis in axes] == first
    if not covers or not 0 <= start[third] < labels.shape[third]:
        problem = "its frames lie outside of the image, or have another size (shape)"
        raise GeometryError(problem, "give the SEG of this image", subject=path)
    flat = labels.transpose(*axes, third)[:, :, start[third]]
    return flat[tuple(slice(None, None, int(steps[axis, n])) for n, axis in enumerate(axes))]

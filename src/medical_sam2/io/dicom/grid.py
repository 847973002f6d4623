"""From slices with positions to a regular grid, or a refusal: the one place where DICOM geometry is decided.

Nuclear medicine has its reconstructed slices in one object, whose header places the first and counts the others from there
(DICOM PS3.3, C.8.4.8 to C.8.4.15): position and orientation belong to the detector; the sign of SpacingBetweenSlices tells on
which side of the first slice, along the normal, the others lie; a vector tells which slice, and which time, each frame is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medical_sam2.errors import AmbiguousError, FormatError, GeometryError, require_index
from medical_sam2.io.dicom.headers import TIME_TAGS, Numbers, Plane, floats, number, text
from medical_sam2.io.safe_open import guarded
from medical_sam2.io.voxels import from_lps

SILENT_MM = 0.02
"""Deviation from a regular grid that is rounding."""
TOLERATED = 0.02
"""Deviation, as a part of the spacing, up to which a series is read with a warning."""
TURN = 1e-3
"""Difference of two directions (radians) that is rounding."""
SAME_PLACE = 0.01


@dataclass(frozen=True, eq=False)
class SliceGrid:
    """A regular stack."""

    slices: tuple[Plane | None, ...]  # the planes in order along their normal; None where one is missing and shall be filled in
    affine: NDArray[np.float64]  # index (column, row, slice) → RAS mm
    warnings: list[str] = field(default_factory=list)  # what the user should know


def build(planes: Sequence[Plane], subject: Path, *, frame: int | None = None, allow_gap: bool = False) -> SliceGrid:
    """The grid of one series.

    Raises:
        GeometryError: positions missing, orientation mixed, spacing irregular, slices missing (unless `allow_gap`).
        AmbiguousError: several time points and no `frame`.
    """
    notes: list[str] = []
    directions = _directions(planes, subject, notes)
    spacing = _common_spacing(planes, subject)
    normal = np.cross(directions[:3], directions[3:])
    stack = _one_time(_sorted(planes, normal), normal, frame, subject)
    positions = np.array([plane.position for plane in stack])
    steps, start, slices = _step(stack, positions, normal, subject, allow_gap, notes)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = directions[:3] * spacing[1], directions[3:] * spacing[0]
    affine[:3, 2], affine[:3, 3] = steps, start
    return SliceGrid(tuple(slices), from_lps(affine), notes)


# Slices that are turned against each other would be put into one grid, and measured wrongly, by most readers.
def _directions(planes: Sequence[Plane], subject: Path, notes: list[str]) -> NDArray[np.float64]:
    """Unit directions of rows and columns that all planes share."""
    if any(plane.orientation is None for plane in planes):
        missing = next(plane for plane in planes if plane.orientation is None)
        raise GeometryError(
            f"ImageOrientationPatient is missing ({missing.path.name}), so nothing says where its voxels lie",
            "export the series again with its geometry",
            subject=subject,
        )
    if any(plane.position is None for plane in planes):
        raise GeometryError("ImagePositionPatient is missing", "export the series again with its geometry", subject=subject)
    found = np.array([plane.orientation for plane in planes]).reshape(-1, 2, 3)
    lengths = np.linalg.norm(found, axis=2, keepdims=True)
    if (lengths < 1e-3).any():
        raise GeometryError("ImageOrientationPatient holds no directions", "repair the header", subject=subject)
    unit = found / lengths
    if np.abs(lengths - 1).max() > TURN:
        notes.append("ImageOrientationPatient is not of unit length; it was normalised")
    if np.abs(np.sum(unit[:, 0] * unit[:, 1], axis=1)).max() > 0.01:
        raise GeometryError("ImageOrientationPatient is not perpendicular", "repair the header", subject=subject)
    turn = 2 * float(np.arcsin(min(np.linalg.norm(unit - unit[0], axis=2).max() / 2, 1)))
    if turn > TURN:
        raise GeometryError(
            f"its slices differ in orientation by up to {np.degrees(turn):.2g}°",
            "give a series whose slices are parallel",
            subject=subject,
        )
    return unit[0].ravel()


def _common_spacing(planes: Sequence[Plane], subject: Path) -> tuple[float, float]:
    if any(plane.spacing is None for plane in planes):
        raise GeometryError("PixelSpacing is missing", "export the series again with its geometry", subject=subject)
    if len({plane.size for plane in planes}) > 1:
        listed = ", ".join(sorted({f"{columns}×{rows}" for columns, rows in (plane.size for plane in planes)}))
        raise GeometryError(f"its slices differ in size (Columns×Rows {listed})", "give slices of one size", subject=subject)
    found = np.array([plane.spacing for plane in planes])
    if np.ptp(found, axis=0).max() > 1e-3 * found.min():
        raise GeometryError("its slices differ in PixelSpacing", "give slices of one spacing", subject=subject)
    return float(found[0, 0]), float(found[0, 1])


def _height(plane: Plane, normal: NDArray[np.float64]) -> float:
    return float(np.dot(np.asarray(plane.position), normal))


def _sorted(planes: Sequence[Plane], normal: NDArray[np.float64]) -> list[list[Plane]]:
    """Planes by height; those at one place together."""
    stacks: list[list[Plane]] = []
    for plane in sorted(planes, key=lambda plane: _height(plane, normal)):
        if stacks and _height(plane, normal) - _height(stacks[-1][0], normal) < SAME_PLACE:
            stacks[-1].append(plane)
        else:
            stacks.append([plane])
    return stacks


# Several slices at one place are time points only if a tag tells them apart at every place; else they are copies or leftovers.
def _one_time(stacks: list[list[Plane]], normal: NDArray[np.float64], frame: int | None, subject: Path) -> list[Plane]:
    """One plane for each place: the only one, or that of the wanted time point."""
    counts = {len(stack) for stack in stacks}
    if len(counts) > 1:
        place = next(stack for stack in stacks if len(stack) == max(counts))
        raise GeometryError(
            f"{max(counts)} slices lie at {_height(place[0], normal):.2f} mm where others lie alone",
            "remove the surplus slices, or the incomplete time point",
            subject=subject,
        )
    times = counts.pop()
    if frame is not None:
        require_index("time point", frame, times, subject)
    if times == 1:
        return [stack[0] for stack in stacks]
    column, name = _distinguishing_tag(stacks)
    if len(stacks) == 1 and column > TIME_TAGS.index("InstanceNumber"):
        raise GeometryError(f"all {times} slices lie at one position", "export the series again", subject=subject)
    if frame is None:
        raise AmbiguousError(
            f"the series holds {times} images at each position (time points, phases or echoes, told apart by {name})",
            "choose one",
            subject=subject,
            choices=(f"--frame 0 (first) to --frame {times - 1} (last)",),
        )
    return [sorted(stack, key=lambda plane: (_value(plane, column), plane.path, plane.frame))[frame] for stack in stacks]


def _distinguishing_tag(stacks: list[list[Plane]]) -> tuple[int, str]:
    """Which tag tells the planes at one place apart, everywhere."""
    names = ("TemporalPositionIndex", *TIME_TAGS)
    for column, name in enumerate(names):
        if all(len({_value(plane, column) for plane in stack}) == len(stack) for stack in stacks):
            return column, name
    return len(names) - 1, "their order alone"


def _value(plane: Plane, column: int) -> float:
    value = plane.times[column]
    return -np.inf if value is None else value


# Positions decide, not SpacingBetweenSlices: it is often wrong. Small deviations are said, large ones refused.
def _step(
    stack: list[Plane],
    positions: NDArray[np.float64],
    normal: NDArray[np.float64],
    subject: Path,
    allow_gap: bool,
    notes: list[str],
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[Plane | None]]:
    """The vector from slice to slice, the first position, and the slices with None for those that are missing."""
    if len(stack) == 1:
        return normal * (stack[0].step or stack[0].thickness or 1.0), positions[0], list(stack)
    heights = positions @ normal
    places = _places(np.diff(heights), heights, subject)
    missing = sorted(set(range(places[-1] + 1)) - set(places))
    if missing:
        _report_gap(missing, heights, places, subject, allow_gap, notes)
    step = (positions[-1] - positions[0]) / places[-1]
    off = float(np.linalg.norm(positions - (positions[0] + np.outer(places, step)), axis=1).max())
    if off > max(SILENT_MM, TOLERATED * float(np.linalg.norm(step))):
        raise GeometryError(
            f"its slices lie up to {off:.3g} mm beside a regular grid (irregular spacing)",
            "resample the series",
            subject=subject,
        )
    if off > SILENT_MM:
        notes.append(f"slices lie up to {off:.2g} mm beside the regular grid that is assumed")
    tilt = float(np.arccos(np.clip(np.dot(step, normal) / np.linalg.norm(step), -1, 1)))
    if tilt > TURN:
        notes.append(f"the gantry was tilted by {np.degrees(tilt):.1f}°: the grid is sheared; its true positions are kept")
    length = float(np.linalg.norm(step))
    if claimed := next((plane.step for plane in stack if plane.step and abs(plane.step / length - 1) > 0.05), None):
        notes.append(f"SpacingBetweenSlices says {claimed:.4g} mm, positions say {length:.4g} mm; positions count")
    by_place = dict(zip(places, stack, strict=True))
    return step, positions[0], [by_place.get(place) for place in range(places[-1] + 1)]


def _places(steps: NDArray[np.float64], heights: NDArray[np.float64], subject: Path) -> list[int]:
    """The slot of each slice on a regular grid, found from the smallest step."""
    small = steps[steps <= 1.2 * steps.min()]
    base = float(np.median(small))
    slots = np.rint(steps / base).astype(int)
    if np.abs(steps - slots * base).max() > max(2 * SILENT_MM, 0.1 * base):
        shown = f"{steps.min():.3g} to {steps.max():.3g} mm"
        raise GeometryError(f"the spacing of its slices is irregular ({shown})", "resample the series", subject=subject)
    if slots.sum() > 4 * len(heights) + 100:
        raise GeometryError("most slices are missing between those that are there (gap)", "give all slices", subject=subject)
    return [0, *np.cumsum(slots).tolist()]


def _report_gap(
    missing: list[int], heights: NDArray[np.float64], places: list[int], subject: Path, allow_gap: bool, notes: list[str]
) -> None:
    base = (heights[-1] - heights[0]) / places[-1]
    shown = ", ".join(f"{heights[0] + place * base:.1f}" for place in missing[:8]) + (" …" if len(missing) > 8 else "")
    text = f"{len(missing)} of {places[-1] + 1} slices are missing (gap at {shown} mm along the normal)"
    if not allow_gap:
        raise GeometryError(text, "give the missing files, or fill the gap by interpolation with --allow-gap", subject=subject)
    notes.append(f"{text}; they were interpolated, and what is outlined on them is in no DICOM file that is saved")


VECTORS = ("TimeSlotVector", "RRIntervalVector", "EnergyWindowVector")
FAR = 0.01
"""Numbers of two spellings of a place (mm, or parts of a direction) that differ by less are the same."""


def is_reconstruction(dataset: Dataset) -> bool:
    """Whether an object holds slices that were reconstructed from the views of a gamma camera."""
    return text(dataset, "Modality") == "NM" and "RECON" in text(dataset, "ImageType").upper()


def place_frames(planes: Sequence[Plane], dataset: Dataset, path: Path) -> list[Plane]:
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
    of_detector = floats(detector, name, count, path=path)
    found = of_detector or beside
    if found is None:
        raise GeometryError(
            f"{name} is missing, here and in DetectorInformationSequence, so nothing says where its voxels lie",
            "export the image again with its geometry",
            subject=path,
        )
    if of_detector and beside and np.abs(np.subtract(of_detector, beside)).max() > FAR:
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

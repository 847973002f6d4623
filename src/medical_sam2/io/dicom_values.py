"""Slices of a DICOM series as one array: rescaled, padding removed, gaps interpolated, in the smallest type that is exact."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medical_sam2.io import values
from medical_sam2.io.dicom_headers import Plane
from medical_sam2.io.dicom_pixels import Pixels, decode
from medical_sam2.io.options import Options


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


def stack(slices: tuple[Plane | None, ...], options: Options) -> tuple[NDArray[Any], list[str]]:
    """The array (slice, row, column) of planes in order, and what was odd about them.

    Padding (PixelPaddingValue) becomes the smallest real value, so that it cannot set an intensity window. MONOCHROME1 series
    keep their stored values. Modality LUTs are not applied (noted).
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


def _frames(known: list[Plane], options: Options) -> Iterator[tuple[Plane, NDArray[Any], Pixels]]:
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
    return values.grey(frame)


def _rescaled(frame: NDArray[Any], plane: Plane, whole: bool) -> NDArray[Any]:
    slope, intercept = plane.scaling
    if frame.dtype.kind == "f" or not whole:
        return values.rescale(frame.astype(np.float32), slope, intercept)
    if (slope, intercept) == (1, 0):
        return frame
    return frame.astype(np.int64) * int(slope) + int(intercept)


def _real(frame: NDArray[Any], pixels: Pixels) -> NDArray[Any] | None:
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

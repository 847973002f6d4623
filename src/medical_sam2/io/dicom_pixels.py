"""Pixels of DICOM files: every size that a stream claims is held against the header before a decoder sees it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder

from medical_sam2.errors import FormatError
from medical_sam2.io.dicom_files import read_dataset
from medical_sam2.io.dicom_headers import floats, frame_count, text, whole
from medical_sam2.io.dicom_streams import check_streams, decoded, transfer_syntax
from medical_sam2.io.files import guarded, require_memory

FEW_VALUES = 8
"""What has fewer values is a drawing, or the empty border of a picture, of which differences tell nothing."""
FLOAT_TAGS = ("FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True, eq=False)
class Pixels:
    """The decoded frames of one file.

    Args:
        frames: (H, W) or (H, W, 3) arrays of the wanted frames, decoded one by one.
        padding: smallest and largest stored value that means "no data", None if there is none.
        inverted: whether small values are bright (MONOCHROME1).
        stored_bits: bits of a stored value.
        warnings: what was odd.
    """

    frames: Iterable[NDArray[Any]]
    padding: tuple[float, float] | None
    inverted: bool
    stored_bits: int
    warnings: tuple[str, ...]

    def doubts(self, frame: NDArray[Any]) -> list[str]:
        """One line if the stored values look as if the header were wrong about their sign.

        Read with the wrong sign, neighbours on both sides of zero lie a whole range apart: where the other reading has less
        than half of the differences between neighbours, with many values on both sides, the header is to be doubted.
        """
        if frame.ndim != 2 or frame.dtype.kind not in "iu" or self.stored_bits < 2:
            return []
        half = 1 << (self.stored_bits - 1)
        rows = frame[:: max(frame.shape[0] // 64, 1)].astype(np.int64)
        far = rows >= half if frame.dtype.kind == "u" else rows < 0
        if not (_varied(rows[far]) and _varied(rows[~far])):
            return []
        other = np.where(far, rows + (2 * half if frame.dtype.kind == "i" else -2 * half), rows)
        if 2 * np.abs(np.diff(other)).sum() >= np.abs(np.diff(rows)).sum():
            return []
        told, seem = ("unsigned", "signed") if frame.dtype.kind == "u" else ("signed", "unsigned")
        return [f"PixelRepresentation says that its pixels are {told}; they look {seem}; they were read as it says"]

    def upright(self, frame: NDArray[Any]) -> NDArray[Any]:
        """Stored values with bright things large: the complement within the stored bits for MONOCHROME1."""
        if not self.inverted or frame.dtype.kind == "f":
            return frame
        return ~frame if frame.dtype.kind == "i" else frame.dtype.type((1 << self.stored_bits) - 1) - frame


def _varied(values: NDArray[Any]) -> bool:
    counts = np.unique(values, return_counts=True)[1]
    return len(counts) >= FEW_VALUES and 2 * counts.max() < len(values)


def decode(path: Path, wanted: Sequence[int], max_bytes: int | None = None) -> Pixels:
    """Decode some frames of a file, stored values, unscaled.

    Raises:
        FormatError: pixels missing, incomplete, or contradicting the header.
    """
    dataset = read_dataset(path, pixels=True)
    notes: list[str] = []
    shape = _shape(dataset, path)
    require_memory(4 * int(np.prod(shape, dtype=object)) * len(wanted), path, max_bytes)
    stored_bits = whole(dataset, "BitsStored", 16, path=path)
    if any(name in dataset for name in FLOAT_TAGS):
        frames: Iterable[NDArray[Any]] = _floats(dataset, shape, wanted, path)
        notes.append("its pixels are floating-point numbers; they are used as they are")
    else:
        frames = _integers(dataset, shape, wanted, path, notes)
    inverted = text(dataset, "PhotometricInterpretation") == "MONOCHROME1"
    return Pixels(frames, _padding(dataset, stored_bits, path, notes), inverted, stored_bits, tuple(notes))


def segmentation_frames(dataset: Dataset, path: Path) -> Iterator[NDArray[Any]]:
    """The frames (H, W) of a segmentation object: bits, or numbers of segments."""
    rows, columns, _ = _shape(dataset, path)
    count, bits = frame_count(dataset, path), whole(dataset, "BitsAllocated", None, path=path)
    if bits > 1:
        yield from _integers(dataset, (rows, columns, 1), range(count), path, [])
        return
    syntax = transfer_syntax(dataset, path)
    with guarded(path):
        data = bytes(dataset.PixelData)
    if not syntax.is_encapsulated and len(data) * 8 < rows * columns * count:
        raise FormatError("its pixel data are truncated", "copy it again", subject=path)
    require_memory(rows * columns, path)
    for t in range(count):
        if not syntax.is_encapsulated:  # frames follow each other bit by bit; pydicom takes only those that begin with a byte
            yield _bits(data, t * rows * columns, rows * columns).reshape(rows, columns)
            continue
        with guarded(path):
            yield get_decoder(syntax).as_array(dataset, index=t)[0]


def _bits(data: bytes, start: int, count: int) -> NDArray[np.uint8]:
    """Bits of a stream, the lowest of each byte first."""
    first, last = start // 8, -(-(start + count) // 8)
    return np.unpackbits(np.frombuffer(data[first:last], np.uint8), bitorder="little")[start % 8 :][:count]


def _shape(dataset: Dataset, path: Path) -> tuple[int, int, int]:
    rows, columns = (whole(dataset, name, None, path=path) for name in ("Rows", "Columns"))
    samples = whole(dataset, "SamplesPerPixel", 1, path=path)
    if not rows or not columns or samples not in (1, 3):
        raise FormatError(f"it declares {rows} Rows, {columns} Columns, {samples} samples", "repair the header", subject=path)
    return rows, columns, samples


def _floats(dataset: Dataset, shape: tuple[int, int, int], wanted: Sequence[int], path: Path) -> list[NDArray[Any]]:
    name = next(name for name in FLOAT_TAGS if name in dataset)
    with guarded(path):
        data = bytes(dataset[name].value)
    dtype = np.dtype("<f4" if name == FLOAT_TAGS[0] else "<f8")
    size = shape[0] * shape[1] * shape[2]
    if shape[2] != 1 or len(data) < dtype.itemsize * size * (max(wanted) + 1):
        raise FormatError("its floating-point pixel data are incomplete", "copy it again", subject=path)
    return [np.frombuffer(data, dtype, size, dtype.itemsize * size * t).reshape(shape[:2]) for t in wanted]


def _integers(
    dataset: Dataset, shape: tuple[int, int, int], wanted: Sequence[int], path: Path, notes: list[str]
) -> Iterator[NDArray[Any]]:
    bits = whole(dataset, "BitsAllocated", None, path=path)
    stored = whole(dataset, "BitsStored", bits, path=path)
    if bits not in (8, 16, 32) or not 1 <= stored <= bits:
        raise FormatError(f"BitsAllocated {bits} with BitsStored {stored} cannot be read", "convert the image", subject=path)
    if whole(dataset, "HighBit", stored - 1, path=path) != stored - 1:
        raise FormatError("its HighBit does not fit BitsStored", "convert the image", subject=path)
    if "PixelData" not in dataset:
        raise FormatError("its pixel data are missing: the file is truncated or incomplete", "copy it again", subject=path)
    syntax = transfer_syntax(dataset, path)
    with guarded(path):
        data = dataset.PixelData
    if syntax.is_encapsulated:
        check_streams(dataset, data, shape, syntax, path)
    else:
        _check_length(dataset, len(data), shape, bits, path, notes)
    return decoded(dataset, shape, syntax, wanted, path)


def _check_length(dataset: Dataset, held: int, shape: tuple[int, int, int], bits: int, path: Path, notes: list[str]) -> None:
    rows, columns, samples = shape
    subsampled = "422" in text(dataset, "PhotometricInterpretation")
    needed = rows * columns * (2 if subsampled else samples) * frame_count(dataset, path) * bits // 8
    if held < needed:
        raise FormatError(f"its pixel data are truncated: {held} of {needed} bytes are there", "copy it again", subject=path)
    if held > needed + needed % 2:
        notes.append(f"its pixel data are {held - needed} bytes too long; the surplus was not used")


def _padding(dataset: Dataset, stored_bits: int, path: Path, notes: list[str]) -> tuple[float, float] | None:
    """PixelPaddingValue, which with a range limit is an interval; a value of the other sign is that of the same bits."""
    value = floats(dataset, "PixelPaddingValue", 1, path=path)
    if value is None:
        return None
    limit = floats(dataset, "PixelPaddingRangeLimit", 1, path=path) or value
    found = value[0], limit[0]
    if not any(name in dataset for name in FLOAT_TAGS):
        lowest = -(1 << (stored_bits - 1)) if whole(dataset, "PixelRepresentation", 0, path=path) else 0
        found = tuple((number - lowest) % (1 << stored_bits) + lowest for number in found)
        if found != (value[0], limit[0]):
            told = f"PixelPaddingValue {value[0]:g} does not fit PixelRepresentation and BitsStored"
            notes.append(f"{told}; it was read with the sign and the bits of the pixels, as {found[0]:g}")
    return min(found), max(found)

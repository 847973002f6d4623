"""Pixels of DICOM files: every size that a stream claims is held against the header before a decoder sees it.

Which library decodes what is decided here, too.
"""

import os
import re
import struct
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medical_sam2.errors import FormatError
from medical_sam2.io.dicom.headers import floats, frame_count, read_dataset, text, whole_number
from medical_sam2.io.safe_open import check_expansion, guarded, require_memory

FEW_VALUES = 8
"""What has fewer values is a drawing, or the empty border of a picture, of which differences tell nothing."""
FLOAT_TAGS = ("FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True, eq=False)
class DicomPixels:
    """The decoded frames of one file."""

    frames: Iterable[NDArray[Any]]  # (H, W) or (H, W, 3) arrays of the wanted frames, decoded one by one
    padding: tuple[float, float] | None  # smallest and largest stored value that means "no data", None if there is none
    inverted: bool  # whether small values are bright (MONOCHROME1)
    stored_bits: int  # bits of a stored value
    warnings: tuple[str, ...]  # what was odd

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
        claimed, seem = ("unsigned", "signed") if frame.dtype.kind == "u" else ("signed", "unsigned")
        return [f"PixelRepresentation says that its pixels are {claimed}; they look {seem}; they were read as it says"]

    def upright(self, frame: NDArray[Any]) -> NDArray[Any]:
        """Stored values with bright things large: the complement within the stored bits for MONOCHROME1."""
        if not self.inverted or frame.dtype.kind == "f":
            return frame
        return ~frame if frame.dtype.kind == "i" else frame.dtype.type((1 << self.stored_bits) - 1) - frame


def _varied(values: NDArray[Any]) -> bool:
    counts = np.unique(values, return_counts=True)[1]
    return len(counts) >= FEW_VALUES and 2 * counts.max() < len(values)


def decode(path: Path, wanted: Sequence[int], max_bytes: int | None = None) -> DicomPixels:
    """Decode some frames of a file, unscaled; raises FormatError if pixels are missing or contradict the header."""
    dataset = read_dataset(path, pixels=True)
    notes: list[str] = []
    shape = _shape(dataset, path)
    require_memory(4 * int(np.prod(shape, dtype=object)) * len(wanted), path, max_bytes)
    stored_bits = whole_number(dataset, "BitsStored", 16, path=path)
    if any(name in dataset for name in FLOAT_TAGS):
        frames: Iterable[NDArray[Any]] = _floats(dataset, shape, wanted, path)
        notes.append("its pixels are floating-point numbers; they are used as they are")
    else:
        frames = _integers(dataset, shape, wanted, path, notes)
    inverted = text(dataset, "PhotometricInterpretation") == "MONOCHROME1"
    return DicomPixels(frames, _padding(dataset, stored_bits, path, notes), inverted, stored_bits, tuple(notes))


def segmentation_frames(dataset: Dataset, path: Path) -> Iterator[NDArray[Any]]:
    """The frames (H, W) of a segmentation object: bits, or numbers of segments."""
    rows, columns, _ = _shape(dataset, path)
    count, bits = frame_count(dataset, path), whole_number(dataset, "BitsAllocated", None, path=path)
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
    rows, columns = (whole_number(dataset, name, None, path=path) for name in ("Rows", "Columns"))
    samples = whole_number(dataset, "SamplesPerPixel", 1, path=path)
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
    bits = whole_number(dataset, "BitsAllocated", None, path=path)
    stored = whole_number(dataset, "BitsStored", bits, path=path)
    if bits not in (8, 16, 32) or not 1 <= stored <= bits:
        raise FormatError(f"BitsAllocated {bits} with BitsStored {stored} cannot be read", "convert the image", subject=path)
    if whole_number(dataset, "HighBit", stored - 1, path=path) != stored - 1:
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
    return decode_frames(dataset, shape, syntax, wanted, path)


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
        lowest = -(1 << (stored_bits - 1)) if whole_number(dataset, "PixelRepresentation", 0, path=path) else 0
        found = tuple((number - lowest) % (1 << stored_bits) + lowest for number in found)
        if found != (value[0], limit[0]):
            problem = f"PixelPaddingValue {value[0]:g} does not fit PixelRepresentation and BitsStored"
            notes.append(f"{problem}; it was read with the sign and the bits of the pixels, as {found[0]:g}")
    return min(found), max(found)


DECODERS = {
    JPEGBaseline8Bit: ("pillow",),
    JPEGExtended12Bit: ("pillow",),
    JPEGLossless: ("gdcm",),
    JPEGLosslessSV1: ("gdcm",),
    JPEGLSLossless: ("pyjpegls",),
    JPEGLSNearLossless: ("pyjpegls",),
    JPEG2000Lossless: ("pylibjpeg", "pillow"),
    JPEG2000: ("pylibjpeg", "pillow"),
}
"""Which libraries may decode what, for some would take anything: the first that is there."""
STANDARD_ERROR = threading.Lock()
COMPLAINT = re.compile(rb"Corrupt JPEG|Premature end|Invalid |Bogus |Unsupported |Unexpected |Inconsistent |.*[Gg]dcm")
TWELVE_BITS = "its pixels are JPEG of more than 8 bits (JPEG Extended), for which there is no decoder"
CONVERT = "convert it to explicit little-endian (gdcmconv --raw, dcmdjpeg)"
JPEG_STARTS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7}
"""Markers of a JPEG or JPEG-LS frame header, which holds its height and width."""
END_OF_IMAGE = b"\xff\xd9"
"""The last marker of JPEG, JPEG-LS and JPEG 2000 alike; without it decoders fill up with grey and say nothing."""


def transfer_syntax(dataset: Dataset, path: Path) -> UID:
    """How the pixels are stored; raises FormatError if there is no decoder for it, or none is installed."""
    syntax = UID(text(dataset.file_meta, "TransferSyntaxUID"))
    if not syntax and not dataset.file_meta:  # a file without preamble: the parser found out how its elements are written
        implicit, little = dataset.original_encoding
        return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    try:
        available = get_decoder(syntax).is_available and (syntax not in DECODERS or _library(syntax))
    except (NotImplementedError, ValueError):
        raise FormatError("its transfer syntax is unknown: no decoder for it exists", CONVERT, subject=path) from None
    if not available:
        problem = f"its transfer syntax ({syntax.name}) needs a decoder that is not installed"
        raise FormatError(problem, f"pip install 'medical-sam2[dicom]', or {CONVERT}", subject=path)
    return syntax


def _library(syntax: UID) -> str:
    """The library that decodes a syntax, "" for pydicom itself or none."""
    there = get_decoder(syntax).available_plugins
    return next((name for name in DECODERS.get(syntax, ()) if name in there), "")


def decode_frames(
    dataset: Dataset, shape: tuple[int, int, int], syntax: UID, wanted: Sequence[int], path: Path
) -> Iterator[NDArray[Any]]:
    """The wanted frames, one at a time; raises FormatError for one that is damaged, or of another size than declared."""
    decoder, library = get_decoder(syntax), _library(syntax)
    palette = text(dataset, "PhotometricInterpretation") == "PALETTE COLOR"
    for t in wanted:
        complaints: list[str] = []
        with guarded(path), _collecting_complaints(complaints) if library == "gdcm" else nullcontext():
            array = decoder.as_array(dataset, index=t, decoding_plugin=library)[0]
            array = _to_bytes(apply_color_lut(array, dataset)) if palette else array
        if complaints:
            raise FormatError("a compressed frame is damaged", "copy it again", subject=path)
        if array.shape[:2] != shape[:2]:
            raise FormatError("its pixel data have another size than its header says", "convert the image", subject=path)
        yield array


@contextmanager
def _collecting_complaints(complaints: list[str]) -> Iterator[None]:
    """Collect what GDCM's JPEG library says on standard error: of damage that it fills with wrong values it tells nobody else.

    Lines of others are passed on. One at a time, since there is one standard error.
    """
    with STANDARD_ERROR, tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        try:
            kept = os.dup(2)
        except OSError:  # closed: there is nothing to hear either
            kept = None
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            if kept is None:
                os.close(2)
            else:
                os.dup2(kept, 2)
                os.close(kept)
            file.seek(0)
            for line in file:
                if COMPLAINT.match(line):
                    complaints.append(line.decode("utf-8", "replace"))
                elif kept is not None:
                    os.write(2, line)


def _to_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    return (array >> (8 * (array.dtype.itemsize - 1))).astype(np.uint8)


@dataclass(frozen=True)
class _Head:
    """What a compressed frame says of itself."""

    rows: int
    columns: int
    samples: int
    bits: int


def check_streams(dataset: Dataset, data: bytes, shape: tuple[int, int, int], syntax: UID, path: Path) -> None:
    """Compare what each compressed frame says of itself with the header.

    Raises:
        FormatError: frames missing, truncated, of another size or depth, or of a depth for which there is no decoder.
        ResourceError: a frame of a few bytes that would unpack to gigabytes.
    """
    count, found = frame_count(dataset, path), 0
    bits = whole_number(dataset, "BitsAllocated", None, path=path)
    if _library(syntax) == "gdcm" and bits == 8 and whole_number(dataset, "BitsStored", bits, path=path) != bits:
        raise FormatError("fewer than 8 bits as lossless JPEG cannot be decoded", CONVERT, subject=path)  # GDCM would abort
    with guarded(path):
        for stream in generate_frames(data, number_of_frames=count):
            found += 1
            check_expansion(shape[0] * shape[1] * shape[2] * bits // 8, len(stream), path)
            if syntax == RLELossless:
                _check_rle(stream, shape[2] * bits // 8, path)
            elif not stream.rstrip(b"\0").endswith(END_OF_IMAGE):
                raise FormatError("a compressed frame is truncated: its end marker is missing", "copy it again", subject=path)
            else:
                _check_head(_head(stream), shape, bits, syntax, path)
    if found < count:
        raise FormatError(f"{found} of {count} compressed frames are there: it is incomplete", "copy it again", subject=path)


def _check_head(head: _Head | None, shape: tuple[int, int, int], bits: int, syntax: UID, path: Path) -> None:
    if head is None or (head.rows, head.columns) != shape[:2]:
        raise FormatError("a compressed frame is broken or has another size", "copy it again", subject=path)
    if syntax in (JPEGBaseline8Bit, JPEGExtended12Bit) and head.bits > 8:
        raise FormatError(TWELVE_BITS, CONVERT, subject=path)
    bytes_differ = _library(syntax) == "gdcm" and (head.bits > 8) != (bits > 8)  # it would write as many as the stream says
    if head.samples != shape[2] or head.bits > bits or bytes_differ:
        claims = f"{head.samples} × {head.bits} bits a pixel, the header {shape[2]} × {bits}"
        raise FormatError(f"a compressed frame says {claims}", "copy it again, or convert it", subject=path)


def _check_rle(stream: bytes, expected: int, path: Path) -> None:
    """One segment for each byte of a pixel, at offsets that rise within the frame."""
    if len(stream) < 64:
        raise FormatError("an RLE frame is incomplete", "copy it again", subject=path)
    count, *offsets = struct.unpack("<16I", stream[:64])
    used = offsets[:count]
    if count != expected or sorted(set(used)) != used or used[0] != 64 or used[-1] >= len(stream):
        raise FormatError("the segments of an RLE frame are broken", "copy it again", subject=path)


def _head(stream: bytes) -> _Head | None:
    """The header of a JPEG, JPEG-LS or JPEG 2000 stream, None if it has none."""
    if stream[:2] == b"\xff\xd8":
        return _jpeg_head(stream)
    start = stream.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(stream) < start + 43:
        return None
    width, height, left, top, tile_w, tile_h = struct.unpack(">6I", stream[start + 8 : start + 32])
    samples, bits = struct.unpack(">HB", stream[start + 40 : start + 43])
    tiles = -(-width // tile_w) * -(-height // tile_h) if tile_w and tile_h else 1 << 30
    return _Head(height - top, width - left, samples, (bits & 0x7F) + 1) if tiles <= 1 << 16 else None


def _jpeg_head(stream: bytes) -> _Head | None:
    """Walk over the markers before the scan."""
    place = 2
    while place + 10 <= len(stream) and stream[place] == 0xFF:
        marker = stream[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        if marker in JPEG_STARTS:
            bits, height, width, samples = struct.unpack(">BHHB", stream[place + 4 : place + 10])
            return _Head(height, width, samples, bits)
        place += 2 + max(int.from_bytes(stream[place + 2 : place + 4], "big"), 2)
    return None

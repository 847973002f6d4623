"""Compressed pixel data of DICOM: which library decodes what, and what each stream claims, held against the header."""

import os
import re
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
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
from medical_sam2.io.dicom_headers import frame_count, text, whole
from medical_sam2.io.files import check_expansion, guarded

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
LISTENER = threading.Lock()
COMPLAINT = re.compile(rb"Corrupt JPEG|Premature end|Invalid |Bogus |Unsupported |Unexpected |Inconsistent |.*[Gg]dcm")
TWELVE_BITS = "its pixels are JPEG of more than 8 bits (JPEG Extended), for which there is no decoder"
CONVERT = "convert it to explicit little-endian (gdcmconv --raw, dcmdjpeg)"
JPEG_STARTS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7}
"""Markers of a JPEG or JPEG-LS frame header, which holds its height and width."""
END_OF_IMAGE = b"\xff\xd9"
"""The last marker of JPEG, JPEG-LS and JPEG 2000 alike; without it decoders fill up with grey and say nothing."""


def transfer_syntax(dataset: Dataset, path: Path) -> UID:
    """How the pixels are stored, if there is a decoder for it.

    Raises:
        FormatError: none exists, or none is installed.
    """
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
        raise FormatError(problem, f"install medical-sam2[dicom], or {CONVERT}", subject=path)
    return syntax


def _library(syntax: UID) -> str:
    """The library that decodes a syntax, "" for pydicom itself or none."""
    there = get_decoder(syntax).available_plugins
    return next((name for name in DECODERS.get(syntax, ()) if name in there), "")


def decoded(
    dataset: Dataset, shape: tuple[int, int, int], syntax: UID, wanted: Sequence[int], path: Path
) -> Iterator[NDArray[Any]]:
    """The wanted frames, one at a time.

    Raises:
        FormatError: a frame that is damaged, or has another size than the header says.
    """
    decoder, library = get_decoder(syntax), _library(syntax)
    palette = text(dataset, "PhotometricInterpretation") == "PALETTE COLOR"
    for t in wanted:
        heard: list[str] = []
        with guarded(path), _listening(heard) if library == "gdcm" else nullcontext():
            array = decoder.as_array(dataset, index=t, decoding_plugin=library)[0]
            array = _to_bytes(apply_color_lut(array, dataset)) if palette else array
        if heard:
            raise FormatError("a compressed frame is damaged", "copy it again", subject=path)
        if array.shape[:2] != shape[:2]:
            raise FormatError("its pixel data have another size than its header says", "convert the image", subject=path)
        yield array


@contextmanager
def _listening(heard: list[str]) -> Iterator[None]:
    """Collect what GDCM's JPEG library says on standard error: of damage that it fills with wrong values it tells nobody else.

    Lines of others are passed on. One at a time, since there is one standard error.
    """
    with LISTENER, tempfile.TemporaryFile() as ear:
        sys.stderr.flush()
        try:
            kept = os.dup(2)
        except OSError:  # closed: there is nothing to hear either
            kept = None
        os.dup2(ear.fileno(), 2)
        try:
            yield
        finally:
            if kept is None:
                os.close(2)
            else:
                os.dup2(kept, 2)
                os.close(kept)
            ear.seek(0)
            for line in ear:
                if COMPLAINT.match(line):
                    heard.append(line.decode("utf-8", "replace"))
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
    bits = whole(dataset, "BitsAllocated", None, path=path)
    if _library(syntax) == "gdcm" and bits == 8 and whole(dataset, "BitsStored", bits, path=path) != bits:
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
        said = f"{head.samples} × {head.bits} bits a pixel, the header {shape[2]} × {bits}"
        raise FormatError(f"a compressed frame says {said}", "copy it again, or convert it", subject=path)


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

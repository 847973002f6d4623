"""Where the numbers and words of a header lie, format by format: what a mutator writes other values into."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

NUMBER = re.compile(rb"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
WORD = re.compile(rb"[A-Za-z][A-Za-z0-9_-]+")
TEXT_HEADER = 400
BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
LONG = {"OB", "OW", "OF", "OD", "SQ", "UN", "UT", "UC", "UR"}
BMP = ((2, "I"), (10, "I"), (14, "I"), (18, "i"), (22, "i"), (26, "H"), (28, "H"), (30, "I"), (34, "I"), (46, "I"))


@dataclass(frozen=True)
class Field:
    """A stretch of a file.

    Args:
        start, stop: its bytes.
        form: of `struct` for a number, "text" for digits that may change their length, "fixed" for text that may not, "word".
    """

    start: int
    stop: int
    form: str


@lru_cache(maxsize=256)
def fields(data: bytes) -> tuple[Field, ...]:
    """The fields of a file; none where its format has none or is not known."""
    try:
        return tuple(_fields(data))
    except (struct.error, IndexError, ValueError):
        return ()


def _fields(data: bytes) -> Iterator[Field]:
    if data[:4] in (b"\\\x01\0\0", b"\x1c\x02\0\0"):
        yield from _nifti(data)
    elif data[:4] == b"NRRD" or data[:10] == b"ObjectType" or data[:1] == b"{":
        yield from _text(data)
    elif data[128:132] == b"DICM" or data[:4] == b"\x08\0\x16\0":
        yield from _dicom(data)
    elif data[:4] in (b"II*\0", b"II+\0"):
        yield from _tiff(data)
    elif data[:4] == b"\x89PNG":
        yield from (Field(16 + 4 * n, 20 + 4 * n, ">I") for n in range(2))
        yield from (Field(24 + n, 25 + n, "B") for n in range(5))
    elif data[:2] == b"BM":
        yield from (Field(start, start + struct.calcsize(form), f"<{form}") for start, form in BMP)
    elif data[:3] == b"\xff\xd8\xff":
        yield from _jpeg(data)


def _nifti(data: bytes) -> Iterator[Field]:
    kind = Nifti1Header if data[0] == 0x5C else Nifti2Header
    for name in kind.template_dtype.names or ():
        dtype, start = kind.template_dtype.fields[name][:2]
        base = dtype.subdtype[0] if dtype.subdtype else dtype
        if base.kind in "iuf" and name not in ("sizeof_hdr",):
            for place in range(start, start + dtype.itemsize, base.itemsize):
                yield Field(place, place + base.itemsize, f"<{'q' if base.char == 'l' else base.char}")


def _text(data: bytes) -> Iterator[Field]:
    head = data[:TEXT_HEADER]
    for found in NUMBER.finditer(head):
        yield Field(found.start(), found.end(), "text")
    for found in WORD.finditer(head):
        yield Field(found.start(), found.end(), "word")


def _dicom(data: bytes) -> Iterator[Field]:
    """Elements with explicit types, also those within sequences, whose heads are stepped over."""
    place = 132 if data[128:132] == b"DICM" else 0
    while place + 8 <= len(data):
        kind = data[place + 4 : place + 6].decode("latin-1")
        if data[place : place + 2] == b"\xfe\xff":
            place += 8
            continue
        yield Field(place, place + 2, "<H")
        yield Field(place + 2, place + 4, "<H")
        yield Field(place + 4, place + 6, "word")
        head, form = (12, "<I") if kind in LONG else (8, "<H")
        (length,) = struct.unpack(form, data[place + head - (4 if kind in LONG else 2) : place + head])
        yield Field(place + head - (4 if kind in LONG else 2), place + head, form)
        start, stop = place + head, place + head + length
        if kind in BINARY:
            size = struct.calcsize(BINARY[kind])
            yield from (Field(at, at + size, f"<{BINARY[kind]}") for at in range(start, min(stop, start + 8 * size), size))
        elif kind not in LONG and length:
            yield Field(start, stop, "fixed")
        place = start if kind == "SQ" else stop


def _tiff(data: bytes) -> Iterator[Field]:
    """The entries of the first directory."""
    big = data[2:3] == b"+"
    (start,) = struct.unpack("<Q" if big else "<I", data[8:16] if big else data[4:8])
    (count,) = struct.unpack("<Q" if big else "<H", data[start : start + (8 if big else 2)])
    place, size = start + (8 if big else 2), 20 if big else 12
    for at in range(place, place + min(count, 40) * size, size):
        yield Field(at, at + 2, "<H")
        yield Field(at + 2, at + 4, "<H")
        yield Field(at + 4, at + (12 if big else 8), "<Q" if big else "<I")
        yield Field(at + size - (8 if big else 4), at + size, "<Q" if big else "<I")
        yield Field(at + size - (8 if big else 4), at + size - (6 if big else 2), "<H")


def _jpeg(data: bytes) -> Iterator[Field]:
    place = 2
    while place + 9 < len(data) and data[place] == 0xFF:
        yield Field(place + 2, place + 4, ">H")
        if data[place + 1] in (0xC0, 0xC1, 0xC2, 0xC3):
            yield from (Field(place + 5 + 2 * n, place + 7 + 2 * n, ">H") for n in range(2))
            yield Field(place + 9, place + 10, "B")
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")

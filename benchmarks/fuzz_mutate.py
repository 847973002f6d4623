"""Mutants of sound files: one and the same for a number and a seed of chance, on any machine."""

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fuzz_fields import Field, fields
from fuzz_seeds import Seed

INTEGERS = (0, 1, -1, 2, 3, 4, 7, 8, 12, 16, 24, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
FLOATS = (0.0, -1.0, 1e-30, 1e30, -1e30, 4e-13, float("nan"), float("inf"), 1e300, 0.5, 2.0, -0.0)
MOST = 3e38
"""About the largest number of 32 bits."""
NUMBERS = (
    b"0",
    b"-1",
    b"1",
    b"2",
    b"3",
    b"0.5",
    b"4e-13",
    b"1e30",
    b"-1e300",
    b"1e400",
    b"nan",
    b"inf",
    b"99999999999999999999",
)
TEXTS = (
    *NUMBERS,
    b"65536",
    b"",
    b"1 2 3 4",
    b"1\\2\\3",
    b"true",
    b"null",
    b"[]",
    b"{}",
    b'"x"',
    b"[[[[[[",
    b"x",
    b"-0",
    b"0x10",
)
WORDS = (
    b"none",
    b"domain",
    b"time",
    b"vector",
    b"double",
    b"uchar",
    b"gzip",
    b"raw",
    b"LOCAL",
    b"LIST",
    b"MET_DOUBLE",
    b"True",
    b"",
)
KINDS = (b"US", b"SS", b"DS", b"IS", b"SQ", b"OB", b"UN", b"UI", b"FD", b"AT", b"XX")
Mutator = Callable[[bytes, np.random.Generator], bytes]


def mutant(seed: Seed, rng: np.random.Generator) -> tuple[Seed, str]:
    """The seed with one of its files changed in one to three ways, and the name of the first way."""
    name = list(seed.files)[int(rng.integers(len(seed.files)))]
    names = [str(word) for word in rng.choice(list(MUTATORS), int(rng.choice([1, 1, 1, 2, 3])), p=WEIGHTS)]
    data = seed.files[name]
    inner = rng.random() < 0.7
    for word in names:
        data = _within(name, data, MUTATORS[word], rng) if inner else MUTATORS[word](data, rng)
    return replace(seed, files={**seed.files, name: data}), names[0]


def _within(name: str, data: bytes, change: Mutator, rng: np.random.Generator) -> bytes:
    """Change what is packed, and pack it again, so that no checksum gives the change away."""
    try:
        if data[:2] == b"\x1f\x8b":
            return gzip.compress(change(gzip.decompress(data), rng), 1, mtime=0)
        if data[:4] == b"PK\x03\x04":
            return _rezipped(data, change, rng)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError):
        return change(data, rng)
    changed = change(data, rng)
    return _checked_png(changed) if name.endswith(".png") else changed


def _rezipped(data: bytes, change: Mutator, rng: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as sink:
        for entry in source.namelist():
            sink.writestr(entry, change(source.read(entry), rng))
    return stream.getvalue()


def _checked_png(data: bytes) -> bytes:
    """With the right checksum of each chunk."""
    made, place = bytearray(data), 8
    while place + 12 <= len(made):
        stop = place + 8 + int.from_bytes(made[place : place + 4], "big")
        if stop + 4 > len(made):
            break
        made[stop : stop + 4] = zlib.crc32(made[place + 4 : stop]).to_bytes(4, "big")
        place = stop + 4
    return bytes(made)


def _field(data: bytes, rng: np.random.Generator) -> bytes:
    """Another number or word in a field of the header."""
    found = fields(data)
    if not found:
        return _flip(data, rng)
    field = found[int(rng.integers(len(found)))]
    new = _value(field, data, rng)
    return data[: field.start] + new + data[field.stop :]


def _value(field: Field, data: bytes, rng: np.random.Generator) -> bytes:
    size = min(field.stop, len(data)) - field.start
    if size < field.stop - field.start:  # the file ends within it
        return b""
    if field.form == "text":
        return _one(TEXTS, rng)
    if field.form == "word":
        return _one(KINDS, rng) if size == 2 else _one(WORDS, rng)
    if field.form == "fixed":
        word = _one(NUMBERS, rng) if rng.random() < 0.7 else b"\\".join([_one(NUMBERS, rng)] * int(rng.integers(1, 7)))
        return word[:size].ljust(size)
    if field.form[-1] in "fd":
        number = _one(FLOATS, rng)
        return struct.pack(
            field.form, max(min(number, MOST), -MOST) if field.form[-1] == "f" and abs(number) < np.inf else number
        )
    (old,) = struct.unpack(field.form, data[field.start : field.stop])
    number = int(_one((*INTEGERS, old + 1, old - 1, 2 * old, old // 2), rng))
    return (number % (1 << 8 * size)).to_bytes(size, "big" if field.form[0] == ">" else "little")


def _one(choices, rng: np.random.Generator):
    return choices[int(rng.integers(len(choices)))]


def _swap(data: bytes, rng: np.random.Generator) -> bytes:
    """The content of one field in the place of another."""
    found = fields(data)
    if len(found) < 2:
        return _splice(data, rng)
    one, other = (found[int(n)] for n in rng.choice(len(found), 2, replace=False))
    word = data[other.start : other.stop]
    if one.form not in ("text", "word"):
        word = word[: one.stop - one.start].ljust(one.stop - one.start, b" " if one.form == "fixed" else b"\0")
    return data[: one.start] + word + data[one.stop :]


def _place(data: bytes, rng: np.random.Generator) -> int:
    """Anywhere; in the first 500 bytes more often, where headers are."""
    stop = len(data) if rng.random() < 0.4 else min(len(data), 500)
    return int(rng.integers(stop)) if stop else 0


def _flip(data: bytes, rng: np.random.Generator) -> bytes:
    made = bytearray(data or b"\0")
    for _ in range(int(rng.integers(1, 9))):
        made[_place(bytes(made), rng)] = int(rng.integers(256))
    return bytes(made)


def _bit(data: bytes, rng: np.random.Generator) -> bytes:
    made = bytearray(data or b"\0")
    made[_place(bytes(made), rng)] ^= 1 << int(rng.integers(8))
    return bytes(made)


def _truncate(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(len(data) + 1))]


def _splice(data: bytes, rng: np.random.Generator) -> bytes:
    """A stretch of the file once more, somewhere else: over what is there, or between."""
    start, target = _place(data, rng), _place(data, rng)
    piece = data[start : start + int(rng.integers(1, 64))]
    return data[:target] + piece + data[target + (len(piece) if rng.random() < 0.5 else 0) :]


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    start = _place(data, rng)
    return data[:start] + data[start + int(rng.integers(1, 32)) :]


def _number(data: bytes, rng: np.random.Generator) -> bytes:
    """An extreme number in any place."""
    form = str(rng.choice(["<h", "<i", "<f", "<q", ">h", ">i"]))
    size = struct.calcsize(form)
    start = _place(data, rng) // 2 * 2
    return data[:start] + _value(Field(0, size, form), bytes(size), rng) + data[start + size :]


MUTATORS: dict[str, Mutator] = {
    "field": _field,
    "swap": _swap,
    "flip": _flip,
    "bit": _bit,
    "truncate": _truncate,
    "splice": _splice,
    "cut": _cut,
    "number": _number,
}
WEIGHTS = (0.4, 0.1, 0.1, 0.08, 0.06, 0.1, 0.06, 0.1)

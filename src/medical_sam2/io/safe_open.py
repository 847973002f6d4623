"""Opening files that cannot be trusted, within limits: no hanging on pipes, no memory for sizes a header merely claims, checked
gzip, JSON that is strict; and which format a file has, by its first bytes.
"""

import errno
import io
import json
import math
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import FormatError, InputError, MedicalSam2Error, ResourceError

GZIP_MAGIC = b"\x1f\x8b"
GZIP_WINDOW, ZLIB_WINDOW = 31, 15
"""What zlib calls these formats."""
DEFLATE_RATIO = 1040
"""No deflate stream grows by more (1032 : 1 is the limit of the format)."""
SUSPICIOUS_SIZE, SUSPICIOUS_RATIO = 1 << 30, 500
CHUNK = 1 << 20

REASONS = {
    errno.ENOENT: ("there is no such file", "check the path"),
    errno.EACCES: ("may not be read", "change its permissions"),
    errno.EPERM: ("may not be read", "change its permissions"),
    errno.ELOOP: ("is a loop of symbolic links", "give the file itself"),
    errno.ENAMETOOLONG: ("has a name that is too long", "give a shorter path"),
    errno.ENOTDIR: ("lies below something that is no folder", "check the path"),
}
DICOM_GROUPS = (b"\x02\x00", b"\x08\x00")
UNDEFINED = 0xFFFFFFFF
"""The length of a sequence that ends with a mark."""
NIFTI_SIZES = (348, 540)


def explain(error: OSError, path: Path) -> InputError:
    """The operating system's refusal as one of our errors, or ResourceError's sibling for what the machine lacks."""
    problem, remedy = REASONS.get(error.errno or 0, ((error.strerror or "cannot be read").lower(), "check the path"))
    return InputError(problem, remedy, subject=path)


@contextmanager
def guarded(path: Path) -> Iterator[None]:
    """The border of every reader: whatever a library throws at damaged input becomes one of our errors.

    Its own words and warnings are kept to itself: they quote the file, and what they quote may name a person.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except MedicalSam2Error as error:
        raise error.about(path) from None
    except MemoryError:
        raise ResourceError("reading it needs more memory than there is", "close other programs", subject=path) from None
    except RecursionError:
        raise FormatError("its parts are nested too deeply", "repair the file", subject=path) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in REASONS:
            raise explain(error, path) from None
        kind = type(error).__name__
        raise FormatError(f"the file is damaged or incomplete ({kind})", "copy or download it again", subject=path) from None


def as_path(path: object) -> Path:
    """What somebody gave for a path; raises InputError for what can be none."""
    if isinstance(path, str | Path):
        return Path(path)
    if isinstance(path, os.PathLike) and isinstance(text := cast("os.PathLike[Any]", path).__fspath__(), str):
        return Path(text)
    problem = f"{repr(path)[:60]} (of type {type(path).__name__}) is no path"
    raise InputError(problem, "give the name of a file or folder, or a Path")


def as_stored(path: Path) -> Path:
    """The path as the disk spells it, if it is there: "é" may be one letter or two (Unicode normalisation)."""
    text = str(path)
    if text.isascii() or "\0" in text or os.path.lexists(path) or path.parent == path:
        return path
    folder, wanted = as_stored(path.parent), normalize("NFC", path.name)
    try:
        found = [entry for entry in folder.iterdir() if normalize("NFC", entry.name) == wanted]
    except OSError:
        return path
    return found[0] if len(found) == 1 else path


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; a pipe or device is refused without waiting for it.

    Raises:
        InputError: missing, unreadable, or no regular file.
        FormatError: empty.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(as_stored(path), flags)
    except OSError as error:
        raise explain(error, path) from None
    except ValueError:
        raise InputError("is no valid path", "give a path without a zero byte", subject=repr(str(path))) from None
    status = os.fstat(descriptor)
    try:
        if stat.S_ISDIR(status.st_mode):
            raise InputError("is a folder", "give a file", subject=path)
        if not stat.S_ISREG(status.st_mode):
            raise InputError("is a pipe or a device, not a file", "save its content to a file first", subject=path)
        if status.st_size == 0:
            raise FormatError("the file is empty", "copy or download it again", subject=path)
    except InputError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


@dataclass
class Content:
    """The bytes of a file, unpacked where it is gzipped."""

    path: Path  # for messages
    stream: "BinaryIO | _Unpacked"  # where reading goes on
    capacity: int  # most bytes that it can hold: its size, or what gzip could make of it
    gzipped: bool  # whether it is unpacked on the fly
    stored: int  # bytes that it takes on the disk, few for a file that is mostly a hole
    warnings: list[str] = field(default_factory=list)  # what was odd about it
    position: int = 0

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes, else FormatError."""
        if count > self.capacity - self.position:
            raise self.truncated(self.position + count)
        data = self.stream.read(count)
        self.position += len(data)
        if len(data) < count:
            raise self.truncated(self.position - len(data) + count)
        return data

    def skip(self, count: int) -> None:
        """Pass over `count` bytes."""
        while count > 0:
            count -= len(self.read(min(count, CHUNK)))

    def array(self, dtype: np.dtype, count: int, *, max_bytes: int | None = None) -> NDArray[Any]:
        """The next `count` numbers, in the machine's byte order, in memory that is asked for only if they can be there."""
        size = count * dtype.itemsize
        if size > self.capacity - self.position:
            raise self.truncated(self.position + size)
        require_memory(size, self.path, max_bytes)
        check_expansion(size, self.stored, self.path)
        flat = np.empty(count, dtype)
        view = memoryview(flat.view(np.uint8).data)
        for start in range(0, size, CHUNK):
            piece = view[start : start + CHUNK]
            piece[:] = self.read(len(piece))
        return flat if dtype.isnative else flat.byteswap(inplace=True).view(dtype.newbyteorder("="))

    def finish(self) -> None:
        """Read to the end, which checks gzip's checksum; note what follows the image."""
        if not isinstance(self.stream, _Unpacked):
            if self.capacity > self.position:
                self.warnings.append(f"{self.capacity - self.position} bytes follow the image; they were not used")
            return
        extra, allowed = 0, max(self.position, 64 * CHUNK)
        while data := self.stream.read(CHUNK):
            extra += len(data)
            if extra > allowed:
                raise FormatError("much more data follow than the header declares", "repair the file", subject=self.path)
        if self.stream.garbage:
            self.warnings.append("other data follow the compressed image; they were not read")
        if extra:
            self.warnings.append(f"{extra} bytes follow the image; they were not used")

    def truncated(self, needed: int) -> FormatError:
        """The error for a file that ends before byte `needed`."""
        if self.gzipped:
            return FormatError(
                f"the image is truncated: its header declares {needed} bytes", "copy or download it again", subject=self.path
            )
        return FormatError(
            f"the image is truncated: its header declares {needed} bytes, the file holds {self.capacity}",
            "copy or download it again",
            subject=self.path,
        )


@contextmanager
def open_content(path: Path) -> Iterator[Content]:
    """Open a file by what it holds, gzip or not, whatever it is called; broken compression becomes FormatError."""
    with open_regular(path) as raw:
        status = os.fstat(raw.fileno())
        size, stored = status.st_size, getattr(status, "st_blocks", 0) * 512 or status.st_size
        gzipped = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        with broken_compression(path):
            if gzipped:
                yield Content(path, _Unpacked(raw, GZIP_WINDOW), size * DEFLATE_RATIO, True, size)
            else:
                yield Content(path, raw, size, False, stored)


@contextmanager
def broken_compression(path: Path) -> Iterator[None]:
    """Translate what a broken compressed stream raises."""
    try:
        yield
    except EOFError:
        raise FormatError("the compressed data are truncated", "copy or download it again", subject=path) from None
    except zlib.error as error:
        what = "checksum (CRC) or length does not fit" if "check" in str(error) else "invalid compressed data"
        raise FormatError(f"the file is corrupt: {what}", "copy or download it again", subject=path) from None


@contextmanager
def inflated(content: Content, data_size: int, *, raw_zlib: bool) -> Iterator[Content]:
    """The rest of `content`, which is compressed though the file is not (NRRD, MetaImage), as a content of its own."""
    stream = _Unpacked(content.stream, ZLIB_WINDOW if raw_zlib else GZIP_WINDOW)
    with broken_compression(content.path):
        yield Content(content.path, stream, data_size * DEFLATE_RATIO, True, data_size, content.warnings)


class _Unpacked(io.RawIOBase):
    """A compressed stream read in pieces, all its checksums checked; gzip may have several members and zeros after them.

    gzip.GzipFile would do, but it reads ahead, and fails for whatever follows the data before it hands them out.
    """

    def __init__(self, source: "BinaryIO | _Unpacked", window: int) -> None:
        self.source, self.window = source, window
        self.unpacker, self.packed = zlib.decompressobj(window), b""
        self.ended = self.garbage = False

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; EOFError where the stream breaks off, zlib.error where a checksum does not fit."""
        pieces: list[bytes] = []
        missing = size if size >= 0 else CHUNK
        while missing > 0 and not self.ended:
            if self.unpacker.eof:
                self._next_member()
                continue
            self.packed = self.packed or self.source.read(1 << 16)
            if not self.packed:
                raise EOFError
            pieces.append(self.unpacker.decompress(self.packed, missing))
            self.packed = self.unpacker.unconsumed_tail
            missing -= len(pieces[-1])
        return b"".join(pieces)

    def _next_member(self) -> None:
        rest = self.unpacker.unused_data.lstrip(b"\0")
        while len(rest) < 2 and (more := self.source.read(1 << 16)):
            rest = (rest + more).lstrip(b"\0")
        if self.window == GZIP_WINDOW and rest.startswith(GZIP_MAGIC):
            self.unpacker, self.packed = zlib.decompressobj(self.window), rest
        else:
            self.ended, self.garbage = True, bool(rest)


def require_memory(size: int, path: Path | str, max_bytes: int | None = None, *, what: str = "the image") -> None:
    """Raise ResourceError if `size` bytes exceed the caller's limit or what the machine has free."""
    if max_bytes is not None and size > max_bytes:
        raise ResourceError(f"the image needs {megabytes(size)}, the limit is {megabytes(max_bytes)}", "crop it", subject=path)
    free = free_memory()
    if free is not None and size > free:
        problem = f"{what} needs {megabytes(size)}, {megabytes(free)} are free"
        raise ResourceError(problem, "free memory, lift the limit (ulimit -v) or crop the image", subject=path)


def check_expansion(size: int, packed: int, path: Path) -> None:
    """Refuse to unpack gigabytes of what can be hardly more than zeros."""
    if size > SUSPICIOUS_SIZE and size > SUSPICIOUS_RATIO * packed:
        problem = f"{megabytes(packed)} would unpack to {megabytes(size)}: this looks like a decompression bomb"
        raise ResourceError(problem, "unpack it yourself if you trust it", subject=path)


def free_memory() -> int | None:
    """Bytes that can be allocated without swapping, under the limits of container and process; None where nobody says."""
    found = [free for free in (_system_free(), _container_free(), _process_free()) if free is not None]
    return min(found, default=None)


def _system_free() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


def _container_free() -> int | None:
    try:
        group = Path("/sys/fs/cgroup")
        return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return None


def _process_free() -> int | None:
    """What `ulimit -v` leaves of addresses."""
    try:
        import resource  # not on every system

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return None if limit == resource.RLIM_INFINITY else max(0, limit - pages * resource.getpagesize())
    except (ImportError, OSError, ValueError):
        return None


def megabytes(size: int) -> str:
    """A size in words."""
    return f"{size / 2**20:,.0f} MB"


MOST_BYTES = 64 << 20
MOST_DIGITS = 40


def load_json(path: Path | str, *, newest: int | None = 1, max_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        newest: the highest `version` that the caller understands; a file without a version counts as version 1. None for
            files of other programs, whose `version` is their own affair.
        max_bytes: largest file.

    Raises:
        FormatError: no JSON object, NaN or infinite numbers, a key twice, nested too deeply, or of a future version.
    """
    path = Path(path)
    with open_regular(path) as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise FormatError(f"the file is larger than {max_bytes} bytes", "check what it is", subject=path)
    return parse_json(data, path, newest=newest)


def parse_json(data: bytes | str, subject: Path | str, *, newest: int | None = 1) -> dict[str, Any]:
    """Parse a JSON object that came from elsewhere; see `load_json`."""
    try:
        parsed = json.loads(data, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole, object_pairs_hook=_unique)
    except RecursionError:
        raise FormatError("its JSON is nested too deeply", "check what it is", subject=subject) from None
    except FormatError as error:
        raise error.about(subject) from None
    except ValueError as error:
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise FormatError(f"this is no valid JSON{where}", "repair the file", subject=subject) from None
    if not isinstance(parsed, dict):
        raise FormatError("it holds no JSON object", "check what it is", subject=subject)
    if newest is not None:
        _check_version(parsed.get("version", 1), newest, subject)
    return parsed


def _check_version(version: object, newest: int, subject: Path | str) -> None:
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise FormatError("its version is no positive whole number", "repair the file", subject=subject)
    if version > newest:
        raise FormatError(
            f"it was written by a newer program (version {version}, known up to {newest})",
            "update this program",
            subject=subject,
        )


def _no_constant(name: str) -> float:
    raise FormatError(f"it holds {name}, which is no JSON number", "write finite numbers")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise FormatError(f"it holds the number {text[:20]}, which is infinite", "write finite numbers")
    return value


# Which is larger overflows wherever it meets a float.
def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise FormatError(f"it holds a number of {len(text)} digits", f"write {MOST_DIGITS} at most")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise FormatError("it holds a key twice", "repair the file")
    return found


def is_dicom(head: bytes) -> bool:
    """Whether these first bytes are a DICOM file's, with or without its preamble."""
    if head[128:132] == b"DICM":
        return True
    if head[:2] in DICOM_GROUPS and head[3:4] == b"\0" and head[4:6].isalpha() and head[4:6].isupper():
        return True
    big = head[:2] == b"\0\x08" and head[4:6].isalpha() and head[4:6].isupper()
    return big or _implicit(head)


def _implicit(head: bytes) -> bool:
    """Whether elements without a type follow each other: rising numbers, groups of even number, lengths that fit."""
    places: list[tuple[int, int]] = []
    start = 0
    while start + 8 <= len(head):
        group, element, length = struct.unpack("<HHI", head[start : start + 8])
        if group % 2 or group < 8 or (places and (group, element) <= places[-1]) or (length % 2 and length != UNDEFINED):
            return False
        places.append((group, element))
        start += 8 + length
    return len(places) > 1 and places[0][0] == 8


def is_nifti(head: bytes) -> bool:
    """Whether these first (unpacked) bytes are a NIfTI or Analyze header, in either byte order."""
    sizes = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")}
    return len(head) >= 4 and bool(sizes & set(NIFTI_SIZES))


def begins(*magic: bytes) -> Callable[[bytes], bool]:
    """Whether first bytes begin with one of these."""
    return lambda head: head.startswith(magic)

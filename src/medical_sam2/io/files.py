"""Opening files that cannot be trusted: no hanging on pipes, no memory for sizes a header merely claims, checked gzip."""

import errno
import io
import os
import stat
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except MedicalSam2Error:
        raise
    except MemoryError:
        raise ResourceError("reading it needs more memory than there is", "close other programs", subject=path) from None
    except RecursionError:
        raise FormatError("its parts are nested too deeply", "repair the file", subject=path) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in REASONS:
            raise explain(error, path) from None
        kind = type(error).__name__
        raise FormatError(f"the file is damaged or incomplete ({kind})", "copy or download it again", subject=path) from None


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
    """The bytes of a file, unpacked where it is gzipped.

    Args:
        path: for messages.
        stream: where reading goes on.
        capacity: most bytes that it can hold: its size, or what gzip could make of it.
        gzipped: whether it is unpacked on the fly.
        stored: bytes that it takes on the disk, few for a file that is mostly a hole.
        warnings: what was odd about it.
    """

    path: Path
    stream: "BinaryIO | _Unpacked"
    capacity: int
    gzipped: bool
    stored: int
    warnings: list[str] = field(default_factory=list)
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


def require_memory(size: int, path: Path | str, max_bytes: int | None = None) -> None:
    """Raise ResourceError if `size` bytes exceed the caller's limit or what the machine has free."""
    if max_bytes is not None and size > max_bytes:
        raise ResourceError(f"the image needs {megabytes(size)}, the limit is {megabytes(max_bytes)}", "crop it", subject=path)
    free = free_memory()
    if free is not None and size > free:
        raise ResourceError(
            f"the image needs {megabytes(size)}, {megabytes(free)} are free", "free memory or crop the image", subject=path
        )


def check_expansion(size: int, packed: int, path: Path) -> None:
    """Refuse to unpack gigabytes of what can be hardly more than zeros."""
    if size > SUSPICIOUS_SIZE and size > SUSPICIOUS_RATIO * packed:
        problem = f"{megabytes(packed)} would unpack to {megabytes(size)}: this looks like a decompression bomb"
        raise ResourceError(problem, "unpack it yourself if you trust it", subject=path)


def free_memory() -> int | None:
    """Bytes that can be allocated without swapping, under the container's limit too; None where nobody says."""
    found = [free for free in (_system_free(), _container_free()) if free is not None]
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


def megabytes(size: int) -> str:
    """A size in words."""
    return f"{size / 2**20:,.0f} MB"

"""Files that appear whole or not at all, and folders that somebody writes in."""

import errno
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from medical_sam2.errors import InputError, MedicalSam2Error, ResourceError

try:
    import fcntl
except ImportError:  # Windows: drafts of a killed run stay, hidden
    fcntl = None

DRAFT = re.compile(r"\.[0-9a-f]{16}\.tmp")
"""What a file is called that is not whole yet."""
EFFORT = 4
"""How hard image files are compressed: label maps hardly get smaller with more."""


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes become the file `path` when the block ends without an error.

    They are written to a hidden file in the same folder, flushed to the disk and renamed; on any error (an interrupt too) that
    file is removed and an older `path` stays as it was.

    Raises:
        InputError: the folder is missing or not writable.
        ResourceError: the disk is full.
    """
    path = Path(path)
    hidden = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(hidden, path)
            with suppress(OSError):  # not every file system can do so
                sync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                hidden.unlink()
            raise
    except OSError as error:
        raise _explain(error, path) from None


def check_folder(folder: Path, contents: str) -> None:
    """Refuse a folder that can be neither made nor written.

    Args:
        folder: there or not.
        contents: what is to be written there.

    Raises:
        InputError: it is a file, or its disk or its permissions do not allow it.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError("is a file", f"give a folder for {contents}", subject=folder)
    if not folder.exists() and not folder.parent.is_dir():
        raise InputError("its folder does not exist", "create it first", subject=folder)
    if not os.access(folder if folder.exists() else folder.parent, os.W_OK):
        problem = "is not writable" if folder.exists() else "its folder is not writable"
        raise InputError(problem, "choose another folder", subject=folder)


def encode(text: str) -> bytes:
    """UTF-8; what of a file's name is no text becomes an escape of JSON: no result is lost for its image's name."""
    return text.encode("utf-8", "backslashreplace")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically."""
    with writing(path) as stream:
        stream.write(data)


def _explain(error: OSError, path: Path) -> MedicalSam2Error:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ResourceError("the disk is full; nothing was written", "free some space", subject=path)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return InputError("its folder does not exist", "create it first", subject=path)
    if error.errno == errno.EISDIR:
        return InputError("is a folder", "give a file name", subject=path)
    reason = (error.strerror or "unknown reason").lower()
    return InputError(f"cannot be written: {reason}", "choose another folder", subject=path)


def sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _opened(lock_file: Path) -> Iterator[int]:
    """A file for locks, made where it is missing; closed, it leaves none."""
    lock = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield lock
    finally:
        os.close(lock)


@contextmanager
def occupied(folder: Path, lock_file: Path) -> Iterator[None]:
    """Say by a lock that somebody writes in a folder; who comes alone removes drafts of a run that was killed."""
    with _opened(lock_file) as lock:
        with suppress(OSError):  # somebody else is at work, or the disk has no locks: then drafts stay
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for draft in folder.rglob(".*.tmp"):
                    if DRAFT.fullmatch(draft.name):
                        draft.unlink(missing_ok=True)
        with suppress(OSError):
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_SH)
        yield


@contextmanager
def alone(lock_file: Path) -> Iterator[None]:
    """Wait until no other process is in a block with this lock; a disk without locks lets everybody in."""
    with _opened(lock_file) as lock:
        with suppress(OSError):
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# A lock on a byte for each of them: one open file for thousands; network disks have such locks, and who dies leaves none.
@contextmanager
def claimed(names: Iterable[str], folder: Path, lock_file: Path) -> Iterator[None]:
    """Claim pieces of work in a folder for this process as long as the block lasts, all of them or none.

    A disk without locks lets everybody do everything.

    Raises:
        InputError: another process has claimed one of them.
    """
    places = {int.from_bytes(sha256(name.encode("utf-8", "surrogateescape")).digest()[:6], "big"): name for name in names}
    with _opened(lock_file) as lock:
        if taken := _claim_in_order(lock, places):
            problem = f"another run is at work on {taken} here, or will be"
            raise InputError(problem, "wait until it has ended, or choose another folder", subject=folder)
        yield


def _claim_in_order(lock: int, places: Mapping[int, str]) -> str:
    """The name of one that is taken, if any is; always in this order, so that of two who come at once one gets all."""
    if fcntl is None:  # Windows
        return ""
    for place in sorted(places):
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except (BlockingIOError, PermissionError):
            fcntl.lockf(lock, fcntl.LOCK_UN)
            return places[place]
        except OSError:  # the disk has no locks
            break
    return ""

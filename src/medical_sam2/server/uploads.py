"""Where images come from: a library, by numbers, so that no path comes from a client; and uploads, within limits."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from medical_sam2.io import registry
from medical_sam2.server.refusals import Conflict, InvalidRequest, NotFound, TooLarge
from medical_sam2.server.security import ServerSettings

MOST_ENTRIES = 500
UPLOAD_WITHIN_S = 3_600.0


@dataclass(frozen=True)
class LibraryEntry:
    """Something that can be opened."""

    path: Path  # of a file or a folder
    name: str  # as it is shown
    kind: str  # "volume", "set" or "folder" (one of DICOM files, or of images)


# A link that leads out of the library is left out without a word: that it is there is nobody's business.
def library_entries(root: Path | None) -> list[LibraryEntry]:
    """What a file or folder offers, in an order that stays; links that lead out of it are left out."""
    if root is None or not root.exists():
        return []
    if root.is_file():
        return [LibraryEntry(root, root.name, _kind(root) or "volume")]
    home = root.resolve()
    found = [LibraryEntry(root, "all images of this folder", "set")] if _has_pictures(root) else []
    for item in sorted(root.iterdir(), key=lambda item: item.name)[: 4 * MOST_ENTRIES]:
        if item.name.startswith(".") or not leads_within(item, home):
            continue
        if item.is_dir() and any(_is_within(file, home) for file in item.iterdir()):
            found.append(LibraryEntry(item, item.name, "folder"))
        elif item.is_file() and (kind := _kind(item)):
            found.append(LibraryEntry(item, item.name, kind))
    return found[:MOST_ENTRIES]


def _is_within(path: Path, home: Path) -> bool:
    """Whether it is a file of the library; a decoder is asked again about whatever it opens, however deep it lies."""
    return path.is_file() and leads_within(path, home)


def leads_within(path: Path, home: Path) -> bool:
    """Whether a file, a folder or a link lies in the library in the end; links that lead in a circle do not."""
    try:
        return path.resolve(strict=True).is_relative_to(home)
    except (OSError, RuntimeError):
        return False


def _kind(path: Path) -> str | None:
    name = path.name.lower()
    if name.endswith(registry.suffixes("picture")):
        return "set"
    return "volume" if name.endswith(registry.suffixes(headers=True)) else None


def _has_pictures(root: Path) -> bool:
    pictures = registry.suffixes("picture")
    return any(item.suffix.lower() in pictures and _is_within(item, root.resolve()) for item in root.iterdir())


@dataclass(eq=False)
class Upload:
    """What came of a session so far."""

    began: float = field(default_factory=time.monotonic)  # on the clock that only runs forward
    bytes: int = 0  # that came
    files: int = 0  # that were begun
    opening: bool = False  # whether they are being read


class Uploads:
    """All sessions that wait for their files.

    Args:
        settings: with the folder of the sessions and the limits.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings, self._lock = settings, threading.Lock()
        self._uploads: dict[str, Upload] = {}

    def begin(self, id: str) -> None:
        """A session waits from now on."""
        with self._lock:
            self._uploads[id] = Upload()

    def forget(self, id: str) -> None:
        """It does not wait any more."""
        with self._lock:
            self._uploads.pop(id, None)

    def is_waiting(self, id: str) -> bool:
        """Whether a session waits for files, and for no longer than it may."""
        upload = self._uploads.get(id)
        return upload is not None and (upload.opening or time.monotonic() - upload.began < UPLOAD_WITHIN_S)

    def new_file(self, id: str, suffix: str) -> Path:
        """One more empty file, to be written to.

        Raises:
            NotFound: no session waits for files under this id.
            Conflict: it is being opened, or has this part of a pair.
            InvalidRequest: a kind of file that nobody reads.
        """
        with self._lock:
            upload, suffix = self._waiting(id), suffix.lower()
            if not registry.is_uploadable(suffix):
                raise InvalidRequest(f"files of this kind are not read; give {registry.readable()}")
            source = self._settings.state / id / "source"
            if sum(1 for _ in source.iterdir()) >= self._settings.most_files:
                raise TooLarge(f"more than {self._settings.most_files} files")
            alone = suffix.removesuffix(".gz") in registry.header_suffixes() | registry.data_suffixes()
            path = source / f"{1 if alone else upload.files + 1:05d}{suffix}"
            try:
                path.touch(0o600, exist_ok=False)
            except FileExistsError:
                raise Conflict(f"there is a {suffix} file already; begin a new session for another image") from None
            upload.files += 1
            return path

    def add_bytes(self, id: str, count: int) -> None:
        """Bytes that have come in.

        Raises:
            TooLarge: more than a session may have.
        """
        with self._lock:
            upload = self._waiting(id)
            upload.bytes += count
            if upload.bytes > self._settings.most_upload_mb << 20:
                raise TooLarge(f"the upload is larger than {self._settings.most_upload_mb} MB")

    @contextmanager
    def opening(self, id: str) -> Iterator[None]:
        """Nobody else opens it, and nothing more comes.

        Raises:
            NotFound: no session waits under this id.
            Conflict: it is being opened.
        """
        with self._lock:
            upload = self._waiting(id)
            upload.opening = True
        try:
            yield
        finally:
            upload.opening = False

    def _waiting(self, id: str) -> Upload:
        if id not in self._uploads:
            raise NotFound("upload")
        if self._uploads[id].opening:
            raise Conflict("this session is being opened already; wait for that")
        return self._uploads[id]

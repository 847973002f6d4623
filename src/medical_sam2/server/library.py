"""The folder that may be opened from the page: its images by number, so that no path comes from a client."""

import threading
from dataclasses import dataclass
from pathlib import Path

from medical_sam2.io.pictures import SUFFIXES as PICTURES
from medical_sam2.server.session import Session
from medical_sam2.server.store import Store

VOLUMES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".hdr", ".zip", ".dcm")
MOST = 500


@dataclass(frozen=True)
class Entry:
    """Something that can be opened.

    Args:
        path: of a file or a folder.
        name: as it is shown.
        kind: "volume", "set" or "folder" (one of DICOM files, or of images).
    """

    path: Path
    name: str
    kind: str


def entries(root: Path | None) -> list[Entry]:
    """What a file or folder offers, in an order that stays; links that lead out of it are left out."""
    if root is None or not root.exists():
        return []
    if root.is_file():
        return [Entry(root, root.name, _kind(root) or "volume")]
    home = root.resolve()
    found = [Entry(root, "all images of this folder", "set")] if _has_pictures(root) else []
    for item in sorted(root.iterdir(), key=lambda item: item.name)[: 4 * MOST]:
        if item.name.startswith(".") or not item.resolve().is_relative_to(home):
            continue
        if item.is_dir() and any(_is_within(file, home) for file in item.iterdir()):
            found.append(Entry(item, item.name, "folder"))
        elif item.is_file() and (kind := _kind(item)):
            found.append(Entry(item, item.name, kind))
    return found[:MOST]


def _is_within(path: Path, home: Path) -> bool:
    """Whether it is a file of the library; `child` asks again for whatever a reader opens, however deep it lies."""
    return path.is_file() and path.resolve().is_relative_to(home)


def _kind(path: Path) -> str | None:
    name = path.name.lower()
    if path.suffix.lower() in PICTURES:
        return "set"
    return "volume" if name.endswith(VOLUMES) else None


def _has_pictures(root: Path) -> bool:
    return any(item.suffix.lower() in PICTURES and _is_within(item, root.resolve()) for item in root.iterdir())


class Opened:
    """Images of the library that were asked about: each is opened once, and anew where its file is another one by now.

    Args:
        store: of the sessions.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._lock = store, threading.Lock()
        self._sessions: dict[tuple[Path, int, int], str] = {}

    def of(self, entry: Entry) -> Session:
        """The session of an image."""
        about = entry.path.stat()
        key = entry.path, about.st_mtime_ns, about.st_size
        with self._lock:  # who asks meanwhile waits, and gets the same
            if (known := self._sessions.get(key)) in self._store.ids():
                return self._store.get(str(known))
            id = self._store.new()
            try:
                self._store.place(id, entry.path)
                session = self._store.open(id)
            except BaseException:
                self._store.remove(id)
                raise
            self._sessions[key] = id
            return session

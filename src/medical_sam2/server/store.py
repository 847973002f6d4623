"""All sessions: made, filled, opened, kept over a restart, closed; within limits of number, size, memory and age.

A session's folder holds `source/` (what was uploaded) or `source.json` (a place in the library), `decoded/` (arrays), the
journal and `results/`. Folders are readable by their owner alone, and named by random numbers.
"""

import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medical_sam2.errors import ConfigError, FormatError
from medical_sam2.io import Picture, atomic
from medical_sam2.server import child
from medical_sam2.server.ages import Ages
from medical_sam2.server.desk import Desk
from medical_sam2.server.processes import Children
from medical_sam2.server.refusals import Full, Missing, TooLarge, Unusable, disk_is_full
from medical_sam2.server.session import Session
from medical_sam2.server.sets import SetSubject
from medical_sam2.server.settings import Settings
from medical_sam2.server.subjects import Subject
from medical_sam2.server.uploads import Uploads
from medical_sam2.server.volumes import VolumeSubject
from medical_sam2.volume import Volume

log = logging.getLogger("medsam2.serve")
IDENTITY = re.compile(r"[0-9a-f]{32}")
CLOSE_S = 4.0  # that sessions may take to close, all together


@dataclass(frozen=True)
class Origin:
    """Where the images of a session come from.

    Args:
        path: file or folder.
        reading: how they are read.
        study: of a PACS, to which the result may go back.
        within: folder that no link among them may lead out of.
    """

    path: Path
    reading: child.Reading
    study: str = ""
    within: Path | None = None


class Store:
    """The sessions.

    Args:
        settings: with their folder and the limits.
        desk: where the network is asked.
    """

    def __init__(self, settings: Settings, desk: Desk) -> None:
        self.settings, self.desk = settings, desk
        settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._held = _alone(settings.state)
        self._lock = threading.RLock()
        self._sessions: dict[str, Session] = {}
        self._used: dict[str, float] = {}
        self.uploads = Uploads(settings)
        self._ages = Ages(settings.state / "ages.json")
        self.children = Children(settings.child)
        self.sweep()

    def ids(self) -> list[str]:
        """Sessions that can be opened, the latest first."""
        made = (
            (folder.stat().st_mtime, folder.name) for folder in self._folders() if (folder / "decoded" / child.META).exists()
        )
        return [name for _, name in sorted(made, reverse=True)]

    def new(self) -> str:
        """A session that waits for its files."""
        with self._lock:
            self.sweep()
            if len(list(self._folders())) >= self.settings.most_sessions:
                raise Full(f"{self.settings.most_sessions} sessions are open, which is the limit; close one first")
            id = secrets.token_hex(16)
            folder = self.settings.state / id
            folder.mkdir(mode=0o700)
            (folder / "source").mkdir(mode=0o700)
            self.uploads.begin(id)
            return id

    def place(self, id: str, source: Path, *, study: str = "") -> None:
        """Take the images from a place of this machine instead of an upload; only the server itself says which."""
        library = self.settings.library
        within = library.resolve() if library is not None and library.is_dir() and not study else None
        path = source.resolve()
        if within is not None and not path.is_relative_to(within):
            raise Missing("entry of the library")
        placed = {"path": str(path), "study": study, "within": within and str(within)}
        atomic.write_bytes(self.settings.state / id / "source.json", json.dumps(placed).encode())

    def open(self, id: str, reading: child.Reading | None = None) -> Session:
        """Decode what was uploaded or placed.

        Raises:
            Conflict: somebody does so at the moment.
            Refusal: it cannot be read.
        """
        with self.uploads.opening(id):
            try:
                self._decode(id, reading or child.Reading())
                session = self.get(id, new=True)
            except BaseException:
                shutil.rmtree(self.settings.state / id / "decoded", ignore_errors=True)
                raise
            self.uploads.forget(id)
        log.info("session opened")
        return session

    def _decode(self, id: str, reading: child.Reading) -> None:
        folder = self.settings.state / id
        atomic.write_bytes(folder / "reading.json", json.dumps(asdict(reading)).encode())
        origin = self.origin(id)
        if origin.path == folder / "source" and not any(origin.path.iterdir()):
            raise Unusable("no file was uploaded")
        try:
            child.decode(origin.path, folder / "decoded", reading, self.children, within=origin.within)
        except OSError:
            if folder.is_dir():
                raise
            raise Missing("session") from None  # it was closed meanwhile

    def get(self, id: str, *, new: bool = False) -> Session:
        """The session of an id.

        Raises:
            Missing: there is none.
        """
        with self._lock:
            if not IDENTITY.fullmatch(id) or (self.uploads.wait(id) and not new):
                raise Missing("session")
            folder = self.settings.state / id
            if id not in self._sessions:
                if not (folder / "decoded" / child.META).is_file():
                    raise Missing("session")
                self._sessions[id] = self._read(id, folder)
            self._used[id] = time.monotonic()
            self._rest(but=id)
            return self._sessions[id]

    def origin(self, id: str) -> Origin:
        """Where its images come from."""
        folder = self.settings.state / id
        reading = child.Reading(**_json(folder / "reading.json"))
        placed = _json(folder / "source.json")
        path = Path(placed["path"]) if placed else folder / "source"
        within = Path(placed["within"]) if placed.get("within") else None
        return Origin(path, reading, str(placed.get("study", "")), within)

    def remove(self, id: str) -> None:
        """Close a session and remove all that was kept of it."""
        with self._lock:
            if not IDENTITY.fullmatch(id) or not (self.settings.state / id).is_dir():
                raise Missing("session")
            session = self._sessions.pop(id, None)
            self.uploads.forget(id)
        if session:
            session.close()
        shutil.rmtree(self.settings.state / id, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what nobody touched for days, and uploads that were never finished."""
        with self._lock:
            folders = {folder.name: folder for folder in self._folders()}
            ready = {id: folder for id, folder in folders.items() if (folder / "decoded" / child.META).is_file()}
            idle_s = self._ages.of({id: _touched(folder) for id, folder in ready.items()})
            for id in folders:
                waits = self.uploads.wait(id)
                if (id not in ready and not waits) or (
                    idle_s.get(id, 0.0) > self.settings.keep_days * 86_400 and not waits and not self._busy(id)
                ):
                    self.remove(id)

    def _busy(self, id: str) -> bool:
        return id in self._sessions and self._sessions[id].busy

    def close(self) -> None:
        """Close all sessions; they can be opened again by another server."""
        self.children.end()
        with self._lock:
            sessions = list(self._sessions.values())
        ends = time.monotonic() + CLOSE_S
        for session in sessions:
            session.cancel()
        for session in sessions:
            session.close(ends - time.monotonic())
        os.close(self._held)

    def _folders(self) -> Iterable[Path]:
        with os.scandir(self.settings.state) as entries:
            return [
                Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False) and IDENTITY.fullmatch(entry.name)
            ]

    def _rest(self, but: str) -> None:
        """Let sessions that were not used lately forget what can be drawn again."""
        held = {id: session.held_bytes for id, session in self._sessions.items()}
        for id in sorted(held, key=lambda id: self._used.get(id, 0.0)):
            if sum(held.values()) <= self.settings.held_mb * 2**20:
                return
            if id != but:
                self._sessions[id].rest()
                held[id] = 0

    def _read(self, id: str, folder: Path) -> Session:
        try:
            return Session(id, folder, self._subject(folder / "decoded"), self.desk)
        except (FormatError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            if isinstance(error, OSError) and disk_is_full(error):
                raise
            reason = error.problem if isinstance(error, FormatError) else "its files are damaged"
            raise Unusable(f"this session cannot be opened again: {reason}; remove it") from None

    def _subject(self, decoded: Path) -> Subject:
        notes = _json(decoded / child.META)
        count = notes.get("count", 1)
        arrays = [np.load(decoded / f"{i}.npy", mmap_mode="r", allow_pickle=False) for i in range(count)]
        if sum(array.size for array in arrays) > self.settings.most_voxels:
            raise TooLarge(f"it has more than {self.settings.most_voxels} voxels")
        if notes["kind"] == "set":
            spacing = tuple(notes["spacing_mm"]) if notes["spacing_mm"] else None
            return SetSubject([Picture(array, spacing, notes.get("modality")) for array in arrays], self.settings.window)  # type: ignore[arg-type]
        return VolumeSubject(Volume(arrays[0], np.array(notes["affine"]), notes["modality"]), self.settings.window)

    def is_dicom(self, id: str) -> bool:
        """Whether its images are DICOM files, so that a DICOM-SEG can refer to them."""
        return bool(_json(self.settings.state / id / "decoded" / child.META).get("dicom"))

    def warnings(self, id: str) -> list[str]:
        """What the reader noticed."""
        return list(dict.fromkeys(_json(self.settings.state / id / "decoded" / child.META).get("warnings", ())))


def _touched(folder: Path) -> float:
    journal = folder / "journal.jsonl"
    return (journal if journal.exists() else folder).stat().st_mtime


def _alone(folder: Path) -> int:
    """A lock on the folder, which ends with this process whatever ends it.

    Raises:
        ConfigError: another server has it.
    """
    held = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        raise ConfigError("another server uses this folder of sessions", "end it, or give --state", subject=folder) from None
    return held


def _json(path: Path) -> Mapping[str, Any]:
    return json.loads(path.read_bytes()) if path.is_file() else {}

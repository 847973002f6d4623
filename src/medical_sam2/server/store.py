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

from medical_sam2.errors import ConfigError
from medical_sam2.io import Picture, atomic
from medical_sam2.server import child
from medical_sam2.server.desk import Desk
from medical_sam2.server.refusals import Full, Missing, TooLarge, Unusable
from medical_sam2.server.session import Session
from medical_sam2.server.sets import SetSubject
from medical_sam2.server.settings import Settings
from medical_sam2.server.subjects import Subject
from medical_sam2.server.volumes import VolumeSubject
from medical_sam2.volume import Volume

log = logging.getLogger("medsam2.serve")
SUFFIX = re.compile(r"(\.(nii|nrrd|nhdr|mha|mhd|raw|hdr|img|dcm|zip|png|jpe?g|tiff?|bmp))?(\.gz)?")
IDENTITY = re.compile(r"[0-9a-f]{32}")
UPLOAD_S = 3_600.0  # that an upload may take
PAIRED = {".hdr", ".img", ".nhdr", ".mhd", ".raw"}


@dataclass(frozen=True)
class Origin:
    """Where the images of a session come from.

    Args:
        path: file or folder.
        reading: how they are read.
        study: of a PACS, to which the result may go back.
    """

    path: Path
    reading: child.Reading
    study: str = ""


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
        self._uploads: dict[str, int] = {}
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
            self._uploads[id] = 0
            return id

    def room(self, id: str, suffix: str) -> Path:
        """Where one more uploaded file may be written.

        Raises:
            Missing: no session waits for files under this id.
            Unusable: a kind of file that nobody reads.
        """
        with self._lock:
            if id not in self._uploads:
                raise Missing("upload")
            if not SUFFIX.fullmatch(suffix.lower()):
                raise Unusable("files of this kind are not read; give NIfTI, NRRD, MetaImage, DICOM, PNG, JPEG, TIFF or a zip")
            source = self.settings.state / id / "source"
            files = list(source.iterdir())
            if len(files) >= self.settings.most_files:
                raise TooLarge(f"more than {self.settings.most_files} files")
            alone = suffix.lower().removesuffix(".gz") in PAIRED
            number = 1 if alone else 1 + len(files)
            return source / f"{number:05d}{suffix.lower()}"

    def received(self, id: str, count: int) -> None:
        """Bytes that have come in.

        Raises:
            TooLarge: more than a session may have.
        """
        with self._lock:
            self._uploads[id] = self._uploads.get(id, 0) + count
            if self._uploads[id] > self.settings.most_upload_mb << 20:
                raise TooLarge(f"the upload is larger than {self.settings.most_upload_mb} MB")

    def place(self, id: str, source: Path, study: str = "") -> None:
        """Take the images from a place of this machine instead of an upload; only the server itself says which."""
        folder = self.settings.state / id
        atomic.write_bytes(folder / "source.json", json.dumps({"path": str(source.resolve()), "study": study}).encode())

    def open(self, id: str, reading: child.Reading | None = None) -> Session:
        """Decode what was uploaded or placed.

        Raises:
            Refusal: it cannot be read.
        """
        with self._lock:
            if id not in self._uploads:
                raise Missing("upload")
        folder, reading = self.settings.state / id, reading or child.Reading()
        atomic.write_bytes(folder / "reading.json", json.dumps(asdict(reading)).encode())
        source = self.origin(id).path
        if source == folder / "source" and not any(source.iterdir()):
            raise Unusable("no file was uploaded")
        child.decode(source, folder / "decoded", reading, self.settings.child)
        session = self.get(id, new=True)
        with self._lock:
            self._uploads.pop(id, None)
        log.info("session opened")
        return session

    def get(self, id: str, *, new: bool = False) -> Session:
        """The session of an id.

        Raises:
            Missing: there is none.
        """
        with self._lock:
            if not IDENTITY.fullmatch(id) or (id in self._uploads and not new):
                raise Missing("session")
            folder = self.settings.state / id
            if id not in self._sessions:
                if not (folder / "decoded" / child.META).is_file():
                    raise Missing("session")
                self._sessions[id] = Session(id, folder, self._subject(folder / "decoded"), self.desk)
            self._used[id] = time.monotonic()
            self._rest(but=id)
            return self._sessions[id]

    def origin(self, id: str) -> Origin:
        """Where its images come from."""
        folder = self.settings.state / id
        reading = child.Reading(**_json(folder / "reading.json"))
        placed = _json(folder / "source.json")
        return Origin(Path(placed["path"]) if placed else folder / "source", reading, str(placed.get("study", "")))

    def remove(self, id: str) -> None:
        """Close a session and remove all that was kept of it."""
        with self._lock:
            if not IDENTITY.fullmatch(id) or not (self.settings.state / id).is_dir():
                raise Missing("session")
            session = self._sessions.pop(id, None)
            self._uploads.pop(id, None)
        if session:
            session.close()
        shutil.rmtree(self.settings.state / id, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what nobody touched for days, and uploads that were never finished."""
        for folder in list(self._folders()):
            journal = folder / "journal.jsonl"
            age_s = time.time() - (journal if journal.exists() else folder).stat().st_mtime
            waits = folder.name in self._uploads and age_s < UPLOAD_S
            unfinished = not (folder / "decoded" / child.META).is_file() and not waits
            idle = folder.name not in self._sessions or not self._sessions[folder.name].busy
            if unfinished or (idle and age_s > self.settings.keep_days * 86_400):
                self.remove(folder.name)

    def close(self) -> None:
        """Close all sessions; they can be opened again by another server."""
        for session in self._sessions.values():
            session.close()
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

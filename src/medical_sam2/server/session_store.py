"""All sessions: made, filled, opened, kept over a restart, closed; within limits of number, size, memory and age.

Their images come from a library, by numbers, so that no path comes from a client, or are uploaded.

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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import ConfigError, FormatError, MedicalSam2Error
from medical_sam2.io import Picture, atomic, registry
from medical_sam2.server import Conflict, InvalidRequest, LimitReached, NotFound, TooLarge, disk_is_full
from medical_sam2.server.editing import renumber
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.pacs import SeriesRecord
from medical_sam2.server.security import ServerSettings
from medical_sam2.server.segmentation import SessionImage, SessionImageSet, SessionVolume
from medical_sam2.server.session import Session
from medical_sam2.server.state import State
from medical_sam2.server.worker_process import META, ImageSource, ReadingOptions, WorkerProcesses
from medical_sam2.volume import Volume

log = logging.getLogger("medsam2.serve")
IDENTITY = re.compile(r"[0-9a-f]{32}")
MOST_GAP_S = 86_400.0
CLOSE_S = 4.0  # that sessions may take to close, all together
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
        """Bytes that have come in; raises TooLarge for more than a session may have."""
        with self._lock:
            upload = self._waiting(id)
            upload.bytes += count
            if upload.bytes > self._settings.most_upload_mb << 20:
                raise TooLarge(f"the upload is larger than {self._settings.most_upload_mb} MB")

    @contextmanager
    def opening(self, id: str) -> Iterator[None]:
        """Nobody else opens it, and nothing more comes; raises NotFound if none waits so, Conflict if it is being opened."""
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


class SessionStore:
    """All sessions.

    Args:
        settings: with their folder and the limits.
        queue: where the network is asked.
    """

    def __init__(self, settings: ServerSettings, queue: InferenceQueue) -> None:
        self.settings, self.queue = settings, queue
        settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder_lock = _lock_folder(settings.state)
        self._lock = threading.RLock()
        self._sessions: dict[str, Session] = {}
        self._used: dict[str, float] = {}
        self.uploads = Uploads(settings)
        self._idle_clock = IdleClock(settings.state / "ages.json")
        self.workers = WorkerProcesses(settings.worker_limits)
        self.remove_old()

    def ids(self) -> list[str]:
        """Sessions that can be opened, the latest first."""
        made = ((folder.stat().st_mtime, folder.name) for folder in self._folders() if (folder / "decoded" / META).exists())
        return [name for _, name in sorted(made, reverse=True)]

    def new(self) -> str:
        """A session that waits for its files."""
        with self._lock:
            self.remove_old()
            if len(list(self._folders())) >= self.settings.most_sessions:
                most = f"{self.settings.most_sessions} sessions are kept, which is the limit"
                raise LimitReached(f"{most}; remove one on the first page, or start the server with --most-sessions")
            id = secrets.token_hex(16)
            folder = self.settings.state / id
            folder.mkdir(mode=0o700)
            (folder / "source").mkdir(mode=0o700)
            self.uploads.begin(id)
            return id

    @contextmanager
    def creating(self) -> Iterator[str]:
        """A new session, which is removed where it cannot be filled."""
        id = self.new()
        try:
            yield id
        except BaseException:
            self.remove(id)
            raise

    def place(self, id: str, path: Path, *, study: str = "") -> None:
        """Take the images from a place of this machine instead of an upload; only the server itself says which."""
        library = self.settings.library
        within = library.resolve() if library is not None and library.is_dir() and not study else None
        path = path.resolve()
        if within is not None and not path.is_relative_to(within):
            raise NotFound("entry of the library")
        placed = {"path": str(path), "study": study, "within": within and str(within)}
        atomic.write_bytes(self.settings.state / id / "source.json", json.dumps(placed).encode())

    def fetch(self, id: str, one: SeriesRecord) -> None:
        """Take the images from a series of the PACS."""
        source = self.settings.state / id / "source"
        wanted = {"address": self.settings.pacs, "study": one.study, "series": one.series, "images": one.images}
        most = self.settings.most_upload_mb << 20
        self.workers.run({"do": "fetch", **wanted, "target": str(source), "most_bytes": most})
        self.place(id, source, study=one.study)

    def open(self, id: str, reading: ReadingOptions | None = None) -> Session:
        """Decode what was uploaded or placed; raises Conflict if somebody does so, Refusal if it cannot be read."""
        with self.uploads.opening(id):
            try:
                self._decode(id, reading or ReadingOptions())
                session = self.get(id, new=True)
            except BaseException:
                shutil.rmtree(self.settings.state / id / "decoded", ignore_errors=True)
                raise
            self.uploads.forget(id)
        log.info("session opened")
        return session

    def _decode(self, id: str, reading: ReadingOptions) -> None:
        folder = self.settings.state / id
        atomic.write_bytes(folder / "reading.json", json.dumps(asdict(reading)).encode())
        source = self.source(id)
        if source.path == folder / "source" and not any(source.path.iterdir()):
            raise InvalidRequest("no file was uploaded")
        try:
            self.workers.decode(source, folder / "decoded")
        except OSError:
            if folder.is_dir():
                raise
            raise NotFound("session") from None  # it was closed meanwhile

    def get(self, id: str, *, new: bool = False) -> Session:
        """The session of an id; raises NotFound."""
        with self._lock:
            if not IDENTITY.fullmatch(id) or (self.uploads.is_waiting(id) and not new):
                raise NotFound("session")
            folder = self.settings.state / id
            if id not in self._sessions:
                if not (folder / "decoded" / META).is_file():
                    raise NotFound("session")
                self._sessions[id] = self._read(id, folder)
            self._used[id] = time.monotonic()
            self._release_memory(but=id)
            return self._sessions[id]

    def source(self, id: str) -> ImageSource:
        """Where its images come from."""
        folder = self.settings.state / id
        placed = _read_json(folder / "source.json")
        path = Path(placed["path"]) if placed else folder / "source"
        within = Path(placed["within"]) if placed.get("within") else None
        return ImageSource(path, ReadingOptions(**_read_json(folder / "reading.json")), within, str(placed.get("study", "")))

    def export(
        self, session: Session, labels: NDArray[np.uint8], form: str, state: State, names: Mapping[int, str] | None = None
    ) -> bytes:
        """Labels of a state as a file of this form ("nii.gz", "dcm", ...), in the grid of the session's own source."""
        with TemporaryDirectory(dir=session.folder) as folder:
            target = Path(folder) / f"labels.{form}"
            numbers = state.numbers
            chosen = {numbers[each.label]: each.colour for each in state.structures}
            called = {numbers.get(label, label): name for label, name in (names or state.names).items()}
            self.workers.export(
                self.source(session.id), renumber(labels, numbers), (called, chosen), target, self.settings.formats
            )
            return target.read_bytes()

    def remove(self, id: str) -> None:
        """Close a session and remove all that was kept of it."""
        with self._lock:
            if not IDENTITY.fullmatch(id) or not (self.settings.state / id).is_dir():
                raise NotFound("session")
            session = self._sessions.pop(id, None)
            self.uploads.forget(id)
        if session:
            session.close()
        shutil.rmtree(self.settings.state / id, ignore_errors=True)

    # An upload that still waits is left alone, whatever its age; a session that is tracked, too.
    def remove_old(self) -> None:
        """Remove what nobody touched for days, and uploads that were never finished."""
        with self._lock:
            folders = {folder.name: folder for folder in self._folders() if not self.uploads.is_waiting(folder.name)}
            ready = {id: folder for id, folder in folders.items() if (folder / "decoded" / META).is_file()}
            idle_s = self._idle_clock.idle_seconds({id: _touched(folder) for id, folder in ready.items()})
            for id in folders:
                busy = id in self._sessions and self._sessions[id].busy
                if id not in ready or (idle_s[id] > self.settings.keep_days * 86_400 and not busy):
                    self.remove(id)

    def close(self) -> None:
        """Close all sessions; they can be opened again by another server."""
        self.workers.end()
        with self._lock:
            sessions = list(self._sessions.values())
        ends = time.monotonic() + CLOSE_S
        for session in sessions:
            session.cancel()
        for session in sessions:
            session.close(ends - time.monotonic())
        os.close(self._folder_lock)

    def _folders(self) -> Iterable[Path]:
        with os.scandir(self.settings.state) as entries:
            folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        return [Path(folder.path) for folder in folders if IDENTITY.fullmatch(folder.name)]

    def _release_memory(self, but: str) -> None:
        """Let sessions that were not used lately forget what can be drawn again."""
        held = {id: session.memory_bytes for id, session in self._sessions.items()}
        for id in sorted(held, key=lambda id: self._used.get(id, 0.0)):
            if sum(held.values()) <= self.settings.held_mb * 2**20:
                return
            if id != but:
                self._sessions[id].release_memory()
                held[id] = 0

    def _read(self, id: str, folder: Path) -> Session:
        try:
            return Session(id, folder, self.load_image(folder / "decoded"), self.queue)
        except (FormatError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            if isinstance(error, OSError) and disk_is_full(error):
                raise
            reason = error.problem if isinstance(error, FormatError) else "its files are damaged"
            raise InvalidRequest(f"this session cannot be opened again: {reason}; remove it") from None

    def load_image(self, decoded: Path) -> SessionImage:
        """What a process of ours has decoded into a folder; raises TooLarge for more voxels than are allowed."""
        image = self.load_decoded(decoded, self.settings.window)
        arrays = [image.volume.array] if isinstance(image, SessionVolume) else [each.array for each in image.pictures]
        if sum(array.size for array in arrays) > self.settings.most_voxels:
            raise TooLarge(f"it has more than {self.settings.most_voxels} voxels")
        return image

    @staticmethod
    def load_decoded(decoded: Path, window: str = "auto") -> SessionImage:
        """The same, whatever its size."""
        notes = _read_json(decoded / META)
        arrays = [np.load(decoded / f"{i}.npy", mmap_mode="r", allow_pickle=False) for i in range(notes.get("count", 1))]
        if notes["kind"] == "set":
            spacing: Any = tuple(notes["spacing_mm"]) if notes["spacing_mm"] else None
            return SessionImageSet([Picture(array, spacing, notes.get("modality")) for array in arrays], window)
        return SessionVolume(Volume(arrays[0], np.array(notes["affine"]), notes["modality"]), window)

    def opened_at(self, id: str) -> int:
        """When its images were decoded, in seconds since 1970."""
        return int((self.settings.state / id / "decoded" / META).stat().st_mtime)

    def is_dicom(self, id: str) -> bool:
        """Whether its images are DICOM files, so that a DICOM-SEG can refer to them."""
        return bool(_read_json(self.settings.state / id / "decoded" / META).get("dicom"))

    def missing_forms(self, id: str) -> Mapping[str, str]:
        """Format that its DICOM files cannot have → why, as it was found when they were opened."""
        return _read_json(self.settings.state / id / "decoded" / META).get("missing", {})

    def file_numbers(self, id: str) -> list[int]:
        """Of a set, for each image the number of the file that it comes from, from 1."""
        return _read_json(self.settings.state / id / "decoded" / META).get("files", [])

    def file_names(self, id: str) -> list[str]:
        """Of a set in the server's own folder, the name of each file by its number; none of what was uploaded."""
        return _read_json(self.settings.state / id / "decoded" / META).get("names", [])

    def warnings(self, id: str) -> list[str]:
        """What the reader noticed."""
        return list(dict.fromkeys(_read_json(self.settings.state / id / "decoded" / META).get("warnings", ())))


class IdleClock:
    """How long nobody touched a session: time that a server ran; between two of them, a day at most.

    No session is removed because the clock of the machine was set.

    Args:
        path: of a file in which the count is kept from one server to the next.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._ran = path, time.monotonic()
        self._count_s, self._known = 0.0, dict[str, tuple[float, float]]()
        with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):  # without it, all are counted anew
            kept = json.loads(path.read_bytes())
            gap_s = min(max(time.time() - float(kept["wall"]), 0.0), MOST_GAP_S)
            self._known = {str(id): (float(touched), float(at)) for id, (touched, at) in kept["known"].items()}
            self._count_s = float(kept["count_s"]) + gap_s

    def idle_seconds(self, touched: Mapping[str, float]) -> Mapping[str, float]:
        """Seconds since each was seen to be touched.

        Args:
            touched: id → time of its last change by the machine's clock, which is only compared with itself.
        """
        now = time.monotonic()
        self._count_s, self._ran = self._count_s + now - self._ran, now
        known = {id: self._known.get(id, (when, self._count_s)) for id, when in touched.items()}
        self._known = {id: (when, known[id][1] if known[id][0] == when else self._count_s) for id, when in touched.items()}
        kept = {"wall": time.time(), "count_s": self._count_s, "known": self._known}
        with suppress(MedicalSam2Error):  # a full disk: they are removed later
            atomic.write_bytes(self._path, json.dumps(kept).encode())
        return {id: self._count_s - at for id, (_, at) in self._known.items()}


def _touched(folder: Path) -> float:
    journal = folder / "journal.jsonl"
    return (journal if journal.exists() else folder).stat().st_mtime


def _lock_folder(folder: Path) -> int:
    """A lock on the folder, which ends with this process whatever ends it; raises ConfigError if another server has it."""
    held = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        raise ConfigError("another server uses this folder of sessions", "end it, or give --state", subject=folder) from None
    return held


def _read_json(path: Path) -> Mapping[str, Any]:
    return json.loads(path.read_bytes()) if path.is_file() else {}

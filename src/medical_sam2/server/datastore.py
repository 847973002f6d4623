"""A library as MONAI Label's datastore: its images by their names, their labels and sessions, and which to label next.

Labels of the image `NAME.nii.gz` lie in the library as `labels/TAG/NAME.v1.nii.gz`, `NAME.v2.nii.gz` and so on, each with its
segments in `NAME.v1.json`; the last version counts. One without a number, as MONAI Label writes it, is older than all of them.
No file of the library is ever written over or removed. What a client calls an image, a tag or a version becomes part of a path
only where it is a plain name (`PLAIN`, `TAG`).

An image that is asked about is opened as a session once, and anew where its file is another one by now. The next to label is
the first, any, or the one that helps most by what `medsam2 suggest` goes by: (1 − confidence) · (1 − likeness), with the
likeness of what the network sees of it to what it sees of labelled ones, and the confidence of what was found in it here, none
where nobody asked yet.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import say_count
from medical_sam2.io import atomic, registry
from medical_sam2.server import Conflict, InvalidRequest, LimitReached, NotFound, Refusal, disk_is_full
from medical_sam2.server.pacs import SeriesRecord
from medical_sam2.server.segmentation import SessionVolume
from medical_sam2.server.session import Session
from medical_sam2.server.session_store import MOST_ENTRIES, LibraryEntry, SessionStore, leads_within, library_entries
from medical_sam2.server.worker_process import ImageSource, ReadingOptions
from medical_sam2.tracking.confidence import Need, neediest
from medical_sam2.tracking.plan import PLANES, array_axis

LABELS, FINAL, SENT_AS = "labels", "final", ".nii.gz"
PLAIN = re.compile(r"[^\W_][^/\\\x00-\x1f\x7f]{0,99}", re.UNICODE)
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
NUMBERED = re.compile(r"(.+)\.v([1-9][0-9]{0,5})", re.DOTALL)
MOST_VERSIONS = 1_000

SERIES = re.compile(r"[0-9]+(\.[0-9]+)+")
LONGEST = 64
Stamp: TypeAlias = tuple[Path, int, int]
"""A file or folder as it is: its path, its time and its size."""

USEFUL = "most_useful"
STRATEGIES: Mapping[str, str] = {
    USEFUL: "the image that is least like those that are labelled, and in which what was found is least sure",
    "first": "the first image without labels",
    "random": "any image without labels",
}
LOOK_S = 20.0  # at images that were not seen before; the others wait for the next time
DEPTHS = (0.25, 0.5, 0.75)  # of the axial slices that are looked at


@dataclass(frozen=True)
class DatastoreImage:
    """An image of the library."""

    id: str  # its name without the suffix, where no other image has that
    suffix: str  # of the file that is sent
    entry: LibraryEntry

    @property
    def name(self) -> str:
        """Of the file that is sent."""
        return self.entry.name if self.entry.path.is_file() else f"{self.id}{self.suffix}"

    # A viewer keeps what it has downloaded by its name, and takes it for the same image unless a checksum says otherwise.
    @property
    def info(self) -> dict[str, Any]:
        """What clients are told of it."""
        facts = {"path": "", "name": self.name}
        if not self.entry.path.is_file():
            return facts
        with self.entry.path.open("rb") as stream:
            return {**facts, "checksum": f"SHA256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"}


@dataclass(frozen=True)
class LabelVersion:
    """Labels that were saved for an image."""

    path: Path
    version: int  # from 1; 0 where the name has no number
    suffix: str

    @property
    def info(self) -> Mapping[str, Any]:
        """What was said of it, nothing where that is missing or no longer whole."""
        with suppress(OSError, ValueError):
            found = json.loads(self.path.with_name(f"{_stem(self.path.name)}.json").read_bytes())
            return found if isinstance(found, dict) else {}
        return {}


class Datastore:
    """The images of a library, and their labels.

    Args:
        root: of the library: a folder, one file, which gets no labels, or nothing.
    """

    def __init__(self, root: Path | None) -> None:
        self._root, self._lock = root, threading.Lock()

    def images(self) -> Mapping[str, DatastoreImage]:
        """Id → volume of the library, in its order."""
        found = dict[str, DatastoreImage]()
        for entry in library_entries(self._root):
            if entry.kind == "volume" or (entry.kind == "folder" and not _holds_pictures(entry.path)):
                suffix = known_suffix(entry.name) if entry.kind == "volume" else SENT_AS
                id = entry.name.removesuffix(suffix) if entry.kind == "volume" else entry.name
                id = entry.name if id in found or not id else id
                found[id] = DatastoreImage(id, suffix, entry)
        return found

    def get(self, id: str) -> DatastoreImage:
        """The image of an id, or of the name of its file; raises NotFound."""
        images = self.images()
        for image in (images.get(id), *(each for each in images.values() if each.name == id)):
            if image is not None:
                return image
        raise NotFound("image")

    def labels(self) -> Mapping[str, Mapping[str, Sequence[LabelVersion]]]:
        """Id of an image → tag → versions of its labels, the oldest first."""
        found = dict[str, dict[str, list[LabelVersion]]]()
        for folder in self._label_folders():
            for path in sorted(folder.iterdir()):
                if not path.is_file() or not (suffix := known_suffix(path.name)) or not self._is_inside(path):
                    continue
                id, version = _read_name(path.name)
                found.setdefault(id, {}).setdefault(folder.name, []).append(LabelVersion(path, version, suffix))
        for tags in found.values():
            for versions in tags.values():
                versions.sort(key=lambda each: each.version)
        return found

    def label(self, name: str, tag: str) -> LabelVersion:
        """The labels of an image: the last version by the image's id, any by that and its number ("liver.v2").

        Raises:
            NotFound: there are none.
        """
        known = self.labels()
        if versions := known.get(name, {}).get(tag):
            return versions[-1]
        id, version = _read_name(name + SENT_AS)
        for each in known.get(id, {}).get(tag, ()):
            if version and each.version == version:
                return each
        raise NotFound("label")

    def count(self) -> dict[str, Any]:
        """How many images there are, how many of them are labelled, and how many of them have labels of each tag."""
        images, labels = self.images(), self.labels()
        tags = [tag for id in images for tag in labels.get(id, {})]
        return {"total": len(images), "completed": tags.count(FINAL), "label_tags": {tag: tags.count(tag) for tag in set(tags)}}

    def describe(self) -> dict[str, Any]:
        """All images, each with the last version of its labels of each tag."""
        labels = self.labels()
        objects = {
            image.id: {
                "image": {"ext": image.suffix, "info": {"name": image.name}},
                "labels": {
                    tag: {"ext": versions[-1].suffix, "info": {**versions[-1].info, "version": versions[-1].version}}
                    for tag, versions in labels.get(image.id, {}).items()
                },
            }
            for image in self.images().values()
        }
        return {"name": "library", "description": "", "images_dir": ".", "labels_dir": "labels", "objects": objects}

    def training_pairs(self) -> list[dict[str, str]]:
        """Labelled images and their labels, as paths within the library."""
        labels = self.labels()
        return [
            {"image": image.entry.name, "label": f"labels/{FINAL}/{labels[image.id][FINAL][-1].path.name}"}
            for image in self.images().values()
            if FINAL in labels.get(image.id, {})
        ]

    def save_label(self, image: DatastoreImage, tag: str, source: Path, suffix: str, info: Mapping[str, Any]) -> LabelVersion:
        """Keep a copy of a file as the next version of an image's labels.

        Raises:
            InvalidRequest: a tag that is no plain word.
            LimitReached: there are too many versions.
            Refusal: there is no folder to keep it in, or it cannot be written to.
        """
        if not TAG.fullmatch(tag):
            raise InvalidRequest("the tag is no plain word; use letters, digits, - and _")
        with self._lock, _writable():
            folder = self._label_folder(tag)
            note, version = self._reserve(folder, image.id)
            path = folder / f"{image.id}.v{version}{suffix}"
            try:
                _copy(source, path)
            except BaseException:
                note.unlink(missing_ok=True)
                raise
            atomic.write_bytes(note, json.dumps(info, ensure_ascii=False).encode("utf-8", "backslashreplace"))
            return LabelVersion(path, version, suffix)

    def add_image(self, id: str, source: Path, suffix: str) -> DatastoreImage:
        """Keep a copy of a file as an image of the library.

        Raises:
            InvalidRequest: an id that is no plain name.
            Conflict: there is such an image already.
            LimitReached: the library holds as many as are listed.
            Refusal: there is no folder to keep it in, or it cannot be written to.
        """
        root = self._folder()
        if not PLAIN.fullmatch(id) or id.strip() != id or len(id.encode()) > 200:
            raise InvalidRequest(
                "the name of the image is no plain name; use letters, digits, spaces and punctuation but / and \\"
            )
        with self._lock, _writable():
            if id in self.images() or (root / f"{id}{suffix}").exists():
                raise Conflict("there is an image of this name already, which stays as it is; give yours another name")
            if len(library_entries(root)) >= MOST_ENTRIES:
                raise LimitReached(f"the library holds {MOST_ENTRIES} images, which is the limit")
            _copy(source, root / f"{id}{suffix}")
        return self.get(id)

    def _folder(self) -> Path:
        if self._root is None or not self._root.is_dir():
            problem = "nothing is kept here; start `medsam2 serve FOLDER` to have labels and images kept in that folder"
            raise Refusal(HTTPStatus.NOT_IMPLEMENTED, problem)
        return self._root

    def _label_folder(self, tag: str) -> Path:
        folder = self._folder()
        for name in (LABELS, tag):
            folder = folder / name
            folder.mkdir(exist_ok=True)
            if not self._is_inside(folder):
                problem = "the folder of the labels is a link that leads out of the library; replace it"
                raise Refusal(HTTPStatus.FORBIDDEN, problem)
        return folder

    def _label_folders(self) -> Iterator[Path]:
        home = (self._root or Path()) / LABELS
        if self._root is not None and self._root.is_dir() and home.is_dir() and self._is_inside(home):
            yield from (each for each in sorted(home.iterdir()) if each.is_dir() and TAG.fullmatch(each.name))

    def _is_inside(self, path: Path) -> bool:
        return self._root is not None and leads_within(path, self._root.resolve())

    # Another server may serve the same folder: the number is taken by a file that nobody else can have made.
    def _reserve(self, folder: Path, id: str) -> tuple[Path, int]:
        """The empty note of a new version, and its number."""
        taken = [version for path in folder.iterdir() for name, version in [_read_name(path.name)] if name == id]
        for version in range(max(taken, default=0) + 1, MOST_VERSIONS + 1):
            note = folder / f"{id}.v{version}.json"
            with suppress(FileExistsError):
                os.close(os.open(note, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
                return note, version
        raise LimitReached(f"there are {MOST_VERSIONS} versions of these labels, which is the limit")


def known_suffix(name: str) -> str:
    """The suffix of an image's name, nothing where it has none that is known."""
    parts = Path(name).suffixes[-2:]
    options = ("".join(parts), "".join(parts[-1:]))
    return next((suffix for suffix in options if suffix and registry.is_uploadable(suffix.lower())), "")


def _stem(name: str) -> str:
    return name.removesuffix(known_suffix(name) or Path(name).suffix)


def _read_name(name: str) -> tuple[str, int]:
    """Id and version in the name of a file of labels, or of its note."""
    found = NUMBERED.fullmatch(_stem(name))
    return (found[1], int(found[2])) if found else (_stem(name), 0)


def _holds_pictures(folder: Path) -> bool:
    return any(item.suffix.lower() in registry.suffixes("picture") for item in folder.iterdir())


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as stream, atomic.writing(target) as sink:
        shutil.copyfileobj(stream, sink)


@contextmanager
def _writable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = "the folder of the library cannot be written to; let whoever runs the server write to it"
        raise disk_is_full(error) or Refusal(HTTPStatus.FORBIDDEN, problem) from None


@dataclass(eq=False)
class LibrarySessions:
    """Sessions of this server about images of its library and of its PACS."""

    store: SessionStore  # of the sessions
    datastore: Datastore  # names the images of the library
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _sessions: dict[Stamp | str, str] = field(default_factory=dict[Stamp | str, str])
    _series: dict[Stamp, dict[str, str]] = field(default_factory=dict[Stamp, dict[str, str]])

    def open(self, name: str) -> Session:
        """The session of an image: by its id in the library, the name of its file, or its SeriesInstanceUID.

        Raises:
            NotFound: there is none, in the library or in the PACS.
        """
        with suppress(NotFound):
            return self.open_image(self.datastore.get(name))
        if len(name) > LONGEST or not SERIES.fullmatch(name):
            raise NotFound("image")
        if folder := self._find_series(name):
            return self._once(name, lambda id: self._open_placed(id, folder, ReadingOptions(series=name)))
        return self._once(name, lambda id: self._fetch(id, name))

    def open_image(self, image: DatastoreImage) -> Session:
        """The session of an image of the library."""
        return self._once(stamp(image.entry.path), lambda id: self._open_placed(id, image.entry.path, None))

    def _once(self, key: "Stamp | str", fill: Callable[[str], Session]) -> Session:
        with self._lock:  # who asks meanwhile waits, and gets the same
            if (known := self._sessions.get(key)) in self.store.ids():
                return self.store.get(str(known))
            with self.store.creating() as id:
                session = fill(id)
            self._sessions[key] = id
            return session

    def _open_placed(self, id: str, path: Path, reading: ReadingOptions | None) -> Session:
        self.store.place(id, path)
        return self.store.open(id, reading)

    # A folder of series may be large: its headers are read once, and again where something was put into it.
    def _find_series(self, series: str) -> Path | None:
        root = self.store.settings.library
        if root is None or not root.is_dir():
            return None
        folders = [root, *(each.entry.path for each in self.datastore.images().values() if each.entry.path.is_dir())]
        with self._lock:
            stamps = {folder: stamp(folder) for folder in folders}
            if unread := [str(folder.resolve()) for folder in folders if stamps[folder] not in self._series]:
                found = self.store.workers.run({"do": "list", "folders": unread, "within": str(root.resolve())})
                for folder in folders:
                    own = {uid: place for uid, place in found.items() if place == str(folder.resolve())}
                    self._series.setdefault(stamps[folder], own)
            places = [self._series[each][series] for each in stamps.values() if series in self._series[each]]
        return Path(places[0]) if places else None

    def _fetch(self, id: str, series: str) -> Session:
        """The series, from the PACS."""
        store, address = self.store, self.store.settings.pacs
        if not address:
            raise NotFound("image")
        found = [SeriesRecord(**one) for one in store.workers.run({"do": "search", "address": address, "series": series})]
        if [one.series for one in found] != [series]:
            raise NotFound("series in the PACS")
        store.fetch(id, found[0])
        return store.open(id)


def stamp(path: Path) -> Stamp:
    """What tells whether a file or folder is the same as before."""
    about = path.stat()
    return path, about.st_mtime_ns, about.st_size


@dataclass(frozen=True)
class ImageSuggestion:
    """An image, and why."""

    image: DatastoreImage
    weight: float  # how useful its labels would be, in [0, 2]; 0 where that was not asked
    reason: str


@dataclass(eq=False)
class ActiveLearning:
    """Chooses images that have no labels yet."""

    library: LibrarySessions  # of the images
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _seen: dict[Stamp, NDArray[np.float32] | None] = field(default_factory=dict[Stamp, "NDArray[np.float32] | None"])
    _sure: dict[Stamp, float] = field(default_factory=dict[Stamp, float])

    def remember(self, name: str, confidence: float | None) -> None:
        """How sure the network was of what it found in an image of the library; other images are left alone."""
        with suppress(NotFound):
            if confidence is not None:
                self._sure[stamp(self.library.datastore.get(name).entry.path)] = confidence

    def choose(self, strategy: str) -> ImageSuggestion | None:
        """An image without labels; nothing where all have some; raises NotFound for an unknown strategy."""
        if strategy not in STRATEGIES:
            raise NotFound("strategy")
        labels, images = self.library.datastore.labels(), self.library.datastore.images().values()
        done = [image for image in images if FINAL in labels.get(image.id, {})]
        left = [image for image in images if image not in done]
        if not left:
            return None
        if strategy == USEFUL and done:
            return self._most_useful(left, done)
        image = secrets.choice(left) if strategy == "random" else left[0]
        return ImageSuggestion(image, 0.0, "nothing is labelled yet" if strategy == USEFUL else STRATEGIES[strategy])

    def _most_useful(self, left: Sequence[DatastoreImage], done: Sequence[DatastoreImage]) -> ImageSuggestion | None:
        with self._lock:
            ends = time.monotonic() + LOOK_S
            known = [seen for image in done if (seen := self._look(image, ends)) is not None]
            mine = {i: seen for i, image in enumerate(left) if (seen := self._look(image, ends)) is not None}
        if not known or not mine:
            return ImageSuggestion(left[0], 0.0, "none of the images could be compared in time; ask again")
        needs = [Need(i, self._sure.get(stamp(left[i].entry.path), 0.0), _likeness(seen, known)) for i, seen in mine.items()]
        best = neediest(needs)[0]
        reason = f"confidence {best.confidence:.2f}, likeness to what is labelled {best.likeness:.3f}"
        waiting = len(left) - len(mine)
        return ImageSuggestion(
            left[best.index], best.size, f"{reason}; {say_count(waiting, 'image', 'were')} not looked at" if waiting else reason
        )

    def _look(self, image: DatastoreImage, ends: float) -> NDArray[np.float32] | None:
        """What the network sees of an image, as a direction; None where it cannot be read, or not in time."""
        key = stamp(image.entry.path)
        if key not in self._seen:
            if time.monotonic() > ends:
                return None
            self._seen[key] = self._see(image)
        return self._seen[key]

    def _see(self, image: DatastoreImage) -> NDArray[np.float32] | None:
        store, root = self.library.store, self.library.store.settings.library
        within = root.resolve() if root and root.is_dir() else None
        with tempfile.TemporaryDirectory(dir=store.settings.state, prefix="look") as folder:
            try:
                store.workers.decode(
                    ImageSource(image.entry.path.resolve(), ReadingOptions(), within), Path(folder) / "decoded"
                )
                found = store.load_image(Path(folder) / "decoded")
            except Refusal:
                return None
            return self._direction(found) if isinstance(found, SessionVolume) else None

    def _direction(self, shown: SessionVolume) -> NDArray[np.float32]:
        volume, axial = shown.volume, PLANES["axial"]
        slices = {int(depth * volume.shape[array_axis(volume, axial)]) for depth in DEPTHS}
        with self.library.store.queue.segmenter(urgent=False) as segmenter:
            parts = segmenter.slice_directions(volume, axial, shown.window, slices).values()
        mean = np.mean([*parts], axis=0)
        return (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)


def _likeness(seen: NDArray[np.float32], known: Collection[NDArray[np.float32]]) -> float:
    return max(float(seen @ each) for each in known)

"""A library as MONAI Label's datastore: its images by their names, and the labels that are saved for them.

Labels of the image `NAME.nii.gz` lie in the library as `labels/TAG/NAME.v1.nii.gz`, `NAME.v2.nii.gz` and so on, each with its
segments in `NAME.v1.json`; the last version counts. One without a number, as MONAI Label writes it, is older than all of them.
No file of the library is ever written over or removed. What a client calls an image, a tag or a version becomes part of a path
only where it is a plain name (`PLAIN`, `TAG`).
"""

import json
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from medical_sam2.io import atomic, registry
from medical_sam2.server.refusals import Conflict, InvalidRequest, LimitReached, NotFound, Refusal, disk_is_full
from medical_sam2.server.uploads import MOST_ENTRIES, LibraryEntry, leads_within, library_entries

LABELS, FINAL, SENT_AS = "labels", "final", ".nii.gz"
PLAIN = re.compile(r"[^\W_][^/\\\x00-\x1f\x7f]{0,99}", re.UNICODE)
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
NUMBERED = re.compile(r"(.+)\.v([1-9][0-9]{0,5})", re.DOTALL)
MOST_VERSIONS = 1_000


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
        """The image of an id, or of the name of its file.

        Raises:
            NotFound: there is none.
        """
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

"""Images that a viewer asks about by what it calls them: each is opened once, and anew where its file is another one by now."""

import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from medical_sam2.server.datastore import Datastore, DatastoreImage
from medical_sam2.server.pacs import SeriesRecord
from medical_sam2.server.refusals import NotFound
from medical_sam2.server.session import Session
from medical_sam2.server.session_store import SessionStore
from medical_sam2.server.worker_process import ReadingOptions

SERIES = re.compile(r"[0-9]+(\.[0-9]+)+")
LONGEST = 64
Stamp: TypeAlias = tuple[Path, int, int]
"""A file or folder as it is: its path, its time and its size."""


@dataclass(eq=False)
class LibrarySessions:
    """Sessions of this server about images of its library and of its PACS.

    Args:
        store: of the sessions.
        datastore: names the images of the library.
    """

    store: SessionStore
    datastore: Datastore
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
        orders: dict[str, Any] = {"address": address}
        found = [SeriesRecord(**one) for one in store.workers.run({"do": "search", "series": series, **orders})]
        if [one.series for one in found] != [series]:
            raise NotFound("series in the PACS")
        one, source = found[0], store.settings.state / id / "source"
        wanted = {"study": one.study, "series": one.series, "images": one.images}
        most = store.settings.most_upload_mb << 20
        store.workers.run({"do": "fetch", **wanted, "target": str(source), "most_bytes": most, **orders})
        store.place(id, source, study=one.study)
        return store.open(id)


def stamp(path: Path) -> Stamp:
    """What tells whether a file or folder is the same as before."""
    about = path.stat()
    return path, about.st_mtime_ns, about.st_size

"""Files that come as parts of a form: opened as sessions, for as long as they are needed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import UploadFile

from medical_sam2.io.safe_open import CHUNK
from medical_sam2.server.datastore import known_suffix
from medical_sam2.server.session import Session
from medical_sam2.server.session_store import SessionStore


def open_files(store: SessionStore, files: Sequence[UploadFile | Any]) -> Session:
    """A session with the files that came."""
    with store.creating() as id:
        for file in files:
            path = store.uploads.new_file(id, known_suffix(file.filename or "").lower())
            with path.open("wb") as sink:
                while piece := file.file.read(CHUNK):
                    store.uploads.add_bytes(id, len(piece))
                    sink.write(piece)
        return store.open(id)


@contextmanager
def opened(store: SessionStore, file: UploadFile) -> Iterator[Session]:
    """A file that came with a request, as long as that is answered."""
    session = open_files(store, [file])
    try:
        yield session
    finally:
        store.remove(session.id)

"""MONAI Label's REST protocol, so that its extensions for 3D Slicer and OHIF work with this server as they are.

One model, "medical_sam2", of the kind that answers clicks. `foreground` and `background` are voxels of the image; the answer is
a label map in the image's grid, beside its parameters, as multipart. Images come as a session (as 3D Slicer sends them), in the
request itself, or from the library; they are kept as sessions of this server, which `most_sessions` bounds.
"""

import json
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
from fastapi import APIRouter, File, Form, Query, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from pydantic import Field as Limited
from pydantic import TypeAdapter, ValidationError

from medical_sam2.io import registry
from medical_sam2.io.safe_open import CHUNK
from medical_sam2.prompts import Point, Prompt
from medical_sam2.server.refusals import InvalidRequest, NotFound, Refusal
from medical_sam2.server.segmentation import SessionVolume
from medical_sam2.server.session import Session
from medical_sam2.server.session_store import SessionStore
from medical_sam2.server.uploads import LibraryEntry, library_entries

MODEL, VERSION = "medical_sam2", "0.8.0"
EXPIRY_S = 3_600
MOST_CLICKS = 1_000
STRATEGIES = ("first", "random")
NAMES: Mapping[int, str] = {1: "structure"}
Place: TypeAlias = Annotated[float, Limited(allow_inf_nan=False)]
VOXELS = TypeAdapter[list[tuple[Place, Place, Place]]](
    Annotated[list[tuple[Place, Place, Place]], Limited(max_length=MOST_CLICKS)]
)


@dataclass(frozen=True)
class InferenceRequest:
    """What an inference asks for."""

    inside: Sequence[Prompt]  # clicks inside of the structure
    outside: Sequence[Prompt]  # clicks outside
    form: str  # suffix of the answer


class LibrarySessions:
    """Images of the library that were asked about: each is opened once, and anew where its file is another one by now.

    Args:
        store: of the sessions.
    """

    def __init__(self, store: SessionStore) -> None:
        self._store, self._lock = store, threading.Lock()
        self._sessions: dict[tuple[Path, int, int], str] = {}

    def get(self, entry: LibraryEntry) -> Session:
        """The session of an image."""
        about = entry.path.stat()
        key = entry.path, about.st_mtime_ns, about.st_size
        with self._lock:  # who asks meanwhile waits, and gets the same
            if (known := self._sessions.get(key)) in self._store.ids():
                return self._store.get(str(known))
            with self._store.creating() as id:
                self._store.place(id, entry.path)
                session = self._store.open(id)
            self._sessions[key] = id
            return session


def routes(store: SessionStore) -> APIRouter:
    """The routes, under /monai."""
    router = APIRouter(prefix="/monai")
    _about(router, store)
    _datastore(router, store)
    _sessions(router, store)
    _inference(router, store, LibrarySessions(store))
    return router


def _about(router: APIRouter, store: SessionStore) -> None:
    @router.get("/info/")
    @router.get("/info")
    def info() -> dict[str, Any]:
        model = {
            "type": "deepgrow",
            "labels": ["structure"],
            "dimension": 3,
            "description": "Medical SAM 2: clicks",
            "config": {},
        }
        return {
            "name": "Medical SAM 2",
            "description": "Outlines a structure in the whole volume from clicks",
            "version": VERSION,
            "labels": ["structure"],
            "models": {MODEL: model},
            "trainers": {},
            "strategies": {name: {"description": "the images in their order"} for name in STRATEGIES},
            "scoring": {},
            "train_stats": {},
            "datastore": {"total": len(_volumes(store)), "completed": 0},
            "config": {},
        }


def _datastore(router: APIRouter, store: SessionStore) -> None:
    @router.post("/activelearning/{strategy}")
    def next_sample(strategy: str) -> dict[str, Any]:
        if strategy not in STRATEGIES:
            raise NotFound("strategy")
        if not (entries := _volumes(store)):
            return {}
        number, _ = entries[0]
        return {"id": str(number), "weight": 0, "path": "", "name": str(number)}

    @router.get("/train/")
    @router.post("/train/{model}")
    @router.delete("/train/")
    def train() -> Response:
        raise NotFound("training here: use `medsam2 finetune`")

    @router.get("/datastore/")
    def datastore() -> dict[str, Any]:
        return {"total": len(_volumes(store)), "completed": 0, "objects": {str(number): {} for number, _ in _volumes(store)}}

    @router.get("/datastore/image")
    def image(image: Annotated[str, Query(max_length=64)]) -> Response:
        number, entry = _entry(store, image)
        if not entry.path.is_file():
            raise InvalidRequest("a folder is not sent; open it here")
        suffix = "".join(Path(entry.path.name).suffixes[-2:])
        return FileResponse(entry.path, media_type="application/octet-stream", filename=f"{number}{suffix}")

    @router.put("/datastore/label")
    def label() -> Response:
        raise Refusal(HTTPStatus.NOT_IMPLEMENTED, "labels are not kept here; save them in your viewer")


def _volumes(store: SessionStore) -> list[tuple[int, LibraryEntry]]:
    return [(i, entry) for i, entry in enumerate(library_entries(store.settings.library)) if entry.kind == "volume"]


def _entry(store: SessionStore, image: str) -> tuple[int, LibraryEntry]:
    found = dict(_volumes(store))
    if not (image.isascii() and image.isdecimal()) or int(image) not in found:
        raise NotFound("image")
    return int(image), found[int(image)]


def _sessions(router: APIRouter, store: SessionStore) -> None:
    @router.put("/session/")
    @router.put("/session")
    async def create(request: Request) -> dict[str, Any]:
        async with request.form(max_files=store.settings.most_files, max_fields=64) as form:
            files: list[Any] = [value for value in form.values() if not isinstance(value, str)]
            if not files:
                raise InvalidRequest("no image was sent")
            session = await run_in_threadpool(_open_files, store, files)
        return {"session_id": session.id, **_session_info(session.id)}

    @router.get("/session/{id}")
    def get(id: str) -> dict[str, Any]:
        store.get(id)
        return _session_info(id)

    @router.delete("/session/{id}")
    def delete(id: str) -> dict[str, Any]:
        store.remove(id)
        return {}


def _session_info(id: str) -> dict[str, Any]:
    return {"name": id, "path": "", "image": id, "meta": {}, "create_ts": 0, "last_access_ts": 0, "expiry": EXPIRY_S}


def _open_files(store: SessionStore, files: Sequence[UploadFile]) -> Session:
    """A session with the files that came."""
    with store.creating() as id:
        for file in files:
            path = store.uploads.new_file(id, _suffix(file.filename or ""))
            with path.open("wb") as sink:
                while piece := file.file.read(CHUNK):
                    store.uploads.add_bytes(id, len(piece))
                    sink.write(piece)
        return store.open(id)


def _suffix(name: str) -> str:
    """The suffix of an image's name, nothing where it has none that is known."""
    parts = Path(name).suffixes[-2:]
    options = ("".join(parts).lower(), "".join(parts[-1:]).lower())
    return next((suffix for suffix in options if registry.is_uploadable(suffix)), "")


def _inference(router: APIRouter, store: SessionStore, library: LibrarySessions) -> None:
    @router.post("/infer/{model}")
    def infer(
        model: str,
        image: Annotated[str, Query(max_length=256)] = "",
        session_id: Annotated[str, Query(max_length=64)] = "",
        output: Annotated[str, Query(max_length=16)] = "",
        params: Annotated[str, Form(max_length=1_000_000)] = "{}",
        file: Annotated[UploadFile | None, File()] = None,
    ) -> Response:
        if model != MODEL:
            raise NotFound(f"model {model[:40]!r}")
        request = _parse(params)
        if session_id:
            return _segment(store, store.get(session_id), request, output)
        if file is None:
            return _segment(store, library.get(_entry(store, image)[1]), request, output)
        session = _open_files(store, [file])
        try:
            return _segment(store, session, request, output)
        finally:
            store.remove(session.id)


def _parse(params: str) -> InferenceRequest:
    try:
        given = json.loads(params)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise InvalidRequest("params is no JSON object")
    suffix = str(given.get("result_extension", ".nrrd"))
    form = suffix[1:] if suffix in registry.written() and not registry.writer_of(Path(f"a{suffix}")).check else "nrrd"
    inside, outside = (
        [Point(voxel, positive=positive) for voxel in _voxels(given, key)]
        for key, positive in (("foreground", True), ("background", False))
    )
    return InferenceRequest(inside, outside, form)


def _voxels(given: Mapping[str, Any], key: str) -> list[tuple[float, float, float]]:
    try:
        return VOXELS.validate_python(given.get(key) or [])
    except ValidationError:
        raise InvalidRequest(f"{key} is no list of at most {MOST_CLICKS} voxels") from None


def _segment(store: SessionStore, session: Session, request: InferenceRequest, output: str) -> Response:
    if not isinstance(session.image, SessionVolume):
        raise InvalidRequest("these are pictures, not a volume")
    if not request.inside:
        raise InvalidRequest("click inside of the structure: foreground is empty")
    volume, prompts = session.image.volume, [*request.inside, *request.outside]
    found = store.queue.segment_volume(volume, prompts, window=store.settings.window)
    params = {"label_names": {"structure": 1}, "warnings": list(found.warnings)}
    if output == "json":
        return Response(json.dumps(params), media_type="application/json")
    data = store.export(session, (found.labels > 0).astype(np.uint8), request.form, NAMES)
    if output == "image":
        return Response(data, media_type="application/octet-stream")
    return _multipart(params, data, f"label.{request.form}")


def _multipart(params: Mapping[str, Any], data: bytes, name: str) -> Response:
    edge = secrets.token_hex(16)
    heads = (
        'name="params"\r\nContent-Type: application/json',
        f'name="image"; filename="{name}"\r\nContent-Type: application/octet-stream',
    )
    first, second = (f"--{edge}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() for head in heads)
    body = first + json.dumps(params).encode() + b"\r\n" + second + data + f"\r\n--{edge}--\r\n".encode()
    return Response(body, media_type=f"multipart/form-data; boundary={edge}")

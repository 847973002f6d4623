"""MONAI Label's REST protocol, so that its extensions for 3D Slicer and OHIF work with this server as they are.

Two models, which are one: "medical_sam2", of the kind that answers clicks, and "medical_sam2_scribbles". `foreground` and
`background` are voxels of the image; what is found beyond `roi` is left out; the file `label` is a label map in the image's
grid, in which `label_info` names the structure that is corrected and what was scribbled on. The answer is a label map, too,
beside its parameters, as multipart. Images come as a session (as 3D Slicer sends them), in the request itself, or from the
library; they are kept as sessions of this server, which `most_sessions` bounds.
"""

import json
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import numpy as np
from fastapi import APIRouter, File, Form, Query, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from numpy.typing import NDArray
from pydantic import AfterValidator, AliasChoices, BaseModel, TypeAdapter, ValidationError
from pydantic import Field as Limited

from medical_sam2.io import registry
from medical_sam2.io.labels import fit
from medical_sam2.io.safe_open import CHUNK
from medical_sam2.prompts import Box, Point, Prompt
from medical_sam2.server.refusals import InvalidRequest, NotFound, Refusal
from medical_sam2.server.segmentation import SessionImage, SessionImageSet, SessionVolume
from medical_sam2.server.session import Session
from medical_sam2.server.session_store import SessionStore
from medical_sam2.server.uploads import LibraryEntry, library_entries
from medical_sam2.strokes import Brush, says_where

MODEL, SCRIBBLES, VERSION = "medical_sam2", "medical_sam2_scribbles", "0.8.0"
INK: Mapping[str, bool] = {"foreground_scribbles": True, "background_scribbles": False}  # names of 3D Slicer's segments
EXPIRY_S = 3_600
MOST_CLICKS, MOST_SEGMENTS = 1_000, 1_000
STRATEGIES = ("first", "random")
NAMES: Mapping[int, str] = {1: "structure"}
Place: TypeAlias = Annotated[float, Limited(allow_inf_nan=False)]
Kind = TypeVar("Kind")


def _six_or_none(numbers: list[float]) -> list[float]:
    if len(numbers) not in {0, 6}:
        raise ValueError
    return numbers


class SegmentInfo(BaseModel):
    """A segment of a label map."""

    name: Annotated[str, Limited(max_length=1_000)]
    number: Annotated[int, Limited(validation_alias=AliasChoices("id", "idx"), ge=0)]


VOXELS = TypeAdapter[list[tuple[Place, Place, Place]]](
    Annotated[list[tuple[Place, Place, Place]], Limited(max_length=MOST_CLICKS)]
)
ROI = TypeAdapter[list[float]](Annotated[list[Place], AfterValidator(_six_or_none)])
SEGMENTS = TypeAdapter[list[SegmentInfo]](Annotated[list[SegmentInfo], Limited(max_length=MOST_SEGMENTS)])
EXPECTED: Mapping[str, str] = {
    "foreground": f"a list of at most {MOST_CLICKS} voxels",
    "background": f"a list of at most {MOST_CLICKS} voxels",
    "roi": "six numbers, the first and the last voxel along each axis, or none",
    "label_info": "a list of the label map's segments, each with its name and its id",
}


@dataclass(frozen=True)
class InferenceRequest:
    """What an inference asks for."""

    clicks: Sequence[Prompt]  # inside of the structure, and outside
    roi: Sequence[float]  # first and last voxel along each axis, in any order; empty where there is none
    names: Mapping[str, int]  # of the segments of the label map that comes with it → values there
    label: str  # name of the structure, where it is told
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
        model = {"labels": ["structure"], "dimension": 3, "config": {}}
        kinds = {MODEL: ("deepgrow", "clicks"), SCRIBBLES: ("scribbles", "scribbles")}
        return {
            "name": "Medical SAM 2",
            "description": "Outlines a structure in the whole volume from clicks",
            "version": VERSION,
            "labels": ["structure"],
            "models": {k: {**model, "type": kind, "description": f"Medical SAM 2: {by}"} for k, (kind, by) in kinds.items()},
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
        *,
        image: Annotated[str, Query(max_length=256)] = "",
        session_id: Annotated[str, Query(max_length=64)] = "",
        output: Annotated[str, Query(max_length=16)] = "",
        params: Annotated[str, Form(max_length=1_000_000)] = "{}",
        file: Annotated[UploadFile | None, File()] = None,
        label: Annotated[UploadFile | None, File()] = None,
    ) -> Response:
        if model not in {MODEL, SCRIBBLES}:
            raise NotFound(f"model {model[:40]!r}")
        request = _parse(params)
        with ExitStack() as stack:
            if session_id:
                session = store.get(session_id)
            elif file is None:
                session = library.get(_entry(store, image)[1])
            else:
                session = stack.enter_context(_opened(store, file))
            drawn = None if label is None else stack.enter_context(_opened(store, label)).image
            return _segment(store, session, request, output, drawn)


@contextmanager
def _opened(store: SessionStore, file: UploadFile) -> Iterator[Session]:
    """A file that came with a request, as long as that is answered."""
    session = _open_files(store, [file])
    try:
        yield session
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
    sides = (("foreground", True), ("background", False))
    clicks = [Point(voxel, positive=positive) for key, positive in sides for voxel in _read(VOXELS, given, key)]
    roi, info = _read(ROI, given, "roi"), _read(SEGMENTS, given, "label_info")
    label = str(given.get("selected_label_name") or given.get("label") or "")
    return InferenceRequest(clicks, roi, {each.name: each.number for each in info}, label, form)


def _read(kind: "TypeAdapter[list[Kind]]", given: Mapping[str, Any], key: str) -> "list[Kind]":
    try:
        return kind.validate_python(given.get(key) or [])
    except ValidationError:
        raise InvalidRequest(f"{key} is not what it should be: {EXPECTED[key]}") from None


def _segment(
    store: SessionStore, session: Session, request: InferenceRequest, output: str, drawn: SessionImage | None
) -> Response:
    if not isinstance(session.image, SessionVolume) or isinstance(drawn, SessionImageSet):
        raise InvalidRequest("these are pictures, not a volume")
    volume = session.image.volume
    labels: NDArray[Any] = fit(drawn.volume, volume).array if drawn else np.zeros(volume.shape, np.uint8)
    box = _box_of(request.roi, volume.shape)
    earlier, prompts = _earlier(request, labels), [*request.clicks, *_scribbles(request, labels)]
    if not prompts and not earlier.any() and box:
        prompts = [box]
    if not earlier.any() and not any(map(says_where, prompts)):
        raise InvalidRequest("nothing says where the structure is; click or scribble inside of it, or place a region")
    found, warnings = earlier, tuple[str, ...]()
    if prompts:
        options: dict[str, Any] = {"window": store.settings.window, "earlier": earlier if earlier.any() else None}
        result = store.queue.segment_volume(volume, prompts, **options)
        found, warnings = (result.labels > 0).astype(np.uint8), result.warnings
    params = {"label_names": {"structure": 1}, "warnings": list(warnings)}
    if output == "json":
        return Response(json.dumps(params), media_type="application/json")
    data = store.export(session, _within(box, found, earlier), request.form, NAMES)
    if output == "image":
        return Response(data, media_type="application/octet-stream")
    return _multipart(params, data, f"label.{request.form}")


# A region that 3D Slicer has placed may reach over the border, and runs down an axis that is turned.
def _box_of(roi: Sequence[float], shape: Sequence[int]) -> Box | None:
    """The voxels of a region of interest, as far as they lie in the image."""
    sides = [sorted(pair) for pair in zip(roi[::2], roi[1::2], strict=True)]
    cut = [(max(0.0, low), min(size - 1.0, high)) for (low, high), size in zip(sides, shape, strict=False)]
    if any(low > high for low, high in cut):
        raise InvalidRequest("the region of interest lies outside of the image; place it on the structure")
    low, high = tuple(side[0] for side in cut), tuple(side[1] for side in cut)
    return Box(low, high) if roi else None  # type: ignore[arg-type]


def _within(box: Box | None, found: NDArray[np.uint8], earlier: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What was found in a box; beyond it stays what was there."""
    whole, part = earlier.copy(), box.slices if box else ...
    whole[part] = found[part]
    return whole


def _earlier(request: InferenceRequest, labels: NDArray[np.unsignedinteger]) -> NDArray[np.uint8]:
    """The structure as it came, in a label map of several or of it alone; without what was scribbled."""
    if request.label in request.names:
        return (labels == request.names[request.label]).astype(np.uint8)
    ink = [number for name, number in request.names.items() if name in INK]
    return ((labels > 0) & ~np.isin(labels, ink)).astype(np.uint8)


def _scribbles(request: InferenceRequest, labels: NDArray[np.unsignedinteger]) -> list[Prompt]:
    places = {name: np.argwhere(labels == request.names[name]) for name in INK if name in request.names}
    return [Brush(voxels, positive=INK[name]) for name, voxels in places.items() if len(voxels)]


def _multipart(params: Mapping[str, Any], data: bytes, name: str) -> Response:
    edge = secrets.token_hex(16)
    heads = (
        'name="params"\r\nContent-Type: application/json',
        f'name="image"; filename="{name}"\r\nContent-Type: application/octet-stream',
    )
    first, second = (f"--{edge}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() for head in heads)
    body = first + json.dumps(params).encode() + b"\r\n" + second + data + f"\r\n--{edge}--\r\n".encode()
    return Response(body, media_type=f"multipart/form-data; boundary={edge}")

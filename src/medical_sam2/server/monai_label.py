"""MONAI Label's REST protocol, so that its extensions for 3D Slicer and OHIF work with this server as they are.

Two models, which are one: "medical_sam2", of the kind that answers clicks, and "medical_sam2_scribbles". `foreground` and
`background` are voxels of the image; what is found beyond `roi` is left out; the file `label` is a label map in the image's
grid, in which `label_info` names the structure that is corrected and what was scribbled on. The answer is a label map, too,
beside its parameters, as multipart. Images come as a session (as 3D Slicer sends them), in the request itself, or from the
library; they are kept as sessions of this server, which `most_sessions` bounds.

Nothing of the library is removed, and no file is named by where it lies on the server. There is no training: who asks for its
state or its end hears that there is none, as from MONAI Label; who asks for it to begin is refused, since 200 would be shown as
begun.
"""

import gzip
import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import numpy as np
from fastapi import APIRouter, File, Form, Query, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from numpy.typing import NDArray
from pydantic import AfterValidator, AliasChoices, BaseModel, TypeAdapter, ValidationError
from pydantic import Field as Limited

from medical_sam2 import io
from medical_sam2.io import registry
from medical_sam2.io.label_grid import fit
from medical_sam2.io.safe_open import CHUNK
from medical_sam2.prompts import Box, Point, Prompt
from medical_sam2.server import Conflict, InvalidRequest, NotFound, Refusal
from medical_sam2.server.datastore import FINAL, SENT_AS, STRATEGIES, ActiveLearning, Datastore, LibrarySessions, known_suffix
from medical_sam2.server.segmentation import SessionImage, SessionImageSet, SessionVolume
from medical_sam2.server.session import Session
from medical_sam2.server.session_store import SessionStore
from medical_sam2.strokes import Brush, says_where
from medical_sam2.volume import Volume

MODEL, SCRIBBLES, VERSION = "medical_sam2", "medical_sam2_scribbles", "0.8.0"
MOST_CLICKS, MOST_SEGMENTS = 1_000, 1_000
STRUCTURE = "structure"  # the only label: clicks come as `foreground`, or under its name
TYPES = frozenset({"uint8", "int16", "uint16", "int32", "uint32"})
Place: TypeAlias = Annotated[float, Limited(allow_inf_nan=False)]
Kind = TypeVar("Kind")
INK: Mapping[str, bool] = {"foreground_scribbles": True, "background_scribbles": False}  # names of 3D Slicer's segments
EXPIRY_S = 3_600
NAMES: Mapping[int, str] = {1: STRUCTURE}
NOTHING_SAID = "nothing says where the structure is; click or scribble inside of it, or place a region"
Name = Annotated[str, Query(max_length=256)]
Tag = Annotated[str, Query(max_length=32)]
Params = Annotated[str, Form(max_length=1_000_000)]
NO_SUFFIX = "the name of the file has no suffix that tells what it is; send NIfTI, NRRD or MetaImage"


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
    STRUCTURE: f"a list of at most {MOST_CLICKS} voxels",
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
    kind: str = "uint8"  # of its numbers, in NRRD
    packed: bool = True  # whether they are compressed there


@dataclass(frozen=True, eq=False)
class InferenceResult:
    """What was found."""

    labels: NDArray[np.uint8]  # in the image's grid
    warnings: tuple[str, ...] = ()  # for the user
    confidence: float | None = None  # of the slices that nobody prompted, where there are any


def routes(store: SessionStore) -> APIRouter:
    """The routes, under /monai."""
    router = APIRouter(prefix="/monai")
    datastore = Datastore(store.settings.library)
    learning = ActiveLearning(LibrarySessions(store, datastore))
    _about(router, datastore)
    _sessions(router, store)
    _inference(router, learning)
    _learning(router, learning)
    _training(router)
    _about_datastore(router, datastore)
    _images(router, learning.library)
    _labels(router, learning.library)
    return router


def _about(router: APIRouter, datastore: Datastore) -> None:
    @router.get("/info/")
    @router.get("/info")
    def info() -> dict[str, Any]:
        model = {"labels": {STRUCTURE: 1}, "dimension": 3, "config": {}}
        kinds = {MODEL: ("deepgrow", "clicks"), SCRIBBLES: ("scribbles", "scribbles")}
        return {
            "name": "Medical SAM 2",
            "description": "Outlines a structure in the whole volume from clicks",
            "version": VERSION,
            "labels": [STRUCTURE],
            "models": {k: {**model, "type": kind, "description": f"Medical SAM 2: {by}"} for k, (kind, by) in kinds.items()},
            "trainers": {},
            "strategies": {name: {"description": description} for name, description in STRATEGIES.items()},
            "scoring": {},
            "train_stats": {},
            "datastore": datastore.count(),
            "config": {},
        }


def _sessions(router: APIRouter, store: SessionStore) -> None:
    @router.put("/session/")
    @router.put("/session")
    async def create(request: Request) -> dict[str, Any]:
        async with request.form(max_files=store.settings.most_files, max_fields=64) as form:
            files: list[Any] = [value for value in form.values() if not isinstance(value, str)]
            if not files:
                raise InvalidRequest("no image was sent")
            session = await run_in_threadpool(open_files, store, files)
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


# 3D Slicer's module asks the model of no name as soon as an image is there, when nobody can have said anything yet.
def _inference(router: APIRouter, learning: ActiveLearning) -> None:
    library, store = learning.library, learning.library.store

    @router.post("/infer/")
    @router.post("/infer/{model}")
    def infer(
        model: str = "",
        *,
        image: Annotated[str, Query(max_length=256)] = "",
        session_id: Annotated[str, Query(max_length=64)] = "",
        output: Annotated[str, Query(max_length=16)] = "",
        params: Annotated[str, Form(max_length=1_000_000)] = "{}",
        file: Annotated[UploadFile | None, File()] = None,
        label: Annotated[UploadFile | None, File()] = None,
    ) -> Response:
        if model not in {"", MODEL, SCRIBBLES}:
            raise NotFound(f"model {model[:40]!r}")
        request = parse_request(params)
        with ExitStack() as stack:
            if session_id:
                session = store.get(session_id)
            elif file is None:
                session = library.open(image)
            else:
                session = stack.enter_context(opened(store, file))
            drawn = None if label is None else stack.enter_context(opened(store, label)).image
            found = _segment(store, session, request, drawn, unasked=not model)
            if not session_id and file is None:
                learning.remember(image, found.confidence)
            return _answer(store, session, request, output, found)


def _segment(
    store: SessionStore, session: Session, request: InferenceRequest, drawn: SessionImage | None, *, unasked: bool
) -> InferenceResult:
    if not isinstance(session.image, SessionVolume) or isinstance(drawn, SessionImageSet):
        raise InvalidRequest("these are pictures, not a volume")
    volume = session.image.volume
    labels: NDArray[Any] = fit(drawn.volume, volume).array if drawn else np.zeros(volume.shape, np.uint8)
    box = _box_of(request.roi, volume.shape)
    earlier, prompts = _earlier(request, labels), [*request.clicks, *_scribbles(request, labels)]
    if not prompts and not earlier.any() and box:
        prompts = [box]
    if not earlier.any() and not any(map(says_where, prompts)):
        if unasked and not prompts:
            return InferenceResult(earlier, (NOTHING_SAID,))
        raise InvalidRequest(NOTHING_SAID)
    if not prompts:
        return InferenceResult(_within(box, earlier, earlier))
    options: dict[str, Any] = {"window": store.settings.window, "earlier": earlier if earlier.any() else None}
    result = store.queue.segment_volume(volume, prompts, **options)
    labels = _within(box, (result.labels > 0).astype(np.uint8), earlier)
    return InferenceResult(labels, result.warnings, result.mean_confidence(1))


def _answer(store: SessionStore, session: Session, request: InferenceRequest, output: str, found: InferenceResult) -> Response:
    middle = [round(float(axis.mean())) for axis in np.nonzero(found.labels)] if found.labels.any() else []
    params = {
        "label_names": {STRUCTURE: 1},
        "centroids": {STRUCTURE: [1, *middle]} if middle else {},
        "warnings": list(found.warnings),
    }
    if output == "json":
        return Response(json.dumps(params), media_type="application/json")
    data = as_asked(store.export(session, found.labels, request.form, session.history.state, NAMES), request)
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


def _learning(router: APIRouter, learning: ActiveLearning) -> None:
    @router.post("/activelearning/{strategy}")
    def next_sample(strategy: str) -> dict[str, Any]:
        if (found := learning.choose(strategy)) is None:
            return {}
        return {"id": found.image.id, **found.image.info, "weight": round(found.weight, 6), "reason": found.reason}


def _training(router: APIRouter) -> None:
    @router.get("/train/")
    def status() -> Response:
        raise Refusal(HTTPStatus.NOT_FOUND, "nothing is trained here")

    @router.delete("/train/")
    def stop() -> None:
        return None

    @router.post("/train/")
    @router.post("/train/{model}")
    def start() -> Response:
        raise Refusal(HTTPStatus.NOT_FOUND, "nothing is trained here; use `medsam2 finetune`")


def _about_datastore(router: APIRouter, datastore: Datastore) -> None:
    @router.get("/datastore/")
    @router.get("/datastore")
    def about(output: Literal["stats", "all", "train"] = "stats") -> Any:
        if output == "stats":
            return datastore.count()
        return datastore.describe() if output == "all" else datastore.training_pairs()

    @router.get("/datastore/image/info")
    def image_info(image: Name) -> dict[str, Any]:
        return datastore.get(image).info

    @router.get("/datastore/label/info")
    def label_info(label: Name, tag: Tag = FINAL) -> Any:
        return datastore.label(label, tag).info


def _images(router: APIRouter, library: LibrarySessions) -> None:
    @router.api_route("/datastore/image", methods=["GET", "HEAD"])
    def download(image: Name) -> Response:
        found = library.datastore.get(image)
        if found.entry.path.is_file():
            return FileResponse(found.entry.path, media_type="application/octet-stream", filename=found.name)
        return _as_nifti(library.open_image(found), found.name)

    @router.put("/datastore/")
    @router.put("/datastore/image")
    def upload(file: Annotated[UploadFile, File()], image: Name = "") -> dict[str, str]:
        suffix = known_suffix(file.filename or "")
        if not suffix:
            raise InvalidRequest(NO_SUFFIX)
        id = image or Path(file.filename or "").name.removesuffix(suffix)
        with opened(library.store, file) as session:
            volume = _volume(session)
            try:
                kept = library.datastore.add_image(id, _only_file(session), suffix)
            except Conflict:
                if not _is_same(library, id, volume):
                    raise
                kept = library.datastore.get(id)
        return {"image": kept.id}


def _as_nifti(session: Session, name: str) -> Response:
    volume = _volume(session)
    with TemporaryDirectory(dir=session.folder) as folder:
        file = Path(folder) / f"image{SENT_AS}"
        io.save(np.asarray(volume.array), file, volume)
        data = file.read_bytes()
    quoted = "".join(letter if letter.isascii() and letter.isprintable() and letter not in '"\\' else "_" for letter in name)
    return Response(
        data, media_type="application/octet-stream", headers={"content-disposition": f'attachment; filename="{quoted}"'}
    )


def _volume(session: Session) -> Volume:
    if not isinstance(session.image, SessionVolume):
        raise InvalidRequest("these are pictures, not a volume")
    return session.image.volume


def _only_file(session: Session) -> Path:
    (file,) = (session.folder / "source").iterdir()
    return file


def _is_same(library: LibrarySessions, id: str, volume: Volume) -> bool:
    """Whether the image of that name has these voxels in these places: who sends it again has lost nothing."""
    known = library.open_image(library.datastore.get(id)).image
    if not isinstance(known, SessionVolume) or known.volume.shape != volume.shape:
        return False
    return np.array_equal(known.volume.array, volume.array) and np.allclose(known.volume.affine, volume.affine)


def _labels(router: APIRouter, library: LibrarySessions) -> None:
    @router.put("/datastore/label")
    def save(image: Name, label: Annotated[UploadFile, File()], params: Params = "{}", tag: Tag = FINAL) -> dict[str, Any]:
        found, suffix = library.datastore.get(image), known_suffix(label.filename or "")
        if not suffix:
            raise InvalidRequest(NO_SUFFIX)
        info = {"label_info": [{"name": each.name, "idx": each.number} for each in read_segments(params)]}
        with opened(library.store, label) as session:
            fit(_volume(session), _volume(library.open_image(found)))
            kept = library.datastore.save_label(found, tag or FINAL, _only_file(session), suffix, info)
        return {"image": found.id, "label": found.id, "version": kept.version}

    @router.api_route("/datastore/label", methods=["GET", "HEAD"])
    def download(label: Name, tag: Tag = FINAL) -> Response:
        found = library.datastore.label(label, tag)
        return FileResponse(found.path, media_type="application/octet-stream", filename=found.path.name)


def parse_request(params: str) -> InferenceRequest:
    """What an inference asks for; raises InvalidRequest if it is not what it should be."""
    given = _object(params)
    suffix = str(given.get("result_extension", ".nrrd"))
    form = suffix[1:] if suffix in registry.written() and not registry.writer_of(Path(f"a{suffix}")).check else "nrrd"
    sides = (("foreground", True), (STRUCTURE, True), ("background", False))
    clicks = [Point(voxel, positive=positive) for key, positive in sides for voxel in _read(VOXELS, given, key)]
    roi, info = _read(ROI, given, "roi"), _read(SEGMENTS, given, "label_info")
    label = str(given.get("selected_label_name") or given.get("label") or "")
    kind = str(given.get("result_dtype"))
    packed = given.get("result_compress") is not False
    names = {each.name: each.number for each in info}
    return InferenceRequest(clicks, roi, names, label, form, kind if kind in TYPES else "uint8", packed)


# OHIF's extension takes the bytes behind the header as numbers of the type that it asked for, whatever the header says of them.
def as_asked(nrrd: bytes, request: InferenceRequest) -> bytes:
    """A label map of bytes as NRRD, in the type that was asked for, and not compressed where that was."""
    if request.form != "nrrd" or (request.kind == "uint8" and request.packed):
        return nrrd
    head, body = nrrd.split(b"\n\n", 1)
    data = np.frombuffer(gzip.decompress(body), np.uint8).astype(f"<{np.dtype(request.kind).str[1:]}").tobytes()
    told = {b"type": request.kind, b"endian": "little", b"encoding": "gzip" if request.packed else "raw"}
    for name, value in told.items():
        head = re.sub(rb"(?m)^%s: .*$" % name, b"%s: %s" % (name, value.encode()), head)
    return head + b"\n\n" + (gzip.compress(data, mtime=0) if request.packed else data)


def _read(kind: "TypeAdapter[list[Kind]]", given: Mapping[str, Any], key: str) -> "list[Kind]":
    try:
        return kind.validate_python(given.get(key) or [])
    except ValidationError:
        raise InvalidRequest(f"{key} is not what it should be: {EXPECTED[key]}") from None


def read_segments(params: str) -> list[SegmentInfo]:
    """The segments that a label map is said to have; whatever else comes with it is not kept: it may name a person.

    Raises:
        InvalidRequest: it is not what it should be.
    """
    return _read(SEGMENTS, _object(params), "label_info")


def _object(params: str) -> Mapping[str, Any]:
    try:
        given = json.loads(params or "{}")
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise InvalidRequest("params is no JSON object")
    return given

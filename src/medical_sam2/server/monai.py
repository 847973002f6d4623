"""MONAI Label's REST protocol, so that its extensions for 3D Slicer and OHIF work with this server as they are.

One model, "medical_sam2", of the kind that answers clicks. `foreground` and `background` are voxels of the image; the answer is
a label map in the image's grid, beside its parameters, as multipart. Images come as a session (as 3D Slicer sends them), in the
request itself, or from the library; they are kept as sessions of this server, which `most_sessions` bounds.
"""

import json
import secrets
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

from medical_sam2.errors import MedicalSam2Error
from medical_sam2.io.files import CHUNK
from medical_sam2.prompts import Point, Prompt
from medical_sam2.server import library
from medical_sam2.server.downloads import written
from medical_sam2.server.refusals import Missing, Refusal, Unusable, told
from medical_sam2.server.session import Session
from medical_sam2.server.store import Store
from medical_sam2.server.uploads import SUFFIX
from medical_sam2.server.volumes import VolumeSubject

MODEL, VERSION = "medical_sam2", "0.8.0"
EXPIRY_S = 3_600
MOST_CLICKS = 1_000
STRATEGIES = ("first", "random")
NAMES: Mapping[int, str] = {1: "structure"}
Place: TypeAlias = Annotated[float, Limited(allow_inf_nan=False)]
VOXELS = TypeAdapter[list[tuple[Place, Place, Place]]](
    Annotated[list[tuple[Place, Place, Place]], Limited(max_length=MOST_CLICKS)]
)
FORMS = {".nii.gz": "nii.gz", ".nii": "nii", ".nrrd": "nrrd", ".mha": "mha"}


@dataclass(frozen=True)
class Wanted:
    """What an inference asks for.

    Args:
        foreground: voxels inside.
        background: voxels outside.
        form: suffix of the answer.
    """

    foreground: tuple[tuple[float, float, float], ...]
    background: tuple[tuple[float, float, float], ...]
    form: str

    @property
    def prompts(self) -> Sequence[Prompt]:
        """The clicks."""
        return [Point(p) for p in self.foreground] + [Point(p, positive=False) for p in self.background]


def routes(store: Store) -> APIRouter:
    """The routes, under /monai."""
    router = APIRouter(prefix="/monai")
    opened = library.Opened(store)
    _about(router, store)
    _datastore(router, store)
    _sessions(router, store)
    _inference(router, store, opened)
    return router


def _about(router: APIRouter, store: Store) -> None:
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


def _datastore(router: APIRouter, store: Store) -> None:
    @router.post("/activelearning/{strategy}")
    def next_sample(strategy: str) -> dict[str, Any]:
        if strategy not in STRATEGIES:
            raise Missing("strategy")
        if not (entries := _volumes(store)):
            return {}
        number, _ = entries[0]
        return {"id": str(number), "weight": 0, "path": "", "name": str(number)}

    @router.get("/train/")
    @router.post("/train/{model}")
    @router.delete("/train/")
    def train() -> Response:
        raise Missing("training here: use `medsam2 finetune`")

    @router.get("/datastore/")
    def datastore() -> dict[str, Any]:
        return {"total": len(_volumes(store)), "completed": 0, "objects": {str(number): {} for number, _ in _volumes(store)}}

    @router.get("/datastore/image")
    def image(image: Annotated[str, Query(max_length=64)]) -> Response:
        number, entry = _entry(store, image)
        if not entry.path.is_file():
            raise Unusable("a folder is not sent; open it here")
        suffix = "".join(Path(entry.path.name).suffixes[-2:])
        return FileResponse(entry.path, media_type="application/octet-stream", filename=f"{number}{suffix}")

    @router.put("/datastore/label")
    def label() -> Response:
        raise Refusal(HTTPStatus.NOT_IMPLEMENTED, "labels are not kept here; save them in your viewer")


def _volumes(store: Store) -> list[tuple[int, library.Entry]]:
    return [(i, entry) for i, entry in enumerate(library.entries(store.settings.library)) if entry.kind == "volume"]


def _entry(store: Store, image: str) -> tuple[int, library.Entry]:
    found = dict(_volumes(store))
    if not (image.isascii() and image.isdecimal()) or int(image) not in found:
        raise Missing("image")
    return int(image), found[int(image)]


def _sessions(router: APIRouter, store: Store) -> None:
    @router.put("/session/")
    @router.put("/session")
    async def create(request: Request) -> dict[str, Any]:
        async with request.form(max_files=store.settings.most_files, max_fields=64) as form:
            files = [value for value in form.values() if not isinstance(value, str)]
            if not files:
                raise Unusable("no image was sent")
            session = await _kept(store, files)
        return {"session_id": session.id, **_described(session.id)}

    @router.get("/session/{id}")
    def get(id: str) -> dict[str, Any]:
        store.get(id)
        return _described(id)

    @router.delete("/session/{id}")
    def delete(id: str) -> dict[str, Any]:
        store.remove(id)
        return {}


def _described(id: str) -> dict[str, Any]:
    return {"name": id, "path": "", "image": id, "meta": {}, "create_ts": 0, "last_access_ts": 0, "expiry": EXPIRY_S}


async def _kept(store: Store, files: Sequence[Any]) -> Session:
    """A session with the files that came."""
    id = await run_in_threadpool(store.new)
    try:
        for file in files:
            await run_in_threadpool(_copied, store, id, file)
        return await run_in_threadpool(store.open, id)
    except BaseException:
        store.remove(id)
        raise


def _copied(store: Store, id: str, file: UploadFile) -> None:
    path = store.uploads.room(id, _suffix(file.filename or ""))
    with path.open("wb") as sink:
        while piece := file.file.read(CHUNK):
            store.uploads.received(id, len(piece))
            sink.write(piece)


def _suffix(name: str) -> str:
    """The suffix of an image's name, nothing where it has none that is known."""
    parts = Path(name).suffixes[-2:]
    options = ("".join(parts).lower(), "".join(parts[-1:]).lower())
    return next((suffix for suffix in options if SUFFIX.fullmatch(suffix)), "")


def _inference(router: APIRouter, store: Store, opened: library.Opened) -> None:
    @router.post("/infer/{model}")
    async def infer(
        model: str,
        image: Annotated[str, Query(max_length=256)] = "",
        session_id: Annotated[str, Query(max_length=64)] = "",
        output: Annotated[str, Query(max_length=16)] = "",
        params: Annotated[str, Form(max_length=1_000_000)] = "{}",
        file: Annotated[UploadFile | None, File()] = None,
    ) -> Response:
        if model != MODEL:
            raise Missing(f"model {model[:40]!r}")
        wanted = _wanted(params)
        if file is not None and not session_id:
            session = await _kept(store, [file])
            try:
                return await run_in_threadpool(_answered, store, session, wanted, output)
            finally:
                await run_in_threadpool(store.remove, session.id)
        session = await run_in_threadpool(_known, store, image, session_id, opened)
        return await run_in_threadpool(_answered, store, session, wanted, output)


def _known(store: Store, image: str, session_id: str, opened: library.Opened) -> Session:
    return store.get(session_id) if session_id else opened.of(_entry(store, image)[1])


def _wanted(params: str) -> Wanted:
    try:
        given = json.loads(params)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise Unusable("params is no JSON object")
    form = FORMS.get(str(given.get("result_extension", ".nrrd")), "nrrd")
    return Wanted(_points(given, "foreground"), _points(given, "background"), form)


def _points(given: Mapping[str, Any], key: str) -> tuple[tuple[float, float, float], ...]:
    try:
        return tuple(VOXELS.validate_python(given.get(key) or []))
    except ValidationError:
        raise Unusable(f"{key} is no list of at most {MOST_CLICKS} voxels") from None


def _answered(store: Store, session: Session, wanted: Wanted, output: str) -> Response:
    if not isinstance(session.subject, VolumeSubject):
        raise Unusable("these are pictures, not a volume")
    if not wanted.foreground:
        raise Unusable("click inside of the structure: foreground is empty")
    try:
        with store.desk.asking(urgent=False) as segmenter:
            found = segmenter.segment_volume(
                session.subject.volume, wanted.prompts, window=store.settings.window, on_frame=lambda _: store.desk.give_way()
            )
    except MedicalSam2Error as error:
        raise told(error) from None
    told_params = {"label_names": {"structure": 1}, "warnings": list(found.warnings)}
    if output == "json":
        return Response(json.dumps(told_params), media_type="application/json")
    data = written(store, session, (found.labels > 0).astype(np.uint8), wanted.form, NAMES)
    if output == "image":
        return Response(data, media_type="application/octet-stream")
    return _multipart(told_params, data, f"label.{wanted.form}")


def _multipart(params: Mapping[str, Any], data: bytes, name: str) -> Response:
    edge = secrets.token_hex(16)
    heads = (
        'name="params"\r\nContent-Type: application/json',
        f'name="image"; filename="{name}"\r\nContent-Type: application/octet-stream',
    )
    first, second = (f"--{edge}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() for head in heads)
    body = first + json.dumps(params).encode() + b"\r\n" + second + data + f"\r\n--{edge}--\r\n".encode()
    return Response(body, media_type=f"multipart/form-data; boundary={edge}")

"""The remote protocol of nnInteractive, so that its clients in 3D Slicer and napari work with this server.

A client claims a session by a lease, sends an image (C, X, Y, Z) and gestures in voxels of it, and gets back what changed, as
a box and its labels. Arrays travel as `NNIA` frames, packed by blosc2. The image lives in memory only, as long as the lease.
What the protocol has and we have not is said in `CAPABILITIES`: one structure at a time, no decay of interactions.
"""

import json
import time
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from medical_sam2.errors import MedicalSam2Error
from medical_sam2.prompts import Box, Mask, Point
from medical_sam2.server import frames_nnia
from medical_sam2.server.desk import Desk
from medical_sam2.server.leases import IDLE_S, LIVENESS_S, Lease, Leases
from medical_sam2.server.refusals import TooLarge, Unusable, told
from medical_sam2.server.settings import Settings
from medical_sam2.volume import Volume

CAPABILITIES: Mapping[str, Any] = {
    "supported_interactions": {"points": True, "bbox": True, "scribble": False, "lasso": True},
    "channel_mapping": {"points": [0, 1], "bbox": [2, 3], "scribble": [4, 5], "lasso": [6, 7], "initial_seg": 8},
    "num_interaction_channels": 9,
    "supports_initial_label": True,
    "supports_zero_shot_label_refinement": True,
    "preferred_scribble_thickness": [2, 2, 2],
    "interaction_decay": 1.0,
    "inference_session_version": 2,
    "license": "Apache-2.0",
    "supports_undo": True,
    "do_autozoom": True,
}


Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
Millimetres = Annotated[float, Field(gt=0, lt=1e4)]
Index = Annotated[int, Field(ge=0)]


class Gesture(BaseModel):
    """What every gesture tells; what a client tells beside it is left alone."""

    include_interaction: bool = True
    run_prediction: bool = True


class Click(Gesture):
    """A voxel."""

    coordinates: tuple[Number, Number, Number]


class Boxed(Gesture):
    """Voxels from, and before, along each axis."""

    bbox_coords: tuple[tuple[Number, Number], tuple[Number, Number], tuple[Number, Number]]


class Outline(Gesture):
    """A mask of the whole image, or of a part of it."""

    interaction_bbox: tuple[tuple[Index, Index], tuple[Index, Index], tuple[Index, Index]] | None = None


class Spacing(BaseModel):
    """Of the image."""

    spacing: tuple[Millimetres, Millimetres, Millimetres] | None = None


class Properties(BaseModel):
    """What is told of an image."""

    image_properties: Spacing | None = None


class Buffer(BaseModel):
    """Where the client draws."""

    shape: tuple[int, ...]


class Zoom(BaseModel):
    """Whether the network may look closely."""

    do_autozoom: bool = True


Kind = TypeVar("Kind", bound=BaseModel)
Token = Annotated[str, Header(alias="X-Lease-Token")]
Meta = Annotated[str, Header(alias="X-Meta")]


def routes(desk: Desk, settings: Settings) -> APIRouter:
    """The routes, under /nninteractive."""
    router, leases = APIRouter(prefix="/nninteractive"), Leases()
    _leasing(router, leases)
    _images(router, leases, settings)
    _clicks(router, leases, desk)
    _outlines(router, leases, desk, settings)
    return router


def _leasing(router: APIRouter, leases: Leases) -> None:
    @router.get("/healthz")
    def healthy() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/capabilities")
    def capabilities() -> Mapping[str, Any]:
        return CAPABILITIES

    @router.post("/claim")
    def claim() -> dict[str, Any]:
        return {"lease_token": leases.claim(), "idle_timeout_seconds": IDLE_S, "liveness_timeout_seconds": LIVENESS_S}

    @router.post("/release")
    def release(token: Token = "") -> dict[str, bool]:
        leases.release(token)
        return {"released": True}

    @router.post("/heartbeat")
    def heartbeat(token: Token = "") -> dict[str, float]:
        return _left(leases.get(token, used=False))

    @router.get("/lease_status")
    def lease_status(token: Token = "") -> dict[str, float]:
        return _left(leases.get(token, used=False))


def _left(lease: Lease) -> dict[str, float]:
    return {"remaining_seconds": IDLE_S - (time.monotonic() - lease.used), "idle_timeout_seconds": IDLE_S}


def _images(router: APIRouter, leases: Leases, settings: Settings) -> None:
    @router.post("/set_image")
    async def set_image(request: Request, token: Token = "", meta: Meta = "{}") -> dict[str, Any]:
        lease = leases.get(token)
        lease.window = settings.window
        array = await run_in_threadpool(frames_nnia.unpack, await _body(request, settings), settings.most_voxels)
        if array.ndim != 4 or len(array) != 1:
            raise Unusable(f"the image has shape {array.shape}; give one channel and three axes")
        told = _read(Properties, meta).image_properties
        spacing = (told and told.spacing) or (1.0, 1.0, 1.0)
        with lease.lock:
            lease.begin(Volume(np.nan_to_num(array[0]), np.diag([*spacing, 1.0])))
        return {"original_image_shape": list(array.shape)}

    @router.post("/set_target_buffer")
    def set_target_buffer(form: Buffer, token: Token = "") -> dict[str, bool]:
        volume, _ = leases.get(token).image()
        if form.shape != volume.shape:
            raise Unusable("the target buffer has another shape than the image")
        return {"ok": True}

    @router.post("/reset_interactions")
    def reset(token: Token = "") -> dict[str, bool]:
        lease = leases.get(token)
        with lease.lock:
            lease.begin(lease.image()[0])
        return {"ok": True}

    @router.post("/set_do_autozoom")
    def zoom(form: Zoom, token: Token = "") -> dict[str, bool]:
        leases.get(token).zoom = form.do_autozoom
        return {"ok": True}


def _clicks(router: APIRouter, leases: Leases, desk: Desk) -> None:
    @router.post("/add_point_interaction")
    def point(form: Click, token: Token = "") -> Response:
        lease = leases.get(token)
        with lease.lock:
            lease.say(Point(form.coordinates, 1, form.include_interaction))
            return _answered(lease, desk, form)

    @router.post("/add_bbox_interaction")
    def box(form: Boxed, token: Token = "") -> Response:
        lease = leases.get(token)
        with lease.lock:
            if not form.include_interaction:
                raise Unusable("negative boxes are not known here; click outside of the structure instead")
            low, high = (tuple(side[end] - end for side in form.bbox_coords) for end in (0, 1))
            lease.say(Box(low, high))  # type: ignore[arg-type]
            return _answered(lease, desk, form)

    @router.post("/predict")
    def predict(token: Token = "") -> Response:
        lease = leases.get(token)
        with lease.lock:
            return _answered(lease, desk, Gesture())

    @router.post("/undo")
    def undo(token: Token = "") -> Response:
        lease = leases.get(token)
        with lease.lock:
            _, before = lease.image()
            if not lease.past:
                return _difference(before, before, ran=False)
            lease.labels, lease.said, lease.heard = lease.past.pop()
            return _difference(before, lease.labels, ran=True)


def _outlines(router: APIRouter, leases: Leases, desk: Desk, settings: Settings) -> None:
    async def outline(request: Request, token: str, meta: str, *, initial: bool) -> Response:
        lease, form = leases.get(token), _read(Outline, meta)
        array = await run_in_threadpool(frames_nnia.unpack, await _body(request, settings), settings.most_voxels)
        return await run_in_threadpool(_outlined, lease, desk, form, array, initial)

    @router.post("/add_lasso_interaction")
    async def lasso(request: Request, token: Token = "", meta: Meta = "{}") -> Response:
        return await outline(request, token, meta, initial=False)

    @router.post("/add_initial_seg_interaction")
    async def initial(request: Request, token: Token = "", meta: Meta = "{}") -> Response:
        return await outline(request, token, meta, initial=True)

    @router.post("/add_scribble_interaction")
    def scribble() -> Response:
        raise Unusable("scribbles are not known here; use clicks, a box on one slice, or a lasso")


def _outlined(lease: Lease, desk: Desk, form: Outline, array: NDArray[Any], initial: bool) -> Response:
    with lease.lock:
        volume, labels = lease.image()
        mask = np.zeros(volume.shape, bool)
        window = tuple(slice(*side) for side in form.interaction_bbox) if form.interaction_bbox else ...
        if mask[window].shape != array.shape:
            raise Unusable("the outline has another shape than the image, or than its box")
        mask[window] = array > 0
        if not initial:
            if not form.include_interaction:
                raise Unusable("negative lassos are not known here; click outside of the structure instead")
            lease.say(Mask(mask))
            return _answered(lease, desk, form)
        lease.say()
        lease.labels = mask.astype(np.uint8)
        lease.heard = len(lease.said)
        return _difference(labels, labels, ran=False)  # the client has drawn it already


def _answered(lease: Lease, desk: Desk, form: Gesture) -> Response:
    """Predict if that is wanted; a gesture that the network can do nothing with is taken back."""
    volume, before = lease.image()
    fresh = lease.said[lease.heard :]
    if not form.run_prediction or not fresh:
        return _difference(before, before, ran=False)
    earlier = before if before.any() else None
    try:
        with desk.asking(urgent=False) as segmenter:
            prompts = fresh if earlier is not None else lease.said
            found = segmenter.segment_volume(
                volume, prompts, window=lease.window, earlier=earlier, zoom=lease.zoom, on_frame=lambda _: desk.give_way()
            )
    except MedicalSam2Error as error:
        lease.labels, lease.said, lease.heard = lease.past.pop()
        raise told(error) from None
    lease.labels, lease.heard = (found.labels > 0).astype(np.uint8), len(lease.said)
    return _difference(before, lease.labels, ran=True)


def _difference(before: NDArray[np.uint8], after: NDArray[np.uint8], *, ran: bool) -> Response:
    """The box of what changed, and the labels in it."""
    changed = before != after
    meta: dict[str, Any] = {"ran_prediction": ran, "bbox": None}
    body = b""
    if ran and changed.any():
        sides = [np.flatnonzero(changed.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
        box = [[int(side[0]), int(side[-1]) + 1] for side in sides]
        meta["bbox"], body = box, frames_nnia.pack(after[tuple(slice(*side) for side in box)])
    return Response(body, media_type="application/octet-stream", headers={"X-Meta": json.dumps(meta)})


async def _body(request: Request, settings: Settings) -> bytes:
    pieces, size = list[bytes](), 0
    async for piece in request.stream():
        pieces.append(piece)
        size += len(piece)
        if size > settings.most_upload_mb << 20:
            raise TooLarge(f"more than {settings.most_upload_mb} MB")
    return b"".join(pieces)


def _read(kind: type[Kind], text: str) -> Kind:
    """A header of JSON."""
    try:
        return kind.model_validate_json(text)
    except ValidationError:
        raise Unusable("X-Meta is not what it should be") from None

"""The remote protocol of nnInteractive, so that its clients in 3D Slicer and napari work with this server.

A client claims a session by a lease, sends an image (C, X, Y, Z) and gestures in voxels of it, and gets back what changed, as
a box and its labels. The image lives in memory only, as long as the lease. What the protocol has and we have not is in
`CAPABILITIES`: one structure at a time, no decay of interactions.

One request has one answer: its header, which must come first, has the box of all that changed, so nothing can follow it, and
the client gives up where none begins within a minute (`read_timeout`). Nothing can be sent without being asked for. But an
answer may change more than was asked: what was not known in time comes with the next gesture or with `/predict`
(`leases.Prediction`).

Arrays travel as `NNIA` frames, every length checked before memory is asked for: `NNIA`, version, codec, number of axes, length
of the type's name; the name; the shape as int64; the number of chunks; for each its length unpacked and packed (uint64) and its
bytes, packed by blosc2. All numbers are little-endian.
"""

import json
import math
import struct
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from fastapi import APIRouter, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from medical_sam2.errors import ConfigError, MedicalSam2Error
from medical_sam2.prompts import Box, Mask, Point
from medical_sam2.server import InvalidRequest, TooLarge
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.leases import IDLE_S, LIVENESS_S, Lease, Leases
from medical_sam2.server.security import ServerSettings
from medical_sam2.strokes import Brush
from medical_sam2.volume import Volume, bounding_box

MAGIC, VERSION, ZSTD = b"NNIA", 1, 1
CHUNK = 1 << 30
TYPES = frozenset(
    {"bool", *(f"{kind}{bits}" for kind in ("uint", "int") for bits in (8, 16, 32, 64)), *("float16", "float32", "float64")}
)
BROKEN = "the array is broken; send it again"
CAPABILITIES: Mapping[str, Any] = {
    "supported_interactions": {"points": True, "bbox2d": True, "bbox3d": True, "scribble": True, "lasso": True},
    "channel_mapping": {
        "prev_seg": 0,
        "bbox2d": [1, 2],
        "bbox3d": [1, 2],
        "lasso": [1, 2],
        "points": [3, 4],
        "scribble": [5, 6],
    },  # upstream's own; clients read its names
    "num_interaction_channels": 7,
    "supports_initial_label": True,
    "supports_zero_shot_label_refinement": False,  # a segmentation that comes is taken as it is, until something is said
    "preferred_scribble_thickness": [2, 2, 2],
    "interaction_decay": 1.0,
    "inference_session_version": "2.6.0",  # of the client that it was tested with
    "license": "Apache-2.0",
    "supports_undo": True,
    "do_autozoom": True,
}
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
Millimetres = Annotated[float, Field(allow_inf_nan=False, gt=-1e4, lt=1e4)]
Index = Annotated[int, Field(ge=0)]
Kinds = Literal["lasso", "scribble", "initial"]
Kind = TypeVar("Kind", bound=BaseModel)
Token = Annotated[str, Header(alias="X-Lease-Token")]
Meta = Annotated[str, Header(alias="X-Meta")]


def pack_array(array: NDArray[Any]) -> bytes:
    """An array as bytes."""
    blosc2 = _blosc2()
    array = np.ascontiguousarray(array)
    name, raw = array.dtype.name.encode(), memoryview(array.reshape(-1).view(np.uint8).data)
    parts = [struct.pack("<4sBBBB", MAGIC, VERSION, ZSTD, array.ndim, len(name)), name]
    parts += [struct.pack(f"<{array.ndim}q", *array.shape), struct.pack("<I", -(-len(raw) // CHUNK))]
    for start in range(0, len(raw), CHUNK):
        piece = raw[start : start + CHUNK]
        packed = blosc2.compress2(piece, typesize=array.itemsize, clevel=3, filters=[blosc2.Filter.NOFILTER])
        parts += [struct.pack("<QQ", len(piece), len(packed)), packed]
    return b"".join(parts)


def unpack_array(data: bytes, most: int) -> NDArray[Any]:
    """An array from bytes; raises InvalidRequest if they are broken, TooLarge for more than `most` elements."""
    try:
        return _unpacked(memoryview(data), most)
    except (struct.error, ValueError, UnicodeDecodeError, RuntimeError, TypeError):
        raise InvalidRequest(BROKEN) from None


# A client's numbers: each is held against what came before memory is asked for or written to.
def _unpacked(data: memoryview, most: int) -> NDArray[Any]:
    blosc2 = _blosc2()
    magic, version, _, axes, length = struct.unpack_from("<4sBBBB", data)
    name, at = bytes(data[8 : 8 + length]).decode("ascii"), 8 + length
    if magic != MAGIC or version != VERSION or name not in TYPES or not 1 <= axes <= 4:
        raise InvalidRequest("this is no array of the protocol's first version")
    shape = struct.unpack_from(f"<{axes}q", data, at)
    if min(shape) < 1 or math.prod(shape) > most:
        raise TooLarge(f"an array may have {most} elements")
    (chunks,) = struct.unpack_from("<I", data, at + 8 * axes)
    at += 8 * axes + 4
    out, written = np.empty(math.prod(shape), name), 0
    for _ in range(chunks):
        plain, packed = struct.unpack_from("<QQ", data, at)
        source = data[at + 16 : at + 16 + packed]
        promised, *_ = blosc2.get_cbuffer_sizes(source)
        if len(source) != packed or promised != plain or plain % out.itemsize or written + plain > out.nbytes or not plain:
            raise InvalidRequest(BROKEN)
        blosc2.decompress2(source, dst=out[written // out.itemsize : (written + plain) // out.itemsize])
        written, at = written + plain, at + 16 + packed
    if written != out.nbytes:
        raise InvalidRequest(BROKEN)
    return out.reshape(shape)


def _blosc2() -> Any:
    try:
        import blosc2  # of the extra `serve`
    except ImportError:
        raise ConfigError("this protocol needs blosc2", "pip install 'medical-sam2[serve]'") from None
    return blosc2


class InteractionRequest(BaseModel):
    """Of every gesture; what a client sends beside it is left alone."""

    include_interaction: bool = True
    run_prediction: bool = True


class PointRequest(InteractionRequest):
    """A voxel."""

    coordinates: tuple[Number, Number, Number]


class BoxRequest(InteractionRequest):
    """Voxels from, and before, along each axis."""

    bbox_coords: tuple[tuple[Number, Number], tuple[Number, Number], tuple[Number, Number]]


class MaskRequest(InteractionRequest):
    """A mask of the whole image, or of a part of it."""

    interaction_bbox: tuple[tuple[Index, Index], tuple[Index, Index], tuple[Index, Index]] | None = None


class Spacing(BaseModel):
    """Of the image."""

    spacing: tuple[Millimetres, Millimetres, Millimetres] | None = None


class Properties(BaseModel):
    """Of an image."""

    image_properties: Spacing | None = None


class Buffer(BaseModel):
    """Where the client draws."""

    shape: tuple[int, ...]


class Zoom(BaseModel):
    """Whether the network may look closely."""

    do_autozoom: bool = True


def routes(queue: InferenceQueue, settings: ServerSettings) -> APIRouter:
    """The routes, under /nninteractive."""
    router, leases = APIRouter(prefix="/nninteractive"), Leases()
    _leasing(router, leases)
    _images(router, leases, settings)
    _clicks(router, leases, queue)
    _outlines(router, leases, queue, settings)
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
    @router.get("/lease_status")
    def lease_status(token: Token = "") -> dict[str, float]:
        lease = leases.get(token, used=False)
        return {"remaining_seconds": IDLE_S - (time.monotonic() - lease.used), "idle_timeout_seconds": IDLE_S}


def _images(router: APIRouter, leases: Leases, settings: ServerSettings) -> None:
    @router.post("/set_image")
    async def set_image(request: Request, token: Token = "", meta: Meta = "{}") -> dict[str, Any]:
        lease = leases.get(token)
        lease.window = settings.window
        array = await run_in_threadpool(unpack_array, await request.body(), settings.most_voxels)
        if array.ndim != 4 or len(array) != 1:
            raise InvalidRequest(f"the image has shape {array.shape}; give one channel and three axes")
        properties = _read(Properties, meta).image_properties
        spacing = (properties and properties.spacing) or (1.0, 1.0, 1.0)
        if 0 in spacing:
            raise InvalidRequest(f"the image has spacing {spacing}; none of it may be 0")
        with lease.lock:
            lease.begin(Volume(np.nan_to_num(array[0]), _affine(spacing)))
        return {"original_image_shape": list(array.shape)}

    @router.post("/set_target_buffer")
    def set_target_buffer(form: Buffer, token: Token = "") -> dict[str, bool]:
        volume, _ = leases.get(token).image()
        if form.shape != volume.shape:
            raise InvalidRequest("the target buffer has another shape than the image")
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


# Clients show slices along the first axis (napari always, and SimpleITK's arrays are K J I), and tell no directions: world
# coordinates are LPS, as in SimpleITK, from the last axis to the first. So a click is one on the slice that its user sees.
def _affine(spacing: tuple[float, float, float]) -> NDArray[np.float64]:
    up, back, left = spacing
    return np.array([[0, 0, -left, 0], [0, -back, 0, 0], [up, 0, 0, 0], [0, 0, 0, 1]], np.float64)


def _clicks(router: APIRouter, leases: Leases, queue: InferenceQueue) -> None:
    @router.post("/add_point_interaction")
    def point(form: PointRequest, token: Token = "") -> Response:
        lease = leases.get(token)
        with lease.lock:
            lease.add(Point(form.coordinates, 1, form.include_interaction))
            return _predict(lease, queue, form)

    @router.post("/add_bbox_interaction")
    def box(form: BoxRequest, token: Token = "") -> Response:
        lease = leases.get(token)
        with lease.lock:
            lease.add(_box(form, lease.image()[0].shape))
            return _predict(lease, queue, form)

    @router.post("/predict")
    def predict(token: Token = "") -> Response:
        lease = leases.get(token)
        with lease.lock:
            return _predict(lease, queue, InteractionRequest())

    @router.post("/undo")
    def undo(token: Token = "") -> Response:
        lease = leases.get(token)
        with lease.lock:
            lease.image()
            if not lease.past:
                return _show(lease, lease.shown, ran=False)
            lease.undo()
            return _show(lease, lease.image()[1], ran=True)


# Clients draw between voxels and over the border; as upstream, their sides are rounded and cut to the image.
def _box(form: BoxRequest, shape: tuple[int, int, int]) -> Box:
    """The voxels from, and before, each side; one at least."""
    sides = [(round(low), round(high)) for low, high in form.bbox_coords]
    if any(high < low or low >= size or high < 0 for (low, high), size in zip(sides, shape, strict=True)):
        raise InvalidRequest(
            "the box lies outside of the image, or is turned inside out; give voxels from, and before, each side"
        )
    low = tuple(max(0, min(low, size - 1)) for (low, _), size in zip(sides, shape, strict=True))
    high = tuple(max(start, min(high, size) - 1) for (_, high), start, size in zip(sides, low, shape, strict=True))
    return Box(low, high, positive=form.include_interaction)  # type: ignore[arg-type]


def _outlines(router: APIRouter, leases: Leases, queue: InferenceQueue, settings: ServerSettings) -> None:
    async def outline(request: Request, token: str, meta: str, kind: Kinds) -> Response:
        lease, form = leases.get(token), _read(MaskRequest, meta)
        array = await run_in_threadpool(unpack_array, await request.body(), settings.most_voxels)
        return await run_in_threadpool(_outlined, lease, queue, form, array, kind)

    @router.post("/add_lasso_interaction")
    async def lasso(request: Request, token: Token = "", meta: Meta = "{}") -> Response:
        return await outline(request, token, meta, "lasso")

    @router.post("/add_initial_seg_interaction")
    async def initial(request: Request, token: Token = "", meta: Meta = "{}") -> Response:
        return await outline(request, token, meta, "initial")

    @router.post("/add_scribble_interaction")
    async def scribble(request: Request, token: Token = "", meta: Meta = "{}") -> Response:
        return await outline(request, token, meta, "scribble")


def _outlined(lease: Lease, queue: InferenceQueue, form: MaskRequest, array: NDArray[Any], kind: Kinds) -> Response:
    with lease.lock:
        volume, _ = lease.image()
        mask = np.zeros(volume.shape, bool)
        window = tuple(slice(*side) for side in form.interaction_bbox) if form.interaction_bbox else ...
        if mask[window].shape != array.shape:
            raise InvalidRequest("the outline has another shape than the image, or than its box")
        mask[window] = array > 0
        if kind != "initial":
            drawn = kind == "lasso" and form.include_interaction
            lease.add(Mask(mask) if drawn else Brush(np.argwhere(mask), positive=form.include_interaction))
            return _predict(lease, queue, form)
        lease.give(mask.astype(np.uint8))
        return _show(lease, lease.shown, ran=False)  # the client has drawn it already


def _predict(lease: Lease, queue: InferenceQueue, form: InteractionRequest) -> Response:
    """Predict if that is wanted; a gesture that the network can do nothing with is taken back."""
    lease.image()
    if not form.run_prediction or not lease.fresh:
        return _show(lease, lease.shown, ran=False)
    try:
        labels = lease.predict(queue)
    except MedicalSam2Error:
        lease.undo()
        raise
    return _show(lease, labels, ran=True)


def _show(lease: Lease, labels: NDArray[np.uint8] | None, *, ran: bool) -> Response:
    """The answer that makes the client's labels these."""
    before = lease.image()[1] if lease.shown is None else lease.shown
    lease.shown = before if labels is None else labels
    return _difference(before, lease.shown, ran=ran)


def _difference(before: NDArray[np.uint8], after: NDArray[np.uint8], *, ran: bool) -> Response:
    """The box of what changed, and the labels in it."""
    changed = before != after
    meta: dict[str, Any] = {"ran_prediction": ran, "bbox": None}
    body = b""
    if ran and changed.any():
        box = bounding_box(changed)
        meta["bbox"], body = [[side.start, side.stop] for side in box], pack_array(after[box])
    return Response(body, media_type="application/octet-stream", headers={"X-Meta": json.dumps(meta)})


def _read(kind: type[Kind], text: str) -> Kind:
    """A header of JSON."""
    try:
        return kind.model_validate_json(text)
    except ValidationError:
        raise InvalidRequest("X-Meta is not what it should be") from None

"""What the page asks for."""

import asyncio
import os
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from medical_sam2.intensity_window import CT_WINDOWS
from medical_sam2.server import library, looks
from medical_sam2.server.downloads import download
from medical_sam2.server.forms import Add, Begin, Open, Say, StateOut, Track, Versioned, shown
from medical_sam2.server.refusals import Missing, Refusal
from medical_sam2.server.session import Session
from medical_sam2.server.store import Store
from medical_sam2.server.volumes import VolumeSubject

PAUSE_S = 0.04  # between two looks at the events of a job
Plane = Literal["axial", "coronal", "sagittal", "image"]
Side = Annotated[int, Query(ge=0, le=4096)]


def routes(store: Store) -> APIRouter:
    """The routes of the page, under /api."""
    router = APIRouter(prefix="/api")
    _about(router, store)
    _files(router, store)
    _frames(router, store)
    _whole(router, store)
    _structures(router, store)
    _gestures(router, store)
    _tracking(router, store)
    return router


def _about(router: APIRouter, store: Store) -> None:
    @router.get("/about")
    def about() -> dict[str, Any]:
        entries = library.entries(store.settings.library)
        return {
            "library": [{"id": i, "name": entry.name, "kind": entry.kind} for i, entry in enumerate(entries)],
            "single": store.settings.library is not None and store.settings.library.is_file(),
            "pacs": bool(store.settings.pacs),
            "most_upload_mb": store.settings.most_upload_mb,
            "windows": {name: [level - width / 2, level + width / 2] for name, (level, width) in CT_WINDOWS.items()},
        }

    @router.get("/sessions")
    def sessions() -> list[dict[str, Any]]:
        return [_listed(store, id) for id in store.ids()]

    @router.get("/sessions/{id}")
    def session(id: str) -> dict[str, Any]:
        return described(store, store.get(id))

    @router.delete("/sessions/{id}")
    def close(id: str) -> dict[str, bool]:
        store.remove(id)
        return {"closed": True}


def _files(router: APIRouter, store: Store) -> None:
    @router.post("/sessions")
    def begin(form: Begin) -> dict[str, Any]:
        if form.library is None:
            return {"id": store.new()}
        entries = library.entries(store.settings.library)
        if form.library >= len(entries):
            raise Missing("entry of the library")
        id = store.new()
        store.place(id, entries[form.library].path)
        return {"id": id}

    @router.put("/sessions/{id}/files")
    async def upload(id: str, request: Request, suffix: Annotated[str, Query(max_length=16)] = "") -> dict[str, int]:
        path = await run_in_threadpool(store.uploads.room, id, suffix)
        file = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        size = 0
        try:
            async for piece in request.stream():
                store.uploads.received(id, len(piece))
                size += len(piece)
                await run_in_threadpool(_write, file, piece)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)
        return {"bytes": size}

    @router.post("/sessions/{id}/open")
    def open_(id: str, form: Open) -> dict[str, Any]:
        return described(store, store.open(id, form.reading()))

    @router.get("/sessions/{id}/download/{form}")
    def take(id: str, form: str) -> Response:
        file = download(store, store.get(id), form)
        return Response(file.data, media_type=file.kind, headers={"content-disposition": f'attachment; filename="{file.name}"'})


def _write(file: int, piece: bytes) -> None:
    while piece:
        piece = piece[os.write(file, piece) :]


def _frames(router: APIRouter, store: Store) -> None:
    @router.get("/sessions/{id}/frames/{plane}/{t}")
    def frame(id: str, plane: Plane, t: int, side: Side = 0) -> Response:
        session = _at(store, id, plane, t)
        window = session.subject.range(t, session.history.state.said)
        seen = looks.look(session.subject.pixels(plane, t), window, side)
        return Response(seen.data, media_type="application/octet-stream", headers=seen.headers())

    @router.get("/sessions/{id}/labels/{plane}/{t}")
    def labels(id: str, plane: Plane, t: int, side: Side = 0) -> Response:
        found = looks.thinned(_at(store, id, plane, t).labels(plane, t), side)
        return Response(found.tobytes(), media_type="application/octet-stream")

    @router.get("/sessions/{id}/doubt/{plane}/{t}")
    def doubt(id: str, plane: Plane, t: int) -> Response:
        return Response(_at(store, id, plane, t).doubt(plane, t).tobytes(), media_type="application/octet-stream")


def _whole(router: APIRouter, store: Store) -> None:
    @router.get("/sessions/{id}/solid/{what}")
    def solid(id: str, what: Literal["image.nii.gz", "labels.nii.gz"]) -> Response:
        session = store.get(id)
        if not isinstance(session.subject, VolumeSubject):
            raise Missing("3D view of pictures")
        canvas = session.sketched() if what == "labels.nii.gz" else None
        return Response(looks.solid(session.subject, canvas), media_type="application/octet-stream")

    @router.get("/sessions/{id}/rows")
    def rows(id: str) -> list[dict[str, Any]]:
        session = store.get(id)
        if session.history.state.tracked is None:
            return []
        found = session.found()
        return [
            {
                "label": row.object,
                "plane": row.view,
                "t": row.slice,
                "sure": round(row.confidence, 4),
                "area": row.area_px,
                "said": row.prompted,
                "look": row.look_here,
            }
            for row in found.rows
        ]


def _structures(router: APIRouter, store: Store) -> None:
    @router.post("/sessions/{id}/structures")
    def add(id: str, form: Add) -> StateOut:
        session = store.get(id)
        session.add(form.version, form.name, form.colour)
        return shown(session)

    @router.post("/sessions/{id}/structures/{label}")
    def change(id: str, label: int, form: Add) -> StateOut:
        session = store.get(id)
        session.change(form.version, label, form.name, form.colour)
        return shown(session)

    @router.post("/sessions/{id}/structures/{label}/remove")
    def remove(id: str, label: int, form: Versioned) -> StateOut:
        session = store.get(id)
        session.remove(form.version, label)
        return shown(session)


def _gestures(router: APIRouter, store: Store) -> None:
    @router.post("/sessions/{id}/say")
    def say(id: str, form: Say) -> StateOut:
        session = store.get(id)
        session.say(form.version, form.said())
        return shown(session)

    @router.post("/sessions/{id}/undo")
    def undo(id: str, form: Versioned) -> StateOut:
        session = store.get(id)
        session.undo(form.version)
        return shown(session)

    @router.post("/sessions/{id}/redo")
    def redo(id: str, form: Versioned) -> StateOut:
        session = store.get(id)
        session.redo(form.version)
        return shown(session)


def _tracking(router: APIRouter, store: Store) -> None:
    @router.post("/sessions/{id}/track")
    def track(id: str, form: Track) -> StateOut:
        session = store.get(id)
        session.track(form.version, form.views)
        return shown(session)

    @router.post("/sessions/{id}/cancel")
    def cancel(id: str) -> StateOut:
        session = store.get(id)
        if session.job:
            session.job.cancel()
        return shown(session)

    @router.get("/sessions/{id}/events", response_class=EventSourceResponse)
    async def events(session: Annotated[Session, Depends(store.get)]) -> AsyncIterator[ServerSentEvent]:
        job, told = session.job, 0
        while job is not None:
            for event in job.events[told:]:
                told += 1
                yield ServerSentEvent(data=vars(event), event=event.kind, id=str(told))
                if event.last:
                    return
            await asyncio.sleep(PAUSE_S)
        yield ServerSentEvent(data={"message": ""}, event="idle")


def _at(store: Store, id: str, plane: str, t: int) -> Session:
    session = store.get(id)
    if plane not in session.subject.planes or not 0 <= t < session.subject.planes[plane]:
        raise Missing("slice")
    return session


def _listed(store: Store, id: str) -> dict[str, Any]:
    """A session as it is listed; one that is damaged says so, and can be removed."""
    try:
        return _summary(store.get(id))
    except Refusal as refusal:
        return {"id": id, "kind": "damaged", "planes": {}, "structures": [], "problem": refusal.problem}


def _summary(session: Session) -> dict[str, Any]:
    subject = session.subject
    kind = "volume" if isinstance(subject, VolumeSubject) else "set"
    names = list(session.history.state.names.values())
    return {"id": session.id, "kind": kind, "planes": subject.planes, "structures": names}


def described(store: Store, session: Session) -> dict[str, Any]:
    """All that the page needs to begin with."""
    subject = session.subject
    solid = subject if isinstance(subject, VolumeSubject) else None
    planes = [
        {"name": name, "frames": frames, "size": subject.size(name, 0), "spacing": subject.spacing(name)}
        for name, frames in subject.planes.items()
    ]
    return {
        **_summary(session),
        "planes": planes,
        "modality": solid.volume.modality if solid else None,
        "window": (solid.window.low, solid.window.high) if solid else None,
        "seen_as": str(subject.seen(session.history.state.said)),
        "extent": (solid.extent.low, solid.extent.high) if solid else None,
        "dicom": store.is_dicom(session.id),
        "pacs": bool(store.settings.pacs and store.origin(session.id).study),
        "warnings": store.warnings(session.id),
        "state": shown(session).model_dump(),
    }


def problem(refusal: Refusal) -> JSONResponse:
    """A refusal as the page reads it."""
    choices = getattr(refusal, "choices", ())
    return JSONResponse({"error": refusal.problem, "choices": list(choices)}, status_code=HTTPStatus(refusal.status))

"""The routes of the page, under /api. What it sends is checked here, by pydantic models; inside are values of our own."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from tempfile import NamedTemporaryFile
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, ConfigDict, Field

from medical_sam2.intensity_window import CT_WINDOWS
from medical_sam2.server import InvalidRequest, NotFound, editing
from medical_sam2.server.gestures import MOST_POINTS, command_line, not_said, prompt_file
from medical_sam2.server.pacs import SeriesRecord
from medical_sam2.server.rendering import (
    Encoded,
    change_session,
    describe_rows,
    describe_session,
    describe_state,
    encode_download,
    encode_frame,
    encode_overlay,
    encode_volume,
    lay_over,
    list_session,
    measure_session,
    read_outlines,
    remove_overlay,
    subsample,
)
from medical_sam2.server.security import VISITOR, Visitor
from medical_sam2.server.segmentation import SessionImage, SessionResult, SessionVolume
from medical_sam2.server.session import Session
from medical_sam2.server.session_store import SessionStore, library_entries
from medical_sam2.server.state import MOST_NAME, Gesture, Kind, State
from medical_sam2.server.worker_process import ReadingOptions
from medical_sam2.strokes import WIDEST
from medical_sam2.tracking.finishing import FinishingSteps
from medical_sam2.volume import Volume

PAUSE_S = 0.04  # between two looks at the events of a job
Views = Literal["one", "three", "six"]
BYTES = "application/octet-stream"
Plane = Literal["axial", "coronal", "sagittal", "image"]
Side = Annotated[int, Query(ge=0, le=4096)]
Pair = tuple[Annotated[float, Field(allow_inf_nan=False)], Annotated[float, Field(allow_inf_nan=False)]]
Maker: TypeAlias = Callable[[SessionImage, State, SessionResult], editing.StructureEdit]
Label = Annotated[int, Field(ge=1, le=255)]
Upload = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class StrictForm(BaseModel):
    """Nothing but the fields that are known."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class VersionedForm(StrictForm):
    """A change of what the client has seen."""

    version: Annotated[int, Field(ge=0)]


class GestureForm(VersionedForm):
    """A gesture."""

    label: Label
    plane: Plane
    t: Annotated[int, Field(ge=0)]
    kind: Kind
    points: Annotated[list[Pair], Field(max_length=MOST_POINTS)] = []
    positive: Annotated[list[bool], Field(max_length=64)] = []
    runs: Annotated[list[Annotated[int, Field(ge=0, le=1 << 31)]], Field(max_length=200_000)] = []
    frames: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=2)] = []
    width: Annotated[float, Field(ge=1, le=WIDEST)] = 3.0

    def gesture(self) -> Gesture:
        """As the session takes it."""
        points = tuple((float(y), float(x)) for y, x in self.points)
        where = 0, self.label, self.plane, self.t, self.kind
        return Gesture(*where, points, tuple(self.positive), tuple(self.runs), tuple(self.frames), self.width)


class NewSession(StrictForm):
    """A new session: from the library, or waiting for an upload."""

    library: Annotated[int, Field(ge=0)] | None = None


class OpenSession(StrictForm):
    """How the files are read."""

    frame: Annotated[int, Field(ge=0, le=100_000)] | None = None
    series: Annotated[int, Field(ge=1, le=100_000)] | None = None
    allow_gap: bool = False


class TrackForm(VersionedForm):
    """Apply the gestures to the whole."""

    views: Views = "one"


class StopForm(StrictForm):
    """Stop tracking."""

    keep: bool = False


class StructureForm(VersionedForm):
    """A new structure, or another name, colour or number of one, or a lock."""

    name: Annotated[str, Field(max_length=MOST_NAME)] = ""
    colour: Annotated[str, Field(pattern=r"^(#[0-9a-f]{6})?$")] = ""
    value: Annotated[int, Field(title="Number in files", ge=1, le=65_535)] = 0  # it stays
    locked: bool | None = None


class MoveForm(VersionedForm):
    """A structure up (negative) or down."""

    by: Annotated[int, Field(ge=-255, le=255)]


class MergeForm(VersionedForm):
    """Two structures become one."""

    into: Label


class FinishForm(VersionedForm):
    """What is done to a structure, as `FinishingSteps` has it."""

    fill_holes: bool = False
    largest: bool = False
    smooth_mm: Annotated[float, Field(title="Smooth (mm)", ge=0, le=100)] = 0.0
    grow_mm: Annotated[float, Field(title="Grow (mm)", ge=-100, le=100)] = 0.0
    min_volume_ml: Annotated[float, Field(title="Least part (mL)", ge=0, le=100_000)] = 0.0
    least_px: Annotated[int, Field(title="Least part (pixels)", ge=0, le=1_000_000_000)] = 0  # of a set


TYPED = {name: info for form in (StructureForm, FinishForm) for name, info in form.model_fields.items() if info.title}


def describe_limits(wrong: Sequence[Mapping[str, Any]]) -> str | None:
    """What the first field that a person types a number into takes; None where none of them is wrong.

    Args:
        wrong: the errors of pydantic. Nothing of what was sent comes back.
    """
    for field in (TYPED[each["loc"][-1]] for each in wrong if each["loc"][-1] in TYPED):
        low, high = (next(getattr(m, end) for m in field.metadata if hasattr(m, end)) for end in ("ge", "le"))
        return f"{field.title}: give a {'whole ' * (field.annotation is int)}number from {low:,} to {high:,}"
    return None


class FileForm(VersionedForm):
    """A file that was uploaded as a session of its own, which ends with it."""

    upload: Upload


class OverlayForm(StrictForm):
    """A second image, which was opened as a session of its own; none takes the one that is there away."""

    upload: Upload | None = None


class SeriesQuery(StrictForm):
    """Whose series of the PACS."""

    patient: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^*?\\]+$")]


class SeriesChoice(StrictForm):
    """Which of the series that were found."""

    number: Annotated[int, Field(ge=0)]


def routes(store: SessionStore) -> APIRouter:
    """The routes of the page."""
    router = APIRouter(prefix="/api")
    _about(router, store)
    _files(router, store)
    _frames(router, store)
    _results(router, store)
    _changes(router, store)
    _structures(router, store)
    _edits(router, store)
    _overlays(router, store)
    _events(router, store)
    _pacs(router, store)
    return router


def _about(router: APIRouter, store: SessionStore) -> None:
    @router.get("/about")
    def about(request: Request) -> dict[str, Any]:
        visitor: Visitor = request.scope[VISITOR]
        entries = library_entries(store.settings.library)
        return {
            "library": [{"id": i, "name": entry.name, "kind": entry.kind} for i, entry in enumerate(entries)],
            "single": store.settings.library is not None and store.settings.library.is_file(),
            "pacs": bool(store.settings.pacs),
            "may_edit": visitor.may_edit,
            "visitor": visitor.name,
            "most_upload_mb": store.settings.most_upload_mb,
            "windows": {name: [level - width / 2, level + width / 2] for name, (level, width) in CT_WINDOWS.items()},
        }

    @router.get("/sessions")
    def sessions() -> list[dict[str, Any]]:
        return [list_session(store, id) for id in store.ids()]

    @router.get("/sessions/{id}")
    def session(id: str) -> dict[str, Any]:
        return describe_session(store, store.get(id))

    @router.delete("/sessions/{id}")
    def close(id: str) -> dict[str, bool]:
        store.remove(id)
        return {"closed": True}


def _files(router: APIRouter, store: SessionStore) -> None:
    @router.post("/sessions")
    def begin(form: NewSession) -> dict[str, Any]:
        if form.library is None:
            return {"id": store.new()}
        entries = library_entries(store.settings.library)
        if form.library >= len(entries):
            raise NotFound("entry of the library")
        with store.creating() as id:
            store.place(id, entries[form.library].path)
        return {"id": id}

    @router.put("/sessions/{id}/files")
    async def upload(id: str, request: Request, suffix: Annotated[str, Query(max_length=16)] = "") -> dict[str, int]:
        path = await run_in_threadpool(store.uploads.new_file, id, suffix)
        file = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        size = 0
        try:
            async for piece in request.stream():
                store.uploads.add_bytes(id, len(piece))
                size += len(piece)
                await run_in_threadpool(_write, file, piece)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)
        return {"bytes": size}

    @router.post("/sessions/{id}/open")
    def open_(id: str, form: OpenSession) -> dict[str, Any]:
        return describe_session(store, store.open(id, ReadingOptions(form.frame, form.series, form.allow_gap)))

    @router.get("/sessions/{id}/download/{form}")
    def download(id: str, form: str) -> Response:
        return _sent(encode_download(store, store.get(id), form))


def _write(file: int, piece: bytes) -> None:
    while piece:
        piece = piece[os.write(file, piece) :]


def _sent(encoded: Encoded) -> Response:
    return Response(encoded.data, media_type=encoded.kind, headers=encoded.headers)


def _frames(router: APIRouter, store: SessionStore) -> None:
    @router.get("/sessions/{id}/frames/{plane}/{t}")
    def frame(id: str, plane: Plane, t: int, side: Side = 0) -> Response:
        session = store.get(id)
        session.check_frame(plane, t)
        image = session.image
        shown = image.display_window(t, session.history.state.gestures)
        return _sent(encode_frame(image.pixels(plane, t), image.code_range(t), side, shown))

    @router.get("/sessions/{id}/ahead/{plane}/{t}")
    def ahead(id: str, plane: Plane, t: int) -> dict[str, bool]:
        store.get(id).see_ahead(plane, t)
        return {"begun": True}

    @router.get("/sessions/{id}/labels/{plane}/{t}")
    def labels(id: str, plane: Plane, t: int, side: Side = 0) -> Response:
        return Response(subsample(store.get(id).frame_labels(plane, t), side).tobytes(), media_type=BYTES)

    @router.get("/sessions/{id}/doubt/{plane}/{t}")
    def uncertainty(id: str, plane: Plane, t: int) -> Response:
        return Response(store.get(id).uncertainty(plane, t).tobytes(), media_type=BYTES)


def _results(router: APIRouter, store: SessionStore) -> None:
    @router.get("/sessions/{id}/solid/{what}")
    def solid(id: str, what: Literal["image.nii.gz", "labels.nii.gz"]) -> Response:
        session = store.get(id)
        if not isinstance(session.image, SessionVolume):
            raise NotFound("3D view of pictures")
        labels = session.current_labels() if what == "labels.nii.gz" else None
        return Response(encode_volume(session.image, labels), media_type=BYTES)

    @router.get("/sessions/{id}/prompts")
    def prompts(id: str) -> Response:
        session = store.get(id)
        data, name = prompt_file(_volume(session), session.history.state, session.folder)
        kind = "application/json" if name.endswith(".json") else "application/zip"
        return Response(data, media_type=kind, headers={"content-disposition": f'attachment; filename="{name}"'})

    @router.get("/sessions/{id}/options")
    def options(id: str, views: Views = "one") -> dict[str, str]:
        return {"text": _options(store.get(id), views, store.source(id).reading.options())}

    @router.get("/sessions/{id}/rows")
    def rows(id: str) -> list[dict[str, Any]]:
        return describe_rows(store.get(id))


def _options(session: Session, views: Views, reading: Sequence[str]) -> str:
    """A command that says what was said, after comments on what it does not say."""
    volume = _volume(session)
    with session.hold() as history:
        found = session.result() if history.state.tracked else None
    text = command_line(volume, history.state, views, session.image.window_name, reading)
    missing = not_said(history, found.voxels, found.rows, views) if found else ()
    return "".join(f"# {line}\n" for line in missing) + text


def _volume(session: Session) -> Volume:
    """Of which all that was said can be told."""
    if not isinstance(session.image, SessionVolume):
        raise InvalidRequest("a set of images has no file of prompts; download its label images")
    return session.image.volume


def _changes(router: APIRouter, store: SessionStore) -> None:
    @router.post("/sessions/{id}/say")
    def say(id: str, form: GestureForm) -> dict[str, Any]:
        state = change_session(store, id, lambda session: session.add_gesture(form.version, form.gesture()))
        return {**state, "notes": store.get(id).notes}

    @router.post("/sessions/{id}/undo")
    def undo(id: str, form: VersionedForm) -> dict[str, Any]:
        return change_session(store, id, lambda session: session.undo(form.version))

    @router.post("/sessions/{id}/redo")
    def redo(id: str, form: VersionedForm) -> dict[str, Any]:
        return change_session(store, id, lambda session: session.redo(form.version))

    @router.post("/sessions/{id}/track")
    def track(id: str, form: TrackForm) -> dict[str, Any]:
        return change_session(store, id, lambda session: session.track(form.version, form.views))

    @router.post("/sessions/{id}/cancel")
    def cancel(id: str, form: StopForm | None = None) -> dict[str, Any]:
        return change_session(store, id, lambda session: session.cancel(keep=form is not None and form.keep))


def _events(router: APIRouter, store: SessionStore) -> None:
    def opened(id: str) -> Session:
        return store.get(id)

    @router.get("/sessions/{id}/events", response_class=EventSourceResponse)
    async def events(session: Annotated[Session, Depends(opened)]) -> AsyncIterator[ServerSentEvent]:
        job, sent = session.job, 0
        while job is not None:
            for event in job.events[sent:]:
                sent += 1
                yield ServerSentEvent(data=vars(event), event=event.kind, id=str(sent))
                if event.last:
                    return
            await asyncio.sleep(PAUSE_S)
        yield ServerSentEvent(data={"message": ""}, event="idle")


# The address of the PACS is the server's setting; series go by numbers of our list, not by their names.
def _pacs(router: APIRouter, store: SessionStore) -> None:
    known = list[SeriesRecord]()

    def ask(do: str, **order: Any) -> Any:
        if not store.settings.pacs:
            raise NotFound("PACS: start with --pacs")
        return store.workers.run({"do": do, "address": store.settings.pacs, **order})

    @router.post("/pacs/series")
    def series(form: SeriesQuery) -> list[dict[str, Any]]:
        found = [SeriesRecord(**row) for row in ask("search", patient=form.patient)]
        first = len(known)
        known.extend(found)
        shown = ("modality", "description", "images", "date")
        return [{"number": first + i, **{name: getattr(one, name) for name in shown}} for i, one in enumerate(found)]

    @router.post("/pacs/open")
    def open_(form: SeriesChoice) -> dict[str, str]:
        if form.number >= len(known):
            raise NotFound("series")
        with store.creating() as id:
            store.fetch(id, known[form.number])
        return {"id": id}

    @router.post("/sessions/{id}/push")
    def push(id: str) -> dict[str, str]:
        session, study = store.get(id), store.source(id).study
        if not study:
            raise InvalidRequest("this session does not come from the PACS")
        with session.hold() as history:
            result = session.result()
        data = store.export(session, result.labels[0], "dcm", history.state)
        with NamedTemporaryFile(dir=session.folder, suffix=".dcm") as file:
            file.write(data)
            file.flush()
            ask("send", study=study, source=file.name)
        return {"message": "The segmentation was sent to the PACS."}


def _structures(router: APIRouter, store: SessionStore) -> None:
    @router.post("/sessions/{id}/structures")
    def add(id: str, form: StructureForm) -> dict[str, Any]:
        return change_session(store, id, lambda session: session.add_structure(form.version, form.name, form.colour))

    @router.post("/sessions/{id}/structures/{label}")
    def change(id: str, label: int, form: StructureForm) -> dict[str, Any]:
        said = form.name, form.colour, form.value, form.locked
        return change_session(store, id, lambda session: session.change_structure(form.version, label, *said))

    @router.post("/sessions/{id}/structures/{label}/remove")
    def remove(id: str, label: int, form: VersionedForm) -> dict[str, Any]:
        return change_session(store, id, lambda session: session.remove_structure(form.version, label))

    @router.get("/sessions/{id}/statistics")
    def statistics(id: str) -> list[dict[str, Any]]:
        return [asdict(row) for row in measure_session(store.get(id))]


def _edits(router: APIRouter, store: SessionStore) -> None:
    def edited(id: str, version: int, make: Maker) -> dict[str, Any]:
        session = store.get(id)
        notes = session.edit(version, make)
        return {**describe_state(session), "notes": notes}

    @router.post("/sessions/{id}/structures/{label}/move")
    def move(id: str, label: int, form: MoveForm) -> dict[str, Any]:
        return edited(id, form.version, lambda image, state, _: editing.move_structure(image, state, label, form.by))

    @router.post("/sessions/{id}/structures/{label}/merge")
    def merge(id: str, label: int, form: MergeForm) -> dict[str, Any]:
        return edited(id, form.version, lambda _, state, result: editing.merge_structures(state, result, label, form.into))

    @router.post("/sessions/{id}/structures/{label}/split")
    def split(id: str, label: int, form: VersionedForm) -> dict[str, Any]:
        return edited(id, form.version, lambda _, state, result: editing.split_structure(state, result, label))

    @router.post("/sessions/{id}/structures/{label}/finish")
    def finish(id: str, label: int, form: FinishForm) -> dict[str, Any]:
        steps = FinishingSteps(**form.model_dump(exclude={"version", "least_px"}))
        return edited(id, form.version, lambda *known: editing.finish_structure(known, label, steps, form.least_px))

    @router.post("/sessions/{id}/outlines")
    def outlines(id: str, form: FileForm) -> dict[str, Any]:
        found = read_outlines(store, store.get(id), form.upload)
        return edited(id, form.version, lambda _, state, result: editing.add_outlines(state, result, *found))


def _overlays(router: APIRouter, store: SessionStore) -> None:
    @router.post("/sessions/{id}/overlay")
    def lay(id: str, form: OverlayForm) -> dict[str, Any]:
        session = store.get(id)
        return {"overlay": lay_over(store, session, form.upload) if form.upload else remove_overlay(session)}

    @router.get("/sessions/{id}/overlay/{plane}/{t}")
    def frame(id: str, plane: Plane, t: int) -> Response:
        session = store.get(id)
        session.check_frame(plane, t)
        return _sent(encode_overlay(session, plane, t))

"""The routes of structures: put in order, merged, split, finished, measured, read from a file; a second image over them."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Response
from pydantic import Field

from medical_sam2.server import editing
from medical_sam2.server.description import change_session, describe_state
from medical_sam2.server.forms import BYTES, Plane, StrictForm, VersionedForm
from medical_sam2.server.overlay import encode_overlay, lay_over, read_outlines, remove_overlay
from medical_sam2.server.rendering import measure_session
from medical_sam2.server.segmentation import SessionResult, SessionVolume
from medical_sam2.server.session_store import SessionStore
from medical_sam2.server.state import MOST_NAME, State
from medical_sam2.tracking.finishing import FinishingSteps

Maker: TypeAlias = Callable[[SessionVolume, State, SessionResult], editing.StructureEdit]
Millimetres = Annotated[float, Field(ge=-100, le=100)]
Label = Annotated[int, Field(ge=1, le=255)]
Upload = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class StructureForm(VersionedForm):
    """A new structure, or another name, colour or number of one, or a lock."""

    name: Annotated[str, Field(max_length=MOST_NAME)] = ""
    colour: Annotated[str, Field(pattern=r"^(#[0-9a-f]{6})?$")] = ""
    value: Annotated[int, Field(ge=0, le=65_535)] = 0
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
    smooth_mm: Annotated[float, Field(ge=0, le=100)] = 0.0
    grow_mm: Millimetres = 0.0
    min_volume_ml: Annotated[float, Field(ge=0, le=100_000)] = 0.0


class FileForm(VersionedForm):
    """A file that was uploaded as a session of its own, which ends with it."""

    upload: Upload


class OverlayForm(StrictForm):
    """A second image, which was opened as a session of its own; none takes the one that is there away."""

    upload: Upload | None = None


def add(router: APIRouter, store: SessionStore) -> None:
    """Add the routes."""
    _structures(router, store)
    _edits(router, store)
    _overlays(router, store)


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
        return edited(id, form.version, lambda _, state, result: editing.move_structure(state, label, form.by))

    @router.post("/sessions/{id}/structures/{label}/merge")
    def merge(id: str, label: int, form: MergeForm) -> dict[str, Any]:
        return edited(id, form.version, lambda _, state, result: editing.merge_structures(state, result, label, form.into))

    @router.post("/sessions/{id}/structures/{label}/split")
    def split(id: str, label: int, form: VersionedForm) -> dict[str, Any]:
        return edited(id, form.version, lambda _, state, result: editing.split_structure(state, result, label))

    @router.post("/sessions/{id}/structures/{label}/finish")
    def finish(id: str, label: int, form: FinishForm) -> dict[str, Any]:
        steps = FinishingSteps(**form.model_dump(exclude={"version"}))
        return edited(id, form.version, lambda *known: editing.finish_structure(known, label, steps))

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
        encoded = encode_overlay(session, plane, t)
        return Response(encoded.data, media_type=BYTES, headers=encoded.headers)

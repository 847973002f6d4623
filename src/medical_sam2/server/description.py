"""A session as the page is told of it."""

from collections.abc import Callable
from typing import Any

from medical_sam2.server.overlay import describe_overlay
from medical_sam2.server.refusals import Refusal
from medical_sam2.server.rendering import download_forms
from medical_sam2.server.segmentation import SessionVolume
from medical_sam2.server.session import Session
from medical_sam2.server.session_store import SessionStore
from medical_sam2.server.state import Gesture, Structure


def list_session(store: SessionStore, id: str) -> dict[str, Any]:
    """A session as it is listed; one that is damaged says so, and can be removed."""
    try:
        return _summary(store.get(id))
    except Refusal as refusal:
        return {"id": id, "kind": "damaged", "planes": {}, "structures": [], "problem": refusal.problem}


def _summary(session: Session) -> dict[str, Any]:
    kind = "volume" if isinstance(session.image, SessionVolume) else "set"
    names = list(session.history.state.names.values())
    return {"id": session.id, "kind": kind, "planes": session.image.planes, "structures": names}


def describe_session(store: SessionStore, session: Session) -> dict[str, Any]:
    """All that the page needs to begin with."""
    image = session.image
    solid = image if isinstance(image, SessionVolume) else None
    planes = [
        {"name": name, "frames": frames, "size": image.frame_shape(name, 0), "spacing": image.spacing(name)}
        | ({"voxel": solid.voxel_matrix(name)} if solid else {})
        for name, frames in image.planes.items()
    ]
    return {
        **_summary(session),
        "planes": planes,
        "modality": solid.volume.modality if solid else None,
        "unit": "HU" if solid and solid.hounsfield else "",
        **({"affine": solid.volume.affine[:3].tolist()} if solid else {}),
        "window": (solid.window.low, solid.window.high) if solid else None,
        "hung_as": solid.window.source if solid else "",
        "seen_as": str(image.network_window(session.history.state.gestures)),
        "extent": (solid.extent.low, solid.extent.high) if solid else None,
        "dicom": (dicom := store.is_dicom(session.id)),
        "downloads": download_forms(image, store.settings.formats, dicom=dicom),
        "pacs": bool(store.settings.pacs and store.source(session.id).study),
        "warnings": store.warnings(session.id),
        "state": describe_state(session),
        "overlay": describe_overlay(session),
    }


def change_session(store: SessionStore, id: str, change: Callable[[Session], object]) -> dict[str, Any]:
    """A session as it stands after a change."""
    session = store.get(id)
    change(session)
    return describe_state(session)


# Names of fields are those of the first release: other programs read them.
def describe_state(session: Session) -> dict[str, Any]:
    """A session as it stands."""
    history, state, volumes = session.history, session.history.state, session.volumes_ml()
    fresh = {gesture.id for gesture in state.fresh}
    return {
        "version": history.version,
        "structures": [_structure(session, each, volumes.get(each.label)) for each in state.structures],
        "said": [_gesture(gesture, gesture.id in fresh) for gesture in state.gestures],
        "can_undo": history.can_undo,
        "can_redo": history.can_redo,
        "fresh": len(fresh),
        "tracked": state.tracked.number if state.tracked else 0,
        "busy": session.busy,
    }


def _structure(session: Session, structure: Structure, ml: float | None) -> dict[str, Any]:
    own = [gesture for gesture in session.history.state.gestures if gesture.label == structure.label]
    window = session.image.network_window(own)
    seen = {"window": (window.low, window.high), "seen_as": str(window)}
    number = structure.value or structure.label
    return {**vars(structure), "value": number, "ml": ml, "said": len(own), **seen}


def _gesture(gesture: Gesture, fresh: bool) -> dict[str, Any]:
    where = {"label": gesture.label, "plane": gesture.plane, "t": gesture.t, "kind": gesture.kind, "frames": gesture.frames}
    return {**where, "points": gesture.points_yx, "positive": gesture.positive, "width": gesture.width, "fresh": fresh}

"""What is laid beside a session's volume: an earlier segmentation in its grid, a second image over it, wherever that lies.

Both come as files of a session of their own, as any upload does, which then ends. Shapes: I J K voxels, H W a frame.
"""

import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medical_sam2.server.refusals import InvalidRequest, NotFound
from medical_sam2.server.rendering import Encoded
from medical_sam2.server.segmentation import SessionVolume
from medical_sam2.server.session import Session
from medical_sam2.server.session_store import SessionStore

FOLDER = "overlay"
NO_VOLUME = "only a volume has slices that another image can lie over"


def read_outlines(
    store: SessionStore, session: Session, upload: str
) -> tuple[NDArray[np.unsignedinteger], Mapping[int, str], Mapping[int, str]]:
    """Labels of a file in the session's grid, number → name, number → colour ("#rrggbb").

    Raises:
        Refusal: it is none, or lies on another grid.
    """
    try:
        with TemporaryDirectory(dir=session.folder) as folder:
            target = Path(folder) / "labels.npy"
            order = {"do": "outlines", "labels": str(store.source(upload).path), "target": str(target)}
            told = store.workers.run({**order, **store.source(session.id).order()})
            labels = np.load(target, allow_pickle=False)
    finally:
        store.remove(upload)
    names, colours = ({int(label): str(text) for label, text in told[key].items()} for key in ("names", "colours"))
    return labels, names, colours


def lay_over(store: SessionStore, session: Session, upload: str) -> dict[str, Any]:
    """Lay the image of another session over this one; returns what the page is told of it."""
    try:
        if not isinstance(session.image, SessionVolume) or not isinstance(store.get(upload).image, SessionVolume):
            raise InvalidRequest(NO_VOLUME)
        remove_overlay(session)
        (store.settings.state / upload / "decoded").rename(session.folder / FOLDER)
    finally:
        store.remove(upload)
    return describe_overlay(session) or {}


def remove_overlay(session: Session) -> None:
    """Take it away."""
    shutil.rmtree(session.folder / FOLDER, ignore_errors=True)


def describe_overlay(session: Session) -> dict[str, Any] | None:
    """What the page is told of the second image; None where there is none."""
    over = _overlay(session)
    if over is None:
        return None
    window, extent = over.window, over.extent
    units = "HU" if over.hounsfield else ""
    about = {"modality": over.volume.modality, "unit": units, "hung_as": window.source}
    return {**about, "window": (window.low, window.high), "extent": (extent.low, extent.high)}


def _overlay(session: Session) -> SessionVolume | None:
    folder = session.folder / FOLDER
    return _load(folder, folder.stat().st_mtime_ns) if folder.is_dir() else None


@lru_cache(maxsize=8)
def _load(folder: Path, _: int) -> SessionVolume | None:
    image = SessionStore.load_decoded(folder)
    return image if isinstance(image, SessionVolume) else None


# Frame by frame, in the second image's own resolution: a volume that was resampled to the first one's grid would lose it.
def encode_overlay(session: Session, plane: str, t: int) -> Encoded:
    """What of the second image lies on a frame, as 16-bit codes: 0 beyond it, from 1 on its whole range of intensities.

    Raises:
        NotFound: there is none.
    """
    over, image = _overlay(session), session.image
    if over is None or not isinstance(image, SessionVolume):
        raise NotFound("second image")
    values, inside = sample_frame(over, image, plane, t)
    codes = np.where(inside, 1 + np.rint(65_534 * over.extent.apply(values)), 0).astype("<u2")
    size = {"x-rows": str(codes.shape[0]), "x-columns": str(codes.shape[1]), "x-channels": "1"}
    headers = {**size, "x-low": repr(over.extent.low), "x-high": repr(over.extent.high)}
    return Encoded(codes.tobytes(), "application/octet-stream", headers)


def sample_frame(
    over: SessionVolume, image: SessionVolume, plane: str, t: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Intensities (H, W) of the second image at the pixels of a frame of the first, and where it has any, by both affines."""
    from scipy import ndimage  # takes a while to load

    rows, columns = np.indices(image.frame_shape(plane, t))
    places = np.stack([np.full(rows.shape, t), rows, columns, np.ones_like(rows)]).reshape(4, -1)
    voxels = np.vstack([np.array(image.voxel_matrix(plane)) @ places, np.ones(places.shape[1])])
    there = (np.linalg.solve(over.volume.affine, image.volume.affine @ voxels)[:3]).reshape(3, *rows.shape)
    ends = np.array(over.volume.shape).reshape(3, 1, 1) - 0.5
    inside = np.logical_and.reduce((there >= -0.5) & (there <= ends))
    found = ndimage.map_coordinates(over.volume.array, there, np.float32, order=1, mode="nearest", prefilter=False)
    return np.asarray(found, np.float32), inside

"""A session as the page is told of it and shows it: frames, the 3D view, files to download, and what is laid beside its volume.

An earlier segmentation, or a second image, comes as a session of its own, as any upload does, which then ends; the image is
laid over the first one wherever it lies. Shapes: I J K voxels, H W a frame.
"""

import gzip
import io
import shutil
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medical_sam2.intensity_window import Window
from medical_sam2.io import archive, registry
from medical_sam2.io.annotations import AnnotatedImage
from medical_sam2.server import InvalidRequest, NotFound, Refusal
from medical_sam2.server.editing import check_volume, renumber
from medical_sam2.server.segmentation import IMAGE, LabelMaps, SessionImage, SessionResult, SessionVolume
from medical_sam2.server.session import Session
from medical_sam2.server.session_store import SessionStore
from medical_sam2.server.state import Gesture, State, Structure
from medical_sam2.statistics import ObjectStatistics, measure, to_csv
from medical_sam2.tracking.confidence import ReviewSuggestion, suggest_reviews
from medical_sam2.volume import Segmentation, SliceConfidence

SOLID = 160  # voxels along each axis of the 3D view, at most
OVERLAY = "overlay"
DISAGREE = 0.25  # how undecided the voxels of a structure are on a slice, of 1, from which views disagree there
NO_VOLUME = "only a volume has slices that another image can lie over"


@dataclass(frozen=True)
class Encoded:
    """Bytes that are sent."""

    data: bytes  # itself
    kind: str  # media type
    headers: dict[str, str]  # sent with it


def encode_frame(frame: NDArray[np.generic], window: Window, side: int, shown: Window | None = None) -> Encoded:
    """A frame (H, W) as rows of 16-bit codes from `window.low` to `window.high`, or (H, W, 3) as red, green, blue bytes.

    Whole numbers of up to 16 bits can be told from their codes exactly.

    Args:
        frame: intensities or colours.
        window: the range of all intensities, which the page narrows.
        side: longest side that is wanted; rows and columns are left out for it. 0 for all.
        shown: intensities that an image is shown with, and colours are told in: what the network sees.
    """
    shown = shown or window
    frame = subsample(frame, side)
    coloured = frame.ndim == 3
    codes = np.ascontiguousarray(shown.as_bytes(frame)) if coloured else np.rint(65_535 * window.apply(frame)).astype("<u2")
    size = {"x-rows": str(frame.shape[0]), "x-columns": str(frame.shape[1]), "x-channels": "3" if coloured else "1"}
    headers = {**size, "x-low": repr(window.low), "x-high": repr(window.high), "x-whole": str(int(frame.dtype.kind in "iu"))}
    headers |= {"x-black": repr(shown.low), "x-white": repr(shown.high), "x-seen-as": str(shown)}
    return Encoded(codes.tobytes(), "application/octet-stream", headers)


def subsample(frame: NDArray[np.generic], side: int) -> NDArray[np.generic]:
    """Every so many rows and columns, so that none is longer than `side`."""
    step = max(1, -(-max(frame.shape[:2]) // side)) if side else 1
    return frame[::step, ::step]


def encode_volume(image: SessionVolume, labels: LabelMaps | None) -> bytes:
    """The volume, or its labels, thinned, as NIfTI: in the file's own order with its own directions, so nothing is mirrored."""
    import nibabel as nib  # slow to load, and the page is there before it is needed

    volume = image.volume
    steps = [max(1, -(-size // SOLID)) for size in volume.shape]
    cut = tuple(slice(None, None, step) for step in steps)
    affine = volume.affine @ np.diag([*steps, 1.0])
    small = np.ascontiguousarray(labels[0][cut]) if labels is not None else image.window.as_bytes(volume.array[cut])
    return gzip.compress(nib.Nifti1Image(small, affine).to_bytes(), 1, mtime=0)  # type: ignore[no-untyped-call]


def download_forms(image: SessionImage, plugins: Sequence[str], *, dicom: bool, missing: Container[str] = ()) -> dict[str, str]:
    """Form → name of what `encode_download` makes, for the page's menu: the usual suffix of every format that can be written.

    Args:
        image: a volume or a set.
        plugins: exporters that the server was started with.
        dicom: whether the source is DICOM, to which alone a DICOM-SEG or an RTSTRUCT can refer.
        missing: names of formats that this source cannot have all the same.
    """
    if not isinstance(image, SessionVolume):
        return {"zip": "Label images", **{form: format.name for form, format in _annotation_forms(plugins).items()}}
    formats = [each for each in registry.formats(plugins) if each.written_here and (dicom or each not in registry.OF_A_SERIES)]
    formats = [each for each in formats if not each.one_object and each.name not in missing]
    return {**{each.written[0].removeprefix("."): each.name for each in formats}, "csv": "Volumes (CSV)"}


def encode_download(store: SessionStore, session: Session, form: str) -> Encoded:
    """The result that stands, as a file without a name: the page knows how the source is called, the server does not.

    Args:
        store: knows the source.
        session: that was tracked.
        form: "nii.gz", "nii", "nrrd", "mha", "dcm", "rtstruct.dcm", "csv"; for a set "zip", "coco.json",
            "geojson.zip", "labelstudio.json".

    Raises:
        Refusal: nothing was tracked, or no such form of it.
    """
    image = session.image
    with session.hold() as history:
        result, state = session.result(), history.state
    if not isinstance(image, SessionVolume):
        labels = tuple(renumber(array, state.numbers) for array in result.labels)
        files = _file_names(store.file_numbers(session.id), len(labels))
        return _encode_set(dict(zip(files, labels, strict=True)), form, state.numbered_names, store.settings.formats)
    if form == "csv":
        return _attachment(to_csv(measure_session(session)).encode(), "text/csv; charset=utf-8")
    plugins = store.settings.formats
    if f".{form}" not in (written := registry.written(plugins=plugins)):
        choices = ", ".join(suffix[1:] for suffix in written)
        raise Refusal(HTTPStatus.NOT_FOUND, f"there is no form {form!r}; choose {choices} or csv")
    kind = "application/gzip" if form.endswith(".gz") else registry.writer_of(Path(f"labels.{form}"), plugins).media_type
    return _attachment(store.export(session, result.labels[0], form, state), kind)


def measure_session(session: Session) -> tuple[ObjectStatistics, ...]:
    """Volume, place and intensity of each structure of the result that stands, by its number in files."""
    image = session.image
    if not isinstance(image, SessionVolume):
        raise InvalidRequest("images of a set have no volumes; download the label images")
    with session.hold() as history:
        result, state = session.result(), history.state
    labels = renumber(result.labels[0], state.numbers)
    return measure(image.volume, Segmentation(labels, image.volume.affine, state.numbered_names))


def _attachment(data: bytes, kind: str) -> Encoded:
    return Encoded(data, kind, {"content-disposition": "attachment"})


def _annotation_forms(plugins: Sequence[str]) -> dict[str, registry.Format]:
    """Form → format, of annotations of a set; a zip where each image has a file."""
    found = [format for format in registry.formats(plugins) if format.annotator]
    return {format.annotated.removeprefix(".") + ".zip" * format.of_each_image: format for format in found}


# No name of a file leaves the session: its number is that in the order in which they were chosen, unreadable ones counted.
def _file_names(numbers: Sequence[int], count: int) -> list[str]:
    """What the images of a set are called in files, by the numbers of their own; pages of one of several are told apart."""
    numbers = numbers if len(set(numbers)) > 1 else range(1, count + 1)
    pages = Counter[int]()
    several = {number for number, count in Counter(numbers).items() if count > 1}
    found = []
    for number in numbers:
        pages[number] += 1
        found.append(f"{number:05d}" + f"-{pages[number]:03d}" * (number in several))
    return found


def _encode_set(
    labels: Mapping[str, NDArray[np.unsignedinteger]], form: str, names: Mapping[int, str], plugins: Sequence[str]
) -> Encoded:
    if form == "zip":
        files = ((f"{name}.png", _as_png(array)) for name, array in labels.items())
        return _attachment(archive.pack(files), "application/zip")
    format = _annotation_forms(plugins).get(form)
    if format is None:
        choices = ", ".join(["zip", *_annotation_forms(plugins)])
        raise InvalidRequest(f"sets of images are downloaded as {choices}")
    images = [AnnotatedImage(number, f"{name}.png", array) for number, (name, array) in enumerate(labels.items(), 1)]
    if not format.of_each_image:
        return _attachment(format.annotate(images, names), format.media_type)
    files = ((Path(image.source).stem + format.annotated, format.annotate([image], names)) for image in images)
    return _attachment(archive.pack(files), "application/zip")


def _as_png(array: NDArray[np.unsignedinteger]) -> bytes:
    picture = io.BytesIO()
    Image.fromarray(array).save(picture, "PNG")
    return picture.getvalue()


def read_outlines(
    store: SessionStore, session: Session, upload: str
) -> tuple[NDArray[np.unsignedinteger], Mapping[int, str], Mapping[int, str]]:
    """Labels of a file in the session's grid, number → name, number → colour ("#rrggbb").

    Raises:
        Refusal: it is none, or lies on another grid; or the session is of a set.
    """
    if not store.uploads.is_waiting(upload):
        raise NotFound("upload")
    try:
        check_volume(session.image, "an earlier segmentation is loaded into a volume; in a set, outline one image by hand")
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
    other = store.get(upload)
    if other is session or other.history.version:
        raise InvalidRequest("a session in which something was done is no second image; upload the image again")
    try:
        if not isinstance(session.image, SessionVolume) or not isinstance(other.image, SessionVolume):
            raise InvalidRequest(NO_VOLUME)
        remove_overlay(session)
        (store.settings.state / upload / "decoded").rename(session.folder / OVERLAY)
    finally:
        store.remove(upload)
    return describe_overlay(session) or {}


def remove_overlay(session: Session) -> None:
    """Take it away."""
    shutil.rmtree(session.folder / OVERLAY, ignore_errors=True)


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
    folder = session.folder / OVERLAY
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


def list_session(store: SessionStore, id: str) -> dict[str, Any]:
    """A session as it is listed; one that is damaged says so, and can be removed."""
    try:
        session = store.get(id)
        history = session.history
        return {**_summary(session), "changed": history.changed if history.version else store.opened_at(id)}
    except Refusal as refusal:
        return {"id": id, "kind": "damaged", "planes": {}, "shape": (), "structures": [], "problem": refusal.problem}


def _summary(session: Session) -> dict[str, Any]:
    kind = "volume" if isinstance(session.image, SessionVolume) else "set"
    names = list(session.history.state.names.values())
    shape = session.image.volume.shape if isinstance(session.image, SessionVolume) else ()
    return {"id": session.id, "kind": kind, "planes": session.image.planes, "shape": shape, "structures": names}


def describe_session(store: SessionStore, session: Session) -> dict[str, Any]:
    """All that the page needs to begin with."""
    image, missing, dicom = session.image, store.missing_forms(session.id), store.is_dicom(session.id)
    solid = image if isinstance(image, SessionVolume) else None
    reading = store.source(session.id).reading
    picked = {"series": reading.series if isinstance(reading.series, int) else None, "frame": reading.frame}
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
        "dicom": dicom,
        "downloads": download_forms(image, store.settings.formats, dicom=dicom, missing=missing),
        "missing": missing,
        "pacs": bool(store.settings.pacs and store.source(session.id).study and "DICOM-SEG" not in missing),
        "files": store.file_numbers(session.id),
        "names": store.file_names(session.id),
        "picked": {key: value for key, value in picked.items() if value is not None},
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
    with session.hold() as history:
        state, busy, volumes, images = history.state, session.busy, session.volumes_ml(), session.images_with()
        warnings = session.result().warnings if state.tracked else ()
    fresh = {gesture.id for gesture in state.fresh}
    return {
        "version": history.version,
        "structures": [
            _structure(session.image, state, each, volumes.get(each.label)) | {"images": images.get(each.label)}
            for each in state.structures
        ],
        "said": [_gesture(gesture, gesture.id in fresh) for gesture in state.gestures],
        "can_undo": history.can_undo,
        "can_redo": history.can_redo,
        "fresh": len(fresh),
        "tracked": state.tracked.number if state.tracked else 0,
        "busy": busy,
        "warnings": state.still_told(warnings),
    }


def _structure(image: SessionImage, state: State, structure: Structure, ml: float | None) -> dict[str, Any]:
    own = [gesture for gesture in state.gestures if gesture.label == structure.label]
    window = image.network_window(own)
    seen = {"window": (window.low, window.high), "seen_as": str(window)}
    number = structure.value or structure.label
    return {**vars(structure), "value": number, "ml": ml, "said": len(own), **seen}


def describe_rows(session: Session) -> list[dict[str, Any]]:
    """Each tracked slice, how sure the network is of it, and where a look is worth most; nothing before tracking."""
    with session.hold() as history:
        if history.state.tracked is None:
            return []
        result = session.result()
    advice = {
        each.row.key: (rank, each) for rank, each in enumerate(suggest_session_reviews(session.image, history.state, result))
    }
    return [
        {
            "label": row.object,
            "plane": row.view,
            "t": row.slice,
            "sure": round(row.confidence, 4),
            "area": row.area_px,
            "said": row.prompted,
            "look": row.look_here,
            **_advised(*advice.get(row.key, (0, None))),
        }
        for row in result.rows
    ]


def _advised(rank: int, advice: ReviewSuggestion | None) -> dict[str, Any]:
    return {"rank": rank, "gain": advice.gain_px, "why": advice.reason} if advice else {}


def suggest_session_reviews(image: SessionImage, state: State, result: SessionResult) -> list[ReviewSuggestion]:
    """Where a look at a result is worth most."""
    sizes = {plane: int(np.prod(image.frame_shape(plane, 0))) for plane in image.planes}
    drawn = {each.label for each in state.gestures if each.kind in ("box", "mask", "lasso", "diameter") and each.inside}
    in_volume = partial(views_disagree, result, image) if isinstance(image, SessionVolume) else None
    return suggest_reviews(result.rows, sizes, drawn, in_volume)


def views_disagree(result: SessionResult, image: SessionVolume, row: SliceConfidence) -> bool:
    """Whether several views were tracked, and what they make of a slice together is undecided."""
    if len({each.view for each in result.rows if each.object == row.object} - {IMAGE}) < 2 or result.uncertainty is None:
        return False
    inside = image.frame_labels(result.labels, row.view, row.slice) == row.object
    doubt = image.frame_labels(result.uncertainty, row.view, row.slice)[inside]
    return bool(doubt.size) and float(np.mean(doubt)) / 255 > DISAGREE


def _gesture(gesture: Gesture, fresh: bool) -> dict[str, Any]:
    where = {"label": gesture.label, "plane": gesture.plane, "t": gesture.t, "kind": gesture.kind, "frames": gesture.frames}
    return {**where, "points": gesture.points_yx, "positive": gesture.positive, "width": gesture.width, "fresh": fresh}

"""A session as bytes: frames for the page, the whole for the 3D view, files to download. Shapes: H W a frame."""

import gzip
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medical_sam2.intensity_window import Window
from medical_sam2.io import registry
from medical_sam2.io.annotations import AnnotatedImage
from medical_sam2.server.editing import renumber
from medical_sam2.server.refusals import InvalidRequest, Refusal
from medical_sam2.server.segmentation import LabelMaps, SessionImage, SessionVolume
from medical_sam2.server.session import Session
from medical_sam2.server.session_store import SessionStore
from medical_sam2.volume import Segmentation

if TYPE_CHECKING:
    from medical_sam2.statistics import ObjectStatistics

NumberedMaps: TypeAlias = tuple[NDArray[np.unsignedinteger], ...]
SOLID = 160  # voxels along each axis of the 3D view, at most


@dataclass(frozen=True)
class Encoded:
    """Bytes that are sent."""

    data: bytes  # itself
    kind: str  # media type
    headers: dict[str, str]  # sent with it


def encode_frame(frame: NDArray[np.generic], window: Window, side: int) -> Encoded:
    """A frame (H, W) as rows of 16-bit codes from `window.low` to `window.high`, or (H, W, 3) as red, green, blue bytes.

    Args:
        frame: intensities or colours.
        window: of a volume the range of all its intensities, which the page narrows; of an image what the network sees.
        side: longest side that is wanted; rows and columns are left out for it. 0 for all.
    """
    frame = subsample(frame, side)
    coloured = frame.ndim == 3
    codes = np.ascontiguousarray(window.as_bytes(frame)) if coloured else np.rint(65_535 * window.apply(frame)).astype("<u2")
    size = {"x-rows": str(frame.shape[0]), "x-columns": str(frame.shape[1]), "x-channels": "3" if coloured else "1"}
    headers = {**size, "x-low": repr(window.low), "x-high": repr(window.high)}
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


def download_forms(image: SessionImage, plugins: Sequence[str], *, dicom: bool) -> dict[str, str]:
    """Form → name of what `encode_download` makes, for the page's menu: the usual suffix of every format that can be written.

    Args:
        image: a volume or a set.
        plugins: exporters that the server was started with.
        dicom: whether the source is DICOM, to which alone a DICOM-SEG or an RTSTRUCT can refer.
    """
    if not isinstance(image, SessionVolume):
        return {"zip": "Label images", **{form: format.name for form, format in _annotation_forms(plugins).items()}}
    formats = [each for each in registry.formats(plugins) if each.written_here and (dicom or each not in registry.OF_A_SERIES)]
    formats = [each for each in formats if not each.one_object]
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
    result, image, state = session.result(), session.image, session.history.state
    if not isinstance(image, SessionVolume):
        labels = tuple(renumber(array, state.numbers) for array in result.labels)
        return _encode_set(labels, form, state.numbered_names, store.settings.formats)
    if form == "csv":
        return _attachment(load_statistics().to_csv(measure_session(session)).encode(), "text/csv; charset=utf-8")
    plugins = store.settings.formats
    if f".{form}" not in (written := registry.written(plugins=plugins)):
        choices = ", ".join(suffix[1:] for suffix in written)
        raise Refusal(HTTPStatus.NOT_FOUND, f"there is no form {form!r}; choose {choices} or csv")
    kind = "application/gzip" if form.endswith(".gz") else registry.writer_of(Path(f"labels.{form}"), plugins).media_type
    return _attachment(store.export(session, result.labels[0], form, state.names), kind)


def load_statistics() -> ModuleType:
    """medical_sam2.statistics, loaded when it is used: SciPy takes a while, and the page opens before."""
    from medical_sam2 import statistics

    return statistics


def measure_session(session: Session) -> "tuple[ObjectStatistics, ...]":
    """Volume, place and intensity of each structure of the result that stands, by its number in files."""
    image, state = session.image, session.history.state
    if not isinstance(image, SessionVolume):
        raise InvalidRequest("images of a set have no volumes; download the label images")
    labels = renumber(session.result().labels[0], state.numbers)
    rows = load_statistics().measure(image.volume, Segmentation(labels, image.volume.affine, state.numbered_names))
    return cast("tuple[ObjectStatistics, ...]", rows)


def _attachment(data: bytes, kind: str) -> Encoded:
    return Encoded(data, kind, {"content-disposition": "attachment"})


def _annotation_forms(plugins: Sequence[str]) -> dict[str, registry.Format]:
    """Form → format, of annotations of a set; a zip where each image has a file."""
    found = [format for format in registry.formats(plugins) if format.annotator]
    return {format.annotated.removeprefix(".") + ".zip" * format.of_each_image: format for format in found}


# Images are called by their numbers, as in the zip of label images: no name of a file leaves the session.
def _encode_set(labels: NumberedMaps, form: str, names: Mapping[int, str], plugins: Sequence[str]) -> Encoded:
    if form == "zip":
        return _attachment(_zip(labels), "application/zip")
    format = _annotation_forms(plugins).get(form)
    if format is None:
        choices = ", ".join(["zip", *_annotation_forms(plugins)])
        raise InvalidRequest(f"sets of images are downloaded as {choices}")
    images = (AnnotatedImage(number, f"{number:05d}.png", array) for number, array in enumerate(labels, 1))
    if not format.of_each_image:
        return _attachment(format.annotate(images, names), format.media_type)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for image in images:
            archive.writestr(zipfile.ZipInfo(f"{image.number:05d}{format.annotated}"), format.annotate([image], names))
    return _attachment(file.getvalue(), "application/zip")


def _zip(labels: NumberedMaps) -> bytes:
    """Label images, numbered as the images are."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for number, array in enumerate(labels, 1):
            picture = io.BytesIO()
            Image.fromarray(array).save(picture, "PNG")
            archive.writestr(zipfile.ZipInfo(f"{number:05d}.png"), picture.getvalue())
    return file.getvalue()

"""What is taken away: label maps in the grid of their own source, as the engine itself would write them."""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from medical_sam2.server import child
from medical_sam2.server.refusals import Refusal
from medical_sam2.server.session import Session
from medical_sam2.server.store import Store
from medical_sam2.server.volumes import VolumeSubject
from medical_sam2.volume import Segmentation

TYPES = {
    "nii.gz": "application/gzip",
    "nii": "application/octet-stream",
    "nrrd": "application/octet-stream",
    "mha": "application/octet-stream",
    "dcm": "application/dicom",
}


@dataclass(frozen=True)
class Download:
    """A file for the user.

    Args:
        name: of it; nothing of the source's.
        kind: media type.
        data: its bytes.
    """

    name: str
    kind: str
    data: bytes


def download(store: Store, session: Session, form: str) -> Download:
    """The result that stands.

    Args:
        store: knows the source.
        session: that was tracked.
        form: "nii.gz", "nii", "nrrd", "mha", "dcm", "csv"; for a set "zip".

    Raises:
        Refusal: nothing was tracked, or no such form of it.
    """
    found = session.found()
    subject = session.subject
    if not isinstance(subject, VolumeSubject):
        if form != "zip":
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "sets of images are downloaded as a zip of label images")
        return Download("labels.zip", "application/zip", _zip(list(found.canvas)))
    if form == "csv":
        from medical_sam2.statistics import measure, to_csv  # loads SciPy

        segmentation = Segmentation(found.canvas[0], subject.volume.affine, session.history.state.names)
        return Download("volumes.csv", "text/csv; charset=utf-8", to_csv(measure(subject.volume, segmentation)).encode())
    names = session.history.state.names
    if form not in TYPES:
        raise Refusal(HTTPStatus.NOT_FOUND, f"there is no form {form!r}; choose {', '.join(TYPES)} or csv")
    return Download(f"labels.{form}", TYPES[form], written(store, session, found.canvas[0], form, names))


def written(store: Store, session: Session, labels: np.ndarray, form: str, names: Mapping[int, str]) -> bytes:
    """Labels as a file of this form, beside the session's own source."""
    origin = store.origin(session.id)
    with TemporaryDirectory(dir=session.folder) as folder:
        target = Path(folder) / f"labels.{form}"
        child.export(origin.path, labels, names, target, origin.reading, store.children, within=origin.within)
        return target.read_bytes()


def _zip(labels: list[np.ndarray]) -> bytes:
    """Label images, numbered as the images are."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for number, array in enumerate(labels, 1):
            picture = io.BytesIO()
            Image.fromarray(array).save(picture, "PNG")
            archive.writestr(zipfile.ZipInfo(f"{number:05d}.png"), picture.getvalue())
    return packed.getvalue()

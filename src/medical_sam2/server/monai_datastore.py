"""MONAI Label's routes about its datastore, active learning and training: images out and in, labels in and out.

Nothing is removed here, and no file is named by where it lies on the server. There is no training: who asks for its state or
its end hears that there is none, as from MONAI Label; who asks for it to begin is refused, since 200 would be shown as begun.
"""

import hashlib
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, File, Form, Query, Response, UploadFile
from fastapi.responses import FileResponse

from medical_sam2 import io
from medical_sam2.io.labels import fit
from medical_sam2.server.active_learning import ActiveLearning
from medical_sam2.server.datastore import FINAL, SENT_AS, Datastore, DatastoreImage, known_suffix
from medical_sam2.server.library_sessions import LibrarySessions
from medical_sam2.server.monai_forms import read_segments
from medical_sam2.server.received import opened
from medical_sam2.server.refusals import Conflict, InvalidRequest, Refusal
from medical_sam2.server.segmentation import SessionVolume
from medical_sam2.server.session import Session
from medical_sam2.volume import Volume

Name = Annotated[str, Query(max_length=256)]
Tag = Annotated[str, Query(max_length=32)]
Params = Annotated[str, Form(max_length=1_000_000)]
NO_SUFFIX = "the name of the file has no suffix that tells what it is; send NIfTI, NRRD or MetaImage"


class Output(StrEnum):
    """What is told of the datastore."""

    stats = "stats"  # numbers
    all = "all"  # every image, with its labels
    train = "train"  # pairs of an image and its final labels


def add_routes(router: APIRouter, learning: ActiveLearning) -> None:
    """Those of the datastore, of active learning, and of training."""
    _learning(router, learning)
    _training(router)
    _about(router, learning.library.datastore)
    _images(router, learning.library)
    _labels(router, learning.library)


def _learning(router: APIRouter, learning: ActiveLearning) -> None:
    @router.post("/activelearning/{strategy}")
    def next_sample(strategy: str) -> dict[str, Any]:
        if (found := learning.choose(strategy)) is None:
            return {}
        facts = _image_info(found.image)
        return {"id": found.image.id, **facts, "weight": round(found.weight, 6), "reason": found.reason}


def _training(router: APIRouter) -> None:
    @router.get("/train/")
    def status() -> Response:
        raise Refusal(HTTPStatus.NOT_FOUND, "nothing is trained here")

    @router.delete("/train/")
    def stop() -> None:
        return None

    @router.post("/train/")
    @router.post("/train/{model}")
    def start() -> Response:
        raise Refusal(HTTPStatus.NOT_FOUND, "nothing is trained here; use `medsam2 finetune`")


def _about(router: APIRouter, datastore: Datastore) -> None:
    @router.get("/datastore/")
    @router.get("/datastore")
    def about(output: Output = Output.stats) -> Any:
        if output == Output.stats:
            return count(datastore)
        return _all(datastore) if output == Output.all else _pairs(datastore)

    @router.get("/datastore/image/info")
    def image_info(image: Name) -> dict[str, Any]:
        return _image_info(datastore.get(image))

    @router.get("/datastore/label/info")
    def label_info(label: Name, tag: Tag = FINAL) -> Any:
        return datastore.label(label, tag).info


def count(datastore: Datastore) -> dict[str, Any]:
    """How many images there are, how many of them are labelled, and how many of them have labels of each tag."""
    images, labels = datastore.images(), datastore.labels()
    tags = [tag for id in images for tag in labels.get(id, {})]
    return {"total": len(images), "completed": tags.count(FINAL), "label_tags": {tag: tags.count(tag) for tag in set(tags)}}


def _all(datastore: Datastore) -> dict[str, Any]:
    labels = datastore.labels()
    objects = {
        image.id: {
            "image": {"ext": image.suffix, "info": {"name": image.name}},
            "labels": {
                tag: {"ext": versions[-1].suffix, "info": {**versions[-1].info, "version": versions[-1].version}}
                for tag, versions in labels.get(image.id, {}).items()
            },
        }
        for image in datastore.images().values()
    }
    return {"name": "library", "description": "", "images_dir": ".", "labels_dir": "labels", "objects": objects}


def _pairs(datastore: Datastore) -> list[dict[str, str]]:
    """Paths within the library."""
    labels = datastore.labels()
    return [
        {"image": image.entry.name, "label": f"labels/{FINAL}/{labels[image.id][FINAL][-1].path.name}"}
        for image in datastore.images().values()
        if FINAL in labels.get(image.id, {})
    ]


# A viewer keeps what it has downloaded by its name, and takes it for the same image unless a checksum says otherwise.
def _image_info(image: DatastoreImage) -> dict[str, Any]:
    facts = {"path": "", "name": image.name}
    if not image.entry.path.is_file():
        return facts
    with image.entry.path.open("rb") as stream:
        return {**facts, "checksum": f"SHA256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"}


def _images(router: APIRouter, library: LibrarySessions) -> None:
    @router.api_route("/datastore/image", methods=["GET", "HEAD"])
    def download(image: Name) -> Response:
        found = library.datastore.get(image)
        if found.entry.path.is_file():
            return FileResponse(found.entry.path, media_type="application/octet-stream", filename=found.name)
        return _as_nifti(library.open_image(found), found.name)

    @router.put("/datastore/")
    @router.put("/datastore/image")
    def upload(file: Annotated[UploadFile, File()], image: Name = "") -> dict[str, str]:
        suffix = known_suffix(file.filename or "")
        if not suffix:
            raise InvalidRequest(NO_SUFFIX)
        id = image or Path(file.filename or "").name.removesuffix(suffix)
        with opened(library.store, file) as session:
            volume = _volume(session)
            try:
                kept = library.datastore.add_image(id, _only_file(session), suffix)
            except Conflict:
                if not _is_same(library, id, volume):
                    raise
                kept = library.datastore.get(id)
        return {"image": kept.id}


def _as_nifti(session: Session, name: str) -> Response:
    volume = _volume(session)
    with TemporaryDirectory(dir=session.folder) as folder:
        file = Path(folder) / f"image{SENT_AS}"
        io.save(np.asarray(volume.array), file, volume)
        data = file.read_bytes()
    quoted = "".join(letter if letter.isascii() and letter.isprintable() and letter not in '"\\' else "_" for letter in name)
    return Response(
        data, media_type="application/octet-stream", headers={"content-disposition": f'attachment; filename="{quoted}"'}
    )


def _volume(session: Session) -> Volume:
    if not isinstance(session.image, SessionVolume):
        raise InvalidRequest("these are pictures, not a volume")
    return session.image.volume


def _only_file(session: Session) -> Path:
    (file,) = (session.folder / "source").iterdir()
    return file


def _is_same(library: LibrarySessions, id: str, volume: Volume) -> bool:
    """Whether the image of that name has these voxels in these places: who sends it again has lost nothing."""
    known = library.open_image(library.datastore.get(id)).image
    if not isinstance(known, SessionVolume) or known.volume.shape != volume.shape:
        return False
    return np.array_equal(known.volume.array, volume.array) and np.allclose(known.volume.affine, volume.affine)


def _labels(router: APIRouter, library: LibrarySessions) -> None:
    @router.put("/datastore/label")
    def save(image: Name, label: Annotated[UploadFile, File()], params: Params = "{}", tag: Tag = FINAL) -> dict[str, Any]:
        found, suffix = library.datastore.get(image), known_suffix(label.filename or "")
        if not suffix:
            raise InvalidRequest(NO_SUFFIX)
        info = {"label_info": [{"name": each.name, "idx": each.number} for each in read_segments(params)]}
        with opened(library.store, label) as session:
            fit(_volume(session), _volume(library.open_image(found)))
            kept = library.datastore.save_label(found, tag or FINAL, _only_file(session), suffix, info)
        return {"image": found.id, "label": found.id, "version": kept.version}

    @router.api_route("/datastore/label", methods=["GET", "HEAD"])
    def download(label: Name, tag: Tag = FINAL) -> Response:
        found = library.datastore.label(label, tag)
        return FileResponse(found.path, media_type="application/octet-stream", filename=found.path.name)

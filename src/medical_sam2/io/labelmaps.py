"""Label maps of single images: PNG of 8 or 16 bits, which every program reads."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medical_sam2.errors import FormatError, MedicalSam2Error
from medical_sam2.io import atomic
from medical_sam2.io.files import guarded, open_regular
from medical_sam2.io.folder import as_picture
from medical_sam2.io.labels import integers
from medical_sam2.io.recognise import recognise

WHITE = 255
MOST = 65_535


def read_label_map(path: Path) -> NDArray[np.unsignedinteger]:
    """Labels (H, W) of one image: a picture without loss, or a NIfTI, NRRD or DICOM file of one slice.

    A picture of black and white (0 and 255) is object 1; a palette counts by its numbers, not its colours.

    Raises:
        FormatError: values that are no labels, or colours.
        GeometryError: a volume.
    """
    from medical_sam2 import io as images

    try:
        if recognise(path) == "picture":
            _refuse_loss(path)
            array = _numbers(path) if _has_palette(path) else as_picture(images.read(path), path).array
        else:
            array = as_picture(images.read(path), path).array
    except MedicalSam2Error as error:
        raise error.about(path) from None
    if array.ndim == 3:
        if not (array == array[..., :1]).all():
            raise FormatError("this mask is coloured", "save it in grey, one number for each object", subject=path)
        array = array[..., 0]
    labels = integers(array, path)
    if set(np.unique(labels).tolist()) <= {0, WHITE}:
        labels = (labels != 0).astype(np.uint8)
    return labels


def save_label_map(labels: NDArray[np.unsignedinteger], path: Path) -> None:
    """Write labels as a PNG, of 16 bits where a label is larger than 255; whole or not at all.

    Raises:
        FormatError: a label beyond 65535.
        InputError, ResourceError: it cannot be written.
    """
    if labels.max(initial=0) > MOST:
        raise FormatError(f"label {labels.max()} does not fit into a PNG", f"number objects from 1 to {MOST}", subject=path)
    stream = io.BytesIO()
    deep = labels.dtype.itemsize > 1 and labels.max(initial=0) > WHITE
    Image.fromarray(labels.astype(np.uint16 if deep else np.uint8)).save(stream, "PNG", compress_level=atomic.EFFORT)
    atomic.write_bytes(path, stream.getvalue())


def _refuse_loss(path: Path) -> None:
    with open_regular(path) as stream:
        if stream.read(3) == b"\xff\xd8\xff":
            raise FormatError("JPEG blurs the numbers of a mask", "save it as PNG", subject=path)


def _has_palette(path: Path) -> bool:
    with open_regular(path) as stream:
        head = stream.read(26)
    return head.startswith(b"\x89PNG") and head[25:26] == b"\x03"


def _numbers(path: Path) -> NDArray[np.uint8]:
    from medical_sam2 import io as images

    images.read(path)  # which refuses what is damaged or too large
    with guarded(path), Image.open(path, formats=("PNG",)) as image:
        return np.array(image)

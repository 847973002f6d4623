"""Label maps of single images: read from whatever holds numbers, written as PNG of 8 or 16 bits, which every program reads."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medical_sam2.errors import FormatError, MedicalSam2Error
from medical_sam2.io import atomic, values
from medical_sam2.io.files import open_regular
from medical_sam2.io.folder import as_picture
from medical_sam2.io.outlines import MOST_OBJECTS, WHITE
from medical_sam2.io.registry import JPEG

WIDE = 255


def read_label_map(path: Path, page: int | None = None) -> NDArray[np.generic]:
    """The number of each pixel (H, W) of one image: a picture, or a NIfTI, NRRD or DICOM file of one slice.

    A palette counts by its numbers, not its colours; what is transparent holds 0, and what is opaque and of one colour is
    drawn, whatever that colour is.

    Args:
        path: the file.
        page: page or time point of it, from 0.

    Raises:
        FormatError: colours, or transparency that says something else than the numbers do.
        GeometryError: a volume.
        AmbiguousError: several pages, and none was named.
    """
    from medical_sam2 import io as images

    try:
        picture = as_picture(images.read_numbers(path, page), path)
        numbers = values.one_channel(picture.array) if picture.colour else picture.array
        return numbers if picture.alpha is None else _visible(numbers, picture.alpha)
    except MedicalSam2Error as error:
        raise error.about(path) from None


def is_lossy(path: Path) -> bool:
    """Whether its compression changed numbers."""
    with open_regular(path) as stream:
        return JPEG.matches(stream.read(3))


def _visible(numbers: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """What a mask with transparency shows: its numbers where it is opaque, or how opaque it is where it has one number only."""
    if alpha.min() == alpha.max():
        return numbers  # equally opaque everywhere, or a channel that nobody filled
    opaque = alpha > 0
    sharp = np.array_equal(opaque, alpha == alpha.max())
    shown = np.unique(numbers[opaque])
    if sharp and shown[0] and not (len(shown) == 1 and shown[0] in WHITE):
        return np.where(opaque, numbers, 0)
    if len(shown) == 1 and not opaque.all():
        return np.where(opaque, np.uint8(WIDE), np.uint8(0)) if sharp else alpha
    problem = "its transparency and its numbers say different things about what is drawn"
    raise FormatError(problem, "save it in grey, without transparency")


def save_label_map(labels: NDArray[np.unsignedinteger], path: Path) -> None:
    """Write labels as a PNG, of 16 bits where a label is larger than 255; whole or not at all.

    Raises:
        FormatError: a label beyond 65535.
        InputError, ResourceError: it cannot be written.
    """
    if labels.max(initial=0) > MOST_OBJECTS:
        remedy = f"number objects from 1 to {MOST_OBJECTS}"
        raise FormatError(f"label {labels.max()} does not fit into a PNG", remedy, subject=path)
    stream = io.BytesIO()
    deep = labels.dtype.itemsize > 1 and labels.max(initial=0) > WIDE
    Image.fromarray(labels.astype(np.uint16 if deep else np.uint8)).save(stream, "PNG", compress_level=atomic.EFFORT)
    atomic.write_bytes(path, stream.getvalue())

"""Colours of 16 bits: stretched by their percentiles, as grey images are, before they become bytes.

Scanners and cameras fill a small part of the range: with the lower byte cut off, little or nothing would be left.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medical_sam2.intensity_window import percentile_window
from medical_sam2.io.files import open_regular

HIGH_OF_GREY = "LA;16B"


def to_bytes(colours: NDArray[np.uint16]) -> tuple[NDArray[np.uint8], str]:
    """Colours (H, W, 3) as bytes, the same for all channels so that they stay what they are; and what was done."""
    window = percentile_window(colours)
    told = f"its colours are 16 bits deep; {window.low:g} to {window.high:g} of them, by percentiles, became 8 bits"
    return window.as_bytes(colours), told


def read_png(path: Path) -> NDArray[np.uint16]:
    """A PNG of 16 bits with colours (H, W, 3) or with grey and transparency (H, W), which is left out.

    Pillow keeps one byte of two, the upper one of big-endian numbers; asked for little-endian ones it keeps the lower one.
    """
    with open_regular(path) as stream, Image.open(stream, formats=("PNG",)) as image:
        kept = str(image.tile[0].args)
        if kept == HIGH_OF_GREY:
            bytes_of = _raw(image, "RGBA")
            return _joined(bytes_of[..., 0], bytes_of[..., 1])
        upper = np.array(image)[..., :3]
    with open_regular(path) as stream, Image.open(stream, formats=("PNG",)) as image:
        return _joined(upper, _raw(image, kept.replace("16B", "16L"))[..., :3])


def _joined(upper: NDArray[Any], lower: NDArray[Any]) -> NDArray[np.uint16]:
    return np.stack([lower, upper], axis=-1).astype(np.uint8).view("<u2")[..., 0].astype(np.uint16)


def _raw(image: Image.Image, order: str) -> NDArray[Any]:
    """The pixels, with their bytes taken in another order."""
    image.tile = [tile._replace(args=order) for tile in image.tile]  # type: ignore[attr-defined]
    return np.array(image)

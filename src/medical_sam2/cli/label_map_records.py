"""What the label maps of a set tell of the run that made them: a later run goes on with them, or refuses to."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from medical_sam2 import io
from medical_sam2.batch.fingerprint import hash_files
from medical_sam2.errors import InputError
from medical_sam2.intensity_window import Window
from medical_sam2.io.labels import MADE_BY
from medical_sam2.io.safe_open import open_regular

if TYPE_CHECKING:
    from medical_sam2.tracking.image_set import ImageMask


@dataclass(frozen=True)
class LabelMapRecord:
    """How a label map was made, and how sure that was; nothing of the image.

    Args:
        key: hash of settings, weights and prompts.
        image: hash of the image's file.
        confidence: object → predicted IoU.
        likeness, prompted, window: see `ImageMask`.
    """

    key: str
    image: str
    confidence: Mapping[int, float]
    likeness: float
    prompted: bool
    window: Window | None


def record_text(key: str, file: Path, found: "ImageMask") -> str:
    """The text that the label map of a file keeps of how it was made."""
    return json.dumps(
        {
            "version": 1,
            "key": key,
            "image": hash_files([file]),
            "confidence": {str(label): sure for label, sure in found.confidence.items()},
            "likeness": found.likeness,
            "prompted": found.prompted,
            "window": None if found.window is None else vars(found.window),
        }
    )


def read_record(file: Path) -> LabelMapRecord | None:
    """How a label map was made; None where it does not tell: another program saved it, or a version that kept nothing."""
    with suppress(OSError, InputError, KeyError, TypeError, ValueError, AttributeError):
        kept = io.parse_json(_read_text(file), file)
        seen = kept["window"]
        window = None if seen is None else Window(float(seen["low"]), float(seen["high"]), str(seen["source"]))
        confidence = {int(label): float(sure) for label, sure in kept["confidence"].items()}
        if confidence and (window is None or window.low < window.high):
            return LabelMapRecord(
                str(kept["key"]), str(kept["image"]), confidence, float(kept["likeness"]), bool(kept["prompted"]), window
            )
    return None


def _read_text(file: Path) -> str:
    """Our text in a PNG, whose pixels are not unpacked for it."""
    with open_regular(file) as stream, suppress(Image.DecompressionBombError), Image.open(stream, formats=["PNG"]) as image:
        return str(image.info.get(MADE_BY, ""))
    return ""

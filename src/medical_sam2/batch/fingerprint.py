"""How results were made: what they depend on, as hashes, and what the label map of an image keeps of it.

A later run sees whether what lies there was made likewise: it goes on with it, or refuses to.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from medical_sam2 import io
from medical_sam2.batch import BatchCase
from medical_sam2.errors import InputError
from medical_sam2.intensity_window import Window
from medical_sam2.io import registry
from medical_sam2.io.labels import MADE_BY
from medical_sam2.io.safe_open import open_regular

if TYPE_CHECKING:
    from medical_sam2.tracking.image_set import ImageMask

WITHOUT_EFFECT = ("weights", "threads", "device", "features")
"""Settings that results do not depend on, so that a run goes on elsewhere; of weights the content counts, not the name."""


def hash_weights(file: Path, beside: Sequence[str]) -> list[str]:
    """Hash of a file of weights, and of those of the small networks beside it that are there."""
    files = (file, *(file.with_name(each) for each in beside))
    return [hash_files([path]) for path in files if path.is_file()]


def hash_files(paths: Sequence[Path]) -> str:
    """SHA-256 of the contents of files, in their order, and of those in folders; what is neither is passed over."""
    whole = sha256()
    for file in (each for path in paths for each in (sorted(path.iterdir()) if path.is_dir() else [path])):
        if not file.is_file():  # a device never ends
            continue
        with file.open("rb") as stream:
            whole.update(file_digest(stream, "sha256").digest())
    return whole.hexdigest()


def hash_content(content: object) -> str:
    """SHA-256 of what can be written as JSON."""
    return sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def contents(case: BatchCase) -> list[Path]:
    """The files of an image, further channels and the voxels beside a header among them."""
    if case.image.is_dir():
        return sorted(path for path in case.image.iterdir() if path.is_file())
    halves = [case.image.with_suffix(suffix) for suffix in sorted(registry.data_suffixes())]
    beside = [half for half in halves if case.image.suffix.lower() in registry.header_suffixes() and half.is_file()]
    return [*(case.channels or (case.image,)), *beside]


@dataclass(frozen=True)
class LabelMapRecord:
    """How a label map was made, and how sure that was; nothing of the image."""

    key: str  # hash of settings, weights and prompts
    image: str  # hash of the image's file
    confidence: Mapping[int, float]  # object → predicted IoU
    # likeness, prompted, window: see `ImageMask`
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

"""Results of tracking on disk: whole and flushed before they are acknowledged."""

import json
import zlib
from dataclasses import asdict
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from medical_sam2.io import atomic
from medical_sam2.server.refusals import Unusable
from medical_sam2.server.subjects import Canvas, Found
from medical_sam2.volume import SliceConfidence


def save(path: Path, found: Found) -> None:
    """Write a result, atomically."""
    notes = {"rows": [asdict(row) for row in found.rows], "warnings": found.warnings}
    arrays = {f"labels{i}": array for i, array in enumerate(found.canvas)}
    arrays |= {f"doubt{i}": array for i, array in enumerate(found.doubt or ())}
    with atomic.writing(path) as stream:
        np.savez_compressed(stream, allow_pickle=False, notes=np.frombuffer(json.dumps(notes).encode(), np.uint8), **arrays)


def load(path: Path) -> Found:
    """Read a result of ours.

    Raises:
        Unusable: it is damaged, or not there any more.
    """
    try:
        return _loaded(path)
    except (OSError, ValueError, LookupError, TypeError, EOFError, BadZipFile, zlib.error):
        raise Unusable("the result on the disk is damaged or missing; remove the session") from None


def _loaded(path: Path) -> Found:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        notes = json.loads(file["notes"].tobytes())
        count = sum(name.startswith("labels") for name in file.files)
        canvas: Canvas = tuple(file[f"labels{i}"] for i in range(count))
        doubt = tuple(file[f"doubt{i}"] for i in range(count)) if "doubt0" in file.files else None
    return Found(canvas, tuple(SliceConfidence(**row) for row in notes["rows"]), doubt, tuple(notes["warnings"]))

"""`medsam2 info`: show what an image is, where it lies, and what is odd about it."""

import json as json_format
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter

from medical_sam2 import io
from medical_sam2.cli import plain
from medical_sam2.intensity_window import Windows, choose_window
from medical_sam2.io import Form, Picture
from medical_sam2.volume import Volume


def info(
    file: Path,
    /,
    *,
    json: Annotated[bool, Parameter(negative="")] = False,
    geometry_from: Form | None = None,
    frame: int | None = None,
    all_frames: Annotated[bool, Parameter(negative="")] = False,
    series: str | None = None,
    allow_gap: Annotated[bool, Parameter(negative="")] = False,
    labels_of: Path | None = None,
) -> None:
    """Show shape, affine (voxel index → RAS mm, in the order of the file), spacing, orientation, modality and warnings.

    Args:
        file: image file, folder with a DICOM series, zip with an image, or file of prompts (.json).
        json: print one JSON object.
        geometry_from: which form of a NIfTI file counts where the two contradict each other.
        frame: time point or page, from 0.
        all_frames: each page of a TIFF file is a picture.
        series: DICOM series of a folder, from 1, or its SeriesInstanceUID.
        allow_gap: interpolate missing DICOM slices.
        labels_of: the file holds labels of this image; check that they fit.
    """
    if file.suffix.lower() == ".json":
        facts = _keys(io.load_json(file))
    elif labels_of is not None:
        image = io.load(labels_of, geometry_from=geometry_from, frame=frame, series=series, allow_gap=allow_gap)
        facts = describe(io.load_labels(file, image))
    else:
        facts = describe(
            io.read(
                file,
                geometry_from=geometry_from,
                frame=frame,
                series=series,
                allow_gap=allow_gap,
                all_frames=all_frames,
            )
        )
    for warning in facts["warnings"]:
        sys.stderr.write(f"warning: {plain(f'{file}: {warning}')}\n")
    sys.stdout.write(json_format.dumps({"file": str(file), **facts}) + "\n" if json else _table(file, facts))


def describe(found: Volume | tuple[Picture, ...]) -> dict[str, Any]:
    """What there is to say about an image, ready for JSON."""
    return _volume(found) if isinstance(found, Volume) else _pictures(found)


def _keys(content: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "json", "version": content.get("version", 1), "keys": sorted(content), "warnings": []}


def _volume(volume: Volume) -> dict[str, Any]:
    return {
        "kind": "volume",
        "shape": list(volume.shape),
        "affine": volume.affine.tolist(),
        "spacing_mm": list(volume.spacing_mm),
        "orientation": volume.orientation,
        "dtype": str(volume.array.dtype),
        "range": [np.min(volume.array).item(), np.max(volume.array).item()],
        "modality": volume.modality,
        "seen_as": str(choose_window(volume)),
        "warnings": list(volume.warnings),
    }


def _pictures(pictures: tuple[Picture, ...]) -> dict[str, Any]:
    first = pictures[0]
    return {
        "kind": "pictures",
        "count": len(pictures),
        "shape": list(first.shape),
        "colour": first.colour,
        "spacing_mm": list(first.spacing_mm) if first.spacing_mm else None,
        "dtype": str(first.array.dtype),
        "range": [min(np.min(p.array).item() for p in pictures), max(np.max(p.array).item() for p in pictures)],
        "modality": first.modality,
        "seen_as": str(Windows(first, negative=False).of()),
        "warnings": list(dict.fromkeys(warning for picture in pictures for warning in picture.warnings)),
    }


def _table(file: Path, facts: dict[str, Any]) -> str:
    lines = [f"{'file':12} {plain(str(file))}"]
    for name, value in facts.items():
        if name == "affine":
            lines += [
                f"{'affine' * (row == 0):12} " + " ".join(f"{x:12.6g}" for x in numbers) for row, numbers in enumerate(value)
            ]
        elif name != "warnings" and value is not None:
            lines.append(f"{name:12} {_shown(value)}")
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    if isinstance(value, list):
        return " ".join(f"{item:.6g}" if isinstance(item, float) else str(item) for item in value)
    return str(value)

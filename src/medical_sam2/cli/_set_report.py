"""What came of a set of images: rows for each image and object, for people and as JSON or CSV."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from medical_sam2.cli._report import versions, window
from medical_sam2.cli._set_options import SetInferenceOptions
from medical_sam2.cli._set_prompts import SetPrompts
from medical_sam2.errors import MedicalSam2Error
from medical_sam2.io.image_folder import ImageFolder
from medical_sam2.io.registry import Picture
from medical_sam2.prompts import FramePrompt
from medical_sam2.tracking.image_set import ImageMask
from medical_sam2.tracking.postprocess import object_boxes

KIND = "images"


def described(images: ImageFolder, prompts: SetPrompts, manner: SetInferenceOptions) -> dict[str, Any]:
    """Folder, prompts and settings."""
    return {
        "version": 1,
        "kind": KIND,
        **versions(),
        "folder": str(images.folder),
        "count": len(images),
        "prompts": [
            {"image": images.entries[i].name, "object": label, "name": prompts.names.get(label, ""), **_told(prompt)}
            for i, said in sorted(prompts.said.items())
            for label, prompt in sorted(said.items())
        ],
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in asdict(manner).items()},
    }


def row(name: str, found: ImageMask, file: Path | None) -> dict[str, Any]:
    """One image of the report."""
    counts = np.bincount(found.labels.ravel()) if found.labels.size else np.zeros(1, int)
    return {
        "image": name,
        "mask": None if file is None else str(file),
        "prompted": found.prompted,
        "confidence": {str(label): round(sure, 4) for label, sure in found.confidence.items()},
        "likeness": round(found.likeness, 6),
        "window": None if found.window is None else window(found.window),
        "area_px": {str(label): int(counts[label]) if label < len(counts) else 0 for label in found.confidence},
        "warnings": list(found.warnings),
    }


def measured(name: str, picture: Picture, found: ImageMask, names: Mapping[int, str]) -> list[dict[str, Any]]:
    """One row of the statistics for each object of an image."""
    boxes, rows = object_boxes(found.labels), list[dict[str, Any]]()
    pixel_mm2 = None if picture.spacing_mm is None else picture.spacing_mm[0] * picture.spacing_mm[1]
    for label, sure in found.confidence.items():
        place: dict[str, Any] = dict.fromkeys(("x_low", "y_low", "x_high", "y_high", "centroid_x", "centroid_y", "mean", "sd"))
        area = 0
        if label in boxes:
            down, across = boxes[label]
            inside = found.labels[down, across] == label
            area = int(inside.sum())
            y, x = (float(along.mean()) for along in np.nonzero(inside))
            values = picture.array[down, across][inside].astype(np.float64)
            corners = (across.start, down.start, across.stop - 1, down.stop - 1)
            numbers = (*corners, *(round(n, 4) for n in (x + across.start, y + down.start, values.mean(), values.std())))
            place = dict(zip(place, numbers, strict=True))
        size = {"area_px": area, "area_mm2": None if pixel_mm2 is None else round(area * pixel_mm2, 4)}
        share = round(area / found.labels.size, 6)
        rows.append(
            {"image": name, "object": label, "name": names.get(label, "")}
            | {"confidence": round(sure, 4), **size, "share": share, **place}
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]], path: Path) -> bytes:
    """The statistics as the ending of their file says."""
    if path.suffix.lower() == ".json":
        return (json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["image"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def failure(name: str, error: MedicalSam2Error) -> dict[str, Any]:
    """One image that could not be used."""
    return {"image": name, "problem": error.problem, "remedy": error.remedy}


def lines(report: Mapping[str, Any], written: Iterable[Path]) -> str:
    """What came out, for people."""
    seen = {each["window"]["source"].partition(", background")[0] for each in report["images"] if each["window"]}
    sure = sorted((min(each["confidence"].values()), each["image"]) for each in report["images"] if not each["prompted"])
    told = [f"{len(report['images'])} of {report['count']} images outlined"]
    told += [f"intensities: {', '.join(sorted(seen))}"] if seen else []
    if report["skipped"]:
        told[0] += f", {report['skipped']} were there already"
    if sure:
        told.append(f"confidence {np.median([each for each, _ in sure]):.2f} (median); least sure:")
        told += [f"  {each:.2f}  {name}" for each, name in sure[:3]]
    return "\n".join([*told, *(f"wrote {path}" for path in written)]) + "\n"


def _told(prompt: FramePrompt) -> dict[str, Any]:
    said: dict[str, Any] = {}
    if len(prompt.points_xy):
        pairs = zip(prompt.points_xy.tolist(), prompt.labels.tolist(), strict=True)
        said["points"] = [{"xy": place, "positive": bool(label)} for place, label in pairs]
    if prompt.box_xyxy is not None:
        said["box"] = prompt.box_xyxy.tolist()
    if prompt.mask_hw is not None:
        said["mask"] = {"pixels": int(prompt.mask_hw.sum())}
    return said

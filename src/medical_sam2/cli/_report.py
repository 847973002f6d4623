"""What was done, with what, and what came out: for people, and as JSON; nothing of who the patient is."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import platform, python_version
from typing import TYPE_CHECKING, Any

import numpy as np

from medical_sam2.cli._options import InferenceOptions
from medical_sam2.intensity_window import Window
from medical_sam2.io.prompt_file import Named, as_objects
from medical_sam2.prompts import Mask
from medical_sam2.tracking.postprocess import object_boxes
from medical_sam2.views import View
from medical_sam2.volume import Segmentation, SliceConfidence, Volume

if TYPE_CHECKING:
    from medical_sam2.cli._plan import SegmentationPlan

PACKAGES = ("medical-sam2", "torch", "transformers", "numpy")


def described(file: Path, volume: Volume, named: Named, how: InferenceOptions) -> dict[str, Any]:
    """Image, prompts and settings."""
    return {
        "version": 1,
        **versions(),
        "image": {
            "file": str(file),
            "shape": list(volume.shape),
            "spacing_mm": list(volume.spacing_mm),
            "orientation": volume.orientation,
            "modality": volume.modality,
        },
        "prompts": as_objects(named.prompts, named.names, _outlined),
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in asdict(how).items()},
    }


def versions() -> dict[str, Any]:
    """Of this package, of those that it computes with, and of the system."""
    return {
        "versions": {"python": python_version(), **{name: _installed(name) for name in PACKAGES}},
        "platform": platform(),
    }


def foreseen(report: Mapping[str, Any], volume: Volume, plan: "SegmentationPlan", outputs: Mapping[str, Path]) -> str:
    """What would be done, for people."""
    told = [
        f"image    {'×'.join(map(str, volume.shape))} voxels, {volume.orientation}, {volume.modality or 'unknown modality'}"
    ]
    for group in plan.groups:
        for label, frames in group.prompts.items():
            axis, last = group.view.order(volume.orientation)[0], volume.shape[group.view.order(volume.orientation)[0]] - 1
            flipped = group.view.flipped(volume.orientation)[0]
            slices = ", ".join(str(place) for place in sorted(last - t if flipped else t for t in frames))
            views = ", ".join(view.name for view in group.views)
            told.append(f"object   {label}, prompted on slice {slices} of axis {'ijk'[axis]}; views: {views}")
    weights, size = report["weights"], plan.bytes / 2**20
    there = "loaded and checked" if weights["sha256"] else "not here: they would be fetched"
    told += [
        f"weights  {weights['name']} at {weights['image_size']} px, {there}",
        f"device   {report['device'] or 'not asked'}",
    ]
    told.append(f"window   {plan.window}")
    told += [f"memory   about {size:,.0f} MB", *(f"would write {path}" for path in outputs.values())]
    return "\n".join([*told, "nothing was computed"]) + "\n"


def result(volume: Volume, found: Segmentation, warned: Sequence[str]) -> dict[str, Any]:
    """What came out, for the report."""
    warnings = list(dict.fromkeys([*volume.warnings, *warned, *found.warnings]))
    seen = {str(label): window(each) for label, each in found.windows.items()}
    return {"objects": objects(volume, found), "windows": seen, "look_here": look_here(volume, found), "warnings": warnings}


def window(seen: Window) -> dict[str, Any]:
    """Intensities that the network saw as black and white, and who chose them."""
    return {"low": seen.low, "high": seen.high, "source": seen.source, "negative": seen.negative}


def objects(volume: Volume, found: Segmentation) -> list[dict[str, Any]]:
    """Label, name and size of each object, also of those that were not found."""
    rows: list[dict[str, Any]] = []
    boxes = object_boxes(found.labels)
    for label in sorted({*boxes, *found.names, *(row.object for row in found.confidence)}):
        voxels = int(np.count_nonzero(found.labels[boxes[label]] == label)) if label in boxes else 0
        ml = voxels * volume.voxel_mm3 / 1000
        rows.append({"label": label, "name": found.names.get(label, ""), "voxels": voxels, "volume_ml": round(ml, 6)})
    return rows


def look_here(volume: Volume, found: Segmentation) -> list[dict[str, Any]]:
    """Slices to look at first."""
    return [
        {"object": row.object, "axis": _axis(volume, row), "slice": row.slice, "confidence": round(row.confidence, 4)}
        for row in found.confidence
        if row.look_here
    ]


def lines(report: Mapping[str, Any], outputs: Iterable[Path]) -> str:
    """What came out, for people."""
    told = [f"{_called(row)}: {row['voxels']} voxels, {row['volume_ml']:.4g} mL" for row in report["objects"]]
    seen = dict.fromkeys(str(Window(**each)) for each in report["windows"].values())
    told += [f"intensities from {each}" for each in seen]
    return "\n".join([*told, *(f"wrote {path}" for path in outputs)]) + "\n"


def _called(row: Mapping[str, Any]) -> str:
    return f"object {row['label']}" + (f" ({row['name']})" if row["name"] else "")


def _axis(volume: Volume, row: SliceConfidence) -> str:
    return "ijk"[View(row.view).order(volume.orientation)[0]]


def _outlined(mask: Mask) -> dict[str, Any]:
    return {"voxels": int(np.count_nonzero(mask.array_ijk))}


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

"""The manifest of a prepared folder: where it came from, what was done, what there is to train on, what was left out and why.

Beside it `dataset.json`, so that the folder is an nnU-Net raw data set itself.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medical_sam2.data.dataset import DataSet
from medical_sam2.data.nnunet import DESCRIPTION, IGNORE
from medical_sam2.data.prepare.intensity import HOUNSFIELD, MUCH, PERCENTILES, Levels
from medical_sam2.data.prepare.report import CaseReport, UnitReport, write_json
from medical_sam2.data.prepare.settings import Settings
from medical_sam2.data.prepare.source import Source
from medical_sam2.data.prepare.unit import VERSION, digest
from medical_sam2.data.prepare.volumes import channel_rule

MANIFEST = "manifest.json"


def write(
    output: Path,
    source: Source,
    dataset: DataSet,
    settings: Settings,
    scale: Levels | None,
    reports: Sequence[UnitReport],
) -> None:
    """Write the manifest and, where images are kept and something is outlined in them, `dataset.json`."""
    cases = sorted((case for report in reports for case in report.cases), key=lambda case: (case.split != "train", case.case))
    if settings.images and dataset.structures:
        write_json(output / DESCRIPTION, _description(dataset, cases))
    write_json(output / MANIFEST, _manifest(source, dataset, settings, scale, cases))


def _manifest(
    source: Source, dataset: DataSet, settings: Settings, scale: Levels | None, cases: Sequence[CaseReport]
) -> dict[str, Any]:
    good = [case for case in cases if not case.problem]
    sums = [[case.case, case.split, dict(case.sha256)] for case in good]
    return {
        "version": VERSION,
        "source": {
            "name": dataset.name,
            "layout": source.layout or ("images and labels" if source.labels else "nnU-Net"),
            "sha256": digest(sums),
            "licence": dataset.licence,
            "prompt": dataset.prompt,
        },
        "settings": asdict(settings),
        "steps": _steps(dataset, settings),
        "scale": scale and asdict(scale),
        "tasks": _tasks(dataset, good),
        "cases": [{key: value for key, value in asdict(case).items() if key != "problem"} for case in good],
        "failed": [{"case": case.case, "problem": case.problem} for case in cases if case.problem],
    }


def _tasks(dataset: DataSet, cases: Sequence[CaseReport]) -> list[dict[str, Any]]:
    """Structure by structure: in how many cases, and how many objects, components among them."""
    objects: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for case in cases:
        objects.update(dict(case.objects or {}))
        seen.update((case.objects or {}).keys())
    return [
        {"task": f"{dataset.name}/{name}", "values": list(values), "cases": seen[name], "objects": objects[name]}
        for name, values in dataset.structures.items()
    ]


def _steps(dataset: DataSet, settings: Settings) -> list[str]:
    """What was done to every image, in words."""
    low, high = PERCENTILES
    window = f"{settings.window_hu[0]:g} to {settings.window_hu[1]:g} HU"
    foreground = f"the {low}th and {high}th percentiles of the foreground of all cases"
    rules = {
        "window": f"clipped to {window} and to {foreground}, minus its mean over its standard deviation",
        "percentiles": f"clipped to its {low}th and {high}th percentiles, minus mean over standard deviation",
        "whole": "minus mean over standard deviation",
    }
    cut = f"cropped to non-zero; normalised inside the mask of non-zero where that leaves {MUCH:.0%} or less"
    small = f"an object that covers less than {settings.smallest:.3%} of every slice is dropped"
    if dataset.colour:
        how = ["cropped to non-zero", "kept as bytes (PNG): the network's own mean and standard deviation normalise them"]
    else:
        how = [cut, *(f"{channel}: {rules[channel_rule(channel, dataset.modality)]}" for channel in dataset.channels)]
    if dataset.kind == "set":
        side = f"stretched to a square of at most {settings.size} pixels (bicubic, labels nearest)"
        return [*how, f"training arrays: {side}, in groups of up to {settings.group} images", small]
    side = f"slices over the two axes of highest resolution, shrunk to at most {settings.size} pixels (bicubic, labels nearest)"
    parts = ["connected components of a structure are objects too, where it has several"] if settings.split else []
    return [*how, f"training arrays: {side}; nothing is resampled from slice to slice", *parts, small]


def _description(dataset: DataSet, cases: Sequence[CaseReport]) -> dict[str, Any]:
    labels: dict[str, Any] = {
        name: values[0] if len(values) == 1 else list(values) for name, values in dataset.structures.items()
    }
    good = Counter(case.split for case in cases if not case.problem)
    told: dict[str, Any] = {
        "name": dataset.name,
        "channel_names": {str(n): _named(channel) for n, channel in enumerate(dataset.channels)},
        "labels": {"background": 0, **labels, **({} if dataset.ignore is None else {IGNORE: dataset.ignore})},
        "numTraining": good["train"],
        "numTest": good["test"],
        "file_ending": ".png" if dataset.colour else ".nii.gz",
        "kind": dataset.kind,
    }
    return told | {key: value for key, value in (("prompt", dataset.prompt), ("licence", dataset.licence)) if value}


def _named(channel: str) -> str:
    """A CT that was normalised is none in Hounsfield units any more, and must not be taken for one."""
    return "CT_normalised" if channel.upper() == HOUNSFIELD else channel

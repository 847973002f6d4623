"""`medsam2 info`, `data` and `prepare`: what an image is, which data sets are known, a data set made ready for training."""

import json as json_format
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from cyclopts import App, Parameter

from medical_sam2 import io
from medical_sam2.cli import plain
from medical_sam2.cli.options import FLAG, Json
from medical_sam2.data import prepare as preparation
from medical_sam2.data.cases import SMALLEST
from medical_sam2.data.catalog import ENTRIES, find_entry, unpack_medsegbench
from medical_sam2.errors import ConfigError, InputError, say_count
from medical_sam2.intensity_window import CT_WINDOWS, Windows, choose_window
from medical_sam2.io import Form, Picture
from medical_sam2.io.prompt_file import describe_prompts
from medical_sam2.plugins import find
from medical_sam2.volume import Volume

data = App(name="data")


def info(
    file: Path,
    /,
    *,
    json: Annotated[bool, FLAG] = False,
    geometry_from: Form | None = None,
    frame: int | None = None,
    all_frames: Annotated[bool, FLAG] = False,
    series: str | None = None,
    allow_gap: Annotated[bool, FLAG] = False,
    labels_of: Path | None = None,
) -> None:
    """Show shape, affine (voxel index → RAS mm, in the order of the file), spacing, orientation, modality and warnings.

    Args:
        file: image file, folder with a DICOM series, zip with an image, or file of prompts (.json).
        json: print one JSON object.
        geometry_from: which form of a NIfTI file, and of its labels, counts where the two contradict each other.
        frame: time point or page, from 0.
        all_frames: each page of a TIFF file is a picture.
        series: DICOM series of a folder, from 1, or its SeriesInstanceUID.
        allow_gap: interpolate missing DICOM slices.
        labels_of: the file holds labels of this image; check that they fit.
    """
    if file.suffix.lower() == ".json":
        content = io.load_json(file)
        facts = {"kind": "json", "version": content.get("version", 1), "keys": sorted(content), "warnings": []}
        if "kind" not in content:  # else it is a report
            facts |= {"kind": "prompts", **describe_prompts(file)}
    elif labels_of is not None:
        image = io.load(labels_of, geometry_from=geometry_from, frame=frame, series=series, allow_gap=allow_gap)
        facts = _describe_volume(io.load_labels(file, image))
    else:
        found = io.read(
            file, geometry_from=geometry_from, frame=frame, series=series, allow_gap=allow_gap, all_frames=all_frames
        )
        facts = _describe_volume(found) if isinstance(found, Volume) else _describe_pictures(found)
    for warning in facts["warnings"]:
        sys.stderr.write(f"warning: {plain(f'{file}: {warning}')}\n")
    sys.stdout.write(json_format.dumps({"file": str(file), **facts}) + "\n" if json else _table(file, facts))


def _describe_volume(volume: Volume) -> dict[str, Any]:
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


def _describe_pictures(pictures: tuple[Picture, ...]) -> dict[str, Any]:
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


@data.command(name="list")
def list_(*, one_object: Json = False) -> None:
    """List the data sets that `medsam2 prepare --as NAME` understands.

    Args:
        one_object: print JSON instead of a table.
    """
    if one_object:
        rows = [{"name": name, "title": entry.title, "about": entry.about} for name, entry in ENTRIES.items()]
        print(json_format.dumps(rows, indent=2))
        return
    for name, entry in ENTRIES.items():
        print(f"{name:<14} {entry.modality:<11} {entry.prompt:<6} {entry.about}")


@data.command
def show(name: str, *, one_object: Json = False) -> None:
    """Show where a data set is obtained, how it must lie, what its labels are, and what is not confirmed about it.

    Args:
        name: a name that `list` shows, or module:attribute or file.py:attribute of an entry.
        one_object: print one JSON object instead of lines for a person.
    """
    entry = find_entry(name)
    facts: dict[str, Any] = {key: value for key, value in asdict(entry).items() if key not in ("remap", "opener", "layouts")}
    facts["layout"] = [asdict(layout) for layout in entry.layouts]
    if one_object:
        print(json_format.dumps({"name": name, **facts}, indent=2))
        return
    for key in ("title", "about", "url", "access", "licence", "citation", "modality", "prompt"):
        print(f"{key:<12} {facts[key]}")
    print(f"{'structures':<12} {', '.join(entry.structures)}")
    for layout in entry.layouts:
        where = " + ".join(layout.images) + (f" with {layout.label}" if layout.label else ", no labels")
        print(f"{'layout':<12} {layout.split}: {where}")
    for doubt in entry.unconfirmed:
        print(f"{'unconfirmed':<12} {doubt}")


@data.command
def unpack(
    file: Path,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    structures: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = ("foreground",),
    modality: str = "image",
) -> None:
    """Make an nnU-Net raw data set of a file of MedSegBench, which `medsam2 prepare`, `finetune` and `evaluate` take.

    Args:
        file: NAME_512.npz and the like.
        output: folder to write, which is empty or not there.
        structures: names of the labels 1, 2 …
        modality: name of the channel of grey pictures, such as US.
    """
    count = unpack_medsegbench(file, output, structures, modality=modality)
    sys.stderr.write(plain(f"{output}: {say_count(count, 'picture')}") + "\n")


def prepare(
    source: Path,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    layout: Annotated[str, Parameter(name="--as")] = "",
    label: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    modality: str | None = None,
    window: Annotated[str, Parameter(allow_leading_hyphen=True)] = "soft",
    size: int = 256,
    bits: Literal[8, 16] = 8,
    smallest: float = SMALLEST,
    whole: Annotated[bool, FLAG] = False,
    arrays_only: Annotated[bool, FLAG] = False,
    workers: int = 1,
    json: Annotated[bool, FLAG] = False,
) -> int:
    """Normalise the images of a data set, cut its labels into tasks, and leave a manifest of what was done.

    What was prepared before stays: a run that was stopped goes on, and a second one does nothing. A case that cannot be
    prepared is named at the end, with exit code 2; the others are prepared.

    Args:
        source: nnU-Net raw data set; a folder with images and labels; a data set of the catalogue, with --as; a DICOM series.
        output: folder to write.
        layout: name in the catalogue (medsam2 data list), or module:attribute or file.py:attribute of an entry.
        label: NAME=VALUE (or NAME=VALUE,VALUE) of a structure, for a folder that does not tell what its labels mean.
        modality: DICOM code of the modality (CT, MR, US, DX, MG, OCT …), where the data set does not tell.
        window: of a CT: soft, lung, bone, brain, or LOW,HIGH in Hounsfield units.
        size: longest side of a slice in the training arrays.
        bits: of each intensity in the training arrays; colours have 8.
        smallest: share of a slice that an object must cover on one of them.
        whole: structures only, not their connected components.
        arrays_only: leave out the normalised images and label maps.
        workers: processes.
        json: print one JSON object.
    """

    def report(done: preparation.PrepareProgress) -> None:
        first, *others = done.cases
        more = f" and {len(others)} more" if others else ""
        sys.stderr.write(plain(f"{done.done} of {done.total}: {first}{more}") + "\n")

    settings = preparation.PrepareSettings(
        size=size, bits=bits, smallest=smallest, window_hu=_window(window), split=not whole, images=not arrays_only
    )
    data_source = preparation.DataSource(source, layout, tuple(_label(text) for text in label), modality)
    doubts = find_entry(layout).unconfirmed if layout else ()
    sys.stderr.writelines(plain(f"{layout}: unconfirmed: {doubt}") + "\n" for doubt in doubts)
    outcome = preparation.prepare(data_source, output, settings, workers=workers, on_done=report)
    for case, problem in outcome.problems.items():
        sys.stderr.write(plain(f"{case}: {problem}") + "\n")
    facts = {"output": str(output), "cases": outcome.cases, "arrays": outcome.arrays, "fresh": outcome.fresh}
    if json:
        print(json_format.dumps({**facts, "failed": outcome.problems}))
    else:
        failed = f", {len(outcome.problems)} failed" if outcome.problems else ""
        cases, arrays = say_count(outcome.cases, "case"), say_count(outcome.arrays, "training array")
        sys.stderr.write(plain(f"{output}: {cases} ({outcome.fresh} of them new), {arrays}{failed}") + "\n")
    return InputError.exit_code if outcome.problems else 0


def _window(text: str) -> tuple[float, float]:
    """Hounsfield units of a window by its name or by numbers."""
    if "," in text:
        try:
            low, high = (float(part) for part in text.split(","))
        except ValueError:
            raise ConfigError(f"the window {text!r} is no pair of numbers", "give LOW,HIGH") from None
        return low, high
    level, width = find(CT_WINDOWS, text, what="window", trusted=False)
    return level - width / 2, level + width / 2


def _label(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, values = text.partition("=")
    try:
        return name, tuple(int(value) for value in values.split(","))
    except ValueError:
        raise ConfigError(f"--label {text!r} tells no number", "give NAME=VALUE, such as liver=1") from None

"""`medsam2 suggest`: name the image of a set, or the slice of a volume, where one more prompt would help most."""

import json as json_format
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from medical_sam2 import io
from medical_sam2.cli import plain
from medical_sam2.cli._files import read
from medical_sam2.cli._options import FLAG, InferenceOptions, Pointed, PromptOptions, Reading, TrackingOptions
from medical_sam2.cli._prompts import gathered
from medical_sam2.cli._set_report import KIND
from medical_sam2.errors import ConfigError, FormatError
from medical_sam2.volume import Volume

if TYPE_CHECKING:
    from medical_sam2.tracking.confidence import Need

NOTHING_SAID, AS_USUAL, AS_IT_IS = Pointed(), TrackingOptions(), Reading()


def suggest(
    what: Path,
    /,
    *,
    count: int = 1,
    said: Pointed = NOTHING_SAID,
    how: TrackingOptions = AS_USUAL,
    reading: Reading = AS_IT_IS,
    json: Annotated[bool, FLAG] = False,
) -> None:
    """Name where one more prompt would help most: where the network is unsure, and nothing it was told about is alike.

    Args:
        what: the report of `medsam2 segment-images` (run.json), or a volume with the prompts that it has so far.
        count: how many to name, the neediest first.
        json: print one JSON object.
    """
    if count < 1:
        raise ConfigError(f"{count} suggestions are none", "give --count 1 or more")
    if what.suffix.lower() == ".json":
        _refuse_settings(what, said, how, reading)
        rows = _of_a_set(what, count)
    else:
        rows = _of_a_volume(read(what, reading), PromptOptions(**vars(said)), InferenceOptions(**vars(how)), count)
    if json:
        sys.stdout.write(json_format.dumps({"suggestions": rows}, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write("".join(f"{plain(line)}\n" for line in _lines(rows)))


def _refuse_settings(report: Path, *groups: Pointed | TrackingOptions | Reading) -> None:
    """A report tells what was done: nothing else is heard."""
    for group in groups:
        for each in fields(group):
            if getattr(group, each.name) != each.default:
                option = f"--{each.name.replace('_', '-')}"
                raise ConfigError(f"{option} changes nothing of a report", "leave it out", subject=report)


def _of_a_set(file: Path, count: int) -> list[dict[str, Any]]:
    from medical_sam2.tracking.confidence import Need, neediest

    report = io.load_json(file)
    images = report.get("images")
    if report.get("kind") != KIND or not isinstance(images, list):
        raise FormatError("this is no report of a set of images", "make one: segment-images --report run.json", subject=file)
    try:
        needs = [
            Need(i, min(map(float, each["confidence"].values())), float(each["likeness"]))
            for i, each in enumerate(images)
            if not each["prompted"] and not each["warnings"]
        ]
        found = [{"image": str(images[need.index]["image"]), **_numbers(need)} for need in neediest(needs, count)]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise FormatError("this report is damaged", "make it again", subject=file) from None
    return found


def _of_a_volume(image: Volume, said: PromptOptions, how: InferenceOptions, count: int) -> list[dict[str, Any]]:
    import torch

    from medical_sam2.cli import _plan
    from medical_sam2.tracking.confidence import neediest, slice_needs
    from medical_sam2.tracking.frames import FrameStack
    from medical_sam2.tracking.image_viewer import unit_vector
    from medical_sam2.views import View

    named = gathered(said, image)
    _plan.check_settings(how)
    segmenter = _plan.network(how)
    found = segmenter.segment_volume(
        image, named.prompts, bank=how.bank, window=how.window, zoom=not how.whole_slices, features=how.features
    )
    view = View(next(row.view for row in found.confidence if row.prompted))
    stack = FrameStack(image, view, next(iter(found.windows.values())), segmenter.network.image_size)
    asked = {row.slice for row in found.confidence if row.view == view.code and (row.prompted or row.area_px)}
    with torch.inference_mode(), segmenter.computing():
        directions = {
            stack.slice_index(t): unit_vector(segmenter.encode(stack.input(t)).summary_BC[0])
            for t in range(stack.shape_thw[0])
            if stack.slice_index(t) in asked
        }
    axis = "ijk"[view.order(image.orientation)[0]]
    needs = neediest(slice_needs(found.confidence, directions), count)
    return [{"slice": need.index, "axis": axis, **_numbers(need)} for need in needs]


def _numbers(need: "Need") -> dict[str, float]:
    return {"confidence": round(need.confidence, 4), "likeness": round(need.likeness, 6)}


def _lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["nothing: everything that was outlined was prompted"]
    places = [row["image"] if "image" in row else f"slice {row['slice']} of axis {row['axis']}" for row in rows]
    return [
        f"{place}   confidence {row['confidence']:.2f}, likeness to what was told {row['likeness']:.3f}"
        for place, row in zip(places, rows, strict=True)
    ]

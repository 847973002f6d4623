"""`medsam2 segment` and `medsam2 suggest`: outline what was pointed at in a volume; where one more prompt would help most."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from medical_sam2 import io
from medical_sam2.cli import files, plain, report
from medical_sam2.cli.files import OutputOptions, Reading
from medical_sam2.cli.options import FLAG, REPEATED, InferenceOptions, TrackingOptions
from medical_sam2.cli.prompts import PointingOptions, PromptOptions, split_page, volume_prompts
from medical_sam2.errors import ConfigError, FormatError
from medical_sam2.io import labels, registry
from medical_sam2.io.prompt_file import NamedPrompts
from medical_sam2.tracking.confidence import Need, neediest
from medical_sam2.tracking.finishing import FinishingSteps, finish
from medical_sam2.volume import Segmentation, Volume

if TYPE_CHECKING:
    from medical_sam2.segmenter import Segmenter


@Parameter(name="*", group=Group("Finishing", sort_key=3))
@dataclass(frozen=True)
class FinishingOptions:
    """What is done to the prompted objects once they are outlined, in this order.

    Args:
        fill_holes: fill cavities that an object encloses.
        largest: keep the largest part of each object.
        smooth: smooth surfaces by so many millimetres; volumes stay; "liver=2" or "1=2" for one object.
        grow: let objects grow by so many millimetres, but not into each other; as for --smooth.
        shrink: let them shrink.
        min_volume: drop parts of an object below so many millilitres; as for --smooth.
    """

    fill_holes: Annotated[bool, FLAG] = False
    largest: Annotated[bool, FLAG] = False
    smooth: Annotated[tuple[str, ...], REPEATED] = ()
    grow: Annotated[tuple[str, ...], REPEATED] = ()
    shrink: Annotated[tuple[str, ...], REPEATED] = ()
    min_volume: Annotated[tuple[str, ...], REPEATED] = ()

    def steps(self, labels: Sequence[int], names: Mapping[int, str]) -> dict[int, FinishingSteps]:
        """Label → what is done to it; nothing where no option is given.

        Raises:
            ConfigError: a number that is none, an object that there is not, one that is to grow and to shrink.
        """
        smooth, grow, shrink, least = (
            _by_object(f"--{option.replace('_', '-')}", getattr(self, option), labels, names)
            for option in ("smooth", "grow", "shrink", "min_volume")
        )
        if both := sorted(grow.keys() & shrink.keys()):
            raise ConfigError(f"object {both[0]} is to grow and to shrink", "give --grow or --shrink")
        sizes = grow | {label: -by for label, by in shrink.items()}
        steps = {
            label: FinishingSteps(
                self.fill_holes, self.largest, smooth.get(label, 0.0), sizes.get(label, 0.0), least.get(label, 0.0)
            )
            for label in labels
        }
        return {label: own for label, own in steps.items() if own != FinishingSteps()}


def _by_object(option: str, words: Sequence[str], labels: Sequence[int], names: Mapping[int, str]) -> dict[int, float]:
    """Label → number, from "2" for all objects, "1=2" or "liver=2"."""
    found: dict[int, float] = {}
    for word in words:
        who, equals, text = word.rpartition("=")
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if not 0 < number < math.inf:
            raise ConfigError(
                f"{option} {word}: {text!r} is no positive number", f"give {option} NUMBER or {option} NAME=NUMBER"
            )
        meant = [label for label in labels if not equals or who == str(label) or who == names.get(label)]
        if not meant:
            known = ", ".join(names.get(label, str(label)) for label in labels)
            raise ConfigError(f"{option} {word}: there is no object {who!r}", f"the objects are {known}")
        found |= dict.fromkeys(meant, number)
    return found


NO_PROMPTS, AS_USUAL, AS_IT_IS = PromptOptions(), InferenceOptions(), Reading()
AS_FOUND = FinishingOptions()
NO_POINTING, AS_TRACKED = PointingOptions(), TrackingOptions()
OF_SEVERAL = {"three", "six", "auto"}


def segment(
    volume: Path,
    /,
    *,
    outputs: OutputOptions,
    prompts: PromptOptions = NO_PROMPTS,
    options: InferenceOptions = AS_USUAL,
    reading: Reading = AS_IT_IS,
    finishing: FinishingOptions = AS_FOUND,
    json: Annotated[bool, FLAG] = False,
    quiet: Annotated[bool, FLAG] = False,
    dry_run: Annotated[bool, FLAG] = False,
) -> None:
    """Outline one or several objects in a volume, from clicks, boxes or outlines.

    Args:
        volume: image file, folder with a DICOM series, or zip with an image.
        json: print what was done as one JSON object.
        quiet: show no progress.
        dry_run: check files, prompts, weights and memory, say what would be done, and compute nothing.
    """
    clock = _Clock()
    _check(volume, outputs, prompts, options)
    from medical_sam2.cli import network  # torch takes seconds to load: not for a mistyped path

    network.check_settings(options)
    image, earlier = _read(volume, reading, prompts, outputs)
    named = volume_prompts(prompts, image, earlier)
    files.check_further_files(outputs, named)
    steps = finishing.steps(named.labels, named.names)
    for own in steps.values():
        own.check(image.spacing_mm)
    facts = report.describe_run(volume, image, named, options)
    clock.lap("read")
    segmenter = None if dry_run and network.must_fetch(options.weights) else network.load_segmenter(options)
    plan, window, size = network.plan(image, named, options, segmenter, outputs, earlier)
    facts |= network.describe_plan(plan, options, segmenter)
    clock.lap("weights")
    report.print_warnings([*image.warnings, *plan.warnings])
    written = files.requested(outputs).values()
    if segmenter is None or dry_run:
        text = report.dry_run_text(facts, image, plan.groups, window, size, written)
        return report.print_report({**facts, "dry_run": True}, text, json=json)
    with network.adapted(segmenter, image, named, options):
        found = _track(segmenter, image, named, options, outputs=outputs, earlier=earlier, quiet=quiet)
    found, changes = finish(found, steps, named.prompts)
    clock.lap("track")
    report.print_warnings(line for line in found.warnings if line not in plan.warnings)
    facts |= {**report.describe_result(image, found, plan.warnings), "finishing": [*map(vars, changes)], "seconds": clock.laps}
    report.print_review(facts["look_here"])
    files.write(outputs, image, found, named.prompts, facts)
    clock.lap("write")
    return report.print_report(facts, report.result_text(facts, written), json=json)


def _check(file: Path, outputs: OutputOptions, prompts: PromptOptions, options: InferenceOptions) -> None:
    """All about the files that can be known before the image is read: first what is read, then what is written."""
    masks = (split_page(str(word))[0] for word in prompts.mask)
    inputs = [file, *masks, *(path for path in (prompts.prompts, prompts.correct) if path is not None)]
    files.check_files(inputs, prompts.correct, outputs)
    if prompts.correct is None:
        return
    if outputs.probability or outputs.uncertainty:
        raise ConfigError("a correction makes no probability and no uncertainty", "leave these outputs out")
    of_several = {
        "--views": options.views in OF_SEVERAL,
        "--fusion": options.fusion != AS_USUAL.fusion,
        "--islands": options.islands,
    }
    for option, given in of_several.items():
        if given:
            raise ConfigError(f"{option} changes nothing: a correction is tracked in the plane of its prompts", "leave it out")


def _read(file: Path, reading: Reading, prompts: PromptOptions, outputs: OutputOptions) -> tuple[Volume, Volume | None]:
    image = files.read(file, reading)
    # some formats cannot be written beside some images, such as a DICOM-SEG of images that it cannot refer to
    registry.writer_of(outputs.output, outputs.format).check_source(image, outputs.output)
    if prompts.correct is None:
        return image, None
    with files.naming(prompts.correct):
        return image, io.load_labels(prompts.correct, image)


def _track(
    segmenter: "Segmenter",
    image: Volume,
    named: NamedPrompts,
    options: InferenceOptions,
    *,
    outputs: OutputOptions,
    earlier: Volume | None,
    quiet: bool,
) -> Segmentation:
    with report.Progress(quiet=quiet) as progress:
        return segmenter.segment_volume(
            image,
            named.prompts,
            views=options.views,
            bank=options.bank,
            fusion=options.fusion,
            window=options.window,
            earlier=None if earlier is None else labels.integers(earlier.array, None),
            probability=outputs.probability is not None,
            uncertainty=outputs.uncertainty is not None,
            islands=options.islands,
            consensus=options.consensus,
            zoom=not options.whole_slices,
            features=options.features,
            names=named.names,
            on_frame=progress,
        )


class _Clock:
    """Seconds of each part."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 3), now


def suggest(
    what: Path,
    /,
    *,
    count: int = 1,
    prompts: PointingOptions = NO_POINTING,
    options: TrackingOptions = AS_TRACKED,
    reading: Reading = AS_IT_IS,
    json: Annotated[bool, FLAG] = False,
) -> None:
    """Name where one more prompt would help most: where the network is unsure, and nothing that was prompted is alike.

    Args:
        what: the report of `medsam2 segment-images` (run.json), or a volume with the prompts that it has so far.
        count: how many to name, the neediest first.
        json: print one JSON object.
    """
    if count < 1:
        raise ConfigError(f"{count} suggestions are none", "give --count 1 or more")
    if what.suffix.lower() == ".json":
        _refuse_settings(what, prompts, options, reading)
        rows = _suggest_images(what, count)
    else:
        image = files.read(what, reading)
        named = volume_prompts(PromptOptions(**vars(prompts)), image)
        from medical_sam2.cli import network  # torch takes seconds to load: not for a report, nor for a mistyped path

        axis, needs = network.neediest_slices(image, named, options, count)
        rows = [{"slice": need.index, "axis": axis, **_facts(need)} for need in needs]
    text = "".join(f"{plain(line)}\n" for line in _lines(rows))
    report.print_report({"suggestions": rows}, text, json=json)


def _refuse_settings(file: Path, *groups: PointingOptions | TrackingOptions | Reading) -> None:
    """A report holds what was done: no other option has an effect."""
    for group in groups:
        for each in fields(group):
            if getattr(group, each.name) != each.default:
                option = f"--{each.name.replace('_', '-')}"
                raise ConfigError(f"{option} changes nothing of a report", "leave it out", subject=file)


def _suggest_images(file: Path, count: int) -> list[dict[str, Any]]:
    facts = io.load_json(file)
    images = facts.get("images")
    if facts.get("kind") != report.SET or not isinstance(images, list):
        raise FormatError("this is no report of a set of images", "make one: segment-images --report run.json", subject=file)
    try:
        needs = [
            Need(i, min(map(float, each["confidence"].values())), float(each["likeness"]))
            for i, each in enumerate(images)
            if not each["prompted"] and not each["warnings"]
        ]
        return [{"image": str(images[need.index]["image"]), **_facts(need)} for need in neediest(needs, count)]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise FormatError("this report is damaged", "make it again", subject=file) from None


def _facts(need: Need) -> dict[str, float]:
    return {"confidence": round(need.confidence, 4), "likeness": round(need.likeness, 6)}


def _lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["nothing: everything that was outlined was prompted"]
    places = [row["image"] if "image" in row else f"slice {row['slice']} of axis {row['axis']}" for row in rows]
    return [
        f"{place}   confidence {row['confidence']:.2f}, likeness to what is prompted {row['likeness']:.3f}"
        for place, row in zip(places, rows, strict=True)
    ]

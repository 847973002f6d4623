"""`medsam2 segment` and `medsam2 suggest`: outline what was pointed at in a volume; where one more prompt would help most."""

import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from medical_sam2 import io
from medical_sam2.cli import files, plain, report
from medical_sam2.cli.files import OutputOptions, Reading
from medical_sam2.cli.options import FLAG, FinishingOptions, InferenceOptions, TrackingOptions
from medical_sam2.cli.prompts import PointingOptions, PromptOptions, naming_pages, split_page, volume_prompts
from medical_sam2.errors import ConfigError, FormatError, gathering_unkept
from medical_sam2.io import label_grid, labels, registry
from medical_sam2.io.labels import Outline
from medical_sam2.io.prompt_file import NamedPrompts
from medical_sam2.tracking.confidence import Need, neediest
from medical_sam2.tracking.finishing import FinishingSettings, FinishingSteps, finish
from medical_sam2.tracking.plan import order_objects, refuse_blank, several_named
from medical_sam2.volume import Segmentation, Volume

if TYPE_CHECKING:
    from medical_sam2.segmenter import Segmenter
    from medical_sam2.tracking.cropping import VolumePlan


NO_PROMPTS, AS_USUAL, AS_IT_IS = PromptOptions(), InferenceOptions(), Reading()
AS_FOUND = FinishingOptions()
NO_POINTING, AS_TRACKED = PointingOptions(), TrackingOptions()
UNLIKE = {True: "in colour where what is prompted is grey", False: "grey where what is prompted is in colour"}
UNSURE = "far less sure than usual, or it may have leaked there"


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
) -> int:
    """Outline one or several objects in a volume, from clicks, boxes or outlines.

    A file that cannot be written costs no other: it is named at the end, and the exit code is 2 (3 where the disk is full).

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
    image, earlier, named = _read(volume, reading, prompts, outputs)
    objects = _check_objects(named, earlier, outputs, options)
    steps = _finishing_steps(finishing, image, named, objects)
    clock.lap("read")
    segmenter = None if dry_run and network.must_fetch(options.weights) else network.load_segmenter(options)
    plan = network.plan(image, named, options, segmenter, outputs, earlier)
    facts = network.describe_volume_run(volume, image, named, options, segmenter=segmenter, plan=plan, earlier=earlier)
    clock.lap("weights")
    report.print_warnings([*image.warnings, *plan.warnings])
    if segmenter is None or dry_run:
        facts |= {"files": files.list_outputs(outputs, objects), "dry_run": True}
        report.print_report(facts, report.dry_run_text(facts, plan), json=json)
        return 0
    with network.adapted(segmenter, image, named, options):
        found = _track(segmenter, image, named, options, plan=plan.tracked, outputs=outputs, earlier=earlier, quiet=quiet)
        found, changes = finish(found, steps, named.prompts, plan.tracked.limits if steps else {}, earlier and earlier.array)
    report.print_warnings(line for line in found.warnings if line not in plan.warnings)
    facts |= {**report.describe_result(image, found, plan.warnings), "files": files.list_outputs(outputs, objects, found)}
    facts |= {"finishing": [*map(vars, changes)], "seconds": clock.lap("track")}
    done = files.write(outputs, image, found, named.prompts, facts, objects=objects)
    clock.lap("write")
    return _tell_result(facts, done, json=json)


def _tell_result(facts: Mapping[str, Any], done: files.OutputWriter, *, json: bool) -> int:
    """What came out, what files do not hold of it, and which could not be written; the exit code."""
    facts = done.correct(facts)
    report.print_review(facts["look_here"])
    report.print_warnings(done.notes)
    report.print_report(facts, report.result_text(facts), json=json)
    for line in done.failed.values():
        report.print_note(plain(line))
    return done.code


def _check(file: Path, outputs: OutputOptions, prompts: PromptOptions, options: InferenceOptions) -> None:
    """All about the files that can be known before the image is read: first what is read, then what is written."""
    masks = (split_page(str(word))[0] for word in prompts.mask)
    earlier, point = (None, None) if prompts.correct is None else split_page(str(prompts.correct))
    inputs = [file, *masks, *(path for path in (prompts.prompts, earlier) if path is not None)]
    files.check_files(inputs, earlier if point is None else None, outputs)  # its other time points would be lost
    files.check_memory_for_libraries()
    if options.overlap:
        files.check_overlap(outputs)
        if options.priority:
            raise ConfigError("--priority changes nothing: --overlap gives a voxel to every object", "leave one of them out")
    if prompts.correct is None:
        options.check_effects()
        return
    if outputs.probability or outputs.uncertainty:
        raise ConfigError("a correction makes no probability and no uncertainty", "leave these outputs out")
    of_several = {
        "--views": several_named(options.views),
        "--fusion": options.fusion != AS_USUAL.fusion,
        "--every-slice": options.every_slice,
        "--islands": options.islands,
        "--overlap": options.overlap,
        "--priority": options.priority,
    }
    for option, given in of_several.items():
        if given:
            raise ConfigError(
                f"{option} changes nothing: a correction is tracked slice by slice in the plane of its prompts", "leave it out"
            )


def _check_objects(named: NamedPrompts, earlier: Volume | None, outputs: OutputOptions, options: InferenceOptions) -> list[int]:
    """All objects, prompted or there before, when what is said of them holds, and their files can be written."""
    objects = sorted({*named.labels, *labels.labels_in(None if earlier is None else earlier.array)})
    files.check_further_files(outputs, named, objects)
    order_objects(options.priority, named.labels, named.names)
    if len(named.labels) == 1 and (options.priority or options.overlap):
        option = "--priority" if options.priority else "--overlap"
        raise ConfigError(f"{option} changes nothing: there is one object only", "leave it out")
    return objects


def _finishing_steps(
    finishing: FinishingOptions, image: Volume, named: NamedPrompts, objects: Sequence[int]
) -> dict[int, FinishingSteps]:
    """What is done to which object, if all of it can change something; of an earlier result's other ones to those it names."""
    asked = FinishingSettings(**vars(finishing))
    words: dict[str, Any] = {
        option: tuple(w for w in own if "=" in w) for option, own in vars(asked).items() if own not in (True, False)
    }
    naming = replace(asked, fill_holes=False, largest=False, **words).steps(objects, named.names)
    usual = asked.steps(objects, named.names)
    steps = naming | {label: own for label, own in usual.items() if label in named.labels}
    for own in steps.values():
        own.check(image.spacing_mm)
    return steps


def _read(
    file: Path, reading: Reading, prompts: PromptOptions, outputs: OutputOptions
) -> tuple[Volume, Volume | None, NamedPrompts]:
    """The image, an earlier result, and the prompts in them."""
    image = files.read(file, reading)
    refuse_blank(image)  # before weights are fetched, and in a dry run
    # some formats cannot be written beside some images, such as a DICOM-SEG of images that it cannot refer to
    registry.writer_of(outputs.output, outputs.format).check_source(image, outputs.output)
    if prompts.correct is None:
        return image, None, volume_prompts(prompts, image, None)
    earlier, described = _read_earlier(prompts.correct, image)
    named = volume_prompts(prompts, image, earlier)
    names = {outline.label: outline.name for outline in described if outline.name}
    colours = {outline.label: outline.colour for outline in described if outline.colour}
    told = dict.fromkeys((*earlier.warnings, *(note for outline in described for note in outline.notes)))
    notes = (*(note for note in told if note not in image.warnings), *named.notes)
    return image, earlier, replace(named, names={**names, **named.names}, colours={**colours, **named.colours}, notes=notes)


def _read_earlier(file: Path, image: Volume) -> tuple[Volume, list[Outline]]:
    """The result that is corrected, and its objects' names; --frame is of the image, and picks none of its time points."""
    path, point = split_page(str(file))
    with files.naming(path), naming_pages(path, "--correct"):
        return io.load_named_labels(path, image, frame=point)


def _track(
    segmenter: "Segmenter",
    image: Volume,
    named: NamedPrompts,
    options: InferenceOptions,
    *,
    plan: "VolumePlan",
    outputs: OutputOptions,
    earlier: Volume | None,
    quiet: bool,
) -> Segmentation:
    with report.Progress(quiet=quiet) as progress, gathering_unkept() as unkept:
        found = segmenter.segment_volume(
            image,
            named.prompts,
            views=options.views,
            bank=options.bank,
            fusion=options.fusion,
            window=options.window,
            earlier=None if earlier is None else label_grid.integers(earlier.array, None),
            probability=outputs.probability is not None,
            uncertainty=outputs.uncertainty is not None,
            islands=options.islands,
            consensus=options.consensus,
            zoom=not options.whole_slices,
            every_slice=options.every_slice,
            overlap=options.overlap,
            priority=options.priority,
            features=options.features,
            names=named.names,
            plan=plan,
            on_frame=progress,
        )
    return replace(found, colours=named.colours, warnings=(*found.warnings, *unkept))


class _Clock:
    """Seconds of each part."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> dict[str, float]:
        """End a part; all that are over, as they go on."""
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 3), now
        return self.laps


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

    What was marked for a look comes first, with the reason: images in colour among grey ones, slices that may have leaked.

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
        files.check_memory_for_libraries()
        from medical_sam2.cli import network  # torch takes seconds to load: not for a report, nor for a mistyped path

        axis, needs, marked = network.weigh_slices(image, named, options)
        ranked = _marked_first(needs, marked, count)
        rows = [{"slice": need.index, "axis": axis, **_facts(need, UNSURE * (need.index in marked))} for need in ranked]
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
        images = [*images, *facts.get("earlier", [])]
        needs = [
            Need(i, min(map(float, each["confidence"].values())), float(each["likeness"]))
            for i, each in enumerate(images)
            if not each["prompted"] and not each["blank"]  # one without anything on it is no template
        ]
        look = facts.get("deserve_a_look", [])
        marked = {i: UNLIKE[each["in_colour"]] for i, each in enumerate(images) if each["image"] in look}
        ranked = _marked_first(needs, marked, count)
        return [{"image": str(images[need.index]["image"]), **_facts(need, marked.get(need.index, ""))} for need in ranked]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise FormatError("this report is damaged", "make it again", subject=file) from None


def _marked_first(needs: Sequence[Need], marked: Container[int], count: int) -> list[Need]:
    """The neediest of those that segmenting marked for a look, then of the others."""
    ours, others = ([need for need in needs if (need.index in marked) == wanted] for wanted in (True, False))
    return [*neediest(ours, count), *neediest(others, count)][:count]


def _facts(need: Need, reason: str) -> dict[str, Any]:
    return {"confidence": round(need.confidence, 4), "likeness": round(need.likeness, 6), "reason": reason or None}


def _lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["nothing: everything that was outlined was prompted"]
    places = [row["image"] if "image" in row else f"slice {row['slice']} of axis {row['axis']}" for row in rows]
    return [
        f"{place}   confidence {row['confidence']:.2f}, likeness to what is prompted {row['likeness']:.3f}"
        + (f"; {row['reason']}" if row["reason"] else "")
        for place, row in zip(places, rows, strict=True)
    ]

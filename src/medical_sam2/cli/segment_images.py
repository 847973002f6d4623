"""`medsam2 segment-images`: outline what was pointed at on one image in all images of a folder."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from medical_sam2 import preview
from medical_sam2.batch import LabelMapRecord, RunHash, hash_files, read_record, record_text
from medical_sam2.cli import plain, report
from medical_sam2.cli.files import (
    OutputWriter,
    Saver,
    SetOutputOptions,
    as_json,
    check_memory_for_libraries,
    check_place,
    check_suffix,
    same,
)
from medical_sam2.cli.options import FLAG, SetInferenceOptions
from medical_sam2.cli.prompts import SetPromptOptions, SetPrompts, set_prompts
from medical_sam2.errors import ConfigError, InputError, MedicalSam2Error, gathering_unkept, list_first, say_count
from medical_sam2.intensity_window import named_window
from medical_sam2.io import atomic, registry, voxels
from medical_sam2.io.annotations import AnnotatedImage
from medical_sam2.io.image_folder import ImageFolder, open_folder
from medical_sam2.io.labels import read_label_map, save_label_map
from medical_sam2.io.registry import Format, Picture

if TYPE_CHECKING:
    from medical_sam2.segmenter import Segmenter
    from medical_sam2.tracking.image_set import ImageMask, Order

NO_PROMPTS, AS_USUAL = SetPromptOptions(), SetInferenceOptions()
TINT, TINTED = 8, 0.01  # of 255: channels that differ by less are grey; share of the pixels that make an image coloured
TURNED = "viewers turn this image (EXIF orientation), and annotations are of its pixels as they are stored"
FILES = {"preview": (".png", ".jpg", ".jpeg"), "statistics": (".csv", ".json"), "report": (".json",)}


def segment_images(
    folder: Path,
    /,
    *,
    outputs: SetOutputOptions,
    prompts: SetPromptOptions = NO_PROMPTS,
    options: SetInferenceOptions = AS_USUAL,
    json: Annotated[bool, FLAG] = False,
    quiet: Annotated[bool, FLAG] = False,
    dry_run: Annotated[bool, FLAG] = False,
) -> int:
    """Outline one or several objects in all images of a folder, from one image on which they are pointed at.

    PNG, JPEG, TIFF, BMP, DICOM and NIfTI images of any sizes, grey or in colour. An image that cannot be read stops nothing: it
    is named at the end, and the exit code is then 2 (3 where memory was short). A further --template with a click corrects.

    Args:
        folder: with the images.
        json: print what was done as one JSON object.
        quiet: show no progress.
        dry_run: check files, prompts and weights, say what would be done, and compute nothing.
    """
    images = open_folder(folder)
    run = _SetRun(images, images.outputs(outputs.output), outputs, report.Sheet() if outputs.preview is not None else None)
    run.skipped = set(_check(images, run.files, outputs))
    _check_annotations(run)
    run.prompts = set_prompts(prompts, images)
    _check_masks(run)
    check_memory_for_libraries()
    from medical_sam2.cli import network  # torch takes seconds to load: not for a mistyped path

    network.check_set_settings(options)
    _check_window(run, options.window)
    segmenter = network.load_segmenter(options)
    lacking = options.consensus and segmenter.set_consensus is None
    options = replace(options, consensus=options.consensus and not lacking)
    run.hash = network.hash_set_run(options, run.prompts, images)
    run.notes = _check_skipped(run)
    run.settings = report.describe_set_run(images, run.prompts, options) | network.describe_network(options, segmenter)
    if dry_run:
        report.print_report({**run.settings, "dry_run": True}, _dry_run_text(run.settings, run), json=json)
        return 0
    if lacking:
        report.print_note("no consensus: these weights bring none for sets of images")
    run.show_earlier(network.recall_image)
    run.outline(segmenter, options, network.visiting_order(options), quiet=quiet)
    facts = run.facts(options)
    written = run.finish(facts)
    report.print_report(facts, report.set_result_text(facts, written), json=json)
    return run.code


# Label maps among the images would be images of the next run; what is there is replaced only if somebody says so.
def _check(images: ImageFolder, files: list[Path], outputs: SetOutputOptions) -> list[int]:
    """Refuse what could not be written or would destroy something; the images whose label maps are there already."""
    folder = outputs.output
    if same(folder, images.folder):
        raise InputError("the label maps would lie among the images", "choose another folder", subject=folder)
    atomic.check_folder(folder, "the label maps")
    if outputs.skip_existing and outputs.overwrite:
        raise ConfigError("--skip-existing and --overwrite contradict each other", "give one of them")
    for option, suffixes in FILES.items():
        path = getattr(outputs, option)
        if path is not None:
            check_suffix(path, suffixes)
            if same(path.parent, images.folder):
                raise InputError(f"--{option} would lie among the images", "choose another folder", subject=path)
            if path.parent.exists() or not same(path.parent, folder):
                check_place(path, outputs.overwrite or outputs.skip_existing)
    there = [i for i, file in enumerate(files) if file.exists()]
    if there and not (outputs.overwrite or outputs.skip_existing):
        problem = f"{say_count(len(files), 'label map', 'exist', part=len(there))} already, {files[there[0]].name} among them"
        raise InputError(problem, "say --skip-existing or --overwrite", subject=folder)
    return there if outputs.skip_existing else []


# What was made otherwise may have been corrected by hand since: nobody mixes it with other results, or replaces it, unasked.
def _check_skipped(run: "_SetRun") -> list[str]:
    """What is to be told of label maps that stay.

    Raises:
        InputError: some were made with other settings, weights or prompts, or of other images.
    """
    run.records = {i: record for i in sorted(run.skipped) if (record := read_record(run.files[i])) is not None}
    if others := [run.files[i].name for i, record in run.records.items() if record.run.key != run.hash.key]:
        some = say_count(len(run.skipped), "label map", "were", part=len(others))
        problem = f"{some} made with other {_describe_changes(run)}: {list_first(others)}"
        remedy = "choose another folder, or do all again with --overwrite"
        raise InputError(problem, remedy, subject=run.outputs.output)
    entries = run.images.entries
    if changed := [entries[i].name for i, record in run.records.items() if record.image != hash_files([entries[i].file])]:
        problem = f"{say_count(len(changed), 'image', 'were')} replaced since the earlier run: {list_first(changed)}"
        raise InputError(problem, "remove those label maps, or do all again with --overwrite", subject=run.images.folder)
    notes: list[str] = []
    if unknown := [run.files[i].name for i in sorted(run.skipped - run.records.keys())]:
        told = "left out of preview, statistics and report, as nothing tells how they were made"
        notes.append(f"{say_count(len(unknown), 'label map', 'are')} {told}: {list_first(unknown)}")
    return notes


def _describe_changes(run: "_SetRun") -> str:
    """What label maps of an earlier run were made otherwise with, as far as they tell."""
    known = [record.run.parts for record in run.records.values() if record.run.key != run.hash.key]
    changed = [part for part, own in run.hash.parts.items() if any(parts.get(part) != own for parts in known)]
    if all(known) and changed:
        return " and ".join(filter(None, [", ".join(changed[:-1]), changed[-1]]))
    return "settings, weights or prompts"


# Outlines of an earlier run beside label maps of this one would be taken for its own by whatever program opens them.
def _check_annotations(run: "_SetRun") -> None:
    """Refuse formats that do not exist, and files of annotations that do; where these may be replaced, all of them are."""
    run.annotations = registry.annotation_formats(run.outputs.annotations)
    asked = run.annotation_files()
    others = [format for format in registry.annotation_formats() if asked.keys().isdisjoint(run.annotation_files([format]))]
    run.renewed = [format for format in others if any(path.exists() for path in run.annotation_files([format]))]
    run.annotations += run.renewed
    if run.outputs.overwrite or run.outputs.skip_existing:
        return
    if there := [path for path in run.annotation_files() if path.exists()]:
        raise InputError("exists already", "choose another folder, or replace it with --overwrite", subject=there[0])


def _check_masks(run: "_SetRun") -> None:
    """Refuse results that would replace a mask, or one another."""
    tables = list(run.tables().values())
    for written in [*run.files, *tables]:
        if any(same(written, mask) for mask in run.prompts.files):
            raise InputError("would replace a mask that is read", "choose another folder for the results", subject=written)
    among = [mask for mask in run.prompts.files if any(same(mask, entry.file) for entry in run.images.entries)]
    if among:
        raise InputError("this mask lies among the images and would be taken for one", "move it elsewhere", subject=among[0])
    for place, path in enumerate(tables):
        if any(same(path, other) for other in [*run.files, *tables[:place]]):
            raise InputError("two results would be the same file", "choose another name", subject=path)


# Images are asked for, the prompted ones first, until one is grey: mostly the first one is.
def _check_window(run: "_SetRun", window: str) -> None:
    """Refuse a window of grey values where all images that can be read are in colour."""
    if named_window(window) is None:
        return
    for i in dict.fromkeys([*run.prompts.prompts, *range(len(run.images))]):
        with suppress(MedicalSam2Error):  # it is named when its turn comes
            if not run.images.picture(i).colour:
                return
    raise ConfigError("--window changes nothing: it is of grey values, and all images are in colour", "leave it out")


def _dry_run_text(facts: dict[str, Any], run: "_SetRun") -> str:
    """What would be done, for people."""
    lines = [f"images   {len(run.images)} in {run.images.folder}"]
    if run.images.others:
        lines.append(f"         other files and folders, left alone: {len(run.images.others)}")
    for i, own in sorted(run.prompts.prompts.items()):
        lines.append(f"template {run.images.entries[i].name}: object {', '.join(map(str, sorted(own)))}")
    weights = facts["weights"]
    lines += [f"weights  {weights['name']} at {weights['image_size']} px", f"device   {facts['device']}"]
    lines.append(f"would write {say_count(len(run.images) - len(run.skipped), 'label map')} to {run.outputs.output}")
    lines += [f"would write {path}" for path in [*run.tables().values(), *run.shown_annotations()]]
    return "\n".join([*lines, "nothing was computed"]) + "\n"


def _is_in_colour(picture: Picture) -> bool:
    """Whether its channels differ on more than a few pixels: a grey image may be stored as red, green and blue, too."""
    return picture.colour and bool((np.ptp(picture.array, axis=2) > TINT).mean() > TINTED)


@dataclass
class _SetRun:
    """A set that is being outlined: each label map is written as soon as it is there."""

    images: ImageFolder
    files: list[Path]
    outputs: SetOutputOptions
    sheet: report.Sheet | None
    prompts: SetPrompts = field(default_factory=lambda: SetPrompts({}, {}, ()))
    skipped: set[int] = field(default_factory=set[int])
    annotations: list[Format] = field(default_factory=list[Format])
    renewed: list[Format] = field(default_factory=list[Format])
    done: dict[int, Mapping[int, float]] = field(default_factory=dict[int, Mapping[int, float]])
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    earlier: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    measured: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    failed: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    stored_in_colour: set[int] = field(default_factory=set[int])
    in_colour: dict[int, bool] = field(default_factory=dict[int, bool])
    hash: RunHash = field(default_factory=lambda: RunHash(""))
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    start: float = field(default_factory=time.perf_counter)
    notes: Sequence[str] = ()
    records: dict[int, LabelMapRecord] = field(default_factory=dict[int, LabelMapRecord])
    writing: OutputWriter = field(default_factory=OutputWriter)
    code: int = 0

    def tables(self) -> dict[str, Path]:
        """Option → file, of those that speak of all images."""
        return {option: path for option in FILES if (path := getattr(self.outputs, option)) is not None}

    def annotation_files(self, formats: Sequence[Format] | None = None) -> dict[Path, tuple[Format, Sequence[int]]]:
        """File of annotations → its format, and the images in it; of all that are written, or of these formats."""
        found: dict[Path, tuple[Format, Sequence[int]]] = {}
        for format in self.annotations if formats is None else formats:
            if format.of_each_image:
                found |= {file.with_suffix(format.annotated): (format, (i,)) for i, file in enumerate(self.files)}
            else:
                found[self.outputs.output / f"annotations{format.annotated}"] = format, range(len(self.files))
        return found

    def shown_annotations(self, formats: Sequence[Format] | None = None) -> list[Path]:
        """The same in few words."""
        shown = self.annotations if formats is None else formats
        return [self.outputs.output / f"{'*' if each.of_each_image else 'annotations'}{each.annotated}" for each in shown]

    def annotation_warnings(self) -> list[str]:
        """What lay there of an earlier run: annotations that were made anew, and files of unknown formats, which were not."""
        told = "annotations of an earlier run were made anew, with the names of this one: "
        lines = [told + list_first([str(path) for path in self.shown_annotations(self.renewed)])] if self.renewed else []
        written = {*self.files, *self.tables().values(), *self.annotation_files()}
        stems = {"annotations", *(file.stem for file in self.files)}
        beside = sorted(
            path
            for path in self.outputs.output.glob("*")
            if not stems.isdisjoint(accumulate(path.name.split("."), "{}.{}".format))
            or (path.suffix == ".png" and path.is_file() and read_record(path) is not None)  # of an image that is gone
        )
        if left := [path.name for path in beside if path not in written]:
            lines.append(f"left as {'it is' if len(left) == 1 else 'they are'}, maybe of an earlier run: {list_first(left)}")
        return lines

    # Made of the label maps on the disk, one after the other: those of an earlier run count too, and none is kept in memory.
    def _write_annotations(self) -> None:
        """All files of annotations, of the images whose label maps this run or an earlier one has made."""
        there = {*self.done, *self.skipped}
        for path, (format, images) in self.annotation_files().items():
            if wanted := [i for i in images if i in there]:
                self.writing.save([(path, partial(self._annotate, format, wanted))])

    def _annotate(self, format: Format, images: Sequence[int], path: Path) -> None:
        atomic.write_bytes(path, format.annotate(map(self._annotated, images), self.prompts.names))

    def _keep_finished(self, options: SetInferenceOptions) -> None:
        """After an interrupt or an error: all files that tell of what is finished, and how much that is."""
        self._write_annotations()  # what stopped the run is to be reported, not what cannot be written now
        if self.done and self.tables():
            self._write_tables({**self.facts(options), "interrupted": True})
            if written := [str(path) for path in self.tables().values() if path not in self.writing.failed]:
                report.print_note(f"of what is finished, wrote {', '.join(written)}")
        if self.done:
            outlined = sum(not row["blank"] for row in (*self.earlier, *self.rows))
            done = f"{say_count(len(self.images), 'image', 'are', part=outlined)} outlined"
            others = sum(file.exists() for i, file in enumerate(self.files) if i not in self.done)
            if self.outputs.overwrite and others:
                report.print_note(
                    f"{done}; {say_count(others, 'label map', 'are')} still of before: do all again with --overwrite"
                )
            else:
                report.print_note(f"{done}; --skip-existing goes on with the others")

    def _annotated(self, i: int) -> AnnotatedImage:
        labels, source = read_label_map(self.files[i]), f"{self.images.folder.resolve().name}/{self.images.entries[i].name}"
        return AnnotatedImage(i + 1, source, voxels.compact(labels), self._sure(i))  # type: ignore[arg-type]  # of a PNG

    def _sure(self, i: int) -> Mapping[int, float]:
        """Object → confidence, of this run or of an earlier one."""
        return self.records[i].confidence if i in self.records else self.done.get(i, {})

    def outline(self, segmenter: "Segmenter", options: SetInferenceOptions, order: "str | Order", *, quiet: bool) -> None:
        """All images, then their annotations; what is finished is kept, whatever stops the run."""
        try:
            self._follow(segmenter, options, order, quiet=quiet)
        except BaseException:
            self._keep_finished(options)
            raise
        self._write_annotations()

    def _follow(self, segmenter: "Segmenter", options: SetInferenceOptions, order: "str | Order", *, quiet: bool) -> None:
        """All images, each written as it is made; errors that stop everything name the templates."""
        todo = set(range(len(self.images))) - self.skipped
        found = segmenter.segment_images(
            self.images,
            self.prompts.prompts,
            bank=options.bank,
            order=order,
            only=todo,
            consensus=options.consensus,
            features=options.features,
            window=options.window,
            modality=lambda i: self.images.picture(i).modality,
            on_error=self.note_failure,
        )
        try:
            with report.Progress(quiet=quiet) as progress, gathering_unkept() as unkept:
                for done, each in enumerate(found, start=1):
                    self.keep(each)
                    progress.update(self.images.entries[each.index].name, done, len(todo), "images")
            self.notes = [*self.notes, *unkept]
        except MedicalSam2Error as error:
            templates = ", ".join(self.images.entries[i].name for i in sorted(self.prompts.prompts))
            raise error.about(templates) from None

    def keep(self, found: "ImageMask") -> None:
        """Write and note one result; a template whose label map is there stays as it is."""
        i, name = found.index, self.images.entries[found.index].name
        picture = self.images.picture(i)
        self._note_colour(found)
        if i in self.skipped:
            return
        self.outputs.output.mkdir(exist_ok=True)
        save_label_map(found.labels, self.files[i], picture.turned, record_text(self.hash, self.images.entries[i].file, found))
        self.done[i] = found.confidence
        self.rows.append(self._row(found))
        notes = (TURNED,) if self.annotations and picture.turned != 1 else ()
        report.print_warnings((*picture.warnings, *found.warnings, *notes), f"{name}: ")
        self._show(found)

    def _note_colour(self, found: "ImageMask") -> None:
        """Whether an image is in colour, of this run or of an earlier one; a blank one is neither that nor grey."""
        picture = self.images.picture(found.index)
        if picture.colour:
            self.stored_in_colour.add(found.index)
        if found.window is not None:
            self.in_colour[found.index] = _is_in_colour(picture)

    def _row(self, found: "ImageMask") -> dict[str, Any]:
        """An image in the report."""
        i = found.index
        return report.image_row(self.images.entries[i].name, found, self.files[i], in_colour=self.in_colour.get(i))

    def _show(self, found: "ImageMask") -> None:
        """An image in the statistics and on the sheet."""
        i, name = found.index, self.images.entries[found.index].name
        if self.outputs.statistics is not None:
            self.measured += report.measure_image(name, self.images.picture(i), found, self.prompts.names)
        if self.sheet is not None:
            self.sheet.add(self.images[i], found, name)

    def show_earlier(self, recall: "Callable[[LabelMapRecord, int, NDArray[np.unsignedinteger]], ImageMask]") -> None:
        """Show what an earlier run outlined, too."""
        for i, record in self.records.items():
            try:
                found = recall(record, i, read_label_map(self.files[i]))  # type: ignore[arg-type]  # of a PNG
                self._note_colour(found)
                self.earlier.append(self._row(found))
                self._show(found)
            except MedicalSam2Error as error:
                self.note_failure(i, error)

    def facts(self, options: SetInferenceOptions) -> dict[str, Any]:
        """What was done, for the report."""
        return {
            **self.settings,
            "images": self.rows,
            "earlier": self.earlier,
            "failed": self.failed,
            "skipped": len(self.skipped),
            "deserve_a_look": [self.images.entries[i].name for i in self.unlike()],
            "warnings": [
                *(*self.notes, *self.annotation_warnings(), *self.unremembered_warnings(options.bank)),
                *(*self.window_warnings(options.window), *self.colour_warnings()),
                *report.describe_sizes([*self.earlier, *self.rows]),
            ],
            "seconds": round(time.perf_counter() - self.start, 3),
        }

    def unremembered_warnings(self, bank: str) -> list[str]:
        """How many images of an earlier run could not teach this one anything, where it outlined others."""
        unseen, new = (set(each) - self.prompts.prompts.keys() for each in (self.skipped, self.done))
        if bank == "prompted" or not unseen or not new:
            return []
        told = "not remembered, as label maps were there already: the others may come out otherwise than in one run"
        return [f"{say_count(len(unseen), 'image', 'are')} {told} (not so with --bank prompted)"]

    def window_warnings(self, window: str) -> list[str]:
        """That a window was asked for which images in colour were not seen through, if there are some."""
        coloured = self.stored_in_colour & self.reported
        if not coloured or named_window(window) is None:
            return []
        counted = say_count(len(self.reported), "image")
        return [f"--window {window} left {len(coloured)} of {counted} as they are: they are in colour"]

    @property
    def reported(self) -> set[int]:
        """The images that the report tells of: of this run, and of earlier ones that left word of how they went."""
        return {*self.done, *self.records}

    def seen(self) -> list[int]:
        """Those of them that are grey or in colour: a blank one is neither."""
        return sorted(self.reported & self.in_colour.keys())

    def unlike(self) -> list[int]:
        """The images in colour where all that is prompted is grey, or the other way round."""
        shown = {self.in_colour[i] for i in self.prompts.prompts if i in self.in_colour}
        return [i for i in self.seen() if len(shown) == 1 and self.in_colour[i] not in shown]

    def colour_warnings(self) -> list[str]:
        """How many images those are, if there are some: masks there look plausible, and are wrong more often."""
        if not (unlike := self.unlike()):
            return []
        kinds = ("in colour", "grey") if self.in_colour[unlike[0]] else ("grey", "in colour")
        names = list_first([self.images.entries[i].name for i in unlike])
        counted = say_count(len(self.seen()), "image", "are", part=len(unlike))
        masks = (
            "its mask is wrong more often and deserves" if len(unlike) == 1 else "their masks are wrong more often and deserve"
        )
        return [f"{counted} {kinds[0]} and what is prompted is {kinds[1]}: {masks} a look: {names}"]

    def note_failure(self, i: int, error: MedicalSam2Error) -> None:
        """Note an image that cannot be used."""
        self.failed.append({"image": self.images.entries[i].name, "problem": error.problem, "remedy": error.remedy})
        self.code = max(self.code, error.exit_code)

    def _write_tables(self, facts: dict[str, Any]) -> None:
        """Sheet, statistics and report, as far as they can be written; the report warns of what is not."""
        sheet, measured = self.sheet, self.measured
        makers: dict[str, Saver] = {
            "preview": lambda path: None if sheet is None else sheet.save(path, self.prompts.names),
            "statistics": lambda path: atomic.write_bytes(path, report.set_statistics(measured, path)),
        }
        self.writing.save((path, makers[option]) for option, path in self.tables().items() if option in makers)
        facts["warnings"] += self.writing.failed.values()
        if self.outputs.report is not None:
            self.writing.save([(self.outputs.report, lambda path: atomic.write_bytes(path, atomic.encode(as_json(facts))))])

    def finish(self, facts: dict[str, Any]) -> list[Path]:
        """Write what speaks of all images, tell what was noticed of the set, and name what failed."""
        report.print_warnings(facts["warnings"])
        self._write_tables(facts)
        if self.sheet is not None:
            report.print_warnings(preview.describe_lost_names(self.prompts.names))
        if self.images.others:
            named = ", ".join([*map(plain, self.images.others[:5]), *(["…"] if len(self.images.others) > 5 else [])])
            report.print_note(f"no images, left alone: {named}")
        for each in self.failed:
            report.print_note(plain(f"failed: {each['image']}: {each['problem']}; {each['remedy']}"))
        if self.failed:
            report.print_note(
                f"{len(self.failed)} of {say_count(len(self.images), 'image')} could not be used; the others are done"
            )
        if self.prompts.names and not self.annotations:
            report.print_warnings(["label maps do not hold names; --annotations coco does"])
        for line in self.writing.failed.values():
            report.print_note(plain(line))
        self.code = max(self.code, self.writing.code)
        written = [self.outputs.output, *self.tables().values(), *self.shown_annotations()]
        return [path for path in written if path not in self.writing.failed]

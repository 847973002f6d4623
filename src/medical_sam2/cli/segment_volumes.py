"""`medsam2 segment-volumes`: outline many volumes, each from its own prompts."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from cyclopts import Group, Parameter

from medical_sam2.batch import BatchSettings, TemplateFiles
from medical_sam2.batch.cases import FoundCases, check_cases, find_cases, find_faulty_rows
from medical_sam2.batch.outputs import join_names, load_outcome
from medical_sam2.batch.table import Check
from medical_sam2.cli import plain, report
from medical_sam2.cli.files import Reading, check_memory_for_libraries
from medical_sam2.cli.options import FLAG, REPEATED, FinishingOptions, InferenceOptions, check_threshold
from medical_sam2.errors import ConfigError, InputError, MedicalSam2Error, list_first, say_count
from medical_sam2.io.labels import MaskRule
from medical_sam2.io.registry import Options, read_grid, writer_of
from medical_sam2.io.safe_open import megabytes
from medical_sam2.tracking.finishing import FinishingSettings

if TYPE_CHECKING:
    from medical_sam2.batch.outputs import CaseOutcome
    from medical_sam2.batch.run import BatchEstimate, BatchJob, BatchRun, Existing

AS_USUAL, AS_IT_IS, AS_FOUND = InferenceOptions(), Reading(), FinishingOptions()
MOST_SHOWN = 5


@Parameter(name="*", group=Group("Prompts", sort_key=1))
@dataclass(frozen=True)
class BatchPromptOptions:
    """Where the prompts are.

    Args:
        prompts: of a folder: a table (.csv, .tsv, .jsonl), or a folder of prompt files or masks that are called as the images;
            unless given, NAME.prompts.json beside each image.
        template: an annotated volume (a path, or a file of the folder), whose objects are looked for in all others; those that
            are prompted in a case are not looked for there.
        mask: its label file; each label is an object; names and colours of segments and label tables are kept.
        channel: that is outlined, of images with several files (nnU-Net).
        threshold: what is at least this number in a mask is drawn, as one object (masks with soft edges).
        each_label: each number of a mask is an object, even where they look like soft edges.
    """

    prompts: Path | None = None
    template: Path | None = None
    mask: Path | None = None
    channel: int = 0
    threshold: float | None = None
    each_label: Annotated[bool, FLAG] = False


@Parameter(name="*", group=Group("Output", sort_key=2))
@dataclass(frozen=True)
class BatchOutputOptions:
    """What is written, and what is done with results that are there.

    Args:
        output: folder for the results; made where it is missing.
        layout: plain (NAME.nii.gz), bids (derivatives), nnunet (a data set to train on), or a plug-in.
        suffix: of the label files of the layout plain, which names their format.
        format: further format for that, a plug-in (module:attribute, file.py:attribute); again for more.
        skip_existing: go on: cases that are done stay, unless they were made with other settings or prompts, which is refused.
        redo_changed: go on, and do those again, but labels that were changed since (by hand?).
        overwrite: do all again.
    """

    output: Annotated[Path, Parameter(alias="-o")]
    layout: str = "plain"
    suffix: str = ".nii.gz"
    format: Annotated[tuple[str, ...], REPEATED] = ()
    skip_existing: Annotated[bool, FLAG] = False
    redo_changed: Annotated[bool, FLAG] = False
    overwrite: Annotated[bool, FLAG] = False

    def existing(self) -> "Existing":
        """What is done with cases that are done; raises ConfigError for two of these options."""
        known: Mapping[str, Existing] = {"skip_existing": "skip", "redo_changed": "redo changed", "overwrite": "overwrite"}
        given = [option for option in known if getattr(self, option)]
        if len(given) > 1:
            first, second = (f"--{option.replace('_', '-')}" for option in given[:2])
            raise ConfigError(f"{first} and {second} contradict each other", "give one of them")
        return known[given[0]] if given else "refuse"


@Parameter(name="*", group=Group("Sharing the work", sort_key=5))
@dataclass(frozen=True)
class SharingOptions:
    """Who does the work.

    Args:
        part: which of how many equal parts of the cases, such as 3/20 (for array jobs); each into the same folder.
        cluster: Ray's, an extra: local (processes of this machine), auto, or HOST:PORT; all machines see the same paths.
        workers: of that cluster; as many as fit unless given.
    """

    part: str | None = None
    cluster: str | None = None
    workers: int | None = None

    def check(self) -> None:
        """Refuse workers without a cluster, or none; raises ConfigError."""
        if self.workers is not None and self.cluster is None:
            raise ConfigError("--workers changes nothing: it belongs to --cluster", "leave it out")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"{self.workers} workers do nothing", "give --workers 1 or more")

    def share(self) -> tuple[int, int]:
        """Number and count of parts; raises ConfigError if there is no such part."""
        if self.part is None:
            return 1, 1
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", self.part)
        number, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= count:
            parts = f"1/{count} to {count}/{count}" if count else "1/20 to 20/20"
            raise ConfigError(f"--part {self.part} is no part", f"give NUMBER/COUNT, from {parts}")
        return number, count


def segment_volumes(
    what: Path,
    /,
    *,
    outputs: BatchOutputOptions,
    prompts: BatchPromptOptions = BatchPromptOptions(),
    options: InferenceOptions = AS_USUAL,
    reading: Reading = AS_IT_IS,
    finishing: FinishingOptions = AS_FOUND,
    sharing: SharingOptions = SharingOptions(),
    json: Annotated[bool, FLAG] = False,
    quiet: Annotated[bool, FLAG] = False,
    dry_run: Annotated[bool, FLAG] = False,
) -> int:
    """Outline objects in many volumes, each from its own prompts or all by one annotated volume; a failure costs its own case.

    A volume that cannot be outlined stops nothing: it has a row in results.csv, is named at the end, and the exit code is then
    2 (3 where memory was short, 4 where several readings are possible). Killed at any moment, it goes on with --skip-existing.

    Args:
        what: a table of prompts that names the images, or a folder of them: nnU-Net, BIDS, or any tree of volumes.
        json: print what was done as one JSON object.
        quiet: show no progress.
        dry_run: check all prompts and the weights, say how much time and memory it would take, and outline nothing.
    """
    existing, share = outputs.existing(), sharing.share()
    sharing.check()
    finish = FinishingSettings(**vars(finishing))
    _check_words(what, prompts, outputs, options, finish)
    found, grids = _find_and_check(what, prompts, outputs, reading, options, finish)
    from medical_sam2.batch import run  # torch takes seconds to load: not for a wrong row of a table

    given: dict[str, Any] = {**vars(options), **vars(reading), **vars(outputs), "finishing": finish}
    settings = BatchSettings(**{each.name: given[each.name] for each in fields(BatchSettings)})
    batch = run.BatchRun(found.cases, outputs.output, settings, existing=existing, part=share)
    _print_found(found, batch)
    segmenter = run.load_segmenter(settings) if batch.todo and (dry_run or sharing.cluster is None) else None
    if dry_run:
        cost = None if segmenter is None else run.estimate_run(batch, grids, segmenter)
        failing = _find_failing(batch, grids, Options(**vars(reading)))
        report.print_report(_facts(batch, cost), _dry_run_text(batch, cost, failing), json=json)
        return max((error.exit_code for error in failing.values()), default=0)

    def work(jobs: "Sequence[BatchJob]") -> "Iterator[CaseOutcome]":
        if sharing.cluster is None:
            return run.run_here(jobs, segmenter)
        return run.run_on_cluster(jobs, sharing.cluster, sharing.workers)

    code = _outline(batch, batch.outline(work), quiet=quiet)
    report.print_report(_facts(batch, None), _result_text(batch), json=json)
    return code


def _check_words(
    what: Path,
    prompts: BatchPromptOptions,
    outputs: BatchOutputOptions,
    options: InferenceOptions,
    finish: FinishingSettings,
) -> None:
    """Refuse options that would have no effect, or destroy something."""
    finish.check()
    options.check_effects()
    if options.overlap:
        raise ConfigError("--overlap: each case has one label map here", "outline it by `medsam2 segment --overlap`")
    check_threshold(prompts.threshold, each_label=prompts.each_label)
    if (prompts.template is None) != (prompts.mask is None):
        given, lacking = ("--template", "--mask LABELS") if prompts.mask is None else ("--mask", "--template IMAGE")
        raise ConfigError(f"{given} alone changes nothing: a template is an image and its labels", f"give {lacking}, too")
    if prompts.template is not None and options.adapt:
        raise ConfigError("--adapt tunes to an outline of each case, and a template's cases have none", "leave it out")
    if prompts.channel < 0:
        raise ConfigError(f"--channel {prompts.channel} is negative", "give 0 or more")
    if what.is_file() and prompts.channel:
        raise ConfigError("--channel changes nothing: the table names the images", "leave it out")
    if what.is_dir() and outputs.output.exists() and outputs.output.samefile(what):
        raise InputError("the results would lie among the images", "choose another folder", subject=outputs.output)


def _find_and_check(
    what: Path,
    prompts: BatchPromptOptions,
    outputs: BatchOutputOptions,
    reading: Reading,
    options: InferenceOptions,
    finish: FinishingSettings,
) -> tuple[FoundCases, dict[str, Any]]:
    """The cases, and their grids as far as headers tell; whatever is wrong with any of them is reported at once."""
    how = Options(**vars(reading))
    with _printing_notes():
        found = _find(what, prompts, outputs, lambda cases: find_faulty_rows(cases, how))
        grids = check_cases(found.cases, how, options.views, what if prompts.prompts is None else prompts.prompts)
    _check_finishing(found, grids, finish)
    _check_priority(found, grids, options.priority)
    _check_one_object(found, grids, outputs)
    if outputs.layout in ("bids", "nnunet"):  # which have one list of names; masks and templates tell theirs later
        join_names((case.name, case.known_names(grids[case.name])) for case in found.cases if case.name in grids)
    return found, grids


def _find(what: Path, prompts: BatchPromptOptions, outputs: BatchOutputOptions, check: Check) -> FoundCases:
    rule, own = MaskRule(None, prompts.threshold, prompts.each_label), [outputs.output]
    by = _template(what, prompts, rule)
    found = find_cases(what, prompts.prompts, channel=prompts.channel, rule=rule, leave_out=own, check=check, template=by)
    masks = by is not None or any("rule" in source.facts() for case in found.cases for source in case.prompts)
    if not masks and (prompts.each_label or prompts.threshold is not None):
        option = "--each-label" if prompts.each_label else "--threshold"
        raise ConfigError(f"{option} speaks of masks, and none was given", "leave it out")
    if prompts.channel and not any(case.channels for case in found.cases):
        raise ConfigError("--channel changes nothing: no image has several", "leave it out")
    check_memory_for_libraries()
    return found


def _template(what: Path, prompts: BatchPromptOptions, rule: MaskRule) -> TemplateFiles | None:
    """The annotated volume: where the path says, or in the folder."""
    if prompts.template is None or prompts.mask is None:
        return None
    image = next((path for path in (prompts.template, what / prompts.template) if path.exists()), None)
    for option, path, there in (("template", prompts.template, image), ("mask", prompts.mask, prompts.mask)):
        if there is None or not there.exists():
            raise InputError("does not exist", f"check the path of --{option}", subject=path)
    return TemplateFiles(cast(Path, image), prompts.mask, rule)


def _check_finishing(found: FoundCases, grids: Mapping[str, Any], finish: FinishingSettings) -> None:
    """Refuse millimetres that are less than the voxels of a case."""
    for case in found.cases:
        if case.name in grids:
            try:
                finish.check(grids[case.name].spacing_mm)
            except MedicalSam2Error as error:
                raise error.about(case.image) from None


def _check_priority(found: FoundCases, grids: Mapping[str, Any], priority: Sequence[str]) -> None:
    """Refuse an order of objects that changes no case, as far as prompts tell their objects without a mask being read."""
    if not priority:
        return
    known = [case.read_prompts(grids[case.name]) for case in found.cases if case.name in grids and not case.reads_masks]
    if len(known) < len(found.cases):
        return  # the others are checked in their turn
    several = [named for named in known if len(named.labels) > 1]
    for word in priority:
        if not any(word in (str(label), named.names.get(label)) for named in known for label in named.labels):
            raise ConfigError(f"priority: no case has an object called {word}", "name an object as its prompts do")
    if not several:
        raise ConfigError("--priority changes nothing: no case has several objects", "leave it out")


def _check_one_object(found: FoundCases, grids: Mapping[str, Any], outputs: BatchOutputOptions) -> None:
    """Refuse files of one object for cases of several, as far as prompts tell their objects without a mask being read."""
    if outputs.layout != "plain" or not writer_of(Path(f"case{outputs.suffix}"), outputs.format).one_object:
        return
    for case in found.cases:
        if case.name in grids and not case.reads_masks and len(case.read_prompts(grids[case.name]).labels) > 1:
            problem = f"{case.name} has several objects, and a file {outputs.suffix} holds one"
            raise ConfigError(problem, "take --suffix .obj, .nii.gz or .seg.nrrd")


@contextmanager
def _printing_notes() -> Iterator[None]:
    """Print the lines of an error that stands for several."""
    try:
        yield
    except MedicalSam2Error as error:
        for line in getattr(error, "__notes__", ()):
            report.print_note(plain(line))
        raise


def _print_found(found: FoundCases, run: "BatchRun") -> None:
    """What was guessed or left out, before hours are spent."""
    for note in found.notes:
        report.print_note(plain(note))
    earlier = tuple(each.case for each in run.others)
    for noun, verb, rest, names in (
        ("image", "are", "left alone, without prompts", found.unprompted),
        ("prompt file", "have", "no image", tuple(str(path) for path in found.unused)),
        ("case", "have", "labels that were changed since (by hand?), which stay and are measured anew", run.by_hand),
        ("case", "are", "in the folder from earlier runs, with rows in the tables, not in least_sure.png", earlier),
        ("case", "are", "done again, as settings, weights, prompts or images were others", run.changed),
        ("label map", "are", "of an earlier run of these cases, under another name, and left there", _superseded(run)),
    ):
        if names:
            told = f"{say_count(len(names), noun, verb)} {rest}: {list_first(names, MOST_SHOWN)}"
            report.print_note(plain(told))


def _superseded(run: "BatchRun") -> tuple[str, ...]:
    """Label maps of cases that are done again which lie elsewhere than the new ones will, as of another format."""
    left: list[str] = []
    for case in (job.case for job in run.todo):
        before = load_outcome(case.name, run.folder)
        if before and before.files and before.files[-1] != run.layout.labels(case, run.settings.suffix):
            left.append(before.files[-1])
    return tuple(left)


def _find_failing(run: "BatchRun", grids: Mapping[str, Any], how: Options) -> dict[str, MedicalSam2Error]:
    """Cases whose images cannot be read, or beside which results cannot be written, as far as headers tell, and why."""
    failing = dict[str, MedicalSam2Error]()
    for job in run.todo:
        labels = run.folder / run.layout.labels(job.case, run.settings.suffix)
        try:
            grid = grids[job.case.name] if job.case.name in grids else read_grid(job.case.image, how)
            if grid is not None:
                writer_of(labels, run.settings.format).check_source(grid, labels)
        except MedicalSam2Error as error:
            failing[job.case.name] = error.about(job.case.image)
            report.print_note(plain(f"would fail: {failing[job.case.name]}"))
    return failing


def _outline(run: "BatchRun", outcomes: "Iterator[CaseOutcome]", *, quiet: bool) -> int:
    """The exit code; failures are printed as they happen, and counted at the end."""
    failed = [each for each in run.done() if each.problem]
    for each in failed:
        report.print_note(plain(f"failed: {each.case}: {each.problem}"))
    with report.Progress(quiet=quiet) as progress, _telling_how_to_go_on(run):
        for done, outcome in enumerate(outcomes, start=1):
            progress.update(plain(outcome.case), done, len(run.todo), "cases")
            report.print_warnings(outcome.warnings, f"{outcome.case}: ")
            if outcome.problem:
                failed.append(outcome)
                report.print_note(plain(f"failed: {outcome.case}: {outcome.problem}"))
    if failed:
        report.print_note(f"{len(failed)} of {say_count(len(run.cases), 'case')} could not be outlined; the others are done")
    return max((each.exit_code for each in failed), default=0)


@contextmanager
def _telling_how_to_go_on(run: "BatchRun") -> Iterator[None]:
    """Where the run is stopped: how much is done, which its tables tell of."""
    try:
        yield
    except BaseException:
        if not run.began:  # there is nothing that tells of anything
            raise
        outlined = sum(not each.problem for each in run.done())
        sheet = "" if run.part else ", and makes the sheet of the least sure"
        told = f"{say_count(len(run.cases), 'case', 'are', part=outlined)} outlined, and in the tables"
        report.print_note(f"{told}; --skip-existing goes on with the others{sheet}")
        raise


def _facts(run: "BatchRun", cost: "BatchEstimate | None") -> dict[str, Any]:
    """What was done, or would be, for a program."""
    done = run.done()
    return {
        "version": 1,
        "kind": "volumes",
        "folder": str(run.folder),
        "cases": len(run.cases),
        "done": sum(not each.problem for each in done),
        "skipped": sum(each.skipped for each in done),
        "failed": [{"case": each.case, "problem": each.problem} for each in done if each.problem],
        **({} if cost is None else {"dry_run": True, "seconds": round(cost.seconds, 1), "bytes": cost.bytes}),
    }


def _result_text(run: "BatchRun") -> str:
    done = run.done()
    lines = [f"{sum(not (each.problem or each.skipped) for each in done)} of {say_count(len(run.cases), 'case')} outlined"]
    if skipped := sum(each.skipped for each in done):
        lines[0] += f", {skipped} were there already"
    if sought := [each for outcome in done for each in outcome.objects if each.template]:
        there = sum(each.voxels > 0 for each in sought)
        lines.append(
            f"{there} of {say_count(len(sought), 'object')} found by the template: look at the slices named in results.csv"
        )
    sure = sorted((each.surest, each.case) for each in done if each.objects)
    lines += ["least sure:" * bool(sure), *(f"  {share:.2f}  {case}" for share, case in sure[:3])]
    return "\n".join([line for line in (*lines, f"wrote {run.folder}") if line]) + "\n"


def _dry_run_text(run: "BatchRun", cost: "BatchEstimate | None", failing: Mapping[str, MedicalSam2Error]) -> str:
    lines = [f"cases    {len(run.cases)}, of which {len(run.cases) - len(run.todo)} are done"]
    for files in {job.case.template for job in run.todo if job.case.template is not None}:
        lines.append(f"template {files.image.name}, labels {files.mask.name}")
    todo = [job.case.name for job in run.todo if job.case.name not in failing]
    lines += [f"would outline {name}" for name in todo[:MOST_SHOWN]] + ["…"] * (len(todo) > MOST_SHOWN)
    if run.settings.adapt and (vain := sum(not job.case.reads_masks for job in run.todo)):
        lines.append(
            f"--adapt  does nothing for {vain} of {say_count(len(run.todo), 'case')}: it tunes to outlines, and they have none"
        )
    if cost is not None:
        how = "as the cases that are done" if cost.measured else "at most, by eight slices that were made up"
        lines.append(f"time     about {report.say_time(cost.seconds)} ({how})")
        lines.append(f"memory   about {megabytes(cost.bytes)}" if cost.bytes else "memory   unknown: no header tells a size")
    return "\n".join([*lines, "nothing was written"]) + "\n"

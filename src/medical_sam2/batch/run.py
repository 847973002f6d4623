"""Outline many cases, here or on a cluster: one failure for one case, and a second run does what the first did not.

```python
cases = find_cases(Path("scans"), Path("prompts.csv")).cases
for outcome in segment_cases(cases, Path("results"), BatchSettings(views="three"), existing="skip"):
    print(outcome.case, outcome.problem or outcome.objects)
```

A cluster is Ray's (an extra): one network for each worker, results written where they are made. All machines see the same
paths: images, prompts and the folder of the results lie on a shared disk. A worker that dies, or whose machine does, is started
anew and its case is outlined again; a case that fails costs its own row, as in one process.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from medical_sam2 import io
from medical_sam2.batch import (
    WITHOUT_EFFECT,
    BatchCase,
    BatchSettings,
    TemplateFiles,
    contents,
    hash_case,
    hash_content,
    hash_files,
    hash_weights,
)
from medical_sam2.batch.outputs import (
    REPORTS,
    CaseOutcome,
    begin_outcome,
    describe_objects,
    end_outcome,
    find_layout,
    is_begun,
    is_changed,
    is_current,
    load_others,
    load_outcome,
    measure_again,
    save_outcome,
    save_sheet,
    write_tables,
)
from medical_sam2.errors import (
    DEFECT,
    ConfigError,
    InputError,
    MedicalSam2Error,
    ResourceError,
    explain_refusal,
    gathering_unkept,
    list_first,
    say_count,
    spell_options,
)
from medical_sam2.intensity_window import named_window
from medical_sam2.io import atomic, registry
from medical_sam2.io.prompt_file import NamedPrompts
from medical_sam2.io.safe_open import require_memory
from medical_sam2.model.weights import weights_file
from medical_sam2.prompts import Box
from medical_sam2.segmenter import Segmenter, check_choices, load_by_settings
from medical_sam2.tracking.click_outline import JUDGE_FILE
from medical_sam2.tracking.confidence import SLICES_FILE
from medical_sam2.tracking.consensus import GATE_FILE
from medical_sam2.tracking.cropping import VolumePlan
from medical_sam2.tracking.finishing import FinishingChange, finish
from medical_sam2.tracking.growth import END_FILE
from medical_sam2.tracking.plan import bytes_needed, refuse_blank
from medical_sam2.tracking.template import SEARCHED, Template
from medical_sam2.train.adapt import adapt_to_outlines, warn_without_outlines
from medical_sam2.volume import Segmentation, Volume

ATTEMPTS = 3  # how often a case is tried whose worker dies
DIED = "its worker died each time, most likely for want of memory; give fewer --workers"
Existing = Literal["refuse", "skip", "redo changed", "overwrite"]


@dataclass(frozen=True)
class BatchJob:
    """A case that is to be outlined, wherever that is done."""

    case: BatchCase  # it
    folder: Path  # of the results
    settings: BatchSettings  # how
    key: str  # hash of all that its result depends on beside its image


def check_settings(settings: BatchSettings) -> None:
    """Refuse what does not exist; raises ConfigError."""
    check_choices(**vars(settings))
    named_window(settings.window)
    settings.finishing.check()


def load_segmenter(settings: BatchSettings) -> Segmenter:
    """The network, on its device; raises what `Segmenter.from_pretrained` does."""
    return load_by_settings(vars(settings))


def segment_cases(
    cases: Sequence[BatchCase],
    folder: Path,
    settings: BatchSettings | None = None,
    *,
    existing: Existing = "refuse",
    part: tuple[int, int] = (1, 1),
    segmenter: Segmenter | None = None,
) -> Iterator[CaseOutcome]:
    """Outline many cases, each written as it is done; an error costs its own case.

    Args:
        cases: images with their prompts, see `medical_sam2.batch.cases.find_cases`.
        folder: of the results; made where it is missing.
        settings: the usual ones unless given.
        existing: what is done with cases that are done: "refuse" all; "skip" them, but refuse those that were made with other
            settings, weights or prompts; "redo changed" of them, but those whose labels were changed since; "overwrite" all.
        part: which of how many equal parts of the cases, from 1: each part by another process, in the same folder.
        segmenter: with the weights of the settings, where one is loaded already.

    Yields:
        What came of each case of this part, in order, those that were done already left out.

    Raises:
        InputError: before anything is tracked: results that are there, a layout that the cases do not fit into, or settings
            that do not exist.
    """
    run = BatchRun(cases, folder, settings or BatchSettings(), existing=existing, part=part)
    yield from run.outline(lambda jobs: run_here(jobs, segmenter))


def run_here(jobs: Sequence[BatchJob], segmenter: Segmenter | None = None) -> Iterator[CaseOutcome]:
    """The jobs one after the other, by one network."""
    if jobs:
        network = segmenter or load_segmenter(jobs[0].settings)
        yield from (run_job(job, network) for job in jobs)


class BatchRun:
    """A run over many cases, and what is known of each.

    Args:
        cases, folder, settings, existing, part: see `segment_cases`.
    """

    def __init__(
        self,
        cases: Sequence[BatchCase],
        folder: Path,
        settings: BatchSettings,
        *,
        existing: Existing = "refuse",
        part: tuple[int, int] = (1, 1),
    ) -> None:
        self.cases, self.folder, self.settings = tuple(cases[part[0] - 1 :: part[1]]), folder, settings
        self.began = False  # whether its tables are there
        check_settings(settings)
        for files in {case.template for case in self.cases if case.template is not None}:
            if settings.adapt:
                problem = "--adapt tunes to an outline of each case, and a template's cases have none"
                raise ConfigError(problem, "leave it out")
            read_template(files, settings.reading)
        self.part = "" if part == (1, 1) else f"-{part[0]}-of-{part[1]}"
        self.layout = find_layout(settings.layout)
        registry.writer_of(Path(f"case{settings.suffix}"), settings.format)
        self.layout.check(cases, settings.suffix)
        done = {case.name: found for case in self.cases if (found := load_outcome(case.name, folder)) is not None}
        self._check_place(existing, done)
        own = _hash_settings(settings)
        self.jobs = [BatchJob(case, folder, settings, hash_case(case, own)) for case in self.cases]
        kept = {} if existing == "overwrite" else done
        by_hand = {name for name, found in kept.items() if is_changed(found, folder)}
        spared = by_hand if existing == "redo changed" else set[str]()  # somebody's work
        asked = [job for job in self.jobs if job.case.name in kept.keys() - spared]
        self.changed = tuple(job.case.name for job in asked if not is_current(kept[job.case.name], job.key, job.case, folder))
        if self.changed and existing != "redo changed":
            some = say_count(len(kept), "case", "were", part=len(self.changed))
            problem = f"{some} made with other settings, weights, prompts or images: {list_first(self.changed)}"
            raise InputError(problem, "say --redo-changed, or choose another folder", subject=folder)
        self.outcomes = {name: found for name, found in kept.items() if name not in self.changed}
        self.by_hand = tuple(case.name for case in self.cases if case.name in by_hand)
        images = {case.name: case.image for case in self.cases}
        self.outcomes |= {name: measure_again(kept[name], folder, images[name], settings.reading) for name in self.by_hand}
        self.others = () if self.part else load_others(folder, {case.name for case in cases})
        self.todo = [job for job in self.jobs if job.case.name not in self.outcomes]

    def _check_place(self, existing: Existing, done: Mapping[str, CaseOutcome]) -> None:
        """Refuse a folder that cannot be written, results that nobody said what to do with, and files of others."""
        atomic.check_folder(self.folder, "the results")
        if done and existing == "refuse":
            problem = f"{say_count(len(self.cases), 'case', 'are', part=len(done))} done already, {next(iter(done))} among them"
            raise InputError(problem, "say --skip-existing or --overwrite", subject=self.folder)
        for case in () if existing == "overwrite" else self.cases:
            labels = self.folder / self.layout.labels(case, self.settings.suffix)
            if case.name not in done and labels.exists() and not is_begun(case.name, self.folder):
                problem = f"exists already, and no report ({REPORTS}/{case.name}.json) tells that this command made it"
                raise InputError(problem, "move it elsewhere, choose another folder, or say --overwrite", subject=labels)

    def outline(self, work: Callable[[Sequence[BatchJob]], Iterator[CaseOutcome]]) -> Iterator[CaseOutcome]:
        """Do what is to be done; tables are whole after each case, whatever stops the run.

        Args:
            work: outlines jobs and gives their outcomes as they are made, in any order.

        Raises:
            InputError: another run is at one of the cases, or is about to begin it.
        """
        (self.folder / REPORTS).mkdir(parents=True, exist_ok=True)
        claims = atomic.claimed([job.case.name for job in self.todo], self.folder, self.folder / REPORTS / ".claims")
        with claims, atomic.occupied(self.folder, self.folder / REPORTS / ".lock"):
            for name in self.outcomes:
                end_outcome(name, self.folder)  # a run may have been killed just before it did so
            self._write_tables()
            self.began = True
            try:
                for outcome in work(self.todo):
                    self.outcomes[outcome.case] = outcome
                    self._write_tables()
                    yield outcome
            except BaseException:
                with suppress(MedicalSam2Error):  # what stopped the run is to be reported, not this
                    self._write_shared()
                raise
            self._write_shared()
            if not self.part:
                save_sheet(self.done(), {case.name: case for case in self.cases}, self.folder, self.settings.reading)

    def _write_tables(self) -> None:
        """Of these cases and those that earlier runs left, so that a shorter list of cases takes no row away."""
        with self._meeting_others():
            write_tables([*self.done(), *self.others], self.folder, self.part)

    @contextmanager
    def _meeting_others(self) -> Iterator[None]:
        """With what runs beside this one made since, and no other one that reads or writes what speaks of all cases."""
        with atomic.alone(self.folder / REPORTS / ".tables.lock"):
            known = {*(case.name for case in self.cases), *(each.case for each in self.others)}
            self.others += () if self.part else load_others(self.folder, known)
            yield

    def _write_shared(self) -> None:
        """What speaks of all cases is written by whoever does all of them."""
        if self.part:
            return
        place, suffix = self.layout.labels, self.settings.suffix
        with self._meeting_others():  # those count whose labels lie as this layout puts them
            beside = [each for each in self.others if each.files[-1] == place(BatchCase(each.case, self.folder), suffix)]
            for name, content in self.layout.describe([*self.done(), *beside], self.cases).items():
                atomic.write_bytes(self.folder / name, content.encode())

    def done(self) -> list[CaseOutcome]:
        """What is known of the cases, in their order."""
        return [self.outcomes[case.name] for case in self.cases if case.name in self.outcomes]


@dataclass(frozen=True)
class BatchEstimate:
    """What a run would take."""

    seconds: float  # about so long; at most, where nothing was done yet that could be measured
    bytes: int  # memory of the largest case; 0 where no header has a size
    measured: bool  # whether earlier cases of this folder tell the time


def estimate_run(run: BatchRun, grids: Mapping[str, Volume], segmenter: Segmenter) -> BatchEstimate:
    """Time and memory of what is to be done: from the cases that are done, or from eight slices that are made up.

    Args:
        run: with its jobs.
        grids: case → grid, as far as known; other cases count as the usual one.
        segmenter: the network.
    """
    size = segmenter.network.image_size
    todo = [grids[job.case.name] for job in run.todo if job.case.name in grids]
    memory = max(
        (bytes_needed(each, 1, size, probability=False, uncertainty=False) + each.array.nbytes for each in todo), default=0
    )
    if times := [sum(each.seconds.values()) for each in run.done() if each.seconds]:
        return BatchEstimate(median(times) * len(run.todo), memory, measured=True)
    views = {"three": 3, "auto": 3, "six": 6}.get(run.settings.views, 1)
    slices = [min(each.shape) if views == 1 else sum(each.shape) * views / 3 for each in todo]
    if any(job.case.template for job in run.todo):
        slices = [count + 2 * SEARCHED for count in slices]
    tuned = sum(job.case.reads_masks for job in run.todo)  # clicks and boxes are nothing to tune to
    seconds = _seconds_per_slice(segmenter) * (median(slices) if slices else 100) * len(run.todo) + run.settings.adapt * tuned
    return BatchEstimate(seconds, memory, measured=False)


def _seconds_per_slice(segmenter: Segmenter) -> float:
    """Of a bright block in eight slices."""
    array = np.random.default_rng(0).normal(0, 20, (64, 64, 8)).astype(np.float32)
    array[20:44, 20:44] += 200
    volume, start = Volume(array, np.diag([1.0, 1.0, 3.0, 1.0])), time.perf_counter()
    segmenter.segment_volume(volume, [Box((18, 18, 4), (46, 46, 4))], views="one")
    return (time.perf_counter() - start) / array.shape[2]


def read_template(files: TemplateFiles, reading: Mapping[str, Any]) -> Template:
    """An annotated volume; one that was read last is not read again, unless its files have changed.

    Raises:
        MedicalSam2Error: what reading image and labels does.
    """
    return _read_template(files, tuple(reading.items()), hash_files([files.image, files.mask]))


@lru_cache(maxsize=1)
def _read_template(files: TemplateFiles, reading: tuple[tuple[str, Any], ...], content: str) -> Template:
    image = io.load(files.image, **dict(reading))
    return Template(image, io.load_segmentation(files.mask, image, files.rule))


# Whatever goes wrong with a case stands in its row: the cases of a night must not depend on one of them.
def run_job(job: BatchJob, segmenter: Segmenter) -> CaseOutcome:
    """Outline a case and write its results; what it failed from is in the outcome."""
    try:
        outcome = _outline(job, segmenter)
        save_outcome(outcome, job.folder)
        return outcome
    except MedicalSam2Error as error:
        named = error.about(job.case.image)
        return CaseOutcome(job.case.name, problem=spell_options(str(named)), exit_code=named.exit_code)
    except Exception as error:
        defect = f"this is a defect of medsam2 ({type(error).__name__}); please report it", DEFECT
        problem, code = explain_refusal(error) or defect
        return CaseOutcome(job.case.name, problem=f"{job.case.image}: {problem}", exit_code=code)


def _outline(job: BatchJob, segmenter: Segmenter) -> CaseOutcome:
    settings, layout, case = job.settings, find_layout(job.settings.layout), job.case
    clock = [time.perf_counter()]
    image = io.load(case.image, **settings.reading)
    refuse_blank(image)  # before the network is tuned to it
    labels = layout.labels(case, settings.suffix)
    registry.writer_of(Path(labels), settings.format).check_source(image, job.folder / labels)
    named = case.read_prompts(image) if case.prompts or case.template is None else NamedPrompts(())
    template = None if case.template is None else read_template(case.template, settings.reading)
    image_sha256, size = hash_files(contents(case)), segmenter.network.image_size
    objects = {*named.labels, *(template.annotation.objects() if template else ())}
    require_memory(bytes_needed(image, len(objects), size, probability=False, uncertainty=False), case.image)
    clock.append(time.perf_counter())
    found, changes, unknown = _track_and_finish(image, named, template, segmenter, settings)
    clock.append(time.perf_counter())
    begin_outcome(case.name, job.folder)
    (job.folder / labels).parent.mkdir(parents=True, exist_ok=True)
    beside = layout.add_image(case, image, job.folder, settings.reading)
    notes = io.save(found, job.folder / labels, image, formats=settings.format)
    lost = [line for line in notes if not isinstance(line, registry.TableNote)]  # the table of results has names
    clock.append(time.perf_counter())
    read, track, write = (round(after - before, 3) for before, after in pairwise(clock))
    by = "" if case.template is None else case.template.name
    return CaseOutcome(
        case.name,
        tuple(replace(each, template="" if each.label in named.labels else by) for each in describe_objects(image, found)),
        (*beside, labels),
        tuple(dict.fromkeys(map(spell_options, (*image.warnings, *named.notes, *found.warnings, *unknown, *lost)))),
        finishing=changes,
        seconds={"read": read, "track": track, "write": write},
        key=job.key,
        image_sha256=image_sha256,
        labels_sha256=hash_files([job.folder / labels]),
        modality=image.modality,
    )


def _track_and_finish(
    image: Volume, named: NamedPrompts, template: Template | None, segmenter: Segmenter, settings: BatchSettings
) -> tuple[Segmentation, tuple[FinishingChange, ...], list[str]]:
    """The result, what finishing changed, and a warning for each object that it names, and each setting that is, in vain."""
    labels = sorted({*named.labels, *(template.annotation.objects() if template else ())})
    names = {**(template.annotation.names if template else {}), **named.names}
    settings.finishing.check(image.spacing_mm)
    steps = settings.finishing.steps(labels, names, known=False)
    plan = VolumePlan.of(image, named.prompts, settings.views) if named.prompts else None
    limits = plan.limits if steps and plan else {}
    unknown = settings.finishing.unknown(labels, names)
    first = tuple(word for word in settings.priority if word in map(str, labels) or word in names.values())
    unknown += [f"--priority {word}" for word in settings.priority if word not in first]
    tracking: dict[str, Any] = {**settings.tracking, "priority": first}
    adapted = adapt_to_outlines(segmenter.network, image, named.prompts, window=settings.window, seconds=settings.adapt)
    with adapted, gathering_unkept() as unkept:
        if template is None:
            found = segmenter.segment_volume(image, named.prompts, names=named.names, plan=plan, **tracking)
        else:
            found = segmenter.segment_by_template(image, template, named.prompts, names=named.names, **tracking)
    there = steps.keys() & {*named.labels, *found.objects()} if template else steps.keys()  # not all are found by a template
    found, changes = finish(found, {label: steps[label] for label in there}, named.prompts, limits)
    found = replace(found, colours={**found.colours, **named.colours})
    in_vain = [f"{word} does nothing: there is no such object" for word in unknown]
    return found, changes, [*unkept, *in_vain, *warn_without_outlines(named.prompts, settings.adapt)]


def _hash_settings(settings: BatchSettings) -> str:
    """Hash of all that results depend on beside image and prompts: settings, weights, their gate and their judges.

    Raises:
        WeightsError: there are no such weights.
    """
    given = {name: str(value) for name, value in asdict(settings).items() if name not in WITHOUT_EFFECT}
    return hash_content([given, hash_weights(weights_file(settings.weights), (GATE_FILE, SLICES_FILE, JUDGE_FILE, END_FILE))])


class CaseWorker:
    """Outlines cases with a network that is loaded once.

    Args:
        settings: of the run.
        place: folder that relative paths begin at.
    """

    def __init__(self, settings: BatchSettings, place: str) -> None:
        os.chdir(place)
        self._segmenter = load_segmenter(settings)

    def outline(self, job: BatchJob) -> CaseOutcome:
        """Outline a case and write its results."""
        return run_job(job, self._segmenter)


def run_on_cluster(jobs: Sequence[BatchJob], address: str, workers: int | None = None) -> Iterator[CaseOutcome]:
    """The jobs by the workers of a cluster, in the order in which they are done.

    Args:
        jobs: what is to be outlined; of one run.
        address: "local" for processes of this machine, "auto" for a cluster that this machine belongs to, or HOST:PORT.
        workers: how many; as many as fit unless given.

    Raises:
        ConfigError: there is no such cluster.
    """
    if not jobs:
        return
    import ray  # an extra, and seconds to load

    settings = jobs[0].settings
    with _connected(address):
        gpus = 0 if settings.device == "cpu" else int(ray.cluster_resources().get("GPU", 0))
        cpus = int(ray.cluster_resources().get("CPU", 1))
        threads = settings.threads or 1
        count = min(len(jobs), workers or gpus or max(1, cpus // threads))
        needs: dict[str, Any] = {"num_cpus": 1 if gpus else threads, "num_gpus": min(1.0, gpus / count) if gpus else 0}
        # a dead worker is started again by Ray, and its case with it, without a word from us
        hired: Any = ray.remote(**needs, max_restarts=-1, max_task_retries=ATTEMPTS - 1)(CaseWorker)
        idle, waiting = [hired.remote(settings, os.getcwd()) for _ in range(count)], list(reversed(jobs))
        busy = dict[Any, tuple[Any, BatchJob]]()
        while waiting or busy:
            while idle and waiting:
                worker, job = idle.pop(), waiting.pop()
                busy[worker.outline.remote(job)] = worker, job
            (done, *_), _ = ray.wait(list(busy))
            worker, job = busy.pop(done)
            idle.append(worker)
            yield _outcome_of(done, job)


def _outcome_of(answer: Any, job: BatchJob) -> CaseOutcome:
    import ray.exceptions

    try:
        return ray.get(answer)
    except ray.exceptions.RayActorError:
        return CaseOutcome(job.case.name, problem=f"{job.case.image}: {DIED}", exit_code=ResourceError.exit_code)


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """With a connection to a cluster; one of this machine is ended afterwards."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # else Ray reports to its makers
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises whatever it likes, a bare Exception among it
        problem = f"no cluster answers at {address} ({type(error).__name__})"
        raise ConfigError(problem, "give local, auto, or HOST:PORT of its head", subject="--cluster") from None
    try:
        yield
    finally:
        ray.shutdown()

"""Studies are planned and run: answers that several protocols share are made once, and those of a case come together.

A run that was stopped goes on: each row is a whole line of `rows.jsonl`, and what is there is not asked again. At the end the
short judgement after fine-tuning: cases that were held out, each structure from one prompt.
"""

import json
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np

from medical_sam2 import io
from medical_sam2.data.cases import run_jobs
from medical_sam2.data.data_sets import Case, DataSet
from medical_sam2.errors import ConfigError, PromptError
from medical_sam2.evaluate.answer import answer_job
from medical_sam2.evaluate.cases import SetTask, VolumeTask, draw_distractors, is_boxable, open_data_set
from medical_sam2.evaluate.figures import SKETCHES
from medical_sam2.evaluate.methods import MethodError, find_method, method_label
from medical_sam2.evaluate.protocols import Kind, spread_evenly
from medical_sam2.evaluate.study import (
    AnswerKey,
    EvaluationJob,
    EvaluationProgress,
    Row,
    Study,
    StudyResult,
    pack_rows,
    unpack_rows,
    write_rows,
)
from medical_sam2.io import Picture
from medical_sam2.io.atomic import write_bytes
from medical_sam2.prompts import Prompt
from medical_sam2.segmenter import Segmenter
from medical_sam2.volume import Volume

UNKNOWN = 64.0  # slices of a volume whose header is neither NIfTI's nor one of these, such as a DICOM series
SIZES = re.compile(rb"^(?:sizes:|DimSize *=)((?: *[0-9]+)+)\s*$", re.MULTILINE)  # of NRRD and of MetaImage
TOGETHER = 12  # answers that one process makes before it reports: they share what was encoded
DESCRIPTION, LINES = "protocol.json", "rows.jsonl"
MOST_IMAGES = 50
Answered: TypeAlias = list[Row] | MethodError | str
"""Rows of an answer; the fault of somebody's own method; a defect of this program, or how its process ended."""


@dataclass(frozen=True)
class Chunk:
    """Answers that one process makes, one after the other."""

    jobs: tuple[EvaluationJob, ...]  # of one structure of one case, or of a set
    cost: float  # slices or images to be tracked, as far as it is known


@dataclass(frozen=True, eq=False)
class StudyPlan:
    """All that is to be done."""

    jobs: tuple[tuple[EvaluationJob, ...], ...]  # of each study, in order
    skipped: tuple[dict[str, str], ...]  # of each study: what cannot be measured → why
    left_out: dict[str, str]  # data set → what of it is not measured, because less was asked for


def plan_studies(studies: Sequence[Study], folders: Sequence[Path]) -> StudyPlan:
    """The jobs of each study; raises ConfigError if two data sets share a name."""
    both = [_list_jobs(study, folder) for study, folder in zip(studies, folders, strict=True)]
    left = {open_data_set(folder).name: _describe_left_out(each, folder) for each in studies[:1] for folder in each.data}
    return StudyPlan(
        tuple(tuple(jobs) for jobs, _ in both),
        tuple(skipped for _, skipped in both),
        {name: what for name, what in left.items() if what},
    )


def make_chunks(jobs: Sequence[EvaluationJob]) -> list[Chunk]:
    """The same jobs in chunks, those of the largest cases first, so that the processes end at about the same time."""
    structures: dict[tuple[Path, str, str], list[EvaluationJob]] = {}
    for job in jobs:
        structures.setdefault((job.folder, job.case, job.structure), []).append(job)
    chunks: list[Chunk] = []
    for own in structures.values():
        own.sort(
            key=lambda job: (job.condition.choice, job.seed, job.blank.distractors, job.blank.share, job.blank.care, job.kind)
        )
        size = _count_frames(own[0])
        chunks += [Chunk(tuple(own[i : i + TOGETHER]), size * len(own[i : i + TOGETHER])) for i in range(0, len(own), TOGETHER)]
    weight: dict[tuple[Path, str], float] = {}
    for chunk in chunks:
        place = chunk.jobs[0].folder, chunk.jobs[0].case
        weight[place] = weight.get(place, 0) + chunk.cost
    return sorted(chunks, key=lambda chunk: -weight[chunk.jobs[0].folder, chunk.jobs[0].case])


def group_by_answer(jobs: Sequence[EvaluationJob]) -> dict[Hashable, list[EvaluationJob]]:
    """What decides about an answer → the jobs that it answers; one that watches the bank, or is drawn, comes first."""
    found: dict[Hashable, list[EvaluationJob]] = {}
    for job in jobs:
        found.setdefault(job.answer_key, []).append(job)
    for own in found.values():
        sketch = next((job.sketch for job in own if job.sketch is not None), None)
        first = next((job for job in own if job.protocol.watch), own[0])
        own.insert(0, replace(first, sketch=sketch))
    return found


def _list_jobs(study: Study, output: Path) -> tuple[list[EvaluationJob], dict[str, str]]:
    names: dict[str, Path] = {}
    jobs: list[EvaluationJob] = []
    skipped: dict[str, str] = {}
    for folder in study.data:
        data = open_data_set(folder)
        if names.setdefault(data.name, folder) != folder:
            raise ConfigError(
                f"two data sets are called {data.name}", "change the name of one in its dataset.json", subject=folder
            )
        skipped |= {f"{data.name} {case.identifier}": "it has no label map" for case in data.cases if case.label is None}
        if data.kind == "volume" and any(each.distractors is not None for each in study.protocol.conditions):
            skipped[data.name] = "distractors are mixed into sets of images alone"
        jobs += _jobs_of_data_set(study, folder, data, output / SKETCHES)
    return jobs, skipped


def _jobs_of_data_set(study: Study, folder: Path, data: DataSet, sketches: Path) -> Iterator[EvaluationJob]:
    # A set is one case of many images; a volume is a case by itself. What is not measured is there to train on.
    protocol, of_set = study.protocol, data.kind == "set"
    labelled, usable = _usable_cases(data, study)
    cases = tuple(spread_evenly(usable, study.images if of_set else study.cases))
    others = tuple(case for case in labelled if case not in cases)
    structures = spread_evenly(list(data.structures), study.structures)
    conditions = [each for each in protocol.conditions if of_set or each.distractors is None]
    # a set has no views: methods that differ in them alone answer alike
    methods = [name for name in protocol.methods if not (of_set and getattr(find_method(name), "views", None))]
    lenders = [open_data_set(each) for each in study.data]
    for case in ("",) if of_set and cases else () if of_set else cases:
        for structure in structures:
            for condition in conditions:
                for seed in protocol.seeds:
                    first = case in ("", cases[0]) and condition == protocol.conditions[0] and seed == protocol.seeds[0]
                    many = round(len(cases) * (condition.distractors or 0))
                    strays = draw_distractors(lenders, data, structure, many, seed) if many else ()
                    for method in methods:
                        job = EvaluationJob(folder, case, structure, method, condition, seed, protocol, study.network)
                        job = replace(job, cases=cases if of_set else (), distractors=strays, others=others)
                        yield replace(job, sketch=sketches if first and study.draws else None)


def _usable_cases(data: DataSet, study: Study) -> tuple[list[str], list[str]]:
    labelled = [case for case in data.cases if case.label is not None]
    fits = [case for case in labelled if study.slices is None or data.kind == "set" or _count_slices(case) <= study.slices]
    return [case.identifier for case in labelled], [case.identifier for case in fits]


def _describe_left_out(study: Study, folder: Path) -> str:
    data = open_data_set(folder)
    labelled, usable = _usable_cases(data, study)
    most = study.images if data.kind == "set" else study.cases
    what = "images" if data.kind == "set" else "volumes"
    less = len(labelled) - len(spread_evenly(usable, most))
    large = f" ({len(labelled) - len(usable)} of more than {study.slices} slices)" if len(usable) < len(labelled) else ""
    kept = spread_evenly(list(data.structures), study.structures)
    absent = [name for name in data.structures if name not in kept]
    cases = f"{less} of {len(labelled)} {what}{large}" if less else ""
    return "; ".join(each for each in (cases, f"structures {', '.join(absent)}" if absent else "") if each)


def _count_frames(job: EvaluationJob) -> float:
    """Slices of a volume as its header tells, or images."""
    if not job.case:
        return float(len(job.cases))
    return _count_slices(next(case for case in open_data_set(job.folder).cases if case.identifier == job.case))


@lru_cache(maxsize=4096)
def _count_slices(case: Case) -> float:
    """What the header of a volume says, which is read alone: no volume is loaded to plan."""
    try:
        with case.images[0].open("rb") as file:
            sizes = SIZES.search(file.read(8192))
        return float(sizes[1].split()[-1]) if sizes else float(nib.load(case.images[0]).shape[-1])  # type: ignore[attr-defined]
    except Exception:  # it is read when its turn comes, by those who can tell what is wrong
        return UNKNOWN


def run_studies(
    studies: Sequence[Study],
    outputs: Sequence[Path],
    *,
    workers: int = 1,
    on_done: Callable[[EvaluationProgress], None] | None = None,
) -> list[StudyResult]:
    """Measure what is not measured yet, and write rows as they come; `rows.csv` and `rows.json` at the end.

    What several studies ask alike (the same method, prompts and case) is answered once.

    Args:
        outputs: a folder for each, made if need be; that of an earlier run of the same study is gone on with.

    Raises:
        ConfigError: a folder holds another study; two data sets share a name.
    """
    # Rows are flushed one by one, so that a run that is killed loses one answer at most.
    plan = plan_studies(studies, outputs)
    answered = [_open_folder(study, output) for study, output in zip(studies, outputs, strict=True)]
    place = {job: i for i, jobs in enumerate(plan.jobs) for job in jobs}
    left = group_by_answer([job for job, i in place.items() if job.task not in answered[i]])
    failed: list[dict[str, str]] = [{} for _ in studies]
    faults: list[dict[str, str]] = [{} for _ in studies]
    fresh = [0] * len(studies)
    with ExitStack() as stack:
        streams = [stack.enter_context((output / LINES).open("a", encoding="utf-8")) for output in outputs]

        def keep(first: EvaluationJob, found: Answered) -> None:
            for job in left[first.answer_key][1:]:
                i = place[job]
                if not isinstance(found, list):
                    (failed if isinstance(found, str) else faults)[i][name_of(job.blank)] = str(found)
                    continue
                answered[i][job.task] = rows = [_rename_row(job, row) for row in found]
                streams[i].write(pack_rows(job.task, rows))
                streams[i].flush()
                fresh[i] += 1

        _run_chunks(make_chunks([own[0] for own in left.values()]), workers, keep, on_done)
    outcomes: list[StudyResult] = []
    for i, (jobs, output) in enumerate(zip(plan.jobs, outputs, strict=True)):
        rows = [row for job in jobs for row in answered[i].get(job.task, ())]
        skipped = plan.skipped[i] | {name_of(row): row.skipped for row in rows if row.skipped}
        write_rows(output, rows)
        outcomes.append(StudyResult(tuple(rows), skipped, failed[i], fresh[i], plan.left_out, faults[i]))
    return outcomes


def answer_chunk(chunk: Chunk) -> list[Answered]:
    """Of each job its rows, the fault of somebody's own method, or the defect that it met."""
    found: list[Answered] = []
    for job in chunk.jobs:
        try:
            found.append(answer_job(job))
        except MethodError as error:
            found.append(error)
        except Exception as error:  # a defect of one answer must not take the others along; it is named
            found.append(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    return found


def name_of(row: Row) -> str:
    """Data set, case and structure."""
    return " ".join(word for word in (row.dataset, row.case, row.structure) if word)


def _run_chunks(
    chunks: Sequence[Chunk],
    workers: int,
    keep: Callable[[EvaluationJob, Answered], None],
    on_done: Callable[[EvaluationProgress], None] | None,
) -> None:
    total, cost = sum(len(chunk.jobs) for chunk in chunks), sum(chunk.cost for chunk in chunks)
    done, spent = 0, 0.0
    if on_done is not None and chunks:
        on_done(EvaluationProgress(0, total, "nothing yet", 0.0))
    for ended in run_jobs(answer_chunk, chunks, workers):
        died = ended.error if isinstance(ended.error, str) else type(ended.error).__name__
        results: list[Answered] = ended.result or [died] * len(ended.job.jobs)
        for job, found in zip(ended.job.jobs, results, strict=True):
            keep(job, found)
        done, spent = done + len(ended.job.jobs), spent + ended.job.cost
        if on_done is not None:
            on_done(EvaluationProgress(done, total, name_of(ended.job.jobs[0].blank), spent / cost))


def _rename_row(job: EvaluationJob, row: Row) -> Row:
    """The row of an answer, as a job of another protocol names it."""
    return replace(row, method=method_label(job.method), information=row.information if job.protocol.watch else ())


def _open_folder(study: Study, output: Path) -> dict[AnswerKey, list[Row]]:
    output.mkdir(parents=True, exist_ok=True)
    _check_description(study, output / DESCRIPTION)
    lines = output / LINES
    return unpack_rows(_drop_cut_line(lines)) if lines.exists() else {}


def _check_description(study: Study, path: Path) -> None:
    """The description in the folder must be that of this study; a new folder gets it."""
    described = study.described()
    digest = sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    if path.exists():
        if io.load_json(path, newest=None).get("sha256") != digest:
            problem = "this folder holds results of another protocol, network or method"
            raise ConfigError(problem, "choose another folder, or remove it", subject=path.parent)
        return
    content = {"sha256": digest, "data": [open_data_set(folder).name for folder in study.data], **described}
    write_bytes(path, json.dumps(content, indent=1).encode())


def _drop_cut_line(lines: Path) -> Path:
    """The file without a last line that was cut off: what follows would be glued to it."""
    text = lines.read_bytes()
    if text and not text.endswith(b"\n"):
        write_bytes(lines, text[: text.rfind(b"\n") + 1])
    return lines


@dataclass(frozen=True)
class Score:
    """One structure, prompted once."""

    case: str  # identifier; the template's where a set was prompted
    structure: str  # its name
    prompt: Kind  # "mask", "box" or "click"
    dice: float  # over all slices but the prompted one, or mean over all images but the template


def score_held_out(
    segmenter: Segmenter,
    dataset: DataSet,
    cases: Sequence[Case],
    kinds: Sequence[Kind],
    *,
    seed: int = 0,
    on_answer: Callable[[int, int], None] | None = None,
) -> list[Score]:
    """Prompt every structure of every case; structures that lie on one slice only are left out.

    Args:
        cases: with labels. Of a set of images they are one sequence, prompted on the first that shows the structure.
        seed: decides between equally good places for a click.
        on_answer: called with how many answers are there, and of how many: of a volume one for each kind of prompt, of a set
            one for each kind and structure.
    """
    if dataset.kind == "set":
        total = len(dataset.structures) * len(kinds)
        answers = _score_set(segmenter, dataset, cases[:MOST_IMAGES], kinds, seed)
    else:
        total = len(cases) * len(kinds)
        answers = chain.from_iterable(_score_volume(segmenter, dataset, case, kinds, seed) for case in cases)
    found: list[Score] = []
    for done, answer in enumerate(answers, start=1):
        found += answer
        if on_answer is not None:
            on_answer(done, total)
    return found


def _score_volume(
    segmenter: Segmenter, dataset: DataSet, case: Case, kinds: Sequence[Kind], seed: int
) -> Iterator[list[Score]]:
    """The first channel; all structures at once, each an object. Of each kind what was found."""
    loaded = dataset.load(case)
    volume, labels = loaded.images[0], loaded.labels
    tasks: dict[str, VolumeTask] = {}
    if labels is None or not isinstance(volume, Volume):
        yield from [[]] * len(kinds)
        return
    for name in dataset.structures:
        with suppress(PromptError):
            tasks[name] = VolumeTask(volume, dataset.mask(labels, name))
    for kind in kinds:
        rng = np.random.default_rng(seed)
        prompts = [_numbered(task.prompt(kind, rng), n) for n, task in enumerate(tasks.values(), start=1)]
        labels_ijk = segmenter.segment_volume(volume, prompts).labels if prompts else np.zeros(volume.shape, np.uint8)
        yield [
            Score(case.identifier, name, kind, task.score(task.view.apply(labels_ijk == n, volume.orientation)))
            for n, (name, task) in enumerate(tasks.items(), start=1)
        ]


def _numbered(prompt: Any, number: int) -> Prompt:
    return replace(prompt, object=number)


def _score_set(
    segmenter: Segmenter, dataset: DataSet, cases: Sequence[Case], kinds: Sequence[Kind], seed: int
) -> Iterator[list[Score]]:
    # All images are loaded first: which of them can be the template depends on the structure.
    loaded = [(case, dataset.load(case)) for case in cases if case.label is not None]
    images = [one.images[0].array for _, one in loaded if isinstance(one.images[0], Picture)]
    for name in dataset.structures:
        truths = [dataset.mask(one.labels, name) for _, one in loaded if one.labels is not None]
        template = next((i for i, truth in enumerate(truths) if is_boxable(truth)), None)
        for kind in kinds:
            if template is None:
                yield []
                continue
            task = SetTask(images, truths, template)
            prompt = task.prompt(kind, np.random.default_rng(seed))
            masks = {one.index: one.labels == 1 for one in segmenter.segment_images(images, {template: {1: prompt}})}
            values = [value for value in task.scores(masks).values() if np.isfinite(value)]
            dice = float(np.mean(values)) if values else float("nan")
            yield [Score(loaded[template][0].identifier, name, kind, dice)]

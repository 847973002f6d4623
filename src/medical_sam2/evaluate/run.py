"""Runs studies: every structure of every case, by every method, under every condition; stopped and gone on with at any time."""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from medical_sam2 import io
from medical_sam2.data.parallel import run_jobs
from medical_sam2.errors import ConfigError
from medical_sam2.evaluate.answer import answer
from medical_sam2.evaluate.job import Job, data_set
from medical_sam2.evaluate.methods.named import label
from medical_sam2.evaluate.plan import Chunk, chunks, once, planned
from medical_sam2.evaluate.rows import Row, Task, packed, unpacked, write_rows
from medical_sam2.evaluate.study import Done, Outcome, Study
from medical_sam2.io.atomic import write_bytes

DESCRIPTION, LINES = "protocol.json", "rows.jsonl"


def run(study: Study, output: Path, *, workers: int = 1, on_done: Callable[[Done], None] | None = None) -> Outcome:
    """A single study, see `run_all`."""
    return run_all([study], [output], workers=workers, on_done=on_done)[0]


def run_all(
    studies: Sequence[Study],
    outputs: Sequence[Path],
    *,
    workers: int = 1,
    on_done: Callable[[Done], None] | None = None,
) -> list[Outcome]:
    """Measure what is not measured yet, and write rows as they come; `rows.csv` and `rows.json` at the end.

    What several studies ask alike (the same method, prompts and case) is answered once.

    Args:
        studies: what.
        outputs: a folder for each, made if need be; that of an earlier run of the same study is gone on with.
        workers: processes.
        on_done: told as answers come.

    Raises:
        ConfigError: a folder holds another study; two data sets share a name.
    """
    plan = planned(studies, outputs)
    known = [_opened(study, output) for study, output in zip(studies, outputs, strict=True)]
    place = {job: i for i, jobs in enumerate(plan.jobs) for job in jobs}
    left = once([job for job, i in place.items() if job.task not in known[i]])
    failed: list[dict[str, str]] = [{} for _ in studies]
    fresh = [0] * len(studies)
    with ExitStack() as stack:
        streams = [stack.enter_context((output / LINES).open("a", encoding="utf-8")) for output in outputs]

        def keep(first: Job, found: list[Row] | str) -> None:
            for job in left[first.answer_key][1:]:
                i = place[job]
                if isinstance(found, str):
                    failed[i][name_of(job.blank)] = found
                    continue
                known[i][job.task] = rows = [_as(job, row) for row in found]
                streams[i].write(packed(job.task, rows))
                streams[i].flush()
                fresh[i] += 1

        _work(chunks([own[0] for own in left.values()]), workers, keep, on_done)
    outcomes: list[Outcome] = []
    for i, (jobs, output) in enumerate(zip(plan.jobs, outputs, strict=True)):
        rows = [row for job in jobs for row in known[i].get(job.task, ())]
        skipped = plan.skipped[i] | {name_of(row): row.skipped for row in rows if row.skipped}
        write_rows(output, rows)
        outcomes.append(Outcome(tuple(rows), skipped, failed[i], fresh[i], plan.left_out))
    return outcomes


def answers(chunk: Chunk) -> list[list[Row] | str]:
    """Of each job its rows, or the defect that it met."""
    found: list[list[Row] | str] = []
    for job in chunk.jobs:
        try:
            found.append(answer(job))
        except Exception as error:  # a defect of one answer must not take the others along; it is told
            found.append(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    return found


def name_of(row: Row) -> str:
    """Data set, case and structure."""
    return " ".join(word for word in (row.dataset, row.case, row.structure) if word)


def _work(
    lots: Sequence[Chunk],
    workers: int,
    keep: Callable[[Job, list[Row] | str], None],
    on_done: Callable[[Done], None] | None,
) -> None:
    total, cost = sum(len(lot.jobs) for lot in lots), sum(lot.cost for lot in lots)
    done, spent = 0, 0.0
    if on_done is not None and lots:
        on_done(Done(0, total, "nothing yet", 0.0))
    for told in run_jobs(answers, lots, workers):
        died = told.error if isinstance(told.error, str) else type(told.error).__name__
        results: list[list[Row] | str] = told.result or [died] * len(told.job.jobs)
        for job, found in zip(told.job.jobs, results, strict=True):
            keep(job, found)
        done, spent = done + len(told.job.jobs), spent + told.job.cost
        if on_done is not None:
            on_done(Done(done, total, name_of(told.job.jobs[0].blank), spent / cost))


def _as(job: Job, row: Row) -> Row:
    """The row of an answer, as a job of another protocol names it."""
    return replace(row, method=label(job.method), information=row.information if job.protocol.watch else ())


def _opened(study: Study, output: Path) -> dict[Task, list[Row]]:
    """What an earlier run of the same study found."""
    output.mkdir(parents=True, exist_ok=True)
    _check(study, output / DESCRIPTION)
    lines = output / LINES
    return unpacked(_mended(lines)) if lines.exists() else {}


def _check(study: Study, path: Path) -> None:
    """The description in the folder must be that of this study; a new folder gets it."""
    described = study.described()
    digest = sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    if path.exists():
        if io.load_json(path, newest=None).get("sha256") != digest:
            problem = "this folder holds results of another protocol, network or method"
            raise ConfigError(problem, "choose another folder, or remove it", subject=path.parent)
        return
    told = {"sha256": digest, "data": [data_set(folder).name for folder in study.data], **described}
    write_bytes(path, json.dumps(told, indent=1).encode())


def _mended(lines: Path) -> Path:
    """The file without a last line that was cut off: what follows would be glued to it."""
    text = lines.read_bytes()
    if text and not text.endswith(b"\n"):
        write_bytes(lines, text[: text.rfind(b"\n") + 1])
    return lines

"""A whole data set: its units spread over processes, done ones skipped, failed ones named; the manifest at the end."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medical_sam2.data.cases import ARRAYS
from medical_sam2.data.dataset import DataSet, Split
from medical_sam2.data.prepare import manifest, scale, unit
from medical_sam2.data.prepare.foreground import levels_of_all
from medical_sam2.data.prepare.intensity import Levels
from medical_sam2.data.prepare.processes import each
from medical_sam2.data.prepare.report import UnitReport, write_json
from medical_sam2.data.prepare.settings import Settings
from medical_sam2.data.prepare.source import Source
from medical_sam2.data.prepare.unit import STATE, Job, Unit
from medical_sam2.errors import InputError
from medical_sam2.io import load_json
from medical_sam2.io.safe_open import explain

FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs", ARRAYS)
ABOUT = f"{STATE}/about.json"


@dataclass(frozen=True)
class Done:
    """A piece of work was finished.

    Args:
        done: how many now.
        total: of how many.
        cases: that it was about.
    """

    done: int
    total: int
    cases: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What `prepare` left.

    Args:
        folder: of the output.
        cases: how many were prepared.
        arrays: how many training cases there are.
        fresh: how many of the cases were prepared in this run; 0 where nothing had changed.
        problems: case → why it could not be prepared.
    """

    folder: Path
    cases: int
    arrays: int
    fresh: int
    problems: dict[str, str]


def prepare(
    source: Source,
    output: Path,
    settings: Settings | None = None,
    *,
    workers: int = 1,
    on_done: Callable[[Done], None] | None = None,
) -> Outcome:
    """Prepare a data set; what was done before stays, so a run that was cut off goes on and a second one does nothing.

    Args:
        source: the data.
        output: folder; made where it is missing.
        settings: the usual ones unless given.
        workers: processes.
        on_done: told of each piece of work that is finished.

    Raises:
        InputError: the source is no data set, or the output folder holds something else.
        ResourceError: the disk is full.
    """
    settings = settings or Settings()
    source.forget()
    dataset = source.open()
    _open_folder(output, source, dataset)
    units = plan(dataset, settings)
    levels = _scale(Job(source, settings, None, output, units[0]), units, dataset, workers)
    jobs = [Job(source, settings, levels, output, one) for one in units]
    reports = {job.unit.number: found for job in jobs if (found := job.finished(dataset))}
    todo = [job for job in jobs if job.unit.number not in reports]
    for done, answer in enumerate(each(unit.work, todo, workers), start=1):
        reports[answer.job.unit.number] = answer.result or _lost(answer.job, dataset, answer.error or "")
        if on_done is not None:
            on_done(Done(done, len(todo), answer.job.unit.cases))
    ordered = [reports[number] for number in sorted(reports)]
    _remove_stale(output, ordered, units)
    manifest.write(output, source, dataset, settings, levels, ordered)
    return _outcome(output, ordered, frozenset(job.unit.number for job in todo), units)


def plan(dataset: DataSet, settings: Settings) -> tuple[Unit, ...]:
    """The pieces of work: each volume, or groups of pictures, those to train on in a seeded order."""
    if dataset.kind == "volume":
        return tuple(Unit(n * len(dataset.channels), case.split, (case.identifier,)) for n, case in enumerate(dataset.cases))
    groups: list[tuple[Split, tuple[str, ...]]] = []
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        names = [case.identifier for case in dataset.split(split)]
        if names:
            order = np.random.default_rng(settings.seed).permutation(len(names))
            pieces = np.array_split(order, -(-len(names) // settings.group))
            groups.extend((split, tuple(names[int(n)] for n in piece)) for piece in pieces)
    return tuple(Unit(number, split, group) for number, (split, group) in enumerate(groups))


def _scale(like: Job, units: tuple[Unit, ...], dataset: DataSet, workers: int) -> Levels | None:
    """One scale for all CTs; a case that cannot be read is named later, when it is prepared."""
    if not scale.needs_scale(dataset):
        return None
    wanted = {(case.split, case.identifier) for case in scale.measured(dataset)}
    jobs = [replace(like, unit=one) for one in units if (one.split, one.cases[0]) in wanted]
    files = [answer.result for answer in each(scale.measure, jobs, workers) if answer.result is not None]
    return levels_of_all(map(scale.read, sorted(files)), like.settings.window_hu) if files else None


def _lost(job: Job, dataset: DataSet, error: BaseException | str) -> UnitReport:
    """The report of a unit that failed as a whole: nothing of it is kept."""
    return UnitReport("", (), tuple(unit.failed(case, error) for case in job.cases(dataset)))


def _open_folder(output: Path, source: Source, dataset: DataSet) -> None:
    """Make the folders, if the output is new or was made from the same data set."""
    if output.resolve() == source.folder.resolve():
        raise InputError("is the source itself", "choose another folder", subject=output)
    told = {"data_set": dataset.name, "layout": source.layout, "version": unit.VERSION}
    try:
        if (output / ABOUT).is_file():
            before = load_json(output / ABOUT, newest=unit.VERSION)
            if before != told:
                raise InputError(f"holds {before.get('data_set')}, prepared before", "choose another folder", subject=output)
        elif output.exists() and any(output.iterdir()):
            raise InputError("holds other files", "choose an empty folder", subject=output)
        for folder in (*FOLDERS, f"{STATE}/units", f"{STATE}/foreground"):
            (output / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, output) from None
    write_json(output / ABOUT, told)


def _remove_stale(output: Path, reports: list[UnitReport], units: tuple[Unit, ...]) -> None:
    """What an earlier run wrote and this one does not stand for, drafts of a run that was killed among them."""
    named = {file for report in reports for file in report.files}
    for folder in FOLDERS:
        for path in (output / folder).iterdir():
            if f"{folder}/{path.name}" not in named:
                path.unlink()
    for draft in output.rglob(".*.tmp"):
        draft.unlink()
    numbers = {f"{one.number:06d}.json" for one in units}
    for path in (output / STATE / "units").iterdir():
        if path.name not in numbers:
            path.unlink()


def _outcome(output: Path, reports: list[UnitReport], fresh: frozenset[int], units: tuple[Unit, ...]) -> Outcome:
    cases = [case for report in reports for case in report.cases]
    problems = {case.case: case.problem for case in cases if case.problem}
    arrays = {number for case in cases for number in case.arrays}
    made = sum(len(one.cases) for one in units if one.number in fresh)
    return Outcome(output, len(cases) - len(problems), len(arrays), made, problems)

"""Preprocessing (METHOD §4): any data set in; normalised images, label maps, training arrays and a manifest out.

Here a whole data set: its units spread over processes, done ones skipped, failed ones named; the manifest at the end. `convert`
does one case, `images` one image, `units` has what is to be done, and its reports. Import what is named here.

The manifest says where the data came from, what was done, what there is to train on, what was left out and why. Beside it lies
`dataset.json`, so that the folder is an nnU-Net raw data set itself. At the end what fine-tuning needs: cases set apart, and
the others prepared.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from medical_sam2.data.cases import ARRAYS, run_jobs
from medical_sam2.data.data_sets import DESCRIPTION, IGNORE, Case, DataSet, Split
from medical_sam2.data.prepare.convert import channel_rule, measure_foreground, prepare_unit
from medical_sam2.data.prepare.images import HOUNSFIELD, MUCH, PERCENTILES, Levels, levels_of_all
from medical_sam2.data.prepare.units import (
    STATE,
    VERSION,
    CaseReport,
    DataSource,
    PrepareJob,
    PrepareSettings,
    Unit,
    UnitReport,
    checksums,
    digest_json,
    files_of,
    report_failure,
    write_json,
)
from medical_sam2.errors import ConfigError, FormatError, InputError
from medical_sam2.io import load_json
from medical_sam2.io.safe_open import explain

__all__ = [
    "CaseSplit",
    "DataSource",
    "PrepareProgress",
    "PrepareResult",
    "PrepareSettings",
    "prepare",
    "prepare_cases",
    "split_cases",
]
OUTPUT_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs", ARRAYS)
ABOUT, MANIFEST = f"{STATE}/about.json", "manifest.json"


@dataclass(frozen=True)
class PrepareProgress:
    """A piece of work was finished."""

    done: int  # how many now
    total: int  # of how many
    cases: tuple[str, ...]  # that it was about


@dataclass(frozen=True)
class PrepareResult:
    """What `prepare` left."""

    folder: Path  # of the output
    cases: int  # how many were prepared
    arrays: int  # how many training cases there are
    fresh: int  # how many of the cases were prepared in this run; 0 where nothing had changed
    problems: dict[str, str]  # case → why it could not be prepared


def prepare(
    source: DataSource,
    output: Path,
    settings: PrepareSettings | None = None,
    *,
    workers: int = 1,
    on_done: Callable[[PrepareProgress], None] | None = None,
) -> PrepareResult:
    """Prepare a data set; what was done before stays, so a run that was cut off goes on and a second one does nothing.

    Args:
        output: folder; made where it is missing.

    Raises:
        InputError: the source is no data set, or the output folder holds something else.
        ResourceError: the disk is full.
    """
    # Reports of earlier runs are read before anything is done: what they stand for is not done again.
    settings = settings or PrepareSettings()
    source.forget()
    dataset = source.open()
    _open_folder(output, source, dataset)
    units = plan_units(dataset, settings)
    levels = _measure_scale(PrepareJob(source, settings, None, output, units[0]), units, dataset, workers)
    jobs = [PrepareJob(source, settings, levels, output, one) for one in units]
    reports = {job.unit.number: found for job in jobs if (found := job.finished(dataset))}
    todo = [job for job in jobs if job.unit.number not in reports]
    for done, answer in enumerate(run_jobs(prepare_unit, todo, workers), start=1):
        lost = (report_failure(case, answer.error or "") for case in answer.job.cases(dataset))  # nothing is kept of it then
        reports[answer.job.unit.number] = answer.result or UnitReport("", (), tuple(lost))
        if on_done is not None:
            on_done(PrepareProgress(done, len(todo), answer.job.unit.cases))
    ordered = [reports[number] for number in sorted(reports)]
    _remove_stale(output, ordered, units)
    cases = sorted((case for one in ordered for case in one.cases), key=lambda case: (case.split != "train", case.case))
    if settings.images and dataset.structures:
        write_json(output / DESCRIPTION, _build_description(dataset, cases))
    write_json(output / MANIFEST, _build_manifest(source, dataset, settings, levels, cases))
    problems = {case.case: case.problem for case in cases if case.problem}
    arrays = {number for case in cases for number in case.arrays}
    return PrepareResult(output, len(cases) - len(problems), len(arrays), sum(len(job.unit.cases) for job in todo), problems)


def plan_units(dataset: DataSet, settings: PrepareSettings) -> tuple[Unit, ...]:
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


def _measure_scale(like: PrepareJob, units: tuple[Unit, ...], dataset: DataSet, workers: int) -> Levels | None:
    """One scale for all CTs; a case that cannot be read is named later, when it is prepared."""
    if dataset.kind != "volume" or all(channel_rule(channel, dataset.modality) != "window" for channel in dataset.channels):
        return None
    outlined = [case for case in dataset.split("train") if case.label is not None]
    wanted = {(case.split, case.identifier) for case in outlined or dataset.cases}
    jobs = [replace(like, unit=one) for one in units if (one.split, one.cases[0]) in wanted]
    files = [answer.result for answer in run_jobs(measure_foreground, jobs, workers) if answer.result is not None]
    counts = (np.load(file, allow_pickle=False) for file in sorted(files))
    return levels_of_all(counts, like.settings.window_hu) if files else None


def _open_folder(output: Path, source: DataSource, dataset: DataSet) -> None:
    """Make the folders, if the output is new or was made from the same data set."""
    if output.resolve() == source.folder.resolve():
        raise InputError("is the source itself", "choose another folder", subject=output)
    about = {"data_set": dataset.name, "layout": source.layout, "version": VERSION}
    try:
        if (output / ABOUT).is_file():
            before = load_json(output / ABOUT, newest=VERSION)
            if before != about:
                raise InputError(f"holds {before.get('data_set')}, prepared before", "choose another folder", subject=output)
        elif output.exists() and any(output.iterdir()):
            raise InputError("holds other files", "choose an empty folder", subject=output)
        for folder in (*OUTPUT_FOLDERS, f"{STATE}/units", f"{STATE}/foreground"):
            (output / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, output) from None
    write_json(output / ABOUT, about)


def _remove_stale(output: Path, reports: list[UnitReport], units: tuple[Unit, ...]) -> None:
    """What an earlier run wrote and this one does not stand for, drafts of a run that was killed among them."""
    named = {file for report in reports for file in report.files}
    for folder in OUTPUT_FOLDERS:
        for path in (output / folder).iterdir():
            if f"{folder}/{path.name}" not in named:
                path.unlink()
    for draft in output.rglob(".*.tmp"):
        draft.unlink()
    numbers = {f"{one.number:06d}.json" for one in units}
    for path in (output / STATE / "units").iterdir():
        if path.name not in numbers:
            path.unlink()


def _build_manifest(
    source: DataSource, dataset: DataSet, settings: PrepareSettings, scale: Levels | None, cases: Sequence[CaseReport]
) -> dict[str, Any]:
    # Failed cases stand apart, so that whoever reads `cases` trains on what there is.
    good = [case for case in cases if not case.problem]
    sums = [[case.case, case.split, dict(case.sha256)] for case in good]
    return {
        "version": VERSION,
        "source": {
            "name": dataset.name,
            "layout": source.layout or ("images and labels" if source.labels else "nnU-Net"),
            "sha256": digest_json(sums),
            "licence": dataset.licence,
            "prompt": dataset.prompt,
        },
        "settings": asdict(settings),
        "steps": _describe_steps(dataset, settings),
        "scale": scale and asdict(scale),
        "tasks": _describe_tasks(dataset, good),
        "cases": [{key: value for key, value in asdict(case).items() if key != "problem"} for case in good],
        "failed": [{"case": case.case, "problem": case.problem} for case in cases if case.problem],
    }


def _describe_tasks(dataset: DataSet, cases: Sequence[CaseReport]) -> list[dict[str, Any]]:
    """Structure by structure: in how many cases, and how many objects, components among them."""
    objects: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for case in cases:
        objects.update(dict(case.objects or {}))
        seen.update((case.objects or {}).keys())
    return [
        {"task": f"{dataset.name}/{name}", "values": list(values), "cases": seen[name], "objects": objects[name]}
        for name, values in dataset.structures.items()
    ]


def _describe_steps(dataset: DataSet, settings: PrepareSettings) -> list[str]:
    low, high = PERCENTILES
    window = f"{settings.window_hu[0]:g} to {settings.window_hu[1]:g} HU"
    foreground = f"the {low}th and {high}th percentiles of the foreground of all cases"
    rules = {
        "window": f"clipped to {window} and to {foreground}, minus its mean over its standard deviation",
        "percentiles": f"clipped to its {low}th and {high}th percentiles, minus mean over standard deviation",
        "whole": "minus mean over standard deviation",
    }
    cut = f"cropped to non-zero; normalised inside the mask of non-zero where that leaves {MUCH:.0%} or less"
    small = f"an object that covers less than {settings.smallest:.3%} of every slice is dropped"
    if dataset.colour:
        how = ["cropped to non-zero", "kept as bytes (PNG): the network's own mean and standard deviation normalise them"]
    else:
        how = [cut, *(f"{channel}: {rules[channel_rule(channel, dataset.modality)]}" for channel in dataset.channels)]
    if dataset.kind == "set":
        side = f"stretched to a square of at most {settings.size} pixels (bicubic, labels nearest)"
        return [*how, f"training arrays: {side}, in groups of up to {settings.group} images", small]
    side = f"slices over the two axes of highest resolution, shrunk to at most {settings.size} pixels (bicubic, labels nearest)"
    parts = ["connected components of a structure are objects too, where it has several"] if settings.split else []
    return [*how, f"training arrays: {side}; nothing is resampled from slice to slice", *parts, small]


def _build_description(dataset: DataSet, cases: Sequence[CaseReport]) -> dict[str, Any]:
    labels: dict[str, Any] = {
        name: values[0] if len(values) == 1 else list(values) for name, values in dataset.structures.items()
    }
    good = Counter(case.split for case in cases if not case.problem)
    description: dict[str, Any] = {
        "name": dataset.name,
        "channel_names": {str(n): _name_channel(channel) for n, channel in enumerate(dataset.channels)},
        "labels": {"background": 0, **labels, **({} if dataset.ignore is None else {IGNORE: dataset.ignore})},
        "numTraining": good["train"],
        "numTest": good["test"],
        "file_ending": ".png" if dataset.colour else ".nii.gz",
        "kind": dataset.kind,
    }
    return description | {key: value for key, value in (("prompt", dataset.prompt), ("licence", dataset.licence)) if value}


def _name_channel(channel: str) -> str:
    """A CT that was normalised is none in Hounsfield units any more, and must not be taken for one."""
    return "CT_normalised" if channel.upper() == HOUNSFIELD else channel


@dataclass(frozen=True)
class CaseSplit:
    """Cases to learn from, and cases that only judge the result."""

    train: tuple[Case, ...]
    held_out: tuple[Case, ...]
    alike: tuple[tuple[str, ...], ...] = ()  # cases whose images have the same bytes: they lie on one side


def split_cases(dataset: DataSet, held_out: float, seed: int, most: int | None = None) -> CaseSplit:
    """Set cases apart, at random but always the same ones for a seed; those with the same image lie on one side.

    Args:
        held_out: share of them (under 1), or how many; fewer where one image would lie on both sides (the first image's all
            where there would be none).
        most: cases to learn from at most.

    Raises:
        ConfigError: nothing would be left to learn from, or to judge by, or all cases have the same image.
    """
    cases = dataset.split("train")
    if not (0 <= held_out < 1 or (isfinite(held_out) and held_out >= 1 and held_out == int(held_out))):
        problem = f"{held_out:g} is neither a share of the cases nor how many"
        raise ConfigError(problem, "give a number below 1, or a whole one", subject="--held-out")
    count = round(held_out * len(cases)) if held_out < 1 else int(held_out)
    if held_out > 0:
        count = max(1, count)
    if len(cases) == 1 and count:
        problem = "there is one case, and nothing would be left to learn from if it were held out"
        raise ConfigError(problem, "add cases, or let none judge with --held-out 0", subject=dataset.folder)
    if not 0 <= count < len(cases):
        raise ConfigError(
            f"{count} of {len(cases)} cases would be held out", "leave at least one to learn from", subject="--held-out"
        )
    order = [cases[int(n)] for n in np.random.default_rng(seed).permutation(len(cases))]
    groups = _group_alike(order)
    ends = [0, *accumulate(map(len, groups))]
    if count:
        count = max(ends[1], *(end for end in ends if end <= count))
    if count == len(cases):
        problem = f"all {count} cases have the same image, and who learns from one knows the others"
        raise ConfigError(problem, "add cases, or let none judge with --held-out 0", subject=dataset.folder)
    order = [case for group in groups for case in group]
    alike = tuple(tuple(sorted(case.identifier for case in group)) for group in groups if len(group) > 1)
    return CaseSplit(tuple(order[count : None if most is None else count + most]), tuple(order[:count]), alike)


# Only files of the same size are read: copies are rare, and data sets large.
def _group_alike(cases: Sequence[Case]) -> list[list[Case]]:
    """Cases whose images have the same bytes together, else in their order."""
    sizes = {case.identifier: _image_sizes(case) for case in cases}
    count, groups = Counter(sizes.values()), dict[object, list[Case]]()
    for case in cases:
        size, key = sizes[case.identifier], case.identifier
        if size and count[size] > 1:
            with suppress(OSError):  # it is named when it is prepared
                key = repr(checksums(replace(case, label=None)))
        groups.setdefault(key, []).append(case)
    return list(groups.values())


def _image_sizes(case: Case) -> tuple[int, ...]:
    """Bytes of each file of its images; none where one is missing."""
    with suppress(OSError):
        return tuple(file.stat().st_size for path in case.images for file in files_of(path))
    return ()


def prepare_cases(dataset: DataSet, cases: Sequence[Case], output: Path) -> Path:
    """The training arrays of some cases of an nnU-Net raw data set; the folder that a recipe calls its pool.

    Raises:
        FormatError: a case cannot be read, or none shows anything large enough to learn from.
    """
    output.mkdir(parents=True, exist_ok=True)
    description = dict(load_json(dataset.folder / DESCRIPTION, newest=None))
    listed = {
        case.identifier: {
            "images": [str(path.resolve()) for path in case.images],
            "label": str(case.label and case.label.resolve()),
        }
        for case in cases
    }
    listing = output / "listing"
    listing.mkdir(exist_ok=True)
    write_json(listing / DESCRIPTION, {**description, "name": dataset.name, "dataset": listed})
    outcome = prepare(DataSource(listing), output / "prepared", PrepareSettings(images=False))
    if outcome.problems:
        case, problem = next(iter(outcome.problems.items()))
        raise FormatError(problem, "mend it, or take the case out of the data set", subject=case)
    if not outcome.arrays:
        raise FormatError("its cases show nothing large enough to learn from", "check the labels", subject=dataset.folder)
    return output / "prepared" / ARRAYS

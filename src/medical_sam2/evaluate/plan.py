"""What there is to do in some studies: jobs that several protocols share are done once, and those of a case come together."""

import re
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import nibabel as nib

from medical_sam2.data.data_sets import Case, DataSet
from medical_sam2.errors import ConfigError
from medical_sam2.evaluate.job import Job, data_set
from medical_sam2.evaluate.presets import spread
from medical_sam2.evaluate.study import Study

UNKNOWN = 64.0  # slices of a volume whose header is neither NIfTI's nor one of these, such as a DICOM series
SIZES = re.compile(rb"^(?:sizes:|DimSize *=)((?: *[0-9]+)+)\s*$", re.MULTILINE)  # of NRRD and of MetaImage
TOGETHER = 12  # answers that one process makes before it tells: they share what was encoded
SKETCHES = "sketches"


@dataclass(frozen=True)
class Chunk:
    """Answers that one process makes, one after the other.

    Args:
        jobs: of one structure of one case, or of a set.
        cost: slices or images to be tracked, as far as it is known.
    """

    jobs: tuple[Job, ...]
    cost: float


@dataclass(frozen=True, eq=False)
class Plan:
    """All that is to be done.

    Args:
        jobs: of each study, in order.
        skipped: of each study: what cannot be measured → why.
        left_out: data set → what of it is not measured, because less was asked for.
    """

    jobs: tuple[tuple[Job, ...], ...]
    skipped: tuple[dict[str, str], ...]
    left_out: dict[str, str]


def planned(studies: Sequence[Study], folders: Sequence[Path]) -> Plan:
    """The jobs of each study.

    Raises:
        ConfigError: two data sets share a name.
    """
    both = [_jobs(study, folder) for study, folder in zip(studies, folders, strict=True)]
    left_out = {data_set(folder).name: told for study in studies[:1] for folder in study.data if (told := _left(study, folder))}
    return Plan(tuple(tuple(jobs) for jobs, _ in both), tuple(skipped for _, skipped in both), left_out)


def chunks(jobs: Sequence[Job]) -> list[Chunk]:
    """The same jobs in lots, those of the largest cases first, so that the processes end at about the same time."""
    structures: dict[tuple[Path, str, str], list[Job]] = {}
    for job in jobs:
        structures.setdefault((job.folder, job.case, job.structure), []).append(job)
    lots: list[Chunk] = []
    for own in structures.values():
        own.sort(key=lambda job: (job.condition.choice, job.seed, job.blank.share, job.blank.care, job.kind))
        size = _size(own[0])
        lots += [Chunk(tuple(own[i : i + TOGETHER]), size * len(own[i : i + TOGETHER])) for i in range(0, len(own), TOGETHER)]
    weight: dict[tuple[Path, str], float] = {}
    for lot in lots:
        place = lot.jobs[0].folder, lot.jobs[0].case
        weight[place] = weight.get(place, 0) + lot.cost
    return sorted(lots, key=lambda lot: -weight[lot.jobs[0].folder, lot.jobs[0].case])


def once(jobs: Sequence[Job]) -> dict[Hashable, list[Job]]:
    """What decides about an answer → the jobs that it answers; one that watches the bank, or is drawn, comes first."""
    found: dict[Hashable, list[Job]] = {}
    for job in jobs:
        found.setdefault(job.answer_key, []).append(job)
    for own in found.values():
        sketch = next((job.sketch for job in own if job.sketch is not None), None)
        first = next((job for job in own if job.protocol.watch), own[0])
        own.insert(0, replace(first, sketch=sketch))
    return found


def _jobs(study: Study, output: Path) -> tuple[list[Job], dict[str, str]]:
    """Case by case; and the cases that have no truth."""
    names: dict[str, Path] = {}
    jobs: list[Job] = []
    skipped: dict[str, str] = {}
    for folder in study.data:
        data = data_set(folder)
        if names.setdefault(data.name, folder) != folder:
            raise ConfigError(
                f"two data sets are called {data.name}", "change the name of one in its dataset.json", subject=folder
            )
        skipped |= {f"{data.name} {case.identifier}": "it has no label map" for case in data.cases if case.label is None}
        jobs += _of(study, folder, data, output / SKETCHES)
    return jobs, skipped


def _of(study: Study, folder: Path, data: DataSet, sketches: Path) -> Iterator[Job]:
    protocol, of_set = study.protocol, data.kind == "set"
    labelled, usable = _labelled(data, study)
    cases = tuple(spread(usable, study.images if of_set else study.cases))
    others = tuple(case for case in labelled if case not in cases)
    structures = spread(list(data.structures), study.structures)
    for case in ("",) if of_set and cases else () if of_set else cases:
        for structure in structures:
            for condition in protocol.conditions:
                for seed in protocol.seeds:
                    first = case in ("", cases[0]) and condition == protocol.conditions[0] and seed == protocol.seeds[0]
                    for method in protocol.methods:
                        job = Job(folder, case, structure, method, condition, seed, protocol, study.network)
                        images = cases if of_set else ()
                        yield replace(job, cases=images, others=others, sketch=sketches if first and study.draws else None)


def _labelled(data: DataSet, study: Study) -> tuple[list[str], list[str]]:
    """Cases that have a truth, and those of them that are not too large."""
    labelled = [case for case in data.cases if case.label is not None]
    fits = [case for case in labelled if study.slices is None or data.kind == "set" or _slices(case) <= study.slices]
    return [case.identifier for case in labelled], [case.identifier for case in fits]


def _left(study: Study, folder: Path) -> str:
    """What is not measured of a data set."""
    data = data_set(folder)
    labelled, usable = _labelled(data, study)
    most = study.images if data.kind == "set" else study.cases
    what = "images" if data.kind == "set" else "volumes"
    less = len(labelled) - len(spread(usable, most))
    large = f" ({len(labelled) - len(usable)} of more than {study.slices} slices)" if len(usable) < len(labelled) else ""
    kept = spread(list(data.structures), study.structures)
    absent = [name for name in data.structures if name not in kept]
    cases = f"{less} of {len(labelled)} {what}{large}" if less else ""
    return "; ".join(told for told in (cases, f"structures {', '.join(absent)}" if absent else "") if told)


def _size(job: Job) -> float:
    """Slices of a volume as its header tells, or images."""
    if not job.case:
        return float(len(job.cases))
    return _slices(next(case for case in data_set(job.folder).cases if case.identifier == job.case))


@lru_cache(maxsize=4096)
def _slices(case: Case) -> float:
    """What the header of a volume says, which is read alone: no volume is loaded to plan."""
    try:
        with case.images[0].open("rb") as file:
            told = SIZES.search(file.read(8192))
        return float(told[1].split()[-1]) if told else float(nib.load(case.images[0]).shape[-1])  # type: ignore[attr-defined]
    except Exception:  # it is read when its turn comes, by those who can tell what is wrong
        return UNKNOWN

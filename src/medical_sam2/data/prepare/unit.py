"""A piece of work: one volume, or a group of pictures. Everything it writes is whole, its report last."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from medical_sam2.data.dataset import Case, DataSet, Split
from medical_sam2.data.prepare import report
from medical_sam2.data.prepare.intensity import Levels
from medical_sam2.data.prepare.report import CaseReport, UnitReport
from medical_sam2.data.prepare.settings import Settings
from medical_sam2.data.prepare.source import Source, stamp
from medical_sam2.errors import MedicalSam2Error

VERSION = 1
STATE = ".prepare"


@dataclass(frozen=True)
class Unit:
    """Cases that are prepared together.

    Args:
        number: of the first training case that it may write.
        split: "train" or "test".
        cases: identifiers.
    """

    number: int
    split: Split
    cases: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """A unit with all that its work depends on.

    Args:
        source: of the data.
        settings: of the user.
        scale: levels of all CTs; None where each image has its own.
        output: folder that is written to.
        unit: what to do.
    """

    source: Source
    settings: Settings
    scale: Levels | None
    output: Path
    unit: Unit

    @property
    def report_file(self) -> Path:
        """Where its report is kept."""
        return self.output / STATE / "units" / f"{self.unit.number:06d}.json"

    def cases(self, dataset: DataSet) -> tuple[Case, ...]:
        """Its cases."""
        wanted = set(self.unit.cases)
        return tuple(case for case in dataset.split(self.unit.split) if case.identifier in wanted)

    def fingerprint(self, dataset: DataSet) -> str:
        """Changes when the files, the settings or what the data set says changes."""
        facts = (
            dataset.name,
            dataset.kind,
            dataset.channels,
            dataset.modality,
            sorted(dataset.structures.items()),
            dataset.ignore,
        )
        files = [(case.identifier, case.split, stamp(case)) for case in self.cases(dataset)]
        scale = self.scale and asdict(self.scale)
        return digest([VERSION, facts, asdict(self.settings), scale, self.unit.number, files])

    def finished(self, dataset: DataSet) -> UnitReport | None:
        """Its report, if it was done before with the same result and without a failure."""
        found = report.load(self.report_file)
        if found is None or any(case.problem for case in found.cases) or found.fingerprint != self.fingerprint(dataset):
            return None
        return found if all((self.output / file).is_file() for file in found.files) else None


def digest(what: Any) -> str:
    """A checksum of something that JSON can hold."""
    return sha256(json.dumps(what).encode()).hexdigest()


def work(job: Job) -> UnitReport:
    """Do a unit; a case that fails is in its report."""
    from medical_sam2.data.prepare import pictures, volumes

    dataset = job.source.open()
    cases = job.cases(dataset)
    job.report_file.unlink(missing_ok=True)  # an earlier one would speak of files that are being replaced
    made = (volumes if dataset.kind == "volume" else pictures).prepare(job, dataset, cases)
    done = UnitReport(job.fingerprint(dataset), made.files, made.cases)
    report.save(job.report_file, done)
    return done


@dataclass(frozen=True)
class Made:
    """What a unit wrote, relative to the output folder, and its cases' reports."""

    files: tuple[str, ...]
    cases: tuple[CaseReport, ...]


def failed(case: Case, error: BaseException | str) -> CaseReport:
    """The report of a case that could not be prepared."""
    return CaseReport(case.identifier, case.split, {}, problem=error if isinstance(error, str) else explain(error))


def explain(error: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(error, MedicalSam2Error):
        return str(error)
    if isinstance(error, MemoryError):
        return "the memory is exhausted; prepare with fewer workers"
    if isinstance(error, OSError) and error.errno:
        return f"a file cannot be read or written ({error.strerror})"
    return f"a defect of this program ({type(error).__name__}); please report it"


def names(case: Case, channels: int, ending: str) -> tuple[list[str], str]:
    """Files of images, one for each channel, and of labels, as nnU-Net calls them."""
    split = "Tr" if case.split == "train" else "Ts"
    images = [f"images{split}/{case.identifier}_{channel:04d}{ending}" for channel in range(channels)]
    return images, f"labels{split}/{case.identifier}{ending}"


def task_names(dataset: DataSet, structures: Sequence[str]) -> list[str]:
    """What these objects are examples of, across data sets."""
    return [f"{dataset.name}/{structure}" for structure in structures]

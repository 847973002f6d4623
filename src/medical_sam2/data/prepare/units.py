"""What is prepared and how, in units: one volume, or a group of pictures.

A `DataSource` is a description that travels to other processes, where the data set is listed again. Everything that a unit
writes is whole, its report last.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Literal

from medical_sam2.data.cases import ARRAYS, SMALLEST, TrainingCase, write_arrays
from medical_sam2.data.catalog import find_entry
from medical_sam2.data.data_sets import Case, DataSet, Split, is_data_set, read_data_set, read_folder
from medical_sam2.data.prepare.images import DroppedObject, Levels
from medical_sam2.errors import ConfigError, MedicalSam2Error
from medical_sam2.io.atomic import write_bytes

LEAST_SIDE = 32


@dataclass(frozen=True)
class PrepareSettings:
    """How a data set is prepared.

    Raises:
        ConfigError: a value that makes no sense.
    """

    size: int = 256  # longest side of a slice in the training arrays, in pixels; smaller slices keep their size
    smallest: float = SMALLEST  # share of a slice that an object must reach on one of them to become a task
    window_hu: tuple[float, float] = (-160.0, 240.0)  # Hounsfield units that a CT is clipped to first
    split: bool = True  # whether the connected components of a structure become tasks of their own
    images: bool = True  # whether images and label maps are written, beside the training arrays
    group: int = 24  # images of a set in one training case
    bits: Literal[8, 16] = 8  # of each intensity in the training arrays; colours keep their 8
    seed: int = 0  # of the order in which images are put into groups

    def __post_init__(self) -> None:
        if self.size < LEAST_SIDE:
            raise ConfigError(f"slices of {self.size} pixels show nothing", f"give {LEAST_SIDE} or more", subject="size")
        if not 0 <= self.smallest < 1:
            raise ConfigError(f"{self.smallest} is no share of a slice", "give a number from 0 to 1", subject="smallest")
        if self.window_hu[0] >= self.window_hu[1]:
            raise ConfigError(f"the window {self.window_hu} is empty", "give LOW,HIGH with LOW below HIGH", subject="window")
        if self.bits not in (8, 16):
            raise ConfigError(f"intensities of {self.bits} bits are not written", "give 8 or 16", subject="bits")
        if self.group < 2:
            raise ConfigError(f"{self.group} images make no set", "give 2 or more", subject="group")


@dataclass(frozen=True)
class DataSource:
    """Where the data is and how it is to be understood."""

    folder: Path  # the data set
    # name in the catalogue, `module:attribute` or `file.py:attribute`; where empty, an nnU-Net raw data set or a folder with
    # images and labels
    layout: str = ""
    labels: tuple[tuple[str, tuple[int, ...]], ...] = ()  # name and values of each structure, for a folder that tells none
    modality: str | None = None  # DICOM code of the modality, where the data does not tell or tells wrongly

    def open(self) -> DataSet:
        """List the data set; once in each process, until `forget` is called."""
        return _open_source(self)

    @staticmethod
    def forget() -> None:
        """List data sets anew: files may have changed."""
        _open_source.cache_clear()


@lru_cache(maxsize=4)
def _open_source(source: DataSource) -> DataSet:
    if source.layout:
        found = find_entry(source.layout).read(source.folder)
    elif source.folder.is_dir() and is_data_set(source.folder):
        found = read_data_set(source.folder)
    else:
        found = read_folder(source.folder, dict(source.labels), source.modality)
    if source.modality is not None:
        channels = (source.modality,) if len(found.channels) == 1 else found.channels
        found = replace(found, modality=source.modality, channels=channels)
    return found


def files_of(path: Path) -> list[Path]:
    """The file, or the files of a DICOM series."""
    return [path] if not path.is_dir() else sorted(inner for inner in path.rglob("*") if inner.is_file())


def stamp(case: Case) -> list[list[int | str]]:
    """Sizes and times of a case's files: what changes when they do."""
    paths = [*case.images, *([] if case.label is None else [case.label])]
    return [_stamp_file(file) for path in paths for file in files_of(path)]


def _stamp_file(file: Path) -> list[int | str]:
    try:
        state = file.stat()
    except OSError:
        return [file.name]
    return [file.name, state.st_size, state.st_mtime_ns]


def checksums(case: Case) -> Mapping[str, str]:
    """SHA-256 of each image and of the label map, over the content of all their files."""
    named = {f"image_{number:04d}": path for number, path in enumerate(case.images)}
    if case.label is not None:
        named["label"] = case.label
    return {name: _sum_files(path) for name, path in named.items()}


def _sum_files(path: Path) -> str:
    total = sha256()
    for file in files_of(path):
        with file.open("rb") as stream:
            file_digest(stream, lambda: total)
    return total.hexdigest()


@dataclass(frozen=True)
class CaseReport:
    """What became of a case."""

    case: str  # its identifier
    split: str  # "train" or "test"
    sha256: Mapping[str, str]  # of its files
    shape: tuple[int, ...] = ()  # of the image as it was
    crop: tuple[tuple[int, int], ...] = ()  # first and last voxel (or row and column) of each axis that were kept
    inside_mask: bool = False  # whether intensities were normalised inside the non-zero mask alone
    levels: tuple[Levels, ...] = ()  # of each channel
    arrays: tuple[int, ...] = ()  # numbers of the training cases that it is in
    objects: Mapping[str, int] | None = None  # structure → how many objects to train on: itself and its components
    dropped: tuple[DroppedObject, ...] = ()  # what was left out
    notes: tuple[str, ...] = ()  # what readers and checks found odd
    problem: str = ""  # why it could not be prepared; empty where it could


@dataclass(frozen=True)
class UnitReport:
    """A piece of work that was finished, with everything that it wrote."""

    fingerprint: str  # of the source and settings that it was made from
    files: tuple[str, ...]  # relative to the output folder
    cases: tuple[CaseReport, ...]  # their reports


def write_json(path: Path, what: Any) -> None:
    """A JSON file, whole or not at all."""
    write_bytes(path, (json.dumps(what, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def load_report(path: Path) -> UnitReport | None:
    """A report that was saved; None where there is none that can be read."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        cases = tuple(_read_case(case) for case in saved["cases"])
        return UnitReport(saved["fingerprint"], tuple(saved["files"]), cases)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_case(saved: dict[str, Any]) -> CaseReport:
    typed: dict[str, Any] = {key: tuple(saved[key]) for key in ("shape", "arrays", "notes")}
    typed["crop"] = tuple((low, high) for low, high in saved["crop"])
    typed["levels"] = tuple(Levels(**levels) for levels in saved["levels"])
    typed["dropped"] = tuple(DroppedObject(**dropped) for dropped in saved["dropped"])
    return CaseReport(**(saved | typed))


VERSION = 1
STATE = ".prepare"


@dataclass(frozen=True)
class Unit:
    """Cases that are prepared together."""

    number: int  # of the first training case that it may write
    split: Split  # "train" or "test"
    cases: tuple[str, ...]  # identifiers


@dataclass(frozen=True)
class PrepareJob:
    """A unit with all that its work depends on."""

    source: DataSource  # of the data
    settings: PrepareSettings  # of the user
    scale: Levels | None  # levels of all CTs; None where each image has its own
    output: Path  # folder that is written to
    unit: Unit  # what to do

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
        structures = sorted(dataset.structures.items())
        facts = (dataset.name, dataset.kind, dataset.channels, dataset.modality, structures, dataset.ignore)
        files = [(case.identifier, case.split, stamp(case)) for case in self.cases(dataset)]
        scale = self.scale and asdict(self.scale)
        return digest_json([VERSION, facts, asdict(self.settings), scale, self.unit.number, files])

    def finished(self, dataset: DataSet) -> UnitReport | None:
        """Its report, if it was done before with the same result and without a failure."""
        found = load_report(self.report_file)
        if found is None or any(case.problem for case in found.cases) or found.fingerprint != self.fingerprint(dataset):
            return None
        return found if all((self.output / file).is_file() for file in found.files) else None


def digest_json(what: Any) -> str:
    """A checksum of something that JSON can hold."""
    return sha256(json.dumps(what).encode()).hexdigest()


def report_failure(case: Case, error: BaseException | str) -> CaseReport:
    """The report of a case that could not be prepared."""
    return CaseReport(case.identifier, case.split, {}, problem=error if isinstance(error, str) else explain_failure(error))


def explain_failure(error: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(error, MedicalSam2Error):
        return str(error)
    if isinstance(error, MemoryError):
        return "the memory is exhausted; prepare with fewer workers"
    if isinstance(error, OSError) and error.errno:
        return f"a file cannot be read or written ({error.strerror})"
    return f"a defect of this program ({type(error).__name__}); please report it"


def name_files(case: Case, channels: int, ending: str) -> tuple[list[str], str]:
    """Files of images, one for each channel, and of labels, as nnU-Net calls them."""
    split = "Tr" if case.split == "train" else "Ts"
    images = [f"images{split}/{case.identifier}_{channel:04d}{ending}" for channel in range(channels)]
    return images, f"labels{split}/{case.identifier}{ending}"


def write_training_case(
    output: Path, number: int, case: TrainingCase, *, structures: Sequence[str], modality: str
) -> list[str]:
    """Write a training case; its description comes last, so a case that has one is whole.

    Returns:
        The files, relative to the output folder.
    """
    names = [*write_arrays(output / ARRAYS, number, case), f"{number:06d}.json"]
    tasks = [f"{case.name}/{structure}" for structure in structures]  # what the objects are examples of, across data sets
    description = {"kind": case.kind, "name": case.name, "tasks": case.tasks, "task_names": tasks, "modality": modality}
    write_json(output / ARRAYS / names[-1], {**description, "version": VERSION})
    return [f"{ARRAYS}/{name}" for name in names]

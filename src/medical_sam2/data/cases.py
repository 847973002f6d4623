"""Training cases: what is known of one before it is loaded, and how they lie on disk, as plain arrays that are memory-mapped.

000123.images.npy   uint8 or uint16 (D, H, W) or (N, H, W, 3), the largest number is white
000123.labels.npy   uint8 (D, H, W) or (N, H, W)
000123.json         kind, name, tasks; written last, so a case with one is complete

`medsam2 prepare` writes such folders, and so does `recipes/nano/synthesize.py`. What trains reads them through a CaseReader, so
cases can come from elsewhere too. At the end many jobs in several processes: one that fails, or takes its process down with it,
is reported and the others go on.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import FormatError
from medical_sam2.io.atomic import writing

Kind = Literal["volume", "set"]
ARRAYS = "arrays"
"""Folder within a prepared data set that its training cases are in."""
Task = tuple[int, ...]
"""An object: the union of some values of a label map."""
PARTS = ("images", "labels")
SMALLEST = 0.00153  # share of a slice under which an object is left out: 100 px of 256² (METHOD §4)
Pixel: TypeAlias = np.uint8 | np.uint16
"""Intensities of the arrays; the largest number is white."""
MAKE_CASES = "give the folder that `medsam2 prepare` or recipes/nano/synthesize.py wrote as `pool` (or `validation`)"
SYNTHETIC = "synthetic"
MODALITIES = {
    "CT": ("ct",),
    "MR": ("mr", "mri", "t1", "t1w", "t1c", "t1ce", "t1gd", "t2", "t2w", "flair", "adc", "dwi", "cine", "lge", "bssfp"),
    "US": ("us", "ultrasound", "echo"),
    "DX": ("xray", "x-ray", "x_ray", "dx", "cr", "radiograph"),
    "MG": ("mg", "mammography", "mammogram"),
    "OCT": ("oct",),
    "PT": ("pet", "pt"),
}
Job = TypeVar("Job")
Output = TypeVar("Output")
DIED = "its process died, most likely for want of memory; take fewer workers"


@dataclass(frozen=True)
class CaseEntry:
    """What is known of a case before it is loaded, so that sampling knows tasks and modalities."""

    index: int  # its number on disk
    kind: Kind  # "volume", or "set" for images in no order
    tasks: tuple[Task, ...]  # the objects in it
    name: str  # what made it, or the data set that it belongs to
    task_names: tuple[str, ...]  # what each of `tasks` is an example of ("BTCV/spleen"); several objects may share a name
    modality: str = SYNTHETIC  # what took the images ("CT", "T1", "fundus", "synthetic")


@dataclass(frozen=True, eq=False)
class TrainingCase:
    """Images with their objects outlined."""

    images: NDArray[Pixel]  # (D, H, W) for a volume, (N, H, W, 3) for a set of images; uint8 or uint16
    labels: NDArray[np.uint8]  # (D, H, W) or (N, H, W) uint8
    tasks: tuple[Task, ...]  # the objects, each the union of some labels; they may be nested
    kind: Kind  # "volume", or "set" for images in no order
    name: str  # what made it, or the data set that it belongs to


class CaseReader(Protocol):
    """Something that training cases are read from."""

    @property
    def entries(self) -> Sequence[CaseEntry]:
        """What there is."""
        ...

    def load(self, position: int) -> TrainingCase:
        """The case at a position of `entries`."""
        ...


class JoinedReader:
    """Several readers as one: each task of each data set is found among its entries.

    Args:
        readers: what is joined; their cases follow each other in this order.
    """

    def __init__(self, *readers: CaseReader) -> None:
        self.readers = readers

    @property
    def entries(self) -> tuple[CaseEntry, ...]:
        """What there is in all of them."""
        return tuple(entry for reader in self.readers for entry in reader.entries)

    def load(self, position: int) -> TrainingCase:
        """The case at a position of `entries`; raises IndexError if there are not so many."""
        for reader in self.readers:
            if position < len(reader.entries):
                return reader.load(position)
            position -= len(reader.entries)
        raise IndexError(f"there is no case {position} more")


class PoolReader:
    """Reads a folder of cases, those that are whole by now.

    Args:
        folder: of cases, or a data set that `medsam2 prepare` wrote.
    """

    def __init__(self, folder: Path) -> None:
        arrays = Path(folder) / ARRAYS
        self.folder = arrays if arrays.is_dir() else Path(folder)
        self.entries = tuple(_read_entry(path) for path in sorted(self.folder.glob("[0-9]*.json")))

    def load(self, position: int) -> TrainingCase:
        """The case at a position of `entries`, its arrays memory-mapped read-only."""
        entry = self.entries[position]
        images, labels = (self._array(entry.index, part) for part in PARTS)
        return TrainingCase(images, labels, entry.tasks, entry.kind, entry.name)

    def _array(self, index: int, part: str) -> NDArray[Any]:
        path = self.folder / f"{index:06d}.{part}.npy"
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise FormatError(
                "the array is missing or broken", "delete the case and write the pool again", subject=path
            ) from error


def read_pool(folder: Path) -> CaseReader:
    """The cases of a pool, or of all pools in a folder, by name; raises FormatError for no folder, no case, or a broken one."""
    if not folder.is_dir():
        raise FormatError("there is no such folder of cases", MAKE_CASES, subject=folder)
    readers = [PoolReader(path) for path in sorted(folder.glob("*/")) if path.name != ARRAYS]
    found = [reader for reader in readers if reader.entries]
    pool = JoinedReader(*found) if found else PoolReader(folder)
    if not pool.entries:
        raise FormatError("this folder holds no cases to train on", MAKE_CASES, subject=folder)
    return pool


def write_arrays(folder: Path, index: int, case: TrainingCase) -> list[str]:
    """Write images and labels of a case; its description has to follow. Returns the names of the files."""
    names = [f"{index:06d}.{part}.npy" for part in PARTS]
    for name, array in zip(names, (case.images, case.labels), strict=True):
        with writing(folder / name) as stream:
            np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return names


def _read_entry(path: Path) -> CaseEntry:
    try:
        description = json.loads(path.read_text())
        tasks = tuple(tuple(task) for task in description["tasks"])
        names = tuple(description.get("task_names", (description["name"],) * len(tasks)))
        return CaseEntry(
            int(path.stem), description["kind"], tasks, description["name"], names, description.get("modality", SYNTHETIC)
        )
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(
            "no description of a synthetic case", "delete the case and write the pool again", subject=path
        ) from error


def modality_of(channels: tuple[str, ...]) -> str:
    """The DICOM code of what took the images, as far as the names of the channels tell; else those names.

    >>> modality_of(("T1", "FLAIR")), modality_of(("R", "G", "B")), modality_of(("CT_windowed",)), modality_of(("grey",))
    ('MR', 'RGB', 'CT', 'grey')
    """
    names = [name.lower() for name in channels]
    if names in (["r", "g", "b"], ["red", "green", "blue"]):
        return "RGB"
    found = {code for name in names for code, words in MODALITIES.items() if {name, re.split(r"[ _]", name)[0]} & set(words)}
    return found.pop() if len(found) == 1 else "+".join(channels)


@dataclass(frozen=True)
class JobResult(Generic[Job, Output]):
    """What came of a job."""

    job: Job  # it
    result: Output | None  # what it returned; None if it failed
    error: BaseException | str | None = None  # why it failed, an exception or words


def run_jobs(function: Callable[[Job], Output], jobs: Sequence[Job], workers: int) -> Iterator[JobResult[Job, Output]]:
    """The answers to all jobs, in the order in which they are done.

    Args:
        function: of a module, so that other processes find it.
        workers: processes; with one, the work is done in this process.
    """
    if workers <= 1:
        for job in jobs:
            yield _try_job(function, job)
        return
    if not jobs:
        return
    left = list(jobs)
    for answer in _run_in_pool(function, jobs, workers):
        left.remove(answer.job)
        yield answer
    for job in left:  # a process died: whose fault it was shows when each job has a process of its own
        yield from list(_run_in_pool(function, [job], 1)) or [JobResult(job, None, DIED)]


def _try_job(function: Callable[[Job], Output], job: Job) -> JobResult[Job, Output]:
    try:
        return JobResult(job, function(job))
    except Exception as error:  # reported to whoever asked, who goes on with the others
        return JobResult(job, None, error)


def _run_in_pool(function: Callable[[Job], Output], jobs: Sequence[Job], workers: int) -> Iterator[JobResult[Job, Output]]:
    """Answers until all are there or a process dies."""
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as executor:
        futures: dict[Future[Output], Job] = {executor.submit(function, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    return
                yield JobResult(futures[future], None if error else future.result(), error)
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise

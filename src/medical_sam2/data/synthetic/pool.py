"""A pool of synthetic cases on disk: images and labels as plain arrays that can be memory-mapped, one text file each.

000123.images.npy   uint8 (D, H, W) or (N, H, W, 3)
000123.labels.npy   uint8 (D, H, W) or (N, H, W)
000123.json         kind, tasks, seed, version; written last, so a case with one is complete
"""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medical_sam2.data.cases import ARRAYS, CaseReader, Joined, Kind, Task
from medical_sam2.data.synthetic.sets import make_set
from medical_sam2.data.synthetic.volumes import SyntheticCase, make_volume
from medical_sam2.errors import FormatError
from medical_sam2.io.atomic import write_bytes, writing

VERSION = 4
SYNTHETIC = "synthetic"


class Maker(Protocol):
    """What makes the case of an index; it must be picklable."""

    def __call__(self, seed: int, index: int, kind: Kind, *, size: int, count: int) -> SyntheticCase:
        """See `make_case`."""
        ...


def write_pool(
    folder: Path,
    *,
    volumes: int,
    sets: int,
    seed: int = 0,
    workers: int = 1,
    size: int = 128,
    count: int = 10,
    first: int = 0,
    maker: Maker | None = None,
) -> Iterator[int]:
    """Fill a folder with cases; those that are there already stay. Yields the index of each case as it is done.

    Volumes and sets are spread evenly, so a pool that is still being written can be used. A case depends on the seed
    and its index alone, not on how many there are or who makes them.

    Args:
        folder: made where it is missing.
        volumes: how many volumes in all.
        sets: how many sets of images in all.
        seed: of the whole pool.
        workers: processes.
        size: voxels along the longest axis.
        count: images in a set.
        first: even number of the first case, so that pools can lie in one folder.
        maker: of the cases, `make_case` unless given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    todo: list[tuple[int, Kind]] = [
        (first + index, kind) for index, kind in _plan(volumes, sets) if not (folder / f"{first + index:06d}.json").exists()
    ]
    job = partial(_write, folder, seed, size, count, maker or make_case)
    if workers <= 1:
        yield from map(job, todo)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
        yield from executor.map(job, todo)


def make_case(seed: int, index: int, kind: Kind, *, size: int = 128, count: int = 10) -> SyntheticCase:
    """The case of that index in a pool of that seed."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    return make_volume(rng, size) if kind == "volume" else make_set(rng, size, count)


@dataclass(frozen=True)
class PoolEntry:
    """One case of a pool.

    Args:
        index: its number.
        kind: "volume" or "set".
        tasks: objects, each a union of labels.
        name: which generator made it, or the data set that it was prepared from.
        task_names: what each object is an example of.
        modality: what took the images.
    """

    index: int
    kind: Kind
    tasks: tuple[Task, ...]
    name: str
    task_names: tuple[str, ...]
    modality: str = SYNTHETIC


class PoolReader:
    """Reads a pool, which may still be growing: `refresh` finds what came since.

    Args:
        folder: that `write_pool` filled, or that `medsam2 prepare` wrote.
    """

    def __init__(self, folder: Path) -> None:
        arrays = Path(folder) / ARRAYS
        self.folder = arrays if arrays.is_dir() else Path(folder)
        self.entries: tuple[PoolEntry, ...] = ()
        self.refresh()

    def refresh(self) -> int:
        """Look again what is there; returns how many cases."""
        known = {entry.index: entry for entry in self.entries}
        found = sorted(self.folder.glob("[0-9]*.json"))
        self.entries = tuple(known.get(int(path.stem)) or _entry(path) for path in found)
        return len(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def load(self, position: int) -> SyntheticCase:
        """The case at a position of `entries`, its arrays memory-mapped read-only."""
        entry = self.entries[position]
        images, labels = (self._array(entry.index, part) for part in ("images", "labels"))
        return SyntheticCase(images, labels, entry.tasks, entry.kind, entry.name)

    def _array(self, index: int, part: str) -> NDArray[np.uint8]:
        path = self.folder / f"{index:06d}.{part}.npy"
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise FormatError(
                "the array is missing or broken", "delete the case and write the pool again", subject=path
            ) from error


def read_pool(folder: Path) -> CaseReader:
    """The cases of a pool, or of all pools (synthetic and prepared ones alike) that lie in a folder, by their names.

    Raises:
        FormatError: a case is broken.
    """
    readers = [PoolReader(path) for path in sorted(folder.glob("*/")) if path.name != ARRAYS]
    found = [reader for reader in readers if reader.entries]
    return Joined(*found) if found else PoolReader(folder)


def _entry(path: Path) -> PoolEntry:
    try:
        told = json.loads(path.read_text())
        tasks = tuple(tuple(task) for task in told["tasks"])
        names = tuple(told.get("task_names", (told["name"],) * len(tasks)))
        return PoolEntry(int(path.stem), told["kind"], tasks, told["name"], names, told.get("modality", SYNTHETIC))
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(
            "no description of a synthetic case", "delete the case and write the pool again", subject=path
        ) from error


def _plan(volumes: int, sets: int) -> list[tuple[int, Kind]]:
    """Indices with their kinds: volumes even, sets odd, so that more of one never changes the other."""
    places = [((k + 0.5) / volumes, 2 * k) for k in range(volumes)] + [((k + 0.5) / sets, 2 * k + 1) for k in range(sets)]
    return [(index, "set" if index % 2 else "volume") for _, index in sorted(places)]


def _write(folder: Path, seed: int, size: int, count: int, maker: Maker, item: tuple[int, Kind]) -> int:
    index, kind = item
    case = maker(seed, index, kind, size=size, count=count)
    told = {"kind": case.kind, "name": case.name, "tasks": case.tasks, "seed": [seed, index], "version": VERSION}
    for part, array in (("images", case.images), ("labels", case.labels)):
        with writing(folder / f"{index:06d}.{part}.npy") as stream:
            np.save(stream, array, allow_pickle=False)
    write_bytes(folder / f"{index:06d}.json", json.dumps(told).encode())
    return index

"""A pool of cases on disk, as `medical_sam2.data.cases` describes it; each depends on the seed and its number alone."""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import numpy as np

from medical_sam2.data.cases import Kind, TrainingCase, write_arrays
from medical_sam2.io.atomic import write_bytes
from synthetic.sets import make_set
from synthetic.volumes import make_volume

VERSION = 4


class Maker(Protocol):
    """What makes the case of an index; it must be picklable."""

    def __call__(self, seed: int, index: int, kind: Kind, *, size: int, count: int) -> TrainingCase:
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


def make_case(seed: int, index: int, kind: Kind, *, size: int = 128, count: int = 10) -> TrainingCase:
    """The case of that index in a pool of that seed."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    return make_volume(rng, size) if kind == "volume" else make_set(rng, size, count)


def _plan(volumes: int, sets: int) -> list[tuple[int, Kind]]:
    """Indices with their kinds: volumes even, sets odd, so that more of one never changes the other."""
    places = [((k + 0.5) / volumes, 2 * k) for k in range(volumes)] + [((k + 0.5) / sets, 2 * k + 1) for k in range(sets)]
    return [(index, "set" if index % 2 else "volume") for _, index in sorted(places)]


def _write(folder: Path, seed: int, size: int, count: int, maker: Maker, item: tuple[int, Kind]) -> int:
    index, kind = item
    case = maker(seed, index, kind, size=size, count=count)
    write_arrays(folder, index, case)
    told = {"kind": case.kind, "name": case.name, "tasks": case.tasks, "seed": [seed, index], "version": VERSION}
    write_bytes(folder / f"{index:06d}.json", json.dumps(told).encode())
    return index

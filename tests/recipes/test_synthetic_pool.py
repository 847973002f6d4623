"""The pool on disk: resumable, the same whoever makes it, readable while it grows."""

from pathlib import Path

import numpy as np
import pytest

from medical_sam2.data.cases import PoolReader
from synthetic import make_case, write_pool

SIZE, COUNT = 32, 2


def fill(folder: Path, *, volumes: int = 2, sets: int = 2, workers: int = 1, seed: int = 7) -> list[int]:
    return list(write_pool(folder, volumes=volumes, sets=sets, seed=seed, workers=workers, size=SIZE, count=COUNT))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool") / "cases"
    assert fill(folder) == [0, 1, 2, 3]
    return folder


def test_what_is_read_is_what_was_made(pool: Path) -> None:
    reader = PoolReader(pool)
    assert [entry.kind for entry in reader.entries] == ["volume", "set", "volume", "set"]
    for position, entry in enumerate(reader.entries):
        made, read = make_case(7, entry.index, entry.kind, size=SIZE, count=COUNT), reader.load(position)
        assert isinstance(read.images, np.memmap)
        np.testing.assert_array_equal(read.images, made.images)
        np.testing.assert_array_equal(read.labels, made.labels)
        assert (read.tasks, read.kind, read.name) == (made.tasks, made.kind, made.name)


def test_a_full_pool_is_left_alone(pool: Path) -> None:
    before = contents(pool)
    assert fill(pool) == []
    assert contents(pool) == before


def test_several_workers_make_the_same_pool(pool: Path, tmp_path: Path) -> None:
    fill(tmp_path, workers=2)
    assert contents(tmp_path) == contents(pool)


def test_a_pool_that_was_cut_off_goes_on_and_a_longer_one_begins_the_same(pool: Path, tmp_path: Path) -> None:
    fill(tmp_path, volumes=1, sets=0)
    assert len(PoolReader(tmp_path).entries) == 1
    (tmp_path / "000002.images.npy").write_bytes(b"half a file")
    assert sorted(fill(tmp_path)) == [1, 2, 3]
    assert contents(tmp_path) == contents(pool)

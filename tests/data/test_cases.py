"""Training cases on disk: what is read is what was written, while it grows too, and what is broken is named."""

import json
from pathlib import Path

import numpy as np
import pytest

from medical_sam2.data.cases import PoolReader, modality_of, read_pool
from medical_sam2.errors import FormatError
from tests.pools import balls, write_pool


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    write_pool(tmp_path, volumes=1, sets=1, seed=7)
    reader = PoolReader(tmp_path)
    assert [(entry.index, entry.kind, entry.task_names) for entry in reader.entries] == [
        (0, "volume", ("balls",) * 3),
        (1, "set", ("balls",) * 3),
    ]
    for position, entry in enumerate(reader.entries):
        made, read = balls(700 + entry.index, entry.kind), reader.load(position)
        assert isinstance(read.images, np.memmap)
        np.testing.assert_array_equal(read.images, made.images)
        np.testing.assert_array_equal(read.labels, made.labels)
        assert (read.tasks, read.kind, read.name) == (made.tasks, made.kind, made.name)


def test_a_reader_finds_what_came_since(tmp_path: Path) -> None:
    reader = PoolReader(tmp_path)
    assert reader.entries == ()
    write_pool(tmp_path, volumes=1, sets=0)
    reader = PoolReader(tmp_path)
    assert len(reader.entries) == 1


def test_broken_cases_are_named(tmp_path: Path) -> None:
    write_pool(tmp_path, volumes=1, sets=0)
    reader = PoolReader(tmp_path)
    (tmp_path / "000000.labels.npy").write_bytes(b"no array")
    with pytest.raises(FormatError, match=r"000000\.labels\.npy"):
        reader.load(0)
    (tmp_path / "000000.json").write_text(json.dumps({"kind": "volume"}))
    with pytest.raises(FormatError, match=r"000000\.json"):
        PoolReader(tmp_path)


def test_pools_in_a_folder_are_read_as_one(tmp_path: Path) -> None:
    write_pool(tmp_path / "b", volumes=1, sets=0)
    write_pool(tmp_path / "a", volumes=2, sets=0, seed=3)
    (tmp_path / "empty").mkdir()
    joined = read_pool(tmp_path)
    assert [entry.index for entry in joined.entries] == [0, 2, 0]
    np.testing.assert_array_equal(joined.load(1).labels, balls(302, "volume").labels)
    np.testing.assert_array_equal(joined.load(2).labels, balls(0, "volume").labels)
    with pytest.raises(IndexError, match="no case"):
        joined.load(3)
    assert [entry.index for entry in read_pool(tmp_path / "b").entries] == [0]


def test_a_case_without_its_description_is_not_there_yet(tmp_path: Path) -> None:
    write_pool(tmp_path, volumes=2, sets=0)
    (tmp_path / "000002.json").unlink()
    assert [entry.index for entry in PoolReader(tmp_path).entries] == [0]


def test_what_nobody_may_write_to(tmp_path: Path) -> None:
    write_pool(tmp_path, volumes=1, sets=0)
    with pytest.raises(ValueError, match="read-only"):
        PoolReader(tmp_path).load(0).labels[0, 0, 0] = 1


@pytest.mark.parametrize(
    ("channels", "modality"),
    [
        (("CT",), "CT"),
        (("T1", "T2w", "FLAIR"), "MR"),
        (("red", "green", "blue"), "RGB"),
        (("CT", "PET"), "CT+PET"),
        (("ct_windowed",), "CT"),
        (("ultrasound left",), "US"),
        (("project",), "project"),
    ],
)
def test_modalities_by_the_names_of_channels(channels: tuple[str, ...], modality: str) -> None:
    assert modality_of(channels) == modality

"""A file appears whole or not at all, whatever happens."""

import errno
import os
from pathlib import Path

import pytest

from medical_sam2.errors import InputError, ResourceError
from medical_sam2.io import atomic


def interrupted(path: Path, error: BaseException) -> None:
    with atomic.writing(path) as stream:
        stream.write(b"half")
        raise error


def test_a_file_is_whole(tmp_path: Path) -> None:
    atomic.write_bytes(tmp_path / "a", b"all")
    assert (tmp_path / "a").read_bytes() == b"all"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), SystemExit()])
def test_an_older_file_survives_any_error(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(type(error)):
        interrupted(tmp_path / "a", error)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, ResourceError), (errno.EDQUOT, ResourceError), (errno.EIO, InputError)]
)
def test_a_full_disk_is_a_lack_of_resources(tmp_path: Path, number: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=str(tmp_path)):
        interrupted(tmp_path / "a", OSError(number, "no"))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder does not exist"):
        atomic.write_bytes(tmp_path / "absent" / "a", b"x")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        atomic.write_bytes(tmp_path / "a", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_usual_permissions_apply(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        atomic.write_bytes(tmp_path / "a", b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640

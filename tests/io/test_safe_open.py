"""Paths that are no ordinary files."""

import errno
import os
import stat
import warnings
import zlib
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from medical_sam2 import io
from medical_sam2.errors import FormatError, GeometryError, InputError, ResourceError
from medical_sam2.io import safe_open
from medical_sam2.io.image_folder import open_folder
from medical_sam2.volume import Volume


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"hello")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pipe", "pipe"),
        ("loop", "loop"),
        ("dangling", "no such file"),
        ("absent", "no such file"),
        ("empty", "empty"),
        ("folder", "no DICOM"),
        ("file", "format is unknown"),
        ("file/below", "no folder"),
        ("x" * 300, "name that is too long"),
        ("/dev/zero", "device"),
        ("zero\0byte", "zero byte"),
    ],
)
def test_they_are_refused_with_a_reason(odd: Path, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        io.read(odd / name)


def test_permissions_are_a_reason() -> None:
    assert "permissions" in str(safe_open.explain(PermissionError(13, "Permission denied"), Path("a")))
    assert str(safe_open.explain(OSError(5, "Input/output error"), Path("a"))) == "a: input/output error; check the path"


def test_odd_names_are_no_matter(tmp_path: Path) -> None:
    volume = Volume(np.zeros((2, 3, 4), np.uint8), np.eye(4))
    for name in ("new\nline.nii.gz", "$(touch x).nii", "a;b.nrrd", "dots.v1.2.mha", "-dash.nii", "ü 脳 🧠.nii.gz", "'\".nii"):
        io.save(volume.array, tmp_path / name, volume)
        assert io.load(tmp_path / name).shape == (2, 3, 4)
    assert len(list(tmp_path.iterdir())) == 7


def test_free_memory_is_known() -> None:
    free = safe_open.free_memory()
    assert free is None or 0 < free < 1 << 50
    assert stat.S_ISREG(os.stat(__file__).st_mode)


def test_a_file_that_is_all_hole_is_refused(tmp_path: Path) -> None:
    header = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 1024 1024 2048\nspacings: 1 1 1\nencoding: raw\n\n"
    with open(tmp_path / "hole.nrrd", "wb") as stream:
        stream.write(header)
        stream.truncate((2 << 30) + len(header))
    with pytest.raises(ResourceError, match="bomb"):
        io.load(tmp_path / "hole.nrrd")


@pytest.mark.parametrize(
    ("thrown", "error", "said"),
    [
        (
            ZeroDivisionError("CANARY"),
            FormatError,
            "x: the file is damaged or incomplete (ZeroDivisionError); copy or download",
        ),
        (zlib.error("CANARY"), FormatError, "x: the file is damaged"),
        (RecursionError(), FormatError, "nested too deeply"),
        (MemoryError(), ResourceError, "needs more memory than there is"),
        (OSError(errno.EACCES, "CANARY"), InputError, "x: may not be read"),
        (GeometryError("crooked", subject="y"), GeometryError, "y: crooked"),
    ],
)
def test_no_foreign_exception_leaves_a_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thrown: Exception, error: type[Exception], said: str
) -> None:
    def read(path: Path, options: object) -> None:
        warnings.warn("CANARY", stacklevel=1)
        raise thrown

    monkeypatch.chdir(tmp_path)
    io.save(np.ones((2, 2, 2), np.uint8), "x.nii", Volume(np.zeros((2, 2, 2)), np.eye(4)))
    Path("x.nii").rename("x")
    monkeypatch.setattr("medical_sam2.io.nifti.read", read)
    with pytest.raises(error) as caught:
        io.load("x")
    assert said in str(caught.value)
    assert "CANARY" not in str(caught.value)


def test_bytes_that_follow_the_image_are_named(tmp_path: Path) -> None:
    image = Volume(np.arange(8, dtype=np.uint8).reshape(2, 2, 2), np.eye(4))
    for name in ("a.nii", "a.nii.gz", "a.mha", "a.nrrd"):
        io.save(image.array, tmp_path / name, image)
        with open(tmp_path / name, "ab") as stream:
            stream.write(b"extra")
        assert any(
            "bytes follow the image" in note or "other data follow" in note for note in io.load(tmp_path / name).warnings
        ), name


@pytest.mark.parametrize(
    ("name", "header"),
    [
        (
            "a.mhd",
            "NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = a.raw\n",
        ),
        ("a.nhdr", "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nspacings: 1 1 1\nencoding: raw\ndata file: a.raw\n\n"),
    ],
)
def test_a_data_file_that_is_longer_than_its_header_says(tmp_path: Path, name: str, header: str) -> None:
    """Whether what is too much lies before the voxels or after them, nobody can tell."""
    (tmp_path / name).write_text(header)
    (tmp_path / "a.raw").write_bytes(bytes(range(8)))
    assert io.load(tmp_path / name).array.sum() == 28
    (tmp_path / "a.raw").write_bytes(bytes(348) + bytes(range(8)))
    with pytest.raises(FormatError, match="348 bytes more than the header declares"):
        io.load(tmp_path / name)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_may_be_composed_in_another_way(tmp_path: Path, form: Literal["NFC", "NFD"]) -> None:
    other = "NFD" if form == "NFC" else "NFC"
    folder = tmp_path / normalize(form, "pré")
    folder.mkdir()
    array = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    io.save(array, folder / normalize(form, "é.nii"), Volume(array, np.eye(4)))
    Image.fromarray(array[0]).save(folder / normalize(form, "ö.png"))
    header = "NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementSpacing = 1 1 1\n"
    header += "TransformMatrix = 1 0 0 0 1 0 0 0 1\nElementDataFile = "
    (folder / "a.mhd").write_bytes(header.encode() + normalize(other, "ü.raw").encode())
    (folder / normalize(form, "ü.raw")).write_bytes(array.tobytes())
    told = tmp_path / normalize(other, "pré")
    np.testing.assert_array_equal(io.load(told / normalize(other, "é.nii")).array, array)
    assert io.load(told / "a.mhd").shape == (2, 2, 2)
    images = open_folder(told)
    assert images.entries[images.index(normalize(other, "ö.png"))].name == normalize(form, "ö.png")
    assert images.index(str(told / normalize(other, "ö.png"))) == images.index(normalize(form, "ö.png"))


def test_two_names_that_differ_only_so_are_two_files(tmp_path: Path) -> None:
    for number, form in enumerate(("NFC", "NFD")):
        Image.fromarray(np.eye(4, dtype=np.uint8) + np.uint8(number)).save(tmp_path / normalize(form, "é.png"))  # type: ignore[arg-type]
    images = open_folder(tmp_path)
    assert images.picture(images.index(normalize("NFC", "é.png"))).array.min() == 0
    assert images.picture(images.index(normalize("NFD", "é.png"))).array.min() == 1

"""Zip files: one image, and nothing that could do harm."""

import stat
import tempfile
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from medical_sam2 import io
from medical_sam2.errors import AmbiguousError, FormatError, ResourceError
from tests.io.making import Series
from tests.io.test_dicom import made, same
from tests.io.test_nifti import ARRAY, raw


def pack(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


@pytest.fixture(autouse=True)
def empty_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def test_one_volume(tmp_path: Path, empty_temporary_folder: Path) -> None:
    volume = io.load(pack(tmp_path / "a.zip", {"study/a.nii": raw(), "__MACOSX/._a.nii": b"x", "readme.txt": b"hello"}))
    np.testing.assert_array_equal(volume.array, ARRAY)
    assert volume.source == tmp_path / "a.zip"
    assert list(empty_temporary_folder.iterdir()) == []


def test_folders_parted_by_backslashes(tmp_path: Path, empty_temporary_folder: Path) -> None:
    header = "NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementSpacing = 1 1 1\n"
    header += "TransformMatrix = 1 0 0 0 1 0 0 0 1\nElementDataFile = a.raw\n"
    entries = {"study\\": b"", "study\\one\\a.mhd": header.encode(), "study\\one\\a.raw": bytes(range(8))}
    assert io.load(pack(tmp_path / "a.zip", entries)).array[1, 0, 0] == 1
    assert list(empty_temporary_folder.iterdir()) == []


def test_a_dicom_series(tmp_path: Path) -> None:
    made(tmp_path / "series")
    entries = {f"x/{path.name}": path.read_bytes() for path in (tmp_path / "series").iterdir()}
    same(io.load(pack(tmp_path / "a.zip", entries)))
    assert Series is not None


def test_header_and_data_apart(tmp_path: Path) -> None:
    header = "NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementSpacing = 1 1 1\n"
    header += "TransformMatrix = 1 0 0 0 1 0 0 0 1\nElementDataFile = a.raw\n"
    volume = io.load(pack(tmp_path / "a.zip", {"a.mhd": header.encode(), "a.raw": bytes(range(8))}))
    assert volume.array[1, 0, 0] == 1


def test_several_volumes_must_be_unpacked(tmp_path: Path) -> None:
    with pytest.raises(AmbiguousError, match=r"2 images.*: entry 2 \(NIfTI\), entry 3 \(NIfTI\)$"):
        io.load(pack(tmp_path / "a.zip", {"readme.txt": b"hello", "DOE.nii": raw(), "b.nii": raw()}))


@pytest.mark.parametrize(
    "name",
    [
        "/tmp/x",
        "../x",
        "a/../../x",
        "..\\x",
        "\\x",
        "a\\..\\..\\x",
        "C:/x",
        "C:\\x",
        "b\\..\\a.nii",
        "inner.zip",
        "inner.tar",
        "A.NII",
        "e\u0301.nii",
    ],
)
def test_unsafe_entries_are_refused(tmp_path: Path, empty_temporary_folder: Path, name: str) -> None:
    with pytest.raises(FormatError, match=r"unsafe|archive|same name"):
        io.load(pack(tmp_path / "z.zip", {"a.nii": raw(), "\xe9.nii": b"x", name: b"x"}))
    assert list(empty_temporary_folder.iterdir()) == []


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path: Path, kind: int) -> None:
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.nii", raw())
        archive.writestr(entry, "/etc")
    with pytest.raises(FormatError, match="link"):
        io.load(tmp_path / "a.zip")


def test_a_forged_size_is_refused(tmp_path: Path) -> None:
    data = bytearray(pack(tmp_path / "a.zip", {"a.nii": raw()}).read_bytes())
    place = data.rindex(b"PK\x01\x02") + 24
    data[place : place + 4] = (2**32 - 16).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(bytes(data))
    with pytest.raises((FormatError, ResourceError)):
        io.load(tmp_path / "a.zip")


def test_a_limit_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="allowed"):
        io.load(pack(tmp_path / "a.zip", {"a.nii": bytes(10**6)}), max_bytes=10**5)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_cut_archive_is_refused(tmp_path: Path, share: float) -> None:
    data = pack(tmp_path / "a.zip", {"a.nii": raw()}).read_bytes()
    (tmp_path / "a.zip").write_bytes(data[: int(share * len(data))])
    with pytest.raises(FormatError, match="damaged or truncated"):
        io.load(tmp_path / "a.zip")


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    data = bytearray(pack(tmp_path / "a.zip", {"a.nii": raw()}).read_bytes())
    data[120] ^= 4
    (tmp_path / "a.zip").write_bytes(bytes(data))
    with pytest.raises(FormatError):
        io.load(tmp_path / "a.zip")


def test_errors_name_the_archive_and_the_entry(tmp_path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        io.load(pack(tmp_path / "a.zip", {"readme.txt": b"hello", "x/a.nii": raw()[:400]}))
    assert str(caught.value).startswith(f"{tmp_path / 'a.zip'} (entry 2): the image is truncated")


def test_entries_are_told_by_their_places_not_by_their_names(tmp_path: Path) -> None:
    made(tmp_path / "series")
    slices = sorted((tmp_path / "series").iterdir())
    changed = dcmread(slices[0])
    changed.RescaleSlope = 2
    changed.save_as(tmp_path / "changed.dcm")
    entries = {f"DOE/DOE_JOHN_{k}.dcm": path.read_bytes() for k, path in enumerate([*slices, tmp_path / "changed.dcm"])}
    with pytest.raises(FormatError) as caught:
        io.load(pack(tmp_path / "a.zip", entries))
    assert f"{tmp_path / 'a.zip'}: entry 1 and entry {len(entries)} have the same SOPInstanceUID" in str(caught.value)
    assert "DOE" not in str(caught.value)


MHD = "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementSpacing = 1 1 1\nElementDataFile = "
NHDR = (
    "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nencoding: raw\nspace: RAS\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
)


@pytest.mark.parametrize("data", [None, b"1234", b"123456789"], ids=["missing", "too short", "too long"])
@pytest.mark.parametrize(
    ("name", "header"), [("a.mhd", f"{MHD}DOE_JOHN.raw\n"), ("a.nhdr", f"{NHDR}data file: DOE_JOHN.raw\n")]
)
@pytest.mark.parametrize("packed", [True, False])
def test_the_name_of_a_data_file_is_not_told(tmp_path: Path, packed: bool, name: str, header: str, data: bytes | None) -> None:
    """A header names it, and nobody who runs a command does: it may be a person's."""
    entries = {name: header.encode()} | ({} if data is None else {"DOE_JOHN.raw": data})
    for entry, content in entries.items():
        (tmp_path / entry).write_bytes(content)
    with pytest.raises(FormatError) as caught:
        io.load(pack(tmp_path / "a.zip", entries) if packed else tmp_path / name)
    assert "DOE" not in str(caught.value)


def test_the_name_of_an_entrys_other_half_is_not_told(tmp_path: Path) -> None:
    pair = nib.Nifti1Pair(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    with pytest.raises(FormatError, match=r"entry 1.*its other half \(\.img\) cannot be read") as caught:
        io.load(pack(tmp_path / "a.zip", {"DOE_JOHN.hdr": pair.header.binaryblock + bytes(4)}))
    assert "DOE" not in str(caught.value)


@pytest.mark.parametrize("entries", [{}, {"x/": b""}])
def test_an_empty_zip_file_is_called_empty(tmp_path: Path, entries: dict[str, bytes]) -> None:
    with pytest.raises(FormatError, match="the zip file is empty"):
        io.load(pack(tmp_path / "a.zip", entries))


def test_an_archive_without_an_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no image"):
        io.load(pack(tmp_path / "a.zip", {"readme.txt": b"hello"}))


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    data = bytearray(pack(tmp_path / "a.zip", {"a.nii": raw()}).read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(bytes(data))
    with pytest.raises(FormatError, match="encrypted"):
        io.load(tmp_path / "a.zip")

"""DICOM files that are written otherwise than the standard says: read, or refused."""

from pathlib import Path

import pytest

from medical_sam2 import io
from medical_sam2.errors import FormatError
from tests.io.making import AXIAL, Series, made, phantom, same, save


def test_a_file_without_preamble_is_read(tmp_path: Path) -> None:
    made(tmp_path)
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        path.write_bytes(data[132:])
    same(io.load(tmp_path))


def test_deep_sequences_are_refused_or_read(tmp_path: Path) -> None:
    dataset = Series(AXIAL, phantom()).slices()[0]
    save(dataset, tmp_path / "one.dcm")
    data = (tmp_path / "one.dcm").read_bytes()
    opening = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closing = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    start = data.index(b"\x10\x00\x10\x00PN")
    (tmp_path / "one.dcm").write_bytes(data[:start] + opening * 2000 + closing * 2000 + data[start:])
    with pytest.raises(FormatError, match=r"nested|damaged"):
        io.load(tmp_path / "one.dcm")

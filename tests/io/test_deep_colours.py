"""Colours of 16 bits keep what they hold, however little of the range they fill."""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from medical_sam2 import io
from medical_sam2.intensity_window import percentile_window


def save_png(path: Path, array: NDArray[np.uint16]) -> Path:
    """Grey with transparency, colours, or colours with transparency; with a filter that depends on the row above."""
    height, width, channels = array.shape
    rows = np.ascontiguousarray(array.astype(">u2")).view(np.uint8).reshape(height, -1)
    rows = np.concatenate([rows[:1], rows[1:] - rows[:-1]])
    return save_rows(path, [b"\2" + row.tobytes() for row in rows], (width, height, 16, {2: 4, 3: 2, 4: 6}[channels]))


def save_rows(path: Path, rows: Sequence[bytes], head: tuple[int, int, int, int]) -> Path:
    """A PNG of filtered rows; head: width, height, bits, kind of colour."""
    packed = zlib.compress(b"".join(rows))
    header = struct.pack(">IIBBBBB", *head, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    blocks = (struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(blocks))
    return path


def picture(highest: int, channels: int = 3) -> NDArray[np.uint16]:
    rng = np.random.default_rng(highest)
    return (rng.random((30, 40, channels)) ** 2 * highest).astype(np.uint16)


def spread(colours: NDArray[np.generic]) -> int:
    return len(np.unique(colours))


@pytest.mark.parametrize("highest", [255, 1023, 4095, 65_535])
@pytest.mark.parametrize("kind", ["png", "png with transparency", "tif"])
def test_colours_are_stretched_before_they_are_cut(tmp_path: Path, kind: str, highest: int) -> None:
    stored = picture(highest, 4 if "transparency" in kind else 3)
    path = tmp_path / f"a.{kind[:3]}"
    if kind == "tif":
        tifffile.imwrite(path, stored, photometric="rgb")
    else:
        save_png(path, stored)
    (found,) = io.load_pictures(path)
    assert found.array.dtype == np.uint8
    np.testing.assert_array_equal(found.array, percentile_window(stored[..., :3]).as_bytes(stored[..., :3]))
    assert spread(found.array) > 200
    assert "16 bits deep" in found.warnings[0]


def test_grey_with_transparency_is_grey(tmp_path: Path) -> None:
    stored = picture(900, 2)
    (found,) = io.load_pictures(save_png(tmp_path / "a.png", stored))
    np.testing.assert_array_equal(found.array, stored[..., 0])

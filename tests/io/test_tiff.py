"""TIFF files hold the images that people mean: no smaller copies, all planes of a stack, all channels."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile

from medical_sam2 import io
from medical_sam2.cli import main
from medical_sam2.errors import AmbiguousError, FormatError, ResourceError
from medical_sam2.io.image_folder import open_folder

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 255, (4, 12, 10)).astype(np.uint8)


def arrays(path: Path) -> list[np.ndarray]:
    return [picture.array for picture in io.load_pictures(path)]


@pytest.mark.parametrize(("copy", "flag"), [(STACK[0, ::2, ::2], 1), (STACK[0] > 99, 4), (STACK[0, ::4, ::4] > 99, 5)])
def test_smaller_copies_and_masks_of_transparency_are_no_images(tmp_path: Path, copy: np.ndarray, flag: int) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for plane in STACK[:2]:
            file.write(plane, metadata=None)
            file.write(copy, subfiletype=flag, metadata=None)
    np.testing.assert_array_equal(arrays(tmp_path / "a.tif"), STACK[:2])
    assert [entry.page for entry in open_folder(tmp_path).entries] == [0, 1]
    assert np.array_equal(open_folder(tmp_path)[1], STACK[1])


def test_copies_below_a_page_are_no_images(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(STACK[0], subifds=1)
        file.write(STACK[0, ::2, ::2], subfiletype=1)
    assert [entry.name for entry in open_folder(tmp_path).entries] == ["a.tif"]


@pytest.mark.parametrize("how", [{}, {"byteorder": ">"}, {"compression": "zlib"}, {"tile": (16, 16)}])
@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"])
def test_numbers_keep_their_sign(tmp_path: Path, kind: str, how: dict[str, object]) -> None:
    numbers = STACK[0].astype(kind)
    if kind.startswith("i"):
        numbers = (STACK[0].astype(np.int64) - 128).astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", numbers, **how)  # type: ignore[arg-type]
    np.testing.assert_array_equal(arrays(tmp_path / "a.tif"), [numbers])


def test_a_file_that_was_begun_and_no_more_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0" + bytes(4))
    with pytest.raises(FormatError, match="it holds no image"):
        io.load_pictures(tmp_path / "a.tif")
    assert len(open_folder(tmp_path)) == 1  # it fails when it is its turn, and is not left out without a word


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("writer", ["tifffile", "ImageJ"])
def test_one_directory_may_stand_for_a_stack(tmp_path: Path, writer: str, kind: str, order: str) -> None:
    path = tmp_path / "a.tif"
    stack = STACK.astype(kind)
    if writer == "tifffile":
        tifffile.imwrite(path, stack, truncate=True, photometric="minisblack", byteorder=order)
    else:
        told = "ImageJ=1.54f\nimages=4\nslices=4\nmin=0\nmax=255\n"
        tifffile.imwrite(path, stack[0], photometric="minisblack", byteorder=order, description=told, metadata=None)
        with tifffile.TiffFile(path) as file:
            first = file.pages[0].dataoffsets[0]
        path.write_bytes(path.read_bytes()[:first] + stack.astype(stack.dtype.newbyteorder(order)).tobytes())
    np.testing.assert_array_equal(arrays(path), stack)
    assert len(open_folder(tmp_path)) == 4
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match="promises 4 planes, the file holds 3"):
        io.load_pictures(path)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("channels", [2, 5])
def test_channels_that_are_no_colours_are_pages(tmp_path: Path, channels: int, planar: str, compression: str | None) -> None:
    planes = RNG.integers(0, 60_000, (channels, 12, 10)).astype(np.uint16)
    stored = planes if planar == "separate" else np.moveaxis(planes, 0, 2)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", planarconfig=planar, compression=compression)
    pictures = io.load_pictures(tmp_path / "a.tif")
    np.testing.assert_array_equal([picture.array for picture in pictures], planes)
    assert all(f"{channels} numbers" in picture.warnings[0] for picture in pictures)
    with pytest.raises(AmbiguousError, match=f"{channels} pages"):
        io.read(tmp_path / "a.tif")


def test_alpha_is_no_channel(tmp_path: Path) -> None:
    stored = np.moveaxis(STACK[:2], 0, 2)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(arrays(tmp_path / "a.tif"), STACK[:1])


def test_more_than_colours_is_told(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(STACK, 0, 2), photometric="rgb", extrasamples=["unspecified"])
    (picture,) = io.load_pictures(tmp_path / "a.tif")
    np.testing.assert_array_equal(picture.array, np.moveaxis(STACK[:3], 0, 2))
    assert "4 numbers" in picture.warnings[0]


def test_large_numbers_are_not_negative(tmp_path: Path) -> None:
    large = STACK[0].astype(np.uint32) << 24
    tifffile.imwrite(tmp_path / "a.tif", large)
    np.testing.assert_array_equal(arrays(tmp_path / "a.tif"), [large])


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_broken_compression_is_refused(tmp_path: Path, damage: str) -> None:
    planes = RNG.integers(0, 60_000, (3, 12, 10)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate", compression="zlib")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    start = data.index(zlib.compress(b"")[:1])
    data = data[:-30] if damage == "cut" else data[: start + 60] + bytes([data[start + 60] ^ 0xFF]) + data[start + 61 :]
    (tmp_path / "a.tif").write_bytes(bytes(data))
    with pytest.raises(FormatError, match=r"damaged|truncated"):
        io.load_pictures(tmp_path / "a.tif")


def test_a_stack_is_no_volume_and_its_refusal_names_no_option(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="minisblack")
    with pytest.raises(FormatError, match="picture, not a volume") as caught:
        io.load(tmp_path / "a.tif")
    assert "--" not in str(caught.value)


def test_a_stack_that_is_a_volume_is_told_what_to_become(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever command it is given to, none sends it to another one that refuses it."""
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("a.tif", STACK, photometric="minisblack")
    tifffile.imwrite("one.tif", STACK[0], photometric="minisblack")
    become, unrelated = "convert a volume (confocal, µCT) to NIfTI, NRRD or MHA with its spacing", "`medsam2 segment-images`"

    def told(*words: str) -> str:
        assert main([*words]) in (2, 4)
        return capsys.readouterr().err

    assert become in told("info", "a.tif")
    said = told("segment", "a.tif", "--point", "1", "1", "1", "-o", "o.nii.gz")
    assert f"each of its {len(STACK)} pages is a picture, not a volume; {become}" in said
    assert f"give the folder that it lies in to {unrelated}" in said
    said = told("segment-images", "a.tif", "--template", "a", "--point", "1", "1", "-o", "o")
    assert f"a.tif: is a file; give the folder that it lies in, where each of its {len(STACK)} pages is an image" in said
    assert become in said
    assert become not in told("segment", "one.tif", "--point", "1", "1", "1", "-o", "o.nii.gz")
    assert (
        told("segment-images", "one.tif", "--template", "a", "-o", "o")
        == "one.tif: is a file; give the folder that it lies in\n"
    )


def entry(data: bytes, code: int, value: int, *, kind: int | None = None) -> bytes:
    """A little-endian TIFF file with the number of a tag set (as a single one), and its type."""
    start = int.from_bytes(data[4:8], "little")
    for place in range(start + 2, start + 2 + 12 * int.from_bytes(data[start : start + 2], "little"), 12):
        if int.from_bytes(data[place : place + 2], "little") == code:
            told = data[place + 2 : place + 4] if kind is None else kind.to_bytes(2, "little")
            count = data[place + 4 : place + 8] if kind is None else (1).to_bytes(4, "little")
            return data[: place + 2] + told + count + value.to_bytes(4, "little") + data[place + 12 :]
    raise KeyError(code)


@pytest.mark.parametrize("shape", [(9, 11), (9, 11, 3)])
@pytest.mark.parametrize(
    ("told", "changes", "said"),
    [
        ({}, {257: 90}, "are missing|is truncated"),
        ({}, {257: 18_153_472}, "are missing"),
        ({}, {257: 18_153_472, 278: 18_153_472}, r"is truncated: it declares \d+ bytes"),
        ({}, {279: 2_000_000_000}, "behind the end of the file"),
        ({}, {273: 4_000_000_000}, "behind the end of the file"),
        ({"compression": "zlib"}, {257: 1 << 30, 278: 1 << 30}, "decompression bomb"),
        ({"tile": (16, 16)}, {257: 65_539}, "are missing"),
        ({"tile": (16, 16), "compression": "zlib"}, {257: 65_539}, "are missing"),
    ],
)
def test_what_a_directory_claims_is_held_against_the_file(
    tmp_path: Path, shape: tuple[int, ...], told: dict[str, object], changes: dict[int, int], said: str
) -> None:
    """Pillow fills what is missing with zeros; tifffile asks for all memory, or looks at millions of strips."""
    path = tmp_path / "a.tif"
    array = np.random.default_rng(0).integers(0, 60_000, shape).astype(np.uint16)
    tifffile.imwrite(path, array, photometric="rgb" if len(shape) == 3 else "minisblack", metadata=None, **told)
    assert io.load_pictures(path)[0].shape == (9, 11)
    data = path.read_bytes()
    for code, value in changes.items():
        data = entry(data, code, value, kind=4)
    path.write_bytes(data)
    with pytest.raises((FormatError, ResourceError), match=said) as caught:
        io.load_pictures(path)
    assert "a.tif" in str(caught.value)


def test_tiles_that_are_left_out_stay_empty(tmp_path: Path) -> None:
    """Slide scanners store no tiles of background."""
    path = tmp_path / "a.tif"
    array = np.random.default_rng(0).integers(1, 60_000, (32, 32)).astype(np.uint16)
    array[:16, :16] = 0
    tiles = (zlib.compress(array[i : i + 16, j : j + 16].tobytes()) if i + j else b"" for i in (0, 16) for j in (0, 16))
    stored = {"shape": (32, 32), "dtype": np.uint16, "tile": (16, 16), "compression": "zlib"}
    tifffile.imwrite(path, tiles, photometric="minisblack", metadata=None, **stored)
    np.testing.assert_array_equal(io.load_pictures(path)[0].array, array)

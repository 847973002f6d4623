"""Pictures: pixels as stored, depth kept, and what would be done in silence elsewhere is told."""

import io as memory
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from medical_sam2 import io
from medical_sam2.errors import AmbiguousError, FormatError, GeometryError, InputError
from medical_sam2.intensity_window import percentile_window
from medical_sam2.io.image_folder import FolderEntry, ImageFolder, open_folder
from medical_sam2.io.labels import read_label_map, save_label_map

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 9)).astype(np.uint8)
COLOUR = RNG.integers(0, 256, (6, 9, 3)).astype(np.uint8)


def store(image: Image.Image, path: Path, **options: object) -> io.Picture:
    image.save(path, **options)
    (picture,) = io.load_pictures(path)
    assert picture.source == path
    return picture


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("array", [GREY, COLOUR, GREY > 100])
def test_pixels_survive(tmp_path: Path, suffix: str, array: np.ndarray) -> None:
    picture = store(Image.fromarray(array), tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(picture.array, array.astype(np.uint8) * 255 if array.dtype == bool else array)
    assert (picture.shape, picture.colour, picture.warnings) == ((6, 9), array.ndim == 3, ())


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".png", np.uint16), (".tif", np.uint16), (".tif", np.float32), (".tif", np.int32)]
)
def test_deep_greys_are_not_cut(tmp_path: Path, suffix: str, kind: type) -> None:
    array = (RNG.integers(0, 65536, (6, 9)) - (30_000 if kind != np.uint16 else 0)).astype(kind)
    picture = store(Image.fromarray(array), tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(picture.array, array)
    assert picture.array.dtype == kind


def test_palettes_and_transparency_become_colours(tmp_path: Path) -> None:
    paletted = Image.fromarray(COLOUR).quantize(16)
    np.testing.assert_array_equal(store(paletted, tmp_path / "p.png").array, np.array(paletted.convert("RGB")))
    np.testing.assert_array_equal(store(Image.fromarray(COLOUR).convert("RGBA"), tmp_path / "a.png").array, COLOUR)
    np.testing.assert_array_equal(store(Image.fromarray(GREY).convert("LA"), tmp_path / "la.png").array, GREY)


def test_turned_photographs_stay_as_stored_and_tell(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = store(Image.fromarray(GREY), tmp_path / "a.jpg", exif=exif)
    assert picture.shape == (6, 9)
    assert "EXIF orientation 6" in picture.warnings[0]


def turned(array: NDArray[Any], path: Path, orientation: int) -> Path:
    """A file that viewers turn."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    if path.suffix == ".tif":
        tifffile.imwrite(
            path, array, photometric="rgb" if array.ndim > 2 else "minisblack", extratags=[(0x0112, "H", 1, orientation, True)]
        )
    else:
        Image.fromarray(array).save(path, exif=exif)
    return path


@pytest.mark.parametrize("mask", ["m.png", "m.tif", "m32.tif"])
@pytest.mark.parametrize(
    ("orientations", "shape", "taken"),
    [
        ((1, 1), (6, 9), True),
        ((6, 6), (8, 8), True),
        ((3, 1), (6, 9), False),
        ((1, 3), (6, 9), False),
        ((6, 8), (6, 9), False),
        ((6, 1), (8, 8), False),
        ((6, 1), (6, 9), True),  # had it been drawn on what a viewer shows, it would be 9 × 6
    ],
)
def test_a_mask_that_is_turned_otherwise_than_its_image_is_refused(
    tmp_path: Path, mask: str, orientations: tuple[int, int], shape: tuple[int, int], taken: bool
) -> None:
    drawn = np.zeros(shape, np.uint32 if "32" in mask else np.uint8)
    drawn[1:3, 1:5] = 1
    file = turned(drawn, tmp_path / mask, orientations[1])
    (like,) = io.load_pictures(
        turned(np.arange(drawn.size, dtype=np.uint8).reshape(shape), tmp_path / "i.jpg", orientations[0])
    )
    if taken:
        np.testing.assert_array_equal(read_label_map(file, like=like), drawn)
        return
    said = f"EXIF orientation is {orientations[1]} and that of the image is {orientations[0]}"
    with pytest.raises(GeometryError, match=f"{mask}: its {said}.*; save both"):
        read_label_map(file, like=like)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_as_stored_however_viewers_turn_them(tmp_path: Path, orientation: int) -> None:
    """Pillow turns TIFF files, and no others."""
    stored = {"a.png": GREY, "c.png": COLOUR, "a.tif": GREY, "c.tif": COLOUR, "deep.tif": GREY.astype(np.uint32)}
    for name, array in stored.items():
        (found,) = io.load_pictures(turned(array, tmp_path / name, orientation))
        np.testing.assert_array_equal(found.array, array)
        assert found.turned == orientation


def test_a_label_map_is_turned_as_its_image_is(tmp_path: Path) -> None:
    save_label_map(np.arange(24, dtype=np.uint8).reshape(4, 6), tmp_path / "m.png", turned=3)
    (like,) = io.load_pictures(turned(np.zeros((4, 6), np.uint8), tmp_path / "i.jpg", 3))
    np.testing.assert_array_equal(read_label_map(tmp_path / "m.png", like=like), np.arange(24).reshape(4, 6))


def test_pages_must_be_chosen(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY + np.uint8(n)) for n in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(AmbiguousError, match=r"3 pages.*--frame 0.*--all-frames"):
        io.read(tmp_path / "a.tif")
    found = io.read(tmp_path / "a.tif", frame=2)
    assert isinstance(found, tuple)
    np.testing.assert_array_equal(found[0].array, GREY + np.uint8(2))
    assert [picture.frame for picture in io.load_pictures(tmp_path / "a.tif")] == [0, 1, 2]
    with pytest.raises(InputError, match="no page 3"):
        io.read(tmp_path / "a.tif", frame=3)


def test_a_folder_is_read_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "note.txt"):
        Image.fromarray(GREY).save(tmp_path / name, format="PNG")
    assert [picture.source for picture in io.load_pictures(tmp_path)] == [tmp_path / "a.png", tmp_path / "b.png"]


def test_pixels_that_are_not_finite_become_background(tmp_path: Path) -> None:
    array = GREY.astype(np.float32)
    array[2, 3] = np.nan
    picture = store(Image.fromarray(array), tmp_path / "a.tif")
    assert picture.array[2, 3] == np.delete(array.ravel(), 2 * 9 + 3).min()
    assert "1 pixels are NaN" in picture.warnings[0]


def test_a_single_pixel_is_told(tmp_path: Path) -> None:
    assert store(Image.fromarray(GREY[:1, :1]), tmp_path / "a.png").warnings == ("the image is a single pixel",)


@given(share=st.floats(0, 0.99), suffix=st.sampled_from(["png", "jpeg", "tiff"]))
@settings(max_examples=40)
def test_cut_pictures_are_refused(tmp_path_factory: pytest.TempPathFactory, share: float, suffix: str) -> None:
    buffer = memory.BytesIO()
    Image.fromarray(np.tile(COLOUR, (9, 9, 1))).save(buffer, suffix)
    path = tmp_path_factory.mktemp("cut") / f"a.{suffix}"
    path.write_bytes(buffer.getvalue()[: int(share * len(buffer.getvalue()))])
    with pytest.raises(FormatError):
        io.load_pictures(path)


@pytest.mark.parametrize("content", [b"<svg onload='x'/>", b"GIF89a" + bytes(40), b"%PDF-1.7"])
def test_other_formats_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(FormatError, match="format is unknown"):
        io.load_pictures(tmp_path / "a.png")


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    buffer = memory.BytesIO()
    Image.fromarray(GREY).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    (tmp_path / "a.png").write_bytes(bytes(data))
    with pytest.raises(FormatError):
        io.load_pictures(tmp_path / "a.png")


def test_a_picture_is_no_volume_and_a_volume_no_picture(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    with pytest.raises(FormatError, match="picture, not a volume"):
        io.load(tmp_path / "a.png")


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_deep_colours_are_reduced_and_told(tmp_path: Path, planar: str) -> None:
    deep = RNG.integers(0, 65536, (6, 9, 3)).astype(np.uint16)
    stored = deep if planar == "contig" else deep.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar)
    (picture,) = io.load_pictures(tmp_path / "a.tif")
    np.testing.assert_array_equal(picture.array, percentile_window(deep).as_bytes(deep))
    assert "16 bits" in picture.warnings[0]


@pytest.mark.parametrize("kind", ["float64", "int16", "uint32"])
def test_unusual_numbers_in_tiff_are_kept(tmp_path: Path, kind: str) -> None:
    array = RNG.integers(0, 30_000, (6, 9)).astype(kind)
    tifffile.imwrite(tmp_path / "a.tif", array)
    np.testing.assert_array_equal(io.load_pictures(tmp_path / "a.tif")[0].array, array)


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_inks_are_told(tmp_path: Path, suffix: str) -> None:
    picture = store(Image.fromarray(COLOUR).convert("CMYK"), tmp_path / f"a{suffix}")
    assert picture.colour
    assert "CMYK" in picture.warnings[0]


@pytest.mark.parametrize(
    ("names", "maps"),
    [
        (["t.png", "a.jpg"], ["a", "t"]),
        (["b.png", "b.jpg", "b.png.png", "t.png"], ["b.jpg", "b.png", "b.png.png", "t"]),
        (
            ["B.jpg", "b.png", "é.jpg", "e\N{COMBINING ACUTE ACCENT}.png"],
            ["B.jpg", "b.png", "e\N{COMBINING ACUTE ACCENT}.png", "é.jpg"],
        ),
    ],
)
def test_each_image_of_a_folder_has_a_label_map_of_its_own_on_every_system(
    tmp_path: Path, names: list[str], maps: list[str]
) -> None:
    for name in names:
        Image.new("L", (4, 4)).save(tmp_path / name)
    assert [path.name for path in open_folder(tmp_path).outputs(tmp_path)] == [f"{name}.png" for name in maps]


def test_images_that_differ_in_nothing_but_capitals_are_refused(tmp_path: Path) -> None:
    images = ImageFolder(tmp_path, [FolderEntry(tmp_path / name) for name in ("B.png", "a.png", "b.png")])
    with pytest.raises(InputError, match=r"B\.png and b\.png differ in nothing but capitals.*; rename one$"):
        images.outputs(tmp_path)

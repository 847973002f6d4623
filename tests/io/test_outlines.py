"""What is drawn in a mask: white is one object, numbers are objects, soft edges are asked about, nothing is guessed."""

import io as memory
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from scipy.spatial import cKDTree

from medical_sam2 import io
from medical_sam2.errors import AmbiguousError, FormatError, PromptError
from medical_sam2.io.labels import MaskRule, is_lossy, outlines, read_label_map
from medical_sam2.volume import Volume
from tests.io.test_deep_colours import save_rows

Y, X = np.mgrid[:96, :112]
INSIDE = (Y - 40) ** 2 + (X - 60) ** 2 < 20**2
OTHER = (Y - 80) ** 2 + (X - 20) ** 2 < 9**2
WHITE = Image.fromarray(INSIDE.astype(np.uint8) * 255)


def read(path: Path, page: int | None = None, **rule: object) -> dict[int, int]:
    """Label → pixels."""
    found = outlines(read_label_map(path, page), MaskRule(**rule), lossy=is_lossy(path))  # type: ignore[arg-type]
    return {outline.label: int(outline.inside.sum()) for outline in found}


def stored(tmp_path: Path, array: np.ndarray, suffix: str) -> Path:
    path = tmp_path / f"m{suffix}"
    if suffix == ".tif":
        tifffile.imwrite(path, array)
    elif suffix in {".png", ".bmp"}:
        Image.fromarray(array).save(path)
    else:
        io.save(array.T[..., None], path, Volume(array.T[..., None], np.eye(4)))
    return path


@pytest.mark.parametrize(
    ("suffix", "kind", "white"),
    [
        (".png", "bool", 1),
        (".png", "uint8", 255),
        (".png", "uint16", 65535),
        (".bmp", "uint8", 255),
        (".tif", "uint8", 255),
        (".tif", "uint16", 65535),
        (".tif", "uint32", 2**32 - 1),
        (".tif", "int8", 127),
        (".tif", "int16", 32767),
        (".tif", "float32", 255),
        (".nii", "uint8", 255),
        (".nii", "uint16", 65535),
        (".nii", "float64", 255),
        (".nrrd", "uint16", 65535),
        (".mha", "uint8", 255),
    ],
)
def test_black_and_white_is_one_object(tmp_path: Path, suffix: str, kind: str, white: int) -> None:
    array = INSIDE.astype(kind) * np.dtype(kind).type(white)
    assert read(stored(tmp_path, array, suffix)) == {1: INSIDE.sum()}


@pytest.mark.parametrize("suffix", [".png", ".tif", ".nii", ".nrrd"])
@pytest.mark.parametrize("number", [1, 3, 254, 300])
def test_any_other_single_number_stays(tmp_path: Path, suffix: str, number: int) -> None:
    assert read(stored(tmp_path, INSIDE.astype(np.uint16) * np.uint16(number), suffix)) == {number: INSIDE.sum()}


def test_white_beside_another_object_is_a_number(tmp_path: Path) -> None:
    array = (INSIDE * 255 + OTHER * 7).astype(np.uint8)
    assert read(stored(tmp_path, array, ".png")) == {7: OTHER.sum(), 255: INSIDE.sum()}


def test_white_volumes_are_one_object(tmp_path: Path) -> None:
    volume = Volume(np.stack([INSIDE] * 3, axis=2).astype(np.uint8) * 255, np.eye(4))
    io.save(volume.array, tmp_path / "m.nii.gz", volume)
    (found,) = io.load_outlines(tmp_path / "m.nii.gz", volume)
    assert found.label == 1
    (found,) = io.load_outlines(tmp_path / "m.nii.gz", volume, MaskRule(value=255))
    assert found.label == 255
    assert io.load_labels(tmp_path / "m.nii.gz", volume).array.max() == 255  # a result with an object 255 keeps it


@pytest.mark.parametrize("colour", [0, 255, 90])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_what_is_opaque_is_the_object(tmp_path: Path, colour: int, mode: str) -> None:
    picture = Image.new("L", WHITE.size, colour).convert("RGB" if mode == "RGBA" else "L")
    picture.putalpha(WHITE)
    picture.save(tmp_path / "m.png")
    assert read(tmp_path / "m.png") == {1 if colour in {0, 255} else colour: INSIDE.sum()}


def test_numbers_on_a_transparent_ground(tmp_path: Path) -> None:
    grey = Image.fromarray((INSIDE * 1 + OTHER * 2 + ~(INSIDE | OTHER) * 255).astype(np.uint8))
    grey.putalpha(Image.fromarray((INSIDE | OTHER).astype(np.uint8) * 255))
    grey.save(tmp_path / "m.png")
    assert read(tmp_path / "m.png") == {1: INSIDE.sum(), 2: OTHER.sum()}


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_one_colour_may_stand_for_transparency(tmp_path: Path, mode: str) -> None:
    key = 255 if mode == "L" else (255, 255, 255)
    Image.fromarray((~INSIDE).astype(np.uint8) * 255).convert(mode).save(tmp_path / "m.png", transparency=key)
    assert read(tmp_path / "m.png") == {1: INSIDE.sum()}


def test_a_transparent_number_of_a_palette_is_ground(tmp_path: Path) -> None:
    picture = Image.fromarray((~INSIDE).astype(np.uint8)).convert("P")
    picture.putpalette([9, 9, 9, 200, 0, 0])
    picture.save(tmp_path / "m.png", transparency=1)
    assert read(tmp_path / "m.png") == {1: INSIDE.sum()}


def test_the_alpha_of_tiff_counts_too(tmp_path: Path) -> None:
    white = np.full((*INSIDE.shape, 2), 65535, np.uint16)
    white[..., 1] = INSIDE * 65535
    tifffile.imwrite(tmp_path / "m.tif", white, photometric="minisblack", extrasamples=["unassalpha"])
    assert read(tmp_path / "m.tif") == {1: INSIDE.sum()}


def test_an_equal_alpha_says_nothing(tmp_path: Path) -> None:
    for alpha in (0, 128, 255):
        picture = WHITE.copy()
        picture.putalpha(alpha)
        picture.save(tmp_path / "m.png")
        assert read(tmp_path / "m.png") == {1: INSIDE.sum()}


def test_transparency_that_contradicts_the_numbers_is_refused(tmp_path: Path) -> None:
    picture = WHITE.copy()
    picture.putalpha(Image.fromarray((X < 60).astype(np.uint8) * 255))
    picture.save(tmp_path / "m.png")
    with pytest.raises(FormatError, match="different things"):
        read(tmp_path / "m.png")


def test_soft_transparency_is_asked_about(tmp_path: Path) -> None:
    picture = Image.new("L", WHITE.size, 0)
    picture.putalpha(WHITE.filter(ImageFilter.GaussianBlur(1)))
    picture.save(tmp_path / "m.png")
    with pytest.raises(AmbiguousError, match="--threshold 128"):
        read(tmp_path / "m.png")


@pytest.mark.parametrize("white", [255, 65535])
def test_colours_that_are_all_grey_count_once_and_others_are_refused(tmp_path: Path, white: int) -> None:
    kind = np.uint8 if white == 255 else np.uint16
    grey = np.stack([INSIDE.astype(kind) * kind(white)] * 3, axis=2)
    tifffile.imwrite(tmp_path / "m.tif", grey, photometric="rgb")
    assert read(tmp_path / "m.tif") == {1: INSIDE.sum()}
    grey[..., 1] = 0
    tifffile.imwrite(tmp_path / "m.tif", grey, photometric="rgb")
    with pytest.raises(FormatError, match="coloured"):
        read(tmp_path / "m.tif")


def blurred(how: str, amount: float, top: int) -> np.ndarray:
    picture = Image.fromarray((INSIDE * top).astype(np.uint8))
    if how == "blur":
        return np.array(picture.filter(ImageFilter.GaussianBlur(amount)))
    if how == "jpeg":
        stream = memory.BytesIO()
        picture.save(stream, "JPEG", quality=int(amount))
        return np.array(Image.open(stream))
    size = (int(112 * amount), int(96 * amount))
    return np.array(picture.resize(size, Image.Resampling.BILINEAR))


@pytest.mark.parametrize(
    ("how", "amount"),
    [("blur", a) for a in (0.5, 1, 3, 10)]
    + [("resize", a) for a in (0.3, 0.5, 2, 5)]
    + [("jpeg", a) for a in (50, 75, 90, 95)],
)
@pytest.mark.parametrize("top", [255, 200])
def test_soft_edges_are_asked_about(tmp_path: Path, how: str, amount: float, top: int) -> None:
    path = stored(tmp_path, blurred(how, amount, top), ".png")
    with pytest.raises(AmbiguousError, match=r"--threshold \d+ .*--each-label"):
        read(path)
    with pytest.raises(AmbiguousError):
        read(path, object=4)
    assert list(read(path, threshold=100)) == [1]
    assert list(read(path, threshold=100, object=4)) == [4]
    assert len(read(path, each_label=True)) > 2


@pytest.mark.parametrize("quality", [50, 100])
def test_a_jpeg_is_asked_about_even_where_its_numbers_look_like_labels(tmp_path: Path, quality: int) -> None:
    Image.fromarray((INSIDE * 90 + OTHER * 200).astype(np.uint8)).save(tmp_path / "m.jpg", quality=quality)
    with pytest.raises(AmbiguousError, match="--threshold"):
        read(tmp_path / "m.jpg")
    assert abs(read(tmp_path / "m.jpg", threshold=45)[1] - (INSIDE | OTHER).sum()) < 30


@pytest.mark.parametrize(("largest", "half"), [(1.0, "0.5"), (0.6, "0.5"), (0.3, "0.15"), (90.5, "45.25")])
def test_one_half_is_suggested_of_probabilities(largest: float, half: str) -> None:
    """Where the largest is less than that, and of percentages or other numbers, half of the largest."""
    with pytest.raises(AmbiguousError, match=rf"--threshold {half} \(one object: what is at least {half}\)"):
        outlines(np.where(INSIDE, largest, 0.2))


def test_probabilities_are_asked_about() -> None:
    array = np.where(INSIDE, 0.9, 0.1) * (Y / 96)
    with pytest.raises(AmbiguousError, match=r"probabilities.*--threshold 0\.5 "):
        outlines(array)
    with pytest.raises(AmbiguousError):
        outlines(array, MaskRule(each_label=True))
    (found,) = outlines(array, MaskRule(threshold=0.2))
    np.testing.assert_array_equal(found.inside, array >= 0.2)


@given(seed=st.integers(0, 2**31), count=st.integers(2, 60), volume=st.booleans(), sort=st.booleans())
@settings(max_examples=25)
def test_labels_of_anatomy_are_never_asked_about(seed: int, count: int, volume: bool, sort: bool) -> None:
    rng = np.random.default_rng(seed)
    shape = (40, 40, 40) if volume else (96, 112)
    seeds = rng.uniform(0, shape, (count, len(shape)))
    grid = np.stack(np.mgrid[tuple(slice(size) for size in shape)], axis=-1)
    distance, nearest = cKDTree(seeds[np.argsort(seeds[:, 0])] if sort else seeds).query(grid)
    labels = np.where(distance < rng.uniform(4, 30), nearest + 1, 0).astype(np.uint16)
    assert len(outlines(labels)) == len(np.unique(labels)) - (labels == 0).any()


@pytest.mark.parametrize("thickness", [2, 3, 6])
def test_layers_within_each_other_are_labels(thickness: int) -> None:
    labels = np.clip(10 - np.maximum(abs(Y - 48), abs(X - 56)) // thickness, 0, 9)
    assert [outline.label for outline in outlines(labels)] == list(range(1, 10))


def test_single_pixels_are_labels() -> None:
    labels = np.zeros((50, 50), np.uint8)
    labels[5:45:5, 5:45:5] = np.arange(64).reshape(8, 8) + 1
    assert len(outlines(labels)) == 64


def test_labels_are_limited_before_anything_is_tracked() -> None:
    labels = (INSIDE * 614_454_277 + OTHER).astype(np.uint32)
    with pytest.raises(PromptError, match="label 614454277 is too large"):
        outlines(labels)
    (found,) = outlines(labels, MaskRule(object=2))
    assert (found.label, int(found.inside.sum())) == (2, (INSIDE | OTHER).sum())


def test_what_is_no_mask_is_refused() -> None:
    for bad in (np.nan, np.inf):
        with pytest.raises(FormatError, match="NaN or infinite"):
            outlines(np.where(INSIDE, bad, 0))
    with pytest.raises(FormatError, match="negative"):
        outlines(np.where(INSIDE, -1, 0))
    with pytest.raises(PromptError, match="empty"):
        outlines(np.zeros((4, 4), np.uint8))
    with pytest.raises(PromptError, match="threshold"):
        outlines(INSIDE.astype(np.uint8), MaskRule(threshold=2))


def test_a_page_of_many(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "m.tif", np.stack([INSIDE, OTHER]).astype(np.uint8) * 255, photometric="minisblack")
    assert [read(tmp_path / "m.tif", page) for page in (0, 1)] == [{1: INSIDE.sum()}, {1: OTHER.sum()}]
    with pytest.raises(AmbiguousError, match="2 pages"):
        read(tmp_path / "m.tif")


SPOT = np.hypot(*(np.mgrid[:48, :64] - 24)) < 9


@pytest.mark.parametrize("shown", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("number", [True, 1, 3, 255])
def test_the_numbers_of_a_tiff_count_as_stored(tmp_path: Path, shown: str, number: int) -> None:
    """What 0 looks like says nothing: tifffile itself calls the 0 of a boolean mask white."""
    mask = SPOT if number is True else SPOT.astype(np.uint8) * np.uint8(number)
    tifffile.imwrite(tmp_path / "m.tif", mask, photometric=shown)
    assert read(tmp_path / "m.tif") == {1 if number in (1, 255) else number: SPOT.sum()}
    tifffile.imwrite(tmp_path / "two.tif", np.stack([mask, mask * 0]), photometric=shown, metadata=None)
    assert read(tmp_path / "two.tif", 0) == {1 if number in (1, 255) else number: SPOT.sum()}


@pytest.mark.parametrize("pages", [1, 2])
def test_white_on_black_that_is_stored_the_other_way_round(tmp_path: Path, pages: int) -> None:
    """Shown, the object is white, as in the files above; of the two readings, the one that does not draw the ground counts."""
    planes = np.stack([np.where(SPOT, 0, 255).astype(np.uint8)] * pages)
    tifffile.imwrite(tmp_path / "m.tif", planes, photometric="miniswhite", metadata=None)
    assert read(tmp_path / "m.tif", 0) == {1: SPOT.sum()}
    tifffile.imwrite(tmp_path / "both.tif", np.ones_like(planes), photometric="miniswhite", metadata=None)
    assert read(tmp_path / "both.tif", 0, each_label=True) == {1: SPOT.size}


def test_a_boolean_mask_as_tifffile_writes_it(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "m.tif", SPOT)
    assert read(tmp_path / "m.tif") == {1: SPOT.sum()}
    planes = np.stack([SPOT, SPOT, ~SPOT]).astype(np.uint8)
    tifffile.imwrite(
        tmp_path / "stack.tif", planes, photometric="miniswhite", imagej=False, metadata={"axes": "ZYX"}, truncate=True
    )
    assert read(tmp_path / "stack.tif", 1) == {1: SPOT.sum()}


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("kind", ["png", "tif", "tif, 0 is white"])
def test_few_bits_are_not_stretched(tmp_path: Path, bits: int, kind: str) -> None:
    """Labels 1, 2 and 3 in 2 or 4 bits: readers of pictures make 85, 170 and 255 of them, or 17, 34 and 51."""
    array = np.where(SPOT, 1, 0)
    array[:2, :8], array[-2:, :8] = 2, 3
    digits = (array[..., None] >> np.arange(bits - 1, -1, -1) & 1).reshape(len(array), -1)
    rows, path = [row.tobytes() for row in np.packbits(digits, axis=1)], tmp_path / f"m.{kind[:3]}"
    if kind == "png":
        save_rows(path, [b"\0" + row for row in rows], (array.shape[1], array.shape[0], bits, 0))
    else:
        data = b"".join(rows)
        tags = [(256, array.shape[1]), (257, array.shape[0]), (258, bits), (259, 1), (262, int(kind == "tif")), (273, 8)]
        tags += [(277, 1), (278, array.shape[0]), (279, len(data))]
        directory = b"".join(struct.pack("<HHIHxx", number, 3, 1, value) for number, value in tags)
        start = struct.pack("<2sHI", b"II", 42, 8 + len(data))
        path.write_bytes(start + data + struct.pack("<H", len(tags)) + directory + bytes(4))
    assert read(path) == {1: SPOT.sum(), 2: 16, 3: 16}


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_black_on_white_is_asked_about(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray((~SPOT).astype(np.uint8) * (1 if mode == "P" else 255))
    if mode == "P":
        image.putpalette([255, 255, 255, 0, 0, 0])
    image.convert(mode).save(tmp_path / "m.png")
    top = 1 if mode == "P" else 255
    with pytest.raises(AmbiguousError, match=rf"looks inverted; .*--threshold {top} \(as it is\), the inverted file"):
        read(tmp_path / "m.png")
    assert read(tmp_path / "m.png", threshold=top) == {1: (~SPOT).sum()}


def test_the_ground_among_labels_and_in_volumes() -> None:
    tube = np.repeat(~SPOT[..., None], 5, axis=2)
    for array in (tube, tube | (np.arange(5) == 4), tube & (np.arange(5) == 3)):
        with pytest.raises(AmbiguousError, match="inverted"):
            outlines(array.astype(np.uint8))
    with pytest.raises(AmbiguousError, match=r"object 1 .* inverted.*--each-label"):
        outlines(np.where(SPOT, 2, 1))
    assert len(outlines(np.where(SPOT, 2, 1), MaskRule(each_label=True))) == 2
    assert len(outlines(np.where(SPOT, 2, 1), MaskRule(value=2))) == 1


def test_large_objects_are_never_asked_about() -> None:
    abdomen = np.ones((40, 60), bool)
    abdomen[:8, :12] = abdomen[:3, 50:] = abdomen[20:24, 30:40] = False
    three_borders = np.pad(~SPOT, ((1, 0), (0, 0)))
    frame = np.pad(np.zeros((30, 30), bool), 2, constant_values=True)
    for mask in (abdomen, three_borders, frame, np.eye(1, 9, 3), np.ones((1, 9)), np.ones((1, 1, 9))):
        assert len(outlines(mask.astype(np.uint8))) == 1


@pytest.mark.parametrize("shape", [(9, 9), (3, 9, 9)])
def test_what_covers_all_is_asked_about(shape: tuple[int, ...]) -> None:
    """Nothing tells an object from what is outside of it where there is no outside."""
    whole = np.ones(shape, np.uint8)
    one_slice = np.where(np.arange(4) == 2, whole[..., None], 0)
    for array in (whole, 255 * whole, one_slice) if whole.ndim == 2 else (whole,):
        with pytest.raises(AmbiguousError, match=r"object 1 covers all of the image.*--each-label \(as it is\)"):
            outlines(array)
        assert len(outlines(array, MaskRule(each_label=True))) == 1
    with pytest.raises(PromptError, match="all of the mask reaches the threshold"):
        outlines(INSIDE.astype(np.uint8), MaskRule(threshold=0))


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_what_is_not_a_number_is_not_drawn_over(tmp_path: Path, kind: str) -> None:
    """As background of images it is the smallest value, which here would be the object's."""
    with pytest.raises(FormatError, match="NaN"):
        read(stored(tmp_path, np.where(INSIDE, 1, np.nan).astype(kind), ".tif"))


def test_white_lines_around_objects_are_asked_about() -> None:
    """As PASCAL VOC draws them; a white object that is no line is one, also beside another one."""
    away = np.hypot(*(np.mgrid[:96, :112] - 50))
    lined = np.select([away < 20, away < 25], [1, 255], 0).astype(np.uint8)
    for array in (lined, np.repeat(lined[..., None], 4, axis=2)):
        with pytest.raises(AmbiguousError, match=r"255 lies in thin lines around other objects.*--each-label"):
            outlines(array)
    assert [each.label for each in outlines(lined, MaskRule(each_label=True))] == [1, 255]
    assert [each.label for each in outlines(lined, MaskRule(value=1))] == [1]
    disc_and_cup = np.select([away < 12, away < 30], [255, 128], 0).astype(np.uint8)
    apart = np.where(away < 8, 1, 255 * (np.abs(away - 40) < 2)).astype(np.uint8)
    for array in (disc_and_cup, apart):
        assert [each.label for each in outlines(array)][-1] == 255

"""Pictures: the patient's right on the left, true proportions, everything in its place and colour."""

import io
import re
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medical_sam2 import preview
from medical_sam2.errors import ConfigError
from medical_sam2.intensity_window import Window
from medical_sam2.io import label_table, load_segmentation, save
from medical_sam2.preview import draw_slice, drawing, whole_slice
from medical_sam2.preview.drawing import INSIDE, OUTSIDE, TEXT, PreviewCrop, font_for, tile
from medical_sam2.preview.scene import PreviewScene
from medical_sam2.prompts import Box, Mask, Point, Prompt
from medical_sam2.strokes import Diameter, Lasso, Scribble, Stroke
from medical_sam2.views import AXIAL, CORONAL, SAGITTAL, THREE_VIEWS, View
from medical_sam2.volume import COLOURS, Segmentation, SliceConfidence, Volume
from tests.strategies import CODES

SPACING = (1.0, 1.5, 3.0)


def phantom(code: str = "RAS") -> tuple[Volume, Segmentation]:
    """A body of noise with two objects, right and left, in an array whose axes run along `code`."""
    rng = np.random.default_rng(0)
    array = rng.integers(0, 200, (40, 30, 20)).astype(np.int16)
    labels = np.zeros(array.shape, np.uint8)
    labels[25:35, 15:25, 8:16] = 1
    labels[5:12, 5:12, 4:9] = 2
    affine = np.zeros((4, 4))
    for axis, letter in enumerate(code):
        row = "RLAPSI".index(letter) // 2
        affine[row, axis] = SPACING[row] * (1 if letter in "RAS" else -1)
    affine[3, 3] = 1
    ordered = View(code).apply
    return Volume(ordered(array), affine), Segmentation(ordered(labels), affine, names={1: "right", 2: "left"})


def picture(code: str, view: View) -> NDArray[np.uint8]:
    """A plane of the phantom."""
    scene = PreviewScene(*phantom(code))
    return np.asarray(draw_slice(scene, view, scene.frame(view), whole_slice(scene, view, 2.0)))


def test_every_orientation_of_the_array_gives_the_same_pictures() -> None:
    for view in THREE_VIEWS:
        expected = picture("RAS", view)
        for code in CODES:
            np.testing.assert_array_equal(picture(code, view), expected)


def coloured(pixels: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.float64]:
    """Mean row and column of what has a colour, in shares of the picture; nan where there is none."""
    places = np.argwhere(np.abs(pixels.astype(int) - colour).sum(axis=2) < 60)
    return places.mean(axis=0) / pixels.shape[:2] if len(places) else np.full(2, np.nan)


@pytest.mark.parametrize(("view", "row", "column"), [(AXIAL, "A", "R"), (CORONAL, "S", "R"), (SAGITTAL, "S", "A")])
def test_right_is_left_and_anterior_and_superior_are_up(view: View, row: str, column: str) -> None:
    """Object 1 lies right, anterior, superior: left of and above the middle; on a sagittal picture anterior is left."""
    down, across = coloured(picture("RAS", view), COLOURS[0])
    assert down < 0.5, row
    assert across < 0.5, column


@pytest.mark.parametrize("view", THREE_VIEWS)
def test_lengths_are_true(view: View) -> None:
    height, width, _ = picture("RAS", view).shape
    sizes = {"R": 40 * 1.0, "A": 30 * 1.5, "S": 20 * 3.0}
    letters = [{"L": "R", "P": "A", "I": "S"}[letter] for letter in view.code[1:]]
    assert (height, width) == tuple(round(2 * sizes[letter]) for letter in letters)


def test_a_click_is_marked_where_it_was_made() -> None:
    volume, segmentation = phantom()
    scene = PreviewScene(volume, segmentation, [Point((10, 20, 5))])
    pixels = np.asarray(draw_slice(scene, AXIAL, 5, whole_slice(scene, AXIAL, 4.0)))
    down, across = coloured(pixels, INSIDE) * pixels.shape[:2]
    assert across == pytest.approx((40 - 1 - 10 + 0.5) * 4, abs=1.5)
    assert down == pytest.approx((30 - 1 - 20 + 0.5) * 1.5 * 4, abs=1.5)
    elsewhere = np.asarray(draw_slice(scene, AXIAL, 6, whole_slice(scene, AXIAL, 4.0)))
    assert np.isnan(coloured(elsewhere, INSIDE)).all()


@pytest.mark.parametrize("k", [2, 14, 19])
def test_every_prompted_slice_is_shown(k: int) -> None:
    """Beyond the object too, which a correction may have taken away there; in the strip of slices and in the film."""
    volume, segmentation = phantom()
    prompts = [Point((30, 20, 12)), Point((38, 1, k), positive=False)]
    assert not np.isnan(coloured(np.asarray(preview.montage(volume, segmentation, prompts)), OUTSIDE)).any()
    film = preview.animation(volume, segmentation, prompts, frames=3)
    assert len(film) == 3
    assert sum(not np.isnan(coloured(np.asarray(each), OUTSIDE)).any() for each in film) == 1


def test_of_many_prompted_slices_some_are_shown() -> None:
    volume, segmentation = phantom()
    prompts = [Point((30, 20, k)) for k in range(20)]
    assert len(preview.animation(volume, segmentation, prompts, frames=5)) == 5
    assert preview.montage(volume, segmentation, prompts).width == 1200


SIZE = (40, 30)
LINES: dict[str, tuple[Stroke, list[tuple[float, float]], list[tuple[float, float]]]] = {
    "scribble": (
        Scribble(((5, 5, 3), (25, 5, 3), (25, 25, 3)), width=1),
        [(5, 5), (15, 5), (25, 15), (25, 25)],
        [(20, 12), (15, 15)],
    ),
    "lasso": (Lasso(((5, 5, 3), (25, 5, 3), (25, 25, 3))), [(15, 5), (25, 15), (15, 15)], [(22, 12), (5, 25)]),
    "diameter": (
        Diameter(((5, 15, 3), (25, 15, 3), (15, 8, 3), (15, 22, 3))),
        [(8, 15), (15, 10), (15, 20)],
        [(6, 9), (24, 21)],
    ),
}


@pytest.mark.parametrize(("kind", "positive"), [*((kind, True) for kind in LINES), ("scribble", False), ("lasso", False)])
def test_a_line_is_shown_as_it_was_drawn(kind: str, positive: bool) -> None:
    """From place to place, and not as what the network was shown of it: a click, a filled outline, a box."""
    drawn, along, beside = LINES[kind]
    drawn = replace(drawn, positive=positive)
    volume = Volume(
        np.zeros((*SIZE, 6), np.uint8), np.diag([-1.0, -1.0, 1.0, 1.0])
    )  # i runs to the left of the patient, j down
    scene = PreviewScene(volume, Segmentation(np.zeros(volume.shape, np.uint8), volume.affine), [drawn])
    pixels = np.asarray(draw_slice(scene, AXIAL, scene.frame(AXIAL), whole_slice(scene, AXIAL, 8.0))).astype(int)
    colour = INSIDE if positive else OUTSIDE

    def seen(spot: tuple[float, float]) -> bool:
        x, y = (round((place + 0.5) * 8) for place in spot)
        return bool((np.abs(pixels[y - 2 : y + 3, x - 2 : x + 3] - colour).sum(axis=2) < 60).any())

    assert [seen(spot) for spot in along] == [True] * len(along)
    assert [seen(spot) for spot in beside] == [False] * len(beside)
    white = (np.abs(pixels - TEXT).sum(axis=2) < 60).any()
    assert white != positive  # the minus


@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0, 7.0])
def test_one_pixel_is_never_lost(scale: float) -> None:
    labels = np.zeros((50, 60), np.uint8)
    labels[20, 30] = 4
    crop = PreviewCrop((0, 0), (50, 60), (scale, scale))
    plain = np.asarray(tile(labels * 0, [], crop, {}))
    marked = np.asarray(tile(labels * 0, [labels], crop, {4: COLOURS[1]}))
    places = np.argwhere((marked != plain).any(axis=2)).mean(axis=0)
    np.testing.assert_allclose((places + 0.5) / scale, (20.5, 30.5), atol=0.6 / scale)


def test_objects_that_overlap_are_both_outlined() -> None:
    outer, inner = np.zeros((50, 60), np.uint8), np.zeros((50, 60), np.uint8)
    outer[10:40, 10:50], inner[20:30, 20:40] = 1, 2
    crop, colours = PreviewCrop((0, 0), (50, 60), (3, 3)), {1: COLOURS[0], 2: (1, 2, 250)}
    both = np.asarray(tile(outer * 0, [outer, inner], crop, colours)).astype(int)
    assert (both[:, :, 1] > 180).any()  # of the first colour alone
    assert ((both[:, :, 2] > 200) & (both[:, :, 1] < 80)).any()


@pytest.mark.parametrize("thin", [True, False])
def test_outlines_are_seen_on_a_ground_of_their_colour(thin: bool) -> None:
    """Optic disc and cup on an orange fundus: a dark rim is around each, and the border that they share is the cup's alone."""
    labels = np.zeros((60, 60), np.uint8)
    labels[10:50, 10:50], labels[20:40, 20:40] = 1, 2
    orange = np.full((60, 60, 3), COLOURS[1], np.uint8)
    crop, colours = PreviewCrop((0, 0), (60, 60), (3, 3)), {1: COLOURS[0], 2: COLOURS[1]}
    seen = np.asarray(tile(orange, [labels], crop, colours, thin=thin)).astype(int)
    dark = seen[90].sum(axis=1) < 0.75 * sum(COLOURS[1])
    for edge, found in ((30, dark[27:31]), (60, dark[57:61]), (120, dark[119:123]), (150, dark[149:153])):
        assert found.any(), edge
    blue = np.abs(seen - COLOURS[0]).sum(axis=2) < 90
    assert blue[90, 28:34].any()
    assert not blue[40:140, 40:140].any()


def test_a_crop_shows_its_part_alone() -> None:
    labels = np.zeros((50, 60), np.uint8)
    labels[20:30, 30:40] = 1
    away = tile(labels, [labels], PreviewCrop((0, 0), (20, 30), (2, 3)), {1: COLOURS[0]})
    assert away.size == (90, 40)
    assert not np.asarray(away).any()
    assert np.asarray(tile(labels, [labels], PreviewCrop((15, 25), (20, 30), (2, 3)), {1: COLOURS[0]})).any()


OUTLINE = np.zeros((40, 30, 20), bool)
OUTLINE[10:20, 12, 5:10] = True


@pytest.mark.parametrize(
    "prompts",
    [[], [Point((10, 20, 5)), Point((3, 3, 5), positive=False)], [Box((5, 5, 6), (20, 20, 6))], [Mask(OUTLINE)]],
    ids=["none", "points", "box", "mask"],
)
@pytest.mark.parametrize("empty", [False, True])
def test_a_montage_shows_prompts_and_objects(prompts: list[Prompt], empty: bool) -> None:
    volume, segmentation = phantom()
    if empty:
        segmentation = Segmentation(np.zeros_like(segmentation.labels), segmentation.affine)
    whole = preview.montage(volume, segmentation, prompts, width_px=600)
    assert (whole.mode, whole.width) == ("RGB", 600)
    plain = preview.montage(volume, segmentation, width_px=600)
    assert (plain.tobytes() == whole.tobytes()) == (not prompts)
    assert np.isnan(coloured(np.asarray(whole), COLOURS[1])).all() == empty


@pytest.mark.parametrize("shape", [(1, 1, 1), (64, 1, 1), (1, 50, 2), (3, 3, 90)])
def test_strange_shapes_can_be_shown(shape: tuple[int, int, int]) -> None:
    labels = np.ones(shape, np.uint16) * 300
    volume, segmentation = Volume(np.zeros(shape), np.eye(4)), Segmentation(labels, np.eye(4))
    assert preview.montage(volume, segmentation).width == 1200
    assert len(preview.animation(volume, segmentation)) == min(60, shape[2])


@pytest.mark.parametrize("thin", [0, 1, 2])
def test_nothing_that_is_written_on_a_thin_stack_is_cut(thin: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three slices two planes are so narrow that letters do not fit; the third has its own, and a bar tells the scale."""
    shape, steps = np.array([160, 150, 140]), np.ones(3)
    shape[thin], steps[thin] = 3, 1
    labels, texts = np.zeros(shape, np.uint8), list[str]()
    labels[tuple(slice(size // 3, size - size // 3) for size in shape)] = 1
    write = drawing.write

    def inside(draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, **how: Any) -> None:
        texts.append(text)
        font, (width, height) = font_for(text, how.get("size", 13)), draw.im.size
        left, top, right, bottom = draw.textbbox(place, text, font=font, anchor=how.get("anchor", "la"))
        assert 0 <= left <= right <= width, text
        assert 0 <= top <= bottom <= height, text
        write(draw, place, text, **how)

    monkeypatch.setattr(drawing, "write", inside)
    affine = np.diag([*steps, 1])
    preview.montage(Volume(np.random.default_rng(0).integers(0, 9, shape), affine), Segmentation(labels, affine))
    plane = ["sagittal", "coronal", "axial"][thin]
    assert any(text.startswith(plane) for text in texts)
    assert {each for n, pair in enumerate(("RL", "AP", "SI")) if n != thin for each in pair} <= set(texts)
    assert sum(text.endswith(" mm") for text in texts) == 1


def test_a_legend_grows_with_its_objects() -> None:
    volume, segmentation = phantom()
    many = Segmentation(segmentation.labels, segmentation.affine, names={label: f"object {label}" for label in range(1, 60)})
    assert preview.montage(volume, many).height > preview.montage(volume, segmentation).height + 100


def test_a_sheet_tells_the_names_of_its_colours() -> None:
    """One square for each structure that is drawn or named, below all images."""
    image, mask = np.zeros((30, 30), np.uint8), np.zeros((30, 30), np.uint8)
    mask[5:20, 5:20] = 3
    plain = preview.contact_sheet([image], [mask], tile_px=200)
    sheet = preview.contact_sheet([image], [mask], tile_px=200, names={1: "cell"})
    assert sheet.width == plain.width
    legend = np.asarray(sheet)[plain.height + 10 :]
    first, third = coloured(legend, COLOURS[0]), coloured(legend, COLOURS[2])
    assert first[1] < third[1]
    assert np.isnan(coloured(legend, COLOURS[1])).all()


@pytest.mark.parametrize("small", [1, 2])
def test_the_smaller_one_of_two_outlines_on_one_place_is_seen(small: int) -> None:
    """A nucleus at the edge of its cell, whichever has the lower number."""
    maps = [np.zeros((40, 40), np.uint8) for _ in range(2)]
    maps[2 - small][10:30, 10:30], maps[small - 1][10:20, 10:20] = 3 - small, small
    pixels = np.asarray(
        tile(np.zeros((40, 40), np.uint8), maps, PreviewCrop((0, 0), (40, 40), (4, 4)), {1: (255, 0, 0), 2: (0, 0, 255)})
    )
    assert pixels[60, 41].argmax() == (0 if small == 1 else 2), "the edge that they share"
    assert pixels[100, 41].argmax() == (2 if small == 1 else 0)


@pytest.mark.parametrize("window", [None, Window(-160, 240)])
def test_a_lung_beside_a_tumour_is_not_black(window: Window | None) -> None:
    """Montage and film show each through the window in which the network saw it, unless one is given for all."""
    array = np.full((40, 40, 8), 40.0)
    array[:20] = -800
    labels = np.zeros(array.shape, np.uint8)
    labels[5:15, 10:30, 2:6], labels[25:35, 10:30, 2:6] = 1, 2
    windows = {1: Window(-1250, 250), 2: Window(-160, 240)}
    what = Volume(array, np.eye(4)), Segmentation(labels, np.eye(4), windows=windows)
    for picture in (preview.montage(*what, window=window), preview.animation(*what, window=window)[0]):
        grey = np.asarray(picture)[np.ptp(np.asarray(picture), axis=2) == 0][:, 0]
        assert (np.count_nonzero(np.abs(grey.astype(int) - 76) < 3) > 500) == (window is None), "-800 through the first"
        assert np.count_nonzero(np.abs(grey.astype(int) - 128) < 3) > 500, "40 through the second"


def test_a_film_is_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "film.gif"
    preview.save(path, *phantom())
    with Image.open(path) as film:
        assert film.format == "GIF"
        assert film.n_frames == 16  # type: ignore[attr-defined]
        assert film.info["loop"] == 0
        film.seek(8)
        assert not np.isnan(coloured(np.asarray(film.convert("RGB")), COLOURS[0])).any()


@pytest.mark.parametrize("name", ["a.png", "a.JPG"])
def test_a_montage_is_written_and_read(tmp_path: Path, name: str) -> None:
    preview.save(tmp_path / name, *phantom(), prompts=[Point((10, 20, 5))])
    with Image.open(tmp_path / name) as whole:
        assert whole.width == 1200


@pytest.mark.parametrize("name", ["a.bmp", "a", "a.nii.gz"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"\.png, \.jpg or \.gif"):
        preview.save(tmp_path / name, *phantom())
    assert not list(tmp_path.iterdir())


def test_a_contact_sheet() -> None:
    rng = np.random.default_rng(0)
    grey, colour, deep = rng.random((40, 60)), np.full((50, 30, 3), 90, np.uint8), rng.integers(0, 4000, (20, 20))
    mask = np.zeros((40, 60), bool)
    mask[10:20, 10:20] = True
    sheet = preview.contact_sheet([grey, colour, deep], [mask, None], ["first", "second"], columns=2, tile_px=100)
    assert sheet.size == (2 * 110 + 10, 2 * 130 + 10)
    down, across = coloured(np.asarray(sheet), COLOURS[0]) * np.array(sheet.size)[::-1]
    assert across == pytest.approx(10 + 25, abs=2)
    assert down == pytest.approx(10 + (100 - 67) / 2 + 25, abs=2)


def test_an_outline_on_a_sheet_is_one_pixel_wide() -> None:
    """Small things are seen through it: on the large pictures of a volume it is half as wide again."""
    image, mask = np.zeros((100, 100), np.uint8), np.zeros((100, 100), bool)
    mask[40:60, 40:60] = True
    sheet = np.asarray(preview.contact_sheet([image], [mask], tile_px=100)).astype(int)
    drawn = sheet[..., 2] > 100  # of the first colour, 240; where it is filled 38 and more
    assert drawn.sum() == pytest.approx(4 * 19, abs=8)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("cell_07.png", "cell_07.png"), ("patient_one_slice_017_left.png", "patient_o…7_left.png"), ("a" * 20, "a" * 20)],
)
def test_a_long_name_keeps_its_beginning_and_its_end(name: str, shown: str) -> None:
    assert preview.shorten(name, 20) == shown
    assert len(shown) <= 20


def test_a_sheet_gives_a_label_one_colour() -> None:
    image = np.zeros((30, 30), np.uint8)
    one, two = np.zeros((2, 30, 30), np.uint8)
    one[5:20, 5:20], two[5:20, 5:20] = 1, 2
    sheet = np.asarray(preview.contact_sheet([image, image], [one, two], tile_px=60))
    assert coloured(sheet, COLOURS[0])[1] < 0.5 < coloured(sheet, COLOURS[1])[1]


def test_pictures_have_the_colours_of_the_files(tmp_path: Path) -> None:
    """Of labels without a gap or with one, and the chosen colour where there is one."""
    volume, segmentation = phantom()
    labels = segmentation.labels.copy()
    labels[segmentation.labels == 2], labels[0:4, 20:30, 8:16] = 5, 7
    found = Segmentation(labels, volume.affine, names={1: "right", 5: "left", 7: "far"}, colours={7: (200, 10, 250)})
    save(found, tmp_path / "found.nii.gz", volume)
    label_table.save(found, tmp_path / "found.label")
    written = load_segmentation(tmp_path / "found.nii.gz", volume).colours
    assert written[5] == COLOURS[4]
    for pixels in (preview.montage(volume, found), preview.contact_sheet([labels[:, :, 8]], [labels[:, :, 8]], tile_px=400)):
        for label in (1, 5):
            assert not np.isnan(coloured(np.asarray(pixels), written[label])).any()
    assert not np.isnan(coloured(np.asarray(preview.montage(volume, found)), written[7])).any()


def shown(segmentation: Segmentation) -> str:
    """As a notebook asks for it."""
    return segmentation._repr_html_()


def test_a_notebook_shows_the_slices_with_volumes_and_confidence() -> None:
    volume, segmentation = phantom()
    rows = [SliceConfidence(1, "SPL", k, sure, 100, prompted=k == 8) for k, sure in ((8, 0.1), (9, 0.7), (10, 0.9))]
    text = shown(replace(segmentation, image=volume, confidence=tuple(rows)))
    pixels = np.asarray(inline_picture(text).convert("RGB"))
    assert not np.isnan(coloured(pixels, COLOURS[0])).any()
    assert inline_picture(text).tobytes() != inline_picture(shown(segmentation)).tobytes()  # the greys of the image
    assert "<td>1</td><td>right</td><td>3.6 mL</td><td>0.80</td>" in text
    assert "<td>2</td><td>left</td><td>1.1 mL</td><td></td>" in text


def inline_picture(text: str) -> Image.Image:
    (encoded,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    return Image.open(io.BytesIO(b64decode(encoded)))


def test_without_its_image_a_segmentation_is_shown_all_the_same() -> None:
    assert not np.isnan(coloured(np.asarray(inline_picture(shown(phantom()[1])).convert("RGB")), COLOURS[0])).any()


def test_names_cannot_bring_code_into_a_notebook() -> None:
    _, segmentation = phantom()
    text = shown(replace(segmentation, names={1: "<script>alert(1)</script>", 2: '" onload="x&'}))
    assert "<script" not in text
    assert '" onload' not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_a_notebook_shows_nothing_of_the_patient() -> None:
    volume, segmentation = phantom()
    said = replace(volume, source=Path("/scans/Doe^Jane.nii"), warnings=("of Doe^Jane",))
    result = replace(segmentation, image=said, warnings=("Doe^Jane.nii: look",))
    text = shown(result)
    picture = b64decode(re.findall('base64,([^"]+)"', text)[0])
    assert b"Doe" not in picture  # whose letters in base64 may spell anything
    assert "Doe" not in re.sub('base64,[^"]+"', "", text)
    assert "1 warnings" in text
    assert inline_picture(text).info.keys() <= {"transparency"}
    assert "Doe" not in repr(result).replace("Doe^Jane.nii: look", "")


@pytest.mark.parametrize("shape", [(160, 160, 160), (2, 3, 900), (900, 3, 2)])
def test_what_a_notebook_shows_is_bounded(shape: tuple[int, int, int]) -> None:
    """At most 1 MB, of noise that no compression helps, with many objects of long names."""
    volume = Volume(np.random.default_rng(0).integers(0, 256, shape, np.uint8), np.eye(4))
    labels = np.zeros(shape, np.uint16)
    labels.ravel()[:100] = np.arange(100)
    assert len(shown(Segmentation(labels, np.eye(4), dict.fromkeys(range(1, 100), "<" * 3000), image=volume))) < 1_000_000

"""What the page tells of a place and a size, in a real browser: voxel, millimetres, intensity, structure, window, scale."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Route, expect

from medical_sam2.io.prompt_file import load_prompts
from medical_sam2.prompts import Point
from medical_sam2.tracking.plan import PLANES
from tests.phantoms import phantom
from tests.server.browsing import Person
from tests.server.conftest import saved
from tests.server.test_page_gestures import MIDDLE, SHAPE, SPACING, changes, clicked, opened
from tests.test_intensity_window import ct

pytestmark = pytest.mark.usefixtures("inline")


@pytest.mark.parametrize("code", ["RAS", "PIL"])
def test_voxel_millimetres_and_intensity_under_the_pointer(person: Person, tmp_path: Path, code: str) -> None:
    case, page = phantom(code, spacing_mm=(1, 1, 1.5)), person.page
    page.locator("#files").set_input_files(saved(case, tmp_path / "image.nii.gz"))
    person.wait("axial")
    place = tuple(int(i) for i in case.voxel(1) + np.array([1, -1, 1]))
    mm = case.volume.affine @ [*place, 1]
    for plane in ("axial", "coronal", "sagittal"):
        t, y, x = PLANES[plane].project(place, case.volume.shape, code)
        page.locator(f".view.{plane} input[type=range]").fill(str(int(t)))
        axes = PLANES[plane].order(code)
        shape = case.volume.shape[axes[1]], case.volume.shape[axes[2]]
        page.mouse.move(*person.place(plane, (y, x), shape, PLANES[plane].spacing(case.volume.spacing_mm, code)[1:]))
        readout = page.locator(f".view.{plane} .readout")
        expect(readout).to_contain_text(f"I {place[0]}  J {place[1]}  K {place[2]}  ·  ")
        expect(readout).to_contain_text(f"  ·  {'  '.join(f'{each:.1f}' for each in mm[:3])} mm".replace("-", "−"))
        value = float((readout.text_content() or "").split("·")[1])
        assert value == pytest.approx(float(case.volume.array[place]), abs=0.001)


def test_a_slice_that_has_not_come_yet_reads_nothing(person: Person, tmp_path: Path) -> None:
    """Its place beside an intensity of the slice before it would be a wrong number that looks right."""
    case, page = opened(person, tmp_path), person.page
    t, readout = MIDDLE + 3, page.locator(".view.axial .readout")
    held = list[Route]()

    def hold(route: Route) -> None:
        held.append(route)

    page.route(f"**/frames/axial/{t}*", hold)
    spot = person.place("axial", (5, 6), SHAPE, SPACING)
    page.locator(".view.axial input[type=range]").fill(str(t))
    page.mouse.move(*spot)
    page.wait_for_timeout(300)
    assert held
    assert f"K {t}" not in (readout.text_content() or "")
    for route in held:
        route.continue_()
    expect(readout).to_contain_text("I 6  J 5  K " + str(t))
    value = float((readout.text_content() or "").split("·")[1].split()[0])
    assert value == pytest.approx(float(case.volume.array[6, 5, t]), abs=0.01)


def test_hounsfield_units(person: Person, tmp_path: Path) -> None:
    case = phantom("LPS")
    levels = ct()
    person.page.locator("#files").set_input_files(
        saved(replace(case, volume=replace(case.volume, array=levels)), tmp_path / "image.nii.gz")
    )
    i, j, k = (size // 2 for size in levels.shape)
    readout = person.page.locator(".view.axial .readout")
    expect(readout).to_contain_text(f"I {i}  J {j}  K {k}")
    expect(readout).to_contain_text(f"·  {levels[i, j, k]} HU".replace("-", "−"))


def test_structure_and_the_cross_hair_without_a_pointer(person: Person, tmp_path: Path) -> None:
    case = opened(person, tmp_path)
    readout = person.page.locator(".view.axial .readout")
    expect(readout).not_to_contain_text("HU")
    clicked(person, case)
    person.page.mouse.move(2, 2)
    i, j, k = (int(place) for place in case.voxel(1))
    expect(readout).to_contain_text(f"I {i}  J {j}  K {k}")
    expect(readout).to_contain_text("structure 1")
    person.view("axial").press("ArrowLeft")
    expect(readout).to_contain_text(f"I {i - 1}  J {j}  K {k}")


def test_window_as_numbers(person: Person, tmp_path: Path) -> None:
    opened(person, tmp_path)
    page = person.page
    level, width = page.get_by_label("Level", exact=True), page.get_by_label("Width", exact=True)
    shown = "canvas => canvas.getContext('2d').getImageData(canvas.width / 2 + 5, canvas.height / 2 + 5, 1, 1).data[0]"
    for middle, dark in ((0.9, True), (0.2, False)):
        level.fill(str(middle))
        level.press("Enter")
        width.fill("0.02")
        width.press("Enter")
        expect(width).to_have_value("0.02")
        assert (page.evaluate(shown, person.view("axial").element_handle()) == 0) == dark  # 0.8 lies below 0.9, above 0.2
    for field, wrong, told in (
        (width, "0", "width is a number above 0"),
        (width, "-3", ""),
        (width, "", ""),
        (level, "", "level is a number"),
    ):
        field.fill(wrong)
        field.press("Enter")
        expect(page.locator(".alert span").last).to_have_text(f"The {told or 'width is a number above 0'}.")
        expect(field).to_have_value("0.02" if field is width else "0.2")
        assert float(width.input_value()) == 0.02


def test_the_scale_bar_is_as_long_as_it_says(person: Person, tmp_path: Path) -> None:
    opened(person, tmp_path)
    said = person.view("axial").get_attribute("data-scale") or ""
    mm, px = (float(number) for number in re.findall(r"[\d.]+", said))
    (left, _), (right, _) = (person.place("axial", (0, x), SHAPE, SPACING) for x in (0, 10))
    assert px / mm == pytest.approx((right - left) / 10, rel=0.02)
    assert mm in {1, 2, 5}


def test_what_was_said_as_options_and_as_a_file(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    assert page.get_by_role("button", name="Copy as options").count() == 0
    person.click("axial", (6, 5), SHAPE, SPACING)
    changes(page, 1)
    page.get_by_role("button", name="Copy as options").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    words = shlex.split(page.evaluate("() => navigator.clipboard.readText()"))
    assert words[:4] == ["medsam2", "segment", "image.nii.gz", "--point"]
    place = [float(words[4].removeprefix("1:")), *map(float, words[5:7])]
    assert place == pytest.approx([5, 6, MIDDLE], abs=0.1)
    page.get_by_label("Views").select_option("three")
    page.keyboard.press("t")
    expect(page.locator(".go")).to_contain_text("All changes are applied")
    page.get_by_label("Views").select_option("one")
    page.get_by_role("button", name="Copy as options").click()
    part = page.get_by_role("button", name="Copied in part")
    expect(part).to_have_attribute("title", "# --views one is for all; here tracked through several views: structure 1")
    comment, command = page.evaluate("() => navigator.clipboard.readText()").split("\n")
    assert comment.startswith("# --views one")
    assert shlex.split(command) == words
    with page.expect_download() as download:
        page.get_by_role("link", name="Prompts").click()
    assert download.value.suggested_filename == "prompts.json"
    (point,) = load_prompts(Path(download.value.path()), case.volume).prompts
    assert isinstance(point, Point)
    assert point.index_ijk == pytest.approx(place, abs=0.001)


def test_ruler_angle_and_region(person: Person, tmp_path: Path) -> None:
    """In the browser's own numbers, where pixels are no squares; nothing of it is said to the network."""
    case, page = phantom("LPS", spacing_mm=(1, 2, 1.5)), person.page
    page.locator("#files").set_input_files(saved(case, tmp_path / "image.nii.gz"))
    person.wait("axial")
    spacing = 2.0, 1.0
    page.evaluate("""() => {
      window.written = []
      const write = CanvasRenderingContext2D.prototype.fillText
      CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
        window.written.push(text)
        return write.call(this, text, ...rest)
      }
    }""")
    page.keyboard.press("m")
    person.drag("axial", ((2, 2), (5, 6)), SHAPE, spacing)
    number = wait_for(person, r"([\d.]+) mm$")
    assert number == pytest.approx(np.hypot(3 * 2, 4 * 1), abs=0.2)
    page.keyboard.press("j")
    person.drag("axial", ((2, 2), (2, 8)), SHAPE, spacing)
    person.drag("axial", ((4, 2), (6, 6)), SHAPE, spacing)
    assert wait_for(person, r"([\d.]+)°$") == pytest.approx(45, abs=2)
    page.keyboard.press("r")
    person.drag("axial", ((3.5, 2.5), (3.5, 6.5), (7.5, 6.5), (7.5, 2.5)), SHAPE, spacing)
    assert wait_for(person, r"([\d.]+) mm² · ") == pytest.approx(4 * 4 * 2, abs=4.1)
    inside = PLANES["axial"].apply(case.volume.array, "LPS")[MIDDLE][4:8, 3:7]
    assert wait_for(person, r"mm² · ([\d.]+) ±") == pytest.approx(float(inside.mean()), abs=0.02)
    assert page.locator(".structures .name").count() == 0
    page.get_by_role("button", name="Forget what was measured").click()
    page.evaluate("() => { window.written = [] }")
    page.mouse.move(*person.place("axial", (3, 3), SHAPE, spacing))
    person.view("axial").press("ArrowLeft")
    page.wait_for_timeout(200)
    assert not [text for text in page.evaluate("window.written") if "mm²" in text or "°" in text]


WRITTEN = """() => {
  window.placed = []
  const write = CanvasRenderingContext2D.prototype.fillText
  CanvasRenderingContext2D.prototype.fillText = function (text, left, top, most) {
    const { width } = this.measureText(text)
    if (this.fillStyle === '#ffd866') window.placed.push([text, left, top, Math.min(width, most ?? width)])
    return write.call(this, text, left, top, ...(most === undefined ? [] : [most]))
  }
}"""
"""Keeps what is measured, with left end, base line and width, as it is written over a slice."""


@pytest.mark.parametrize("bright", [True, False])
@pytest.mark.parametrize("end", [(6, 10.4), (6, -0.4), (-0.4, 5), (12.4, 5), (-0.4, 10.4), (12.4, -0.4)])
def test_what_is_measured_is_read_within_the_view(
    person: Person, tmp_path: Path, end: tuple[float, float], bright: bool
) -> None:
    """At all four edges and in corners, on white and on black: its letters are whole, on a dark ground."""
    case, page = phantom("LPS"), person.page
    flat = replace(case.volume, array=np.full_like(case.volume.array, 9.0))
    flat.array[:, :, :MIDDLE] = 0.0 if bright else 90.0
    page.locator("#files").set_input_files(saved(replace(case, volume=flat), tmp_path / "image.nii.gz"))
    page.get_by_label("Width", exact=True).fill("0.1")
    page.get_by_label("Width", exact=True).press("Enter")
    page.get_by_label("Level", exact=True).fill("5" if bright else "20")
    page.get_by_label("Level", exact=True).press("Enter")
    page.evaluate(WRITTEN)
    page.keyboard.press("r")
    inner = end[0] if end[0] == 6 else 5
    person.drag("axial", ((inner, 4), (inner + 2, 6), (inner + 2, 4), end), SHAPE, SPACING)
    page.mouse.move(2, 2)
    expect(page.locator(".structures .name")).to_have_count(0)
    page.wait_for_timeout(100)
    text, left, top, wide = page.evaluate("window.placed.at(-1)")
    assert "mm² · " in text
    seen = pixels(person, tmp_path)
    height, width = seen.shape[:2]
    assert left >= 4
    assert left + wide <= width - 4
    assert top >= 16
    assert top <= height - 4
    box = seen[int(top) - 11 : int(top) + 3, int(left) : int(left + wide)]
    letters = np.abs(box - [255, 216, 102]).max(axis=-1) < 60
    columns = np.nonzero(letters.any(axis=0))[0]
    assert columns[0] < 6  # from the first letter to the last
    assert columns[-1] > wide - 8
    ground = box[~letters].mean(axis=-1)
    assert np.median(ground) < 70
    outside = seen[height // 2 + 40, width // 2 + 40]
    assert outside.min() > 250 if bright else outside.max() < 5


def pixels(person: Person, folder: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.int_]]:
    """The axial view on the screen."""
    person.view("axial").screenshot(path=folder / "seen.png")
    return np.asarray(Image.open(folder / "seen.png").convert("RGB"), int)


def test_what_is_out_of_sight_has_no_text(person: Person, tmp_path: Path) -> None:
    opened(person, tmp_path)
    page = person.page
    page.evaluate(WRITTEN)
    page.keyboard.press("m")
    person.drag("axial", ((1, 1), (2, 2)), SHAPE, SPACING)
    assert page.evaluate("window.placed.length") > 0
    page.mouse.move(*person.place("axial", (11, 9), SHAPE, SPACING))
    page.keyboard.down("Control")
    for _ in range(14):
        page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    page.wait_for_timeout(200)
    page.evaluate("() => { window.placed = [] }")
    page.mouse.wheel(0, -100)
    expect(page.locator(".view.axial .counter")).to_have_text("K 9 of 0–15")
    page.mouse.wheel(0, 100)
    expect(page.locator(".view.axial .counter")).to_have_text("K 8 of 0–15")
    page.wait_for_timeout(300)
    assert page.evaluate("window.placed") == []


def wait_for(person: Person, pattern: str) -> float:
    """The last number that was written over a slice in such words."""
    for _ in range(50):
        told = person.page.evaluate("window.written")
        found = [match for text in told if (match := re.search(pattern, text))]
        if found:
            return float(found[-1].group(1))
        person.page.wait_for_timeout(100)
    raise AssertionError(f"nothing like {pattern} over the slice")

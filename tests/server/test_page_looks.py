"""How the page looks, in a real browser: in light, on a small screen, and how thin its outlines are."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.io.making import Series
from tests.phantoms import phantom
from tests.server.browsing import Person
from tests.server.test_page_gestures import SHAPE, SPACING, clicked, opened

pytestmark = pytest.mark.usefixtures("inline")
BACK = "() => getComputedStyle(document.querySelector('.panel')).backgroundColor"


def test_light_where_the_system_is_light_and_images_stay_on_black(person: Person, tmp_path: Path) -> None:
    page = person.page
    opened(person, tmp_path)
    shades = {}
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        shades[scheme] = page.evaluate(BACK)
        assert page.evaluate("() => getComputedStyle(document.querySelector('.view')).backgroundColor") == "rgb(0, 0, 0)"
    assert shades == {"dark": "rgb(18, 23, 30)", "light": "rgb(255, 255, 255)"}


def test_downloads_are_reached_without_scrolling_on_a_small_screen(person: Person, tmp_path: Path) -> None:
    page = person.page
    page.set_viewport_size({"width": 1024, "height": 700})
    case = opened(person, tmp_path)
    clicked(person, case)
    page.keyboard.press("t")
    expect(page.locator("a[download]").last).to_be_in_viewport(ratio=1)
    assert (
        page.evaluate(
            "() => { const panel = document.querySelector('.panel'); return panel.scrollHeight - panel.clientHeight }"
        )
        == 0
    )


def scrolled(page: Page) -> int:
    """By how many pixels panel or page could be scrolled, in either light; nothing is cut off beside them either."""
    most = 0
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        for which in (".panel", "html"):
            most = max(most, page.locator(which).evaluate("one => one.scrollHeight - one.clientHeight"))
    for link in page.locator("a[download]").all():
        expect(link).to_be_in_viewport(ratio=1)
    return most


def test_a_ct_with_presets_and_two_structures_is_not_scrolled_on_a_small_screen(person: Person, tmp_path: Path) -> None:
    """A DICOM series, which has most downloads; with every tool, and while something is not yet applied."""
    case, page = phantom("LPS"), person.page
    page.set_viewport_size({"width": 1024, "height": 700})
    levels = np.rint(2000 * np.asarray(case.volume.array, float) - 1000).astype(np.int16)
    Series(case.volume.affine, levels).write(tmp_path / "series")
    page.locator("#files").set_input_files(sorted((tmp_path / "series").iterdir()))
    person.wait("axial")
    expect(page.get_by_role("button", name="brain", exact=True)).to_be_visible()
    assert scrolled(page) == 0
    clicked(person, case)
    page.keyboard.press("t")
    expect(page.locator(".structures .ml")).to_contain_text("mL")
    assert scrolled(page) == 0
    page.keyboard.press("n")
    page.keyboard.type("kidney")
    assert scrolled(page) == 0
    person.click("axial", (1, 1), SHAPE, SPACING)
    expect(page.locator(".go")).to_contain_text("1 change")
    expect(page.locator(".structures .name")).to_have_count(2)
    assert page.locator("a[download]").count() == 9
    for tool in page.locator(".tools button").all():
        tool.click()
        assert scrolled(page) == 0, tool.inner_text()
    page.keyboard.press("s")
    person.drag("axial", ((2, 2), (2, 7), (6, 7), (6, 2)), SHAPE, SPACING)
    person.view("axial").press("PageUp")
    person.view("axial").press("PageUp")
    person.drag("axial", ((2, 2), (2, 7), (6, 7), (6, 2)), SHAPE, SPACING)
    expect(page.get_by_role("button", name="Shapes between outlines")).to_be_enabled()
    expect(page.locator(".go")).to_contain_text("3 changes")
    assert scrolled(page) == 0


def test_a_set_of_images_is_not_scrolled_on_a_small_screen(person: Person, tmp_path: Path) -> None:
    page, files = person.page, list[Path]()
    page.set_viewport_size({"width": 1024, "height": 700})
    for number in range(3):
        picture = np.random.default_rng(number).integers(40, 60, (40, 60)).astype(np.uint8)
        picture[10:24, 5 + 8 * number : 20 + 8 * number] = 200
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(picture).save(files[-1])
    page.locator("#files").set_input_files(files)
    person.wait("image")
    for spot in ((16, 12), (30, 50)):
        page.keyboard.press("n")
        page.keyboard.press("Enter")
        person.click("image", spot, (40, 60), (1, 1))
        expect(page.locator(".view.image")).to_have_attribute("data-pending", "0")
    page.keyboard.press("t")
    expect(page.get_by_role("link", name="Label images")).to_be_visible()
    for tool in page.locator(".tools button").all():
        tool.click()
        assert scrolled(page) == 0, tool.inner_text()


@pytest.mark.parametrize(("width", "height", "spare"), [(1360, 860, 0), (1024, 700, 0)])
def test_with_the_brush_and_a_second_image_downloads_are_in_sight(
    person: Person, tmp_path: Path, width: int, height: int, spare: int
) -> None:
    """Nothing is scrolled."""
    page = person.page
    page.set_viewport_size({"width": width, "height": height})
    case = opened(person, tmp_path)
    clicked(person, case)
    page.keyboard.press("t")
    expect(page.locator(".structures .ml")).to_contain_text("mL")
    page.locator("#overlay").set_input_files(tmp_path / "image.nii.gz")
    expect(page.get_by_label("Opacity of the second image")).to_be_visible()
    page.get_by_role("radio", name="Brush").click()
    for link in page.locator("a[download]").all():
        expect(link).to_be_in_viewport(ratio=1)
    assert (
        page.evaluate(
            "() => { const panel = document.querySelector('.panel'); return panel.scrollHeight - panel.clientHeight }"
        )
        <= spare
    )
    with page.expect_download():
        page.get_by_role("link", name="NIfTI").click()


def within(page: Page, inner: str, outer: str) -> bool:
    """Whether every one of the inner elements lies within the outer one, from left to right."""
    return bool(
        page.evaluate(
            """([inner, outer]) => {
              const [ends, all] = [document.querySelector(outer).getBoundingClientRect(), [...document.querySelectorAll(inner)]]
              const boxes = all.map(one => one.getBoundingClientRect())
              const inside = box => box.width > 0 && box.left >= ends.left && box.right <= ends.right + 0.5
              return boxes.length > 0 && boxes.every(inside)
            }""",
            [inner, outer],
        )
    )


def wider(page: Page, which: str) -> int:
    """By how many pixels something could be scrolled sideways."""
    return int(page.locator(which).evaluate("one => one.scrollWidth - one.clientWidth"))


def test_long_names_leave_everything_in_sight_on_every_screen(person: Person, tmp_path: Path) -> None:
    page, name = person.page, "Left kidney (upper pole, cortex and medulla, arterial)"
    case = opened(person, tmp_path)
    clicked(person, case)
    page.get_by_label("Name of structure 1").fill(name)
    page.keyboard.press("Enter")
    page.keyboard.press("t")
    line = page.locator(".look .line").first
    expect(line.locator("small")).to_contain_text(name)
    expect(line.locator("small")).to_have_attribute("title", re.compile(re.escape(name)))
    assert wider(page, ".look") == 0
    assert within(page, ".look .line span", ".look")
    for width, height in ((390, 800), (360, 740), (640, 400)):  # telephones; a laptop at 200 %
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_function("width => innerWidth === width", arg=width)
        assert wider(page, "html") == 0
        assert page.locator(".view.axial .stage").evaluate("one => one.clientHeight") >= 120
        below = page.evaluate(
            "document.documentElement.scrollHeight - document.querySelector('.panel').getBoundingClientRect().bottom - scrollY"
        )
        assert below <= 1  # nothing is blank
    page.set_viewport_size({"width": 1024, "height": 260})
    expect(person.view("axial")).to_have_attribute("data-letters", "")  # no room beside the image
    page.set_viewport_size({"width": 1024, "height": 700})
    expect(person.view("axial")).to_have_attribute("data-letters", "RLAP")
    for _ in range(3):
        with page.expect_response("**/structures"):
            page.keyboard.press("n")
        page.keyboard.type(name)
        page.keyboard.press("Enter")
    expect(page.locator(".structures .name").last).to_have_value(name)
    page.wait_for_timeout(200)
    page.get_by_role("button", name="Medical SAM 2").click()
    for width in (1024, 390):
        page.set_viewport_size({"width": width, "height": 700})
        page.wait_for_function("width => innerWidth === width", arg=width)
        expect(page.get_by_role("button", name=re.compile("^Remove"))).to_be_in_viewport(ratio=1)
        assert within(page, ".start li button", ".start")
        assert wider(page, "html") == 0


def test_outlines_are_thin_and_that_of_the_prompt_is_marked(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    there = clicked(person, case)
    page.keyboard.press("t")
    expect(page.locator(".structures .ml")).to_contain_text("mL")
    view = person.view("axial")
    expect(view).to_have_attribute("data-prompted", "1")
    marked = border(person, there, tmp_path)
    view.press("PageUp")
    expect(view).to_have_attribute("data-prompted", "")
    page.wait_for_timeout(300)
    plain = border(person, there, tmp_path)
    dashed, firm = (float(near(patch).any(axis=0).mean()) for patch in (marked, plain))
    assert firm > 0.9, "the line is there"
    assert dashed < 0.8, "white dashes lie on it"
    wide = near(across(person, there, tmp_path)).sum()
    assert 1 <= wide <= 4, "and as thin as the screen, though a voxel has twenty pixels and more"


def seen(person: Person, folder: Path) -> np.ndarray[Any, Any]:
    person.view("axial").screenshot(path=folder / "seen.png")
    return np.asarray(Image.open(folder / "seen.png").convert("RGB"), int)


def corner(person: Person, there: np.ndarray[Any, Any]) -> tuple[int, int, int]:
    """Left end and height of the upper side of an outline, and how wide a voxel is, in pixels of the view."""
    rows, columns = np.nonzero(there)
    y = int(rows.min())
    x = int(columns[rows == y].min())
    box = person.view("axial").bounding_box()
    assert box is not None
    left, top = person.place("axial", (y - 0.5, x - 0.5), SHAPE, SPACING)
    right, _ = person.place("axial", (y - 0.5, x + 0.5), SHAPE, SPACING)
    return round(left - box["x"]), round(top - box["y"]), round(right - left)


def border(person: Person, there: np.ndarray[Any, Any], folder: Path) -> np.ndarray[Any, Any]:
    """Pixels along the upper side of two voxels."""
    left, top, wide = corner(person, there)
    return seen(person, folder)[top - 2 : top + 3, left + 2 : left + 2 * wide - 2]


def near(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Which pixels have the colour of the first structure, not only a tint of it."""
    return np.abs(picture - np.array([76, 201, 240])).max(axis=-1) < 40


def across(person: Person, there: np.ndarray[Any, Any], folder: Path) -> np.ndarray[Any, Any]:
    """Pixels from above an outline to below it."""
    left, top, wide = corner(person, there)
    return seen(person, folder)[top - 8 : top + 9, left + wide // 3]


def test_title_tool_and_place_come_back_and_names_go_with_the_session(person: Person, tmp_path: Path) -> None:
    page = person.page
    opened(person, tmp_path)
    expect(page).to_have_title(re.compile(r"^image\.nii\.gz · .*\d.* – Medical SAM 2$"))
    page.keyboard.press("x")
    page.locator(".view.axial input[type=range]").fill("4")
    page.get_by_label("Width", exact=True).fill("0.5")
    page.get_by_label("Width", exact=True).press("Enter")
    page.get_by_label("Views").select_option("three")
    page.reload()
    expect(page.locator(".view.axial .counter")).to_have_text("K 4 of 0–15")
    expect(page.get_by_role("radio", name="Box", exact=True)).to_have_attribute("aria-checked", "true")
    expect(page.get_by_label("Width", exact=True)).to_have_value("0.5")
    expect(page.get_by_label("Views")).to_have_value("three")
    expect(page).to_have_title(re.compile(r"^image\.nii\.gz"))
    page.get_by_role("button", name="Medical SAM 2").click()
    expect(page.get_by_role("button", name=re.compile(r"^image\.nii\.gz"))).to_be_visible()
    remove = page.get_by_role("button", name=re.compile(r"^Remove\b.* image\.nii\.gz"))
    remove.dblclick()  # once is no decision, and neither is a double click
    expect(remove).to_have_text("Remove for good?")
    page.keyboard.press("Tab")
    expect(remove).to_have_text("Remove")
    expect(page.get_by_role("button", name=re.compile(r"^image\.nii\.gz"))).to_be_visible()
    remove.click()
    page.wait_for_timeout(600)  # else it is a double click
    remove.click()
    expect(page.get_by_role("button", name=re.compile(r"image\.nii\.gz"))).to_have_count(0)
    assert "image" not in page.evaluate("() => JSON.stringify(localStorage)")
    assert not any("image.nii" in url for url in person.asked if "solid" not in url)


def test_a_page_that_is_scrolled_takes_the_wheel_over_views_that_were_not_pointed_at(person: Person, tmp_path: Path) -> None:
    """As at 200 % in a small window."""
    page = person.page
    opened(person, tmp_path)
    page.set_viewport_size({"width": 640, "height": 400})
    assert page.evaluate("document.documentElement.scrollHeight") > 400
    counter, view = page.locator(".view.coronal .counter"), person.view("coronal")
    shown = counter.text_content() or ""
    view.hover()
    page.mouse.wheel(0, 60)
    page.wait_for_function("() => scrollY > 0")
    assert counter.text_content() == shown
    view.focus()
    page.mouse.wheel(0, -60)
    expect(counter).not_to_have_text(shown)
    page.set_viewport_size({"width": 1280, "height": 800})
    shown = page.locator(".view.axial .counter").text_content() or ""
    person.view("axial").hover()
    page.mouse.wheel(0, -60)
    expect(page.locator(".view.axial .counter")).not_to_have_text(shown)

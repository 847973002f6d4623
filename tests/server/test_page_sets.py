"""Structures of a set of images at the page, in a real browser: merged, split, finished, locked, numbered, on every image."""

import io
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import expect

from medical_sam2.errors import PromptError
from medical_sam2.intensity_window import percentile_window
from medical_sam2.server.segmentation import SessionImageSet, SessionResult
from medical_sam2.volume import SliceConfidence
from tests.server.browsing import Person
from tests.server.test_editing_sets import IMAGES, SIDE, block, ring
from tests.server.test_page_gestures import hold, pressed, state
from tests.server.test_page_structures import more

pytestmark = pytest.mark.usefixtures("inline")
SHAPE, SPACING = (SIDE, SIDE), (1, 1)


def labels(person: Person, t: int) -> NDArray[np.uint8]:
    """Of an image, as the server has them."""
    ask = """async t => {
      const answer = await fetch('api/sessions/' + location.hash.slice(1) + '/labels/image/' + t)
      return [...new Uint8Array(await answer.arrayBuffer())]
    }"""
    return np.array(person.page.evaluate(ask, t), np.uint8).reshape(SHAPE)


def outlined(person: Person, folder: Path) -> None:
    """A set, with both structures in all images, each from a click."""
    page, files = person.page, list[Path]()
    for t in range(IMAGES):
        picture = np.random.default_rng(t).integers(18, 23, SHAPE).astype(np.uint8)
        picture[ring(t)], picture[block(t)] = 220, 120
        files.append(folder / f"{t}.png")
        Image.fromarray(picture).save(files[-1])
    page.locator("#files").set_input_files(files)
    expect(page.locator(".tile")).to_have_count(IMAGES)
    expect(page.locator(".view.image .counter")).to_contain_text("1 / 3")
    for name, spot in (("ring", (20, 14)), ("block", (20, 44))):
        page.keyboard.press("n")
        page.keyboard.type(name)
        page.keyboard.press("Enter")
        person.wait("image")
        person.click("image", spot, SHAPE, SPACING)
        expect(page.locator(".view.image")).to_have_attribute("data-pending", "0")
    pressed(page, "t")
    expect(page.locator(".structures .ml")).to_have_text(["3 images", "3 images"])
    page.mouse.move(2, 2)


def sees(person: Person, folder: Path, t: int, there: NDArray[np.bool_]) -> None:
    """An image is tinted where it should be: no grey of it is left there, and nothing else."""
    person.page.get_by_role("button", name=f"Image {t + 1}", exact=True).click()
    seen: NDArray[Any] = np.zeros(SHAPE)
    for _ in range(50):
        person.view("image").screenshot(path=folder / "seen.png")
        picture = np.asarray(Image.open(folder / "seen.png").convert("RGB"), int)
        height, width = picture.shape[:2]
        pixel = min(height, width) / SIDE
        rows, columns = ((size - SIDE * pixel) / 2 + (np.arange(SIDE) + 0.3) * pixel for size in (height, width))
        seen = np.ptp(picture[np.ix_(rows.astype(int), columns.astype(int))], axis=-1) > 20
        if (seen == there)[1:, 1:].mean() > 0.97:  # but for the cross hair, which is blue too
            return
        person.page.wait_for_timeout(100)
    raise AssertionError(f"image {t + 1} shows {seen.astype(int)}, not {there.astype(int)}")


def test_merged_split_and_undone_on_every_image(person: Person, tmp_path: Path) -> None:
    outlined(person, tmp_path)
    page, before = person.page, [labels(person, t) for t in range(IMAGES)]
    more(person, "block")
    for name in ("Up", "Down"):
        expect(page.get_by_role("button", name=name, exact=True)).to_have_count(0)
    page.get_by_role("button", name="Merge into").dblclick()  # the second click is none
    expect(page.locator(".structures .name")).to_have_count(1)
    page.wait_for_timeout(300)
    expect(page.locator(".alert")).to_have_count(0)
    for t in range(IMAGES):
        found = labels(person, t)
        assert len(np.unique(found)) == 2
        assert ((found > 0) == (before[t] > 0)).all()
    sees(person, tmp_path, 1, before[1] > 0)
    more(person, "ring")
    expect(page.get_by_role("dialog", name="Structure ring")).to_contain_text("changes on images alone that are pointed at")
    page.get_by_role("button", name="Split into parts").click()
    expect(page.locator(".structures .name")).to_have_count(3)
    assert [each["name"] for each in state(page)["structures"]] == ["ring", "ring 2", "ring 3"]
    expect(page.locator(".structures .ml")).to_have_text(["3 images", "3 images", "1 image"])
    page.keyboard.press("Escape")
    pressed(page, "z", 2)
    expect(page.locator(".structures .name")).to_have_count(2)
    for t in range(IMAGES):
        assert (labels(person, t) == before[t]).all()


def test_finished_locked_and_numbered(person: Person, tmp_path: Path) -> None:
    outlined(person, tmp_path)
    page, before = person.page, [labels(person, t) for t in range(IMAGES)]
    assert not before[2][30:34, 16:20].any()
    more(person, "ring")
    dialog = page.get_by_role("dialog", name="Structure ring")
    expect(dialog.get_by_label("Smooth")).to_have_count(0)  # in mm, which images may not have
    dialog.get_by_label("Fill holes").check()
    dialog.get_by_label("Least part").fill("12")
    dialog.get_by_role("button", name="Finish it").click()
    expect(dialog).to_contain_text("changes on images alone that are pointed at")
    whole = ring(2)
    whole[30:34, 16:20], whole[2:5, 2:5] = True, False
    assert ((labels(person, 2) == 1) == whole).all()
    dialog.get_by_label("Number in files").fill("40")
    dialog.get_by_label("Number in files").press("Enter")
    dialog.get_by_label("Locked").check()
    expect(page.locator(".structures li > svg")).to_have_count(1)
    dialog.get_by_role("button", name="Close").click()  # it lies over the image
    sees(person, tmp_path, 2, whole | (before[2] == 2))
    with page.expect_download() as download:
        page.get_by_role("link", name="Label images").click()
    with zipfile.ZipFile(Path(download.value.path())) as archive:
        found = np.asarray(Image.open(io.BytesIO(archive.read("00003.png"))))
    assert ((found == 40) == whole).all()
    page.locator(".structures .name").first.focus()
    person.click("image", (60, 60), SHAPE, SPACING)
    expect(page.locator(".alert")).to_contain_text("this structure is locked; unlock it to change it")
    person.problems.clear()  # the browser tells of the refused request


def test_what_is_refused_is_not_shown_as_done(person: Person, tmp_path: Path) -> None:
    outlined(person, tmp_path)
    page = person.page
    page.locator(".structures .name").last.focus()
    person.click("image", (60, 60), SHAPE, SPACING)
    expect(page.locator(".view.image")).to_have_attribute("data-pending", "0")
    more(person, "ring")
    dialog = page.get_by_role("dialog", name="Structure ring")
    locked, number = dialog.get_by_label("Locked"), dialog.get_by_label("Number in files")
    locked.click()
    expect(page.locator(".alert")).to_contain_text("apply the changes first")
    expect(locked).not_to_be_checked()
    number.fill("2")  # the block's
    number.press("Enter")
    expect(page.locator(".alert")).to_contain_text(["apply", "another structure has the number 2"])
    expect(number).to_have_value("1")
    page.route("**/structures/1", lambda route: route.fulfill(status=422, json={"error": "no"}))
    name = page.locator(".structures .name").first
    name.fill("other")
    name.press("Enter")
    expect(page.locator(".alert")).to_contain_text(["apply", "number", "no"])
    expect(name).to_have_value("ring")
    person.problems.clear()


def test_a_click_on_what_is_locked_says_so_and_one_that_takes_something_too(person: Person, tmp_path: Path) -> None:
    outlined(person, tmp_path)
    page, status = person.page, person.page.get_by_role("status").first
    more(person, "ring")
    dialog = page.get_by_role("dialog", name="Structure ring")
    dialog.get_by_label("Locked").check()
    expect(page.locator(".structures li > svg")).to_have_count(1)
    dialog.get_by_role("button", name="Close").click()
    page.locator(".structures .name").last.focus()
    person.click("image", (20, 14), SHAPE, SPACING)
    expect(page.locator(".go .warn")).to_have_text("ring is locked there")
    expect(status).to_have_text("ring is locked there")
    pressed(page, "z")
    expect(page.locator(".go .warn")).to_have_count(0)


def test_numbers_out_of_their_limits_are_refused_by_the_field_s_name(person: Person, tmp_path: Path) -> None:
    outlined(person, tmp_path)
    more(person, "ring")
    dialog, alerts = person.page.get_by_role("dialog", name="Structure ring"), person.page.locator(".alert span")
    number, least = dialog.get_by_label("Number in files"), dialog.get_by_label("Least part")
    for value in ("65536", "-1", "0", "1.6"):
        number.fill(value)
        number.press("Enter")
        expect(alerts).to_have_text(["Number in files: give a whole number from 1 to 65,535"])
        expect(number).to_have_value("1")
        person.page.get_by_role("button", name="Dismiss").click()
    for value in ("-1", "1e30", "0.5"):
        least.fill(value)
        dialog.get_by_role("button", name="Finish it").click()
        expect(alerts).to_have_text(["Least part (pixels): give a whole number from 0 to 1,000,000,000"])
        assert not least.evaluate("input => input.checkValidity()")
        person.page.get_by_role("button", name="Dismiss").click()
    person.problems.clear()


def test_structures_are_called_by_their_names_and_options_by_what_the_page_calls_them(
    person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outlined(person, tmp_path)
    page, track = person.page, SessionImageSet.track
    held = hold(page, "**/structures")
    with page.expect_request("**/structures"):
        page.keyboard.press("n")
    page.keyboard.type("third")
    page.keyboard.press("Enter")
    person.click("image", (20, 14), SHAPE, SPACING)  # before the structure is there
    held[0].continue_()
    expect(page.locator(".go .warn")).to_contain_text(re.compile(r"^third took \d+ pixels of ring: "))

    def warning(*known: Any) -> SessionResult:
        said = "object 1: these slices count for little; prompt it on one of them, or take `views=one`", "object 7 is gone"
        return replace(track(*known), warnings=said)

    monkeypatch.setattr(SessionImageSet, "track", warning)
    pressed(page, "t")
    expect(page.locator(".go .warn")).to_have_text(
        "ring: these slices count for little; prompt it on one of them, or take one view; object 7 is gone"
    )

    def refusing(*_: Any) -> NDArray[np.bool_]:
        raise PromptError("object 3 has no prompt that says where it is", "give it one")

    monkeypatch.setattr(SessionImageSet, "segment_frame", refusing)
    person.click("image", (60, 60), SHAPE, SPACING)
    expect(page.locator(".alert span")).to_have_text("third has no prompt that says where it is; give it one")
    person.problems.clear()


def test_keys_of_tools_of_volumes_alone_say_so(person: Person, tmp_path: Path) -> None:
    outlined(person, tmp_path)
    alerts = person.page.locator(".alert span")
    for key, name in (("m", "Ruler"), ("r", "Region"), ("j", "Angle"), ("c", "3D box")):
        pressed(person.page, key)
        expect(alerts).to_have_text([f"{name} is for volumes alone: images are flat, and may have no size in mm."])
        person.page.get_by_role("button", name="Dismiss").click()
    expect(person.page.get_by_role("radio", name="Inside", exact=True)).to_have_attribute("aria-checked", "true")


def test_the_sheet_tells_the_least_sure_structure_that_is_there(
    person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = SessionImageSet.track
    told = (0.4, 30, False), (0.0, 0, False), (0.0, 0, False)  # how sure it is of the block, and whether it is there

    def track(*asked: Any) -> SessionResult:
        result = known(*asked)
        rows = list[SliceConfidence]()
        for row in result.rows:
            sure, area, said = told[row.slice] if row.object == 2 or row.slice == 2 else (0.96, 30, row.slice == 0)
            rows.append(replace(row, confidence=sure, area_px=area, prompted=said, look_here=sure < 0.5))
        return replace(result, rows=tuple(rows))

    monkeypatch.setattr(SessionImageSet, "track", track)
    outlined(person, tmp_path)
    tiles, notes = person.page.locator(".tile"), person.page.locator(".tile .note")
    expect(notes).to_have_text(["40 %", "96 %", "nothing"])
    for t, (title, unsure) in enumerate((("ring: prompted, block: 40 %", True), ("ring: 96 %", False), ("", False))):
        expect(tiles.nth(t)).to_have_attribute("title", title)
        assert ("unsure" in (tiles.nth(t).get_attribute("class") or "")) == unsure


def test_the_brush_and_the_reading_know_an_images_own_intensities(person: Person, tmp_path: Path) -> None:
    """Those that the network sees as black and white, too."""
    picture = np.random.default_rng(0).integers(70, 190, SHAPE).astype(np.uint8)
    picture[10, 10:16], picture[30, 30] = (202, 203, 204, 230, 254, 255), 0
    Image.fromarray(picture).save(tmp_path / "a.png")
    page, readout = person.page, person.page.locator(".view.image .readout")
    page.locator("#files").set_input_files(tmp_path / "a.png")
    person.wait("image")
    for spot, value in (((10, 11), 203), ((10, 15), 255), ((30, 30), 0)):
        page.mouse.move(*person.place("image", spot, SHAPE, SPACING))
        expect(readout).to_have_text(f"X {spot[1]}  Y {spot[0]}  ·  {value}")
    pressed(page, "d")
    for changes, (low, high) in enumerate(((203, 203), (204, 254), (255, 255)), 1):
        for end, value in (("from", low), ("to", high)):
            page.get_by_label(f"Paint {end}").fill(str(value))
            page.get_by_label(f"Paint {end}").press("Enter")
        person.drag("image", ((10, 8), (10, 18)), SHAPE, SPACING)
        expect(page.locator(".go")).to_contain_text(f"{changes} change")
        assert (labels(person, 0) == ((picture >= 203) & (picture <= high))).all()


def mixed(person: Person, folder: Path) -> list[NDArray[np.uint8]]:
    """A set of a large, a small and a wide image, each with a brightness of its own; the arrays."""
    sizes = (80, 100), (30, 40), (40, 120)
    rng, files, arrays = np.random.default_rng(0), list[Path](), list[NDArray[np.uint8]]()
    for t, size in enumerate(sizes):
        arrays.append(rng.integers(60 * t, 60 * t + 40, size).astype(np.uint8))
        files.append(folder / f"{'abc'[t]}.png")
        Image.fromarray(arrays[-1]).save(files[-1])
    person.page.locator("#files").set_input_files(files)
    person.wait("image")
    return arrays


def test_the_cross_hair_stays_on_a_smaller_image(person: Person, tmp_path: Path) -> None:
    arrays, page = mixed(person, tmp_path), person.page
    readout, cross = page.locator(".view.image .readout"), person.view("image")
    person.click("image", (75, 95), (80, 100), (1, 1))
    expect(page.locator(".view.image")).to_have_attribute("data-pending", "0")
    page.mouse.move(2, 2)
    cross.focus()
    for key, t in (("PageUp", 1), ("PageUp", 2), ("PageDown", 1), ("PageDown", 0)):
        pressed(page, key)
        expect(cross).to_have_attribute("aria-label", re.compile(rf"slice {t + 1}, cursor at row 29, column 39:"))
        expect(readout).to_have_text(re.compile(rf"^X 39  Y 29  ·  {arrays[t][29, 39]}(\.0+)?$"))
    page.get_by_role("button", name="Image 2", exact=True).click()
    person.wait("image")
    cross.focus()
    pressed(page, "Shift+ArrowDown", 6)
    pressed(page, "Shift+ArrowRight", 6)
    expect(cross).to_have_attribute("aria-label", re.compile("row 29, column 39:"))
    pressed(page, "Enter")
    expect(page.locator(".view.image")).to_have_attribute("data-pending", "0")
    assert state(page)["said"][-1]["points"] == [[29, 39]]


def test_the_line_on_the_network_is_of_the_image_in_view(person: Person, tmp_path: Path) -> None:
    for t, array in enumerate(mixed(person, tmp_path)):
        person.page.get_by_role("button", name=f"Image {t + 1}", exact=True).click()
        seen = percentile_window(array)
        expect(person.page.locator(".sees")).to_have_text(f"The network sees {seen}.")


def test_a_reloaded_set_tells_which_file_an_image_is(person: Person, tmp_path: Path) -> None:
    mixed(person, tmp_path)
    page, counter = person.page, person.page.locator(".view.image .counter")
    expect(counter).to_have_text("1 / 3 · a.png")
    for _ in range(2):  # what is kept when a page is left does not replace it
        page.reload()
        expect(counter).to_have_text("1 / 3 · a.png")
    page.get_by_role("button", name="Medical SAM 2").click()
    page.get_by_role("button", name=re.compile(r"^a\.png and 2 more")).click()
    page.get_by_role("button", name="Image 3", exact=True).click()
    expect(counter).to_have_text("3 / 3 · c.png")
    assert not any(".png" in url for url in person.asked if "suffix=.png" not in url)


def test_the_brush_wipes_all_of_a_structure_off_an_image(person: Person, tmp_path: Path) -> None:
    outlined(person, tmp_path)
    page, before = person.page, [labels(person, t) for t in range(IMAGES)]
    page.locator(".structures .name").first.focus()
    pressed(page, "Enter")
    for t in (1, 0):  # tracked, prompted
        page.get_by_role("button", name=f"Image {t + 1}", exact=True).click()
        person.wait("image")
        pressed(page, "d")
        page.get_by_role("radio", name="Erase", exact=True).click()
        page.locator(".size input[type=range]").fill("7")
        lines = tuple((y, x) for y in range(5, 64, 10) for x in ((2, 60) if y % 20 == 5 else (60, 2)))
        person.drag("image", lines, SHAPE, SPACING)
        expect(page.locator(".view.image")).to_have_attribute("data-pending", "0")
        assert page.locator(".alert").count() == 0
        wiped = np.where(before[t] == 1, 0, before[t])
        assert (labels(person, t) == wiped).all()
    pressed(page, "t")
    expect(page.locator(".structures .ml")).to_have_text(["1 image", "3 images"])
    assert [(labels(person, t) == 1).any() for t in range(IMAGES)] == [False, False, True]
    person.drag("image", ((5, 5), (8, 8)), SHAPE, SPACING)
    expect(page.locator(".alert")).to_contain_text("There is nothing of it on this image.")


def test_a_double_click_applies_once(person: Person, tmp_path: Path) -> None:
    outlined(person, tmp_path)
    page = person.page
    page.locator(".structures .name").last.focus()
    page.get_by_role("button", name="Image 2", exact=True).click()
    person.wait("image")
    person.click("image", (60, 60), SHAPE, SPACING)
    expect(page.locator(".view.image")).to_have_attribute("data-pending", "0")
    apply = page.get_by_role("button", name="Apply to all images")
    with page.expect_response("**/track"):
        apply.evaluate("button => { button.click(); button.click() }")
    expect(page.locator(".go")).to_contain_text("All changes are applied.")
    page.wait_for_timeout(300)
    assert page.locator(".alert").count() == 0
    assert len([url for url in person.asked if url.endswith("/track")]) == 2  # with that of the beginning

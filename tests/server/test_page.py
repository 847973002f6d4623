"""What a person does at the page, in a real browser, with a network whose answer is known."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from medical_sam2 import io
from medical_sam2.prompts import Point
from medical_sam2.server import state
from medical_sam2.tracking.plan import PLANES
from medical_sam2.volume import Segmentation
from tests.phantoms import Phantom, phantom, segmenter
from tests.server.browsing import Person
from tests.server.conftest import saved

pytestmark = pytest.mark.usefixtures("inline")


def spot(case: Phantom, plane: str) -> tuple[int, float, float]:
    """Slice, row and column of the first object's voxel."""
    t, y, x = PLANES[plane].project(case.voxel(1), case.volume.shape, case.code)
    return int(t), y, x


@pytest.mark.parametrize("code", ["RAS", "LPS"])
def test_click_see_scroll_correct_undo_track_and_download(person: Person, tmp_path: Path, code: str) -> None:
    case, page = phantom(code, spacing_mm=(1, 1, 1.5)), person.page
    page.locator("#files").set_input_files(saved(case, tmp_path / "image.nii.gz"))
    expect(page.locator(".view.axial .counter")).to_have_text("K 8 of 0–15")
    t, y, x = spot(case, "axial")
    shape, spacing = (13, 11), (1.0, 1.0)
    page.locator(".view.axial input[type=range]").fill(str(t))
    person.click("axial", (y, x), shape, spacing)
    expect(page.locator(".structures .name")).to_have_value("structure 1")
    expect(page.locator(".go")).to_contain_text("1 change not yet applied")
    expected = segmenter().segment_volume(case.volume, [Point(case.voxel(1))])
    there = PLANES["axial"].apply(expected.labels, code)[t] > 0
    person.sees("axial", tmp_path, there, spacing)
    person.view("axial").press("PageUp")
    expect(page.locator(".view.axial .counter")).to_have_text(f"K {t + 1} of 0–15")
    person.sees("axial", tmp_path, np.zeros_like(there), spacing)
    person.view("axial").press("PageDown")
    person.click("axial", (y, x - 1), shape, spacing)
    expect(page.locator(".go")).to_contain_text("2 changes")
    page.keyboard.press("z")
    expect(page.locator(".go")).to_contain_text("1 change not")
    page.keyboard.press("t")
    expect(page.locator(".structures .ml")).to_contain_text("mL")
    for plane in ("axial", "coronal", "sagittal"):
        where = int(page.locator(f".view.{plane} input[type=range]").input_value())
        mask = PLANES[plane].apply(expected.labels, code)[where] > 0
        rows, columns = PLANES[plane].spacing(case.volume.spacing_mm, code)[1:]
        person.sees(plane, tmp_path, mask, (rows, columns))
    expect(page.locator("a[download]")).to_have_text(
        ["NIfTI", "NRRD", "MetaImage", "3D Slicer", "OBJ", "Volumes (CSV)", "Prompts"]
    )
    with page.expect_download() as download:
        page.get_by_role("link", name="NIfTI").click()
    reference = tmp_path / "reference.nii.gz"
    result = Segmentation(expected.labels, case.volume.affine, {1: "structure 1"})
    io.save(result, reference, io.load(tmp_path / "image.nii.gz"))
    assert Path(download.value.path()).read_bytes() == reference.read_bytes()
    assert download.value.suggested_filename == "image_labels.nii.gz"


def test_without_a_mouse(person: Person, tmp_path: Path) -> None:
    case, page = phantom("LPS"), person.page
    page.locator("#files").set_input_files(saved(case, tmp_path / "image.nii.gz"))
    view = person.view("axial")
    expect(view).to_be_focused()
    person.wait("axial")
    page.keyboard.press("Enter")  # the middle of the volume lies in the first object
    expect(page.locator(".go")).to_contain_text("1 change")
    page.keyboard.press("b")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    expect(page.locator(".go")).to_contain_text("2 changes")
    page.keyboard.press("n")
    expect(page.locator(".structures .name")).to_have_count(2)
    page.keyboard.press("Enter")  # its usual name
    expect(view).to_be_focused()
    page.keyboard.press("z")
    expect(page.locator(".structures .name")).to_have_count(1)
    page.keyboard.press("t")
    expect(page.locator(".structures .ml")).to_contain_text("mL")
    expect(view).to_have_attribute("aria-label", re.compile("structure 1"))
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()


def test_a_brush_paints_and_wipes_with_the_mouse_and_without(person: Person, tmp_path: Path) -> None:
    page, shape, spacing = person.page, (13, 11), (1.0, 1.0)
    page.locator("#files").set_input_files(saved(phantom("LPS"), tmp_path / "image.nii.gz"))
    expect(person.view("axial")).to_be_focused()
    page.keyboard.press("d")
    for _ in range(5):
        page.keyboard.press("[")
    expect(page.get_by_label("Brush size")).to_have_attribute("aria-valuetext", "radius of 0.5 pixels")
    painted = np.zeros(shape, bool)
    person.drag("axial", ((3, 2), (3, 7), (5, 7)), shape, spacing)
    expect(page.locator(".go")).to_contain_text("1 change not")
    painted[3, 2:8] = painted[3:6, 7] = True
    person.sees("axial", tmp_path, painted, spacing)
    page.keyboard.down("Shift")
    person.drag("axial", ((3, 2), (3, 4)), shape, spacing)
    page.keyboard.up("Shift")
    expect(page.locator(".go")).to_contain_text("2 changes")
    painted[3, 2:5] = False
    person.sees("axial", tmp_path, painted, spacing)
    for key in ("Enter", "ArrowDown", "ArrowDown", "Enter", "ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)  # from the middle, which is where the cross hair is
    expect(page.locator(".go")).to_contain_text("3 changes")
    painted[6:9, 5] = True
    person.sees("axial", tmp_path, painted, spacing)
    page.keyboard.press("z")
    expect(page.locator(".go")).to_contain_text("2 changes")


def test_a_second_tab_cannot_overwrite_the_first(person: Person, browser: Browser, tmp_path: Path) -> None:
    page = person.page
    page.locator("#files").set_input_files(saved(phantom("LPS"), tmp_path / "image.nii.gz"))
    expect(person.view("axial")).to_be_focused()
    other = page.context.new_page()
    other.goto(page.url)
    other.locator(".view.axial canvas").first.wait_for()
    with other.expect_response("**/structures"):
        other.keyboard.press("n")
    person.problems.clear()
    page.bring_to_front()
    page.keyboard.press("n")
    expect(page.locator(".alert")).to_contain_text("changed from elsewhere")
    expect(page.locator(".structures .name")).to_have_count(1)
    person.problems.clear()  # the browser tells of the refused request


def test_a_set_of_images(person: Person, tmp_path: Path) -> None:
    page, rng, files = person.page, np.random.default_rng(0), list[Path]()
    for number in range(4):
        picture = rng.integers(40, 60, (40, 60)).astype(np.uint8)
        picture[10:24, 5 + 8 * number : 20 + 8 * number] = 200
        files.append(tmp_path / f"person {number}.png")
        Image.fromarray(picture).save(files[-1])
    page.locator("#files").set_input_files(files)
    expect(page.locator(".tile")).to_have_count(4)
    expect(page.locator(".view.image .counter")).to_contain_text("1 / 4 · person 0.png")
    person.wait("image")
    person.click("image", (16, 12), (40, 60), (1, 1))
    expect(page.locator(".go")).to_contain_text("1 change")
    page.get_by_role("button", name="Apply to all images").click()
    expect(page.get_by_role("link", name="Label images")).to_be_visible()
    page.get_by_role("button", name="Image 3", exact=True).click()
    expect(page.locator(".tile .note")).to_have_text(["prompted", *[re.compile(r"\d+ %")] * 3])
    number, note = (page.locator(f".tile >> nth=0 >> {which}").bounding_box() for which in ("span:not(.note)", ".note"))
    assert number
    assert note
    assert number["x"] + number["width"] <= note["x"]
    expected = np.zeros((40, 60), bool)
    expected[10:24, 21:36] = True
    for _ in range(50):
        seen = person.painted("image", tmp_path, (40, 60), (1, 1))
        if (seen == expected).mean() > 0.97:
            break
        page.wait_for_timeout(100)
    assert (seen == expected).mean() > 0.97  # the network's own grid is coarser
    assert not any("person" in url for url in person.asked)


def test_what_cannot_be_read_is_said(person: Person, tmp_path: Path) -> None:
    (tmp_path / "broken.nii.gz").write_bytes(b"\x1f\x8b this is no image")
    person.page.locator("#files").set_input_files(tmp_path / "broken.nii.gz")
    expect(person.page.locator(".alert")).to_be_visible()
    expect(person.page.get_by_role("button", name="Choose files")).to_be_visible()
    person.problems.clear()
    expect(person.page.locator(".start")).not_to_have_attribute("aria-busy", "true")


def test_images_that_cannot_be_read_are_left_out_and_named(person: Person, tmp_path: Path) -> None:
    page, folder = person.page, tmp_path / "polyps"
    folder.mkdir()
    for number in range(4):
        Image.fromarray(np.full((40, 60), 40 * number, np.uint8)).save(folder / f"person {number}.png")
    whole = (folder / "person 1.png").read_bytes()
    (folder / "person 1.png").write_bytes(whole[:60])
    (folder / "notes.txt").write_text("not an image, and the first of the list")
    page.locator("#folder").set_input_files(folder)
    expect(page.locator(".tile")).to_have_count(3)
    expect(page).to_have_title(re.compile(r"^polyps · "))
    warning = page.locator(".bar .warning")
    expect(warning).to_contain_text("2 of 5 files left out: notes.txt (no picture), person 1.png (")
    page.get_by_role("button", name="Image 2", exact=True).click()
    expect(page.locator(".view.image .counter")).to_contain_text("2 / 3 · person 2.png")
    page.reload()
    expect(warning).to_contain_text("2 of 5 files left out: notes.txt (no picture), person 1.png (")
    page.evaluate("localStorage.clear()")  # as in another browser
    page.reload()
    expect(warning).to_contain_text("2 of 5 files left out: file 1 (no picture), file 3 (")
    page.get_by_role("button", name="Image 2", exact=True).click()
    expect(page.locator(".view.image .counter")).to_have_text("2 / 3 · file 4")
    page.get_by_role("button", name="Medical SAM 2").click()
    page.locator("#files").set_input_files(sorted(folder.glob("person *.png"))[1:])  # the broken one first
    expect(page).to_have_title(re.compile(r"^person 2\.png and 1 more · "))
    assert not any("person" in url for url in person.asked)


def test_what_is_told_of_a_file_has_its_name_and_goes_when_another_is_opened(person: Person, tmp_path: Path) -> None:
    page = person.page
    for name in ("README.md", "other.md"):
        (tmp_path / name).write_text("nothing of an image")
        page.locator("#files").set_input_files(tmp_path / name)
        expect(page.locator(".alert")).to_have_count(1)
        expect(page.locator(".alert")).to_contain_text(f"{name}: ")
    page.locator("#files").set_input_files([tmp_path / "README.md", tmp_path / "other.md"])
    expect(page.locator(".alert")).not_to_contain_text("README.md: ")
    page.locator("#files").set_input_files(saved(phantom("LPS"), tmp_path / "ct.nii.gz"))
    person.wait("axial")
    expect(page.locator(".alert")).to_have_count(0)
    person.problems.clear()  # the browser tells of the refused requests
    assert not any("README" in url for url in person.asked)


def test_sessions_are_listed_with_the_time_of_their_last_change(
    person: Person, browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another browser does not know what they are called."""
    page = person.page
    page.locator("#files").set_input_files(saved(phantom("LPS"), tmp_path / "image.nii.gz"))
    person.wait("axial")
    seconds = page.evaluate("new Date(2031, 4, 6, 10, 34).getTime() / 1000")
    monkeypatch.setattr(state, "time", SimpleNamespace(time=lambda: seconds))
    with page.expect_response("**/structures"):
        page.keyboard.press("n")
    page.evaluate("localStorage.clear()")
    page.evaluate("location.hash = ''")
    line = page.locator("section li .line")
    expect(line.locator("span")).to_have_text("structure 1")
    expect(line.locator("small")).to_have_text(re.compile(r"^11 × 13 × 16 voxels · (?=.*\b6\b)(?=.*2031).*10:34"))

"""Structures at the page, in a real browser: looks, locks, merged, split, finished, measured, loaded; a second image."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

from medical_sam2 import io
from medical_sam2.prompts import Point
from medical_sam2.statistics import measure
from medical_sam2.tracking.finishing import FinishingSteps, finish
from medical_sam2.tracking.plan import PLANES
from medical_sam2.volume import Segmentation
from tests.phantoms import Phantom, phantom, segmenter
from tests.server.browsing import Person
from tests.server.conftest import saved
from tests.server.test_page_gestures import LABELS, MIDDLE, SHAPE, SPACING, changes, clicked, on_slice, opened, pressed, state

pytestmark = pytest.mark.usefixtures("inline")
BLUE = np.array([76, 201, 240])  # of the first structure


def tracked(person: Person, case: Phantom) -> np.ndarray[Any, Any]:
    """The first object, tracked from a click; its labels."""
    clicked(person, case)
    pressed(person.page, "t")
    expect(person.page.locator(".structures .ml")).to_contain_text("mL")
    person.page.mouse.move(2, 2)
    return segmenter().segment_volume(case.volume, [Point(case.voxel(1))]).labels


def labels(person: Person, t: int = MIDDLE) -> np.ndarray[Any, Any]:
    """An axial frame's labels, as the server has them."""
    return np.array(person.page.evaluate(LABELS.replace("axial/8", f"axial/{t}"))).reshape(SHAPE)


def colour(person: Person, spot: tuple[float, float]) -> np.ndarray[Any, Any]:
    """Of a pixel of the screen, a little aside from the middle of a row and column of the slice."""
    box = person.view("axial").bounding_box()
    assert box is not None
    x, y = person.place("axial", spot, SHAPE, SPACING)
    look = "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data].slice(0, 3)"
    return np.array(person.view("axial").element_handle().evaluate(look, [round(x - box["x"]) + 4, round(y - box["y"]) + 4]))


def until(person: Person, spot: tuple[float, float], wanted: np.ndarray[Any, Any], within: int) -> None:
    """Wait until a place of the slice has a colour."""
    found = colour(person, spot)
    for _ in range(100):
        if np.abs(found - wanted).max() <= within:
            return
        person.page.wait_for_timeout(50)
        found = colour(person, spot)
    raise AssertionError(f"{found} at {spot}, not {wanted}")


def shade(case: Phantom, there: np.ndarray[Any, Any]) -> tuple[tuple[int, int], float]:
    """A place inside of what is outlined, away from its border and from the cross hair."""
    rows, columns = np.nonzero(there)
    spot = int(rows.min()) + 1, int(columns.min()) + 1
    return spot, float(np.asarray(case.volume.array)[..., MIDDLE].T[spot])


def more(person: Person, name: str = "structure 1") -> None:
    person.page.get_by_role("button", name=f"More of {name}", exact=True).click()
    expect(person.page.get_by_role("dialog", name=f"Structure {name}")).to_be_visible()


def test_hidden_firm_and_outlined_only(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    there = on_slice(case, case.truth == 1)
    spot, _ = shade(case, there)
    before = colour(person, spot)
    tracked(person, case)
    person.sees("axial", tmp_path, there, SPACING)
    page.get_by_role("button", name="Hide structure 1").click()
    person.sees("axial", tmp_path, np.zeros_like(there), SPACING)
    pressed(page, "h")
    person.sees("axial", tmp_path, there, SPACING)
    more(person)
    page.get_by_label("Opacity", exact=True).fill("100")
    until(person, spot, BLUE, 2)
    page.get_by_label("Filled").uncheck()
    until(person, spot, before, 2)
    seen = person.painted("axial", tmp_path, SHAPE, SPACING)
    assert not seen[there].all()
    page.get_by_role("button", name="Close", exact=True).click()
    page.reload()
    person.wait("axial")
    until(person, spot, before, 2)  # as it was left


def test_a_locked_structure_is_not_changed(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    tracked(person, case)
    before = labels(person)
    more(person)
    page.get_by_label("Locked").check()
    expect(page.locator(".structures li > svg")).to_have_count(1)
    page.get_by_role("button", name="Close", exact=True).click()
    person.click("axial", (1, 1), SHAPE, SPACING)
    expect(page.locator(".alert")).to_contain_text("this structure is locked; unlock it to change it")
    assert (labels(person) == before).all()
    more(person)
    page.get_by_label("Locked").uncheck()
    page.get_by_role("button", name="Close", exact=True).click()
    person.click("axial", (1, 1), SHAPE, SPACING)
    changes(page, 1)
    person.problems.clear()  # the browser tells of the refused request


def test_loaded_merged_split_and_numbered(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    path = tmp_path / "earlier.seg.nrrd"
    io.save(Segmentation(case.truth, case.volume.affine, {1: "spleen", 2: "cyst"}), path, io.load(tmp_path / "image.nii.gz"))
    page.locator("#outlines").set_input_files(path)
    expect(page.locator(".structures .name")).to_have_count(2)
    person.sees("axial", tmp_path, on_slice(case, case.truth == 1), SPACING)
    more(person, "cyst")
    page.get_by_role("button", name="Merge into").click()
    expect(page.locator(".structures .name")).to_have_count(1)
    expect(page.locator(".structures .name")).to_have_value("spleen")
    whole = labels(person)
    assert ((whole > 0) == on_slice(case, case.truth)).all()
    assert len(np.unique(whole)) == 2
    more(person, "spleen")
    page.get_by_role("button", name="Split into parts").click()
    expect(page.locator(".structures .name")).to_have_count(2)
    assert [each["name"] for each in state(page)["structures"]] == ["spleen", "spleen 2"]
    apart = labels(person)
    first = state(page)["structures"][0]["label"]
    assert ((apart == first) == on_slice(case, case.truth == 1)).all()
    more(person, "spleen")
    page.get_by_label("Number in files").fill("40")
    page.get_by_label("Number in files").press("Enter")
    with page.expect_download() as download:
        page.get_by_role("link", name="NIfTI").click()
    (tmp_path / "down.nii.gz").write_bytes(Path(download.value.path()).read_bytes())
    numbers = io.load_labels(tmp_path / "down.nii.gz", case.volume).array
    assert ((numbers == 40) == (case.truth == 1)).all()
    page.get_by_role("button", name="Down", exact=True).click()
    expect(page.locator(".structures .name").first).to_have_value("spleen 2")
    page.get_by_role("button", name="Close", exact=True).click()
    pressed(page, "z", 2)
    expect(page.locator(".structures .name").first).to_have_value("spleen")


def test_labels_that_lie_elsewhere_are_refused_in_one_line(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    moved = case.volume.affine.copy()
    moved[:3, 3] += 5
    other = replace(case.volume, array=case.truth, affine=moved)
    io.save(other.array, tmp_path / "other.nii.gz", other)
    page.locator("#outlines").set_input_files(tmp_path / "other.nii.gz")
    expect(page.locator(".alert")).to_contain_text("resample the labels to the image's grid")
    assert state(page)["structures"] == []
    person.problems.clear()


def test_finished_and_measured_as_by_the_command_line(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    found = tracked(person, case)
    more(person)
    page.get_by_label("Grow").fill("1")
    page.get_by_role("button", name="Finish it").click()
    expected, _ = finish(Segmentation(found, case.volume.affine), {1: FinishingSteps(grow_mm=1)}, [Point(case.voxel(1))])
    assert (expected.labels != found).any()
    page.get_by_role("button", name="Close", exact=True).click()
    person.sees("axial", tmp_path, on_slice(case, expected.labels), SPACING)
    for t in range(16):
        assert ((labels(person, t) > 0) == on_slice(case, expected.labels, t)).all()
    page.get_by_role("button", name="Statistics").click()
    (row,) = measure(case.volume, Segmentation(expected.labels, case.volume.affine, {1: "structure 1"}))
    told = page.get_by_role("dialog", name="Statistics").locator("tbody tr")
    expect(told).to_contain_text("structure 1")
    assert told.locator("td").all_inner_texts()[:3] == ["1", f"{row.volume_ml:#.2g}", f"{row.mean:.2f}"]
    page.get_by_role("dialog", name="Statistics").get_by_role("button", name="Close").click()
    pressed(page, "z")
    person.sees("axial", tmp_path, on_slice(case, found), SPACING)


def test_a_second_image_glows_where_it_lies(person: Person, tmp_path: Path) -> None:
    """One hot block, in a grid of its own: twice as coarse, shifted, its axes in another order."""
    case, page = opened(person, tmp_path), person.page
    base = case.volume.affine @ np.diag([2, 2, 2, 1.0])
    base[:3, 3] += case.volume.affine[:3, :3] @ [0.5, 0.5, 0.5]
    hot = np.zeros((5, 6, 8), np.float32)
    hot[1:3, 4:6, 3:6] = 100  # columns 2 to 5, rows 8 to 11, slices 6 to 11
    turn = np.eye(4)[:, [1, 2, 0, 3]]
    second = replace(case.volume, array=np.ascontiguousarray(hot.transpose(1, 2, 0)), affine=base @ turn)
    io.save(second.array, tmp_path / "pet.nii.gz", second)
    lit, dark = (9, 3), (3, 8)
    before = {spot: colour(person, spot) for spot in (lit, dark)}
    page.locator("#overlay").set_input_files(tmp_path / "pet.nii.gz")
    slider = page.get_by_label("Opacity of the second image")
    expect(slider).to_be_visible()
    slider.fill("100")
    page.get_by_role("button", name="Hot", exact=True).click()
    until(person, lit, np.array([255, 255, 255]), 2)
    until(person, dark, before[dark], 2)
    page.get_by_label("Level of the second image").fill("150")
    page.get_by_label("Level of the second image").press("Enter")
    page.get_by_label("Width of the second image").fill("300")
    page.get_by_label("Width of the second image").press("Enter")
    until(person, lit, np.array([170, 10, 0]), 4)  # a third of the way from 0 to 300
    slider.fill("0")
    until(person, lit, before[lit], 2)
    slider.fill("100")
    page.reload()
    expect(slider).to_be_visible()
    page.locator(".view.axial input[type=range]").fill("2")
    page.get_by_role("button", name="Remove the second image").click()
    expect(page.get_by_role("button", name="Overlay", exact=True)).to_be_visible()
    assert page.evaluate("async () => (await (await fetch('api/sessions')).json()).length") == 1


def test_of_a_tiny_structure_two_digits_are_told(person: Person, tmp_path: Path) -> None:
    page, case = person.page, phantom("LPS", spacing_mm=(0.1, 0.1, 0.1))
    page.locator("#files").set_input_files(saved(case, tmp_path / "tiny.nii.gz"))
    person.wait("axial")
    _, y, x = PLANES["axial"].project(case.voxel(1), case.volume.shape, case.code)
    person.click("axial", (y, x), SHAPE, (0.1, 0.1))
    changes(page, 1)
    pressed(page, "t")
    told = page.locator(".structures .ml")
    expect(told).to_have_text(re.compile(r"^0\.000\d\d mL$"))
    ml = state(page)["structures"][0]["ml"]
    assert float((told.text_content() or "").split()[0]) == float(f"{ml:.2g}")
    page.get_by_role("button", name="Statistics").click()
    cell = page.get_by_role("dialog", name="Statistics").locator("tbody td").nth(1)
    expect(cell).to_have_text((told.text_content() or "").split()[0])

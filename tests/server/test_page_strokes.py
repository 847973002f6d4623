"""Strokes of the brush over intensities, thick slices or nothing at all; long names; a server that comes back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import expect

from medical_sam2.tracking.plan import PLANES
from medical_sam2.volume import Volume
from tests.phantoms import Phantom, phantom
from tests.server.browsing import Person
from tests.server.conftest import saved
from tests.server.test_page_gestures import MIDDLE, SHAPE, SPACING, changes, opened, pressed, state

pytestmark = pytest.mark.usefixtures("inline")
LONG = "Lesion_" + 6 * "segment_IV_"


def shown(person: Person, case: Phantom, plane: str, t: int) -> NDArray[Any]:
    """The labels of a slice, as the server has them."""
    fetched = f"fetch('api/sessions/' + location.hash.slice(1) + '/labels/{plane}/{t}')"
    found = person.page.evaluate(f"async () => [...new Uint8Array(await (await {fetched}).arrayBuffer())]")
    return np.array(found).reshape(PLANES[plane].apply(case.truth, case.code)[t].shape)


def loaded(person: Person, case: Phantom, folder: Path) -> None:
    person.page.locator("#files").set_input_files(saved(case, folder / "image.nii.gz"))
    person.wait("axial")


def limited(person: Person, low: str, high: str) -> None:
    """Limits of the brush."""
    for field, value in (("Paint from", low), ("Paint to", high)):
        person.page.get_by_label(field).fill(value)
        person.page.get_by_label(field).press("Enter")
    person.view("axial").focus()


def test_the_limits_of_the_brush_belong_to_it(person: Person, tmp_path: Path) -> None:
    case = phantom("LPS")
    array = np.random.default_rng(0).choice([0, 13, 37], case.volume.shape).astype(np.int16)  # 13 of 37: no whole code
    loaded(person, replace(case, volume=Volume(array, case.volume.affine)), tmp_path)
    pressed(person.page, "d")
    pressed(person.page, "]", 9)
    limited(person, "13", "13")
    person.drag("axial", ((1, 1), (11, 9)), SHAPE, SPACING)
    changes(person.page, 1)
    there = PLANES["axial"].apply(array, case.code)[MIDDLE]
    assert ((shown(person, case, "axial", MIDDLE) == 1) == (there == 13)).all()


def test_strokes_along_thick_slices_leave_none_out(person: Person, tmp_path: Path) -> None:
    case = phantom("LPS", spacing_mm=(1, 1, 8))
    loaded(person, case, tmp_path)
    pressed(person.page, "d")
    pressed(person.page, "]")  # less than a slice across, and less than what the pointer moves at once
    t = PLANES["coronal"].apply(case.truth, case.code).shape[0] // 2
    height, width = shape = PLANES["coronal"].apply(case.truth, case.code)[t].shape
    person.drag("coronal", ((0, 5), (height - 1, 5)), (height, width), (8, 1))
    changes(person.page, 1)
    found = shown(person, case, "coronal", t)
    assert found.shape == shape
    assert (found[:, 5] == 1).all()


def test_strokes_that_hit_nothing_say_why_and_change_nothing(person: Person, tmp_path: Path) -> None:
    opened(person, tmp_path)
    page = person.page
    pressed(page, "d")
    box = person.view("axial").bounding_box()
    assert box
    page.mouse.move(box["x"] + 3, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 3, box["y"] + 60)
    page.mouse.up()
    expect(page.locator(".alert")).to_contain_text("The stroke lies outside of the image.")
    limited(person, "900", "901")
    person.drag("axial", ((3, 2), (3, 8)), SHAPE, SPACING)
    expect(page.locator(".alert").last).to_contain_text("No pixel under the stroke has an intensity between from and to.")
    limited(person, "", "")
    page.get_by_role("radio", name="Erase").click()
    person.drag("axial", ((3, 2), (3, 8)), SHAPE, SPACING)
    expect(page.locator(".alert").last).to_contain_text("There is nothing of it on this slice.")
    changes(page, 0)
    assert not state(page)["structures"]
    assert not state(page)["can_undo"]


def test_long_names_push_nothing_away(person: Person, tmp_path: Path) -> None:
    opened(person, tmp_path)
    page = person.page
    for name in ("a", LONG):
        pressed(page, "n")
        page.keyboard.type(name)
        page.keyboard.press("Enter")
        expect(page.locator(".structures .name").last).to_have_value(name)
        expect(page.locator(".structures .name").last).not_to_be_focused()
    wide = "element => [element.scrollWidth, element.clientWidth]"
    for which in (0, 1):
        page.locator('button[aria-label^="More of"]').nth(which).click()
        expect(page.get_by_label("Merge into")).to_be_visible()
        inner, outer = page.locator(".details").evaluate(wide)
        assert inner <= outer
    page.get_by_role("button", name="Close", exact=True).click()
    pressed(page, "d")
    for line in (((3, 2), (3, 8)), ((5, 2), (5, 8))):
        person.drag("axial", line, SHAPE, SPACING)
    changes(page, 2)
    pressed(page, "t")
    expect(page.locator(".go")).to_contain_text("All changes are applied")
    inner, outer = page.locator(".panel").evaluate(wide)
    assert inner <= outer


def test_the_size_is_in_the_order_of_the_file(person: Person, tmp_path: Path) -> None:
    case = phantom("SLP")
    loaded(person, case, tmp_path)
    expect(person.page.locator(".bar .size")).to_contain_text(" × ".join(map(str, case.volume.shape)) + " voxels")


def test_a_server_that_answers_again_takes_the_alarm_away(person: Person, tmp_path: Path) -> None:
    opened(person, tmp_path)
    page = person.page
    page.context.set_offline(True)
    person.click("axial", (3, 3), SHAPE, SPACING)
    expect(page.locator(".alert")).to_contain_text("The server does not answer")
    page.context.set_offline(False)
    person.click("axial", (6, 5), SHAPE, SPACING)
    changes(page, 1)
    assert page.locator(".alert").count() == 0
    person.problems.clear()  # the browser tells of what did not come

"""Which structure a gesture is of: the one that was chosen when it was begun, whatever comes from the server meanwhile."""

from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, Route, expect

from medical_sam2 import io
from medical_sam2.volume import Segmentation
from tests.server.browsing import Person
from tests.server.test_page_drawing import begin, places
from tests.server.test_page_gestures import SHAPE, SPACING, changes, clicked, hold, opened, pressed, state
from tests.server.test_page_structures import more, tracked

pytestmark = pytest.mark.usefixtures("inline")


def chosen(page: Page, name: str) -> None:
    """Wait until a structure of this name is the one that is chosen."""
    expect(page.locator(".structures li.active")).to_have_count(1)
    expect(page.locator(".structures li.active .name")).to_have_value(name)


def added(page: Page, count: int) -> None:
    """One more structure, so that there are so many, under its usual name; it is chosen."""
    pressed(page, "n")
    expect(page.locator(".structures .name")).to_have_count(count)
    pressed(page, "Enter")
    expect(page.locator(".structures li[data-label]")).to_have_count(count)  # the server has it, too
    chosen(page, f"structure {count}")


def of(page: Page) -> list[int]:
    """The structure of each gesture."""
    return [each["label"] for each in state(page)["said"]]


def test_a_click_after_another_structure_was_chosen_is_of_that_one(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    held = hold(page, "**/structures")
    with page.expect_request("**/structures"):
        pressed(page, "n")
    pressed(page, "Enter")
    pressed(page, "1")
    chosen(page, "structure 1")
    person.click("axial", (3, 3), SHAPE, SPACING)
    go_on(held)
    changes(page, 2)
    assert of(page) == [1, 1]
    expect(page.locator(".structures .name")).to_have_count(2)
    chosen(page, "structure 1")
    person.click("axial", (4, 4), SHAPE, SPACING)
    changes(page, 3)
    assert of(page) == [1, 1, 1]


def go_on(held: list[Route]) -> None:
    for route in held:
        route.continue_()


@pytest.mark.parametrize("tool", ["s", "d", "e"])
def test_a_stroke_stays_with_the_structure_that_it_was_begun_for(person: Person, tmp_path: Path, tool: str) -> None:
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    added(page, 2)
    pressed(page, tool)
    begin(person, places(person))
    pressed(page, "1")
    page.mouse.up()
    changes(page, 2)
    assert of(page) == [1, 2]


def test_a_box_in_3d_is_of_the_structure_and_the_tool_that_it_was_drawn_with(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    added(page, 2)
    pressed(page, "c")
    person.drag("axial", ((2, 2), (8, 8)), SHAPE, SPACING)
    pressed(page, "t")
    expect(page.locator(".alert")).to_contain_text("A box in 3D is drawn, but not used")
    pressed(page, "q")
    person.view("axial").focus()
    pressed(page, "Enter")
    changes(page, 2)
    assert [each["kind"] for each in state(page)["said"]] == ["points", "points"]
    pressed(page, "1")
    pressed(page, "c")
    page.get_by_role("button", name="Use this box").click()
    changes(page, 3)
    assert of(page) == [1, 2, 2]


def test_a_box_in_3d_that_waits_goes_with_its_structure(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    added(page, 2)
    pressed(page, "c")
    person.drag("axial", ((2, 2), (8, 8)), SHAPE, SPACING)
    use = page.get_by_role("button", name="Use this box")
    expect(use).to_be_visible()
    pressed(page, "z")
    expect(page.locator(".structures .name")).to_have_count(1)
    expect(use).to_have_count(0)
    expect(page.get_by_role("status").first).to_contain_text("The box in 3D went with its structure")


def test_undone_and_done_again_a_new_structure_is_chosen(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    for count in (2, 3):
        added(page, count)
    pressed(page, "1")
    added(page, 4)
    pressed(page, "z")
    chosen(page, "structure 1")
    pressed(page, "y")
    chosen(page, "structure 4")


def test_a_new_structure_is_shown_though_one_of_its_number_was_hidden(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    pressed(page, "n")
    expect(page.locator(".structures .name")).to_have_count(2)
    pressed(page, "Enter")
    page.get_by_role("button", name="Hide structure 2").click()
    expect(page.locator(".structures li.hidden")).to_have_count(1)
    more(person, "structure 2")
    page.get_by_role("button", name="Remove").click()
    expect(page.locator(".structures .name")).to_have_count(1)
    added(page, 2)
    expect(page.locator(".structures li.hidden")).to_have_count(0)


def test_escape_in_the_details_of_a_structure_leaves_tracking_alone(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    held = hold(page, "**/cancel")
    more(person)
    page.evaluate("() => { window.seen = []; document.addEventListener('keydown', (event) => window.seen.push(event.key)) }")
    page.get_by_label("Locked").focus()
    pressed(page, "Escape")
    expect(page.get_by_role("dialog", name="Structure structure 1")).to_be_hidden()
    assert page.evaluate("window.seen") == []
    assert held == []


def test_tools_that_outline_nothing_do_not_click_by_keys(person: Person, tmp_path: Path) -> None:
    opened(person, tmp_path)
    page = person.page
    person.view("axial").focus()
    for tool in "vmjr":
        pressed(page, tool)
        for key in ("Enter", "-"):
            pressed(page, key)
        expect(page.get_by_role("status").first).to_contain_text("This tool outlines nothing")
    pressed(page, "q")
    pressed(page, "Enter")
    changes(page, 1)
    assert len(state(page)["said"]) == 1


def test_limits_of_another_axis_are_told_and_their_numbers_do_not_stay(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    first, last = page.get_by_label("From slice"), page.get_by_label("To slice")
    first.fill("7")
    last.fill("9")
    limit = page.get_by_role("button", name="Limit", exact=True)
    limit.click()
    changes(page, 2)
    page.get_by_label("Slices of").select_option("coronal")
    expect(first).to_have_value("")
    limit.click()
    expect(page.get_by_role("status").first).to_contain_text("those of axial K hold no more")
    changes(page, 2)
    assert [each["plane"] for each in state(page)["said"]] == ["axial", "coronal"]


def test_slices_of_a_structure_that_was_loaded_are_erased(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    tracked(person, case)
    path = tmp_path / "earlier.seg.nrrd"
    other = np.where(case.truth == 2, np.uint8(1), np.uint8(0))
    io.save(Segmentation(other, case.volume.affine, {1: "cyst"}), path, io.load(tmp_path / "image.nii.gz"))
    page.locator("#outlines").set_input_files(path)
    expect(page.locator(".structures .name")).to_have_count(2)
    chosen(page, "cyst")
    expect(page.get_by_role("button", name="Limit", exact=True)).to_be_disabled()
    before = state(page)["structures"][1]["ml"]
    page.get_by_label("From slice").fill("0")
    page.get_by_label("To slice").fill("15")
    page.get_by_label("To slice").fill(str(int(np.nonzero(other)[2].min())))
    page.get_by_role("button", name="Erase", exact=True).click()
    changes(page, 1)
    pressed(page, "t")
    expect(page.locator(".go")).to_contain_text("All changes are applied")
    after = state(page)["structures"][1]["ml"]
    assert 0 < after < before

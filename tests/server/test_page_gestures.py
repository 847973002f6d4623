"""What is drawn at the page, inside and outside, in a real browser; and gestures that come faster than the network answers."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Page, Route, expect

from medical_sam2.prompts import Box, Point
from medical_sam2.tracking.plan import PLANES
from tests.phantoms import Phantom, phantom, segmenter
from tests.server.browsing import Person
from tests.server.conftest import saved

SHAPE, SPACING = (13, 11), (1.0, 1.0)  # of an axial slice of the phantom
MIDDLE = 8

LABELS = """async () => {
  const answer = await fetch('api/sessions/' + location.hash.slice(1) + '/labels/axial/8')
  return [...new Uint8Array(await answer.arrayBuffer())]
}"""
CLICKS = """spots => {
  for (const [clientX, clientY] of spots) {
    const canvas = document.querySelector('.view.axial .stage canvas')
    const form = { clientX, clientY, pointerId: 1, pointerType: 'mouse', button: 0, bubbles: true }
    for (const kind of ['pointerdown', 'pointerup']) canvas.dispatchEvent(new PointerEvent(kind, form))
  }
  return document.querySelector('.view.axial').dataset.pending
}"""
"""Clicks on places of the page, all before the first is answered; how many of them wait then."""

pytestmark = pytest.mark.usefixtures("inline")


def opened(person: Person, folder: Path) -> Phantom:
    """The phantom, on the page."""
    case = phantom("LPS")
    person.page.locator("#files").set_input_files(saved(case, folder / "image.nii.gz"))
    expect(person.page.locator(".view.axial .counter")).to_have_text("K 8 of 0–15")
    person.wait("axial")
    return case


def state(page: Page) -> Any:
    """The session as the server has it."""
    return page.evaluate("async () => (await (await fetch('api/sessions/' + location.hash.slice(1))).json()).state")


def on_slice(case: Phantom, labels: NDArray[Any], t: int = MIDDLE) -> NDArray[np.bool_]:
    """Labels on an axial slice as the page shows it."""
    return PLANES["axial"].apply(labels, case.code)[t] > 0


def changes(page: Page, count: int) -> None:
    """Wait until so many changes wait for tracking, and none for the network."""
    text = "Nothing to apply yet" if not count else f"{count} change{'s' if count > 1 else ''} not yet applied"
    expect(page.locator(".view.axial")).to_have_attribute("data-pending", "0")
    expect(page.locator(".go")).to_contain_text(text)


def pressed(page: Page, key: str, times: int = 1) -> None:
    for _ in range(times):
        page.keyboard.press(key)
    if key in ("PageUp", "PageDown"):  # nothing is pointed at before the other slice is seen
        expect(page.locator('.view canvas[aria-label$=": loading"]')).to_have_count(0)


def hold(page: Page, pattern: str) -> list[Route]:
    """Requests that match, kept until somebody goes on with them."""
    held = list[Route]()

    def keep(route: Route) -> None:
        held.append(route)

    page.route(pattern, keep)
    return held


def clicked(person: Person, case: Phantom) -> NDArray[np.bool_]:
    """The first object on the middle slice, after a click on it."""
    _, y, x = PLANES["axial"].project(case.voxel(1), case.volume.shape, case.code)
    person.click("axial", (y, x), SHAPE, SPACING)
    changes(person.page, 1)
    return on_slice(case, case.truth == 1)


def test_a_scribble_inside_and_one_outside(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    there = clicked(person, case)
    pressed(page, "e")
    pressed(page, "[", 4)
    expect(page.get_by_label("Line width")).to_have_attribute("aria-valuetext", "radius of 1 pixels")
    rows, columns = np.nonzero(there)
    low, high, x = int(rows.min()), int(rows.max()), int(columns.min()) + 1
    page.keyboard.down("Shift")
    person.drag("axial", ((low, x), (high, x)), SHAPE, SPACING)
    page.keyboard.up("Shift")
    changes(page, 2)
    without = there.copy()
    without[low : high + 1, x] = False
    said = state(page)["said"][1]
    assert (said["kind"], said["positive"], said["width"]) == ("scribble", [False], 1)
    assert _labels(page) == without.tolist()
    person.drag("axial", ((0, 1), (0, 5)), SHAPE, SPACING)
    changes(page, 3)
    without[0, 1:6] = True
    assert np.array(_labels(page))[0, 1:6].all()
    pressed(page, "z")
    changes(page, 2)
    pressed(page, "z")
    changes(page, 1)
    person.sees("axial", tmp_path, there, SPACING)


def _labels(page: Page) -> Any:
    """Labels of the middle axial slice, as the server has them."""
    return (np.array(page.evaluate(LABELS)).reshape(SHAPE) > 0).tolist()


def test_a_lasso_inside_and_one_outside(person: Person, tmp_path: Path) -> None:
    opened(person, tmp_path)
    page = person.page
    pressed(page, "s")
    person.drag("axial", ((2.6, 1.6), (2.6, 7.4), (7.4, 7.4), (7.4, 1.6)), SHAPE, SPACING)
    changes(page, 1)
    drawn = np.zeros(SHAPE, bool)
    drawn[3:8, 2:8] = True
    person.sees("axial", tmp_path, drawn, SPACING)
    page.get_by_role("radio", name="Draw outside").click()
    person.drag("axial", ((3.6, 2.6), (3.6, 5.4), (5.4, 5.4), (5.4, 2.6)), SHAPE, SPACING)
    changes(page, 2)
    assert not np.array(_labels(page))[4:6, 3:6].any()
    assert np.array(_labels(page)).any()
    pressed(page, "z")
    changes(page, 1)
    person.sees("axial", tmp_path, drawn, SPACING)


def test_a_box_outside(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    there = clicked(person, case)
    pressed(page, "x")
    pressed(page, "i")
    rows, columns = (np.nonzero(there)[axis] for axis in (0, 1))
    y, x = int(rows.min()), int(columns.min())
    person.drag("axial", ((y, x), (y + 2, x + 1)), SHAPE, SPACING)
    changes(page, 2)
    assert not np.array(_labels(page))[y : y + 3, x : x + 2].any()
    pressed(page, "z")
    changes(page, 1)
    person.sees("axial", tmp_path, there, SPACING)


def test_a_box_in_3d_bounds_what_is_tracked(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    rows, columns = np.nonzero(on_slice(case, case.truth == 1))
    corners = (int(rows.min()), int(columns.min())), (int(rows.max()), int(columns.max()))
    page.get_by_role("radio", name="3D box").click()
    person.drag("axial", corners, SHAPE, SPACING)
    expect(page.get_by_label("First axial slice")).to_be_visible()
    page.get_by_label("First axial slice").fill("7")
    page.get_by_label("Last axial slice").fill("9")
    page.get_by_label("Last axial slice").blur()
    assert state(page)["said"] == []
    page.get_by_role("button", name="Use this box").click()
    changes(page, 1)
    assert state(page)["said"][0]["frames"] == [7, 9]
    page.keyboard.press("t")
    expect(page.locator(".structures .ml")).to_contain_text("mL")
    view, size = PLANES["axial"], case.volume.shape
    ends = [view.project((0, 0, 0), size, case.code), view.project(tuple(n - 1 for n in size), size, case.code)]
    inside = np.zeros(size, bool)
    view.apply(inside, case.code)[7:10, corners[0][0] : corners[1][0] + 1, corners[0][1] : corners[1][1] + 1] = True
    low, high = (tuple(int(x) for x in pick(np.argwhere(inside), axis=0)) for pick in (np.min, np.max))
    expected = segmenter().segment_volume(case.volume, [Box(low, high)]).labels  # type: ignore[arg-type]
    assert ends[0][0] != ends[1][0]
    assert expected.any()
    person.sees("axial", tmp_path, on_slice(case, expected), SPACING)
    person.view("axial").press("PageUp")
    person.view("axial").press("PageUp")
    person.sees("axial", tmp_path, np.zeros(SHAPE, bool), SPACING)


def test_a_rectangle_in_another_view_gives_the_depth(person: Person, tmp_path: Path) -> None:
    opened(person, tmp_path)
    page = person.page
    pressed(page, "c")
    person.drag("axial", ((4, 3), (9, 8)), SHAPE, SPACING)
    person.drag("coronal", ((3, 4), (9, 7)), (16, 11), SPACING)  # rows run down from 15
    expect(page.get_by_label("First axial slice")).to_have_value("6")
    expect(page.get_by_label("Last axial slice")).to_have_value("12")
    expect(page.get_by_label("First sagittal slice")).to_have_value("4")
    expect(page.get_by_label("First coronal slice")).to_have_value("4")
    pressed(page, "Escape")
    expect(page.get_by_label("First axial slice")).to_have_count(0)
    assert state(page)["said"] == []


def test_a_diameter(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    rows, columns = np.nonzero(there := on_slice(case, case.truth == 1))
    pressed(page, "g")
    y = (int(rows.min()) + int(rows.max())) // 2
    person.drag("axial", ((y, int(columns.min())), (y, int(columns.max()))), SHAPE, SPACING)
    changes(page, 1)
    assert state(page)["said"][0]["kind"] == "diameter"
    assert (np.array(_labels(page)) == there).mean() > 0.9


def test_ten_clicks_within_a_second_then_five_times_undo(person: Person, tmp_path: Path) -> None:
    """They queue up: none is refused, and the page ends where the engine does."""
    case, page = opened(person, tmp_path), person.page
    spots = [(y, x) for y in (4, 6) for x in (3, 4, 5, 6, 7)]
    assert page.evaluate(CLICKS, [person.place("axial", spot, SHAPE, SPACING) for spot in spots]) == "10"
    pressed(page, "z", 5)
    changes(page, 5)
    expect(page.locator(".structures .name")).to_have_count(1)
    assert page.locator(".alert").count() == 0
    now = state(page)
    assert [tuple(map(round, gesture["points"][0])) for gesture in now["said"]] == spots[:5]
    assert now["version"] == 1 + 10 + 5
    view = PLANES["axial"]
    frames = np.zeros(case.volume.shape, int)
    numbers = view.apply(frames, case.code)
    for number, (y, x) in enumerate(spots[:5], 1):
        numbers[MIDDLE, y, x] = number
    places = [tuple(float(i) for i in np.argwhere(frames == number)[0]) for number in range(1, 6)]
    flat = segmenter().segment_volume(case.volume, [Point(place) for place in places])  # type: ignore[arg-type]
    person.sees("axial", tmp_path, on_slice(case, flat.labels), SPACING)


def test_a_click_that_comes_before_the_new_structure_is_of_the_new_structure(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    there, held = on_slice(case, case.truth == 1), hold(page, "**/structures")
    with page.expect_request("**/structures"):
        page.keyboard.press("n")
    assert page.evaluate(CLICKS, [person.place("axial", (0, 3), SHAPE, SPACING)]) == "1"
    held[0].continue_()
    changes(page, 2)
    first, second = state(page)["said"]
    assert first["label"] != second["label"] == state(page)["structures"][1]["label"]
    assert (np.array(_labels(page)) >= there).all()


def test_a_click_on_a_new_structure_that_is_refused_touches_no_other(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    held = hold(page, "**/structures")
    with page.expect_request("**/structures"):
        page.keyboard.press("n")
    assert page.evaluate(CLICKS, [person.place("axial", (0, 3), SHAPE, SPACING)]) == "1"
    held[0].fulfill(status=422, content_type="application/json", body='{"detail": "no more structures"}')
    expect(page.locator(".alert")).to_be_visible()
    changes(page, 1)
    assert len(state(page)["said"]) == 1
    person.problems.clear()  # the browser tells of the request that was refused


def test_the_last_word_counts_at_the_page(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    pressed(page, "e")
    for outside in (False, True):
        if outside:
            pressed(page, "i")
        person.drag("axial", ((0, 1), (0, 5)), SHAPE, SPACING)
        changes(page, 3 if outside else 2)
        assert np.array(_labels(page))[0, 1:6].all() != outside
    page.keyboard.press("t")
    expect(page.locator(".structures .ml")).to_contain_text("mL")
    assert not np.array(_labels(page))[0, 1:6].any()


def test_a_click_that_meets_the_end_of_our_own_tracking_is_no_conflict(person: Person, tmp_path: Path) -> None:
    """The result is one more version, which nobody else made."""
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)

    def late(route: Route) -> None:
        time.sleep(1.5)  # tracking ends meanwhile
        route.continue_()

    page.route("**/say", late)
    page.keyboard.press("t")
    expect(page.locator(".go")).to_contain_text("All changes are applied")
    page.evaluate("() => { window.EventSource = class extends EventTarget { close() {} } }")  # and the page hears nothing of it
    page.evaluate(CLICKS, [person.place("axial", (6, 5), SHAPE, SPACING)])
    changes(page, 1)
    page.keyboard.press("t")
    page.evaluate(CLICKS, [person.place("axial", (6, 4), SHAPE, SPACING)])
    expect(page.locator(".view.axial")).to_have_attribute("data-pending", "0")
    assert page.locator(".alert").count() == 0
    assert len(state(page)["said"]) == 3
    person.problems.clear()  # the browser tells of the request that was asked again

"""What is drawn is drawn on the slice that is seen: slow connections, slices that change meanwhile, `Esc`."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.server.browsing import Person
from tests.server.test_page_gestures import MIDDLE, SHAPE, SPACING, changes, hold, opened, pressed, state

pytestmark = pytest.mark.usefixtures("inline")
DRAWING = "x", "s", "e", "g", "d"
"""Keys of tools that draw: box, lasso, scribble, diameter, brush."""


def begin(person: Person, places: list[tuple[float, float]]) -> None:
    """Draw from one place of the page to the next, and hold the button."""
    for number, place in enumerate(places):
        person.page.mouse.move(*place, steps=4 if number else 1)
        if not number:
            person.page.mouse.down()


def places(person: Person) -> list[tuple[float, float]]:
    """A line on an axial slice."""
    return [person.place("axial", spot, SHAPE, SPACING) for spot in ((3, 2), (3, 7), (8, 7))]


def test_nothing_is_drawn_on_a_slice_that_is_not_seen_yet(person: Person, tmp_path: Path) -> None:
    opened(person, tmp_path)
    page, line, t = person.page, places(person), MIDDLE + 3
    asked = f"**/frames/axial/{t}*"
    held = hold(page, asked)
    with page.expect_request(asked):
        page.locator(".view.axial input[type=range]").fill(str(t))
    status = page.get_by_role("status").first
    page.mouse.click(*line[0])
    expect(status).to_contain_text("was still on its way")
    for tool in (*DRAWING, "q", "m"):
        pressed(page, tool)
        begin(person, line)
        page.mouse.up()
        for key in ("Enter", "-", "b"):
            pressed(page, key)
    assert held
    for route in held:
        route.continue_()
    person.wait("axial")
    changes(page, 0)
    assert state(page)["said"] == []
    pressed(page, "q")
    page.mouse.click(*line[0])
    changes(page, 1)
    assert [each["t"] for each in state(page)["said"]] == [t]
    expect(status).not_to_contain_text("still on its way")


def test_nothing_is_clicked_by_keys_on_a_slice_that_is_not_seen_yet(person: Person, tmp_path: Path) -> None:
    opened(person, tmp_path)
    page = person.page
    asked = f"**/frames/axial/{MIDDLE - 3}*"
    held = hold(page, asked)
    person.view("axial").focus()
    with page.expect_request(asked):  # the last slice is asked for once the one before has come
        for _ in range(3):
            page.keyboard.press("PageDown")
    pressed(page, "Enter")
    expect(page.get_by_role("status").first).to_contain_text("was still on its way")
    for route in held:
        route.continue_()
    person.wait("axial")
    pressed(page, "Enter")
    changes(page, 1)


@pytest.mark.parametrize("tool", DRAWING)
def test_the_slice_stays_until_the_line_is_drawn(person: Person, tmp_path: Path, tool: str) -> None:
    opened(person, tmp_path)
    page, counter = person.page, person.page.locator(".view.axial .counter")
    pressed(page, tool)
    begin(person, places(person))
    page.mouse.wheel(0, -100)
    for key in ("PageUp", "ArrowDown"):
        pressed(page, key)
    page.wait_for_timeout(100)
    page.mouse.up()
    changes(page, 1)
    assert [each["t"] for each in state(page)["said"]] == [MIDDLE]
    expect(counter).to_have_text(f"K {MIDDLE} of 0–15")
    page.mouse.wheel(0, -100)
    expect(counter).to_have_text(f"K {MIDDLE + 1} of 0–15")


@pytest.mark.parametrize("tool", [*DRAWING, "c"])
def test_escape_abandons_what_is_being_drawn(person: Person, tmp_path: Path, tool: str) -> None:
    opened(person, tmp_path)
    page, line = person.page, places(person)
    pressed(page, tool)
    begin(person, line)
    pressed(page, "Escape")
    page.mouse.move(line[2][0] - 20, line[2][1], steps=3)
    page.mouse.up()
    changes(page, 0)
    assert state(page)["said"] == []
    expect(page.get_by_role("button", name="Use this box")).to_have_count(0)
    begin(person, line)
    page.mouse.up()
    if tool == "c":
        page.get_by_role("button", name="Use this box").click()
    changes(page, 1)


def test_another_tool_abandons_what_is_being_drawn(person: Person, tmp_path: Path) -> None:
    opened(person, tmp_path)
    pressed(person.page, "x")
    begin(person, places(person))
    pressed(person.page, "e")
    person.page.mouse.up()
    changes(person.page, 0)
    assert state(person.page)["said"] == []

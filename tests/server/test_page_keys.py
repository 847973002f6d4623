"""Keys at the page, in a real browser: whose they are while something is typed, and how a new structure gets its name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.server.browsing import Person
from tests.server.test_page_gestures import SHAPE, SPACING, changes, clicked, hold, opened, pressed, state
from tests.server.test_page_structures import labels, more, tracked

pytestmark = pytest.mark.usefixtures("inline")
HOT = "tqaxcsegdvmjriklhoufwzyn?[]12"
"""Letters and signs that do something at the page, tracking first."""


def names(page: Page) -> list[str]:
    """As the server has them."""
    return [each["name"] for each in state(page)["structures"]]


def naming(page: Page) -> Locator:
    return page.get_by_label("Name of the new structure")


def look(page: Page) -> dict[str, Any]:
    """What hot keys change, as the page shows it and as the server has it."""
    shown = page.evaluate("""() => {
      const all = (which, what) => [...document.querySelectorAll(which)].map(what)
      return {
        tool: all('.tools [aria-checked=true]', each => each.textContent),
        pressed: all('.panel [aria-pressed=true]', each => each.textContent),
        hidden: all('.structures .hidden', each => each.dataset.label),
        chosen: all('.structures .active', each => each.dataset.label),
        large: all('.large', each => each.className),
        slices: all('.counter', each => each.textContent),
        dialogs: all('dialog:modal', each => each.textContent),
      }
    }""")
    return {**shown, **{key: state(page)[key] for key in ("structures", "said", "tracked", "busy")}}


@pytest.mark.parametrize("by", ["key", "button"])
def test_a_new_structure_is_named_while_it_is_made(person: Person, tmp_path: Path, by: str) -> None:
    """Before the server has answered, too; no letter is a hot key, and the next keys are the view's again."""
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    before, held = look(page), hold(page, "**/structures")
    with page.expect_request("**/structures"):
        if by == "key":
            page.keyboard.press("n")
        else:
            page.get_by_role("button", name="New structure (N)").click()
    expect(naming(page)).to_be_focused()
    assert page.evaluate("() => getSelection().toString()") == "structure 2"
    page.keyboard.type("left k")
    with page.expect_response("**/structures"):
        held[0].continue_()
    page.wait_for_timeout(200)
    expect(naming(page)).to_be_focused()
    page.keyboard.type("idney tz1")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Name of structure 2")).to_have_value("left kidney tz1")
    assert names(page) == ["structure 1", "left kidney tz1"]
    after = look(page)
    for key in ("tool", "hidden", "large", "slices", "said", "tracked", "busy"):
        assert after[key] == before[key]
    expect(person.view("axial")).to_be_focused()
    page.keyboard.press("x")
    expect(page.get_by_role("radio", name="Box", exact=True)).to_have_attribute("aria-checked", "true")


def test_escape_and_an_empty_name_keep_the_usual_one(person: Person, tmp_path: Path) -> None:
    opened(person, tmp_path)
    page = person.page
    for typed, key in (("liver", "Escape"), ("", "Enter"), ("Backspace", "Enter")):
        page.keyboard.press("n")
        expect(naming(page)).to_be_focused()
        page.keyboard.press(typed) if typed == "Backspace" else page.keyboard.type(typed)
        page.keyboard.press(key)
        expect(naming(page)).to_have_count(0)
        expect(person.view("axial")).to_be_focused()
    assert names(page) == ["structure 1", "structure 2", "structure 3"]


def test_without_a_mouse_and_without_names(person: Person, tmp_path: Path) -> None:
    """N and Enter at once, from the view that had the focus; the next Enter is a click of the new structure."""
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    person.view("coronal").focus()
    pressed(page, "n")
    pressed(page, "Enter")
    expect(person.view("coronal")).to_be_focused()
    pressed(page, "Enter")
    changes(page, 2)
    assert [(each["label"], each["plane"]) for each in state(page)["said"]] == [(1, "axial"), (2, "coronal")]


@pytest.mark.parametrize("typed", ["", "cyst"])
def test_a_click_at_once_is_of_the_new_structure(person: Person, tmp_path: Path, typed: str) -> None:
    """It is not lost, and takes the name that stands there."""
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    page.keyboard.press("n")
    page.keyboard.type(typed)
    person.click("axial", (0, 3), SHAPE, SPACING)
    changes(page, 2)
    expect(page.get_by_label("Name of structure 2")).to_have_value(typed or "structure 2")
    first, second = state(page)["said"]
    assert (first["label"], second["label"]) == (1, 2)
    assert second["points"][0] == pytest.approx([0, 3], abs=0.1)
    assert (labels(person) == 2).any()
    assert names(page) == ["structure 1", typed or "structure 2"]


def test_a_button_that_is_pressed_from_the_name_is_pressed(person: Person, tmp_path: Path) -> None:
    """The list is drawn anew when the name is taken, and not under the pointer."""
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    page.keyboard.press("n")
    page.keyboard.type("cyst")
    eye = page.get_by_role("button", name="Hide structure 1")
    box = eye.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.wait_for_timeout(500)  # the name has been taken meanwhile
    assert names(page) == ["structure 1", "cyst"]
    page.mouse.up()
    expect(eye).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("Name of structure 2")).to_have_value("cyst")


def fields(person: Person) -> list[Locator]:
    """Every field of the page that takes what is typed, as far as the tools show them."""
    page, found = person.page, list[Locator]()
    page.get_by_role("radio", name="Brush").click()
    for kind in ("input:not([type=range]):not([type=file]):not([type=color])", "select"):
        found += page.locator(f".panel {kind}").all()
    return found


def test_no_hot_key_in_any_field_of_the_page_or_a_dialog(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    tracked(person, case)
    person.click("axial", (6, 5), SHAPE, SPACING)
    changes(page, 1)
    found = fields(person)
    assert len(found) >= 9  # a name, two intensities, three limits, views, level and width
    for each in found:
        before = look(page)
        each.focus()
        page.keyboard.type(HOT)
        assert look(page) == before, each
        page.keyboard.press("Escape")
        person.view("axial").focus()
    more(person)
    dialog = page.get_by_role("dialog", name="Structure structure 1")
    fields_there = dialog.locator("input, select").all()
    assert len(fields_there) >= 7
    before = look(page)
    for each in [dialog.get_by_role("button", name="Split into parts"), *fields_there]:
        each.focus()
        page.keyboard.type(HOT.replace("12", ""))  # not its number in files
        assert look(page) == before, each
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.keyboard.press("v")
    expect(page.get_by_role("radio", name="Look")).to_have_attribute("aria-checked", "true")


def test_what_is_typed_outlives_what_comes_from_the_server(person: Person, tmp_path: Path) -> None:
    """A field that was drawn anew would lose text and focus, and the next letters would be hot keys."""
    case, page = opened(person, tmp_path), person.page
    tracked(person, case)
    before = look(page)
    for field, end in ((page.get_by_label("Level", exact=True), "2"), (page.get_by_label("Name of structure 1"), "t")):
        field.select_text()
        page.keyboard.type("1")
        version = state(page)["version"]
        page.evaluate(  # another tab changes something, and this one hears of it
            """async version => {
              const headers = { 'content-type': 'application/json' }
              const form = { method: 'POST', headers, body: JSON.stringify({ version }) }
              await fetch('api/sessions/' + location.hash.slice(1) + '/structures', form)
            }""",
            version,
        )
        page.locator("button.edits[aria-label=Undo]").evaluate(
            "button => button.click()"
        )  # is refused, and the page shows what is
        expect(page.locator(".alert")).to_contain_text("changed from elsewhere")
        page.get_by_role("button", name="Dismiss").click()
        field.focus()
        page.keyboard.press("End")
        page.keyboard.type(end)
        expect(field).to_have_value(f"1{end}")
        page.keyboard.press("Escape" if end == "t" else "Enter")
    expect(page.locator(".structures .name")).to_have_count(3)
    assert look(page)["tool"] == before["tool"]
    person.problems.clear()  # the browser tells of what was refused


def test_a_name_that_is_on_its_way_is_shown(person: Person, tmp_path: Path) -> None:
    """Where the list is drawn anew before the server answers; what is typed then goes on from it."""
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    held, field = hold(page, "**/structures/1"), page.get_by_label("Name of structure 1")
    field.fill("liver")
    with page.expect_request("**/structures/1"):
        person.view("axial").focus()
    for _ in range(2):
        page.keyboard.press("h")
    expect(field).to_have_value("liver")
    field.focus()
    page.keyboard.press("End")
    with page.expect_response("**/structures/1"):
        held[0].continue_()
    page.keyboard.type("s")
    page.unroute("**/structures/1")
    page.keyboard.press("Enter")
    expect(field).to_have_value("livers")
    person.page.wait_for_timeout(200)
    assert names(page) == ["livers"]


def test_a_preset_that_is_pressed_from_a_number_is_pressed(person: Person, tmp_path: Path) -> None:
    opened(person, tmp_path)
    page = person.page
    width = page.get_by_label("Width", exact=True)
    width.select_text()
    page.keyboard.type("0.25")
    page.get_by_role("button", name="all", exact=True).click()
    expect(page.get_by_role("button", name="all", exact=True)).to_have_attribute("aria-pressed", "true")
    assert np.isclose(float(width.input_value()), 0.62, atol=0.05)  # all intensities: from 0.19 to 0.81


@pytest.mark.parametrize("by", ["mouse", "new", "other", "tool", "slice", "track", "view", "stays"])
def test_a_corner_that_was_begun_by_keys_is_of_what_was_meant_then(person: Person, tmp_path: Path, by: str) -> None:
    """`B` begins a box; whoever goes on to something else clicks with the next Enter, and boxes nothing."""
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    if by == "other":
        pressed(page, "n")
        pressed(page, "Enter")
        expect(page.locator(".structures .name")).to_have_count(2)
        pressed(page, "Enter")
        changes(page, 2)
    axial = person.view("axial")
    axial.focus()
    for key in ("b", "ArrowDown", "ArrowRight"):
        pressed(page, key)
    before = len(state(page)["said"])
    if by == "mouse":
        person.drag("axial", ((2, 2), (6, 6)), SHAPE, SPACING)
        before += 1
    elif by == "view":
        person.view("coronal").click()
        before += 1
        axial.focus()
    elif by == "track":
        pressed(page, "t")
        expect(page.locator(".structures .ml").first).to_contain_text("mL")
    else:
        for key in {"new": ("n", "Enter"), "other": ("1",), "tool": ("e", "q"), "slice": ("PageUp", "PageDown")}.get(by, ()):
            pressed(page, key)
            expect(axial).to_be_focused() if key == "Enter" else None
    page.wait_for_timeout(100)
    pressed(page, "ArrowDown")
    pressed(page, "ArrowRight")
    pressed(page, "Enter")
    page.wait_for_function("() => !Number(document.querySelector('.view.axial').dataset.pending)")
    said = state(page)["said"][before:]
    assert [each["kind"] for each in said] == ["box" if by == "stays" else "points"]

"""Whether the page can be used by everybody: axe-core finds no fault in what a person comes by, in dark and in light."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.server.browsing import Person
from tests.server.test_page_gestures import clicked, opened

pytestmark = pytest.mark.usefixtures("inline")


def faults(page: Page) -> list[str]:
    """Rule and element of each fault, by both kinds of light."""
    found = list[str]()
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]  # colours change at once
        for fault in Axe().run(page).response["violations"]:
            found += [f"{scheme}: {fault['id']}: {node['html'][:120]}" for node in fault["nodes"]]
    return found


@contextmanager
def missing(page: Page, attribute: str, selector: str) -> Iterator[None]:
    """The page without an attribute of an element, while the context lasts."""
    element = page.locator(selector).first
    value = element.get_attribute(attribute)
    element.evaluate("(one, name) => one.removeAttribute(name)", attribute)
    yield
    element.evaluate("(one, [name, value]) => one.setAttribute(name, value)", [attribute, value])


def test_the_first_page(person: Person) -> None:
    assert faults(person.page) == []


def test_a_volume_its_structures_and_every_tool(person: Person, tmp_path: Path) -> None:
    page, case = person.page, opened(person, tmp_path)
    assert faults(page) == []
    clicked(person, case)
    page.keyboard.press("t")
    expect(page.locator(".structures .ml")).to_contain_text("mL")
    for tool in page.get_by_role("radio").all():
        tool.click()
        assert faults(page) == [], tool.get_attribute("value")


def test_a_fault_is_found(person: Person, tmp_path: Path) -> None:
    page = person.page
    opened(person, tmp_path)
    with missing(page, "lang", "html"):
        found = faults(page)
    assert ["html-has-lang" in fault for fault in found] == [True, True]

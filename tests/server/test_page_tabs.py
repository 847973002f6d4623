"""Several tabs of one browser: what one sees of the other, and addresses that are pasted into one, in a real browser."""

import re
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from medical_sam2.server import inference_queue
from medical_sam2.server.app import address
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.security import ServerSettings
from tests.phantoms import phantom, segmenter
from tests.server.browsing import Person, hold_tracking, running
from tests.server.conftest import saved
from tests.server.test_page_gestures import MIDDLE, changes, clicked, opened, pressed, state

pytestmark = pytest.mark.usefixtures("inline")


def other_tab(person: Person) -> Page:
    """On the same session."""
    page = person.page.context.new_page()
    page.goto(person.page.url)
    expect(page.locator(".view.axial .counter")).to_have_text("K 8 of 0–15")
    return page


def come_back(person: Person) -> None:
    """Look at the first tab again."""
    person.page.bring_to_front()
    person.page.evaluate("() => window.dispatchEvent(new Event('focus'))")  # which a browser without a screen may leave out


def test_whoever_comes_back_to_a_tab_sees_what_was_done_in_another(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    other = other_tab(person)
    pressed(other, "n")
    other.keyboard.type("cyst")
    pressed(other, "Enter")
    expect(other.get_by_label("Name of structure 2")).to_have_value("cyst")
    pressed(other, "t")
    expect(other.locator(".structures .ml").first).to_contain_text("mL")
    come_back(person)
    expect(page.get_by_label("Name of structure 2")).to_have_value("cyst")
    expect(page.locator(".structures .ml").first).to_contain_text("mL")
    expect(page.locator(".go")).to_contain_text("All changes are applied")
    expect(page.locator(".look button").first).to_be_visible()
    expect(page.locator(".structures .active")).to_have_attribute("data-label", "1")
    clicked(person, case)
    assert page.locator(".alert").count() == 0
    assert len(state(page)["said"]) == 2


def test_nothing_more_is_asked_where_nothing_was_done(person: Person, tmp_path: Path) -> None:
    case = opened(person, tmp_path)
    clicked(person, case)
    person.page.wait_for_timeout(500)  # the network looks ahead
    before = len(person.asked)
    come_back(person)
    person.page.wait_for_timeout(500)
    assert {url.rsplit("/", 2)[1] for url in person.asked[before:]} == {"sessions"}
    assert len(person.asked) - before <= 2


def test_tracking_that_another_tab_began_is_followed(person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = hold_tracking(monkeypatch)
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    other = other_tab(person)
    changes(other, 1)
    pressed(other, "t")
    expect(other.locator(".go")).to_contain_text(" of ")
    come_back(person)
    expect(page.locator(".go")).to_contain_text(" of ")
    goes_on.set()
    expect(page.locator(".structures .ml")).to_contain_text("mL")


def test_the_time_left_is_the_same_after_a_reload(person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks, stopped = count(0, 10), hold_tracking(monkeypatch)
    monkeypatch.setattr(inference_queue, "monotonic", lambda: next(ticks))  # ten seconds a slice
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    pressed(page, "t")
    left = re.compile(r"^(4 of 16 · about 120|5 of 16 · about 110|6 of 16 · about 100) s left$")
    for _ in range(2):
        expect(page.locator(".go p")).to_have_text(left)
        page.reload()
    stopped.set()
    expect(page.locator(".structures .ml")).to_contain_text("mL")


def test_the_address_of_a_session_may_be_pasted_into_a_tab(person: Person, tmp_path: Path) -> None:
    """The browser loads nothing where only what follows the # is another one."""
    page = person.page
    opened(person, tmp_path)
    pressed(page, "n")
    page.keyboard.type("liver")
    pressed(page, "Enter")
    expect(page.get_by_label("Name of structure 1")).to_have_value("liver")
    first = page.url
    page.get_by_role("button", name="Medical SAM 2").click()
    expect(page.locator(".start")).to_be_visible()
    page.evaluate("url => location.assign(url)", first)
    expect(page.get_by_label("Name of structure 1")).to_have_value("liver")
    expect(page.locator(".start")).to_have_count(0)
    page.get_by_role("button", name="Medical SAM 2").click()
    page.locator("#files").set_input_files(saved(phantom("IRA"), tmp_path / "other.nii.gz"))
    expect(page.locator(".view.axial .counter")).to_have_text("I 7 of 0–15")
    page.evaluate("url => location.assign(url)", first)
    expect(page.locator(".view.axial .counter")).to_have_text("K 8 of 0–15")
    pressed(page, "n")  # once, whatever was open before
    expect(page.get_by_label("Name of the new structure")).to_have_count(1)
    pressed(page, "Enter")
    expect(page.locator(".structures .name")).to_have_count(2)
    page.evaluate("location.hash = 'f'.repeat(32)")
    expect(page.locator(".start")).to_be_visible()
    person.problems.clear()  # the browser tells of what is not there


def test_a_server_that_was_started_anew_is_told_once_and_slices_that_are_lost_go(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = hold_tracking(monkeypatch)
    first = ServerSettings(tmp_path / "state", token="t" * 32)
    with running(first, InferenceQueue(segmenter)) as settings:
        person = Person.at(browser, settings)
        page, case = person.page, opened(person, tmp_path)
        clicked(person, case)
        pressed(page, "t")
        expect(page.locator(".go p")).to_contain_text(" of 16")
        page.locator(".view.axial input[type=range]").fill(str(MIDDLE + 1))
        expect(person.view("axial")).to_have_attribute("aria-label", re.compile(f"slice {MIDDLE + 1}, .*: structure 1"))
    stopped.set()
    with running(replace(first, token="u" * 32), InferenceQueue(segmenter), settings.port) as anew:
        told = "The server was started anew. Open the address that `medsam2 serve` printed."
        expect(page.locator(".go .warn")).to_have_text(told)
        expect(page.locator("header .status")).to_have_text(told)
        expect(person.view("axial")).to_have_attribute("aria-label", re.compile(f"slice {MIDDLE + 1}, .*: nothing outlined"))
        asked = len(person.asked)
        page.wait_for_timeout(1500)
        assert len(person.asked) == asked
        page.context.new_page().goto(address(anew))
        come_back(person)  # with the cookie that the other tab was given
        expect(page.locator(".go .warn")).to_contain_text("It answers again; what was being applied was not kept.")
        changes(page, 1)
        page.context.close()


def test_the_page_goes_on_after_the_connection_broke(person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = hold_tracking(monkeypatch)
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    session = re.compile(r"/api/sessions/[0-9a-f]{32}$")
    for asked in ("**/events", session):
        page.route(asked, lambda route: route.abort())
    pressed(page, "t")
    told, apply = page.locator(".go"), page.get_by_role("button", name="Apply to volume")
    expect(told).to_contain_text("The connection to the server broke")
    expect(page.locator("header .status")).to_contain_text("The connection to the server broke")
    expect(page.get_by_label("Tracking")).to_have_count(0)
    assert page.locator(".alert").count() == 0
    for _ in range(2):
        with page.expect_response("**/track"):
            apply.click()
    expect(page.locator(".alert")).to_have_count(1)  # twice the same is said once
    page.unroute(session)
    page.unroute("**/events")
    expect(told).to_contain_text(" of ")  # it is followed
    goes_on.set()
    expect(told).to_contain_text("All changes are applied")
    expect(told).not_to_contain_text("broke")
    person.problems.clear()  # the browser tells of what was not answered

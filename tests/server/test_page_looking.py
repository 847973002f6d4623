"""A link for looking alone, and signing out, in a real browser: no button is there that would be refused."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from medical_sam2.server.app import address
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.security import ServerSettings
from medical_sam2.server.users import hash_password
from tests.phantoms import phantom, segmenter
from tests.server.browsing import Person, running
from tests.server.conftest import saved
from tests.server.test_page_gestures import SHAPE, SPACING, changes, clicked, on_slice, opened, pressed, state

pytestmark = pytest.mark.usefixtures("inline")
PASSWORD = "correct horse"


@pytest.fixture
def team(tmp_path: Path) -> Iterator[ServerSettings]:
    """A server with a user and a link."""
    users = {"anna": hash_password(PASSWORD)}
    given = ServerSettings(tmp_path / "state", token="t" * 32, read_token="r" * 32, users=users)
    with running(given, InferenceQueue(segmenter)) as settings:
        yield settings


def test_a_link_for_looking_shows_and_offers_no_change(team: ServerSettings, browser: Browser, tmp_path: Path) -> None:
    editor = Person.at(browser, team)
    case = opened(editor, tmp_path)
    clicked(editor, case)
    before, place = state(editor.page), editor.page.url
    looker = Person.at(browser, team)
    page = looker.page
    page.context.clear_cookies()
    page.goto(address(team, token=team.read_token))
    expect(page.get_by_text("for looking alone")).to_be_visible()
    expect(page.get_by_role("button", name="Choose files")).to_have_count(0)
    expect(page.get_by_role("button", name=re.compile("^Remove"))).to_have_count(0)
    page.goto(place)
    page.reload()
    looker.wait("axial")
    looker.sees("axial", tmp_path, on_slice(case, case.truth == 1), SPACING)
    assert page.locator(".tools button").all_inner_texts() == ["Ruler", "Angle", "Region", "Look"]
    for name in ("New structure (N)", "Undo", "Redo", "Apply to volume", "Load an earlier segmentation", "Overlay"):
        expect(page.get_by_role("button", name=name, exact=True)).to_be_hidden()
    page.get_by_role("button", name="More of structure 1").click()
    expect(page.get_by_label("Opacity", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Remove", exact=True)).to_have_count(0)
    page.get_by_role("button", name="Close", exact=True).click()
    looker.click("axial", (1, 1), SHAPE, SPACING)
    looker.view("axial").focus()
    for key in ("q", "Enter", "-", "b", "Enter", "d", "Enter", "Enter", "n", "t", "z", "y"):
        pressed(page, key)
    page.wait_for_timeout(300)
    assert state(page) == before
    assert page.locator(".alert").count() == 0
    assert looker.problems == []  # nothing was asked that was refused
    with page.expect_download() as download:
        page.get_by_role("link", name="Prompts").click()
    assert Path(download.value.path()).stat().st_size > 0
    pressed(editor.page, "z")
    changes(editor.page, 0)  # who may edit still does
    for one in (editor, looker):
        one.page.context.close()


def test_signing_out(team: ServerSettings, browser: Browser, tmp_path: Path) -> None:
    page = browser.new_context().new_page()
    page.goto(f"http://127.0.0.1:{team.port}/")
    page.wait_for_url("**/login")
    expect(page.get_by_role("alert")).to_have_count(0)
    page.fill("#password", "guess")
    page.click("button")
    expect(page.get_by_role("alert")).to_have_text("The name or the password is wrong.")
    assert page.evaluate("fetch('.').then(async answer => (await answer.json()).error)").endswith("sign in at /login")
    page.fill("#name", "anna")
    page.fill("#password", PASSWORD)
    page.click("button")
    expect(page.get_by_text("Signed in as anna.")).to_be_visible()
    page.locator("#files").set_input_files(saved(phantom("LPS"), tmp_path / "image.nii.gz"))
    expect(page.locator(".view.axial .counter")).to_have_text("K 8 of 0–15")
    page.get_by_role("button", name="Medical SAM 2").click()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/login")
    assert page.context.cookies() == []
    assert page.evaluate("fetch('api/sessions').then(answer => answer.status)") == 401
    page.context.close()


def test_who_came_by_the_printed_address_has_nothing_to_sign_out_of(team: ServerSettings, browser: Browser) -> None:
    one = Person.at(browser, team)
    expect(one.page.get_by_role("button", name="Choose files")).to_be_visible()
    expect(one.page.get_by_role("button", name="Sign out")).to_have_count(0)
    one.page.context.close()

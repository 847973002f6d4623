"""What is said of a whole structure at the page, in a real browser: limits, shapes between outlines, both diameters."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from medical_sam2.prompts import Mask, Point
from medical_sam2.strokes import Diameter, ShapeInterpolation, SliceRange
from medical_sam2.tracking import volume_tracker
from medical_sam2.tracking.plan import PLANES
from tests.phantoms import Phantom, phantom, segmenter
from tests.server.browsing import Person, hold_tracking
from tests.server.conftest import saved
from tests.server.test_page_gestures import LABELS, MIDDLE, SHAPE, SPACING, changes, clicked, on_slice, opened, pressed, state

pytestmark = pytest.mark.usefixtures("inline")


def voxel(case: Phantom, t: int, y: float, x: float) -> tuple[float, float, float]:
    """A row and column of an axial frame in the order of the file."""
    assert case.code == "LPS"  # columns run to L, rows to P, frames to S, as the array does
    return float(x), float(y), float(t)


def labels(person: Person, t: int) -> np.ndarray[Any, Any]:
    """An axial frame's labels, as the server has them."""
    return np.array(person.page.evaluate(LABELS.replace("axial/8", f"axial/{t}"))).reshape(SHAPE) > 0


def tracked(person: Person) -> None:
    person.page.keyboard.press("t")
    expect(person.page.locator(".go")).to_contain_text("All changes are applied")


def to_slice(person: Person, t: int) -> None:
    person.page.locator(".view.axial input[type=range]").fill(str(t))
    expect(person.view("axial")).to_have_attribute("aria-label", re.compile(f"slice {t},"))


def test_tracking_keeps_to_the_slices_that_were_given(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    expect(page.get_by_label("From slice")).to_be_hidden()
    clicked(person, case)
    page.get_by_label("From slice").fill("7")
    page.get_by_label("To slice").fill("9")
    page.get_by_role("button", name="Limit", exact=True).click()
    changes(page, 2)
    assert state(page)["said"][1]["frames"] == [7, 9]
    tracked(person)
    click = Point(case.voxel(1))
    assert case.voxel(1)[2] == MIDDLE
    expected = segmenter().segment_volume(case.volume, [click, SliceRange(7, 9, axis=2)]).labels
    whole = segmenter().segment_volume(case.volume, [click]).labels
    for t in range(5, 12):
        assert (labels(person, t) == on_slice(case, expected, t)).all()
        assert labels(person, t).any() == (7 <= t <= 9)
        assert on_slice(case, whole, t).any()
    page.get_by_role("button", name="All", exact=True).click()
    changes(page, 1)
    tracked(person)
    assert (labels(person, 5) == on_slice(case, whole, 5)).all()
    pressed(page, "z", 2)
    expect(page.get_by_label("From slice")).to_have_value("7")
    assert not labels(person, 5).any()


def holds(page: Page, first: str, last: str) -> None:
    for end, value in (("From", first), ("To", last)):
        expect(page.get_by_label(f"{end} slice")).to_have_value(value)


def test_limits_that_leave_out_what_was_clicked_are_refused(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    page.get_by_label("From slice").fill("1")
    page.get_by_label("To slice").fill("3")
    page.get_by_label("To slice").press("Enter")
    expect(page.locator(".alert")).to_contain_text("leave out")
    holds(page, "", "")
    page.get_by_label("From slice").fill("12")
    page.get_by_label("To slice").fill("16")
    page.get_by_role("button", name="Limit", exact=True).click()
    expect(page.locator(".alert").last).to_contain_text("axial K has slices 0 to 15")
    holds(page, "", "")
    assert len(state(page)["said"]) == 1
    page.get_by_label("From slice").fill("7")
    page.get_by_label("To slice").fill("9")
    page.get_by_role("button", name="Limit", exact=True).click()
    changes(page, 2)
    page.get_by_label("From slice").fill("1")
    page.get_by_label("To slice").fill("3")
    page.get_by_label("To slice").press("Enter")
    holds(page, "7", "9")
    person.problems.clear()  # the browser tells of the refused request


def test_shapes_between_two_outlines(person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volume_tracker, "BETWEEN", 1.0)  # the known network has no doubts that shapes could decide
    case, page = opened(person, tmp_path), person.page
    page.keyboard.press("s")
    join = page.get_by_role("button", name="Shapes between outlines")
    corners = {5: (3.6, 2.6, 8.4, 6.4), 11: (5.6, 3.6, 9.4, 7.4)}
    for number, (t, (top, left, bottom, right)) in enumerate(corners.items(), 1):
        to_slice(person, t)
        person.drag("axial", ((top, left), (top, right), (bottom, right), (bottom, left)), SHAPE, SPACING)
        changes(page, number)
        assert join.is_enabled() == (number == 2)
    join.click()
    changes(page, 3)
    expect(join).to_have_attribute("aria-pressed", "true")
    tracked(person)
    drawn = np.zeros(case.volume.shape, bool)
    for t in corners:
        PLANES["axial"].apply(drawn, case.code)[t] = labels(person, t)
    outlines = [Mask(np.where(np.arange(16) == t, drawn, False), axis=2) for t in corners]
    joined = segmenter().segment_volume(case.volume, [*outlines, ShapeInterpolation()]).labels
    apart = segmenter().segment_volume(case.volume, outlines).labels
    assert (joined != apart).any()
    for t in range(case.volume.shape[2]):
        assert (labels(person, t) == on_slice(case, joined, t)).all()
    join.click()
    changes(page, 1)
    tracked(person)
    for t in range(case.volume.shape[2]):
        assert (labels(person, t) == on_slice(case, apart, t)).all()


def test_the_short_diameter_drawn_across_the_long_one_is_one_gesture_with_it(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    pressed(page, "g")
    person.drag("axial", ((6, 4), (6, 6)), SHAPE, SPACING)
    changes(page, 1)
    person.drag("axial", ((4, 5), (9, 5)), SHAPE, SPACING)
    has_ends(person, 4)
    (said,) = state(page)["said"]
    ends = [(round(y), round(x)) for y, x in said["points"]]
    assert ends == [(4, 5), (9, 5), (6, 4), (6, 6)]  # the longer first
    tracked(person)
    places = tuple(voxel(case, MIDDLE, y, x) for y, x in said["points"])
    both = segmenter().segment_volume(case.volume, [Diameter(places)]).labels
    for t in range(case.volume.shape[2]):
        assert (labels(person, t) == on_slice(case, both, t)).all()
    pressed(page, "z", 2)
    has_ends(person, 2)
    person.drag("axial", ((2, 2), (2, 8)), SHAPE, SPACING)  # crosses nothing: the structure's diameter is this one now
    changes(page, 1)
    has_ends(person, 2)


def has_ends(person: Person, count: int) -> None:
    """Wait until one diameter is said, with so many ends."""
    for _ in range(100):
        if [len(each["points"]) for each in state(person.page)["said"]] == [count]:
            return
        person.page.wait_for_timeout(50)
    raise AssertionError(f"no diameter with {count} ends")


def test_a_range_of_slices_is_erased_at_once_and_stays_so(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    tracked(person)
    before = [labels(person, t) for t in range(16)]
    assert before[5].any()
    page.get_by_role("button", name="Erase", exact=True).click()
    expect(page.locator(".alert")).to_contain_text("from which slice")
    page.get_by_label("From slice").fill("0")
    page.get_by_label("To slice").fill("6")
    page.get_by_role("button", name="Erase", exact=True).click()
    changes(page, 1)
    expected = [np.zeros(SHAPE, bool) if t <= 6 else before[t] for t in range(16)]
    for applied in (False, True):
        if applied:
            tracked(person)
        for t in range(16):
            assert (labels(person, t) == expected[t]).all()
    pressed(page, "z")
    changes(page, 1)
    pressed(page, "z")
    expect(page.locator(".go")).to_contain_text("All changes are applied")
    assert (labels(person, 5) == before[5]).all()


def test_tracking_is_stopped_and_what_was_tracked_is_kept(
    person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    stopped = hold_tracking(monkeypatch)
    page.keyboard.press("t")
    expect(page.locator(".go")).to_contain_text(re.compile(r"\b[3-7] of 16"))
    with page.expect_response(lambda answer: answer.request.method != "GET"):
        page.get_by_role("button", name="Stop and keep").click()
    stopped.set()
    expect(page.locator(".go")).to_contain_text(re.compile(r"stopped after \d slices, kept"))
    expect(page.get_by_role("status").first).to_have_attribute("title", re.compile("goes on from there"))
    whole = segmenter().segment_volume(case.volume, [Point(case.voxel(1))]).labels
    there = {t for t in range(16) if labels(person, t).any()}
    assert MIDDLE in there
    assert 3 <= len(there) < len({t for t in range(16) if on_slice(case, whole, t).any()})
    assert all((labels(person, t) == on_slice(case, whole, t)).all() for t in there)
    expect(page.locator(".structures .ml")).to_contain_text("mL")
    expect(page.locator(".go")).to_contain_text("All changes are applied")
    pressed(page, "z")
    changes(page, 1)
    assert {t for t in range(16) if labels(person, t).any()} == {MIDDLE}


def test_undo_waits_for_the_end_of_tracking(person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    goes_on = hold_tracking(monkeypatch)
    page.keyboard.press("t")
    expect(page.locator(".go")).to_contain_text(" of 16")
    with page.expect_response("**/structures"):
        page.keyboard.press("n")
        page.keyboard.press("Enter")
    page.keyboard.press("z")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".structures .name")).to_have_count(2)
    goes_on.set()
    expect(page.locator(".structures .name")).to_have_count(1)  # what was done last is taken back first
    changes(page, 1)
    assert page.locator(".alert").count() == 0
    pressed(page, "y")
    expect(page.locator(".go")).to_contain_text("All changes are applied")


def test_structures_that_were_not_reached_wait_for_the_next_time(
    person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was clicked in another plane is tracked by itself, after the first."""
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    pressed(page, "n")
    pressed(page, "Enter")
    expect(page.locator(".structures .name")).to_have_count(2)
    t, y, x = PLANES["coronal"].project(case.voxel(2), case.volume.shape, case.code)
    page.locator(".view.coronal input[type=range]").fill(str(int(t)))
    expect(page.locator(".view.coronal .counter")).to_contain_text(f"J {int(t)} ")
    page.get_by_role("radio", name="Box", exact=True).click()
    person.drag("coronal", ((y - 2, x - 2), (y + 2, x + 2)), (16, 11), SPACING)
    changes(page, 2)
    goes_on = hold_tracking(monkeypatch, 3)
    page.keyboard.press("t")
    expect(page.locator(".go")).to_contain_text(re.compile(r"\b[2-6] of"))
    with page.expect_response(lambda answer: answer.request.method != "GET"):
        page.get_by_role("button", name="Stop and keep").click()
    goes_on.set()
    expect(page.locator(".go")).to_contain_text("stopped after")
    changes(page, 1)
    kept = np.array([labels(person, t) for t in range(16)])
    volumes = page.locator(".structures .ml")
    expect(volumes.nth(0)).to_contain_text("mL")
    expect(volumes.nth(1)).to_have_text("this slice")
    tracked(person)
    expect(volumes.nth(1)).to_contain_text("mL")
    assert np.array([labels(person, t) for t in range(16)])[kept].all()


def test_slices_are_counted_as_the_command_line_counts_them(person: Person, tmp_path: Path) -> None:
    """From 0, along an axis of the file, that may be another one than the views' order has it, and run the other way."""
    case, page = phantom("IRA"), person.page
    page.locator("#files").set_input_files(saved(case, tmp_path / "image.nii.gz"))
    expect(page.locator(".view.axial .counter")).to_have_text("I 7 of 0–15")
    expect(page.locator(".view.axial input[type=range]")).to_have_attribute("aria-valuetext", "7 of 0 to 15")
    person.view("axial").focus()
    pressed(page, "PageUp")
    expect(page.locator(".view.axial .counter")).to_have_text("I 6 of 0–15")
    pressed(page, "PageDown")
    clicked(person, case)
    expect(page.get_by_label("Slices of").locator("option").first).to_have_text("axial I")
    page.get_by_label("From slice").fill("4")
    page.get_by_label("To slice").fill("9")
    page.get_by_role("button", name="Limit", exact=True).click()
    changes(page, 2)
    assert [page.get_by_label(f"{end} slice").input_value() for end in ("From", "To")] == ["4", "9"]
    text = page.evaluate("async () => (await (await fetch('api/sessions/' + location.hash.slice(1) + '/options')).json()).text")
    assert "--slices 1:4 9" in text
    tracked(person)
    found = page.locator(".look .line").first
    plane, axis, number = found.locator("span").inner_text().split()
    found.click()
    expect(page.locator(f".view.{plane} .counter")).to_have_text(re.compile(rf"^{axis} {number} of 0–\d+$"))
    pressed(page, "c")
    person.drag("axial", ((4, 3), (9, 8)), SHAPE, SPACING)
    first, last = (int(page.get_by_label(f"{end} axial slice").input_value()) for end in ("First", "Last"))
    assert first < last
    page.get_by_label("Last axial slice").fill("9")
    page.get_by_label("First axial slice").fill("3")
    page.get_by_label("First axial slice").blur()
    page.get_by_role("button", name="Use this box").click()
    page.wait_for_function("() => !Number(document.querySelector('.view.axial').dataset.pending)")
    assert state(page)["said"][-1]["frames"] == [15 - 9, 15 - 3]


@pytest.mark.parametrize(("parts", "kept"), [("1 small part", "it"), ("2 small parts", "them")])
def test_a_warning_goes_with_what_it_speaks_of_and_is_in_the_page_s_words(
    person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: str, kept: str
) -> None:
    told = [f"object 1 lost {parts} in its box (5 voxels) on slices 7 to 9 of axis k; `islands` keeps {kept}"]
    monkeypatch.setattr(volume_tracker, "remove_islands", lambda *_: list(told))
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    tracked(person)
    words = f"structure 1 lost {parts} in its box (5 voxels) on slices K 7 to 9; a click inside a part keeps it"
    warnings, status = page.locator(".go .warn"), page.get_by_role("status").first
    expect(warnings).to_have_text(words)
    expect(status).to_have_text(words)
    page.reload()
    expect(warnings).to_have_text(words)
    told.clear()
    clicked(person, case)  # something is said of it: the warning may be true no more
    expect(warnings).to_have_count(0)
    expect(status).to_have_text("")
    pressed(page, "z")
    expect(warnings).to_have_text(words)
    clicked(person, case)
    changes(page, 1)
    tracked(person)  # anew
    expect(warnings).to_have_count(0)
    expect(status).to_have_text("Applied.")
    pressed(page, "z", 3)
    expect(warnings).to_have_count(0)  # a state without it
    expect(status).to_have_text("")

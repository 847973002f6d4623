"""Where a look is worth most: rows that are made up, each with one thing that is wrong."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from medical_sam2.server.rendering import suggest_session_reviews, views_disagree
from medical_sam2.server.segmentation import SessionResult, SessionVolume
from medical_sam2.tracking.confidence import ReviewSuggestion, expect_wrong, suggest_reviews
from medical_sam2.volume import SliceConfidence
from tests.phantoms import phantom
from tests.server.browsing import Person
from tests.server.conftest import Served, saved
from tests.server.test_page_gestures import clicked, opened

IMAGE = SessionVolume(phantom("LPS").volume)
SIZES = {"axial": 143, "coronal": 176, "sagittal": 208, "image": 2400}


def rows(label: int, areas: list[int], sure: dict[int, float], plane: str = "axial") -> list[SliceConfidence]:
    """A structure that is prompted on slice 5."""
    return [SliceConfidence(label, plane, t, sure.get(t, 0.95), area, t == 5, t in sure) for t, area in enumerate(areas)]


def suggested(
    found: list[SliceConfidence], image: SessionVolume | None = IMAGE, doubt: int | None = None
) -> list[ReviewSuggestion]:
    labels = np.ones(IMAGE.volume.shape, np.uint8)
    uncertainty = None if doubt is None else (np.full_like(labels, doubt),)
    result = SessionResult((labels,), tuple(found), uncertainty)
    return suggest_reviews(found, SIZES, {1, 2}, partial(views_disagree, result, image) if image else None)


def test_the_outline_that_is_off_the_most_comes_first_whoever_is_least_sure() -> None:
    found = suggested([*rows(1, [20] * 12, {9: 0.2}), *rows(2, [60] * 12, {1: 0.3})])
    assert [(each.row.object, each.row.slice, each.reason) for each in found[:2]] == [(2, 1, "unsure"), (1, 9, "unsure")]
    assert found[0].gain_px == round(60 * (expect_wrong(0.3, 1) + 3 * expect_wrong(0.95, 1))), "0, 2, 3 are mended with it"
    assert all(each.row.slice not in {0, 2, 3, 5} for each in found if each.row.object == 2), "what is mended, or prompted"


def test_what_grew_suddenly_is_told() -> None:
    (first, *_) = suggested(rows(1, [20, 20, 20, 20, 20, 20, 20, 20, 65, 20, 20, 20], {8: 0.94}))
    assert (first.row.slice, first.reason) == (8, "grew suddenly")
    assert first.gain_px >= 65 - 20


def test_views_that_disagree_are_told_only_where_there_are_several() -> None:
    one = rows(1, [60] * 12, {9: 0.2})
    assert suggested([*one, *rows(1, [60] * 12, {}, "coronal")], doubt=200)[0].reason == "views disagree"
    assert suggested([*one, *rows(1, [60] * 12, {}, "coronal")], doubt=10)[0].reason == "unsure"
    assert suggested(one, doubt=200)[0].reason == "unsure"


def test_images_are_no_neighbours() -> None:
    found = suggested(rows(1, [100] * 12, {8: 0.2, 9: 0.3}, "image"), None)
    assert [each.row.slice for each in found[:2]] == [8, 9]
    assert found[0].gain_px == round(expect_wrong(0.2, 100)) == 67, "voxels that are wrong where the Dice is 1/3"


def test_large_slices_do_not_hide_those_that_are_wrong() -> None:
    """Four times as many voxels are expected to be wrong on the large slice; on the small one next to nothing is right."""
    found = suggested([*rows(1, [400] * 12, {}), *rows(2, [9] * 12, {9: 0.02})])
    assert (found[0].row.object, found[0].row.slice) == (2, 9)
    assert found[0].gain_px < max(each.gain_px for each in found if each.row.object == 1)


@pytest.mark.usefixtures("inline")
def test_the_page_has_the_order_of_what_is_suggested(person: Person, tmp_path: Path) -> None:
    """The slice that is wrong for the most part before one where a correction mends more voxels."""
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    told = [
        {
            "label": 1,
            "plane": "axial",
            "t": t,
            "sure": 0.5,
            "area": 9,
            "said": False,
            "look": False,
            "rank": rank,
            "gain": gain,
            "why": "unsure",
        }
        for t, rank, gain in [(3, 2, 50), (4, 0, 5), (5, 1, 90), *((t, t, 500 - t) for t in range(6, 13))]
    ]
    page.route("**/rows", lambda route: route.fulfill(json=told))
    page.keyboard.press("t")
    expect(page.locator(".look button span").first).to_have_text("axial K 4")
    expect(page.locator(".look button small").first).to_have_text("structure 1 · 50 % sure")
    name = page.locator(".structures .name")
    name.fill("aorta")
    name.press("Enter")
    expect(page.locator(".look button small").first).to_have_text("aorta · 50 % sure")
    assert page.locator(".look button span").all_inner_texts() == [f"axial K {t}" for t in (4, 5, 3, 6, 7, 8, 9, 10)]


def test_rows_tell_the_place_among_what_is_suggested(tmp_path: Path, served: Served) -> None:
    id = served.upload(saved(phantom("LPS"), tmp_path / "image.nii.gz"))
    served.post(f"sessions/{id}/structures", version=0, name="")
    click = {"label": 1, "plane": "axial", "t": 8, "kind": "points", "points": [[6, 5]], "positive": [True]}
    served.post(f"sessions/{id}/say", version=1, **click)
    served.post(f"sessions/{id}/track", version=2, views="three")
    place = served.store.get(id)
    assert place.job
    place.job.wait(30)
    ranked = [each.row.key for each in suggest_session_reviews(place.image, place.history.state, place.result())]
    rows = served.http.get(f"/api/sessions/{id}/rows").json()
    advised = sorted((row for row in rows if "why" in row), key=lambda row: row["rank"])
    assert [(row["label"], row["plane"], row["t"]) for row in advised] == ranked
    assert len(ranked) > 1


@pytest.mark.usefixtures("inline")
def test_the_page_lists_them_and_leads_there(person: Person, tmp_path: Path) -> None:
    case, page = opened(person, tmp_path), person.page
    clicked(person, case)
    page.keyboard.press("t")
    first = page.locator(".look button").first
    expect(first).to_contain_text("structure 1 · ")
    expect(first.locator("small")).to_have_attribute("title", re.compile(r"may mend about \d+ voxels"))
    page.keyboard.press("l")
    assert page.evaluate("() => document.querySelector('.look button span').textContent") == (
        "axial " + (page.locator(".view.axial .counter").text_content() or "").split(" of ")[0]
    )


@pytest.mark.usefixtures("inline")
def test_review_next_goes_through_all_of_them(person: Person, tmp_path: Path) -> None:
    """Also where two structures share a slice, and through other planes."""
    page, case = person.page, opened(person, tmp_path)
    clicked(person, case)
    page.keyboard.press("n")
    page.keyboard.press("Enter")
    expect(page.locator(".structures .name")).to_have_count(2)
    found = [(1, "axial", 4), (2, "axial", 4), (1, "coronal", 6), (2, "sagittal", 6), (1, "axial", 9)]
    row = {"sure": 0.5, "area": 9, "said": False, "look": True, "gain": 5, "why": "unsure"}
    told = [row | {"label": label, "plane": plane, "t": t, "rank": rank} for rank, (label, plane, t) in enumerate(found)]
    page.route("**/rows", lambda route: route.fulfill(json=told))
    page.keyboard.press("t")
    expect(page.locator(".look button")).to_have_count(len(found))
    for label, plane, t in (*found, found[0]):
        page.keyboard.press("l")
        expect(page.locator(f".view.{plane} input[type=range]")).to_have_value(str(t))
        expect(page.locator(".structures li.active")).to_have_attribute("data-label", str(label))
    page.locator(".look button").nth(2).click()
    page.keyboard.press("l")
    expect(page.locator(".view.sagittal input[type=range]")).to_have_value("6")
    expect(page.locator(".structures li.active")).to_have_attribute("data-label", "2")

"""How an image is opened at the page: ways to read it, in the page's words; no session that nobody sees; one that is gone."""

import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.security import ServerSettings
from tests.phantoms import phantom, segmenter
from tests.server.browsing import Person, running
from tests.server.conftest import saved
from tests.server.test_page_gestures import clicked, hold, pressed

inline = pytest.mark.usefixtures("inline")  # which tells no choices


def kept(folder: Path) -> int:
    """How many sessions the server keeps, seen or not."""
    return len([each for each in (folder / "state").iterdir() if len(each.name) == 32])


def moving(folder: Path) -> Path:
    """The phantom at three time points, as a NIfTI file."""
    case = phantom("LPS")
    frames = np.stack([np.asarray(case.volume.array, float) * (t + 1) for t in range(3)], -1)
    nib.Nifti1Image(frames, case.volume.affine).to_filename(folder / "moving.nii.gz")
    return folder / "moving.nii.gz"


def listed(page: Page) -> Any:
    return page.evaluate("async () => (await fetch('api/sessions')).json()")


def test_a_wrong_time_point_leaves_the_choice(person: Person, tmp_path: Path) -> None:
    page, question = person.page, person.page.get_by_role("status")
    page.locator("#files").set_input_files(moving(tmp_path))
    number = page.get_by_label("Time point")
    expect(number).to_have_attribute("max", "2")
    assert (number.get_attribute("min"), number.input_value()) == ("0", "0")
    expect(page.locator(".choices li")).to_have_text("0 (first) to 2 (last)")
    expect(question).to_have_text("moving.nii.gz: the image has 3 time points (frames); choose one")
    assert not number.evaluate("input => { input.value = '7'; return input.checkValidity() }")
    number.evaluate("input => input.removeAttribute('max')")
    page.get_by_role("button", name="Open", exact=True).click()
    expect(page.locator(".alert")).to_contain_text("there is no frame 7 among 3; use 0 to 2")
    expect(question).to_contain_text("choose one")
    number.fill("1")
    number.press("Enter")
    person.wait("axial")
    assert (kept(tmp_path), len(listed(page))) == (1, 1)
    person.problems.clear()  # the browser tells of the refused requests


def test_time_points_are_told_apart(person: Person, tmp_path: Path) -> None:
    page, case = person.page, phantom("LPS")
    for t in "21":
        if t == "1":
            page.get_by_role("button", name="Medical SAM 2").click()
        page.locator("#files").set_input_files(moving(tmp_path))
        page.get_by_label("Time point", exact=True).fill(t)
        page.get_by_label("Time point", exact=True).press("Enter")
        expect(page).to_have_title(re.compile(rf"^moving\.nii\.gz · time point {t} · "))
    person.wait("axial")
    clicked(person, case)
    pressed(page, "t")
    with page.expect_download() as download:
        page.get_by_role("link", name="NIfTI").click()
    assert download.value.suggested_filename == "moving_t1_labels.nii.gz"
    page.evaluate(
        "Object.defineProperty(navigator, 'clipboard', { value: { writeText: async text => { window.said = text } } })"
    )
    page.get_by_role("button", name="Copy as options").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("window.said").startswith("medsam2 segment 'moving.nii.gz' --frame 1 --point")
    page.get_by_role("button", name="Medical SAM 2").click()
    expect(page.locator("section li .line > span")).to_contain_text(["time point 1", "time point 2"])
    person.problems.clear()


def test_whoever_opens_another_image_in_place_of_choosing_leaves_nothing_behind(person: Person, tmp_path: Path) -> None:
    page = person.page
    page.locator("#files").set_input_files(moving(tmp_path))
    expect(page.get_by_label("Time point")).to_be_visible()
    page.locator("#files").set_input_files(saved(phantom("LPS"), tmp_path / "still.nii.gz"))
    person.wait("axial")
    assert kept(tmp_path) == 1
    person.problems.clear()


def test_of_a_tiff_of_several_pages_one_is_opened(person: Person, tmp_path: Path) -> None:
    page, pages = person.page, [Image.fromarray(np.full((40, 60), grey, np.uint8)) for grey in (60, 120, 180)]
    pages[1].putpixel((7, 3), 5)
    pages[0].save(tmp_path / "cells.tif", save_all=True, append_images=pages[1:])
    page.locator("#files").set_input_files(tmp_path / "cells.tif")
    number = page.get_by_label("Page")
    expect(page.locator(".choices li")).to_have_text("0 (first page) to 2 (last page)")
    expect(page.get_by_role("status")).to_have_text("cells.tif: it holds 3 pages; choose one")
    assert "--" not in page.locator(".start").inner_text()
    number.fill("1")
    number.press("Enter")
    person.wait("image")
    expect(page.locator(".bar .size")).to_contain_text("· 1 image")
    expect(page.locator(".bar .size")).not_to_contain_text("images")
    expect(page.locator(".view.image .readout")).to_contain_text("X 0  Y 0  ·  120")
    page.get_by_role("button", name="Medical SAM 2").click()
    expect(page.locator("section li .line small")).to_contain_text("1 image ·")
    person.problems.clear()


@inline
@pytest.mark.parametrize(
    ("error", "choices", "told"),
    [
        (
            "sform and qform contradict each other (axes RAS and LPS); choose one",
            ["--geometry-from sform (RAS)", "--geometry-from qform (LPS)"],
            "ct.nii.gz: sform and qform contradict each other (axes RAS and LPS); the page cannot choose, the command line can",
        ),
        (
            "3 slices are missing; give the missing files, or fill the gap by interpolation with --allow-gap",
            [],
            "ct.nii.gz: 3 slices are missing; give the missing files",
        ),
    ],
)
def test_what_the_page_has_no_field_for_is_not_offered(
    person: Person, tmp_path: Path, error: str, choices: list[str], told: str
) -> None:
    page = person.page
    page.route("**/open", lambda route: route.fulfill(status=422, json={"error": error, "choices": choices}))
    page.locator("#files").set_input_files(saved(phantom("LPS"), tmp_path / "ct.nii.gz"))
    expect(page.locator(".alert span")).to_have_text(told)
    expect(page.locator("#which")).to_have_count(0)
    assert kept(tmp_path) == 0
    person.problems.clear()


@inline
def test_what_its_reader_noticed_is_told_without_options(person: Person, tmp_path: Path) -> None:
    page = person.page
    noticed = [
        "sform and qform lie up to 3 mm apart; the sform is used (--geometry-from qform takes the other)",
        "left out: --series 2 (CT localizer, 1 image)",
    ]

    def answer(route: Route) -> None:
        opened = route.fetch()
        route.fulfill(response=opened, json=opened.json() | {"warnings": noticed})

    page.route("**/open", answer)
    page.locator("#files").set_input_files(saved(phantom("LPS"), tmp_path / "ct.nii.gz"))
    person.wait("axial")
    expect(page.locator(".bar .warning")).to_have_text(
        ["sform and qform lie up to 3 mm apart; the sform is used", "left out: series 2 (CT localizer, 1 image)"]
    )


@inline
def test_a_series_is_chosen_and_then_its_time_point(person: Person, tmp_path: Path) -> None:
    page, asked = person.page, list[Any]()
    answers = [
        {
            "error": "the folder holds 2 series; choose one",
            "choices": ["--series 1 (CT, 3 images)", "--series 2 (MR, 4 images)"],
        },
        {"error": "the series has 3 time points; choose one", "choices": ["--frame 0 (first) to --frame 2 (last)"]},
        {"error": "nothing of it", "choices": []},
    ]

    def answer(route: Route) -> None:
        asked.append(route.request.post_data_json)
        route.fulfill(status=422, json=answers[len(asked) - 1])

    page.route("**/open", answer)
    page.locator("#files").set_input_files(saved(phantom("LPS"), tmp_path / "ct.nii.gz"))
    expect(page.locator(".choices li")).to_have_text(["1 (CT, 3 images)", "2 (MR, 4 images)"])
    page.get_by_label("Series").fill("2")
    page.get_by_label("Series").press("Enter")
    page.get_by_label("Time point").fill("1")
    page.get_by_label("Time point").press("Enter")
    expect(page.locator(".alert")).to_contain_text("nothing of it")
    assert asked == [{}, {"series": 2}, {"series": 2, "frame": 1}]
    person.problems.clear()


@inline
def test_a_second_drop_waits_its_turn_and_leaves_nothing_behind(person: Person, tmp_path: Path) -> None:
    page, paths = person.page, [saved(phantom("LPS"), tmp_path / f"{name}.nii.gz") for name in ("first", "second")]
    held = hold(page, "**/files?suffix=*")
    page.locator("#files").set_input_files(paths[0])
    expect(page.get_by_role("status")).to_contain_text("Copying 1 file")
    page.locator("#files").set_input_files(paths[1])
    expect(page.locator(".alert")).to_contain_text("Another image is being opened; wait until it is there.")
    page.wait_for_timeout(200)
    for route in held:
        route.continue_()
    person.wait("axial")
    expect(page.locator(".bar .size")).to_contain_text("first.nii.gz")
    assert (len(held), kept(tmp_path)) == (1, 1)


@inline
def test_an_upload_that_breaks_off_leaves_nothing_behind(person: Person, tmp_path: Path) -> None:
    page = person.page
    page.route("**/files?suffix=*", lambda route: route.abort())
    page.locator("#files").set_input_files(saved(phantom("LPS"), tmp_path / "ct.nii.gz"))
    expect(page.locator(".alert")).to_contain_text("The upload broke off.")
    assert kept(tmp_path) == 0
    person.problems.clear()


@inline
def test_a_double_click_opens_once(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    saved(phantom("LPS"), tmp_path / "library" / "ct.nii.gz")
    saved(phantom("LPS"), tmp_path / "library" / "mr.nii.gz")
    settings = ServerSettings(tmp_path / "state", library=tmp_path / "library", token="t" * 32)
    with running(settings, InferenceQueue(segmenter)) as settings:
        person = Person.at(browser, settings)
        page = person.page
        page.get_by_role("button", name="ct.nii.gz").dblclick()
        person.wait("axial")
        page.wait_for_timeout(300)
        assert (kept(tmp_path), page.locator(".alert").count()) == (1, 0)
        page.get_by_role("button", name="Medical SAM 2").click()
        page.locator("section li .line", has_text="nothing outlined yet").dblclick()
        person.wait("axial")
        page.wait_for_timeout(300)
        page.keyboard.press("n")  # heard by one session alone
        expect(page.get_by_label("Name of the new structure")).to_have_count(1)
        page.keyboard.press("Enter")
        expect(page.locator(".structures .name")).to_have_count(1)
        assert person.problems == []
        page.context.close()


@inline
def test_images_of_the_folder_that_is_served_are_told_by_their_names(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    for name in "acd":
        Image.fromarray(np.full((20, 30), 80, np.uint8)).save(tmp_path / "library" / f"{name}.png")
    (tmp_path / "library" / "b.png").write_bytes(b"broken")
    settings = ServerSettings(tmp_path / "state", library=tmp_path / "library", token="t" * 32)
    with running(settings, InferenceQueue(segmenter)) as settings:
        person = Person.at(browser, settings)
        page = person.page
        page.get_by_role("button", name="all images of this folder").click()
        for _ in range(2):
            expect(page.locator(".bar .warning")).to_contain_text("1 of 4 files left out: b.png (")
            page.get_by_role("button", name="Image 2", exact=True).click()
            expect(page.locator(".view.image .counter")).to_have_text("2 / 3 · c.png")
            page.reload()
        page.context.close()


@inline
def test_the_address_of_a_session_that_is_gone_says_so(person: Person) -> None:
    person.page.evaluate("location.hash = 'f'.repeat(32)")
    expect(person.page.locator(".alert")).to_contain_text("The session of this address is gone")
    expect(person.page.locator(".start")).to_be_visible()
    person.problems.clear()  # the browser tells of what is not there


@inline
def test_fields_for_files_that_are_not_seen_are_not_tabbed_to(person: Person, tmp_path: Path) -> None:
    page = person.page
    page.locator("#files").set_input_files(saved(phantom("LPS"), tmp_path / "ct.nii.gz"))
    person.wait("axial")
    tabs = page.locator("input[type=file]").evaluate_all("fields => fields.map((each) => each.tabIndex)")
    assert tabs == [-1, -1]
    for button in ("Load an earlier segmentation", "Overlay"):
        with page.expect_file_chooser():
            page.get_by_role("button", name=button).press("Enter")

"""What comes to the page: DICOM series and sets of images as volumes are; how they are shown at first, and what leaves it."""

import re
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from medical_sam2 import io
from medical_sam2.intensity_window import CT_WINDOWS, Window, percentile_window
from medical_sam2.prompts import FramePrompt, Point
from medical_sam2.tracking.plan import PLANES
from tests.io.making import CANARY, Series
from tests.phantoms import phantom, segmenter
from tests.server.browsing import Person
from tests.server.conftest import saved
from tests.server.test_page_gestures import SHAPE, SPACING, changes, pressed
from tests.test_intensity_window import ct

pytestmark = pytest.mark.usefixtures("inline")


def downloaded(page: Page, link: str) -> tuple[Path, str]:
    """The file that a link of the page leads to, and what it is called."""
    with page.expect_download() as download:
        page.get_by_role("link", name=link, exact=True).click()
    return Path(download.value.path()), download.value.suggested_filename


def tracked(page: Page) -> None:
    pressed(page, "t")
    expect(page.locator(".go")).to_contain_text("All changes are applied")


def test_a_dicom_series(person: Person, tmp_path: Path) -> None:
    spacing, page = (1.5, 1.25, 3.0), person.page
    folder = tmp_path / "chest 7"
    case = phantom("RAS", spacing_mm=spacing)
    Series(case.volume.affine, np.rint(200 * np.asarray(case.volume.array, float)).astype(np.int16)).write(folder)
    page.locator("#folder").set_input_files(folder)
    expect(page.locator(".view.axial .counter")).to_have_text("K 8 of 0–15")
    person.wait("axial")
    assert CANARY not in page.content()
    expect(page).to_have_title(re.compile(r"^chest 7 · "))
    source = io.load(folder)
    mm = case.volume.affine @ [*case.voxel(1), 1]
    i, j, k = (round(place) for place in source.to_voxel((mm[0], mm[1], mm[2])))
    t, y, x = PLANES["axial"].project((i, j, k), source.shape, source.orientation)
    page.locator(".view.axial input[type=range]").fill(str(int(t)))
    person.click("axial", (y, x), SHAPE, (spacing[1], spacing[0]))
    changes(page, 1)
    tracked(page)
    expected = segmenter().segment_volume(source, [Point((i, j, k))]).labels
    there = PLANES["axial"].apply(expected, source.orientation)[int(t)] > 0
    assert there.any()
    person.sees("axial", tmp_path, there, (spacing[1], spacing[0]))
    for link, name in (("DICOM-SEG", "chest 7_labels.dcm"), ("RTSTRUCT", "chest 7_labels.rtstruct.dcm")):
        path, called = downloaded(page, link)
        assert called == name
        assert (io.load_labels(path, source).array == expected).all()
    page.get_by_role("button", name="Medical SAM 2").click()
    page.locator("#files").set_input_files(sorted(folder.iterdir()))
    expect(page).to_have_title(re.compile(rf"^[A-Z]+ series of {source.shape[2]} slices · "))
    assert not any("chest" in url for url in person.asked)


def test_of_a_series_without_identifiers_no_dicom_files_are_offered_and_it_is_said_why(person: Person, tmp_path: Path) -> None:
    page, case, folder = person.page, phantom("RAS", spacing_mm=(1.5, 1.25, 3.0)), tmp_path / "series"
    array = np.rint(200 * np.asarray(case.volume.array, float)).astype(np.int16)
    Series(case.volume.affine, array).write(folder, StudyInstanceUID=None)
    page.locator("#folder").set_input_files(folder)
    person.wait("axial")
    person.click("axial", (6, 5), SHAPE, (1.25, 1.5))
    changes(page, 1)
    tracked(page)
    expect(page.get_by_role("link", name="NIfTI", exact=True)).to_be_visible()
    for link in ("DICOM-SEG", "RTSTRUCT"):
        expect(page.get_by_role("link", name=link, exact=True)).to_have_count(0)
    expect(page.get_by_text("No DICOM-SEG, no RTSTRUCT: its files lack StudyInstanceUID.", exact=True)).to_be_visible()


def test_a_download_that_is_refused_says_why(person: Person, tmp_path: Path) -> None:
    """The folder of a series is gone, or its disk full: a browser alone would say nothing."""
    page = person.page
    page.locator("#files").set_input_files(saved(phantom("LPS"), tmp_path / "ct.nii.gz"))
    person.wait("axial")
    person.click("axial", (6, 5), SHAPE, SPACING)
    changes(page, 1)
    tracked(page)
    for decoded in (tmp_path / "state").glob("*/source/*"):
        decoded.write_bytes(b"nothing of an image")
    page.get_by_role("link", name="NIfTI", exact=True).click()
    expect(page.locator(".alert")).to_contain_text("format")
    person.problems.clear()  # the browser tells of the refused request


def test_a_set_of_images_is_outlined_as_the_command_line_does(person: Person, tmp_path: Path) -> None:
    page, rng, files, arrays = person.page, np.random.default_rng(0), list[Path](), list[np.ndarray[Any, Any]]()
    for number in range(3):
        picture = rng.integers(40, 60, (40, 60)).astype(np.uint8)
        picture[10:24, 5 + 8 * number : 20 + 8 * number] = 200
        files.append(tmp_path / f"{number}.png")
        arrays.append(picture)
        Image.fromarray(picture).save(files[-1])
    page.locator("#files").set_input_files(files)
    expect(page.locator(".tile")).to_have_count(3)
    person.wait("image")
    person.click("image", (16, 12), (40, 60), (1, 1))
    expect(page.locator(".go")).to_contain_text("1 change")
    said = page.evaluate("async () => (await (await fetch('api/sessions/' + location.hash.slice(1))).json()).state.said[0]")
    tracked(page)
    path, called = downloaded(page, "Label images")
    assert called == "labels.zip"
    (y, x), prompts = said["points"][0], FramePrompt.click
    found = {each.index: each.labels for each in segmenter().segment_images(arrays, {0: {1: prompts(x, y)}})}
    with zipfile.ZipFile(BytesIO(path.read_bytes())) as archive:
        for number in range(3):
            with archive.open(f"{number + 1:05d}.png") as stream:
                assert (np.asarray(Image.open(stream)) == found[number]).all()
    pressed(page, "z", 2)
    expect(page.locator(".go")).to_contain_text("Nothing to apply yet")


def test_downloads_are_called_after_the_source_and_the_server_never_hears_it(person: Person, tmp_path: Path) -> None:
    case, page = phantom("LPS"), person.page
    page.locator("#files").set_input_files(saved(case, tmp_path / "Anna B.ct.1.nii.gz"))
    person.wait("axial")
    person.click("axial", (6, 5), SHAPE, SPACING)
    changes(page, 1)
    tracked(page)
    page.reload()
    names = {link: downloaded(page, link)[1] for link in ("NIfTI", "3D Slicer", "Volumes (CSV)")}
    assert names == {
        "NIfTI": "Anna B.ct.1_labels.nii.gz",
        "3D Slicer": "Anna B.ct.1_labels.seg.nrrd",
        "Volumes (CSV)": "Anna B.ct.1_volumes.csv",
    }
    assert not any("Anna" in url for url in person.asked)


@pytest.mark.parametrize("hounsfield", [True, False])
def test_a_volume_is_hung_by_its_modality(person: Person, tmp_path: Path, hounsfield: bool) -> None:
    """A CT through soft tissue, anything else through percentiles, as the network sees them: in pixels of the screen."""
    case, page = phantom("LPS"), person.page
    array = ct() if hounsfield else case.volume.array
    volume = replace(case.volume, array=array)
    page.locator("#files").set_input_files(saved(replace(case, volume=volume), tmp_path / "image.nii.gz"))
    t = array.shape[2] // 2
    expect(page.locator(".view.axial .counter")).to_have_text(f"K {t} of 0–{array.shape[2] - 1}")
    person.wait("axial")
    auto = page.get_by_role("button", name="auto: soft" if hounsfield else "auto: percentiles 0.5 to 99.5", exact=True)
    expect(auto).to_have_attribute("aria-pressed", "true")
    level, width = CT_WINDOWS["soft"]
    assert grey(person, array[..., t]) == pytest.approx(
        shade(array[..., t], Window(level - width / 2, level + width / 2) if hounsfield else percentile_window(array)), abs=1
    )
    assert page.get_by_role("button", name="lung", exact=True).count() == hounsfield
    if hounsfield:
        page.get_by_role("button", name="lung", exact=True).click()
        expect(auto).to_have_attribute("aria-pressed", "false")
        level, width = CT_WINDOWS["lung"]
        lung = Window(level - width / 2, level + width / 2)
        assert grey(person, array[..., t]) == pytest.approx(shade(array[..., t], lung), abs=1)


def shade(slice_xy: np.ndarray[Any, Any], window: Window) -> list[float]:
    """Grey of some voxels of an axial slice."""
    return [255 * float(value) for value in window.apply(slice_xy[2:9:3, 3])]


def grey(person: Person, slice_xy: np.ndarray[Any, Any]) -> list[int]:
    """The same on the screen."""
    box, canvas = person.view("axial").bounding_box(), person.view("axial").element_handle()
    assert box is not None
    shape = slice_xy.shape[1], slice_xy.shape[0]
    spots = [person.place("axial", (3, x), shape, SPACING) for x in range(2, 9, 3)]
    look = "(canvas, [x, y]) => canvas.getContext('2d').getImageData(x, y, 1, 1).data[0]"
    return [canvas.evaluate(look, [round(x - box["x"]) + 3, round(y - box["y"]) + 3]) for x, y in spots]

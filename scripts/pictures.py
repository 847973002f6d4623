"""Make the pictures of the page in docs/pictures: the phantom of examples/, the embedded weights, a browser without a screen.

PYTHONPATH=. python scripts/pictures.py out/pictures
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect
from scipy.ndimage import gaussian_filter

from examples import phantom
from medical_sam2.segmenter import Segmenter
from medical_sam2.server.app import address
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.security import ServerSettings
from tests.server.browsing import chromium, running

PATIENCE_MS = 600_000
expect.set_options(timeout=PATIENCE_MS)
SIZE = {"width": 1360, "height": 860}
LIVER, SPLEEN = (63, 70), (143, 92)  # column and row on the middle axial slice
COLUMNS, ROWS = phantom.SHAPE_IJK[:2]


def tracer(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """What a tracer would show of the phantom: liver and spleen a little, a spot in the liver much; coarse, in its own grid."""
    spot = np.zeros(phantom.SHAPE_IJK)
    i, j, k = np.indices(phantom.SHAPE_IJK)
    spot[((i - 58) / 6) ** 2 + ((j - 64) / 6) ** 2 + ((k - 18) / 3) ** 2 <= 1] = 12
    array = np.asarray(image.dataobj)
    spot += 2.0 * ((array > 90) & (array < 140)) + 0.4 * (array > -120)
    coarse = gaussian_filter(spot, (2.5, 2.5, 1))[::3, ::3].astype(np.float32)
    return nib.Nifti1Image(coarse, image.affine @ np.diag([3.0, 3.0, 1.0, 1.0]))


def place(page: Page, column: float, row: float, view: str = "axial") -> tuple[float, float]:
    """Where a column and row of the axial slice, or of an image of one, are on the page; its pixels are squares."""
    box = page.locator(f".view.{view} .stage canvas").bounding_box()
    assert box is not None
    fit = min(box["width"] / COLUMNS, box["height"] / ROWS)
    left, top = (box["width"] - COLUMNS * fit) / 2, (box["height"] - ROWS * fit) / 2
    return box["x"] + left + (column + 0.5) * fit, box["y"] + top + (row + 0.5) * fit


def outline(page: Page, name: str, spot: tuple[float, float]) -> None:
    """A new structure, from a click."""
    count = page.locator(".structures .name").count()
    page.get_by_role("button", name="New structure (N)").click()
    expect(page.locator(".structures .name")).to_have_count(count + 1)
    page.locator(".structures .name").last.fill(name)
    page.locator(".structures .name").last.press("Enter")
    page.mouse.click(*place(page, *spot))
    expect(page.locator(".view.axial")).to_have_attribute("data-pending", "0")


def take(page: Page, folder: Path, name: str) -> None:
    page.mouse.move(4, 4)
    page.wait_for_timeout(1500)
    page.screenshot(path=folder / f"{name}.png")


def take_all(page: Page, files: Path, folder: Path) -> None:
    """The states, one after the other."""
    take(page, folder, "start")
    page.locator("#files").set_input_files(files / "phantom.nii.gz")
    expect(page.locator(".view.solid")).to_have_attribute("data-ready", "true")
    outline(page, "liver", LIVER)
    outline(page, "spleen", SPLEEN)
    page.locator(".view.axial .stage canvas").press("t")
    expect(page.locator(".go")).to_contain_text("All changes are applied")
    take(page, folder, "viewer")
    page.get_by_role("button", name="More of liver").click()
    page.get_by_label("Filled").uncheck()
    take(page, folder, "structures")
    page.get_by_role("button", name="Close", exact=True).click()
    page.get_by_role("button", name="Statistics").click()
    take(page, folder, "statistics")
    page.get_by_role("dialog", name="Statistics").get_by_role("button", name="Close").click()
    page.get_by_role("radio", name="Ruler").click()
    drag(page, *(place(page, *spot) for spot in ((40, 60), (100, 74))))
    page.get_by_role("radio", name="Region").click()
    turns = np.linspace(0, 2 * np.pi, 20)
    drag(page, *(place(page, 132 + 10 * np.cos(turn), 90 + 10 * np.sin(turn)) for turn in turns))
    take(page, folder, "measures")
    page.get_by_role("radio", name="Look").click()
    page.locator("#overlay").set_input_files(files / "tracer.nii.gz")
    page.get_by_role("button", name="Hot", exact=True).click()
    for name, number in (("Level", "6"), ("Width", "12")):
        page.get_by_label(f"{name} of the second image").fill(number)
        page.get_by_label(f"{name} of the second image").press("Enter")
    page.get_by_label("Opacity of the second image").fill("80")
    take(page, folder, "second_image")
    page.get_by_role("radio", name="Brush").click()
    take(page, folder, "brush")
    page.emulate_media(color_scheme="light")
    take(page, folder, "light")
    page.set_viewport_size({"width": 1024, "height": 700})
    take(page, folder, "small")


def drag(page: Page, *spots: tuple[float, float]) -> None:
    """Press at the first spot, move through the others, let go."""
    page.mouse.move(*spots[0])
    page.mouse.down()
    for spot in spots[1:]:
        page.mouse.move(*spot)
    page.mouse.up()


def take_set(page: Page, image: nib.Nifti1Image, files: Path, folder: Path) -> None:
    """Slices of the phantom as a set of images, of which the first is prompted."""
    array = np.asarray(image.dataobj)
    pictures = [files / f"{k}.png" for k in range(12, 26, 2)]
    for k, picture in zip(range(12, 26, 2), pictures, strict=True):
        Image.fromarray(np.uint8(np.clip((array[:, :, k].T + 160) / 400, 0, 1) * 255)).save(picture)
    page.locator("#files").set_input_files(pictures)
    expect(page.locator(".tile")).to_have_count(len(pictures))
    expect(page.locator(".view.image .stage canvas")).to_be_visible()
    page.wait_for_timeout(2000)  # until it is drawn
    page.mouse.click(*place(page, *LIVER, view="image"))
    expect(page.locator(".go")).to_contain_text("1 change")
    page.keyboard.press("t")
    expect(page.locator(".go")).to_contain_text("All changes are applied")
    take(page, folder, "set")


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as temporary:
        files = Path(temporary)
        image, _ = phantom.make()
        nib.save(image, files / "phantom.nii.gz")
        nib.save(tracer(image), files / "tracer.nii.gz")
        settings = ServerSettings(files / "state", token="t" * 32)
        with running(settings, InferenceQueue(Segmenter.from_pretrained)) as served, chromium(solid=True) as browser:
            page = browser.new_context(viewport=SIZE, color_scheme="dark").new_page()  # type: ignore[arg-type]
            page.set_default_timeout(PATIENCE_MS)
            page.goto(address(served))
            take_all(page, files, folder)
            page = browser.new_context(viewport=SIZE, color_scheme="dark").new_page()  # type: ignore[arg-type]
            page.set_default_timeout(PATIENCE_MS)
            page.goto(address(served))
            take_set(page, image, files, folder)


if __name__ == "__main__":
    main()

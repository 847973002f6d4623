"""The 3D view, drawn in software."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.security import ServerSettings
from tests.phantoms import phantom, segmenter
from tests.server.browsing import Person, chromium, running
from tests.server.conftest import saved

pytestmark = pytest.mark.usefixtures("inline")


def test_the_solid_view_shows_the_volume_and_the_outline(tmp_path: Path) -> None:
    case = phantom("LPS")
    with (
        running(ServerSettings(tmp_path / "state", token="t" * 32), InferenceQueue(segmenter)) as settings,
        chromium(solid=True) as browser,
    ):
        person = Person.at(browser, settings)
        person.page.locator("#files").set_input_files(saved(case, tmp_path / "image.nii.gz"))
        person.page.locator(".solid[data-ready]").wait_for()
        person.page.keyboard.press("Enter")
        expect(person.page.locator(".go")).to_contain_text("1 change")
        person.page.keyboard.press("t")
        expect(person.page.locator(".structures .ml")).to_contain_text("mL")
        for _ in range(100):
            person.view("solid").screenshot(path=tmp_path / "solid.png")
            seen = np.asarray(Image.open(tmp_path / "solid.png").convert("RGB"), int)
            blue = (seen[..., 2] - seen[..., 0] > 25).sum()
            if blue > 200:
                break
            person.page.wait_for_timeout(200)
        assert blue > 200
        assert person.problems == []

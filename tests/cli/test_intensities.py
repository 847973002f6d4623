"""Which intensities were seen, and who chose them, is told wherever a result is told; and the preview shows the same."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medical_sam2 import preview
from medical_sam2.cli import main
from medical_sam2.intensity_window import Window
from medical_sam2.volume import Segmentation
from tests.cli.conftest import A_MASK, CLICK, SHAPE, SetWorkspace, Workspace
from tests.test_intensity_window import ct, tissue

GUESSED = "a CT, guessed from its values"


def test_a_guess_is_told_by_info(workspace: Workspace) -> None:
    workspace.put("guess.nii.gz", ct())
    workspace.put("mr.nii.gz", (tissue(0) * 1000).astype(np.float32))
    for name, told in (("guess", f"-160 to 240 (soft: {GUESSED})"), ("mr", "percentiles 0.5 to 99.5")):
        workspace.shown()
        assert main(["info", f"{name}.nii.gz", "--json"]) == 0
        assert told in json.loads(workspace.shown()[0])["seen_as"]
    assert main(["info", "guess.nii.gz"]) == 0
    assert GUESSED in workspace.shown()[0]


def test_the_report_tells_what_the_network_saw_of_each_object(workspace: Workspace) -> None:
    workspace.put("guess.nii.gz", ct())
    Path("said.json").write_text(
        json.dumps({"version": 1, "objects": [{"label": 1, "points": [[8, 7, 5]]}, {"label": 2, "points": [[16, 12, 5]]}]})
    )
    report = workspace.done("--prompts", "said.json", "--report", "r.json", image="guess.nii.gz")
    assert report["windows"] == json.loads(Path("r.json").read_text())["windows"]
    assert report["windows"]["1"] == {"low": -1250, "high": 250, "source": f"lung: {GUESSED}", "negative": False}
    assert (report["windows"]["2"]["low"], report["windows"]["2"]["high"]) == (-160, 240)
    told = workspace.done(*CLICK[:1], "8", "7", "5", "--window", "-5,77", "--overwrite", image="guess.nii.gz")["windows"]["1"]
    assert (told["low"], told["high"], told["source"]) == (-5, 77, "as given")
    _, out, _ = workspace.run("--prompts", "said.json", "--overwrite", image="guess.nii.gz")
    assert f"\nobject 1: intensities from -1250 to 250 (lung: {GUESSED})\nobject 2: intensities from -160 to 240 (soft" in out
    _, out, _ = workspace.run("--prompts", "said.json", "--overwrite", "--window", "-5,77", image="guess.nii.gz")
    assert "\nintensities from -5 to 77 (as given)\nwrote" in out, "all objects were seen so"
    _, out, _ = workspace.run("--prompts", "said.json", "--dry-run", image="guess.nii.gz", output="other.nii.gz")
    assert f"window   -160 to 240 (soft: {GUESSED})" in out


@pytest.mark.parametrize("words", [(), ("--window", "percentile"), ("--window", "lung")])
def test_the_preview_shows_what_the_network_saw(
    workspace: Workspace, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Segmentation] = []
    saved = preview.save
    monkeypatch.setattr(
        preview, "save", lambda path, volume, found, prompts: (seen.append(found), saved(path, volume, found))[1]
    )
    report = workspace.done(*CLICK, *words, "--preview", "v.png")
    assert Path("v.png").is_file()
    (found,) = seen
    assert {str(label): (window.low, window.high) for label, window in found.windows.items()} == {
        label: (told["low"], told["high"]) for label, told in report["windows"].items()
    }
    assert found.labels.shape == SHAPE


def test_images_of_a_set_tell_it_too_and_the_sheet_shows_it(
    set_workspace: SetWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    dark = np.zeros((60, 50), np.uint16)
    dark[20:40, 20:40] = np.random.default_rng(0).integers(40_000, 41_000, (20, 20))
    Image.fromarray(dark).save("set/d.png")
    shown: list[np.ndarray] = []
    sheet = preview.contact_sheet
    monkeypatch.setattr(
        preview, "contact_sheet", lambda images, *rest, **how: (shown.extend(images), sheet(images, *rest, **how))[1]
    )
    report = set_workspace.done(*A_MASK, "--window", "0,41500", "--preview", "sheet.png")
    (row,) = [row for row in report["images"] if row["image"] == "d.png"]
    assert (row["window"]["low"], row["window"]["high"]) == (0, 41_500)
    (tile,) = [image for image in shown if image.shape == dark.shape]
    np.testing.assert_array_equal(tile, Window(0, 41_500).as_bytes(dark))


def test_a_window_that_shows_nothing_of_an_image_is_refused(workspace: Workspace, set_workspace: SetWorkspace) -> None:
    workspace.put("mr.nii.gz", (tissue(0) * 1000).astype(np.float32))
    for words in ((), ("--dry-run",)):
        assert "window 5000 to 6000 shows one grey" in workspace.refused(
            *CLICK, "--window", "5000,6000", *words, image="mr.nii.gz"
        )
    dark = np.random.default_rng(0).integers(40_000, 41_000, (60, 50)).astype(np.uint16)
    Image.fromarray(dark).save("set/d.png")
    code, out, err = set_workspace.run(*A_MASK, "--window", "0,255")
    assert (code, "3 of 4 images outlined" in out) == (2, True)
    assert "d.png: window 0 to 255 shows one grey" in err

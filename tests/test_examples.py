"""The examples run, and leave what they promise."""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medical_sam2.io import load
from medical_sam2.model.nano import nano
from medical_sam2.model.weights import load_backbone
from medical_sam2.prompts import Point
from medical_sam2.segmenter import Segmenter
from medical_sam2.volume import Volume

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights that ship, shown half of the pixels along each axis."""
    monkeypatch.setattr("medical_sam2.segmenter.load_backbone", lambda name, **_: load_backbone(name, image_size=128))


def example(name: str) -> dict[str, Any]:
    """What a file of examples/ defines."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_phantom(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("phantom")["main"](tmp_path / "phantom.nii.gz")
    i, j, k, i_high, j_high, k_high = (int(word) for word in capsys.readouterr().out.split())
    image, liver = load(tmp_path / "phantom.nii.gz"), load(tmp_path / "truth.nii.gz")
    assert k == k_high
    outline = liver.array[:, :, k]
    inside = outline[i : i_high + 1, j : j_high + 1]
    assert inside.sum() == outline.sum()
    assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
    assert image.array[:, :, k][outline == 1].mean() == pytest.approx(105, abs=10)
    assert image.orientation == "LPS"
    assert image.spacing_mm == pytest.approx((1.8, 1.8, 5.0))


def test_segment_volume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, _ = example("phantom")["make"]()
    nib.save(image.slicer[:, :, 18:22], tmp_path / "phantom.nii.gz")  # as many slices as show what happens
    main = example("segment_volume")["main"]
    clicks = [replace(click, index_ijk=(*click.index_ijk[:2], click.index_ijk[2] - 18)) for click in main.__globals__["CLICKS"]]
    main.__globals__["CLICKS"] = clicks
    main(tmp_path / "phantom.nii.gz", tmp_path / "two.nii.gz")
    assert "liver: " in capsys.readouterr().out
    assert load(tmp_path / "two.nii.gz").shape == load(tmp_path / "phantom.nii.gz").shape
    assert (tmp_path / "two.png").stat().st_size > 0


def test_segment_images(tmp_path: Path) -> None:
    example("segment_images")["main"](tmp_path)
    assert (tmp_path / "sheet.png").stat().st_size > 0


def test_correct_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("correct_images")["main"](tmp_path)
    assert "needs a prompt most" in capsys.readouterr().out
    assert len(list((tmp_path / "features").iterdir())) == 6
    assert (tmp_path / "sheet.png").stat().st_size > 0


def test_own_bank() -> None:
    volume = Volume(np.random.default_rng(0).normal(size=(20, 24, 6)), np.eye(4))
    told: list[object] = []
    found = Segmenter(nano(64), device="cpu").segment_volume(
        volume, [Point((10, 12, 3))], views="one", bank=f"{EXAMPLES / 'own_bank.py'}:Anchored", on_frame=told.append
    )
    assert found.labels.shape == volume.shape
    assert len(told) == 6

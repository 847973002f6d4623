"""The examples run, and leave what they promise."""

import ast
import runpy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import nibabel as nib
import numpy as np
import pytest
from nbformat import NotebookNode

from medical_sam2.io import load
from medical_sam2.model.nano import nano
from medical_sam2.model.weights import load_backbone
from medical_sam2.prompts import Point
from medical_sam2.segmenter import Segmenter
from medical_sam2.volume import Segmentation, Volume

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights that ship, shown half of the pixels along each axis."""
    monkeypatch.setattr("medical_sam2.segmenter.load_backbone", lambda name, **_: load_backbone(name, image_size=128))


def example(name: str) -> dict[str, Any]:
    """What a file of examples/ defines."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_phantom(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "demo"
    example("phantom")["main"](folder / "phantom.nii.gz")
    i, j, k, i_high, j_high, k_high = (int(word) for word in capsys.readouterr().out.split())
    image, liver = load(folder / "phantom.nii.gz"), load(folder / "truth.nii.gz")
    assert k == k_high
    outline = liver.array[:, :, k]
    inside = outline[i : i_high + 1, j : j_high + 1]
    assert inside.sum() == outline.sum()
    assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
    assert image.array[:, :, k][outline == 1].mean() == pytest.approx(105, abs=10)
    assert image.orientation == "LPS"
    assert image.spacing_mm == pytest.approx((1.8, 1.8, 5.0))
    example("phantom")["main"](folder / "phantom.nii.gz")
    written = sorted(str(path.relative_to(folder / "pages")) for path in (folder / "pages").rglob("*.*"))
    smears = [f"smears/cell_{number}.png" for number in ("07", "19", "31")]
    assert written == ["cell_07_mask.png", "ct.nii.gz", "prompts.csv", *smears, "truth.nii.gz"]


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


def cell_by_cell(notebook: NotebookNode) -> Iterator[object]:
    """Run the cells of a notebook in order, and give what each shows: its last expression."""
    names: dict[str, object] = {}
    for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        tree, place = ast.parse(cell.source), f"cell {number}"
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, place, "exec"), names)
        if isinstance(last, ast.Expr):
            yield eval(compile(ast.Expression(last.value), place, "eval"), names)


def test_the_tutorial_is_a_notebook_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = jupytext.read(EXAMPLES / "tutorial.py")
    nbformat.validate(nbformat.reads(jupytext.writes(notebook, fmt="ipynb"), as_version=4))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("medical_sam2.segmenter.load_backbone", load_backbone)  # its text tells what is found as it is run
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    shown = [what for what in cell_by_cell(notebook) if what is not None]
    assert [type(what).__name__ for what in shown] == ["Segmentation", "Image", "Segmentation", "Segmentation", "Image"]
    one_click, corrected, finished = (what for what in shown if isinstance(what, Segmentation))
    for what in (one_click, corrected, finished):
        assert what.image is one_click.image is not None
        assert "<img" in what._repr_html_()
        assert "aorta" in what._repr_html_()
    vertebra = np.s_[88:104, 104:116, 3]  # behind the aorta, as the text says
    assert one_click.mask(1)[vertebra].mean() > 0.8
    assert corrected.mask(1)[vertebra].mean() < 0.1
    assert np.array_equal(corrected.mask(2), one_click.mask(2))
    assert "labels.nii.gz does not hold names" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_own_bank() -> None:
    volume = Volume(np.random.default_rng(0).normal(size=(20, 24, 6)), np.eye(4))
    told: list[object] = []
    found = Segmenter(nano(64), device="cpu").segment_volume(
        volume, [Point((10, 12, 3))], views="one", bank=f"{EXAMPLES / 'own_bank.py'}:Anchored", on_frame=told.append
    )
    assert found.labels.shape == volume.shape
    assert len(told) == 6

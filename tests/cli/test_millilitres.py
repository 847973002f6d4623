"""Sizes in mL: none where the program says that millimetres mean nothing, and never 0 for what is small."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from medical_sam2 import io, preview
from medical_sam2.cli import main
from medical_sam2.statistics import measure
from medical_sam2.volume import Segmentation
from tests.cli.conftest import CLICK, SHAPE, Workspace
from tests.io.making import base, save


@pytest.fixture
def cine(workspace: Workspace) -> str:
    """An ultrasound film with a bright part, without PixelSpacing."""
    frames = np.random.default_rng(0).integers(0, 60, SHAPE[::-1]).astype(np.uint8)
    frames[1:5, 6:16, 8:18] += 150
    made = base(frames, "1.2.840.10008.5.1.4.1.1.3.1")  # type: ignore[arg-type]
    made.Modality, made.NumberOfFrames = "US", len(frames)
    save(made, workspace.folder / "cine.dcm")
    return "cine.dcm"


def test_a_film_has_voxels_alone(workspace: Workspace, cine: str) -> None:
    words = ("--statistics", "s.csv", "--report", "r.json")
    code, out, err = workspace.run(*CLICK, *words, image=cine)
    assert code == 0, err
    assert "millimetres between them mean nothing" in err
    count = int((workspace.labels() > 0).sum())
    assert out.splitlines()[0] == f"object 1: {count} voxels"
    assert json.loads(Path("r.json").read_text())["objects"][0]["volume_ml"] is None
    (row,) = csv.DictReader(Path("s.csv").read_text().splitlines())
    assert {row[name] for name in ("volume_mm3", "volume_ml", "centroid_x_mm", "centroid_z_mm")} == {""}
    assert (int(row["voxels"]), bool(row["mean"])) == (count, True)


def test_many_films(workspace: Workspace, cine: str) -> None:
    Path("t.csv").write_text(f"image,kind,i,j,k\n{cine},point,14,12,3\n")
    words = ["segment-volumes", "t.csv", "-o", "out", "--weights", str(workspace.weights), "--device", "cpu"]
    assert main([*words, "--precision", "fp32"]) == 0
    (row,) = csv.DictReader(Path("out/results.csv").read_text().splitlines())
    assert (row["volume_ml"], int(row["voxels"]) > 0) == ("", True)
    assert main([*words, "--precision", "fp32", "--skip-existing"]) == 0


def test_pictures_of_a_film(workspace: Workspace, cine: str) -> None:
    volume = io.load(workspace.folder / cine)
    found = Segmentation((volume.array > 100).astype(np.uint8), volume.affine, image=volume)
    html = preview.as_html(found)
    assert f"<td>{measure(volume, found)[0].voxels} voxels</td>" in html
    assert " mL" not in html


def test_what_is_small_is_not_nothing(workspace: Workspace) -> None:
    """3055 voxels of a millionth of a millimetre."""
    workspace.put("small.nii.gz", workspace.labels("ct.nii.gz"), np.diag([1e-6, 1e-6, 1e-6, 1]))
    code, out, err = workspace.run(*CLICK, "--report", "r.json", image="small.nii.gz")
    assert code == 0, err
    (row,) = json.loads(Path("r.json").read_text())["objects"]
    assert row["volume_ml"] == pytest.approx(row["voxels"] * 1e-21, rel=1e-3, abs=0)
    assert out.splitlines()[0] == f"object 1: {row['voxels']} voxels, {row['voxels'] / 100:g}e-19 mL"

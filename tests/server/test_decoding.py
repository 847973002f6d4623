"""What decoders make of files that are opened together, and what they leave alone."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medical_sam2.errors import FormatError
from medical_sam2.server.worker_process import ImageSource, ReadingOptions, WorkerLimits, WorkerProcesses, do
from tests.io.making import made


def saved(folder: Path, *names: str) -> Path:
    """A folder with these files: volumes, pictures, or text."""
    folder.mkdir()
    for name in names:
        if name.endswith(".nii.gz"):
            nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)), folder / name)
        elif name.endswith(".png"):
            Image.fromarray(np.zeros((5, 6), np.uint8)).save(folder / name)
        else:
            (folder / name).write_text("words")
    return folder


def opened(folder: Path, target: Path) -> None:
    do({"do": "decode", "target": str(target), **ImageSource(folder, ReadingOptions()).order()})


def test_volumes_together_are_refused_without_a_path(tmp_path: Path) -> None:
    with pytest.raises(FormatError) as refused:
        opened(saved(tmp_path / "two", "a.nii.gz", "b.nii.gz", "notes.txt"), tmp_path / "out")
    assert (refused.value.problem, refused.value.remedy) == (
        "each of these files is a volume: file 1, file 2",
        "open one at a time",
    )


def test_what_is_no_picture_is_named_beside_pictures(tmp_path: Path) -> None:
    opened(saved(tmp_path / "mixed", "a.txt", "b.png", "notes.txt"), tmp_path / "out")
    assert "2 of 3 files left out: file 1 (no picture), file 3 (no picture)" in notes(tmp_path / "out")


def notes(target: Path) -> str:
    """What is kept of an image that was decoded, as text."""
    (path,) = target.glob("*.json")
    return path.read_text()


def test_pictures_and_a_volume_are_refused_together(tmp_path: Path) -> None:
    with pytest.raises(FormatError) as refused:
        opened(saved(tmp_path / "mixed", "a.nii.gz", "b.png", "c.png"), tmp_path / "out")
    assert refused.value.problem == "volumes (file 1) and pictures (file 2, file 3) together"


def test_what_a_converter_leaves_beside_a_volume_is_left_out_and_named(tmp_path: Path) -> None:
    opened(saved(tmp_path / "mixed", "a.nii.gz", "a.json", "b.txt"), tmp_path / "out")
    assert '"kind": "volume"' in notes(tmp_path / "out")
    assert "left out, as no image: file 1, file 3" in notes(tmp_path / "out")
    pair = saved(tmp_path / "pair", "a.json")
    nibabel.save(nibabel.Nifti1Pair(np.zeros((4, 5, 6), np.int16), np.eye(4)), pair / "a.hdr")
    opened(pair, tmp_path / "of_pair")
    assert '"left out, as no image: file 3"' in notes(tmp_path / "of_pair")  # a.hdr, a.img, a.json


def test_a_picture_beside_a_dicom_series_is_left_out_and_named(tmp_path: Path) -> None:
    folder = saved(tmp_path / "study", "zoom.png")
    made(folder)
    opened(folder, tmp_path / "out")
    assert '"kind": "volume"' in notes(tmp_path / "out")
    assert '"warnings": ["1 picture was left out beside the DICOM series' in notes(tmp_path / "out")  # the first two are shown


def test_a_volume_beside_a_dicom_series_is_left_out_and_named(tmp_path: Path) -> None:
    """The same series converted, or its labels."""
    folder = saved(tmp_path / "study", "a.nii.gz")
    made(folder)
    opened(folder, tmp_path / "out")
    assert '"warnings": ["1 file was left out beside the DICOM series: file 7"' in notes(tmp_path / "out")


def test_a_module_in_the_folder_that_a_server_was_started_in_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path / "scans", "a.nii.gz")
    (folder / "nibabel.py").write_text("raise SystemExit('somebody ran this')")
    monkeypatch.chdir(folder)
    WorkerProcesses(WorkerLimits()).decode(ImageSource(folder / "a.nii.gz", ReadingOptions()), tmp_path / "out")
    assert any((tmp_path / "out").iterdir())

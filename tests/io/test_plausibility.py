"""What somebody should look at, and what needs no word."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from medical_sam2 import io
from medical_sam2.io.image_folder import open_folder


def ct() -> NDArray[np.int16]:
    image = np.full((20, 20, 10), -1000.0)
    image[4:16, 4:16] = 40
    image[5:8, 5:8, 2:5] = 700
    return (image + np.random.default_rng(0).normal(0, 9, image.shape)).round().astype(np.int16)


def mr() -> NDArray[np.float32]:
    return np.random.default_rng(0).gamma(2, 100, (20, 20, 10)).astype(np.float32)


def warned(folder: Path, array: NDArray[np.generic], mm: float = 1.0) -> str:
    file = folder / "image.nii.gz"
    header = nib.Nifti1Image(array, np.diag([-mm, -mm, mm, 1.0]))  # type: ignore[no-untyped-call]
    header.header.set_xyzt_units("mm")
    nib.save(header, file)  # type: ignore[attr-defined]
    return "; ".join(io.load(file).warnings)


@pytest.mark.parametrize("value", [1e30, -1e30, 3e38])
def test_extreme_values_are_counted(tmp_path: Path, value: float) -> None:
    image = mr()
    image[3, 4, 5] = image[4, 4, 5] = value
    told = warned(tmp_path, image)
    assert "2 voxels hold extreme values" in told
    assert f"{value:g}" in told


def test_bright_spots_are_none(tmp_path: Path) -> None:
    """A vessel, metal, or light in a dark field."""
    image, dark = mr(), np.zeros((20, 20, 10), np.float32)
    image[3:5, 3:5, 3:5] = 20_000
    dark[3:6, 3:6, 3:6] = np.random.default_rng(0).uniform(100, 4000, (3, 3, 3))
    assert not warned(tmp_path, image)
    assert not warned(tmp_path, dark)
    assert not warned(tmp_path, mr() * np.float32(1e30))


@pytest.mark.parametrize("mm", [0.01, 1000.0])
def test_voxels_of_no_patient_in_a_ct(tmp_path: Path, mm: float) -> None:
    assert f"{mm:g} × {mm:g} × {mm:g} mm" in warned(tmp_path, ct(), mm)
    assert not warned(tmp_path, ct(), 0.4)


@pytest.mark.parametrize("mm", [1000.0, 301.0, 60.0])
def test_voxels_of_no_body_are_asked_about_whatever_the_modality(tmp_path: Path, mm: float) -> None:
    told = warned(tmp_path, mr(), mm)
    assert f"its voxels are {mm:g} × {mm:g} × {mm:g} mm, and it spans {mm * 20 / 1000:.3g} m, which no body does" in told
    assert "check the units" in told


@pytest.mark.parametrize("mm", [0.01, 1.0, 49.0])
def test_voxels_of_small_animals_and_slides_need_no_word(tmp_path: Path, mm: float) -> None:
    assert not warned(tmp_path, mr(), mm)


def test_one_slice(tmp_path: Path) -> None:
    assert "one slice only" in warned(tmp_path, ct()[:, :, :1])
    assert "one slice only" in warned(tmp_path, mr()[:1])
    assert not warned(tmp_path, ct()[:, :, :2])


def test_one_slice_is_nothing_odd_among_images(tmp_path: Path) -> None:
    warned(tmp_path, mr()[:, :, :1])
    assert not open_folder(tmp_path).picture(0).warnings

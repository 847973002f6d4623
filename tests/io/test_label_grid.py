"""Masks of single images that say where they lie: taken where their image is, whatever the order of their voxels."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from medical_sam2.data.data_sets import read_data_set
from medical_sam2.errors import GeometryError
from medical_sam2.io.image_folder import open_folder
from medical_sam2.io.labels import read_label_map
from medical_sam2.io.registry import Picture
from tests.data.nnunet import describe

AFFINE = np.array([[-0.8, 0, 0, 20], [0, 0.9, 0, -30], [0, 0, 3.0, 5], [0, 0, 0, 1]])
DRAWN = np.zeros((9, 6, 1), np.uint8)
DRAWN[1:4, 1] = 1
DRAWN[1, 1:5] = 2


def stored(array: NDArray[Any], file: Path, order: str, affine: NDArray[np.float64] = AFFINE) -> Path:
    """The same voxels in the same places, their axes ordered and directed otherwise."""
    image = nib.Nifti1Image(array, affine)  # type: ignore[attr-defined]
    to = nib.orientations.axcodes2ornt(order)  # type: ignore[attr-defined]
    nib.save(image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(affine), to)), file)  # type: ignore[attr-defined]
    return file


def picture(folder: Path) -> Picture:
    """An image of one slice."""
    folder.mkdir()
    stored(np.arange(DRAWN.size, dtype=np.int16).reshape(DRAWN.shape), folder / "image.nii.gz", "LAS")
    return open_folder(folder).picture(0)


@pytest.mark.parametrize("order", ["LAS", "RAS", "LPS", "RPI", "ALS", "PRI", "SAL"])
def test_a_mask_lies_where_its_image_does(tmp_path: Path, order: str) -> None:
    like = picture(tmp_path / "set")
    found = read_label_map(stored(DRAWN, tmp_path / "mask.nii.gz", order), like=like)
    np.testing.assert_array_equal(found, DRAWN[:, :, 0].T)


def test_how_thick_a_slice_is_does_not_matter(tmp_path: Path) -> None:
    thick = AFFINE @ np.diag([1, 1, 4.0, 1])
    found = read_label_map(stored(DRAWN, tmp_path / "mask.nii.gz", "RAS", thick), like=picture(tmp_path / "set"))
    np.testing.assert_array_equal(found, DRAWN[:, :, 0].T)


@pytest.mark.parametrize(("axis", "mm"), [(0, 0.8), (1, -4.5), (2, 3.0)])
def test_a_mask_of_another_place_is_refused(tmp_path: Path, axis: int, mm: float) -> None:
    moved = AFFINE.copy()
    moved[axis, 3] += mm
    file = stored(DRAWN, tmp_path / "mask.nii.gz", "LAS", moved)
    with pytest.raises(GeometryError, match=r"mask\.nii\.gz: the labels lie up to .* mm away from the image's voxels"):
        read_label_map(file, like=picture(tmp_path / "set"))


def test_a_mask_beside_a_picture_without_a_place_is_taken_as_it_is_stored(tmp_path: Path) -> None:
    like = Picture(np.zeros((6, 9), np.uint8))
    found = read_label_map(stored(DRAWN, tmp_path / "mask.nii.gz", "LAS"), like=like)
    np.testing.assert_array_equal(found, DRAWN[:, :, 0].T)


def test_labels_and_channels_of_data_sets_lie_on_their_image(tmp_path: Path) -> None:
    channels = {"0": "R", "1": "G", "2": "B"}
    describe(tmp_path, channel_names=channels, labels={"background": 0, "cell": 1, "wall": 2}, kind="set")
    grey = np.arange(DRAWN.size, dtype=np.uint8).reshape(DRAWN.shape)
    for channel, order in enumerate(("LAS", "RPS", "ALS")):
        stored(grey, tmp_path / "imagesTr" / f"a_{channel:04d}.nii.gz", order)
    stored(DRAWN, tmp_path / "labelsTr" / "a.nii.gz", "PRS")
    data = read_data_set(tmp_path)
    loaded = data.load(data.cases[0])
    np.testing.assert_array_equal(loaded.labels, DRAWN[:, :, 0].T)
    np.testing.assert_array_equal(loaded.images[0].array, np.repeat(grey[:, :, 0].T[..., None], 3, axis=2))

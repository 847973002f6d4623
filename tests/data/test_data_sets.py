"""nnU-Net raw data sets: listed without opening an image, and refused in one line where they are not whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medical_sam2.data.data_sets import read_data_set
from medical_sam2.errors import ConfigError, FormatError, GeometryError, InputError
from tests.data.nnunet import AFFINE, describe, picture_set, put, volume_set


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_volumes_of_any_format(tmp_path: Path, ending: str) -> None:
    found = read_data_set(volume_set(tmp_path / "Dataset012_Livers", ending=ending))
    assert (found.name, found.kind, found.modality, found.channels) == ("Livers", "volume", "CT", ("CT",))
    assert [case.identifier for case in found.cases] == ["case0", "case1"]
    loaded = found.load(found.cases[1])
    assert loaded.labels is not None
    assert loaded.images[0].shape == loaded.labels.shape == (24, 20, 8)
    assert int(found.mask(loaded.labels, "liver").sum()) == 10 * 9 * 4


def test_several_channels(tmp_path: Path) -> None:
    found = read_data_set(volume_set(tmp_path, channels=2))
    assert (found.channels, found.modality) == (("T1", "T2"), "MR")
    first, second = found.load(found.cases[0]).images
    np.testing.assert_array_equal(first.array + 1, second.array)
    put(tmp_path / "imagesTr" / "case0_0001.nii.gz", np.zeros((24, 20, 8), np.int16), AFFINE * 2 - np.diag([0, 0, 0, 1.0]))
    with pytest.raises(GeometryError, match=r"case0_0001.*grid of the first channel"):
        found.load(found.cases[0])


def test_pictures_with_regions(tmp_path: Path) -> None:
    found = read_data_set(picture_set(tmp_path))
    assert (found.kind, found.modality, found.structures) == ("set", "RGB", {"disc": (1, 2), "cup": (2,)})
    loaded = found.load(found.cases[0])
    assert loaded.labels is not None
    assert loaded.images[0].array.shape == (40, 50, 3)
    disc, cup = found.mask(loaded.labels, "disc"), found.mask(loaded.labels, "cup")
    assert (int(disc.sum()), int(cup.sum()), bool((cup & ~disc).any())) == (480, 80, False)
    with pytest.raises(ConfigError, match="did you mean 'disc'"):
        found.mask(loaded.labels, "disk")


def test_three_files_of_grey_are_one_picture(tmp_path: Path) -> None:
    describe(tmp_path, file_ending=".png", channel_names={"0": "R", "1": "G", "2": "B"})
    for channel in range(3):
        put(tmp_path / "imagesTr" / f"a_{channel:04d}.png", np.full((4, 5), channel, np.uint8))
    put(tmp_path / "labelsTr" / "a.png", np.zeros((4, 5), np.uint8))
    found = read_data_set(tmp_path)
    assert found.load(found.cases[0]).images[0].array[0, 0].tolist() == [0, 1, 2]


def test_ignore_label_and_test_cases(tmp_path: Path) -> None:
    describe(volume_set(tmp_path), labels={"background": 0, "liver": 1, "ignore": 2})
    for name, folder in (("x_0000", "imagesTs"), ("y_0000", "imagesTs"), ("y", "labelsTs")):
        put(tmp_path / folder / f"{name}.nii.gz", np.ones((3, 3, 3), np.uint8))
    found = read_data_set(tmp_path)
    assert (found.ignore, dict(found.structures)) == (2, {"liver": (1,)})
    assert [(case.identifier, case.label is None) for case in found.split("test")] == [("x", True), ("y", False)]
    assert len(found.split("train")) == 2


def test_version_one_and_listed_cases(tmp_path: Path) -> None:
    volume_set(tmp_path)
    listed = {"b": {"images": ["imagesTr/case1_0000.nii.gz"], "label": "labelsTr/case1.nii.gz"}}
    describe(tmp_path, labels={"0": "background", "1": "liver"}, dataset=listed, version="1.0")
    found = read_data_set(tmp_path)
    assert (dict(found.structures), [case.identifier for case in found.cases]) == ({"liver": (1,)}, ["b"])


def test_labels_that_nobody_declared(tmp_path: Path) -> None:
    volume_set(tmp_path)
    put(tmp_path / "labelsTr" / "case0.nii.gz", np.full((24, 20, 8), 9, np.uint8))
    found = read_data_set(tmp_path)
    with pytest.raises(FormatError, match=r"case0\.nii\.gz: it holds values .* does not declare: 9"):
        found.load(found.cases[0])


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"channel_names": None}, "channel_names"),
        ({"channel_names": {"1": "CT"}}, "do not count from 0"),
        ({"channel_names": {"0": "T1", "1": "T2"}}, "1 file, and 2 channels"),
        ({"labels": {"background": 0}}, "nothing but the background"),
        ({"labels": {"liver": "one"}}, "'liver' has no whole number"),
        ({"file_ending": "nii"}, "file_ending"),
        ({"file_ending": ".nrrd"}, r"holds no CASE_0000\.nrrd"),
        ({"overwrite_image_reader_writer": "Tiff3DIO"}, "TIFF"),
        ({"dataset": {"a": {"images": ["b.nii.gz"], "label": "c.nii.gz"}}}, "b.nii.gz: this image is missing"),
    ],
)
def test_descriptions_that_are_refused(tmp_path: Path, told: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_data_set(describe(volume_set(tmp_path), **told))


def test_folders_that_are_not_whole(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        read_data_set(tmp_path / "nowhere")
    with pytest.raises(FormatError, match=r"no dataset\.json"):
        read_data_set(tmp_path)
    volume_set(tmp_path)
    (tmp_path / "labelsTr" / "case1.nii.gz").unlink()
    with pytest.raises(FormatError, match=r"labelsTr/case1\.nii\.gz: this label map is missing"):
        read_data_set(tmp_path)
    put(tmp_path / "imagesTr" / "case7.nii.gz", np.ones((3, 3, 3), np.uint8))
    with pytest.raises(FormatError, match=r"case7\.nii\.gz: its name tells no channel"):
        read_data_set(tmp_path)

"""Images that lie in no published layout: paired by name alone, and refused where a pair could be wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medical_sam2.data.data_sets import DataSet, read_data_set, read_folder, stem
from medical_sam2.errors import FormatError, GeometryError, InputError
from tests.data.nnunet import describe, put, volume_set

VOLUME = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
LABELS = (VOLUME > 11).astype(np.uint8)


def folder(root: Path, *, labels: tuple[str, ...] = ("a.nii.gz",), images: tuple[str, ...] = ("a.nii.gz", "b.nii.gz")) -> Path:
    for name in images:
        put(root / "images" / name, VOLUME)
    for name in labels:
        put(root / "labels" / name, LABELS)
    return root


def test_labels_belong_to_the_image_of_their_name(tmp_path: Path) -> None:
    found = read_folder(folder(tmp_path / "mine"), {"half": (1,)}, "MR")
    assert (found.name, found.kind, found.modality, found.channels) == ("mine", "volume", "MR", ("MR",))
    assert [(case.identifier, case.split, case.label is None) for case in found.cases] == [
        ("a", "train", False),
        ("b", "test", True),
    ]
    loaded, unlabelled = (found.load(case) for case in found.cases)
    np.testing.assert_array_equal(loaded.labels, LABELS)
    np.testing.assert_array_equal(found.mask(loaded.labels, "half"), VOLUME > 11)  # type: ignore[arg-type]
    assert unlabelled.labels is None


def test_values_that_nobody_named_are_background(tmp_path: Path) -> None:
    put(folder(tmp_path) / "labels" / "a.nii.gz", LABELS * 3 + (VOLUME < 2))
    found = read_folder(tmp_path, {"half": (3,)})
    assert set(np.unique(found.load(found.cases[0]).labels)) == {0, 3}  # type: ignore[arg-type]


def test_images_alone_are_there_to_be_converted(tmp_path: Path) -> None:
    found = read_folder(folder(tmp_path, labels=()) / "images", {})
    assert [case.split for case in found.cases] == ["test", "test"]
    assert (found.modality, dict(found.structures)) == ("unknown", {})
    (one,) = read_folder(tmp_path / "images" / "b.nii.gz", {}).cases
    assert one.identifier == "b"


def test_what_is_no_image_is_not_listed(tmp_path: Path) -> None:
    root = folder(tmp_path)
    (root / "images" / "notes.txt").write_text("of the radiologist")
    (root / "images" / ".a.nii.gz").write_bytes((root / "images" / "a.nii.gz").read_bytes())
    assert [case.identifier for case in read_folder(root, {"half": (1,)}).cases] == ["a", "b"]


@pytest.mark.parametrize(
    ("changes", "structures", "message"),
    [
        ({"labels": ("c.nii.gz",)}, {"half": (1,)}, "no image of this name"),
        ({"images": ("a.nii.gz", "a.nrrd")}, {"half": (1,)}, "two images are called 'a'"),
        ({}, {}, "--label liver=1"),
        ({"images": (), "labels": ()}, {}, "no such file or folder"),
    ],
)
def test_what_could_pair_wrongly_is_refused(
    tmp_path: Path, changes: dict[str, Any], structures: dict[str, tuple[int, ...]], message: str
) -> None:
    root = folder(tmp_path / "in", **changes)
    with pytest.raises((FormatError, InputError), match=message):
        read_folder(root, structures)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing here")
    with pytest.raises(FormatError, match="no image in it"):
        read_folder(tmp_path, {})


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ct.nii.gz", "ct"), ("ct.1.nii.gz", "ct.1"), ("a.b.png", "a.b"), ("x.hdr", "x"), ("scan", "scan"), ("a.hdr.gz", "a")],
)
def test_names_without_their_suffixes(tmp_path: Path, name: str, expected: str) -> None:
    assert stem(tmp_path / name) == expected
    (tmp_path / "1.2.840").mkdir()
    assert stem(tmp_path / "1.2.840") == "1.2.840"


def ct(root: Path, *, channel: str = "CT") -> DataSet:
    return read_data_set(describe(volume_set(root, cases=1), channel_names={"0": channel}))


def test_a_volume_is_a_ct_where_the_data_set_says_so(tmp_path: Path) -> None:
    for channel, modality in (("CT", "CT"), ("MR", None)):
        found = ct(tmp_path / channel, channel=channel)
        assert found.load(found.cases[0]).images[0].modality == modality


def test_spacing_is_in_millimetres_or_unknown(tmp_path: Path) -> None:
    found = ct(tmp_path / "volumes")
    assert found.load(found.cases[0]).images[0].spacing_mm == pytest.approx((0.8, 0.9, 3.0))
    put(tmp_path / "pictures" / "images" / "a.png", np.zeros((5, 6), np.uint8))
    pictures = read_folder(tmp_path / "pictures", {})
    assert (pictures.kind, pictures.load(pictures.cases[0]).images[0].spacing_mm) == ("set", None)


def test_labels_that_are_empty_are_labels(tmp_path: Path) -> None:
    root = volume_set(tmp_path, cases=1)
    put(root / "labelsTr" / "case0.nii.gz", np.zeros((24, 20, 8), np.uint8))
    found = read_data_set(root)
    labels = found.load(found.cases[0]).labels
    assert labels is not None
    assert not found.mask(labels, "liver").any()


def test_labels_of_another_grid_are_refused(tmp_path: Path) -> None:
    root = volume_set(tmp_path, cases=1)
    put(root / "labelsTr" / "case0.nii.gz", np.zeros((24, 20, 8), np.uint8), np.diag([2.0, 2, 2, 1]))
    found = read_data_set(root)
    with pytest.raises(GeometryError, match=r"case0\.nii\.gz"):
        found.load(found.cases[0])


def grey_set(root: Path, image: np.ndarray, label: np.ndarray) -> DataSet:
    put(describe(root, file_ending=".png", channel_names={"0": "grey"}) / "imagesTr" / "a_0000.png", image)
    put(root / "labelsTr" / "a.png", label)
    return read_data_set(root)


def test_three_channels_that_are_alike_are_one(tmp_path: Path) -> None:
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
    found = grey_set(tmp_path, grey[..., None].repeat(3, -1), grey // 19)
    loaded = found.load(found.cases[0])
    np.testing.assert_array_equal(loaded.images[0].array, grey)
    np.testing.assert_array_equal(loaded.labels, grey // 19)


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (np.arange(60, dtype=np.uint8).reshape(4, 5, 3), np.zeros((4, 5), np.uint8), "declare R, G, B"),
        (np.zeros((4, 5), np.uint8), np.zeros((5, 4), np.uint8), r"labels have \(5, 4\) pixels, the image \(4, 5\)"),
        (np.zeros((4, 5), np.uint8), np.arange(60, dtype=np.uint8).reshape(4, 5, 3), "no label map"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(tmp_path: Path, image: np.ndarray, label: np.ndarray, message: str) -> None:
    found = grey_set(tmp_path, image, label)
    with pytest.raises((FormatError, GeometryError), match=message):
        found.load(found.cases[0])


def test_labels_that_are_turned_otherwise_than_their_image_are_refused(tmp_path: Path) -> None:
    found = grey_set(tmp_path, np.arange(20, dtype=np.uint8).reshape(4, 5), np.zeros((4, 5), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5)).save(tmp_path / "imagesTr" / "a_0000.png", exif=exif)
    with pytest.raises(GeometryError, match=r"a\.png: its EXIF orientation is 1 and that of the image is 3"):
        found.load(found.cases[0])


def test_a_file_of_several_pictures_is_no_image_of_a_set(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((4, 5), n, np.uint8)) for n in range(3)]
    (tmp_path / "images").mkdir()
    pages[0].save(tmp_path / "images" / "a.tif", save_all=True, append_images=pages[1:])
    found = read_folder(tmp_path, {})
    with pytest.raises(FormatError, match="3 pictures"):
        found.load(found.cases[0])


def test_a_picture_is_no_volume(tmp_path: Path) -> None:
    put(folder(tmp_path, images=("a.nii.gz",)) / "images" / "b.png", np.zeros((4, 5), np.uint8))
    found = read_folder(tmp_path, {"half": (1,)})
    with pytest.raises((FormatError, InputError), match=r"b\.png"):
        found.load(found.cases[1])

"""Segmentations that are written for other programs: objects that overlap, names, colours, and the very grid of the image."""

from pathlib import Path

import nrrd as pynrrd
import numpy as np
import pytest
import SimpleITK
import slicerio
from numpy.typing import NDArray

from medical_sam2 import io
from medical_sam2.volume import Segmentation, Volume
from tests.phantoms import directions, rotation

SHAPE = (7, 9, 5)
KIDNEY, TUMOUR, LIVER = np.zeros(SHAPE, np.uint16), np.zeros(SHAPE, np.uint16), np.zeros(SHAPE, np.uint16)
KIDNEY[1:6, 2:8, 1:4] = 1
TUMOUR[2:4, 1:5, 2:5] = 300
LIVER[0, 0, 0] = 7
NAMES, COLOURS = {1: "linke Niere – Mark", 300: r"tumour \ left", 9: "nowhere"}, {300: (255, 1, 128)}


def image(code: str = "RAS", tilt_deg: float = 0.0) -> Volume:
    affine = np.eye(4)
    affine[:3, :3] = rotation(np.radians(tilt_deg)) @ directions(code) * (0.7, 1.1, 3.0)
    affine[:3, 3] = 12.25, -70.1, 31
    return Volume(np.zeros(SHAPE, np.int16), affine)


def example(like: Volume, *, overlap: bool = True) -> Segmentation:
    labels = np.where(TUMOUR, TUMOUR, KIDNEY + LIVER)
    layers = (KIDNEY + LIVER, TUMOUR) if overlap else ()
    return Segmentation(labels, like.affine, NAMES, layers=layers, colours=COLOURS)


@pytest.mark.parametrize(("code", "tilt_deg"), [("RAS", 0), ("LPI", 0), ("SAL", 17)])
@pytest.mark.parametrize("overlap", [True, False])
def test_segments_come_back_with_names_and_colours(tmp_path: Path, code: str, tilt_deg: float, overlap: bool) -> None:
    like = image(code, tilt_deg)
    given = example(like, overlap=overlap)
    assert io.save(given, tmp_path / "a.seg.nrrd", like) == []
    assert (io.load_segmentation(tmp_path / "a.seg.nrrd", like).affine == like.affine).all()
    outlined = {outline.label: outline for outline in io.load_outlines(tmp_path / "a.seg.nrrd", like)}
    assert sorted(outlined) == [1, 7, 300]
    assert {label: each.name for label, each in outlined.items()} == {1: NAMES[1], 7: "", 300: NAMES[300]}
    for label, each in outlined.items():
        np.testing.assert_array_equal(each.inside, given.mask(label))
        assert each.colour == given.colour(label)


def test_a_name_of_two_lines_becomes_one_which_is_told(tmp_path: Path) -> None:
    volume = Volume(np.zeros((2, 2, 2), np.int16), np.eye(4))
    found = Segmentation(np.ones((2, 2, 2), np.uint8), np.eye(4), {1: "left\nlobe", 2: "not\nthere"})
    told = io.save(found, tmp_path / "found.seg.nrrd", volume)
    assert told == ['3D Slicer calls object 1 "left lobe", since its name does not fit']
    assert io.load_outlines(tmp_path / "found.seg.nrrd", volume)[0].name == "left lobe"


@pytest.mark.parametrize("tilt_deg", [0, 17])
def test_slicers_own_package_reads_it(tmp_path: Path, tilt_deg: float) -> None:
    like = image("LAS", tilt_deg)
    given = example(like)
    io.save(given, tmp_path / "a.seg.nrrd", like)
    read = slicerio.read_segmentation(str(tmp_path / "a.seg.nrrd"))
    np.testing.assert_array_equal(read["ijkToLPS"], np.diag([-1.0, -1, 1, 1]) @ like.affine)
    assert read["masterRepresentation"] == "Binary labelmap"
    ascii_name = NAMES[1].encode("ascii", "ignore").decode()  # pynrrd, beneath it, drops all other letters
    assert slicerio.segment_names(read) == [ascii_name, "object 7", NAMES[9], NAMES[300].replace("\\", "\\\\")]
    for each in read["segments"]:
        mask = read["voxels"][each["layer"]] == each["labelValue"]
        np.testing.assert_array_equal(mask, given.mask(each["labelValue"]))
        assert [round(255 * share) for share in each["color"]] == list(given.colour(each["labelValue"]))
        low, high = np.array(each["extent"]).reshape(3, 2).T
        places = np.argwhere(mask)
        assert (high < low).all() if not len(places) else (low == places.min(0)).all() and (high == places.max(0)).all()


@pytest.mark.parametrize("overlap", [True, False])
def test_itk_and_pynrrd_read_its_numbers(tmp_path: Path, overlap: bool) -> None:
    like = image("LPS", 17)
    given = example(like, overlap=overlap)
    io.save(given, tmp_path / "a.seg.nrrd", like)
    found = SimpleITK.ReadImage(str(tmp_path / "a.seg.nrrd"))
    array: NDArray[np.generic] = SimpleITK.GetArrayFromImage(found)
    layers = array[..., None] if array.ndim == 3 else array
    np.testing.assert_allclose(found.GetOrigin(), (np.diag([-1, -1, 1, 1]) @ like.affine)[:3, 3], atol=1e-9)
    np.testing.assert_allclose(found.GetSpacing(), like.spacing_mm, rtol=1e-9)
    data, _ = pynrrd.read(str(tmp_path / "a.seg.nrrd"))
    for n, layer in enumerate(given.maps):
        np.testing.assert_array_equal(layers[..., n].transpose(2, 1, 0), layer)
        np.testing.assert_array_equal(data[n] if overlap else data, layer)

"""DICOM pixels: transfer syntaxes, scaling, padding, damage; and objects that are no series."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from medical_sam2 import io
from medical_sam2.errors import FormatError, GeometryError, InputError
from medical_sam2.volume import Segmentation
from tests.io.making import AXIAL, Series, base, made, phantom, same, save


def compressed(syntax: str) -> Callable[[Dataset], None]:
    def compress(dataset: Dataset) -> None:
        dataset.compress(syntax, generate_instance_uid=False)

    return compress


def plain(syntax: str) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(dataset.file_meta, "TransferSyntaxUID", syntax)


@pytest.mark.parametrize(
    "change",
    [
        plain(ImplicitVRLittleEndian),
        plain(DeflatedExplicitVRLittleEndian),
        compressed(RLELossless),
        compressed(JPEG2000Lossless),
        compressed(JPEGLSLossless),
    ],
)
def test_transfer_syntaxes(tmp_path: Path, change: Callable[[Dataset], None]) -> None:
    array = phantom((32, 40, 3)) % 4096
    for k, dataset in enumerate(Series(AXIAL, array).slices()):
        change(dataset)
        save(dataset, tmp_path / f"{k}.dcm")
    same(io.load(tmp_path), array=array)


@given(
    place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), syntax=st.sampled_from([RLELossless, JPEG2000Lossless])
)
@settings(max_examples=25)
def test_a_damaged_file_is_refused_or_read_never_more(place: float, value: int, syntax: str) -> None:
    dataset = Series(AXIAL, phantom((32, 40, 1))).slices()[0]
    dataset.compress(syntax, generate_instance_uid=False)
    with TemporaryDirectory() as folder:
        path = Path(folder, "one.dcm")
        save(dataset, path)
        data = bytearray(path.read_bytes())
        data[132 + int(place * (len(data) - 132))] = value
        path.write_bytes(data)
        try:
            said = str(io.read(path))
        except InputError as error:
            said = str(error)
        assert "CANARY" not in said


def test_an_unknown_transfer_syntax_is_refused(tmp_path: Path) -> None:
    dataset = Series(AXIAL, phantom()).slices()[0]
    save(dataset, tmp_path / "one.dcm")
    path = tmp_path / "one.dcm"
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.99999.1.2.1\0"))
    with pytest.raises(FormatError, match="transfer syntax"):
        io.load(path)


def test_each_slice_has_its_own_scaling(tmp_path: Path) -> None:
    made(tmp_path, RescaleSlope=lambda k: [1, 0.25][k % 2], RescaleIntercept=lambda k: str(-k))
    expected = phantom() * np.array([1, 0.25] * 3) - np.arange(6)
    np.testing.assert_allclose(io.load(tmp_path).array, expected)


@pytest.mark.parametrize(("intercept", "kind"), [(0, np.int16), (-1024, np.int16), (-40000, np.int32)])
def test_whole_numbers_stay_whole_in_the_smallest_type(tmp_path: Path, intercept: int, kind: type) -> None:
    array = phantom() - np.int16(1500)
    made(tmp_path, array, RescaleIntercept=intercept)
    volume = io.load(tmp_path)
    assert volume.array.dtype == kind
    np.testing.assert_array_equal(volume.array, array.astype(int) + intercept)


@pytest.mark.parametrize("padding", [-2000, 30000])
def test_padding_becomes_the_smallest_real_value(tmp_path: Path, padding: int) -> None:
    array = phantom()
    lowest = array[1:].min()
    array[0] = padding
    made(tmp_path, array)
    for path in tmp_path.iterdir():
        dataset = dcmread(path)
        dataset.add_new("PixelPaddingValue", "SS", padding)
        save(dataset, path)
    volume = io.load(tmp_path)
    assert (volume.array[0] == lowest).all()
    np.testing.assert_array_equal(volume.array[1:], array[1:])


def test_twelve_bits_are_signed(tmp_path: Path) -> None:
    array = np.clip(phantom(), -2048, 2047)
    made(tmp_path, array & 0x0FFF, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(io.load(tmp_path).array, array)


def test_objects_without_a_place_are_pictures(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, 4, 5)).astype(np.uint8)
    cine = base(frames, "1.2.840.10008.5.1.4.1.1.3.1")  # type: ignore[arg-type]
    cine.Modality, cine.NumberOfFrames, cine.PixelSpacing = "US", 3, [0.5, 0.25]
    save(cine, tmp_path / "cine.dcm")
    pictures = io.load_pictures(tmp_path / "cine.dcm")
    np.testing.assert_array_equal(np.stack([picture.array for picture in pictures]), frames)
    assert (pictures[0].spacing_mm, pictures[2].frame, pictures[0].modality) == ((0.5, 0.25), 2, "US")
    volume = io.load(tmp_path / "cine.dcm")
    np.testing.assert_array_equal(volume.array, frames.transpose(2, 1, 0))
    assert volume.spacing_mm == (0.25, 0.5, 1.0)
    assert "mean nothing" in volume.warnings[-1]
    for name, kind in (("a.dcm", "a DICOM-SEG"), ("a.rtstruct.dcm", "an RTSTRUCT")):
        with pytest.raises(
            GeometryError, match=f"{kind} refers to places in the patient, and the frames of a film have none; save"
        ):
            io.save(Segmentation(np.ones(volume.shape, np.uint8), volume.affine), tmp_path / name, volume)


def test_monochrome1_pictures_are_turned_to_bright_is_large(tmp_path: Path) -> None:
    frame = np.arange(20, dtype=np.uint8).reshape(4, 5)
    film = base(frame, "1.2.840.10008.5.1.4.1.1.1")  # type: ignore[arg-type]
    film.Modality, film.PhotometricInterpretation = "CR", "MONOCHROME1"
    save(film, tmp_path / "film.dcm")
    (picture,) = io.load_pictures(tmp_path / "film.dcm")
    np.testing.assert_array_equal(picture.array, 255 - frame)


def test_a_single_slice_has_a_place_and_a_thickness(tmp_path: Path) -> None:
    dataset = Series(AXIAL, phantom()).slices()[2]
    dataset.SliceThickness = 4
    save(dataset, tmp_path / "one.dcm")
    volume = io.load(tmp_path / "one.dcm")
    np.testing.assert_array_equal(volume.array[:, :, 0], phantom()[:, :, 2])
    np.testing.assert_allclose(volume.affine[:3, 3], (AXIAL @ [0, 0, 2, 1])[:3])
    assert volume.spacing_mm == (2.0, 2.5, 4.0)

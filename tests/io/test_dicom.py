"""DICOM series by their positions: any orientation, any order of files, and every inconsistency refused or told."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from medical_sam2 import io
from medical_sam2.errors import AmbiguousError, FormatError, GeometryError, InputError
from medical_sam2.volume import Volume
from tests.io.making import Series, affines, base, enhanced, oriented, phantom, save, short
from tests.strategies import CODES, seeds

AXIAL = oriented("LPS") @ np.diag([2.0, 2.5, 3.0, 1.0])


def ascending(affine: NDArray[np.float64], array: NDArray[np.int16]) -> tuple[NDArray[np.float64], NDArray[np.int16]]:
    """The same grid with its slices along the normal (rows × columns, in LPS), as a reader sorts them."""
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    if np.linalg.det(lps[:3, :3]) > 0:
        return affine, array
    turned = affine.copy()
    turned[:3, 3] += turned[:3, 2] * (array.shape[2] - 1)
    turned[:3, 2] *= -1
    return turned, array[:, :, ::-1]


def made(folder: Path, array: NDArray[np.int16] | None = None, **tags: object) -> list[Dataset]:
    return Series(AXIAL, phantom() if array is None else array).write(folder, **tags)  # type: ignore[arg-type]


def same(volume: Volume, affine: NDArray[np.float64] = AXIAL, array: NDArray[np.int16] | None = None) -> None:
    expected, voxels = ascending(affine, phantom() if array is None else array)
    np.testing.assert_array_equal(volume.array, voxels)
    np.testing.assert_allclose(volume.affine, expected, atol=1e-4)


@given(affine=affines(), seed=seeds, order=st.permutations(range(6)))
@settings(max_examples=8)
def test_slices_are_put_in_order_by_their_positions_alone(affine: NDArray[np.float64], seed: int, order: list[int]) -> None:
    array = phantom(seed=seed)
    with TemporaryDirectory() as folder:
        for name, dataset in zip(order, Series(affine, array).slices(), strict=True):
            dataset.InstanceNumber = 10 - name
            save(dataset, Path(folder, str(name % 2), f"{name}.dcm"))
        volume = io.load(folder)
    same(volume, affine, array)
    assert volume.warnings == ()
    assert volume.modality == "CT"


@pytest.mark.parametrize("code", CODES)
def test_every_orientation(tmp_path: Path, code: str) -> None:
    affine = oriented(code) @ np.diag([1.5, 2.0, 3.0, 1.0])
    Series(affine, phantom()).write(tmp_path)
    same(io.load(tmp_path), affine)


@given(affine=affines(), order=st.permutations(range(6)))
@settings(max_examples=8)
def test_frames_of_an_enhanced_object_are_put_in_order_too(affine: NDArray[np.float64], order: list[int]) -> None:
    with TemporaryDirectory() as folder:
        save(enhanced(Series(affine, phantom()), order), Path(folder, "one.dcm"))
        volume = io.load(Path(folder, "one.dcm"))
    same(volume, affine)


@pytest.mark.parametrize("name", ["PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"])
def test_an_enhanced_object_without_its_places_is_refused(tmp_path: Path, name: str) -> None:
    dataset = enhanced(Series(AXIAL, phantom()), list(range(6)))
    for group in (*dataset.PerFrameFunctionalGroupsSequence, *dataset.SharedFunctionalGroupsSequence):
        if name in group:
            delattr(group, name)
    save(dataset, tmp_path / "one.dcm")
    with pytest.raises(GeometryError, match="missing"):
        io.load(tmp_path / "one.dcm")


def test_a_tilted_gantry_is_told_and_its_true_positions_kept(tmp_path: Path) -> None:
    tilted = AXIAL.copy()
    tilted[:3, 2] = 0, 0.8, 2.9
    Series(tilted, phantom()).write(tmp_path)
    volume = io.load(tmp_path)
    same(volume, tilted)
    assert "tilted by 15.4°" in volume.warnings[0]


@pytest.mark.parametrize("gone", [[2], [1, 2, 3], [1, 4]])
def test_a_gap_is_refused_or_filled(tmp_path: Path, gone: list[int]) -> None:
    made(tmp_path)
    for k in gone:
        (tmp_path / f"IM{k:04d}.dcm").unlink()
    with pytest.raises(GeometryError, match=r"missing \(gap"):
        io.load(tmp_path)
    volume = io.load(tmp_path, allow_gap=True)
    np.testing.assert_allclose(volume.affine, AXIAL, atol=1e-6)
    assert f"{len(gone)} of 6 slices are missing" in volume.warnings[0]
    kept = [k for k in range(6) if k not in gone]
    np.testing.assert_array_equal(volume.array[:, :, kept], phantom()[:, :, kept])
    if gone == [2]:
        mean = np.rint((phantom()[:, :, 1].astype(float) + phantom()[:, :, 3]) / 2)
        np.testing.assert_array_equal(volume.array[:, :, 2], mean)


def place(k: int, x: float, y: float, z: float) -> list[str]:
    """A position moved from where slice k belongs."""
    return short([x, y, 3.0 * k + z])


@pytest.mark.parametrize(
    ("tags", "error", "said"),
    [
        ({"ImageOrientationPatient": None}, GeometryError, "ImageOrientationPatient"),
        ({"ImagePositionPatient": None}, GeometryError, "ImagePositionPatient"),
        ({"PixelSpacing": None}, GeometryError, "PixelSpacing"),
        ({"PixelSpacing": lambda k: [2.5, 2.0 + 0.1 * (k == 3)]}, GeometryError, "PixelSpacing"),
        ({"PixelSpacing": [0.0, 2.0]}, GeometryError, "PixelSpacing"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, GeometryError, "perpendicular"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 1, 0]}, GeometryError, "directions"),
        (
            {"ImageOrientationPatient": lambda k: short([1, 0, 0, 0, np.cos(k / 50), np.sin(k / 50)])},
            GeometryError,
            "orientation",
        ),
        ({"ImagePositionPatient": lambda k: place(k, 0, 0, 1.0 * (k > 2))}, GeometryError, "irregular"),
        ({"ImagePositionPatient": lambda k: place(k, 0, 2.0 * (k > 2), 0)}, GeometryError, "irregular"),
        ({"ImagePositionPatient": lambda k: place(k - (k == 3), 0, 0, 0)}, GeometryError, "surplus"),
        ({"PatientID": lambda k: f"CANARY-{k == 2}"}, FormatError, "patients"),
        ({"StudyInstanceUID": lambda k: f"1.2.{k // 3}"}, FormatError, "studies"),
        ({"FrameOfReferenceUID": lambda k: f"1.2.{k // 3}"}, FormatError, "frames of reference"),
        ({"SeriesInstanceUID": "../../escape"}, FormatError, "identifier"),
        ({"Rows": 0}, FormatError, "Rows"),
        ({"Columns": None}, FormatError, "Columns"),
        ({"BitsAllocated": 12}, FormatError, "BitsAllocated"),
        ({"HighBit": 3}, FormatError, "HighBit"),
        ({"PixelData": lambda k: bytes(30)}, FormatError, "truncated"),
        ({"PixelData": None}, FormatError, "incomplete"),
        ({"Modality": "SR"}, FormatError, "no DICOM images"),
    ],
)
def test_inconsistent_series_are_refused(tmp_path: Path, tags: dict[str, object], error: type[InputError], said: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made(tmp_path, **tags)
    with pytest.raises((error, FormatError), match=said) as caught:
        io.load(tmp_path)
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"ImagePositionPatient": lambda k: place(k, 0, 0, 0.0005 * (-1) ** k)}, None),
        ({"ImagePositionPatient": lambda k: place(k, 0, 0, 0.03 * (-1) ** k)}, "beside the regular grid"),
        ({"ImageOrientationPatient": [2, 0, 0, 0, 2, 0]}, "unit length"),
        ({"BurnedInAnnotation": "YES"}, "BurnedInAnnotation"),
        ({"PixelData": lambda k: phantom()[:, :, k].T.tobytes() + bytes(64)}, "too long"),
    ],
)
def test_oddities_are_told(tmp_path: Path, tags: dict[str, object], said: str | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made(tmp_path, **tags)
    volume = io.load(tmp_path)
    np.testing.assert_array_equal(volume.array, phantom())
    np.testing.assert_allclose(volume.affine, AXIAL, atol=0.05)
    assert [said in warning for warning in volume.warnings if said] == [True] * (said is not None)


def test_junk_is_counted_and_named(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / ".DS_Store").write_bytes(b"junk")
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "half.dcm").write_bytes((tmp_path / "IM0000.dcm").read_bytes()[:180])
    (tmp_path / "DICOMDIR").write_bytes(b"index")
    volume = io.load(tmp_path)
    same(volume)
    assert volume.warnings[0].startswith(
        "3 files that are no readable DICOM images were skipped: .DS_Store, empty.dcm, half.dcm"
    )


@given(share=st.floats(0.3, 1, exclude_max=True))
@settings(max_examples=10)
def test_a_series_with_a_cut_slice_is_never_filled_with_zeros(share: float) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        made(folder)
        data = (folder / "IM0003.dcm").read_bytes()
        (folder / "IM0003.dcm").write_bytes(data[: int(share * len(data))])
        with pytest.raises((FormatError, GeometryError), match=r"IM0003|missing"):
            io.load(folder)


def test_a_localizer_is_left_out(tmp_path: Path) -> None:
    made(tmp_path, ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    scout = dcmread(tmp_path / "IM0000.dcm")
    scout.ImageType, scout.SOPInstanceUID = ["ORIGINAL", "PRIMARY", "LOCALIZER"], generate_uid()
    scout.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    save(scout, tmp_path / "scout.dcm")
    volume = io.load(tmp_path)
    same(volume)
    assert "localizer" in volume.warnings[0]


def test_copies_of_a_slice_are_left_out(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "copy.dcm").write_bytes((tmp_path / "IM0002.dcm").read_bytes())
    volume = io.load(tmp_path)
    same(volume)
    assert "twice" in volume.warnings[0]


def test_one_of_several_series_must_be_chosen(tmp_path: Path) -> None:
    made(tmp_path / "a")
    other = phantom(seed=5)
    made(tmp_path / "b", other, SeriesNumber=2)
    with pytest.raises(AmbiguousError, match=r"--series 1 \(CT, 6 slices of 5×4\), --series 2"):
        io.load(tmp_path)
    same(io.load(tmp_path, series=1))
    same(io.load(tmp_path, series="2"), array=other)
    same(io.load(tmp_path, series=dcmread(tmp_path / "b" / "IM0000.dcm").SeriesInstanceUID), array=other)
    with pytest.raises(InputError, match="no series 3"):
        io.load(tmp_path, series=3)


def test_numbers_that_are_none_are_told(tmp_path: Path) -> None:
    made(tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(re.sub(rb"\x20\x00\x13\x00IS\x02\x00. ", b"\x20\x00\x13\x00IS\x02\x00ab", path.read_bytes()))
    volume = io.load(tmp_path)
    same(volume)
    assert volume.warnings == ("InstanceNumber is no number; slices are put in order by their positions alone",)


def test_frames_that_lie_at_one_place_must_be_chosen(tmp_path: Path) -> None:
    made(tmp_path, NumberOfFrames=2, PixelData=bytes(2 * 2 * 20))
    with pytest.raises(AmbiguousError, match="--frame"):
        io.load(tmp_path)


@pytest.mark.parametrize("tag", ["TemporalPositionIdentifier", "TriggerTime", "EchoTime", "AcquisitionTime"])
def test_one_of_several_times_must_be_chosen(tmp_path: Path, tag: str) -> None:
    uids = {name: generate_uid() for name in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")}
    later = phantom(seed=5)
    made(tmp_path, later, names="b{}.dcm", **uids, **{tag: "120030"})
    made(tmp_path, names="z{}.dcm", **uids, **{tag: "120000"})
    with pytest.raises(AmbiguousError, match=f"{tag}.*--frame 0"):
        io.load(tmp_path)
    same(io.load(tmp_path, frame=0))
    same(io.load(tmp_path, frame=1), array=later)
    with pytest.raises(InputError, match="no time point 2"):
        io.load(tmp_path, frame=2)


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


def test_a_file_without_preamble_is_read(tmp_path: Path) -> None:
    made(tmp_path)
    for path in tmp_path.iterdir():
        data = path.read_bytes()
        path.write_bytes(data[132:])
    same(io.load(tmp_path))


def test_deep_sequences_are_refused_or_read(tmp_path: Path) -> None:
    dataset = Series(AXIAL, phantom()).slices()[0]
    save(dataset, tmp_path / "one.dcm")
    data = (tmp_path / "one.dcm").read_bytes()
    opening = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closing = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    start = data.index(b"\x10\x00\x10\x00PN")
    (tmp_path / "one.dcm").write_bytes(data[:start] + opening * 2000 + closing * 2000 + data[start:])
    with pytest.raises(FormatError, match=r"nested|damaged"):
        io.load(tmp_path / "one.dcm")

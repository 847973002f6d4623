"""DICOM series by their positions: any orientation, any order of files, and every inconsistency refused or told."""

import re
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.uid import (
    generate_uid,
)

from medical_sam2 import io
from medical_sam2.errors import AmbiguousError, FormatError, GeometryError, InputError
from tests.io.making import AXIAL, CANARY, Series, affines, enhanced, made, oriented, phantom, same, save, short
from tests.strategies import CODES, seeds


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
        ({"ImagePositionPatient": [0, 0, 0]}, GeometryError, "one position"),
        ({"RescaleSlope": 0}, FormatError, "RescaleSlope"),
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
        ({"SpacingBetweenSlices": 1.5}, "SpacingBetweenSlices says 1.5 mm, positions say 3 mm"),
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


def test_junk_is_counted_by_kind_and_no_name_is_told(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / ".DS_Store").write_bytes(b"junk")
    (tmp_path / "DOE_JOHN_19500101.pdf").write_bytes(b"letter")
    (tmp_path / "DOE.JOHN").write_bytes(b"letter")
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "half.dcm").write_bytes((tmp_path / "IM0000.dcm").read_bytes()[:180])
    (tmp_path / "DICOMDIR").write_bytes(b"index")
    volume = io.load(tmp_path)
    same(volume)
    assert "DOE" not in " ".join(volume.warnings).upper()
    assert volume.warnings[0].startswith("5 files were skipped, no readable DICOM image: 2 .dcm, 1 .pdf, 2 of another kind")


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


def test_a_series_of_localizers_is_no_choice(tmp_path: Path) -> None:
    made(tmp_path / "a", SeriesNumber=3)
    made(tmp_path / "b", phantom(seed=5)[:, :, :2], SeriesNumber=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    volume = io.load(tmp_path)
    same(volume)
    assert volume.warnings == ("left out: --series 1 (CT, localizer, 2 slices of 5×4, series number 1)",)
    assert io.load(tmp_path, series=1).shape == (5, 4, 2)
    made(tmp_path / "c", phantom(seed=6), SeriesNumber=4)
    with pytest.raises(
        AmbiguousError, match=r"holds 3 series.* --series 1 \(CT, localizer, 2 slices of 5×4, series number 1\), "
    ):
        io.load(tmp_path)


def test_a_folder_of_localizers_alone_asks_which(tmp_path: Path) -> None:
    for n in (1, 2):
        made(tmp_path / str(n), SeriesNumber=n, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    with pytest.raises(AmbiguousError, match="holds 2 series"):
        io.load(tmp_path)


def test_series_are_told_apart_by_what_differs_but_not_by_what_people_wrote(tmp_path: Path) -> None:
    """Numbers and the scanner's own words; a kernel that is none may hold a name."""
    texts = {"SeriesDescription": CANARY, "ProtocolName": CANARY}
    thick = AXIAL @ np.diag([1, 1, 2, 1])
    kinds = (
        {"SeriesNumber": 3, "SliceThickness": 6, "ConvolutionKernel": "B30f"},
        {"SeriesNumber": 4, "SliceThickness": 3, "ConvolutionKernel": ["I70f", "3"]},
        {"SeriesNumber": 5, "SliceThickness": 3, "ConvolutionKernel": CANARY[:16], "EchoTime": 90},
    )
    for n, (affine, tags) in enumerate(zip((thick, AXIAL, AXIAL), kinds, strict=True)):
        Series(affine, phantom()).write(tmp_path / str(n), **texts, **tags)
    with pytest.raises(AmbiguousError) as told:
        io.load(tmp_path)
    assert told.value.choices == (
        "--series 1 (CT, 6 slices of 5×4, series number 3, 6 mm thick, 6 mm apart, kernel B30f)",
        "--series 2 (CT, 6 slices of 5×4, series number 4, 3 mm thick, 3 mm apart, kernel I70f, 3)",
        "--series 3 (CT, 6 slices of 5×4, series number 5, 3 mm thick, 3 mm apart, echo time 90 ms)",
    )


def test_one_of_several_series_must_be_chosen(tmp_path: Path) -> None:
    made(tmp_path / "a")
    other = phantom(seed=5)
    made(tmp_path / "b", other, SeriesNumber=2)
    with pytest.raises(AmbiguousError, match=r"--series 1 \(CT, 6 slices of 5×4, series number 1\), --series 2 \(CT, 6 "):
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

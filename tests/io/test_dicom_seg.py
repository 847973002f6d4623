"""A DICOM-SEG belongs to its source images, and comes back voxel for voxel."""

from pathlib import Path
from tempfile import TemporaryDirectory
from warnings import catch_warnings, simplefilter

import highdicom
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import SegmentationStorage

from medical_sam2 import io
from medical_sam2.errors import FormatError, GeometryError
from medical_sam2.io.registry import DICOM_SEG
from medical_sam2.volume import Segmentation, Volume
from tests.io.making import Series, affines, enhanced, oriented, phantom, save
from tests.io.test_dicom import AXIAL

LABELS = np.random.default_rng(0).choice([0, 7, 300], (5, 4, 6), p=[0.6, 0.2, 0.2])
LABELS[:, :, 2] = 0


def written(volume: Volume, folder: Path, labels: NDArray[np.integer] = LABELS) -> Path:
    io.save(Segmentation(labels.astype(np.uint16), volume.affine, names={7: "liver"}), folder / "seg.dcm", volume)
    return folder / "seg.dcm"


def header(path: Path) -> Dataset:
    with catch_warnings():
        simplefilter("ignore")
        return dcmread(path)


@given(affine=affines())
@settings(max_examples=4)
def test_labels_come_back_for_any_orientation(affine: NDArray[np.float64]) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name, "series")
        Series(affine, phantom()).write(folder)
        volume = io.load(folder)
        found = io.load_labels(written(volume, Path(name)), volume)
    np.testing.assert_array_equal(found.array, LABELS)
    assert found.array.dtype == np.uint16


def test_frames_that_do_not_begin_with_a_byte(tmp_path: Path) -> None:
    """13 × 11 pixels are 143 bits."""
    labels = np.random.default_rng(1).integers(0, 2, (11, 13, 4)).astype(np.uint8)
    Series(AXIAL, np.random.default_rng(0).integers(0, 100, labels.shape).astype(np.int16)).write(tmp_path / "series")
    volume = io.load(tmp_path / "series")
    np.testing.assert_array_equal(io.load_labels(written(volume, tmp_path, labels), volume).array, labels)


def test_a_tilted_gantry_keeps_each_slice_in_its_place(tmp_path: Path) -> None:
    tilted = AXIAL.copy()
    tilted[:3, 2] = 0, 0.8, 2.9
    Series(tilted, phantom()).write(tmp_path / "series")
    volume = io.load(tmp_path / "series")
    path = written(volume, tmp_path)
    np.testing.assert_array_equal(io.load_labels(path, volume).array, LABELS)
    for group in header(path).PerFrameFunctionalGroupsSequence:
        x, y, z = map(float, group.PlanePositionSequence[0].ImagePositionPatient)
        i, j, k = volume.to_voxel((-x, -y, z))
        np.testing.assert_allclose((i, j, k), (0, 0, round(k)), atol=1e-3)


def test_a_multi_frame_source(tmp_path: Path) -> None:
    save(enhanced(Series(AXIAL, phantom()), [3, 1, 5, 0, 2, 4]), tmp_path / "one.dcm")
    volume = io.load(tmp_path / "one.dcm")
    np.testing.assert_array_equal(io.load_labels(written(volume, tmp_path), volume).array, LABELS)


def test_it_belongs_to_the_patient_and_repeats_nothing_else(tmp_path: Path) -> None:
    sources = Series(AXIAL, phantom()).write(tmp_path / "series")
    for path in (tmp_path / "series").iterdir():
        path.write_bytes(b"MZ" + path.read_bytes()[2:])
    path = written(io.load(tmp_path / "series"), tmp_path)
    found = header(path)
    for name in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert found[name].value == sources[0][name].value
    assert found.SeriesInstanceUID != sources[0].SeriesInstanceUID
    assert found.SOPClassUID == SegmentationStorage
    assert path.read_bytes()[:128] == bytes(128)
    assert [segment.SegmentLabel for segment in found.SegmentSequence] == ["liver", "object 300"]
    referred = {
        item.ReferencedSOPInstanceUID
        for group in found.PerFrameFunctionalGroupsSequence
        for derivation in group.DerivationImageSequence
        for item in derivation.SourceImageSequence
    }
    assert referred == {source.SOPInstanceUID for k, source in enumerate(sources) if k != 2}


@pytest.mark.parametrize("label", [1, 9])
def test_a_single_object(tmp_path: Path, label: int) -> None:
    Series(AXIAL, phantom()).write(tmp_path / "series")
    volume = io.load(tmp_path / "series")
    labels = (LABELS > 0) * label
    np.testing.assert_array_equal(io.load_labels(written(volume, tmp_path, labels), volume).array, labels)


def with_a_gap(folder: Path) -> Volume:
    """A series whose slice 1 is interpolated."""
    Series(AXIAL, phantom()).write(folder / "series")
    (folder / "series" / "IM0001.dcm").unlink()
    return io.load(folder / "series", allow_gap=True)


def test_interpolated_slices_are_left_out(tmp_path: Path) -> None:
    volume = with_a_gap(tmp_path)
    expected = LABELS.copy()
    expected[:, :, 1] = 0
    np.testing.assert_array_equal(io.load_labels(written(volume, tmp_path), volume).array, expected)


@pytest.mark.parametrize("overlap", [True, False])
def test_what_lies_on_interpolated_slices_is_told(tmp_path: Path, overlap: bool) -> None:
    """Each object counts whole, as in the summary of a run."""
    volume, times = with_a_gap(tmp_path), 2 if overlap else 1
    layers = (LABELS, (LABELS > 0) * 9) if overlap else ()
    found = Segmentation(LABELS.astype(np.uint16), volume.affine, {}, layers=layers)
    lost, whole = (times * int(np.count_nonzero(each)) for each in (LABELS[:, :, 1], LABELS))
    assert io.save(found, tmp_path / "seg.dcm", volume) == [
        f"1 slice was interpolated, without an image, so a DICOM-SEG holds no outline there: {lost} of {whole} voxels, "
        f"{lost * volume.voxel_mm3 / 1000:.4g} mL, are not in the file"
    ]


@pytest.mark.parametrize("name", ["seg.dcm", "seg.rtstruct.dcm"])
def test_an_object_on_an_interpolated_slice_alone_is_refused(tmp_path: Path, name: str) -> None:
    volume, labels = with_a_gap(tmp_path), np.zeros_like(LABELS)
    labels[1:3, 1:3, 1] = 1
    with pytest.raises(FormatError, match="nothing is segmented on a slice that has an image"):
        io.save(Segmentation(labels.astype(np.uint8), volume.affine), tmp_path / name, volume)
    assert not (tmp_path / name).exists()


def test_emptied_identifiers_are_taken_from_the_preface(tmp_path: Path) -> None:
    Series(AXIAL, phantom()).write(tmp_path / "series")
    for path in (tmp_path / "series").iterdir():
        dataset = dcmread(path)
        dataset.SOPClassUID, dataset.SOPInstanceUID = "", ""
        dataset.save_as(path)
    volume = io.load(tmp_path / "series")
    np.testing.assert_array_equal(io.load_labels(written(volume, tmp_path), volume).array, LABELS)


def test_an_emptied_study_is_refused(tmp_path: Path) -> None:
    Series(AXIAL, phantom()).write(tmp_path / "series", StudyInstanceUID="")
    with pytest.raises(FormatError, match="StudyInstanceUID"):
        written(io.load(tmp_path / "series"), tmp_path)
    assert not (tmp_path / "seg.dcm").exists()


def test_nothing_is_no_segmentation(tmp_path: Path) -> None:
    Series(AXIAL, phantom()).write(tmp_path / "series")
    with pytest.raises(FormatError, match="nothing is segmented"):
        written(io.load(tmp_path / "series"), tmp_path, LABELS * 0)


def test_a_volume_from_elsewhere_has_no_source(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="not read from DICOM"):
        written(Volume(phantom(), AXIAL), tmp_path)


@pytest.mark.parametrize("shift", [(4.0, 0.0, 0.0), (0.0, 0.0, 1.5), (0.0, 0.0, 300.0)])
def test_frames_beside_the_image_are_refused(tmp_path: Path, shift: tuple[float, float, float]) -> None:
    Series(AXIAL, phantom()).write(tmp_path / "series")
    volume = io.load(tmp_path / "series")
    moved = volume.affine.copy()
    moved[:3, 3] += shift
    with pytest.raises(GeometryError, match="frames"):
        io.load_labels(written(volume, tmp_path), Volume(volume.array, moved))


def test_it_fits_the_same_image_in_another_order(tmp_path: Path) -> None:
    Series(AXIAL, phantom()).write(tmp_path / "series")
    volume = io.load(tmp_path / "series")
    path = written(volume, tmp_path)
    turned = oriented("LPS")[:, [2, 0, 1, 3]]
    affine = np.eye(4)
    affine[:3, :3] = volume.affine[:3, [2, 0, 1]]
    affine[:3, 0] *= -1
    affine[:3, 3] = volume.affine[:3, 3] + volume.affine[:3, 2] * 5
    assert turned.shape == (4, 4)
    other = Volume(volume.array.transpose(2, 0, 1)[::-1], affine)
    np.testing.assert_array_equal(io.load_labels(path, other).array, LABELS.transpose(2, 0, 1)[::-1])


def test_names_that_do_not_fit_stay_apart_and_whole_in_the_description(tmp_path: Path) -> None:
    Series(AXIAL, phantom()).write(tmp_path / "series")
    volume = io.load(tmp_path / "series")
    names = {7: "x" * 70 + " left", 300: "x" * 70 + " right"}
    io.save(Segmentation(LABELS.astype(np.uint16), volume.affine, names=names), tmp_path / "seg.dcm", volume)
    segments = header(tmp_path / "seg.dcm").SegmentSequence
    assert [segment.SegmentLabel for segment in segments] == ["x" * 60 + " (7)", "x" * 58 + " (300)"]
    assert [segment.SegmentDescription for segment in segments] == list(names.values())


def test_names_that_fit_are_written_as_they_are(tmp_path: Path) -> None:
    names = {1: "y" * 64, 2: "y" * 65, 3: "lobe\\upper", 4: "lobe"}
    changed = DICOM_SEG.changed_names(names)
    assert changed == {2: "y" * 60 + " (2)", 3: "lobe upper"}


@pytest.mark.parametrize("overlap", [True, False])
def test_segments_that_overlap_come_back_with_names_and_colours(tmp_path: Path, overlap: bool) -> None:
    Series(AXIAL, phantom()).write(tmp_path / "series")
    volume = io.load(tmp_path / "series")
    inner = np.zeros_like(LABELS)
    inner[1:4, 1:3, 1:5] = 12
    layers = (LABELS, inner) if overlap else ()
    given = Segmentation(LABELS.astype(np.uint16), volume.affine, {7: "liver"}, layers=layers, colours={300: (255, 1, 128)})
    assert io.save(given, tmp_path / "seg.dcm", volume) == []
    stored = header(tmp_path / "seg.dcm")
    assert stored.SegmentsOverlap == ("YES" if overlap else "NO")
    found = {outline.label: outline for outline in io.load_outlines(tmp_path / "seg.dcm", volume)}
    assert sorted(found) == ([7, 12, 300] if overlap else [7, 300])
    for label, outline in found.items():
        np.testing.assert_array_equal(outline.inside, given.mask(label))
        np.testing.assert_allclose(outline.colour or (0, 0, 0), given.colour(label), atol=1)
    assert {label: outline.name for label, outline in found.items() if outline.name} == {7: "liver"}
    assert io.load_segmentation(tmp_path / "seg.dcm", volume).overlaps == overlap
    assert len(highdicom.seg.segread(tmp_path / "seg.dcm").segment_numbers) == len(found)

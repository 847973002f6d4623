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
from medical_sam2.errors import AmbiguousError, FormatError, GeometryError, MedicalSam2Error
from medical_sam2.io import MaskRule
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
    told = io.save(Segmentation(LABELS.astype(np.uint16), volume.affine, names=names), tmp_path / "seg.dcm", volume)
    assert told == DICOM_SEG.describe_changed_names(names) != []
    segments = header(tmp_path / "seg.dcm").SegmentSequence
    assert [segment.SegmentLabel for segment in segments] == ["x" * 60 + " (7)", "x" * 58 + " (300)"]
    assert [segment.SegmentDescription for segment in segments] == list(names.values())


def test_names_that_fit_are_written_as_they_are(tmp_path: Path) -> None:
    names = {1: "y" * 64, 2: "y" * 65, 3: "lobe\\upper", 4: "lobe"}
    told = DICOM_SEG.describe_changed_names(names)
    cut, plain = f'DICOM-SEG calls object 2 "{"y" * 60} (2)"', 'DICOM-SEG calls object 3 "lobe upper"'
    assert [line.split(", since its name does not fit")[0] for line in told] == [cut, plain]


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


def test_segments_that_overlap_are_no_label_map(tmp_path: Path) -> None:
    """As ROIs and the segments of 3D Slicer: a label map would lose what they share."""
    Series(AXIAL, phantom()).write(tmp_path / "series")
    volume, inner = io.load(tmp_path / "series"), np.zeros_like(LABELS)
    inner[1:4, 1:3, 1:5] = 12
    found = Segmentation(LABELS.astype(np.uint16), volume.affine, layers=(LABELS.astype(np.uint16), inner.astype(np.uint16)))
    io.save(found, tmp_path / "seg.dcm", volume)
    shared = np.count_nonzero((LABELS != 0) & (inner != 0))
    for read in (io.load_labels, io.load_named_labels):
        with pytest.raises(FormatError, match=rf"seg\.dcm: its segments overlap in {shared} voxels, and a label map holds one"):
            read(tmp_path / "seg.dcm", volume)


def test_a_frame_that_is_stored_twice_overlaps_nothing(tmp_path: Path) -> None:
    Series(AXIAL, phantom()).write(tmp_path / "series")
    volume = io.load(tmp_path / "series")
    dataset = header(written(volume, tmp_path))
    size, count = dataset.Rows * dataset.Columns, int(dataset.NumberOfFrames)
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")[: size * count]
    packed = np.packbits(np.append(bits, bits[:size]), bitorder="little").tobytes()
    dataset.PerFrameFunctionalGroupsSequence.append(dataset.PerFrameFunctionalGroupsSequence[0])
    dataset.NumberOfFrames, dataset.PixelData = count + 1, packed + b"\0" * (len(packed) % 2)
    dataset.save_as(tmp_path / "twice.dcm")
    np.testing.assert_array_equal(io.load_labels(tmp_path / "twice.dcm", volume).array, LABELS)


@pytest.mark.parametrize("name", ["seg.seg.nrrd", "seg.dcm", "seg.rtstruct.dcm", "seg.stl"])
@pytest.mark.parametrize("number", [-3, 65536, 200_000])
def test_a_number_of_no_object_is_written_to_no_file_of_objects(tmp_path: Path, name: str, number: int) -> None:
    """None of them could be read back with this number."""
    Series(AXIAL, phantom()).write(tmp_path / "series")
    volume, labels = io.load(tmp_path / "series"), np.where(LABELS == 7, number, LABELS)
    apart = Segmentation((LABELS == 300).astype(np.uint8), volume.affine, layers=((LABELS == 300).astype(np.uint8), labels))  # type: ignore[arg-type]
    for what in (labels, Segmentation(labels, volume.affine), apart):  # type: ignore[arg-type]
        with pytest.raises(
            FormatError, match=rf"{name}: no object can have the label {number}; number objects from 1 to 65535"
        ):
            io.save(what, tmp_path / name, volume)
    assert not (tmp_path / name).exists()


def by_highdicom(folder: Path, kind: str, frames: NDArray[np.generic]) -> tuple[Volume, Path]:
    """A series, and a DICOM-SEG of it that another program wrote: (slice, row, column, segment) of fractions, or numbers."""
    shape = frames.shape[2], frames.shape[1], frames.shape[0]
    sources = Series(AXIAL, phantom(shape)).write(folder / "series", SliceThickness=3)
    tissue = highdicom.sr.CodedConcept("85756007", "SCT", "Tissue")
    manual = highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
    segments = [highdicom.seg.SegmentDescription(n, f"part {n}", tissue, tissue, manual) for n in (1, 2)]
    with catch_warnings():
        simplefilter("ignore")
        highdicom.seg.Segmentation(
            *(sources, frames, kind, segments, highdicom.UID(), 5, highdicom.UID(), 1, "x", "y", "1", "1")
        ).save_as(folder / "seg.dcm")
    return io.load(folder / "series"), folder / "seg.dcm"


def test_the_ground_of_a_label_map_is_no_object(tmp_path: Path) -> None:
    labels = np.random.default_rng(2).integers(0, 3, (6, 4, 5)).astype(np.uint8)
    volume, path = by_highdicom(tmp_path, "LABELMAP", labels)
    assert header(path).SegmentSequence[0].SegmentNumber == 0
    found = io.load_outlines(path, volume)
    assert [(outline.label, outline.name) for outline in found] == [(1, "part 1"), (2, "part 2")]
    assert all((outline.inside == (outline.label == labels.T)).all() for outline in found)
    np.testing.assert_array_equal(io.load_labels(path, volume).array, labels.T)
    assert [outline.label for outline in io.load_named_labels(path, volume)[1]] == [1, 2]


def test_a_segment_0_that_is_no_ground_is_refused(tmp_path: Path) -> None:
    volume, path = by_highdicom(tmp_path, "BINARY", np.ones((6, 4, 5, 2), np.uint8))
    dataset = header(path)
    dataset.SegmentSequence[0].SegmentNumber = 0
    dataset.save_as(path)
    with pytest.raises(FormatError, match=r"seg\.dcm: its segments are not numbered from 1"):
        io.load_outlines(path, volume)


def test_fractional_segments_take_a_threshold(tmp_path: Path) -> None:
    """Each segment stays an object; the fractions are parts of the largest number that the file may store."""
    fractions = np.random.default_rng(3).random((6, 4, 5, 2)).round(2).astype(np.float32)
    volume, path = by_highdicom(tmp_path, "FRACTIONAL", fractions)
    assert header(path).MaximumFractionalValue == 255
    for threshold in (0.25, 0.75):
        found = io.load_outlines(path, volume, MaskRule(threshold=threshold))
        assert [(outline.label, outline.name) for outline in found] == [(1, "part 1"), (2, "part 2")]
        for outline in found:
            given = fractions[..., outline.label - 1].T
            sure = np.abs(given - threshold) > 1 / 255
            np.testing.assert_array_equal(outline.inside[sure], (given >= threshold)[sure])
    (joined,) = io.load_outlines(path, volume, MaskRule(object=7, threshold=0.6))
    assert joined.label == 7
    assert joined.inside.sum() > (fractions[..., 0] > 0.61).sum()


@pytest.mark.parametrize(
    ("kind", "threshold", "problem"),
    [
        ("FRACTIONAL", None, "soft edges or probabilities"),
        ("FRACTIONAL", 128, "its fractions are between 0 and 1, and nothing is told apart by a threshold of 128"),
        ("FRACTIONAL", 0, "its fractions are between 0 and 1"),
        ("FRACTIONAL", 0.9, "nothing of the mask reaches the threshold"),
        ("BINARY", 0.5, "its segments need neither a threshold nor a page"),
        ("LABELMAP", 0.5, "its segments need neither a threshold nor a page"),
    ],
)
def test_thresholds_that_mean_nothing(tmp_path: Path, kind: str, threshold: float | None, problem: str) -> None:
    numbers = np.full((6, 4, 5, 2), 0.5, np.float32) if kind == "FRACTIONAL" else np.ones((6, 4, 5), np.uint8)
    volume, path = by_highdicom(tmp_path, kind, numbers)
    with pytest.raises(MedicalSam2Error, match=problem) as told:
        io.load_outlines(path, volume, MaskRule(threshold=threshold))
    assert told.value.subject == path
    if kind == "FRACTIONAL" and threshold is None:
        assert isinstance(told.value, AmbiguousError)
        assert told.value.choices == ("--threshold 0.5 (of each segment what is at least that; 0 to 1)",)
        with pytest.raises(FormatError, match="it is no label map; threshold it first"):
            io.load_labels(path, volume)

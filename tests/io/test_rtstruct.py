"""A structure set belongs to its source series; its contours come back pixel for pixel, here and through other programs."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import RTStructureSetStorage
from rt_utils import RTStructBuilder
from scipy.spatial.transform import Rotation

from medical_sam2 import io
from medical_sam2.errors import FormatError, GeometryError, InputError, PromptError
from medical_sam2.io import MaskRule
from medical_sam2.metrics import dice
from medical_sam2.volume import Segmentation, Volume, colour_of
from tests.io.making import CANARY, Series, affines, enhanced, oriented, phantom, put, save
from tests.io.test_dicom import AXIAL

SHAPE = (24, 24, 6)  # square: rt-utils takes columns for rows where it makes room
PARTS = {2: "one voxel", 5: "one slice", 7: "shell", 300: "two parts"}


def objects() -> NDArray[np.uint16]:
    """A voxel, a slice, a shell with a hole and an island in it, and two parts that touch at a corner."""
    labels = np.zeros(SHAPE, np.uint16)
    i, j, k = np.indices(SHAPE)
    far = np.hypot(np.hypot(i - 9, j - 9), k - 2)
    labels[(far < 7) & (far > 3) & (k > 0)] = 7
    labels[9, 9, 2] = 7
    labels[20, 3, 5] = 2
    labels[19:22, 12:15, 4] = 5
    labels[0:2, 0:2, 0] = labels[2:4, 2:5, 0] = labels[22:, 18:, 1:3] = 300
    return labels


def series(folder: Path, affine: NDArray[np.float64] = AXIAL) -> Volume:
    Series(affine, phantom(SHAPE)).write(folder)
    return io.load(folder)


def square_pixels(code: str, turned: float) -> NDArray[np.float64]:
    """A grid for rt-utils, which takes distances of rows for those of columns."""
    affine = oriented(code) @ np.diag([0.8, 0.8, 3.0, 1.0])
    affine[:3, :3] = Rotation.from_rotvec([turned, -turned, turned / 2]).as_matrix() @ affine[:3, :3]
    affine[:3, 3] = 31.7, -120.4, 855.1
    return affine


def written(volume: Volume, folder: Path, labels: NDArray[np.integer] | None = None) -> Path:
    path = folder / "plan.rtstruct.dcm"
    array = (objects() if labels is None else labels).astype(np.uint16)
    assert io.save(Segmentation(array, volume.affine, names=PARTS), path, volume) == []
    return path


def changed(path: Path, change: Callable[[Dataset], object]) -> Path:
    dataset = dcmread(path)
    change(dataset)
    dataset.save_as(path)
    return path


def contours(dataset: Dataset, label: int = 7) -> list[Dataset]:
    (found,) = (item for item in dataset.ROIContourSequence if item.ReferencedROINumber == label)
    return list(found.ContourSequence)


@given(affine=affines())
@settings(max_examples=4, phases=(Phase.generate,))
def test_labels_come_back_for_any_orientation(affine: NDArray[np.float64]) -> None:
    with TemporaryDirectory() as name:
        volume = series(Path(name, "series"), affine)
        path = written(volume, Path(name))
        np.testing.assert_array_equal(io.load_labels(path, volume).array, objects())
        drawn = {outline.label: outline for outline in io.load_outlines(path, volume)}
    assert {label: outline.name for label, outline in drawn.items()} == PARTS
    assert all((outline.inside == (objects() == label)).all() for label, outline in drawn.items())


@pytest.mark.parametrize(("code", "turned"), [("LPS", 0.0), ("RIP", 0.0), ("LPS", 0.3), ("ASR", 0.2)])
def test_another_program_finds_the_same_voxels(tmp_path: Path, code: str, turned: float) -> None:
    """rt-utils rounds corners to pixels and fills from pixel to pixel; its arrays are (row, column, slice)."""
    volume = series(tmp_path / "series", square_pixels(code, turned))
    path = written(volume, tmp_path)
    other = RTStructBuilder.create_from(str(tmp_path / "series"), str(path))
    assert sorted(other.get_roi_names()) == sorted(PARTS.values())
    for label, called in PARTS.items():
        assert dice(other.get_roi_mask_by_name(called).transpose(1, 0, 2), objects() == label) >= 0.99, called


@pytest.mark.filterwarnings("ignore:.*is_little_endian:DeprecationWarning", "ignore:.*is_implicit_VR:DeprecationWarning")
def test_what_another_program_draws(tmp_path: Path) -> None:
    """rt-utils draws along the centres of pixels, holes as contours of their own."""
    volume = series(tmp_path / "series", square_pixels("LPS", 0.3))
    made = RTStructBuilder.create_new(str(tmp_path / "series"))
    for label, name in PARTS.items():
        made.add_roi((objects() == label).transpose(1, 0, 2), name=name)
    made.save(str(tmp_path / "other.dcm"))
    found = io.load_outlines(tmp_path / "other.dcm", volume)
    for outline, label in zip(found, PARTS, strict=True):
        np.testing.assert_array_equal(outline.inside, objects() == label)


def test_the_standard_is_kept(tmp_path: Path) -> None:
    path = written(series(tmp_path / "series"), tmp_path)
    told = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    assert "RTStructureSet" in told.stderr
    assert [line for line in told.stderr.splitlines() if line.startswith("Error")] == []


def test_it_belongs_to_the_patient_and_refers_to_each_slice(tmp_path: Path) -> None:
    sources = Series(AXIAL, phantom(SHAPE)).write(tmp_path / "series")
    found = dcmread(written(io.load(tmp_path / "series"), tmp_path))
    for name in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert found[name].value == sources[0][name].value
    assert found.SOPClassUID == RTStructureSetStorage
    assert {str(item.ReferencedFrameOfReferenceUID) for item in found.StructureSetROISequence} == {
        sources[0].FrameOfReferenceUID
    }
    for contour in contours(found):
        (image,) = contour.ContourImageSequence
        (source,) = (each for each in sources if each.SOPInstanceUID == image.ReferencedSOPInstanceUID)
        across = np.cross(*np.reshape(np.array(source.ImageOrientationPatient, float), (2, 3)))
        points = np.reshape(np.array(contour.ContourData, float), (-1, 3)) - np.array(source.ImagePositionPatient, float)
        np.testing.assert_allclose(points @ across, 0, atol=1e-5)
    assert [item.ReferencedROINumber for item in found.RTROIObservationsSequence] == sorted(PARTS)
    assert len({tuple(item.ROIDisplayColor) for item in found.ROIContourSequence}) == len(PARTS)


def test_a_tilted_gantry_and_a_multi_frame_object(tmp_path: Path) -> None:
    tilted = AXIAL.copy()
    tilted[:3, 2] = 0, 0.8, 2.9
    volume = series(tmp_path / "series", tilted)
    np.testing.assert_array_equal(io.load_labels(written(volume, tmp_path), volume).array, objects())
    save(enhanced(Series(AXIAL, phantom(SHAPE)), [3, 1, 5, 0, 2, 4]), tmp_path / "one.dcm")
    volume = io.load(tmp_path / "one.dcm")
    path = written(volume, tmp_path)
    np.testing.assert_array_equal(io.load_labels(path, volume).array, objects())
    frames = [item.ContourImageSequence[0].ReferencedFrameNumber for item in contours(dcmread(path), 2)]
    assert frames == [3], "slice 5 is the third frame"


def test_interpolated_slices_are_left_out_and_named(tmp_path: Path) -> None:
    series(tmp_path / "series")
    (tmp_path / "series" / "IM0001.dcm").unlink()
    volume = io.load(tmp_path / "series", allow_gap=True)
    told = io.save(Segmentation(objects(), volume.affine), tmp_path / "o.rtstruct.dcm", volume)
    assert told == [
        "1 slice was interpolated, without an image, so an RTSTRUCT holds no outline there: "
        f"{np.count_nonzero(objects()[:, :, 1])} of {np.count_nonzero(objects())} voxels, "
        f"{np.count_nonzero(objects()[:, :, 1]) * volume.voxel_mm3 / 1000:.4g} mL, are not in the file"
    ]
    found = io.load_labels(tmp_path / "o.rtstruct.dcm", volume)
    assert not found.array[:, :, 1].any()
    assert "ROI 300 has no contour on 1 slice between its first and its last one" in found.warnings


def test_objects_that_overlap_come_back_whole(tmp_path: Path) -> None:
    volume, path = series(tmp_path / "series"), tmp_path / "o.rtstruct.dcm"
    layers = (objects(), np.where(objects() > 7, 0, 9).astype(np.uint16))
    found = Segmentation(objects(), volume.affine, layers=layers, colours={9: (1, 2, 3)})
    assert io.save(found, path, volume) == []
    read = {outline.label: outline.inside for outline in io.load_outlines(path, volume)}
    for label in (*PARTS, 9):
        np.testing.assert_array_equal(read[label], found.mask(label))
    assert list(dcmread(path).ROIContourSequence[-2].ROIDisplayColor) == [1, 2, 3]
    with pytest.raises(FormatError, match="overlap"):
        io.load_labels(path, volume)
    (one,) = io.load_outlines(path, volume, MaskRule(value=300))
    assert (one.name, one.colour) == ("", colour_of(300))
    assert io.load_segmentation(path, volume).colours[9] == (1, 2, 3)


def test_a_hole_as_a_contour_of_its_own(tmp_path: Path) -> None:
    """XOR, as other programs draw it."""
    volume = series(tmp_path / "series")
    full, hole = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    full[2:16, 3:15, 2], hole[7:12, 7:12, 2] = True, True
    inner = contours(dcmread(written(volume, tmp_path, hole * 7)))
    path = changed(written(volume, tmp_path, full * 7), lambda d: d.ROIContourSequence[0].ContourSequence.extend(inner))
    np.testing.assert_array_equal(io.load_labels(path, volume).array == 7, full & ~hole)


def _move(contour: Dataset, by: tuple[float, float, float]) -> None:
    moved = np.reshape(np.array(contour.ContourData, float), (-1, 3)) + by
    contour.ContourData = [f"{number:.6f}" for number in moved.ravel()]


def _tilt(contour: Dataset) -> None:
    points = np.reshape(np.array(contour.ContourData, float), (-1, 3))
    points[0, 2] += 0.5
    contour.ContourData = [f"{number:.6f}" for number in points.ravel()]


def _cross(dataset: Dataset) -> None:
    copy = Dataset.from_json(contours(dataset)[0].to_json())
    _move(copy, (3, 3, 0))
    (region,) = (item for item in dataset.ROIContourSequence if item.ReferencedROINumber == 7)
    region.ContourSequence.append(copy)


def _points(dataset: Dataset) -> None:
    for region in dataset.ROIContourSequence:
        for contour in region.ContourSequence:
            contour.ContourGeometricType = "POINT"


REFUSED: dict[str, tuple[Callable[[Dataset], object], type[InputError], str]] = {
    "another frame of reference": (
        lambda d: setattr(d.StructureSetROISequence[0], "ReferencedFrameOfReferenceUID", "1.2.3"),
        GeometryError,
        "another frame of reference",
    ),
    "another image": (
        lambda d: setattr(contours(d)[0].ContourImageSequence[0], "ReferencedSOPInstanceUID", "1.2.3"),
        GeometryError,
        "refers to an image that is not in this series",
    ),
    "between two slices": (lambda d: _move(contours(d)[0], (0, 0, 1.5)), GeometryError, "1.5 mm off the slices"),
    "across the slices": (lambda d: _tilt(contours(d)[0]), GeometryError, "off the slices"),
    "beside the image": (lambda d: _move(contours(d)[0], (300, 0, 0)), GeometryError, "outside of the image"),
    "no points": (lambda d: setattr(contours(d)[0], "ContourData", ["1", "2"]), FormatError, "no points"),
    "other points than said": (lambda d: setattr(contours(d)[0], "NumberOfContourPoints", 3), FormatError, "no points"),
    "crossing contours": (_cross, FormatError, "two contours of ROI 7 cross each other on slice"),
    "a number twice": (lambda d: setattr(d.StructureSetROISequence[0], "ROINumber", 7), FormatError, "each once"),
    "points alone": (_points, PromptError, "no closed contour"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(tmp_path: Path, what: str) -> None:
    change, kind, problem = REFUSED[what]
    volume = series(tmp_path / "series")
    path = changed(written(volume, tmp_path), change)
    with pytest.raises(kind, match=problem) as told:
        io.load_labels(path, volume)
    assert "\n" not in str(told.value)
    assert CANARY not in str(told.value)


@pytest.mark.parametrize(
    ("shift", "expected", "told"),
    [
        (65_235, {65_237: "one voxel", 65_240: "one slice", 65_242: "shell", 65_535: "two parts"}, ()),
        (
            65_236,
            {1: "one voxel", 2: "one slice", 3: "shell", 4: "two parts"},
            ("its ROIs have numbers up to 65536, over 65535; here they are numbered from 1, in their order",),
        ),
        (-2, {1: "one voxel", 4: "one slice", 6: "shell", 299: "two parts"}, ("its ROIs are numbered from 0; here from 1",)),
    ],
)
def test_numbers_that_no_object_can_have_are_given_anew(
    tmp_path: Path, shift: int, expected: dict[int, str], told: tuple[str, ...]
) -> None:
    def renumber(dataset: Dataset) -> None:
        for item in (*dataset.ROIContourSequence, *dataset.RTROIObservationsSequence):
            item.ReferencedROINumber += shift
        for item in dataset.StructureSetROISequence:
            item.ROINumber += shift
        dataset.StructureSetROISequence = list(dataset.StructureSetROISequence)[::-1]

    volume = series(tmp_path / "series")
    path = changed(written(volume, tmp_path), renumber)
    found = io.load_outlines(path, volume)
    assert {outline.label: outline.name for outline in found} == expected
    assert all(outline.notes == told for outline in found)
    assert io.load_outlines(path, volume, MaskRule(object=5))[0].notes == told
    labels = io.load_labels(path, volume)
    assert set(told) <= set(labels.warnings)
    for label, (old, _) in zip(expected, PARTS.items(), strict=True):
        np.testing.assert_array_equal(labels.array == label, objects() == old)


def test_it_needs_its_own_series(tmp_path: Path) -> None:
    volume = series(tmp_path / "series")
    path = written(volume, tmp_path)
    with pytest.raises(GeometryError, match="another frame of reference"):
        io.load_labels(path, series(tmp_path / "another"))
    with pytest.raises(GeometryError, match="not read from DICOM"):
        io.load_labels(path, Volume(volume.array, volume.affine))
    with pytest.raises(GeometryError, match="not read from DICOM"):
        written(Volume(phantom(SHAPE), AXIAL), tmp_path)
    with pytest.raises(FormatError, match="nothing is segmented"):
        written(volume, tmp_path, objects() * 0)


def test_an_image_that_is_no_dicom(tmp_path: Path) -> None:
    """What is wrong is the image that it is read for: nothing is to be saved."""
    volume = series(tmp_path / "series")
    path = written(volume, tmp_path)
    with pytest.raises(GeometryError, match=r"; outline the DICOM series that it was drawn on, or give a label map$"):
        io.load_outlines(path, Volume(volume.array, volume.affine))


def test_a_series_of_the_same_frame_of_reference_is_another_one(tmp_path: Path) -> None:
    made = Series(AXIAL, phantom(SHAPE)).write(tmp_path / "series")
    Series(AXIAL, phantom(SHAPE)).write(tmp_path / "registered", FrameOfReferenceUID=made[0].FrameOfReferenceUID)
    path = written(io.load(tmp_path / "series"), tmp_path)
    with pytest.raises(GeometryError, match="refers to other images"):
        io.load_labels(path, io.load(tmp_path / "registered"))


def test_long_names_are_told_and_kept(tmp_path: Path) -> None:
    volume, name = series(tmp_path / "series"), "left \\ right " * 9
    io.save(Segmentation(objects(), volume.affine, names={7: name}), tmp_path / "o.rtstruct.dcm", volume)
    (region,) = (item for item in dcmread(tmp_path / "o.rtstruct.dcm").StructureSetROISequence if item.ROINumber == 7)
    assert len(region.ROIName) <= 64
    assert region.ROIDescription == name.strip()


@pytest.mark.parametrize("left", ["", None])
@pytest.mark.parametrize("suffix", [".rtstruct.dcm", ".dcm"])
def test_slices_whose_numbers_stand_in_the_preface_alone(tmp_path: Path, left: str | None, suffix: str) -> None:
    """What is written refers to them by these, and is read by these again."""
    series(tmp_path / "series")
    for file in sorted((tmp_path / "series").iterdir()):
        changed(file, lambda dataset: put(dataset, "SOPInstanceUID", left))
    volume = io.load(tmp_path / "series")
    io.save(Segmentation(objects(), volume.affine, PARTS), path := tmp_path / f"o{suffix}", volume)
    np.testing.assert_array_equal(io.load_labels(path, volume).array, objects())
    series(tmp_path / "other")
    if suffix == ".rtstruct.dcm":
        with pytest.raises(GeometryError, match="another frame of reference"):
            io.load_labels(path, io.load(tmp_path / "other"))

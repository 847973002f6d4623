"""DICOM structure sets (RTSTRUCT): contours on the slices of the very series that was segmented, and back as masks of it.

Contours run along edges of pixels, a hundredth of a pixel inside: they hold the centres of the same pixels, and programs that
round corners to pixels find the same ones. A hole is joined with the outline around it by a channel (keyhole), which every
program fills alike. What is read is the pixels that an odd number of a slice's contours surrounds (keyholes, and XOR).
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from pathlib import Path
from warnings import catch_warnings

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from medical_sam2.errors import FormatError, GeometryError, PromptError, say_count
from medical_sam2.io import atomic, label_grid, labels
from medical_sam2.io.annotations import fill_and_trace, fill_polygons, trace_rings
from medical_sam2.io.dicom import DicomOrigin, headers
from medical_sam2.io.dicom.grid import is_reconstruction, place_frames
from medical_sam2.io.dicom.headers import Plane, complete_uids, floats, read_dataset, text, whole_number
from medical_sam2.io.dicom.segmentation import (
    EMPTIED,
    LONGEST_DESCRIPTION,
    MAKER,
    describe_lost_slices,
    maker_version,
    segment_labels,
    source_headers,
    source_origin,
)
from medical_sam2.io.labels import MOST_OBJECTS, Outline
from medical_sam2.io.safe_open import guarded, require_memory
from medical_sam2.io.voxels import join_labels
from medical_sam2.volume import Colour, Segmentation, Volume

KIND = "an RTSTRUCT"
INSET_PX = 0.01
OFF_SLICE = 0.05
"""How far from a slice a contour may lie, as a part of the distance of slices: files round what they store."""
OUTSIDE_PX = 1.5
"""How far from the centres of an image's pixels a contour may lie outside: a pixel beyond its edge."""
STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
CLOSED, EXCLUSIVE = "CLOSED_PLANAR", "CLOSEDPLANAR_XOR"


def save(found: Segmentation, path: Path, like: Volume) -> list[str]:
    """Write an RTSTRUCT: one ROI for each object, of the same number, its contours on the slices of the source series.

    Patient, study and frame of reference come from the source series; each contour lies where its own slice's header says.

    Returns:
        One line if slices were left out, since they were interpolated and so have no image to refer to.

    Raises:
        GeometryError: `like` was not read from DICOM files that are still there.
        FormatError: nothing is segmented on a slice that has an image.
    """
    maps = [label_grid.integers(each, path) for each in found.maps]
    names = {label: found.names.get(label) or f"object {label}" for label in found.objects()}
    origin = source_origin(like, path, KIND)
    lost, written = describe_lost_slices(found, origin, like, path, KIND), segment_labels(names)
    with catch_warnings(action="ignore"):
        images = _images(origin)
        dataset = _structure_set([image.header for image in images.values()])
        contours = _contours(maps, images)
        for label, name in names.items():
            region = _add_region(dataset, label, written[label], found.colour(label))
            if written[label] != name:
                region.ROIDescription = name[:LONGEST_DESCRIPTION]
            dataset.ROIContourSequence[-1].ContourSequence = contours[label]
        buffer = BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
    atomic.write_bytes(path, buffer.getvalue())
    return lost


def _contours(maps: Sequence[NDArray[np.unsignedinteger]], images: Mapping[int, "_SourceImage"]) -> dict[int, list[Dataset]]:
    """Label → items of its ContourSequence, slice by slice."""
    made: dict[int, list[Dataset]] = defaultdict(list)
    for k, image in images.items():
        for labels_hw in (each[:, :, k].T for each in maps):
            for label in np.unique(labels_hw[labels_hw > 0]).tolist():
                made[label] += image.contours(labels_hw == label)
    for items in made.values():
        for number, item in enumerate(items, 1):
            item.ContourNumber = number
    return made


def check(like: Volume, path: Path) -> None:
    """Refuse, before there are any labels, what `save` would refuse of the images that they belong to.

    Raises:
        GeometryError: `like` was not read from DICOM files.
        FormatError: these lack what an RTSTRUCT refers to.
    """
    _images(source_origin(like, path, KIND))


@dataclass(frozen=True, eq=False)
class _SourceImage:
    """The image of one slice, with where it lies."""

    header: Dataset
    plane: Plane
    frames: int

    def contours(self, mask_hw: NDArray[np.bool_]) -> Iterator[Dataset]:
        """The parts of a mask as items of a ContourSequence."""
        along = np.reshape(self.plane.orientation or (), (2, 3))
        down, across = self.plane.spacing or (1.0, 1.0)  # a volume's slices all tell theirs
        steps = along / np.linalg.norm(along, axis=1, keepdims=True) * [[across], [down]]
        for ring in trace_rings(mask_hw, INSET_PX):
            item, image = Dataset(), _reference(self.header)
            if self.frames > 1:
                image.ReferencedFrameNumber = self.plane.frame + 1
            item.ContourImageSequence, item.ContourGeometricType = [image], CLOSED
            item.NumberOfContourPoints = len(ring)
            item.ContourData = [_decimal(number) for number in (np.array(self.plane.position) + ring @ steps).ravel().tolist()]
            yield item


def _decimal(number: float) -> str:
    """Millimetres, or a millionth of them, in the sixteen characters that a decimal string may have."""
    return f"{number:.6f}"[:16]


def _images(origin: DicomOrigin) -> dict[int, _SourceImage]:
    """The image of each slice that has one; raises FormatError if it lacks what is referred to."""
    files = list(dict.fromkeys(place[0] for place in origin.slices if place is not None))
    read: dict[Path, tuple[Dataset, list[Plane]]] = {}
    for file, header in zip(files, source_headers(files, KIND), strict=True):
        found = headers.planes(header, file)
        read[file] = header, place_frames(found, header, file) if is_reconstruction(header) else found
    return {
        k: _SourceImage(read[place[0]][0], read[place[0]][1][place[1]], len(read[place[0]][1]))
        for k, place in enumerate(origin.slices)
        if place is not None
    }


def _reference(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return item


def _structure_set(sources: list[Dataset]) -> Dataset:
    """A structure set without regions that belongs to a series."""
    made, source, now = Dataset(), sources[0], datetime.now().astimezone()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID, made.SOPInstanceUID = RTStructureSetStorage, generate_uid()
    made.file_meta.MediaStorageSOPClassUID, made.file_meta.MediaStorageSOPInstanceUID = made.SOPClassUID, made.SOPInstanceUID
    for name in (*EMPTIED, "ReferringPhysicianName", "StudyInstanceUID", "FrameOfReferenceUID", "PositionReferenceIndicator"):
        setattr(made, name, source.get(name, ""))
    made.Modality, made.SeriesInstanceUID, made.SeriesNumber, made.InstanceNumber = "RTSTRUCT", generate_uid(), 9001, 1
    made.SeriesDescription, made.OperatorsName, made.ApprovalStatus = "Segmentation", "", "UNAPPROVED"
    made.Manufacturer, made.ManufacturerModelName, made.SoftwareVersions = MAKER, MAKER, maker_version()
    made.StructureSetLabel, made.StructureSetName = "SEGMENTATION", "Segmentation"
    made.StructureSetDate, made.StructureSetTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = source.SeriesInstanceUID
    series.ContourImageSequence = list({header.SOPInstanceUID: _reference(header) for header in sources}.values())
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = STUDY_CLASS, source.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = source.FrameOfReferenceUID, [study]
    made.ReferencedFrameOfReferenceSequence = [frame]
    made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence = [], [], []
    return made


def _add_region(dataset: Dataset, label: int, name: str, colour: Colour) -> Dataset:
    """One region of interest, in the three sequences that tell of it."""
    region, outline, observation = Dataset(), Dataset(), Dataset()
    region.ROINumber, region.ReferencedFrameOfReferenceUID = label, dataset.FrameOfReferenceUID
    region.ROIName, region.ROIGenerationAlgorithm = name, "SEMIAUTOMATIC"
    outline.ROIDisplayColor, outline.ReferencedROINumber = list(colour), label
    observation.ObservationNumber = len(dataset.RTROIObservationsSequence) + 1
    observation.ReferencedROINumber, observation.RTROIInterpretedType, observation.ROIInterpreter = label, "", ""
    dataset.StructureSetROISequence.append(region)
    dataset.ROIContourSequence.append(outline)
    dataset.RTROIObservationsSequence.append(observation)
    return region


@dataclass(frozen=True, eq=False)
class _Contour:
    """A closed contour: the slice that it lies on, its corners in pixels of it, and whether it says that it is XOR."""

    slice: int
    ring: NDArray[np.float64]
    exclusive: bool


@dataclass(frozen=True, eq=False)
class _Region:
    """A region of interest, as it is read."""

    label: int
    name: str
    colour: Colour | None
    contours: list[_Contour] = field(default_factory=list[_Contour])


def load(path: Path, like: Volume) -> tuple[Volume, list[Outline]]:
    """The regions as one label map in the grid of `like`, the series that they were drawn on, and as objects without voxels.

    Raises:
        FormatError: regions overlap, and so on as `load_segments`.
    """
    with catch_warnings(action="ignore"):
        regions, notes = _regions(path, like)
    parts = ((region.label, _filled(region, like.shape, path)) for region in regions)
    array = join_labels(parts, like.shape, path, "ROIs")
    described = [Outline(each.label, labels.NOWHERE, each.name, each.colour, tuple(notes)) for each in regions]
    for region in regions:
        drawn = {contour.slice for contour in region.contours}
        if missing := max(drawn) - min(drawn) + 1 - len(drawn):
            notes.append(
                f"ROI {region.label} has no contour on {say_count(missing, 'slice')} between its first and its last one"
            )
    return Volume(array, like.affine, "RTSTRUCT", path, tuple(notes)), described


def load_segments(path: Path, like: Volume, threshold: float | None = None) -> list[Outline]:
    """What each region surrounds, in the grid of `like`, the series that they were drawn on; regions may overlap.

    Raises:
        FormatError: damaged, or contours that cross each other.
        GeometryError: it belongs to another series, or a contour lies on no slice of it.
        PromptError: it holds no closed contour.
        InputError: a threshold, which its regions do not need.
    """
    labels.refuse_threshold(threshold)
    with catch_warnings(action="ignore"):
        regions, notes = _regions(path, like)
    require_memory(len(regions) * like.array.size, path)
    told = tuple(notes)
    return [Outline(each.label, _filled(each, like.shape, path), each.name, each.colour, told) for each in regions]


# Contours are millimetres and nothing else: on another series of the patient they would look right, and be wrong.
def _regions(path: Path, like: Volume) -> tuple[list[_Region], list[str]]:
    """The regions that have closed contours, and what was left out."""
    dataset = read_dataset(path, pixels=True)
    series = _Series(source_origin(like, path, KIND, "outline the DICOM series that it was drawn on, or give a label map"))
    with guarded(path):
        described = list(dataset.get("StructureSetROISequence") or [])
        outlines = {int(item.ReferencedROINumber): item for item in dataset.get("ROIContourSequence") or []}
    numbers = [whole_number(item, "ROINumber", None, path=path) for item in described]
    if numbers and (max(Counter(numbers).values()) > 1 or len(numbers) > MOST_OBJECTS):
        raise FormatError(
            f"its ROIs are not numbered each once, or are more than {MOST_OBJECTS}", "export it again", subject=path
        )
    given, notes = _labels_of(numbers)
    found: list[_Region] = []
    series.check(dataset, described, path)
    for number, item in zip(numbers, described, strict=True):
        outline = outlines.get(number, Dataset())
        region = _Region(given[number], _name(item, number, dataset), _colour(outline, path))
        with guarded(path):
            contours = list(outline.get("ContourSequence") or [])
        region.contours.extend(contour for each in contours if (contour := _contour(each, number, series, like, path)))
        if region.contours:
            found.append(region)
        if len(region.contours) < max(len(contours), 1):
            notes.append(
                f"ROI {number}: {len(contours) - len(region.contours)} points or open lines left out"
                if contours
                else f"ROI {number} has no contour"
            )
    if not found:
        raise PromptError("it holds no closed contour", "outline at least one pixel", subject=path)
    return sorted(found, key=lambda region: region.label), notes


def _labels_of(numbers: Sequence[int]) -> tuple[dict[int, int], list[str]]:
    """ROI number → label: the same where labels may be such, and a line where it is not."""
    first = int(0 in numbers)
    if max(numbers, default=0) + first > MOST_OBJECTS:
        told = f"its ROIs have numbers up to {max(numbers)}, over {MOST_OBJECTS}; here they are numbered from 1, in their order"
        return {number: label for label, number in enumerate(sorted(numbers), 1)}, [told]
    return {number: number + first for number in numbers}, ["its ROIs are numbered from 0; here from 1"] * first


def _name(item: Dataset, number: int, dataset: Dataset) -> str:
    """What a region is called; nothing where this package gave the name for want of one, or it cannot be shown."""
    name = text(item, "ROIName")
    given = name == f"object {number}" and text(dataset, "Manufacturer") == MAKER
    return "" if given or not name.isprintable() else name


def _colour(outline: Dataset, path: Path) -> Colour | None:
    numbers = floats(outline, "ROIDisplayColor", path=path) or ()
    if len(numbers) != 3 or min(numbers) < 0 or max(numbers) > 255:
        return None
    red, green, blue = map(int, numbers)
    return red, green, blue


class _Series:
    """What tells the images of a series: read once from their headers."""

    def __init__(self, origin: DicomOrigin) -> None:
        files = dict.fromkeys(place[0] for place in origin.slices if place is not None)
        found = [complete_uids(read_dataset(file, pixels=False)) for file in files]
        self.images = {text(header, "SOPInstanceUID") for header in found} - {""}
        self.frames_of_reference = {text(header, "FrameOfReferenceUID") for header in found} - {""}

    def check(self, dataset: Dataset, described: list[Dataset], path: Path) -> None:
        """Refuse a structure set of another frame of reference, or of other images or none; raises GeometryError."""
        if not {text(item, "ReferencedFrameOfReferenceUID") for item in described} <= self.frames_of_reference:
            problem = "it lies in another frame of reference than the image"
            raise GeometryError(problem, "give the series that it was drawn on", subject=path)
        with guarded(path):
            named = {
                text(image, "ReferencedSOPInstanceUID")
                for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []
                for study in frame.get("RTReferencedStudySequence") or []
                for one in study.get("RTReferencedSeriesSequence") or []
                for image in one.get("ContourImageSequence") or []
            } | {uid for item in dataset.get("ROIContourSequence") or [] for uid in _referred(item)}
        if not named & self.images:
            problem = "refers to other images than those of this series" if named else "does not say which images it belongs to"
            raise GeometryError(f"it {problem}", "give the series that it was drawn on", subject=path)


def _referred(region: Dataset) -> Iterator[str]:
    for contour in region.get("ContourSequence") or []:
        for image in contour.get("ContourImageSequence") or []:
            yield text(image, "ReferencedSOPInstanceUID")


def _contour(item: Dataset, number: int, series: _Series, like: Volume, path: Path) -> _Contour | None:
    """A closed contour in pixels of the slice that it lies on; None for points and open lines."""
    kind = text(item, "ContourGeometricType").upper()
    if kind not in (CLOSED, EXCLUSIVE):
        return None
    with guarded(path):
        referred = {text(image, "ReferencedSOPInstanceUID") for image in item.get("ContourImageSequence") or []}
    if not referred <= series.images:
        problem = f"a contour of ROI {number} refers to an image that is not in this series"
        raise GeometryError(problem, "give all slices of the series that it was drawn on", subject=path)
    data = floats(item, "ContourData", path=path) or ()
    if not data or len(data) % 3 or whole_number(item, "NumberOfContourPoints", len(data) // 3, path=path) != len(data) // 3:
        raise FormatError(
            f"a contour of ROI {number} holds {len(data)} numbers, which are no points", "export it again", subject=path
        )
    places = np.reshape(data, (-1, 3)) * [-1, -1, 1] - like.affine[:3, 3]
    i, j, k = np.linalg.solve(like.affine[:3, :3], places.T)
    nearest = round(float(k.mean()))
    off = float(np.abs(k - nearest).max())
    if off > OFF_SLICE:
        distance_mm = off * like.voxel_mm3 / float(np.linalg.norm(np.cross(like.affine[:3, 0], like.affine[:3, 1])))
        problem = f"a contour of ROI {number} lies {distance_mm:.3g} mm off the slices of the image"
        raise GeometryError(problem, "export contours on the slices of this series", subject=path)
    beyond = max(-min(i.min(), j.min()), i.max() - like.shape[0] + 1, j.max() - like.shape[1] + 1)
    if beyond > OUTSIDE_PX or not 0 <= nearest < like.shape[2]:
        raise GeometryError(f"a contour of ROI {number} lies outside of the image", "crop it to the image", subject=path)
    return _Contour(nearest, np.stack([i, j], axis=1), kind == EXCLUSIVE)


def _filled(region: _Region, shape: tuple[int, int, int], path: Path) -> NDArray[np.bool_]:
    """Where the region is, (I, J, K)."""
    inside = np.zeros(shape, bool)
    for k in sorted({contour.slice for contour in region.contours}):
        own = [contour for contour in region.contours if contour.slice == k]
        rings = list({contour.ring.tobytes(): contour.ring for contour in own}.values())  # one that is there twice is no hole
        if len(rings) > 1 and not all(contour.exclusive for contour in own):
            _check_nested(rings, shape, f"two contours of ROI {region.label} cross each other on slice {k}", path)
        inside[:, :, k] = fill_polygons(rings, (shape[1], shape[0])).T
    return inside


# One within another is a hole, as all programs draw it; of two that cross nobody can tell whether both or one of them is meant.
def _check_nested(rings: list[NDArray[np.float64]], shape: tuple[int, int, int], problem: str, path: Path) -> None:
    size = shape[1], shape[0]
    parts = [fill_and_trace([ring], size) for ring in rings]
    clear = ~np.logical_or.reduce([on_line for _, on_line in parts])
    depth = np.zeros(size, np.int32)
    for inside, _ in sorted(parts, key=lambda part: -int(part[0].sum())):
        within = depth[inside & clear]
        if within.size and within.min() != within.max():
            raise FormatError(problem, "join them, or draw one within the other", subject=path)
        depth += inside

"""DICOM Segmentation objects: written through highdicom for the very images that were segmented, and read as labels of an
image, every frame where its own position says.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any
from warnings import catch_warnings

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DSfloat

from medical_sam2.errors import AmbiguousError, ConfigError, FormatError, GeometryError, InputError, PromptError, say_count
from medical_sam2.io import atomic, voxels
from medical_sam2.io.dicom import DicomOrigin, headers
from medical_sam2.io.dicom.headers import Plane, complete_uids, read_dataset, text, whole_number
from medical_sam2.io.dicom.pixels import segmentation_frames
from medical_sam2.io.labels import EMPTY, NOWHERE, Outline, refuse_threshold
from medical_sam2.io.registry import Loaded
from medical_sam2.io.safe_open import guarded, open_regular
from medical_sam2.io.voxels import from_lps
from medical_sam2.volume import Colour, Segmentation, Volume

KIND = "a DICOM-SEG"
FRACTIONS = "its segments are fractional, soft edges or probabilities"
MAKER = "medical-sam2"
LONGEST_LABEL, LONGEST_DESCRIPTION = 64, 1024
"""Characters of a SegmentLabel (LO) and of a SegmentDescription (ST)."""
NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
EMPTIED = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDate", "StudyTime", "StudyID")


def save(found: Segmentation, path: Path, like: Volume) -> list[str]:
    """Write objects as a binary DICOM-SEG: one segment for each, one frame for each slice that it touches; they may overlap.

    Patient, study and frame of reference come from the source series; every frame carries its own slice's position, so tilted
    gantries stay right.

    Returns:
        One line if slices were left out, since they were interpolated and so have no image to refer to.

    Raises:
        GeometryError: `like` was not read from DICOM files that are still there.
        FormatError: nothing is segmented on a slice that has an image.
    """
    origin = source_origin(like, path, KIND)
    objects, lost = found.objects(), describe_lost_slices(found, origin, like, path, KIND)
    table = np.array([0, *objects])
    layers = [_in_source_order(origin, np.searchsorted(table, layer).astype(np.uint16)) for layer in found.maps]
    (sources, frames), several = layers[0], len(layers) > 1
    if several:  # highdicom takes each segment by itself then, and says that segments overlap
        numbers = range(1, len(table))
        frames = np.stack([np.logical_or.reduce([each == number for _, each in layers]) for number in numbers], axis=-1)
    with catch_warnings(action="ignore"):
        data = _encode(sources, frames.astype(np.uint8) if several else frames, found, path)
    atomic.write_bytes(path, data)
    return lost


# Who reads "203001 voxels" must know that the file has fewer: outlines lie on images, and an interpolated slice is none.
def describe_lost_slices(found: Segmentation, origin: DicomOrigin, like: Volume, path: Path, kind: str) -> list[str]:
    """A line that says how much lies on interpolated slices, which an object of this kind cannot hold; none where nothing does.

    Raises:
        FormatError: nothing is left to write.
    """
    each = np.sum([np.count_nonzero(labels, axis=(0, 1)) for labels in found.maps], axis=0)
    interpolated = np.array([place is None for place in origin.slices])
    lost, whole = int(each[interpolated].sum()), int(each.sum())
    if lost == whole:
        where = " on a slice that has an image" if whole else ""
        raise FormatError(f"nothing is segmented{where}, and {kind} cannot be empty", "save to another format", subject=path)
    if not lost:
        return []
    slices = say_count(int(np.count_nonzero(each[interpolated])), "slice", "were")
    missing = f"{lost} of {whole} voxels, {lost * like.voxel_mm3 / 1000:.4g} mL, are not in the file"
    return [f"{slices} interpolated, without an image, so {kind} holds no outline there: {missing}"]


def check(like: Volume, path: Path) -> None:
    """Refuse, before there are any labels, what `save` would refuse of the images that they belong to.

    Raises:
        GeometryError: `like` was not read from DICOM files.
        FormatError: these lack what a DICOM-SEG refers to.
        ConfigError: highdicom is missing.
    """
    _highdicom(path)
    _in_source_order(source_origin(like, path, KIND), np.zeros(like.shape, np.uint16))


def source_origin(like: Volume, path: Path, kind: str, remedy: str = "save to .nii.gz, .nrrd or .mha") -> DicomOrigin:
    """Where the slices of a volume lie in its files, to which an object of this kind refers.

    Args:
        like: the volume.
        path: file of the object.
        kind: what it is, in words.
        remedy: what to do where the volume has no such files.

    Raises:
        GeometryError: it was not read from DICOM files, or from a film, whose frames lie nowhere.
    """
    origin = like.origin if isinstance(like, Loaded) else None
    if voxels.NO_PLACE in like.warnings:
        raise GeometryError(f"{kind} refers to places in the patient, and the frames of a film have none", remedy, subject=path)
    if not isinstance(origin, DicomOrigin):
        raise GeometryError(
            f"{kind} refers to DICOM images, and this volume was not read from DICOM files (or from a zip of them)",
            remedy,
            subject=path,
        )
    return origin


def _in_source_order(origin: DicomOrigin, array: NDArray[np.uint16]) -> tuple[list[Dataset], NDArray[np.uint16]]:
    """The source objects and the frames (frame, row, column) in their order."""
    stack = array.transpose(2, 1, 0)
    known = [(k, place) for k, place in enumerate(origin.slices) if place is not None]
    files = list(dict.fromkeys(place[0] for _, place in known))
    spacing_mm = float(np.linalg.norm(origin.affine[:3, 2]))
    sources = source_headers(files, KIND)
    for header in sources:
        if not header.get("SliceThickness"):  # highdicom asks for it, and some scanners leave it out
            header.SliceThickness = DSfloat(spacing_mm, auto_format=True)
    if len(files) == len(known):
        return sources, np.ascontiguousarray(stack[[k for k, _ in known]])
    if len(files) > 1:
        raise GeometryError("slices are spread over several multi-frame objects", "save to another format")
    if "PerFrameFunctionalGroupsSequence" not in sources[0]:  # nuclear medicine: highdicom asks each frame for its place
        problem = "a DICOM-SEG cannot refer to the frames of this object, which do not say each where it lies"
        raise GeometryError(problem, "save to .nii.gz, .nrrd or .mha", subject=files[0])
    frames = np.zeros((int(sources[0].NumberOfFrames), *stack.shape[1:]), np.uint16)
    for k, (_, frame) in known:
        frames[frame] = stack[k]
    return sources, frames


def source_headers(files: Sequence[Path], kind: str) -> list[Dataset]:
    """The source images without pixels, in UTF-8; raises FormatError if they lack identifiers, or share one."""
    sources = [_without_pixels(file, kind) for file in files]
    if len({source.SOPInstanceUID for source in sources}) < len(sources):
        problem = f"some of its slices have the same SOPInstanceUID, so {kind} cannot say which of them it means"
        raise FormatError(problem, "save to .nii.gz, .nrrd or .mha", subject=files[0].parent)
    return sources


def _without_pixels(path: Path, kind: str) -> Dataset:
    """A source image, with what de-identification emptied taken from the file's own preface, and its texts in UTF-8."""
    with open_regular(path) as stream, guarded(path):
        header = dcmread(stream, stop_before_pixels=True, force=True)  # read before: it may lack its preamble
        complete_uids(header)
        for name in EMPTIED:  # which a conforming file holds, if empty, and some tools take out altogether
            header.setdefault(name, "")
        header.decode()
        header.SpecificCharacterSet = "ISO_IR 192"
    missing = [name for name in NEEDED if not header.get(name)]
    if missing:
        raise FormatError(f"it lacks {', '.join(missing)}, to which {kind} refers", "save to .nii.gz", subject=path)
    return header


def _encode(sources: list[Dataset], frames: NDArray[np.unsignedinteger], found: Segmentation, path: Path) -> bytes:
    """The file, of frames (frame, row, column) of segment numbers, or (frame, row, column, segment) of 0 and 1."""
    hd, codes = _highdicom(path)
    segments = _descriptions(hd, codes, found)
    with guarded(path):
        segmentation = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=frames,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=hd.UID(),
            series_number=9000,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name=MAKER,
            software_versions=maker_version(),
            device_serial_number="1",
            series_description="Segmentation",
            content_label="SEGMENTATION",
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )
        buffer = BytesIO()
        segmentation.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _descriptions(hd: ModuleType, codes: ModuleType, found: Segmentation) -> list[Dataset]:
    """The description of each segment; a name that does not fit is whole in its description."""
    algorithm = hd.AlgorithmIdentificationSequence(MAKER, version=maker_version(), family=codes.cid7162.ArtificialIntelligence)
    names = {label: found.names.get(label) or f"object {label}" for label in found.objects()}
    texts = segment_labels(names)
    segments: list[Dataset] = []
    for number, (label, name) in enumerate(names.items(), 1):
        segments.append(
            hd.seg.SegmentDescription(
                segment_number=number,
                segment_label=texts[label],
                segmented_property_category=codes.SCT.Tissue,
                segmented_property_type=codes.SCT.Tissue,
                algorithm_type=hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
                algorithm_identification=algorithm,
                tracking_id=f"{MAKER} label {label}",  # read back by dicom_seg_read
                tracking_uid=hd.UID(),
                display_color=hd.color.CIELabColor.from_rgb(*found.colour(label)),
            )
        )
        if texts[label] != name:
            segments[-1].SegmentDescription = name[:LONGEST_DESCRIPTION]
    return segments


def segment_labels(names: Mapping[int, str]) -> dict[int, str]:
    """Label → text of at most 64 characters that tells it from all others, without what the standard keeps for itself."""
    plain = {label: re.sub(r"[\\\x00-\x1f\x7f]", " ", name).strip() or f"object {label}" for label, name in names.items()}
    cut = {label: name[:LONGEST_LABEL] for label, name in plain.items()}
    often = Counter(cut.values())
    endings = {label: f" ({label})" if name != plain[label] and often[name] > 1 else "" for label, name in cut.items()}
    return {label: name[: LONGEST_LABEL - len(endings[label])] + endings[label] for label, name in cut.items()}


def _highdicom(path: Path) -> tuple[ModuleType, ModuleType]:
    try:
        import highdicom
        from pydicom.sr.codedict import codes
    except ImportError:
        raise ConfigError("DICOM-SEG needs highdicom", "pip install 'medical-sam2[dicom]'", subject=path) from None
    return highdicom, codes  # type: ignore[return-value]


def maker_version() -> str:
    """Version of this package."""
    try:
        return version(MAKER)
    except PackageNotFoundError:
        return "0"


OURS = re.compile(r"medical-sam2 label ([1-9][0-9]{0,9})")


def load(path: Path, like: Volume) -> tuple[Volume, list[Outline]]:
    """The segments in the grid of `like`, numbered as this package wrote them or by themselves; objects without their voxels.

    Raises:
        FormatError: damaged, with fractions instead of yes and no, or segments that overlap.
        GeometryError: a frame that lies on no slice of the image.
    """
    with catch_warnings(action="ignore"):
        dataset = read_dataset(path, pixels=True)
        if _is_fractional(dataset, path):
            raise FormatError(f"{FRACTIONS}: it is no label map", "threshold it first", subject=path)
        highest = max(_label_numbers(dataset, path).values(), default=0)
        labels = np.zeros(like.shape, np.min_scalar_type(highest))
        overlap, drawn = 0, set[int]()
        for label, plane, inside in _drawn_frames(dataset, path):
            target = _slice_of(labels, plane, like, path)
            overlap += int(np.count_nonzero((target[inside] != 0) & (target[inside] != label)))
            target[inside] = label
            drawn |= {label} if inside.any() else set()
        voxels.refuse_overlap(overlap, path, "segments")
        described = _describe(dict.fromkeys(drawn, NOWHERE), dataset, path)
    return Volume(voxels.compact(labels), like.affine, "SEG", path), described


def load_segments(path: Path, like: Volume, threshold: float | None = None) -> list[Outline]:
    """What was drawn of each segment, in the grid of `like`, with its name and its colour; segments may overlap.

    Args:
        path: the file.
        like: the image.
        threshold: smallest fraction (0 to 1) that is inside, where segments hold fractions.

    Raises:
        FormatError, GeometryError: damaged, or a frame that lies on no slice of the image.
        AmbiguousError: segments hold fractions, and there is no threshold.
        InputError: a threshold that they do not need, or that is no fraction.
        PromptError: nothing is drawn, or nothing reaches the threshold.
    """
    masks: dict[int, NDArray[np.bool_]] = {}
    with catch_warnings(action="ignore"):
        dataset = read_dataset(path, pixels=True)
        least = _least_inside(dataset, threshold, path)
        for label, plane, inside in _drawn_frames(dataset, path, least):
            if inside.any():
                mask = masks[label] if label in masks else masks.setdefault(label, np.zeros(like.shape, bool))
                _slice_of(mask, plane, like, path)[inside] = True
        found = _describe(masks, dataset, path)
    if not masks and threshold is not None:
        raise PromptError("nothing of the mask reaches the threshold", "lower it", subject=path)
    if not masks:
        raise PromptError(*EMPTY, subject=path)
    return found


def _describe(masks: Mapping[int, NDArray[np.bool_]], dataset: Dataset, path: Path) -> list[Outline]:
    """The objects that are drawn, with the names and colours of their segments."""
    numbers = _label_numbers(dataset, path)
    described = {numbers[number]: item for number, item in _described(dataset, path).items()}
    items = {label: described.get(label, Dataset()) for label in masks}
    return [Outline(label, masks[label], _name(items[label], label), _colour(items[label])) for label in sorted(masks)]


def _is_fractional(dataset: Dataset, path: Path) -> bool:
    """Whether its segments hold fractions instead of yes and no; raises FormatError if it does not say what they hold."""
    kind = text(dataset, "SegmentationType")
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise FormatError("it does not say what its segments hold (SegmentationType)", "export it again", subject=path)
    return kind == "FRACTIONAL"


def _least_inside(dataset: Dataset, threshold: float | None, path: Path) -> float:
    """The smallest stored number that is inside of a segment. Raises as `load_segments`."""
    if not _is_fractional(dataset, path):
        refuse_threshold(threshold)
        return 1
    if threshold is None:
        choices = ("--threshold 0.5 (of each segment what is at least that; 0 to 1)",)
        raise AmbiguousError(FRACTIONS, "say what is meant", subject=path, choices=choices)
    if not 0 < threshold <= 1:
        problem = f"its fractions are between 0 and 1, and nothing is told apart by a threshold of {threshold:g}"
        raise InputError(problem, "give one such as 0.5", subject=path)
    return threshold * whole_number(dataset, "MaximumFractionalValue", 255, path=path)


def _drawn_frames(dataset: Dataset, path: Path, least: float = 1) -> Iterator[tuple[int, Plane, NDArray[np.bool_]]]:
    """Label, place and pixels (column, row) of what each frame holds: of a segment, its numbers from the least one on."""
    numbers, planes = _label_numbers(dataset, path), headers.planes(dataset, path)
    segments = _segments(dataset, len(planes), path)
    for plane, number, frame in zip(planes, segments, segmentation_frames(dataset, path), strict=True):
        if number:
            yield numbers.get(number, number), plane, least <= frame.T
        else:
            yield from ((label, plane, np.equal(frame.T, value)) for value, label in numbers.items())


def _name(item: Dataset, label: int) -> str:
    """What a segment is called; nothing where this package gave the name for want of one."""
    name = text(item, "SegmentLabel")
    return "" if name == f"object {label}" and OURS.fullmatch(text(item, "TrackingID")) else name


def _colour(item: Dataset) -> Colour | None:
    """The recommended colour of a segment, from CIELab to RGB."""
    stored = item.get("RecommendedDisplayCIELabValue")
    if stored is None or len(stored) != 3:
        return None
    try:
        from highdicom.color import CIELabColor
    except ImportError:
        return None
    red, green, blue = CIELabColor.from_dicom_value([int(each) for each in stored]).to_rgb()
    return red, green, blue


def _label_numbers(dataset: Dataset, path: Path) -> dict[int, int]:
    """Segment number → label."""
    own = {number: OURS.fullmatch(text(item, "TrackingID")) for number, item in _described(dataset, path).items()}
    if all(own.values()):
        return {number: int(found[1]) for number, found in own.items() if found}
    return {number: number for number in own}


def _described(dataset: Dataset, path: Path) -> dict[int, Dataset]:
    """Segment number → its description; the ground, which label maps describe as segment 0, is no object."""
    with guarded(path):
        items = list(dataset.get("SegmentSequence") or [])
    found = {whole_number(item, "SegmentNumber", None, path=path): item for item in items}
    if found.pop(0, None) is not None and text(dataset, "SegmentationType") != "LABELMAP":
        raise FormatError("its segments are not numbered from 1", "export it again", subject=path)
    return found


def _segments(dataset: Dataset, count: int, path: Path) -> list[int]:
    """The segment of each frame; 0 for frames that hold the numbers themselves."""
    if text(dataset, "SegmentationType") == "LABELMAP":
        return [0] * count
    with guarded(path):
        shared = next(iter(dataset.get("SharedFunctionalGroupsSequence") or []), Dataset())
        groups = [
            group if "SegmentIdentificationSequence" in group else shared for group in dataset.PerFrameFunctionalGroupsSequence
        ]
        return [int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber) for group in groups]


# A frame is written into the image's own slice, turned and mirrored as it lies, or refused: nothing is resampled in silence.
def _slice_of(labels: NDArray[Any], plane: Plane, like: Volume, path: Path) -> NDArray[Any]:
    """The part of the volume that a frame covers, as a view (column, row)."""
    if plane.position is None or plane.orientation is None or plane.spacing is None:
        raise GeometryError("its frames do not say where they lie", "export it again", subject=path)
    directions = np.reshape(plane.orientation, (2, 3))
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = directions[0] * plane.spacing[1], directions[1] * plane.spacing[0]
    lps[:3, 2], lps[:3, 3] = np.cross(directions[0], directions[1]), plane.position
    turn = np.linalg.inv(like.affine) @ from_lps(lps)
    steps, start = np.rint(turn[:3, :2]).astype(int), np.rint(turn[:3, 3]).astype(int)
    ends = np.array([[c, r, 0, 1] for c in (0, plane.size[0] - 1) for r in (0, plane.size[1] - 1)])
    meant = np.column_stack([steps, np.zeros(3), start])
    off = np.linalg.norm((like.affine[:3, :3] @ (turn[:3] - meant) @ ends.T), axis=0).max()
    if (np.abs(steps).sum(axis=0) != 1).any() or off > 10 * voxels.SAME_MM:
        raise GeometryError("its frames do not lie on the image's slices", "resample it to the image's grid", subject=path)
    axes = [int(np.flatnonzero(step)[0]) for step in steps.T]
    third = ({0, 1, 2} - set(axes)).pop()
    first = [0 if steps[axis, n] > 0 else labels.shape[axis] - 1 for n, axis in enumerate(axes)]
    covers = [labels.shape[axis] for axis in axes] == list(plane.size) and [start[axis] for axis in axes] == first
    if not covers or not 0 <= start[third] < labels.shape[third]:
        problem = "its frames lie outside of the image, or have another size (shape)"
        raise GeometryError(problem, "give the SEG of this image", subject=path)
    flat = labels.transpose(*axes, third)[:, :, start[third]]
    return flat[tuple(slice(None, None, int(steps[axis, n])) for n, axis in enumerate(axes))]

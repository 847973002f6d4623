"""A unit is converted: cropped, normalised, stored on its own grid, and its slices written as training cases.

Volumes: a training case for each channel. Pictures: a group is one training case, a set of images in no order; colour as PNG,
grey as NIfTI. CTs of a data set share one scale, which a first pass over the foreground of all of them gives.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medical_sam2 import io
from medical_sam2.data.cases import MODALITIES, Pixel, TrainingCase, modality_of
from medical_sam2.data.data_sets import Case, DataSet
from medical_sam2.data.prepare.images import (
    BINS,
    CLIPPED,
    HOUNSFIELD,
    ContentBox,
    Levels,
    Rule,
    as_slice,
    choose_view,
    count_foreground,
    count_pixels,
    cut_to_content,
    levels_of,
    resize_slices,
    rule_for,
    select_objects,
    shrink_shape,
    split_labels,
)
from medical_sam2.data.prepare.units import (
    STATE,
    CaseReport,
    DroppedObject,
    PrepareJob,
    UnitReport,
    checksums,
    digest_json,
    name_files,
    report_failure,
    stamp,
    write_json,
    write_training_case,
)
from medical_sam2.io.atomic import writing
from medical_sam2.io.registry import Picture
from medical_sam2.volume import Volume

VOLUME_ENDING = ".nii.gz"
CODES = {HOUNSFIELD, *CLIPPED, *MODALITIES}
Written: TypeAlias = tuple[list[str], list[CaseReport]]
"""Files, relative to the output folder, and what became of the cases."""
Labels: TypeAlias = NDArray[Any] | None


def prepare_unit(job: PrepareJob) -> UnitReport:
    """Do a unit; a case that fails is in its report."""
    dataset = job.source.open()
    job.report_file.unlink(missing_ok=True)  # an earlier one would speak of files that are being replaced
    files, reports = (_prepare_volume if dataset.kind == "volume" else _prepare_pictures)(job, dataset)
    report = UnitReport(job.fingerprint(dataset), tuple(files), tuple(reports))
    write_json(job.report_file, asdict(report))  # the last thing that is done for it
    return report


def channel_rule(channel: str, modality: str) -> Rule:
    """The rule of one channel, by its own name or, where that tells nothing, by the modality of the data set.

    A CT counts as Hounsfield units only where the channel is called just that.
    """
    found = modality_of((channel,))
    code = found if found in CODES else modality
    return "whole" if code == HOUNSFIELD and channel.upper() != HOUNSFIELD else rule_for(code)


def _prepare_volume(job: PrepareJob, dataset: DataSet) -> Written:
    (case,) = job.cases(dataset)
    try:
        return _convert_volume(job, dataset, case)
    except Exception as error:  # one bad case never stops the others: it is named in the manifest
        return [], [report_failure(case, error)]


def _convert_volume(job: PrepareJob, dataset: DataSet, case: Case) -> Written:
    # Cropping and levels are those of the whole case; a test case is stored and never trained on.
    loaded = dataset.load(case)
    volumes = [volume for volume in loaded.images if isinstance(volume, Volume)]
    cut = cut_to_content([volume.array for volume in volumes], loaded.labels)
    labels = None if loaded.labels is None else loaded.labels[cut.box]
    cropped = [_crop_volume(volume, cut) for volume in volumes]
    rules: list[Rule] = [channel_rule(channel, dataset.modality) for channel in dataset.channels]
    levels = [
        job.scale if rule == "window" and job.scale is not None else levels_of(volume.array, cut.inside, rule)
        for volume, rule in zip(cropped, rules, strict=True)
    ]
    files = _store_volumes(job, case, cropped, levels, cut.inside, labels) if job.settings.images else []
    report = _describe_case(case, volumes[0].shape, cut, levels, _note_oddities(volumes, rules))
    if labels is not None and case.split != "test":
        trained, report = _write_volume_case(job, dataset, cropped, levels, labels, report)
        files += trained
    return files, [report]


def _crop_volume(volume: Volume, cut: ContentBox) -> Volume:
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [side.start for side in cut.box]
    return replace(volume, array=volume.array[cut.box], affine=affine)


def _describe_case(
    case: Case, shape: tuple[int, ...], cut: ContentBox, levels: Sequence[Levels], notes: Sequence[str]
) -> CaseReport:
    crop = tuple((side.start, side.stop - 1) for side in cut.box)
    named = case.identifier, case.split, checksums(case)
    return CaseReport(*named, shape, crop, cut.inside is not None, tuple(levels), notes=tuple(notes))


def _note_oddities(volumes: Sequence[Volume], rules: Sequence[Rule]) -> list[str]:
    notes = dict.fromkeys(note for volume in volumes for note in volume.warnings)
    if any(rule == "window" and volume.array.min() >= 0 for volume, rule in zip(volumes, rules, strict=True)):
        notes["no value is under 0: these may not be Hounsfield units"] = None
    return list(notes)


def _store_volumes(
    job: PrepareJob,
    case: Case,
    volumes: Sequence[Volume],
    levels: Sequence[Levels],
    inside: NDArray[np.bool_] | None,
    labels: Labels,
) -> list[str]:
    files, label_file = name_files(case, len(volumes), VOLUME_ENDING)
    for file, volume, level in zip(files, volumes, levels, strict=True):
        io.save(level.normalise(volume.array, inside), job.output / file, like=volume)
    if labels is not None:
        io.save(labels, job.output / label_file, like=volumes[0])
        files.append(label_file)
    return files


def _write_volume_case(
    job: PrepareJob,
    dataset: DataSet,
    volumes: Sequence[Volume],
    levels: Sequence[Levels],
    labels: NDArray[Any],
    report: CaseReport,
) -> tuple[list[str], CaseReport]:
    view = choose_view(volumes[0])
    axes, settings = volumes[0].orientation, job.settings
    stack = view.apply(labels, axes)
    found = split_labels(stack, dataset.structures, components=settings.split, least=settings.smallest * stack[0].size)
    shape = shrink_shape((stack.shape[1], stack.shape[2]), settings.size)
    small = resize_slices(found.map, shape, nearest=True)
    kept, dropped = select_objects(found, count_pixels(small), settings.smallest)
    structures = [one.structure for one in kept]
    report = replace(report, dropped=dropped, objects={name: structures.count(name) for name in dict.fromkeys(structures)})
    if not kept:
        nothing = DroppedObject("", 0, 0.0, "no structure is large enough to train on")
        return [], replace(report, dropped=(*dropped, nothing))
    tasks = tuple(one.values for one in kept)
    numbers = tuple(job.unit.number + channel for channel in range(len(volumes)))
    written: list[str] = []
    for number, volume, level, channel in zip(numbers, volumes, levels, dataset.channels, strict=True):
        images = resize_slices(view.apply(level.grey(volume.array, job.settings.bits), axes), shape)
        case = TrainingCase(images, small, tasks, "volume", dataset.name)
        written += write_training_case(job.output, number, case, structures=structures, modality=channel)
    return written, replace(report, arrays=numbers)


LEAST_IMAGES = 2  # images without which there is no set


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image of a set, as it is trained on."""

    image: NDArray[Pixel]  # (H, W), or (H, W, 3) bytes
    labels: NDArray[Any] | None  # (H, W), None where there are none
    report: CaseReport  # of its case


def _prepare_pictures(job: PrepareJob, dataset: DataSet) -> Written:
    files: list[str] = []
    reports: dict[str, CaseReport] = {}
    ready: list[PreparedImage] = []
    for case in job.cases(dataset):
        try:
            one, written = _convert_picture(job, dataset, case)
        except Exception as error:  # one bad case never stops the others: it is named in the manifest
            reports[case.identifier] = report_failure(case, error)
            continue
        files += written
        reports[case.identifier] = one.report
        if one.labels is not None and case.split == "train":
            ready.append(one)
    if ready:
        trained, of_images = _write_set_case(job, dataset, ready)
        files += trained
        reports |= {report.case: report for report in of_images}
    return files, list(reports.values())


def _convert_picture(job: PrepareJob, dataset: DataSet, case: Case) -> tuple[PreparedImage, list[str]]:
    # Colours stay bytes, for the network normalises them; grey images become z-scores, as slices of volumes do.
    loaded = dataset.load(case)
    (picture,) = (found for found in loaded.images if isinstance(found, Picture))
    array = picture.array
    if dataset.colour and not picture.colour:
        array = np.repeat(array[..., None], 3, axis=2)
    planes = [array[..., channel] for channel in range(3)] if dataset.colour else [array]
    cut = cut_to_content(planes, loaded.labels)
    array, labels = array[cut.box], None if loaded.labels is None else loaded.labels[cut.box]
    levels = levels_of(array, cut.inside, "whole" if dataset.colour else channel_rule(dataset.channels[0], dataset.modality))
    report = _describe_case(case, picture.shape, cut, [levels], picture.warnings)
    if dataset.colour:
        written = _store_colour(case, job, array, labels) if job.settings.images else []
        return PreparedImage(array.astype(np.uint8), labels, report), written
    written: list[str] = []
    if job.settings.images:  # as a volume of one slice: x runs with the columns, y with the rows, for pixels know no patient
        rows_mm, columns_mm = picture.spacing_mm or (1.0, 1.0)
        affine = np.diag([-columns_mm, -rows_mm, 1.0, 1.0])
        affine[:2, 3] = -columns_mm * cut.box[1].start, -rows_mm * cut.box[0].start
        inside, drawn = (None if part is None else as_slice(part) for part in (cut.inside, labels))
        written = _store_volumes(job, case, [Volume(as_slice(array), affine)], [levels], inside, drawn)
    return PreparedImage(levels.grey(array, job.settings.bits), labels, report), written


def _store_colour(case: Case, job: PrepareJob, array: NDArray[Any], labels: Labels) -> list[str]:
    files, label_file = name_files(case, 1, ".png")
    _write_png(job, files[0], array.astype(np.uint8))
    if labels is not None:
        _write_png(job, label_file, labels)
        files.append(label_file)
    return files


def _write_png(job: PrepareJob, file: str, array: NDArray[Any]) -> None:
    with writing(job.output / file) as stream:
        Image.fromarray(np.ascontiguousarray(array)).save(stream, format="PNG")


def _write_set_case(job: PrepareJob, dataset: DataSet, ready: Sequence[PreparedImage]) -> tuple[list[str], list[CaseReport]]:
    """Write the group as one training case; images on which nothing is large enough are left out.

    Components are not told apart: those of one image have no counterpart on another.
    """
    # What an image lacks is decided after scaling, where small structures may have gone, and a set of one image is none.
    side = min(job.settings.size, max(max(one.image.shape[:2]) for one in ready))
    labels = np.stack([resize_slices(_labels_as_bytes(one.labels)[None], (side, side), nearest=True)[0] for one in ready])
    found = split_labels(labels, dataset.structures, components=False, least=0)
    counts = count_pixels(found.map)
    kept, dropped = select_objects(found, counts, job.settings.smallest)
    share = np.stack([counts[:, list(one.values)].sum(axis=1) / (side * side) for one in kept] or [np.zeros(len(ready))])
    good = np.flatnonzero((share >= max(job.settings.smallest, 1e-12)).any(axis=0))
    small = DroppedObject("", 0, 0.0, f"nothing covers {job.settings.smallest:.3%} of it")
    few = DroppedObject("", 0, 0.0, "its group has no second image to train on")
    lost = {n: (small,) for n in range(len(ready)) if n not in good} | (
        {int(n): (few,) for n in good} if len(good) < LEAST_IMAGES else {}
    )
    reports = [
        replace(
            one.report,
            dropped=lost.get(n, dropped),
            arrays=() if n in lost else (job.unit.number,),
            objects={} if n in lost else {o.structure: 1 for o in kept if counts[n, list(o.values)].sum()},
        )
        for n, one in enumerate(ready)
    ]
    if len(good) < LEAST_IMAGES:
        return [], reports
    images = np.stack([_as_colour(resize_slices(ready[int(n)].image[None], (side, side))[0]) for n in good])
    case = TrainingCase(images, found.map[good], tuple(one.values for one in kept), "set", dataset.name)
    modality = dataset.modality if dataset.colour else dataset.channels[0]
    structures = [one.structure for one in kept]
    return write_training_case(job.output, job.unit.number, case, structures=structures, modality=modality), reports


def _labels_as_bytes(labels: NDArray[Any] | None) -> NDArray[np.uint8]:
    if labels is None or labels.max(initial=0) > 255:
        raise ValueError("labels of pictures are bytes")
    return labels.astype(np.uint8)


def _as_colour(image: NDArray[Pixel]) -> NDArray[Pixel]:
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def measure_foreground(job: PrepareJob) -> Path:
    """Count the foreground of one case, unless it was done before; returns the file with the counts."""
    dataset = job.source.open()
    (case,) = job.cases(dataset)
    key = [stamp(case), job.settings.window_hu, sorted(dataset.structures.items()), dataset.ignore, dataset.channels]
    path = job.output / STATE / "foreground" / f"{job.unit.number:06d}-{digest_json(key)[:16]}.npy"
    if not path.is_file():
        counts = _count_foreground(dataset, case, job.settings.window_hu)
        with writing(path) as stream:
            np.save(stream, counts, allow_pickle=False)
    return path


def _count_foreground(dataset: DataSet, case: Case, window_hu: tuple[float, float]) -> NDArray[np.int64]:
    loaded = dataset.load(case)
    total = np.zeros(BINS, np.int64)
    values = [value for values in dataset.structures.values() for value in values]
    for volume, channel in zip(loaded.images, dataset.channels, strict=True):
        if isinstance(volume, Volume) and channel_rule(channel, dataset.modality) == "window":
            total += count_foreground(
                volume.array if loaded.labels is None else volume.array[np.isin(loaded.labels, values)], window_hu
            )
    return total

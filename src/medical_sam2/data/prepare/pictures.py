"""A group of 2D images: colour as PNG, grey as NIfTI; together a training case, a set of images in no order."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medical_sam2 import io
from medical_sam2.data.cases import TrainingCase
from medical_sam2.data.dataset import Case, DataSet
from medical_sam2.data.prepare import parts, slices
from medical_sam2.data.prepare.arrays import write
from medical_sam2.data.prepare.intensity import cut_to_content, levels_of
from medical_sam2.data.prepare.report import CaseReport, Dropped
from medical_sam2.data.prepare.source import checksums
from medical_sam2.data.prepare.unit import Job, Made, failed, names, task_names
from medical_sam2.data.prepare.volumes import channel_rule
from medical_sam2.io.atomic import write_bytes
from medical_sam2.io.registry import Picture
from medical_sam2.volume import Volume

LEAST = 2  # images without which there is no set


@dataclass(frozen=True, eq=False)
class Ready:
    """An image of a set, as it is trained on.

    Args:
        image: (H, W) or (H, W, 3) bytes.
        labels: (H, W), None where there are none.
        report: of its case.
    """

    image: NDArray[np.uint8]
    labels: NDArray[Any] | None
    report: CaseReport


def prepare(job: Job, dataset: DataSet, cases: Sequence[Case]) -> Made:
    """Prepare a group of pictures; see `unit.work`."""
    files: list[str] = []
    reports: dict[str, CaseReport] = {}
    ready: list[Ready] = []
    for case in cases:
        try:
            one, written = _prepared(job, dataset, case)
        except Exception as error:  # one bad case never stops the others: it is named in the manifest
            reports[case.identifier] = failed(case, error)
            continue
        files += written
        reports[case.identifier] = one.report
        if one.labels is not None and case.split == "train":
            ready.append(one)
    if ready:
        trained, told = _train(job, dataset, ready)
        files += trained
        reports |= {report.case: report for report in told}
    return Made(tuple(files), tuple(reports.values()))


def _prepared(job: Job, dataset: DataSet, case: Case) -> tuple[Ready, list[str]]:
    loaded = dataset.load(case)
    (picture,) = (found for found in loaded.images if isinstance(found, Picture))
    array = picture.array
    if dataset.colour and not picture.colour:
        array = np.repeat(array[..., None], 3, axis=2)
    planes = [array[..., channel] for channel in range(3)] if dataset.colour else [array]
    cut = cut_to_content(planes, loaded.labels)
    array, labels = array[cut.box], None if loaded.labels is None else loaded.labels[cut.box]
    levels = levels_of(array, cut.inside, "whole" if dataset.colour else channel_rule(dataset.channels[0], dataset.modality))
    report = CaseReport(
        case.identifier,
        case.split,
        checksums(case),
        shape=picture.shape,
        crop=tuple((side.start, side.stop - 1) for side in cut.box),
        inside_mask=cut.inside is not None,
        levels=(levels,),
        notes=picture.warnings,
    )
    if dataset.colour:
        written = _store_colour(case, job, array, labels) if job.settings.images else []
        return Ready(array.astype(np.uint8), labels, report), written
    normal = levels.normalise(array, cut.inside)
    corner = (cut.box[0].start, cut.box[1].start)
    written = _store_grey(case, job, normal, labels, picture, corner) if job.settings.images else []
    return Ready(levels.grey(array), labels, report), written


def _store_colour(case: Case, job: Job, array: NDArray[Any], labels: NDArray[Any] | None) -> list[str]:
    files, label_file = names(case, 1, ".png")
    _png(job, files[0], array.astype(np.uint8))
    if labels is not None:
        _png(job, label_file, labels)
        files.append(label_file)
    return files


def _png(job: Job, file: str, array: NDArray[Any]) -> None:
    stream = BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(stream, format="PNG")
    write_bytes(job.output / file, stream.getvalue())


def _store_grey(
    case: Case, job: Job, normal: NDArray[np.float32], labels: NDArray[Any] | None, picture: Picture, corner: tuple[int, int]
) -> list[str]:
    """As a volume of one slice; x runs with the columns, y with the rows: pixels know no patient."""
    files, label_file = names(case, 1, ".nii.gz")
    rows_mm, columns_mm = picture.spacing_mm or (1.0, 1.0)
    affine = np.diag([-columns_mm, -rows_mm, 1.0, 1.0])
    affine[:2, 3] = -columns_mm * corner[1], -rows_mm * corner[0]
    image = slices.flat(normal)
    like = Volume(image, affine)
    io.save(image, job.output / files[0], like=like)
    if labels is not None:
        io.save(slices.flat(labels), job.output / label_file, like=like)
        files.append(label_file)
    return files


def _train(job: Job, dataset: DataSet, ready: Sequence[Ready]) -> tuple[list[str], list[CaseReport]]:
    """Write the group as one training case; images on which nothing is large enough are left out.

    Components are not told apart: those of one image have no counterpart on another.
    """
    side = min(job.settings.size, max(max(one.image.shape[:2]) for one in ready))
    labels = np.stack([slices.resize(_bytes(one.labels)[None], (side, side), nearest=True)[0] for one in ready])
    found = parts.split(labels, dataset.structures, components=False, least=0)
    counts = slices.areas(found.map)
    kept, dropped = parts.worth(found, counts, job.settings.smallest)
    share = np.stack([counts[:, list(one.values)].sum(axis=1) / (side * side) for one in kept] or [np.zeros(len(ready))])
    good = np.flatnonzero((share >= max(job.settings.smallest, 1e-12)).any(axis=0))
    small = Dropped("", 0, 0.0, f"nothing covers {job.settings.smallest:.3%} of it")
    few = Dropped("", 0, 0.0, "its group has no second image to train on")
    lost = {n: (small,) for n in range(len(ready)) if n not in good} | (
        {int(n): (few,) for n in good} if len(good) < LEAST else {}
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
    if len(good) < LEAST:
        return [], reports
    images = np.stack([slices.resize(_coloured(ready[int(n)].image)[None], (side, side))[0] for n in good])
    case = TrainingCase(images, found.map[good], tuple(one.values for one in kept), "set", dataset.name)
    modality = dataset.modality if dataset.colour else dataset.channels[0]
    task = task_names(dataset, [one.structure for one in kept])
    return write(job.output, job.unit.number, case, task_names=task, modality=modality), reports


def _bytes(labels: NDArray[Any] | None) -> NDArray[np.uint8]:
    if labels is None or labels.max(initial=0) > 255:
        raise ValueError("labels of pictures are bytes")
    return labels.astype(np.uint8)


def _coloured(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)

"""A volume: cropped, normalised, stored on its own grid; and its slices as a training case for each channel."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medical_sam2 import io
from medical_sam2.data.cases import TrainingCase
from medical_sam2.data.dataset import Case, DataSet
from medical_sam2.data.nnunet import MODALITIES, modality_of
from medical_sam2.data.prepare import parts, slices
from medical_sam2.data.prepare.arrays import write
from medical_sam2.data.prepare.intensity import CLIPPED, HOUNSFIELD, Cut, Levels, Rule, cut_to_content, levels_of, rule_for
from medical_sam2.data.prepare.report import CaseReport, Dropped
from medical_sam2.data.prepare.source import checksums
from medical_sam2.data.prepare.unit import Job, Made, failed, names, task_names
from medical_sam2.volume import Volume

ENDING = ".nii.gz"
CODES = {HOUNSFIELD, *CLIPPED, *MODALITIES}


def prepare(job: Job, dataset: DataSet, cases: Sequence[Case]) -> Made:
    """Prepare a volume; see `unit.work`."""
    (case,) = cases
    try:
        return _prepared(job, dataset, case)
    except Exception as error:  # one bad case never stops the others: it is named in the manifest
        return Made((), (failed(case, error),))


def channel_rule(channel: str, modality: str) -> Rule:
    """The rule of one channel, by its own name or, where that tells nothing, by the modality of the data set.

    A CT counts as Hounsfield units only where the channel is called just that.
    """
    found = modality_of((channel,))
    code = found if found in CODES else modality
    return "whole" if code == HOUNSFIELD and channel.upper() != HOUNSFIELD else rule_for(code)


def _prepared(job: Job, dataset: DataSet, case: Case) -> Made:
    loaded = dataset.load(case)
    volumes = [volume for volume in loaded.images if isinstance(volume, Volume)]
    cut = cut_to_content([volume.array for volume in volumes], loaded.labels)
    labels = None if loaded.labels is None else loaded.labels[cut.box]
    levels = tuple(
        _levels(volume.array[cut.box], cut.inside, channel_rule(channel, dataset.modality), job.scale)
        for volume, channel in zip(volumes, dataset.channels, strict=True)
    )
    cropped = [_cropped(volume, cut) for volume in volumes]
    written = _store(job, case, cropped, levels, cut, labels) if job.settings.images else []
    report = CaseReport(
        case.identifier,
        case.split,
        checksums(case),
        shape=volumes[0].shape,
        crop=tuple((side.start, side.stop - 1) for side in cut.box),
        inside_mask=cut.inside is not None,
        levels=levels,
        notes=_notes(dataset, volumes),
    )
    if labels is None or case.split == "test":
        return Made(tuple(written), (report,))
    trained, report = _train(job, dataset, cropped, levels, labels, report)
    return Made((*written, *trained), (report,))


def _levels(array: NDArray[Any], inside: NDArray[np.bool_] | None, rule: Rule, scale: Levels | None) -> Levels:
    return scale if rule == "window" and scale is not None else levels_of(array, inside, rule)


def _cropped(volume: Volume, cut: Cut) -> Volume:
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [side.start for side in cut.box]
    return replace(volume, array=volume.array[cut.box], affine=affine)


def _notes(dataset: DataSet, volumes: Sequence[Volume]) -> tuple[str, ...]:
    notes = dict.fromkeys(note for volume in volumes for note in volume.warnings)
    for volume, channel in zip(volumes, dataset.channels, strict=True):
        if channel_rule(channel, dataset.modality) == "window" and volume.array.min() >= 0:
            notes["no value is under 0: these may not be Hounsfield units"] = None
    return tuple(notes)


def _store(
    job: Job, case: Case, volumes: Sequence[Volume], levels: Sequence[Levels], cut: Cut, labels: NDArray[Any] | None
) -> list[str]:
    files, label_file = names(case, len(volumes), ENDING)
    for file, volume, level in zip(files, volumes, levels, strict=True):
        io.save(level.normalise(volume.array, cut.inside), job.output / file, like=volume)
    if labels is not None:
        io.save(labels, job.output / label_file, like=volumes[0])
        files.append(label_file)
    return files


def _train(
    job: Job,
    dataset: DataSet,
    volumes: Sequence[Volume],
    levels: Sequence[Levels],
    labels: NDArray[Any],
    report: CaseReport,
) -> tuple[list[str], CaseReport]:
    """Write a training case for each channel, if anything in it is large enough."""
    view = slices.view_of(volumes[0])
    axes, settings = volumes[0].orientation, job.settings
    stack = view.apply(labels, axes)
    found = parts.split(stack, dataset.structures, components=settings.split, least=settings.smallest * stack[0].size)
    shape = slices.target((stack.shape[1], stack.shape[2]), settings.size)
    small = slices.resize(found.map, shape, nearest=True)
    kept, dropped = parts.worth(found, slices.areas(small), settings.smallest)
    report = replace(report, dropped=dropped, objects=parts.counted(kept))
    if not kept:
        nothing = Dropped("", 0, 0.0, "no structure is large enough to train on")
        return [], replace(report, dropped=(*dropped, nothing))
    tasks, task = tuple(one.values for one in kept), task_names(dataset, [one.structure for one in kept])
    numbers = tuple(job.unit.number + channel for channel in range(len(volumes)))
    written: list[str] = []
    for number, volume, level, channel in zip(numbers, volumes, levels, dataset.channels, strict=True):
        images = slices.resize(view.apply(level.grey(volume.array), axes), shape)
        case = TrainingCase(images, small, tasks, "volume", dataset.name)
        written += write(job.output, number, case, task_names=task, modality=channel)
    return written, replace(report, arrays=numbers)

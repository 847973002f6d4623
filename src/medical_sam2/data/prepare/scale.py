"""The first pass over a CT data set: what its foreground looks like, so that all images get one scale."""

from pathlib import Path

import numpy as np

from medical_sam2.data.dataset import Case, DataSet
from medical_sam2.data.prepare.foreground import BINS, Histogram
from medical_sam2.data.prepare.source import stamp
from medical_sam2.data.prepare.unit import STATE, Job, digest
from medical_sam2.data.prepare.volumes import channel_rule
from medical_sam2.io.atomic import writing
from medical_sam2.volume import Volume


def needs_scale(dataset: DataSet) -> bool:
    """Whether a channel is a CT in Hounsfield units."""
    return dataset.kind == "volume" and any(channel_rule(channel, dataset.modality) == "window" for channel in dataset.channels)


def measured(dataset: DataSet) -> tuple[Case, ...]:
    """Cases that the scale is taken from: those with labels to train on, or all where there is none."""
    return tuple(case for case in dataset.split("train") if case.label is not None) or dataset.cases


def measure(job: Job) -> Path:
    """Count the foreground of one case, unless it was done before; returns the file with the counts."""
    dataset = job.source.open()
    (case,) = job.cases(dataset)
    key = [stamp(case), job.settings.window_hu, sorted(dataset.structures.items()), dataset.ignore, dataset.channels]
    path = job.output / STATE / "foreground" / f"{job.unit.number:06d}-{digest(key)[:16]}.npy"
    if not path.is_file():
        counts = _counts(dataset, case, job.settings.window_hu)
        with writing(path) as stream:
            np.save(stream, counts.counts, allow_pickle=False)
    return path


def read(path: Path) -> Histogram:
    """The counts of a file that `measure` wrote."""
    return Histogram(np.load(path, allow_pickle=False))


def _counts(dataset: DataSet, case: Case, window_hu: tuple[float, float]) -> Histogram:
    loaded = dataset.load(case)
    total = np.zeros(BINS, np.int64)
    values = [value for values in dataset.structures.values() for value in values]
    for volume, channel in zip(loaded.images, dataset.channels, strict=True):
        if isinstance(volume, Volume) and channel_rule(channel, dataset.modality) == "window":
            seen = volume.array if loaded.labels is None else volume.array[np.isin(loaded.labels, values)]
            total += Histogram.of(seen, window_hu).counts
    return Histogram(total)

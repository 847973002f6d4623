"""What a run over many cases would take: time and memory, before the first case is outlined."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import numpy as np

from medical_sam2.batch.run import BatchRun
from medical_sam2.prompts import Box
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.plan import bytes_needed
from medical_sam2.tracking.template import SEARCHED
from medical_sam2.volume import Volume


@dataclass(frozen=True)
class BatchEstimate:
    """What a run would take."""

    seconds: float  # about so long; at most, where nothing was done yet that could be measured
    bytes: int  # memory of the largest case; 0 where no header has a size
    measured: bool  # whether earlier cases of this folder tell the time


def estimate(run: BatchRun, grids: Mapping[str, Volume], segmenter: Segmenter) -> BatchEstimate:
    """Time and memory of what is to be done: from the cases that are done, or from eight slices that are made up.

    Args:
        run: with its jobs.
        grids: case → grid, as far as known; other cases count as the usual one.
        segmenter: the network.
    """
    size = segmenter.network.image_size
    todo = [grids[job.case.name] for job in run.todo if job.case.name in grids]
    memory = max(
        (bytes_needed(each, 1, size, probability=False, uncertainty=False) + each.array.nbytes for each in todo), default=0
    )
    if times := [sum(each.seconds.values()) for each in run.done() if each.seconds]:
        return BatchEstimate(median(times) * len(run.todo), memory, measured=True)
    views = {"three": 3, "auto": 3, "six": 6}.get(run.settings.views, 1)
    slices = [min(each.shape) if views == 1 else sum(each.shape) * views / 3 for each in todo]
    if any(job.case.template for job in run.todo):
        slices = [count + 2 * SEARCHED for count in slices]
    usual = median(slices) if slices else 100
    tuned = sum(job.case.reads_masks for job in run.todo)  # clicks and boxes are nothing to tune to
    seconds = _seconds_per_slice(segmenter) * usual * len(run.todo) + run.settings.adapt * tuned
    return BatchEstimate(seconds, memory, measured=False)


def _seconds_per_slice(segmenter: Segmenter) -> float:
    """Of a bright block in eight slices."""
    array = np.random.default_rng(0).normal(0, 20, (64, 64, 8)).astype(np.float32)
    array[20:44, 20:44] += 200
    start = time.perf_counter()
    segmenter.segment_volume(Volume(array, np.diag([1.0, 1.0, 3.0, 1.0])), [Box((18, 18, 4), (46, 46, 4))], views="one")
    return (time.perf_counter() - start) / array.shape[2]

"""Training cases on disk, in the form that `data.synthetic.PoolReader` reads: plain arrays that can be memory-mapped."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medical_sam2.data.cases import ARRAYS, Kind, Task
from medical_sam2.data.prepare.report import write_json
from medical_sam2.data.prepare.unit import VERSION
from medical_sam2.io.atomic import writing


@dataclass(frozen=True, eq=False)
class Training:
    """Images with their objects outlined, as `data.cases.TrainingCase` wants them.

    Args:
        kind: "volume" or "set".
        images: (D, H, W) or (N, H, W, 3).
        labels: (D, H, W) or (N, H, W).
        tasks: the objects.
        name: of the data set.
    """

    kind: Kind
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    tasks: tuple[Task, ...]
    name: str


def write(output: Path, number: int, case: Training, *, task_names: Sequence[str], modality: str) -> list[str]:
    """Write a training case; its description comes last, so a case that has one is whole.

    Returns:
        The files, relative to the output folder.
    """
    stem = f"{ARRAYS}/{number:06d}"
    files = [f"{stem}.images.npy", f"{stem}.labels.npy", f"{stem}.json"]
    for file, array in zip(files, (case.images, case.labels), strict=False):
        with writing(output / file) as stream:
            np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    told = {"kind": case.kind, "name": case.name, "tasks": case.tasks, "task_names": list(task_names), "modality": modality}
    write_json(output / files[2], {**told, "version": VERSION})
    return files

"""The training cases of a prepared data set, as `data.cases` reads them."""

from collections.abc import Sequence
from pathlib import Path

from medical_sam2.data.cases import ARRAYS, TrainingCase, write_arrays
from medical_sam2.data.prepare.report import write_json
from medical_sam2.data.prepare.unit import VERSION


def write(output: Path, number: int, case: TrainingCase, *, task_names: Sequence[str], modality: str) -> list[str]:
    """Write a training case; its description comes last, so a case that has one is whole.

    Returns:
        The files, relative to the output folder.
    """
    names = [*write_arrays(output / ARRAYS, number, case), f"{number:06d}.json"]
    told = {"kind": case.kind, "name": case.name, "tasks": case.tasks, "task_names": list(task_names), "modality": modality}
    write_json(output / ARRAYS / names[-1], {**told, "version": VERSION})
    return [f"{ARRAYS}/{name}" for name in names]

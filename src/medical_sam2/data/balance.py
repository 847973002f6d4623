"""Balanced sampling (METHOD §6): a task uniformly, then a modality of that task, then a case of that modality.

Large data sets would else drown small ones, and frequent structures rare ones.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from medical_sam2.data.cases import CaseEntry, Kind

Place = tuple[int, tuple[int, ...]]
"""Position of a case, and which of its objects are examples of the task."""


class Balance:
    """Cases by task and modality.

    Args:
        entries: what there is.
    """

    def __init__(self, entries: Sequence[CaseEntry]) -> None:
        tasks: dict[str, dict[str, list[Place]]] = {}
        for position, entry in enumerate(entries):
            for name in dict.fromkeys(entry.task_names):
                objects = tuple(number for number, other in enumerate(entry.task_names) if other == name)
                tasks.setdefault(name, {}).setdefault(entry.modality, []).append((position, objects))
        self.tasks = {name: {modality: tasks[name][modality] for modality in sorted(tasks[name])} for name in sorted(tasks)}
        self._names = tuple(self.tasks)

    def draw(self, rng: np.random.Generator) -> tuple[str, str]:
        """A task, and a modality that it was seen in."""
        task = self._names[int(rng.integers(len(self._names)))]
        modalities = tuple(self.tasks[task])
        return task, modalities[int(rng.integers(len(modalities)))]

    def case(self, rng: np.random.Generator, task: str, modality: str) -> tuple[int, int]:
        """Position of a case of that task and modality, and which of its objects is meant."""
        cases = self.tasks[task][modality]
        position, objects = cases[int(rng.integers(len(cases)))]
        return position, objects[int(rng.integers(len(objects)))]


@lru_cache(maxsize=8)
def data_sets_of(entries: tuple[CaseEntry, ...], kind: Kind) -> tuple[list[int], ...]:
    """Positions of the cases of a kind, apart for each data set (or generator) that they come from."""
    groups: dict[str, list[int]] = {}
    for position, entry in enumerate(entries):
        if entry.kind == kind:
            groups.setdefault(entry.name, []).append(position)
    return tuple(groups[name] for name in sorted(groups))


@lru_cache(maxsize=4)
def balance_of(entries: tuple[CaseEntry, ...]) -> Balance:
    """The balance of these entries, made once."""
    return Balance(entries)

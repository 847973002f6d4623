"""Balanced sampling: tasks, then modalities, then cases, whatever their numbers."""

import numpy as np

from medical_sam2.data.balance import Balance
from medical_sam2.data.cases import CaseEntry


def entry(index: int, names: tuple[str, ...], modality: str) -> CaseEntry:
    return CaseEntry(index, "volume", tuple((n + 1,) for n in range(len(names))), "set", names, modality)


def test_a_rare_task_comes_as_often_as_a_frequent_one() -> None:
    balance = Balance([*(entry(n, ("liver",), "CT") for n in range(99)), entry(99, ("lesion",), "CT")])
    rng = np.random.default_rng(0)
    rare = np.mean([balance.draw(rng)[0] == "lesion" for _ in range(2000)])
    assert abs(rare - 0.5) < 0.05


def test_a_case_shows_the_object_that_was_drawn() -> None:
    balance = Balance([entry(0, ("liver", "lesion", "lesion"), "CT"), entry(1, ("lesion",), "MR")])
    rng = np.random.default_rng(0)
    drawn = {balance.case(rng, "lesion", "CT") for _ in range(50)}
    assert drawn == {(0, 1), (0, 2)}
    assert balance.case(rng, "lesion", "MR") == (1, 0)

"""Jobs in several processes: answers are those of one process; whoever dies is named, and takes nobody along."""

import os

from medical_sam2.data.cases import DIED, run_jobs


def answer(number: int) -> int:
    """Half of an even number; 3 is no number to halve, 5 ends the process as the system does when memory runs out."""
    if number == 5:
        os._exit(9)
    if number % 2:
        raise ValueError(number)
    return number // 2


def test_errors_and_deaths_are_answers() -> None:
    found = {one.job: one for one in run_jobs(answer, [2, 3, 5, 8, 6, 7, 4], 2)}
    alone = {one.job: one for one in run_jobs(answer, [2, 3, 8, 6, 7, 4], 1)}
    assert (found[5].result, found[5].error) == (None, DIED)
    assert found.keys() == alone.keys() | {5}, "each job has one answer, whoever died beside it"
    for job, one in alone.items():
        assert (found[job].result, repr(found[job].error)) == (one.result, repr(one.error))
    assert (alone[2].result, alone[3].result, type(alone[3].error)) == (1, None, ValueError)


def test_in_this_process() -> None:
    told = {one.job: one for one in run_jobs(answer, [2, 3], 1)}
    assert (told[2].result, type(told[3].error)) == (1, ValueError)
    assert list(run_jobs(answer, [], 4)) == []

"""Jobs in several processes: whoever dies is told, and takes nobody along."""

import os

from medical_sam2.data.parallel import DIED, run_jobs


def answer(number: int) -> int:
    """Half of an even number; 3 is no number to halve, 5 ends the process as the system does when memory runs out."""
    if number == 5:
        os._exit(9)
    if number % 2:
        raise ValueError(number)
    return number // 2


def test_errors_and_deaths_are_answers() -> None:
    told = {one.job: one for one in run_jobs(answer, [2, 3, 5], 2)}
    assert (told[2].result, told[2].error) == (1, None)
    assert (told[3].result, type(told[3].error)) == (None, ValueError)
    assert (told[5].result, told[5].error) == (None, DIED)


def test_in_this_process() -> None:
    told = {one.job: one for one in run_jobs(answer, [2, 3], 1)}
    assert (told[2].result, type(told[3].error)) == (1, ValueError)
    assert list(run_jobs(answer, [], 4)) == []

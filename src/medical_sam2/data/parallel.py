"""Many jobs in several processes: one that fails, or takes its process down with it, is reported and the others go on."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Generic, TypeVar

Task = TypeVar("Task")
Output = TypeVar("Output")
DIED = "its process died, most likely for want of memory; prepare with fewer workers"


@dataclass(frozen=True)
class JobResult(Generic[Task, Output]):
    """What came of a job."""

    job: Task  # it
    result: Output | None  # what it returned; None if it failed
    error: BaseException | str | None = None  # why it failed, an exception or words


def run_jobs(function: Callable[[Task], Output], jobs: Sequence[Task], workers: int) -> Iterator[JobResult[Task, Output]]:
    """The answers to all jobs, in the order in which they are done.

    Args:
        function: of a module, so that other processes find it.
        workers: processes; with one, the work is done in this process.
    """
    if workers <= 1:
        for job in jobs:
            yield _try_job(function, job)
        return
    if not jobs:
        return
    left = list(jobs)
    for answer in _run_in_pool(function, jobs, workers):
        left.remove(answer.job)
        yield answer
    for job in left:  # a process died: whose fault it was shows when each job has a process of its own
        yield from list(_run_in_pool(function, [job], 1)) or [JobResult(job, None, DIED)]


def _try_job(function: Callable[[Task], Output], job: Task) -> JobResult[Task, Output]:
    try:
        return JobResult(job, function(job))
    except Exception as error:  # reported to whoever asked, who goes on with the others
        return JobResult(job, None, error)


def _run_in_pool(function: Callable[[Task], Output], jobs: Sequence[Task], workers: int) -> Iterator[JobResult[Task, Output]]:
    """Answers until all are there or a process dies."""
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as executor:
        futures: dict[Future[Output], Task] = {executor.submit(function, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    return
                yield JobResult(futures[future], None if error else future.result(), error)
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise

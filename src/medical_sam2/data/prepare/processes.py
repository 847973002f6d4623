"""Many jobs in several processes: one that fails, or takes its process down with it, is told and the others go on."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Generic, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")
DIED = "its process died, most likely for want of memory; prepare with fewer workers"


@dataclass(frozen=True)
class Answer(Generic[Job, Result]):
    """What came of a job.

    Args:
        job: it.
        result: what it returned; None if it failed.
        error: why it failed, an exception or words.
    """

    job: Job
    result: Result | None
    error: BaseException | str | None = None


def each(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Answer[Job, Result]]:
    """The answers to all jobs, in the order in which they are done.

    Args:
        function: of a module, so that other processes find it.
        jobs: what it is called with.
        workers: processes; with one, the work is done in this process.
    """
    if workers <= 1:
        for job in jobs:
            yield _tried(function, job)
        return
    if not jobs:
        return
    left = list(jobs)
    for answer in _together(function, jobs, workers):
        left.remove(answer.job)
        yield answer
    for job in left:  # a process died: whose fault it was shows when each job has a process of its own
        yield from list(_together(function, [job], 1)) or [Answer(job, None, DIED)]


def _tried(function: Callable[[Job], Result], job: Job) -> Answer[Job, Result]:
    try:
        return Answer(job, function(job))
    except Exception as error:  # told to whoever asked, who goes on with the others
        return Answer(job, None, error)


def _together(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Answer[Job, Result]]:
    """Answers until all are there or a process dies."""
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as executor:
        futures: dict[Future[Result], Job] = {executor.submit(function, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    return
                yield Answer(futures[future], None if error else future.result(), error)
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise

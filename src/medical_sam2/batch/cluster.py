"""Many cases on many machines, by Ray (an extra): one network for each worker, results written where they are made.

All machines see the same paths: images, prompts and the folder of the results lie on a shared disk. A worker that dies, or
whose machine does, is started anew and its case is outlined again; a case that fails costs its own row, as in one process.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from medical_sam2.batch.outputs import CaseOutcome
from medical_sam2.batch.run import BatchJob, BatchSettings, run_job
from medical_sam2.errors import ConfigError, ResourceError

ATTEMPTS = 3
"""How often a case is tried whose worker dies."""
DIED = "its worker died each time, most likely for want of memory; give fewer --workers"


class CaseWorker:
    """Outlines cases with a network that is loaded once.

    Args:
        settings: of the run.
        place: folder that relative paths begin at.
    """

    def __init__(self, settings: BatchSettings, place: str) -> None:
        os.chdir(place)
        self._segmenter = settings.load_segmenter()

    def outline(self, job: BatchJob) -> CaseOutcome:
        """Outline a case and write its results."""
        return run_job(job, self._segmenter)


def run_on_cluster(jobs: Sequence[BatchJob], address: str, workers: int | None = None) -> Iterator[CaseOutcome]:
    """The jobs by the workers of a cluster, in the order in which they are done.

    Args:
        jobs: what is to be outlined; of one run.
        address: "local" for processes of this machine, "auto" for a cluster that this machine belongs to, or HOST:PORT.
        workers: how many; as many as fit unless given.

    Raises:
        ConfigError: there is no such cluster.
    """
    if not jobs:
        return
    import ray  # an extra, and seconds to load

    settings = jobs[0].settings
    with _connected(address):
        gpus = 0 if settings.device == "cpu" else int(ray.cluster_resources().get("GPU", 0))
        cpus = int(ray.cluster_resources().get("CPU", 1))
        threads = settings.threads or 1
        count = min(len(jobs), workers or gpus or max(1, cpus // threads))
        needs: dict[str, Any] = {"num_cpus": 1 if gpus else threads, "num_gpus": min(1.0, gpus / count) if gpus else 0}
        # a dead worker is started again by Ray, and its case with it, without a word from us
        hired: Any = ray.remote(**needs, max_restarts=-1, max_task_retries=ATTEMPTS - 1)(CaseWorker)
        idle, waiting, busy = (
            [hired.remote(settings, os.getcwd()) for _ in range(count)],
            list(reversed(jobs)),
            dict[Any, tuple[Any, BatchJob]](),
        )
        while waiting or busy:
            while idle and waiting:
                worker, job = idle.pop(), waiting.pop()
                busy[worker.outline.remote(job)] = worker, job
            (done, *_), _ = ray.wait(list(busy))
            worker, job = busy.pop(done)
            idle.append(worker)
            yield _outcome_of(done, job)


def _outcome_of(answer: Any, job: BatchJob) -> CaseOutcome:
    import ray.exceptions

    try:
        return ray.get(answer)
    except ray.exceptions.RayActorError:
        return CaseOutcome(job.case.name, problem=f"{job.case.image}: {DIED}", exit_code=ResourceError.exit_code)


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """With a connection to a cluster; one of this machine is ended afterwards."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # else Ray reports to its makers
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises whatever it likes, a bare Exception among it
        problem = f"no cluster answers at {address} ({type(error).__name__})"
        raise ConfigError(problem, "give local, auto, or HOST:PORT of its head", subject="--cluster") from None
    try:
        yield
    finally:
        ray.shutdown()

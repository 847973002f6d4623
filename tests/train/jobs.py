"""Training jobs in processes of their own, which fork from one that has everything loaded."""

import os
import socket
import sys
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from medical_sam2.errors import MedicalSam2Error
from medical_sam2.model.image_encoders import ConvPyramid, initialise_weights
from medical_sam2.model.nano import Nano, nano_configuration
from medical_sam2.train.config import Phase, Recipe
from medical_sam2.train.distributed import ProcessGroup
from medical_sam2.train.loop import TrainingRun
from synthetic import write_pool

LOADED_ONCE = (  # by names that are found without the paths of the tests, which Python 3.11 does not hand on
    "medical_sam2.train.loop",
    "medical_sam2.model.nano",
    "accelerate",
    "torch.distributed.fsdp",
    "torch.utils.tensorboard",
    "scipy.ndimage",
    "scipy.spatial.transform",
)
CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(list(LOADED_ONCE))


def tiny_recipe(pool: Path) -> Recipe:
    """Four steps of two clips of two frames, on cases of the recipe of `nano` that are written to `pool`.

    The seed is one where no gradient sits on a kink: with 0, 3 and 4 rounding changed gradients by up to 4e-4 of their norm.
    """
    list(write_pool(pool, volumes=2, sets=2, seed=3, size=48, count=4))
    phases = (Phase(steps=4, frames=2, clips=2, objects=1, size=64),)
    return Recipe(
        str(pool), phases=phases, seed=1, warm_up=1, workers=0, save_every=1, corrections=0.5, precision="fp32", rate=2e-5
    )


def tiny_network() -> Nano:
    """All parts of `nano`, its encoder far smaller."""
    torch.manual_seed(0)
    network = Nano(nano_configuration(64), ConvPyramid(widths=(8, 16, 16, 16, 16), depths=(1, 1, 1, 1)))
    initialise_weights(network)
    network.carry.initialise()
    return network


def start(recipe: Recipe, folder: Path, *, count: int = 1, stalled_s: float = 45.0, resume: bool = False) -> list[BaseProcess]:
    """Start the processes of a job; what they say goes to `folder`/RANK.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    jobs: list[BaseProcess] = []
    for rank in range(count):
        job = CONTEXT.Process(target=_play, args=(recipe, folder, (rank, count, port), stalled_s, resume))
        job.start()
        jobs.append(job)
    return jobs


def _play(recipe: Recipe, folder: Path, place: tuple[int, int, int], stalled_s: float, resume: bool) -> None:
    rank, count, port = place
    told = os.open(folder / f"{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(told, 2)
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    torch.set_num_threads(1)
    if count > 1:
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        os.environ |= dict(zip(names, map(str, (rank, rank, count, count, "localhost", port)), strict=True))
    try:
        with ProcessGroup("cpu", stalled_s=stalled_s) as processes:
            training = TrainingRun(tiny_network(), recipe, folder, processes)
            if resume:
                training.resume()
            for _ in training.run():
                pass
            del training
    except MedicalSam2Error as error:
        sys.stderr.write(f"{error}\n")
        os._exit(error.exit_code)


def longer(recipe: Recipe, steps: int) -> Recipe:
    """The same with more steps."""
    return replace(recipe, phases=tuple(replace(phase, steps=steps) for phase in recipe.phases))

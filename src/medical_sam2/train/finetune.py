"""Fine-tuning on a data set of the user's: cases set apart, the others prepared, and a recipe that suits the network."""

import copy
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medical_sam2.data.cases import ARRAYS
from medical_sam2.data.data_sets import DESCRIPTION, Case, DataSet
from medical_sam2.data.prepare import PrepareSettings, prepare
from medical_sam2.data.prepare.units import DataSource
from medical_sam2.errors import ConfigError, FormatError
from medical_sam2.io import load_json
from medical_sam2.io.atomic import write_bytes
from medical_sam2.model.nano import Nano
from medical_sam2.model.sam2 import Sam2
from medical_sam2.train.config import LossWeights, Phase, Recipe
from medical_sam2.train.distributed import ProcessGroup
from medical_sam2.train.loop import TrainingRun, take_batch

NANO_RATE = 1e-4  # a seventh of the rate from scratch; no measurement chose it yet
WARM_UP_STEPS, TIMED_STEPS = 1, 3
SHARE_OF_TIME = 0.9  # of the minutes that are planned with; clips are slower to come now and then


@dataclass(frozen=True)
class CaseSplit:
    """Cases to learn from, and cases that only judge the result."""

    train: tuple[Case, ...]
    held_out: tuple[Case, ...]


def split_cases(dataset: DataSet, held_out: float, seed: int, most: int | None = None) -> CaseSplit:
    """Set cases apart, at random but always the same ones for a seed.

    Args:
        held_out: share of them (under 1), or how many.
        most: cases to learn from at most.

    Raises:
        ConfigError: nothing would be left to learn from, or to judge by.
    """
    cases = dataset.split("train")
    count = round(held_out * len(cases)) if held_out < 1 else int(held_out)
    if held_out > 0:
        count = max(1, count)
    if not 0 <= count < len(cases):
        raise ConfigError(
            f"{count} of {len(cases)} cases would be held out", "leave at least one to learn from", subject="--held-out"
        )
    order = [cases[int(n)] for n in np.random.default_rng(seed).permutation(len(cases))]
    return CaseSplit(tuple(order[count : None if most is None else count + most]), tuple(order[:count]))


def prepare_cases(dataset: DataSet, cases: Sequence[Case], output: Path, *, workers: int = 1) -> Path:
    """The training arrays of some cases of an nnU-Net raw data set; the folder that a recipe calls its pool.

    Raises:
        FormatError: a case cannot be read, or none shows anything large enough to learn from.
    """
    output.mkdir(parents=True, exist_ok=True)
    description = dict(load_json(dataset.folder / DESCRIPTION, newest=None))
    listed = {
        case.identifier: {
            "images": [str(path.resolve()) for path in case.images],
            "label": str(case.label and case.label.resolve()),
        }
        for case in cases
    }
    listing = output / "listing"
    listing.mkdir(exist_ok=True)
    write_bytes(listing / DESCRIPTION, json.dumps({**description, "name": dataset.name, "dataset": listed}).encode())
    DataSource.forget()
    outcome = prepare(DataSource(listing), output / "prepared", PrepareSettings(images=False), workers=workers)
    if outcome.problems:
        case, problem = next(iter(outcome.problems.items()))
        raise FormatError(problem, "mend it, or take the case out of the data set", subject=case)
    if not outcome.arrays:
        raise FormatError("its cases show nothing large enough to learn from", "check the labels", subject=dataset.folder)
    return output / "prepared" / ARRAYS


def choose_recipe(network: Sam2, start: str, pool: Path, *, seed: int, steps: int) -> Recipe:
    """How a network is fine-tuned: SAM 2's own settings, but for `nano`, which is small and learns faster."""
    small = isinstance(network, Nano)
    size = network.image_size
    phase = Phase(steps=steps, frames=4 if small else 8, clips=2, objects=2, size=size)
    common = Recipe(
        pool=str(pool), phases=(phase,), seed=seed, start=start, sampling="tasks", average=0.99, warm_up=min(20, steps // 10)
    )
    if small:
        losses = LossWeights(consistency=0.1)
        return replace(common, rate=NANO_RATE, weight_decay=0.05, cool_down=0.5, clip=1.0, corrections=0.3, losses=losses)
    losses = LossWeights(focal=20, dice=1, iou=1, presence=1, gamma=2, alpha=0.25, consistency=0)
    rates = {"rate": 5e-6, "encoder_rate": 0.6, "layer_decay": 0.9, "weight_decay": 0.1, "clip": 0.1, "cool_down": 1.0}
    return replace(common, **rates, corrections=1.0, clicks=7, from_truth=0.1, checkpointing=True, losses=losses)


def measure_steps(network: Sam2, recipe: Recipe, folder: Path, minutes: float, device: str) -> int:
    """How many steps fit into some minutes, measured on a copy of the network, so that the rate can fall to nothing in time."""
    trial = TrainingRun(copy.deepcopy(network), replace(recipe, workers=0, picture_every=0), folder, ProcessGroup(device))
    batches = iter(trial.batches())
    for _ in range(WARM_UP_STEPS):
        trial.learn(take_batch(next(batches)))
    began = time.monotonic()
    for _ in range(TIMED_STEPS):
        trial.learn(take_batch(next(batches)))
    each = (time.monotonic() - began) / TIMED_STEPS
    return max(10, int(SHARE_OF_TIME * 60 * minutes / each))

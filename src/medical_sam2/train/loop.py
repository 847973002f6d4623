"""The training loop: a run that can stop at any step, on one process or many, and go on as if it had not."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from medical_sam2.data.cases import CaseReader, read_pool
from medical_sam2.data.clips import ClipSampler
from medical_sam2.errors import ConfigError
from medical_sam2.io.atomic import write_bytes
from medical_sam2.model.sam2 import Sam2
from medical_sam2.train import checkpoint, rates
from medical_sam2.train.config import Recipe, as_told
from medical_sam2.train.lesson import Batch, Steps, Teacher
from medical_sam2.train.processes import Processes, local, told
from medical_sam2.train.records import Records
from medical_sam2.train.validation import Validation

RECIPE = "recipe.json"


@dataclass(frozen=True)
class Progress:
    """One step as it is reported.

    Args:
        step: how many are done.
        loss: of the whole step.
        dice_first: mean Dice on prompted frames; nan where all were outlined.
        dice_tracked: mean Dice on tracked frames; nan where there were none.
        seconds: that the step took, waiting for clips included.
        rate: the learning rate.
        norm: of the gradient before it was limited.
    """

    step: int
    loss: float
    dice_first: float
    dice_tracked: float
    seconds: float
    rate: float
    norm: float


class Training:
    """A run.

    Args:
        network: trained in place.
        recipe: the run.
        folder: where checkpoints and metrics.jsonl go.
        processes: that train together; this one alone unless given.
        reader: of cases; those of the recipe's pool unless given.
    """

    def __init__(
        self,
        network: Sam2,
        recipe: Recipe,
        folder: Path,
        processes: Processes | None = None,
        reader: CaseReader | None = None,
    ) -> None:
        self.processes = processes or Processes("cpu")
        self.recipe, self.folder = recipe, folder
        fewest = min(phase.clips for phase in recipe.phases)
        if fewest < self.processes.count:
            raise ConfigError(
                f"{self.processes.count} processes share {fewest} clips a step", "give each at least one", subject="phases"
            )
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(recipe.seed)
        self.network = network.to(self.processes.device)
        self.reader = reader or read_pool(Path(recipe.pool))
        module = Teacher(self.network, recipe)
        self.teacher = self.processes.share(module, _large_parts(self.network), spread=recipe.shard)
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.optimizer = torch.optim.AdamW(rates.groups(self.network, recipe), lr=recipe.rate, betas=(0.9, 0.999), fused=True)
        self.step = 0

    def run(self, *, max_minutes: float | None = None) -> Iterator[Progress]:
        """Train to the end of the recipe, or of the minutes, or until SIGTERM; a checkpoint is written in each case."""
        end = time.monotonic() + 60 * max_minutes if max_minutes else float("inf")
        first, every = self.processes.first, self.recipe.picture_every
        validation = Validation(self.recipe, self.folder, self.reader, write=first) if every else None
        if first:
            write_bytes(self.folder / RECIPE, json.dumps(as_told(self.recipe), indent=2).encode())
        with _asked_to_stop() as asked, Records(self.folder, self.step, write=first) as records:
            began = time.monotonic()
            for batch in self.batches():
                with told():
                    progress = self.learn(batch, began=began)
                records.add(progress)
                if validation is not None and self.step % every == 0:
                    records.look(self.step, validation.look(self.teacher, self.network, self.average, self.step))
                if self.step % self.recipe.save_every == 0:
                    self.save()
                yield progress
                began = time.monotonic()
                if self.processes.total([asked() or began > end])[0]:
                    break
            self.save()

    def learn(self, batch: Batch, *, began: float | None = None) -> Progress:
        """One step."""
        began = time.monotonic() if began is None else began
        self.network.train()
        rate = self._set_rate()
        objects, clips = self.processes.total([batch.objects, len(batch.clips)])
        lesson = self.teacher(batch, objects / self.processes.count, clips / self.processes.count)
        self.optimizer.zero_grad(set_to_none=True)
        lesson.loss.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.processes.settle(parameters)
        norm = self.processes.limit(parameters, self.recipe.clip)
        self.optimizer.step()
        self._follow()
        self.step += 1
        loss, *scores = self.processes.total([float(lesson.loss.detach()) / self.processes.count, *lesson.dice])
        first, tracked = (score / count if count else float("nan") for score, count in (scores[:2], scores[2:]))
        return Progress(self.step, loss, first, tracked, time.monotonic() - began, rate, norm)

    def save(self) -> None:
        """Write the checkpoint; all processes at once."""
        tensors = checkpoint.gathered(self.network, self.average, self.optimizer)
        facts = {"step": str(self.step), "format": checkpoint.FORMAT}
        if self.processes.first:
            checkpoint.save_checkpoint(self.folder / checkpoint.NAME, tensors, facts)

    def resume(self) -> bool:
        """Go on from the checkpoint in the folder; False where there is none.

        Raises:
            FormatError: it is broken, of an earlier version, or of another network.
        """
        path = self.folder / checkpoint.NAME
        if not path.exists():
            return False
        tensors, facts = checkpoint.load_checkpoint(path)
        checkpoint.restore(path, tensors, facts, (self.network, self.average, self.optimizer))
        self.step = int(facts["step"])
        return True

    def batches(self) -> DataLoader[Batch]:
        """The batches that are left, this process's share of each."""
        recipe = self.recipe
        sampler = ClipSampler(self.reader, recipe.seed, recipe.sets, regions=recipe.regions, sampling=recipe.sampling)
        return DataLoader(
            Steps(sampler, recipe, self.processes.rank, self.processes.count),
            batch_size=None,
            sampler=range(self.step, recipe.steps),
            num_workers=recipe.workers,
            prefetch_factor=3 if recipe.workers else None,
            worker_init_fn=_single_thread if recipe.workers else None,
        )

    def _set_rate(self) -> float:
        rate = rates.rate_at(self.recipe, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        return rate

    @torch.no_grad()
    def _follow(self) -> None:
        """The average moves towards the weights."""
        decay = min(self.recipe.average, (self.step + 1) / (self.step + 10))
        state = self.network.state_dict()
        ours, theirs = ([local(tensors[name]) for name in self.average] for tensors in (self.average, state))
        torch._foreach_lerp_(ours, theirs, 1 - decay)  # pyright: ignore


def averaged(training: Training) -> Sam2:
    """The network with its averaged weights, in place."""
    training.network.load_state_dict(training.average)
    return training.network


def _large_parts(network: Sam2) -> list[nn.Module]:
    """What is spread one by one over processes: the blocks of the image encoder."""
    encoder = network.vision_encoder
    blocks = getattr(getattr(encoder, "backbone", None), "blocks", None) or getattr(encoder, "stages", [])
    return list(blocks)


def _single_thread(_: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM came; the step in hand is finished first."""
    stop: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    try:
        yield lambda: bool(stop)
    finally:
        signal.signal(signal.SIGTERM, before)

"""The training loop: a run that can stop at any step, on one process or many, and go on as if it had not."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from medical_sam2.data.cases import CaseReader, read_pool
from medical_sam2.data.clips import ClipSampler
from medical_sam2.errors import ConfigError
from medical_sam2.io.atomic import write_bytes
from medical_sam2.model.sam2 import Sam2
from medical_sam2.train.checkpoint import FORMAT, NAME, gather_tensors, load_checkpoint, restore_run, save_checkpoint
from medical_sam2.train.config import Recipe
from medical_sam2.train.distributed import ProcessGroup, explain_lost_process, local_part
from medical_sam2.train.records import RunRecords, StepReport, Validation
from medical_sam2.train.schedule import compute_rate, group_parameters
from medical_sam2.train.train_step import Batch, StepBatches, TrainStep

RECIPE = "recipe.json"


class TrainingRun:
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
        processes: ProcessGroup | None = None,
        reader: CaseReader | None = None,
    ) -> None:
        self.processes = processes or ProcessGroup("cpu")
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
        self.train_step = self.processes.wrap(TrainStep(self.network, recipe), _list_blocks(self.network), spread=recipe.shard)
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            group_parameters(self.network, recipe), lr=recipe.rate, betas=(0.9, 0.999), fused=True
        )
        self.step = 0

    def run(self, *, max_minutes: float | None = None) -> Iterator[StepReport]:
        """Train to the end of the recipe, or of the minutes, or until SIGTERM; a checkpoint is written in each case."""
        end = time.monotonic() + 60 * max_minutes if max_minutes else float("inf")
        first, every = self.processes.first, self.recipe.picture_every
        validation = Validation(self.recipe, self.folder, self.reader, write=first) if every else None
        if first:
            write_bytes(self.folder / RECIPE, json.dumps(asdict(self.recipe), indent=2).encode())
        with _catch_sigterm() as asked, RunRecords(self.folder, self.step, write=first) as records:
            began = time.monotonic()
            for batch in self.batches():
                with explain_lost_process():
                    report = self.learn(batch, began=began)
                records.add(report)
                if validation is not None and self.step % every == 0:
                    records.add_validation(self.step, validation.run(self.train_step, self.network, self.average, self.step))
                if self.step % self.recipe.save_every == 0:
                    self.save()
                yield report
                began = time.monotonic()
                if self.processes.add_up([asked() or began > end])[0]:
                    break
            self.save()

    def learn(self, batch: Batch, *, began: float | None = None) -> StepReport:
        """One step."""
        began = time.monotonic() if began is None else began
        self.network.train()
        rate = self._set_rate()
        objects, clips = self.processes.add_up([batch.objects, len(batch.clips)])
        result = self.train_step(batch, objects / self.processes.count, clips / self.processes.count)
        self.optimizer.zero_grad(set_to_none=True)
        result.loss.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.processes.average_gradients(parameters)
        norm = self.processes.clip_gradients(parameters, self.recipe.clip)
        self.optimizer.step()
        self._update_average()
        self.step += 1
        loss, *scores = self.processes.add_up([float(result.loss.detach()) / self.processes.count, *result.dice])
        first, tracked = (score / count if count else float("nan") for score, count in (scores[:2], scores[2:]))
        return StepReport(self.step, loss, first, tracked, time.monotonic() - began, rate, norm)

    def save(self) -> None:
        """Write the checkpoint; all processes at once."""
        tensors = gather_tensors(self.network, self.average, self.optimizer)
        facts = {"step": str(self.step), "format": FORMAT}
        if self.processes.first:
            save_checkpoint(self.folder / NAME, tensors, facts)

    def resume(self) -> bool:
        """Go on from the checkpoint in the folder; False where there is none.

        Raises:
            FormatError: it is broken, of an earlier version, or of another network.
        """
        path = self.folder / NAME
        if not path.exists():
            return False
        tensors, facts = load_checkpoint(path)
        restore_run(path, tensors, facts, (self.network, self.average, self.optimizer))
        self.step = int(facts["step"])
        return True

    def batches(self) -> DataLoader[Batch]:
        """The batches that are left, this process's share of each."""
        recipe = self.recipe
        sampler = ClipSampler(self.reader, recipe.seed, recipe.sets, regions=recipe.regions, sampling=recipe.sampling)
        return DataLoader(
            StepBatches(sampler, recipe, self.processes.rank, self.processes.count),
            batch_size=None,
            sampler=range(self.step, recipe.steps),
            num_workers=recipe.workers,
            prefetch_factor=3 if recipe.workers else None,
            worker_init_fn=_prepare_worker if recipe.workers else None,
        )

    def _set_rate(self) -> float:
        rate = compute_rate(self.recipe, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        return rate

    @torch.no_grad()
    def _update_average(self) -> None:
        """The average moves towards the weights."""
        decay = min(self.recipe.average, (self.step + 1) / (self.step + 10))
        state = self.network.state_dict()
        ours, theirs = ([local_part(tensors[name]) for name in self.average] for tensors in (self.average, state))
        torch._foreach_lerp_(ours, theirs, 1 - decay)  # pyright: ignore


def load_average(training: TrainingRun) -> Sam2:
    """The network with its averaged weights, in place."""
    training.network.load_state_dict(training.average)
    return training.network


def _list_blocks(network: Sam2) -> list[nn.Module]:
    """What is spread one by one over processes: the blocks of the image encoder."""
    encoder = network.vision_encoder
    blocks = getattr(getattr(encoder, "backbone", None), "blocks", None) or getattr(encoder, "stages", [])
    return list(blocks)


def _prepare_worker(_: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _catch_sigterm() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM came; the step in hand is finished first."""
    stop: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    try:
        yield lambda: bool(stop)
    finally:
        signal.signal(signal.SIGTERM, before)

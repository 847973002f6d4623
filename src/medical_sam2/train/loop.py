"""The training loop: a run that can stop at any step, on one process or many, and go on as if it had not.

A checkpoint holds everything that a run needs to go on bit for bit, in one safetensors file, written whole or not at all. There
are no generators to save: whatever is random in a step is drawn from (seed, step, place). Beside it a run leaves curves of its
steps: metrics.jsonl always, TensorBoard where it is installed.
"""

import copy
import json
import math
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import DataLoader

from medical_sam2.data.cases import CaseReader, read_pool
from medical_sam2.data.clips import ClipSampler
from medical_sam2.errors import ConfigError, FormatError, MedicalSam2Error, ResourceError
from medical_sam2.io import load_json
from medical_sam2.io.atomic import write_bytes
from medical_sam2.io.safe_open import free_memory, megabytes
from medical_sam2.model.image_encoders import insert_trainable, merge_updates
from medical_sam2.model.sam2 import Sam2
from medical_sam2.train.config import Recipe, build_config, freeze_others
from medical_sam2.train.distributed import ProcessGroup, assign, explain_lost_process, gather, local_part
from medical_sam2.train.train_step import Batch, StepBatches, TrainStep, Validation

RECIPE, METRICS, CURVES = "recipe.json", "metrics.jsonl", "tensorboard"
ENCODER = "vision_encoder."
HIERA = re.compile(r"vision_encoder\.backbone\.blocks\.(\d+)\.")
PYRAMID = re.compile(r"vision_encoder\.stages\.(\d+)\.(\d+)\.")
FIRST = ("vision_encoder.backbone.", "vision_encoder.stem.")  # what comes before the first block
NAME, FORMAT = "last.safetensors", "2"
MAY_CHANGE = {"workers", "save_every", "picture_every", "checkpointing", "shard"}
"""Settings that a run may go on with another value of: how it is computed and what is kept of it, not what is learnt."""
Parts = tuple[Sam2, dict[str, Tensor], torch.optim.Optimizer]
WARM_UP_STEPS, TIMED_STEPS = 1, 3
SHARE_OF_TIME = 0.9  # of the minutes that are planned with; clips are slower to come now and then


@dataclass(frozen=True)
class StepReport:
    """One step as it is reported."""

    step: int  # how many are done
    loss: float  # of the whole step
    dice_first: float  # mean Dice on prompted frames; nan where all were outlined
    dice_tracked: float  # mean Dice on tracked frames; nan where there were none
    seconds: float  # that the step took, waiting for clips included
    rate: float  # the learning rate
    norm: float  # of the gradient before it was limited


class TrainingRun:
    """A run.

    Args:
        folder: where checkpoints and metrics.jsonl go.
        processes: that train together; this one alone unless given.
        reader: of cases; those of the recipe's pool unless given.

    Raises:
        ConfigError: more processes than clips.
        FormatError: no such pool, or folder of validation.
        ResourceError: the clips of a step do not fit into memory.
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
        _check_memory(recipe, self.processes.count)
        self.reader = reader or read_pool(Path(recipe.pool))
        self.held_out = read_pool(Path(recipe.validation)) if recipe.validation else self.reader
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(recipe.seed)
        insert_trainable(network, recipe.adapter, recipe.rank)
        freeze_others(network, recipe.parts)
        self.network = network.to(self.processes.device)
        self.train_step = self.processes.wrap(TrainStep(self.network, recipe), _list_blocks(self.network), spread=recipe.shard)
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            group_parameters(self.network, recipe), lr=recipe.rate, betas=(0.9, 0.999), fused=True
        )
        self.step, self.stopped = 0, False

    def run(self, *, max_minutes: float | None = None) -> Iterator[StepReport]:
        """Train to the end of the recipe, or of the minutes, or until SIGTERM; a checkpoint is written in each case.

        Afterwards `stopped` says whether it was SIGTERM.
        """
        end = time.monotonic() + 60 * max_minutes if max_minutes else float("inf")
        first, every = self.processes.first, self.recipe.picture_every
        validation = Validation(self.recipe, self.folder, self.held_out, write=first) if every else None
        if first:
            write_bytes(self.folder / RECIPE, json.dumps(asdict(self.recipe), indent=2).encode())
        with _catch_sigterm() as stopped, RunRecords(self.folder, self.step, write=first) as records:
            began = time.monotonic()
            for batch in map(take_batch, self.batches()):
                with explain_lost_process():
                    report = self.learn(batch, began=began)
                records.add(report)
                if validation is not None and self.step % every == 0:
                    found = validation.run(self.train_step, self.network, self.average, self.step)
                    records.add_validation(self.step, *found)
                if self.step % self.recipe.save_every == 0:
                    self.save()
                yield report
                began = time.monotonic()
                by_signal, late = self.processes.add_up([stopped(), began > end])
                self.stopped = by_signal > 0
                if by_signal or late:
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

    def batches(self) -> DataLoader[Batch | MedicalSam2Error]:
        """The batches that are left, this process's share of each; an error in place of one that cannot be made."""
        recipe = self.recipe
        sampler = ClipSampler(
            self.reader,
            recipe.seed,
            recipe.sets,
            regions=recipe.regions,
            later=recipe.later,
            ends=recipe.ends,
            inwards=recipe.inwards,
            sampling=recipe.sampling,
            augmentation=recipe.augmentation,
        )
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
        decay = min(self.recipe.average, (self.step + 1) / (self.step + 10))
        state = self.network.state_dict()
        ours, theirs = ([local_part(tensors[name]) for name in self.average] for tensors in (self.average, state))
        torch._foreach_lerp_(ours, theirs, 1 - decay)  # pyright: ignore


def _check_memory(recipe: Recipe, processes: int) -> None:
    """Refuse clips for which there is no memory, before any is made; raises ResourceError."""
    free, asked = free_memory(), max(phase.least_bytes for phase in recipe.phases) // processes
    if free is not None and asked > free:
        problem = f"the clips of a step need {megabytes(asked)} at least, {megabytes(free)} are free"
        raise ResourceError(problem, "give fewer clips, frames or objects, or a smaller size", subject="phases")


def load_average(training: TrainingRun) -> Sam2:
    """The network with its averaged weights, in place; updates of low rank are merged into them, so training is over."""
    training.network.load_state_dict(training.average)
    merge_updates(training.network)
    return training.network


def check_resumed(recipe: Recipe, folder: Path) -> int:
    """How many steps the run in a folder has done; 0 where it has no checkpoint.

    Raises:
        ConfigError: it was begun with other settings, and they are not among those that may change; they are named.
        FormatError: its checkpoint is broken.
    """
    if not (folder / NAME).exists():
        return 0
    if (folder / RECIPE).is_file():
        begun, now = (_list_settings(asdict(each)) for each in (read_begun(folder), recipe))
        changed = [name for name in begun | now if name not in MAY_CHANGE and begun.get(name) != now.get(name)]
        if changed:
            changes = ", ".join(f"{name} = {begun.get(name)}, not {now.get(name)}" for name in changed)
            remedy = "leave it so, or begin another run in a new folder"
            raise ConfigError(f"this run was begun with {changes}", remedy, subject=folder)
    with _open_checkpoint(folder / NAME) as file:
        return int((file.metadata() or {})["step"])


def read_begun(folder: Path) -> Recipe:
    """The recipe that the run in a folder was begun with; raises ConfigError if an earlier version wrote it."""
    return build_config(Recipe, load_json(folder / RECIPE, newest=None))


def _list_settings(value: Any, name: str = "") -> dict[str, Any]:
    """Each setting by the name that --set knows it by; tables, and lists of tables, have several."""
    dot = f"{name}." if name else ""
    if isinstance(value, dict):
        items: dict[str, Any] = value
        return {key: found for own, inner in items.items() for key, found in _list_settings(inner, dot + own).items()}
    if name == "phases":
        return {key: found for n, one in enumerate(value) for key, found in _list_settings(one, f"{dot}{n}").items()}
    return {name: value}


def take_batch(found: Batch | MedicalSam2Error) -> Batch:
    """A batch; or the error that was met where it was made, which may have been another process."""
    if isinstance(found, MedicalSam2Error):
        raise found
    return found


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


def group_parameters(network: Sam2, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: `params`, their `names`, `share` of the recipe's rate, and `weight_decay`.

    The share of an encoder's layer i of L is encoder_rate · layer_decay^(L − i), where i = 0 is what embeds patches and
    position and the neck counts as L; all else has 1.
    """
    groups: dict[tuple[float, float, bool], dict[str, Any]] = {}
    layers = _count_layers(network)
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        share = recipe.encoder_rate * recipe.layer_decay ** layers[name] if name in layers else 1.0
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        key = (share, decay, parameter.ndim == 0)
        group = groups.setdefault(key, {"params": [], "names": [], "share": share, "weight_decay": decay})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def compute_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, a plateau, and a cosine over the last `cool_down` of the run (all of it where that is 1)."""
    last = max(1, round(recipe.steps * recipe.cool_down))
    fall = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (recipe.steps - step) / last))
    return recipe.rate * min(1.0, (step + 1) / max(1, recipe.warm_up)) * max(fall, 0.01)


def _count_layers(network: nn.Module) -> dict[str, int]:
    """For each parameter of the image encoder, how many layers lie between it and the neck, which has 0."""
    names = [name for name, _ in network.named_parameters() if name.startswith(ENCODER)]
    places = {name: place for name in names if (place := _find_layer(name)) is not None}
    order = {place: number for number, place in enumerate(sorted(set(places.values())))}
    depth = max(order.values(), default=0) + 1
    return {name: depth - order[places[name]] if name in places else 0 for name in names}


def _find_layer(name: str) -> tuple[int, int] | None:
    """Where a parameter comes in the order of the encoder; None for its neck."""
    for pattern in (HIERA, PYRAMID):
        if found := pattern.match(name):
            numbers = [int(number) for number in found.groups()]
            return numbers[0], numbers[1] if len(numbers) > 1 else 0
    return (-1, 0) if name.startswith(FIRST) else None


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: dict[str, str]) -> None:
    """Write tensors and facts (name → text) into one file, whole or not at all."""
    write_bytes(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, facts))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and facts of a checkpoint; raises FormatError if the file is none, or incomplete."""
    with _open_checkpoint(path) as file:
        facts = dict(file.metadata() or {})
        return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118


@contextmanager
def _open_checkpoint(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise FormatError("no complete checkpoint", "start from an earlier one", subject=path) from error


def gather_tensors(network: Sam2, average: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights, their average and the optimiser's state, whole, one name each; every process asks at once."""
    tensors = {f"network.{name}": gather(value) for name, value in network.state_dict().items()}
    tensors |= {f"average.{name}": gather(value) for name, value in average.items()}
    return tensors | {f"optimizer.{name}": gather(value) for name, value in _optimizer_state(optimizer)}


def restore_run(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str], parts: Parts) -> None:
    """Undo `gather_tensors`.

    Args:
        parts: network, average and optimiser of a run that has not begun.

    Raises:
        FormatError: the checkpoint is of an earlier version, or of another network.
    """
    # All is compared before anything is copied: a run must not go on with half of another network.
    network, average, optimizer = parts
    if facts.get("format") != FORMAT:
        raise FormatError("another version wrote this checkpoint", "begin a run that starts from its weights", subject=path)
    wanted = {f"network.{name}": value for name, value in network.state_dict().items()}
    wanted |= {f"average.{name}": value for name, value in average.items()}
    if any(name not in tensors or tensors[name].shape != value.shape for name, value in wanted.items()):
        raise FormatError("it is the checkpoint of another network", "choose another folder", subject=path)
    for name, value in wanted.items():
        assign(value, tensors[name])
    for name, parameter in _named_parameters(optimizer):
        state = {key: tensors.get(f"optimizer.{name}.{key}") for key in ("step", "exp_avg", "exp_avg_sq")}
        if state["step"] is None:
            continue  # it has had no gradient yet
        optimizer.state[parameter] = {
            key: _copy_to_layout(parameter, key, value) for key, value in state.items() if value is not None
        }


def _optimizer_state(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in _named_parameters(optimizer):
        state: Mapping[str, Any] = optimizer.state.get(parameter, {})
        for key, value in state.items():
            yield f"{name}.{key}", value


def _named_parameters(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Every parameter with its name, as `group_parameters` grouped them."""
    for group in optimizer.param_groups:
        yield from zip(group["names"], group["params"], strict=True)


def _copy_to_layout(parameter: Tensor, key: str, value: Tensor) -> Tensor:
    if key == "step":
        return value.to(local_part(parameter).device)
    empty = torch.empty_like(parameter, memory_format=torch.preserve_format)
    assign(empty.detach(), value)
    return empty.detach()


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


class RunRecords:
    """Curves of a run. Rows that a killed run wrote after its last checkpoint are dropped, so that each step has one; the
    others are on the disk at any time.

    Args:
        step: that the run goes on from.
        write: whether this process is the one that writes.
    """

    def __init__(self, folder: Path, step: int, *, write: bool = True) -> None:
        self._stack, self._file, self._board = ExitStack(), None, None
        if not write:
            return
        path = folder / METRICS
        if path.exists():
            kept = [row for row in path.read_text().splitlines() if _is_before(row, step)]
            write_bytes(path, "".join(f"{row}\n" for row in kept).encode())
        self._file = self._stack.enter_context(path.open("a"))
        self._board = _open_tensorboard(folder / CURVES, step)
        if self._board is not None:
            self._stack.callback(self._board.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, report: StepReport) -> None:
        """A step."""
        self._row(vars(report))

    def add_validation(self, step: int, dice: float, picture: Image.Image | None) -> None:
        """Scores and picture of the validation clips."""
        self._row({"step": step, "validation_dice": dice})
        if self._board is not None and picture is not None:
            self._board.add_image("validation", np.asarray(picture), step, dataformats="HWC")

    def _row(self, values: dict[str, Any]) -> None:
        if self._file is None:
            return
        finite = {key: value for key, value in values.items() if not (isinstance(value, float) and math.isnan(value))}
        self._file.write(json.dumps(finite) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._board is not None:
            for key, value in finite.items():
                if key != "step":
                    self._board.add_scalar(key, value, values["step"])


def _is_before(row: str, step: int) -> bool:
    try:
        return int(json.loads(row)["step"]) <= step
    except (ValueError, KeyError, TypeError):
        return False  # half a line, of a run that was killed


def _open_tensorboard(folder: Path, step: int) -> Any:
    """A writer for TensorBoard; None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)

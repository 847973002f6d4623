"""The training loop: clips in, prompts simulated, frames tracked, losses back through the memory.

Shapes: B objects of all clips, T frames, S network size.
"""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from medical_sam2.data.clips import Clip, ClipSampler
from medical_sam2.data.synthetic.pool import PoolReader
from medical_sam2.model.backbone import Features, FramePrediction
from medical_sam2.model.memory import Fifo, PolicyBank, SelfSorting
from medical_sam2.model.sam2 import Sam2
from medical_sam2.model.tracker import track
from medical_sam2.prompts import FramePrompt
from medical_sam2.simulate import NOISE_LEVELS, jitter_box, jitter_mask, next_click
from medical_sam2.train.checkpoint import load_checkpoint, pack_optimizer, save_checkpoint, unpack_optimizer
from medical_sam2.train.config import Recipe
from medical_sam2.train.losses import Consistency, frame_loss


@dataclass
class Pupil:
    """A simulated person of training: prompts the first frame, corrects some of the others.

    Args:
        truth_thw: (T, S, S) bool.
        kind: first prompt: "mask", "click" or "box".
        corrected: frames that get corrective clicks once they are tracked.
        clicks: on each of them.
        from_truth: probability of a click that does not look at the prediction.
        rng: for all of it.
    """

    truth_thw: NDArray[np.bool_]
    kind: str
    corrected: frozenset[int]
    clicks: int
    from_truth: float
    rng: np.random.Generator
    _left: int = 0

    def __call__(self, t: int, predicted: NDArray[np.bool_] | None) -> FramePrompt | None:
        """The first prompt on frame 0, then corrections."""
        if predicted is None:
            self._left = self.clicks if t in self.corrected else 0
            return self._first(self.truth_thw[0]) if t == 0 else None
        if self._left == 0:
            return None
        self._left -= 1
        shown = np.zeros_like(predicted) if self.rng.random() < self.from_truth else predicted
        click = next_click(self.truth_thw[t], shown, self.rng)
        return None if click is None else click.on_frame()

    def _first(self, truth: NDArray[np.bool_]) -> FramePrompt | None:
        noise = NOISE_LEVELS["expert"] if self.rng.random() < 0.5 else NOISE_LEVELS["none"]
        if self.kind == "mask":
            return FramePrompt.mask(jitter_mask(truth, noise, self.rng))
        if self.kind == "box":
            return FramePrompt.box(*jitter_box(truth, noise, self.rng))
        click = next_click(truth, np.zeros_like(truth), self.rng, spread=float("inf") if self.rng.random() < 0.5 else 0.0)
        return None if click is None else click.on_frame()


class Steps(Dataset[list[Clip]]):
    """Batches by step, so that a run that goes on at step n sees what it would have seen."""

    def __init__(self, sampler: ClipSampler, recipe: Recipe) -> None:
        self.sampler, self.recipe = sampler, recipe

    def __getitem__(self, step: int) -> list[Clip]:
        phase = self.recipe.phase(step)
        sampler = replace(self.sampler, smallest=phase.smallest)
        return sampler.batch(step, clips=phase.clips, frames=phase.frames, objects=phase.objects, size=phase.size)


@dataclass(frozen=True)
class Progress:
    """One step as it is reported."""

    step: int
    loss: float
    dice_first: float
    dice_tracked: float
    seconds: float
    rate: float


class Training:
    """A run that can stop at any step and go on as if it had not.

    Args:
        network: trained in place.
        recipe: the run.
        folder: where checkpoints and metrics.jsonl go.
    """

    def __init__(self, network: Sam2, recipe: Recipe, folder: Path) -> None:
        self.network, self.recipe, self.folder = network, recipe, folder
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(recipe.seed)
        self.consistency = Consistency()
        self.average = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            self._groups(), lr=recipe.rate, betas=(0.9, 0.999), weight_decay=recipe.weight_decay, fused=True
        )
        self.step = 0

    def run(self, *, max_minutes: float | None = None) -> Iterator[Progress]:
        """Train to the end of the recipe, or of the minutes, or until SIGTERM; a checkpoint is written in each case."""
        reader = PoolReader(Path(self.recipe.pool))
        steps = Steps(ClipSampler(reader, self.recipe.seed, self.recipe.sets), self.recipe)
        todo = range(self.step, self.recipe.steps)
        workers = self.recipe.workers
        loader = DataLoader(
            steps,
            batch_size=None,
            sampler=todo,
            num_workers=workers,
            prefetch_factor=3 if workers else None,
            worker_init_fn=partial(_single_thread) if workers else None,
        )
        end = time.monotonic() + 60 * max_minutes if max_minutes else float("inf")
        with _asked_to_stop() as asked, (self.folder / "metrics.jsonl").open("a") as log:
            for clips in loader:
                progress = self.learn(clips)
                log.write(json.dumps(progress.__dict__) + "\n")
                log.flush()
                if self.step % self.recipe.save_every == 0:
                    self.save()
                yield progress
                if asked() or time.monotonic() > end:
                    break
            self.save()

    def learn(self, clips: list[Clip]) -> Progress:
        """One step."""
        began = time.monotonic()
        self.network.train()
        rate = self._set_rate()
        with torch.autocast(self.network.device.type, dtype=torch.bfloat16):
            loss, scores = self._loss(clips)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters(), self.recipe.clip)
        self.optimizer.step()
        self._follow()
        self.step += 1
        first, tracked = scores
        return Progress(self.step, float(loss.detach()), first, tracked, time.monotonic() - began, rate)

    def save(self) -> None:
        """Write the checkpoint."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        save_checkpoint(self.folder / "last.safetensors", tensors | pack_optimizer(self.optimizer), {"step": str(self.step)})

    def resume(self) -> bool:
        """Go on from the checkpoint in the folder; False where there is none."""
        path = self.folder / "last.safetensors"
        if not path.exists():
            return False
        tensors, facts = load_checkpoint(path)
        self.network.load_state_dict(_under(tensors, "network."))
        self.average = _under(tensors, "average.")
        unpack_optimizer(self.optimizer, tensors)
        self.step = int(facts["step"])
        return True

    def _loss(self, clips: list[Clip]) -> tuple[Tensor, tuple[float, float]]:
        network, recipe, frames = self.network, self.recipe, clips[0].frames_T3SS.shape[0]
        size = clips[0].frames_T3SS.shape[-1]
        network.resize(size)
        rng = np.random.default_rng([recipe.seed, self.step, 1 << 20])
        features = network.encode(network.normalised(torch.cat([clip.frames_T3SS for clip in clips]).to(network.device)))
        owner = [c for c, clip in enumerate(clips) for _ in clip.truth_OTSS]
        truth_BTSS = torch.cat([clip.truth_OTSS for clip in clips])
        pupils = self._pupils(truth_BTSS.numpy(), rng)
        bank = PolicyBank(self._policy(rng, frames))
        seen: Callable[[int], Features] = lambda t: features.pick([c * frames + t for c in owner])  # noqa: E731
        given = torch.tensor([pupil.kind == "mask" for pupil in pupils])
        total, scores = torch.zeros(()), []
        truth_BTSS = truth_BTSS.to(network.device)
        for t, prediction in track(network, seen, range(frames), pupils, bank):
            known = given if t == 0 else torch.zeros_like(given)
            total = total + frame_loss(prediction, truth_BTSS[:, t].float(), recipe.losses, given_B=known)
            scores.append(_dice(prediction, truth_BTSS[:, t], known))
        labels = torch.cat([clip.labels_TSS for clip in clips])
        generator = torch.Generator().manual_seed(self.step)
        contrast = self.consistency(
            features.top_BChw if features.key_BDhw is None else features.key_BDhw, labels, frames, generator
        )
        tracked = [score for score in scores[1:] if score == score]  # noqa: PLR0124
        return total / (len(owner) * frames) + recipe.losses.consistency * contrast, (
            scores[0],
            float(np.mean(tracked)) if tracked else float("nan"),
        )

    def _pupils(self, truth_BTSS: NDArray[np.bool_], rng: np.random.Generator) -> list[Pupil]:
        """One kind of prompt for all objects of a step, so that they are decoded together; corrections likewise."""
        recipe, frames = self.recipe, truth_BTSS.shape[1]
        odds = np.array(recipe.prompt) * ([0, 1, 1] if frames == 1 else [1, 1, 1])
        kind = str(rng.choice(["mask", "click", "box"], p=odds / odds.sum()))
        corrected: set[int] = set()
        if rng.random() < recipe.corrections:
            corrected = {0} if kind != "mask" else set()
            if frames > 1 and rng.random() < 0.5:
                corrected.add(int(rng.integers(1, frames)))
        return [Pupil(one, kind, frozenset(corrected), recipe.clicks, recipe.from_truth, rng) for one in truth_BTSS]

    def _policy(self, rng: np.random.Generator, frames: int) -> Callable[[], Fifo | SelfSorting]:
        """Half of the steps remember as SAM 2, half sort themselves, with few places so that they must choose."""
        if rng.random() < 0.4:
            return partial(Fifo, frames=None)
        places = rng.choice(["none", "prompted", "rank"], p=[0.2, 0.6, 0.2])
        return partial(SelfSorting, size=int(rng.integers(2, 7)), threshold=float(rng.choice([0.0, 0.3])), temporal=str(places))  # type: ignore[arg-type]

    def _groups(self) -> list[dict[str, Any]]:
        encoder = list(self.network.vision_encoder.parameters())
        known = {id(p) for p in encoder}
        rest = [p for p in self.network.parameters() if id(p) not in known]
        return [{"params": encoder, "share": self.recipe.encoder_rate}, {"params": rest, "share": 1.0}]

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _set_rate(self) -> float:
        """Linear warm-up, a plateau, a cosine at the end."""
        recipe = self.recipe
        last = max(1, round(recipe.steps * recipe.cool_down))
        left = (recipe.steps - self.step) / last
        fall = 0.5 - 0.5 * np.cos(np.pi * min(1.0, left))
        rate = recipe.rate * min(1.0, (self.step + 1) / max(1, recipe.warm_up)) * max(float(fall), 0.01)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        return rate

    @torch.no_grad()
    def _follow(self) -> None:
        decay = min(self.recipe.average, (self.step + 1) / (self.step + 10))
        state = self.network.state_dict()
        torch._foreach_lerp_(list(self.average.values()), [state[name] for name in self.average], 1 - decay)  # pyright: ignore


def averaged(training: Training) -> Sam2:
    """The network with its averaged weights, in place."""
    training.network.load_state_dict(training.average)
    return training.network


def _dice(prediction: FramePrediction, truth_BSS: Tensor, skip_B: Tensor) -> float:
    """Mean Dice over objects that are there, at the size of the logits; nan where there is none."""
    logits = prediction.logits_Bhw.detach().float()
    target = nn.functional.interpolate(truth_BSS[:, None].float(), size=logits.shape[-2:], mode="area")[:, 0] > 0.5
    mask, keep = logits > 0, target.flatten(1).any(1).cpu() & ~skip_B
    if not keep.any():
        return float("nan")
    both, sizes = (mask & target).sum((1, 2)), mask.sum((1, 2)) + target.sum((1, 2))
    return float((2 * both / sizes.clamp(min=1))[keep].mean())


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


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

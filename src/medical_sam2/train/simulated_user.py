"""The simulated user of training: how each object of a step is prompted, and which memory bank the network tracks with.

All of it is a function of (seed, step, place of the clip, object): it does not matter which process trains on which clip.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from medical_sam2.model.memory_bank import Fifo, SelfSorting
from medical_sam2.prompts import FramePrompt
from medical_sam2.simulate import NOISE_LEVELS, jitter_box, jitter_mask, next_click
from medical_sam2.train.config import Recipe

KINDS = ("mask", "click", "box")
FIFO = 0.2  # share of steps with SAM 2's own bank
PROMPTS = 1 << 20  # apart from the numbers that draw clips


@dataclass(frozen=True)
class StepPlan:
    """What all objects of a step share, so that they are decoded together.

    Args:
        kind: of the first prompt: "mask", "click" or "box".
        corrected: frames that get corrective clicks once they are tracked.
        policy: makes the memory of one object.
    """

    kind: str
    corrected: frozenset[int]
    policy: Callable[[], Fifo | SelfSorting]

    @classmethod
    def draw(cls, recipe: Recipe, step: int, frames: int) -> "StepPlan":
        """The plan of a step. A mask on a single frame would teach nothing, so there it is never given."""
        rng = np.random.default_rng([recipe.seed, step, PROMPTS])
        odds = np.array(recipe.prompt) * ([0, 1, 1] if frames == 1 else [1, 1, 1])
        kind = str(rng.choice(KINDS, p=odds / odds.sum()))
        return cls(kind, _draw_corrected(recipe, rng, kind, frames), _draw_policy(rng))

    def make_users(self, recipe: Recipe, step: int, place: int, truth_OTSS: NDArray[np.bool_]) -> list["SimulatedUser"]:
        """A user for each object of the clip at a place of the step."""
        return [
            SimulatedUser(
                truth,
                self.kind,
                self.corrected,
                recipe.clicks,
                recipe.from_truth,
                np.random.default_rng([recipe.seed, step, PROMPTS, place, number]),
            )
            for number, truth in enumerate(truth_OTSS)
        ]


@dataclass
class SimulatedUser:
    """Prompts the first frame, corrects some of the others.

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
    _clicks_left: int = 0

    def __call__(self, t: int, predicted: NDArray[np.bool_] | None) -> FramePrompt | None:
        """The first prompt on frame 0, then corrections."""
        if predicted is None:
            self._clicks_left = self.clicks if t in self.corrected else 0
            return self._prompt_first(self.truth_thw[0]) if t == 0 else None
        if self._clicks_left == 0:
            return None
        self._clicks_left -= 1
        shown = np.zeros_like(predicted) if self.rng.random() < self.from_truth else predicted
        click = next_click(self.truth_thw[t], shown, self.rng)
        return None if click is None else click.on_frame()

    def corrects(self, t: int) -> bool:
        """Whether any click is left for frame t."""
        return self._clicks_left > 0

    def _prompt_first(self, truth: NDArray[np.bool_]) -> FramePrompt | None:
        noise = NOISE_LEVELS["expert"] if self.rng.random() < 0.5 else NOISE_LEVELS["none"]
        if self.kind == "mask":
            return FramePrompt.mask(jitter_mask(truth, noise, self.rng))
        if self.kind == "box":
            return FramePrompt.box(*jitter_box(truth, noise, self.rng))
        click = next_click(truth, np.zeros_like(truth), self.rng, spread=float("inf") if self.rng.random() < 0.5 else 0.0)
        return None if click is None else click.on_frame()


def _draw_corrected(recipe: Recipe, rng: np.random.Generator, kind: str, frames: int) -> frozenset[int]:
    """Up to two frames: the first, unless it is outlined already, and half of the times a later one."""
    if rng.random() >= recipe.corrections:
        return frozenset()
    first = {0} if kind != "mask" else set[int]()
    later = {int(rng.integers(1, frames))} if frames > 1 and rng.random() < 0.5 else set[int]()
    return frozenset(first | later)


def _draw_policy(rng: np.random.Generator) -> Callable[[], Fifo | SelfSorting]:
    """Some steps remember as SAM 2, the others sort themselves: with the settings that ship, and with others around them."""
    if rng.random() < FIFO:
        return partial(Fifo, frames=None)
    return partial(
        SelfSorting,
        size=int(rng.integers(3, 8)),
        threshold=float(rng.uniform(0.3, 0.7)),
        resample="sample" if rng.random() < 0.5 else "expected",
        temporal="prompted" if rng.random() < 0.8 else "rank",
        seed=int(rng.integers(2**31)),
    )

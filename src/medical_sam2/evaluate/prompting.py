"""How a simulated person prompts: which frames, and what on each; by chance, or where the answer so far needs it most.

Shapes: T frames, H W pixels of a frame.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import PromptError
from medical_sam2.evaluate.protocols import Condition
from medical_sam2.prompts import FramePrompt
from medical_sam2.simulate import NOISE_LEVELS, Noise, jitter_box, jitter_click, jitter_mask, next_click
from medical_sam2.tracking.confidence import Need, neediest

Kind: TypeAlias = Literal["mask", "box", "click"]
MaskArray: TypeAlias = NDArray[np.bool_]
FramePrompts: TypeAlias = Mapping[int, FramePrompt]
"""Frame → its prompt, in its pixels."""

PERFECT_HAND = NOISE_LEVELS["none"]
KINDS: tuple[Kind, ...] = ("mask", "box", "click")
LARGE = 0.5  # of the largest slice: the one slice of a volume that is prompted is at least so large


def draw_prompt(truth_hw: MaskArray, kind: Kind, rng: np.random.Generator, hand: Noise = PERFECT_HAND) -> FramePrompt:
    """The outline, its tight box, or one click at the innermost point of its largest part; perfect, or of a careless hand."""
    if kind == "mask":
        return FramePrompt.mask(jitter_mask(truth_hw, hand, rng))
    if kind == "box":
        return FramePrompt.box(*jitter_box(truth_hw, hand, rng))
    click = next_click(truth_hw, np.zeros_like(truth_hw), rng)
    if click is None:
        raise PromptError("there is nothing to click on", "prompt a slice that shows the structure")
    return jitter_click(click, truth_hw, hand, rng).on_frame()


def is_boxable(truth_hw: MaskArray) -> bool:
    """Whether it has more than a single row, and more than a single column, of pixels."""
    return bool(truth_hw.any(axis=0).sum() > 1 and truth_hw.any(axis=1).sum() > 1)


def check_boxable(truth_hw: MaskArray) -> None:
    """Refuse what no box can be drawn around."""
    if not truth_hw.any():
        raise PromptError("the structure is not on the prompted image", "prompt another one")
    if not is_boxable(truth_hw):
        raise PromptError("the structure is a single row of pixels", "leave it out")


@dataclass(frozen=True, eq=False)
class SimulatedReader:
    """A simulated person before some frames.

    Frames that do not show the structure, or as a single row of pixels, are left alone. Of a smaller share the frames are among
    those of a larger one; where chance takes none, one is drawn. The prompt of a frame does not depend on the other frames.
    """

    truths: Sequence[MaskArray]  # (H, W) bool each
    condition: Condition  # of prompting
    kind: Kind  # of the prompts
    of_volume: bool  # slices of a volume, or else images of a set
    seed: int  # of the draw
    case: str  # identifies what is prompted: each case draws its own

    @property
    def usable(self) -> list[int]:
        """Frames that can be prompted.

        Raises:
            PromptError: there is none.
        """
        found = [t for t, truth in enumerate(self.truths) if is_boxable(truth)]
        if not found:
            raise PromptError("no frame shows more than a single row of pixels of the structure", "leave it out")
        return found

    @property
    def start(self) -> int:
        """One frame that chance takes: of a volume, a slice at least half as large as the largest."""
        areas = {t: int(self.truths[t].sum()) for t in self.usable}
        least = LARGE * max(areas.values()) if self.of_volume else 0.0
        return int(self._rng(0).choice([t for t, area in areas.items() if area >= least]))

    @property
    def frames(self) -> list[int]:
        """Those that chance takes."""
        share = self.condition.share("volume" if self.of_volume else "set")
        chance = self._rng(1).random(len(self.truths))
        return [self.start] if share is None else [t for t in self.usable if chance[t] < share] or [self.start]

    def prompt_frames(self, frames: Iterable[int]) -> dict[int, FramePrompt]:
        """Frame → its prompt."""
        hand = NOISE_LEVELS[self.condition.care]
        return {t: draw_prompt(self.truths[t], self.kind, self._rng(2, t), hand) for t in sorted(frames)}

    def _rng(self, *what: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, crc32(self.case.encode()), *what])


Confidences: TypeAlias = Callable[[Sequence[int]], Mapping[int, float]]
"""Frames that are prompted → how sure the answer is of each other frame that it outlines something on, in [0, 1]."""
Embedding: TypeAlias = Callable[[int], NDArray[np.float32]]
"""A frame → its embedding over the length of that."""


def follow_suggestions(
    start: int, usable: Sequence[int], count: int, ask: Confidences, embed: Embedding, spare: Sequence[int] = ()
) -> list[int]:
    """So many frames: one, then in each round as many as there are already, those that need a prompt most.

    A frame that cannot be prompted (the structure is not on it) is passed over, as chance passes it over too. Where the answer
    outlines too few others, what is left is filled up from `spare`.

    Args:
        start: the first one.
        usable: frames that can be prompted.
        count: how many are wanted.
        ask: prompts frames.
        embed: embeds a frame.
        spare: frames to fill up with, in order.
    """
    frames = [start]
    while len(frames) < min(count, len(usable)):
        room = min(len(frames), count - len(frames))
        more = _choose_neediest(frames, usable, ask(frames), embed, room)
        left = [t for t in (*spare, *usable) if t not in frames and t not in more]
        frames += [*more, *list(dict.fromkeys(left))[: 1 if not more else 0]]
    return frames


def _choose_neediest(
    frames: Sequence[int], usable: Collection[int], confidences: Mapping[int, float], embed: Embedding, room: int
) -> list[int]:
    prompted = np.stack([embed(t) for t in frames])
    needs = [
        Need(t, confidence, float((prompted @ embed(t)).max()))
        for t, confidence in confidences.items()
        if t in usable and t not in frames
    ]
    return [need.index for need in neediest(needs, room)]

"""Which frames a simulated person prompts, and what is said there: the same for every method, so that answers pair.

Shapes: T frames, H W pixels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from medical_sam2.errors import PromptError
from medical_sam2.evaluate.protocols import Condition
from medical_sam2.evaluate.tasks import Kind, MaskArray, drawn
from medical_sam2.prompts import FramePrompt
from medical_sam2.simulate import NOISE_LEVELS

LARGE = 0.5  # of the largest slice: the one slice of a volume that is prompted is at least so large


@dataclass(frozen=True, eq=False)
class Person:
    """A simulated person before some frames.

    Frames that do not show the structure, or as a single row of pixels, are left alone. Of a smaller share the frames are among
    those of a larger one; where chance takes none, one is drawn. What is said on a frame does not depend on the other frames.

    Args:
        truths: (H, W) bool each.
        condition: of prompting.
        kind: of the prompts.
        of_volume: slices of a volume, or else images of a set.
        seed: of the draw.
        case: identifies what is prompted: each case draws its own.
    """

    truths: Sequence[MaskArray]
    condition: Condition
    kind: Kind
    of_volume: bool
    seed: int
    case: str

    @property
    def usable(self) -> list[int]:
        """Frames that can be prompted.

        Raises:
            PromptError: there is none.
        """
        found = [t for t, truth in enumerate(self.truths) if truth.any(axis=0).sum() > 1 and truth.any(axis=1).sum() > 1]
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

    def say(self, frames: Iterable[int]) -> dict[int, FramePrompt]:
        """Frame → what is said there."""
        hand = NOISE_LEVELS[self.condition.care]
        return {t: drawn(self.truths[t], self.kind, self._rng(2, t), hand) for t in sorted(frames)}

    def _rng(self, *what: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, crc32(self.case.encode()), *what])

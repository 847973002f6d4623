"""Which frames a simulated person prompts, and what is said there: the same for every method, so that answers pair.

Shapes: T frames, H W pixels.
"""

from collections.abc import Sequence
from zlib import crc32

import numpy as np

from medical_sam2.errors import PromptError
from medical_sam2.evaluate.protocols import Condition, Share
from medical_sam2.evaluate.tasks import Kind, MaskArray, drawn
from medical_sam2.prompts import FramePrompt
from medical_sam2.simulate import NOISE_LEVELS

LARGE = 0.5  # of the largest slice: the one slice of a volume that is prompted is at least so large


def prompted(
    truths: Sequence[MaskArray], condition: Condition, kind: Kind, *, of_volume: bool, seed: int, case: str
) -> dict[int, FramePrompt]:
    """Frame → what is said there.

    Frames that do not show the structure, or as a single row of pixels, are left alone. Of a smaller share the frames are among
    those of a larger one; where chance takes none, one is drawn.

    Args:
        truths: (H, W) bool each.
        condition: of prompting.
        kind: of the prompts.
        of_volume: slices of a volume, or else images of a set.
        seed: of the draw.
        case: identifies what is prompted: each case draws its own.

    Raises:
        PromptError: no frame can be prompted.
    """
    share = condition.share("volume" if of_volume else "set")
    entropy = [seed, crc32(case.encode())]
    frames = _frames(truths, share, np.random.default_rng(entropy), LARGE if of_volume else 0.0)
    hand, rng = NOISE_LEVELS[condition.care], np.random.default_rng([*entropy, 1])
    return {t: drawn(truths[t], kind, rng, hand) for t in frames}


def _frames(truths: Sequence[MaskArray], share: Share, rng: np.random.Generator, least: float) -> list[int]:
    usable = [t for t, truth in enumerate(truths) if truth.any(axis=0).sum() > 1 and truth.any(axis=1).sum() > 1]
    if not usable:
        raise PromptError("no frame shows more than a single row of pixels of the structure", "leave it out")
    areas = {t: int(truths[t].sum()) for t in usable}
    chance = rng.random(len(truths))
    one = int(rng.choice([t for t in usable if areas[t] >= least * max(areas.values())]))
    return [one] if share is None else [t for t in usable if chance[t] < share] or [one]

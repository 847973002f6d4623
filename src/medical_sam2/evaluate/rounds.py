"""A first prompt of a volume, then clicks in the largest error: each round is answered, and the rounds are summed up.

Shapes: T slices of the prompted view; H W pixels.
"""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medical_sam2.errors import PromptError
from medical_sam2.evaluate.cases import FramePrompts, MaskArray, SimulatedReader, VolumeTask
from medical_sam2.evaluate.methods.interface import Correcting, Method, MethodInputs
from medical_sam2.evaluate.study import Row

TOO_POOR = 0.2  # Dice up to which the challenge does not measure surfaces, and counts 0
GOOD = (0.85, 0.9)  # IoUs of NoC85 and NoC90
LIMIT_S = 90.0  # of the challenge, for all rounds of a structure


@dataclass(frozen=True, eq=False)
class AnsweredRound:
    """An answer after some clicks."""

    clicks: int  # so far
    prompts: FramePrompts  # so far
    masks: Sequence[MaskArray]  # (H, W) bool of every slice
    seconds: float  # that it took


def answer_rounds(
    method: Method, inputs: MethodInputs, task: VolumeTask, reader: SimulatedReader, ignored_thw: MaskArray
) -> Iterator[AnsweredRound]:
    """The first answer, then one after each click; where nothing is wrong, or a click is refused, the answer stays.

    Raises:
        PromptError: the first prompt is refused.
    """
    prompts, given = dict(reader.opening()), int(reader.kind == "click")
    began = time.monotonic()
    masks_thw = np.stack(method.on_volume(inputs, task, prompts).masks) & ~ignored_thw
    yield AnsweredRound(given, dict(prompts), list(masks_thw), time.monotonic() - began)
    for number in range(1, reader.condition.clicks + 1):
        more = reader.further_click(masks_thw, number)
        began = time.monotonic()
        prompts |= {t: prompts[t] | prompt if t in prompts else prompt for t, prompt in more.items()}
        if more:
            masks_thw = _mend(method, inputs, task, masks_thw, (prompts, more)) & ~ignored_thw
        yield AnsweredRound(given + number, dict(prompts), list(masks_thw), time.monotonic() - began)


def _mend(
    method: Method, inputs: MethodInputs, task: VolumeTask, earlier_thw: MaskArray, prompts: tuple[FramePrompts, FramePrompts]
) -> MaskArray:
    everything, latest = prompts
    try:
        if isinstance(method, Correcting):
            return np.stack(method.correct_volume(inputs, task, earlier_thw, latest).masks)
        return np.stack(method.on_volume(inputs, task, everything).masks)
    except PromptError:
        return earlier_thw


@dataclass(frozen=True)
class RoundSummary:
    """All rounds of a structure.

    Args:
        dice_auc: area under Dice over the clicks, by trapezoids, a first box left out: 4 is perfect with five clicks.
        surface_auc: the same of the surface Dice, which is 0 where Dice is at most `TOO_POOR`.
        dice: after the last click.
        surface: surface Dice after the last click.
        clicks: how many until the IoU reached each of `GOOD`; the most there were where it never did.
        reached: whether it ever did.
        seconds: of all rounds.
    """

    dice_auc: float
    surface_auc: float
    dice: float
    surface: float
    clicks: tuple[int, ...]
    reached: tuple[bool, ...]
    seconds: float


def summarise_rounds(rows: Iterable[Row]) -> RoundSummary:
    """What the rounds of one structure come to; rows in any order."""
    rounds = sorted(rows, key=lambda row: row.clicks)
    clicked = [row for row in rounds if row.clicks]
    dice = [row.dice for row in clicked]
    surface = [row.surface_dice if row.dice > TOO_POOR else 0.0 for row in clicked]
    first = [next((row.clicks for row in rounds if row.iou >= good), None) for good in GOOD]
    return RoundSummary(
        float(np.trapezoid(dice)),
        float(np.trapezoid(surface)),
        dice[-1],
        surface[-1],
        tuple(rounds[-1].clicks if each is None else each for each in first),
        tuple(each is not None for each in first),
        math.fsum(row.seconds for row in rounds),
    )

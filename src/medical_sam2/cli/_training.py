"""How far a training run is, on standard error: a line now and then, with the time that is left."""

import math
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medical_sam2.train.loop import TrainingRun
    from medical_sam2.train.records import StepReport

EVERY_S = 10.0


def follow(training: "TrainingRun", max_minutes: float | None = None, *, quiet: bool = False) -> "StepReport | None":
    """Run to the end, or for some minutes; returns the last step.

    Args:
        training: that has not begun, or goes on.
        max_minutes: after which it stops.
        quiet: whether nothing is said.
    """
    said, began, first, last = 0.0, time.monotonic(), training.step, None
    end = began + 60 * max_minutes if max_minutes else math.inf
    for last in training.run(max_minutes=max_minutes):
        now = time.monotonic()
        if quiet or not training.processes.first or (now - said < EVERY_S and last.step < training.recipe.steps):
            continue
        said = now
        each = (now - began) / (last.step - first)
        left = min((training.recipe.steps - last.step) * each, max(0.0, end - now))
        sys.stderr.write(f"{line(last, training.recipe.steps)}, {clock(left)} left\n")
        sys.stderr.flush()
    return last


def line(report: "StepReport", steps: int) -> str:
    """One step in words."""
    scores = [("prompted", report.dice_first), ("tracked", report.dice_tracked)]
    words = [f"{value:.3f} {name}" for name, value in scores if not math.isnan(value)]
    dice = f", Dice {', '.join(words)}" if words else ""
    return f"step {report.step} of {steps}: loss {report.loss:.3f}{dice}"


def clock(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds.

    >>> clock(42), clock(125), clock(7300)
    ('42 s', '2 min 5 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

"""What training draws, counted: prompts, corrections, tasks and augmentations of 10,000 draws beside what the paper says.

    python benchmarks/draws.py [--draws 10000] [--seed 0]

A row is the expected share or mean, the observed one, its standard error if the expectation holds, and their distance in
standard errors. No data is needed. Exit code 1 where a distance exceeds 4.5 (one in 150,000 by chance).
"""

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medical_sam2.data.cases import CaseEntry
from medical_sam2.data.clips import Augmentation, AugmentationOdds, Balance
from medical_sam2.train.config import Phase, Recipe
from medical_sam2.train.train_step import KINDS, SimulatedUser, StepPlan

FRAMES, CLICKS, LIMIT = 8, 7, 4.5


@dataclass(frozen=True)
class Row:
    """One quantity."""

    name: str
    expected: float
    observed: float
    error: float

    @property
    def distance(self) -> float:
        """In standard errors."""
        return (
            (self.observed - self.expected) / self.error if self.error else 0.0 if self.observed == self.expected else math.inf
        )


def share(name: str, expected: float, seen: Sequence[bool]) -> Row:
    """How often something happened."""
    return Row(name, expected, float(np.mean(seen)), math.sqrt(expected * (1 - expected) / len(seen)))


def span(name: str, low: float, high: float, values: Sequence[float]) -> list[Row]:
    """A uniform draw: its mean, and that nothing lies outside of the range."""
    middle, error = (low + high) / 2, (high - low) / math.sqrt(12 * max(1, len(values)))
    outside = sum(not low <= value <= high for value in values)
    return [
        Row(f"{name}: mean of {low:g} to {high:g}", middle, float(np.mean(values)), error),
        Row(f"{name}: outside of {low:g} to {high:g}", 0, outside, 0),
    ]


def prompts(draws: int, seed: int) -> list[Row]:
    """METHOD §6: mask 50 %, click 25 %, box 25 %; corrective clicks on up to two frames, the first among them."""
    recipe = Recipe(phases=(Phase(1, FRAMES, 1),), seed=seed, corrections=1.0, clicks=CLICKS)
    plans = [StepPlan.draw(recipe, step, FRAMES) for step in range(draws)]
    rows = [
        share(f"first prompt: {kind}", odds, [p.kind == kind for p in plans])
        for kind, odds in zip(KINDS, (0.5, 0.25, 0.25), strict=True)
    ]
    spoken = [plan for plan in plans if plan.kind != "mask"]
    return [
        *rows,
        share("corrected, click or box: the first frame", 1.0, [0 in plan.corrected for plan in spoken]),
        share("corrected: a second frame too", 0.5, [any(plan.corrected - {0}) for plan in plans]),
        Row("corrected: most frames", 2, max(len(plan.corrected) for plan in plans), 0),
        *span("corrected: which later frame", 1, FRAMES - 1, [t for plan in plans for t in plan.corrected if t])[1:],
        *clicks(draws, seed),
    ]


def clicks(draws: int, seed: int) -> list[Row]:
    """Seven on a frame; a tenth look at the truth alone: those fall inside though the prediction is right there."""
    truth = np.zeros((1, 24, 24), bool)
    truth[0, 8:16, 8:16] = True
    wrong = np.zeros((24, 24), bool)
    wrong[:, :6] = wrong[truth[0]] = True
    wrong[8:16, 8:16] = True
    inside, counts = [], []
    for number in range(draws // CLICKS):
        user = SimulatedUser(truth, "box", frozenset({0}), CLICKS, 0.1, np.random.default_rng([seed, number]))
        user(0, None)
        said = []
        while (one := user(0, wrong)) is not None:
            said.append(bool(one.labels[0] == 1))
        inside += said
        counts.append(len(said))
    return [
        Row("corrective clicks on a frame", CLICKS, float(np.mean(counts)), 0),
        share("of them from the truth", 0.1, inside),
    ]


def tasks(draws: int, seed: int) -> list[Row]:
    """METHOD §6: a task uniformly, then a modality of it, then a case of that modality; made-up sets of very unequal size."""
    made = [("a", "CT", 90), ("a", "MR", 10), ("b", "MR", 500), ("c", "CT", 1), ("c", "MR", 3), ("c", "US", 60)]
    entries = [CaseEntry(0, "volume", ((1,),), name, (name,), modality) for name, modality, n in made for _ in range(n)]
    balance, rng = Balance(entries), np.random.default_rng(seed)
    drawn = [balance.draw(rng) for _ in range(draws)]
    names = Counter(name for name, _, _ in made)
    rows = [share(f"task {name}", 1 / 3, [task == name for task, _ in drawn]) for name in names]
    for name, modality, count in made:
        own = [m == modality for task, m in drawn if task == name]
        rows.append(
            share(f"task {name}: modality {modality}", 1 / names[name], own)
            if names[name] > 1
            else share(f"task {name}: modality {modality}", 1.0, own)
        )
        cases = [balance.case(rng, name, modality)[0] for _ in range(draws)]
        first = min(cases) if count == 1 else next(i for i, e in enumerate(entries) if (e.name, e.modality) == (name, modality))
        rows.append(share(f"task {name}, {modality}: one of {count} cases", 1 / count, [case == first for case in cases]))
    return rows


def augmentations(draws: int, seed: int) -> list[Row]:
    """METHOD §5, the table of the paper's appendix C.2."""
    rng, odds = np.random.default_rng(seed), AugmentationOdds()
    drawn = [Augmentation.draw(rng, odds) for _ in range(draws)]

    def row(name: str, probability: float, value: Callable[[Augmentation], float], neutral: float, *limits: float) -> list[Row]:
        values = [value(one) for one in drawn]
        changed = [v for v in values if v != neutral]
        return [share(name, probability, [v != neutral for v in values]), *span(name, *limits, changed)]

    changes = [one.invert or one.multiply != 1 for one in drawn]
    return [
        *row("rotation (degrees)", 0.15, lambda d: d.degrees, 0, -25, 25),
        *row("scaling", 0.15, lambda d: d.scale, 1, 0.7, 1.4),
        *row("Gaussian noise (variance)", 0.15, lambda d: d.variance, 0, 0, 0.1),
        *row("Gaussian blur (sigma)", 0.15 * 0.5, lambda d: d.sigma, 0, 0.5, 1.5),
        share("intensity: multiplied or inverted", 0.15, changes),
        *span("intensity: factor", 0.65, 1.2, [one.multiply for one in drawn if one.multiply != 1]),
        *row("low resolution (factor)", 0.25 * 0.5, lambda d: d.factor, 1, 1, 2),
        *row("gamma", 0.15, lambda d: d.gamma, 1, 0.7, 1.5),
        *row("gamma of the inverted image", 0.15, lambda d: d.gamma_inverted, 1, 0.7, 1.5),
        share("flip of columns", 0.5, [one.flip_x for one in drawn]),
        share("flip of rows", 0.5, [one.flip_y for one in drawn]),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    rows = [row for part in (prompts, tasks, augmentations) for row in part(told.draws, told.seed)]
    print(f"{told.draws} draws, seed {told.seed}\n")
    print("| quantity | expected | observed | standard error | distance |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.name} | {row.expected:.4f} | {row.observed:.4f} | {row.error:.4f} | {row.distance:+.1f} |")
    return int(any(abs(row.distance) > LIMIT for row in rows))


if __name__ == "__main__":
    sys.exit(main())

"""What rows say together: means with intervals, and methods against each other.

A case counts once: its structures and seeds are averaged first. Intervals are percentile bootstraps over cases.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medical_sam2.evaluate.methods.named import label
from medical_sam2.evaluate.protocols import Protocol
from medical_sam2.evaluate.reporting.render import Section, Table
from medical_sam2.evaluate.rows import EMPTY, MEASURES, Row, answered
from medical_sam2.evaluate.significance import compared, mean_interval

Case = tuple[str, str]
SHOWN = ("dice", "dice_prompted", "dice_propagated", "iou", "hausdorff95", "surface_dice", "volume_error")
HEAD = ("Dice [95 % interval]", "prompted", "propagated", "IoU", "HD95 (missed)", "surface Dice", "volume error")


@dataclass(frozen=True)
class Setting:
    """Rows that belong into one mean.

    Args:
        kind: "volume" or "set".
        share: of frames that were prompted.
        prompt: kind of prompts; "as given" where data sets differ in theirs.
        care: of the hand.
        choice: of the frames that were prompted.
    """

    kind: str
    share: str
    prompt: str
    care: str
    choice: str = "random"

    def __str__(self) -> str:
        told = "one frame prompted" if self.share == "one" else f"{float(self.share):.0%} of the frames prompted"
        hand = "" if self.care == "none" else f", {self.care} hand"
        chosen = "" if self.choice == "random" else ", suggested"
        return f"{self.kind}s, {told}{chosen}, {self.prompt}{hand}"


def grouped(rows: Iterable[Row], protocol: Protocol) -> dict[Setting, dict[str, list[Row]]]:
    """Setting → method → rows that are neither skipped nor empty, in the order of the protocol."""
    own = {condition.care: condition.prompt == "own" for condition in protocol.conditions}
    found: dict[Setting, dict[str, list[Row]]] = {}
    for row in answered(rows):
        setting = Setting(row.kind, row.share, "as given" if own.get(row.care) else row.prompt, row.care, row.choice)
        found.setdefault(setting, {label(method): [] for method in protocol.methods})[row.method].append(row)
    return found


def by_case(rows: Iterable[Row], measure: str = "dice") -> dict[Case, float]:
    """Mean over structures and seeds; what is not finite is left out, and so is a case without any other."""
    values: dict[Case, list[float]] = {}
    for row in rows:
        value = float(getattr(row, measure))
        if math.isfinite(value):
            values.setdefault((row.dataset, row.case), []).append(value)
    return {case: float(np.mean(own)) for case, own in values.items()}


def sections(protocol: Protocol, rows: Sequence[Row], skipped: Mapping[str, str]) -> list[Section]:
    """The parts of a protocol's page: what was done, each setting, each structure, what was left out, what is measured."""
    found = [Section(protocol.name, (protocol.about, _described(protocol)))]
    for setting, methods in grouped(rows, protocol).items():
        found.append(Section(str(setting), tables=(_means(methods), *_against(methods))))
    found.append(Section("By structure", tables=(_structures(rows, protocol),)))
    measures = (*(f"{name}: {meaning}" for name, meaning in MEASURES.items()), EMPTY)
    return [*found, Section("Left out of the means", items=_left_out(rows, skipped)), Section("Measures", items=measures)]


def number(value: float, digits: int = 3) -> str:
    """With so many digits; a dash for what is not known."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _described(protocol: Protocol) -> str:
    seeds = ", ".join(map(str, protocol.seeds))
    how = f"Views {protocol.views}, fusion {protocol.fusion}, seeds {seeds}, surface Dice at {protocol.tolerance_mm:g}"
    return f"{how}. SHA-256 of the protocol: {protocol.digest}. Its whole description: {json.dumps(protocol.described())}"


def interval(values: Sequence[float]) -> str:
    """Mean and its 95 % bootstrap interval, in words."""
    mean, low, high = mean_interval(values, np.random.default_rng(0))
    return f"{number(mean)} [{number(low)}, {number(high)}]"


def _means(methods: Mapping[str, Sequence[Row]]) -> Table:
    lines: list[tuple[str, ...]] = []
    for method, rows in methods.items():
        values = {measure: list(by_case(rows, measure).values()) for measure in SHOWN}
        missed = sum(math.isinf(row.hausdorff95) for row in rows)
        means = {measure: number(float(np.mean(own)) if own else math.nan) for measure, own in values.items()}
        units = sorted({row.unit for row in rows})
        means["hausdorff95"] = f"{means['hausdorff95']} {'/'.join(units)} ({missed})"
        lines.append((method, str(len(values["dice"])), interval(values["dice"]), *(means[name] for name in SHOWN[1:])))
    return Table("Means over cases", ("method", "cases", *HEAD), tuple(lines))


def _against(methods: Mapping[str, Sequence[Row]]) -> list[Table]:
    """The first method against each other one, case by case."""
    first, *others = methods
    ours = by_case(methods[first])
    if not others or not ours:
        return []
    paired = {other: by_case(methods[other]) for other in others}
    scores = {other: [own.get(case, math.nan) for case in ours] for other, own in paired.items()}
    found = compared(list(ours.values()), scores, np.random.default_rng(0))
    lines = tuple(
        (other, f"{each.mean:+.3f} [{number(each.low)}, {number(each.high)}]", number(each.p), str(each.pairs))
        for other, each in found.items()
    )
    return [Table(f"{first} against each", (f"{first} less", "Dice [95 % interval]", "p (Wilcoxon, Holm)", "cases"), lines)]


def _structures(rows: Sequence[Row], protocol: Protocol) -> Table:
    groups: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for row in answered(rows):
        share = row.share if row.choice == "random" else f"{row.share}, suggested"
        key = (row.dataset, row.structure, row.prompt, row.care, share)
        groups.setdefault(key, {}).setdefault(row.method, []).append(row.dice)
    methods = [label(method) for method in protocol.methods]
    lines = tuple(
        (*key, *(number(float(np.mean(found[method]))) if method in found else "–" for method in methods))
        for key, found in groups.items()
    )
    return Table("Dice", ("data set", "structure", "prompt", "hand", "share", *methods), lines, folded=True)


def _left_out(rows: Sequence[Row], skipped: Mapping[str, str]) -> tuple[str, ...]:
    empty = Counter((row.dataset, row.structure) for row in rows if row.empty)
    return (
        *(f"{case}: {reason}" for case, reason in skipped.items()),
        *(f"{name} {structure}: {count} answers, truth and prediction empty" for (name, structure), count in empty.items()),
    ) or ("nothing",)

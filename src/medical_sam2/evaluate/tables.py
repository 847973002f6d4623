"""What rows say together: means with intervals, methods against each other, and all of it as Markdown.

A case counts once: its structures and seeds are averaged first. Intervals are percentile bootstraps over cases.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medical_sam2.evaluate.protocols import Protocol
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
    """

    kind: str
    share: str
    prompt: str
    care: str

    def __str__(self) -> str:
        told = "one frame prompted" if self.share == "one" else f"{float(self.share):.0%} of the frames prompted"
        hand = "" if self.care == "none" else f", {self.care} hand"
        return f"{self.kind}s, {told}, {self.prompt}{hand}"


def grouped(rows: Iterable[Row], protocol: Protocol) -> dict[Setting, dict[str, list[Row]]]:
    """Setting → method → rows that are neither skipped nor empty, in the order of the protocol."""
    own = {condition.care: condition.prompt == "own" for condition in protocol.conditions}
    found: dict[Setting, dict[str, list[Row]]] = {}
    for row in answered(rows):
        setting = Setting(row.kind, row.share, "as given" if own.get(row.care) else row.prompt, row.care)
        found.setdefault(setting, {method: [] for method in protocol.methods})[row.method].append(row)
    return found


def by_case(rows: Iterable[Row], measure: str = "dice") -> dict[Case, float]:
    """Mean over structures and seeds; what is not finite is left out, and so is a case without any other."""
    values: dict[Case, list[float]] = {}
    for row in rows:
        value = float(getattr(row, measure))
        if math.isfinite(value):
            values.setdefault((row.dataset, row.case), []).append(value)
    return {case: float(np.mean(own)) for case, own in values.items()}


def markdown(protocol: Protocol, rows: Sequence[Row], skipped: Mapping[str, str]) -> str:
    """The page of a protocol."""
    parts = [f"# {protocol.name}\n\n{protocol.about}\n\n{_described(protocol)}"]
    for setting, methods in grouped(rows, protocol).items():
        parts.append(f"\n## {setting}\n\n{_means(methods)}{_against(methods)}")
    parts += [f"\n## By structure: Dice\n\n{_structures(rows, protocol)}", _left_out(rows, skipped), _legend()]
    return "".join(parts)


def line(*cells: object) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |\n"


def number(value: float, digits: int = 3) -> str:
    """With so many digits; a dash for what is not known."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _described(protocol: Protocol) -> str:
    seeds = ", ".join(map(str, protocol.seeds))
    how = f"Views {protocol.views}, fusion {protocol.fusion}, seeds {seeds}, surface Dice at {protocol.tolerance_mm:g}"
    return f"{how}. SHA-256 of the protocol: `{protocol.digest}`.\n"


def _means(methods: Mapping[str, Sequence[Row]]) -> str:
    text = [line("method", "cases", *HEAD), line(*["---"] * (2 + len(HEAD)))]
    for method, rows in methods.items():
        values = {measure: list(by_case(rows, measure).values()) for measure in SHOWN}
        mean, low, high = mean_interval(values["dice"], np.random.default_rng(0))
        missed = sum(math.isinf(row.hausdorff95) for row in rows)
        means = {measure: number(float(np.mean(own)) if own else math.nan) for measure, own in values.items()}
        units = sorted({row.unit for row in rows})
        means["hausdorff95"] = f"{means['hausdorff95']} {'/'.join(units)} ({missed})"
        dice = f"{number(mean)} [{number(low)}, {number(high)}]"
        text.append(line(method, len(values["dice"]), dice, *(means[measure] for measure in SHOWN[1:])))
    return "".join(text)


def _against(methods: Mapping[str, Sequence[Row]]) -> str:
    """The first method against each other one, case by case."""
    first, *others = methods
    ours = by_case(methods[first])
    if not others or not ours:
        return ""
    paired = {other: by_case(methods[other]) for other in others}
    scores = {other: [own.get(case, math.nan) for case in ours] for other, own in paired.items()}
    found = compared(list(ours.values()), scores, np.random.default_rng(0))
    text = ["\n", line(f"{first} less", "Dice [95 % interval]", "p (Wilcoxon, Holm)", "cases"), line(*["---"] * 4)]
    for other, each in found.items():
        text.append(line(other, f"{each.mean:+.3f} [{number(each.low)}, {number(each.high)}]", number(each.p), each.pairs))
    return "".join(text)


def _structures(rows: Sequence[Row], protocol: Protocol) -> str:
    groups: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for row in answered(rows):
        key = (row.dataset, row.structure, row.prompt, row.care, row.share)
        groups.setdefault(key, {}).setdefault(row.method, []).append(row.dice)
    text = [
        line("data set", "structure", "prompt", "hand", "share", *protocol.methods),
        line(*["---"] * (5 + len(protocol.methods))),
    ]
    for key, found in groups.items():
        means = [number(float(np.mean(found[method]))) if method in found else "–" for method in protocol.methods]
        text.append(line(*key, *means))
    return "".join(text)


def _left_out(rows: Sequence[Row], skipped: Mapping[str, str]) -> str:
    empty = Counter((row.dataset, row.structure) for row in rows if row.empty)
    told = [f"- {case}: {reason}\n" for case, reason in skipped.items()]
    told += [
        f"- {name} {structure}: {count} answers, truth and prediction empty\n" for (name, structure), count in empty.items()
    ]
    return "\n## Left out of the means\n\n" + ("".join(told) or "Nothing.\n")


def _legend() -> str:
    return "\n## Measures\n\n" + "".join(f"- `{name}`: {meaning}\n" for name, meaning in MEASURES.items()) + f"- {EMPTY}\n"

"""What `precision.py` measured, line by line, and as tables."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

GOAL = 0.995


@dataclass(frozen=True)
class Way:
    """How all structures were asked for.

    Args:
        weights: hash of them.
        views: as `Segmenter.segment_volume` takes them.
        prompt: mask, box or click.
        engine: that encoded in bf16.
    """

    weights: str
    views: str
    prompt: str
    engine: str


@dataclass(frozen=True)
class Row:
    """One structure of a case, told once, answered twice.

    Args:
        way: how it was asked for.
        alike: Dice between both answers.
        fp32: Dice with the truth.
        bf16: Dice with the truth.
        seconds: of the processor, of the case, in fp32 and in bf16.
    """

    way: Way
    dataset: str
    case: str
    structure: str
    alike: float
    fp32: float
    bf16: float
    seconds: tuple[float, float]


def known(path: Path) -> list[Row]:
    """What earlier runs measured."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = [json.loads(line) for line in lines]
    return [_row(told | {key: math.nan for key, value in told.items() if value is None}) for told in rows]


def _row(told: dict[str, Any]) -> Row:
    return Row(**(told | {"way": Way(**told["way"]), "seconds": tuple(told["seconds"])}))


def added(path: Path, rows: Sequence[Row]) -> None:
    """Append; what is not a number is written as null."""
    with path.open("a", encoding="utf-8") as stream:
        for row in rows:
            told = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(row).items()}
            stream.write(json.dumps(told) + "\n")


def page(rows: Sequence[Row], weights: str, failed: Sequence[str]) -> str:
    """A table for each way that these weights were asked."""
    ways = sorted({row.way for row in rows if row.way.weights == weights}, key=lambda way: (way.engine, way.views, way.prompt))
    tables = [table([row for row in rows if row.way == way], way) for way in ways]
    head = f"Weights {weights}; each structure told on its largest slice. Dice on all other slices; seconds of the processor."
    lines = ["# What bfloat16 costs", "", head, *(line for lines in tables for line in ["", *lines])]
    return "\n".join([*lines, "", *(f"- failed: {each}" for each in failed)]).rstrip() + "\n"


def table(rows: Sequence[Row], way: Way) -> list[str]:
    """A line for each set, and the worst structure."""
    by = {"mask": "an outline", "box": "a box", "click": "a click"}[way.prompt]
    lines = [f"## From {by}, views {way.views}, bf16 by {way.engine}", ""]
    if not measured(rows):
        return [*lines, "Nothing was measured."]
    worst, mean = min(measured(rows), key=lambda row: row.alike), overall(rows)
    verdict = "reached" if mean >= GOAL else "**not reached**"
    lines += [
        f"Mean Dice between fp32 and bf16 **{mean:.4f}** (goal {GOAL:g}: {verdict}), least {worst.alike:.4f}:",
        f"{worst.dataset} {worst.case}, {worst.structure} (with the truth {worst.fp32:.3f} in fp32, {worst.bf16:.3f} in bf16).",
        "",
        "| set | cases | structures | fp32 to bf16 | least | truth, fp32 | truth, bf16 | s a case, fp32 | bf16 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row.dataset for row in rows):
        lines.append(line(name, [row for row in rows if row.dataset == name]))
    return [*lines, line("all", rows)]


def line(name: str, rows: Sequence[Row]) -> str:
    """Means over structures; seconds of the processor are means over cases."""
    own = measured(rows)
    if not own:
        return f"| {name} | 0 | 0 | – | – | – | – | – | – |"
    seconds = {(row.dataset, row.case): row.seconds for row in own}.values()
    means = [float(np.mean(values)) for values in ([r.alike for r in own], [r.fp32 for r in own], [r.bf16 for r in own])]
    took = " | ".join(f"{np.mean(each):.1f}" for each in zip(*seconds, strict=True))
    least = min(row.alike for row in own)
    return f"| {name} | {len(seconds)} | {len(own)} | {means[0]:.4f} | {least:.4f} | {means[1]:.4f} | {means[2]:.4f} | {took} |"


def measured(rows: Sequence[Row]) -> list[Row]:
    """Those of structures that both or one of the answers, and the truth, find on other slices."""
    return [row for row in rows if not any(map(math.isnan, (row.alike, row.fp32, row.bf16)))]


def overall(rows: Sequence[Row]) -> float:
    """Mean over all structures."""
    return float(np.mean([row.alike for row in measured(rows)]))

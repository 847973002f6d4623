"""Figures of a study, each for one kind of cases: the paper's Figs. 5, 6 and 7, and whether confidence can be trusted."""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from medical_sam2.evaluate.methods.named import label
from medical_sam2.evaluate.protocols import Protocol
from medical_sam2.evaluate.reporting.tables import by_case
from medical_sam2.evaluate.rows import Row, answered
from medical_sam2.evaluate.significance import mean_interval
from medical_sam2.io.atomic import write_bytes
from medical_sam2.simulate import NOISE_LEVELS

Draw = Callable[[Any, Mapping[str, list[Row]]], None]
BINS = 10


def write_figures(protocol: Protocol, rows: Sequence[Row], folder: Path) -> list[Path]:
    """PNG and SVG of every figure that the rows hold something for; needs matplotlib (the extra `evaluate`).

    Returns:
        The PNG files.
    """
    from matplotlib.figure import Figure

    written: list[Path] = []
    for kind in dict.fromkeys(row.kind for row in answered(rows)):
        own = [row for row in answered(rows) if row.kind == kind]
        names = [label(method) for method in protocol.methods]
        methods = {name: [row for row in own if row.method == name] for name in names}
        for name, draw in _fitting(protocol, own).items():
            figure = Figure(figsize=(5, 3.6), layout="constrained")
            axes = figure.add_subplot()
            axes.set_title(f"{protocol.name}: {kind}s")
            draw(axes, methods)
            for suffix in ("svg", "png"):
                stream = BytesIO()
                figure.savefig(stream, format=suffix, dpi=160)
                write_bytes(folder / f"{name}-{kind}s.{suffix}", stream.getvalue())
            written.append(folder / f"{name}-{kind}s.png")
    return written


def _fitting(protocol: Protocol, rows: Sequence[Row]) -> dict[str, Draw]:
    figures: dict[str, Draw] = {}
    if len({row.share for row in rows}) > 1:
        figures["frequency"] = _frequency
    if len({row.care for row in rows}) > 1:
        figures["hands"] = _hands
    if len(protocol.seeds) > 1:
        figures["spread"] = _spread
    if any(row.information for row in rows):
        figures["information"] = _information
    if any(row.sure for row in rows):
        figures["reliability"] = _reliability
    return figures


def _frequency(axes: Any, methods: Mapping[str, list[Row]]) -> None:
    """Dice over the share of prompted frames, with its interval over cases (Fig. 7)."""
    curves = {
        f"{method}{told}": [row for row in rows if row.choice == choice]
        for method, rows in methods.items()
        for choice, told in (("random", ""), ("suggest", ", suggested"))
    }
    for method, rows in curves.items():
        shares = sorted({row.share for row in rows}, key=float)
        if not shares:
            continue
        found = [
            mean_interval(list(by_case(row for row in rows if row.share == share).values()), np.random.default_rng(0))
            for share in shares
        ]
        x, (mean, low, high) = [100 * float(share) for share in shares], np.array(found).T
        axes.plot(x, mean, marker="o", linestyle="--" if method.endswith("suggested") else "-", label=method)
        axes.fill_between(x, low, high, alpha=0.2)
    axes.set(xlabel="frames prompted (%)", ylabel="Dice (mean, 95 % interval)")
    axes.legend()


def _hands(axes: Any, methods: Mapping[str, list[Row]]) -> None:
    """Dice by how careful the hand is, of each kind of prompt, with its interval over cases."""
    for method, rows in methods.items():
        for prompt in dict.fromkeys(row.prompt for row in rows):
            own = [row for row in rows if row.prompt == prompt]
            levels = [care for care in NOISE_LEVELS if any(row.care == care for row in own)]
            found = [
                mean_interval(list(by_case(row for row in own if row.care == care).values()), np.random.default_rng(0))
                for care in levels
            ]
            mean, low, high = np.array(found).T
            axes.errorbar(levels, mean, (mean - low, high - mean), marker="o", capsize=4, label=f"{method}, {prompt}")
    axes.set(xlabel="hand", ylabel="Dice (mean, 95 % interval)")
    axes.legend()


def _spread(axes: Any, methods: Mapping[str, list[Row]]) -> None:
    """Mean Dice over cases, with the standard deviation of that mean over seeds (Fig. 5)."""
    for place, rows in enumerate(methods.values()):
        seeds = sorted({row.seed for row in rows})
        means = [float(np.mean(list(by_case(row for row in rows if row.seed == seed).values()))) for seed in seeds]
        if means:
            axes.bar(place, np.mean(means), yerr=np.std(means), capsize=5)
    axes.set_xticks(range(len(methods)), list(methods), rotation=20, ha="right")
    axes.set(ylabel="Dice (mean, deviation over seeds)", ylim=(0, 1))


def _information(axes: Any, methods: Mapping[str, list[Row]]) -> None:
    """Mutual information of the bank from the first to the last stage, mean over answers with as many stages (Fig. 6)."""
    for method, rows in methods.items():
        most = max((len(row.information) for row in rows), default=0)
        full = [row.information for row in rows if most and len(row.information) == most]
        if full:
            axes.plot(range(1, most + 1), np.mean(full, axis=0), marker="o", label=f"{method} ({len(full)} answers)")
    axes.set(xlabel="stage of tracking", ylabel="pairwise mutual information (nats)")
    axes.legend()


def _reliability(axes: Any, methods: Mapping[str, list[Row]]) -> None:
    """Mean IoU over predicted IoU in ten bins, on frames that nobody prompted."""
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    for method, rows in methods.items():
        pairs = np.array([pair for row in rows for pair in row.sure]).reshape(-1, 2)
        bins = np.clip((pairs[:, 0] * BINS).astype(int), 0, BINS - 1)
        means = [pairs[bins == each].mean(axis=0) for each in range(BINS) if (bins == each).any()]
        if means:
            axes.plot(*np.array(means).T, marker="o", label=f"{method} ({len(pairs)} frames)")
    axes.set(xlabel="predicted IoU", ylabel="IoU", xlim=(0, 1), ylim=(0, 1))
    axes.legend()

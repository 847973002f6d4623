"""The paper's tables in their layout, with what was measured here, and the paper's own numbers in columns marked as its.

The paper's numbers come from its data, its weights and its people (METHOD §8): they stand beside ours to show what was claimed,
and no difference between the two is a finding. Ours are means over cases, a case once; a structure or data set a column.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from scipy import stats

from medical_sam2.evaluate.protocols import LADDER
from medical_sam2.evaluate.reporting.render import Section, Table
from medical_sam2.evaluate.reporting.tables import by_case, interval, number
from medical_sam2.evaluate.rows import Row, answered
from medical_sam2.evaluate.significance import difference
from medical_sam2.evaluate.study import Outcome, Study

NAMES = {"self-sorting": "MedSAM-2", "fifo": "SAM 2", "dynunet": "nnU-Net", "swin-unetr": "Swin-UNetr"}
"""Ours → what the paper calls a method of that kind; the weights are ours in every row of ours."""
TABLE_1 = {
    "MedSAM-2": 0.890,
    "MedSegDiff": 0.879,
    "One-Prompt": 0.869,
    "Swin-UNetr": 0.869,
    "SAM 2": 0.860,
    "FCFI": 0.858,
    "nnU-Net": 0.802,
}
TABLE_2 = {
    "MedSAM-2": (0.768, 0.805),
    "One-Prompt": (0.731, 0.775),
    "UniverSeg": (0.652, 0.740),
    "SAM 2": (0.576, 0.691),
}
TABLE_3 = ((0.539, 0.835), (0.578, 0.862), (0.645, 0.884), (0.729, 0.896))
GAPS = {"self-sorting": ("0.020", "0.035"), "fifo": ("0.075", "0.331")}
INFORMATION = "2.54 → 1.43"
THEIRS = (
    "Columns marked “paper” are the paper's own numbers, on its data with its weights; rows that hold only such a number were "
    "not run here. “(as …)” names what the paper calls a method of that kind: all weights here are ours."
)
BINS = 10


def sections(studies: Sequence[Study], outcomes: Sequence[Outcome]) -> list[Section]:
    """What the protocols that were run say about the paper's Tables 1 to 3, Figs. 6 and 7, and the predicted IoU."""
    rows = {study.protocol.name: list(answered(each.rows)) for study, each in zip(studies, outcomes, strict=True)}
    tables = [
        *_universal(rows.get("universal", [])),
        *_ablation(rows.get("ablation", [])),
        *_gaps(rows.get("frequency", [])),
        *_information(rows.get("memory", [])),
        *_calibration(rows.get("one-prompt", []) or rows.get("universal", [])),
    ]
    return [Section("Beside the paper", (THEIRS,), tuple(tables))] if tables else []


def _universal(rows: Sequence[Row]) -> list[Table]:
    found: list[Table] = []
    volumes, images = ([row for row in rows if row.kind == kind] for kind in ("volume", "set"))
    if volumes:
        columns = _by(volumes, lambda row: f"{row.dataset} {row.structure}")
        theirs = {name: (number(value),) for name, value in TABLE_1.items()}
        told = "as Table 1: volumes, each slice prompted with probability 0.25, Dice"
        found.append(_matrix(told, columns, theirs, ("paper: BTCV, 12 organs",)))
    if images:
        columns = _by(images, lambda row: row.dataset)
        theirs = {name: (number(unseen), number(wbc)) for name, (unseen, wbc) in TABLE_2.items()}
        told = "as Table 2: images, each prompted with probability 0.3, Dice"
        found.append(_matrix(told, columns, theirs, ("paper: 11 unseen tasks", "paper: WBC")))
    return found


def _matrix(
    title: str, columns: Mapping[str, list[Row]], theirs: Mapping[str, tuple[str, ...]], heads: tuple[str, ...]
) -> Table:
    methods = list(dict.fromkeys(row.method for own in columns.values() for row in own))
    lines: list[tuple[str, ...]] = []
    for method in methods:
        cells = [_mean(row for row in own if row.method == method) for own in columns.values()]
        known = [cell for cell in cells if math.isfinite(cell)]
        name = NAMES.get(method, "")
        said = theirs.get(name, ("–",) * len(heads))
        whole = number(float(np.mean(known))) if known else "–"
        lines.append((f"{method} (as {name})" if name else method, *map(number, cells), whole, *said))
    shown = {NAMES.get(method) for method in methods}
    blank = ("–",) * (len(columns) + 1)
    lines += [(f"{name} (the paper's)", *blank, *said) for name, said in theirs.items() if name not in shown]
    return Table(title, ("method", *columns, "mean", *heads), tuple(lines), "“mean” is the mean of the columns.")


def _ablation(rows: Sequence[Row]) -> list[Table]:
    if not rows:
        return []
    lines: list[tuple[str, ...]] = []
    for step, (method, theirs) in enumerate(zip(LADDER, TABLE_3, strict=True)):
        ours = [
            interval(list(by_case(row for row in rows if row.method == method and row.kind == kind).values()))
            for kind in ("set", "volume")
        ]
        marks = tuple("✓" if step > place else "" for place in range(3))
        lines.append((method, *marks, *ours, *map(number, theirs)))
    heads = ("step", "IoU threshold", "dissimilarity", "resampling", "sets", "volumes", "paper: CadVidSet", "paper: BTCV aorta")
    return [Table("as Table 3: the steps of the bank, Dice [95 % interval]", heads, tuple(lines))]


def _gaps(rows: Sequence[Row]) -> list[Table]:
    """Dice with all frames prompted less Dice with the fewest, case by case."""
    own = [row for row in rows if row.choice == "random"]
    shares = sorted({row.share for row in own}, key=float)
    methods = list(dict.fromkeys(row.method for row in own))
    if len(shares) < 2:
        return []
    lines: list[tuple[str, ...]] = []
    for kind in dict.fromkeys(row.kind for row in own):
        gaps = {method: _gap([row for row in own if row.method == method and row.kind == kind], shares) for method in methods}
        for method, gap in gaps.items():
            first = gaps[methods[0]]
            less = "–"
            if method != methods[0]:
                both = [case for case in first if case in gap]
                each = difference([gap[c] for c in both], [first[c] for c in both], np.random.default_rng(0))
                less = f"{each.mean:+.3f} [{number(each.low)}, {number(each.high)}], p {number(each.p)}"
            lines.append((f"{kind}s, {method}", interval(list(gap.values())), less, *GAPS.get(method, ("–", "–"))))
    heads = ("method", "gap [95 % interval]", f"larger than {methods[0]}'s by", "paper: BTCV", "paper: REFUGE")
    told = f"as Fig. 7: how much Dice is lost from {float(shares[-1]):.0%} to {float(shares[0]):.0%} of the frames prompted"
    return [Table(told, heads, tuple(lines), "The p of the difference is of Wilcoxon's signed-rank test, for one comparison.")]


def _gap(rows: Sequence[Row], shares: Sequence[str]) -> dict[tuple[str, str], float]:
    low, high = (by_case(row for row in rows if row.share == share) for share in (shares[0], shares[-1]))
    return {case: high[case] - low[case] for case in high if case in low}


def _information(rows: Sequence[Row]) -> list[Table]:
    lines: list[tuple[str, ...]] = []
    for method in dict.fromkeys(row.method for row in rows):
        told = [row.information for row in rows if row.method == method and len(row.information) > 1]
        if told:
            ends = [interval([each[place] for each in told]) for place in (0, -1)]
            lines.append((method, str(len(told)), *ends, INFORMATION if method == "self-sorting" else "–"))
    heads = ("method", "answers", "first stage [95 % interval]", "last stage [95 % interval]", "paper")
    note = "In nats, by a Gaussian copula; the paper does not say how it estimates, so its numbers are on another scale."
    return [Table("as Fig. 6: pairwise mutual information of the bank", heads, tuple(lines), note)] if lines else []


def _calibration(rows: Sequence[Row]) -> list[Table]:
    """How far the predicted IoU is from the IoU, on frames that nobody prompted."""
    lines: list[tuple[str, ...]] = []
    for method in dict.fromkeys(row.method for row in rows):
        pairs = np.array([pair for row in rows if row.method == method for pair in row.sure]).reshape(-1, 2)
        if len(pairs) < 3:
            continue
        predicted, real = pairs.T
        bins = np.clip((predicted * BINS).astype(int), 0, BINS - 1)
        error = sum(abs(float((predicted - real)[bins == b].sum())) for b in range(BINS)) / len(pairs)
        alike = number(float(np.asarray(stats.spearmanr(predicted, real))[0])) if np.ptp(predicted) and np.ptp(real) else "–"
        lines.append(
            (method, str(len(pairs)), number(float(predicted.mean())), number(float(real.mean())), number(error), alike)
        )
    heads = ("method", "frames", "predicted IoU", "IoU", "calibration error", "rank correlation")
    note = "Calibration error: mean over ten bins of predicted IoU, by frames, of how far its mean lies from the mean IoU."
    told = "is the predicted IoU, which sorts the bank, to be trusted?"
    return [Table(told, heads, tuple(lines), note)] if lines else []


def _by(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def _mean(rows: Iterable[Row]) -> float:
    values = list(by_case(rows).values())
    return float(np.mean(values)) if values else math.nan

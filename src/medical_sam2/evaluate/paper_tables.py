"""The paper's Tables 1 to 3 and Figs. 6 and 7 beside ours; and whether the predicted IoU is to be trusted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from medical_sam2.evaluate.protocols import LADDER
from medical_sam2.evaluate.significance import difference
from medical_sam2.evaluate.study import Row, Study, StudyResult, select_answered
from medical_sam2.evaluate.tables import ReportSection, ReportTable, format_interval, format_number, group_by, mean_by_case

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
TABLE_2 = {"MedSAM-2": (0.768, 0.805), "One-Prompt": (0.731, 0.775), "UniverSeg": (0.652, 0.740), "SAM 2": (0.576, 0.691)}
TABLE_3 = ((0.539, 0.835), (0.578, 0.862), (0.645, 0.884), (0.729, 0.896))
GAPS = {"self-sorting": ("0.020", "0.035"), "fifo": ("0.075", "0.331")}
INFORMATION = "2.54 → 1.43"
THEIRS = (
    "Columns marked “paper” are the paper's own numbers, on its data with its weights; rows that hold only such a number were "
    "not run here. “(as …)” names what the paper calls a method of that kind: all weights here are ours."
)
BINS = 10


def paper_sections(studies: Sequence[Study], outcomes: Sequence[StudyResult]) -> list[ReportSection]:
    """What the protocols that were run say about the paper's Tables 1 to 3, Figs. 6 and 7, and the predicted IoU."""
    rows = {study.protocol.name: list(select_answered(each.rows)) for study, each in zip(studies, outcomes, strict=True)}
    views = {study.protocol.name: f"Volumes: {study.protocol.views} view(s) but where a row says another." for study in studies}
    tables = [
        *(replace(table, note=f"{table.note} {views['universal']}") for table in _tables_1_and_2(rows.get("universal", []))),
        *(replace(table, note=views["ablation"]) for table in _table_3(rows.get("ablation", []))),
        *_table_of_gaps(rows.get("frequency", [])),
        *_table_of_information(rows.get("memory", [])),
        *_table_of_calibration(rows.get("one-prompt", []) or rows.get("universal", [])),
    ]
    return [ReportSection("Beside the paper", (THEIRS,), tuple(tables))] if tables else []


def _tables_1_and_2(rows: Sequence[Row]) -> list[ReportTable]:
    found: list[ReportTable] = []
    volumes, images = ([row for row in rows if row.kind == kind] for kind in ("volume", "set"))
    if volumes:
        columns = group_by(volumes, lambda row: f"{row.dataset} {row.structure}")
        theirs = {name: (format_number(value),) for name, value in TABLE_1.items()}
        title = "as Table 1: volumes, each slice prompted with probability 0.25, Dice"
        found.append(_method_table(title, columns, theirs, ("paper: BTCV, 12 organs",)))
    if images:
        columns = group_by(images, lambda row: row.dataset)
        theirs = {name: (format_number(unseen), format_number(wbc)) for name, (unseen, wbc) in TABLE_2.items()}
        title = "as Table 2: images, each prompted with probability 0.3, Dice"
        found.append(_method_table(title, columns, theirs, ("paper: 11 unseen tasks", "paper: WBC")))
    return found


def _method_table(
    title: str, columns: Mapping[str, list[Row]], theirs: Mapping[str, tuple[str, ...]], heads: tuple[str, ...]
) -> ReportTable:
    # Rows that only the paper has stay, so that nobody takes the methods that ran for all of the paper's.
    methods = list(dict.fromkeys(row.method for own in columns.values() for row in own))
    lines: list[tuple[str, ...]] = []
    for method in methods:
        scores = [mean_by_case(row for row in own if row.method == method).values() for own in columns.values()]
        cells = [float(np.mean(list(own))) if own else math.nan for own in scores]
        finite = [cell for cell in cells if math.isfinite(cell)]
        name = NAMES.get(method, "")
        paper = theirs.get(name, ("–",) * len(heads))
        whole = format_number(float(np.mean(finite))) if finite else "–"
        lines.append((f"{method} (as {name})" if name else method, *map(format_number, cells), whole, *paper))
    shown = {NAMES.get(method) for method in methods}
    blank = ("–",) * (len(columns) + 1)
    lines += [(f"{name} (the paper's)", *blank, *paper) for name, paper in theirs.items() if name not in shown]
    return ReportTable(title, ("method", *columns, "mean", *heads), tuple(lines), "“mean” is the mean of the columns.")


def _table_3(rows: Sequence[Row]) -> list[ReportTable]:
    if not rows:
        return []
    lines: list[tuple[str, ...]] = []
    for step, (method, theirs) in enumerate(zip(LADDER, TABLE_3, strict=True)):
        ours = [
            format_interval(list(mean_by_case(row for row in rows if row.method == method and row.kind == kind).values()))
            for kind in ("set", "volume")
        ]
        marks = tuple("✓" if step > place else "" for place in range(3))
        lines.append((method, *marks, *ours, *map(format_number, theirs)))
    heads = ("step", "IoU threshold", "dissimilarity", "resampling", "sets", "volumes", "paper: CadVidSet", "paper: BTCV aorta")
    return [ReportTable("as Table 3: the steps of the bank, Dice [95 % interval]", heads, tuple(lines))]


def _table_of_gaps(rows: Sequence[Row]) -> list[ReportTable]:
    """Dice with all frames prompted less Dice with the fewest, case by case."""
    # Gaps are paired by case: cases that lack one of the two shares, or the first method, would compare other cases.
    own = [row for row in rows if row.choice == "random"]
    shares = sorted({row.share for row in own}, key=float)
    methods = list(dict.fromkeys(row.method for row in own))
    if len(shares) < 2:
        return []
    lines: list[tuple[str, ...]] = []
    for kind in dict.fromkeys(row.kind for row in own):
        gaps = {
            method: _gap_by_case([row for row in own if row.method == method and row.kind == kind], shares)
            for method in methods
        }
        for method, gap in gaps.items():
            first = gaps[methods[0]]
            less = "–"
            if method != methods[0]:
                both = [case for case in first if case in gap]
                each = difference([gap[c] for c in both], [first[c] for c in both], np.random.default_rng(0))
                less = f"{each.mean:+.3f} [{format_number(each.low)}, {format_number(each.high)}], p {format_number(each.p)}"
            lines.append((f"{kind}s, {method}", format_interval(list(gap.values())), less, *GAPS.get(method, ("–", "–"))))
    heads = ("method", "gap [95 % interval]", f"larger than {methods[0]}'s by", "paper: BTCV", "paper: REFUGE")
    title = f"as Fig. 7: how much Dice is lost from {float(shares[-1]):.0%} to {float(shares[0]):.0%} of the frames prompted"
    return [ReportTable(title, heads, tuple(lines), "p of the difference: of Wilcoxon's signed-rank test, for one comparison.")]


def _gap_by_case(rows: Sequence[Row], shares: Sequence[str]) -> dict[tuple[str, str], float]:
    low, high = (mean_by_case(row for row in rows if row.share == share) for share in (shares[0], shares[-1]))
    return {case: high[case] - low[case] for case in high if case in low}


def _table_of_information(rows: Sequence[Row]) -> list[ReportTable]:
    # Only courses of two stages or more have a first and a last.
    lines: list[tuple[str, ...]] = []
    for method in dict.fromkeys(row.method for row in rows):
        courses = [row.information for row in rows if row.method == method and len(row.information) > 1]
        if courses:
            ends = [format_interval([each[place] for each in courses]) for place in (0, -1)]
            lines.append((method, str(len(courses)), *ends, INFORMATION if method == "self-sorting" else "–"))
    heads = ("method", "answers", "first stage [95 % interval]", "last stage [95 % interval]", "paper")
    note = "In nats, by a Gaussian copula; the paper does not say how it estimates, so its numbers are on another scale."
    return [ReportTable("as Fig. 6: pairwise mutual information of the bank", heads, tuple(lines), note)] if lines else []


def _table_of_calibration(rows: Sequence[Row]) -> list[ReportTable]:
    """How far the predicted IoU is from the IoU, on frames that nobody prompted."""
    # Bins are weighed by their frames: most frames lie in the highest bins, and an even mean would hide them.
    lines: list[tuple[str, ...]] = []
    for method in dict.fromkeys(row.method for row in rows):
        pairs = np.array([pair for row in rows if row.method == method for pair in row.sure]).reshape(-1, 2)
        if len(pairs) < 3:
            continue
        predicted, real = pairs.T
        bins = np.clip((predicted * BINS).astype(int), 0, BINS - 1)
        error = sum(abs(float((predicted - real)[bins == b].sum())) for b in range(BINS)) / len(pairs)
        alike = (
            format_number(float(np.asarray(stats.spearmanr(predicted, real))[0])) if np.ptp(predicted) and np.ptp(real) else "–"
        )
        lines.append(
            (
                method,
                str(len(pairs)),
                format_number(float(predicted.mean())),
                format_number(float(real.mean())),
                format_number(error),
                alike,
            )
        )
    heads = ("method", "frames", "predicted IoU", "IoU", "calibration error", "rank correlation")
    note = "Calibration error: mean over ten bins of predicted IoU, by frames, of how far its mean lies from the mean IoU."
    title = "is the predicted IoU, which sorts the bank, to be trusted?"
    return [ReportTable(title, heads, tuple(lines), note)] if lines else []

"""Tables of a study: means with intervals, methods against each other, and the paper's own tables beside ours.

A case counts once: its structures and seeds are averaged first. Intervals are percentile bootstraps over cases.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from medical_sam2.evaluate.methods import method_label
from medical_sam2.evaluate.protocols import LADDER, Protocol
from medical_sam2.evaluate.rounds import GOOD, LIMIT_S, summarise_rounds
from medical_sam2.evaluate.significance import compared, difference, mean_interval
from medical_sam2.evaluate.study import EMPTY, MEASURES, AnswerKey, Row, Study, StudyResult, select_answered

Case = tuple[str, str]
SHOWN = ("dice", "dice_prompted", "dice_propagated", "iou", "hausdorff95", "surface_dice", "volume_error")
HEAD = ("Dice [95 % interval]", "prompted", "propagated", "IoU", "HD95 (missed)", "surface Dice", "volume error")


@dataclass(frozen=True)
class ReportTable:
    """Words in rows."""

    title: str  # what it shows
    head: tuple[str, ...]  # names of the columns
    rows: tuple[tuple[str, ...], ...]  # as many words each
    note: str = ""  # below it
    folded: bool = False  # whether a page shows its title alone until it is opened


@dataclass(frozen=True)
class ReportPicture:
    """A figure."""

    title: str  # what it shows
    file: str  # its name, of a PNG in the folder of the section
    broad: bool = False  # whether a page shows it at its full size


@dataclass(frozen=True)
class ReportSection:
    """A part of a report."""

    title: str  # of it
    text: tuple[str, ...] = ()  # paragraphs
    tables: tuple[ReportTable, ...] = ()  # in order
    pictures: tuple[ReportPicture, ...] = ()  # after the tables
    items: tuple[str, ...] = ()  # a list at the end


@dataclass(frozen=True)
class RowGroup:
    """Rows that belong into one mean."""

    kind: str  # "volume" or "set"
    share: str  # of frames that were prompted
    prompt: str  # kind of prompts; "as given" where data sets differ in theirs
    care: str  # of the hand
    choice: str = "random"  # of the frames that were prompted

    def __str__(self) -> str:
        share = "one frame prompted" if self.share == "one" else f"{float(self.share):.0%} of the frames prompted"
        hand = "" if self.care == "none" else f", {self.care} hand"
        chosen = "" if self.choice == "random" else ", suggested"
        return f"{self.kind}s, {share}{chosen}, {self.prompt}{hand}"


def group_rows(rows: Iterable[Row], protocol: Protocol) -> dict[RowGroup, dict[str, list[Row]]]:
    """Setting → method → rows that are neither skipped nor empty, in the order of the protocol."""
    own = {condition.care: condition.prompt == "own" for condition in protocol.conditions}
    found: dict[RowGroup, dict[str, list[Row]]] = {}
    for row in select_answered(rows):
        setting = RowGroup(row.kind, row.share, "as given" if own.get(row.care) else row.prompt, row.care, row.choice)
        found.setdefault(setting, {method_label(method): [] for method in protocol.methods})[row.method].append(row)
    return found


def mean_by_case(rows: Iterable[Row], measure: str = "dice") -> dict[Case, float]:
    """Mean over structures and seeds; what is not finite is left out, and so is a case without any other."""
    values: dict[Case, list[float]] = {}
    for row in rows:
        value = float(getattr(row, measure))
        if math.isfinite(value):
            values.setdefault((row.dataset, row.case), []).append(value)
    return {case: float(np.mean(own)) for case, own in values.items()}


def protocol_sections(protocol: Protocol, rows: Sequence[Row], skipped: Mapping[str, str]) -> list[ReportSection]:
    """The parts of a protocol's page: what was done, each setting, each structure, what was left out, what is measured."""
    found = [ReportSection(protocol.name, (protocol.about, _describe_protocol(protocol))), *_sections_of_rounds(rows)]
    rows = last_rounds(rows)
    found += _sections_of_prompts(rows, protocol)
    for setting, methods in group_rows(rows, protocol).items():
        found.append(ReportSection(str(setting), tables=(_table_of_means(methods), *_table_of_differences(methods))))
    if not any(row.clicks for row in rows):
        found.append(ReportSection("Cost", tables=(_table_of_costs(rows),)))
    found.append(ReportSection("By structure", tables=(_table_of_structures(rows, protocol),)))
    measures = (*(f"{name}: {meaning}" for name, meaning in MEASURES.items()), EMPTY)
    return [
        *found,
        ReportSection("Left out of the means", items=_list_left_out(rows, skipped)),
        ReportSection("Measures", items=measures),
    ]


def last_rounds(rows: Iterable[Row]) -> list[Row]:
    """Of structures that were clicked on again and again, the rows after the last click; all others as they are."""
    rows = list(rows)
    most: dict[AnswerKey, int] = {}
    for row in rows:
        most[row.task] = max(row.clicks, most.get(row.task, 0))
    return [row for row in rows if row.clicks == most[row.task]]


def _sections_of_rounds(rows: Sequence[Row]) -> list[ReportSection]:
    rounds: dict[str, dict[AnswerKey, list[Row]]] = {}
    for row in select_answered(rows):
        rounds.setdefault(row.method, {}).setdefault(row.task, []).append(row)
    if not any(row.clicks for row in rows):
        return []
    return [ReportSection("Click by click", tables=(_table_of_rounds(rounds), _table_of_clicks(rounds)))]


def _sections_of_prompts(rows: Sequence[Row], protocol: Protocol) -> list[ReportSection]:
    """Kinds of prompts beside each other, where a protocol compares them."""
    groups = group_rows(rows, protocol)
    if len({(group.kind, group.prompt) for group in groups}) < 2 * len({group.kind for group in groups}):
        return []
    header = ("prompt", "method", "cases", "Dice [95 % interval]", "prompted", "propagated")
    lines: list[tuple[str, ...]] = []
    for group, methods in groups.items():
        for method, own in methods.items():
            dice, *parts = (
                list(mean_by_case(own, measure).values()) for measure in ("dice", "dice_prompted", "dice_propagated")
            )
            means = (format_number(float(np.mean(part))) if part else "–" for part in parts)
            lines.append((str(group), method, str(len(dice)), format_interval(dice), *means))
    return [ReportSection("Prompts", tables=(ReportTable("Means over cases", header, tuple(lines)),))]


def _table_of_rounds(rounds: Mapping[str, Mapping[AnswerKey, list[Row]]]) -> ReportTable:
    lines: list[tuple[str, ...]] = []
    for method, structures in rounds.items():
        found = [summarise_rounds(own) for own in structures.values()]
        means = [[getattr(each, name) for each in found] for name in ("dice_auc", "surface_auc", "dice", "surface")]
        needed = [
            f"{np.mean([each.clicks[i] for each in found]):.2f} ({sum(not each.reached[i] for each in found)})"
            for i in range(len(GOOD))
        ]
        late = f"{np.mean([each.seconds for each in found]):.1f} ({sum(each.seconds > LIMIT_S for each in found)})"
        lines.append((method, str(len(found)), *map(format_interval, means), *needed, late))
    last = ("Dice AUC", "surface Dice AUC", "final Dice", "final surface Dice")
    heads = ("method", "structures", *last, *(f"NoC{good:.0%}".strip("%") + " (never)" for good in GOOD), "seconds (over 90)")
    note = (
        "AUC: over the clicks, by trapezoids, a first box left out; five clicks give 4 at most. NoC: mean number of clicks "
        "until the IoU is so high, the most there were where it never is. Seconds: of all rounds. Intervals over structures."
    )
    return ReportTable("Sums over the rounds", heads, tuple(lines), note)


def _table_of_clicks(rounds: Mapping[str, Mapping[AnswerKey, list[Row]]]) -> ReportTable:
    counts = sorted({row.clicks for structures in rounds.values() for own in structures.values() for row in own})
    lines = tuple(
        (
            method,
            *(
                format_number(float(np.mean([row.dice for own in structures.values() for row in own if row.clicks == count])))
                for count in counts
            ),
        )
        for method, structures in rounds.items()
    )
    return ReportTable("Dice after so many clicks", ("method", *map(str, counts)), lines)


def format_number(value: float, digits: int = 3) -> str:
    """With so many digits; a dash for what is not known."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _describe_protocol(protocol: Protocol) -> str:
    seeds = ", ".join(map(str, protocol.seeds))
    how = f"Views {protocol.views}, fusion {protocol.fusion}, seeds {seeds}, surface Dice at {protocol.tolerance_mm:g}"
    return f"{how}. SHA-256 of the protocol: {protocol.digest}. Its whole description: {json.dumps(protocol.described())}"


def format_interval(values: Sequence[float]) -> str:
    """Mean and its 95 % bootstrap interval, in words."""
    mean, low, high = mean_interval(values, np.random.default_rng(0))
    return f"{format_number(mean)} [{format_number(low)}, {format_number(high)}]"


def _table_of_means(methods: Mapping[str, Sequence[Row]]) -> ReportTable:
    lines: list[tuple[str, ...]] = []
    for method, rows in methods.items():
        values = {measure: list(mean_by_case(rows, measure).values()) for measure in SHOWN}
        missed = sum(math.isinf(row.hausdorff95) for row in rows)
        means = {measure: format_number(float(np.mean(own)) if own else math.nan) for measure, own in values.items()}
        units = sorted({row.unit for row in rows})
        means["hausdorff95"] = f"{means['hausdorff95']} {'/'.join(units)} ({missed})"
        lines.append((method, str(len(values["dice"])), format_interval(values["dice"]), *(means[name] for name in SHOWN[1:])))
    return ReportTable("Means over cases", ("method", "cases", *HEAD), tuple(lines))


def _table_of_costs(rows: Sequence[Row]) -> ReportTable:
    """How long a method takes for an answer, and how much memory."""
    answers: dict[tuple[str, str], dict[AnswerKey, list[Row]]] = {}
    for row in select_answered(rows):
        whole = row if row.kind == "volume" else replace(row, case="")
        answers.setdefault((row.kind, row.method), {}).setdefault(whole.task, []).append(row)
    lines: list[tuple[str, ...]] = []
    for (kind, method), own in answers.items():
        seconds, peaks = [sum(row.seconds for row in each) for each in own.values()], [each[0].peak_mb for each in own.values()]
        known = [peak for peak in peaks if math.isfinite(peak)]
        memory = f"{np.median(known):.0f} ({max(known):.0f})" if known else "–"
        lines.append((f"{kind}s", method, str(len(own)), f"{np.median(seconds):.2f} ({max(seconds):.1f})", memory))
    note = (
        "For a structure of a volume, or of a whole set of images. Memory: of this process, beyond what it held before; "
        "that of other programs is not seen. Methods on this network share what is encoded, so that the first one pays for it; "
        "a network that is trained on the spot learns with its first answer."
    )
    heads = ("of", "method", "answers", "seconds, median (most)", "MB, median (most)")
    return ReportTable("Time and memory of an answer", heads, tuple(lines), note)


def _table_of_differences(methods: Mapping[str, Sequence[Row]]) -> list[ReportTable]:
    """The first method against each other one, case by case."""
    first, *others = methods
    ours = mean_by_case(methods[first])
    if not others or not ours:
        return []
    paired = {other: mean_by_case(methods[other]) for other in others}
    scores = {other: [own.get(case, math.nan) for case in ours] for other, own in paired.items()}
    found = compared(list(ours.values()), scores, np.random.default_rng(0))
    lines = tuple(
        (
            other,
            f"{each.mean:+.3f} [{format_number(each.low)}, {format_number(each.high)}]",
            format_number(each.p),
            str(each.pairs),
        )
        for other, each in found.items()
    )
    return [
        ReportTable(f"{first} against each", (f"{first} less", "Dice [95 % interval]", "p (Wilcoxon, Holm)", "cases"), lines)
    ]


def _table_of_structures(rows: Sequence[Row], protocol: Protocol) -> ReportTable:
    groups: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for row in select_answered(rows):
        share = row.share if row.choice == "random" else f"{row.share}, suggested"
        key = (row.dataset, row.structure, row.prompt, row.care, share)
        groups.setdefault(key, {}).setdefault(row.method, []).append(row.dice)
    methods = [method_label(method) for method in protocol.methods]
    lines = tuple(
        (*key, *(format_number(float(np.mean(found[method]))) if method in found else "–" for method in methods))
        for key, found in groups.items()
    )
    return ReportTable("Dice", ("data set", "structure", "prompt", "hand", "share", *methods), lines, folded=True)


def _list_left_out(rows: Sequence[Row], skipped: Mapping[str, str]) -> tuple[str, ...]:
    empty = Counter((row.dataset, row.structure) for row in rows if row.empty)
    return (
        *(f"{case}: {reason}" for case, reason in skipped.items()),
        *(f"{name} {structure}: {count} answers, truth and prediction empty" for (name, structure), count in empty.items()),
    ) or ("nothing",)


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
    tables = [
        *_tables_1_and_2(rows.get("universal", [])),
        *_table_3(rows.get("ablation", [])),
        *_table_of_gaps(rows.get("frequency", [])),
        *_table_of_information(rows.get("memory", [])),
        *_table_of_calibration(rows.get("one-prompt", []) or rows.get("universal", [])),
    ]
    return [ReportSection("Beside the paper", (THEIRS,), tuple(tables))] if tables else []


def _tables_1_and_2(rows: Sequence[Row]) -> list[ReportTable]:
    found: list[ReportTable] = []
    volumes, images = ([row for row in rows if row.kind == kind] for kind in ("volume", "set"))
    if volumes:
        columns = _group_by(volumes, lambda row: f"{row.dataset} {row.structure}")
        theirs = {name: (format_number(value),) for name, value in TABLE_1.items()}
        title = "as Table 1: volumes, each slice prompted with probability 0.25, Dice"
        found.append(_method_table(title, columns, theirs, ("paper: BTCV, 12 organs",)))
    if images:
        columns = _group_by(images, lambda row: row.dataset)
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


def _group_by(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found

"""Tables of a study: means with intervals, methods against each other, distractors, rounds of clicks, and what was left out.

A case counts once: its structures and seeds are averaged first. Intervals are percentile bootstraps over cases; whether one
method is better than another is tested on paired differences.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from medical_sam2.errors import ConfigError, say_count
from medical_sam2.evaluate.methods import method_label
from medical_sam2.evaluate.protocols import Protocol
from medical_sam2.evaluate.study import EMPTY, MEASURES, AnswerKey, Row, select_answered

RESAMPLES = 10_000
Case = tuple[str, str]
TOO_POOR = 0.2  # Dice up to which the challenge does not measure surfaces, and counts 0
GOOD = (0.85, 0.9)  # IoUs of NoC85 and NoC90
LIMIT_S = 90.0  # of the challenge, for all rounds of a structure
SURE = 0.5  # predicted IoU from which on the self-sorting bank takes an answer, as it is set
SHOWN = ("dice", "dice_prompted", "dice_propagated", "iou", "hausdorff95", "surface_dice", "volume_error")
HEAD = ("Dice [95 % interval]", "prompted", "propagated", "IoU", "HD95 (missed)", "surface Dice", "volume error")


@dataclass(frozen=True)
class Difference:
    """How much better one method is, over pairs that both have answered."""

    mean: float  # of the differences
    low: float  # lower end of its 95 % bootstrap interval
    high: float  # upper end
    p: float  # of the two-sided Wilcoxon signed-rank test; after `compared`, corrected by Holm
    pairs: int  # that were compared; those with a nan are left out

    @property
    def interval(self) -> str:
        """The mean and its interval, in words."""
        return f"{self.mean:+.3f} [{format_number(self.low)}, {format_number(self.high)}]"


def difference(one: ArrayLike, other: ArrayLike, rng: np.random.Generator) -> Difference:
    """How much higher `one` scores than `other`, pair by pair.

    The interval is a percentile bootstrap of the mean over pairs; the test drops pairs without a difference, as Wilcoxon did.
    Pairs are taken as independent: give one value for each patient where several structures of a patient were scored.

    Raises:
        ConfigError: the two are not as long as each other.
    """
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ConfigError(f"scores of shapes {first.shape} and {second.shape} are no pairs", "give one of each for every case")
    gains = (first - second)[np.isfinite(first) & np.isfinite(second)]
    if not gains.size:
        return Difference(math.nan, math.nan, math.nan, math.nan, 0)
    if gains.size == 1:
        return Difference(float(gains[0]), math.nan, math.nan, 1.0, 1)
    mean, low, high = mean_interval(gains, rng)
    p = float(np.asarray(stats.wilcoxon(gains))[1]) if gains.any() else 1.0
    return Difference(mean, low, high, p, gains.size)


def mean_interval(values: ArrayLike, rng: np.random.Generator) -> tuple[float, float, float]:
    """Mean of finite values and the ends of its 95 % percentile bootstrap interval; nan for what too few values cannot tell."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if finite.size < 2:
        return (float(finite[0]) if finite.size else math.nan), math.nan, math.nan
    found = stats.bootstrap((finite,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=rng).confidence_interval
    return float(finite.mean()), float(found.low), float(found.high)


def compared(ours: ArrayLike, others: Mapping[str, ArrayLike], rng: np.random.Generator) -> dict[str, Difference]:
    """One method against several others on the same cases, p corrected for their number."""
    found = {name: difference(ours, scores, rng) for name, scores in others.items()}
    corrected = holm([each.p for each in found.values()])
    return {name: replace(each, p=p) for (name, each), p in zip(found.items(), corrected, strict=True)}


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: each p so that comparing it with α keeps the error of all tests together at α.

    A nan (nothing was tested) stays one and does not count.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    tested = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    corrected, highest = list(p_values), 0.0
    for rank, i in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected


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
    distractors: str = ""  # images of other sets that were mixed in, over those of the set

    def __str__(self) -> str:
        share = "one frame prompted" if self.share == "one" else f"{float(self.share):.0%} of the frames prompted"
        hand = "" if self.care == "none" else f", {self.care} hand"
        chosen = "" if self.choice == "random" else ", suggested"
        more = f", {float(self.distractors):.0%} distractors" if self.distractors else ""
        return f"{self.kind}s, {share}{chosen}, {self.prompt}{hand}{more}"


def group_rows(rows: Iterable[Row], protocol: Protocol) -> dict[RowGroup, dict[str, list[Row]]]:
    """Setting → method → rows that are neither skipped nor empty, in the order of the protocol."""
    own = {condition.care: condition.prompt == "own" for condition in protocol.conditions}
    found: dict[RowGroup, dict[str, list[Row]]] = {}
    for row in select_answered(rows):
        prompt = "as given" if own.get(row.care) else row.prompt
        setting = RowGroup(row.kind, row.share, prompt, row.care, row.choice, row.distractors)
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
    found += [*_sections_of_prompts(rows, protocol), *_sections_of_distractors(rows)]
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


@dataclass(frozen=True)
class RoundSummary:
    """All rounds of a structure."""

    dice_auc: float  # area under Dice over the clicks, by trapezoids, a first box left out: 4 is perfect with five clicks
    surface_auc: float  # the same of the surface Dice, which is 0 where Dice is at most `TOO_POOR`
    dice: float  # after the last click
    surface: float  # surface Dice after the last click
    clicks: tuple[int, ...]  # how many until the IoU reached each of `GOOD`; the most there were where it never did
    reached: tuple[bool, ...]  # whether it ever did
    seconds: float  # of all rounds


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


def _sections_of_distractors(rows: Sequence[Row]) -> list[ReportSection]:
    """What images of other sets among those of a set do to these, and how often something was outlined on them."""
    strays = [row for row in rows if row.stray]
    if not strays:
        return []
    shown = [row for row in rows if not row.skipped and not row.stray and math.isfinite(row.volume_error)]
    lines = tuple(
        (
            method,
            share,
            *_compare_distracted([row for row in shown if row.method == method], share),
            *_count_false_finds(row for row in strays if (row.method, row.distractors) == (method, share)),
        )
        for method, share in dict.fromkeys((row.method, row.distractors) for row in strays)
    )
    dice, false = ("images", "Dice without", "Dice among them", "difference", "p"), ("distractors", "false finds", "sure ones")
    heads = ("method", "mixed in", *dice, *false)
    note = (
        "Dice: of images that show the structure and that nobody prompted. False finds: share of the distractors on which "
        f"something was outlined; sure ones: with a predicted IoU of {SURE:g} or more, which a bank with that threshold would "
        "keep. p: of Wilcoxon's signed-rank test, uncorrected."
    )
    table = ReportTable("Images of other sets among those of a set", heads, lines, note)
    return [ReportSection("Distractors", tables=(table, _table_of_lenders(strays)))]


def _compare_distracted(rows: Sequence[Row], share: str) -> tuple[str, ...]:
    """Images, Dice without and with distractors, difference and p, of those that were measured both ways."""
    without, among = (mean_by_case((row for row in rows if row.distractors == s), "dice_propagated") for s in ("", share))
    both = [case for case in among if case in without]
    one, other = [without[case] for case in both], [among[case] for case in both]
    lost = difference(other, one, np.random.default_rng(0))
    return str(len(both)), format_interval(one), format_interval(other), lost.interval, format_number(lost.p)


def _count_false_finds(strays: Iterable[Row]) -> tuple[str, str, str]:
    """Images, and the shares of them with false finds and with sure ones; answers of an image are averaged first."""
    found: dict[Case, list[tuple[bool, bool]]] = {}
    for row in strays:
        sure = any(predicted >= SURE for predicted, _ in row.sure)
        found.setdefault((row.dataset, row.case), []).append((row.dice == 0, sure))
    both = np.array([np.mean(own, axis=0) for own in found.values()])
    return str(len(found)), format_interval(both[:, 0].tolist()), format_interval(both[:, 1].tolist())


def _table_of_lenders(strays: Sequence[Row]) -> ReportTable:
    methods = list(dict.fromkeys(row.method for row in strays))
    groups = group_by(strays, lambda row: "\0".join((row.dataset, row.structure, row.case.partition("/")[0])))
    lines = tuple(
        (
            *key.split("\0"),
            str(len({row.case for row in own})),
            *(format_number(float(np.mean([row.dice == 0 for row in own if row.method == method]))) for method in methods),
        )
        for key, own in groups.items()
    )
    return ReportTable(
        "False finds by where the image is from", ("data set", "structure", "from", "images", *methods), lines, folded=True
    )


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
    for row in rows:
        if row.skipped:
            continue
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
    lines = tuple((other, each.interval, format_number(each.p), str(each.pairs)) for other, each in found.items())
    heads = (f"{first} less", "Dice [95 % interval]", "p (Wilcoxon, Holm)", "cases")
    return [ReportTable(f"{first} against each", heads, lines)]


def _table_of_structures(rows: Sequence[Row], protocol: Protocol) -> ReportTable:
    groups: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for row in select_answered(rows):
        share = row.share if row.choice == "random" else f"{row.share}, suggested"
        share += f", {row.distractors} distractors" if row.distractors else ""
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
        *(
            f"{name} {structure}: {say_count(count, 'answer')}, truth and prediction empty"
            for (name, structure), count in empty.items()
        ),
    ) or ("nothing",)


def group_by(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    """Key → its rows, in order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found

"""What a study hands over: for each protocol tables and figures, and one page that holds all of it and needs nothing else.

At the end the paper's Tables 1 to 3 and Figs. 6 and 7 beside ours; and whether the predicted IoU is to be trusted.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from scipy import stats

from medical_sam2.errors import say_count
from medical_sam2.evaluate.figures import write_figures, write_gallery
from medical_sam2.evaluate.protocols import LADDER, PRESETS
from medical_sam2.evaluate.study import Row, Study, StudyResult, select_answered
from medical_sam2.evaluate.tables import (
    ReportPicture,
    ReportSection,
    ReportTable,
    difference,
    format_interval,
    format_number,
    group_by,
    mean_by_case,
    protocol_sections,
)
from medical_sam2.io.atomic import write_bytes

PAGE, SUMMARY, MEASURED = "report.html", "summary", "Measures"
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 76rem; padding: 1.5rem; }
h1 { font-size: 1.7rem; } h2 { border-top: 1px solid var(--line); margin-top: 2.2rem; padding-top: 1rem; font-size: 1.25rem; }
h3 { font-size: 1.1rem; margin: 1.6rem 0 .4rem; } h4 { font-size: .95rem; margin: 1.2rem 0 .4rem; }
p, li { max-width: 60rem; } .note { font-size: .85rem; opacity: .8; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: right; vertical-align: bottom; }
th[scope=row], th:first-child { text-align: left; min-width: 11rem; } thead th { background: var(--soft); }
tbody tr:hover { background: var(--soft); }
figure { display: inline-block; margin: .8rem 1rem .8rem 0; vertical-align: top; max-width: 100%; }
figure img { max-width: 100%; width: 30rem; background: #fff; } figure.broad img { width: auto; }
figcaption { font-size: .85rem; opacity: .8; } summary { cursor: pointer; font-weight: 600; margin: 1rem 0 .4rem; }
nav a { margin-right: 1rem; } code { font-size: .85em; overflow-wrap: anywhere; } section.protocol { margin-top: 2rem; }
"""

TEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "–": "--", "✓": r"\checkmark{}"}
    | {"−": "$-$", "→": r"$\to$", "∞": r"$\infty$", "±": r"$\pm$", "∩": r"$\cap$", "∪": r"$\cup$", "|": "$|$"}
)
NAMES = {"self-sorting": "MedSAM-2", "fifo": "SAM 2", "dynunet": "nnU-Net", "swin-unetr": "Swin-UNetr"}
"""Ours → what the paper calls a method of that kind; the weights are ours in every row of ours."""
GAPS = {"self-sorting": ("0.020", "0.035"), "fifo": ("0.075", "0.331")}
INFORMATION = "2.54 → 1.43"
THEIRS = (
    "Columns marked “paper” are the paper's own numbers, on its data with its weights; rows that hold only such a number were "
    "not run here. “(as …)” names what the paper calls a method of that kind: all weights here are ours."
)
BINS = 10
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


@dataclass(frozen=True)
class _Part:
    """Sections whose figures lie in one folder."""

    name: str
    folder: Path
    sections: tuple[ReportSection, ...]


def write_report(studies: Sequence[Study], outcomes: Sequence[StudyResult], output: Path, preset: str) -> Path:
    """`tables.md`, `tables.tex` and figures in the folder of each protocol; `summary.md`, `summary.tex` and the page above.

    Figures need matplotlib (the extra `evaluate`); without it there are none.

    Returns:
        The page.
    """
    parts: list[_Part] = []
    for study, outcome in zip(studies, outcomes, strict=True):
        folder = output / study.protocol.name
        sections = protocol_sections(study.protocol, outcome.rows, outcome.skipped)
        sections.insert(-2, ReportSection("Figures", pictures=tuple(_draw_figures(study, outcome, folder))))
        write_bytes(folder / "tables.md", as_markdown(sections).encode())
        write_bytes(folder / "tables.tex", as_latex(sections).encode())
        parts.append(_Part(study.protocol.name, folder, tuple(sections)))
    head = [_summarise(studies, outcomes, preset), *paper_sections(studies, outcomes)]
    write_bytes(output / "summary.md", as_markdown(head).encode())
    write_bytes(output / "summary.tex", as_latex(head).encode())
    page = _build_page([_Part(SUMMARY, output, tuple(head)), *parts])
    write_bytes(output / PAGE, page.encode())
    return output / PAGE


def _draw_figures(study: Study, outcome: StudyResult, folder: Path) -> list[ReportPicture]:
    if find_spec("matplotlib") is None:
        return []
    drawn = [
        ReportPicture(path.stem.replace("-", ", "), path.name) for path in write_figures(study.protocol, outcome.rows, folder)
    ]
    if study.draws:
        drawn += [
            ReportPicture(title, path.name, broad=True) for title, path in write_gallery(study.protocol, outcome.rows, folder)
        ]
    return drawn


def _summarise(studies: Sequence[Study], outcomes: Sequence[StudyResult], preset: str) -> ReportSection:
    # What is missing is listed beside what was measured: a mean says nothing without the cases that it leaves out.
    first, rows = studies[0], [row for outcome in outcomes for row in outcome.rows]
    good = list(select_answered(rows))
    cases = len({(row.dataset, row.case) for row in good})
    network = first.network
    size = f"{network.image_size} px" if network.image_size else "the size of the weights"
    left = {name: what for outcome in outcomes for name, what in outcome.left_out.items()}
    skipped = {case: reason for outcome in outcomes for case, reason in outcome.skipped.items()}
    failed = {case: reason for outcome in outcomes for case, reason in {**outcome.faults, **outcome.failed}.items()}
    text = (
        f"Weights {Path(network.weights).name}, SHA-256 {first.weights_sha256}, input {size}. "
        f"{say_count(len(good), 'row')} of {say_count(cases, 'case')} in "
        f"{say_count(len({row.dataset for row in good}), 'data set')}, "
        f"by {say_count(len({row.method for row in good}), 'method')}.",
        f"Preset {preset}: {PRESETS[preset].about} What it, or the command, left out is listed below, and so is each case that "
        "could not be measured.",
        "A case counts once: its structures and seeds are averaged first. Intervals are percentile bootstraps over cases; "
        "p is of Wilcoxon's signed-rank test with Holm's correction.",
    )
    items = (
        *(f"not measured: {name}: {what}" for name, what in left.items()),
        *(f"skipped: {case}: {reason}" for case, reason in skipped.items()),
        *(f"failed: {case}: {reason}" for case, reason in failed.items()),
    )
    return ReportSection("Evaluation", text, items=items)


def _build_page(parts: Sequence[_Part]) -> str:
    # Measures are the same for all protocols: each has the section in its own tables, and the page has it once.
    body = [f"<nav>{''.join(f'<a href=#{escape(part.name)}>{escape(part.name)}</a>' for part in parts)}</nav>"]
    for part in parts:
        body.append(f'<section class="protocol" id="{escape(part.name)}">')
        for place, section in enumerate(each for each in part.sections if each.title != MEASURED):
            pictures = [_inline_picture(part.folder / picture.file) for picture in section.pictures]
            body.append(section_as_html(section, pictures, 3 if place and part.name != SUMMARY else 2))
        body.append("</section>")
    body += [section_as_html(section, []) for section in parts[-1].sections if section.title == MEASURED]  # once for all
    title = "Evaluation of Medical SAM 2"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body><h1>{title}</h1>\n{''.join(body)}</body></html>\n"
    )


def _inline_picture(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def markdown_row(*cells: str) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def as_markdown(sections: Sequence[ReportSection]) -> str:
    """The first section is the page's; figures lie beside the page."""
    parts: list[str] = []
    for place, section in enumerate(sections):
        parts.append(f"{'#' if not place else '##'} {section.title}\n\n" + "".join(f"{text}\n\n" for text in section.text))
        for table in section.tables:
            parts.append(f"**{table.title}**\n\n{markdown_row(*table.head)}{markdown_row(*['---'] * len(table.head))}")
            parts.append("".join(markdown_row(*row) for row in table.rows) + "\n" + (f"{table.note}\n\n" if table.note else ""))
        parts += [f"![{picture.title}]({picture.file})\n\n" for picture in section.pictures]
        parts.append("".join(f"- {item}\n" for item in section.items) + ("\n" if section.items else ""))
    return "".join(parts).rstrip() + "\n"


def as_latex(sections: Sequence[ReportSection]) -> str:
    """All tables, for `booktabs`; `\\input` it."""
    parts = ["% needs \\usepackage{booktabs,amssymb,graphicx}\n"]
    for section in sections:
        for table in section.tables:
            rows = "".join(map(_row_as_latex, table.rows))
            parts.append(
                f"\n\\begin{{table}}\n\\centering\n\\caption{{{section.title.translate(TEX)}: {table.title.translate(TEX)}}}\n"
                "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n"
                f"\\begin{{tabular}}{{l{'c' * (len(table.head) - 1)}}}\n\\toprule\n{_row_as_latex(table.head)}\\midrule\n{rows}"
                f"\\bottomrule\n\\end{{tabular}}}}\n"
                + (f"\\par\\smallskip\\footnotesize {table.note.translate(TEX)}\n" if table.note else "")
                + "\\end{table}\n"
            )
    return "".join(parts)


def section_as_html(section: ReportSection, pictures: Sequence[str], level: int = 2) -> str:
    """A section with a heading of some level; `pictures` are the sources of its figures, data within the page."""
    parts = [f"<section><h{level}>{escape(section.title)}</h{level}>"]
    parts += [f"<p>{escape(text)}</p>" for text in section.text]
    parts += [_table_as_html(table, level + 1) for table in section.tables]
    for picture, source in zip(section.pictures, pictures, strict=True):
        title, kind = escape(picture.title), ' class="broad"' if picture.broad else ""
        parts.append(f'<figure{kind}><img alt="{title}" src="{source}"><figcaption>{title}</figcaption></figure>')
    if section.items:
        parts.append("<ul>" + "".join(f"<li>{escape(item)}</li>" for item in section.items) + "</ul>")
    return "".join(parts) + "</section>\n"


def _table_as_html(table: ReportTable, level: int) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in table.rows
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    inner = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}'
    if table.folded:
        return f"<details><summary>{escape(table.title)}</summary>{inner}</details>"
    return f"<h{level}>{escape(table.title)}</h{level}>{inner}"


def _row_as_latex(cells: Sequence[str]) -> str:
    return " & ".join(cell.translate(TEX) for cell in cells) + " \\\\\n"


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
                less = f"{each.interval}, p {format_number(each.p)}"
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
        means = (format_number(float(each)) for each in (predicted.mean(), real.mean(), error))
        lines.append((method, str(len(pairs)), *means, alike))
    heads = ("method", "frames", "predicted IoU", "IoU", "calibration error", "rank correlation")
    note = "Calibration error: mean over ten bins of predicted IoU, by frames, of how far its mean lies from the mean IoU."
    title = "is the predicted IoU, which sorts the bank, to be trusted?"
    return [ReportTable(title, heads, tuple(lines), note)] if lines else []

"""What a study hands over: for each protocol tables and figures, and one page that holds all of it and needs nothing else."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path

from medical_sam2.evaluate.figures import write_figures, write_gallery
from medical_sam2.evaluate.paper_tables import paper_sections
from medical_sam2.evaluate.protocols import PRESETS
from medical_sam2.evaluate.study import Study, StudyResult, select_answered
from medical_sam2.evaluate.tables import ReportPicture, ReportSection, ReportTable, protocol_sections
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
    failed = {case: reason for outcome in outcomes for case, reason in outcome.failed.items()}
    text = (
        f"Weights {Path(network.weights).name}, SHA-256 {first.weights_sha256}, input {size}. "
        f"{len(good)} rows of {cases} cases in "
        f"{len({row.dataset for row in good})} data sets, by {len({row.method for row in good})} methods.",
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

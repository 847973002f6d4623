"""What a study hands over: for each protocol tables and figures, and one page that holds all of it and needs nothing else."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path

from medical_sam2.evaluate.presets import PRESETS
from medical_sam2.evaluate.reporting import paper, tables
from medical_sam2.evaluate.reporting.figures import write_figures
from medical_sam2.evaluate.reporting.gallery import write_gallery
from medical_sam2.evaluate.reporting.render import RenderedPicture, Section, html, latex, markdown
from medical_sam2.evaluate.rows import answered
from medical_sam2.evaluate.study import Outcome, Study
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


@dataclass(frozen=True)
class _Part:
    """Sections whose figures lie in one folder."""

    name: str
    folder: Path
    sections: tuple[Section, ...]


def write_report(studies: Sequence[Study], outcomes: Sequence[Outcome], output: Path, preset: str) -> Path:
    """`tables.md`, `tables.tex` and figures in the folder of each protocol; `summary.md`, `summary.tex` and the page above.

    Figures need matplotlib (the extra `evaluate`); without it there are none.

    Returns:
        The page.
    """
    parts: list[_Part] = []
    for study, outcome in zip(studies, outcomes, strict=True):
        folder = output / study.protocol.name
        sections = tables.sections(study.protocol, outcome.rows, outcome.skipped)
        sections.insert(-2, Section("Figures", pictures=tuple(_pictures(study, outcome, folder))))
        write_bytes(folder / "tables.md", markdown(sections).encode())
        write_bytes(folder / "tables.tex", latex(sections).encode())
        parts.append(_Part(study.protocol.name, folder, tuple(sections)))
    head = [_head(studies, outcomes, preset), *paper.sections(studies, outcomes)]
    write_bytes(output / "summary.md", markdown(head).encode())
    write_bytes(output / "summary.tex", latex(head).encode())
    page = _page([_Part(SUMMARY, output, tuple(head)), *parts])
    write_bytes(output / PAGE, page.encode())
    return output / PAGE


def _pictures(study: Study, outcome: Outcome, folder: Path) -> list[RenderedPicture]:
    if find_spec("matplotlib") is None:
        return []
    drawn = [
        RenderedPicture(path.stem.replace("-", ", "), path.name) for path in write_figures(study.protocol, outcome.rows, folder)
    ]
    if study.draws:
        drawn += [
            RenderedPicture(title, path.name, broad=True) for title, path in write_gallery(study.protocol, outcome.rows, folder)
        ]
    return drawn


def _head(studies: Sequence[Study], outcomes: Sequence[Outcome], preset: str) -> Section:
    """What was measured, and what was not."""
    first, rows = studies[0], [row for outcome in outcomes for row in outcome.rows]
    good = list(answered(rows))
    cases = len({(row.dataset, row.case) for row in good})
    network = first.network
    size = f"{network.image_size} px" if network.image_size else "the size of the weights"
    left = {name: told for outcome in outcomes for name, told in outcome.left_out.items()}
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
        *(f"not measured: {name}: {told}" for name, told in left.items()),
        *(f"skipped: {case}: {reason}" for case, reason in skipped.items()),
        *(f"failed: {case}: {reason}" for case, reason in failed.items()),
    )
    return Section("Evaluation", text, items=items)


def _page(parts: Sequence[_Part]) -> str:
    body = [f"<nav>{''.join(f'<a href=#{escape(part.name)}>{escape(part.name)}</a>' for part in parts)}</nav>"]
    for part in parts:
        body.append(f'<section class="protocol" id="{escape(part.name)}">')
        for place, section in enumerate(each for each in part.sections if each.title != MEASURED):
            pictures = [_inlined(part.folder / picture.file) for picture in section.pictures]
            body.append(html(section, pictures, 3 if place and part.name != SUMMARY else 2))
        body.append("</section>")
    body += [html(section, []) for section in parts[-1].sections if section.title == MEASURED]  # alike for all: told once
    title = "Evaluation of Medical SAM 2"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body><h1>{title}</h1>\n{''.join(body)}</body></html>\n"
    )


def _inlined(path: Path) -> str:
    kind = "svg+xml" if path.suffix == ".svg" else path.suffix[1:]
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"

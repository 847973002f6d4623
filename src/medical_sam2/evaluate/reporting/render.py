"""Tables and sections as Markdown, LaTeX and HTML: said once, written three ways."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

TEX = str.maketrans(
    {
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "–": "--",
        "−": "$-$",
        "→": r"$\to$",
        "∞": r"$\infty$",
        "✓": r"\checkmark{}",
        "±": r"$\pm$",
        "∩": r"$\cap$",
        "∪": r"$\cup$",
        "|": r"$|$",
    }
)


@dataclass(frozen=True)
class Table:
    """Words in rows.

    Args:
        title: what it shows.
        head: names of the columns.
        rows: as many words each.
        note: below it.
        folded: whether a page shows its title alone until it is opened.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class RenderedPicture:
    """A figure.

    Args:
        title: what it shows.
        file: its name, of a PNG in the folder of the section.
        broad: whether a page shows it at its full size.
    """

    title: str
    file: str
    broad: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Args:
        title: of it.
        text: paragraphs.
        tables: in order.
        pictures: after the tables.
        items: a list at the end.
    """

    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[RenderedPicture, ...] = ()
    items: tuple[str, ...] = ()


def line(*cells: str) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def markdown(sections: Sequence[Section]) -> str:
    """The first section is the page's; figures lie beside the page."""
    parts: list[str] = []
    for place, section in enumerate(sections):
        parts.append(f"{'#' if not place else '##'} {section.title}\n\n" + "".join(f"{text}\n\n" for text in section.text))
        for table in section.tables:
            parts.append(f"**{table.title}**\n\n{line(*table.head)}{line(*['---'] * len(table.head))}")
            parts.append("".join(line(*row) for row in table.rows) + "\n" + (f"{table.note}\n\n" if table.note else ""))
        parts += [f"![{picture.title}]({picture.file})\n\n" for picture in section.pictures]
        parts.append("".join(f"- {item}\n" for item in section.items) + ("\n" if section.items else ""))
    return "".join(parts).rstrip() + "\n"


def latex(sections: Sequence[Section]) -> str:
    """All tables, for `booktabs`; `\\input` it."""
    parts = ["% needs \\usepackage{booktabs,amssymb,graphicx}\n"]
    for section in sections:
        for table in section.tables:
            rows = "".join(_tex(row) for row in table.rows)
            parts.append(
                f"\n\\begin{{table}}\n\\centering\n\\caption{{{_plain(section.title)}: {_plain(table.title)}}}\n"
                "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n"
                f"\\begin{{tabular}}{{l{'c' * (len(table.head) - 1)}}}\n\\toprule\n{_tex(table.head)}\\midrule\n{rows}"
                f"\\bottomrule\n\\end{{tabular}}}}\n"
                + (f"\\par\\smallskip\\footnotesize {_plain(table.note)}\n" if table.note else "")
                + "\\end{table}\n"
            )
    return "".join(parts)


def html(section: Section, pictures: Sequence[str], level: int = 2) -> str:
    """A section with a heading of some level; `pictures` are the sources of its figures, data within the page."""
    parts = [f"<section><h{level}>{escape(section.title)}</h{level}>"]
    parts += [f"<p>{escape(text)}</p>" for text in section.text]
    parts += [_html(table, level + 1) for table in section.tables]
    for picture, source in zip(section.pictures, pictures, strict=True):
        told, kind = escape(picture.title), ' class="broad"' if picture.broad else ""
        parts.append(f'<figure{kind}><img alt="{told}" src="{source}"><figcaption>{told}</figcaption></figure>')
    if section.items:
        parts.append("<ul>" + "".join(f"<li>{escape(item)}</li>" for item in section.items) + "</ul>")
    return "".join(parts) + "</section>\n"


def _html(table: Table, level: int) -> str:
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


def _tex(cells: Sequence[str]) -> str:
    return " & ".join(_plain(cell) for cell in cells) + " \\\\\n"


def _plain(text: str) -> str:
    return text.translate(TEX)

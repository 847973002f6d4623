"""One table, three forms: nothing in a name can break any of them."""

import re
from html import unescape

from medical_sam2.evaluate.reporting.render import RenderedPicture, Section, Table, html, latex, markdown

WILD = "a|b & 5 % of <x_1>"
SECTION = Section("Title", ("Words.",), (Table(WILD, ("method", "Dice"), ((WILD, "0.5 → 1"),), "note"),), (), ("one", "two"))


def test_markdown() -> None:
    text = markdown([SECTION, Section("Next", pictures=(RenderedPicture("curve", "curve.png"),))])
    assert text.startswith("# Title\n\nWords.\n\n")
    assert "| a\\|b & 5 % of <x_1> | 0.5 → 1 |\n" in text
    assert "## Next\n\n![curve](curve.png)" in text
    assert "- one\n- two\n" in text


def test_latex() -> None:
    text = latex([SECTION])
    assert r"a$|$b \& 5 \% of <x\_1> & 0.5 $\to$ 1 \\" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    assert not re.search(r"(?<!\\)[%&_]", re.sub(r"^%.*|\{%$|resizebox.*| & ", "", text, flags=re.MULTILINE))


def test_html() -> None:
    picture = RenderedPicture("a curve", "curve.png")
    page = html(Section("T", tables=SECTION.tables, pictures=(picture,), items=("<b>",)), ["data:image/png;base64,AA"])
    texts = [unescape(text) for text in re.split(r"<[^>]*>", page) if text.strip()]
    assert texts == ["T", WILD, "method", "Dice", WILD, "0.5 → 1", "note", "a curve", "<b>"]
    assert 'src="data:image/png;base64,AA"' in page
    assert "<details>" in html(Section("T", tables=(Table("x", ("a",), (("b",),), folded=True),)), [])

"""The page: everything in one file, nothing from elsewhere; one table, three forms, and no name can break any of them."""

import re
from html import unescape
from pathlib import Path

import pytest

from medical_sam2.evaluate.protocols import PROTOCOLS, Condition, Protocol
from medical_sam2.evaluate.report import as_latex, as_markdown, section_as_html, write_report
from medical_sam2.evaluate.run import run_studies
from medical_sam2.evaluate.study import NetworkSettings, Study
from medical_sam2.evaluate.tables import ReportPicture, ReportSection, ReportTable
from tests.data.nnunet import blob, picture_set, put, volume_set
from tests.evaluate.studies import use_brightness

WILD = "a|b & 5 % of <x_1>"
SECTION = ReportSection(
    "Title", ("Words.",), (ReportTable(WILD, ("method", "Dice"), ((WILD, "0.5 → 1"),), "note"),), (), ("one", "two")
)


def test_a_page_that_needs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_brightness(monkeypatch)
    data = (volume_set(tmp_path / "Dataset001_Liver", cases=3), picture_set(tmp_path / "Dataset002_Eyes"))
    put(data[0] / "labelsTr" / "case2.nii.gz", blob((24, 20, 8), {}))
    small = Protocol("universal", "Small.", (Condition("mask"),), ("self-sorting", "fifo"))
    one = Protocol("memory", "Small.", PROTOCOLS["memory"].conditions, ("self-sorting",), watch=True)
    studies = [Study(each, data, NetworkSettings(), "0" * 64, cases=2, draws=each is small) for each in (small, one)]
    folders = [tmp_path / "out" / each.protocol.name for each in studies]
    outcomes = run_studies(studies, folders)
    page = write_report(studies, outcomes, tmp_path / "out", "full").read_text()
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]{1,30})', page))
    assert not re.findall(r"(?:href|src|url)\s*[=(]\s*[\"']?(?!#|data:)\w", page)
    assert page.count("<img ") >= 3
    for words in (small.digest, "as Table 1", "paper: BTCV, 12 organs", "not measured: Liver: 1 of 3 volumes"):
        assert words in page
    assert "skipped: Liver case2 liver: the structure is not in this case" in page
    assert "the largest cross-section that nobody prompted" in page
    assert (tmp_path / "out" / "universal" / "examples-volumes.svg").is_file()
    assert (tmp_path / "out" / "universal" / "tables.tex").read_text().count(r"\begin{table}") >= 3
    assert "Beside the paper" in (tmp_path / "out" / "summary.md").read_text()


def test_markdown() -> None:
    text = as_markdown([SECTION, ReportSection("Next", pictures=(ReportPicture("curve", "curve.png"),))])
    assert text.startswith("# Title\n\nWords.\n\n")
    assert "| a\\|b & 5 % of <x_1> | 0.5 → 1 |\n" in text
    assert "## Next\n\n![curve](curve.png)" in text
    assert "- one\n- two\n" in text


def test_latex() -> None:
    text = as_latex([SECTION])
    assert r"a$|$b \& 5 \% of <x\_1> & 0.5 $\to$ 1 \\" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    assert not re.search(r"(?<!\\)[%&_]", re.sub(r"^%.*|\{%$|resizebox.*| & ", "", text, flags=re.MULTILINE))


def test_html() -> None:
    picture = ReportPicture("a curve", "curve.png")
    page = section_as_html(
        ReportSection("T", tables=SECTION.tables, pictures=(picture,), items=("<b>",)), ["data:image/png;base64,AA"]
    )
    texts = [unescape(text) for text in re.split(r"<[^>]*>", page) if text.strip()]
    assert texts == ["T", WILD, "method", "Dice", WILD, "0.5 → 1", "note", "a curve", "<b>"]
    assert 'src="data:image/png;base64,AA"' in page
    assert "<details>" in section_as_html(ReportSection("T", tables=(ReportTable("x", ("a",), (("b",),), folded=True),)), [])

"""Beside the paper: its numbers are marked as its, ours are ours, and a row that was not run says so."""

from pathlib import Path

from medical_sam2.evaluate.protocols import PROTOCOLS
from medical_sam2.evaluate.report import paper_sections
from medical_sam2.evaluate.study import NetworkSettings, Row, Study, StudyResult
from medical_sam2.evaluate.tables import ReportTable


def row(case: str, method: str, dice: float, *, kind: str = "volume", share: str = "0.25", **more: object) -> Row:
    return Row("CT", kind, case, "liver", method, "box", "none", share, 0, dice=dice, **more)  # type: ignore[arg-type]


def tables(**rows: list[Row]) -> dict[str, ReportTable]:
    studies = [Study(PROTOCOLS[name.replace("_", "-")], (Path("x"),), NetworkSettings(), "0" * 64) for name in rows]
    outcomes = [StudyResult(tuple(own), {}, {}, 0) for own in rows.values()]
    return {table.title.split(":")[0]: table for each in paper_sections(studies, outcomes) for table in each.tables}


def test_tables_1_and_2() -> None:
    found = tables(universal=[row("a", "self-sorting", 0.5), row("b", "self-sorting", 0.7), row("a", "copy", 0.2, kind="set")])
    one, two = found["as Table 1"], found["as Table 2"]
    assert one.note.endswith("Volumes: six view(s) but where a row says another.")
    assert one.head == ("method", "CT liver", "mean", "paper: BTCV, 12 organs")
    assert one.rows[0] == ("self-sorting (as MedSAM-2)", "0.600", "0.600", "0.890")
    assert ("SAM 2 (the paper's)", "–", "–", "0.860") in one.rows
    assert not any(line[0].startswith("MedSAM-2") for line in one.rows)
    assert two.rows[0] == ("copy", "0.200", "0.200", "–", "–")
    assert ("MedSAM-2 (the paper's)", "–", "–", "0.768", "0.805") in two.rows


def test_table_3() -> None:
    (table,) = tables(ablation=[row("a", "+ threshold", 0.5)]).values()
    assert table.rows[0] == ("no sorting", "", "", "", "– [–, –]", "– [–, –]", "0.539", "0.835")
    assert table.rows[1] == ("+ threshold", "✓", "", "", "– [–, –]", "0.500 [–, –]", "0.578", "0.862")
    assert [line[1:4].count("✓") for line in table.rows] == [0, 1, 2, 3]


def test_gaps_are_of_the_same_cases() -> None:
    rows = [
        row(case, method, dice, share=share)
        for method, low in (("self-sorting", 0.8), ("fifo", 0.6))
        for case in "abc"
        for share, dice in (("0.05", low), ("0.5", 0.85), ("1", 0.9))
    ]
    rows += [row("d", "fifo", 1.0, share="1"), row("a", "fifo", 0.0, share="0.05", choice="suggest")]
    (table,) = tables(frequency=rows).values()
    assert table.title.endswith("from 100% to 5% of the frames prompted")
    assert table.rows[0][:2] == ("volumes, self-sorting", "0.100 [0.100, 0.100]")
    assert table.rows[1][1] == "0.300 [0.300, 0.300]"
    assert table.rows[1][2].startswith("+0.200 [0.200, 0.200], p 0.25")


def test_information_and_calibration() -> None:
    pairs = tuple((p, min(1.0, p + 0.1)) for p in (0.25, 0.45, 0.65, 0.85))
    rows = [row("a", "self-sorting", 0.5, information=(2.0, 1.5, 1.0), sure=pairs)]
    found = tables(memory=rows, one_prompt=rows)
    assert found["as Fig. 6"].rows == (("self-sorting", "1", "2.000 [–, –]", "1.000 [–, –]", "2.54 → 1.43"),)
    (line,) = found["is the predicted IoU, which sorts the bank, to be trusted?"].rows
    assert line == ("self-sorting", "4", "0.550", "0.650", "0.100", "1.000")
    assert paper_sections([], []) == []

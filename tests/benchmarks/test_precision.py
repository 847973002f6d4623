"""Tables of what bfloat16 costs."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.precision_report import Row, Way, added, known, measured, overall, page

WAY = Way("abc", "one", "mask", "torch")


def row(structure: str, alike: float, *, dataset: str = "Dataset001_A", case: str = "a") -> Row:
    return Row(WAY, dataset, case, structure, alike, 0.8, 0.7, (4.0, 2.0))


def test_the_page_names_the_worst_structure_and_what_was_left_out() -> None:
    rows = [row("liver", 1.0), row("vein", 0.98), row("thin", math.nan), row("spleen", 0.99, dataset="Dataset002_B", case="b")]
    text = page(rows, "abc", ["Dataset003 c: broken"])
    assert "**0.9900** (goal 0.995: **not reached**), least 0.9800:\nDataset001_A a, vein" in text
    assert "| Dataset001_A | 1 | 2 | 0.9900 | 0.9800 | 0.8000 | 0.7000 | 4.0 | 2.0 |" in text
    assert "| all | 2 | 3 | 0.9900 | 0.9800 |" in text
    assert "- failed: Dataset003 c: broken" in text
    assert len(measured(rows)) == 3


def test_a_mean_of_995_reaches_the_goal() -> None:
    assert "0.995: reached" in page([row("liver", 0.9951)], "abc", [])
    assert overall([row("liver", 1.0), row("vein", 0.9)]) == pytest.approx(0.95)


def test_nothing_measured_is_said() -> None:
    assert "Nothing was measured." in page([row("thin", math.nan)], "abc", [])


def test_rows_come_back_from_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "precision.jsonl"
    assert known(path) == []
    added(path, [row("liver", 0.5)])
    added(path, [row("thin", math.nan)])
    first, second = known(path)
    assert first == row("liver", 0.5)
    assert math.isnan(second.alike)


def test_each_way_of_asking_has_its_table_and_other_weights_none() -> None:
    boxed = replace(row("liver", 0.9), way=Way("abc", "three", "box", "openvino"))
    other = replace(row("liver", 0.1), way=Way("def", "one", "mask", "torch"))
    text = page([row("liver", 1.0), boxed, other], "abc", [])
    assert "## From an outline, views one, bf16 by torch" in text
    assert "## From a box, views three, bf16 by openvino" in text
    assert "0.1000" not in text

"""Rows of a study: what is written is read again, a run that was killed leaves whole lines, and tables hold what rows hold."""

import csv
import json
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medical_sam2.errors import FormatError
from medical_sam2.evaluate.protocols import Condition
from medical_sam2.evaluate.study import (
    ATTACHED,
    MEASURES,
    EvaluationJob,
    NetworkSettings,
    Row,
    pack_rows,
    unpack_rows,
    write_rows,
)
from tests.data.nnunet import describe, volume_set
from tests.evaluate.studies import forget_cases, small_study

ROW = Row("CT", "volume", "a", "liver", "fifo", "box", "none", "0.25", 0)
shares = st.integers(0, 1000).map(lambda n: n / 1000)
numbers = st.one_of(shares, st.just(math.inf), st.just(math.nan))
pairs = st.lists(st.tuples(shares, shares), max_size=3).map(tuple)
rows = st.builds(
    replace,
    st.just(ROW),
    case=st.text(min_size=1),
    structure=st.text(),
    dice=numbers,
    hausdorff95=numbers,
    sure=pairs,
    information=st.lists(shares, max_size=3).map(tuple),
)


def lines(path: Path, *found: Row) -> Path:
    path.write_text("".join(pack_rows(row.task, [row]) for row in found), encoding="utf-8")
    return path


@settings(max_examples=25)
@given(rows)
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, row: Row) -> None:
    path = lines(tmp_path_factory.getbasetemp() / "rows.jsonl", row)
    ((task, (read,)),) = unpack_rows(path).items()
    assert task == row.task
    assert repr(read) == repr(row)  # nan is not equal to itself, its words are


def test_a_line_that_was_cut_off_is_asked_again(tmp_path: Path) -> None:
    whole = lines(tmp_path / "rows.jsonl", ROW, replace(ROW, case="b")).read_bytes()
    for cut in (1, 20, 100):
        (tmp_path / "rows.jsonl").write_bytes(whole[:-cut])
        assert list(unpack_rows(tmp_path / "rows.jsonl")) == [ROW.task]


@pytest.mark.parametrize("line", ["no json", '{"task": []}', '{"task": ["a"], "rows": [{"strange": 1}]}', "[]"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = lines(tmp_path / "rows.jsonl", ROW)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(FormatError, match="line 2 is damaged"):
        unpack_rows(path)


def test_both_tables_hold_all_rows(tmp_path: Path) -> None:
    missed, empty = replace(ROW, dice=0.0, hausdorff95=math.inf, seconds=1.5), replace(ROW, case="b", skipped="no label")
    write_rows(tmp_path, [missed, empty])
    with (tmp_path / "rows.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert list(table[0]) == [each.name for each in fields(Row) if each.name not in ATTACHED]
    assert [(row["case"], row["dice"], row["hausdorff95"], row["skipped"]) for row in table] == [
        ("a", "0.0", "inf", ""),
        ("b", "", "", "no label"),
    ]
    written = json.loads((tmp_path / "rows.json").read_text())
    assert written["measures"] == MEASURES
    assert [(row["dice"], row["hausdorff95"]) for row in written["rows"]] == [(0.0, "inf"), (None, None)]
    write_rows(tmp_path, [])
    assert (tmp_path / "rows.csv").read_text().count("\n") == 1


def test_empty_is_neither_skipped_nor_scored() -> None:
    assert ROW.empty
    assert not replace(ROW, dice=0.0).empty
    assert not replace(ROW, skipped="no label").empty


@pytest.mark.parametrize(
    ("named", "asked", "kind"), [("mask", "own", "mask"), ("mask", "click", "click"), (None, "own", "box")]
)
def test_prompts_are_of_the_kind_that_the_data_set_names(tmp_path: Path, named: str | None, asked: str, kind: str) -> None:
    forget_cases()
    folder = volume_set(tmp_path / "Dataset001_Liver", cases=1)
    describe(folder, prompt=named)
    study = small_study((folder,), Condition(asked))  # type: ignore[arg-type]
    job = EvaluationJob(folder, "case0", "liver", "fifo", study.protocol.conditions[0], 0, study.protocol, NetworkSettings())
    assert (job.kind, job.blank.prompt) == (kind, kind)


def test_answers_are_shared_by_what_decides_about_them(tmp_path: Path) -> None:
    forget_cases()
    folder = volume_set(tmp_path / "Dataset001_Liver", cases=1)
    protocol = small_study((folder,)).protocol
    job = EvaluationJob(folder, "case0", "liver", "self-sorting", Condition("mask"), 0, protocol, NetworkSettings())
    alike = replace(job, method="+ resampling", protocol=replace(protocol, name="other", about="Other.", watch=True))
    assert job.answer_key == alike.answer_key
    for other in (
        replace(job, method="fifo"),
        replace(job, seed=1),
        replace(job, structure="spleen"),
        replace(job, condition=Condition("box")),
        replace(job, condition=Condition("mask", choice="suggest")),
        replace(job, protocol=replace(protocol, views="six")),
        replace(job, protocol=replace(protocol, fusion="vote")),
        replace(job, protocol=replace(protocol, tolerance_mm=2.0)),
    ):
        assert job.answer_key != other.answer_key


def test_what_changes_answers_changes_the_description() -> None:
    study = small_study(())
    for other in (
        replace(study, weights_sha256="1" * 64),
        replace(study, images=4),
        replace(study, network=NetworkSettings(image_size=128)),
        replace(study, network=NetworkSettings(precision="bf16")),
        replace(study, protocol=replace(study.protocol, methods=("fifo",))),
    ):
        assert other.described() != study.described()
    for same in (
        replace(study, cases=1, structures=1, draws=True),
        replace(study, network=NetworkSettings("elsewhere", threads=3)),
    ):
        assert same.described() == study.described()

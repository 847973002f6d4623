"""Runs side by side in one folder: cases that another one is at, rows of each other, parts."""

import errno
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from medical_sam2.batch import run
from medical_sam2.batch.run import BatchSettings, segment_cases
from medical_sam2.batch.table import read_table
from medical_sam2.errors import InputError
from tests.batch.test_run import Painter, left, outline, rows_of

ROOT = Path(__file__).parents[2]


def test_two_runs_in_one_folder_take_no_row_from_each_other(folder: Path) -> None:
    """The second one begins while the first is at work, with other cases, and ends after it."""
    table = (folder / "t.csv").read_text()
    first = segment_cases(read_table(folder / "t.csv"), folder / "out", BatchSettings(), segmenter=Painter())  # type: ignore[arg-type]
    next(first)
    (folder / "t.csv").write_text(table.replace("sub-", "other-"))
    second = segment_cases(read_table(folder / "t.csv"), folder / "out", BatchSettings(), segmenter=Painter())  # type: ignore[arg-type]
    next(second)
    assert len([*first]) == 2
    assert len([*second]) == 2
    assert {case for case, _ in rows_of(folder)} == {f"{who}-{n}_T1w" for who in ("sub", "other") for n in range(3)}


def test_tables_of_two_runs_are_written_one_after_the_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one does all of its work while the first is about to write what it knows."""
    first = segment_cases(read_table(folder / "t.csv"), folder / "out", BatchSettings(), segmenter=Painter())  # type: ignore[arg-type]
    assert [next(first).case, next(first).case] == ["sub-0_T1w", "sub-1_T1w"]
    (folder / "t.csv").write_text((folder / "t.csv").read_text().replace("sub-", "other-"))
    second, write_now = threading.Thread(target=outline, args=(folder,)), run.write_tables

    def write_late(*args: Any) -> None:
        if not second.ident:
            second.start()
            second.join(timeout=1)  # it may be waiting for this
        write_now(*args)

    monkeypatch.setattr(run, "write_tables", write_late)
    assert [each.case for each in first] == ["sub-2_T1w"]
    second.join()
    assert {case for case, _ in rows_of(folder)} == {f"{who}-{n}_T1w" for who in ("sub", "other") for n in range(3)}


AT_WORK = """
import sys
from pathlib import Path
from tests.batch.test_run import BatchSettings, Painter, read_table, segment_cases
folder, part = Path(sys.argv[1]), (int(sys.argv[2]), int(sys.argv[3]))
run = segment_cases(read_table(folder / "t.csv"), folder / "out", BatchSettings(), part=part, segmenter=Painter())
print(next(run).case, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("part", "refused"), [((1, 1), True), ((1, 2), True), ((2, 2), False)])
def test_cases_that_another_run_is_at_are_refused(folder: Path, part: tuple[int, int], refused: bool) -> None:
    """A part beside others is not; and who was killed holds nothing."""
    words = [sys.executable, "-c", AT_WORK, str(folder), *map(str, part)]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == f"sub-{part[0] - 1}_T1w\n"
        before = left(folder / "out")
        if refused:
            with pytest.raises(InputError, match=r"another run is at work on sub-\d_T1w here.*wait until it has ended"):
                outline(folder, part=(1, 2), existing="skip")
            assert left(folder / "out") == before
        else:
            assert outline(folder, part=(1, 2), existing="skip") == ["sub-0_T1w", "sub-2_T1w"]
        other.kill()
    again = outline(folder, existing="skip")
    assert f"sub-{part[0] - 1}_T1w" not in again
    assert {case for case, _ in rows_of(folder)} == {f"sub-{n}_T1w" for n in range(3)}


def test_a_disk_without_locks_refuses_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lockf(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", lockf)
    assert len(outline(folder)) == 3


def test_parts_make_the_whole(folder: Path) -> None:
    """Two parts in one folder; who comes afterwards puts their tables together."""
    outline(folder, "whole")
    assert outline(folder, part=(1, 2)) == ["sub-0_T1w", "sub-2_T1w"]
    assert outline(folder, part=(2, 2)) == ["sub-1_T1w"]
    assert not (folder / "out" / "results.csv").exists()
    assert outline(folder, existing="skip") == []
    parts = {name for name in left(folder / "out") if "-of-2" in name}
    assert {name: data for name, data in left(folder / "out").items() if name not in parts} == left(folder / "whole")

"""What commands cost at their start: every command that is measured works, and a failure is no figure."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import startup


def test_every_command_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["startup.py", "--rounds", "1"])
    assert startup.main() == 0
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["`import torch`", "`--help`", "`info`", "`segment`"]
    assert float(rows[3][1]) > float(rows[1][1]) > 0


def test_a_command_that_fails_has_no_figure(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        startup.measure([sys.executable, "-c", "raise SystemExit(3)"], tmp_path)

"""A run keeps to what it was begun with, and does not begin without cases to learn from."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from medical_sam2.cli import experiment_runs, main
from medical_sam2.train.loop import StepReport, TrainingRun
from tests.pools import write_pool
from tests.train.jobs import tiny_network

RECIPE = """
pool = {pool}
seed = 4
workers = {workers}
[[phases]]
steps = 2
frames = 1
clips = 1
objects = 1
size = 64
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Train two steps on two cases."""
    monkeypatch.setattr(experiment_runs, "nano", tiny_network)
    write_pool(tmp_path / "pool", volumes=1, sets=1)
    (tmp_path / "recipe.toml").write_text(RECIPE.format(pool=json.dumps(str(tmp_path / "pool")), workers=0))
    return ["train", str(tmp_path / "recipe.toml"), "-o", str(tmp_path / "run"), "--device", "cpu"]


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_a_resumed_run_refuses_other_settings_by_name(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    before = contents(tmp_path / "run")
    for setting, told in (
        ("seed=9", "seed = 4, not 9"),
        ("rate=1e-2", "rate = 0.0006, not 0.01"),
        ("losses.dice=2", "losses.dice = 1.0, not 2.0"),
        ("phases.0.steps=5", "phases.0.steps = 2, not 5"),
    ):
        capsys.readouterr()
        assert main([*command, "--resume", "--set", setting]) == 2
        said = capsys.readouterr().err
        assert f"{tmp_path / 'run'}: this run was begun with {told}; " in said
        assert "new folder" in said
        assert contents(tmp_path / "run") == before


def test_sigterm_ends_it_with_its_exit_code_and_leaves_what_goes_on(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learn = TrainingRun.learn

    def end(run: TrainingRun, *arguments: Any, **more: Any) -> StepReport:
        os.kill(os.getpid(), signal.SIGTERM)
        return learn(run, *arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingRun, "learn", end)
        assert main(command) == 130
        assert capsys.readouterr().err.splitlines()[-1] == "interrupted"
        assert (tmp_path / "run" / "last.safetensors").is_file()
        assert main([*command, "--resume"]) == 0  # it came at the last step: nothing was left to do
    steps = [json.loads(row)["step"] for row in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2]


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_minutes_in_which_nothing_is_learnt_are_refused(
    minutes: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--max-minutes", minutes]) == 2
    assert f"--max-minutes: {minutes} minutes leave nothing to learn; give more than 0" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_finished_run_says_so_and_nothing_is_written(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    before = contents(tmp_path / "run")
    capsys.readouterr()
    assert main([*command, "--resume", "--set", "save_every=7"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path / 'run'}: this run is finished, all 2 steps of it; nothing was changed"
    ]
    assert contents(tmp_path / "run") == before
    for path in (tmp_path / "run" / "weights").iterdir():
        os.utime(path, (1, 1))  # of an earlier stop: the run was killed before it wrote those of its end
    assert main([*command, "--resume", "--set", "save_every=7"]) == 0
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["save_every"] == 7
    assert all(path.stat().st_mtime > 1 for path in (tmp_path / "run" / "weights").iterdir())


@pytest.mark.parametrize("setting", ["pool=%s", "validation=%s"])
@pytest.mark.parametrize(
    ("name", "told"), [("missing", "there is no such folder of cases"), ("empty", "holds no cases to train on")]
)
def test_without_cases_no_run_is_begun(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, name: str, told: str
) -> None:
    (tmp_path / "empty").mkdir()
    assert main([*command, "--set", "picture_every=1", "--set", setting % (tmp_path / name)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / name}: " in line
    assert told in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_case_is_told_in_its_own_line_wherever_it_is_read(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    for path in (tmp_path / "pool").glob("*.images.npy"):
        path.write_bytes(b"no array")
    assert main([*command, "--set", f"workers={workers}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert ".images.npy: the array is missing or broken; " in line
    assert "worker" not in line

"""Several processes: the same result as one, and an end with a line when one of them dies or falls silent."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from medical_sam2.train.config import Recipe
from medical_sam2.train.loop import load_checkpoint
from tests.train.jobs import longer, start, tiny_recipe

PATIENCE_S = 240
LAST = 99  # a run is saved at its end, whatever its recipe says


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return tiny_recipe(tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module")
def short(recipe: Recipe) -> Recipe:
    """Two steps: the second one stands on the weights, the average and the optimiser of the first."""
    return replace(longer(recipe, 2), save_every=LAST)


@pytest.fixture(scope="module")
def alone(short: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    (job,) = start(short, folder)
    job.join(PATIENCE_S)
    assert job.exitcode == 0, (folder / "0.txt").read_text()
    return folder


@pytest.mark.parametrize("spread", [False, True], ids=["copies", "spread"])
def test_two_processes_equal_one(short: Recipe, alone: Path, tmp_path: Path, spread: bool) -> None:
    jobs = start(replace(short, shard=spread, checkpointing=spread), tmp_path, count=2)
    for rank, job in enumerate(jobs):
        job.join(PATIENCE_S)
        assert job.exitcode == 0, (tmp_path / f"{rank}.txt").read_text()
    (together, _), (single, _) = (load_checkpoint(folder / "last.safetensors") for folder in (tmp_path, alone))
    assert together.keys() == single.keys()
    weights = [name for name in single if name.startswith(("network.", "average."))]
    assert max(float((together[name] - single[name]).abs().max()) for name in weights) < 1e-5
    for ours, theirs in zip(_metrics(tmp_path), _metrics(alone), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["norm"] == pytest.approx(theirs["norm"], rel=1e-5)  # Adam itself does not see the scale of gradients


@pytest.mark.parametrize(("blow", "end"), [(signal.SIGKILL, "has ended"), (signal.SIGSTOP, "has been silent")])
def test_a_process_that_dies_ends_the_job_with_a_line(recipe: Recipe, tmp_path: Path, blow: int, end: str) -> None:
    first, second = start(longer(recipe, 5000), tmp_path, count=2, stalled_s=3)
    _wait_for_a_step(tmp_path)
    struck = time.monotonic()
    os.kill(second.pid or 0, blow)
    first.join(PATIENCE_S)
    assert time.monotonic() - struck < PATIENCE_S
    assert first.exitcode == 3
    assert end in (tmp_path / "0.txt").read_text()
    second.kill()
    second.join()


def _wait_for_a_step(folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not (folder / "last.safetensors").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]

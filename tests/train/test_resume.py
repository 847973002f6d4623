"""A run that is killed at any moment goes on as if it had not been."""

import time
from pathlib import Path

import numpy as np
import torch

from medical_sam2.train.loop import load_checkpoint
from tests.train.jobs import longer, start, tiny_recipe

PATIENCE_S = 240


def test_killed_at_random_moments_it_ends_bit_for_bit_as_if_not(tmp_path: Path) -> None:
    recipe = longer(tiny_recipe(tmp_path / "pool"), 12)
    (whole,) = start(recipe, tmp_path / "whole")
    whole.join(PATIENCE_S)
    assert whole.exitcode == 0
    rng, parts = np.random.default_rng(), tmp_path / "parts"
    for _ in range(4):
        (job,) = start(recipe, parts, resume=True)
        deadline, before = time.monotonic() + PATIENCE_S, _stamp(parts)
        while _stamp(parts) == before and time.monotonic() < deadline and job.is_alive():
            time.sleep(0.005)
        time.sleep(float(rng.uniform(0, 0.3)))  # in the middle of a step, or of writing
        job.kill()
        job.join()
    (last,) = start(recipe, parts, resume=True)
    last.join(PATIENCE_S)
    assert last.exitcode == 0
    (ours, facts), (theirs, expected) = (load_checkpoint(folder / "last.safetensors") for folder in (parts, tmp_path / "whole"))
    assert facts == expected
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    steps = [row.split(",")[0] for row in (parts / "metrics.jsonl").read_text().splitlines()]
    assert steps == [f'{{"step": {step}' for step in range(1, 13)]


def _stamp(folder: Path) -> int:
    path = folder / "last.safetensors"
    return path.stat().st_mtime_ns if path.exists() else 0

"""What a run leaves behind: one row for each step, curves, and pictures that look the same each time."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from medical_sam2.data.cases import PoolReader
from medical_sam2.train.loop import CURVES, METRICS, RunRecords, StepReport
from medical_sam2.train.train_step import TrainStep, Validation
from tests.train.jobs import tiny_network, tiny_recipe


def row(step: int) -> StepReport:
    return StepReport(step, 1.0, float("nan"), 0.5, 0.1, 1e-3, 2.0)


def test_steps_that_are_played_again_have_one_row(tmp_path: Path) -> None:
    with RunRecords(tmp_path, 0) as records:
        for step in (1, 2, 3):
            records.add(row(step))
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    with RunRecords(tmp_path, 2) as records:
        records.add(row(3))
    rows = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [one["step"] for one in rows] == [1, 2, 3]
    assert "dice_first" not in rows[0]  # JSON knows no nan
    assert list((tmp_path / CURVES).iterdir())


def test_validation_judges_the_average_and_leaves_the_weights_alone(tmp_path: Path) -> None:
    recipe = replace(tiny_recipe(tmp_path / "pool"), picture_every=1)
    network = tiny_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    average = {name: torch.zeros_like(value) if value.is_floating_point() else value for name, value in before.items()}
    validation = Validation(recipe, tmp_path, PoolReader(Path(recipe.pool)))
    with_zeros = validation.run(TrainStep(network, recipe), network, average, 1)
    with_weights = validation.run(TrainStep(network, recipe), network, before, 2)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert 0 <= with_weights[0] <= 1
    assert with_zeros[1] is not None
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in pictures] == ["0000001.png", "0000002.png"]
    with Image.open(pictures[0]) as picture:
        assert picture.size == (2 * 130, 4 * 130)

"""The training loop: it goes on bit for bit, teaches every part, and keeps to its recipe."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medical_sam2.errors import FormatError, ResourceError
from medical_sam2.train.config import Phase, Recipe
from medical_sam2.train.loop import StepReport, TrainingRun
from medical_sam2.train.train_step import SimulatedUser
from tests.pools import write_pool
from tests.train.jobs import tiny_network


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    pool = tmp_path_factory.mktemp("pool")
    write_pool(pool, seed=3)
    phases = (Phase(steps=4, frames=2, clips=2, objects=1, size=64),)
    return Recipe(pool=str(pool), phases=phases, warm_up=1, workers=0, save_every=2, corrections=0.5)


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingRun, list[StepReport]]:
    """A run that nobody stopped, and its steps."""
    training = TrainingRun(tiny_network(), recipe, tmp_path_factory.mktemp("whole"))
    return training, list(training.run())


def test_a_run_that_was_stopped_goes_on_bit_for_bit(
    recipe: Recipe, whole: tuple[TrainingRun, list[StepReport]], tmp_path: Path
) -> None:
    unstopped, steps = whole
    assert [done.step for done in steps] == [1, 2, 3, 4]
    stopped = TrainingRun(tiny_network(), recipe, tmp_path / "parts")
    for done in stopped.run():
        if done.step == 2:
            break  # as if killed: what is on disk is the checkpoint of this step
    going_on = TrainingRun(tiny_network(), recipe, tmp_path / "parts")
    assert going_on.resume()
    assert going_on.step == 2
    assert [done.loss for done in going_on.run()] == [done.loss for done in steps[2:]]
    for name, value in unstopped.network.state_dict().items():
        assert torch.equal(value, going_on.network.state_dict()[name]), name
        assert torch.equal(unstopped.average[name], going_on.average[name]), name


def test_steps_change_the_weights_of_every_part(whole: tuple[TrainingRun, list[StepReport]]) -> None:
    before = dict(tiny_network().named_parameters())
    changed = {
        name.split(".")[0] for name, value in whole[0].network.named_parameters() if not torch.equal(value, before[name])
    }
    assert {"vision_encoder", "mask_decoder", "memory_attention", "memory_encoder", "carry", "object_pointer_proj"} <= changed


def test_what_cannot_be_trained_leaves_no_folder(recipe: Recipe, tmp_path: Path) -> None:
    many = replace(recipe, phases=(*recipe.phases, replace(recipe.phases[0], clips=10**9)))
    with pytest.raises(ResourceError, match=r"^phases: the clips of a step need .* at least, .* are free; give fewer clips"):
        TrainingRun(tiny_network(), many, tmp_path / "run")
    elsewhere = replace(recipe, validation=str(tmp_path / "nope"), picture_every=1)
    with pytest.raises(FormatError, match="nope: there is no such folder of cases"):
        TrainingRun(tiny_network(), elsewhere, tmp_path / "run")
    with pytest.raises(FormatError, match="nope: there is no such folder of cases"):
        TrainingRun(tiny_network(), replace(elsewhere, picture_every=0), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_without_checkpoint_starts_from_the_beginning(recipe: Recipe, tmp_path: Path) -> None:
    assert not TrainingRun(tiny_network(), recipe, tmp_path).resume()


def test_a_simulated_user_prompts_the_first_frame_and_corrects_where_it_was_asked_to() -> None:
    truth = np.zeros((3, 16, 16), bool)
    truth[:, 4:12, 4:12] = True
    user = SimulatedUser(truth, "click", frozenset({1}), clicks=1, from_truth=0.0, rng=np.random.default_rng(0))
    first = user(0, None)
    assert first is not None
    assert first.labels.tolist() == [1]
    assert user(0, np.zeros((16, 16), bool)) is None
    assert user(1, None) is None
    correction = user(1, np.zeros((16, 16), bool))
    assert correction is not None
    assert user(1, np.zeros((16, 16), bool)) is None

"""One step of training: activation checkpointing changes nothing, and a share of the clips gives its share of the gradient."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from medical_sam2.data.cases import PoolReader
from medical_sam2.data.clips import ClipSampler
from medical_sam2.model.backbone import Memory
from medical_sam2.model.memory_bank import PolicyBank, SelfSorting
from medical_sam2.train.config import Recipe
from medical_sam2.train.train_step import Batch, StepBatches, StepPlan, TrainStep
from tests.train.jobs import tiny_network, tiny_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return tiny_recipe(tmp_path_factory.mktemp("pool"))


def dealt(recipe: Recipe, rank: int, processes: int) -> Batch:
    return StepBatches(ClipSampler(PoolReader(Path(recipe.pool)), recipe.seed), recipe, rank, processes).make(1)


def gradients(recipe: Recipe, batches: list[Batch]) -> dict[str, torch.Tensor]:
    network = tiny_network()
    step, objects = TrainStep(network, recipe).train(), sum(batch.objects for batch in batches)
    for batch in batches:
        step(batch, objects, sum(len(batch.clips) for batch in batches)).loss.backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def whole(recipe: Recipe) -> dict[str, torch.Tensor]:
    """Gradients of a step."""
    return gradients(recipe, [dealt(recipe, 0, 1)])


def test_shares_of_a_step_add_up_to_the_step(recipe: Recipe, whole: dict[str, torch.Tensor]) -> None:
    parts = gradients(recipe, [dealt(recipe, rank, 2) for rank in range(2)])
    assert whole.keys() == parts.keys()
    assert all(torch.allclose(whole[name], parts[name], atol=1e-5) for name in whole)


def test_computing_again_gives_the_same_gradients(recipe: Recipe, whole: dict[str, torch.Tensor]) -> None:
    again = gradients(replace(recipe, checkpointing=True), [dealt(recipe, 0, 1)])
    assert whole.keys() == again.keys()
    assert all(torch.allclose(whole[name], again[name], atol=1e-5) for name in whole)


def test_frames_of_the_context_fill_the_bank_and_teach_nothing(recipe: Recipe) -> None:
    """The loss is that of the other frames alone, and no gradient passes through the frames in between."""
    phase = replace(recipe.phases[0], frames=2, context=3)
    longer = replace(recipe, phases=(phase,), losses=replace(recipe.losses, consistency=0.0))
    batch = dealt(longer, 0, 1)
    assert batch.clips[0].frames_T3SS.shape[0] == 5
    plan, passed = StepPlan("mask", frozenset(), SelfSorting), list[bool]()

    class Counted(PolicyBank):
        def store(self, memories: Sequence[Memory]) -> None:
            super().store(memories)
            passed.append(memories[0].map_Chw.requires_grad)

    with patch("medical_sam2.train.train_step.PolicyBank", Counted):
        result = TrainStep(tiny_network(), longer)(batch, batch.objects, len(batch.clips), plan=plan)
    assert passed == [True, False, False, False, True]
    assert result.dice[3] <= batch.objects  # of one tracked frame each
    result.loss.backward()


def test_answers_are_learned_that_were_corrected_afterwards(recipe: Recipe) -> None:
    batch, step = dealt(recipe, 0, 1), TrainStep(tiny_network(), recipe)
    plan = StepPlan("click", frozenset(), SelfSorting)
    with torch.no_grad():
        never, once, twice = (
            step(batch, batch.objects, len(batch.clips), plan=replace(plan, corrected=corrected)).loss
            for corrected in (frozenset[int](), frozenset({1}), frozenset({0, 1}))
        )
    assert never < once < twice

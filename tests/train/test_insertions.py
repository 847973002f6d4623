"""LoRA and adapters: only they and the mask decoder learn, a run goes on, and what is written answers alike."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from medical_sam2.cli import main
from medical_sam2.errors import ConfigError
from medical_sam2.model.backbone import Instruction
from medical_sam2.model.image_encoders import insert_trainable, merge_updates
from medical_sam2.model.modules import Hiera, HieraSizes
from medical_sam2.model.sam2 import Sam2
from medical_sam2.model.weights import load_backbone, save_backbone
from medical_sam2.prompts import FramePrompt
from medical_sam2.train.config import Insertion, Phase, Recipe
from medical_sam2.train.loop import TrainingRun, load_average
from tests.data.nnunet import volume_set
from tests.model.conftest import tiny
from tests.pools import write_pool
from tests.train.jobs import tiny_network

KINDS: tuple[Insertion, ...] = ("lora", "adapter")


def small_sam_2() -> Sam2:
    hiera = HieraSizes((1, 1, 2, 1), (8, 16, 32, 64), Hiera(1, (8, 4, 2, 2), (3,)))
    torch.manual_seed(0)
    return Sam2(replace(tiny().config, image_size=64, hiera=hiera)).eval()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    pool = tmp_path_factory.mktemp("pool")
    write_pool(pool, seed=3)
    phases = (Phase(steps=4, frames=2, clips=2, objects=1, size=64),)
    return Recipe(
        pool=str(pool), phases=phases, warm_up=1, workers=0, save_every=2, corrections=0.0, precision="fp32", rate=1e-2, rank=3
    )


def answer(network: Sam2) -> tuple[Tensor, ...]:
    """The deepest map of the image encoder and the logits of a mask, for noise and a box."""
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        seen = network.eval().encode(network.normalised(picture))
        found = network.decode(seen, network.fuse(seen, [[]]), [Instruction(FramePrompt.box(10, 12, 50, 40))])
    return seen.top_BChw, found.logits_Bhw


def alike(one: Sam2, other: Sam2) -> bool:
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(answer(one), answer(other), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_inserted_does_nothing_at_first(kind: Insertion) -> None:
    network = small_sam_2()
    insert_trainable(network, kind, 3)
    assert alike(network, small_sam_2())


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_inserted_and_the_mask_decoder_learn(kind: Insertion, recipe: Recipe, tmp_path: Path) -> None:
    training = TrainingRun(small_sam_2(), replace(recipe, adapter=kind), tmp_path)
    before = {name: value.clone() for name, value in training.network.named_parameters()}
    list(training.run())
    changed = {name for name, value in training.network.named_parameters() if not torch.equal(value, before[name])}
    inserted = {name for name in before if "_adapter." in name or "weight.0." in name}
    assert len(inserted) == {"lora": 2 * 5, "adapter": 8 * 5}[kind]
    assert inserted <= changed
    assert {name for name in changed - inserted if not name.startswith("mask_decoder.")} == set()
    assert changed - inserted


def test_only_the_named_parts_are_trained(recipe: Recipe, tmp_path: Path) -> None:
    network = tiny_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    training = TrainingRun(network, replace(recipe, parts=("memory_attention.", "mask_decoder.transformer.")), tmp_path)
    assert sum(1 for _ in training.run()) > 0
    moved = {name for name, value in network.state_dict().items() if not value.equal(before[name])}
    assert moved
    assert all(name.startswith(("memory_attention.", "mask_decoder.transformer.")) for name in moved)
    with pytest.raises(ConfigError, match=r"no weight of the network begins with 'memory\.'"):
        TrainingRun(tiny_network(), replace(recipe, parts=("memory.",)), tmp_path)
    with pytest.raises(ConfigError, match="an adapter chooses by itself"):
        replace(recipe, parts=("memory_attention.",), adapter="lora")


def test_lora_updates_queries_and_values_by_its_rank(recipe: Recipe, tmp_path: Path) -> None:
    training = TrainingRun(small_sam_2(), replace(recipe, adapter="lora"), tmp_path)
    list(training.run())
    merged, plain = load_average(training).state_dict(), small_sam_2().state_dict()
    assert merged.keys() == plain.keys()
    name = "vision_encoder.backbone.blocks.3.attn.qkv.weight"
    query, key, value = (merged[name] - plain[name]).chunk(3)
    assert (torch.linalg.matrix_rank(query), torch.linalg.matrix_rank(value)) == (3, 3)
    assert not key.any()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_answers_as_what_was_trained(kind: Insertion, recipe: Recipe, tmp_path: Path) -> None:
    training = TrainingRun(small_sam_2(), replace(recipe, adapter=kind), tmp_path / "run")
    list(training.run())
    training.network.load_state_dict(training.average)
    trained = answer(training.network)
    network = load_average(training)
    save_backbone(network, tmp_path / "weights")
    loaded = load_backbone(tmp_path / "weights")
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(trained, answer(loaded), strict=True))
    assert not alike(loaded, small_sam_2())
    assert loaded.config.hiera is not None
    assert loaded.config.hiera.adapters == (3 if kind == "adapter" else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(kind: Insertion, recipe: Recipe, tmp_path: Path) -> None:
    recipe = replace(recipe, adapter=kind)
    whole = TrainingRun(small_sam_2(), recipe, tmp_path / "whole")
    steps = list(whole.run())
    stopped = TrainingRun(small_sam_2(), recipe, tmp_path / "parts")
    for done in stopped.run():
        if done.step == 2:
            break  # as if killed
    going_on = TrainingRun(small_sam_2(), recipe, tmp_path / "parts")
    assert going_on.resume()
    assert [done.loss for done in going_on.run()] == [done.loss for done in steps[2:]]
    assert all(torch.equal(whole.average[name], value) for name, value in going_on.average.items())


def test_adapters_of_weights_are_trained_on(recipe: Recipe, tmp_path: Path) -> None:
    network = small_sam_2()
    insert_trainable(network, "adapter", 3)
    network.state_dict()["vision_encoder.backbone.blocks.0.mlp_adapter.proj_out.bias"].fill_(0.5)
    again = load_backbone_of(network, tmp_path)
    insert_trainable(again, "adapter", 3)
    assert alike(again, network)
    with pytest.raises(ConfigError, match="adapters of these weights have 3 channels, not 4"):
        insert_trainable(again, "adapter", 4)
    insert_trainable(again, "lora", 2)
    merge_updates(again)
    assert alike(again, network)


def load_backbone_of(network: Sam2, folder: Path) -> Sam2:
    save_backbone(network, folder)
    return load_backbone(folder)


def test_finetune_takes_it_as_a_setting(tmp_path: Path) -> None:
    folder, out = volume_set(tmp_path / "data", cases=2), tmp_path / "out"
    save_backbone(small_sam_2(), tmp_path / "start")
    command = ["finetune", str(folder), "-o", str(out), "--weights", str(tmp_path / "start"), "--steps", "1", "--held-out", "1"]
    settings = ("workers=0", "phases.0.frames=2", "phases.0.clips=1", "adapter=lora", "rate=0.01", "warm_up=0")
    command += [word for setting in settings for word in ("--set", setting)]
    assert main([*command, "--prompt", "mask", "--device", "cpu"]) == 0
    after, before = load_backbone(out).state_dict(), small_sam_2().state_dict()
    changed = {name for name, value in before.items() if not torch.equal(after[name], value)}
    assert {name.split(".")[0] for name in changed} == {"vision_encoder", "mask_decoder"}
    assert {name.rpartition("attn.")[2] for name in changed if name.startswith("vision_encoder")} == {"qkv.weight"}


def test_what_cannot_be_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no attention to add to"):
        TrainingRun(tiny_network(), replace(recipe, adapter="lora"), tmp_path)
    with pytest.raises(ConfigError, match="not spread over processes"):
        replace(recipe, adapter="lora", shard=True)
    with pytest.raises(ConfigError, match="rank"):
        replace(recipe, rank=0)

"""Networks trained for a task: they learn from the cases that are not measured, and from nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medical_sam2.errors import ConfigError, PromptError
from medical_sam2.evaluate.methods.interface import MethodInputs, TrainingCases
from medical_sam2.evaluate.methods.trained_networks import Tailored, _find_architecture, _load_examples, dice_and_entropy
from medical_sam2.metrics import dice
from medical_sam2.prompts import FramePrompt
from medical_sam2.segmenter import Segmenter
from tests.backbones import Brightness
from tests.data.nnunet import picture_set, volume_set


def small(size: int) -> nn.Module:
    """A few convolutions."""
    return nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 1, 5, padding=2))


@pytest.fixture
def asked(tmp_path: Path) -> MethodInputs:
    training = TrainingCases(picture_set(tmp_path / "Dataset002_Eyes", cases=4), "disc", ("eye0", "eye1"))
    return MethodInputs(Segmenter(Brightness(32), device="cpu", precision="fp32"), training=training)


def test_it_learns_its_task(asked: MethodInputs) -> None:
    truth = np.zeros((40, 50), bool)
    truth[10:30, 10:34] = True
    image = np.where(truth, 120, 30)[..., None].repeat(3, axis=2).astype(np.uint8)
    method = Tailored(small, steps=40, batch=4, size=32, rate=0.01)
    drawn = np.pad(np.ones((5, 5), bool), ((0, 35), (0, 45)))
    found = method.on_images(asked, [image, image], {1: FramePrompt.mask(drawn)})
    assert dice(truth, found.masks[0]) > 0.8
    np.testing.assert_array_equal(found.masks[1], drawn)
    again = method.on_images(asked, [image], {})
    np.testing.assert_array_equal(again.masks[0], found.masks[0])


def test_it_sees_only_what_it_may(asked: MethodInputs, tmp_path: Path) -> None:
    assert asked.training is not None
    pictures, masks = _load_examples(asked.training, 32)
    assert (pictures.shape, masks.shape, masks.dtype) == ((2, 3, 32, 32), (2, 1, 32, 32), torch.bool)
    slices, _ = _load_examples(TrainingCases(volume_set(tmp_path / "Dataset001_Liver"), "liver", ("case1",)), 32)
    assert slices.shape == (8, 3, 32, 32)
    with pytest.raises(PromptError, match="no other case"):
        Tailored(small).on_images(MethodInputs(asked.segmenter), [np.zeros((8, 8), np.uint8)], {})


@pytest.mark.parametrize("name", ["DynUNet", "UNETR", "SwinUNETR", "TransUNet"])
def test_architectures(name: str) -> None:
    network = _find_architecture(name)(64)
    pictures = torch.rand(2, 3, 64, 64)
    logits = network(pictures)
    assert logits.shape == (2, 1, 64, 64)
    dice_and_entropy(logits, torch.rand(2, 1, 64, 64) > 0.5).backward()
    learning = [p.grad is not None for p in network.parameters()]
    assert sum(learning) > 0.5 * len(learning)


def test_an_unknown_architecture() -> None:
    with pytest.raises(ConfigError, match="DynUNet, UNETR, SwinUNETR"):
        _find_architecture("Net")

"""Baselines: prompted frames teach, others are answered; each from what is nearest."""

import numpy as np
import pytest
import torch

from classical_methods import GEODESIC, Classical
from medical_sam2.errors import PromptError
from medical_sam2.evaluate.cases import VolumeTask
from medical_sam2.evaluate.methods.interface import MethodInputs
from medical_sam2.evaluate.methods.own_network import Prototypical
from medical_sam2.evaluate.methods.trained_networks import SupportSet
from medical_sam2.metrics import dice
from medical_sam2.model.nano import nano
from medical_sam2.prompts import FramePrompt
from medical_sam2.segmenter import Segmenter
from medical_sam2.volume import Volume


@pytest.fixture(scope="module")
def asked() -> MethodInputs:
    torch.manual_seed(0)
    return MethodInputs(Segmenter(nano(64), device="cpu", precision="fp32"))


@pytest.fixture(scope="module")
def task() -> VolumeTask:
    """A bright block that drifts."""
    truth = np.zeros((60, 64, 7), bool)
    for k in range(1, 6):
        truth[10 + k : 34 + k, 12:36, k] = True
    image = np.where(truth, 200, 40) + np.random.default_rng(0).normal(0, 4, truth.shape)
    return VolumeTask(Volume(image.astype(np.float32), np.diag([1.0, 1.0, 4.0, 1.0])), truth)


@pytest.fixture(scope="module")
def outlines(task: VolumeTask) -> dict[int, FramePrompt]:
    return {t: FramePrompt.mask(task.truth_thw[t]) for t in (2, 5)}


@pytest.mark.parametrize(
    ("method", "least"),
    [
        (Prototypical(), 0.5),
        (Prototypical(window=4), 0.5),
        (Classical("copy"), 0.6),
        (Classical("classifier"), 0.8),
        (Classical("random walker"), 0.7),
    ],
)
def test_a_volume(
    method: Prototypical | Classical, least: float, asked: MethodInputs, task: VolumeTask, outlines: dict
) -> None:
    found = method.on_volume(asked, task, outlines)
    assert len(found.masks) == len(task.truth_thw)
    for t, prompt in outlines.items():
        assert dice(prompt.mask_hw, found.masks[t]) > 0.9
    assert dice(task.truth_thw[3], found.masks[3]) > least
    assert not found.sure


@pytest.mark.parametrize("method", [Prototypical(), Prototypical(window=4), Classical("copy"), Classical("classifier")])
def test_a_set(method: Prototypical | Classical, asked: MethodInputs, task: VolumeTask) -> None:
    images = [np.ascontiguousarray(task.volume.array[..., k]) for k in (2, 3, 4)]
    truths = [task.truth_ijk[..., k] for k in (2, 3, 4)]
    found = method.on_images(asked, images, {0: FramePrompt.mask(truths[0])})
    assert [mask.shape for mask in found.masks] == [(60, 64)] * 3
    assert dice(truths[1], found.masks[1]) > 0.5


def test_each_slice_is_copied_from_the_nearest(asked: MethodInputs, task: VolumeTask, outlines: dict) -> None:
    found = Classical("copy").on_volume(asked, task, outlines)
    for t, source in ((0, 2), (3, 2), (4, 5), (6, 5)):
        np.testing.assert_array_equal(found.masks[t], outlines[source].mask_hw)


def test_an_image_is_answered_by_the_template_that_looks_like_it(asked: MethodInputs) -> None:
    rng = np.random.default_rng(0)
    dark, light = np.tile(np.arange(40.0), (40, 1)), np.tile(np.arange(40.0)[::-1], (40, 1))
    masks = [np.pad(np.ones((10, 10), bool), ((5, 25), (5 + 15 * i, 25 - 15 * i))) for i in range(2)]
    images = [dark, light, light + rng.normal(0, 1, light.shape)]
    found = Classical("copy").on_images(asked, images, {i: FramePrompt.mask(masks[i]) for i in range(2)})
    np.testing.assert_array_equal(found.masks[2], masks[1])


def test_what_outlines_volumes_alone_says_so(asked: MethodInputs) -> None:
    with pytest.raises(PromptError, match="volumes alone"):
        GEODESIC.on_images(asked, [np.zeros((9, 9))] * 2, {0: FramePrompt.mask(np.ones((9, 9), bool))})


def test_nothing_to_learn_from_is_told(asked: MethodInputs) -> None:
    everything = FramePrompt.mask(np.ones((20, 20), bool))
    with pytest.raises(PromptError, match="prompt with an outline"):
        Prototypical().on_images(asked, [np.random.default_rng(0).random((20, 20))] * 2, {0: everything})


def test_a_support_set_gets_what_was_outlined(asked: MethodInputs, task: VolumeTask, outlines: dict) -> None:
    shapes: list[tuple[tuple[int, ...], ...]] = []

    def network(target: torch.Tensor, pictures: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        shapes.append((tuple(target.shape), tuple(pictures.shape), tuple(drawn.shape)))
        assert set(drawn.unique().tolist()) == {0.0, 1.0}
        return 20 * (target - (pictures * drawn).sum() / drawn.sum() * 0.6)

    found = SupportSet(network, size=32).on_volume(asked, task, outlines)
    assert set(shapes) == {((1, 1, 32, 32), (1, 2, 1, 32, 32), (1, 2, 1, 32, 32))}
    assert len(shapes) == len(task.truth_thw) - 2
    assert dice(task.truth_thw[3], found.masks[3]) > 0.8

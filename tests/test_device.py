"""All that is made on the way follows the network to its device: the same answers on one that only pretends to be another."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medical_sam2.data.clips import Clip
from medical_sam2.model.sam2 import Sam2
from medical_sam2.prompts import Box, FramePrompt, Mask, Point
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.set_consensus import ANSWER, FEATURES, ConsensusNetwork, SetConsensus
from medical_sam2.train.config import Phase, Recipe
from medical_sam2.train.train_step import Batch, TrainStep
from medical_sam2.views import AXIAL, SAGITTAL
from medical_sam2.volume import Volume
from tests.elsewhere import DEVICE, NAME, Away, elsewhere, sent
from tests.model.conftest import tiny
from tests.train.jobs import tiny_network

Labels = NDArray[np.generic]


def picture() -> NDArray[np.int16]:
    array = (50 * np.random.default_rng(0).normal(size=(10, 12, 5))).astype(np.int16)
    array[2:7, 3:9, 1:4] += 300
    return array


VOLUME = Volume(picture(), np.diag([1.0, 1.0, 1.5, 1.0]), "CT")
PART = Volume(VOLUME.array[2:8, 3:9], VOLUME.affine, "CT")
OUTLINE = np.zeros(VOLUME.shape, bool)
OUTLINE[2:7, 3:9, 2] = True
CLICK, BOX, DRAWN = Point((5, 6, 2)), Box((2, 3, 2), (6, 8, 2)), Mask(OUTLINE)


def images(segmenter: Segmenter) -> Labels:
    pictures = [VOLUME.array[:, :, k].astype(np.float32) for k in (1, 2, 4)]
    found = segmenter.segment_images(pictures, {0: {1: FramePrompt.box(3, 2, 8, 6)}}, order="similar")
    return np.stack([each.labels for each in found])


def images_with_consensus(segmenter: Segmenter) -> Labels:
    network = ConsensusNetwork(len(FEATURES), len(ANSWER)).requires_grad_(False)
    network.change.bias.fill_(0.1)
    segmenter.set_consensus = SetConsensus(network)
    return images(segmenter)


WAYS: dict[str, Callable[[Segmenter], Labels]] = {
    "a click, two views": lambda s: s.segment_volume(PART, [Point((3, 3, 2))], views=[AXIAL, SAGITTAL]).labels,
    "two objects": lambda s: s.segment_volume(VOLUME, [DRAWN, Box((0, 0, 2), (2, 2, 2), 2)]).labels,
    "fifo": lambda s: s.segment_volume(VOLUME, [BOX], bank="fifo").labels,
    "greedy": lambda s: s.segment_volume(VOLUME, [DRAWN], bank="greedy").labels,
    "a correction": lambda s: s.segment_volume(VOLUME, [Point((1, 1, 2), positive=False), CLICK], earlier=OUTLINE * 1).labels,
    "images": images,
    "images, a consensus": images_with_consensus,
}


def network(name: str) -> Sam2:
    return tiny_network() if name == "nano" else tiny()


@pytest.mark.parametrize("name", ["nano", "sam2"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_outlining(name: str, way: str) -> None:
    here = WAYS[way](Segmenter(network(name), device="cpu", precision="fp32"))
    segmenter = Segmenter(network(name), device="cpu", precision="fp32")
    sent(segmenter.network)
    segmenter.device = DEVICE
    with elsewhere():
        there = WAYS[way](segmenter)
    assert (here == there).mean() > 0.98


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["nano", "sam2"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_outlining_on_a_gpu(name: str, way: str) -> None:
    gpu = "cuda" if torch.cuda.is_available() else "mps"
    here, there = (WAYS[way](Segmenter(network(name), device=device, precision="fp32")) for device in ("cpu", gpu))
    assert (here == there).mean() > 0.98


def test_training() -> None:
    torch.manual_seed(1)
    truth = torch.zeros(1, 2, 64, 64, dtype=torch.bool)
    truth[..., 16:40, 16:40] = True
    clip = Clip(torch.rand(2, 3, 64, 64), truth[0].to(torch.uint8), truth)
    recipe = Recipe(phases=(Phase(4, 2, 1, size=64),), precision="fp32", corrections=1.0)

    def loss(step: int, *, there: bool) -> float:
        learner = network("nano")
        if there:
            sent(learner)
        result = TrainStep(learner, recipe)(Batch(step, (0,), [clip]), 1.0, 1.0)
        result.loss.backward()
        assert any(p.grad is not None and p.device.type == (NAME if there else "cpu") for p in learner.parameters())
        return float(result.loss.detach())

    for step in range(3):
        with elsewhere():
            away = loss(step, there=True)
        assert away == pytest.approx(loss(step, there=False), rel=1e-4)


def test_the_pretended_device_refuses_what_a_gpu_refuses() -> None:
    with elsewhere():
        far, near = torch.ones(3, device=DEVICE), torch.ones(3)
        assert isinstance(far, Away)
        assert float((far * 2).sum()) == 6
        assert far[torch.tensor([0, 2])].shape == (2,)
        assert (far + torch.tensor(1.0)).cpu().tolist() == [2, 2, 2]
        for mixed in (lambda: far + near, lambda: torch.cat([far, near]), lambda: near[far.long()] + near):
            with pytest.raises(RuntimeError, match="of the processor"):
                mixed()
        with pytest.raises((RuntimeError, TypeError)):
            far.numpy()

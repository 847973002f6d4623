"""A backbone of one's own: the four verbs, no torch module, nothing of SAM 2, in volumes and in sets of images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medical_sam2.errors import ConfigError
from medical_sam2.model.backbone import Backbone, Features, FramePrediction, Fused, Instruction, Memory, Recall
from medical_sam2.prompts import Box, FramePrompt, Point
from medical_sam2.segmenter import Segmenter
from medical_sam2.volume import Volume


class Threshold:
    """Outlines what is bright, wherever; what was prompted before tells whether there is an object at all."""

    image_size = 32

    def encode(self, frames_N3SS: Tensor) -> Features:
        grey = frames_N3SS[:, :1]
        assert grey.min() >= 0
        assert grey.max() <= 1
        return Features(grey, (grey, grey), grey.mean((2, 3)), {"bright": grey > 0.5})

    def fuse(self, frame: Features, recall: Recall) -> Fused:
        brightest = [max((float(r.memory.own["brightest"]) for r in memories), default=0.0) for memories in recall]
        return Fused(torch.tensor(brightest)[:, None, None, None], {"brightest": torch.tensor(brightest)})

    def decode(self, frame: Features, fused: Fused, instructions: Sequence[Instruction | None]) -> FramePrediction:
        there = torch.tensor([one is not None or float(fused.own["brightest"][b]) > 0 for b, one in enumerate(instructions)])
        logits = (frame.own["bright"][:, 0] & there[:, None, None]).float() * 20 - 10
        sure = torch.full((len(instructions),), 0.9)
        return FramePrediction(logits, sure, there.float() * 2 - 1, sure[:, None], logits[:, None], sure[:, None])

    def memorise(self, frame: Features, prediction: FramePrediction, t: int, prompted: Sequence[bool]) -> list[Memory]:
        sure, own = prediction.confidence_B.tolist(), {"brightest": frame.top_BChw.max()}
        rows = zip(prompted, prediction.pointer_BC, sure, strict=True)
        return [Memory(t, said, frame.top_BChw[0], pointer, frame.summary_BC[0], c, own) for said, pointer, c in rows]


def ball() -> Volume:
    i, j, k = np.indices((24, 28, 10))
    return Volume(((i - 11) ** 2 + (j - 14) ** 2 + (2 * (k - 5)) ** 2 < 49).astype(np.float32), np.diag([1.0, 1.0, 2.0, 1.0]))


@pytest.fixture
def segmenter() -> Segmenter:
    backbone: Backbone = Threshold()
    return Segmenter(backbone, device="cpu", precision="fp32")


@pytest.mark.parametrize("views", ["one", "six"])
def test_a_volume(segmenter: Segmenter, views: str) -> None:
    volume = ball()
    found = segmenter.segment_volume(volume, [Point((11, 14, 5))], views=views, window="0,1")
    both = (found.labels > 0) & (volume.array > 0)
    assert 2 * both.sum() / ((found.labels > 0).sum() + volume.array.sum()) > 0.8
    mended = segmenter.segment_volume(volume, [Box((4, 7, 6), (18, 21, 6))], earlier=found.labels, window="0,1")
    assert mended.labels.any()


def test_a_set_of_images(segmenter: Segmenter) -> None:
    stack = ball().array.transpose(2, 0, 1)[3:8]
    found = list(segmenter.segment_images(list(stack), {2: {1: FramePrompt.click(14, 11)}}, window="0,1"))
    assert sorted(each.index for each in found) == [0, 1, 2, 3, 4]
    assert all(each.labels[11, 14] == 1 and each.labels[0, 0] == 0 for each in found)


def test_what_only_other_networks_can_is_refused(segmenter: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="features are kept for networks of torch alone"):
        segmenter.segment_volume(ball(), [Point((11, 14, 5))], features=tmp_path)
    with pytest.raises(ConfigError, match="OpenVINO compiles the encoder of a SAM 2 alone"):
        Segmenter(Threshold(), device="cpu", engine="openvino")

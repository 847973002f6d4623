"""A picture is encoded once, whoever asks; another one, or the same in colour, is another."""

import torch

from medical_sam2.remembering import Remembering, content
from tests.backbones import Brightness


def test_a_picture_is_encoded_once() -> None:
    network = Brightness(16)
    segmenter = Remembering(network, device="cpu", precision="fp32")  # type: ignore[arg-type]
    grey = torch.rand(1, 16, 16)
    first = segmenter.encode(grey.expand(3, -1, -1))
    assert segmenter.encode(grey.clone().expand(3, -1, -1)) is first
    assert len(network.counts.encoded) == 1
    assert segmenter.encode(torch.rand(3, 16, 16)) is not first
    assert len(network.counts.encoded) == 2


def test_grey_is_told_from_colour() -> None:
    plane = torch.rand(1, 8, 8)
    colour = torch.cat([plane, torch.zeros(2, 8, 8)])
    assert content(plane.expand(3, -1, -1)) != content(colour)
    assert content(colour) == content(colour.clone())

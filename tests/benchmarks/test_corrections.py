"""Further clicks on a phantom that a network outlines by its brightness."""

import argparse

from benchmarks.corrections import page, scores
from medical_sam2.evaluate.cases import VolumeTask
from tests.phantoms import phantom, segmenter


def test_dice_after_each_click() -> None:
    case = phantom()
    found = scores(segmenter(), VolumeTask(case.volume, case.truth == 1), 2)
    assert len(found) == 3
    assert found[0] > 0.9
    assert min(found) >= found[0] - 1e-9
    text = page([[0.5, 0.75], [0.5, 0.25]], argparse.Namespace(cases=1, image_size=64, unrestricted=True, only=["A"]))
    assert "| 1 | 0.500 |  |" in text
    assert "| 2 | 0.500 | +0.000 [" in text
    assert "--unrestricted --only A`" in text

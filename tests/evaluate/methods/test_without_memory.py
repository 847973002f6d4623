"""Prompting without memory: neither the other frames nor their order change an answer."""

import numpy as np
import torch

from medical_sam2.evaluate.methods.without_memory import one_by_one
from medical_sam2.model.nano import nano
from medical_sam2.prompts import FramePrompt
from medical_sam2.segmenter import Segmenter


def test_frames_do_not_tell_of_each_other() -> None:
    torch.manual_seed(0)
    segmenter = Segmenter(nano(64), device="cpu", precision="fp32")
    frames = list(np.random.default_rng(0).random((3, 40, 48)))
    prompts = {2: FramePrompt.box(5, 5, 30, 30), 0: FramePrompt.click(20, 20)}
    together = one_by_one(segmenter, frames, prompts)
    assert together.keys() == {0, 2}
    for t, prompt in prompts.items():
        alone = one_by_one(segmenter, [frames[t]], {0: prompt})[0]
        assert alone.shape == (40, 48)
        np.testing.assert_array_equal(together[t], alone)
    drawn = np.pad(np.ones((10, 12), bool), ((5, 25), (6, 30)))
    np.testing.assert_array_equal(one_by_one(segmenter, frames, {1: FramePrompt.mask(drawn)})[1], drawn)

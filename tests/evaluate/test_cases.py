"""Tasks of one prompt: the prompt lies where it is said to, whatever the orientation, and the prompted slice is not scored."""

import numpy as np
import pytest
from numpy.typing import NDArray

from medical_sam2.errors import PromptError
from medical_sam2.evaluate.cases import KINDS, SetTask, VolumeTask, draw_prompt
from medical_sam2.prompts import Box, Mask, Point
from medical_sam2.volume import Volume

RNG = np.random.default_rng(0)
AFFINES = [
    np.diag([1.0, 1, 3, 1]),
    np.diag([-1.0, -1, 3, 1]),
    np.array([[0, 0, -3.0, 9], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]),
]


def truth() -> NDArray[np.bool_]:
    """Largest on slice 4 of the last axis."""
    found = np.zeros((30, 32, 9), bool)
    for k in range(2, 8):
        half = 5 - abs(k - 4)
        found[10 - half : 11 + half, 14 - half : 17 + half, k] = True
    return found


@pytest.mark.parametrize("affine", AFFINES, ids=["RAS", "LPS", "turned"])
def test_prompts_of_a_volume(affine: NDArray[np.float64]) -> None:
    task = VolumeTask(Volume(np.zeros((30, 32, 9)), affine), truth())
    mask, box, click = (task.prompt(kind, RNG) for kind in KINDS)
    assert isinstance(mask, Mask)
    assert isinstance(box, Box)
    assert isinstance(click, Point)
    np.testing.assert_array_equal(mask.array_ijk[..., 4], truth()[..., 4])
    assert not np.delete(mask.array_ijk, 4, axis=2).any()
    assert (box.low_ijk, box.high_ijk) == ((5, 9, 4), (15, 21, 4))
    assert click.index_ijk[0] == 10
    assert click.index_ijk[1] in {14, 15, 16}
    assert click.index_ijk[2] == 4
    on_frame = task.frame_prompt(mask).mask_hw
    np.testing.assert_array_equal(on_frame, task.truth_thw[task.start])
    corners = task.frame_prompt(box).box_xyxy
    np.testing.assert_array_equal(corners, draw_prompt(task.truth_thw[task.start], "box", RNG).box_xyxy)


def test_the_prompted_slice_is_not_scored() -> None:
    task = VolumeTask(Volume(np.zeros((30, 32, 9)), AFFINES[0]), truth())
    found = task.truth_thw.copy()
    found[task.start] = False
    assert task.score(found) == 1.0
    found[task.start + 1] = False
    assert task.score(found) < 1.0


def test_a_set() -> None:
    truths = [np.pad(np.ones((4, 3), bool), 3), np.zeros((10, 9), bool), np.pad(np.ones((4, 3), bool), 3)]
    task = SetTask([np.zeros(each.shape) for each in truths], truths, 0)
    scores = task.scores({0: truths[1], 1: truths[1], 2: truths[2]})
    assert scores.keys() == {1, 2}
    assert np.isnan(scores[1])
    assert scores[2] == 1.0
    np.testing.assert_array_equal(task.prompt("box", RNG).box_xyxy, [3, 3, 5, 6])


def test_what_cannot_be_prompted_is_refused() -> None:
    volume, flat, thin = Volume(np.zeros((30, 32, 9)), AFFINES[0]), np.zeros((30, 32, 9), bool), np.zeros((30, 32, 9), bool)
    flat[5:9, 5:9, 3] = True
    thin[5, 4:9] = True
    with pytest.raises(PromptError, match="fewer than two"):
        VolumeTask(volume, flat)
    with pytest.raises(PromptError, match="single row"):
        VolumeTask(volume, thin)
    with pytest.raises(PromptError, match="not on the prompted"):
        SetTask([np.zeros((4, 4))], [np.zeros((4, 4), bool)], 0)
    with pytest.raises(PromptError, match="nothing to click"):
        draw_prompt(np.zeros((4, 4), bool), "click", RNG)

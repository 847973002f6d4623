"""Which slices the benchmark of prompted slices prompts, and what it shows of thick slices."""

import numpy as np
import pytest

from benchmarks.prompted_slices import PROMPTED, slices_of, thicken
from medical_sam2.errors import PromptError
from medical_sam2.evaluate.cases import VolumeTask
from medical_sam2.views import AXIAL
from medical_sam2.volume import Volume


def test_the_slices_that_are_prompted_lie_within_the_structure() -> None:
    truth = np.zeros((20, 9, 9), bool)
    truth[4:13, 2:7, 2:7] = True
    truth[6, 1:8, 1:8] = True
    chosen = slices_of(truth)
    assert tuple(chosen) == PROMPTED
    assert dict(chosen) == {
        "first": [4],
        "last": [12],
        "middle": [8],
        "largest": [6],
        "first and last": [4, 12],
        "quarters": [6, 10],
        "first, middle and last": [4, 8, 12],
    }
    truth[7:] = False
    with pytest.raises(PromptError, match="fewer than 7 slices"):
        slices_of(truth)


def test_every_third_slice_alone_lies_where_it_lay() -> None:
    array = np.arange(12 * 10 * 30, dtype=np.int16).reshape(12, 10, 30)
    task = VolumeTask(Volume(array, np.diag([-1.0, -1.0, 2.0, 1.0])), array % 7 == 0)
    assert task.view in (AXIAL, AXIAL.reversed)
    thick = thicken(task, 3)
    assert (thick.volume.array == array[:, :, ::3]).all()
    assert thick.volume.spacing_mm == (1.0, 1.0, 6.0)
    for k in range(10):
        np.testing.assert_allclose(thick.volume.affine @ [1, 2, k, 1], task.volume.affine @ [1, 2, 3 * k, 1])
    assert (thick.view.invert(thick.truth_thw, thick.volume.orientation) == (array % 7 == 0)[:, :, ::3]).all()
    assert thicken(task, 1) is task

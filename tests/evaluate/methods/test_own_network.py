"""The network as a method: mutual information equal to what is known of Gaussians; without memory no frame tells of another."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from medical_sam2.errors import GeometryError
from medical_sam2.evaluate.cases import VolumeTask
from medical_sam2.evaluate.methods import METHODS
from medical_sam2.evaluate.methods.interface import MethodInputs
from medical_sam2.evaluate.methods.own_network import (
    TrackingMethod,
    WithoutMemory,
    mean_bank_information,
    mutual_information,
    segment_one_by_one,
)
from medical_sam2.model.memory_bank import Fifo
from medical_sam2.model.nano import nano
from medical_sam2.prompts import FramePrompt
from medical_sam2.segmenter import Segmenter
from medical_sam2.volume import Segmentation, Volume
from tests.backbones import Brightness


def gaussians(covariance: list[list[float]], count: int = 20_000) -> np.ndarray:
    return np.random.default_rng(0).multivariate_normal(np.zeros(len(covariance)), covariance, count)


@pytest.mark.parametrize("rho", [0.0, 0.3, -0.6, 0.95])
def test_two_gaussians(rho: float) -> None:
    x, y = gaussians([[1, rho], [rho, 1]]).T
    assert mutual_information(x, y) == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.015)
    assert mutual_information(x, y) == pytest.approx(mutual_information(y, x))


def test_monotone_functions_change_nothing() -> None:
    x, y = gaussians([[1, 0.7], [0.7, 1]], 2000).T
    assert mutual_information(np.exp(x), y**3) == pytest.approx(mutual_information(x, y), abs=1e-12)


def test_several_variables_together() -> None:
    """x1 tells of y1, x2 of y2, independently: what they tell adds up."""
    covariance = np.eye(4)
    covariance[0, 2] = covariance[2, 0] = 0.5
    covariance[1, 3] = covariance[3, 1] = 0.8
    samples = gaussians(covariance.tolist())
    expected = -0.5 * (math.log(1 - 0.25) + math.log(1 - 0.64))
    assert mutual_information(samples[:, :2], samples[:, 2:]) == pytest.approx(expected, abs=0.02)


def test_a_copy_tells_everything() -> None:
    x = gaussians([[1]], 500)[:, 0]
    assert mutual_information(x, x) > 10


def test_a_bank() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(8, 16, 16))
    alike = [0.8**0.5 * base + 0.2**0.5 * rng.normal(size=base.shape) for _ in range(3)]  # correlated by 0.8
    apart = [rng.normal(size=base.shape) for _ in range(3)]
    assert mean_bank_information(alike) == pytest.approx(-0.5 * math.log(1 - 0.64), abs=0.04)
    assert mean_bank_information(apart) < 0.01
    assert math.isnan(mean_bank_information(alike[:1]))


def test_samples_that_do_not_pair_are_refused() -> None:
    with pytest.raises(GeometryError, match="do not pair"):
        mutual_information(np.zeros(5), np.zeros(6))
    with pytest.raises(GeometryError, match="too few"):
        mutual_information(np.zeros((5, 2)), np.zeros((5, 2)))


def test_frames_do_not_tell_of_each_other() -> None:
    torch.manual_seed(0)
    segmenter = Segmenter(nano(64), device="cpu", precision="fp32")
    frames = list(np.random.default_rng(0).random((3, 40, 48)))
    prompts = {2: FramePrompt.box(5, 5, 30, 30), 0: FramePrompt.click(20, 20)}
    together = segment_one_by_one(segmenter, frames, prompts)
    assert together.keys() == {0, 2}
    for t, prompt in prompts.items():
        alone = segment_one_by_one(segmenter, [frames[t]], {0: prompt})[0]
        assert alone.shape == (40, 48)
        np.testing.assert_array_equal(together[t], alone)
    drawn = np.pad(np.ones((10, 12), bool), ((5, 25), (6, 30)))
    np.testing.assert_array_equal(segment_one_by_one(segmenter, frames, {1: FramePrompt.mask(drawn)})[1], drawn)


@pytest.fixture
def inputs() -> MethodInputs:
    return MethodInputs(Segmenter(Brightness(32), device="cpu", precision="fp32"), order=(2, 1, 0, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize("directions", [(1, 1, 1), (-1, -1, -1)], ids=["RAS", "LPI"])
def test_answers_lie_on_the_slices_of_the_view(inputs: MethodInputs, directions: tuple[int, int, int]) -> None:
    """Whatever way the file runs: masks and confidences are numbered as the slices that were prompted."""
    truth = np.zeros((20, 24, 9), bool)
    truth[5:15, 6:18, 1:6] = True
    image = np.where(truth, 200, 20).astype(np.float32)
    task = VolumeTask(Volume(image, np.diag([*(d * s for d, s in zip(directions, (1, 1, 3), strict=True)), 1.0])), truth)
    t = task.start
    found = TrackingMethod(Fifo).on_volume(inputs, task, {t: FramePrompt.mask(task.truth_thw[t])})
    shown = [bool(mask.any()) for mask in found.masks]
    assert shown == task.truth_thw.any((1, 2)).tolist()
    assert t not in found.sure
    neighbours = {s for s in found.sure if found.masks[s].any()}
    assert neighbours == set(np.flatnonzero(task.truth_thw.any((1, 2))).tolist()) - {t}
    assert min(found.sure[s] for s in neighbours) == pytest.approx(0.9, abs=0.01)


def test_views_of_a_method_come_before_those_of_the_protocol(inputs: MethodInputs, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = np.zeros((8, 8, 6), bool)
    truth[2:6, 2:6, 1:5] = True
    task = VolumeTask(Volume(np.where(truth, 200, 20).astype(np.float32), np.eye(4)), truth)
    seen: list[object] = []

    def tracked(_: Segmenter, volume: Volume, __: object, **how: object) -> Segmentation:
        seen.append(how["views"])
        return Segmentation(np.zeros(volume.shape, np.uint8), volume.affine)

    monkeypatch.setattr(Segmenter, "segment_volume", tracked)
    for name in ("self-sorting", "one view", "six views"):
        METHODS[name].on_volume(replace(inputs, views="three"), task, {task.start: FramePrompt.mask(truth[:, :, 3])})
    assert seen == ["three", "one", "six"]


def test_without_memory_only_prompted_frames_are_answered(inputs: MethodInputs) -> None:
    images = [np.where(np.indices((20, 24))[1] < 9 + n, 200, 20).astype(np.uint8) for n in range(4)]
    prompts = {1: FramePrompt.mask(images[1] > 100)}
    alone = WithoutMemory().on_images(inputs, images, prompts)
    assert [bool(mask.any()) for mask in alone.masks] == [False, True, False, False]
    tracked = TrackingMethod(Fifo).on_images(inputs, images, prompts)
    assert all(mask.any() for mask in tracked.masks)
    assert sorted(tracked.sure) == [0, 2, 3]


def test_the_bank_is_watched_without_changing_an_answer(inputs: MethodInputs) -> None:
    images = [np.random.default_rng(n).integers(0, 255, (20, 24)).astype(np.uint8) for n in range(4)]
    prompts = {0: FramePrompt.mask(np.pad(np.ones((8, 8), bool), ((4, 8), (4, 12))))}
    plain = TrackingMethod(Fifo).on_images(inputs, images, prompts)
    watched = TrackingMethod(Fifo).on_images(replace(inputs, watch=True), images, prompts)
    assert not plain.information
    assert len(watched.information) == 2, "frames that see two memories or more"
    for one, other in zip(plain.masks, watched.masks, strict=True):
        np.testing.assert_array_equal(one, other)

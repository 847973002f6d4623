"""Adaptation to the prompt: it learns what was outlined, and leaves no trace."""

import numpy as np
import pytest
import torch

from medical_sam2.intensity_window import percentile_window
from medical_sam2.model.nano import Nano, nano
from medical_sam2.prompts import Mask, Point
from medical_sam2.tracking.frames import to_input
from medical_sam2.train.adapt import KEPT, OutlinedFrame, adapt_network, examples_of_volume
from medical_sam2.volume import Volume


@pytest.fixture(scope="module")
def network() -> Nano:
    torch.manual_seed(0)
    return nano(64).eval()


def scene() -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros((80, 70), bool)
    mask[20:44, 15:40] = True
    return np.where(mask, 0.8, 0.3) + np.random.default_rng(0).normal(scale=0.02, size=mask.shape), mask


def outlined(picture: np.ndarray, mask: np.ndarray) -> OutlinedFrame:
    inside = to_input(mask.astype(np.float32), 64)[:1].numpy() > 0.5
    return OutlinedFrame(to_input(percentile_window(picture).apply(picture), 64), inside)


def state(network: Nano) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def test_weights_change_inside_and_are_back_outside(network: Nano) -> None:
    picture, mask = scene()
    example = outlined(picture, mask)
    before = state(network)
    with adapt_network(network, [example], steps=2, seconds=100) as taken:
        assert taken == 2
        assert not network.training
        changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
        assert any(name.startswith("mend.") for name in changed)
        assert not any(name.startswith(("vision_encoder.", *KEPT)) for name in changed)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(value.requires_grad for value in network.parameters())


def test_it_learns_and_the_seed_decides(network: Nano) -> None:
    picture, mask = scene()
    example = outlined(picture, mask)

    def after(steps: int, seed: int) -> dict[str, torch.Tensor]:
        with adapt_network(network, [example], steps=steps, seconds=100, seed=seed):
            return state(network)

    one, same, other = after(1, 0), after(1, 0), after(1, 1)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_an_error_inside_leaves_no_trace_either(network: Nano) -> None:
    picture, mask = scene()
    example = outlined(picture, mask)
    before = state(network)
    with pytest.raises(KeyError), adapt_network(network, [example], steps=1, seconds=100):
        raise KeyError
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_slices_that_were_outlined_are_examples_in_their_regions(network: Nano) -> None:
    picture, mask = scene()
    stack = np.repeat(picture[..., None], 5, 2)
    drawn = np.zeros(stack.shape, bool)
    drawn[:, :, 2] = mask
    volume = Volume(stack.astype(np.float32), np.diag([1.0, 1.0, 4.0, 1.0]))
    examples = examples_of_volume(network, volume, [Mask(drawn, object=3, axis=2), Point((60, 60, 1), object=4)])
    assert [example.masks_OSS.shape for example in examples] == [(1, 64, 64)]
    assert 0.15 < examples[0].masks_OSS.mean() < 0.35  # a square of half the side of its region
    assert examples_of_volume(network, volume, [Point((30, 30, 1))]) == []


def test_without_an_outline_nothing_is_tuned(network: Nano) -> None:
    before = state(network)
    with adapt_network(network, []) as taken:
        assert taken == 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

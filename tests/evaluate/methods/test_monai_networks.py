"""TransUNet and diffusion of masks: all parts learn, sampling ends at what the noise was taken from, many masks become one."""

import numpy as np
import pytest
import SimpleITK
import torch
from torch import Tensor, nn

from medical_sam2.evaluate.methods import METHODS
from medical_sam2.evaluate.methods.trained_networks import (
    Condition,
    FrequencyFilter,
    MaskDiffusion,
    Tailored,
    TransUNet,
    _find_architecture,
    _measure_loss,
    dice_and_entropy,
    fuse_by_staple,
)

SIDE = 32
CONDITIONS: tuple[Condition, ...] = ("sum", "channels", "filtered")


class Oracle(nn.Module):
    """The noise in a mask that shows what is bright in the picture: what a network that learnt everything would tell."""

    def __init__(self, network: MaskDiffusion) -> None:
        super().__init__()
        self.left_N = network.noising.alphas_cumprod

    def forward(self, seen_N4SS: Tensor, times_N: Tensor) -> Tensor:
        picture, noisy = seen_N4SS[:, :3], seen_N4SS[:, 3:]
        left = self.left_N[times_N][:, None, None, None]
        return (noisy - left.sqrt() * (2 * bright(picture).float() - 1)) / (1 - left).sqrt()


def bright(pictures_N3SS: Tensor) -> Tensor:
    return pictures_N3SS.mean(dim=1, keepdim=True) > 0.5


@pytest.fixture
def pictures() -> Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("staple", [False, True])
def test_sampling_ends_at_the_mask_that_the_noise_was_taken_from(pictures: Tensor, staple: bool) -> None:
    network = MaskDiffusion(SIDE, "channels", staple=staple, samples=3, steps=5)
    network.denoiser = Oracle(network)  # type: ignore[assignment]
    truth = bright(pictures)
    assert float(_measure_loss(network, pictures, truth)) < 1e-6 < float(_measure_loss(network, pictures, ~truth))
    with torch.inference_mode():
        assert torch.equal(network(pictures) > 0, truth)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_all_parts_learn_and_the_picture_is_seen(condition: Condition, pictures: Tensor) -> None:
    torch.manual_seed(0)
    network = MaskDiffusion(SIDE, condition, samples=2, steps=2)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    before = {name: value.clone() for name, value in network.named_parameters()}
    for _ in range(3):  # the last layer is 0 at first, so that the others learn from the second step on
        optimiser.zero_grad()
        network.loss(pictures, bright(pictures)).backward()
        optimiser.step()
    assert {name.split(".")[0] for name, value in network.named_parameters() if not torch.equal(value, before[name])} == {
        name.split(".")[0] for name in before
    }
    with torch.inference_mode():
        first, other, again = network(pictures), network(pictures.flip(0)), network(pictures)
    assert first.shape == (2, 1, SIDE, SIDE)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_most_masks_say_counts(pictures: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    network = MaskDiffusion(SIDE, "channels", samples=3)
    said = torch.zeros(3, 1, SIDE, SIDE)
    said[:2, 0, :4], said[:1, 0, 4:8] = 1, 1
    monkeypatch.setattr(network, "_sampled", lambda *_: said)
    with torch.inference_mode():
        found = network(pictures) > 0
    assert found[:, 0, :4].all()
    assert not found[:, 0, 4:].any()


def test_staple_weighs_masks_by_how_they_agree() -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((64, 64), bool)
    truth[10:40, 10:50] = True
    masks = np.stack([truth ^ (rng.random(truth.shape) < wrong) for wrong in (0.05, 0.05, 0.05, 0.4, 0.45)])
    found, most = fuse_by_staple(masks) > 0.5, masks.mean(axis=0) > 0.5
    assert (found ^ truth).mean() < 0.5 * (most ^ truth).mean()
    known = SimpleITK.GetArrayFromImage(
        SimpleITK.STAPLE([SimpleITK.GetImageFromArray(one.astype(np.uint8)) for one in masks], 1.0)
    )
    np.testing.assert_allclose(fuse_by_staple(masks), known, atol=1e-5)
    for agreed in (masks[0], np.zeros_like(truth), np.ones_like(truth)):
        np.testing.assert_array_equal(fuse_by_staple(np.stack([agreed] * 3)) > 0.5, agreed)


def test_the_filter_weighs_frequencies(pictures: Tensor) -> None:
    layer = FrequencyFilter(3, SIDE)
    torch.testing.assert_close(layer(pictures), pictures)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, 0, 0] = 1
    torch.testing.assert_close(layer(pictures), pictures.mean(dim=(2, 3), keepdim=True).expand_as(pictures))


def test_trans_u_net_learns_in_all_its_parts(pictures: Tensor) -> None:
    torch.manual_seed(0)
    network = TransUNet(SIDE)
    _measure_loss(network, pictures, bright(pictures)).backward()
    for part in (network.encoder[0], network.transformer.blocks[5], network.project, network.decoder[2]):
        assert all(value.grad is not None and value.grad.any() for value in part.parameters() if value.ndim > 1)
    with torch.no_grad():
        plain = _measure_loss(network, pictures, bright(pictures))
        assert float(plain) == pytest.approx(float(dice_and_entropy(network(pictures), bright(pictures))))


@pytest.mark.parametrize("name", ["transunet", "segdiff", "ensdiff", "medsegdiff"])
def test_they_are_methods_by_name(name: str) -> None:
    method = METHODS[name]
    assert isinstance(method, Tailored)
    assert isinstance(method.architecture, str)
    network = _find_architecture(method.architecture)(method.size)
    if isinstance(network, MaskDiffusion):
        assert (network.condition, network.staple) == {
            "segdiff": ("sum", False),
            "ensdiff": ("channels", False),
            "medsegdiff": ("filtered", True),
        }[name]

"""Augmentation: the table's probabilities and ranges, and the same thing done to image and labels."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import augmentation
from medical_sam2.data.clips import Augmentation, AugmentationOdds

GOLDEN = Path(__file__).parents[1] / "golden" / "augmentation.npz"  # made by benchmarks/augmentation.py


def test_draws_match_the_table() -> None:
    rng, odds = np.random.default_rng(0), AugmentationOdds()
    draws = [Augmentation.draw(rng, odds) for _ in range(10_000)]

    def share(changed: list[bool]) -> float:
        return float(np.mean(changed))

    assert abs(share([d.degrees != 0 for d in draws]) - 0.15) < 0.015
    assert abs(share([d.scale != 1 for d in draws]) - 0.15) < 0.015
    assert abs(share([d.variance != 0 for d in draws]) - 0.15) < 0.015
    assert abs(share([d.invert or d.multiply != 1 for d in draws]) - 0.15) < 0.015
    assert abs(share([d.gamma != 1 for d in draws]) - 0.15) < 0.015
    assert abs(share([d.sigma != 0 for d in draws]) - 0.15 * 0.5) < 0.01
    assert abs(share([d.factor != 1 for d in draws]) - 0.25 * 0.5) < 0.015
    assert abs(share([d.flip_x for d in draws]) - 0.5) < 0.02
    assert all(abs(d.degrees) <= 25 and 0.7 <= d.scale <= 1.4 and 0 <= d.variance <= 0.1 for d in draws)
    assert all(0.65 <= d.multiply <= 1.2 and 0.7 <= d.gamma <= 1.5 for d in draws)


def test_image_and_labels_move_together() -> None:
    labels = torch.zeros(2, 1, 40, 40)
    labels[:, :, 10:20, 5:25] = 1
    drawn = Augmentation(degrees=20, scale=1.2, shift=(0.1, -0.05), flip_x=True)
    image, mask = drawn.warp(labels, 40), drawn.warp(labels, 40, nearest=True)
    assert float(((image > 0.5) != (mask > 0.5)).float().mean()) < 0.01
    assert torch.equal(image[0], image[1])


def test_nothing_drawn_changes_nothing() -> None:
    image = torch.rand(1, 3, 16, 16)
    nothing = Augmentation()
    assert torch.allclose(nothing.warp(image, 16), image, atol=1e-5)
    assert torch.equal(nothing.recolour(image), image)


def test_a_flip_mirrors_columns() -> None:
    image = torch.arange(16.0).view(1, 1, 1, 16).expand(1, 1, 16, 16) / 16
    assert torch.allclose(Augmentation(flip_x=True).warp(image, 16), image.flip(-1), atol=1e-5)


def test_noise_is_reproducible_and_stays_in_range() -> None:
    image = torch.rand(2, 3, 16, 16)
    drawn = Augmentation(variance=0.1, seed=4)
    assert torch.equal(drawn.recolour(image), drawn.recolour(image))
    assert float(drawn.recolour(image).min()) >= 0
    assert float(drawn.recolour(image).max()) <= 1


@pytest.mark.parametrize("row", augmentation.ROWS)
def test_each_row_does_what_batchgeneratorsv2_does(row: str) -> None:
    golden = np.load(GOLDEN)
    mine = augmentation.ours(row, golden["image"])
    assert np.abs(mine - golden["image"]).max() > 0.02  # it does something
    assert augmentation.apart(row, golden["image"], mine, golden[row.replace(" ", "_")]) < augmentation.ROWS[row][1]


SQUARE = torch.zeros(1, 1, 64, 64)
SQUARE[..., 20:36, 28:44] = 1


def middle(mask: torch.Tensor) -> tuple[float, float]:
    """Row and column of the middle of what is set."""
    rows, columns = torch.nonzero(mask[0, 0] > 0.5).double().mean(0).tolist()
    return rows, columns


@pytest.mark.parametrize("nearest", [False, True])
def test_a_quarter_turn_is_a_quarter_turn(nearest: bool) -> None:
    ramp = torch.arange(32.0 * 32).view(1, 1, 32, 32)
    turned = Augmentation(degrees=90).warp(ramp, 32, nearest=nearest)
    torch.testing.assert_close(turned, torch.rot90(ramp, 1, (2, 3)), atol=1e-2, rtol=0)
    back = Augmentation(degrees=-90).warp(turned, 32, nearest=nearest)
    torch.testing.assert_close(back, ramp, atol=1e-2, rtol=0)


def test_scale_enlarges_what_lies_in_the_middle() -> None:
    centred = torch.zeros(1, 1, 64, 64)
    centred[..., 24:40, 24:40] = 1
    for scale in (0.7, 1.0, 1.4, 2.0):
        area = float(Augmentation(scale=scale).warp(centred, 64, nearest=True).sum())
        assert area == pytest.approx(256 * scale**2, rel=0.15)


def test_a_shift_brings_its_place_to_the_middle() -> None:
    """`shift` is where the new middle lies, in halves of the frame from the old one."""
    right, down = (36 - 32) / 32, (28 - 32) / 32
    row, column = middle(Augmentation(shift=(right, down)).warp(SQUARE, 64))
    assert (row, column) == pytest.approx((31.5, 31.5), abs=0.6)


def test_an_extent_is_a_crop() -> None:
    shown = Augmentation(extent=(0.5, 0.25)).warp(SQUARE, 64, nearest=True)
    crop = SQUARE[..., 24:40, 16:48]
    expected = torch.nn.functional.interpolate(crop, (64, 64), mode="nearest")
    assert float((shown != expected).float().mean()) < 0.02


@pytest.mark.parametrize(("flip_x", "flip_y", "axes"), [(True, False, (3,)), (False, True, (2,)), (True, True, (2, 3))])
def test_flips_are_exact(flip_x: bool, flip_y: bool, axes: tuple[int, ...]) -> None:
    flipped = Augmentation(flip_x=flip_x, flip_y=flip_y).warp(SQUARE, 64, nearest=True)
    assert torch.equal(flipped, SQUARE.flip(axes))


def test_labels_keep_their_values_and_what_comes_from_outside_is_background() -> None:
    labels = torch.full((1, 1, 40, 40), 7.0)
    labels[..., 10:30, 10:30] = 200
    rng = np.random.default_rng(0)
    eager = AugmentationOdds(rotation=1, scaling=1)
    for _ in range(20):
        warped = Augmentation.draw(rng, eager).warp(labels, 33, nearest=True)
        assert warped.shape[-2:] == (33, 33)
        assert set(warped.unique().tolist()) <= {0.0, 7.0, 200.0}
    outside = Augmentation(shift=(3.0, 0.0))
    assert not outside.warp(labels, 33).any()


def test_a_draw_is_a_function_of_its_generator() -> None:
    one, again, other = (Augmentation.draw(np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert one == again != other


def test_each_change_of_intensities_does_what_it_is_called() -> None:
    rows = torch.linspace(0.05, 0.95, 32).view(1, 1, 32, 1).expand(1, 1, 32, 32)
    noisy = (rows + 0.05 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert torch.allclose(Augmentation(invert=True).recolour(rows), 1 - rows)
    assert torch.allclose(Augmentation(multiply=0.7).recolour(rows), 0.7 * rows)
    assert torch.allclose(Augmentation(gamma=1.5).recolour(rows), rows**1.5)
    assert torch.allclose(Augmentation(gamma_inverted=1.5).recolour(rows), 1 - (1 - rows) ** 1.5)
    blurred = Augmentation(sigma=1.5).recolour(noisy)
    assert float((blurred - rows).std()) < 0.5 * float((noisy - rows).std())
    assert float(blurred.mean()) == pytest.approx(float(noisy.mean()), abs=0.005)
    coarse = Augmentation(factor=2.0).recolour(noisy)
    assert float((coarse - noisy).abs().mean()) > 0.01
    flat = torch.full((1, 3, 16, 16), 0.4)
    assert torch.allclose(Augmentation(factor=2.0, sigma=1.0).recolour(flat), flat, atol=1e-5)
    assert float((Augmentation(variance=0.1).recolour(noisy) - noisy).std()) == pytest.approx(0.1**0.5 * 0.27, rel=0.3)

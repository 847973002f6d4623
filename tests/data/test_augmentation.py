"""Augmentation: the table's probabilities and ranges, and the same thing done to image and labels."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import augmentation
from medical_sam2.data.augmentation import Augmentation, AugmentationOdds

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

"""Borders at stride 2: an untrained network only enlarges, and proposals do not see each other."""

import torch
from torch.nn import functional as F  # noqa: N812

from medical_sam2.model.sharpen import Sharpen

SIDE = 8


def test_untrained_it_enlarges() -> None:
    parts, masks = Sharpen(4, 6), torch.randn(2, 3, SIDE, SIDE)
    parts.reset()
    found = parts(
        masks, torch.randn(6, 6, SIDE, SIDE), torch.randn(1, 4, 2 * SIDE, 2 * SIDE), torch.randn(2, 2 * SIDE, 2 * SIDE)
    )
    assert torch.equal(found, F.interpolate(masks, scale_factor=2, mode="bilinear", align_corners=False))


def test_proposals_together_are_as_alone() -> None:
    torch.manual_seed(0)
    parts, masks, hidden = Sharpen(4, 6), torch.randn(2, 3, SIDE, SIDE), torch.randn(6, 6, SIDE, SIDE)
    finest, score = torch.randn(1, 4, 2 * SIDE, 2 * SIDE), torch.randn(2, 2 * SIDE, 2 * SIDE)
    together = parts(masks, hidden, finest, score)
    for b in range(2):
        for k in range(3):
            alone = parts(masks[b : b + 1, k : k + 1], hidden[3 * b + k][None], finest, score[b : b + 1])
            assert torch.allclose(together[b, k], alone[0, 0], atol=1e-5)

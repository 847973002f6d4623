"""Borders at stride 2: an untrained network only enlarges, and proposals do not see each other."""

import torch
from torch.nn import functional as F  # noqa: N812

from medical_sam2.model.nano_modules import MaskUpsampler

SIDE = 8


def test_untrained_it_enlarges() -> None:
    parts, masks = MaskUpsampler(4, 6), torch.randn(2, 3, SIDE, SIDE)
    parts.initialise()
    found = parts(
        masks, torch.randn(6, 6, SIDE, SIDE), torch.randn(1, 4, 2 * SIDE, 2 * SIDE), torch.randn(2, 2 * SIDE, 2 * SIDE)
    )
    assert torch.equal(found, F.interpolate(masks, scale_factor=2, mode="bilinear", align_corners=False))


def test_proposals_together_are_as_alone() -> None:
    torch.manual_seed(0)
    parts, masks, hidden = MaskUpsampler(4, 6), torch.randn(2, 3, SIDE, SIDE), torch.randn(6, 6, SIDE, SIDE)
    finest, score = torch.randn(1, 4, 2 * SIDE, 2 * SIDE), torch.randn(2, 2 * SIDE, 2 * SIDE)
    together = parts(masks, hidden, finest, score)
    for b in range(2):
        for k in range(3):
            alone = parts(masks[b : b + 1, k : k + 1], hidden[3 * b + k][None], finest, score[b : b + 1])
            assert torch.allclose(together[b, k], alone[0, 0], atol=1e-5)


def test_the_wanted_one_is_sharpened_and_the_others_enlarged() -> None:
    torch.manual_seed(0)
    parts, masks, hidden = MaskUpsampler(4, 6), torch.randn(2, 3, SIDE, SIDE), torch.randn(6, 6, SIDE, SIDE)
    told = (masks, hidden, torch.randn(1, 4, 2 * SIDE, 2 * SIDE), torch.randn(2, 2 * SIDE, 2 * SIDE))
    every, some = parts(*told), parts(masks, hidden[[2, 3]], *told[2:], torch.tensor([2, 0]))
    large = F.interpolate(masks, scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.allclose(some[[0, 1], [2, 0]], every[[0, 1], [2, 0]], atol=1e-5)
    assert torch.equal(some[0, :2], large[0, :2])
    assert torch.equal(some[1, 1:], large[1, 1:])
    assert (every - large).abs().amax((2, 3)).min() > 1e-3

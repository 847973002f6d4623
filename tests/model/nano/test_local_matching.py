"""The mask of the neighbouring frame: moved as the picture moved, absent where there is no neighbour."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from medical_sam2.model.backbone import Memory, Recalled
from medical_sam2.model.nano_modules import REACH, LocalMatching

SIDE, DEPTH = 16, 12
WAS, MOVED, ALIKE = range(3)


def look(seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(DEPTH, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)), dim=0)


def remembered(mask_hw: torch.Tensor, look_Dhw: torch.Tensor, *, near: bool = True) -> list[Recalled]:
    blank = torch.zeros(1)
    folded = F.pixel_unshuffle(mask_hw[None, None], 2)[0]
    memory = Memory(0, True, blank, blank, blank, 1.0, {"mask": folded, "look": look_Dhw})
    return [Recalled(memory, map=False, pointer=False, near=near)]


def square() -> torch.Tensor:
    mask = torch.zeros(SIDE, SIDE)
    mask[5:10, 6:12] = 1
    return mask


@pytest.mark.parametrize(("down", "right"), [(0, 0), (REACH, -REACH), (-2, 1)])
def test_the_mask_moves_with_the_picture(down: int, right: int) -> None:
    before = look()
    now = torch.roll(before, (down, right), (1, 2))
    with torch.no_grad():
        parts = LocalMatching()
        parts.sharpness.fill_(5.0)
        parts.nearness.fill_(-9.0)
        pictures = parts(now[None], [remembered(square(), before)])[0]
    assert torch.equal(pictures[WAS], 2 * square() - 1)
    expected = 2 * torch.roll(square(), (down, right), (0, 1)) - 1
    inner = (slice(REACH, -REACH), slice(REACH, -REACH))
    assert (pictures[MOVED][inner] - expected[inner]).abs().max() < 0.05
    assert (pictures[ALIKE][inner] - 1).abs().max() < 1e-5


def test_without_a_neighbour_nothing_is_found() -> None:
    parts = LocalMatching()
    assert not parts(look()[None], [remembered(square(), look(), near=False), []]).any()


def test_objects_do_not_see_each_other() -> None:
    parts, other = LocalMatching(), 1 - square()
    recall = [remembered(square(), look(1)), remembered(other, look(2))]
    together = parts(look()[None], recall)
    for b, own in enumerate(recall):
        assert torch.equal(together[b], parts(look()[None], [own])[0])

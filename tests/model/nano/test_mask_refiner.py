"""Masks mended pixel by pixel: the pictures of prompts lie where the prompts are, and an untrained network changes nothing."""

import numpy as np
import pytest
import torch

from medical_sam2.model.backbone import Instruction
from medical_sam2.model.nano import draw_hints, nano
from medical_sam2.model.nano_modules import HINTS, MaskRefiner
from medical_sam2.prompts import FramePrompt

SIDE = 16  # of the logits; the input is 64 pixels wide
INSIDE, OUTSIDE, BOX, ALIKE, EARLIER, CARRIED = range(6)


def drawn(prompt: FramePrompt | None, earlier: torch.Tensor | None = None) -> torch.Tensor:
    keys = torch.nn.functional.normalize(
        torch.randn(1, 8, SIDE // 2, SIDE // 2, generator=torch.Generator().manual_seed(0)), dim=1
    )
    return draw_hints([None if prompt is None else Instruction(prompt, earlier)], SIDE, keys, None)[0]


def test_nothing_said_draws_nothing() -> None:
    assert (drawn(None) == 0).all()


@pytest.mark.parametrize(("x", "y"), [(0, 0), (30, 9), (63, 63), (5, 58)])
def test_a_click_is_brightest_where_it_is(x: int, y: int) -> None:
    for positive, channel in ((True, INSIDE), (False, OUTSIDE)):
        picture = drawn(FramePrompt.click(x, y, positive=positive))
        row, column = np.unravel_index(int(picture[channel].argmax()), (SIDE, SIDE))
        assert (row, column) == (y // 4, x // 4)
        assert (picture[1 - channel] == 0).all()


def test_pixels_alike_to_a_click_are_found() -> None:
    picture = drawn(FramePrompt.click(30, 9))
    row, column = np.unravel_index(int(picture[ALIKE].argmax()), (SIDE, SIDE))
    assert (row // 2, column // 2) == (9 // 8, 30 // 8)
    assert (drawn(FramePrompt.click(30, 9, positive=False))[ALIKE] == 0).all()


def test_a_box_is_inside_and_around() -> None:
    picture = drawn(FramePrompt.box(8, 20, 23, 43))[BOX]
    assert (picture[5:11, 2:6] == 1).all()
    picture[5:11, 2:6] = -1
    assert (picture == -1).all()


def test_an_earlier_answer_is_shown() -> None:
    earlier = torch.full((SIDE, SIDE), 5.0)
    assert (drawn(FramePrompt.click(3, 3), earlier)[EARLIER] == 0.5).all()


def test_untrained_it_changes_nothing() -> None:
    network = nano(64)
    masks = torch.randn(2, 3, SIDE, SIDE)
    fine = torch.randn(1, 16, SIDE, SIDE), torch.randn(1, 32, SIDE // 2, SIDE // 2)
    top, hints = torch.randn(2, 128, SIDE // 4, SIDE // 4), torch.randn(2, HINTS, SIDE, SIDE)
    mended, _, judged = network.mend(fine, top, masks, hints)
    assert torch.equal(mended, masks)
    assert not judged.any()


def test_objects_together_are_mended_as_alone() -> None:
    torch.manual_seed(0)
    mend = MaskRefiner((4, 6), 8)
    fine = torch.randn(1, 4, SIDE, SIDE), torch.randn(1, 6, SIDE // 2, SIDE // 2)
    top, hints, masks = (
        torch.randn(2, 8, SIDE // 4, SIDE // 4),
        torch.randn(2, HINTS, SIDE, SIDE),
        torch.randn(2, 3, SIDE, SIDE),
    )
    together, _, judged = mend(fine, top, masks, hints)
    for b in range(2):
        for k in range(3):
            alone, _, own = mend(fine, top[b : b + 1], masks[b : b + 1, k : k + 1], hints[b : b + 1])
            assert torch.allclose(together[b : b + 1, k : k + 1], alone, atol=1e-5)
            assert torch.allclose(judged[b : b + 1, k : k + 1], own, atol=1e-5)


def test_masks_that_are_mended_in_parts_are_those_of_the_whole() -> None:
    torch.manual_seed(0)
    refiner = MaskRefiner((4, 8), 16)
    fine, top = (torch.randn(1, 4, 32, 32), torch.randn(1, 8, 16, 16)), torch.randn(2, 16, 8, 8)
    masks, hints = torch.randn(2, 3, 32, 32), torch.randn(2, HINTS, 32, 32)
    whole = refiner(fine, top, masks, hints)
    with torch.no_grad():
        parts = refiner(fine, top, masks, hints)
    for one, other in zip(parts, whole, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert not torch.equal(parts[1][0], parts[1][1])


@pytest.mark.parametrize("several", [3, 1])
def test_the_wanted_masks_alone_are_mended(several: int) -> None:
    torch.manual_seed(0)
    refiner, said = MaskRefiner((4, 8), 16), list[torch.Tensor]()
    fine, top = (torch.randn(1, 4, 32, 32), torch.randn(1, 8, 16, 16)), torch.randn(3, 16, 8, 8)
    masks, hints = torch.randn(3, several, 32, 32), torch.randn(3, HINTS, 32, 32)
    wanted, rows = torch.tensor([2, 0, 1]) % several, torch.arange(3)

    def choose(judged: torch.Tensor) -> torch.Tensor:
        said.append(judged)
        return wanted

    with torch.no_grad():
        every, hidden, judged = refiner(fine, top, masks, hints)
        some, own, same = refiner(fine, top, masks, hints, choose)
    assert torch.equal(same, judged)
    assert torch.equal(said[0], judged)
    assert torch.allclose(some[rows, wanted], every[rows, wanted], atol=1e-5)
    assert torch.allclose(own, hidden.unflatten(0, (3, -1))[rows, wanted], atol=1e-5)
    changed = (some != masks).flatten(2).any(2)
    assert changed.sum() == 3
    assert changed[rows, wanted].all()

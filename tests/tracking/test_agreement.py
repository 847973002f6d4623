"""A further view that loses the object, or follows another one, takes nothing from what the first one found, and is named."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medical_sam2.metrics import dice
from medical_sam2.model.backbone import Features, FramePrediction, Fused, Instruction
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.fusion import Agreement, describe_strays, find_start
from medical_sam2.views import CORONAL, View
from tests.backbones import Brightness
from tests.phantoms import phantom
from tests.strategies import codes, seeds, shapes, views


@given(shapes, seeds, views, codes, st.sampled_from([0.3, 0.7, 1.0]))
def test_a_frame_counts_as_the_square_of_its_dice_on_the_whole(
    shape: tuple[int, int, int], seed: int, view: View, axes: str, share: float
) -> None:
    """Whatever is cut off around the estimate, in any orientation."""
    rng = np.random.default_rng(seed)
    estimate = (rng.random(shape) * (rng.random(shape) < share)).astype(np.float32)
    estimate[0, 0, 0] = 0.9
    start = find_start(estimate, view, axes)
    assert start is not None
    agreement = Agreement.to(estimate, start, view, axes)
    before, now = view.apply(estimate, axes) > 0.5, view.apply(rng.random(shape), axes) > 0.6
    for t, mask in enumerate(now):
        both_empty = not mask.any() and not before[t].any()
        assert agreement.weigh(t, mask) == pytest.approx(1.0 if both_empty else dice(before[t], mask) ** 2)
    others = np.arange(len(now)) != start.frame
    agrees = not (before[others].any() or now[others].any()) or dice(before[others], now[others]) >= 0.5
    assert (describe_strays({1: agreement}, 1.0) == []) == agrees


class Strays(Brightness):
    """Follows what was outlined in the plane of the prompt; in others as sure of a corner, or of nothing.

    Args:
        size: side of that corner in pixels.
        trusted: outlines that are shown in the first plane.
    """

    def __init__(self, size: int, trusted: int) -> None:
        super().__init__()
        self.size, self.left = size, trusted

    def decode(self, frame: Features, fused: Fused, instructions: Sequence[Instruction | None]) -> FramePrediction:
        self.left -= sum(told is not None and told.prompt.mask_hw is not None for told in instructions)
        found = super().decode(frame, fused, instructions)
        if self.left >= 0 or any(instructions):
            return found
        corner, sure = torch.full_like(found.logits_Bhw, -10), torch.full_like(found.iou_B, 0.9)
        corner[:, : self.size, : self.size] = 10
        return replace(found, logits_Bhw=corner, iou_B=sure, presence_B=torch.ones_like(sure))


@pytest.mark.parametrize(("named", "trusted"), [("three", 1), ("six", 2)])
@pytest.mark.parametrize("size", [0, 6])
def test_a_view_that_strays_leaves_no_sheet(named: str, trusted: int, size: int) -> None:
    """Nor half of the object: what one view finds stays, and a warning tells what each view found."""
    case = phantom(spacing_mm=(2.0, 2.0, 2.0))
    prompts = [case.prompt("mask", 1, 2)]
    segmenter = Segmenter(Strays(size, trusted), device="cpu", precision="fp32")
    found = segmenter.segment_volume(case.volume, prompts, views=named, window="0,1", zoom=False)
    truth = case.truth == 1
    assert dice(truth, found.labels == 1) > 0.95
    told = [line for line in found.warnings if "counted for little" in line]
    assert {line.split()[2] for line in told} == {"coronal", "sagittal"}
    millilitres = (truth.sum() - truth[:, 5].sum()) * 8 / 1000
    assert all(f"the views before them {millilitres:.2g}" in line for line in told if "coronal slices found" in line)
    assert all(("found nothing" in line) == (size == 0) == ("little overlap" not in line) for line in told)


def test_views_that_agree_are_not_named() -> None:
    case = phantom()
    segmenter = Segmenter(Brightness(), device="cpu", precision="fp32")
    found = segmenter.segment_volume(case.volume, [case.prompt("mask", 1, 2)], views="six", window="0,1")
    assert not [line for line in found.warnings if "counted for little" in line]


@pytest.mark.parametrize(
    ("found", "shared", "said"),
    [
        (
            3,
            1,
            "found 3 mL, the views before them 1280 mL, with little overlap (Dice 0.00),",
        ),
        (0, 0, "found nothing, the views before them 1280 mL,"),
    ],
)
@pytest.mark.parametrize(("view", "slices"), [(CORONAL, "coronal slices"), (CORONAL.reversed, "coronal slices backwards")])
def test_a_view_that_strays_is_told_in_plain_words(view: View, slices: str, found: int, shared: int, said: str) -> None:
    """Which one, what it found, what the others found, in mL that are read at a glance, and what to do."""
    agreement = Agreement(view, 0, np.ones((6, 16, 16), bool), (0, 0, 0), found, shared)
    (line,) = describe_strays({1: agreement}, 1000.0)
    assert line == (
        f"object 1: {slices} {said} so they counted for little; "
        "if it is wrong there, draw a box or an outline on one coronal slice, too, or take `views=one`"
    )
    (line,) = describe_strays({1: agreement}, None)
    assert "the views before them 1280 voxels" in line, "where millimetres mean nothing"

"""Slices in, prompts in, masks back: windows, and coordinates that survive the way there and back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medical_sam2.errors import PromptError
from medical_sam2.intensity_window import Window
from medical_sam2.prompts import FramePrompt, intensities
from medical_sam2.tracking.frames import FrameStack, to_frame, to_input, to_network
from medical_sam2.views import View
from medical_sam2.volume import Volume
from tests.strategies import codes, seeds, views

sides = st.integers(1, 90)


@given(sides, sides, st.sampled_from([32, 64, 96]), st.data())
def test_a_click_on_a_pixel_is_a_click_on_the_same_place(height: int, width: int, size: int, data: st.DataObject) -> None:
    """Seen from the frame's edges, which coincide."""
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    ((u, v),) = to_network(FramePrompt.click(x, y), (height, width), size).points_xy
    assert (u + 0.5) / size == pytest.approx((x + 0.5) / width, abs=1e-5)
    assert (v + 0.5) / size == pytest.approx((y + 0.5) / height, abs=1e-5)


@given(sides, sides)
def test_a_box_around_the_whole_frame_is_one_around_the_whole_input(height: int, width: int) -> None:
    said = to_network(FramePrompt.box(0, 0, width - 1, height - 1), (height, width), 64)
    assert said.box_xyxy == pytest.approx([-0.5, -0.5, 63.5, 63.5], abs=1e-3)


@given(st.integers(2, 16), st.integers(2, 16), st.data())
def test_an_outline_survives_the_way_there_and_back(height: int, width: int, data: st.DataObject) -> None:
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    mask = np.zeros((height, width), bool)
    mask[top : data.draw(st.integers(top + 1, height)), left : data.draw(st.integers(left + 1, width))] = True
    said = to_network(FramePrompt.mask(mask), mask.shape, 64)
    assert said.mask_hw is not None
    logits = torch.from_numpy(said.mask_hw)[None].float() * 20 - 10
    assert ((to_frame(logits, (height, width))[0] > 0.5) == mask).all()


@given(st.integers(100, 300), seeds)
def test_a_thin_outline_does_not_vanish(side: int, seed: int) -> None:
    mask = np.zeros((side, side), bool)
    mask[tuple(np.random.default_rng(seed).integers(0, side, 2))] = True
    said = to_network(FramePrompt.mask(mask), mask.shape, 32).mask_hw
    assert said is not None
    assert said.any()


def test_an_outline_of_another_size_is_refused() -> None:
    with pytest.raises(PromptError, match="the mask has"):
        to_network(FramePrompt.mask(np.ones((4, 5), bool)), (5, 4), 32)


def test_intensities_at_prompts() -> None:
    frame = np.arange(48).reshape(6, 8)
    mask = frame > 45
    assert intensities(frame, FramePrompt.mask(mask)).tolist() == [46, 47]
    assert intensities(frame, FramePrompt.box(1, 2, 2, 3)).tolist() == [17, 18, 25, 26]
    assert sorted(intensities(frame, FramePrompt.click(0, 0))) == [0, 1, 2, 8, 9, 10, 16, 17, 18]
    assert intensities(frame, FramePrompt.click(3, 3, positive=False)).size == 0
    assert intensities(frame, FramePrompt.box(-0.5, -0.5, 0.4, 0.4)).tolist() == [0]


def test_input_is_grey_in_three_colours_and_colour_stays() -> None:
    grey = to_input(np.full((5, 7), 0.25, np.float32), 32)
    assert grey.shape == (3, 32, 32)
    assert torch.allclose(grey, torch.tensor(0.25))
    colour = np.zeros((5, 7, 3), np.float32)
    colour[..., 2] = 1
    assert to_input(colour, 32).mean((1, 2)).tolist() == [0, 0, 1]
    edge = np.zeros((6, 6), np.float32)
    edge[:, 3:] = 1
    assert 0 <= float(to_input(edge, 32).min()) <= float(to_input(edge, 32).max()) <= 1


@given(codes, views, seeds)
def test_frames_of_a_view(code: str, view: View, seed: int) -> None:
    """A frame, its place in the file, and one name for it whichever way it is played."""
    array = np.random.default_rng(seed).random((3, 4, 5)).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = [[(c == letter) - (c == other) for c in code] for letter, other in ("RL", "AP", "SI")]
    stack = FrameStack(Volume(array, affine), view, Window(0, 1), 32)
    back = FrameStack(stack.volume, view.reversed, Window(0, 1), 32)
    frames, height, width = stack.shape_thw
    axis = view.order(code)[0]
    for t in range(frames):
        assert stack.picture(t).shape == (height, width)
        assert (np.sort(stack.picture(t), axis=None) == np.sort(array.take(stack.slice_index(t), axis), axis=None)).all()
        assert (stack.picture(t) == back.picture(frames - 1 - t)).all()

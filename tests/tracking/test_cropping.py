"""What was found without the padding is put back: labels, maps, rows, frames as they are done, corrections."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from medical_sam2.errors import PromptError
from medical_sam2.prompts import FramePrompt, Mask, Point, Prompt
from medical_sam2.strokes import SliceRange
from medical_sam2.tracking.cropping import Crop, CroppedImages
from medical_sam2.tracking.volume_tracker import FrameDone
from medical_sam2.views import View
from medical_sam2.volume import Segmentation, Volume
from tests.phantoms import Phantom, phantom, segmenter
from tests.strategies import codes

Width = tuple[tuple[int, int], ...]
OPTIONS = {"window": "0,1", "probability": True, "uncertainty": True}
sides = st.tuples(st.integers(0, 4), st.integers(0, 4))
widths = st.tuples(sides, sides, sides)


def padded(volume: Volume, width: Width) -> Volume:
    affine = volume.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [low for low, _ in width]
    return replace(volume, array=np.pad(volume.array, width, constant_values=-3), affine=affine)


def test_an_outline_of_all_of_the_image_is_told() -> None:
    made = phantom()
    told = "object 2 is outlined on all of the image, so that nothing tells it from what is outside"
    everything = Mask(np.ones(made.truth.shape, bool), 2)
    assert told in segmenter().segment_volume(made.volume, [everything, made.prompt("mask", 1, 2)], window="0,1").warnings
    assert told not in segmenter().segment_volume(made.volume, [made.prompt("mask", 1, 2)], window="0,1").warnings


def asked(made: Phantom, width: Width) -> list[Prompt]:
    starts = [low for low, _ in width]
    return [Point(tuple(np.add(made.voxel(label), starts)), label) for label in (1, 2)]  # type: ignore[arg-type]


def outlined(volume: Volume, said: list[Prompt], views: str) -> tuple[Segmentation, list[FrameDone]]:
    frames: list[FrameDone] = []
    return segmenter().segment_volume(volume, said, views=views, on_frame=frames.append, **OPTIONS), frames


@settings(max_examples=12)
@given(codes, widths, st.sampled_from(["axial", "coronal", "sagittal", "three"]))
def test_all_that_is_told_of_a_padded_volume_is_told_in_its_own_voxels(code: str, width: Width, views: str) -> None:
    made = phantom(code)
    volume = padded(made.volume, width)
    plain, before = outlined(made.volume, asked(made, ((0, 0),) * 3), views)
    found, after = outlined(volume, asked(made, width), views)
    assert (found.affine == volume.affine).all()
    np.testing.assert_array_equal(found.labels, np.pad(plain.labels, width))
    assert plain.uncertainty is not None
    np.testing.assert_array_equal(found.uncertainty, np.pad(plain.uncertainty, width))
    for label, each in plain.probability.items():
        np.testing.assert_array_equal(found.probability[label], np.pad(each, width))
    moved = [replace(row, slice=row.slice + width[_axis(row.view, code)][0]) for row in plain.confidence]
    assert list(found.confidence) == moved
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        view, k = View(one.view), other.slice
        assert k == one.slice + width[_axis(one.view, code)][0]
        np.testing.assert_array_equal(_slab(other, volume, view, k), np.pad(_slab(one, made.volume, view, one.slice), width))


def _axis(view: str, code: str) -> int:
    return View(view).order(code)[0]


def _slab(done: FrameDone, volume: Volume, view: View, k: int) -> NDArray[np.bool_]:
    """A frame where it lies in the volume."""
    whole = np.zeros(volume.shape, bool)
    stack = view.apply(whole, volume.orientation)
    stack[len(stack) - 1 - k if view.flipped(volume.orientation)[0] else k] = done.masks_bhw.any(0)
    return whole


@pytest.mark.parametrize("kind", ["click", "box", "mask"])
def test_every_prompt_is_taken_along(kind: str) -> None:
    made, width = phantom(), ((3, 1), (0, 2), (2, 2))
    plain = segmenter().segment_volume(made.volume, [made.prompt(kind, 1, 2)], window="0,1")
    moved = Phantom("RAS", made.volume, np.pad(made.truth, width))
    object.__setattr__(moved, "voxel", lambda label: tuple(np.add(made.voxel(label), [low for low, _ in width])))
    found = segmenter().segment_volume(padded(made.volume, width), [moved.prompt(kind, 1, 2)], window="0,1")
    np.testing.assert_array_equal(found.labels, np.pad(plain.labels, width))


def test_an_earlier_result_stays_around_what_is_corrected() -> None:
    made, width = phantom(), ((3, 1), (0, 2), (2, 2))
    earlier = np.pad((made.truth == 1).astype(np.uint8), width)
    earlier[5:7, 6, 10] = 0
    earlier[0, 0, 0] = 9
    said = asked(made, width)[:1]
    found = segmenter().segment_volume(padded(made.volume, width), said, window="0,1", earlier=earlier)
    assert found.labels[0, 0, 0] == 9
    assert earlier[5:7, 6, 10].tolist() == [0, 0]
    plain = segmenter().segment_volume(
        made.volume, [Point(made.voxel(1))], window="0,1", earlier=earlier[3:14, 0:13, 2:18].copy()
    )
    np.testing.assert_array_equal(found.labels[3:14, 0:13, 2:18], plain.labels)


def test_a_prompt_on_padding_keeps_it_in_sight_and_one_outside_is_refused_as_it_was_given() -> None:
    volume = padded(phantom().volume, ((3, 1), (2, 2), (2, 2)))
    assert Crop.to_content(volume, []).box == (slice(3, 14), slice(2, 15), slice(2, 18))
    assert Crop.to_content(volume, [Point((0.4, 5, 6), 1, positive=False)]).box == (slice(0, 14), slice(2, 15), slice(2, 18))
    with pytest.raises(PromptError, match=r"\(15.0, 5.0, 6.0\) lies outside the image of \(15, 17, 20\)"):
        segmenter().segment_volume(volume, [Point((15, 5, 6))])


def test_images_are_read_when_they_are_asked_for_and_put_back() -> None:
    rng, width = np.random.default_rng(0), ((2, 3), (4, 1))
    grey, colour = rng.random((6, 8)), np.arange(144).reshape(6, 8, 3)
    images = [np.pad(grey, width, constant_values=7.0), np.pad(colour, (*width, (0, 0))), np.zeros((4, 4)), np.zeros(5)]
    said = {
        0: {1: FramePrompt.mask(np.pad(grey > 0.5, width))},
        1: {1: FramePrompt.click(3, 2), 2: FramePrompt.box(4, 2, 9, 6)},
    }
    content = CroppedImages(images, said)
    np.testing.assert_array_equal(content[0], grey)
    assert content[1].shape == (6, 9, 3), "a click on padding keeps it in sight"
    assert content[2].shape == (4, 4)
    assert content[3].shape == (5,)
    np.testing.assert_array_equal(content.prompts[0][1].mask_hw, grey > 0.5)
    assert content.prompts[1][1].points_xy.tolist() == [[0, 0]]
    assert content.prompts[1][2].box_xyxy is not None
    assert content.prompts[1][2].box_xyxy.tolist() == [1, 0, 6, 4]
    np.testing.assert_array_equal(content.to_whole(0, np.ones((6, 8), np.uint8)), np.pad(np.ones((6, 8)), width))
    for wrong in (FramePrompt.mask(np.ones((3, 3), bool)), FramePrompt.click(40, 2), FramePrompt.box(-5, 0, 3, 3)):
        assert CroppedImages(images, {0: {1: wrong}})[0].shape == images[0].shape, "refused as it was given"


def test_slices_in_warnings_and_refusals_are_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    places = np.indices((40, 40, 20))
    flat = ((places[0] - 20) ** 2 + (places[1] - 20) ** 2 < 100) & (abs(places[2] - 10) < 2)
    image = np.where(flat, 0.9, 0.3) + rng.uniform(-0.05, 0.05, flat.shape)
    volume = Volume(np.pad(image, ((0, 0), (0, 0), (7, 3))).astype(np.float32), np.diag([1.0, 1, 1, 1]), "MR")
    found = segmenter().segment_volume(volume, [Point((20, 20, 17))], window="0,1")
    (line,) = (warning for warning in found.warnings if "next to its prompt" in warning)
    assert "on slices 16 to 18 of axis k" in line
    assert {row.slice for row in found.confidence if row.area_px} == {16, 17, 18}
    with pytest.raises(PromptError, match="axial slice 17, which its slices or its box leave out"):
        segmenter().segment_volume(volume, [Point((20, 20, 17)), SliceRange(9, 12, axis=2)], window="0,1")


@pytest.mark.parametrize("kind", ["volume", "image"])
def test_a_thing_on_an_empty_background_keeps_a_margin_of_it(kind: str) -> None:
    places = np.indices((40, 40, 40)) - 20
    ball = ((places**2).sum(0) < 64) * (1.0 + np.indices((40, 40, 40))[0] / 100)  # 15 voxels wide
    if kind == "volume":
        volume = Volume(ball.astype(np.float32), np.diag([1.0, 1, 1, 1]), "MR")
        assert Crop.to_content(volume, []).box == (slice(5, 36), slice(5, 36), slice(5, 36))
        shaded = ball * np.indices((40, 40, 40))[1]  # of many greys: there is more than one thing to outline
        assert Crop.to_content(replace(volume, array=shaded.astype(np.float32)), []).box == (slice(13, 28),) * 3
    else:
        full = 10 * ndimage.gaussian_filter(np.random.default_rng(0).random((20, 20)), 2)
        images = CroppedImages([ball[:, :, 20], np.pad(full - full.min(), 9)], {})
        assert images[0].shape == (31, 31)
        assert images[1].shape == (20, 20)  # of many greys

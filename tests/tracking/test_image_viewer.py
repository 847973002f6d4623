"""One window for all CT images of a set, chosen by what is prompted; everything else as it was."""

import numpy as np
import pytest
from numpy.typing import NDArray

from medical_sam2.errors import ConfigError
from medical_sam2.intensity_window import Window, choose_window, percentile_window
from medical_sam2.prompts import FramePrompt
from medical_sam2.tracking.image_viewer import choose_set_windows
from medical_sam2.volume import Volume

SOFT, LUNG = Window(-160, 240), Window(-1250, 250)


def slice_hu(low: int = -1000, high: int = 900) -> NDArray[np.int16]:
    """Air, a body of 40 HU with a lung of -700 HU at its left, and bone."""
    image = np.full((20, 30), low, np.int16)
    image[2:18, 2:28] = 40
    image[5:15, 4:12] = -700
    image[8:12, 22:26] = high
    return image


def told(image: NDArray[np.int16], value: int) -> dict[int, dict[int, FramePrompt]]:
    return {0: {1: FramePrompt.mask(image == value)}}


@pytest.mark.parametrize(("value", "window"), [(40, SOFT), (-700, LUNG), (900, Window(-500, 1300))])
def test_what_is_prompted_decides_for_all_ct_images(value: int, window: Window) -> None:
    image = slice_hu()
    other = slice_hu(high=300)
    windows = choose_set_windows([image, other], told(image, value))
    assert windows.of(0, image) == windows.of(1, other) == windows.of(1, other[..., None]) == window


def test_it_is_the_window_of_a_volume_of_these_slices() -> None:
    image = slice_hu()
    volume = Volume(np.stack([image, image], -1), np.eye(4), "CT")
    inside = image[image == -700]
    assert choose_set_windows([image], told(image, -700)).of(0, image) == choose_window(volume, inside=inside)


def test_a_file_that_says_ct_needs_no_bone_and_one_that_says_otherwise_is_none() -> None:
    image = slice_hu(low=-300, high=60)
    for modality, window in (("CT", SOFT), (None, None), ("MR", None)):
        windows = choose_set_windows([image], told(image, 40), modality=lambda _, modality=modality: modality)
        assert windows.of(0, image) == (window or percentile_window(image))


def test_pictures_that_are_no_ct_keep_their_percentiles() -> None:
    ct, grey, colour = slice_hu(), np.zeros((9, 9), np.uint8), np.full((9, 9, 3), -1000)
    windows = choose_set_windows([grey, ct, colour], {0: {1: FramePrompt.click(4, 4)}})
    found = [windows.of(i, image) for i, image in enumerate((grey, ct, colour))]
    assert found == [percentile_window(grey), SOFT, percentile_window(colour)]


def test_a_window_by_name_is_that_of_all_grey_images() -> None:
    ct, grey, colour = slice_hu(), np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.uint8)
    windows = choose_set_windows([ct], {}, "10,90")
    found = [windows.of(i, image) for i, image in enumerate((ct, grey, colour))]
    assert found == [Window(10, 90), Window(10, 90), percentile_window(colour)]
    assert choose_set_windows([ct], {}, "percentile").of(0, ct) == percentile_window(ct)
    with pytest.raises(ConfigError, match="unknown window"):
        choose_set_windows([ct], {}, "lungs")


def test_prompts_that_do_not_fit_are_left_to_whoever_checks_them() -> None:
    image = slice_hu()
    prompts = {7: {1: FramePrompt.click(1, 1)}, 0: {1: FramePrompt.mask(np.ones((3, 3), bool))}}
    assert choose_set_windows([image], prompts).of(0, image) == SOFT

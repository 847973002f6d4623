"""Sets of images: any size, any order, with a backbone whose answer is known."""

from typing import Any

import numpy as np
import pytest
import torch

from medical_sam2.errors import GeometryError, PromptError
from medical_sam2.prompts import FramePrompt
from medical_sam2.segmenter import Segmenter
from tests.phantoms import phantom, segmenter


def test_images_of_a_set() -> None:
    """Of any size and colour, in any order; what was drawn stays; nothing of the precision leaks to the caller."""
    case = phantom()
    stack = case.volume.array
    images = [stack[:, :, 6], np.repeat(stack[:, :, 8, None], 3, 2), stack[:9, 2:, 9]]
    outline = case.truth[:, :, 8] == 1
    drawn = outline.copy()
    drawn[3, 4] = False
    network = Segmenter(segmenter().network, device="cpu", precision="bf16")
    results = network.segment_images(images, {1: {1: FramePrompt.mask(drawn)}}, order=[2, 0])
    first = next(results)
    assert not torch.is_autocast_enabled("cpu")
    found = {result.index: result for result in (first, *results)}
    assert list(found) == [1, 2, 0]
    assert (found[1].labels == drawn).all()
    assert (found[0].labels == (case.truth[:, :, 6] == 1)).all()
    assert (found[2].labels == (case.truth[:9, 2:, 9] == 1)).all()
    assert found[0].confidence[1] == pytest.approx(0.9, abs=0.01)


def test_bad_images_are_refused() -> None:
    image, click = np.eye(4), FramePrompt.click(1, 1)
    refused: list[tuple[type[Exception], list[Any], dict[int, Any]]] = [
        (PromptError, [image], {}),
        (PromptError, [image], {1: {1: click}}),
        (PromptError, [image], {0: {0: click}}),
        (PromptError, [image], {0: {1: FramePrompt.mask(np.ones((3, 4), bool))}}),
        (GeometryError, [np.zeros((4, 4, 4))], {0: {1: click}}),
    ]
    for error, images, prompts in refused:
        with pytest.raises(error):
            list(segmenter().segment_images(images, prompts))


@pytest.mark.parametrize("value", [7.0, np.nan, np.inf])
def test_an_image_without_two_values_is_blank(value: float) -> None:
    """Prompted, it is refused; else nothing is outlined on it."""
    case = phantom()
    seen, blank = case.volume.array[:, :, 8], np.full((11, 13), value)
    outline = FramePrompt.mask(case.truth[:, :, 8] == 1)
    with pytest.raises(GeometryError, match="image 0 holds one grey value only"):
        list(segmenter().segment_images([blank, seen], {0: {1: outline}}))
    found = {one.index: one for one in segmenter().segment_images([blank, seen], {1: {1: outline}})}
    assert "same value" in found[0].warnings[0]
    assert not found[0].labels.any()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_an_opaque_fourth_channel_is_left_out(kind: type[np.unsignedinteger[Any]]) -> None:
    """As of files; the same is outlined as without it."""
    case = phantom()
    most = np.iinfo(kind).max
    colours = [np.repeat((case.volume.array[:, :, k, None] * most).clip(0, most).astype(kind), 3, 2) for k in (8, 7, 6)]
    outlined = {0: {1: FramePrompt.mask(case.truth[:, :, 8] == 1)}}
    opaque = [np.dstack([image, np.full(image.shape[:2], most, kind)]) for image in colours]
    plain, found = (list(segmenter().segment_images(images, outlined)) for images in (colours, opaque))
    assert [each.labels.tolist() for each in found] == [each.labels.tolist() for each in plain]
    assert all(each.labels.any() for each in found)


def test_with_on_error_what_is_no_image_is_left_out() -> None:
    case = phantom()
    seen, told = case.volume.array[:, :, 8], list[tuple[int, str]]()
    outlined = {0: {1: FramePrompt.mask(case.truth[:, :, 8] == 1)}}
    images: Any = [seen, seen.tolist(), seen]
    found = segmenter().segment_images(images, outlined, on_error=lambda i, error: told.append((i, str(error))))
    assert [each.index for each in found] == [0, 2]
    assert told == [(1, "image 1 is of type list, no array; give np.asarray(image)")]

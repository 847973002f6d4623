"""Every slice or picture prompted by itself, as SAM is used: what memory is to be measured against."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from medical_sam2.prompts import FramePrompt
from medical_sam2.segmenter import Segmenter


def one_by_one(
    segmenter: Segmenter, frames: Sequence[NDArray[np.generic]], prompts: Mapping[int, FramePrompt]
) -> dict[int, NDArray[np.bool_]]:
    """Outlines (H, W) of the prompted frames, each from its own prompt alone; what is not prompted gets no answer.

    Args:
        segmenter: with any weights.
        frames: slices (H, W) or pictures (H, W, 3).
        prompts: frame → what was said there, in its pixels.
    """
    return {
        t: answer.labels > 0
        for t, prompt in prompts.items()
        for answer in segmenter.segment_images([frames[t]], {0: {1: prompt}})
    }

"""What is found on one image, at its own size.

Shapes: B objects, H W image, h w mask logits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from medical_sam2.intensity_window import Window

STRIP_PIXELS = 4_000_000  # of an image that are worked on at once


@dataclass(frozen=True, eq=False)
class ImageMask:
    """Objects outlined on one image of a set.

    Args:
        index: of the image.
        labels: (H, W) unsigned integers, 0 is background, at the image's own size.
        confidence: object → predicted IoU in [0, 1], 0 where the object is judged absent.
        likeness: of the image to what was remembered when it was visited: cosine in [-1, 1], 1 where it was prompted.
        prompted: whether a person spoke on it.
        warnings: what was noticed.
        window: the intensities that the network saw as black and white.
    """

    index: int
    labels: NDArray[np.unsignedinteger]
    confidence: Mapping[int, float]
    likeness: float = 1.0
    prompted: bool = False
    warnings: tuple[str, ...] = ()
    window: Window | None = None

    @property
    def lowest(self) -> float:
        """Confidence of the object that is least sure."""
        return min(self.confidence.values())


def label_map(labels: Sequence[int], logits_Bhw: Tensor, shape_hw: tuple[int, int]) -> NDArray[np.unsignedinteger]:
    """Labels (H, W) in the smallest unsigned type: each pixel goes to the object of the largest logit over 0.

    Logits are enlarged as in `frames.to_frame`, but in strips of rows: no float for each pixel of a huge image.
    """
    height, width = shape_hw
    table = np.array([0, *labels], np.min_scalar_type(max(labels)))
    found = np.empty(shape_hw, table.dtype)
    rows = max(1, STRIP_PIXELS // (width * len(labels)))
    logits = logits_Bhw.float()
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        top, places = _stretched(logits, start, stop, height, width).max(0)
        found[start:stop] = table[torch.where(top > 0, places + 1, 0).cpu().numpy()]
    return found


def _stretched(logits_Bhw: Tensor, start: int, stop: int, height: int, width: int) -> Tensor:
    """Rows `start` to `stop` of the logits at (height, width), bilinear between pixel centres."""
    last = logits_Bhw.shape[1] - 1
    y = ((torch.arange(start, stop, device=logits_Bhw.device) + 0.5) * ((last + 1) / height) - 0.5).clamp(0, last)
    upper = y.floor().long()
    share = (y - upper)[None, :, None]
    between = logits_Bhw[:, upper] * (1 - share) + logits_Bhw[:, (upper + 1).clamp(max=last)] * share
    return F.interpolate(between, size=width, mode="linear", align_corners=False)

"""How well a mask fills the box that was drawn around its object: a tight box touches its object on all four sides.

Shapes: B objects, K proposed masks, h w mask logits.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FILLED = 0.75  # from which on a mask is taken to be what the box was drawn around
AS_GOOD = 0.9  # share of the best filling from which on the predicted IoU decides


def filling(logits_BKhw: Tensor, boxes_xyxy: Sequence[NDArray[np.float32]], stride: int) -> Tensor:
    """Share of the box's rows, times that of its columns, that a mask reaches, times its share inside of the box: (B, K).

    Args:
        logits_BKhw: inside where above 0.
        boxes_xyxy: corners in pixels of the network's input, inclusive.
        stride: of the logits in such pixels.
    """
    return torch.stack([_filling(own > 0, box, stride) for own, box in zip(logits_BKhw, boxes_xyxy, strict=True)])


def best_filling(filling_BK: Tensor, iou_BK: Tensor) -> Tensor:
    """The surest of the masks that fill the box about as well as the best does: (B,)."""
    as_good = filling_BK >= AS_GOOD * filling_BK.amax(1, keepdim=True)
    return iou_BK.masked_fill(~as_good, -1.0).argmax(1)


def _filling(mask_Khw: Tensor, box_xyxy: NDArray[np.float32], stride: int) -> Tensor:
    side = mask_Khw.shape[-1]
    left, top, right, bottom = (min(max(int(along // stride), 0), side - 1) for along in box_xyxy.tolist())
    inside = mask_Khw[:, top : bottom + 1, left : right + 1]
    rows, columns = (inside.any(axis).float().mean(-1) for axis in (2, 1))
    return rows * columns * inside.sum((1, 2)) / mask_Khw.sum((1, 2)).clamp(min=1)

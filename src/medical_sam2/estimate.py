"""Where a further orientation starts and how far it looks, read off the estimate so far without making its volume.

Shapes: I J K voxels, T frames of a view, H W a frame.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medical_sam2.fusion import Slabs
from medical_sam2.region import BoxXyxy
from medical_sam2.views import View

MARGIN, LEAST_MARGIN = 0.2, 6  # beyond the estimate: a share of its extent, frames


@dataclass(frozen=True, eq=False)
class Start:
    """What is known of an object as an orientation begins.

    Args:
        frame: on which the estimate is largest and surest.
        mask_hw: (H, W) bool, the estimate there.
        frames: on which the estimate lies, with a margin.
        box_xyxy: that holds the estimate on all of them, in pixels.
        confidence: mean probability of what is inside on that frame.
    """

    frame: int
    mask_hw: NDArray[np.bool_]
    frames: range
    box_xyxy: BoxXyxy
    confidence: float


def start_of(estimate: Slabs, view: View, axes: str) -> Start | None:
    """Where an object is tracked from along a view; None where the estimate is empty.

    Args:
        estimate: probability (I, J, K), handed out slab by slab.
        view: the orientation.
        axes: directions of the array axes.
    """
    axis, *plane = view.order(axes)
    surplus = _surplus(estimate)
    if not surplus[axis].any():
        return None
    index, count = int(surplus[axis].argmax()), estimate.shape[axis]
    probability = view.apply(_cut(estimate, axis, index), axes)[0]
    mask = probability > 0.5
    low, high = _ends(surplus[axis])
    margin = max(LEAST_MARGIN, round(MARGIN * (high - low + 1)))
    low, high = max(0, low - margin), min(count, high + margin + 1)
    backwards, *mirrored = view.flipped(axes)
    frame, frames = (count - 1 - index, range(count - high, count - low)) if backwards else (index, range(low, high))
    rows, columns = (_ends(surplus[a][::-1] if flip else surplus[a]) for a, flip in zip(plane, mirrored, strict=True))
    return Start(frame, mask, frames, (columns[0], rows[0], columns[1], rows[1]), float(probability[mask].mean()))


def _ends(surplus: NDArray[np.float64]) -> tuple[int, int]:
    there = np.flatnonzero(surplus)
    return int(there[0]), int(there[-1])


def _surplus(estimate: Slabs) -> tuple[NDArray[np.float64], ...]:
    """Sum of what exceeds the threshold on each slice of each array axis."""
    sums = tuple(np.zeros(length) for length in estimate.shape)
    for i in range(estimate.shape[0]):
        excess = np.clip(np.asarray(estimate[i], np.float32) - np.float32(0.5), 0, None)
        sums[1][:] += excess.sum(1)
        sums[2][:] += excess.sum(0)
        sums[0][i] = excess.sum()
    return sums


def _cut(estimate: Slabs, axis: int, index: int) -> NDArray[np.float32]:
    """One slice, as a volume that is one voxel thick along the axis."""
    if axis == 0:
        return np.asarray(estimate[index], np.float32)[None]
    rows = [np.asarray(estimate[i], np.float32).take(index, axis - 1) for i in range(estimate.shape[0])]
    return np.expand_dims(np.stack(rows), axis)

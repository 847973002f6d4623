"""Where a further orientation starts and how far it looks, read off the estimate so far without making its volume.

Shapes: I J K voxels, T frames of a view, H W a frame.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medical_sam2.fusion import Slabs
from medical_sam2.views import View

MARGIN, LEAST_MARGIN = 0.2, 6  # beyond the estimate: a share of its extent, frames


@dataclass(frozen=True, eq=False)
class Start:
    """What is known of an object as an orientation begins.

    Args:
        frame: on which the estimate is largest and surest.
        mask_hw: (H, W) bool, the estimate there.
        frames: on which the estimate lies, with a margin.
    """

    frame: int
    mask_hw: NDArray[np.bool_]
    frames: range


def start_of(estimate: Slabs, view: View, axes: str) -> Start | None:
    """Where an object is tracked from along a view; None where the estimate is empty.

    Args:
        estimate: probability (I, J, K), handed out slab by slab.
        view: the orientation.
        axes: directions of the array axes.
    """
    axis = view.order(axes)[0]
    surplus = _surplus(estimate, axis)
    there = np.flatnonzero(surplus)
    if not len(there):
        return None
    index, count = int(surplus.argmax()), len(surplus)
    mask = view.apply(_cut(estimate, axis, index), axes)[0] > 0.5
    margin = max(LEAST_MARGIN, round(MARGIN * (there[-1] - there[0] + 1)))
    low, high = max(0, int(there[0]) - margin), min(count, int(there[-1]) + margin + 1)
    if view.flipped(axes)[0]:
        return Start(count - 1 - index, mask, range(count - high, count - low))
    return Start(index, mask, range(low, high))


def _surplus(estimate: Slabs, axis: int) -> NDArray[np.float64]:
    """Sum of what exceeds the threshold on each slice of an array axis."""
    surplus = np.zeros(estimate.shape[axis])
    for i in range(estimate.shape[0]):
        excess = np.clip(np.asarray(estimate[i], np.float32) - np.float32(0.5), 0, None)
        if axis == 0:
            surplus[i] = excess.sum()
        else:
            surplus += excess.sum(axis=2 - axis)
    return surplus


def _cut(estimate: Slabs, axis: int, index: int) -> NDArray[np.float32]:
    """One slice, as a volume that is one voxel thick along the axis."""
    if axis == 0:
        return np.asarray(estimate[index], np.float32)[None]
    rows = [np.asarray(estimate[i], np.float32).take(index, axis - 1) for i in range(estimate.shape[0])]
    return np.expand_dims(np.stack(rows), axis)

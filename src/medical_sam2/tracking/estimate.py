"""What is expected of an object on frames before they are tracked: shapes between outlines, and where a further view starts.

Shapes: I J K voxels, T frames, H W frame.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit

from medical_sam2.prompts import FramePrompt
from medical_sam2.tracking.fusion import Slabs
from medical_sam2.tracking.plan import gaps_between
from medical_sam2.tracking.region_of_interest import BoxXyxy
from medical_sam2.views import View

START_MARGIN, LEAST_START_MARGIN = 0.2, 6  # beyond the estimate: a share of its extent, frames


@dataclass(frozen=True, eq=False)
class StartingPoint:
    """Where an object is tracked from along a further orientation.

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


def find_start(estimate: Slabs, view: View, axes: str) -> StartingPoint | None:
    """Where an object is tracked from along a view; None where the estimate is empty.

    Args:
        estimate: probability (I, J, K), handed out slab by slab.
        view: the orientation.
        axes: directions of the array axes.
    """
    axis, *plane = view.order(axes)
    surplus = _excess_by_slice(estimate)
    if not surplus[axis].any():
        return None
    index, count = int(surplus[axis].argmax()), estimate.shape[axis]
    probability = view.apply(_slice_of(estimate, axis, index), axes)[0]
    mask = probability > 0.5
    low, high = _first_and_last(surplus[axis])
    margin = max(LEAST_START_MARGIN, round(START_MARGIN * (high - low + 1)))
    low, high = max(0, low - margin), min(count, high + margin + 1)
    backwards, *mirrored = view.flipped(axes)
    frame, frames = (count - 1 - index, range(count - high, count - low)) if backwards else (index, range(low, high))
    rows, columns = (_first_and_last(surplus[a][::-1] if flip else surplus[a]) for a, flip in zip(plane, mirrored, strict=True))
    return StartingPoint(frame, mask, frames, (columns[0], rows[0], columns[1], rows[1]), float(probability[mask].mean()))


def _first_and_last(surplus: NDArray[np.float64]) -> tuple[int, int]:
    there = np.flatnonzero(surplus)
    return int(there[0]), int(there[-1])


def _excess_by_slice(estimate: Slabs) -> tuple[NDArray[np.float64], ...]:
    """Sum of what exceeds the threshold on each slice of each array axis."""
    sums = tuple(np.zeros(length) for length in estimate.shape)
    for i in range(estimate.shape[0]):
        excess = np.clip(np.asarray(estimate[i], np.float32) - np.float32(0.5), 0, None)
        sums[1][:] += excess.sum(1)
        sums[2][:] += excess.sum(0)
        sums[0][i] = excess.sum()
    return sums


def _slice_of(estimate: Slabs, axis: int, index: int) -> NDArray[np.float32]:
    """One slice, as a volume that is one voxel thick along the axis."""
    if axis == 0:
        return np.asarray(estimate[index], np.float32)[None]
    rows = [np.asarray(estimate[i], np.float32).take(index, axis - 1) for i in range(estimate.shape[0])]
    return np.expand_dims(np.stack(rows), axis)


def expect_between(
    prompts: Mapping[int, Mapping[int, FramePrompt]], pixel_hw: Sequence[float]
) -> dict[int, Mapping[int, NDArray[np.float32]]]:
    """Object → frame → probability (H, W) that its outlines on other frames let expect there.

    Args:
        prompts: object → frame → prompt.
        pixel_hw: height and width of a pixel in mm.
    """
    return {label: _shapes_between(own, pixel_hw) for label, own in prompts.items()}


def _shapes_between(prompts: Mapping[int, FramePrompt], pixel_hw: Sequence[float]) -> dict[int, NDArray[np.float32]]:
    """Frame → probability (H, W) by shape, between outlines: their signed distances in mm, interpolated linearly.

    (Raya and Udupa, Shape-based interpolation of multidimensional objects, 1990.) Frames that are prompted are left out.

    Args:
        prompts: frame → prompt of one object.
        pixel_hw: height and width of a pixel in mm.
    """
    found: dict[int, NDArray[np.float32]] = {}
    for one, other in gaps_between(prompts):
        first, last = (_signed_distance(prompts[t].mask_hw, pixel_hw) for t in (one, other))
        for t in range(one + 1, other):
            share = (t - one) / (other - one)
            if t not in prompts:
                found[t] = expit(((1 - share) * first + share * last) / min(pixel_hw)).astype(np.float32)
    return found


def _signed_distance(mask_hw: NDArray[np.bool_] | None, pixel_hw: Sequence[float]) -> NDArray[np.float64]:
    """Distance from the border in mm, positive inside."""
    inside, outside = (
        np.asarray(ndimage.distance_transform_edt(np.asarray(each), sampling=pixel_hw))
        for each in (mask_hw, ~np.asarray(mask_hw))
    )
    return np.where(np.asarray(mask_hw), inside - min(pixel_hw) / 2, min(pixel_hw) / 2 - outside)

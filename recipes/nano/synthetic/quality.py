"""Which objects can be told from what surrounds them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from synthetic.scene import Labels, Task

_REACH = 7


def visible(labels: Labels, tasks: Sequence[Task], least: int = 40) -> tuple[Task, ...]:
    """Those tasks that at least `least` voxels belong to; of several equal ones each stays, as their weight."""
    counts = np.bincount(labels.ravel(), minlength=256)
    present = (tuple(label for label in task if counts[label]) for task in tasks)
    return tuple(task for task in present if counts[list(task)].sum() >= least)


def distinct(
    rng: np.random.Generator, images: NDArray[np.uint8], labels: Labels, tasks: Sequence[Task], *, mercy: float = 0.1
) -> tuple[Task, ...]:
    """Those tasks with a border that can be seen along some of its length, and a few of the others.

    Args:
        rng: for the pardon of the others and for the slices that are looked at.
        images: (T, H, W) uint8.
        labels: (T, H, W).
        tasks: objects.
        mercy: share of objects without a visible border that stay; of the user's objects some are like that.
    """
    kept: dict[Task, bool] = {}
    for task in dict.fromkeys(tasks):
        kept[task] = border_contrast(rng, images, labels, task) > 0.4 or rng.uniform() < mercy
    return tuple(task for task in tasks if kept[task])


def border_contrast(
    rng: np.random.Generator, images: NDArray[np.uint8], labels: Labels, task: Task, *, slices: int = 4, step: float = 9
) -> float:
    """Share of an object's border, on a few slices, where both sides differ by more than `step` grey levels."""
    table = np.zeros(256, bool)
    table[list(task)] = True
    filled = np.flatnonzero(table[labels[:, ::3, ::3]].any(axis=(1, 2)))
    if not len(filled):
        return 0.0
    seen = total = 0
    for t in rng.choice(filled, min(slices, len(filled)), replace=False):
        mask = table[labels[t]]
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        near = (slice(max(0, rows[0] - 9), rows[-1] + 10), slice(max(0, columns[0] - 9), columns[-1] + 10))
        difference, border = _sides(images[t][near].astype(np.float32), mask[near])
        seen += int((np.abs(difference[border]) > step).sum())
        total += int(border.sum())
    return seen / max(total, 1)


def _sides(picture: NDArray[np.floating], mask: NDArray[np.bool_]) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Mean inside less mean outside about each pixel, and where the border is."""
    inside = mask.astype(np.float32)
    share = ndimage.uniform_filter(inside, _REACH)
    both = ndimage.uniform_filter(picture, _REACH)
    within = ndimage.uniform_filter(picture * inside, _REACH)
    difference = within / np.maximum(share, 1e-4) - (both - within) / np.maximum(1 - share, 1e-4)
    return difference, (share > 0.35) & (share < 0.65)

"""What a simulated reader says of a volume that prompts of single slices do not hold: a line, where it ends, joined outlines.

Shapes: T slices of the prompted view; H W pixels.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medical_sam2.evaluate.cases import FramePrompts, MaskArray, VolumeTask, draw_beside
from medical_sam2.evaluate.protocols import Kind
from medical_sam2.prompts import Box, Index, Prompt
from medical_sam2.simulate import draw_scribble
from medical_sam2.strokes import Lasso, Scribble, ShapeInterpolation, SliceRange
from medical_sam2.tracking.limits import limits_of


def prompts_of_volume(task: VolumeTask, kind: Kind, prompts: FramePrompts) -> tuple[Prompt, ...]:
    """All prompts in voxels, of a kind that says more than its slices do; empty where they say all.

    Args:
        task: the volume, and the truth.
        kind: of the prompts.
        prompts: of slices: frame → its prompt.
    """
    if kind == "scribble":
        lines = {t: draw_scribble(task.truth_thw[t]) for t in sorted(prompts)}
        return tuple(Scribble(_in_voxels(task, t, line), width=1) for t, line in lines.items())
    if kind == "box and negative lasso":
        lines = {t: draw_beside(task.truth_thw[t]) for t in sorted(prompts)}
        boxes = {t: replace(prompt, points_xy=prompt.points_xy[:0], labels=prompt.labels[:0]) for t, prompt in prompts.items()}
        return (
            *task.all_in_volume(boxes),
            *(Lasso(_in_voxels(task, t, line), positive=False) for t, line in lines.items() if line),
        )
    if kind == "box in 3D":
        inside = np.argwhere(task.truth_ijk)
        (i, j, k), (l, m, n) = inside.min(axis=0).tolist(), inside.max(axis=0).tolist()  # noqa: E741
        return (Box((i, j, k), (l, m, n)),)
    if kind == "box and slices":
        axis = task.view.order(task.volume.orientation)[0]
        there = np.flatnonzero(task.truth_ijk.any(axis=tuple({0, 1, 2} - {axis})))
        return (*task.all_in_volume(prompts), SliceRange(int(there[0]), int(there[-1])))
    return (*task.all_in_volume(prompts), ShapeInterpolation()) if kind == "joined outlines" else ()


def shown_on_slices(task: VolumeTask, said: Sequence[Prompt], prompts: FramePrompts) -> FramePrompts:
    """Frame → its prompt: of a box in 3D its rectangle on the middle slice, else those that there are."""
    boxes = [each for each in said if isinstance(each, Box) and each.solid]
    return boxes[0].project(task.view, task.volume.shape, task.volume.orientation) if boxes else prompts


def cut_to_limits(task: VolumeTask, said: Sequence[Prompt], masks_thw: Sequence[MaskArray]) -> list[MaskArray]:
    """Masks (H, W) of all slices without what lies beyond the slices and boxes that were given: so any method can use them."""
    limits = limits_of(said, task.volume.shape, task.view.order(task.volume.orientation)[0])
    if limits is None:
        return list(masks_thw)
    allowed = np.zeros(task.volume.shape, bool)
    allowed[limits.within] = True
    return [mask & here for mask, here in zip(masks_thw, task.view.apply(allowed, task.volume.orientation), strict=True)]


def _in_voxels(task: VolumeTask, t: int, line_xy: Sequence[tuple[float, float]]) -> tuple[Index, ...]:
    return tuple(task.voxel(t, y, x) for x, y in line_xy)

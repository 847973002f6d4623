"""Of what one person says after each other the last word counts: earlier prompts give up what a later one says otherwise.

A command has all prompts at once and refuses what contradicts itself; whoever points, looks, and points again means the latter.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medical_sam2.prompts import Box, Mask, Point, Prompt, check_inside, voxel_of
from medical_sam2.strokes import Brush, Stroke, Voxels, region_of, says_where
from medical_sam2.tracking.limits import limits_of


def drop_contradicted(earlier: Sequence[Prompt], later: Prompt, shape_ijk: Sequence[int]) -> tuple[Prompt, ...]:
    """Earlier prompts, less what a later one of the same object says otherwise.

    Args:
        earlier: in the order in which they were given, without contradictions.
        later: the next one.
        shape_ijk: of the volume.

    Raises:
        PromptError: the later one lies outside of the volume.
    """
    for corner in _corners(later):
        check_inside(type(later).__name__.lower(), corner, shape_ijk)
    rest = (_rest_of(one, later, shape_ijk) if one.object == later.object else one for one in earlier)
    return tuple(one for one in rest if one is not None)


def last_words(prompts: Sequence[Prompt], shape_ijk: Sequence[int]) -> list[Prompt]:
    """Prompts in the order in which they were given, less what later ones say otherwise."""
    kept: tuple[Prompt, ...] = ()
    for prompt in prompts:
        kept = *drop_contradicted(kept, prompt, shape_ijk), prompt
    return list(kept)


def voxels_of(prompt: Prompt, shape_ijk: Sequence[int]) -> Voxels:
    """The voxels that a prompt speaks of one by one; none of a box or a diameter."""
    if isinstance(prompt, Point):
        return np.array([[voxel_of(at) for at in prompt.index_ijk]])
    return np.argwhere(prompt.array_ijk) if isinstance(prompt, Mask) else region_of(prompt, shape_ijk, axis=0)


def slices_touched(prompt: Prompt, shape_ijk: Sequence[int], axis: int) -> NDArray[np.intp]:
    """Which slices of an array axis a prompt speaks of."""
    if isinstance(prompt, Box):
        return np.arange(shape_ijk[axis])[prompt.slices[axis]]
    return np.unique(voxels_of(prompt, shape_ijk)[:, axis])


def hold_settled(
    labels_ijk: NDArray[np.unsignedinteger],
    before_ijk: NDArray[np.unsignedinteger],
    said: Sequence[Prompt],
    fresh: Sequence[Prompt],
) -> None:
    """Make corrected labels follow what was said before, too, in place.

    Slices that were outlined stay unless they were spoken of since; voxels are inside and outside as they were drawn.

    Args:
        labels_ijk: after the correction.
        before_ijk: before it.
        said: all prompts of an object, without contradictions.
        fresh: those of them that the correction is made of.
    """
    (label,) = {prompt.object for prompt in said}
    for mask in (each for each in said if isinstance(each, Mask)):
        axis = min(mask.planes())
        spoken_of = [slices_touched(prompt, labels_ijk.shape, axis) for prompt in fresh]
        drawn = np.setdiff1d(slices_touched(mask, labels_ijk.shape, axis), np.concatenate(spoken_of))
        there = np.moveaxis(labels_ijk, axis, 0)
        there[drawn] = _as_before(there[drawn], np.moveaxis(before_ijk, axis, 0)[drawn], label)
    if limits := limits_of(said, labels_ijk.shape, axis=0):
        own = labels_ijk == label
        held = limits.apply(own.copy(), (0, 0, 0))
        labels_ijk[own & ~held] = 0
        labels_ijk[held] = label


def _as_before(
    now: NDArray[np.unsignedinteger], before: NDArray[np.unsignedinteger], label: int
) -> NDArray[np.unsignedinteger]:
    return np.where(before == label, before, np.where(now == label, 0, now)).astype(now.dtype)


def _corners(prompt: Prompt) -> list[tuple[float, float, float]]:
    if isinstance(prompt, Point):
        return [prompt.index_ijk]
    if isinstance(prompt, Box):
        return [prompt.low_ijk, prompt.high_ijk]
    if isinstance(prompt, Stroke):
        return list(prompt.places_ijk)
    return [(i, j, k) for i, j, k in (f(prompt.voxels, axis=0) for f in (np.min, np.max))] if isinstance(prompt, Brush) else []


def _rest_of(earlier: Prompt, later: Prompt, shape_ijk: Sequence[int]) -> Prompt | None:
    """What is left of a prompt."""
    if isinstance(earlier, Point) and isinstance(later, Point):  # thousands of pairs in a session
        return None if earlier.positive != later.positive and earlier.index_ijk == later.index_ijk else earlier
    if isinstance(earlier, Box):
        return None if _outdates_box(earlier, later, shape_ijk) else earlier
    if isinstance(earlier, Mask) and _outlines_slice(later):
        return _without_slices(earlier, later, shape_ijk)
    voxels = voxels_of(earlier, shape_ijk)
    denied = _denied(voxels, earlier, later, shape_ijk)
    if not denied.any() or isinstance(earlier, Point):
        return None if denied.any() else earlier
    if denied.all():
        return None
    if not isinstance(earlier, Mask):
        return Brush(voxels[~denied], earlier.object, says_where(earlier))
    array = earlier.array_ijk.copy()
    array[tuple(voxels[denied].T)] = False
    return replace(earlier, array_ijk=array)


def _denied(voxels: Voxels, earlier: Prompt, later: Prompt, shape_ijk: Sequence[int]) -> NDArray[np.bool_]:
    """Of which voxels (N, 3) of an earlier prompt a later one says the opposite; a click inside an outline corrects that."""
    nothing, positive = np.zeros(len(voxels), bool), says_where(earlier)
    if isinstance(later, Box) and later.positive:
        return ~_covered(voxels, later, shape_ijk) if positive and later.solid else nothing
    if positive == says_where(later) or (isinstance(earlier, Mask) and isinstance(later, Point)):
        return nothing
    return _covered(voxels, later, shape_ijk)


def _covered(voxels: Voxels, by: Prompt, shape_ijk: Sequence[int]) -> NDArray[np.bool_]:
    if isinstance(by, Box):
        low, high = np.array([(side.start, side.stop) for side in by.slices]).T
        return ((voxels >= low) & (voxels < high)).all(axis=1)
    shape = tuple(shape_ijk)
    ours, theirs = (np.ravel_multi_index(tuple(each.T), shape) for each in (voxels, voxels_of(by, shape_ijk)))
    return np.isin(ours, theirs)


def _outdates_box(box: Box, later: Prompt, shape_ijk: Sequence[int]) -> bool:
    if isinstance(later, Box):
        return _outdates_other_box(box, later)
    if not says_where(later):
        return False
    voxels = voxels_of(later, shape_ijk)
    if not box.positive:
        return bool(_covered(voxels, box, shape_ijk).any())
    if box.solid:
        return not _covered(voxels, box, shape_ijk).all()
    return isinstance(later, Mask) and any(side.start in voxels[:, a] for a, side in enumerate(box.slices) if a in box.planes())


def _outdates_other_box(box: Box, later: Box) -> bool:
    """A slice, and the whole of an object, has one box around it; what lies in a box that is not the object is none."""
    if box.positive != later.positive:
        inner, outer = (box, later) if box.positive else (later, box)
        sides = zip(inner.slices, outer.slices, strict=True)
        return all(one.start >= other.start and one.stop <= other.stop for one, other in sides)
    same = any(box.slices[axis] == later.slices[axis] for axis in box.planes() & later.planes())
    return box.positive and (later.solid or (not box.solid and same))


def _outlines_slice(prompt: Prompt) -> bool:
    """Whether a prompt says what the object is on its slice as a whole."""
    return isinstance(prompt, Mask) or (isinstance(prompt, Box) and prompt.positive and not prompt.solid)


def _without_slices(mask: Mask, later: Prompt, shape_ijk: Sequence[int]) -> Mask | None:
    array = mask.array_ijk.copy()
    for axis in mask.planes() & later.planes():
        np.moveaxis(array, axis, 0)[slices_touched(later, shape_ijk, axis)] = False
    left = np.count_nonzero(array)
    return None if not left else mask if left == np.count_nonzero(mask.array_ijk) else replace(mask, array_ijk=array)

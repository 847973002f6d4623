"""What is done to objects once they are outlined: holes, parts, smoothness, size; in millimetres, whatever the grid.

The order is always the same, whatever the order of the options: holes are filled, the largest part is kept, the surface is
smoothed, the object grows or shrinks, small parts are dropped. Objects are taken by their labels, the smallest first. None
takes a voxel of another one: what one would take of another is left to it and told, so that a voxel of the background that
two would take goes to the smaller label.

Smoothing takes the signed distance to the surface through a Gaussian, and cuts it where the volume is as large as before.

Shapes: I J K voxels.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, isfinite
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medical_sam2.errors import ConfigError
from medical_sam2.prompts import Mask, Prompt
from medical_sam2.strokes import Lasso, says_where
from medical_sam2.tracking.postprocess import EVERYWHERE, object_boxes
from medical_sam2.volume import Segmentation

KEPT = 0.02  # share of its volume that smoothing may change without a word
REACH = 4.0  # of a Gaussian, in standard deviations
MaskArray = NDArray[np.bool_]


@dataclass(frozen=True)
class FinishingSteps:
    """What is done to one object.

    Args:
        fill_holes: fill cavities that it encloses in 3D.
        largest: keep its largest part alone; voxels that touch by a corner hang together.
        smooth_mm: standard deviation of the Gaussian that its surface is smoothed by.
        grow_mm: how far it grows on every side; negative: shrinks.
        min_volume_ml: parts that are smaller are dropped.
    """

    fill_holes: bool = False
    largest: bool = False
    smooth_mm: float = 0.0
    grow_mm: float = 0.0
    min_volume_ml: float = 0.0

    # Millimetres that no voxel is as small as do nothing: whoever wrote them may have meant another unit.
    def check(self, spacing_mm: Sequence[float]) -> None:
        """Refuse steps that cannot change anything.

        Raises:
            ConfigError: a length below the voxels, or a number that is none.
        """
        numbers = {"smoothing": self.smooth_mm, "growing or shrinking": self.grow_mm, "a least volume": self.min_volume_ml}
        for what, number in numbers.items():
            if not isfinite(number) or (number < 0 and what != "growing or shrinking"):
                raise ConfigError(f"{what} by {number:g} makes no sense", "give a positive number")
        finest = min(spacing_mm)
        if 0 < abs(self.grow_mm) < finest:
            problem = f"growing or shrinking by {abs(self.grow_mm):g} mm changes nothing: voxels are {finest:.3g} mm at least"
            raise ConfigError(problem, "give more, or leave it out")
        if 0 < self.smooth_mm < finest / 4:
            problem = f"smoothing by {self.smooth_mm:g} mm changes nothing: voxels are {finest:.3g} mm at least"
            raise ConfigError(problem, "give more, or leave it out")
        if 0 < self.min_volume_ml * 1000 <= float(np.prod(spacing_mm)):
            problem = (
                f"a least volume of {self.min_volume_ml:g} mL drops nothing: a voxel has {np.prod(spacing_mm) / 1000:.3g} mL"
            )
            raise ConfigError(problem, "give more, or leave it out")


@dataclass(frozen=True)
class FinishingChange:
    """What one step did to one object.

    Args:
        object: label.
        step: its name.
        setting: of it, true where it has none.
        before: voxels.
        after: voxels.
        left_to_others: voxels that it would have taken, and that another object has.
    """

    object: int
    step: str
    setting: float | bool
    before: int
    after: int
    left_to_others: int = 0


def finish(
    found: Segmentation, steps: Mapping[int, FinishingSteps], prompts: Sequence[Prompt] = ()
) -> tuple[Segmentation, tuple[FinishingChange, ...]]:
    """A segmentation whose objects are finished, and what each step did; probabilities stay as they are.

    Args:
        found: objects, in a grid whose spacing is that of its affine.
        steps: label → what is done.
        prompts: an outline among them that is changed is told.

    Returns:
        The segmentation, with a warning for each outline that is changed, each object that has nothing left or could not take
        what another one has, and each volume that smoothing changed; and one row for each step and object.

    Raises:
        ConfigError: see `FinishingSteps.check`.
    """
    spacing = np.linalg.norm(found.affine[:3, :3], axis=0)
    for own in steps.values():
        own.check(spacing)
    labels, boxes, changes = found.labels.copy(), object_boxes(found.labels), list[FinishingChange]()
    for label in sorted(steps.keys() & boxes.keys()):
        own = steps[label]
        reach = (REACH * own.smooth_mm + max(0.0, own.grow_mm)) / spacing
        window = tuple(
            slice(max(0, side.start - ceil(far) - 1), side.stop + ceil(far) + 1)
            for side, far in zip(boxes[label], reach, strict=True)
        )
        changes += _finish_object(labels[window], label, own, spacing)
    warnings = [*_describe_changes(changes), *_changed_outlines(found.labels, labels, steps.keys(), prompts)]
    return replace(found, labels=labels, warnings=(*found.warnings, *warnings)), tuple(changes)


def _finish_object(
    part: NDArray[np.unsignedinteger], label: int, steps: FinishingSteps, spacing: NDArray[np.float64]
) -> Iterator[FinishingChange]:
    """All steps on the part of the labels around an object, in place."""
    mask = part == label
    free = (part == 0) | mask
    for name, setting, step in _steps_of(steps, spacing):
        wanted = step(mask)
        after = wanted & free
        yield FinishingChange(label, name, setting, int(mask.sum()), int(after.sum()), int((wanted & ~free).sum()))
        mask = after
        if not mask.any():
            break
    part[part == label] = 0
    part[mask] = label


def _steps_of(
    steps: FinishingSteps, spacing: NDArray[np.float64]
) -> Iterator[tuple[str, float | bool, Callable[[MaskArray], MaskArray]]]:
    """Name, setting and what does it, in the order in which they are done."""
    if steps.fill_holes:
        yield "fill_holes", True, lambda mask: np.asarray(ndimage.binary_fill_holes(mask))
    if steps.largest:
        yield "largest", True, lambda mask: _parts_from(mask, None)
    if steps.smooth_mm:
        yield "smooth_mm", steps.smooth_mm, lambda mask: smooth(mask, steps.smooth_mm, spacing)
    if steps.grow_mm:
        yield "grow_mm", steps.grow_mm, lambda mask: grow(mask, steps.grow_mm, spacing)
    if steps.min_volume_ml:
        least = steps.min_volume_ml * 1000 / float(np.prod(spacing))
        yield "min_volume_ml", steps.min_volume_ml, lambda mask: _parts_from(mask, least)


def smooth(mask: MaskArray, sigma_mm: float, spacing_mm: Sequence[float] | NDArray[np.float64]) -> MaskArray:
    """A mask (I, J, K), not empty, with a smooth surface and as many voxels as before, but for voxels that are alike."""
    inside, outside = (np.asarray(ndimage.distance_transform_edt(each, sampling=spacing_mm)) for each in (mask, ~mask))
    if mask.all():
        return mask
    far = ndimage.gaussian_filter(inside - outside, sigma_mm / np.asarray(spacing_mm), mode="nearest", truncate=REACH)
    count = int(mask.sum())
    level = np.partition(far, far.size - count, axis=None)[far.size - count]
    choices = (far > level, far >= level)
    return min(choices, key=lambda each: abs(int(each.sum()) - count))


def grow(mask: MaskArray, by_mm: float, spacing_mm: Sequence[float] | NDArray[np.float64]) -> MaskArray:
    """A mask (I, J, K) with all voxels within a distance of it, or without those within that distance of what is outside.

    The distance is that of the voxels' centres; beyond the image there is nothing, so nothing shrinks away from its border.
    """
    if mask.all():
        return mask
    within = np.asarray(ndimage.distance_transform_edt(~mask if by_mm > 0 else mask, sampling=spacing_mm)) <= abs(by_mm) + 1e-9
    return within if by_mm > 0 else mask & ~within


def _parts_from(mask: MaskArray, least: float | None) -> MaskArray:
    """The parts of at least so many voxels; the largest part where no number is given, the first of equals."""
    parts, _ = cast("tuple[NDArray[np.int32], int]", ndimage.label(mask, EVERYWHERE))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    kept = np.arange(len(sizes)) == sizes.argmax() if least is None else sizes >= least
    kept[0] = False
    return kept[parts]


def _describe_changes(changes: Sequence[FinishingChange]) -> Iterator[str]:
    for change in changes:
        step = change.step.rpartition("_")[0] if change.step.endswith(("_mm", "_ml")) else change.step
        if change.left_to_others:
            yield f"object {change.object}: {change.left_to_others} voxels were left to other objects ({step})"
        if not change.after:
            yield f"object {change.object} has nothing left ({step} {change.setting})"
        elif change.step == "smooth_mm" and abs(change.after - change.before) > KEPT * change.before:
            yield f"object {change.object}: smoothing changed its volume by {100 * (change.after / change.before - 1):+.1f} %"


def _changed_outlines(
    before: NDArray[np.unsignedinteger], after: NDArray[np.unsignedinteger], labels: Container[int], prompts: Sequence[Prompt]
) -> Iterator[str]:
    """One line for each slice whose drawn outline is no longer as it was drawn."""
    seen: set[tuple[int, int, int]] = set()
    for prompt in prompts:
        if prompt.object not in labels or not isinstance(prompt, Mask | Lasso) or not says_where(prompt):
            continue
        planes = prompt.planes()
        axis = min(planes) if len(planes) == 1 or isinstance(prompt, Lasso) else 2
        drawn = np.argwhere(prompt.array_ijk) if isinstance(prompt, Mask) else prompt.region(before.shape, axis)
        for index in np.unique(drawn[:, axis]).tolist():
            place = tuple(index if a == axis else slice(None) for a in range(3))
            changed = int(((before[place] == prompt.object) != (after[place] == prompt.object)).sum())
            if changed and (prompt.object, axis, index) not in seen:
                seen.add((prompt.object, axis, index))
                place_name = f"slice {index} of axis {'ijk'[axis]}"
                yield f"the outline of object {prompt.object} on {place_name} was changed by {changed} voxels"

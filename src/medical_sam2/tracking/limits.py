"""What the prompts of an object settle of single voxels, whatever the network finds; and what they contradict each other in.

Shapes: I J K voxels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import PromptError
from medical_sam2.prompts import Box, Mask, Point, Prompt, voxel_of
from medical_sam2.strokes import Brush, Lasso, Scribble, SliceRange, Voxels, region_of, says_where

Array = TypeVar("Array", NDArray[np.float32], NDArray[np.bool_])


@dataclass(frozen=True, eq=False)
class Limits:
    """What the prompts of one object settle of single voxels, whatever the network finds.

    Args:
        within: voxels (three slices) beyond which the object is not.
        excluded: boxes (three slices each) in which it is not.
        inside: (N, 3) voxels that are the object.
        outside: (N, 3) voxels that are not.
    """

    within: tuple[slice, slice, slice]
    excluded: tuple[tuple[slice, slice, slice], ...]
    inside: Voxels
    outside: Voxels

    def apply(self, part_ijk: Array, start_ijk: Sequence[int], *, cut: bool = True) -> Array:
        """Make a part of a volume that begins at a voxel follow, in place: 1 inside, 0 outside; `cut`: also beyond `within`."""
        start = np.array(start_ijk)
        for axis, side in enumerate(self.within if cut else ()):
            along = np.moveaxis(part_ijk, axis, 0)
            along[: max(0, side.start - start[axis])] = 0
            along[max(0, side.stop - start[axis]) :] = 0
        for box in self.excluded:
            part_ijk[tuple(slice(max(0, s.start - b), max(0, s.stop - b)) for s, b in zip(box, start_ijk, strict=True))] = 0
        for voxels, value in ((self.outside, 0), (self.inside, 1)):
            here = voxels - start
            here = here[((here >= 0) & (here < part_ijk.shape)).all(axis=1)]
            part_ijk[tuple(here.T)] = value
        return part_ijk

    def settle(self, labels_ijk: NDArray[np.unsignedinteger], label: int) -> None:
        """Make labels of a volume follow, in place, whoever has what is drawn as inside; what lies beyond `within` stays."""
        for part in (labels_ijk[box] for box in self.excluded):
            part[part == label] = 0
        outside = tuple(self.outside.T)
        labels_ijk[outside] = np.where(labels_ijk[outside] == label, 0, labels_ijk[outside])
        labels_ijk[tuple(self.inside.T)] = label

    def count_missed(self, labels_ijk: NDArray[np.unsignedinteger], label: int) -> int:
        """How many voxels that were drawn as inside labels give to others, or to nobody."""
        return int((labels_ijk[tuple(self.inside.T)] != label).sum())


def limits_of(own: Iterable[Prompt], shape_ijk: Sequence[int], axis: int) -> Limits | None:
    """What the prompts of one object settle; None where that is nothing.

    Args:
        own: its prompts.
        shape_ijk: of the volume.
        axis: array axis that the object is prompted along.

    Raises:
        PromptError: slices that there are not.
    """
    own = list(own)
    solid = [p.slices for p in own if isinstance(p, Box) and p.solid and p.positive]
    ranges = [_along_axis(p, shape_ijk, axis if p.axis is None else p.axis) for p in own if isinstance(p, SliceRange)]
    excluded = tuple(p.slices for p in own if isinstance(p, Box) and not p.positive)
    inside, outside = ([region_of(p, shape_ijk, axis) for p in own if _settles(p, positive)] for positive in (True, False))
    if not (solid or ranges or excluded or inside or outside):
        return None
    within = _intersection([*solid, *ranges], shape_ijk)
    return Limits(within, excluded, _joined(inside), _joined(outside))


def _settles(prompt: Prompt, positive: bool) -> bool:
    if isinstance(prompt, Scribble | Brush):
        return prompt.positive == positive
    return isinstance(prompt, Lasso) and not prompt.positive and not positive


def _joined(parts: Sequence[Voxels]) -> Voxels:
    return np.unique(np.concatenate(parts), axis=0) if parts else np.zeros((0, 3), np.intp)


def _along_axis(prompt: SliceRange, shape_ijk: Sequence[int], axis: int) -> tuple[slice, slice, slice]:
    side, count = prompt.along(axis), (prompt.whole_ijk or shape_ijk)[axis]
    if prompt.last >= count:
        raise PromptError(
            f"there are no slices {prompt.first} to {prompt.last} of axis {'ijk'[axis]}", f"they end at {count - 1}"
        )
    i, j, k = (side if place == axis else slice(0, size) for place, size in enumerate(shape_ijk))
    return i, j, k


def _intersection(boxes: Sequence[tuple[slice, slice, slice]], shape_ijk: Sequence[int]) -> tuple[slice, slice, slice]:
    i, j, k = (
        slice(max([0, *(box[axis].start for box in boxes)]), max(0, min([size, *(box[axis].stop for box in boxes)])))
        for axis, size in enumerate(shape_ijk)
    )
    return i, j, k


# Each kind of prompt speaks of other voxels: those of each are looked up in what is settled.
def check_agreement(own: Sequence[Prompt], limits: Limits, shape_ijk: Sequence[int], axis: int) -> None:
    """Refuse what no answer could follow.

    Raises:
        PromptError: a place is said to be inside and outside.
    """
    possible = np.zeros(tuple(shape_ijk), bool)
    possible[limits.within] = True
    for box in limits.excluded:
        possible[box] = False
    possible[tuple(limits.outside.T)] = False
    for prompt in own:
        if not says_where(prompt):
            continue
        if isinstance(prompt, Point):
            i, j, k = map(voxel_of, prompt.index_ijk)
            voxels = np.array([[i, j, k]])
        elif isinstance(prompt, Mask):
            voxels = np.argwhere(prompt.array_ijk)
        elif isinstance(prompt, Scribble | Lasso | Brush):
            voxels = region_of(prompt, shape_ijk, axis)
        else:
            box = prompt.slices if isinstance(prompt, Box) else ()
            if box and not possible[box].any():
                raise PromptError(
                    f"a box of object {prompt.object} lies where other prompts say that it is not", "leave one out"
                )
            continue
        wrong = voxels[~possible[tuple(voxels.T)]]
        if len(wrong):
            place = " ".join(map(str, wrong[0]))
            problem = f"object {prompt.object} is said to be inside and outside at voxel {place}"
            raise PromptError(problem, "a box in 3D, slices, or something drawn as outside leaves it out: change one of them")

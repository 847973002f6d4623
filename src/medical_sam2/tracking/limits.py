"""What prompts settle, whatever the network finds: voxels, outlines as they were drawn; and what becomes of contradictions.

A command has all prompts at once and refuses what contradicts itself. Whoever points, looks, and points again means the latter:
of what one person says after each other the last word counts, and earlier prompts give up what a later one says otherwise.
Clicks that a result does not follow are told.

Shapes: I J K voxels, H W pixels of an image.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import GeometryError, PromptError, say_count
from medical_sam2.io.label_grid import integers
from medical_sam2.prompts import Box, FramePrompt, Mask, Point, Prompt, check_inside, is_solid_box, voxel_of
from medical_sam2.strokes import Brush, Diameter, Lasso, Scribble, SliceRange, Stroke, Voxels, region_of, says_where
from medical_sam2.volume import Segmentation, check_array

Array = TypeVar("Array", NDArray[np.float32], NDArray[np.bool_])


@dataclass(frozen=True, eq=False)
class Limits:
    """What the prompts of one object settle of single voxels, whatever the network finds."""

    within: tuple[slice, slice, slice]  # voxels (three slices) beyond which the object is not
    excluded: tuple[tuple[slice, slice, slice], ...]  # boxes (three slices each) in which it is not
    inside: Voxels  # (N, 3) voxels that are the object
    outside: Voxels  # (N, 3) voxels that are not

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
    """What the prompts of one object settle; None where that is nothing; raises PromptError for slices that there are not."""
    own = list(own)
    solid = [p.slices for p in own if isinstance(p, Box) and is_solid_box(p)]
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
    """Refuse what no answer could follow, a place said to be inside and outside; raises PromptError."""
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


def touched_voxels(prompts: Sequence[Prompt], shape: tuple[int, ...], box: tuple[slice, ...]) -> NDArray[np.bool_]:
    """Voxels of a box that the prompts of one object touch."""
    touched = np.zeros([side.stop - side.start for side in box], bool)
    for prompt in prompts:
        if isinstance(prompt, Mask):
            touched |= prompt.array_ijk[box]
        elif not says_where(prompt):
            continue
        elif isinstance(prompt, Point):
            _mark_touched(touched, box, [slice(i, i + 1) for i in map(voxel_within, prompt.index_ijk, shape)])
        elif isinstance(prompt, Diameter):
            for place in prompt.places_ijk:
                _mark_touched(touched, box, [slice(i, i + 1) for i in map(voxel_within, place, shape)])
        elif isinstance(prompt, Stroke | Brush):
            drawn = prompt.voxels if isinstance(prompt, Brush) else prompt.region(shape, min(prompt.planes()))
            for voxel in drawn.tolist():
                _mark_touched(touched, box, [slice(i, i + 1) for i in voxel])
        elif isinstance(prompt, Box):
            _mark_touched(touched, box, prompt.slices)
    return touched


def _mark_touched(touched: NDArray[np.bool_], box: Sequence[slice], marked: Sequence[slice]) -> None:
    """Mark what lies in the box."""
    inside = (
        slice(max(0, own.start - side.start), max(0, own.stop - side.start)) for own, side in zip(marked, box, strict=True)
    )
    touched[tuple(inside)] = True


def slices_touched(prompt: Prompt, shape_ijk: Sequence[int], axis: int) -> NDArray[np.intp]:
    """Which slices of an array axis a prompt speaks of."""
    if isinstance(prompt, Box):
        return np.arange(shape_ijk[axis])[prompt.slices[axis]]
    if isinstance(prompt, Diameter):
        return np.unique(_ends_of(prompt)[:, axis])
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
    if isinstance(earlier, Diameter):
        return None if _outdates_diameter(earlier, later, shape_ijk) else earlier
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
    if isinstance(later, Diameter):
        covered = _covered(_ends_of(later), box, shape_ijk)
        return bool(covered.any()) if not box.positive else not covered.all() if box.solid else _share_slice(box, later)
    voxels = voxels_of(later, shape_ijk)
    if not box.positive:
        return bool(_covered(voxels, box, shape_ijk).any())
    if box.solid:
        return not _covered(voxels, box, shape_ijk).all()
    return isinstance(later, Mask) and any(side.start in voxels[:, a] for a, side in enumerate(box.slices) if a in box.planes())


def _outdates_diameter(diameter: Diameter, later: Prompt, shape_ijk: Sequence[int]) -> bool:
    """A slice has one diameter, or box, or outline; all of an object lies in a box in 3D, nothing in a negative one."""
    if isinstance(later, Box) and (later.solid or not later.positive):
        covered = _covered(_ends_of(diameter), later, shape_ijk)
        return not covered.all() if later.positive else bool(covered.all())
    if isinstance(later, Mask):
        return any((slices_touched(later, shape_ijk, a) == _ends_of(diameter)[0, a]).any() for a in diameter.planes())
    return isinstance(later, Box | Diameter) and _share_slice(diameter, later)


def _ends_of(diameter: Diameter) -> Voxels:
    return np.array([[voxel_of(at) for at in place] for place in diameter.places_ijk])


def _share_slice(one: Box | Diameter, other: Box | Diameter) -> bool:
    """Whether both lie on one slice of an axis."""
    places = [each.low_ijk if isinstance(each, Box) else each.places_ijk[0] for each in (one, other)]
    return any(voxel_of(places[0][a]) == voxel_of(places[1][a]) for a in one.planes() & other.planes())


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
    return isinstance(prompt, Mask | Diameter) or (isinstance(prompt, Box) and prompt.positive and not prompt.solid)


def _without_slices(mask: Mask, later: Prompt, shape_ijk: Sequence[int]) -> Mask | None:
    array = mask.array_ijk.copy()
    for axis in mask.planes() & later.planes():
        np.moveaxis(array, axis, 0)[slices_touched(later, shape_ijk, axis)] = False
    left = np.count_nonzero(array)
    return None if not left else mask if left == np.count_nonzero(mask.array_ijk) else replace(mask, array_ijk=array)


def describe_missed_points(maps: Sequence[NDArray[np.integer]], prompts: Iterable[Prompt]) -> list[str]:
    """Warnings for clicks in a volume that its label maps (I, J, K), several where objects overlap, do not follow."""
    return _describe_missed(maps, ((p.index_ijk, p.object, p.positive) for p in prompts if isinstance(p, Point)))


def describe_taken(earlier: NDArray[np.integer] | None, labels: NDArray[np.integer], prompts: Iterable[Prompt]) -> list[str]:
    """Warnings for objects that nobody corrected, of which a correction took voxels (I, J, K) for others."""
    return [] if earlier is None else count_taken(earlier, labels, sorted({prompt.object for prompt in prompts}), "voxel")


def count_taken(earlier: NDArray[np.integer], labels: NDArray[np.integer], asked: Sequence[int], noun: str) -> list[str]:
    """A line for each object that lost voxels, or pixels as the noun says, to those that were asked about."""
    changed = earlier != labels
    was, now = earlier[changed], labels[changed]
    taken = (was != 0) & np.isin(now, asked) & ~np.isin(was, asked)
    pairs, counts = np.unique(np.stack([was[taken], now[taken]]), axis=1, return_counts=True)
    remedy = "a positive click inside of another object takes it; take the click back if that was not meant"
    return [
        f"object {mine} took {say_count(count, noun)} of object {other}: {remedy}"
        for (other, mine), count in zip(pairs.T.tolist(), counts.tolist(), strict=True)
    ]


def labels_before(found: Segmentation, earlier: NDArray[np.generic] | None) -> NDArray[np.integer]:
    """The labels that were corrected, or those of the result where nothing was.

    Raises:
        InputError, FormatError: they are no array of integers, or are negative.
        GeometryError: they have another shape than the result.
    """
    if earlier is None:
        return found.labels
    check_array(earlier, "earlier result", "biu")
    if earlier.shape != found.labels.shape:
        problem = f"the earlier result has shape {earlier.shape}, the corrected one {found.labels.shape}"
        raise GeometryError(problem, "give the labels that were corrected")
    return integers(earlier, "the earlier result")


def give_back(
    labels: NDArray[np.integer],
    label: int,
    found: NDArray[np.integer],
    earlier: NDArray[np.integer],
    asked: Collection[int],
) -> list[str]:
    """Voxels (I, J, K) that an object had and gave up, in place, to objects of an earlier result that nobody asked about.

    Returns:
        A line for each object that got some back.
    """
    freed = (found == label) & (labels == 0)
    theirs = np.where(np.isin(earlier[freed], list(asked)), 0, earlier[freed])
    labels[freed] = theirs
    others, counts = np.unique(theirs[theirs != 0], return_counts=True)
    return [
        f"object {label} gave {say_count(count, 'voxel')} back to object {other}"
        for other, count in zip(others.tolist(), counts.tolist(), strict=True)
    ]


def describe_missed_clicks(labels: NDArray[np.integer], prompts: Mapping[int, FramePrompt]) -> list[str]:
    """Warnings for clicks on an image that its labels (H, W) do not follow, at X Y as they were given; object → its prompt."""
    return _describe_missed(
        [labels.T],
        (
            ((x, y), label, bool(inside))
            for label, prompt in prompts.items()
            for (x, y), inside in zip(prompt.points_xy.tolist(), prompt.labels, strict=True)
        ),
    )


def _describe_missed(maps: Sequence[NDArray[np.integer]], clicks: Iterable[tuple[Sequence[float], int, bool]]) -> list[str]:
    found: list[str] = []
    for index, label, positive in clicks:
        place = tuple(map(voxel_within, index, maps[0].shape))
        there = [int(labels[place]) for labels in maps]
        if (label in there) == positive:
            continue
        click = f"click on object {label} at {' '.join(map(str, place))}"
        if not positive:
            found.append(f"the negative {click} lies inside what was found")
        elif len(there) == 1 and there[0]:
            found.append(f"the positive {click} lies outside of what was found: object {there[0]} is there")
        elif any((labels == label).any() for labels in maps):  # an object that was not found at all is named as such
            found.append(f"the positive {click} lies outside of what was found")
    return found


def redraw(stack_thw: NDArray[np.unsignedinteger], label: int, prompts: Mapping[int, FramePrompt]) -> None:
    """Put outlines back as they were drawn, in place, unless a click or a box corrects them; take out negative clicks in them.

    Args:
        stack_thw: labels along a view.
        label: the object.
        prompts: frame → prompt of the object.
    """
    for t, prompt in prompts.items():
        drawn = prompt.mask_hw is not None and prompt.estimate is None
        if prompt.mask_hw is not None and drawn and not len(prompt.points_xy) and prompt.box_xyxy is None:
            stack_thw[t][(stack_thw[t] == label) & ~prompt.mask_hw] = 0
            stack_thw[t][prompt.mask_hw] = label
        elif prompt.mask_hw is not None and not prompt.labels.all():
            stack_thw[t][(stack_thw[t] == label) & prompt.cleared_hw()] = 0


def voxel_within(index: float, size: int) -> int:
    """The voxel of an index, the last one where it rounds beyond."""
    return min(max(0, round(index)), size - 1)


def load_ndimage() -> ModuleType:
    """scipy.ndimage, loaded when it is used: its libraries wait for ever where memory is short, which is looked at before."""
    from scipy import ndimage

    return ndimage

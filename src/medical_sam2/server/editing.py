"""What is done to structures besides pointing at them: put in order, merged, split, finished, brought from a file.

Each makes of a state and its result what the session holds afterwards; nothing is changed in place. In a set of images each
image is edited by itself, in pixels; from then on the structure is not outlined anew from what was said.
Shapes: I J K voxels, H W pixels of an image.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import cast

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import list_first, say_count
from medical_sam2.prompts import is_solid_box
from medical_sam2.server import InvalidRequest
from medical_sam2.server.gestures import answer_mask, clicks_inside
from medical_sam2.server.segmentation import (
    IMAGE,
    Frame,
    LabelMaps,
    SessionImage,
    SessionImageSet,
    SessionResult,
    SessionVolume,
)
from medical_sam2.server.state import Gesture, State, Structure, default_colour, told_of_others
from medical_sam2.tracking.confidence import dice_of
from medical_sam2.tracking.finishing import FinishingSteps, fill_holes, finish
from medical_sam2.tracking.limits import limits_of, load_ndimage, voxel_within
from medical_sam2.tracking.plan import array_axis, primary_view
from medical_sam2.volume import Segmentation

MOST_LABEL = 255
MOST_PARTS = 16
SAME_OUTLINE = 0.9  # Dice of an image's outline and that of before, from which on it is the same to whoever looks
USUAL = re.compile(r"structure \d+")  # names that nobody gave


@dataclass(frozen=True, eq=False)
class StructureEdit:
    """What a session holds after an edit."""

    structures: tuple[Structure, ...]  # all of them, in their order; gestures on those that are gone are forgotten
    result: SessionResult | None = None  # their voxels; None where it stays
    notes: tuple[str, ...] = ()  # for the user


def check_volume(image: SessionImage, why: str) -> None:
    """Refuse what is done to volumes alone, for `why` it cannot be done to a set; raises InvalidRequest."""
    if not isinstance(image, SessionVolume):
        raise InvalidRequest(why)


def move_structure(image: SessionImage, state: State, label: int, by: int) -> StructureEdit:
    """A structure further up or down: where several would have a voxel, the upper one takes it."""
    check_volume(image, "structures of a set have no order: a pixel goes to the one that is surer of it")
    place = state.structures.index(state.of(label))
    others = [each for each in state.structures if each.label != label]
    others.insert(min(max(0, place + by), len(others)), state.of(label))
    return StructureEdit(tuple(others))


def merge_structures(state: State, result: SessionResult, label: int, into: int) -> StructureEdit:
    """Two structures as one new one, with the name, colour and number of the second."""
    if label == into:
        raise InvalidRequest("a structure is merged with another one; choose that")
    for each in (label, into):
        _check_settled(state, result, each)
    (new,), kept = free_labels(state, 1), state.of(into)
    labels = tuple(np.where(np.isin(array, (label, into)), np.uint8(new), array) for array in result.labels)
    return _replaced(state, result, labels, {label, into}, [replace(kept, label=new, value=state.numbers[into])])


def split_structure(state: State, result: SessionResult, label: int) -> StructureEdit:
    """The parts of a structure that hang together, each a structure, the largest with its name and number.

    In a set the largest parts of all images are one structure, the second largest another.
    """
    _check_settled(state, result, label)
    old, parts = state.of(label), [_parts_by_size(array == label) for array in result.labels]
    count = max(int(each.max()) for each in parts)
    if count == 1:
        raise InvalidRequest("it is one part" + (" on every image" if len(parts) > 1 else ""))
    if count > MOST_PARTS:
        raise InvalidRequest(f"it has {count} parts, more than {MOST_PARTS}; drop the small ones first")
    new = free_labels(state, count)
    table = np.array([0, *new], np.uint8)
    labels = tuple(np.where(part, table[part], array) for part, array in zip(parts, result.labels, strict=True))
    first = replace(old, label=new[0], value=state.numbers[label])
    others = [Structure(own, f"{old.name} {n}", default_colour(own)) for n, own in enumerate(new[1:], 2)]
    return _replaced(state, result, labels, {label}, [first, *others])


def _parts_by_size(mask: NDArray[np.bool_]) -> NDArray[np.unsignedinteger]:
    """The parts of a mask by their size: 1 for the largest, 2 for the next, 0 outside."""
    parts, _ = cast("tuple[NDArray[np.int32], int]", load_ndimage().label(mask, np.ones((3,) * mask.ndim, bool)))
    order = np.argsort(-np.bincount(parts.ravel())[1:], kind="stable") + 1
    rank = np.zeros(len(order) + 1, np.min_scalar_type(len(order)))  # a byte a voxel, mostly
    rank[order] = np.arange(1, len(order) + 1)
    return rank[parts]


def finish_structure(
    known: tuple[SessionImage, State, SessionResult], label: int, steps: FinishingSteps, least_px: int = 0
) -> StructureEdit:
    """A structure after the finishing steps of the command line, which keep to what was said of it.

    Args:
        known: image, state and result.
        label: of the structure.
        steps: of a set those alone that need no size in mm.
        least_px: of a set; parts of fewer pixels are dropped.

    Raises:
        ConfigError: a step that changes nothing.
        InvalidRequest: nothing would be left, or a step that there is not.
    """
    image, state, result = known
    _check_settled(state, result, label)
    if steps == FinishingSteps() and not least_px:
        raise InvalidRequest("nothing was chosen that is to be done")
    if isinstance(image, SessionImageSet):
        return _finish_images(state, result, label, steps, least_px)
    if least_px:
        raise InvalidRequest("the least part of a volume is told in mL")
    return _finish_volume(image, state, result, label, steps)


def _finish_images(state: State, result: SessionResult, label: int, steps: FinishingSteps, least_px: int) -> StructureEdit:
    if steps != FinishingSteps(steps.fill_holes, steps.largest):
        raise InvalidRequest("images may have no size in mm; fill holes, keep the largest part, or drop parts of few pixels")
    labels, left = list[NDArray[np.uint8]](), 0
    for array in result.labels:
        wanted = own = array == label
        if own.any():
            wanted = fill_holes(own) if steps.fill_holes else own
            parts = _parts_by_size(wanted)
            wanted = (parts == 1) if steps.largest else wanted
            wanted = wanted & np.isin(parts, np.flatnonzero(np.bincount(parts.ravel()) >= least_px))
        taken = wanted & (array != 0) & ~own
        left += int(taken.sum())
        labels.append(np.where(wanted & ~taken, np.uint8(label), np.where(own, np.uint8(0), array)))
    if not any((array == label).any() for array in labels):
        raise InvalidRequest("nothing would be left of it")
    there = {t for t, array in enumerate(labels) if (array == label).any()}
    rows = tuple(row for row in result.rows if row.object != label or row.slice in there)
    structures = tuple(replace(each, edited=True) if each.label == label else each for each in state.structures)
    if result.beneath:
        labels = [np.where(array, array, under) for array, under in zip(labels, result.beneath, strict=True)]
    notes = [f"{left} pixels were left to other structures"] if left else []
    notes += _clicks_undone(state, label, result.labels, labels)
    return StructureEdit(structures, replace(result, labels=tuple(labels), rows=rows), tuple(notes))


def _clicks_undone(state: State, label: int, before: Sequence[Frame], after: Sequence[Frame]) -> Iterator[str]:
    """A line for each click in a set that a structure followed before, and follows no more."""
    name = state.of(label).name
    for gesture in (each for each in state.gestures if each.label == label and each.kind == "points"):
        was, now = before[gesture.t] == label, after[gesture.t] == label
        for (y, x), positive in zip(gesture.points_yx, gesture.positive, strict=True):
            row, column = map(voxel_within, (y, x), was.shape)
            if was[row, column] == positive and now[row, column] != positive:
                kind, side = ("positive", "outside of") if positive else ("negative", "inside of")
                yield f"image {gesture.t + 1}: the {kind} click at {column} {row} lies {side} {name} since it was finished"


def _finish_volume(
    image: SessionVolume, state: State, result: SessionResult, label: int, steps: FinishingSteps
) -> StructureEdit:
    volume = image.volume
    prompts = image.prompts(gesture for gesture in state.gestures if gesture.label == label)
    axis = array_axis(volume, primary_view(volume, prompts)) if prompts else 2
    limits = limits_of(prompts, volume.shape, axis)
    before = Segmentation(result.labels[0], volume.affine, state.names)
    found, _ = finish(before, {label: steps}, prompts, {label: limits} if limits else None)
    labels = found.labels.astype(np.uint8)
    if not (labels == label).any():
        raise InvalidRequest("nothing would be left of it")
    rows = [row for row in result.rows if row.object != label or image.shows((labels,), row)]
    doubt = result.uncertainty and (np.where(labels == result.labels[0], result.uncertainty[0], np.uint8(0)),)
    after = SessionResult((labels,), tuple(rows), doubt, told_of_others(result.warnings, [label]))
    return StructureEdit(state.structures, after, found.warnings)


def add_outlines(
    state: State,
    result: SessionResult,
    labels: NDArray[np.unsignedinteger],
    names: Mapping[int, str],
    colours: Mapping[int, str],
) -> StructureEdit:
    """Structures of a label map, where nothing is yet; they keep their numbers, and usual names, where these are free.

    Raises:
        InvalidRequest: structures have all of it already.
    """
    free = result.labels[0] == 0
    numbers = [int(number) for number in np.unique(labels[free]) if number]
    if not numbers:
        raise InvalidRequest("nothing in it is new: structures that are there have all of it")
    new, joined, added = free_labels(state, len(numbers)), result.labels[0].copy(), list[Structure]()
    left = int(((labels != 0) & ~free).sum())
    for own, number in zip(new, numbers, strict=True):
        joined[(labels == number) & free] = own
        name, taken = names.get(number) or f"structure {number}", [*state.names.values(), *(each.name for each in added)]
        if name in taken and USUAL.fullmatch(name):
            name = usual_name(taken, own)
        added.append(Structure(own, name, colours.get(number) or default_colour(own), number))
    numbered = _numbered(state, added)
    changed = [
        f"{old.value} is now {new.value or new.label}"
        for old, new in zip(added, numbered, strict=True)
        if old.value != (new.value or new.label)
    ]
    notes = [f"{say_count(left, 'voxel', 'were')} left to structures that are there"] if left else []
    notes += [f"numbers in files that others have already were changed: {list_first(changed)}"] if changed else []
    return StructureEdit((*state.structures, *numbered), replace(result, labels=(joined,)), tuple(notes))


def usual_name(taken: Collection[str], label: int) -> str:
    """What a structure is called that was given no name: after its label, or the next number that no other is called after."""
    return next(name for number in count(label) if (name := f"structure {number}") not in taken)


# The last one stays free: a correction takes labels that are 255 alone for a mask of black and white, and asks of object 1.
def free_labels(state: State, count: int) -> list[int]:
    """Labels that nothing has, or had in the result that stands; raises InvalidRequest if not so many are left."""
    used = {each.label for each in state.structures} | (state.tracked.labels if state.tracked else frozenset[int]())
    first = max(used, default=0) + 1
    if first + count > MOST_LABEL:
        raise InvalidRequest("the labels are used up; begin a new session")
    return list(range(first, first + count))


def renumber(labels: NDArray[np.uint8], numbers: Mapping[int, int]) -> NDArray[np.unsignedinteger]:
    """Labels as the numbers that files have."""
    if all(label == number for label, number in numbers.items()):
        return labels
    table = np.arange(MOST_LABEL + 1, dtype=np.min_scalar_type(max(MOST_LABEL, *numbers.values())))
    table[list(numbers)] = list(numbers.values())
    return table[labels]


def settled_structures(image: SessionImage, state: State) -> frozenset[int]:
    """Labels that tracking does not change: what is locked, and what was edited in a set."""
    return state.locked | (state.edited if isinstance(image, SessionImageSet) else frozenset())


def keep_settled(before: SessionResult, shown: LabelMaps, after: SessionResult, settled: frozenset[int]) -> SessionResult:
    """A result in which settled structures are as they were shown: they have lost nothing, and gained nothing."""
    if not settled:
        return after
    labels = list[NDArray[np.uint8]]()
    for old, new in zip(shown, after.labels, strict=True):
        free = np.where(np.isin(new, list(settled)), np.uint8(0), new)
        labels.append(np.where(np.isin(old, list(settled)), old, free))
    rows = [row for row in before.rows if row.object in settled]
    return replace(after, labels=tuple(labels), rows=(*rows, *(row for row in after.rows if row.object not in settled)))


def tell_outlined_anew(state: State, before: SessionResult, after: SessionResult) -> SessionResult:
    """A result with a line for each image of a set that was pointed at before, and that is outlined otherwise now.

    What a click means is read off other images, once they show it: what was seen there and accepted may change.
    """
    fresh, told = {gesture.place for gesture in state.fresh}, list[str]()
    for row in after.rows:
        if row.view == IMAGE and row.prompted and (row.object, IMAGE, row.slice) not in fresh:
            was, now = (each.labels[row.slice] == row.object for each in (before, after))
            if was.any() and dice_of(was, now) < SAME_OUTLINE:
                told.append(f"image {row.slice + 1}: object {row.object} was outlined anew, as other images show what is meant")
    return replace(after, warnings=(*after.warnings, *told)) if told else after


def claim_pixels(image: SessionImage, state: State, result: SessionResult, t: int, last: int) -> Frame:
    """What edited structures have on an image (H, W) of a set by their own word, whoever took some of it; 0 for nothing.

    Args:
        image: a set.
        state: with the gestures.
        result: that these correct.
        t: which image.
        last: gesture up to which, by its id.
    """
    claims = np.where(result.beneath[t], result.beneath[t], result.labels[t]) if result.beneath else result.labels[t].copy()
    for gesture in state.fresh:
        if gesture.label in state.edited and gesture.t == t and gesture.id <= last:
            draw_label(claims, gesture.label, answer_mask(gesture, image.frame_shape(gesture.plane, t)), {0, gesture.label})
    return np.where(np.isin(claims, list(state.edited)), claims, np.uint8(0))


def give_back(result: SessionResult, shown: LabelMaps, claims: LabelMaps) -> SessionResult:
    """A result in which edited structures have again what others gave up since it was shown.

    Args:
        result: of tracking.
        shown: labels as they were before it, outlines on single images among them.
        claims: of each image, as `claim_pixels` has them; none where there is nothing to give back.
    """
    if not claims:
        return result
    labels, beneath = list[NDArray[np.uint8]](), list[NDArray[np.uint8]]()
    for now, was, claim in zip(result.labels, shown, claims, strict=True):
        back = (claim != 0) & (now != was)
        labels.append(np.where(back, claim, now))
        beneath.append(np.where((labels[-1] != 0) & (labels[-1] != claim), claim, np.uint8(0)))
    return replace(result, labels=tuple(labels), beneath=tuple(beneath))


def draw_label(frame: Frame, label: int, mask: NDArray[np.bool_], overwritten: set[int]) -> None:
    """Draw a structure anew on a frame, over nothing but these labels."""
    taken = mask & np.any([frame == other for other in overwritten], axis=0)  # a few: faster than `isin`
    frame[frame == label] = 0
    frame[taken] = label


def overwritten_labels(
    image: SessionImage, state: State, result: SessionResult | None, gesture: Gesture, frame: Frame
) -> set[int]:
    """Other labels of a frame (H, W) that the outline of a gesture takes pixels of, as they are taken when it is applied."""
    label, clicked = gesture.label, {int(frame[place]) for place in clicks_inside(gesture)}
    anew = any(each.restarts for each in state.fresh if each.label == label)
    known = set(result.voxels) if result else set[int]()
    if not isinstance(image, SessionVolume) or (label in known and not anew):
        return clicked - state.locked
    order = state.priority
    place = order.index(label) if label in order else 0
    return ((clicked - known - {*order[:place]}) | {*order[place + 1 :]}) - state.locked


def describe_kept(state: State, gesture: Gesture, frame: Frame, taken: set[int]) -> tuple[str, ...]:
    """A line on what others keep of an outline.

    Args:
        state: before the gesture.
        gesture: of clicks and boxes the network found the outline: a part that others keep is no loss.
        frame: labels (H, W) before it.
        taken: other labels that it takes pixels of.

    Raises:
        InvalidRequest: they keep all of it; of clicks that is told, as further ones may reach beyond.
    """
    mask, own = answer_mask(gesture, (frame.shape[0], frame.shape[1])), frame == gesture.label
    seen = mask & np.isin(frame, [0, gesture.label, *taken])
    keepers, left = {int(label) for label in np.unique(frame[mask & ~seen])}, int((mask & ~seen).sum())
    if not left or (gesture.kind == "points" and not state.locked.isdisjoint(keepers)):
        return ()
    names = ", ".join(state.of(label).name for label in sorted(keepers))
    remedy = (
        "erase that there first or, before the new one is applied for the first time, move it up (the dots beside its name)"
    )
    if not seen.any() or (gesture.drawn and (seen == own).all()):
        said = f"all of it lies in {names}, which keeps what it has: {remedy}"
        if gesture.kind == "points":
            return (said,)
        raise InvalidRequest(said)
    return (f"{say_count(left, 'pixel', 'were')} left to {names}: {remedy}",) if gesture.drawn else ()


def describe_lost_box(image: SessionImage, own: Sequence[Gesture]) -> tuple[str, ...]:
    """A line where the last gesture on a structure takes its box in 3D back, since it lies beyond it."""
    *earlier, last = own
    boxes = [each for each in earlier if each.kind == "box" and each.frames and each.inside]
    if not boxes or (last.kind == "box" and last.frames) or not isinstance(image, SessionVolume):
        return ()
    before, after = (any(map(is_solid_box, image.prompts(each))) for each in (earlier, own))
    return ("its box in 3D no longer counts, since this lies beyond it",) if before and not after else ()


def describe_ball(state: State, gesture: Gesture, there: NDArray[np.uint8]) -> tuple[str, ...]:
    """A line on what others keep of a ball that is painted.

    Args:
        state: before the gesture.
        gesture: the ball.
        there: labels (N,) of its voxels before it.

    Raises:
        InvalidRequest: it changes nothing.
    """
    others = {int(label) for label in np.unique(there)} - {0, gesture.label}
    names = ", ".join(state.of(label).name for label in sorted(others))
    if not gesture.inside and not (there == gesture.label).any():
        raise InvalidRequest("there is nothing of it there")
    if gesture.inside and (there != 0).all():
        raise InvalidRequest(
            f"all of it lies in {names}, which keeps what it has: erase that there first" if others else "all of it is there"
        )
    left = int(np.isin(there, list(others)).sum()) if gesture.inside else 0
    return (f"{say_count(left, 'voxel', 'were')} left to {names}, which keeps what it has",) if left else ()


def check_open(state: State, label: int) -> None:
    """Refuse to change a structure that is locked, or not there; raises InvalidRequest."""
    if state.of(label).locked:
        raise InvalidRequest("this structure is locked; unlock it to change it")


def check_lockable(state: State) -> None:
    """Refuse to lock before gestures that were not tracked yet, which may take its voxels; raises InvalidRequest."""
    if state.fresh:
        raise InvalidRequest("apply the changes first, or undo them; then lock it")


def check_number(state: State, label: int, value: int) -> None:
    """Refuse a number that another structure has in files; raises InvalidRequest."""
    if value in {number for other, number in state.numbers.items() if other != label}:
        raise InvalidRequest(f"another structure has the number {value}; choose another one")


def _check_settled(state: State, result: SessionResult, label: int) -> None:
    check_open(state, label)
    if any(gesture.label == label for gesture in state.fresh):
        raise InvalidRequest("this structure has changes that are not yet applied; apply them first")
    if label not in result.voxels:
        raise InvalidRequest("this structure was not tracked yet; apply it first")


def _replaced(
    state: State, result: SessionResult, labels: LabelMaps, gone: set[int], new: Sequence[Structure]
) -> StructureEdit:
    """Others in place of some structures; how sure the network was of them, nobody knows."""
    others = [each for each in state.structures if each.label not in gone]
    rows = tuple(row for row in result.rows if row.object not in gone)
    left = replace(state, structures=tuple(others))
    made = [replace(each, edited=True) for each in _numbered(left, new)]
    beneath = result.beneath and tuple(
        np.where(np.isin(under, list(gone)), np.uint8(new[0].label), under) for under in result.beneath
    )
    return StructureEdit((*others, *made), replace(result, labels=labels, rows=rows, beneath=beneath))


def _numbered(state: State, new: Sequence[Structure]) -> list[Structure]:
    """New structures with numbers that no other has."""
    found, taken = list[Structure](), set(state.numbers.values())
    for each in new:
        number = each.value or each.label
        number = number if number not in taken else max(taken) + 1
        taken.add(number)
        found.append(replace(each, value=0 if number == each.label else number))
    return found


def number_for(state: State, label: int) -> int:
    """The number in files of a new structure, 0 where it is its label."""
    (found,) = _numbered(state, [Structure(label, "", "")])
    return found.value

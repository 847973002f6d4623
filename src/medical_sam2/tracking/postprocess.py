"""Islands: parts of an object that hang together with nothing that was prompted.

Tracking leaves crumbs far from the object, most of all beyond its ends. What a person pointed at is one thing, so parts
that are connected with no prompt are dropped. Parts count as connected across gaps of up to `BRIDGE` voxels: a slice that
tracking missed does not cut the object in two.

Shapes: I J K voxels.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import cast

import numpy as np
from numpy.typing import NDArray

from medical_sam2.io.labels import object_boxes
from medical_sam2.prompts import Box, FramePrompt, Mask, Point, Prompt
from medical_sam2.strokes import Brush, Diameter, Stroke, says_where

BRIDGE = 2
CRUMB = 0.05  # of the largest part in a box: smaller ones are no part of what the box was drawn around
EVERYWHERE = np.ones((3, 3, 3), bool)


def load_ndimage() -> ModuleType:
    """scipy.ndimage, loaded when it is used: its libraries wait for ever where memory is short, which is looked at before."""
    from scipy import ndimage

    return ndimage


def remove_islands(labels: NDArray[np.unsignedinteger], prompts: Sequence[Prompt]) -> list[str]:
    """Drop, in place, the parts of each prompted object that no prompt of it touches; all stay where no part is touched.

    Args:
        labels: (I, J, K), in the order of the file.
        prompts: of any objects; clicks and outlines touch the parts they lie in, a box those inside of it that are not far
            smaller than the largest.

    Returns:
        A line for each object of which parts in a box were dropped for their size.
    """
    boxes, told = object_boxes(labels), list[str]()
    for label in sorted({prompt.object for prompt in prompts}):
        box = boxes.get(label)
        if box is not None:
            own = [prompt for prompt in prompts if prompt.object == label]
            boxed, pointed = ([p for p in own if isinstance(p, Box) == is_box] for is_box in (True, False))
            touched = (_touched_voxels(each, labels.shape, box) for each in (pointed, boxed))
            parts, voxels = _keep_touched(labels[box], label, *touched)
            if parts:
                told.append(
                    f"object {label}: {parts} small parts in its box ({voxels} voxels) were dropped; `islands` keeps them"
                )
    return told


def _keep_touched(
    part: NDArray[np.unsignedinteger], label: int, pointed: NDArray[np.bool_], boxed: NDArray[np.bool_]
) -> tuple[int, int]:
    """How many parts in a box were dropped for their size, and their voxels."""
    mask = part == label
    bridged = load_ndimage().binary_dilation(mask, EVERYWHERE, iterations=BRIDGE // 2) if BRIDGE > 1 else mask
    pieces, count = cast("tuple[NDArray[np.int32], int]", load_ndimage().label(bridged, EVERYWHERE))
    shown, within = (np.unique(pieces[touched & mask]) for touched in (pointed, boxed))
    sizes = np.bincount(pieces[mask], minlength=count + 1)
    keep = np.union1d(shown, within[sizes[within] >= CRUMB * sizes[within].max(initial=0)])
    if count < 2 or not len(keep):
        return 0, 0
    kept = np.zeros(count + 1, bool)
    kept[keep] = True
    for slab, inside, piece in zip(part, mask, pieces, strict=True):  # no further array of the volume's size
        slab[inside & ~kept[piece]] = 0
    crumbs = within[~kept[within]]
    return len(crumbs), int(sizes[crumbs].sum())


def _touched_voxels(prompts: Sequence[Prompt], shape: tuple[int, ...], box: tuple[slice, ...]) -> NDArray[np.bool_]:
    """Voxels of a box that the prompts of one object touch."""
    touched = np.zeros([side.stop - side.start for side in box], bool)
    for prompt in prompts:
        if isinstance(prompt, Mask):
            touched |= prompt.array_ijk[box]
        elif not says_where(prompt):
            continue
        elif isinstance(prompt, Point):
            _mark_touched(touched, box, [slice(i, i + 1) for i in map(_within, prompt.index_ijk, shape)])
        elif isinstance(prompt, Diameter):
            for place in prompt.places_ijk:
                _mark_touched(touched, box, [slice(i, i + 1) for i in map(_within, place, shape)])
        elif isinstance(prompt, Stroke | Brush):
            drawn = prompt.voxels if isinstance(prompt, Brush) else prompt.region(shape, min(prompt.planes()))
            for voxel in drawn.tolist():
                _mark_touched(touched, box, [slice(i, i + 1) for i in voxel])
        elif isinstance(prompt, Box):
            _mark_touched(touched, box, prompt.slices)
    return touched


def _within(index: float, size: int) -> int:
    """The voxel of an index, the last one where it rounds beyond."""
    return min(max(0, round(index)), size - 1)


def _mark_touched(touched: NDArray[np.bool_], box: Sequence[slice], marked: Sequence[slice]) -> None:
    """Mark what lies in the box."""
    inside = (
        slice(max(0, own.start - side.start), max(0, own.stop - side.start)) for own, side in zip(marked, box, strict=True)
    )
    touched[tuple(inside)] = True


def describe_missed_points(maps: Sequence[NDArray[np.integer]], prompts: Iterable[Prompt]) -> list[str]:
    """Warnings for clicks in a volume that its label maps (I, J, K), several where objects overlap, do not follow."""
    return _describe_missed(maps, ((p.index_ijk, p.object, p.positive) for p in prompts if isinstance(p, Point)))


def describe_taken(earlier: NDArray[np.integer] | None, labels: NDArray[np.integer], prompts: Iterable[Prompt]) -> list[str]:
    """Warnings for objects that nobody corrected, of which a correction took voxels (I, J, K) for others."""
    if earlier is None:
        return []
    asked = sorted({prompt.object for prompt in prompts})
    changed = earlier != labels
    was, now = earlier[changed], labels[changed]
    taken = (was != 0) & np.isin(now, asked) & ~np.isin(was, asked)
    pairs, counts = np.unique(np.stack([was[taken], now[taken]]), axis=1, return_counts=True)
    remedy = "a positive click inside of another object takes it; take the click back if that was not meant"
    return [
        f"object {mine} took {count} voxels of object {other}: {remedy}"
        for (other, mine), count in zip(pairs.T.tolist(), counts.tolist(), strict=True)
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
        place = tuple(map(_within, index, maps[0].shape))
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

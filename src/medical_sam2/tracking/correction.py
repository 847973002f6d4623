"""Corrections: an earlier result is mended around new prompts, and stays as it is elsewhere.

The corrected slice starts from the earlier outline and the new clicks. Tracking goes outward from it, with a typical slice
of the earlier outline remembered beside it. A pixel changes where it changed on the slice before, too, or where a part comes
to light that touches nothing of the earlier outline; beyond the slice on which nothing changes tracking ends. Clicks that
are all positive only add, clicks that are all negative only remove, and parts apart from what was clicked stay. A click means
an error around itself: the nearer it lies to the earlier outline, the smaller is what it may change (`REACH`).

Shapes: I J K voxels, T frames, H W frame.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medical_sam2.errors import ConfigError, GeometryError, InputError, PromptError, list_first
from medical_sam2.intensity_window import Window, named_window
from medical_sam2.io.label_grid import integers
from medical_sam2.io.labels import WHITE, labels_in
from medical_sam2.io.prompt_file import check_limits_given_once
from medical_sam2.io.voxels import SAME_MM, grid_distance
from medical_sam2.model.memory_bank import PolicyBank
from medical_sam2.prompts import FramePrompt, Mask, Point, Prompt, is_solid_box, voxel_of
from medical_sam2.strokes import only_takes_away, says_where
from medical_sam2.tracking.frame_order import FrameOrder, FrameTime
from medical_sam2.tracking.frames import Region, around_all, box_of, clicked_boxes, pixels_of, prompt_extent, region_for
from medical_sam2.tracking.limits import hold_settled
from medical_sam2.tracking.plan import Group, check_named, listed_prompts, refuse_blank
from medical_sam2.tracking.volume_tracker import AROUND, GroupTracker
from medical_sam2.views import View
from medical_sam2.volume import Segmentation, SliceConfidence, Volume, axis_codes, require_volume

REACH = 2.0  # distances of a click to the earlier outline, and a slice or pixel more, within which it may change something


def read_request(
    volume: Volume,
    prompts: Sequence[Prompt],
    earlier: Segmentation | NDArray[np.unsignedinteger] | None = None,
    names: Mapping[int, str] | None = None,
    window: str | Window = "auto",
) -> tuple[tuple[Prompt, ...], NDArray[np.unsignedinteger] | None, Mapping[int, str]]:
    """Prompts, labels of an earlier result, and names, as whoever uses the package gives them, if they can be some.

    Raises:
        InputError: the image is no volume or, unless its window is given in numbers, holds one value only; an earlier result
            is none.
        GeometryError: the earlier result lies in another grid.
        PromptError: what is no prompt; two boxes in 3D of one object; a name of an object that nobody prompts.
        ConfigError: names that are none; no such window; objects of the earlier result overlap.
    """
    require_volume(volume)
    named_window(window)  # one that nobody knows is refused before anything is computed
    if isinstance(window, str) and "," not in window:  # in numbers it may be that of a whole, of which this is a part
        refuse_blank(volume)
    listed, called = listed_prompts(prompts), names or {}
    check_limits_given_once(listed)
    check_named(called, {prompt.object for prompt in listed} if earlier is None else called)
    if isinstance(earlier, Segmentation):
        called = {**earlier.names, **called}
    return listed, _earlier_labels(earlier, volume), called


def _earlier_labels(earlier: object, volume: Volume) -> NDArray[np.unsignedinteger] | None:
    """The labels of an earlier result, if one label map can tell all of it. Raises as `read_request`."""
    if earlier is None:
        return None
    if isinstance(earlier, Segmentation) and earlier.overlaps:
        remedy = "correct one object by itself, or give `earlier.labels`, which hold one object at each voxel"
        raise ConfigError("the earlier result's objects overlap, and a correction mends one label map", remedy)
    labels = earlier.labels if isinstance(earlier, Segmentation) else earlier
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "biuf":
        remedy = "give a Segmentation (io.load_segmentation reads one), or its labels, an array (I, J, K)"
        raise InputError(f"a {type(labels).__name__} is no earlier result", remedy)
    if labels.shape != volume.shape:
        raise GeometryError(f"the earlier result has shape {labels.shape}, the image {volume.shape}", "use the image's grid")
    if isinstance(earlier, Segmentation) and grid_distance(earlier.affine, volume.affine, volume.shape) > SAME_MM:
        raise GeometryError("the earlier result lies elsewhere than the image", "use one that was made in this image")
    return integers(labels, "earlier")


def check_correction(
    earlier: NDArray[np.unsignedinteger] | None,
    prompts: Sequence[Prompt],
    several: object,
    *,
    maps: bool,
    idle: Mapping[str, bool],
) -> None:
    """Refuse what a correction cannot make.

    Args:
        earlier: labels that are corrected; without them nothing is refused.
        prompts: of any objects.
        several: what is asked of objects that overlap.
        maps: whether probabilities are asked for.
        idle: settings that change nothing in a correction → whether one is given.

    Raises:
        ConfigError: maps, objects that overlap, or what changes nothing are asked for.
        PromptError: clicks that only take away from an object that the earlier result does not have; or object 1 is prompted,
            and a mask of black and white is corrected.
    """
    if earlier is None:
        return
    for label in sorted({prompt.object for prompt in prompts}):
        where = any(says_where(prompt) for prompt in prompts if prompt.object == label)
        if not where and not (earlier == label).any() and (there := [*filter(None, np.unique(earlier).tolist())]):
            problem = f"object {label} has negative clicks only, and is none of the earlier result's: {list_first(there)}"
            raise PromptError(problem, "say of which one each prompt is, object=…")
    _ask_if_white(earlier, {prompt.object for prompt in prompts})
    if maps:
        raise ConfigError("a correction keeps no probabilities", "leave `probability` and `uncertainty` out, or `earlier`")
    if setting := next((name for name, given in idle.items() if given), None):
        problem = f"`{setting}` changes nothing: a correction is tracked slice by slice in the plane of its prompts"
        raise ConfigError(problem, "leave it out, or `earlier`")
    if several:
        raise ConfigError("a correction mends one label map", "leave `overlap` and `priority` out, or `earlier`")


# Object 1 is what prompts are of that name none, and what a mask of black and white is as a prompt: they may mean the white.
def _ask_if_white(earlier: NDArray[np.unsignedinteger], asked: Collection[int]) -> None:
    """Refuse prompts of object 1, where all that is corrected is white, the largest number of a pixel."""
    white = int(earlier.max(initial=0))
    if 1 in asked and white in WHITE and white not in asked and labels_in(earlier) == {white}:
        problem = f"object 1 is none of the earlier result's, which has object {white} alone (white)"
        raise PromptError(
            problem, f"say of the prompts that they are of object {white}, or of one from 2 where it is a new one"
        )


# Alone on its slice a negative click shows the network no object, so it says nothing until something was found there.
def take_out(found: Segmentation, prompts: Sequence[Prompt], correct: Callable[..., Segmentation]) -> Segmentation:
    """The result, corrected by the negative clicks inside of it; what else the prompts settled holds.

    What was found on slices that other prompts lie on is shown beside the clicks: else the network takes away what is like
    them there, too.
    """
    clicks = [prompt for prompt in prompts if isinstance(prompt, Point) and not prompt.positive]
    late = [click for click in clicks if found.labels[tuple(map(voxel_of, click.index_ijk))] == click.object]
    if not late:
        return found
    mended = correct([*_outlines_found(found, late), *late], earlier=found.labels)
    for label in {click.object for click in late}:
        own = [prompt for prompt in prompts if prompt.object == label]
        hold_settled(mended.labels, found.labels, own, [click for click in late if click.object == label])
    again = {row.key for row in mended.confidence}
    kept = (row for row in found.confidence if row.key not in again)
    warnings = tuple(dict.fromkeys((*found.warnings, *mended.warnings)))
    return replace(found, labels=mended.labels, confidence=(*kept, *mended.confidence), warnings=warnings)


def _outlines_found(found: Segmentation, clicks: Sequence[Point]) -> list[Mask]:
    """What was found of the clicked objects on prompted slices that no click lies on, an outline for each object and axis."""
    slices: dict[tuple[int, int], list[int]] = {}
    for row in found.confidence:
        if row.prompted and row.object in {click.object for click in clicks}:
            axis = View(row.view).order(axis_codes(found.affine))[0]
            if all(voxel_of(click.index_ijk[axis]) != row.slice for click in clicks if click.object == row.object):
                slices.setdefault((row.object, axis), []).append(row.slice)
    outlines = list[Mask]()
    for (label, axis), own in slices.items():
        drawn_ijk = np.zeros(found.labels.shape, bool)
        np.moveaxis(drawn_ijk, axis, 0)[own] = np.moveaxis(found.labels, axis, 0)[own] == label
        if drawn_ijk.any():
            outlines.append(Mask(drawn_ijk, label, axis))
    return outlines


def correct_labels(tracker: GroupTracker, groups: Sequence[Group], earlier: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
    """The earlier labels (I, J, K), mended where prompts were given; the tracker's rows are filled.

    Raises:
        PromptError: an object has negative clicks only on a slice where it is not.
    """
    highest = max(int(earlier.max()), *(label for group in groups for label in group.prompts))
    labels = earlier.astype(np.min_scalar_type(highest))
    for group in groups:
        stack = group.view.apply(labels, tracker.config.volume.orientation)
        for label in group.prompts:
            if any(is_solid_box(prompt) for prompt in group.given[label]):
                raise PromptError(f"a correction of object {label} takes no box in 3D", "draw it on one slice, or outline anew")
            frames = group.part([label]).frames(tracker.config.volume, group.view)
            if shown := _shown_prompts(tracker.config.volume, group, label, stack == label):
                spacing = group.view.spacing(tracker.config.volume.spacing_mm, tracker.config.volume.orientation)
                old_thw = (stack == label).copy()
                _correct_object(tracker, _CorrectedObject(label, group.view, stack, old_thw, shown, frames, spacing))
    return labels


def _shown_prompts(volume: Volume, group: Group, label: int, old_thw: NDArray[np.bool_]) -> dict[int, FramePrompt]:
    """The new prompts of an object, less regions that are not it on frames where nothing of it is: they hold already."""
    others = (prompt for prompt in group.given[label] if not only_takes_away(prompt))
    clicked = {t for prompt in others for t in prompt.project(group.view, volume.shape, volume.orientation)}
    return {t: prompt for t, prompt in group.prompts[label].items() if t in clicked or old_thw[t].any()}


@dataclass(frozen=True, eq=False)
class _CorrectedObject:
    """What is corrected."""

    label: int  # of the object
    view: View  # in which the new prompts lie
    stack_thw: NDArray[np.unsignedinteger]  # all labels along it, mended in place
    old_thw: NDArray[np.bool_]  # the object as it was
    new: Mapping[int, FramePrompt]  # frame → new prompt
    frames: range  # on which it may change
    spacing_mm: tuple[float, float, float]  # of the frames, their rows and their columns
    # frame → what was added there, and what was taken away; filled as it is tracked
    changes: dict[int, tuple[NDArray[np.bool_], NDArray[np.bool_]]] = field(default_factory=dict)

    @cached_property
    def prompts(self) -> dict[FrameTime, FramePrompt]:
        """The prompts of the corrected frames, old and new together, and of the reference, which is seen in a pass of its own.

        The reference is the slice of median area: the largest one may be a leak. It is only remembered, and visited again.
        """
        joined = {FrameTime(0, t): self._join_prompts(t, prompt) for t, prompt in self.new.items()}
        areas = self.old_thw.sum(axis=(1, 2))
        by_area = sorted((int(area), t) for t, area in enumerate(areas) if area and t not in self.new)
        if not by_area:
            return joined
        _, typical = by_area[len(by_area) // 2]
        return joined | {FrameTime(1, typical): FramePrompt.mask(self.old_thw[typical])}

    def _join_prompts(self, t: int, prompt: FramePrompt) -> FramePrompt:
        """New clicks correct the earlier outline; a new box or outline replaces it."""
        drawn = prompt.mask_hw is not None or prompt.box_xyxy is not None
        if drawn or not self.old_thw[t].any():
            if not drawn and not prompt.labels.any():
                problem = f"object {self.label} has negative clicks only on a slice where it is not"
                raise PromptError(problem, "click on a slice of the object, or add a click inside it")
            return prompt
        return FramePrompt.mask(self.old_thw[t]) | prompt

    @cached_property
    def labels_giving_way(self) -> set[int]:
        """Labels that give way: background, and objects clicked on for this one, read off before anything is drawn."""
        clicked = {
            int(self.stack_thw[t, y, x])
            for t, prompt in self.new.items()
            for x, y in pixels_of(prompt.points_xy[prompt.labels == 1], self.stack_thw.shape[1:])
        }
        return clicked | {0, self.label}

    @cached_property
    def untouched_thw(self) -> NDArray[np.bool_]:
        """Parts of the earlier object that hang together with nothing that was clicked, boxed or outlined: they stay."""
        parts, _ = cast("tuple[NDArray[np.int32], int]", ndimage.label(self.old_thw))
        touched = {0}
        for t, prompt in self.new.items():
            touched |= {int(parts[t, y, x]) for x, y in pixels_of(prompt.points_xy, self.stack_thw.shape[1:])}
            if prompt.box_xyxy is not None:
                (x_low, y_low), (x_high, y_high) = pixels_of(prompt.box_xyxy.reshape(2, 2), self.stack_thw.shape[1:])
                touched |= {*np.unique(parts[t, y_low : y_high + 1, x_low : x_high + 1]).tolist()}
            if prompt.mask_hw is not None:
                touched |= {*np.unique(parts[t, prompt.mask_hw]).tolist()}
        return ~np.isin(parts, list(touched))

    @cached_property
    def directions(self) -> tuple[bool, bool] | None:
        """Whether clicks may add to the object, and take away from it; None where a box or an outline was given too.

        A click that the earlier result follows asks for nothing beside those that it does not.
        """
        if any(prompt.mask_hw is not None or prompt.box_xyxy is not None for prompt in self.new.values()):
            return None
        inside = np.concatenate([prompt.labels for prompt in self.new.values()]) == 1
        places = [(t, pixels_of(prompt.points_xy, self.old_thw.shape[1:])) for t, prompt in self.new.items()]
        followed = np.concatenate([self.old_thw[t, xy[:, 1], xy[:, 0]] for t, xy in places]) == inside
        return bool(inside.all() or (inside & ~followed).any()), bool(not inside.any() or (~inside & ~followed).any())

    @cached_property
    def reach_of_clicks(self) -> list[tuple[tuple[int, int, int], tuple[float, float]]] | None:
        """Each click's place (t, y, x), and how far from it the object may change: through the frames, and on them, in mm.

        None where more than clicks is given. On a frame without the object a click reaches everywhere: all of it was missed.
        """
        drawn = any(prompt.settled_hw is not None for prompt in self.new.values())
        if self.directions is None or drawn or not self.old_thw.any():
            return None
        height, width = self.old_thw.shape[1:]
        places = [(t, y, x) for t, prompt in self.new.items() for x, y in pixels_of(prompt.points_xy, (height, width)).tolist()]
        thick, *pixel = self.spacing_mm
        return [
            (
                (t, y, x),
                (
                    REACH * distance_to_border(self.old_thw, (t, y, x), self.spacing_mm) + thick,
                    REACH * distance_to_border(self.old_thw[t], (y, x), pixel) + max(pixel),
                ),
            )
            for t, y, x in places
        ]

    def within_reach(self, t: int) -> NDArray[np.bool_] | np.bool_:
        """Where on a frame (H, W) the object may change: in an ellipsoid around each click, and between clicked frames."""
        if self.reach_of_clicks is None or min(self.new) < t < max(self.new):
            return np.True_
        thick, high, wide = self.spacing_mm
        rows, columns = np.ogrid[: self.old_thw.shape[1], : self.old_thw.shape[2]]
        near = np.zeros(self.old_thw.shape[1:], bool)
        for (click_t, y, x), (through, along) in self.reach_of_clicks:
            on_frame = ((rows - y) * high / along) ** 2 + ((columns - x) * wide / along) ** 2
            near |= on_frame + ((t - click_t) * thick / through) ** 2 <= 1
        return near

    def restrict(self, t: int, mask_hw: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """What was found on a frame, less what the prompts do not ask for; a drawn outline stays but for negative clicks."""
        if t in self.new:
            prompt = self.prompts[FrameTime(0, t)]
            mask_hw = mask_hw & ~prompt.cleared_hw() if prompt.mask_hw is not None else mask_hw
            if self.new[t].mask_hw is not None:
                return mask_hw
        adds, takes = self.directions or (True, True)
        mask_hw = mask_hw if takes else mask_hw | self.old_thw[t]
        mask_hw = mask_hw if adds else mask_hw & self.old_thw[t]
        return mask_hw | self.untouched_thw[t]

    def spread(self, t: int, mask_hw: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """What becomes of the object on a frame beyond the corrected ones: the change of the frame before it goes on.

        What tracking finds further away from a click differs from the earlier outline for many reasons; a change that
        has no like on the frame nearer to the click is none of those that were asked for.
        """
        near = self.within_reach(t)
        added, removed = mask_hw & ~self.old_thw[t] & near, self.old_thw[t] & ~mask_hw & near
        if not min(self.new) <= t <= max(self.new):
            nearer_added, nearer_removed = self.changes[t - 1 if t > max(self.new) else t + 1]
            added, removed = self._continued(t, added, nearer_added), removed & nearer_removed
        self.changes[t] = added, removed
        return (self.old_thw[t] | added) & ~removed

    def _continued(self, t: int, added: NDArray[np.bool_], nearer: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """What is added again, and whole parts that touch nothing of the earlier outline: an end, a second part."""
        parts, _ = cast("tuple[NDArray[np.int32], int]", ndimage.label(added))
        beside = np.unique(parts[np.asarray(ndimage.binary_dilation(self.old_thw[t]), bool)])
        return (added & nearer) | np.isin(parts, np.setdiff1d(parts[nearer], [0, *beside]))

    def draw(self, t: int, mask_hw: NDArray[np.bool_], free: set[int]) -> None:
        """Draw the object anew on a frame."""
        frame = self.stack_thw[t]
        taken = mask_hw & np.isin(frame, list(free))
        frame[frame == self.label] = 0
        frame[taken] = self.label


def distance_to_border(mask: NDArray[np.bool_], place: tuple[int, ...], spacing_mm: Sequence[float]) -> float:
    """From a voxel, or a pixel, to the nearest one on the other side of the mask's border, in mm; inf where there is none."""
    half = 8  # the search widens until nothing nearer can lie outside of it: a transform of the whole volume takes seconds
    while True:
        cut = tuple(slice(max(0, at - half), at + half + 1) for at in place)
        others = np.argwhere(mask[cut] != mask[place]) + [each.start for each in cut]
        nearest = float(np.linalg.norm((others - place) * spacing_mm, axis=1).min(initial=np.inf))
        if nearest <= half * min(spacing_mm) or mask[cut].size == mask.size:
            return nearest
        half *= 2


def _correct_object(tracker: GroupTracker, what: _CorrectedObject) -> None:
    """Ahead from the first corrected slice, then back from it, each until nothing changes."""
    clicked, frames = sorted(what.new), what.frames
    first, last = clicked[0], clicked[-1]
    start = sorted(what.prompts, reverse=True)
    ahead = [FrameTime(0, t) for t in range(first, frames.stop) if t not in what.new]
    behind = [FrameTime(0, t) for t in range(first - 1, frames.start - 1, -1)]
    tracker.progress.planned += len(start) + len(ahead) + len(behind)
    banks, region = tracker.view_tracker.banks([what.label], what.view), _region_of(tracker, what)
    region = _track_one_way(tracker, what, banks, region, [*start, *ahead], range(last + 1, frames.stop))
    _track_one_way(tracker, what, banks, region, behind, range(first))


def _region_of(tracker: GroupTracker, what: _CorrectedObject) -> Region | None:
    """What is shown: around all that the object was, and all its prompts."""
    if not tracker.config.zoom:
        return None
    canvas = tracker.view_tracker.frames(what.view).canvas
    boxes = [prompt_extent(prompt) for prompt in what.prompts.values()]
    if what.old_thw.any():
        boxes.append(box_of(np.any(what.old_thw, axis=0)))
    region = region_for(canvas, around_all(boxes), AROUND)
    clicked = {t: prompt for t, prompt in what.new.items() if not what.old_thw[t].any()}
    boxes += clicked_boxes(canvas, clicked, region, partial(tracker.view_tracker.ask, what.view))
    return region_for(canvas, around_all(boxes), AROUND)


def _track_one_way(
    tracker: GroupTracker,
    what: _CorrectedObject,
    banks: dict[int, PolicyBank],
    region: Region | None,
    order: Sequence[FrameTime],
    ends: range,
) -> Region | None:
    """One way; it may end on the frames of `ends`. Returns the region that was shown last."""
    free = what.labels_giving_way
    followed = tracker.view_tracker.track_frames(what.view, {what.label: what.prompts}, FrameOrder(order), banks, region)
    for place, found in enumerate(followed, 1):
        t, region = found.frame, found.stack.region
        mask = found.probability_BHW[0] > 0.5
        if found.time.pass_number == 0:
            mask = what.spread(t, what.restrict(t, mask))
            if t in ends and not np.any(what.changes[t]):
                tracker.progress.planned -= len(order) - place
                tracker.report_frame(found.stack, t, (what.label,), mask[None])
                break
            what.draw(t, mask, free)
            place_of = what.label, what.view.code, found.stack.slice_index(t)
            tracker.rows.append(SliceConfidence(*place_of, found.confidence_B[0], int(mask.sum()), t in what.new))
        tracker.report_frame(found.stack, t, (what.label,), mask[None])
    return region

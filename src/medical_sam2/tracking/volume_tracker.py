"""Tracks groups of objects through the views of a volume, and puts their labels together (METHOD §2).

The view that holds the prompts comes first. Each further one starts on the slice where the estimate so far is largest and
surest, and covers only a margin beyond it. A direction and its reverse share encoded slices, and so do all objects. The order
of the further views follows the likeness of their mean feature to the first one's. Objects are decided in lots that fit into
memory.

Shapes: I J K voxels, B objects, T frames, H W frame.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import say_count
from medical_sam2.intensity_window import Window
from medical_sam2.io.labels import labels_in
from medical_sam2.io.voxels import NO_PLACE
from medical_sam2.model.memory_bank import PolicyBank
from medical_sam2.prompts import FramePrompt
from medical_sam2.strokes import joins_outlines
from medical_sam2.tracking.confidence import count_areas, describe_ends_in, find_leaks_in, mark_collapses, mark_leaks
from medical_sam2.tracking.consensus import Gate, RefinedProbability, TrackedObject, apply_consensus
from medical_sam2.tracking.finishing import remove_islands
from medical_sam2.tracking.frame_order import FrameTime, TrackingResult
from medical_sam2.tracking.frames import (
    AskNetwork,
    FrameDone,
    FrameStack,
    Region,
    TrackingProgress,
    group_regions,
    object_box,
    region_for,
)
from medical_sam2.tracking.fusion import (
    Agreement,
    Fusion,
    FusionFactory,
    LabelMap,
    LimitedProbability,
    ObjectProbability,
    describe_strays,
    expect_between,
    find_start,
)
from medical_sam2.tracking.growth import (
    Comparison,
    InsideOutline,
    Retracking,
    describe_growth,
    grew,
    lies_between,
    may_begin_at_end,
    stayed_small,
)
from medical_sam2.tracking.limits import redraw
from medical_sam2.tracking.plan import (
    HALF_FROM_VOXELS,
    Group,
    TrackingPlan,
    array_axis,
    drawn_prompts,
    frame_prompts,
    largest_frame,
    objects_at_once,
    order_outward,
    prompted_slices,
    unused_prompts,
)
from medical_sam2.tracking.view_tracker import ClickAnswer, TrackingConfig, TrackingPass, ViewTracker
from medical_sam2.views import THREE_VIEWS, View
from medical_sam2.volume import Segmentation, SliceConfidence, Volume, add_to_layers

BETWEEN = 0.5  # weight of an estimate by the shapes of outlines, beside what was found between them
AROUND = 1.5  # side of a region over the extent of the estimate that it is taken from


@dataclass(eq=False)
class GroupTracker:
    """Takes groups of objects through a volume, one after the other; slices that were seen once are not encoded again."""

    config: TrackingConfig  # what stays the same for all groups
    # counts frames; `run` expects that its frames are planned already
    progress: TrackingProgress = field(default_factory=TrackingProgress)
    # how sure the network was of each object on each slice, filled as it goes
    rows: list[SliceConfidence] = field(default_factory=list)
    # further views that found hardly what the earlier ones did, filled as it goes
    warnings: list[str] = field(default_factory=list)
    _judged: dict[tuple[int, int], float] = field(default_factory=dict)  # object, slice → predicted IoU of what a click means
    _answered: dict[tuple[int, int], NDArray[np.bool_]] = field(default_factory=dict)  # object, prompted frame → its mask there
    inside: dict[int, InsideOutline] = field(default_factory=dict)  # of objects that seemed to be prompted at their ends

    def __post_init__(self) -> None:
        self.view_tracker = ViewTracker(self.config)
        other = self.config.end_backbone
        self._end_tracker = None if other is None else ViewTracker(replace(self.config, backbone=other))

    def run(self, group: Group, views: Sequence[View], fusions: dict[int, Fusion], again: Retracking | None = None) -> None:
        """Track a group along every view, its own first, and add what is found to the fusion of each object.

        Args:
            group: the objects.
            views: of the volume.
            fusions: object → its fusion; that of an object prompted at an end of its own is another one afterwards.
            again: what tracking an object once more needs; without it nothing is tracked twice.
        """
        ask = cache(partial(self.view_tracker.ask, views[0]))
        prompts = {label: self._outline_clicks(views[0], label, own, ask) for label, own in group.prompts.items()}
        group = replace(group, prompts=prompts)
        regions = self._choose_regions(views[0], group, ask)
        self.progress.planned += (len(regions) - 1) * sum(self.view_tracker.frames(view).shape_thw[0] for view in views)
        for region, labels in regions:
            self._track_region(group.part(labels), views, fusions, region, again)

    def _outline_clicks(
        self, view: View, label: int, own: Mapping[int, FramePrompt], ask: AskNetwork
    ) -> Mapping[int, FramePrompt]:
        found = self.view_tracker.outline_clicks(view, own, ask)
        if found is None:
            return own
        t, mask, self._judged[label, self.view_tracker.frames(view).slice_index(t)] = found
        return {**own, t: FramePrompt.mask(mask) | own[t]}

    def _choose_regions(self, view: View, group: Group, ask: AskNetwork) -> list[tuple[Region | None, tuple[int, ...]]]:
        """What the network is shown of the frames that hold the prompts, and for which objects."""
        if not self.config.zoom:
            return [(None, tuple(group.prompts))]
        canvas = self.view_tracker.frames(view).canvas
        return group_regions(canvas, {label: object_box(canvas, own, ask) for label, own in group.prompts.items()})

    def _track_region(
        self, group: Group, views: Sequence[View], fusions: dict[int, Fusion], region: Region | None, again: Retracking | None
    ) -> None:
        first, further = views[0], views[1:]
        banks = self.view_tracker.banks(group.prompts, first)
        same = [view for view in further if view.axis == first.axis]
        across = [view for view in further if view.axis != first.axis]
        for place, view in enumerate([first, *same, *self.view_tracker.order_by_likeness(first, across)]):
            if place and not self.config.joint:
                banks = self.view_tracker.banks(group.prompts, view)
            if view.axis == first.axis:
                frames = group.frames(self.config.volume, view)
                self.progress.planned -= self.view_tracker.frames(view).shape_thw[0] - len(frames)
                prompts = {label: self._prompts_along(group, label, view) for label in group.given}
                joined = {label: own for label, own in prompts.items() if joins_outlines(group.given[label])}
                expected = expect_between(joined, self.view_tracker.frames(view).canvas.pixel_hw)
                way = TrackingPass(view, prompts, frames, banks, fusions, place, region, group.limits, expected, not further)
                inside = self.inside.keys() & prompts.keys()
                if others := prompts.keys() - inside:
                    self._track_pass(way.part(others))
                for label in inside:
                    self._track_pass(replace(way.part([label]), region=self.inside[label].region))
                if not place and again and self._end_tracker:
                    self._track_from_ends(way, group, again)
            else:
                self._track_further_view(view, group, banks, fusions, place)

    def _prompts_along(self, group: Group, label: int, view: View) -> Mapping[int, FramePrompt]:
        """An object's prompts in a view of the plane that they lie in."""
        own = self.inside[label].prompts if label in self.inside else group.prompts[label]
        if view == group.view:
            return own
        if view == group.view.reversed:
            frames = self.view_tracker.frames(view).shape_thw[0]
            return {frames - 1 - t: prompt for t, prompt in own.items()}
        return frame_prompts(self.config.volume, group.given[label], view)

    def _track_further_view(
        self, view: View, group: Group, banks: dict[int, PolicyBank], fusions: dict[int, Fusion], number: int
    ) -> None:
        """An orientation that starts from what was found so far; objects that were not found stay out."""
        passes: dict[tuple[range, Region | None, int, tuple[int, ...]], dict[int, Mapping[int, FramePrompt]]] = {}
        stack, axes, agreements = self.view_tracker.frames(view), self.config.volume.orientation, dict[int, Agreement]()
        for label, own in group.given.items():
            drawn = drawn_prompts(self.config.volume, own, view)
            start = find_start(estimate := limited(fusions[label], group, label), view, axes)
            allowed = group.part([label]).frames(self.config.volume, view)
            frames = allowed
            if start is not None:
                frames = range(max(start.frames.start, allowed.start), min(start.frames.stop, allowed.stop))
            own_prompts = (
                drawn if start is None else {start.frame: FramePrompt.mask(start.mask_hw, estimate=start.confidence)} | drawn
            )
            region = (
                region_for(stack.canvas, start.box_xyxy, AROUND)
                if start is not None and self.config.zoom and not drawn
                else None
            )
            if start is not None and not drawn:
                agreements[label] = Agreement.to(estimate, start, view, axes)
            if own_prompts:
                span = range(min([*frames, *own_prompts]), max([*frames, *own_prompts]) + 1)
                key = span, region, largest_frame(own_prompts), tuple(sorted(own_prompts))
                passes.setdefault(key, {})[label] = own_prompts
        self.progress.planned += sum(len(key[0]) for key in passes) - stack.shape_thw[0]
        for (span, region, *_), prompts in passes.items():
            self._track_pass(
                TrackingPass(view, prompts, span, banks, fusions, number, region, group.limits, agreements=agreements)
            )
        volume = self.config.volume
        self.warnings += describe_strays(agreements, None if NO_PLACE in volume.warnings else volume.voxel_mm3)

    def _track_from_ends(self, way: TrackingPass, group: Group, again: Retracking) -> None:
        """Objects that seem to be prompted at ends of theirs, once more: from the prompts and an outline inside of them."""
        stack = self.view_tracker.frames(way.view)
        for label, own in way.prompts.items():
            before, outlines = self._rows_of(label, way.view), {t: self._outline_answered(label, t, own[t]) for t in own}
            first = [*self.rows], way.fusions[label], way.banks[label]
            for (t, mask, sure), accepts in self._outlines_inside(way, label, outlines, again):
                both = outlines | {t: FramePrompt.mask(mask)}
                ask = partial(self.view_tracker.ask, way.view)
                ((region, _),) = self._choose_regions(way.view, replace(group, prompts={label: both}), ask)
                self._judged[label, stack.slice_index(t)] = sure
                if self._track_again(replace(way, prompts={label: both}, region=region), again, before, accepts):
                    self.inside[label] = InsideOutline(stack.slice_index(t), both, region)
                    self.warnings.append(describe_growth(label, before, self._rows_of(label, way.view)))
                    break
            else:
                self.rows[:], way.fusions[label], way.banks[label] = first

    def _outlines_inside(
        self, way: TrackingPass, label: int, outlines: Mapping[int, FramePrompt], again: Retracking
    ) -> Iterator[tuple[ClickAnswer, Comparison]]:
        """What clicks inside of an object prompted at its ends, as it seems, mean, and when an answer from there is taken."""
        before, slices = self._rows_of(label, way.view), map(self.view_tracker.frames(way.view).slice_index, way.frames)
        axis = array_axis(self.config.volume, way.view)
        if len(outlines) == 2 and label not in way.expected:
            between = self.view_tracker.outline_between(way.view, outlines)
            if between and lies_between(*between, before, partial(again.refine, label, way.fusions[label]), axis):
                yield between[0], lambda *_: True
        step_mm = self.config.volume.spacing_mm[axis]
        if may_begin_at_end(before, [*slices], self.config.volume.voxel_mm3 / step_mm**3):
            self._track_again(replace(way, prompts={label: outlines}, from_end=True), again, before, grew)  # leads inside
        elif label in way.expected or not stayed_small(before):
            return
        if found := self.view_tracker.outline_inside(way.view, again.refine(label, way.fusions[label]), outlines):
            yield found, grew

    def _rows_of(self, label: int, view: View) -> list[SliceConfidence]:
        return [row for row in self.rows if (row.object, row.view) == (label, view.code)]

    def _track_again(
        self, way: TrackingPass, again: Retracking, before: Sequence[SliceConfidence], accepts: Comparison
    ) -> bool:
        """One object once more; whether the answer was taken."""
        (label,), at = way.prompts, len(self.rows)
        banks, fusion = self.view_tracker.banks([label], way.view), {label: again.new_fusion()}
        self.progress.planned += len(way.frames)
        self._track_pass(replace(way, banks=banks, fusions=fusion))
        prompted = {row.slice for row in before if row.prompted}
        after = [replace(row, prompted=row.slice in prompted) for row in self.rows[at:]]
        if not accepts(before, after):
            del self.rows[at:]
            return False
        self.rows[:at] = [row for row in self.rows[:at] if (row.object, row.view) != (label, way.view.code)]
        self.rows[len(self.rows) - len(after) :] = after
        way.fusions[label], way.banks[label] = fusion[label], banks[label]
        return True

    def _outline_answered(self, label: int, t: int, prompt: FramePrompt) -> FramePrompt:
        """A click or a box on a frame as what it was taken for there; outlines stay."""
        mask = self._answered.get((label, t))
        return prompt if prompt.mask_hw is not None or mask is None or not mask.any() else FramePrompt.mask(mask)

    def _track_pass(self, way: TrackingPass) -> None:
        """Outward from the frame with the largest prompt, each way until all objects have ended.

        Where frames are left out, one object after the other: which frames are alike must not depend on who comes along.
        """
        if len(way.prompts) > 1 and self.config.longest_step > 1:
            self.progress.planned += (len(way.prompts) - 1) * len(way.frames)
            for label in way.prompts:
                self._track_pass(way.part([label]))
            return
        prompted = {t for own in way.prompts.values() for t in own}
        timed = {label: {FrameTime(way.number, t): prompt for t, prompt in own.items()} for label, own in way.prompts.items()}
        start = largest_frame(next(iter(way.prompts.values())))  # that of the others too, see `grouped`
        ways = [[FrameTime(way.number, t) for t in frames] for frames in order_outward(prompted, way.frames, start)]
        rows = dict[FrameTime, list[SliceConfidence]]()
        tracker = (self._end_tracker if way.from_end else None) or self.view_tracker
        with closing(tracker.track_outward(way.view, timed, ways, way.banks, way.region, last=way.last)) as tracked:
            for found in tracked:  # closed at once where somebody breaks off: another core may be at work
                rows[found.time] = self._add_result(way, found)
        self.rows += [row for t in chain(*ways) for row in rows.get(t, ())]  # ways that are tracked at once come in any order
        self._skip_frames(way, set(way.frames) - {t.frame for t in rows})

    def _skip_frames(self, way: TrackingPass, frames: Collection[int]) -> None:
        """Frames beyond the end of all objects hold none of them."""
        empty = np.zeros(self.view_tracker.frames(way.view).shape_thw[1:], np.float32)
        for t in frames:
            for label in way.prompts:
                way.fusions[label].add(way.view, t, empty, way.weight(label, t, empty, 0.0))
        self.progress.planned -= len(frames)

    def _add_result(self, way: TrackingPass, found: TrackingResult) -> list[SliceConfidence]:
        """Add one frame's probabilities where they belong; how sure they are."""
        t, labels, rows = found.frame, tuple(way.prompts), list[SliceConfidence]()
        for label, probability, confidence in zip(labels, found.probability_BHW, found.confidence_B, strict=True):
            self._apply_expected(way, label, t, probability)
            way.fusions[label].add(way.view, t, probability, way.weight(label, t, probability, confidence))
            area, prompt, index = int((probability > 0.5).sum()), way.prompts[label].get(t), found.stack.slice_index(t)
            estimate = None if prompt is None else prompt.estimate  # a further view begins with one: nobody prompted it there
            prompted = prompt is not None and estimate is None
            if prompted and not way.from_end:
                self._answered[label, t] = probability > 0.5
            sure = self._judged.get((label, index), confidence) if prompted else confidence if estimate is None else estimate
            rows.append(SliceConfidence(label, way.view.code, index, sure, area, prompted))
        self.report_frame(found.stack, t, labels, found.probability_BHW > 0.5)
        return rows

    def _apply_expected(self, way: TrackingPass, label: int, t: int, probability_HW: NDArray[np.float32]) -> None:
        """Make a frame follow what the prompts let expect and what they settle, in place."""
        expected_HW = way.expected.get(label, {}).get(t)
        if expected_HW is not None:
            probability_HW += BETWEEN * (expected_HW - probability_HW)
        if label not in way.limits:
            return
        stack = self.view_tracker.frames(way.view)
        start = [0, 0, 0]
        start[array_axis(self.config.volume, way.view)] = stack.slice_index(t)
        way.limits[label].apply(way.view.invert(probability_HW[None], stack.axes), start)

    def report_frame(self, stack: FrameStack, t: int, labels: tuple[int, ...], masks_bhw: NDArray[np.bool_]) -> None:
        """Report that one more frame is done."""
        progress = self.progress
        progress.done += 1
        if progress.on_frame:
            total, index = max(progress.done, progress.planned), stack.slice_index(t)
            progress.on_frame(FrameDone(progress.done, total, stack.view.code, index, labels, masks_bhw))


def limited(found: ObjectProbability, group: Group, label: int) -> ObjectProbability:
    """The probabilities of an object as its prompts allow."""
    return LimitedProbability(found, group.limits[label]) if label in group.limits else found


@dataclass(frozen=True, eq=False)
class ResultOptions:
    """What is made of the tracked probabilities."""

    fusion: FusionFactory  # how those of the views are summed
    probability: bool = False  # whether they are handed out
    uncertainty: bool = False  # whether the views' disagreement is
    islands: bool = False  # whether parts stay that hang together with no prompt
    gate: Gate | None = None  # of the consensus that follows tracking; none where there is none
    slice_judge: Gate | None = None  # of how good each slice is after the consensus; none where there is none
    overlap: bool = False  # whether each object is kept whole, too, in layers
    priority: tuple[int, ...] = ()  # labels that come before others where objects meet


@dataclass(eq=False)
class VolumeTracker:
    """One volume on its way from prompts to labels; objects are decided in lots that fit into memory."""

    volume: Volume  # the image
    plan: TrackingPlan  # all objects that are prompted, and their views
    options: ResultOptions  # what is made of the probabilities
    progress: TrackingProgress  # over all objects
    start_ijk: tuple[int, int, int] = (0, 0, 0)  # where the volume begins in the one that people know, if it is a part of that
    rows: list[SliceConfidence] = field(default_factory=list)  # how sure the network was, filled by the trackers
    windows: dict[int, Window] = field(default_factory=dict)  # object → what it was seen through, filled by whoever chooses it

    def __post_init__(self) -> None:
        self._warnings = dict.fromkeys(self.plan.warnings)
        self._waiting: dict[int, ObjectProbability] = {}
        self._maps: dict[int, NDArray[np.float32]] = {}
        self._spread: NDArray[np.float32] | None = None
        self._layers: list[NDArray[np.unsignedinteger]] = []
        prompted = {label: found for group in self.plan.groups for label, found in prompted_slices(self.volume, group).items()}
        self._found = LabelMap(self.volume.shape, max(self.plan.labels), self.options.priority, prompted)

    def track(self, tracker: GroupTracker, groups: Sequence[Group]) -> None:
        """Track groups of the plan, or parts of them, that are seen through the same window."""
        most = objects_at_once(self.volume, uncertainty=self.options.uncertainty)
        lots: list[Group] = []
        for group in groups:
            self._warnings |= dict.fromkeys(unused_prompts(self.volume, group))
            labels = tuple(group.prompts)
            lots += [group.part(labels[i : i + most]) for i in range(0, len(labels), most)]
        self.progress.planned += sum(tracker.view_tracker.frames(view).shape_thw[0] for group in lots for view in group.views)
        for group in lots:
            if len(self._waiting) + len(group.prompts) > most:
                self._enter_labels()
            own = {label: self._fusion() for label in group.prompts}
            tracker.run(group, group.views, own, Retracking(self._fusion, partial(self._find_connected, tracker, group)))
            self._warnings |= dict.fromkeys(tracker.warnings)
            for label, fusion in own.items():
                self._waiting[label] = limited(self._apply_consensus(tracker, group, label, fusion), group, label)

    def _fusion(self) -> Fusion:
        """Room for the probabilities of one object."""
        dtype = np.float16 if self.volume.array.size >= HALF_FROM_VOXELS else np.float32
        shape, axes = self.volume.shape, self.volume.orientation
        return self.options.fusion(shape, axes, uncertainty=self.options.uncertainty, dtype=dtype)

    def _find_consensus(self, tracker: GroupTracker, group: Group, label: int, fusion: Fusion) -> ObjectProbability:
        """What was found of an object, after the consensus."""
        if self.options.gate is None:
            return fusion
        volume, axis, window = self.volume, array_axis(self.volume, group.view), tracker.config.window
        confidence = np.zeros(volume.shape[axis])
        rows = [row for row in tracker.rows if (row.object, row.view) == (label, group.view.code)]
        confidence[[row.slice for row in rows]] = [row.confidence for row in rows]
        inside = {tracker.inside[label].slice} if label in tracker.inside else set[int]()
        prompted = [row.slice for row in rows if row.prompted or row.slice in inside]
        seen = TrackedObject(fusion, lambda i: window.apply(volume.array[i]), axis, prompted, confidence, volume.spacing_mm)
        return apply_consensus(self.options.gate, seen, fusion, self.options.slice_judge)

    def _find_connected(self, tracker: GroupTracker, group: Group, label: int, fusion: Fusion) -> NDArray[np.bool_]:
        """What was found of an object, after the consensus, as far as it hangs together with its prompts (I, J, K)."""
        found = limited(self._find_consensus(tracker, group, label, fusion), group, label)
        labels = np.zeros(fusion.shape, np.uint16)
        for i, slab in enumerate(labels):
            slab[np.asarray(found[i]) > 0.5] = label
        remove_islands(labels, self.plan.prompts)
        return labels > 0

    def _apply_consensus(self, tracker: GroupTracker, group: Group, label: int, fusion: Fusion) -> ObjectProbability:
        """The same; and its rows are as sure of it as is known now."""
        found = self._find_consensus(tracker, group, label, fusion)
        if isinstance(found, RefinedProbability):
            mine = {(label, group.view.code, t): sure for t, sure in found.confidence.items()}
            self.rows[:] = [
                replace(row, confidence=mine[row.key], source="consensus") if row.key in mine else row for row in self.rows
            ]
        return found

    def _enter_labels(self, *, last: bool = False) -> None:
        """Enter the waiting objects in the labels, and keep what was asked for."""
        self._found.add(self._waiting, last=last)
        for label, fusion in self._waiting.items():
            if self.options.overlap:
                alone = LabelMap(self.volume.shape, label)
                alone.add({label: fusion}, last=True)
                self._remove_islands(alone.labels)
                self._redraw(alone.labels, (label,))
                add_to_layers(self._layers, label, alone.labels != 0)
            if self.options.probability:
                self._maps[label] = fusion.result()
            if self.options.uncertainty:
                spread = fusion.uncertainty()
                self._spread = spread if self._spread is None else np.maximum(self._spread, spread, out=self._spread)
        self._waiting = {}

    def result(self, names: Mapping[int, str], mended: NDArray[np.unsignedinteger] | None) -> Segmentation:
        """Labels with the slices that the user outlined as they were drawn, and all that was noted on the way."""
        # outlines are put back last, so that neither islands nor other objects take anything of them
        if mended is None:
            self._enter_labels(last=True)
            self._remove_islands(self._found.labels)
        labels = self._found.labels if mended is None else mended
        self._redraw(labels, self.plan.labels)
        layers = tuple(self._layers)
        there = {label for each in (labels, *layers) for label in labels_in(each)}
        missing = [
            f"object {label} was not found on any slice" for g in self.plan.groups for label in g.prompts if label not in there
        ]
        lost = {} if layers else {label: own.count_missed(labels, label) for label, own in self.plan.limits.items()}
        missing += [
            f"object {label} lost {say_count(count, 'scribbled voxel')} to others" for label, count in lost.items() if count
        ]
        axes = self.volume.orientation
        along = {code: View(code).order(axes)[0] for code in {row.view for row in self.rows}}
        starts = {code: self.start_ijk[axis] for code, axis in along.items()}
        counted = count_areas(self.rows, (labels, *layers), along) if self.rows else []
        self.rows[:] = [replace(row, slice=row.slice + starts[row.view]) for row in counted]
        found = find_leaks_in(self.volume, self.rows, self.plan.prompts)
        described = dict.fromkeys(leak.describe("ijk"[along[leak.view]]) for leak in found)
        # objects whose slices the user named may end anywhere
        judged = [row for row in self.rows if row.object not in self.plan.limits] if mended is None else []
        early = describe_ends_in(self.volume, judged, self.start_ijk)
        rows, warnings = tuple(mark_leaks(mark_collapses(self.rows), found)), (*self._warnings, *missing, *described, *early)
        maps, spread, windows = self._maps, self._spread, self.windows
        return Segmentation(labels, self.volume.affine, names, maps, spread, rows, warnings, windows, layers)

    def _remove_islands(self, labels: NDArray[np.unsignedinteger]) -> None:
        if not self.options.islands:
            self._warnings |= dict.fromkeys(remove_islands(labels, self.plan.prompts))

    def _redraw(self, labels: NDArray[np.unsignedinteger], objects: Collection[int]) -> None:
        """Outlines and scribbles of these objects as they were drawn, except where an object lies that has priority."""
        axes, ranks = self.volume.orientation, {label: rank for rank, label in enumerate(self.options.priority)}
        drawn = [(group, label) for group in self.plan.groups for label in group.given if label in objects]
        for group, label in sorted(drawn, key=lambda one: ranks.get(one[1], len(ranks))):
            before = [other for other, rank in ranks.items() if rank < ranks.get(label, len(ranks))]
            held = np.isin(labels, before) if before else None
            kept = labels[held] if held is not None else None
            redraw(group.view.apply(labels, axes), label, group.prompts[label])
            for view in (view for view in THREE_VIEWS if view.axis != group.view.axis):
                redraw(view.apply(labels, axes), label, drawn_prompts(self.volume, group.given[label], view))
            if label in group.limits:
                group.limits[label].settle(labels, label)
            if held is not None and kept is not None:
                labels[held] = kept

"""One annotated volume for others: where its objects lie in another volume, in which nobody pointed at anything.

The paper's one prompt for a set (METHOD §3), in 3D. Slices of the annotated volume become prompted memories, of which the
self-sorting bank keeps the most dissimilar; slices of the other volume, in the same plane and at the same scale, are answered
by these memories alone. An answer is believed as far as the network expects it to be right, as the classifier of pixels that is
solved from memory tells its inside from its outside (without one: as alike the features are), as its neighbours agree, and as
it leads back: remembered in its turn, it has to find the object on the annotated slices (so Valindria et al., Reverse
classification accuracy, 2017, tell good segmentations from bad ones).

Shapes: I J K voxels of a file, T frames of the view, H W a frame, h w mask logits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import ceil, exp

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from medical_sam2.errors import GeometryError
from medical_sam2.intensity_window import Window, Windows
from medical_sam2.metrics import dice
from medical_sam2.model.backbone import FramePrediction, Instruction
from medical_sam2.model.memory_bank import PolicyBank, SelfSorting, cosine
from medical_sam2.model.tracker import track
from medical_sam2.prompts import Fixed, FramePrompt, Mask
from medical_sam2.tracking.frame_order import FrameTime
from medical_sam2.tracking.frames import MARGIN, WHOLE, BoxXyxy, Canvas, Region, box_of
from medical_sam2.tracking.plan import array_axis, primary_view, usable
from medical_sam2.tracking.view_tracker import TrackingConfig, ViewTracker
from medical_sam2.views import THREE_VIEWS, View
from medical_sam2.volume import Segmentation, SliceConfidence, Volume, require_segmentation, require_volume

KEPT = 4  # slices of the template that are remembered
OFFERED, SLIVER = 10, 0.1  # slices among which they are chosen, at most; the least area, over that of the largest one
SEARCHED = 24  # frames that are looked at first, at most
CANDIDATES, AROUND = 4, 2  # of them that are led back; frames on either side of the best that are looked at closely
TILES, OVERLAP = 3, 0.25  # parts of a frame along each axis, at most; what they have in common
LIKE_AREA = 4.0  # an outline that is so many times larger or smaller than the template's largest one is another thing
FOUND = 0.6  # confidence from which on an object counts as found
SIMILAR_MM, NEAR_BY, LEAST_PRIOR = 1.25, 0.2, 0.5  # of extents; shares of them; what the weight never falls below
NEIGHBOURS = np.array([0.25, 0.5, 0.25])  # shares of the frame before, the frame itself, the frame after
TEMPLATE_PASS = -1  # far from all that is tracked
REMEMBER = partial(SelfSorting, size=KEPT, threshold=2.0, pin="none")
"""The bank of the template: what is prompted sorts itself, and no answer enters."""


@dataclass(frozen=True, eq=False)
class Template:
    """A volume in which somebody outlined objects.

    Args:
        volume: the image.
        annotation: its objects, with names and colours.

    Raises:
        GeometryError: both do not share a grid, or nothing is outlined.
    """

    volume: Volume
    annotation: Segmentation

    def __post_init__(self) -> None:
        require_volume(self.volume)
        require_segmentation(self.annotation)
        shape = self.annotation.labels.shape
        if shape != self.volume.shape or not np.array_equal(self.annotation.affine, self.volume.affine):
            problem = f"the template's outlines {shape} and its image {self.volume.shape} do not share a grid"
            raise GeometryError(problem, "give the labels of this image", subject=self.volume.source)
        if not self.annotation.objects():
            raise GeometryError("nothing is outlined in the template", "outline an object", subject=self.volume.source)

    @cached_property
    def masks(self) -> tuple[Mask, ...]:
        """The objects, as they were drawn."""
        return tuple(Mask(self.annotation.mask(label), label) for label in self.annotation.objects())


@dataclass(frozen=True, eq=False)
class TemplateMatch:
    """Where an object of a template most likely lies in another volume."""

    object: int  # label
    axis: int  # array axis of the slices that were looked at
    inside_ijk: NDArray[np.bool_]  # (I, J, K) bool, its outline on one of them; nothing where there was no answer
    view: View  # in whose frames it was looked for
    slice: int  # index of that slice along the array axis of the file
    confidence: float  # in [0, 1]
    window: Window  # of the intensities of the other volume

    @property
    def found(self) -> bool:
        """Whether it is sure enough to be tracked."""
        return self.confidence >= FOUND and bool(self.inside_ijk.any())

    @property
    def mask(self) -> Mask:
        """Its outline, to be tracked from."""
        return Mask(self.inside_ijk, self.object, self.axis)

    def describe(self, names: Mapping[int, str]) -> str:
        """One line for the user about an object that is left out."""
        name = f" ({names[self.object]})" if names.get(self.object) else ""
        place = f"its most likely place is slice {self.slice} of axis {'ijk'[self.axis]}"
        sure = f"confidence {self.confidence:.2f}, {FOUND} is needed"
        return f"object {self.object}{name} of the template was not found and is left out ({sure}): {place}; outline it there"


def search_objects(
    config: Callable[[Volume, Window], TrackingConfig],
    template: Volume,
    masks: Sequence[Mask],
    target: Volume,
    only: Sequence[View],
    window: str | Window,
    *,
    zoom: bool,
) -> list[TemplateMatch]:
    """Where the objects of a template lie in another volume.

    Args:
        config: volume and window → what tracks it.
        template: the annotated volume.
        masks: its objects.
        target: the other volume.
        only: the views to choose from; the three planes unless given.
        window: see `intensity_window.choose_window`; of a CT the one that suits the object in the template.
        zoom: whether what was found is looked at closely.
    """
    if not masks:
        return []
    ours, theirs, view = Windows(template, window), Windows(target, window), _common_view(template, masks, target, only)
    matches = list[TemplateMatch]()
    for mask in masks:
        inside = template.array[mask.array_ijk]
        seen = ours.of(inside)
        shown = replace(theirs.of(inside), negative=seen.negative)  # greys of both are compared
        trackers = ViewTracker(config(template, seen)), ViewTracker(config(target, shown))
        matches.append(TemplateSearch(*trackers, view, zoom).find(mask))
    return matches


def _common_view(template: Volume, masks: Sequence[Mask], target: Volume, only: Sequence[View]) -> View:
    """The plane of the outlines, as far as the slices of both volumes are fine enough in it."""
    views = tuple(only) or THREE_VIEWS
    return primary_view(template, masks, [view for view in views if usable(target, view)] or views)


def describe_matches(found: Segmentation, matches: Sequence[TemplateMatch]) -> Segmentation:
    """The same, where nobody counts as having prompted what was found by a template; what was missed is named.

    Args:
        found: tracked from the matches that are sure enough.
        matches: all of them.
    """
    there = {match.object: match for match in matches if match.found}
    rows = [
        replace(row, prompted=False, confidence=there[row.object].confidence, look_here=True, source="template")
        if row.prompted and row.object in there
        else row
        for row in found.confidence
    ]
    missed = [match for match in matches if not match.found]
    rows += [
        SliceConfidence(each.object, each.view.code, each.slice, each.confidence, 0, look_here=True, source="template")
        for each in missed
    ]
    return replace(found, confidence=tuple(rows), warnings=(*found.warnings, *(each.describe(found.names) for each in missed)))


@dataclass(frozen=True, eq=False)
class TemplateSearch:
    """Looks for the objects of a template in another volume."""

    template: ViewTracker  # the annotated volume
    target: ViewTracker  # the other one
    view: View  # in whose frames they are compared
    zoom: bool = True  # whether what was found is looked at closely

    def find(self, mask: Mask) -> TemplateMatch:
        """The most likely place of an object: first on whole frames, a few of them, then closely around the best answer."""
        stack = self.target.frames(self.view)
        inside_thw = self.view.apply(mask.array_ijk, self.template.config.volume.orientation)
        box = box_of(np.asarray(inside_thw.any(axis=0)))
        field_hw = self._common_field(box)
        known = _KnownObject(self, inside_thw, _part(self._canvas(self.template), field_hw, _middle(box)))
        step = ceil(stack.shape_thw[0] / SEARCHED)
        tiles = cover_frame(stack.canvas, field_hw)
        looked_at = range(step // 2, stack.shape_thw[0], step)
        best = known.best([each for tile in tiles for each in known.answers(looked_at, tile)])
        close_hw = self._close_field(box)
        if self.zoom and best is not None and min(close_hw[a] / field_hw[a] for a in (0, 1)) < WHOLE:
            known = _KnownObject(self, inside_thw, _part(self._canvas(self.template), close_hw, _middle(box)))
            region = _part(stack.canvas, close_hw, _middle(box_of(best.mask_hw)))
            frames = (best.frame + n * ceil(step / 2) for n in range(-AROUND, AROUND + 1))
            reach = [t for t in frames if 0 <= t < stack.shape_thw[0]]
            best = known.best(known.answers(reach, region)) or best
        return self._match(mask.object, best)

    def _match(self, label: int, best: "_Answer | None") -> TemplateMatch:
        target, frame = self.target.config, 0 if best is None else best.frame
        inside, axis, sure = np.zeros(target.volume.shape, bool), array_axis(target.volume, self.view), 0.0
        if best is not None:
            self.view.apply(inside, target.volume.orientation)[frame] = best.mask_hw
            sure = best.confidence
        index = self.target.frames(self.view).slice_index(frame)
        return TemplateMatch(label, axis, inside, self.view, index, sure, target.window)

    def _canvas(self, tracker: ViewTracker) -> Canvas:
        return tracker.frames(self.view).canvas

    def _common_field(self, box: BoxXyxy) -> tuple[float, float]:
        """Height and width in mm that are shown of both volumes, so that both have one scale: all of the smaller one."""
        ours, theirs = self._canvas(self.template), self._canvas(self.target)
        (top, left), (bottom, right) = (box[1], box[0]), (box[3], box[2])
        object_mm = ((bottom - top + 1) * ours.pixel_hw[0], (right - left + 1) * ours.pixel_hw[1])
        high, wide = (max(object_mm[a], min(each.shape_hw[a] * each.pixel_hw[a] for each in (ours, theirs))) for a in (0, 1))
        return high, wide

    def _close_field(self, box: BoxXyxy) -> tuple[float, float]:
        """A square around the object, as tracking shows it."""
        high, wide = self._canvas(self.template).pixel_hw
        side = MARGIN * max((box[3] - box[1] + 1) * high, (box[2] - box[0] + 1) * wide)
        return side, side

    def prior(self, inside_thw: NDArray[np.bool_], frame: int, mask_hw: NDArray[np.bool_]) -> float:
        """How likely an object lies there, by its place in the volume: 1 where both volumes do not have like extents."""
        shapes = self.template.frames(self.view).shape_thw, self.target.frames(self.view).shape_thw
        extents = [
            np.array(shape) * self.view.spacing(each.config.volume.spacing_mm, each.config.volume.orientation)
            for shape, each in zip(shapes, (self.template, self.target), strict=True)
        ]
        if (np.maximum(*extents) > SIMILAR_MM * np.minimum(*extents)).any():
            return 1.0
        ours = (np.argwhere(inside_thw).mean(axis=0) + 0.5) / shapes[0]
        theirs = (np.array([frame, *np.argwhere(mask_hw).mean(axis=0)]) + 0.5) / shapes[1]
        away = float(np.square((ours - theirs) / NEAR_BY).sum())
        return LEAST_PRIOR + (1 - LEAST_PRIOR) * exp(-away / 2)


@dataclass(frozen=True, eq=False)
class _Answer:
    """What the memories of the template say to a part of a frame."""

    frame: int
    region: Region
    mask_hw: NDArray[np.bool_]
    sure: float
    parts: tuple[float, ...] = ()
    confidence: float = 0.0


@dataclass(frozen=True, eq=False)
class _KnownObject:
    """An object of the template, remembered at one scale."""

    search: TemplateSearch  # that it belongs to
    inside_thw: NDArray[np.bool_]  # the object
    region: Region  # of the template's frames that is shown
    bank: PolicyBank = field(default_factory=lambda: PolicyBank(REMEMBER))
    contrasts: list[Tensor] = field(default_factory=list[Tensor])

    def __post_init__(self) -> None:
        tracker, view = self.search.template, self.search.view
        stack, features = tracker.frames(view, self.region), tracker.features(view, self.region)
        shown = {t: FramePrompt.mask(self.inside_thw[t]) for t in self._offered()}
        prompts = {FrameTime(TEMPLATE_PASS, t): stack.to_network(prompt) for t, prompt in shown.items()}
        shown_by = [Fixed({**prompts})]
        for t, prediction in track(tracker.config.backbone, lambda t: features(t.frame), list(prompts), shown_by, self.bank):
            self.contrasts.append(_contrast(features(t.frame).top_BChw, prediction.logits_Bhw > 0))

    def _offered(self) -> Iterator[int]:
        """Slices that show the object, the largest first; slivers are left out."""
        areas = self.inside_thw[:, self.region.rows, self.region.columns].sum(axis=(1, 2))
        there = np.flatnonzero(areas >= SLIVER * areas.max())
        chosen = there[np.unique(np.linspace(0, len(there) - 1, min(OFFERED, len(there))).round().astype(int))]
        yield from sorted(chosen.tolist(), key=lambda t: -areas[t])

    @cached_property
    def _area_ratio(self) -> float:
        """What a pixel of the target is of the largest outline of the template, in mm²."""
        ours, theirs = (each.frames(self.search.view).canvas.pixel_hw for each in (self.search.template, self.search.target))
        return theirs[0] * theirs[1] / (ours[0] * ours[1] * int(self.inside_thw.sum(axis=(1, 2)).max()))

    def answers(self, frames: Sequence[int], region: Region) -> list[_Answer]:
        """What is found on frames of the target, in their order, by memory alone; a neighbour has a say in how sure it is."""
        alone = [self._answer(t, region) for t in frames]
        sure = np.pad([each.sure for each in alone], 1, mode="edge")
        return [replace(each, sure=float(NEIGHBOURS @ sure[n : n + 3])) for n, each in enumerate(alone)]

    def _answer(self, t: int, region: Region) -> _Answer:
        tracker, view = self.search.target, self.search.view
        prediction, tells = self._recall(tracker, region, t, self.bank)
        mask = tracker.frames(view, region).to_frame(prediction.logits_Bhw)[0] > 0.5
        if not mask.any() or not 1 / LIKE_AREA < mask.sum() * self._area_ratio < LIKE_AREA:
            return _Answer(t, region, mask, 0.0)
        expected, likely = float(prediction.confidence_B[0]), self.search.prior(self.inside_thw, t, mask)
        return _Answer(t, region, mask, expected**0.5 * tells * likely, (expected, tells))

    def best(self, answers: Sequence[_Answer]) -> _Answer | None:
        """Of the surest answers the one that leads back best; None where there is none."""
        surest = sorted((each for each in answers if each.sure > 0), key=lambda each: (-each.sure, each.frame))
        led = [self._lead_back(each) for each in surest[:CANDIDATES]]
        return max(led, key=lambda each: each.sure * each.confidence, default=None)

    def _lead_back(self, answer: _Answer) -> _Answer:
        """The same with its confidence: how well it, alone in memory, finds the slices of the template that are remembered."""
        tracker, view, ours = self.search.target, self.search.view, self.search.template
        backbone, frame = tracker.config.backbone, tracker.features(view, answer.region)(answer.frame)
        prompt = tracker.frames(view, answer.region).to_network(FramePrompt.mask(answer.mask_hw))
        prediction = backbone.decode(frame, backbone.fuse(frame, [[]]), [Instruction(prompt)])
        bank, scores, stack = PolicyBank(REMEMBER), list[float](), ours.frames(view, self.region)
        bank.store(backbone.memorise(frame, prediction, FrameTime(0, answer.frame), [True]))
        for memory in self.bank.memories[0]:
            t = memory.t - FrameTime(TEMPLATE_PASS, 0)
            found = stack.to_frame(self._recall(ours, self.region, t, bank)[0].logits_Bhw)[0] > 0.5
            scores.append(dice(self.inside_thw[t], found))
        return replace(answer, confidence=float(np.prod([*answer.parts, float(np.mean(scores))]) ** (1 / 3)))

    def _recall(self, tracker: ViewTracker, region: Region, t: int, bank: PolicyBank) -> tuple[FramePrediction, float]:
        """What memory alone says to a frame, and how well it tells inside from outside, in [0, 1]."""
        backbone, frame = tracker.config.backbone, tracker.features(self.search.view, region)(t)
        fused = backbone.fuse(frame, bank.recall(FrameTime(0, t), frame.summary_BC))
        prediction = backbone.decode(frame, fused, [None])
        inside = prediction.logits_Bhw[:1] > 0
        if not inside.any():
            return prediction, 0.0
        if "score" in fused.own:
            return prediction, (_contrast(fused.own["score"], inside) / 2).clamp(0, 1).item()
        ours = _contrast(frame.top_BChw, inside)
        return prediction, max(0.0, *(cosine(ours[None], each[None]).item() for each in self.contrasts))


def _contrast(map_1Chw: Tensor, inside_1hw: Tensor) -> Tensor:
    """Mean inside less mean outside of each channel."""
    share = F.interpolate(inside_1hw[None].float(), size=map_1Chw.shape[-2:], mode="area")[0, 0]
    values = map_1Chw[0].float()
    return (values * share).sum((1, 2)) / share.sum().clamp(min=1e-6) - (values * (1 - share)).sum((1, 2)) / (
        1 - share
    ).sum().clamp(min=1e-6)


def _part(canvas: Canvas, field_hw: tuple[float, float], middle_yx: tuple[float, float]) -> Region:
    """A part of a frame of that size in mm, around a pixel as far as the frame goes."""
    sides = [
        min(size, max(1, round(mm / pixel))) for size, pixel, mm in zip(canvas.shape_hw, canvas.pixel_hw, field_hw, strict=True)
    ]
    starts = [
        int(np.clip(round(place - side / 2 + 0.5), 0, size - side))
        for place, side, size in zip(middle_yx, sides, canvas.shape_hw, strict=True)
    ]
    return Region(starts[0], starts[1], sides[0], sides[1])


def cover_frame(canvas: Canvas, field_hw: tuple[float, float]) -> list[Region]:
    """Parts of that size that cover a frame; larger ones where it would take too many."""
    middles = list[NDArray[np.float64]]()
    shown = list[float]()
    for size, pixel, mm in zip(canvas.shape_hw, canvas.pixel_hw, field_hw, strict=True):
        share = mm / (size * pixel)
        count = 1 if share >= 1 - OVERLAP / 2 else min(TILES, 1 + ceil((1 / share - 1) / (1 - OVERLAP)))
        share = max(share, 1 / (1 + (count - 1) * (1 - OVERLAP)))
        shown.append(share * size * pixel)
        side = min(1.0, share) * size
        middles.append(np.linspace(side / 2, size - side / 2, count) - 0.5)
    high, wide = shown
    return list(dict.fromkeys(_part(canvas, (high, wide), (y, x)) for y in middles[0].tolist() for x in middles[1].tolist()))


def _middle(box: BoxXyxy) -> tuple[float, float]:
    """Row and column of its middle."""
    return (box[1] + box[3]) / 2, (box[0] + box[2]) / 2

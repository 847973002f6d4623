"""Follows objects through the frames of one view, in a region that grows with them, until they have ended.

Shapes: B objects, H W frame.
"""

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medical_sam2.intensity_window import Window
from medical_sam2.model.backbone import Backbone, Features, FramePrediction, Instruction, Memory, Recall, Wanted
from medical_sam2.model.device import Later, is_helped, iterate_on_cores, later
from medical_sam2.model.memory_bank import MemoryBank, Policy, PolicyBank, cosine
from medical_sam2.model.tracker import track
from medical_sam2.prompts import Fixed, FramePrompt
from medical_sam2.tracking.click_outline import OutlineJudge, reduction
from medical_sam2.tracking.confidence import dice_of
from medical_sam2.tracking.frame_order import LONGEST_STEP, FrameOrder, FrameTime, OutwardOrder, PassEnds, TrackingResult
from medical_sam2.tracking.frames import AskNetwork, FrameStack, Region, answer_clicks, grow_region
from medical_sam2.tracking.fusion import Agreement, Fusion, expect_between, find_start
from medical_sam2.tracking.limits import Limits, load_ndimage
from medical_sam2.tracking.plan import gaps_between
from medical_sam2.views import View
from medical_sam2.volume import Volume

SMALL = 0.25  # area of an outline or box over the largest one of its object, below which it is not remembered
# what a click hit, below which the judge of clicks is asked (as long as a click takes): predicted IoU, share of the frame
UNSURE, TINY = 0.35, 0.003
LEAST_WEIGHT = 0.05  # of an unsure frame
SAMPLES = 5  # frames that the mean feature of a direction is taken from


ObjectPrompts: TypeAlias = Mapping[int, Mapping[FrameTime, FramePrompt]]
"""Object → time → prompt."""
ClickAnswer: TypeAlias = tuple[int, NDArray[np.bool_], float]
"""Frame, what a click there means (H, W), and its predicted IoU."""


@dataclass(frozen=True, eq=False)
class TrackingConfig:
    """What stays the same while a volume is tracked."""

    backbone: Backbone  # the network
    encode: Callable[[Tensor], Features]  # one frame (3, S, S) in [0, 1] → features
    volume: Volume  # the image
    window: Window  # of intensities
    policy: Callable[[], Policy]  # makes the memory policy of each object
    joint: bool = True  # whether all orientations share one bank, or each has its own
    zoom: bool = False  # whether the network is shown a region around the object instead of the whole frame
    every_frame: bool = False  # whether frames between two that are alike are tracked, too; whole frames always are
    judge: OutlineJudge | None = None  # of what clicks mean, learnt for these weights
    end_backbone: Backbone | None = None  # the same network, with parts that learnt from ends of objects

    @property
    def longest_step(self) -> int:
        """Frames from one that is tracked to the next, at most."""
        return LONGEST_STEP if self.zoom and not self.every_frame else 1


class ObjectBanks:
    """Banks of single objects as one bank, so that an object keeps its own from pass to pass, whoever comes along."""

    def __init__(self, banks: Iterable[MemoryBank]) -> None:
        self._banks = tuple(banks)

    def recall(self, t: int, query_BC: Tensor) -> Recall:
        """What each object attends to on frame t."""
        queries = query_BC.expand(len(self._banks), -1)
        recalled = [bank.recall(t, query[None]) for bank, query in zip(self._banks, queries, strict=True)]
        return [own[0] if own else [] for own in recalled]

    def store(self, memories: Sequence[Memory]) -> None:
        """Offer one memory for each object."""
        for bank, memory in zip(self._banks, memories, strict=True):
            bank.store([memory])


@dataclass(eq=False)
class _PassResults:
    """What was found on the frames of a pass that are remembered, and on the latest one."""

    masks_BHW: dict[FrameTime, NDArray[np.bool_]] = field(default_factory=dict)
    confidence_B: list[float] = field(default_factory=list)
    latest: FrameTime | None = None

    def note(
        self, t: FrameTime, prediction: FramePrediction, probability_BHW: NDArray[np.float32], banks: Iterable[PolicyBank]
    ) -> None:
        """A frame was answered; what no bank remembers is forgotten here too."""
        self.masks_BHW[t], self.latest = probability_BHW > 0.5, t
        self.confidence_B = prediction.confidence_B.float().cpu().tolist()
        kept = {memory.t for bank in banks for own in bank.memories for memory in own} | {t}
        self.masks_BHW = {time: mask for time, mask in self.masks_BHW.items() if time in kept}

    def prompts_to_repeat(
        self, label: int, b: int, banks: Mapping[int, PolicyBank], other: Collection[FrameTime]
    ) -> dict[FrameTime, FramePrompt]:
        """What an object remembers of this pass, to be shown again in a larger region.

        Other frames, the prompted ones and the one that outgrew the region, are forgotten too: they are shown anyway.
        """
        remembered = banks[label].forget(0, {*self.masks_BHW, *other})
        if self.latest is not None:
            remembered.setdefault(self.latest, self.confidence_B[b])
        masks = {time: mask[b] for time, mask in self.masks_BHW.items() if time in remembered}
        return {time: FramePrompt.mask(mask, estimate=remembered[time]) for time, mask in masks.items() if mask.any()}


# A small outline tells where an object ends, hardly what it looks like; remembered, it lets the object shrink everywhere.
def _forget_small(prompts: Mapping[FrameTime, FramePrompt]) -> Mapping[FrameTime, FramePrompt]:
    """Prompts of one object, those drawn much smaller than the largest as answers that no bank keeps."""
    largest = max((prompt.drawn_area for prompt in prompts.values() if prompt.estimate is None), default=0.0)
    return {
        t: replace(prompt, estimate=0.0) if prompt.estimate is None and 0 < prompt.drawn_area < SMALL * largest else prompt
        for t, prompt in prompts.items()
    }


def _lies_between(prompts: Mapping[FrameTime, FramePrompt], t: FrameTime) -> bool:
    """Whether a person showed an object on the nearest prompted frames before and after a frame: it is on that one, too."""
    before, after = [at for at in prompts if at < t], [at for at in prompts if at > t]
    if not before or not after or t in prompts:
        return False
    around = prompts[max(before)], prompts[min(after)]
    return all(one.estimate is None and (one.drawn_area > 0 or one.labels.any()) for one in around)


@dataclass(frozen=True, eq=False)
class TrackingPass:
    """Objects in lock step, one way through the volume."""

    view: View
    prompts: Mapping[int, Mapping[int, FramePrompt]]
    frames: range
    banks: dict[int, PolicyBank]
    fusions: dict[int, Fusion]
    number: int
    region: Region | None = None
    limits: Mapping[int, Limits] = field(default_factory=dict[int, Limits])
    expected: Mapping[int, Mapping[int, NDArray[np.float32]]] = field(
        default_factory=dict[int, Mapping[int, NDArray[np.float32]]]
    )
    last: bool = False
    agreements: Mapping[int, Agreement] = field(default_factory=dict[int, Agreement])
    from_end: bool = False  # whether by the parts of the network that learnt from ends of objects

    def weight(self, label: int, t: int, probability_HW: NDArray[np.float32], confidence: float) -> float:
        """What a frame of an object counts for."""
        agreement = self.agreements.get(label)
        return max(confidence, LEAST_WEIGHT) * (agreement.weigh(t, probability_HW > 0.5) if agreement else 1.0)

    def part(self, labels: Collection[int]) -> "TrackingPass":
        """The same for some of the objects."""
        return replace(self, prompts={x: own for x, own in self.prompts.items() if x in labels})


class FeaturesAhead:
    """What the encoder sees on frames, one after the other; with a helper, on the next one already while one is decoded.

    Args:
        see: frame → features.
        following: frame → the one that is expected after it.
    """

    def __init__(self, see: Callable[[int], Features], following: Callable[[FrameTime], FrameTime | None]) -> None:
        self._see, self._following = see, following
        self._next: tuple[FrameTime, Later[Features]] | None = None

    def of(self, t: FrameTime) -> Features:
        """Features of a frame."""
        ahead, self._next = self._next, None
        if ahead is not None and ahead[0] == t:
            return ahead[1].result()
        if ahead is not None:
            ahead[1].drop()
        return self._see(t.frame)

    def begin_next(self, t: FrameTime) -> None:
        """Begin with the frame that follows."""
        if is_helped() and self._next is None:
            following = self._following(t)
            if following is not None:
                self._next = following, later(partial(self._see, following.frame))

    def close(self) -> None:
        """What was begun is not wanted any more."""
        if self._next is not None:
            self._next[1].drop()
            self._next = None


@dataclass(frozen=True, eq=False)
class ViewTracker:
    """The network, an image, and what was seen of it so far."""

    config: TrackingConfig  # what stays the same

    def track_outward(
        self,
        view: View,
        prompts: ObjectPrompts,
        ways: Sequence[Sequence[FrameTime]],
        banks: Mapping[int, PolicyBank],
        region: Region | None,
        *,
        last: bool,
    ) -> Generator[TrackingResult]:
        """Track objects through prompted frames, then outward each way until all ended, remembering nothing of the other way.

        What lies on one side of the prompts says little of the other side: in one bank it cost Dice (docs/log.md, 2026-11-30).
        So both ways are tracked at once where there is a second core.

        Args:
            view: as in `track_frames`, and so are those that are not named here.
            prompts: as in `track_frames`.
            ways: times of the prompted frames; then those of each way, outward.
            banks: offered at the end what all ways remember, unless nobody asks them afterwards.
            region: to begin with; each way begins with the one that the prompted frames needed.
            last: whether nobody asks these banks afterwards.

        Yields:
            What was found at each time, once, each way in its order; frames beyond the objects' ends are left out.
        """
        prompted, *outward = ways
        for found in self.track_frames(view, prompts, FrameOrder(prompted), banks, region):
            region = found.stack.region
            yield found
        ends = PassEnds(min(prompted), max(prompted))
        branches = [banks, *({label: bank.branch() for label, bank in banks.items()} for _ in outward[1:])]
        yield from iterate_on_cores(
            [
                ends.noted(
                    self.track_frames(view, prompts, OutwardOrder(way, ends, self.config.longest_step), own, region, last=last)
                )
                for way, own in zip(outward, branches, strict=True)
            ]
        )
        for own in () if last else branches[1:]:
            for label, bank in banks.items():
                bank.store_all(own[label])

    def track_frames(
        self,
        view: View,
        prompts: ObjectPrompts,
        order: FrameOrder,
        banks: Mapping[int, PolicyBank],
        region: Region | None,
        *,
        last: bool = False,
    ) -> Iterator[TrackingResult]:
        """Track objects through frames, in a larger region from where one of them outgrows the one that is shown.

        Args:
            view: of the frames.
            prompts: object → time → prompt, in pixels of the view.
            order: which frame is tracked when.
            banks: what each object remembers. When the region grows, the frames that it remembers of this pass are shown anew.
            region: to begin with; None for whole frames.
            last: whether nobody asks these banks afterwards, so that the last frame need not be remembered.

        Yields:
            What is known of each frame of `order`, once.
        """
        # a region cannot grow while it is tracked in: tracking breaks off and begins again in a larger one, remembered frames
        # first; what was yielded before is not yielded again
        again, answers, shown = list[FrameTime](), _PassResults(), prompts
        while True:
            stack = self.frames(view, region)
            for t, prediction in self._predict(view, region, (prompts, shown), (again, order), banks, last=last):
                probability_BHW = stack.to_frame(prediction.logits_Bhw)
                if region is not None and any(region.touched(one > 0.5) for one in probability_BHW):
                    region = grow_region(stack.canvas, region)
                    shown = {
                        label: answers.prompts_to_repeat(label, b, banks, {t, *prompts[label]}) | {**prompts[label]}
                        for b, label in enumerate(prompts)
                    }
                    prompted = sorted({t for own in prompts.values() for t in own}, reverse=True)
                    remembered = {t for own in shown.values() for t in own} - {*prompted}
                    again = [*prompted, *sorted(remembered, key=lambda t: (t == answers.latest, t))]
                    break
                answers.note(t, prediction, probability_BHW, banks.values())
                if order.waits_for(t):
                    confidence_B = prediction.confidence_B.float().cpu().tolist()
                    yield from order.note(TrackingResult(stack, t, confidence_B, probability_BHW))
            else:
                return

    def _predict(
        self,
        view: View,
        region: Region | None,
        prompts: tuple[ObjectPrompts, ObjectPrompts],
        orders: tuple[Sequence[FrameTime], FrameOrder],
        banks: Mapping[int, PolicyBank],
        *,
        last: bool,
    ) -> Iterator[tuple[FrameTime, FramePrediction]]:
        """Track objects through frames in one region: their prompts as they were given, and as the network is shown them.

        The first frames are those that are shown once more, whatever is known of them.
        """
        (given, shown), (again, order) = prompts, orders

        def visit() -> Iterator[FrameTime]:
            yield from again
            while (t := order.next_frame()) is not None:
                yield t

        def following(t: FrameTime) -> FrameTime | None:
            return again[again.index(t) + 1] if t in again[:-1] else order.next_frame(t if order.waits_for(t) else None)

        stack = self.frames(view, region)
        remembered = [_forget_small(own) for own in shown.values()]
        prompters = [Fixed({t: stack.to_network(prompt) for t, prompt in own.items()}) for own in remembered]
        bank = ObjectBanks(banks[label] for label in given)
        with closing(FeaturesAhead(self.features(view, region), following)) as features:
            yield from track(
                *(self.config.backbone, features.of, visit(), prompters, bank),
                on_fused=features.begin_next,
                present=lambda t: [_lies_between(own, t) for own in given.values()],
                kept=lambda t: not (last and t == order.final),
            )

    def ask(self, view: View, region: Region | None, t: int, prompt: FramePrompt) -> tuple[NDArray[np.bool_], float]:
        """What the network, shown a region, takes a prompt for: a rough mask (H, W) of the whole frame, and how sure it is."""
        prediction = self.answer(view, region, t, prompt, "rough")
        return self.frames(view, region).to_frame(prediction.logits_Bhw)[0] > 0.5, float(prediction.confidence_B[0])

    def answer(
        self, view: View, region: Region | None, t: int, prompt: FramePrompt, wanted: Wanted = "every"
    ) -> FramePrediction:
        """What the network, shown a region and nothing of what it remembers, says to a prompt."""
        stack, frame, backbone = self.frames(view, region), self.features(view, region)(t), self.config.backbone
        return backbone.decode(frame, backbone.fuse(frame, [[]]), [Instruction(stack.to_network(prompt), wanted=wanted)])

    def outline_clicks(self, view: View, own: Mapping[int, FramePrompt], ask: AskNetwork) -> ClickAnswer | None:
        """What scribbles or clicks inside mean, by the judge of clicks, where no outline or box was drawn.

        Clicks alone ask it only where the network is unsure or finds next to nothing, and believe it only where it is sure:
        else it is no better than the network itself on volumes, and now and then loses the object.

        Returns:
            The frame of the first scribble, or of the first click, the mask (H, W) there, and its predicted IoU.
        """
        inside = [t for t, prompt in own.items() if prompt.labels.any()]
        judge, t = self.config.judge, next((t for t in inside if _scribbled(own[t])), next(iter(inside), None))
        drawn = any(prompt.mask_hw is not None or prompt.box_xyxy is not None for prompt in own.values())
        if judge is None or t is None or drawn or not self.config.zoom:
            return None
        canvas, rather_than = self.frames(view).canvas, None
        if not _scribbled(own[t]):
            rather_than, sure = answer_clicks(canvas, t, own[t], ask)
            if sure >= UNSURE and rather_than.mean() >= TINY:
                return None
        picture, seen_at = self.frames(view).picture(t, reduction(canvas.shape_hw)), t
        found = judge.outline_click(
            canvas, picture, own[t], lambda region, p: self.answer(view, region, seen_at, p), rather_than=rather_than
        )
        return None if found is None else (t, *found)

    def outline_inside(self, view: View, found_IJK: NDArray[np.bool_], prompted: Iterable[int]) -> ClickAnswer | None:
        """What a click in the middle of what was found means, on the frame where that is largest.

        Args:
            view: the orientation.
            found_IJK: of an object.
            prompted: frames that are left out.

        Returns:
            The frame, the mask (H, W) there, and its predicted IoU; None where nothing is found.
        """
        stack = self.frames(view)
        start = find_start(found_IJK, view, self.config.volume.orientation, [stack.slice_index(t) for t in prompted])
        return None if start is None else self._click_in_middle(view, start.frame, start.mask_hw)

    def outline_between(self, view: View, outlines: Mapping[int, FramePrompt]) -> tuple[ClickAnswer, float] | None:
        """What a click halfway between two outlines means, in the middle of the shape that leads from one to the other.

        Returns:
            As of `outline_inside`, with its Dice with that shape; None for neighbours, or prompts without an outline.
        """
        gaps = gaps_between(outlines)
        if len(gaps) != 1:
            return None
        shapes = expect_between({0: outlines}, self.frames(view).canvas.pixel_hw)[0]
        likely_hw = shapes[t := sum(gaps[0]) // 2]
        shape_hw = likely_hw >= min(0.5, likely_hw.max())
        found = self._click_in_middle(view, t, shape_hw)
        return None if found is None else (found, dice_of(found[1], shape_hw))

    def _click_in_middle(self, view: View, t: int, mask_hw: NDArray[np.bool_]) -> ClickAnswer | None:
        depth_hw = load_ndimage().distance_transform_edt(np.pad(mask_hw, 1))[1:-1, 1:-1]
        y, x = np.unravel_index(depth_hw.argmax(), depth_hw.shape)
        click, ask = {t: FramePrompt.click(float(x), float(y))}, cache(partial(self.ask, view))
        found = self.outline_clicks(view, click, ask)
        found = found or (t, *answer_clicks(self.frames(view).canvas, t, click[t], ask))
        return found if found[1].any() else None

    def banks(self, labels: Iterable[int], view: View) -> dict[int, PolicyBank]:
        """Empty ones, one for each object, of which a view is the first that they see."""
        frames = self.frames(view).shape_thw[0]
        return {label: PolicyBank(self.config.policy, ordered=True, frames=frames) for label in labels}

    def order_by_likeness(self, first: View, further: Sequence[View]) -> list[View]:
        """Further orientations by likeness of their mean feature to the first one's; a reverse follows its direction."""
        axes = list(dict.fromkeys(view.axis for view in further))
        if len(axes) < 2:
            return list(further)
        mean = {view.axis: self._mean_feature(view) for view in (first, *further)}
        likeness = {axis: float(cosine(mean[first.axis][None], feature[None])) for axis, feature in mean.items()}
        return sorted(further, key=lambda view: (-likeness[view.axis], axes.index(view.axis)))

    def _mean_feature(self, view: View) -> Tensor:
        frames, features = self.frames(view).shape_thw[0], self.features(view)
        places = np.linspace(0, frames - 1, SAMPLES + 2)[1:-1].round().astype(int)
        return torch.stack([features(int(t)).summary_BC[0] for t in places]).mean(0)

    def frames(self, view: View, region: Region | None = None) -> FrameStack:
        """The volume as frames along a view, or a region of them."""
        return FrameStack(self.config.volume, view, self.config.window, self.config.backbone.image_size, region)

    def features(self, view: View, region: Region | None = None) -> Callable[[int], Features]:
        """What the encoder sees on each frame of a view, or in a region of it."""
        stack = self.frames(view, region)
        return lambda t: self.config.encode(stack.input(t))


def _scribbled(prompt: FramePrompt) -> bool:
    """Whether something was drawn inside by hand."""
    return prompt.settled_hw is not None and bool((prompt.settled_hw > 0).any())

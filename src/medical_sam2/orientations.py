"""Tracks groups of objects through the orientations of a volume (METHOD §2).

The orientation that holds the prompts comes first. Each further one starts on the slice where the estimate so far is
largest and surest, and looks only a margin beyond it. A direction and its reverse share encoded slices, and so do all
objects. The order of the further orientations follows the likeness of their mean feature to the first one's.

Shapes: B objects, T frames, H W frame.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medical_sam2.estimate import start_of
from medical_sam2.frames import FeatureCache, FrameStack, Window, to_frame
from medical_sam2.fusion import Fusion
from medical_sam2.model.backbone import Backbone, Features, FramePrediction, Memory, Recall
from medical_sam2.model.memory import MemoryBank, Policy, PolicyBank, cosine
from medical_sam2.model.tracker import track
from medical_sam2.planning import Group, drawn_prompts, frame_prompts, outward
from medical_sam2.prompts import Fixed, FramePrompt
from medical_sam2.views import View
from medical_sam2.volume import SliceConfidence, Volume

FAR = 1_000_000  # frames of different orientations are never neighbours in time
SAMPLES = 5  # frames that the mean feature of a direction is taken from
LEAST_WEIGHT = 0.05  # of an unsure frame


@dataclass(frozen=True)
class FrameDone:
    """Progress: one more frame was tracked.

    Args:
        done: frames so far.
        total: frames that are planned, as far as it is known.
        view: code of the view.
        slice: index along the array axis of the file.
        objects: labels tracked.
        masks_bhw: (B, H, W) bool, what was found, in the pixels of the view.
    """

    done: int
    total: int
    view: str
    slice: int
    objects: tuple[int, ...]
    masks_bhw: NDArray[np.bool_]


@dataclass(eq=False)
class Progress:
    """How far the work is, over all objects.

    Args:
        on_frame: told of each frame.
        planned: frames, as far as it is known.
        done: frames.
    """

    on_frame: Callable[[FrameDone], None] | None = None
    planned: int = 0
    done: int = 0


@dataclass(frozen=True, eq=False)
class Setting:
    """What stays the same while a volume is tracked.

    Args:
        backbone: the network.
        encode: one frame (3, S, S) in [0, 1] → features.
        volume: the image.
        window: of intensities.
        policy: makes the memory policy of each object.
        joint: whether all orientations share one bank, or each has its own.
    """

    backbone: Backbone
    encode: Callable[[Tensor], Features]
    volume: Volume
    window: Window
    policy: Callable[[], Policy]
    joint: bool = True


class Together:
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


@dataclass(frozen=True, eq=False)
class _Pass:
    """Objects in lock step, one way through the volume."""

    view: View
    prompts: Mapping[int, Mapping[int, FramePrompt]]
    frames: range
    banks: Mapping[int, MemoryBank]
    fusions: Mapping[int, Fusion]
    offset: int


@dataclass(eq=False)
class OrientationTracker:
    """Takes groups of objects through a volume, one after the other; slices that were seen once are not encoded again.

    Args:
        setting: what stays the same for all groups.
        progress: told of each frame; `run` expects that its frames are planned already.
        rows: how sure the network was of each object on each slice, filled as it goes.
        cache: features of slices.
    """

    setting: Setting
    progress: Progress = field(default_factory=Progress)
    rows: list[SliceConfidence] = field(default_factory=list)
    cache: FeatureCache = field(default_factory=FeatureCache)

    def run(self, group: Group, views: Sequence[View], fusions: Mapping[int, Fusion]) -> None:
        """Track a group along every view.

        Args:
            group: the objects.
            views: its own view comes first.
            fusions: object → where its probabilities are added.
        """
        first, further = views[0], views[1:]
        banks = {label: PolicyBank(self.setting.policy) for label in group.prompts}
        same = [view for view in further if view.axis == first.axis]
        others = [view for view in further if view.axis != first.axis]
        for place, view in enumerate([first, *same, *self._ordered(first, others)]):
            if place and not self.setting.joint:
                banks = {label: PolicyBank(self.setting.policy) for label in group.prompts}
            if view.axis == first.axis:
                prompts = {label: frame_prompts(self.setting.volume, own, view) for label, own in group.said.items()}
                frames = range(self.frames(view).shape_thw[0])
                self._walk(_Pass(view, prompts, frames, banks, fusions, FAR * place))
            else:
                self._further(view, group, banks, fusions, FAR * place)

    def _further(
        self, view: View, group: Group, banks: Mapping[int, MemoryBank], fusions: Mapping[int, Fusion], offset: int
    ) -> None:
        """An orientation that starts from what is known so far; objects that were not found stay out."""
        passes: dict[tuple[range, tuple[int, ...]], dict[int, Mapping[int, FramePrompt]]] = {}
        whole = range(self.frames(view).shape_thw[0])
        for label, own in group.said.items():
            drawn = drawn_prompts(self.setting.volume, own, view)
            start = start_of(fusions[label], view, self.setting.volume.orientation)
            frames = whole if start is None else start.frames
            said = drawn if start is None else {start.frame: FramePrompt.mask(start.mask_hw)} | drawn
            if said:
                span = range(min([*frames, *said]), max([*frames, *said]) + 1)
                passes.setdefault((span, tuple(sorted(said))), {})[label] = said
        self.progress.planned += sum(len(key[0]) for key in passes) - len(whole)
        for key, prompts in passes.items():
            self._walk(_Pass(view, prompts, key[0], banks, fusions, offset))

    def _walk(self, way: _Pass) -> None:
        """Outward from the prompted frames."""
        stack, labels = self.frames(way.view), tuple(way.prompts)
        bank = Together(way.banks[label] for label in labels)
        prompters = [
            Fixed({way.offset + t: stack.to_network(said) for t, said in way.prompts[label].items()}) for label in labels
        ]
        order = [way.offset + t for t in outward({t for said in way.prompts.values() for t in said}, way.frames)]
        features = self.features(way.view)
        for t, prediction in track(self.setting.backbone, lambda t: features(t - way.offset), order, prompters, bank):
            self._take(way, t - way.offset, prediction)

    def _take(self, way: _Pass, t: int, prediction: FramePrediction) -> None:
        """Add one frame's probabilities where they belong, and note how sure they are."""
        stack, labels = self.frames(way.view), tuple(way.prompts)
        probabilities = to_frame(prediction.logits_Bhw, stack.shape_thw[1:])
        sure = prediction.confidence_B.float().cpu().tolist()
        for label, probability, confidence in zip(labels, probabilities, sure, strict=True):
            way.fusions[label].add(way.view, t, probability, max(confidence, LEAST_WEIGHT))
            area, told = int((probability > 0.5).sum()), t in way.prompts[label]
            self.rows.append(SliceConfidence(label, way.view.code, stack.slice_index(t), confidence, area, told))
        self.tell(stack, t, labels, probabilities > 0.5)

    def tell(self, stack: FrameStack, t: int, labels: tuple[int, ...], masks_bhw: NDArray[np.bool_]) -> None:
        """Say that one more frame is done."""
        progress = self.progress
        progress.done += 1
        if progress.on_frame:
            total, index = max(progress.done, progress.planned), stack.slice_index(t)
            progress.on_frame(FrameDone(progress.done, total, stack.view.code, index, labels, masks_bhw))

    def _ordered(self, first: View, further: Sequence[View]) -> list[View]:
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

    def frames(self, view: View) -> FrameStack:
        """The volume as frames along a view."""
        return FrameStack(self.setting.volume, view, self.setting.window, self.setting.backbone.image_size)

    def features(self, view: View) -> Callable[[int], Features]:
        """What the encoder saw on each frame of a view, kept for later."""
        stack = self.frames(view)
        return lambda t: self.cache.get(stack.key(t), lambda: self.setting.encode(stack.input(t)))

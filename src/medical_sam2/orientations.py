"""Tracks a group of objects through the orientations of a volume (METHOD §2).

The orientation that holds the prompts comes first. Each further one starts on the slice where the estimate so far is
largest and surest, and looks only a margin beyond it. A direction and its reverse share encoded slices. The order of the
further orientations follows the likeness of their mean feature to the first one's.

Shapes: B objects, T frames, H W frame.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from medical_sam2.frames import FeatureCache, FrameStack, Window, to_frame
from medical_sam2.fusion import Fusion
from medical_sam2.model.backbone import Backbone, Features, FramePrediction
from medical_sam2.model.memory import Policy, PolicyBank, cosine
from medical_sam2.model.tracker import track
from medical_sam2.planning import Group, extent, outward, starting_frame
from medical_sam2.prompts import Fixed, FramePrompt
from medical_sam2.views import View
from medical_sam2.volume import SliceConfidence, Volume

FAR = 1_000_000  # frames of different passes are never neighbours in time
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


@dataclass
class OrientationTracker:
    """One group of objects on its way through a volume.

    Args:
        backbone: the network.
        encode: one frame (3, S, S) in [0, 1] → features.
        volume: the image.
        window: of intensities.
        policy: makes the memory policy of each object.
        joint: whether all orientations share one bank, or each has its own.
        fusions: object → where its probabilities are added.
        on_frame: told of each frame.
        weigh_fully: every frame counts once, whatever its confidence.
    """

    backbone: Backbone
    encode: Callable[[torch.Tensor], Features]
    volume: Volume
    window: Window
    policy: Callable[[], Policy]
    joint: bool
    fusions: Mapping[int, Fusion]
    on_frame: Callable[[FrameDone], None] | None = None
    rows: list[SliceConfidence] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._cache = FeatureCache()
        self._bank = PolicyBank(self.policy)
        self._passes = self._done = self._total = 0

    def run(self, group: Group, views: Sequence[View]) -> None:
        """Track the group along every view; its own comes first."""
        first, further = views[0], views[1:]
        self._total = sum(self.frames(view).shape_thw[0] for view in views)
        self._pass(first, group.prompts, range(self.frames(first).shape_thw[0]))
        for view in further:
            if view.axis == first.axis:
                flipped = self._mirrored(group.prompts, first)
                self._pass(view, flipped, range(self.frames(view).shape_thw[0]))
        for view in self._ordered(first, [view for view in further if view.axis != first.axis]):
            self._further(view)

    def _further(self, view: View) -> None:
        """An orientation that starts from what is known so far; objects that were not found stay out."""
        starts: dict[int, dict[int, FramePrompt]] = {}
        frames: set[int] = set()
        for label, fusion in self.fusions.items():
            stack_thw = view.apply(fusion.result(), self.volume.orientation)
            start = starting_frame(stack_thw)
            if start is not None:
                starts[label] = {start: FramePrompt.mask(stack_thw[start] > 0.5)}
                frames |= set(extent(stack_thw))
        for start in {t for said in starts.values() for t in said}:
            together = {label: said for label, said in starts.items() if start in said}
            self._total += len(frames) - self.frames(view).shape_thw[0]
            self._pass(view, together, range(min(frames), max(frames) + 1))

    def _pass(self, view: View, prompts: Mapping[int, Mapping[int, FramePrompt]], frames: range) -> None:
        """One way through the volume, outward from the prompted frames."""
        stack, offset, labels = self.frames(view), FAR * self._passes, tuple(prompts)
        self._passes += 1
        sharing = self.joint and labels == tuple(self.fusions)
        bank = self._bank if sharing else PolicyBank(self.policy)
        prompters = [Fixed({offset + t: stack.to_network(p) for t, p in prompts[label].items()}) for label in labels]
        order = [offset + t for t in outward({t for said in prompts.values() for t in said}, frames)]
        seen = track(self.backbone, lambda t: self._features(stack, t - offset), order, prompters, bank)
        for t, prediction in seen:
            self._take(stack, t - offset, labels, prediction, prompts)

    def _take(
        self,
        stack: FrameStack,
        t: int,
        labels: tuple[int, ...],
        prediction: FramePrediction,
        prompts: Mapping[int, Mapping[int, FramePrompt]],
    ) -> None:
        """Add one frame's probabilities where they belong, and note how sure they are."""
        probabilities = to_frame(prediction.logits_Bhw, stack.shape_thw[1:])
        sure = prediction.confidence_B.float().cpu().tolist()
        for label, probability, confidence in zip(labels, probabilities, sure, strict=True):
            self.fusions[label].add(stack.view, t, probability, max(confidence, LEAST_WEIGHT))
            area, told = int((probability > 0.5).sum()), t in prompts[label]
            self.rows.append(SliceConfidence(label, stack.view.code, stack.slice_index(t), confidence, area, told))
        self._done += 1
        if self.on_frame:
            done = FrameDone(self._done, self._total, stack.view.code, stack.slice_index(t), labels, probabilities > 0.5)
            self.on_frame(done)

    def _ordered(self, first: View, further: Sequence[View]) -> list[View]:
        """Further orientations by likeness of their mean feature to the first one's; a reverse follows its direction."""
        if len({view.axis for view in further}) < 2:
            return list(further)
        mean = {view.axis: self._mean_feature(view) for view in (first, *further)}
        likeness = {axis: float(cosine(mean[first.axis][None], feature[None])) for axis, feature in mean.items()}
        return sorted(further, key=lambda view: -likeness[view.axis])

    def _mean_feature(self, view: View) -> torch.Tensor:
        stack = self.frames(view)
        places = np.linspace(0, stack.shape_thw[0] - 1, SAMPLES + 2)[1:-1].round().astype(int)
        return torch.stack([self._features(stack, int(t)).summary_BC[0] for t in places]).mean(0)

    def _mirrored(self, prompts: Mapping[int, Mapping[int, FramePrompt]], view: View) -> dict[int, dict[int, FramePrompt]]:
        last = self.frames(view).shape_thw[0] - 1
        return {label: {last - t: prompt for t, prompt in said.items()} for label, said in prompts.items()}

    def frames(self, view: View) -> FrameStack:
        """The volume as frames along a view."""
        return FrameStack(self.volume, view, self.window, self.backbone.image_size)

    def features(self, view: View) -> Callable[[int], Features]:
        """What the encoder saw on each frame of a view, kept for later."""
        stack = self.frames(view)
        return lambda t: self._features(stack, t)

    def _features(self, stack: FrameStack, t: int) -> Features:
        return self._cache.get(stack.key(t), lambda: self.encode(stack.input(t)))

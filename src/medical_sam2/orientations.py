"""Tracks groups of objects through the orientations of a volume (METHOD §2).

The orientation that holds the prompts comes first. Each further one starts on the slice where the estimate so far is
largest and surest, and looks only a margin beyond it. A direction and its reverse share encoded slices, and so do all
objects. The order of the further orientations follows the likeness of their mean feature to the first one's. With `zoom`
the network is shown a region around the object, which grows where the object reaches its border.

Shapes: B objects, T frames, H W frame.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medical_sam2.estimate import start_of
from medical_sam2.following import FAR, Ends, Followed, Follower, Setting
from medical_sam2.frames import FrameStack
from medical_sam2.fusion import Fusion
from medical_sam2.model.memory import PolicyBank, cosine
from medical_sam2.planning import Group, drawn_prompts, frame_prompts, outward
from medical_sam2.prompts import FramePrompt
from medical_sam2.region import Region
from medical_sam2.views import View
from medical_sam2.volume import SliceConfidence
from medical_sam2.zoom import object_box, shown, together

SAMPLES = 5  # frames that the mean feature of a direction is taken from
LEAST_WEIGHT = 0.05  # of an unsure frame
AROUND = 1.5  # side of a region over the extent of the estimate that it is taken from


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
class _Pass:
    """Objects in lock step, one way through the volume."""

    view: View
    prompts: Mapping[int, Mapping[int, FramePrompt]]
    frames: range
    banks: dict[int, PolicyBank]
    fusions: Mapping[int, Fusion]
    offset: int
    region: Region | None = None


@dataclass(eq=False)
class OrientationTracker:
    """Takes groups of objects through a volume, one after the other; slices that were seen once are not encoded again.

    Args:
        setting: what stays the same for all groups.
        progress: told of each frame; `run` expects that its frames are planned already.
        rows: how sure the network was of each object on each slice, filled as it goes.
    """

    setting: Setting
    progress: Progress = field(default_factory=Progress)
    rows: list[SliceConfidence] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.follower = Follower(self.setting)

    def run(self, group: Group, views: Sequence[View], fusions: Mapping[int, Fusion]) -> None:
        """Track a group along every view.

        Args:
            group: the objects.
            views: its own view comes first.
            fusions: object → where its probabilities are added.
        """
        regions = self._regions(views[0], group)
        self.progress.planned += (len(regions) - 1) * sum(self.follower.frames(view).shape_thw[0] for view in views)
        for region, labels in regions:
            self._run(group.part(labels), views, fusions, region)

    def _regions(self, view: View, group: Group) -> list[tuple[Region | None, tuple[int, ...]]]:
        """What the network is shown of the frames that hold the prompts, and for which objects."""
        if not self.setting.zoom:
            return [(None, tuple(group.prompts))]
        canvas, look = self.follower.frames(view).canvas, partial(self.follower.look, view)
        return together(canvas, {label: object_box(canvas, said, look) for label, said in group.prompts.items()})

    def _run(self, group: Group, views: Sequence[View], fusions: Mapping[int, Fusion], region: Region | None) -> None:
        first, further = views[0], views[1:]
        banks = self.follower.banks(group.prompts, first)
        same = [view for view in further if view.axis == first.axis]
        others = [view for view in further if view.axis != first.axis]
        for place, view in enumerate([first, *same, *self._ordered(first, others)]):
            if place and not self.setting.joint:
                banks = self.follower.banks(group.prompts, view)
            if view.axis == first.axis:
                prompts = {label: frame_prompts(self.setting.volume, own, view) for label, own in group.said.items()}
                frames = range(self.follower.frames(view).shape_thw[0])
                self._walk(_Pass(view, prompts, frames, banks, fusions, FAR * place, region))
            else:
                self._further(view, group, banks, fusions, FAR * place)

    def _further(
        self, view: View, group: Group, banks: dict[int, PolicyBank], fusions: Mapping[int, Fusion], offset: int
    ) -> None:
        """An orientation that starts from what is known so far; objects that were not found stay out."""
        passes: dict[tuple[range, Region | None, tuple[int, ...]], dict[int, Mapping[int, FramePrompt]]] = {}
        stack = self.follower.frames(view)
        whole = range(stack.shape_thw[0])
        for label, own in group.said.items():
            drawn = drawn_prompts(self.setting.volume, own, view)
            start = start_of(fusions[label], view, self.setting.volume.orientation)
            frames = whole if start is None else start.frames
            said = drawn if start is None else {start.frame: FramePrompt.mask(start.mask_hw, estimate=start.confidence)} | drawn
            region = (
                shown(stack.canvas, start.box_xyxy, AROUND) if start is not None and self.setting.zoom and not drawn else None
            )
            if said:
                span = range(min([*frames, *said]), max([*frames, *said]) + 1)
                passes.setdefault((span, region, tuple(sorted(said))), {})[label] = said
        self.progress.planned += sum(len(key[0]) for key in passes) - len(whole)
        for (span, region, _), prompts in passes.items():
            self._walk(_Pass(view, prompts, span, banks, fusions, offset, region))

    def _walk(self, way: _Pass) -> None:
        """Outward from the prompted frames, each way until all objects have ended."""
        prompted = {t for own in way.prompts.values() for t in own}
        said = {label: {way.offset + t: prompt for t, prompt in own.items()} for label, own in way.prompts.items()}
        ends = Ends(min(prompted), max(prompted))
        order = [way.offset + t for t in outward(prompted, way.frames)]
        for found in self.follower.follow(way.view, said, order, way.banks, way.region, lambda t: ends.over(t % FAR)):
            ends.note(found.frame, any(found.confidence_B))
            self._take(way, found)
        self._pass_over(way, set(way.frames) - ends.seen)

    def _pass_over(self, way: _Pass, frames: Collection[int]) -> None:
        """Frames beyond the end of all objects hold none of them."""
        nothing = np.zeros(self.follower.frames(way.view).shape_thw[1:], np.float32)
        for t in frames:
            for label in way.prompts:
                way.fusions[label].add(way.view, t, nothing, LEAST_WEIGHT)
        self.progress.planned -= len(frames)

    def _take(self, way: _Pass, found: Followed) -> None:
        """Add one frame's probabilities where they belong, and note how sure they are."""
        t, labels = found.frame, tuple(way.prompts)
        for label, probability, confidence in zip(labels, found.probability_BHW, found.confidence_B, strict=True):
            way.fusions[label].add(way.view, t, probability, max(confidence, LEAST_WEIGHT))
            area, told = int((probability > 0.5).sum()), t in way.prompts[label]
            self.rows.append(SliceConfidence(label, way.view.code, found.stack.slice_index(t), confidence, area, told))
        self.tell(found.stack, t, labels, found.probability_BHW > 0.5)

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
        frames, features = self.follower.frames(view).shape_thw[0], self.follower.features(view)
        places = np.linspace(0, frames - 1, SAMPLES + 2)[1:-1].round().astype(int)
        return torch.stack([features(int(t)).summary_BC[0] for t in places]).mean(0)

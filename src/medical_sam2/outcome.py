"""From prompts to labels: objects by the window they are seen through, in lots that fit into memory, then put together.

Shapes: I J K voxels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medical_sam2.confidence import Leak, collapses, leaks, pointed_at
from medical_sam2.consensus import Gate, Refined, Tracked, refined
from medical_sam2.fusion import Fusion, FusionFactory, LabelMap
from medical_sam2.intensity_window import Window, Windows
from medical_sam2.islands import without_islands
from medical_sam2.orientations import OrientationTracker, Progress
from medical_sam2.planning import Group, array_axis, drawn_prompts, redraw, unheard, views_named
from medical_sam2.prompts import Point, intensities
from medical_sam2.views import THREE_VIEWS, View
from medical_sam2.volume import Segmentation, SliceConfidence, Volume

TOGETHER_BYTES = 1_500_000_000  # probabilities held at once: further objects wait until these are decided
HALF_FROM_VOXELS = 200_000_000  # volumes from this size on are summed in float16


@dataclass(frozen=True, eq=False)
class Kept:
    """What is kept of the probabilities.

    Args:
        make: how they are summed.
        probability: whether they are handed out.
        uncertainty: whether the views' disagreement is.
        islands: whether parts stay that hang together with no prompt.
        gate: of the consensus that follows tracking; none where there is none.
    """

    make: FusionFactory
    probability: bool = False
    uncertainty: bool = False
    islands: bool = False
    gate: Gate | None = None

    def fusion(self, volume: Volume) -> Fusion:
        """Room for the probabilities of one object."""
        dtype = np.float16 if volume.array.size >= HALF_FROM_VOXELS else np.float32
        return self.make(volume.shape, volume.orientation, uncertainty=self.uncertainty, dtype=dtype)

    def most(self, volume: Volume) -> int:
        """How many objects may wait at once to be decided."""
        bytes_each = volume.array.size * (2 if volume.array.size >= HALF_FROM_VOXELS else 4) * (1 + self.uncertainty)
        return max(1, TOGETHER_BYTES // bytes_each)


@dataclass(eq=False)
class Outcome:
    """One volume on its way from prompts to labels; objects are decided in lots that fit into memory.

    Args:
        volume: the image.
        groups: all objects that are prompted.
        kept: what is kept of the probabilities.
        progress: over all objects.
        rows: how sure the network was, filled by the trackers.
        windows: object → what it was seen through, filled by whoever chooses it.
    """

    volume: Volume
    groups: Sequence[Group]
    kept: Kept
    progress: Progress
    rows: list[SliceConfidence] = field(default_factory=list)
    windows: dict[int, Window] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._warnings: dict[str, None] = {}
        self._waiting: dict[int, Fusion | Refined] = {}
        self._maps: dict[int, NDArray[np.float32]] = {}
        self._spread: NDArray[np.float32] | None = None
        self._found = LabelMap(self.volume.shape, max(label for group in self.groups for label in group.prompts))

    def track(self, tracker: OrientationTracker, groups: Sequence[Group], views: str | Sequence[View]) -> None:
        """Track groups that are seen through the same window."""
        most = self.kept.most(self.volume)
        plans = []
        for group in groups:
            chosen, told = views_named(views, self.volume, group.view)
            self._warnings |= dict.fromkeys([*told, *unheard(self.volume, group, chosen)])
            labels = tuple(group.prompts)
            plans += [(group.part(labels[i : i + most]), chosen) for i in range(0, len(labels), most)]
        self.progress.planned += sum(tracker.follower.frames(view).shape_thw[0] for _, chosen in plans for view in chosen)
        for group, chosen in plans:
            if len(self._waiting) + len(group.prompts) > most:
                self._decide()
            own = {label: self.kept.fusion(self.volume) for label in group.prompts}
            tracker.run(group, chosen, own)
            self._waiting |= {label: self._agreed(tracker, group, label, fusion) for label, fusion in own.items()}

    def _agreed(self, tracker: OrientationTracker, group: Group, label: int, fusion: Fusion) -> Fusion | Refined:
        """What was found of an object, after the consensus."""
        if self.kept.gate is None:
            return fusion
        volume, axis, window = self.volume, array_axis(self.volume, group.view), tracker.setting.window
        confidence = np.zeros(volume.shape[axis])
        rows = [row for row in tracker.rows if (row.object, row.view) == (label, group.view.code)]
        confidence[[row.slice for row in rows]] = [row.confidence for row in rows]
        prompted = [row.slice for row in rows if row.prompted]
        seen = Tracked(fusion, lambda i: window.apply(volume.array[i]), axis, prompted, confidence, volume.spacing_mm)
        return refined(self.kept.gate, seen, fusion)

    def _decide(self, *, last: bool = False) -> None:
        """Enter the waiting objects in the labels, and keep what was asked for."""
        self._found.add(self._waiting, last=last)
        for label, fusion in self._waiting.items():
            if self.kept.probability:
                self._maps[label] = fusion.result()
            if self.kept.uncertainty:
                spread = fusion.uncertainty()
                self._spread = spread if self._spread is None else np.maximum(self._spread, spread, out=self._spread)
        self._waiting = {}

    def result(self, names: Mapping[int, str], mended: NDArray[np.unsignedinteger] | None) -> Segmentation:
        """Labels with the slices that the user outlined as they were drawn, and all that was noted on the way."""
        if mended is None:
            self._decide(last=True)
            if not self.kept.islands:
                without_islands(self._found.labels, [prompt for g in self.groups for own in g.said.values() for prompt in own])
        labels = self._found.labels if mended is None else mended
        self._redraw(labels)
        there = labels_in(labels)
        missing = [
            f"object {label} was not found on any slice" for g in self.groups for label in g.prompts if label not in there
        ]
        found, axes = self._leaks(), self.volume.orientation
        told = dict.fromkeys(leak.told("ijk"[View(leak.view).order(axes)[0]]) for leak in found)
        rows, warnings = tuple(pointed_at(collapses(self.rows), found)), (*self._warnings, *missing, *told)
        return Segmentation(labels, self.volume.affine, names, self._maps, self._spread, rows, warnings, self.windows)

    def _leaks(self) -> list[Leak]:
        """Where an object seems to have taken what is not its own."""
        shape, axes = self.volume.shape, self.volume.orientation
        sides = {code: View(code).order(axes)[1:] for code in {row.view for row in self.rows}}
        said = [prompt for group in self.groups for own in group.said.values() for prompt in own]
        drawn = {prompt.object for prompt in said if not isinstance(prompt, Point)}
        return leaks(self.rows, {code: shape[down] * shape[across] for code, (down, across) in sides.items()}, drawn)

    def _redraw(self, labels: NDArray[np.unsignedinteger]) -> None:
        axes = self.volume.orientation
        for group in self.groups:
            others = [view for view in THREE_VIEWS if view.axis != group.view.axis]
            for label, own in group.said.items():
                redraw(group.view.apply(labels, axes), label, group.prompts[label])
                for view in others:
                    redraw(view.apply(labels, axes), label, drawn_prompts(self.volume, own, view))


def labels_in(array: NDArray[np.integer] | None) -> set[int]:
    """The labels that occur, slab by slab, background left out; none where there is no array."""
    return set[int]() if array is None else {int(label) for slab in array for label in np.unique(slab)} - {0}


def by_window(volume: Volume, groups: Sequence[Group], name: str | Window) -> dict[Window, list[Group]]:
    """The groups, apart where their objects are seen through different windows."""
    seen_through, windows = Windows(volume, name), dict[int, Window]()
    for group in groups:
        stack = group.view.apply(volume.array, volume.orientation)
        for label, said in group.prompts.items():
            windows[label] = seen_through.of(np.concatenate([intensities(stack[t], prompt) for t, prompt in said.items()]))
    parts: dict[Window, list[Group]] = {}
    for group in groups:
        for seen in dict.fromkeys(windows[label] for label in group.prompts):
            parts.setdefault(seen, []).append(group.part(label for label in group.prompts if windows[label] == seen))
    return parts

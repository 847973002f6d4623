"""What to show of a volume: which grey values, which slices, which part of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import GeometryError
from medical_sam2.intensity_window import Window, choose_window
from medical_sam2.prompts import FramePrompt, Prompt
from medical_sam2.views import AXIAL, THREE_VIEWS, View
from medical_sam2.volume import Segmentation, Volume

_SAMPLES = 200_000


@dataclass(frozen=True, eq=False)
class Scene:
    """A volume, what was outlined in it, and what was asked.

    Args:
        volume: the image.
        segmentation: in the image's grid.
        prompts: what the user pointed at.
        window: intensities shown as black and white; unless given, what the network saw of the first object, if it was asked.

    Raises:
        GeometryError: the segmentation is not in the grid of the volume.
    """

    volume: Volume
    segmentation: Segmentation
    prompts: Sequence[Prompt] = ()
    window: Window | None = None
    axes: str = field(init=False)

    def __post_init__(self) -> None:
        if self.segmentation.labels.shape != self.volume.shape:
            raise GeometryError(
                f"the labels have shape {self.segmentation.labels.shape}, the image {self.volume.shape}",
                "give a segmentation of this image",
            )
        object.__setattr__(self, "axes", self.volume.orientation)

    @cached_property
    def grey(self) -> Window:
        """Intensities shown as black and white."""
        seen = next((window for _, window in sorted(self.segmentation.windows.items())), None)
        return self.window or seen or choose_window(self.volume, inside=self._inside)

    @cached_property
    def areas(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Voxels of any object on each slice of each array axis; one pass, slab by slab."""
        areas = tuple(np.zeros(size, np.int64) for size in self.volume.shape)
        for index, slab in enumerate(self.segmentation.labels):
            inside = slab != 0
            areas[0][index] = np.count_nonzero(inside)
            areas[1][:] += inside.sum(axis=1)
            areas[2][:] += inside.sum(axis=0)
        first, second, third = areas
        return first, second, third

    @cached_property
    def voxels(self) -> Mapping[int, int]:
        """Label → number of its voxels, 0 for a named object that was not found."""
        counts: Counter[int] = Counter(dict.fromkeys(self.segmentation.names, 0))
        for slab in self.segmentation.labels:
            labels, voxels = np.unique(slab[slab != 0], return_counts=True)
            counts.update(dict(zip(labels.tolist(), voxels.tolist(), strict=True)))
        return dict(sorted(counts.items()))

    def extent(self, axis: int) -> tuple[int, int]:
        """First and last slice of an array axis on which any object lies; the whole axis where there is none."""
        filled = np.flatnonzero(self.areas[axis])
        return (int(filled[0]), int(filled[-1])) if len(filled) else (0, self.volume.shape[axis] - 1)

    def frame(self, view: View) -> int:
        """The frame of `view` to show: the first prompted one, else the one with most of the objects, else the middle."""
        axis = view.order(self.axes)[0]
        for prompt, frames in zip(self.prompts, self._projected[view], strict=True):
            if axis in prompt.planes():
                return min(frames)
        area = self.areas[axis][:: -1 if view.flipped(self.axes)[0] else 1]
        return int(area.argmax()) if area.any() else len(area) // 2

    @cached_property
    def main_view(self) -> View:
        """The plane to leaf through: that of the prompts, else the one that the image was taken in, else axial."""
        drawn = [axis for prompt in self.prompts if len(prompt.planes()) == 1 for axis in prompt.planes()]
        spacing = self.volume.spacing_mm
        _, middle, thickest = sorted(spacing)
        if not drawn and thickest < 1.2 * middle:
            return AXIAL
        axis = drawn[0] if drawn else spacing.index(thickest)
        return next(view for view in THREE_VIEWS if view.order(self.axes)[0] == axis)

    def said(self, view: View, t: int) -> list[FramePrompt]:
        """The prompts on a frame."""
        return [frames[t] for frames in self._projected[view] if t in frames]

    @cached_property
    def _projected(self) -> Mapping[View, list[Mapping[int, FramePrompt]]]:
        shape = self.volume.shape
        return {view: [prompt.project(view, shape, self.axes) for prompt in self.prompts] for view in THREE_VIEWS}

    @property
    def _inside(self) -> NDArray[np.generic]:
        """Intensities of the objects, of one that is large every n-th."""
        step = max(1, round((self.volume.array.size / _SAMPLES) ** (1 / 3)))
        cut = (slice(None, None, step),) * 3
        return self.volume.array[cut][self.segmentation.labels[cut] != 0]

"""What a picture of a volume shows: which slices, through which window, with which prompts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medical_sam2.intensity_window import Window, choose_window
from medical_sam2.io.voxels import check_grid
from medical_sam2.preview.drawing import DrawnLine, corners_yx
from medical_sam2.prompts import FramePrompt, Prompt
from medical_sam2.strokes import Diameter, Scribble, Stroke, says_where
from medical_sam2.views import AXIAL, THREE_VIEWS, View
from medical_sam2.volume import Colour, Segmentation, Volume, require_segmentation, require_volume

_SAMPLES = 200_000
_MOST_WINDOWS = 4  # that a picture shows


@dataclass(frozen=True, eq=False)
class PreviewScene:
    """A volume, what was outlined in it, and what was asked.

    Raises:
        GeometryError: the segmentation is not in the grid of the volume.
    """

    volume: Volume  # the image
    segmentation: Segmentation  # in the image's grid
    prompts: Sequence[Prompt] = ()  # what the user pointed at
    # intensities shown as black and white; unless given, what the network saw of the first object, if it was asked
    window: Window | None = None
    # labels of the objects that decide which slices are shown, of all unless given; all are outlined
    looked_at: frozenset[int] | None = None
    axes: str = field(init=False)

    def __post_init__(self) -> None:
        require_volume(self.volume)
        require_segmentation(self.segmentation)
        check_grid(self.segmentation, self.volume)
        object.__setattr__(self, "axes", self.volume.orientation)

    @cached_property
    def grey(self) -> Window:
        """Intensities shown as black and white."""
        seen = next((window for _, window in sorted(self.segmentation.windows.items())), None)
        return self.window or seen or choose_window(self.volume, inside=self._inside)

    def split(self) -> "list[PreviewScene]":
        """The scene itself; where the network saw objects through several windows, one for each, which looks at these objects.

        Objects that it saw through none are looked at in the first one, as are those of further windows where these are many.
        """
        objects: dict[Window, list[int]] = {}
        for label, window in sorted(self.segmentation.windows.items()):
            objects.setdefault(window, []).append(label)
        if self.window is not None or len(objects) < 2:
            return [self]
        shown = dict(list(objects.items())[:_MOST_WINDOWS])
        later = {label for own in list(shown.values())[1:] for label in own}
        first, *others = shown
        everything = {*self.voxels, *(prompt.object for prompt in self.prompts)}
        return [
            replace(self, window=first, looked_at=frozenset(everything - later)),
            *(replace(self, window=window, looked_at=frozenset(shown[window])) for window in others),
        ]

    @cached_property
    def areas(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Voxels of any object that is looked at on each slice of each array axis; one pass, slab by slab."""
        areas = tuple(np.zeros(size, np.int64) for size in self.volume.shape)
        for index, slabs in enumerate(zip(*self.segmentation.maps, strict=True)):
            inside = np.logical_or.reduce([self._is_looked_at(slab) for slab in slabs])
            areas[0][index] = np.count_nonzero(inside)
            areas[1][:] += inside.sum(axis=1)
            areas[2][:] += inside.sum(axis=0)
        first, second, third = areas
        return first, second, third

    @cached_property
    def voxels(self) -> Mapping[int, int]:
        """Label → number of its voxels, 0 for a named object that was not found."""
        counts: Counter[int] = Counter(dict.fromkeys(self.segmentation.names, 0))
        for slab in (slab for labels in self.segmentation.maps for slab in labels):
            labels, voxels = np.unique(slab[slab != 0], return_counts=True)
            counts.update(dict(zip(labels.tolist(), voxels.tolist(), strict=True)))
        return dict(sorted(counts.items()))

    @cached_property
    def colours(self) -> Mapping[int, Colour]:
        """Label → its colour: as in files of the segmentation, and at the page."""
        return {label: self.segmentation.colour(label) for label in self.voxels}

    def extent(self, axis: int) -> tuple[int, int]:
        """First and last slice of an array axis on which any object lies; the whole axis where there is none."""
        filled = np.flatnonzero(self.areas[axis])
        return (int(filled[0]), int(filled[-1])) if len(filled) else (0, self.volume.shape[axis] - 1)

    def frame(self, view: View) -> int:
        """The frame of `view` to show: the first prompted one, else the one with most of the objects, else the middle.

        What says where an object is counts before what says where it is not, which a correction may say alone.
        """
        axis = view.order(self.axes)[0]
        own = self._looked_at_prompts(view)
        prompted = [(says_where(prompt), frames) for prompt, frames in own if axis in prompt.planes()]
        if prompted:
            return min(max(prompted, key=lambda pair: pair[0])[1])
        area = self.areas[axis][:: -1 if view.flipped(self.axes)[0] else 1]
        return int(area.argmax()) if area.any() else len(area) // 2

    @cached_property
    def main_view(self) -> View:
        """The plane to leaf through: that of the prompts, else the one that the image was taken in, else axial."""
        shown = [prompt for view in THREE_VIEWS for prompt, _ in self._looked_at_prompts(view) if len(prompt.planes()) == 1]
        drawn = [axis for prompt in sorted(shown, key=says_where, reverse=True) for axis in prompt.planes()]
        spacing = self.volume.spacing_mm
        _, middle, thickest = sorted(spacing)
        if not drawn and thickest < 1.2 * middle:
            return AXIAL
        axis = drawn[0] if drawn else spacing.index(thickest)
        return next(view for view in THREE_VIEWS if view.order(self.axes)[0] == axis)

    def prompts_on(self, view: View, t: int) -> list[FramePrompt]:
        """The prompts on a frame, less the lines that were drawn."""
        return [frames[t] for prompt, frames in self._prompted(view) if t in frames and not isinstance(prompt, Stroke)]

    def lines_on(self, view: View, t: int) -> list[DrawnLine]:
        """The lines that were drawn on a frame."""
        drawn = [prompt for prompt, frames in self._prompted(view) if t in frames and isinstance(prompt, Stroke)]
        places = [(prompt, prompt.trace(view, self.volume.shape, self.axes)[t]) for prompt in drawn]
        return [line for prompt, line_xy in places for line in _lines(prompt, line_xy)]

    def prompted(self, view: View) -> list[int]:
        """All frames with prompts of what is looked at, ascending."""
        return sorted({t for _, frames in self._looked_at_prompts(view) for t in frames})

    def pointed_at(self, view: View) -> list[tuple[float, float]]:
        """Rows and columns within which everything lies that was pointed at on any frame, of what is looked at."""
        prompts = [prompt for _, frames in self._looked_at_prompts(view) for prompt in frames.values()]
        return [place for prompt in prompts for place in corners_yx(prompt)]

    def _is_looked_at(self, labels: NDArray[np.generic]) -> NDArray[np.bool_]:
        return labels != 0 if self.looked_at is None else np.isin(labels, list(self.looked_at))

    def _looked_at_prompts(self, view: View) -> list[tuple[Prompt, Mapping[int, FramePrompt]]]:
        """The same of the objects that are looked at."""
        return [each for each in self._prompted(view) if self.looked_at is None or each[0].object in self.looked_at]

    def _prompted(self, view: View) -> list[tuple[Prompt, Mapping[int, FramePrompt]]]:
        """The prompts that are seen in a view, with what they are on its frames."""
        return [(prompt, frames) for prompt, frames in zip(self.prompts, self._projected[view], strict=True) if frames]

    @cached_property
    def _projected(self) -> Mapping[View, list[Mapping[int, FramePrompt]]]:
        shape = self.volume.shape
        return {view: [prompt.project(view, shape, self.axes) for prompt in self.prompts] for view in THREE_VIEWS}

    @property
    def _inside(self) -> NDArray[np.generic]:
        """Intensities of the objects, of one that is large every n-th."""
        step = max(1, round((self.volume.array.size / _SAMPLES) ** (1 / 3)))
        cut = (slice(None, None, step),) * 3
        inside = np.logical_or.reduce([labels[cut] != 0 for labels in self.segmentation.maps])
        return self.volume.array[cut][inside]


def _lines(prompt: Stroke, places_xy: Sequence[tuple[float, float]]) -> list[DrawnLine]:
    """As it was drawn; of both diameters each by itself."""
    if isinstance(prompt, Diameter):
        return [DrawnLine(places_xy[start : start + 2]) for start in range(0, len(places_xy), 2)]
    closed = places_xy if isinstance(prompt, Scribble) else [*places_xy, places_xy[0]]
    return [DrawnLine(closed, prompt.positive, prompt.width if isinstance(prompt, Scribble) else 0)]

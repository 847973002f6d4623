"""A volume in a session. Shapes: I J K voxels, T frames of a plane, H W a frame."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medical_sam2.intensity_window import Window, Windows, percentile_window
from medical_sam2.planning import PLANES, array_axis
from medical_sam2.prompts import Box, Mask, Point, Prompt, intensities
from medical_sam2.server.state import Said, State
from medical_sam2.server.subjects import Canvas, Found, Frame, OnFrame, doubt, frame_prompt, unpacked
from medical_sam2.views import View
from medical_sam2.volume import SliceConfidence, Volume

if TYPE_CHECKING:  # torch is loaded while the page is already there
    from medical_sam2.orientations import FrameDone
    from medical_sam2.segmenter import Segmenter

REACH = 32  # times the usual range that intensities may lie beyond it
UNCERTAIN_VOXELS = 64_000_000  # up to which a map of uncertainty is kept beside the labels


@dataclass(frozen=True, eq=False)
class VolumeSubject:
    """A volume.

    Args:
        volume: in the order of its file.
        window_name: of the intensities that the network sees; see `intensity_window.choose_window`.
    """

    volume: Volume
    window_name: str = "auto"

    @property
    def planes(self) -> Mapping[str, int]:
        """Plane → how many frames it has."""
        return {name: self.volume.shape[array_axis(self.volume, view)] for name, view in PLANES.items()}

    @property
    def voxel_ml(self) -> float | None:
        """Volume of a voxel."""
        return self.volume.voxel_mm3 / 1000

    def spacing(self, plane: str) -> tuple[float, float]:
        """Distance in mm between rows and between columns."""
        _, rows, columns = PLANES[plane].spacing(self.volume.spacing_mm, self.volume.orientation)
        return rows, columns

    def size(self, plane: str, t: int) -> tuple[int, int]:
        """Rows and columns of a frame."""
        _, rows, columns = (self.volume.shape[axis] for axis in PLANES[plane].order(self.volume.orientation))
        return rows, columns

    def pixels(self, plane: str, t: int) -> NDArray[np.generic]:
        """A frame (H, W) of intensities."""
        return PLANES[plane].apply(self.volume.array, self.volume.orientation)[t]

    def blank(self) -> Canvas:
        """A canvas with nothing on it."""
        return (np.zeros(self.volume.shape, np.uint8, order="F"),)  # as most files: an axial slice lies together

    def view(self, canvas: Canvas, plane: str, t: int) -> Frame:
        """A frame (H, W) of a canvas."""
        return PLANES[plane].apply(canvas[0], self.volume.orientation)[t]

    def sketch(self, segmenter: "Segmenter", said: Sequence[Said], earlier: Frame | None) -> NDArray[np.bool_]:
        """The slice as a volume of its own, seen through the window that the whole volume would be seen through."""
        label, plane, t = said[0].place
        view, axes = PLANES[plane], self.volume.orientation
        axis, k = array_axis(self.volume, view), self.slice_index(plane, t)
        flat = replace(self.volume, array=self.volume.array.take(range(k, k + 1), axis))
        thin = VolumeSubject(flat)
        prompts = [prompt for one in said for prompt in thin.prompts(replace(one, t=0))]
        known = None if earlier is None else view.invert(earlier[None], axes)
        found = segmenter.segment_volume(flat, prompts, views=plane, window=self.seen(said), earlier=known)
        return view.apply(found.labels, axes)[0] == label

    def track(self, segmenter: "Segmenter", state: State, before: Found | None, views: str, on_frame: OnFrame) -> Found:
        """New structures are outlined as `Segmenter` does it; those that have an outline are corrected by what is fresh."""
        wanted = {said.label for said in (state.fresh if before else state.said)}
        known = wanted & set(before.voxels) if before else set[int]()
        tell, found = self._teller(on_frame), before
        if found and known:
            said = [said for said in state.fresh if said.label in known]
            found = self._mended(segmenter, said, found, tell)
        if fresh := wanted - known:
            said = [said for said in state.said if said.label in fresh]
            new = self._outlined(segmenter, said, state, views, tell)
            found = _beside(found, new, fresh) if found else new
        return found or Found(self.blank())

    def _outlined(
        self, segmenter: "Segmenter", said: Sequence[Said], state: State, views: str, tell: "Callable[[FrameDone], None]"
    ) -> Found:
        prompts = [prompt for one in said for prompt in self.prompts(one)]
        keep = self.volume.array.size <= UNCERTAIN_VOXELS
        result = segmenter.segment_volume(
            self.volume, prompts, views=views, window=self.window_name, probability=keep, names=state.names, on_frame=tell
        )
        unsure = (doubt(list(result.probability.values())),) if keep else None
        rows = tuple(self._row(row) for row in result.confidence)
        return Found((result.labels.astype(np.uint8),), rows, unsure, result.warnings)

    def _mended(
        self, segmenter: "Segmenter", said: Sequence[Said], before: Found, tell: "Callable[[FrameDone], None]"
    ) -> Found:
        prompts = [prompt for one in said for prompt in self.prompts(one)]
        result = segmenter.segment_volume(
            self.volume, prompts, window=self.window_name, earlier=before.canvas[0], on_frame=tell
        )
        labels = result.labels.astype(np.uint8)
        unsure = None if before.doubt is None else (np.where(labels == before.canvas[0], before.doubt[0], np.uint8(0)),)
        rows = {(row.object, row.view, row.slice): row for row in before.rows}
        rows |= {(row.object, row.view, row.slice): row for row in map(self._row, result.confidence)}
        return Found((labels,), tuple(rows.values()), unsure, (*before.warnings, *result.warnings))

    def _teller(self, on_frame: OnFrame) -> "Callable[[FrameDone], None]":
        """Views of tracking run as the planes are shown, or are their reverses, which share rows and columns."""

        def tell(done: "FrameDone") -> None:
            plane = View(done.view).name
            masks = dict(zip(done.objects, done.masks_bhw, strict=True))
            on_frame(done.done, done.total, plane, self.frame(plane, done.slice), masks)

        return tell

    def _row(self, row: SliceConfidence) -> SliceConfidence:
        """The same with the plane's name and its frame in place of the view and the slice of the file."""
        plane = View(row.view).name
        return replace(row, view=plane, slice=self.frame(plane, row.slice))

    def frame(self, plane: str, index: int) -> int:
        """The frame that shows a slice of the file; its own inverse, as `slice_index`."""
        view = PLANES[plane]
        return self.planes[plane] - 1 - index if view.flipped(self.volume.orientation)[0] else index

    slice_index = frame

    def seen(self, said: Sequence[Said]) -> Window:
        """What the network sees a structure through, by the gestures on it; without any, the window to begin with."""
        if not said or not self._windows.hounsfield:
            return self.window
        at = [intensities(self.pixels(one.plane, one.t), frame_prompt(one, self.size(one.plane, one.t))) for one in said]
        return self._windows.of(np.concatenate(at))

    @cached_property
    def _windows(self) -> Windows:
        return Windows(self.volume, self.window_name)

    @cached_property
    def window(self) -> Window:
        """The window to begin with."""
        return self._windows.of()

    @cached_property
    def extent(self) -> Window:
        """Smallest and largest intensity, without what lies absurdly far from all others: the page has 65,536 levels."""
        array, usual = self.volume.array, percentile_window(self.volume.array)
        lowest, highest = float(np.nanmin(array)), float(np.nanmax(array))
        reach = REACH * (usual.high - usual.low)
        low = max(lowest, usual.low - reach)
        return Window(low, max(min(highest, usual.high + reach), low + (usual.high - usual.low)))

    def range(self, t: int, said: Sequence[Said]) -> Window:
        """All intensities: the page narrows them."""
        return self.extent

    def prompts(self, said: Said) -> list[Prompt]:
        """A gesture as prompts in voxels of the file."""
        if said.kind == "mask":
            mask = np.zeros(self.volume.shape, bool)
            view = PLANES[said.plane]
            view.apply(mask, self.volume.orientation)[said.t] = unpacked(said.runs, self.size(said.plane, said.t))
            return [Mask(mask, said.label, array_axis(self.volume, view))]
        corners = [self._voxel(said.plane, said.t, y, x) for y, x in said.points_yx]
        if said.kind == "points":
            return [Point(voxel, said.label, positive) for voxel, positive in zip(corners, said.positive, strict=True)]
        low, high = (tuple(pick(*pair) for pair in zip(*corners, strict=True)) for pick in (min, max))
        return [Box(low, high, said.label)]  # type: ignore[arg-type]

    def _voxel(self, plane: str, t: int, y: float, x: float) -> tuple[float, float, float]:
        view, axes, voxel = PLANES[plane], self.volume.orientation, [0.0, 0.0, 0.0]
        for place, axis, flip in zip((t, y, x), view.order(axes), view.flipped(axes), strict=True):
            voxel[axis] = self.volume.shape[axis] - 1 - place if flip else place
        return voxel[0], voxel[1], voxel[2]


def _beside(found: Found, new: Found, labels: set[int]) -> Found:
    """New structures where there is nothing yet."""
    (old,), (add,) = found.canvas, new.canvas
    joined = np.where((old == 0) | np.isin(old, list(labels)), add, old)
    unsure = (np.maximum(found.doubt[0], new.doubt[0]),) if found.doubt and new.doubt else None
    rows = (*(row for row in found.rows if row.object not in labels), *new.rows)
    return Found((joined,), rows, unsure, (*found.warnings, *new.warnings))

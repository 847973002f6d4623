"""Volumes and images without their padding (METHOD §4), so that it changes nothing of what is found; and the way back.

Shapes: I J K voxels of a whole volume, H W pixels of a whole image.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import ConfigError, PromptError
from medical_sam2.intensity_window import content_box
from medical_sam2.io.voxels import replace_non_finite
from medical_sam2.prompts import Box, FramePrompt, Index, Mask, Point, Prompt
from medical_sam2.strokes import Brush, Scribble, ShapeInterpolation, SliceRange, Stroke
from medical_sam2.tracking.frames import FrameDone, Region, around_all, cut_prompt, prompt_extent
from medical_sam2.tracking.image_viewer import Images, is_picture
from medical_sam2.tracking.limits import Limits, limits_of
from medical_sam2.tracking.plan import TrackingPlan, array_axis, plan_tracking
from medical_sam2.views import View
from medical_sam2.volume import Segmentation, Volume, bounding_box

MARGIN = 0.5  # of background kept beside a thing on it, over the thing's size
UNIFORM = 0.15  # spread of its greys, over how far they lie from the background, and from 0
SAMPLES = 64  # along each axis, at least, by which that is judged


@dataclass(frozen=True, eq=False)
class Crop:
    """The part of a volume that is looked at."""

    whole: Volume  # the volume, NaN and infinities replaced as readers of files do it
    box: tuple[slice, slice, slice]  # where the part lies in it
    warnings: tuple[str, ...] = ()  # whether any were, and of outlines of all that there is

    @classmethod
    def to_content(cls, volume: Volume, prompts: Sequence[Prompt]) -> "Crop":
        """Without planes of one value at the borders, as far as no prompt lies there; everything where a prompt is unknown.

        A thing of nearly one grey on an empty background keeps a margin of it.
        """
        array, odd = replace_non_finite(volume.array)
        ends = np.array([(side.start, side.stop) for side in _content_box(array)])
        for prompt in prompts:
            low, high = _extent(prompt, volume.shape)
            ends = np.stack([np.minimum(ends[:, 0], low), np.maximum(ends[:, 1], high + 1)], axis=1)
        i, j, k = (slice(max(0, int(low)), min(size, int(high))) for (low, high), size in zip(ends, volume.shape, strict=True))
        whole = [prompt.object for prompt in prompts if isinstance(prompt, Mask) and prompt.array_ijk.all()]
        told = [
            f"object {label} is outlined on all of the image, so that nothing tells it from what is outside" for label in whole
        ]
        return cls(replace(volume, array=array) if odd else volume, (i, j, k), (*odd, *told))

    @property
    def start(self) -> tuple[int, int, int]:
        """Its first voxel."""
        i, j, k = (side.start for side in self.box)
        return i, j, k

    @property
    def volume(self) -> Volume:
        """The part, where it lies in the patient."""
        affine = self.whole.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ self.start
        return self.whole if self._everything else replace(self.whole, array=self.whole.array[self.box], affine=affine)

    @property
    def _everything(self) -> bool:
        return all(side.stop - side.start == size for side, size in zip(self.box, self.whole.shape, strict=True))

    def prompt(self, prompt: Prompt) -> Prompt:
        """The same in voxels of the part."""
        if self._everything:
            return prompt
        if isinstance(prompt, Point):
            return replace(prompt, index_ijk=self._shifted(prompt.index_ijk))
        if isinstance(prompt, Box):
            return replace(prompt, low_ijk=self._shifted(prompt.low_ijk), high_ijk=self._shifted(prompt.high_ijk))
        if isinstance(prompt, Mask):
            return self.cut(prompt)
        if isinstance(prompt, Stroke):
            return replace(prompt, places_ijk=tuple(map(self._shifted, prompt.places_ijk)))
        if isinstance(prompt, Brush):
            return replace(prompt, voxels=prompt.voxels - np.array(self.start))
        if isinstance(prompt, SliceRange):
            return replace(prompt, start_ijk=self.start, whole_ijk=self.whole.shape)
        return prompt

    def plan(self, prompts: Sequence[Prompt], views: str | Sequence[View], earlier: NDArray[np.generic] | None) -> TrackingPlan:
        """`plan_tracking` in the part; what is refused is told in voxels of the whole."""
        try:
            return plan_tracking(self.volume, [self.prompt(prompt) for prompt in prompts], views, earlier)
        except PromptError:
            plan_tracking(self.whole, prompts, views, earlier)
            raise

    def cut(self, mask: Mask) -> Mask:
        """An outline as far as it lies in the part."""
        return mask if self._everything else replace(mask, array_ijk=mask.array_ijk[self.box])

    def embed(self, inside_ijk: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Voxels of the part as voxels of the whole."""
        return inside_ijk if self._everything else self._embedded(inside_ijk)

    def _shifted(self, index_ijk: Index) -> Index:
        i, j, k = (place - start for place, start in zip(index_ijk, self.start, strict=True))
        return i, j, k

    def labels(self, earlier: NDArray[np.unsignedinteger] | None) -> NDArray[np.unsignedinteger] | None:
        """An earlier result as far as it lies in the part."""
        return None if earlier is None else earlier[self.box]

    def wrap_progress(self, on_frame: Callable[[FrameDone], None] | None) -> Callable[[FrameDone], None] | None:
        """Reports frames of the part as of frames of the whole."""
        if on_frame is None or self._everything:
            return on_frame
        return lambda done: on_frame(self._frame(done))

    def _frame(self, done: FrameDone) -> FrameDone:
        view, axes = View(done.view), self.whole.orientation
        axis, *plane = view.order(axes)
        shape = (len(done.masks_bhw), *(self.whole.shape[place] for place in plane))
        places: list[slice] = [slice(None)]
        for place, flip in zip(plane, view.flipped(axes)[1:], strict=True):
            side, size = self.box[place], self.whole.shape[place]
            places.append(slice(size - side.stop, size - side.start) if flip else side)
        masks = np.zeros(shape, bool)
        masks[tuple(places)] = done.masks_bhw
        return replace(done, slice=done.slice + self.start[axis], masks_bhw=masks)

    def to_whole(self, found: Segmentation, earlier: NDArray[np.unsignedinteger] | None) -> Segmentation:
        """What was found in the part as what was found in the whole; an earlier result stays around it.

        Rows of confidence and warnings know of the whole already (see `VolumeTracker`).
        """
        if self._everything:
            return found
        return replace(
            found,
            labels=self._embedded(found.labels, earlier),
            affine=self.whole.affine,
            probability={label: self._embedded(each) for label, each in found.probability.items()},
            uncertainty=None if found.uncertainty is None else self._embedded(found.uncertainty),
            layers=tuple(self._embedded(layer) for layer in found.layers),
        )

    def _embedded(self, part: NDArray[Any], around: NDArray[Any] | None = None) -> NDArray[Any]:
        kind = part.dtype if around is None else np.promote_types(part.dtype, np.min_scalar_type(int(around.max())))
        whole = np.zeros(self.whole.shape, kind) if around is None else around.astype(kind)
        whole[self.box] = part
        return whole


@dataclass(frozen=True, eq=False)
class VolumePlan:
    """What is tracked of a volume: the part of it that is looked at, and who is tracked there along which views."""

    crop: Crop
    prompts: tuple[Prompt, ...]  # in voxels of the whole volume
    tracking: TrackingPlan  # in voxels of the part

    @classmethod
    def of(
        cls,
        volume: Volume,
        prompts: Sequence[Prompt],
        views: str | Sequence[View],
        earlier: NDArray[np.generic] | None = None,
    ) -> "VolumePlan":
        """Plan what prompts, or corrections of earlier labels, ask for; raises as `plan_tracking` does."""
        crop = Crop.to_content(volume, prompts)
        return cls(crop, tuple(prompts), crop.plan(prompts, views, earlier))

    def check(self, volume: Volume, prompts: Sequence[Prompt]) -> "VolumePlan":
        """Itself, if it is of this volume and these prompts; else raises ConfigError."""
        whole = self.crop.whole
        if whole.shape != volume.shape or (whole.affine != volume.affine).any() or list(self.prompts) != list(prompts):
            raise ConfigError("the plan is of another volume, or of other prompts", "make it anew, or leave it out")
        return self

    @property
    def limits(self) -> dict[int, Limits]:
        """Object → what its prompts settle of single voxels of the whole, where they do."""
        axes = {x: array_axis(self.crop.whole, group.view) for group in self.tracking.groups for x in group.prompts}
        found = {x: limits_of([p for p in self.prompts if p.object == x], self.crop.whole.shape, axes[x]) for x in axes}
        return {x: own for x, own in found.items() if own is not None}

    def slice_index(self, view: View, t: int) -> int:
        """The slice of the whole, along its array axis, that a frame of the part lies on."""
        axis = array_axis(self.crop.whole, view)
        side = self.crop.box[axis]
        return side.start + view.slice_index(t, side.stop - side.start, self.crop.whole.orientation)


# From a click on what fills its frame the network finds next to nothing: it has learnt that there is something around objects.
def _content_box(array: NDArray[np.generic], axes: int | None = None) -> tuple[slice, ...]:
    """`content_box`, with a margin of background around a thing that is nearly uniform: there is nothing else to outline."""
    box, found = content_box(array, axes), list[slice]()
    part = array[tuple(slice(side.start, side.stop, max(1, (side.stop - side.start) // SAMPLES)) for side in box)]
    for axis, side in enumerate(box):
        room = ceil(MARGIN * (side.stop - side.start))
        low, high = (
            room * (0 <= beside < array.shape[axis] and _is_uniform(part, np.take(array, beside, axis).flat[0]))
            for beside in (side.start - 1, side.stop)
        )
        found.append(slice(max(0, side.start - low), min(array.shape[axis], side.stop + high)))
    return tuple(found)


def _is_uniform(part: NDArray[np.generic], background: np.generic) -> bool:
    """Whether what is not background differs little beside how far it lies from the background (any value), and from 0."""
    thing = part[part != background].astype(np.float64)
    if not thing.size:
        return False
    return bool(thing.std() <= UNIFORM * min(abs(thing.mean() - float(background)), np.abs(thing).max()))


def _extent(prompt: Prompt, shape: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last voxel of a prompt; the whole volume's where that cannot be said."""
    # prompts that will be refused later, or are of an unknown kind, keep the whole volume, so that the message fits it
    if isinstance(prompt, Mask) and prompt.array_ijk.shape == tuple(shape):
        box = bounding_box(prompt.array_ijk)
        return np.array([side.start for side in box]), np.array([side.stop - 1 for side in box])
    if isinstance(prompt, SliceRange | ShapeInterpolation):
        return np.array(shape, np.int64), np.full(3, -1)  # nothing of its own
    places = _places(prompt)
    if places is not None:
        ends = np.asarray(places, float)
        low, high = ends.min(axis=0), ends.max(axis=0)
        if np.isfinite(ends).all() and (low > -1).all() and (high < shape).all():  # one that lies outside is refused later
            reach = ceil(prompt.width / 2) if isinstance(prompt, Scribble) else 0
            return np.floor(low).astype(np.int64) - reach, np.ceil(high).astype(np.int64) + reach
    return np.zeros(3, np.int64), np.array(shape, np.int64) - 1


def _places(prompt: Prompt) -> Sequence[Index] | NDArray[np.intp] | None:
    """Places that a prompt lies within; None where that is not known."""
    if isinstance(prompt, Point):
        return (prompt.index_ijk,)
    if isinstance(prompt, Box):
        return (prompt.low_ijk, prompt.high_ijk)
    if isinstance(prompt, Stroke):
        return prompt.places_ijk
    return prompt.voxels if isinstance(prompt, Brush) else None


class CroppedImages:
    """The images of a set, each without its padding as far as no prompt lies on it; read when they are asked for.

    Args:
        images: of the set.
        prompts: image → object → prompt, in pixels of the whole image.
    """

    def __init__(self, images: Images, prompts: Mapping[int, Mapping[int, FramePrompt]]) -> None:
        self._images, self._prompts = images, prompts
        self._places: dict[int, tuple[tuple[int, int], Region]] = {}

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> NDArray[np.generic]:
        """The content of an image."""
        image = self._images[index]
        if not is_picture(image):
            return image  # whoever uses it says so, by the shape that was given
        if index not in self._places:
            self._places[index] = image.shape[:2], self._region(image, self._prompts.get(index, {}))
        _, region = self._places[index]
        return image[region.rows, region.columns]

    def _region(self, image: NDArray[np.generic], prompts: Mapping[int, FramePrompt]) -> Region:
        height, width = image.shape[:2]
        rows, columns = _content_box(image, 2)
        boxes = [(columns.start, rows.start, columns.stop - 1, rows.stop - 1)]
        for prompt in prompts.values():
            fits = prompt.mask_hw is None or (prompt.mask_hw.shape == (height, width) and prompt.mask_hw.any())
            boxes.append(prompt_extent(prompt) if fits else (0, 0, width - 1, height - 1))
        x_low, y_low, x_high, y_high = around_all(boxes)
        top, left = max(0, floor(y_low)), max(0, floor(x_low))
        if x_low <= -1 or y_low <= -1 or x_high >= width or y_high >= height:  # it lies outside, which is refused later
            return Region(0, 0, height, width)
        return Region(top, left, ceil(y_high) + 1 - top, ceil(x_high) + 1 - left)

    @property
    def prompts(self) -> dict[int, dict[int, FramePrompt]]:
        """The prompts in pixels of the content."""
        return {i: {label: self._cut(i, prompt) for label, prompt in own.items()} for i, own in self._prompts.items()}

    def _cut(self, i: int, prompt: FramePrompt) -> FramePrompt:
        if not 0 <= i < len(self):
            return prompt
        _ = self[i]
        place = self._places.get(i)
        return prompt if place is None or place[0] == place[1].shape_hw else cut_prompt(prompt, place[1])

    def to_whole(self, i: int, labels_hw: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
        """Labels of the content as labels of the whole image."""
        shape, region = self._places[i]
        if shape == region.shape_hw:
            return labels_hw
        whole = np.zeros(shape, labels_hw.dtype)
        whole[region.rows, region.columns] = labels_hw
        return whole

"""What is drawn by hand on a slice, and what prompts of all kinds settle: how each becomes what the network understands.

| drawn | shown to the network, on its slice | settled, whatever is found |
|---|---|---|
| `Scribble` | a few clicks, far from each other along the line | its voxels are inside, or outside |
| `Lasso` | the filled outline, as a mask | a negative one: its voxels are outside |
| `Diameter` | the box of an ellipse, and a click in its middle | |
| `Box` in 3D | its rectangle on the middle slice | all beyond it is outside |
| negative `Box` or `Lasso` | a click in its middle, where the slice is prompted besides | its voxels are outside |
| `SliceRange` | | slices before and after are not tracked |
| `ShapeInterpolation` | (the slices between outlines are estimated beside tracking) | |

Clicks of a scribble are chosen by farthest-point sampling (Gonzalez, 1985), a diameter is RECIST's (Eisenhauer et al., 2009).
Coordinates are voxel indices in the order of the file; on an image x to the right, y down, pixel centres at integers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, isfinite
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import PromptError
from medical_sam2.prompts import Box, FramePrompt, Index, Mask, Point, Prompt, check_inside, frame_of, voxel_of
from medical_sam2.views import View

CLICKS = 3  # of a scribble that the network is shown
WIDEST = 100.0  # of scribbles, in pixels
SHORT_OVER_LONG = 0.7  # of the diameters of lesions, where the short one was not measured
ON_THE_LINE = 1e-6  # pixels whose centre lies so near to an outline belong to it
MOST_PLACES = 10_000

Pixels = NDArray[np.intp]
"""(N, 2) rows and columns."""
Voxels = NDArray[np.intp]
"""(N, 3) indices."""


def stroke(places_xy: NDArray[np.floating], width: float, shape_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels (H, W) within half a width of the pixels that a line through places (N, 2) crosses."""
    line = _line_pixels(places_xy)
    reach = max(0.0, (width - 1) / 2)
    steps = np.arange(-ceil(reach), ceil(reach) + 1)
    offsets = np.array([(dy, dx) for dy in steps for dx in steps if dy * dy + dx * dx <= reach * reach + ON_THE_LINE])
    mask = np.zeros(shape_hw, bool)
    touched = (line[:, None] + offsets).reshape(-1, 2)
    touched = touched[((touched >= 0) & (touched < shape_hw)).all(axis=1)]
    mask[touched[:, 0], touched[:, 1]] = True
    return mask


def fill(corners_xy: NDArray[np.floating], shape_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels (H, W) whose centres an outline through corners (N, 2) encloses (even-odd rule) or runs through."""
    mask = np.zeros(shape_hw, bool)
    low = np.clip(np.floor(corners_xy.min(axis=0)), 0, None).astype(int)
    x, y = np.meshgrid(*(np.arange(start, ceil(stop) + 1) for start, stop in zip(low, corners_xy.max(axis=0), strict=True)))
    enclosed, touched = np.zeros(x.shape, bool), np.zeros(x.shape, bool)
    for (x1, y1), (x2, y2) in zip(corners_xy, np.roll(corners_xy, -1, axis=0), strict=True):
        if y1 != y2:
            enclosed ^= ((y1 > y) != (y2 > y)) & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
        squared = (x2 - x1) ** 2 + (y2 - y1) ** 2
        along = np.clip(((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / squared, 0, 1) if squared else 0.0
        touched |= np.hypot(x - x1 - along * (x2 - x1), y - y1 - along * (y2 - y1)) <= ON_THE_LINE
    part = mask[low[1] : low[1] + x.shape[0], low[0] : low[0] + x.shape[1]]
    part |= (enclosed | touched)[: part.shape[0], : part.shape[1]]
    return mask


def farthest_points(places: NDArray[np.generic], most: int) -> NDArray[np.intp]:
    """Which of some places (N, D) lie far from each other: up to `most`, the one nearest to their middle first."""
    numbers = places.astype(np.float64)
    chosen = [int(((numbers - numbers.mean(axis=0)) ** 2).sum(axis=1).argmin())]
    nearest = ((numbers - numbers[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < most and nearest.max() > 0:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((numbers - numbers[chosen[-1]]) ** 2).sum(axis=1))
    return np.array(chosen, np.intp)


def scribble_prompt(
    places_xy: Sequence[Sequence[float]], width: float, shape_hw: tuple[int, int], *, positive: bool = True
) -> FramePrompt:
    """A scribble on an image: clicks along it, and its pixels settled.

    Raises:
        PromptError: it lies outside of the image, or its width is none.
    """
    places = _places(places_xy, shape_hw, "scribble")
    _check_width(width)
    line = _line_pixels(places)
    clicks = line[farthest_points(line, CLICKS)][:, ::-1]
    settled = np.where(stroke(places, width, shape_hw), 1 if positive else -1, 0).astype(np.int8)
    labels = np.full(len(clicks), int(positive), np.int64)
    return FramePrompt(clicks.astype(np.float32), labels, settled_hw=settled)


def lasso_prompt(corners_xy: Sequence[Sequence[float]], shape_hw: tuple[int, int], *, positive: bool = True) -> FramePrompt:
    """A lasso on an image: an outline, or a region that is settled as outside with a click in its middle.

    Raises:
        PromptError: it lies outside of the image, or encloses nothing.
    """
    inside = fill(_places(corners_xy, shape_hw, "lasso", fewest=3), shape_hw)
    return FramePrompt.mask(inside) if positive else excluding(inside)


def excluding(region_hw: NDArray[np.bool_]) -> FramePrompt:
    """A region (H, W) of an image that is not the object."""
    pixels = np.argwhere(region_hw)
    (y, x) = pixels[farthest_points(pixels, 1)[0]]
    return FramePrompt(
        np.array([[x, y]], np.float32), np.zeros(1, np.int64), settled_hw=np.where(region_hw, -1, 0).astype(np.int8)
    )


def diameter_prompt(ends_xy: Sequence[Sequence[float]], shape_hw: tuple[int, int]) -> FramePrompt:
    """The longest diameter of an object on an image, and the short one where it was measured: see `Diameter`.

    Raises:
        PromptError: it lies outside of the image, or has no length.
    """
    ends = _places(ends_xy, shape_hw, "diameter", fewest=2)
    half_long = (ends[1] - ends[0]) / 2
    middle = (ends[0] + ends[1]) / 2
    half_short = np.array([-half_long[1], half_long[0]]) * SHORT_OVER_LONG
    if len(ends) == 4:
        half_short, middle = (ends[3] - ends[2]) / 2, (middle + (ends[2] + ends[3]) / 2) / 2
    reach = np.maximum(np.hypot(half_long, half_short), 0.5)
    low, high = np.maximum(middle - reach, 0), np.minimum(middle + reach, np.array(shape_hw[::-1]) - 1.0)
    return FramePrompt.box(*low, *high) | FramePrompt.click(*middle)


def apply_settled(labels_hw: NDArray[np.unsignedinteger], label: int, prompt: FramePrompt) -> None:
    """Make the labels of an image (H, W) follow what a prompt settles, in place."""
    if prompt.settled_hw is not None:
        labels_hw[(prompt.settled_hw < 0) & (labels_hw == label)] = 0
        labels_hw[prompt.settled_hw > 0] = label


def _line_pixels(places_xy: NDArray[np.floating]) -> Pixels:
    """The pixels, rows and columns, that a line through places crosses, each once, in the order of the line."""
    parts = [places_xy[:1]]
    for start, end in pairwise(places_xy):
        steps = max(1, ceil(4 * float(np.abs(end - start).max())))
        parts.append(start + (end - start) * np.linspace(0, 1, steps + 1)[1:, None])
    pixels = np.floor(np.concatenate(parts) + 0.5).astype(np.intp)[:, ::-1]
    _, first = np.unique(pixels, axis=0, return_index=True)
    return pixels[np.sort(first)]


def _places(places_xy: Sequence[Sequence[float]], shape_hw: tuple[int, int], what: str, fewest: int = 1) -> NDArray[np.float64]:
    places = np.array(places_xy, np.float64).reshape(-1, 2)
    if not fewest <= len(places) <= MOST_PLACES:
        raise PromptError(f"a {what} has {len(places)} places", f"give {fewest} or more, up to {MOST_PLACES:,}")
    height, width = shape_hw
    beyond = ~((places >= -0.5) & (places < (width - 0.5, height - 0.5))).all(axis=1)
    if beyond.any():
        x, y = places[beyond][0]
        problem = f"{what} at ({x:g}, {y:g}) lies outside the image of {width} × {height} pixels"
        raise PromptError(problem, "give pixels from 0 to the size less one")
    return places


def _check_width(width: float) -> None:
    if not (isfinite(width) and 1 <= width <= WIDEST):
        raise PromptError(f"a scribble cannot be {width:g} wide", f"give a width of 1 to {WIDEST:g} voxels")


@dataclass(frozen=True)
class Stroke:
    """Anything that is drawn through places of one slice.

    Args:
        places_ijk: voxel indices, in the order of the file, in the order in which they were drawn; fractions are kept.
        object: label, from 1.
        positive: whether it means the object.
    """

    places_ijk: tuple[Index, ...]
    object: int = 1
    positive: bool = True
    kind: ClassVar[str] = "stroke"

    def __post_init__(self) -> None:
        if not self.places_ijk or not np.isfinite(np.array(self.places_ijk)).all():
            raise PromptError(f"a {self.kind} of object {self.object} has no finite places", "give voxel indices")
        if not self.planes():
            problem = f"a {self.kind} of object {self.object} lies on no single slice"
            raise PromptError(problem, "give places that agree in one index, the slice")

    def planes(self) -> frozenset[int]:
        """Array axes along which it lies on a single slice."""
        columns = zip(*self.places_ijk, strict=True)
        return frozenset(axis for axis, along in enumerate(columns) if len({*map(voxel_of, along)}) == 1)

    def project(self, view: View, shape_ijk: Sequence[int], axes: str = "RAS") -> Mapping[int, FramePrompt]:
        """What is shown on the frame of the plane that it was drawn in; nothing in other views."""
        for place in self.places_ijk:
            check_inside(self.kind, place, shape_ijk)
        if view.order(axes)[0] not in self.planes():
            return {}
        t = frame_of(self.places_ijk[0], view, shape_ijk, axes)
        places = [view.project(place, shape_ijk, axes)[:0:-1] for place in self.places_ijk]
        height, width = (shape_ijk[axis] for axis in view.order(axes)[1:])
        return {t: self.on_image(places, (height, width))}

    def on_image(self, places_xy: Sequence[Sequence[float]], shape_hw: tuple[int, int]) -> FramePrompt:
        """What is shown of it where its places lie on an image."""
        raise NotImplementedError

    def region(self, shape_ijk: Sequence[int], axis: int) -> Voxels:
        """Its voxels as drawn on a slice of an array axis, or of the first that it lies along."""
        axis = axis if axis in self.planes() else min(self.planes())
        rest = [other for other in range(3) if other != axis]
        places = [(place[rest[1]], place[rest[0]]) for place in self.places_ijk]
        prompt = self.on_image(places, (shape_ijk[rest[0]], shape_ijk[rest[1]]))
        settled = prompt.settled_hw if prompt.mask_hw is None else prompt.mask_hw
        pixels = np.zeros((0, 2), np.intp) if settled is None else np.argwhere(settled != 0)
        return np.insert(pixels, axis, voxel_of(self.places_ijk[0][axis]), axis=1)


@dataclass(frozen=True)
class Scribble(Stroke):
    """A line drawn inside of the object, or outside of it.

    Args:
        places_ijk, object, positive: see `Stroke`.
        width: of the line in voxels; all of them are settled.
    """

    width: float = 3.0
    kind: ClassVar[str] = "scribble"

    def on_image(self, places_xy: Sequence[Sequence[float]], shape_hw: tuple[int, int]) -> FramePrompt:
        """Clicks along the line, which is settled."""
        return scribble_prompt(places_xy, self.width, shape_hw, positive=self.positive)


class Lasso(Stroke):
    """An outline drawn by hand: what it encloses is the object on that slice, or, where negative, is not the object."""

    kind: ClassVar[str] = "lasso"

    def on_image(self, places_xy: Sequence[Sequence[float]], shape_hw: tuple[int, int]) -> FramePrompt:
        """The filled outline."""
        return lasso_prompt(places_xy, shape_hw, positive=self.positive)


class Diameter(Stroke):
    """The longest diameter of a lesion on a slice, from end to end, and the short one across it where it was measured (RECIST).

    Places are the two ends of the one, and the two ends of the other. Without the other, it is taken to be `SHORT_OVER_LONG` of
    the first.
    """

    kind: ClassVar[str] = "diameter"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.places_ijk) not in {2, 4} or not self.positive:
            raise PromptError(
                f"a diameter of object {self.object} has {len(self.places_ijk)} ends", "give two, or four with the short one"
            )
        if len({*self.places_ijk[:2]}) == 1 or len({*self.places_ijk[2:]}) == 1:
            raise PromptError(f"a diameter of object {self.object} has no length", "give its two ends")

    def on_image(self, places_xy: Sequence[Sequence[float]], shape_hw: tuple[int, int]) -> FramePrompt:
        """The box of an ellipse, and a click in its middle."""
        return diameter_prompt(places_xy, shape_hw)


@dataclass(frozen=True)
class SliceRange:
    """Slices of the axis that an object is prompted along: it is looked for on these alone.

    Args:
        first: slice, in the order of the file.
        last: slice, included.
        object: label, from 1.
        start_ijk: the voxel that they are counted from.
    """

    first: int
    last: int
    object: int = 1
    start_ijk: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.last:
            raise PromptError(f"slices {self.first} to {self.last} are none", "give the first and the last, from 0")

    def project(self, view: View, shape_ijk: Sequence[int], axes: str = "RAS") -> Mapping[int, FramePrompt]:
        """Nothing: it says where the object is not."""
        return {}

    def planes(self) -> frozenset[int]:
        """Every axis: that of the other prompts is meant."""
        return frozenset({0, 1, 2})

    def along(self, axis: int) -> slice:
        """The slices of an array axis."""
        return slice(self.first - self.start_ijk[axis], self.last + 1 - self.start_ijk[axis])


@dataclass(frozen=True)
class ShapeInterpolation:
    """On slices between outlines of an object, their shapes are expected, interpolated; what is tracked counts beside.

    Args:
        object: label, from 1.
    """

    object: int = 1

    def project(self, view: View, shape_ijk: Sequence[int], axes: str = "RAS") -> Mapping[int, FramePrompt]:
        """Nothing: what is expected is no prompt."""
        return {}

    def planes(self) -> frozenset[int]:
        """Every axis: that of the outlines is meant."""
        return frozenset({0, 1, 2})


def joins_outlines(own: Iterable[Prompt]) -> bool:
    """Whether the prompts of an object want its outlines joined by their shapes."""
    return any(isinstance(prompt, ShapeInterpolation) for prompt in own)


Array = TypeVar("Array", NDArray[np.float32], NDArray[np.bool_])


@dataclass(frozen=True, eq=False)
class Limits:
    """What the prompts of one object settle of single voxels, whatever the network finds.

    Args:
        within: voxels (three slices) beyond which the object is not.
        excluded: boxes (three slices each) in which it is not.
        inside: (N, 3) voxels that are the object.
        outside: (N, 3) voxels that are not.
    """

    within: tuple[slice, slice, slice]
    excluded: tuple[tuple[slice, slice, slice], ...]
    inside: Voxels
    outside: Voxels

    def apply(self, part_ijk: Array, start_ijk: Sequence[int], *, cut: bool = True) -> Array:
        """Make a part of a volume that begins at a voxel follow, in place: 1 inside, 0 outside; `cut`: also beyond `within`."""
        start = np.array(start_ijk)
        for axis, side in enumerate(self.within if cut else ()):
            along = np.moveaxis(part_ijk, axis, 0)
            along[: max(0, side.start - start[axis])] = 0
            along[max(0, side.stop - start[axis]) :] = 0
        for box in self.excluded:
            part_ijk[tuple(slice(max(0, s.start - b), max(0, s.stop - b)) for s, b in zip(box, start_ijk, strict=True))] = 0
        for voxels, value in ((self.outside, 0), (self.inside, 1)):
            here = voxels - start
            here = here[((here >= 0) & (here < part_ijk.shape)).all(axis=1)]
            part_ijk[tuple(here.T)] = value
        return part_ijk


def says_where(prompt: Prompt) -> bool:
    """Whether a prompt says where the object is, not only where it is not."""
    return not isinstance(prompt, SliceRange | ShapeInterpolation) and bool(getattr(prompt, "positive", True))


def only_takes_away(prompt: Prompt) -> bool:
    """Whether a prompt is a region or a line that is not the object: shown where it is prompted besides, or corrected."""
    return isinstance(prompt, Box | Stroke) and not prompt.positive


def limits_of(own: Iterable[Prompt], shape_ijk: Sequence[int], axis: int) -> Limits | None:
    """What the prompts of one object settle; None where that is nothing.

    Args:
        own: its prompts.
        shape_ijk: of the volume.
        axis: array axis that the object is prompted along.

    Raises:
        PromptError: what they say contradicts itself.
    """
    own = list(own)
    solid = [p.slices for p in own if isinstance(p, Box) and p.solid and p.positive]
    ranges = [_along_axis(p, shape_ijk, axis) for p in own if isinstance(p, SliceRange)]
    excluded = tuple(p.slices for p in own if isinstance(p, Box) and not p.positive)
    inside, outside = ([p.region(shape_ijk, axis) for p in own if _settles(p, positive)] for positive in (True, False))
    if not (solid or ranges or excluded or inside or outside):
        return None
    within = _intersection([*solid, *ranges], shape_ijk)
    limits = Limits(within, excluded, _joined(inside), _joined(outside))
    _check_agreement(own, limits, shape_ijk, axis)
    return limits


def _settles(prompt: Prompt, positive: bool) -> bool:
    if isinstance(prompt, Scribble):
        return prompt.positive == positive
    return isinstance(prompt, Lasso) and not prompt.positive and not positive


def _joined(parts: Sequence[Voxels]) -> Voxels:
    return np.unique(np.concatenate(parts), axis=0) if parts else np.zeros((0, 3), np.intp)


def _along_axis(prompt: SliceRange, shape_ijk: Sequence[int], axis: int) -> tuple[slice, slice, slice]:
    side = prompt.along(axis)
    if side.start >= shape_ijk[axis]:
        count = shape_ijk[axis] + prompt.start_ijk[axis]
        raise PromptError(
            f"there are no slices {prompt.first} to {prompt.last} of axis {'ijk'[axis]}", f"they end at {count - 1}"
        )
    i, j, k = (side if place == axis else slice(0, size) for place, size in enumerate(shape_ijk))
    return i, j, k


def _intersection(boxes: Sequence[tuple[slice, slice, slice]], shape_ijk: Sequence[int]) -> tuple[slice, slice, slice]:
    i, j, k = (
        slice(max([0, *(box[axis].start for box in boxes)]), min([size, *(box[axis].stop for box in boxes)]))
        for axis, size in enumerate(shape_ijk)
    )
    return i, j, k


# Each kind of prompt speaks of other voxels: those of each are looked up in what is settled.
def _check_agreement(own: Sequence[Prompt], limits: Limits, shape_ijk: Sequence[int], axis: int) -> None:
    """Refuse what no answer could follow.

    Raises:
        PromptError: a place is said to be inside and outside.
    """
    possible = np.zeros(tuple(shape_ijk), bool)
    possible[limits.within] = True
    for box in limits.excluded:
        possible[box] = False
    possible[tuple(limits.outside.T)] = False
    for prompt in own:
        if not says_where(prompt):
            continue
        if isinstance(prompt, Point):
            i, j, k = map(voxel_of, prompt.index_ijk)
            voxels = np.array([[i, j, k]])
        elif isinstance(prompt, Mask):
            voxels = np.argwhere(prompt.array_ijk)
        elif isinstance(prompt, Scribble | Lasso):
            voxels = prompt.region(shape_ijk, axis)
        else:
            box = prompt.slices if isinstance(prompt, Box) else ()
            if box and not possible[box].any():
                raise PromptError(
                    f"a box of object {prompt.object} lies where other prompts say that it is not", "leave one out"
                )
            continue
        wrong = voxels[~possible[tuple(voxels.T)]]
        if len(wrong):
            place = " ".join(map(str, wrong[0]))
            problem = f"object {prompt.object} is said to be inside and outside at voxel {place}"
            raise PromptError(problem, "a box in 3D, slices, or something drawn as outside leaves it out: change one of them")

"""What is drawn by hand on a slice, and what prompts of all kinds settle: how each becomes what the network understands.

| drawn | shown to the network, on its slice | settled, whatever is found |
|---|---|---|
| `Scribble`, `Brush` | a click in its middle, and a choice among masks (`share_followed`) | its voxels are inside, or outside |
| `Lasso` | the filled outline, as a mask | a negative one: its voxels are outside |
| `Diameter` | the box of an ellipse, and a click in its middle | |
| `Box` in 3D | its rectangle on the middle slice | all beyond it is outside |
| negative `Box` or `Lasso` | a click in its middle, where the slice is prompted besides | its voxels are outside |
| `SliceRange` | | slices before and after are not tracked |
| `ShapeInterpolation` | (the slices between outlines are estimated beside tracking) | |

Several places of a line are chosen by farthest-point sampling (Gonzalez, 1985); a diameter is RECIST's (Eisenhauer et al.,
2009).
Coordinates are voxel indices in the order of the file; on an image x to the right, y down, pixel centres at integers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, isfinite
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import PromptError
from medical_sam2.prompts import (
    Box,
    FramePrompt,
    Index,
    Prompt,
    check_index,
    check_inside,
    check_object,
    check_positive,
    frame_of,
    voxel_of,
)
from medical_sam2.views import View

CLICKS = 1  # of a scribble that the network is shown: more did not do better (docs/log.md)
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
    """A scribble on an image: a click in its middle, and its pixels settled.

    Raises:
        PromptError: it lies outside of the image, or its width is none.
    """
    places = _places(places_xy, shape_hw, "scribble")
    _check_width(width)
    line, settled = _line_pixels(places), stroke(places, width, shape_hw)
    clicks = line[farthest_points(line, CLICKS)][:, ::-1].astype(np.float32)
    labels = np.full(len(clicks), int(positive), np.int64)
    return FramePrompt(clicks, labels, settled_hw=np.where(settled, 1 if positive else -1, 0).astype(np.int8))


def lasso_prompt(
    corners_xy: Sequence[Sequence[float]], shape_hw: tuple[int, int], *, positive: bool = True, what: str = "lasso"
) -> FramePrompt:
    """A lasso on an image: an outline, or a region that is settled as outside with a click in its middle.

    Raises:
        PromptError: it lies outside of the image, or encloses nothing.
    """
    places = _places(corners_xy, shape_hw, what, fewest=3)
    if np.linalg.matrix_rank(places - places[0], tol=ON_THE_LINE) < 2:
        raise PromptError(f"a {what} encloses nothing", "draw it around something")
    inside = fill(places, shape_hw)
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
    if not (isinstance(width, Real) and isfinite(width) and 1 <= width <= WIDEST):
        raise PromptError(f"a scribble cannot be {repr(width)[:40]} wide", f"give a width of 1 to {WIDEST:g} voxels")


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
        check_object(self.object)
        check_positive(self.positive)
        for place in self.places_ijk:
            check_index(f"place of a {self.kind}", place)
        object.__setattr__(
            self, "places_ijk", tuple((i, j, k) for i, j, k in self.places_ijk)
        )  # rows of an array are places, too
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
        height, width = (shape_ijk[axis] for axis in view.order(axes)[1:])
        return {t: self.on_image(places, (height, width)) for t, places in self.trace(view, shape_ijk, axes).items()}

    def trace(self, view: View, shape_ijk: Sequence[int], axes: str = "RAS") -> Mapping[int, list[tuple[float, float]]]:
        """Its places, x to the right and y down, on the frame of the plane that it was drawn in; nothing in other views."""
        for place in self.places_ijk:
            check_inside(self.kind, place, shape_ijk)
        if view.order(axes)[0] not in self.planes():
            return {}
        projected = [view.project(place, shape_ijk, axes) for place in self.places_ijk]
        return {frame_of(self.places_ijk[0], view, shape_ijk, axes): [(x, y) for _, y, x in projected]}

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
        places_ijk: see `Stroke`.
        object: see `Stroke`.
        positive: see `Stroke`.
        width: of the line in voxels; all of them are settled.
    """

    width: float = 3.0
    kind: ClassVar[str] = "scribble"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_width(self.width)

    def on_image(self, places_xy: Sequence[Sequence[float]], shape_hw: tuple[int, int]) -> FramePrompt:
        """A click in the middle of the line, which is settled."""
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
        if len(self.places_ijk) == 4 and not _lies_across(np.array(self.places_ijk, float)):
            problem = f"the short diameter of object {self.object} does not lie across the long one"
            raise PromptError(
                problem, "give the two ends of the longest diameter, then those of the one at a right angle to it"
            )

    def on_image(self, places_xy: Sequence[Sequence[float]], shape_hw: tuple[int, int]) -> FramePrompt:
        """The box of an ellipse, and a click in its middle."""
        return diameter_prompt(places_xy, shape_hw)


def _lies_across(ends: NDArray[np.float64]) -> bool:
    """Whether the second of two lines (4, 3) runs across the first beside some part of it, whatever the voxels' shape."""
    long, short = ends[1] - ends[0], ends[3] - ends[2]
    (along, _), _, rank, _ = np.linalg.lstsq(np.stack([long, -short], axis=1), ends[2] - ends[0])
    return bool(rank == 2 and -ON_THE_LINE <= along <= 1 + ON_THE_LINE)


@dataclass(frozen=True, eq=False)
class Brush:
    """Voxels painted inside of the object, or outside of it, by a brush: a scribble whose line is not known."""

    voxels: Voxels  # (N, 3) indices, in the order of the file
    object: int = 1  # label, from 1
    positive: bool = True  # whether they belong to the object

    def __post_init__(self) -> None:
        check_object(self.object)
        check_positive(self.positive)
        if not len(self.voxels):
            raise PromptError(f"nothing is painted of object {self.object}", "paint at least one voxel")

    def planes(self) -> frozenset[int]:
        """The axis along which it lies on the fewest slices."""
        counts = [len(np.unique(self.voxels[:, axis])) for axis in range(3)]
        return frozenset(axis for axis in range(3) if counts[axis] == min(counts))

    def project(self, view: View, shape_ijk: Sequence[int], axes: str = "RAS") -> Mapping[int, FramePrompt]:
        """Clicks on each painted frame of its plane, which is settled; nothing in other views."""
        for corner in (self.voxels.min(axis=0), self.voxels.max(axis=0)):
            check_inside("something painted", (corner[0], corner[1], corner[2]), shape_ijk)
        if view.order(axes)[0] not in self.planes():
            return {}
        painted = np.zeros(tuple(shape_ijk), bool)
        painted[tuple(self.voxels.T)] = True
        stack = view.apply(painted, axes)
        return {int(t): _painted_prompt(stack[t], self.positive) for t in np.flatnonzero(stack.any(axis=(1, 2)))}


def _painted_prompt(painted_hw: NDArray[np.bool_], positive: bool) -> FramePrompt:
    pixels = np.argwhere(painted_hw)
    clicks = pixels[farthest_points(pixels, CLICKS)][:, ::-1]
    settled = np.where(painted_hw, 1 if positive else -1, 0).astype(np.int8)
    return FramePrompt(clicks.astype(np.float32), np.full(len(clicks), int(positive), np.int64), settled_hw=settled)


@dataclass(frozen=True)
class SliceRange:
    """Slices along an axis: the object is looked for on these alone.

    Args:
        first: slice, in the order of the file.
        last: slice, included.
        object: label, from 1.
        axis: array axis that they are counted along; unless given, the one that the object is prompted along.
        start_ijk: the voxel of a part of the volume that they are counted from.
        whole_ijk: size of the volume that they are counted in, where only a part of it is looked at.
    """

    first: int
    last: int
    object: int = 1
    axis: int | None = None
    start_ijk: tuple[int, int, int] = (0, 0, 0)
    whole_ijk: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        check_object(self.object)
        whole = isinstance(self.first, Integral) and isinstance(self.last, Integral)
        if not whole or not 0 <= self.first <= self.last:
            problem = f"slices {self.first!r} to {self.last!r} are none"
            raise PromptError(problem, "give the first and the last, whole numbers from 0")
        if self.axis is not None and (isinstance(self.axis, bool) or self.axis not in (0, 1, 2)):
            raise PromptError(f"slices along axis {self.axis!r} are none", "give 0, 1 or 2, or leave the axis out")

    def project(self, view: View, shape_ijk: Sequence[int], axes: str = "RAS") -> Mapping[int, FramePrompt]:
        """Nothing: it says where the object is not."""
        return {}

    def planes(self) -> frozenset[int]:
        """Its axis; without one every axis, since that of the other prompts is meant."""
        return frozenset({0, 1, 2} if self.axis is None else {self.axis})

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

    def __post_init__(self) -> None:
        check_object(self.object)

    def project(self, view: View, shape_ijk: Sequence[int], axes: str = "RAS") -> Mapping[int, FramePrompt]:
        """Nothing: what is expected is no prompt."""
        return {}

    def planes(self) -> frozenset[int]:
        """Every axis: that of the outlines is meant."""
        return frozenset({0, 1, 2})


def joins_outlines(own: Iterable[Prompt]) -> bool:
    """Whether the prompts of an object want its outlines joined by their shapes."""
    return any(isinstance(prompt, ShapeInterpolation) for prompt in own)


def says_where(prompt: Prompt) -> bool:
    """Whether a prompt says where the object is, not only where it is not."""
    return not isinstance(prompt, SliceRange | ShapeInterpolation) and bool(getattr(prompt, "positive", True))


def only_takes_away(prompt: Prompt) -> bool:
    """Whether a prompt is a region or a line that is not the object: shown where it is prompted besides, or corrected."""
    return isinstance(prompt, Box | Stroke | Brush) and not prompt.positive


def region_of(prompt: Prompt, shape_ijk: Sequence[int], axis: int) -> Voxels:
    """The voxels that something drawn or painted covers."""
    if isinstance(prompt, Brush):
        return prompt.voxels
    return prompt.region(shape_ijk, axis) if isinstance(prompt, Stroke) else np.zeros((0, 3), np.intp)

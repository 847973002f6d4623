"""What a user points at: clicks, boxes and outlines in a volume, and what becomes of them on a slice.

What is drawn by hand (scribbles, lassos, diameters) and what prompts settle of single voxels is in `strokes.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, inf, isfinite, pi, sqrt
from numbers import Integral, Real
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import PromptError, list_first
from medical_sam2.views import View
from medical_sam2.volume import MOST_OBJECTS

Index: TypeAlias = tuple[float, float, float]
CLEARED = 0.25  # reach of a negative click inside an outline, of the radius of a disc as large as the outline


@dataclass(frozen=True, eq=False)
class FramePrompt:
    """Prompts of one object on one frame, in pixels of that frame: x to the right, y down, pixel centres at integers.

    Args:
        points_xy: (N, 2) clicks.
        labels: (N,) 1 for "inside", 0 for "outside".
        box_xyxy: (4,) corners, first the smaller ones, both inside the box.
        mask_hw: (H, W) bool outline. It stands alone: a mask says all, so clicks on the same frame correct it.
        estimate: in [0, 1], how sure an outline is that nobody drew: it is remembered as an answer of that confidence, not as a
            prompt. None for a prompt of a person.
        settled_hw: (H, W) int8 of what is certain whatever is found: 1 inside, -1 outside, 0 where nothing was said.
    """

    points_xy: NDArray[np.float32]
    labels: NDArray[np.int64]
    box_xyxy: NDArray[np.float32] | None = None
    mask_hw: NDArray[np.bool_] | None = None
    estimate: float | None = None
    settled_hw: NDArray[np.int8] | None = None

    @classmethod
    def click(cls, x: float, y: float, *, positive: bool = True) -> "FramePrompt":
        """One click."""
        check_positive(positive)
        return cls(np.array([[x, y]], np.float32), np.array([int(positive)], np.int64))

    @classmethod
    def box(cls, x_low: float, y_low: float, x_high: float, y_high: float) -> "FramePrompt":
        """One box."""
        return cls(_NO_POINTS, _NO_LABELS, box_xyxy=np.array([x_low, y_low, x_high, y_high], np.float32))

    @classmethod
    def mask(cls, mask_hw: NDArray[np.bool_], *, estimate: float | None = None) -> "FramePrompt":
        """One outline."""
        return cls(_NO_POINTS, _NO_LABELS, mask_hw=as_outline(mask_hw, "an outline"), estimate=estimate)

    @property
    def drawn_area(self) -> float:
        """Pixels of the outline, or of the box; 0 where neither was drawn."""
        if self.mask_hw is not None:
            return float(self.mask_hw.sum())
        return 0.0 if self.box_xyxy is None else float(np.prod(self.box_xyxy[2:] - self.box_xyxy[:2] + 1))

    def __or__(self, other: "FramePrompt") -> "FramePrompt":
        """Both together: clicks are joined, a later box replaces, masks unite; with a person's word it is no estimate."""
        masks = [mask for mask in (self.mask_hw, other.mask_hw) if mask is not None]
        return FramePrompt(
            np.concatenate([self.points_xy, other.points_xy]),
            np.concatenate([self.labels, other.labels]),
            box_xyxy=self.box_xyxy if other.box_xyxy is None else other.box_xyxy,
            mask_hw=np.logical_or.reduce(masks) if masks else None,
            estimate=None if self.estimate is None or other.estimate is None else min(self.estimate, other.estimate),
            settled_hw=_settled_together(self.settled_hw, other.settled_hw),
        )

    def joined(self, other: "FramePrompt", label: int, where: str) -> "FramePrompt":
        """Both together, as one person gives them for one object on one frame.

        Args:
            other: what was given besides.
            label: the object.
            where: the frame, in a message.

        Raises:
            PromptError: both cannot be followed: two boxes, an outline and a box, one place drawn or clicked on as in and out.
        """
        both = self | other
        if self.box_xyxy is not None and other.box_xyxy is not None and not np.array_equal(self.box_xyxy, other.box_xyxy):
            problem, action = "two boxes", "give one box around all of it, or each box an object of its own"
        elif both.box_xyxy is not None and both.mask_hw is not None:
            problem, action = "an outline and a box", "give one of them"
        elif _contradict(self, other):
            problem, action = "something drawn as inside and as outside on one pixel", "leave one of them out"
        elif set(map(tuple, both.points_xy[both.labels == 1])) & set(map(tuple, both.points_xy[both.labels == 0])):
            problem, action = "a positive and a negative click on one place", "leave one of them out"
        else:
            return both
        raise PromptError(f"object {label} has {problem} on {where}", action)

    @property
    def shows_object(self) -> bool:
        """Whether it says where the object is, not only where it is not."""
        return self.mask_hw is not None or self.box_xyxy is not None or bool(self.labels.any())

    def cleared_hw(self) -> NDArray[np.bool_]:
        """What negative clicks take out of an outline whatever is found: a disc (H, W) around each.

        It reaches to the outline's border, half-way to a positive click, or `CLEARED`, whichever is nearest, and holds the
        clicked pixel.
        """
        cleared = np.zeros((0, 0) if self.mask_hw is None else self.mask_hw.shape, bool)
        if self.mask_hw is None or self.labels.all():
            return cleared
        inside, furthest = self.points_xy[self.labels == 1], CLEARED * sqrt(np.count_nonzero(self.mask_hw) / pi)
        for x, y in self.points_xy[self.labels == 0].tolist():
            row, column = (min(max(round(at), 0), side - 1) for at, side in zip((y, x), cleared.shape, strict=True))
            reach = ceil(furthest)
            near = slice(max(0, row - reach), row + reach + 1), slice(max(0, column - reach), column + reach + 1)
            rows, columns = (np.arange(cut.start, min(cut.stop, side)) for cut, side in zip(near, cleared.shape, strict=True))
            away = np.hypot(columns - x, rows[:, None] - y)
            half = np.hypot(*(inside - (x, y)).T).min(initial=inf) / 2
            cleared[near] |= away < min(furthest, half, away[~self.mask_hw[near]].min(initial=inf))
            cleared[row, column] = True
        return cleared & self.mask_hw


def _contradict(one: FramePrompt, other: FramePrompt) -> bool:
    """Whether what is certain by one is not so by the other; an outline may be corrected by clicks, but not by regions."""
    for this, that in ((one, other), (other, one)):
        if this.settled_hw is None:
            continue
        if that.settled_hw is not None and (this.settled_hw * that.settled_hw < 0).any():
            return True
        if that.mask_hw is not None and (this.settled_hw[that.mask_hw] < 0).any():
            return True
        height, width = this.settled_hw.shape
        places = np.rint(that.points_xy).astype(int)
        seen = [this.settled_hw[y, x] if 0 <= y < height and 0 <= x < width else 0 for x, y in places]
        if any(known * (2 * int(label) - 1) < 0 for known, label in zip(seen, that.labels, strict=True)):
            return True
    return False


def _settled_together(one: NDArray[np.int8] | None, other: NDArray[np.int8] | None) -> NDArray[np.int8] | None:
    """What either says; of a contradiction the later word."""
    if one is None or other is None:
        return other if one is None else one
    return np.where(other != 0, other, one)


_NO_POINTS, _NO_LABELS = np.zeros((0, 2), np.float32), np.zeros(0, np.int64)


class Prompter(Protocol):
    """Who prompts one object."""

    def corrects(self, t: int) -> bool:
        """Whether it is to be shown what was found on frame t: asked once the frame has opened."""
        ...

    def __call__(self, t: int, predicted: NDArray[np.bool_] | None) -> FramePrompt | None:
        """Asked with (t, None) as a frame opens; where it corrects the frame, with (t, predicted) until it answers None."""
        ...


def intensities(frame_hw: NDArray[np.generic], prompt: FramePrompt) -> NDArray[np.generic]:
    """Intensities that a prompt points at: inside its outline or box, or around its positive clicks."""
    if prompt.mask_hw is not None:
        return frame_hw[prompt.mask_hw]
    if prompt.box_xyxy is not None:
        x_low, y_low, x_high, y_high = (max(0, round(float(x))) for x in prompt.box_xyxy)
        return frame_hw[y_low : y_high + 1, x_low : x_high + 1].ravel()
    inside = [(round(float(x)), round(float(y))) for x, y in prompt.points_xy[prompt.labels == 1]]
    patches = [frame_hw[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].ravel() for x, y in inside]
    return np.concatenate(patches) if patches else np.zeros(0)


class Prompt(Protocol):
    """Anything that a user can say about one object of a volume."""

    @property
    def object(self) -> int:
        """Label of the object, from 1."""
        ...

    def project(self, view: View, shape_ijk: Sequence[int], axes: str = "RAS") -> Mapping[int, FramePrompt]:
        """The frames of `view` that it touches, with what it says on each."""
        ...

    def planes(self) -> frozenset[int]:
        """Array axes along which it lies on a single slice."""
        ...


@dataclass(frozen=True)
class Point:
    """A click on a voxel.

    Args:
        index_ijk: voxel index, in the order of the file; fractions are kept within the slice.
        object: label, from 1.
        positive: whether the voxel belongs to the object.

    Raises:
        PromptError: the index is not three numbers, or the label none.
    """

    index_ijk: Index
    object: int = 1
    positive: bool = True

    def __post_init__(self) -> None:
        check_index("point", self.index_ijk)
        check_object(self.object)
        check_positive(self.positive)

    def project(self, view: View, shape_ijk: Sequence[int], axes: str = "RAS") -> Mapping[int, FramePrompt]:
        """One click on one frame."""
        check_inside("point", self.index_ijk, shape_ijk)
        _, row, column = view.project(self.index_ijk, shape_ijk, axes)
        return {frame_of(self.index_ijk, view, shape_ijk, axes): FramePrompt.click(column, row, positive=self.positive)}

    def planes(self) -> frozenset[int]:
        """A point lies on one slice of every axis."""
        return frozenset({0, 1, 2})


@dataclass(frozen=True)
class Box:
    """A rectangle around the object on one slice, or a box around all of it: both corners included.

    Any two opposite corners will do. A rectangle has corners that are equal along exactly the axis of its slice. A box in 3D
    says where the object ends on every side: the network is shown the rectangle on the middle slice, tracking does not go
    beyond the box, and what is found outside of it is cut off.

    Args:
        low_ijk: a corner; afterwards the one with the smaller voxel indices.
        high_ijk: the opposite one; afterwards the one with the larger ones.
        object: label, from 1.
        positive: whether the object lies in it; of a negative box no voxel belongs to the object.
    """

    low_ijk: Index
    high_ijk: Index
    object: int = 1
    positive: bool = True

    def __post_init__(self) -> None:
        for corner in (self.low_ijk, self.high_ijk):
            check_index("corner", corner)
        check_object(self.object)
        check_positive(self.positive)
        if not all(map(isfinite, (*self.low_ijk, *self.high_ijk))):
            raise PromptError(f"box {self.low_ijk} – {self.high_ijk} is not finite", "give voxel indices")
        low, high = (tuple(map(end, self.low_ijk, self.high_ijk)) for end in (min, max))
        if low != tuple(self.low_ijk):
            object.__setattr__(self, "low_ijk", low)
            object.__setattr__(self, "high_ijk", high)
        if len(self._flat) > 1:
            raise PromptError(
                f"box {self.low_ijk} – {self.high_ijk} is neither a rectangle on one slice nor a box in 3D",
                "give corners that agree in exactly one index, the slice, and differ in the two others, or differ in all three",
            )

    def project(self, view: View, shape_ijk: Sequence[int], axes: str = "RAS") -> Mapping[int, FramePrompt]:
        """One box on its frame, of a box in 3D the middle one; where it is negative, a click outside."""
        check_inside("box", self.low_ijk, shape_ijk)
        check_inside("box", self.high_ijk, shape_ijk)
        axis = view.order(axes)[0]
        if axis not in self.planes():
            return {}
        middle = list(self.low_ijk)
        middle[axis] = (self.low_ijk[axis] + self.high_ijk[axis]) / 2
        t = frame_of((middle[0], middle[1], middle[2]), view, shape_ijk, axes)
        corners = np.array([view.project(corner, shape_ijk, axes) for corner in (self.low_ijk, self.high_ijk)])
        (_, y_low, x_low), (_, y_high, x_high) = corners.min(axis=0), corners.max(axis=0)
        if self.positive:
            return {t: FramePrompt.box(x_low, y_low, x_high, y_high)}
        return {t: FramePrompt.click((x_low + x_high) / 2, (y_low + y_high) / 2, positive=False)}

    def planes(self) -> frozenset[int]:
        """The axis of the slice that it was drawn on; every axis for a box in 3D."""
        return self._flat or frozenset({0, 1, 2})

    @property
    def solid(self) -> bool:
        """Whether it is a box in 3D."""
        return not self._flat

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The voxels in it."""
        pairs = zip(self.low_ijk, self.high_ijk, strict=True)
        i, j, k = (slice(voxel_of(low), voxel_of(high) + 1) for low, high in pairs)
        return i, j, k

    @property
    def _flat(self) -> frozenset[int]:
        pairs = zip(self.low_ijk, self.high_ijk, strict=True)
        return frozenset(axis for axis, (low, high) in enumerate(pairs) if voxel_of(low) == voxel_of(high))


@dataclass(frozen=True, eq=False)
class Mask:
    """An outline on one or several slices.

    Args:
        array_ijk: (I, J, K) bool in the grid of the image; of numbers, where all that are not 0 are the same, such as 255.
        object: label, from 1.
        axis: array axis of the slices that it was drawn on; None where it lies on one slice of exactly one axis.

    Raises:
        PromptError: it is no outline of a volume, or empty, or the label is none.
    """

    array_ijk: NDArray[np.bool_]
    object: int = 1
    axis: int | None = None

    def __post_init__(self) -> None:
        check_object(self.object)
        object.__setattr__(self, "array_ijk", as_outline(self.array_ijk, f"the mask of object {self.object}"))
        if self.array_ijk.ndim != 3:
            remedy = "give one of the image's shape (I, J, K), outlined on one of its slices"
            raise PromptError(f"the mask of object {self.object} has shape {self.array_ijk.shape}", remedy)
        if not self.array_ijk.any():
            raise PromptError(f"the mask of object {self.object} is empty", "outline at least one voxel")

    def project(self, view: View, shape_ijk: Sequence[int], axes: str = "RAS") -> Mapping[int, FramePrompt]:
        """Each outlined frame of the plane that it was drawn in; nothing in other views."""
        if tuple(shape_ijk) != self.array_ijk.shape:
            raise PromptError(
                f"the mask has shape {self.array_ijk.shape}, the image {tuple(shape_ijk)}", "give a mask in the image's grid"
            )
        if view.order(axes)[0] not in self.planes():
            return {}
        stack = view.apply(self.array_ijk, axes)
        return {int(t): FramePrompt.mask(stack[t].copy()) for t in np.flatnonzero(stack.any(axis=(1, 2)))}

    def planes(self) -> frozenset[int]:
        """The axis that it was drawn along; every axis along which it is one slice thick where none was named."""
        if self.axis is not None:
            return frozenset({self.axis})
        thin = {a for a in range(3) if self.array_ijk.any(axis=tuple({0, 1, 2} - {a})).sum() == 1}
        return frozenset(thin or {0, 1, 2})


def split_planes(mask: Mask) -> list[Mask]:
    """An outline for each axis, where one was drawn in planes that cross, such as an axial and a sagittal one; else itself.

    Such planes are few, and hold all that was drawn: half as many as there are slices along any axis, or fewer.
    """
    left, planes = mask.array_ijk.copy(), dict[int, list[int]]()
    sides = [tuple({0, 1, 2} - {axis}) for axis in range(3)]
    most = min(int(left.any(axis=side).sum()) for side in sides) // 2 if mask.axis is None else 0
    for _ in range(most):
        if not left.any():
            break
        counts = [left.sum(axis=side) for side in sides]
        axis = max(range(3), key=lambda a: int(counts[a].max()))
        planes.setdefault(axis, []).append(index := int(counts[axis].argmax()))
        np.moveaxis(left, axis, 0)[index] = False
    if left.any() or len(planes) < 2:
        return [mask]
    parts = list[Mask]()
    for axis, slices in planes.items():
        drawn_ijk = np.zeros_like(left)
        np.moveaxis(drawn_ijk, axis, 0)[slices] = np.moveaxis(mask.array_ijk, axis, 0)[slices]
        parts.append(Mask(drawn_ijk, mask.object, axis))
    return parts


def is_solid_box(prompt: Prompt) -> bool:
    """Whether it is a box in 3D around all of its object."""
    return isinstance(prompt, Box) and prompt.solid and prompt.positive


class Fixed:
    """A prompter that knows all its prompts beforehand: the fixed clicks of a person.

    Args:
        prompts: frame → prompt as it opens, before anything is looked for on it.
        corrections: frame → prompt once it is seen what was found there.
    """

    def __init__(self, prompts: Mapping[int, FramePrompt], corrections: Mapping[int, FramePrompt] | None = None) -> None:
        self.prompts, self.corrections = dict(prompts), dict(corrections or {})

    def corrects(self, t: int) -> bool:
        """Whether there is something left to say about what is found on frame t."""
        return t in self.corrections

    def __call__(self, t: int, predicted: NDArray[np.bool_] | None) -> FramePrompt | None:
        """The prompt of frame t as it opens; its correction of the answer, once."""
        return self.prompts.get(t) if predicted is None else self.corrections.pop(t, None)


def check_object(label: object) -> int:
    """The label, if an object can have it; else raises PromptError."""
    if isinstance(label, bool) or not isinstance(label, Integral) or not 1 <= int(label) <= MOST_OBJECTS:
        problem = f"object {repr(label)[:40]} is no label"
        raise PromptError(problem, f"number objects from 1 to {MOST_OBJECTS}; 0 is background")
    return int(label)


def check_positive(positive: object) -> None:
    """Refuse what does not say whether a prompt means the object; raises PromptError."""
    if not isinstance(positive, bool | np.bool_ | Integral) or positive not in (0, 1):
        raise PromptError(f"positive={repr(positive)[:40]} says neither inside nor outside", "give True or False")


def check_index(what: str, index_ijk: object) -> None:
    """Refuse what is no index of a voxel; raises PromptError."""
    numbers = isinstance(index_ijk, Iterable) and [isinstance(each, Real) for each in index_ijk]
    if numbers != [True, True, True]:
        problem = f"{what} {repr(index_ijk)[:60]} is no voxel"
        raise PromptError(problem, "give three numbers: its indices (i, j, k) in the order of the file")


def as_outline(array: object, what: str) -> NDArray[np.bool_]:
    """Where an array is not 0, if all that is not 0 is the same.

    Raises:
        PromptError: it holds NaN, several other numbers, a fraction or a negative number, or no numbers.
    """
    numbers = np.asarray(array)
    if numbers.dtype == bool:
        return numbers
    if numbers.dtype.kind not in "iuf":
        raise PromptError(f"{what} is of type {numbers.dtype}", "give an array of True and False")
    inside = numbers != 0
    values = numbers[inside]
    if (values != values[:1]).any():
        held = list_first(np.unique(values).tolist())
        raise PromptError(
            f"{what} holds 0 and {held}: which is inside is not clear", "give True and False, such as labels == 1"
        )
    if values.size and 0 < values[0] < 1:
        problem = f"{what} holds {values[0]:g} where it is not 0: a probability, not an outline"
        raise PromptError(problem, "say from which value on it is inside, such as probability > 0.5")
    if values.size and (values[0] < 0 or not float(values[0]).is_integer()):
        problem = f"{what} holds {values[0]:g} where it is not 0, which is no label"
        raise PromptError(problem, "give True and False, such as array > 0")
    return inside


def voxel_of(index: float) -> int:
    """The voxel that an index lies in: half-way belongs to the next one, so -0.5 is in voxel 0."""
    return floor(index + 0.5)


def frame_of(index_ijk: Index, view: View, shape_ijk: Sequence[int], axes: str) -> int:
    """The frame of a voxel: rounded before it is projected, so that a view and its reverse agree on the slice."""
    i, j, k = (voxel_of(index) for index in index_ijk)
    return int(view.project((i, j, k), shape_ijk, axes)[0])


def check_inside(what: str, index_ijk: Index, shape_ijk: Sequence[int]) -> None:
    """Refuse an index that lies outside of the image."""
    if any(not -0.5 <= index < size - 0.5 for index, size in zip(index_ijk, shape_ijk, strict=True)):
        shown = tuple(float(f"{index:g}") for index in index_ijk)
        if not all(map(isfinite, shown)):
            raise PromptError(f"{what} at {shown} lies outside the image: it is no number", "give voxel indices")
        raise PromptError(
            f"{what} at voxel {shown} lies outside the image of {tuple(shape_ijk)} voxels",
            "give indices from 0 to the size less one, or use millimetres if these are millimetres",
        )


def check_frame_prompt(prompt: FramePrompt, shape_hw: tuple[int, int]) -> None:
    """Refuse what cannot work on an image of this size: a place outside, a box inside out or without area, an empty outline.

    Raises:
        PromptError: it is.
    """
    height, width = shape_hw
    places = prompt.points_xy if prompt.box_xyxy is None else np.concatenate([prompt.points_xy, prompt.box_xyxy.reshape(2, 2)])
    for x, y in places.tolist():
        if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
            raise PromptError(
                f"({x:g}, {y:g}) lies outside the image of {width} × {height} pixels",
                "give X to the right and Y downwards, from 0 to the size less one",
            )
    if prompt.box_xyxy is not None and (prompt.box_xyxy[:2] >= prompt.box_xyxy[2:]).any():
        x_low, y_low, x_high, y_high = (f"{number:g}" for number in prompt.box_xyxy.tolist())
        box = f"the box {x_low} {y_low} {x_high} {y_high}"
        if (prompt.box_xyxy[:2] > prompt.box_xyxy[2:]).any():
            raise PromptError(f"{box} is turned inside out", "give the smaller corner first: X Y X2 Y2")
        raise PromptError(f"{box} has no area", "give two corners that differ in X and in Y: X Y X2 Y2")
    if prompt.mask_hw is not None and not prompt.mask_hw.any():
        raise PromptError("an outline is empty", "outline at least one pixel")

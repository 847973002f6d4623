"""One volume from several views, slice by slice; and what is expected of an object on frames before they are tracked.

No view's volume is ever held. A view gives each slice one weight, so the total weight of voxel (i, j, k) is a sum of three
numbers, one for each of its slices: w₀[i] + w₁[j] + w₂[k]. Three vectors stand for a whole volume of weights, and the
probabilities need one array:

    P = Σ w·p / Σ w          uncertainty U = 4 · (Σ w·p² / Σ w − P²)

the variance of the views over the largest that numbers in [0, 1] can have, 1/4: 0 where all agree, 1 where half say 0 and half
1.

Memory of a volume of 512×512×1500: 1.6 GB in float32, 0.8 GB in float16, as much again for uncertainty; 0.4 GB for votes. With
six views a mean summed in float16 is wrong by less than 0.002, near the threshold 0.5 by less than 0.001.

What is expected is where a further view starts, by what the earlier ones found, and the shapes between two outlines. Where a
further view then loses the object, the mean would be less than any of them: so a slice of it counts by its
confidence times the square of its Dice to the estimate there (`Agreement`).

Shapes: I J K voxels, T frames, H W frame.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from scipy import ndimage
from scipy.special import expit

from medical_sam2.errors import ConfigError, GeometryError
from medical_sam2.io.voxels import say_size
from medical_sam2.prompts import FramePrompt
from medical_sam2.tracking.limits import Limits
from medical_sam2.tracking.plan import gaps_between
from medical_sam2.views import THREE_VIEWS, View
from medical_sam2.volume import bounding_box

if TYPE_CHECKING:
    from medical_sam2.tracking.frames import BoxXyxy

Probability: TypeAlias = NDArray[np.floating]
THRESHOLD = 0.5  # just that is background
FOREIGN = 0.5  # Dice to the earlier views, below which a further view is named
START_MARGIN, LEAST_START_MARGIN = 0.2, 6  # beyond the estimate: a share of its extent, frames


class Slabs(Protocol):
    """Anything that hands out a volume of probabilities slab by slab: a fusion, or an array (I, J, K)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(I, J, K)."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """The slab (J, K) at `index` of the first array axis."""
        ...


class ObjectProbability(Slabs, Protocol):
    """Probabilities of an object that has been tracked."""

    def result(self) -> NDArray[np.float32]:
        """Probability (I, J, K) in [0, 1] from all that was added so far; more may follow."""
        ...

    def uncertainty(self) -> NDArray[np.float32]:
        """How much the views disagree (I, J, K), in [0, 1]."""
        ...


class Fusion(ObjectProbability, Protocol):
    """What the segmenter needs of a fusion."""

    def add(self, view: View, t: int | slice, probability: Probability, weight: ArrayLike = 1.0) -> None:
        """Add frame t (H, W), or frames t (T, H, W), of a view."""
        ...


FusionFactory: TypeAlias = Callable[..., Fusion]
"""Called with (shape_ijk, axes, *, uncertainty, dtype)."""


class Weighted:
    """Mean of the views' probabilities, each slice weighted by its confidence.

    Args:
        shape_ijk: shape of the volume, in the order of its file.
        axes: directions of the array axes.
        uncertainty: whether the views' disagreement will be asked for; it costs a second array.
        dtype: float32, or float16 where memory is short.

    >>> fusion = Weighted((2, 2, 2))
    >>> fusion.add(View("SPL"), slice(None), np.full((2, 2, 2), 0.9), weight=3.0)
    >>> fusion.add(View("LIP"), 0, np.full((2, 2), 0.1), weight=1.0)
    >>> fusion.result().round(3)[:, 0, 0]
    array([0.9, 0.7], dtype=float32)
    """

    def __init__(
        self,
        shape_ijk: Sequence[int],
        axes: str = "RAS",
        *,
        uncertainty: bool = False,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.shape, self.axes = tuple(shape_ijk), axes
        self._dtype, self._sum = dtype, np.zeros(0, dtype)  # made with the first frame
        self._squares = np.zeros(0, dtype) if uncertainty else None
        self._weights = tuple(np.zeros(size) for size in self.shape)

    def add(self, view: View, t: int | slice, probability: Probability, weight: ArrayLike = 1.0) -> None:
        """Add frame t (H, W), or frames t (T, H, W), of a view.

        Args:
            view: the view that the frames belong to.
            t: one frame, or a slice of frames.
            probability: of the object, in [0, 1].
            weight: at least 0, one number or one for each frame; 0 leaves a frame out.

        Raises:
            GeometryError: the probabilities do not have the shape of these frames.
        """
        if not self._sum.size:
            self._sum = self._zeros_along(view)
            self._squares = None if self._squares is None else self._zeros_along(view)
        frames = view.apply(self._sum, self.axes)[t]
        if frames.shape != probability.shape:
            raise GeometryError(
                f"{view.name} probabilities have shape {probability.shape}, these frames {frames.shape}",
                "resize them to the volume's grid first",
            )
        weight = np.asarray(weight, np.float32)
        weighted = probability * weight[..., None, None]
        _accumulate(frames, weighted)
        if self._squares is not None:
            _accumulate(view.apply(self._squares, self.axes)[t], weighted * probability)
        self._weigh(view, t, weight)

    def result(self) -> NDArray[np.float32]:
        """Probability (I, J, K) in [0, 1] from all that was added so far, 0 where nothing was; more may follow."""
        return _stacked(self.__getitem__, self.shape)

    def uncertainty(self) -> NDArray[np.float32]:
        """How much the views disagree (I, J, K): the weighted variance of their probabilities over 1/4, in [0, 1]."""
        squares = self._squares
        if squares is None:
            raise ConfigError("this fusion did not keep the views' disagreement", "create it with uncertainty=True")
        return _stacked(lambda index: np.clip(4 * (self._divided(squares, index) - self[index] ** 2), 0, 1), self.shape)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """The probability (J, K) of one slab of the first array axis, without making the volume."""
        return self._divided(self._sum, index)

    def _zeros_along(self, view: View) -> NDArray[Any]:
        """Of the volume's shape, the frames of a view one after the other in memory: to add one takes a tenth of the time."""
        along = view.order(self.axes)[0]
        order = along, *(axis for axis in range(3) if axis != along)
        return np.zeros([self.shape[axis] for axis in order], self._dtype).transpose(np.argsort(order))

    def _weigh(self, view: View, t: int | slice, weight: NDArray[np.float32]) -> None:
        along = self._weights[view.order(self.axes)[0]]
        (along[::-1] if view.flipped(self.axes)[0] else along)[t] += weight

    def _divided(self, sums: NDArray[Any], index: int) -> NDArray[np.float32]:
        first, second, third = self._weights
        total = (first[index] + second[:, None] + third).astype(np.float32)
        total[total == 0] = np.inf  # nothing was added there: 0, not 0/0
        if not sums.size:
            return np.zeros_like(total)
        np.divide(sums[index].copy(order="K"), total, out=total)  # copied in the order of the memory: it lies far apart
        return np.minimum(total, 1, out=total)  # a float16 sum may exceed its weight by a rounding


class Mean(Weighted):
    """Plain mean of the views' probabilities: whatever weight a slice is given, it counts once."""

    def add(self, view: View, t: int | slice, probability: Probability, weight: ArrayLike = 1.0) -> None:
        """Add frame t (H, W), or frames t (T, H, W), of a view; the weight is not used."""
        super().add(view, t, probability)


class Vote(Mean):
    """Majority vote: the share of views whose probability exceeds 0.5.

    An even split gives 0.5, which `LabelMap` counts as background. Votes are counted in uint8, up to 255 views,
    and give their own uncertainty: f votes for and 1−f against have the variance f·(1−f).
    """

    def __init__(
        self,
        shape_ijk: Sequence[int],
        axes: str = "RAS",
        *,
        uncertainty: bool = False,
        dtype: DTypeLike = np.uint8,
    ) -> None:
        super().__init__(shape_ijk, axes, dtype=np.uint8)

    def add(self, view: View, t: int | slice, probability: Probability, weight: ArrayLike = 1.0) -> None:
        """Add the votes of frame t (H, W), or frames t (T, H, W), of a view; the weight is not used."""
        super().add(view, t, (probability > 0.5).astype(np.float32))

    def uncertainty(self) -> NDArray[np.float32]:
        """How much the views disagree (I, J, K), in [0, 1]: 0 where all vote alike, 1 where they are split evenly."""
        return _stacked(lambda index: 4 * self[index] * (1 - self[index]), self.shape)


class LimitedProbability:
    """Probabilities of an object as its prompts allow, slab by slab.

    Args:
        source: what was found.
        limits: what the prompts settle.
    """

    def __init__(self, source: ObjectProbability, limits: Limits) -> None:
        self.source, self.limits = source, limits

    @property
    def shape(self) -> tuple[int, ...]:
        """(I, J, K)."""
        return self.source.shape

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """The probability (J, K) of one slab."""
        slab = np.array(self.source[index], np.float32)
        return self.limits.apply(slab[None], (index, 0, 0))[0]

    def result(self) -> NDArray[np.float32]:
        """All slabs."""
        return _stacked(self.__getitem__, self.shape)

    def uncertainty(self) -> NDArray[np.float32]:
        """How much the views disagree, whatever is settled."""
        return self.source.uncertainty()


FUSIONS: Mapping[str, FusionFactory] = {"mean": Mean, "vote": Vote, "weighted": Weighted}


class LabelMap:
    """A label volume that objects are entered in, a few at a time, so that not all their probabilities are held at once.

    A voxel goes to the object of the largest probability, if that exceeds 0.5; of equals, to the smaller label. On a slice that
    some of them are prompted on, these come before the others: what was pointed at there is known better than what was tracked.

    Args:
        shape_ijk: shape of the volume.
        highest: the largest label that will come; the smallest unsigned dtype that holds it is taken.
        priority: labels that take what exceeds 0.5 before others do, whatever is more probable; the first before the second.
        prompted: label → the array axis that it is prompted along, and the slices.
    """

    def __init__(
        self,
        shape_ijk: Sequence[int],
        highest: int,
        priority: Sequence[int] = (),
        prompted: Mapping[int, tuple[int, Sequence[int]]] | None = None,
    ) -> None:
        self._prompted = prompted or {}
        self.labels: NDArray[np.unsignedinteger] = np.zeros(tuple(shape_ijk), np.min_scalar_type(highest))
        self._best: NDArray[np.float32] | None = None
        self._ranks = np.full(highest + 1, len(priority)) if priority else None
        if self._ranks is not None:
            self._ranks[0], self._ranks[list(priority)] = len(priority) + 1, range(len(priority))

    def add(self, probabilities: Mapping[int, Slabs], *, last: bool = False) -> None:
        """Enter some objects, slab by slab.

        Args:
            probabilities: label → probabilities (I, J, K), an array or a fusion.
            last: that no more will come; then what decides between objects is not kept.
        """
        if self._best is None and not last:
            self._best = np.full(self.labels.shape, THRESHOLD, np.float32)
        for index, slab in enumerate(self.labels):
            best = np.full(slab.shape, THRESHOLD, np.float32) if self._best is None else self._best[index]
            for label in sorted(probabilities):
                candidate = self._before_others(label, index, np.asarray(probabilities[label][index], np.float32))
                better = (candidate > best) | ((candidate == best) & (label < slab))
                if self._ranks is not None:
                    own, others = self._ranks[label], self._ranks[slab]
                    better = (candidate > THRESHOLD) & ((own < others) | ((own == others) & better))
                best[better], slab[better] = candidate[better], label

    def _before_others(self, label: int, index: int, slab: NDArray[np.float32]) -> NDArray[np.float32]:
        """The probabilities of a slab, one more where the object is on a slice that it is prompted on."""
        axis, slices = self._prompted.get(label, (0, ()))
        if not slices or (axis == 0 and index not in slices):
            return slab
        raised = slab.copy()
        part, there = (raised, slice(None)) if axis == 0 else (np.moveaxis(raised, axis - 1, 0), [*slices])
        part[there] += part[there] > THRESHOLD
        return raised


def _accumulate(frames: NDArray[Any], probability: Probability) -> None:
    """Add in the precision of the probability and round once: what float16 needs, and exact for the counts of votes.

    The axes are taken in the order of the memory, 3 to 5 times faster for slices whose voxels lie far apart. Nothing is written
    where only zeros would be added, so that the parts of the sum in which no object was ever looked for take no memory.
    """
    order = np.argsort(np.abs(frames.strides))[::-1]
    frames, probability = frames.transpose(order), probability.transpose(order)
    there = bounding_box(probability)
    frames, probability = frames[there], np.ascontiguousarray(probability[there])
    np.add(frames, probability, out=frames, casting="unsafe")


def _stacked(slab_of: Callable[[int], NDArray[np.float32]], shape: tuple[int, ...]) -> NDArray[np.float32]:
    volume = np.empty(shape, np.float32)
    for index in range(shape[0]):
        volume[index] = slab_of(index)
    return volume


@dataclass(frozen=True, eq=False)
class StartingPoint:
    """Where an object is tracked from along a further orientation.

    Args:
        frame: on which the estimate is largest and surest.
        mask_hw: (H, W) bool, the estimate there.
        frames: on which the estimate lies, with a margin.
        box_xyxy: that holds the estimate on all of them, in pixels.
        confidence: mean probability of what is inside on that frame.
        box_ijk: that holds the estimate, in voxels.
    """

    frame: int
    mask_hw: NDArray[np.bool_]
    frames: range
    box_xyxy: "BoxXyxy"
    confidence: float
    box_ijk: tuple[slice, slice, slice]


def find_start(estimate: Slabs, view: View, axes: str, without: Sequence[int] = ()) -> StartingPoint | None:
    """Where an object is tracked from along a view; None where the estimate is empty.

    Args:
        estimate: probability (I, J, K), handed out slab by slab.
        view: the orientation.
        axes: directions of the array axes.
        without: slices that count as empty, by their index along the array axis.
    """
    axis, *plane = view.order(axes)
    surplus = _excess_by_slice(estimate)
    surplus[axis][list(without)] = 0
    if not surplus[axis].any():
        return None
    index, count = int(surplus[axis].argmax()), estimate.shape[axis]
    probability = view.apply(_slice_of(estimate, axis, index), axes)[0]
    mask = probability > 0.5
    low, high = _first_and_last(surplus[axis])
    margin = max(LEAST_START_MARGIN, round(START_MARGIN * (high - low + 1)))
    low, high = max(0, low - margin), min(count, high + margin + 1)
    backwards, *mirrored = view.flipped(axes)
    frame, frames = (count - 1 - index, range(count - high, count - low)) if backwards else (index, range(low, high))
    rows, columns = (_first_and_last(surplus[a][::-1] if flip else surplus[a]) for a, flip in zip(plane, mirrored, strict=True))
    box_xyxy, confidence = (columns[0], rows[0], columns[1], rows[1]), float(probability[mask].mean())
    i, j, k = (slice(first, last + 1) for first, last in map(_first_and_last, surplus))
    return StartingPoint(frame, mask, frames, box_xyxy, confidence, (i, j, k))


def _first_and_last(surplus: NDArray[np.float64]) -> tuple[int, int]:
    there = np.flatnonzero(surplus)
    return int(there[0]), int(there[-1])


def _excess_by_slice(estimate: Slabs) -> tuple[NDArray[np.float64], ...]:
    """Sum of what exceeds the threshold on each slice of each array axis."""
    sums = tuple(np.zeros(length) for length in estimate.shape)
    for i in range(estimate.shape[0]):
        excess = np.clip(np.asarray(estimate[i], np.float32) - np.float32(0.5), 0, None)
        sums[1][:] += excess.sum(1)
        sums[2][:] += excess.sum(0)
        sums[0][i] = excess.sum()
    return sums


def _slice_of(estimate: Slabs, axis: int, index: int) -> NDArray[np.float32]:
    """One slice, as a volume that is one voxel thick along the axis."""
    if axis == 0:
        return np.asarray(estimate[index], np.float32)[None]
    rows = [np.asarray(estimate[i], np.float32).take(index, axis - 1) for i in range(estimate.shape[0])]
    return np.expand_dims(np.stack(rows), axis)


def expect_between(
    prompts: Mapping[int, Mapping[int, FramePrompt]], pixel_hw: Sequence[float]
) -> dict[int, Mapping[int, NDArray[np.float32]]]:
    """Object → frame → probability (H, W) that its outlines on other frames let expect there.

    Args:
        prompts: object → frame → prompt.
        pixel_hw: height and width of a pixel in mm.
    """
    return {label: _shapes_between(own, pixel_hw) for label, own in prompts.items()}


def _shapes_between(prompts: Mapping[int, FramePrompt], pixel_hw: Sequence[float]) -> dict[int, NDArray[np.float32]]:
    """Frame → probability (H, W) by shape, between outlines: their signed distances in mm, interpolated linearly.

    (Raya and Udupa, Shape-based interpolation of multidimensional objects, 1990.) Frames that are prompted are left out.

    Args:
        prompts: frame → prompt of one object.
        pixel_hw: height and width of a pixel in mm.
    """
    found: dict[int, NDArray[np.float32]] = {}
    for one, other in gaps_between(prompts):
        first, last = (_signed_distance(prompts[t].mask_hw, pixel_hw) for t in (one, other))
        for t in range(one + 1, other):
            share = (t - one) / (other - one)
            if t not in prompts:
                found[t] = expit(((1 - share) * first + share * last) / min(pixel_hw)).astype(np.float32)
    return found


def _signed_distance(mask_hw: NDArray[np.bool_] | None, pixel_hw: Sequence[float]) -> NDArray[np.float64]:
    """Distance from the border in mm, positive inside."""
    inside, outside = (
        np.asarray(ndimage.distance_transform_edt(np.asarray(each), sampling=pixel_hw))
        for each in (mask_hw, ~np.asarray(mask_hw))
    )
    return np.where(np.asarray(mask_hw), inside - min(pixel_hw) / 2, min(pixel_hw) / 2 - outside)


@dataclass(eq=False)
class Agreement:
    """A further view of an object beside what the earlier views found; it fills as frames are compared.

    Args:
        view: the further one.
        start: frame on which it was given what the earlier ones found.
        inside_thw: what they found along it, cut to the box that holds it.
        low_thw: where that box begins.
        found: voxels that this view finds, but on the frame it started from.
        shared: those of them that the earlier views found, too.
    """

    view: View
    start: int
    inside_thw: NDArray[np.bool_]
    low_thw: tuple[int, int, int]
    found: int = 0
    shared: int = 0

    @classmethod
    def to(cls, estimate: Slabs, start: StartingPoint, view: View, axes: str) -> "Agreement":
        """To an estimate (I, J, K), before anything of this view is added to it."""
        first, second, third = start.box_ijk
        slabs = [np.asarray(estimate[i])[second, third] > THRESHOLD for i in range(first.start, first.stop)]
        along = zip(view.order(axes), view.flipped(axes), strict=True)
        low, row, column = (
            estimate.shape[axis] - start.box_ijk[axis].stop if flip else start.box_ijk[axis].start for axis, flip in along
        )
        return cls(view, start.frame, view.apply(np.stack(slabs), axes), (low, row, column))

    def weigh(self, t: int, mask_hw: NDArray[np.bool_]) -> float:
        """What a frame counts for, in [0, 1]: the square of the Dice of this view (H, W) to the others."""
        (low, row, column), (frames, height, width) = self.low_thw, self.inside_thw.shape
        own = self.inside_thw[t - low] if low <= t < low + frames else np.zeros((height, width), bool)
        found, shared = int(mask_hw.sum()), int((own & mask_hw[row : row + height, column : column + width]).sum())
        if t != self.start:
            self.found, self.shared = self.found + found, self.shared + shared
        total = found + int(own.sum())
        return (2 * shared / total) ** 2 if total else 1.0

    def dice(self) -> tuple[float, int]:
        """Of all frames but the one that this view started from, and how many voxels the earlier views found on them."""
        before = int(self.inside_thw.sum()) - int(self.inside_thw[self.start - self.low_thw[0]].sum())
        total = before + self.found
        return 2 * self.shared / total if total else 1.0, before


def describe_strays(agreements: Mapping[int, Agreement], voxel_mm3: float | None) -> list[str]:
    """A line for each object, by label, of which a further view found hardly what others did; a voxel may have no size."""
    told: list[str] = []
    for label, each in agreements.items():
        dice, before = each.dice()
        if dice < FOREIGN:
            here, others = (
                say_size(count, voxel_mm3 and count * voxel_mm3 / 1000) if count else "nothing"
                for count in (each.found, before)
            )
            name = f"{each.view.name} slices" + " backwards" * (each.view not in THREE_VIEWS)
            alike = f", with little overlap (Dice {dice:.2f})" if each.found and before else ""
            told.append(
                f"object {label}: {name} found {here}, the views before them {others}{alike}, so they counted for little; "
                f"if it is wrong there, draw a box or an outline on one {each.view.name} slice, too, or take `views=one`"
            )
    return told

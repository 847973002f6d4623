"""Clips to train on: a few frames of one case, and some of the objects that are on the first of them; and their augmentation.

Augmentation is that of the paper's appendix C.2: drawn first, applied afterwards, to all frames of a clip alike; template and
query of an unordered set are drawn apart, one draw for each image. Images are in [0, 1].

Shapes: T frames, O objects, C channels, H W frame, S network size.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from medical_sam2.data.cases import SMALLEST, CaseEntry, CaseReader, Kind, Pixel, Task, TrainingCase
from medical_sam2.errors import FormatError
from medical_sam2.tracking.frames import box_of, region_around


@dataclass(frozen=True)
class AugmentationOdds:
    """Probabilities and ranges; the defaults are the paper's table."""

    rotation: float = 0.15
    degrees: float = 25.0
    scaling: float = 0.15
    scale: tuple[float, float] = (0.7, 1.4)
    noise: float = 0.15
    variance: tuple[float, float] = (0.0, 0.1)
    blur: float = 0.15
    sigma: tuple[float, float] = (0.5, 1.5)
    intensity: float = 0.15
    multiply: tuple[float, float] = (0.65, 1.2)
    low_resolution: float = 0.25
    factor: tuple[float, float] = (1.0, 2.0)
    gamma: float = 0.15
    exponent: tuple[float, float] = (0.7, 1.5)
    flip: float = 0.5


@dataclass(frozen=True)
class Augmentation:
    """What is done to a clip; neutral values leave it as it is."""

    degrees: float = 0.0  # rotation in the plane, counter-clockwise
    scale: float = 1.0  # enlargement of the content
    shift: tuple[float, float] = (0.0, 0.0)  # of the content along x and y, in halves of the frame
    # share of the frame that is shown along x and y: a region of interest, its centre given by `shift`
    extent: tuple[float, float] = (1.0, 1.0)
    flip_x: bool = False  # mirror columns
    flip_y: bool = False  # mirror rows
    variance: float = 0.0  # of Gaussian noise on z-scored images
    sigma: float = 0.0  # of Gaussian blur in pixels, 0 for none
    multiply: float = 1.0  # factor on intensities
    invert: bool = False  # whether 1 − x takes the place of multiplication
    factor: float = 1.0  # of down- and upsampling
    gamma: float = 1.0  # exponent on [0, 1]
    gamma_inverted: float = 1.0  # exponent on the inverted image
    seed: int = 0  # of the noise

    @classmethod
    def draw(cls, rng: np.random.Generator, odds: AugmentationOdds | None = None) -> "Augmentation":
        """Draw every row of the table on its own."""
        odds = odds or AugmentationOdds()

        def maybe(probability: float, low: float, high: float, otherwise: float) -> float:
            value = float(rng.uniform(low, high))
            return value if rng.random() < probability else otherwise

        changes_intensity, inverts = rng.random() < odds.intensity, rng.random() < 0.5
        return cls(
            degrees=maybe(odds.rotation, -odds.degrees, odds.degrees, 0.0),
            scale=maybe(odds.scaling, *odds.scale, 1.0),
            flip_x=bool(rng.random() < odds.flip),
            flip_y=bool(rng.random() < odds.flip),
            variance=maybe(odds.noise, *odds.variance, 0.0),
            sigma=maybe(odds.blur, *odds.sigma, 0.0) if rng.random() < 0.5 else 0.0,
            multiply=float(rng.uniform(*odds.multiply)) if changes_intensity and not inverts else 1.0,
            invert=bool(changes_intensity and inverts),
            factor=maybe(odds.low_resolution, *odds.factor, 1.0) if rng.random() < 0.5 else 1.0,
            gamma=maybe(odds.gamma, *odds.exponent, 1.0),
            gamma_inverted=maybe(odds.gamma, *odds.exponent, 1.0),
            seed=int(rng.integers(2**31)),
        )

    def warp(self, frames_TCHW: Tensor, size: int, *, nearest: bool = False) -> Tensor:
        """Rotate, scale, shift, flip and resize to a square of `size` pixels, in one interpolation."""
        radians = np.deg2rad(self.degrees)
        cos, sin = np.cos(radians) / self.scale, np.sin(radians) / self.scale
        x, y = (-1.0 if self.flip_x else 1.0), (-1.0 if self.flip_y else 1.0)
        (wide, high), (right, down) = self.extent, self.shift
        rows = [[wide * x * cos, -wide * y * sin, right], [high * x * sin, high * y * cos, down]]
        matrix = torch.tensor(rows, dtype=torch.float32)
        count, channels = frames_TCHW.shape[:2]
        grid = F.affine_grid(matrix[None], [1, channels, size, size], align_corners=False).expand(count, -1, -1, -1)
        mode = "nearest" if nearest else "bilinear"
        return F.grid_sample(frames_TCHW, grid, mode=mode, padding_mode="zeros", align_corners=False)

    def recolour(self, frames_TCHW: Tensor) -> Tensor:
        """Every change of intensities, in the order of the table; the result is in [0, 1]."""
        x = frames_TCHW
        if self.variance > 0:
            generator = torch.Generator().manual_seed(self.seed)
            x = x + torch.randn(x.shape, generator=generator) * (self.variance**0.5 * x.std())
        if self.sigma > 0:
            x = _blur(x, self.sigma)
        x = 1 - x if self.invert else x * self.multiply
        if self.factor > 1.05:
            sides = [max(1, round(side / self.factor)) for side in x.shape[-2:]]
            small = F.interpolate(x, size=sides, mode="nearest-exact")
            x = F.interpolate(small, size=x.shape[-2:], mode="bicubic", align_corners=False)
        x = x.clamp(0, 1)
        if self.gamma != 1:
            x = x**self.gamma
        if self.gamma_inverted != 1:
            x = 1 - (1 - x) ** self.gamma_inverted
        return x


def _blur(frames_TCHW: Tensor, sigma: float) -> Tensor:
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    flat = frames_TCHW.flatten(0, 1)[:, None]
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="replicate"), kernel)
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode="replicate"), kernel.transpose(2, 3))
    return flat[:, 0].view(frames_TCHW.shape)


TRIES = 32
LEAST_PIXELS = 16  # of an object that is looked at through a region of interest
Sampling = Literal["cases", "data-sets", "tasks"]
Strength = Literal["strong", "paper"]
EAGER = AugmentationOdds(rotation=0.5, scaling=0.6, noise=0.3, blur=0.3, intensity=0.3, low_resolution=0.4, gamma=0.5)
Place = tuple[int, tuple[int, ...]]
"""Position of a case, and which of its objects are examples of the task."""


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames in the order in which they are tracked; the first one is prompted."""

    frames_T3SS: Tensor  # float32 in [0, 1]
    labels_TSS: Tensor  # uint8, everything that is outlined, for losses on the features
    truth_OTSS: Tensor  # bool, the objects to track
    ordered: bool = False  # whether the frames are slices that follow each other


class Balance:
    """Balanced sampling (METHOD §6): a task uniformly, then a modality of that task, then a case of that modality.

    Large data sets would else drown small ones, and frequent structures rare ones.
    """

    def __init__(self, entries: Sequence[CaseEntry]) -> None:
        tasks: dict[str, dict[str, list[Place]]] = {}
        for position, entry in enumerate(entries):
            for name in dict.fromkeys(entry.task_names):
                objects = tuple(number for number, other in enumerate(entry.task_names) if other == name)
                tasks.setdefault(name, {}).setdefault(entry.modality, []).append((position, objects))
        self.tasks = {name: {modality: tasks[name][modality] for modality in sorted(tasks[name])} for name in sorted(tasks)}
        self._names = tuple(self.tasks)

    def draw(self, rng: np.random.Generator) -> tuple[str, str]:
        """A task, and a modality that it was seen in."""
        task = self._names[int(rng.integers(len(self._names)))]
        modalities = tuple(self.tasks[task])
        return task, modalities[int(rng.integers(len(modalities)))]

    def case(self, rng: np.random.Generator, task: str, modality: str) -> tuple[int, int]:
        """Position of a case of that task and modality, and which of its objects is meant."""
        cases = self.tasks[task][modality]
        position, objects = cases[int(rng.integers(len(cases)))]
        return position, objects[int(rng.integers(len(objects)))]


@lru_cache(maxsize=8)
def data_sets_of(entries: tuple[CaseEntry, ...], kind: Kind) -> tuple[list[int], ...]:
    """Positions of the cases of a kind, apart for each data set (or generator) that they come from."""
    groups: dict[str, list[int]] = {}
    for position, entry in enumerate(entries):
        if entry.kind == kind:
            groups.setdefault(entry.name, []).append(position)
    return tuple(groups[name] for name in sorted(groups))


_balance_of = lru_cache(maxsize=4)(Balance)


class _Wanted(NamedTuple):
    """What the arguments of `ClipSampler.clip` ask for, whether a region around the object is shown, and whose table counts."""

    frames: int
    objects: int
    size: int
    smallest: float
    near: bool
    ends: float
    inwards: float
    later: float = 0.0
    paper: bool = False

    @property
    def odds(self) -> AugmentationOdds:
        """Of what happens to all frames alike."""
        return AugmentationOdds() if self.paper else EAGER

    def least(self, inside_hw: NDArray[np.bool_]) -> float:
        """Share of a frame that the prompted object must cover."""
        return LEAST_PIXELS / inside_hw.size if self.near else self.smallest


@dataclass(frozen=True)
class ClipSampler:
    """Draws clips from cases: any axis, direction and stride of a volume; images of a set in any order."""

    reader: CaseReader  # the cases
    seed: int  # with the step and the place in the batch it decides everything, so training resumes exactly
    sets: float = 0.4  # share of clips that come from sets, where the kind is drawn first
    # share of clips that show a region around the object (half of that for sets, where it can seldom be known)
    regions: float = 0.6
    later: float = 0.0  # share of these, from volumes, whose region lies around the object as it is on any slice of the clip
    ends: float = 0.35  # share of clips of volumes that go on beyond the end of their object
    inwards: float = 0.3  # share of them that begins at an end of it and goes through it: it grows from slice to slice
    # "cases": a kind, then any case of it; "data-sets": a kind, a data set with cases of it, one of these, each uniformly;
    # "tasks": a task, a modality of it, a case, each uniformly
    sampling: Sampling = "cases"
    # "strong": more often than in the paper, with zooms, and sets twice; "paper": its table as it is, and nothing beside it
    augmentation: Strength = "strong"

    def batch(
        self, step: int, places: Iterable[int], *, frames: int, objects: int, size: int, smallest: float = SMALLEST
    ) -> list[Clip]:
        """The clips at some places of the batch of a step."""
        rngs = [np.random.default_rng([self.seed, step, place]) for place in places]
        return [self.clip(rng, frames, objects, size, smallest) for rng in rngs]

    def clip(self, rng: np.random.Generator, frames: int, objects: int, size: int, smallest: float = SMALLEST) -> Clip:
        """One clip with at least one object on its first frame.

        Args:
            objects: at most.
            size: side in pixels.
            smallest: share of the frame under which an object is left out.

        Raises:
            FormatError: none of the cases shows an object that is large enough.
        """
        for _ in range(TRIES):
            for position, number in self._candidates(rng):
                case = self.reader.load(position)
                task = case.tasks[int(rng.integers(len(case.tasks))) if number is None else number]
                is_set = case.kind == "set"
                near = bool(rng.random() < self.regions * (0.5 if is_set else 1.0))
                paper = self.augmentation == "paper"
                wanted = _Wanted(frames, objects, size, smallest, near, self.ends, self.inwards, self.later, paper)
                clip = (_from_set if is_set else _from_volume)(case, task, rng, wanted)
                if clip is not None:
                    return clip
        raise FormatError("its cases show no object that is large enough to learn from", "lower `smallest`", subject="pool")

    def _candidates(self, rng: np.random.Generator) -> Iterator[tuple[int, int | None]]:
        """Cases that may give the clip, with the number of the object where that was drawn."""
        # Positions without end would hide a pool without objects: after some tries the caller says so.
        entries = self.reader.entries
        if self.sampling == "tasks":
            balance = _balance_of(tuple(entries))
            task, modality = balance.draw(rng)
            yield from (balance.case(rng, task, modality) for _ in range(TRIES))
            return
        kinds = {entry.kind for entry in entries}
        kind = "set" if rng.random() < self.sets else "volume"
        kind = kind if kind in kinds else next(iter(kinds), kind)
        if self.sampling == "data-sets":
            groups = data_sets_of(tuple(entries), kind)
        else:
            groups = ([position for position, entry in enumerate(entries) if entry.kind == kind],)
        for _ in range(TRIES if any(groups) else 0):
            yield int(rng.choice(groups[int(rng.integers(len(groups)))])), None


def _from_volume(case: TrainingCase, task: Task, rng: np.random.Generator, wanted: _Wanted) -> Clip | None:
    # Thin axes are not cut across; the start is drawn by the root of the area, so that small sections come too.
    axis = int(rng.integers(3))
    if case.images.shape[axis] < 4 or min(n for i, n in enumerate(case.images.shape) if i != axis) < 24:
        axis = int(np.argmin(case.images.shape))
    images, labels = np.moveaxis(case.images, axis, 0), np.moveaxis(case.labels, axis, 0)
    inside = _member(np.ascontiguousarray(labels), task)
    areas = inside.mean(axis=(1, 2))
    areas *= areas >= wanted.least(inside[0])
    if not areas.any():
        return None
    start = int(rng.choice(len(areas), p=np.sqrt(areas) / np.sqrt(areas).sum()))
    chosen = _slices(rng, start, areas, np.asarray(inside.any((1, 2))), wanted)
    start = int(chosen[0])
    drawn = Augmentation.draw(rng, wanted.odds)
    at = int(rng.choice(chosen)) if wanted.later and rng.random() >= 1 - wanted.later else start
    if wanted.near:
        drawn = _near(drawn, inside[at if inside[at].any() else start], rng)
    elif not wanted.paper:
        drawn = _zoomed(drawn, rng)
    turned = bool(rng.random() < 0.5) and not wanted.paper
    pictures = _in_unit(np.stack([images[t] for t in chosen]))[:, None]
    maps = torch.from_numpy(np.stack([labels[t] for t in chosen]).astype(np.float32))[:, None]
    if turned:
        pictures, maps = pictures.transpose(2, 3), maps.transpose(2, 3)
        drawn = replace(drawn, shift=drawn.shift[::-1], extent=drawn.extent[::-1])
    frames_TCSS = drawn.recolour(drawn.warp(pictures, wanted.size)).expand(-1, 3, -1, -1)
    clip = _clip(frames_TCSS, drawn.warp(maps, wanted.size, nearest=True), case.tasks, task, rng, wanted)
    return None if clip is None else replace(clip, ordered=True)


def _in_unit(array: NDArray[Pixel]) -> Tensor:
    """Intensities in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(array, np.float32) / np.iinfo(array.dtype).max)


def _slices(
    rng: np.random.Generator, start: int, areas: NDArray[np.float64], there: NDArray[np.bool_], wanted: _Wanted
) -> NDArray[np.int64]:
    """Slices to track; the first shows enough of the object."""
    frames, way = wanted.frames, rng.random()
    if frames > 1 and way < wanted.ends:
        over = _over_the_end(rng, start, there, frames)
        if over is not None and areas[over[0]]:
            return over
    elif frames > 1 and way < wanted.ends + wanted.inwards:
        return _inwards(rng, start, areas > 0, frames)
    return _walk(rng, start, len(areas), frames)


def _inwards(rng: np.random.Generator, start: int, enough: NDArray[np.bool_], frames: int) -> NDArray[np.int64]:
    """Slices from one of the first at an end of the object on through it, as when the prompt lies on its first slice."""
    ordered, at = (enough, start) if rng.random() < 0.5 else (enough[::-1], len(enough) - 1 - start)
    gaps = np.flatnonzero(~ordered)
    first = int(gaps[gaps < at].max(initial=-1)) + 1
    length = int(gaps[gaps > at].min(initial=len(ordered))) - first
    first += int(rng.integers(max(1, round(0.1 * length))))
    stride = min(8, max(1, round(length * rng.uniform(0.2, 0.7) / frames)))
    steps = np.clip(first + np.arange(frames) * stride, 0, len(ordered) - 1)
    return steps if ordered is enough else len(ordered) - 1 - steps


def _walk(rng: np.random.Generator, start: int, length: int, frames: int) -> NDArray[np.int64]:
    """Slices from `start` onwards, at a stride, in one direction; at the end of the volume the last one stays."""
    stride = int(rng.integers(1, max(2, min(6, length // (2 * frames)) + 1)))
    ahead, behind = length - 1 - start, start
    forward = rng.random() < (ahead + 1) / (ahead + behind + 2)
    steps = start + np.arange(frames) * stride * (1 if forward else -1)
    return np.clip(steps, 0, length - 1)


def _over_the_end(rng: np.random.Generator, start: int, there: NDArray[np.bool_], frames: int) -> NDArray[np.int64] | None:
    """Slices from near `start` on, of which the last ones lie beyond the object; None where it reaches the volume's end."""
    forward = rng.random() < 0.5
    beyond = np.flatnonzero(~there[start:] if forward else ~there[start::-1])
    if not len(beyond):
        return None
    first_absent = int(rng.integers(1, frames))
    distance = int(beyond[0])
    stride = min(8, max(1, round(distance / first_absent)))
    near = max(0, distance - stride * first_absent)  # the prompt moves towards the end where strides would be too long
    steps = start + (near + np.arange(frames) * stride) * (1 if forward else -1)
    return np.clip(steps, 0, len(there) - 1)


def _from_set(case: TrainingCase, task: Task, rng: np.random.Generator, wanted: _Wanted) -> Clip | None:
    # Two augmentations: one shared by all images, as from one device, unless the paper's is asked for, and one of each image
    # by itself.
    labels = np.asarray(case.labels)
    inside = _member(labels, task)
    fit = np.flatnonzero(inside.mean(axis=(1, 2)) >= wanted.least(inside[0]))
    if not len(fit):
        return None
    first = int(rng.choice(fit))
    others = rng.permutation([n for n in range(len(labels)) if n != first])
    chosen = [first, *np.resize(others, wanted.frames - 1)] if wanted.frames > 1 else [first]
    shared = Augmentation() if wanted.paper else Augmentation.draw(rng, EAGER)
    pictures, maps = [], []
    for n in chosen:
        own = Augmentation.draw(rng)
        close = wanted.near and inside[n].any()
        place = _near(own, inside[n], rng) if close else own if wanted.paper else _zoomed(own, rng)
        picture = _in_unit(case.images[n].transpose(2, 0, 1))[None]
        pictures.append(own.recolour(shared.recolour(place.warp(picture, wanted.size))))
        maps.append(place.warp(torch.from_numpy(labels[n].astype(np.float32))[None, None], wanted.size, nearest=True))
    if not wanted.paper and rng.random() < 0.3:
        pictures = [picture.mean(1, keepdim=True).expand(-1, 3, -1, -1) for picture in pictures]
    return _clip(torch.cat(pictures), torch.cat(maps), case.tasks, task, rng, wanted)


def _zoomed(drawn: Augmentation, rng: np.random.Generator) -> Augmentation:
    """With a region of interest: content enlarged and shifted, as when a user crops."""
    if rng.random() < 0.3:
        scale, *shift = float(rng.uniform(1.0, 2.0)), float(rng.uniform(-0.3, 0.3)), float(rng.uniform(-0.3, 0.3))
        return replace(drawn, scale=scale, shift=(shift[0], shift[1]))
    return drawn


def _near(drawn: Augmentation, inside_hw: NDArray[np.bool_], rng: np.random.Generator) -> Augmentation:
    """With a region of interest around an object, as tracking shows it to the network, and less exact."""
    offset = (float(rng.uniform(-0.12, 0.12)), float(rng.uniform(-0.12, 0.12)))
    margin = float(np.exp(rng.uniform(np.log(1.3), np.log(4.0))))
    region = region_around(box_of(inside_hw), inside_hw.shape, margin=margin, offset_xy=offset)
    height, width = inside_hw.shape
    middle = (2 * region.left + region.width) / width - 1, (2 * region.top + region.height) / height - 1
    return replace(drawn, shift=middle, extent=(region.width / width, region.height / height))


def _clip(
    frames_T3SS: Tensor, maps_T1SS: Tensor, tasks: Sequence[Task], task: Task, rng: np.random.Generator, wanted: _Wanted
) -> Clip | None:
    labels = maps_T1SS[:, 0].to(torch.uint8)
    array = labels.numpy()
    order = [task, *(tasks[i] for i in rng.permutation(len(tasks)) if tasks[i] != task)]
    seen = [one for one in order if _member(array[0], one).mean() >= wanted.smallest][: wanted.objects]
    if not seen:
        return None
    truth = np.stack([_member(array, one) for one in seen])
    return Clip(frames_T3SS.contiguous(), labels, torch.from_numpy(truth))


def _member(labels: NDArray[np.uint8], task: tuple[int, ...]) -> NDArray[np.bool_]:
    table = np.zeros(256, bool)
    table[list(task)] = True
    return table[labels]

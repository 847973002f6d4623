"""What is to be outlined: a structure of a volume, or of a set of images, loaded once; and the simulated reader who prompts it:
on which frames, and with what on each; by chance, or where the answer so far needs it most. Among the images of a set may be
some of other sets that do not show the structure (distractors), so that a bank can go wrong by what it keeps.

Shapes: I J K voxels in the order of the file, T frames: slices of the view that is prompted or images, H W pixels of a frame.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from medical_sam2.data.data_sets import Case, DataSet, LoadedCase, read_data_set
from medical_sam2.errors import PromptError
from medical_sam2.evaluate.protocols import Condition, Kind, PlainKind
from medical_sam2.intensity_window import Window, choose_window, percentile_window
from medical_sam2.metrics import dice
from medical_sam2.prompts import Box, FramePrompt, Mask, Point, Prompt, intensities
from medical_sam2.simulate import (
    NOISE_LEVELS,
    Click,
    Noise,
    draw_diameters,
    draw_lasso,
    draw_scribble,
    jitter_box,
    jitter_click,
    jitter_mask,
    next_click,
)
from medical_sam2.strokes import diameter_prompt, fill, lasso_prompt, scribble_prompt
from medical_sam2.tracking.confidence import Need, neediest
from medical_sam2.tracking.plan import array_axis, primary_view, voxel_at
from medical_sam2.views import View
from medical_sam2.volume import Volume, bounding_box

MaskArray: TypeAlias = NDArray[np.bool_]
FramePrompts: TypeAlias = Mapping[int, FramePrompt]
"""Frame → its prompt, in its pixels."""

PERFECT_HAND = NOISE_LEVELS["none"]
KINDS: tuple[PlainKind, ...] = ("mask", "box", "click")
SEVERAL_OUTLINES = ("outlines", "joined outlines")  # of the first, the prompted and the last slice
LARGE = 0.5  # of the largest slice: the one slice of a volume that is prompted is at least so large


@dataclass(frozen=True)
class Distractor:
    """An image of another set."""

    folder: Path  # of that set
    case: str  # its identifier there


def draw_prompt(truth_hw: MaskArray, kind: Kind, rng: np.random.Generator, hand: Noise = PERFECT_HAND) -> FramePrompt:
    """The outline, its tight box, or one click at the innermost point of its largest part; perfect, or of a careless hand.

    Or a line drawn through its largest part, around it, around what is beside it, or along its diameters: all but the second
    always those of a perfect hand. Of what a prompt of several slices means, the part on this one.
    """
    shape_hw = (truth_hw.shape[0], truth_hw.shape[1])
    if kind in {"mask", *SEVERAL_OUTLINES}:
        return FramePrompt.mask(jitter_mask(truth_hw, hand, rng))
    if kind.startswith("box"):
        box = FramePrompt.box(*jitter_box(truth_hw, hand, rng))
        line = draw_beside(truth_hw) if kind == "box and negative lasso" else []
        return box | lasso_prompt(line, shape_hw, positive=False) if line else box
    if kind == "scribble":
        return scribble_prompt(draw_scribble(truth_hw), 1, shape_hw)
    if kind == "lasso":
        return lasso_prompt(draw_lasso(jitter_mask(truth_hw, hand, rng)), shape_hw)
    if kind == "diameter":
        return diameter_prompt(draw_diameters(truth_hw), shape_hw)
    click = next_click(truth_hw, np.zeros_like(truth_hw), rng)
    if click is None:
        raise PromptError("there is nothing to click on", "prompt a slice that shows the structure")
    return jitter_click(click, truth_hw, hand, rng).on_frame()


def draw_beside(truth_hw: MaskArray) -> list[tuple[float, float]]:
    """Corners (x, y) around the largest part of what lies in a structure's tight box and is none of it; else empty.

    Empty too where the line would take the structure in, as one around a ring of other things would.
    """
    beside = np.zeros_like(truth_hw)
    beside[bounding_box(truth_hw)] = True
    beside &= ~truth_hw
    drawn = draw_lasso(beside) if beside.any() else []
    return drawn if drawn and not (fill(np.array(drawn), (truth_hw.shape[0], truth_hw.shape[1])) & truth_hw).any() else []


def on_slice(click: Click) -> dict[int, FramePrompt]:
    """A click in a volume (T, H, W) as the prompt of its slice."""
    t, row, column = click.index
    return {t: FramePrompt.click(column, row, positive=click.positive)}


def is_boxable(truth_hw: MaskArray) -> bool:
    """Whether it has more than a single row, and more than a single column, of pixels."""
    return bool(truth_hw.any(axis=0).sum() > 1 and truth_hw.any(axis=1).sum() > 1)


def check_boxable(truth_hw: MaskArray) -> None:
    """Refuse what no box can be drawn around."""
    if not truth_hw.any():
        raise PromptError("the structure is not on the prompted image", "prompt another one")
    if not is_boxable(truth_hw):
        raise PromptError("the structure is a single row of pixels", "leave it out")


@dataclass(frozen=True, eq=False)
class SimulatedReader:
    """A simulated person before some frames.

    Frames that do not show the structure, or as a single row of pixels, are left alone. Of a smaller share the frames are among
    those of a larger one; where chance takes none, one is drawn. The prompt of a frame does not depend on the other frames.
    """

    truths: Sequence[MaskArray]  # (H, W) bool each
    condition: Condition  # of prompting
    kind: Kind  # of the prompts
    of_volume: bool  # slices of a volume, or else images of a set
    seed: int  # of the draw
    case: str  # identifies what is prompted: each case draws its own

    @property
    def usable(self) -> list[int]:
        """Frames that can be prompted; raises PromptError if there is none."""
        found = [t for t, truth in enumerate(self.truths) if is_boxable(truth)]
        if not found:
            raise PromptError("no frame shows more than a single row of pixels of the structure", "leave it out")
        return found

    @property
    def start(self) -> int:
        """One frame that chance takes: of a volume, a slice at least half as large as the largest."""
        areas = {t: int(self.truths[t].sum()) for t in self.usable}
        least = LARGE * max(areas.values()) if self.of_volume else 0.0
        return int(self._rng(0).choice([t for t, area in areas.items() if area >= least]))

    @property
    def frames(self) -> list[int]:
        """Those that chance takes; of a prompt of several outlines, the ends besides the one that chance takes."""
        if self.kind in SEVERAL_OUTLINES:
            return sorted({self.usable[0], self.start, self.usable[-1]})
        share = self.condition.share("volume" if self.of_volume else "set")
        chance = self._rng(1).random(len(self.truths))
        return [self.start] if share is None else [t for t in self.usable if chance[t] < share] or [self.start]

    def opening(self) -> dict[int, FramePrompt]:
        """The first prompt of a volume that is then clicked on: a box on its middle slice, or a click in its middle."""
        if self.kind == "click":
            truth = np.stack(self.truths)
            click = next_click(truth, np.zeros_like(truth), self._rng(3), joined=True)
            return {} if click is None else on_slice(click)
        middle = min(self.usable, key=lambda t: abs(2 * t - self.usable[0] - self.usable[-1]))
        return self.prompt_frames([middle])

    def further_click(self, found_thw: MaskArray, number: int) -> dict[int, FramePrompt]:
        """A click in the middle of the largest error; nothing where there is none."""
        click = next_click(np.stack(self.truths), found_thw, self._rng(3, number), joined=True)
        return {} if click is None else on_slice(click)

    def prompt_frames(self, frames: Iterable[int]) -> dict[int, FramePrompt]:
        """Frame → its prompt."""
        hand = NOISE_LEVELS[self.condition.care]
        return {t: draw_prompt(self.truths[t], self.kind, self._rng(2, t), hand) for t in sorted(frames)}

    def _rng(self, *what: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, crc32(self.case.encode()), *what])


Confidences: TypeAlias = Callable[[Sequence[int]], Mapping[int, float]]
"""Frames that are prompted → how sure the answer is of each other frame that it outlines something on, in [0, 1]."""
Embedding: TypeAlias = Callable[[int], NDArray[np.float32]]
"""A frame → its embedding over the length of that."""


def follow_suggestions(
    start: int, usable: Sequence[int], count: int, ask: Confidences, embed: Embedding, spare: Sequence[int] = ()
) -> list[int]:
    """So many frames: one, then in each round as many as there are already, those that need a prompt most.

    A frame that cannot be prompted (the structure is not on it) is passed over, as chance passes it over too. Where the answer
    outlines too few others, what is left is filled up from `spare`.
    """
    frames = [start]
    while len(frames) < min(count, len(usable)):
        most = min(len(frames), count - len(frames))
        more = _choose_neediest(frames, usable, ask(frames), embed, most)
        left = [t for t in (*spare, *usable) if t not in frames and t not in more]
        frames += [*more, *list(dict.fromkeys(left))[: 1 if not more else 0]]
    return frames


def _choose_neediest(
    frames: Sequence[int], usable: Collection[int], confidences: Mapping[int, float], embed: Embedding, most: int
) -> list[int]:
    prompted = np.stack([embed(t) for t in frames])
    needs = [
        Need(t, confidence, float((prompted @ embed(t)).max()))
        for t, confidence in confidences.items()
        if t in usable and t not in frames
    ]
    return [need.index for need in neediest(needs, most)]


@dataclass(frozen=True, eq=False)
class VolumeTask:
    """One structure of a volume, prompted on its largest slice in the plane of the finest pixels.

    Raises:
        PromptError: the structure lies on fewer than two slices, or is a single row of pixels on the largest.
    """

    volume: Volume  # the image
    truth_ijk: MaskArray  # (I, J, K) bool, in its grid

    def __post_init__(self) -> None:
        if (self.truth_thw.any(axis=(1, 2))).sum() < 2:
            raise PromptError("the structure lies on fewer than two slices", "leave it out")
        check_boxable(self.truth_thw[self.start])

    @property
    def view(self) -> View:
        """In which slices it is prompted."""
        return primary_view(self.volume, [Point((0, 0, 0))])

    @property
    def truth_thw(self) -> MaskArray:
        """The structure along the view, not a copy."""
        return self.view.apply(self.truth_ijk, self.volume.orientation)

    @property
    def start(self) -> int:
        """The largest slice."""
        return int(self.truth_thw.sum(axis=(1, 2)).argmax())

    def prompt(self, kind: Kind, rng: np.random.Generator) -> Prompt:
        """That of the user; the generator decides between equally good places for a click."""
        return self.in_volume(self.start, draw_prompt(self.truth_thw[self.start], kind, rng))

    def in_volume(self, t: int, prompt: FramePrompt) -> Prompt:
        """An outline, a box or a click on a slice of the view, in voxels."""
        if prompt.mask_hw is not None:
            only = np.zeros(self.truth_ijk.shape, bool)
            self.view.apply(only, self.volume.orientation)[t] = prompt.mask_hw
            return Mask(only, axis=array_axis(self.volume, self.view))
        if prompt.box_xyxy is not None:
            x_low, y_low, x_high, y_high = (round(along) for along in prompt.box_xyxy.tolist())
            corners = np.array([self.voxel(t, y_low, x_low), self.voxel(t, y_high, x_high)])
            (i, j, k), (l, m, n) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()  # noqa: E741
            return Box((i, j, k), (l, m, n))
        x, y = (round(along) for along in prompt.points_xy[0].tolist())
        return Point(self.voxel(t, y, x))

    def all_in_volume(self, prompts: FramePrompts) -> list[Prompt]:
        """All outlines, boxes and clicks on slices of the view, in voxels."""
        drawn: list[Prompt] = []
        for t, prompt in sorted(prompts.items()):
            if prompt.mask_hw is not None or prompt.box_xyxy is not None:
                drawn.append(self.in_volume(t, prompt))
            for (x, y), positive in zip(prompt.points_xy.round().astype(int).tolist(), prompt.labels.tolist(), strict=True):
                drawn.append(Point(self.voxel(t, y, x), positive=bool(positive)))
        return drawn

    def frame_prompt(self, prompt: Prompt) -> FramePrompt:
        """The same in pixels of the prompted slice."""
        return prompt.project(self.view, self.volume.shape, self.volume.orientation)[self.start]

    @property
    def slices_thw(self) -> NDArray[np.generic]:
        """The slices of the prompted view, as stored, not a copy."""
        return self.view.apply(self.volume.array, self.volume.orientation)

    def window(self, prompts: FramePrompts) -> Window:
        """The window that the network would see the prompted structure through."""
        slices_thw = self.slices_thw
        inside = [intensities(slices_thw[t], prompt) for t, prompt in sorted(prompts.items())]
        return choose_window(self.volume, inside=np.concatenate(inside) if inside else None)

    def score(self, found_thw: MaskArray) -> float:
        """Dice over all slices but the prompted one, in [0, 1]."""
        others = np.arange(len(found_thw)) != self.start
        return dice(self.truth_thw[others], found_thw[others])

    def voxel(self, t: int, row: float, column: float) -> tuple[float, float, float]:
        """A place on a slice of the view as an index of the file; fractions are kept."""
        return voxel_at(self.volume, self.view, t, row, column)


@dataclass(frozen=True, eq=False)
class SetTask:
    """One structure of a set of images, prompted on one of them.

    Raises:
        PromptError: the template does not show the structure, or as a single row of pixels.
    """

    images: Sequence[NDArray[np.generic]]  # (H, W) or (H, W, 3) each, of any size
    truths: Sequence[MaskArray]  # (H, W) bool each
    template: int  # the image that is prompted

    def __post_init__(self) -> None:
        check_boxable(self.truths[self.template])

    def prompt(self, kind: Kind, rng: np.random.Generator) -> FramePrompt:
        """That of the user on the template."""
        return draw_prompt(self.truths[self.template], kind, rng)

    def scores(self, found: Mapping[int, MaskArray]) -> dict[int, float]:
        """Dice of each image but the template; nan where the structure is neither there nor found."""
        return {i: dice(truth, found[i]) for i, truth in enumerate(self.truths) if i != self.template}


@dataclass(frozen=True, eq=False)
class EvaluationCase:
    """Frames that show a structure."""

    name: str  # data set, case and structure: what the draw of prompts depends on
    truths: Sequence[MaskArray]  # (H, W) bool of each frame
    ignored: Sequence[MaskArray]  # (H, W) bool of each frame, where nobody outlined anything
    # of the pixels of each frame in mm, (T, H, W) of a volume; None where a picture does not tell
    spacings: Sequence[tuple[float, ...] | None]
    task: VolumeTask | None = None  # the volume
    images: Sequence[NDArray[np.generic]] = ()  # of the set

    def viewer(self, prompts: FramePrompts) -> Callable[[int], NDArray[np.float32]]:
        """A frame → it (H, W) or (H, W, 3) in [0, 1], as the network would see it."""
        if self.task is None:
            return lambda t: percentile_window(self.images[t]).apply(self.images[t])
        window, slices = self.task.window(prompts), self.task.slices_thw
        return lambda t: window.apply(slices[t])


@lru_cache(maxsize=64)
def open_data_set(folder: Path) -> DataSet:
    """The listing of a data set."""
    return read_data_set(folder)


@lru_cache(maxsize=2)
def load_case(
    folder: Path, case: str, cases: tuple[str, ...], structure: str, distractors: tuple[Distractor, ...]
) -> EvaluationCase:
    """A structure of a volume, or of the images of a set.

    Args:
        case: identifier of the volume; empty for a set.
        cases: identifiers of the images of a set.
        distractors: images that follow them, and do not show it.

    Raises:
        PromptError: there is nothing to measure.
    """
    return _load_volume(folder, case, structure) if case else _load_set(folder, cases, structure, distractors)


@lru_cache(maxsize=1)
def load_images(folder: Path, identifiers: tuple[str, ...]) -> list[LoadedCase]:
    """Volumes or images of a data set, with their labels; structures of the same ones share them."""
    return [_load_image(folder, identifier) for identifier in identifiers]


def _load_image(folder: Path, identifier: str) -> LoadedCase:
    data = open_data_set(folder)
    by_name: dict[str, Case] = {case.identifier: case for case in data.cases}
    return data.load(by_name[identifier])


def _load_volume(folder: Path, case: str, structure: str) -> EvaluationCase:
    data, (loaded,) = open_data_set(folder), load_images(folder, (case,))
    volume, labels = loaded.images[0], loaded.labels
    if labels is None or not isinstance(volume, Volume):
        raise PromptError("it has no label map", "add one")
    truth = data.mask(labels, structure)
    if not truth.any():
        raise PromptError("the structure is not in this case")
    task = VolumeTask(volume, truth)
    ignored = _ignored(task.view.apply(labels, volume.orientation), data.ignore)
    spacing = task.view.spacing(volume.spacing_mm, volume.orientation)
    return EvaluationCase(f"{data.name}/{case}/{structure}", list(task.truth_thw), list(ignored), [spacing], task)


def _load_set(folder: Path, cases: tuple[str, ...], structure: str, distractors: tuple[Distractor, ...]) -> EvaluationCase:
    data, loaded = open_data_set(folder), load_images(folder, cases)
    labels = [one.labels for one in loaded if one.labels is not None]
    strays = [_load_image(each.folder, each.case) for each in distractors]
    nothing = [np.zeros(stray.images[0].array.shape[:2], bool) for stray in strays]
    spacings = [one.images[0].spacing_mm for one in (*loaded, *strays)]
    return EvaluationCase(
        f"{data.name}/{structure}",
        [*(data.mask(each, structure) for each in labels), *nothing],
        [*(_ignored(each, data.ignore) for each in labels), *nothing],
        [(spacing[0], spacing[1]) if spacing is not None and len(spacing) == 2 else None for spacing in spacings],
        images=[one.images[0].array for one in (*loaded, *strays)],
    )


def _ignored(labels: NDArray[Any], ignore: int | None) -> MaskArray:
    return np.zeros(labels.shape, bool) if ignore is None else np.asarray(labels == ignore)


def draw_distractors(
    lenders: Sequence[DataSet], borrower: DataSet, structure: str, count: int, seed: int
) -> tuple[Distractor, ...]:
    """So many images in the order of the draw, from all sets in turn; fewer where there are no more.

    Grey sets borrow grey images first, colour sets colour ones. A set with a structure of the same name lends none.
    """
    rng = np.random.default_rng([seed, crc32(f"{borrower.name}/{structure}".encode())])
    turns: list[tuple[bool, int, float, Distractor]] = []
    for data in lenders:
        if data.kind == "set" and data.folder != borrower.folder and structure not in data.structures:
            cases = rng.permutation([case.identifier for case in data.cases]).tolist()
            unlike = data.colour != borrower.colour
            turns += [(unlike, turn, rng.random(), Distractor(data.folder, case)) for turn, case in enumerate(cases)]
    return tuple(found for *_, found in sorted(turns, key=lambda turn: turn[:3])[:count])


def mix_order(order: Sequence[int], more: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """An order of images with so many more, numbered after them, at places that chance takes; the rest follows as before.

    >>> mix_order([1, 0, 2], 2, np.random.default_rng(0)).tolist()
    [1, 0, 4, 2, 3]
    """
    places = rng.integers(0, len(order) + 1, size=more)
    return np.insert(np.asarray(order, np.int64), places, len(order) + np.arange(more))

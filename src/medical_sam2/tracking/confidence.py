"""How far to believe what was found: slices after the consensus; where to look again, where one more prompt helps most.

The mask decoder predicts the IoU of what it saw on one slice. It knows neither how steadily the slices before were tracked nor
what the consensus made of them, and is far too sure beyond an object's end. A small network learnt beside the weights, a `Gate`
of other features, predicts it from all that (`SLICE_FEATURES`). Where confidence collapses or an object leaks, people are told.

Where a look is worth most: what is expected to be wrong on a slice is (1 − Dice) · area, with the Dice that the confidence, a
predicted IoU, amounts to; where a structure grew suddenly, all that it grew by. That over the length of the outline, which
goes with the root of the area, is how far it has to be moved. Slices are ordered by that times the share that is wrong: one of
which nothing is right comes before a large one that is a little off all around. A correction mends the slices beside it too: a
suggestion tells what it gains there as well, and they are not suggested.

Shapes: I J K voxels; n h w working grid of the consensus with the slices first, S features of a slice.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod, sqrt

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import PromptError
from medical_sam2.io.labels import object_boxes
from medical_sam2.prompts import Box, FramePrompt, Mask, Point, Prompt
from medical_sam2.strokes import Diameter, Lasso, SliceRange
from medical_sam2.views import View
from medical_sam2.volume import SliceConfidence, Volume

Floats = NDArray[np.float32]
MaskArray = NDArray[np.bool_]
SLICES_FILE = "slice_confidence.safetensors"
HIDDEN = 8  # units of each of its two hidden layers
SLICE_FEATURES = (
    *("confidence", "least confidence", "agreement", "border tells"),
    *("unchanged", "least overlap", "probability", "sureness", "area over prompted", "distance", "area"),
)
DROP = 0.6  # of the object's usual confidence
JUMP = 2.0  # area on a slice over the largest one between it and the prompt
SUDDEN = 0.5  # share of the object's largest area that the same slice adds at once: an object that begins small grows by less
MOST = 0.5  # share of a slice
DRAWN = 1.5  # area over that of an outline or a box, up to which a person has drawn it so large
FLAT = 0.5  # thickness over the width on the prompted slices, below which an object seems to have been lost beside them
FEW, TINY = 4, 16  # slices of an object, and voxels of it on the prompted ones, of which the network can hardly tell what it is
REACH = 2  # slices beside a corrected one that are expected to change with it
MOST_SUGGESTED = 12
UNSURE, UNSURE_IMAGE = 0.5, 0.3  # predicted IoU of what a click hit, below which people are told: in volumes, in sets
UNSURE_BOX = 0.4  # the same of what was found in a box, in volumes


@dataclass(frozen=True)
class Leak:
    """Slices on which an object seems to have taken what is not its own."""

    object: int  # label
    view: str  # code of the view that was tracked
    slices: tuple[int, ...]  # indices along the array axis of the file, from the first in the order of tracking
    before_px: int | None  # largest area between the prompt and them, in voxels; None where the object just fills most of them
    after_px: int  # largest area on them

    def describe(self, axis: str) -> str:
        """One line for the user; `axis` is that of the file ("i", "j" or "k")."""
        low, high = min(self.slices), max(self.slices)
        where = f"slice {low}" if low == high else f"slices {low} to {high}"
        there = "on that slice" if low == high else "on one of them"
        remedy = f"it may have leaked; draw a box around it {there}, or click outside of it there (a negative click)"
        if self.before_px is None:
            return f"object {self.object} fills most of {where} of axis {axis}: {remedy}"
        jump = f"from {self.before_px} to {self.after_px} voxels"
        return f"object {self.object} jumps {jump} on {where} of axis {axis}, beginning at {self.slices[0]}: {remedy}"


def count_areas(
    rows: Sequence[SliceConfidence], labels: Sequence[NDArray[np.unsignedinteger]], axes: Mapping[str, int]
) -> list[SliceConfidence]:
    """The rows with the areas that their objects have in the end.

    Args:
        rows: as tracking left them.
        labels: (I, J, K) each; an object is where any of them shows it.
        axes: view → array axis of its slices.
    """
    counts = {row.object: [np.zeros(length, np.int64) for length in labels[0].shape] for row in rows}
    boxes = [object_boxes(one) for one in labels]
    for label, (by_i, by_j, by_k) in counts.items():
        own = [each[label] for each in boxes if label in each]
        if not own:
            continue
        slabs, *sides = (slice(min(s.start for s in part), max(s.stop for s in part)) for part in zip(*own, strict=True))
        for i in range(slabs.start, slabs.stop):  # slab by slab: no mask of the whole box at once
            there_jk = np.any([one[i][tuple(sides)] == label for one in labels], axis=0)
            by_i[i] = np.count_nonzero(there_jk)
            by_j[sides[0]] += np.count_nonzero(there_jk, axis=1)
            by_k[sides[1]] += np.count_nonzero(there_jk, axis=0)
    return [replace(row, area_px=int(counts[row.object][axes[row.view]][row.slice])) for row in rows]


def mark_collapses(rows: Sequence[SliceConfidence]) -> list[SliceConfidence]:
    """The rows with `look_here` set where an object that has an outline is far less sure than usual.

    Usual is the median over the slices of that object and view that have an outline. Beside each stretch of such slices
    only its least sure one is marked, so the list stays short enough to be looked at.
    """
    # per object and view: stretches of low confidence in the order of slices, and the worst place of each
    marked = list(rows)
    for key in dict.fromkeys((row.object, row.view) for row in rows):
        places = [i for i, row in enumerate(rows) if (row.object, row.view) == key and row.area_px > 0 and not row.prompted]
        if len(places) < 3:
            continue
        places.sort(key=lambda i: rows[i].slice)
        sure = np.array([rows[i].confidence for i in places])
        low = sure < DROP * np.median(sure)
        for stretch in np.split(np.arange(len(places)), np.flatnonzero(np.diff(low.astype(int))) + 1):
            if low[stretch[0]]:
                worst = places[int(stretch[sure[stretch].argmin()])]
                marked[worst] = replace(rows[worst], look_here=True)
    return marked


def find_leaks(rows: Sequence[SliceConfidence], frame_px: Mapping[str, int], drawn: Collection[int] = ()) -> list[Leak]:
    """Where the tracked area jumps from slice to slice, going away from the prompts, or fills most of a slice.

    Of further views no slice counts as filled: through a volume that is thin across the prompted plane an object just runs.

    Args:
        rows: as they came; the first one of an object and view is where its tracking started, unless some are prompted.
        frame_px: view → pixels of a slice.
        drawn: objects that a person outlined or drew a box around: what is not much larger than that is no leak.
    """
    # a jump is judged away from the prompts, a filled slice by itself; what is part of a jump is not reported twice
    found, shown = list[Leak](), {row.object for row in rows if row.prompted}
    for label, view in dict.fromkeys((row.object, row.view) for row in rows):
        own = [row for row in rows if (row.object, row.view) == (label, view)]
        areas = {row.slice: row.area_px for row in own}
        prompted = [row.slice for row in own if row.prompted]
        starts = prompted or [own[0].slice]
        jumps = [*_find_jumps(areas, max(starts), 1), *_find_jumps(areas, min(starts), -1)]
        jumped = {t for slices, _ in jumps for t in slices}
        trusted = DRAWN * max((areas[t] for t in prompted), default=0) if label in drawn else 0
        large = max(trusted, MOST * frame_px[view]) if prompted or label not in shown else max(areas.values())
        filled = [t for t in sorted(areas) if areas[t] > large and t not in jumped]
        stretches = [(slices, before) for slices, before in jumps] + [(slices, None) for slices in _consecutive_runs(filled)]
        found += [Leak(label, view, slices, before, max(areas[t] for t in slices)) for slices, before in stretches]
    return found


def find_leaks_in(volume: Volume, rows: Sequence[SliceConfidence], prompts: Iterable[Prompt]) -> list[Leak]:
    """`find_leaks` of a volume whose objects got these prompts."""
    axes, codes = volume.orientation, {row.view for row in rows}
    frame_px = {code: prod(volume.shape[axis] for axis in View(code).order(axes)[1:]) for code in codes}
    drawn = {prompt.object for prompt in prompts if isinstance(prompt, Box | Mask | Lasso | Diameter)}
    return find_leaks(rows, frame_px, drawn)


def mark_leaks(rows: Sequence[SliceConfidence], found: Sequence[Leak]) -> list[SliceConfidence]:
    """The rows with `look_here` set where each leak begins."""
    places = {(leak.object, leak.view, leak.slices[0]) for leak in found}
    return [replace(row, look_here=row.look_here or (row.object, row.view, row.slice) in places) for row in rows]


def describe_ends_in(volume: Volume, rows: Sequence[SliceConfidence], start_ijk: Sequence[int] = (0, 0, 0)) -> list[str]:
    """`describe_early_ends` in a volume that begins at a voxel of the one that the rows count in, and gaps between prompts."""
    axes, views = volume.orientation, {code: View(code) for code in {row.view for row in rows}}
    along = {code: view.order(axes)[0] for code, view in views.items()}
    ended = describe_early_ends(
        rows,
        {code: volume.shape[axis] for code, axis in along.items()},
        {code: view.spacing(volume.spacing_mm, axes) for code, view in views.items()},
        {code: "ijk"[axis] for code, axis in along.items()},
        {code: start_ijk[axis] for code, axis in along.items()},
    )
    return [*ended, *_describe_gaps(rows, {code: "ijk"[axis] for code, axis in along.items()})]


def _describe_gaps(rows: Sequence[SliceConfidence], axes: Mapping[str, str]) -> list[str]:
    """A line for each two prompts of an object between which it was found on less than half of the slices, by one axis."""
    lines = list[str]()
    for label in sorted({row.object for row in rows}):
        own = [row for row in rows if row.object == label]
        prompted, there = sorted({row.slice for row in own if row.prompted}), {row.slice for row in own if row.area_px}
        along = {axes[row.view] for row in own}
        if len(along) != 1:
            continue  # views across may have found it
        (axis,) = along
        for first, last in pairwise(prompted):
            between, found = last - first - 1, sum(first < at < last for at in there)
            if between > 1 and found < between / 2:
                where = f"between its prompts on slices {first} and {last} of axis {axis}"
                lines.append(f"object {label} was found on {found} of the {between} slices {where}: outline it on one of them")
    return lines


def describe_unsure_prompts(axes: str, rows: Sequence[SliceConfidence], prompts: Sequence[Prompt]) -> list[str]:
    """A line for each object of clicks and boxes alone of whose answer on the prompted slices the network is unsure.

    Of such answers of `nano` most are wrong: neither a click nor a limit of slices says how large its object is, and a box
    may hold several.
    """
    drawn, found = {prompt.object for prompt in prompts if not isinstance(prompt, Point | SliceRange | Box)}, list[str]()
    boxed = {prompt.object for prompt in prompts if isinstance(prompt, Box) and prompt.positive}
    for label in sorted({prompt.object for prompt in prompts} - drawn):
        surest = max(
            (row for row in rows if row.object == label and row.prompted), key=lambda row: row.confidence, default=None
        )
        if surest is not None and 0 < surest.confidence < (UNSURE_BOX if label in boxed else UNSURE):
            axis = "ijk"[View(surest.view).order(axes)[0]]
            where = f" on slice {surest.slice} of axis {axis}"
            found.append(_describe_unsure(label, surest.confidence, where, boxed=label in boxed))
    return found


def describe_unsure_image(sure: Mapping[int, float], prompts: Mapping[int, FramePrompt]) -> list[str]:
    """The same of one image of a set: object → confidence, object → prompt."""
    plain = [label for label, prompt in prompts.items() if prompt.mask_hw is None and prompt.box_xyxy is None]
    return [_describe_unsure(label, sure[label]) for label in plain if 0 < sure.get(label, 1.0) < UNSURE_IMAGE]


def _describe_unsure(label: int, confidence: float, where: str = "", *, boxed: bool = False) -> str:
    what, more = ("is meant in the box", "an outline") if boxed else ("the click means", "a box or an outline")
    return f"object {label}: it is unsure what {what}{where} (confidence {confidence:.2f}): look there, or draw {more}"


def describe_early_ends(
    rows: Sequence[SliceConfidence],
    frames: Mapping[str, int],
    spacing_mm: Mapping[str, Sequence[float]],
    axes: Mapping[str, str],
    starts: Mapping[str, int] | None = None,
) -> list[str]:
    """A line for each object that ended at once, before and behind its prompts, and is much flatter than wide, or tiny.

    Args:
        rows: as they came; those of the view that was prompted come first.
        frames: view → slices of the volume along it.
        spacing_mm: view → distances in mm between frames, rows and columns.
        axes: view → axis of the file ("i", "j" or "k").
        starts: view → the first of its slices; 0 unless given.
    """
    found: list[str] = []
    first = {row.object: row.view for row in reversed(rows)}  # further views begin with an estimate, not a prompt
    for label, view in sorted(first.items()):
        own = [row for row in rows if (row.object, row.view) == (label, view) and row.area_px]
        slices, prompted = [row.slice for row in own], max((row.area_px for row in own if row.prompted), default=0)
        start = starts[view] if starts else 0
        if not slices or min(slices) == start or max(slices) == start + frames[view] - 1:
            continue
        between, down, across = spacing_mm[view]
        width, thickness = 2 * np.sqrt(prompted * down * across / np.pi), (max(slices) - min(slices) + 1) * between
        if thickness < FLAT * width or (len(slices) <= FEW and prompted <= TINY):
            where = f"slice {min(slices)}" if len(slices) == 1 else f"slices {min(slices)} to {max(slices)}"
            problem = f"object {label} was found on {where} of axis {axes[view]} alone, next to its prompt"
            found.append(f"{problem}: if it goes on, prompt it on a slice where it is larger")
    return found


def _find_jumps(areas: Mapping[int, int], start: int, step: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """Stretches of slices, in the order of tracking, that are suddenly larger than all before; how large those were."""
    before, sudden = areas[start], SUDDEN * max(areas.values())
    stretch: list[int] = []
    t = start + step
    while t in areas:
        begins = areas[t] - before >= sudden and before > 0
        if areas[t] >= JUMP * before and (stretch or begins):
            stretch.append(t)
        else:
            if stretch:
                yield tuple(stretch), before
            stretch, before = [], max(before, areas[t])
        t += step
    if stretch:
        yield tuple(stretch), before


def _consecutive_runs(slices: Sequence[int]) -> list[tuple[int, ...]]:
    """Sorted slices, split where one is left out."""
    parts = np.split(np.array(slices, int), np.flatnonzero(np.diff(slices) > 1) + 1)
    return [tuple(int(t) for t in part) for part in parts if len(part)]


@dataclass(frozen=True)
class ReviewSuggestion:
    """A slice that is worth a look."""

    row: SliceConfidence  # its confidence
    gain_px: int  # voxels that a correction there is expected to mend
    reason: str  # in two or three words


def suggest_reviews(
    rows: Sequence[SliceConfidence],
    frame_px: Mapping[str, int],
    drawn: Collection[int],
    views_disagree: Callable[[SliceConfidence], bool] | None,
) -> list[ReviewSuggestion]:
    """The slices of all structures that are worth a look, the one whose outline is expected to be off the most first.

    Args:
        rows: of what was tracked.
        frame_px: plane → pixels of a frame.
        drawn: structures that a person outlined or drew a box around.
        views_disagree: whether what several views make of a slice is undecided; None for a set of images, whose neighbours are
            nothing to each other.
    """
    leaks = find_leaks(rows, frame_px, drawn) if views_disagree else []
    grown = {(each.object, each.view, t): each.before_px or 0 for each in leaks for t in each.slices}
    wrong = {row.key: _wrong(row, grown) for row in rows if row.area_px and not row.prompted}
    reach = REACH if views_disagree else 0
    gains = {key: sum(wrong.get((*key[:2], key[2] + by), 0) for by in range(-reach, reach + 1)) for key in wrong}
    open_ = [row for row in rows if gains.get(row.key, 0) >= 1]
    chosen: dict[tuple[int, str, int], SliceConfidence] = {}
    for row in sorted(open_, key=lambda row: (-rank_wrong(wrong[row.key], row.area_px), row.slice)):
        beside = ((*row.key[:2], row.slice + by) for by in range(-reach, reach + 1))
        if len(chosen) < MOST_SUGGESTED and not any(key in chosen for key in beside):
            chosen[row.key] = row
    return [ReviewSuggestion(row, round(gains[key]), _reason(row, grown, views_disagree)) for key, row in chosen.items()]


def expect_wrong(confidence: float, area_px: int) -> float:
    """Voxels that are expected to be wrong on a slice: (1 − Dice) · area, of the Dice of a predicted IoU."""
    return (1 - 2 * confidence / (1 + confidence)) * area_px


def rank_wrong(wrong_px: float, area_px: int) -> float:
    """What slices are ordered by: the share that is wrong, times how far its outline is off."""
    return (wrong_px / area_px) * wrong_px / sqrt(area_px)


def _wrong(row: SliceConfidence, grown: Mapping[tuple[int, str, int], int]) -> float:
    """Voxels that are expected to be wrong on a slice."""
    unsure = expect_wrong(row.confidence, row.area_px)
    return max(unsure, row.area_px - grown[row.key]) if row.key in grown else unsure


def _reason(
    row: SliceConfidence,
    grown: Mapping[tuple[int, str, int], int],
    views_disagree: Callable[[SliceConfidence], bool] | None,
) -> str:
    if row.key in grown:
        return "grew suddenly" if grown[row.key] else "fills the slice"
    if views_disagree and views_disagree(row):
        return "views disagree"
    return "unsure" if row.look_here else f"{round(100 * row.confidence)} % sure"


@dataclass(frozen=True)
class Need:
    """How much an image, or a slice, needs a prompt."""

    index: int  # of the image or slice
    confidence: float  # predicted IoU in [0, 1], 0 where the object is judged absent
    likeness: float  # to what is remembered: cosine in [-1, 1]

    @property
    def size(self) -> float:
        """(1 − confidence) · (1 − likeness): either factor alone asks for what is blurred, or for what is merely different."""
        return (1 - self.confidence) * (1 - self.likeness)


def neediest(needs: Iterable[Need], count: int = 1) -> list[Need]:
    """Those that need a prompt most, the neediest first; of equals, the earlier one.

    >>> [need.index for need in neediest([Need(0, 0.9, 0.9), Need(1, 0.5, 0.8), Need(2, 0.5, 0.9)], 2)]
    [1, 2]
    """
    return sorted(needs, key=lambda need: (-need.size, need.index))[:count]


def slice_needs(rows: Sequence[SliceConfidence], directions: Mapping[int, NDArray[np.float32]]) -> list[Need]:
    """How much the slices of a volume need a prompt, those that got none and on which something was outlined.

    Args:
        rows: confidence of a segmentation; the view that was prompted counts.
        directions: slice of that view → its embedding over the length of that.

    Raises:
        PromptError: no slice was prompted.
    """
    view = next((row.view for row in rows if row.prompted), None)
    if view is None:
        raise PromptError("no slice was prompted", "prompt one")
    # of several objects the least sure one counts, and of several prompted slices the one that is most alike
    own = [row for row in rows if row.view == view]
    prompted = np.stack([directions[t] for t in sorted({row.slice for row in own if row.prompted})])
    sure: dict[int, float] = {}
    for row in own:
        if row.area_px and not row.prompted:
            sure[row.slice] = min(row.confidence, sure.get(row.slice, 1.0))
    return [Need(t, confidence, float((prompted @ directions[t]).max())) for t, confidence in sorted(sure.items())]


@dataclass(frozen=True, eq=False)
class RefinedSlices:
    """What the consensus made of the slices around an object."""

    before_nhw: Floats  # logits as they were tracked
    after_nhw: Floats  # logits as they are now
    # what the consensus knew of each slice: confidence, the least one on the way from the prompt, how far geodesic distances
    # agree, how far edges tell the border
    known_n4: Floats
    prompted: Sequence[int]  # slices that were prompted, some of which show the object
    box_mm: Sequence[float]  # sides of a box of the grid, across the slices first
    box_px: float  # voxels of a slice in a box

    def features(self) -> Floats:
        """Features (n, S) of the slices."""
        before, after = self.before_nhw > 0, self.after_nhw > 0
        inside = 1 / (1 + np.exp(-self.after_nhw))
        boxes = after.sum(axis=(1, 2))
        shown = [t for t in self.prompted if boxes[t]] or [*self.prompted]
        areas = {t: boxes[t] * self.box_mm[1] * self.box_mm[2] for t in shown}
        rows = []
        for t, mask in enumerate(after):
            nearest = min(shown, key=lambda other: abs(other - t))
            way = range(min(t, nearest), max(t, nearest))  # each with the slice after it
            distance = abs(t - nearest) * self.box_mm[0] / np.sqrt(max(areas[nearest], self.box_mm[1] * self.box_mm[2]) / np.pi)
            rows.append([
                dice_of(before[t], mask),
                min((dice_of(after[i], after[i + 1]) for i in way), default=1.0),
                float(inside[t][mask].mean()) if mask.any() else 0.0,
                float((inside[t] > 0.7).sum() / max(1, (inside[t] > 0.3).sum())),
                np.log((boxes[t] + 0.5) / (boxes[nearest] + 0.5)),
                np.log1p(distance),
                np.log1p(boxes[t] * self.box_px),
            ])  # fmt: skip
        return np.concatenate([self.known_n4, np.array(rows, np.float32)], axis=1, dtype=np.float32)


def dice_of(one: MaskArray, other: MaskArray) -> float:
    """Dice of two masks, 0 where both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 0.0

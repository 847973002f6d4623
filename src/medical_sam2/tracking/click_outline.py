"""What a click means: of the masks that the network proposes in several regions around it, the one to believe.

A click says neither how large its object is nor how much of it: a nucleus, its cell, or the tissue. The network is asked on
the whole frame and on smaller and smaller regions around the click, and proposes several masks on each. A small network learnt
beside the weights (`OutlineJudge`) predicts the Dice of each of them: from what the network says of it, how far the others
agree, how its border and its greys look, and where the click lies in it. (nnInteractive, Isensee et al., 2025, zooms out until
the object fits; SAM, Kirillov et al., 2023, lets the network itself judge its masks, of one region.)

Shapes: H W frame, K proposed masks, N candidates of all regions, F features.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medical_sam2.errors import WeightsError
from medical_sam2.model.backbone import FramePrediction
from medical_sam2.model.device import map_on_cores
from medical_sam2.model.weights import read_tensors
from medical_sam2.prompts import FramePrompt
from medical_sam2.tracking.confidence import dice_of
from medical_sam2.tracking.frames import Canvas, Region, box_of, part_under, pixels_of, to_frame

JUDGE_FILE = "click_outline.safetensors"
SHARES = (1.0, 0.5, 0.31, 0.1)  # sides of the regions that are asked on, of the frame's shorter side
LEAST_MARGIN = 2.0  # side of a region over that of the clicks, at least
SIDE = 512  # pixels of a frame's longer side, at most, that features are computed on
GOOD, AHEAD = 0.6, 0.2  # predicted Dice of a mask, and by how much it leads, where it takes the place of another one
MOST = 3  # masks that are proposed in a region
RING = 0.35  # width of what lies around a mask, in its radii
FEATURES = (
    *("predicted IoU", "rank", "presence", "region", "area in region", "area"),
    *("agreement of regions", "best agreement", "agreement in region", "agreement of a larger region", "of a smaller region"),
    *("steadiness", "sureness", "depth of click", "distance from middle", "region's border", "frame's border"),
    *("contrast", "spread of greys", "spread around", "edge", "parts", "holes", "roundness", "filling", "grey of click"),
    *("first", "second", "third", "all parts", "in a set"),
)
Floats: TypeAlias = NDArray[np.float32]
MaskArray: TypeAlias = NDArray[np.bool_]


Propose: TypeAlias = Callable[[Region | None, FramePrompt], FramePrediction]
"""(region, prompt) → what the network says where it is shown the region of a frame, or all of it; one object."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One mask that was proposed."""

    mask_hw: MaskArray  # what of it hangs together with the click, on the reduced frame
    probability_hw: Floats  # on the reduced frame
    region: int  # that was shown, by number
    share: float  # side of the region, of the frame's shorter one
    box: tuple[int, int, int, int]  # the region on the reduced frame: top, left, bottom, right
    place: int  # among the masks that were proposed with it
    ious: Sequence[float]  # that were predicted of them
    presence: float  # logit that there is an object
    all_parts: bool = False  # whether it is all of the mask, and more than what hangs together with the click


def reduction(shape_hw: tuple[int, int]) -> int:
    """Of so many rows and columns one is kept where masks are compared and described."""
    return -(-max(shape_hw) // SIDE)


def click_regions(canvas: Canvas, xy: tuple[float, float]) -> Mapping[Region | None, float]:
    """The regions around a click that the network is asked on, and their sides as shares of the frame's shorter one."""
    shorter = min(canvas.shape_hw[0] * canvas.pixel_hw[0], canvas.shape_hw[1] * canvas.pixel_hw[1])
    margins = {share: max(share * shorter / max(canvas.pixel_hw), LEAST_MARGIN) for share in SHARES[1:]}
    regions: dict[Region | None, float] = {None: 1.0}
    for share, margin in margins.items():
        regions.setdefault(canvas.around((*xy, *xy), margin), share)
    return regions


def list_candidates(
    shape_hw: tuple[int, int],
    prompt: FramePrompt,
    answers: Sequence[tuple[Region | None, float, FramePrediction]],
    *,
    all_parts: bool = False,
) -> list[Candidate]:
    """All masks that the network proposes for clicks; those that contradict one of them are left out.

    Args:
        shape_hw: of the frame.
        prompt: clicks, one of them inside.
        answers: region, its share, and what the network said there.
        all_parts: whether masks are proposed with all their parts, too: a click on one of many cells may mean all cells.
    """
    step, found = reduction(shape_hw), list[Candidate]()
    small_hw, points = (-(-shape_hw[0] // step), -(-shape_hw[1] // step)), prompt.points_xy / step
    inside, outside = points[prompt.labels == 1], pixels_of(points[prompt.labels == 0], small_hw)
    for number, (region, share, answer) in enumerate(answers):
        box = Region(0, 0, *small_hw) if region is None else _reduced(region, step)
        masks = to_frame(answer.candidates_BKhw[0, :MOST], small_hw, None if region is None else box)
        corners = (box.top, box.left, box.top + box.height, box.left + box.width)
        ious, presence = answer.candidate_iou_BK[0, :MOST].tolist(), float(answer.presence_B[0])
        for place, probability in enumerate(masks):
            whole = probability > 0.5
            part = _part_within(box, inside, whole)
            for mask in (part, whole) if all_parts and (part != whole).any() else (part,):
                if mask.any() and not any(mask[y, x] for x, y in outside):
                    found.append(Candidate(mask, probability, number, share, corners, place, ious, presence, mask is not part))
    return found


def _part_within(box: Region, inside_xy: NDArray[np.floating], mask_hw: MaskArray) -> MaskArray:
    """`part_under` the clicks, of a mask that lies in a box of the frame."""
    x, y = pixels_of(inside_xy, mask_hw.shape).T
    near = (y >= box.top) & (y < box.top + box.height) & (x >= box.left) & (x < box.left + box.width)
    part = np.zeros(mask_hw.shape, bool)
    places = np.stack([x[near] - box.left, y[near] - box.top], axis=1)
    part[box.rows, box.columns] = part_under(places, mask_hw[box.rows, box.columns])
    return part


def _reduced(region: Region, step: int) -> Region:
    top, left = region.top // step, region.left // step
    return Region(
        top, left, max(1, (region.top + region.height) // step - top), max(1, (region.left + region.width) // step - left)
    )


def compute_features(
    picture_hw: Floats, xy: tuple[float, float], candidates: Sequence[Candidate], *, in_set: bool = False
) -> Floats:
    """Features (N, F) of candidates.

    Args:
        picture_hw: greys in [0, 1], of the reduced frame.
        xy: the click, in its pixels.
        candidates: of it.
        in_set: whether the frame is an image of a set, where the click stands for all that is alike.
    """
    greys, agreement = _Greys.of(picture_hw, xy), _agreement(candidates)
    steady = {id(each.probability_hw): each for each in candidates}
    known = {key: _describe_probability(each) for key, each in steady.items()}
    shapes = map_on_cores(lambda each: _describe_mask(each, greys, known[id(each.probability_hw)]), candidates)
    scores = [
        (each.ious[each.place], sum(iou > each.ious[each.place] for iou in each.ious), each.presence / 20, np.log(each.share))
        for each in candidates
    ]
    places = [[*(each.place == place for place in range(MOST)), each.all_parts, in_set] for each in candidates]
    rows = [[*a, *b[:2], *c, *b[2:], *d] for a, b, c, d in zip(scores, shapes, agreement, places, strict=True)]
    return np.array(rows, np.float32).reshape(len(candidates), len(FEATURES))


def _agreement(candidates: Sequence[Candidate]) -> list[list[float]]:
    """Dice with the best of each other region, mean and largest; within the region; with larger regions, and smaller ones."""
    bits = np.stack([np.packbits(each.mask_hw) for each in candidates])
    sizes, regions = np.bitwise_count(bits).sum(1, dtype=int), np.array([each.region for each in candidates])
    both = np.stack([np.bitwise_count(bits & own).sum(1, dtype=int) for own in bits])
    dice = 2 * both / (sizes[:, None] + sizes)
    rows = []
    for number, own in enumerate(regions):
        best = {int(region): float(dice[number, regions == region].max()) for region in np.unique(regions)}
        others = [value for region, value in best.items() if region != own]
        beside = dice[number, (regions == own) & (np.arange(len(regions)) != number)]
        larger, smaller = ([value for region, value in best.items() if sign * (region - own) > 0] for sign in (-1, 1))
        rows.append(
            [
                float(np.mean(others or [0])),
                max(others, default=0.0),
                float(beside.mean()) if len(beside) else 0.0,
                max(larger, default=0.0),
                max(smaller, default=0.0),
            ]
        )
    return rows


@dataclass(frozen=True, eq=False)
class _Greys:
    """What all candidates of a click share."""

    picture_hw: Floats  # greys in [0, 1], of the reduced frame
    edge_hw: Floats  # their slope
    xy: tuple[int, int]  # pixel of the click
    spread: float  # of all greys
    slope: float  # mean of all edges

    @classmethod
    def of(cls, picture_hw: Floats, xy: tuple[float, float]) -> "_Greys":
        """A picture and a click, looked at once."""
        down, across = np.gradient(np.asarray(ndimage.gaussian_filter(picture_hw, 1.0)))
        edge = np.asarray(np.hypot(down, across), np.float32)
        ((x, y),) = pixels_of(np.array([xy]), picture_hw.shape).tolist()
        return cls(picture_hw, edge, (x, y), float(picture_hw.std()), float(edge.mean()))


def _describe_probability(each: Candidate) -> tuple[float, float]:
    """How steady a mask is, and the logarithm of how many parts it has and one more; nothing of it lies beyond its region."""
    top, left, bottom, right = each.box
    inside = each.probability_hw[top:bottom, left:right]
    _, parts = cast("tuple[NDArray[np.int32], int]", ndimage.label(inside > 0.5))
    return float((inside > 0.7).sum() / max(1, (inside > 0.3).sum())), float(np.log(parts + 1))


def _describe_mask(each: Candidate, greys: _Greys, known: tuple[float, float]) -> list[float]:
    """How large a mask is, how sharply the network saw it, where the click lies in it, how it looks."""
    mask, (x, y) = each.mask_hw, greys.xy
    left, top, right, bottom = (int(side) for side in box_of(mask))
    area = int(mask[top : bottom + 1, left : right + 1].sum())
    radius = np.sqrt(area / np.pi)
    pad = int(np.ceil(radius / 2)) + 3
    cut = slice(max(0, top - pad), bottom + pad + 1), slice(max(0, left - pad), right + pad + 1)
    own, grey = mask[cut], greys.picture_hw[cut]
    border, ring = own & ~_eroded(own), _ring(own, max(2.0, RING * radius))
    inside, around = grey[own], grey[ring] if ring.any() else grey[own]
    spread, slope = greys.spread + 1e-3, greys.edge_hw[cut][border].mean() / (greys.slope + 1e-4)
    rows, columns = np.nonzero(own)
    middle = rows.mean() + cut[0].start, columns.mean() + cut[1].start
    perimeter = int(border.sum())
    return [
        np.log(area / max(1, (each.box[2] - each.box[0]) * (each.box[3] - each.box[1]))),
        np.log(area / mask.size),
        known[0],
        float(each.probability_hw[cut][own].mean()),
        _depth(own, y - cut[0].start, x - cut[1].start) / radius,
        float(np.hypot(middle[0] - y, middle[1] - x)) / radius,
        _touched(mask, each.box),
        float(np.mean([mask[0].mean(), mask[-1].mean(), mask[:, 0].mean(), mask[:, -1].mean()])),
        abs(float(inside.mean() - around.mean())) / (np.sqrt((inside.var() + around.var()) / 2) + 0.02),
        float(inside.std() / spread),
        float(around.std() / spread),
        float(slope),
        known[1],
        _holes(own) / area,
        perimeter**2 / (4 * np.pi * area),
        area / ((bottom - top + 1) * (right - left + 1)),
        float(greys.picture_hw[y, x] - inside.mean()) / (inside.std() + 0.02),
    ]


def _eroded(mask: MaskArray) -> MaskArray:
    """The pixels all of whose eight neighbours are inside, too; beyond the frame nothing is."""
    framed = np.pad(mask, 1)
    across = framed[:, :-2] & framed[:, 1:-1] & framed[:, 2:]
    return across[:-2] & across[1:-1] & across[2:]


def _ring(mask: MaskArray, width: float) -> MaskArray:
    """What lies around a mask, so far from it at most."""
    if mask.all():
        return np.zeros(mask.shape, bool)
    return (np.asarray(ndimage.distance_transform_edt(~mask)) <= width) & ~mask


def _depth(mask: MaskArray, row: int, column: int) -> float:
    """How far the nearest pixel outside of a mask, or beyond the frame, lies from a pixel inside; 0 outside."""
    if not (0 <= row < mask.shape[0] and 0 <= column < mask.shape[1] and mask[row, column]):
        return 0.0
    rows, columns = np.nonzero(~np.pad(mask, 1))
    return float(np.sqrt(np.square(rows - row - 1) + np.square(columns - column - 1)).min())


def _holes(mask: MaskArray) -> int:
    """Pixels outside of a mask that it surrounds."""
    outside = ~np.pad(mask, 1)
    parts, _ = cast("tuple[NDArray[np.int32], int]", ndimage.label(outside))
    return int(outside.sum() - (parts == parts[0, 0]).sum())


def _touched(mask: MaskArray, box: tuple[int, int, int, int]) -> float:
    """Share of those sides of a region behind which the frame goes on that a mask covers."""
    top, left, bottom, right = box
    height, width = mask.shape
    part = mask[top:bottom, left:right]
    sides = ((top > 0, part[:1]), (bottom < height, part[-1:]), (left > 0, part[:, :1]), (right < width, part[:, -1:]))
    return float(np.mean([side.mean() if inner and side.size else 0.0 for inner, side in sides]))


@dataclass(frozen=True, eq=False)
class OutlineJudge:
    """Features (N, F) → predicted Dice (N,)."""

    # weight and bias of each, with a ReLU between two; several networks side by side, whose answers are averaged
    layers: Sequence[tuple[Floats, Floats]]

    @classmethod
    def beside(cls, weights: Path) -> "OutlineJudge | None":
        """The judge beside a file of weights, None where there is none; raises WeightsError if it is broken or outdated."""
        file = weights.with_name(JUDGE_FILE)
        if not file.is_file():
            return None
        tensors = {name: tensor.float().numpy() for name, tensor in read_tensors(file).items()}
        numbers = range(len(tensors) // 2)
        layers = [(tensors.get(f"{n}.weight"), tensors.get(f"{n}.bias")) for n in numbers]
        if not all(w is not None and b is not None and np.isfinite(w).all() and np.isfinite(b).all() for w, b in layers):
            raise WeightsError("it does not fit this version, or holds NaN", "fit the judge of clicks again", subject=file)
        sizes = [w.shape for w, _ in layers if w is not None]
        if not sizes or sizes[0][1:] != (len(FEATURES),) or any(len(size) != 2 for size in sizes):
            raise WeightsError("it does not fit this version", "fit the judge of clicks again", subject=file)
        return cls(cast("list[tuple[Floats, Floats]]", layers))

    def predict_dice(self, features_NF: Floats) -> Floats:
        """How good each candidate is."""
        x = features_NF
        for number, (weight, bias) in enumerate(self.layers):
            x = np.maximum(x, 0) if number else x
            x = x @ weight.T + bias
        return (1 / (1 + np.exp(-x))).mean(axis=1)

    def outline_click(
        self,
        canvas: Canvas,
        picture_hw: Floats,
        prompt: FramePrompt,
        propose: Propose,
        *,
        in_set: bool = False,
        rather_than: MaskArray | None = None,
    ) -> tuple[MaskArray, float] | None:
        """What clicks on a frame mean.

        Args:
            canvas: the frame.
            picture_hw: its greys in [0, 1], of the reduced frame (every `reduction`-th row and column).
            prompt: clicks, one of them inside; what it settles counts for masks that follow it, and is followed.
            propose: asks the network.
            in_set: whether the frame is an image of a set, where a click may mean all that is alike.
            rather_than: a mask (H, W) that is to be kept unless another one is clearly better.

        Returns:
            The mask (H, W) and its predicted IoU; None where the network proposes none that fits the clicks, or none that is
            clearly better than the one to be kept.
        """
        inside = prompt.points_xy[prompt.labels == 1]
        regions = click_regions(canvas, (float(inside[0, 0]), float(inside[0, 1])))
        said = map_on_cores(lambda region: propose(region, prompt), [*regions])
        answers = [(*asked, answer) for asked, answer in zip(regions.items(), said, strict=True)]
        candidates = list_candidates(canvas.shape_hw, prompt, answers, all_parts=in_set)
        if not candidates:
            return None
        x, y = (inside[0] / reduction(canvas.shape_hw)).tolist()
        worth = self.predict_dice(compute_features(picture_hw, (x, y), candidates, in_set=in_set))
        worth = worth * share_followed(prompt, candidates, reduction(canvas.shape_hw))
        if rather_than is not None and not _clearly_better(worth, candidates, rather_than):
            return None
        best = candidates[int(worth.argmax())]
        region, _, answer = answers[best.region]
        mask = to_frame(answer.candidates_BKhw[0, best.place][None], canvas.shape_hw, region)[0] > 0.5
        if not best.all_parts:
            mask = part_under(inside, mask)
        if prompt.settled_hw is not None:
            mask = (mask | (prompt.settled_hw > 0)) & (prompt.settled_hw >= 0)
        expected = float(worth.max())
        return (mask, expected / (2 - expected)) if mask.any() else None


def _clearly_better(worth: Floats, candidates: Sequence[Candidate], mask_hw: MaskArray) -> bool:
    """Whether one of the candidates is expected to be good, and far better than the one that is most like a mask (H, W)."""
    small = mask_hw[:: reduction(mask_hw.shape), :: reduction(mask_hw.shape)]
    like = int(np.argmax([dice_of(each.mask_hw, small) for each in candidates]))
    return bool(worth.max() >= GOOD and worth.max() - worth[like] >= AHEAD)


def share_followed(prompt: FramePrompt, candidates: Sequence[Candidate], step: int) -> Floats:
    """Share of what is settled on a frame that each candidate follows: of inside times of outside."""
    worth = np.ones(len(candidates), np.float32)
    for sign in (1, -1):
        settled = np.argwhere(prompt.settled_hw == sign) if prompt.settled_hw is not None else np.zeros((0, 2), int)
        if len(settled):
            rows, columns = settled.T // step
            worth *= [(each.mask_hw[rows, columns] == (sign > 0)).mean() for each in candidates]
    return worth

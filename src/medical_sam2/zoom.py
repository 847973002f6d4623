"""Which part of the frames the network is shown: a region around the object, found from its prompts, that grows with it.

A small object in a large slice is a few pixels at the network's resolution; shown by itself it fills the input. A click does
not say how large its object is: the network is asked on the whole frame and on a region around the click, on a smaller one too
where the object seems to be small, and the answer counts that it is sure of and that the others agree with. (nnInteractive,
Isensee et al., 2025, zooms out until the object fits.)

Shapes: H W frame.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medical_sam2.prompts import FramePrompt
from medical_sam2.region import BoxXyxy, Canvas, Region, around_all, box_of

MARGIN = 2.0  # side of a region over the longer side of its object
GROWTH = 1.6  # of a region that its object reaches the border of
ALIKE = 1.5  # regions whose common one is larger by less than this factor become one
SCALE = 0.31  # side of the region around a click, as a share of the frame's shorter side
NEAR = 0.1  # of a further one, for objects whose longer side is below this share of it:
SMALL = 0.13
AGREEMENT = 0.5  # weight of the mean Dice with the other answers beside the predicted IoU

Look = Callable[[Region | None, int, FramePrompt], tuple[NDArray[np.bool_], float]]
"""(region, t, prompt of frame t) → what the network, shown the region, takes the prompt for: a mask (H, W) of the whole frame,
and how sure it is of it, in [0, 1]."""


def object_box(canvas: Canvas, said: Mapping[int, FramePrompt], look: Look) -> BoxXyxy:
    """The box of an object as its prompts tell, or as the network takes its clicks.

    Args:
        canvas: the frames.
        said: frame → prompt of the object.
        look: asks the network.
    """
    boxes = [extent(prompt) for prompt in said.values()]
    if all(_drawn(prompt) is None for prompt in said.values()):
        t = next((t for t, prompt in said.items() if prompt.labels.any()), next(iter(said)))
        boxes.append(_hit(canvas, t, said[t], look))
    return around_all(boxes)


def extent(prompt: FramePrompt) -> BoxXyxy:
    """The box that holds all that a prompt speaks of."""
    drawn = _drawn(prompt)
    return around_all([*([] if drawn is None else [drawn]), *_places(prompt)])


def shown(canvas: Canvas, box: BoxXyxy, margin: float = MARGIN) -> Region | None:
    """The region with an object's box in its middle; None where it is nearly the whole frame."""
    return canvas.around(box, margin)


def grown(canvas: Canvas, region: Region) -> Region | None:
    """A larger region around one that its object has outgrown; None where that is nearly the whole frame."""
    return canvas.around((region.left, region.top, region.left + region.width - 1, region.top + region.height - 1), GROWTH)


def together(canvas: Canvas, boxes: Mapping[int, BoxXyxy]) -> list[tuple[Region | None, tuple[int, ...]]]:
    """Regions for some objects, one for those that are alike in size and place, with the objects in each."""
    lots: list[tuple[BoxXyxy, list[int]]] = []
    for name, box in boxes.items():
        for place, (common, labels) in enumerate(lots):
            joined = around_all([common, box])
            if _side(joined) <= ALIKE * min(_side(boxes[x]) for x in [*labels, name]):
                lots[place] = (joined, [*labels, name])
                break
        else:
            lots.append((box, [name]))
    regions: dict[Region | None, tuple[int, ...]] = {}
    for box, labels in lots:
        region = shown(canvas, box)
        regions[region] = (*regions.get(region, ()), *labels)
    return list(regions.items())


def _hit(canvas: Canvas, t: int, prompt: FramePrompt, look: Look) -> BoxXyxy:
    """The box of what a click hit: of several answers the one that is sure, and that the others agree with."""
    height, width = canvas.shape_hw
    clicked = around_all(_places(prompt))
    mm = min(height * canvas.pixel_hw[0], width * canvas.pixel_hw[1])
    answers: dict[Region | None, tuple[NDArray[np.bool_], float]] = {}

    def asked(regions: Iterable[Region | None]) -> NDArray[np.bool_]:
        for region in regions:
            if region not in answers:
                mask, sure = look(region, t, prompt)
                answers[region] = _part_under(prompt, mask), sure
        return _best([*answers.values()])

    def around(share: float) -> Region | None:
        return canvas.around(clicked, max(share * mm / (_side(clicked) * max(canvas.pixel_hw)), MARGIN))

    best = asked([None, around(SCALE)])
    if not best.any() or _side(box_of(best)) * max(canvas.pixel_hw) < SMALL * mm:
        best = asked([around(NEAR)])
    return box_of(best) if best.any() else (0.0, 0.0, width - 1.0, height - 1.0)


def _best(answers: Sequence[tuple[NDArray[np.bool_], float]]) -> NDArray[np.bool_]:
    """The mask that is sure, and that the others agree with."""
    masks = [mask for mask, _ in answers]
    worth = [sure + AGREEMENT * _agreement(mask, masks) if mask.any() else -1 for mask, sure in answers]
    return masks[int(np.argmax(worth))]


def _agreement(mask: NDArray[np.bool_], masks: Sequence[NDArray[np.bool_]]) -> float:
    """Mean Dice with the others."""
    size = int(mask.sum())
    return float(
        np.mean([2 * int((mask & other).sum()) / (size + int(other.sum())) for other in masks if other is not mask] or [0])
    )


def _part_under(prompt: FramePrompt, mask_hw: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What hangs together with a click inside; the whole mask where no click lies in it."""
    parts, _ = cast("tuple[NDArray[np.int32], int]", ndimage.label(mask_hw))
    inside = np.rint(prompt.points_xy[prompt.labels == 1]).astype(int)
    hit = {int(parts[y, x]) for x, y in inside if 0 <= y < parts.shape[0] and 0 <= x < parts.shape[1]} - {0}
    return np.isin(parts, list(hit)) if hit else mask_hw


def _drawn(prompt: FramePrompt) -> BoxXyxy | None:
    if prompt.mask_hw is not None and prompt.mask_hw.any():
        return box_of(prompt.mask_hw)
    if prompt.box_xyxy is None:
        return None
    x_low, y_low, x_high, y_high = (float(x) for x in prompt.box_xyxy)
    return x_low, y_low, x_high, y_high


def _places(prompt: FramePrompt) -> Sequence[BoxXyxy]:
    return [(float(x), float(y), float(x), float(y)) for x, y in prompt.points_xy]


def _side(box: BoxXyxy) -> float:
    x_low, y_low, x_high, y_high = box
    return max(x_high - x_low, y_high - y_low) + 1

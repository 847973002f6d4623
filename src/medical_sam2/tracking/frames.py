"""Between the user's pixels and the network's: the region of a frame that it is shown; slices in, prompts in, masks back.

A small object in a large slice is a few pixels at the network's resolution; shown by itself it fills the input: so it is shown
in a region, found from the prompts, that grows with it. A click does not say how large its object is: the network is asked on
the whole frame and on a region around the click, on a smaller one too where the object seems to be small, and the answer counts
that it is sure of and that the others agree with. (nnInteractive, Isensee et al., 2025, zooms out until the object fits.)

Shapes: T frames, H W frame in its own pixels, S side of the network's square input, h w its mask logits. Pixels are counted
from the frame's first one; a region lies inside its frame.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from medical_sam2.errors import PromptError
from medical_sam2.intensity_window import Window
from medical_sam2.model.device import map_on_cores
from medical_sam2.prompts import FramePrompt
from medical_sam2.views import View
from medical_sam2.volume import Volume, bounding_box

LEAST = 24  # pixels that a region has along each axis, where the frame has them
TOUCHED = 0.04  # share of a border that an object covers where it reaches it
WHOLE = 0.75  # share of the frame's sides from which on the whole frame is shown
BoxXyxy: TypeAlias = tuple[float, float, float, float]
"""x_low, y_low, x_high, y_high in pixels, inclusive."""
MARGIN = 2.0  # side of a region over the longer side of its object
GROWTH = 1.6  # of a region that its object reaches the border of
ALIKE = 1.5  # regions whose common one is larger by less than this factor become one
SCALE = 0.31  # side of the region around a click, as a share of the frame's shorter side
NEAR = 0.1  # of a further one, for objects whose longer side is below this share of it:
SMALL = 0.13
AGREEMENT = 0.5  # weight of the mean Dice with the other answers beside the predicted IoU
SURER = 0.08  # by how much the predicted IoU of a click must rise for another region than that of what is outlined elsewhere


@dataclass(frozen=True)
class Region:
    """Rows and columns of a frame."""

    top: int  # first row
    left: int  # first column
    height: int  # rows
    width: int  # columns

    @property
    def rows(self) -> slice:
        """Of the frame."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """Of the frame."""
        return slice(self.left, self.left + self.width)

    @property
    def shape_hw(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.height, self.width

    def touched(self, mask_hw: NDArray[np.bool_]) -> bool:
        """Whether an object in a frame (H, W) reaches a border of the region behind which the frame goes on."""
        height, width = mask_hw.shape
        visible, (down, right) = mask_hw[self.rows, self.columns], (self.top + self.height, self.left + self.width)
        edges = (
            (self.top > 0, visible[0]),
            (down < height, visible[-1]),
            (self.left > 0, visible[:, 0]),
            (right < width, visible[:, -1]),
        )
        return any(inner and edge.mean() > TOUCHED for inner, edge in edges)


@dataclass(frozen=True)
class Canvas:
    """A frame as far as regions care."""

    shape_hw: tuple[int, int]  # rows and columns
    pixel_hw: tuple[float, float] = (1.0, 1.0)  # height and width of a pixel in mm, or in any other unit

    def around(self, box_xyxy: BoxXyxy, margin: float) -> Region | None:
        """The region with a box in its middle, see `region_around`; None where it is nearly the whole frame."""
        region = region_around(box_xyxy, self.shape_hw, margin=margin, pixel_hw=self.pixel_hw)
        (height, width), (high, wide) = region.shape_hw, self.shape_hw
        return None if height >= WHOLE * high and width >= WHOLE * wide else region


AskNetwork = Callable[[Region | None, int, FramePrompt], tuple[NDArray[np.bool_], float]]
"""(region, t, prompt of frame t) → what the network, shown the region, takes the prompt for: a mask (H, W) of the whole frame,
and how sure it is of it, in [0, 1]."""


def region_around(
    box_xyxy: BoxXyxy,
    shape_hw: tuple[int, int],
    *,
    margin: float,
    pixel_hw: tuple[float, float] = (1.0, 1.0),
    offset_xy: tuple[float, float] = (0.0, 0.0),
) -> Region:
    """A region with a box in its middle, square in millimetres where the frame has room; it is moved, not cut, at a border.

    Args:
        box_xyxy: that lies in the middle.
        shape_hw: of the frame.
        margin: side of the region over the longer side of the box.
        pixel_hw: height and width of a pixel in mm.
        offset_xy: moves the middle, in sides of the region.
    """
    x_low, y_low, x_high, y_high = box_xyxy
    side_mm = margin * max((y_high - y_low + 1) * pixel_hw[0], (x_high - x_low + 1) * pixel_hw[1])
    middles = ((y_low + y_high + 1) / 2, (x_low + x_high + 1) / 2)
    spans = [
        _place_span(middle, side_mm / mm, offset, length)
        for middle, mm, offset, length in zip(middles, pixel_hw, reversed(offset_xy), shape_hw, strict=True)
    ]
    (top, height), (left, width) = spans
    return Region(top, left, height, width)


def cut_prompt(prompt: FramePrompt, region: Region) -> FramePrompt:
    """A prompt in pixels of the frame as one in pixels of a region that it lies in."""
    corner = np.array([region.left, region.top], np.float32)
    box, mask = prompt.box_xyxy, prompt.mask_hw
    return FramePrompt(
        (prompt.points_xy - corner).astype(np.float32),
        prompt.labels,
        box_xyxy=None if box is None else (box.reshape(2, 2) - corner).reshape(4).astype(np.float32),
        mask_hw=None if mask is None else mask[region.rows, region.columns],
        estimate=prompt.estimate,
    )


def box_of(mask_hw: NDArray[np.bool_]) -> BoxXyxy:
    """The tight box of a mask that is not empty."""
    rows, columns = bounding_box(mask_hw)
    if not rows.stop:
        raise IndexError("an empty mask has no box")
    return float(columns.start), float(rows.start), float(columns.stop - 1), float(rows.stop - 1)


def around_all(boxes: Iterable[BoxXyxy]) -> BoxXyxy:
    """The box that holds some boxes."""
    lows_x, lows_y, highs_x, highs_y = zip(*boxes, strict=True)
    return min(lows_x), min(lows_y), max(highs_x), max(highs_y)


def _place_span(middle: float, side: float, offset: float, length: int) -> tuple[int, int]:
    size = min(length, max(LEAST, round(side)))
    return round(min(max(middle + offset * size - size / 2, 0), length - size)), size


def object_box(canvas: Canvas, prompts: Mapping[int, FramePrompt], ask: AskNetwork) -> BoxXyxy:
    """The box of an object by its prompts (frame → prompt), and as the network takes its clicks."""
    boxes = [prompt_extent(prompt) for prompt in prompts.values()]
    if any(_drawn_box(prompt) is not None for prompt in prompts.values()):
        boxes += clicked_boxes(canvas, prompts, region_for(canvas, around_all(boxes)), ask)
    else:
        t = next((t for t, prompt in prompts.items() if prompt.labels.any()), next(iter(prompts)))
        clicked, _ = answer_clicks(canvas, t, prompts[t], ask)
        height, width = canvas.shape_hw
        boxes.append(box_of(clicked) if clicked.any() else (0.0, 0.0, width - 1.0, height - 1.0))
    return around_all(boxes)


def clicked_boxes(canvas: Canvas, prompts: Mapping[int, FramePrompt], region: Region | None, ask: AskNetwork) -> list[BoxXyxy]:
    """What the network takes clicks inside for on frames where nothing else was drawn, where another region makes it surer.

    An outline near the end of an object says little of how large it is where somebody clicks.
    """
    boxes = list[BoxXyxy]()
    for t, prompt in prompts.items():
        if prompt.labels.any() and _drawn_box(prompt) is None:
            mask, sure = answer_clicks(canvas, t, prompt, ask)
            if mask.any() and sure > ask(region, t, prompt)[1] + SURER:
                boxes.append(box_of(mask))
    return boxes


def prompt_extent(prompt: FramePrompt) -> BoxXyxy:
    """The box that holds all that a prompt is about."""
    drawn = _drawn_box(prompt)
    return around_all([*([] if drawn is None else [drawn]), *_click_boxes(prompt)])


def region_for(canvas: Canvas, box: BoxXyxy, margin: float = MARGIN) -> Region | None:
    """The region with an object's box in its middle; None where it is nearly the whole frame."""
    return canvas.around(box, margin)


def grow_region(canvas: Canvas, region: Region) -> Region | None:
    """A larger region around one that its object has outgrown; None where that is nearly the whole frame."""
    return canvas.around((region.left, region.top, region.left + region.width - 1, region.top + region.height - 1), GROWTH)


def group_regions(canvas: Canvas, boxes: Mapping[int, BoxXyxy]) -> list[tuple[Region | None, tuple[int, ...]]]:
    """Regions for some objects, one for those that are alike in size and place, with the objects in each."""
    lots: list[tuple[BoxXyxy, list[int]]] = []
    for name, box in boxes.items():
        for place, (common, labels) in enumerate(lots):
            joined = around_all([common, box])
            if _longer_side(joined) <= ALIKE * min(_longer_side(boxes[x]) for x in [*labels, name]):
                lots[place] = (joined, [*labels, name])
                break
        else:
            lots.append((box, [name]))
    regions: dict[Region | None, tuple[int, ...]] = {}
    for box, labels in lots:
        region = region_for(canvas, box)
        regions[region] = (*regions.get(region, ()), *labels)
    return list(regions.items())


def answer_clicks(canvas: Canvas, t: int, prompt: FramePrompt, ask: AskNetwork) -> tuple[NDArray[np.bool_], float]:
    """What clicks hit: of several regions' answers the one that is sure, and that the others agree with; and how sure it is."""
    height, width = canvas.shape_hw
    clicked = around_all(_click_boxes(prompt))
    mm = min(height * canvas.pixel_hw[0], width * canvas.pixel_hw[1])
    answers: dict[Region | None, tuple[NDArray[np.bool_], float]] = {}

    def asked(regions: Iterable[Region | None]) -> tuple[NDArray[np.bool_], float]:
        new = [region for region in dict.fromkeys(regions) if region not in answers]
        # the small ones here, the whole frame, which mostly was seen before, on another core: both take about as long
        found = [*reversed(map_on_cores(lambda region: ask(region, t, prompt), new[::-1]))]
        for region, (mask, sure) in zip(new, found, strict=True):
            answers[region] = part_under(prompt.points_xy[prompt.labels == 1], mask), sure
        return _most_agreed([*answers.values()])

    def around(share: float) -> Region | None:
        return canvas.around(clicked, max(share * mm / (_longer_side(clicked) * max(canvas.pixel_hw)), MARGIN))

    best, sure = asked([None, around(SCALE)])
    if not best.any() or _longer_side(box_of(best)) * max(canvas.pixel_hw) < SMALL * mm:
        return asked([around(NEAR)])
    return best, sure


def _most_agreed(answers: Sequence[tuple[NDArray[np.bool_], float]]) -> tuple[NDArray[np.bool_], float]:
    """The mask that is sure, and that the others agree with; and how sure it is."""
    masks = [mask for mask, _ in answers]
    worth = [sure + AGREEMENT * _agreement(mask, masks) if mask.any() else -1 for mask, sure in answers]
    return answers[int(np.argmax(worth))]


def _agreement(mask: NDArray[np.bool_], masks: Sequence[NDArray[np.bool_]]) -> float:
    """Mean Dice with the others."""
    size = int(mask.sum())
    return float(
        np.mean([2 * int((mask & other).sum()) / (size + int(other.sum())) for other in masks if other is not mask] or [0])
    )


def pixels_of(places_xy: NDArray[np.floating], shape_hw: tuple[int, ...]) -> NDArray[np.int_]:
    """The pixels (N, 2) of a frame that places (N, 2), x before y, lie in; the nearest ones of places outside."""
    return np.clip(np.rint(places_xy), 0, np.array(shape_hw[::-1]) - 1).astype(int)


def part_under(inside_xy: NDArray[np.floating], mask_hw: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What hangs together with a click inside; the whole mask where no click lies in it."""
    parts, _ = cast("tuple[NDArray[np.int32], int]", ndimage.label(mask_hw))
    hit = {int(parts[y, x]) for x, y in pixels_of(inside_xy, mask_hw.shape)} - {0}
    return np.any([parts == each for each in hit], axis=0) if hit else mask_hw  # a few: faster than `isin`


def _drawn_box(prompt: FramePrompt) -> BoxXyxy | None:
    if prompt.mask_hw is not None and prompt.mask_hw.any():
        return box_of(prompt.mask_hw)
    if prompt.box_xyxy is None:
        return None
    x_low, y_low, x_high, y_high = (float(x) for x in prompt.box_xyxy)
    return x_low, y_low, x_high, y_high


def _click_boxes(prompt: FramePrompt) -> Sequence[BoxXyxy]:
    return [(float(x), float(y), float(x), float(y)) for x, y in prompt.points_xy]


def _longer_side(box: BoxXyxy) -> float:
    x_low, y_low, x_high, y_high = box
    return max(x_high - x_low, y_high - y_low) + 1


def to_input(picture: NDArray[np.float32], size: int) -> Tensor:
    """A slice (H, W) or a picture (H, W, 3) in [0, 1] as network input (3, S, S): bicubic, antialiased, clipped to [0, 1]."""
    planes = torch.from_numpy(np.ascontiguousarray(np.atleast_3d(picture).transpose(2, 0, 1)))[None]
    resized = F.interpolate(planes, size=(size, size), mode="bicubic", align_corners=False, antialias=True)
    return resized[0].clamp(0, 1).expand(3, -1, -1)


def to_network(prompt: FramePrompt, shape_hw: tuple[int, int], size: int, region: Region | None = None) -> FramePrompt:
    """A prompt in a frame's own pixels as one in the network's; pixel centres lie at integers in both.

    Args:
        prompt: on the frame.
        shape_hw: of the frame.
        size: side of the network's input.
        region: that the network is shown, and that the prompt lies in; the whole frame unless given.

    Raises:
        PromptError: the outline has another size than the frame.
    """
    if prompt.mask_hw is not None and prompt.mask_hw.shape != shape_hw:
        raise PromptError(
            f"the mask has {prompt.mask_hw.shape} pixels, the image {shape_hw}", "give a mask of the image's size"
        )
    if region is not None:
        prompt, shape_hw = cut_prompt(prompt, region), region.shape_hw
    height, width = shape_hw
    scale = np.array([size / width, size / height], np.float32)
    box = prompt.box_xyxy
    if box is not None:
        # a box includes its outer pixels: its edges, not their centres, are what is scaled
        edges = box.reshape(2, 2) + np.array([[-0.5], [0.5]], np.float32)
        box = ((edges + 0.5) * scale - 0.5).reshape(4).astype(np.float32)
    return FramePrompt(
        ((prompt.points_xy + 0.5) * scale - 0.5).astype(np.float32),
        prompt.labels,
        box_xyxy=box,
        mask_hw=None if prompt.mask_hw is None else _resized(prompt.mask_hw, size),
        estimate=prompt.estimate,
    )


def _resized(mask_hw: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    mask = torch.from_numpy(np.ascontiguousarray(mask_hw, np.float32))[None, None]
    soft = F.interpolate(mask, size=(size, size), mode="bilinear", align_corners=False, antialias=True)[0, 0]
    hard = soft >= 0.5
    return (hard if hard.any() else soft >= soft.max()).numpy()  # a thin outline does not vanish


def to_frame(logits_Bhw: Tensor, shape_hw: tuple[int, int], region: Region | None = None) -> NDArray[np.float32]:
    """Probabilities (B, H, W) of a frame in its own pixels; 0 outside of the region, if that was all that was shown."""
    shown_hw = shape_hw if region is None else region.shape_hw
    resized = F.interpolate(logits_Bhw[:, None].float(), size=shown_hw, mode="bilinear", align_corners=False)[:, 0]
    inside = resized.sigmoid().cpu().numpy()
    if region is None:
        return inside
    frame = np.zeros((len(inside), *shape_hw), np.float32)
    frame[:, region.rows, region.columns] = inside
    return frame


@dataclass(frozen=True, eq=False)
class FrameStack:
    """A volume as the network sees it along one view: frames made as they are asked for."""

    volume: Volume  # the image
    view: View  # which way frames, rows and columns run
    window: Window  # of intensities
    size: int  # side of the network's input
    region: Region | None = None  # part of each frame that the network is shown; the whole of it where there is none

    @property
    def axes(self) -> str:
        """Directions of the volume's array axes."""
        return self.volume.orientation

    @property
    def shape_thw(self) -> tuple[int, int, int]:
        """Number of frames, rows, columns."""
        frames, height, width = (self.volume.shape[axis] for axis in self.view.order(self.axes))
        return frames, height, width

    @property
    def canvas(self) -> Canvas:
        """A whole frame as far as regions care."""
        _, high, wide = self.view.spacing(self.volume.spacing_mm, self.axes)
        return Canvas(self.shape_thw[1:], (high, wide))

    def picture(self, t: int, step: int = 1) -> NDArray[np.float32]:
        """Frame t (H, W), or its region, in [0, 1], as the network sees it; of every so many rows and columns one."""
        frame = self.view.apply(self.volume.array, self.axes)[t]
        shown = frame if self.region is None else frame[self.region.rows, self.region.columns]
        return self.window.for_network(shown[::step, ::step])

    def input(self, t: int) -> Tensor:
        """Frame t, or its region, as network input (3, S, S) in [0, 1]."""
        return to_input(self.picture(t), self.size)

    def slice_index(self, t: int) -> int:
        """Index of frame t along the array axis of the file."""
        frames = self.shape_thw[0]
        return frames - 1 - t if self.view.flipped(self.axes)[0] else t

    def to_network(self, prompt: FramePrompt) -> FramePrompt:
        """A prompt in this view's pixels as one in the network's."""
        return to_network(prompt, self.shape_thw[1:], self.size, self.region)

    def to_frame(self, logits_Bhw: Tensor) -> NDArray[np.float32]:
        """Probabilities (B, H, W) in this view's pixels; 0 outside of the region."""
        return to_frame(logits_Bhw, self.shape_thw[1:], self.region)


@dataclass(frozen=True)
class FrameDone:
    """Progress: one more frame was tracked."""

    done: int  # frames so far
    total: int  # frames that are planned, as far as it is planned
    view: str  # code of the view
    slice: int  # index along the array axis of the file
    objects: tuple[int, ...]  # labels tracked
    masks_bhw: NDArray[np.bool_]  # (B, H, W) bool, what was found, in the pixels of the view


@dataclass(eq=False)
class TrackingProgress:
    """How far the work is, over all objects."""

    on_frame: Callable[[FrameDone], None] | None = None  # called with each frame
    planned: int = 0  # frames, as far as it is planned
    done: int = 0  # frames

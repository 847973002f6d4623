"""What is to be outlined from one prompt, and how well it was: a structure of a volume, or of a set of images.

Shapes: I J K voxels in the order of the file, T slices of the view that is prompted, H W pixels of a slice or an image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import PromptError
from medical_sam2.metrics import dice
from medical_sam2.prompts import Box, FramePrompt, Mask, Point, Prompt
from medical_sam2.simulate import NOISE_LEVELS, Noise, jitter_box, jitter_click, jitter_mask, next_click
from medical_sam2.tracking.plan import array_axis, primary_view
from medical_sam2.tracking.region_of_interest import box_of
from medical_sam2.views import View
from medical_sam2.volume import Volume

Kind: TypeAlias = Literal["mask", "box", "click"]
MaskArray = NDArray[np.bool_]

PERFECT = NOISE_LEVELS["none"]
KINDS: tuple[Kind, ...] = ("mask", "box", "click")


@dataclass(frozen=True, eq=False)
class VolumeTask:
    """One structure of a volume, prompted on its largest slice in the plane of the finest pixels.

    Args:
        volume: the image.
        truth_ijk: (I, J, K) bool, in its grid.

    Raises:
        PromptError: the structure lies on fewer than two slices, or is a single row of pixels on the largest.
    """

    volume: Volume
    truth_ijk: MaskArray

    def __post_init__(self) -> None:
        if (self.truth_thw.any(axis=(1, 2))).sum() < 2:
            raise PromptError("the structure lies on fewer than two slices", "leave it out")
        check_box(self.truth_thw[self.start])

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
        """What the user says; the generator decides between equally good places for a click."""
        return self.in_volume(self.start, drawn(self.truth_thw[self.start], kind, rng))

    def in_volume(self, t: int, said: FramePrompt) -> Prompt:
        """An outline, a box or a click on a slice of the view, in voxels."""
        if said.mask_hw is not None:
            only = np.zeros(self.truth_ijk.shape, bool)
            self.view.apply(only, self.volume.orientation)[t] = said.mask_hw
            return Mask(only, axis=array_axis(self.volume, self.view))
        if said.box_xyxy is not None:
            x_low, y_low, x_high, y_high = (round(along) for along in said.box_xyxy.tolist())
            corners = np.array([self._voxel(t, y_low, x_low), self._voxel(t, y_high, x_high)])
            (i, j, k), (l, m, n) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()  # noqa: E741
            return Box((i, j, k), (l, m, n))
        x, y = (round(along) for along in said.points_xy[0].tolist())
        return Point(self._voxel(t, y, x))

    def frame_prompt(self, prompt: Prompt) -> FramePrompt:
        """The same in pixels of the prompted slice."""
        return prompt.project(self.view, self.volume.shape, self.volume.orientation)[self.start]

    def score(self, found_thw: MaskArray) -> float:
        """Dice over all slices but the prompted one, in [0, 1]."""
        others = np.arange(len(found_thw)) != self.start
        return dice(self.truth_thw[others], found_thw[others])

    def _voxel(self, t: int, row: int, column: int) -> tuple[int, int, int]:
        axes, index = self.volume.orientation, [0, 0, 0]
        for place, flip, along in zip(self.view.order(axes), self.view.flipped(axes), (t, row, column), strict=True):
            index[place] = self.volume.shape[place] - 1 - along if flip else along
        return index[0], index[1], index[2]


@dataclass(frozen=True, eq=False)
class SetTask:
    """One structure of a set of images, prompted on one of them.

    Args:
        images: (H, W) or (H, W, 3) each, of any size.
        truths: (H, W) bool each.
        template: the image that is prompted.

    Raises:
        PromptError: the template does not show the structure, or as a single row of pixels.
    """

    images: Sequence[NDArray[np.generic]]
    truths: Sequence[MaskArray]
    template: int

    def __post_init__(self) -> None:
        check_box(self.truths[self.template])

    def prompt(self, kind: Kind, rng: np.random.Generator) -> FramePrompt:
        """What the user says on the template."""
        return drawn(self.truths[self.template], kind, rng)

    def scores(self, found: Mapping[int, MaskArray]) -> dict[int, float]:
        """Dice of each image but the template; nan where the structure is neither there nor found."""
        return {i: dice(truth, found[i]) for i, truth in enumerate(self.truths) if i != self.template}


def drawn(truth_hw: MaskArray, kind: Kind, rng: np.random.Generator, hand: Noise = PERFECT) -> FramePrompt:
    """The outline, its tight box, or one click at the innermost point of its largest part; perfect, or of a careless hand."""
    if kind == "mask":
        return FramePrompt.mask(jitter_mask(truth_hw, hand, rng))
    if kind == "box":
        return FramePrompt.box(*jitter_box(truth_hw, hand, rng))
    click = next_click(truth_hw, np.zeros_like(truth_hw), rng)
    if click is None:
        raise PromptError("there is nothing to click on", "prompt a slice that shows the structure")
    return jitter_click(click, truth_hw, hand, rng).on_frame()


def check_box(truth_hw: MaskArray) -> None:
    """Refuse what no box can be drawn around."""
    if not truth_hw.any():
        raise PromptError("the structure is not on the prompted image", "prompt another one")
    x_low, y_low, x_high, y_high = box_of(truth_hw)
    if x_low == x_high or y_low == y_high:
        raise PromptError("the structure is a single row of pixels", "leave it out")

"""Between the user's pixels and the network's: slices in, prompts in, masks back.

Shapes: T frames, H W frame in its own pixels, S side of the network's square input, h w its mask logits.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from medical_sam2.errors import PromptError
from medical_sam2.intensity_window import Window
from medical_sam2.prompts import FramePrompt
from medical_sam2.tracking.region_of_interest import Canvas, Region, cut_prompt
from medical_sam2.views import View
from medical_sam2.volume import Volume


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
    """A volume as the network sees it along one view: frames made as they are asked for.

    Args:
        volume: the image.
        view: which way frames, rows and columns run.
        window: of intensities.
        size: side of the network's input.
        region: part of each frame that the network is shown; the whole of it where there is none.
    """

    volume: Volume
    view: View
    window: Window
    size: int
    region: Region | None = None

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

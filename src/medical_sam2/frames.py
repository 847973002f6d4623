"""Between the user's pixels and the network's: slices in, prompts in, masks back.

Shapes: T frames, H W frame in its own pixels, S side of the network's square input, h w its mask logits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from medical_sam2.errors import ConfigError, PromptError
from medical_sam2.prompts import FramePrompt
from medical_sam2.region import Canvas, Region
from medical_sam2.views import View
from medical_sam2.volume import CT_WINDOWS, Volume

SAMPLE = 2_000_000  # voxels that decide the intensity window


@dataclass(frozen=True)
class Window:
    """Intensities that become black and white.

    Args:
        low: becomes 0.
        high: becomes 1.
    """

    low: float
    high: float

    def apply(self, values: NDArray[np.generic]) -> NDArray[np.float32]:
        """Intensities in [0, 1]; what is not a number becomes 0."""
        scaled = (np.asarray(values, np.float32) - np.float32(self.low)) / np.float32(self.high - self.low)
        return np.clip(np.nan_to_num(scaled, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)


def choose_window(volume: Volume, name: str = "auto", *, inside: NDArray[np.generic] | None = None) -> Window:
    """The window that a volume is seen through.

    Args:
        volume: the image.
        name: "auto", "percentile" (0.5 to 99.5, METHOD §4), a CT window ("soft", "lung", "bone", "brain"), or "low,high".
        inside: intensities at the prompts; on a CT in Hounsfield units "auto" takes the window that shows them best.

    Raises:
        ConfigError: no such window.
    """
    told = named_window(name)
    if told is not None:
        return told
    if name == "auto" and in_hounsfield(volume.array, volume.modality):
        return hounsfield_window(inside)
    return percentile_window(volume.array)


def named_window(name: str) -> Window | None:
    """The window that a user named or gave in numbers; None for "auto" and "percentile", which depend on the image.

    Raises:
        ConfigError: no such window.
    """
    if name in CT_WINDOWS:
        return _levelled(name)
    if name in {"auto", "percentile"}:
        return None
    try:
        low, high = (float(part) for part in name.split(","))
    except ValueError:
        raise ConfigError(f"unknown window {name!r}", f"choose auto, percentile, {', '.join(CT_WINDOWS)} or LOW,HIGH") from None
    if not (isfinite(low) and isfinite(high) and low < high):
        raise ConfigError(f"window {name!r} is empty or endless", "give LOW,HIGH with LOW below HIGH")
    return Window(low, high)


def choose_windows(volume: Volume, name: str, inside: Mapping[int, NDArray[np.generic]]) -> dict[int, Window]:
    """The window of each object, by the intensities at its own prompts; see `choose_window`."""
    if name == "auto" and in_hounsfield(volume.array, volume.modality):
        return {label: hounsfield_window(values) for label, values in inside.items()}
    return dict.fromkeys(inside, choose_window(volume, name))


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


def percentile_window(array: NDArray[np.generic]) -> Window:
    """From the 0.5th to the 99.5th percentile of the finite values (of a regular sample of a large array)."""
    step = max(1, int(np.ceil((array.size / SAMPLE) ** (1 / array.ndim))))
    sample = np.asarray(array[(slice(None, None, step),) * array.ndim], np.float32).ravel()
    sample = sample[np.isfinite(sample)]
    low, high = (float(x) for x in np.percentile(sample, (0.5, 99.5))) if len(sample) else (0.0, 1.0)
    if high <= low:
        low, high = (float(sample.min()), float(sample.max())) if len(sample) else (0.0, 1.0)
    return Window(low, high if high > low else low + max(1.0, abs(low) / 1000))


def in_hounsfield(array: NDArray[np.generic], modality: str | None) -> bool:
    """Whether it is a CT in Hounsfield units; where the file does not say (NIfTI), air and bone do."""
    if modality not in {None, "CT"}:
        return False
    sample = array[:: max(1, array.shape[0] // 16)] if array.ndim == 3 and array.shape[2] > 1 else array
    low, high = float(sample.min()), float(sample.max())
    return low <= -200 if modality == "CT" else low <= -900 and high >= 200


def hounsfield_window(inside: NDArray[np.generic] | None) -> Window:
    """The window of a CT that shows these intensities best; that of soft tissue where there are none."""
    if inside is None or not inside.size:
        return _levelled("soft")
    middle = float(np.median(inside.astype(np.float32)))
    return _levelled("lung" if middle < -250 else "bone" if middle > 350 else "soft")


def _levelled(name: str) -> Window:
    level, width = CT_WINDOWS[name]
    return Window(level - width / 2, level + width / 2)


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
        prompt, shape_hw = _cut(prompt, region), region.shape_hw
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


def _cut(prompt: FramePrompt, region: Region) -> FramePrompt:
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

    def picture(self, t: int) -> NDArray[np.float32]:
        """Frame t (H, W), or its region, in [0, 1]."""
        frame = self.view.apply(self.volume.array, self.axes)[t]
        return self.window.apply(frame if self.region is None else frame[self.region.rows, self.region.columns])

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

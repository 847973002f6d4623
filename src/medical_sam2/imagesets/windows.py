"""Which intensities of an image of a set become black and white."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medical_sam2.frames import Window, hounsfield_window, in_hounsfield, intensities, named_window
from medical_sam2.prompts import FramePrompt

Modality = Callable[[int], str | None]


def unknown(_: int) -> str | None:
    """Of a picture nobody says what took it."""
    return None


@dataclass(frozen=True)
class SetWindows:
    """One window for all CT images in Hounsfield units, so that a tissue has one grey level; percentiles of each other image.

    Args:
        window: of those images; None where percentiles are wanted.
        everywhere: whether it is that of all grey images, as a user asked for.
        modality: of an image, as a DICOM code, where known.
    """

    window: Window | None
    everywhere: bool = False
    modality: Modality = unknown

    def of(self, i: int, image: NDArray[np.generic]) -> Window | None:
        """The window of image i, None where its own percentiles decide."""
        if self.window is None or not _grey(image):
            return None
        return self.window if self.everywhere or in_hounsfield(image, self.modality(i)) else None


AS_IT_IS = SetWindows(None)
"""The percentiles of each image."""


def choose_set_windows(
    images: Sequence[NDArray[np.generic]],
    prompts: Mapping[int, Mapping[int, FramePrompt]],
    name: str = "auto",
    modality: Modality = unknown,
) -> SetWindows:
    """The windows of a set: as the user says, or on CT images the one that shows what is prompted on them best.

    Args:
        images: (H, W) or (H, W, 3) each.
        prompts: image → object → prompt.
        name: see `frames.choose_window`.
        modality: of an image, as a DICOM code, where known.

    Raises:
        ConfigError: no such window.
    """
    told = named_window(name)
    if told is not None or name != "auto":
        return SetWindows(told, everywhere=told is not None, modality=modality)
    inside = [values for i in prompts if 0 <= i < len(images) for values in _pointed_at(images[i], prompts[i], modality(i))]
    return SetWindows(hounsfield_window(np.concatenate(inside) if inside else None), modality=modality)


def _pointed_at(
    image: NDArray[np.generic], said: Mapping[int, FramePrompt], modality: str | None
) -> Iterator[NDArray[np.float32]]:
    """Hounsfield units at the prompts of an image, as far as they fit it."""
    if _grey(image) and in_hounsfield(image, modality):
        flat = image.reshape(image.shape[:2])
        fit = (prompt for prompt in said.values() if prompt.mask_hw is None or prompt.mask_hw.shape == flat.shape)
        yield from (intensities(flat, prompt).astype(np.float32) for prompt in fit)


def _grey(image: NDArray[np.generic]) -> bool:
    return image.ndim in {2, 3} and image.shape[2:] in {(), (1,)} and image.size > 0

"""Which intensities of an image of a set become black and white."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medical_sam2.intensity_window import Window, hounsfield_window, in_hounsfield, named_window, percentile_window
from medical_sam2.prompts import FramePrompt, intensities

Modality = Callable[[int], str | None]


def unknown(_: int) -> str | None:
    """Of a picture nobody says what took it."""
    return None


@dataclass(frozen=True)
class SetWindows:
    """One window for all CT images in Hounsfield units, so that a tissue has one grey level; percentiles of each other image.

    Args:
        inside: intensities that are prompted on CT images.
        told: the window of all grey images, if a user asked for one.
        percentile: whether CT images are no exception.
        modality: of an image, as a DICOM code, where known.
    """

    inside: NDArray[np.generic]
    told: Window | None = None
    percentile: bool = False
    modality: Modality = unknown

    def of(self, i: int, image: NDArray[np.generic]) -> Window:
        """The window of image i, (H, W) or (H, W, 3)."""
        if _grey(image):
            if self.told is not None:
                return self.told
            modality = self.modality(i)
            if not self.percentile and in_hounsfield(image, modality):
                return hounsfield_window(self.inside, modality)
        return percentile_window(image)


AS_IT_IS = SetWindows(np.zeros(0), percentile=True)
"""The percentiles of each image."""


def choose_set_windows(
    images: Sequence[NDArray[np.generic]],
    prompts: Mapping[int, Mapping[int, FramePrompt]],
    name: str | Window = "auto",
    modality: Modality = unknown,
) -> SetWindows:
    """The windows of a set: as the user says, or on CT images the one that shows what is prompted on them best.

    Args:
        images: (H, W) or (H, W, 3) each.
        prompts: image → object → prompt.
        name: see `intensity_window.choose_window`.
        modality: of an image, as a DICOM code, where known.

    Raises:
        ConfigError: no such window.
    """
    told = named_window(name)
    if told is not None or name != "auto":
        return SetWindows(np.zeros(0), told, percentile=True)
    inside = [values for i in prompts if 0 <= i < len(images) for values in _pointed_at(images[i], prompts[i], modality(i))]
    return SetWindows(np.concatenate(inside) if inside else np.zeros(0), modality=modality)


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

"""Baselines that learn from the prompted frames alone: matching of prototypes on the same encoder, and classical methods.

Shapes: T slices of the prompted view, or images of a set; H W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medical_sam2.errors import PromptError
from medical_sam2.evaluate.methods.method import Asked, Found, Said, slices_of, window_of
from medical_sam2.evaluate.methods.prototypes import Prototypes, matching_features
from medical_sam2.evaluate.methods.without_memory import one_by_one
from medical_sam2.evaluate.tasks import MaskArray, VolumeTask
from medical_sam2.frames import to_input
from medical_sam2.intensity_window import percentile_window
from medical_sam2.region import Canvas, Region, around_all, box_of
from medical_sam2.zoom import MARGIN

Floats = NDArray[np.float32]
THUMBNAIL = 32  # pixels of the side of what two pictures are compared by


@dataclass(frozen=True)
class Prototypical:
    """Mean features of the prompted frames against those of every other frame, as PANet; of windows too, as ALPNet.

    What a box or a click means on its own frame is what the network, asked there, answers. The slices of a volume are seen
    in the region that tracking would begin with.

    Args:
        window: side of the windows of local prototypes, in cells of the feature map; None for global ones alone.
    """

    window: int | None = None

    def on_volume(self, asked: Asked, task: VolumeTask, said: Said) -> Found:
        """Slice by slice."""
        slices = window_of(task, said).apply(slices_of(task))
        outlines = outlines_of(asked, list(slices), said)
        _, high, wide = task.view.spacing(task.volume.spacing_mm, task.volume.orientation)
        canvas = Canvas((slices.shape[1], slices.shape[2]), (high, wide))
        region = canvas.around(around_all(box_of(mask) for mask in outlines.values()), MARGIN)
        return self._matched(asked, list(slices), outlines, region)

    def on_images(self, asked: Asked, images: Sequence[NDArray[np.generic]], said: Said) -> Found:
        """Image by image."""
        pictures = [percentile_window(image).apply(image) for image in images]
        return self._matched(asked, pictures, outlines_of(asked, images, said), None)

    @torch.inference_mode()
    def _matched(
        self, asked: Asked, pictures: Sequence[Floats], outlines: dict[int, MaskArray], region: Region | None
    ) -> Found:
        def seen(t: int) -> Tensor:
            shown = pictures[t] if region is None else pictures[t][region.rows, region.columns]
            with segmenter.computing():
                return matching_features(segmenter.encode(to_input(shown, segmenter.network.image_size)))

        segmenter = asked.segmenter
        cut = {t: mask if region is None else mask[region.rows, region.columns] for t, mask in outlines.items()}
        taught = [
            Prototypes.learnt(seen(t), torch.from_numpy(np.ascontiguousarray(mask)), window=self.window)
            for t, mask in cut.items()
        ]
        known = Prototypes.together(taught, mean=self.window is None)
        masks: list[MaskArray] = []
        for t, picture in enumerate(pictures):
            whole: MaskArray = np.zeros((picture.shape[0], picture.shape[1]), bool)
            place = Region(0, 0, picture.shape[0], picture.shape[1]) if region is None else region
            whole[place.rows, place.columns] = (known.likeness(seen(t), place.shape_hw) > 0.5).cpu().numpy()
            masks.append(outlines.get(t, whole))
        return Found(masks)


@dataclass(frozen=True)
class Classical:
    """A method of `classics` (the extra `evaluate`), from each prompted frame to those that are nearest to it.

    Nearest are neighbours in a volume, and in a set the picture that looks most alike.

    Args:
        name: of the method.
    """

    name: str

    def on_volume(self, asked: Asked, task: VolumeTask, said: Said) -> Found:
        """Each prompted slice answers for the slices around it."""
        from medical_sam2.evaluate.methods.classics import VOLUME_METHODS, outlined

        stack, told = window_of(task, said).apply(slices_of(task)), sorted(said)
        owner = np.abs(np.arange(len(stack))[:, None] - np.array(told)).argmin(axis=1)
        masks: list[MaskArray] = []
        for place, t in enumerate(told):
            own = np.flatnonzero(owner == place)
            answer = VOLUME_METHODS[self.name](stack[own], t - int(own[0]), outlined(stack[t], said[t]))
            masks += list(answer)
        return Found(masks)

    def on_images(self, asked: Asked, images: Sequence[NDArray[np.generic]], said: Said) -> Found:
        """Each template answers for the images that look like it."""
        from medical_sam2.evaluate.methods.classics import IMAGE_METHODS, OnImage, outlined

        pictures: list[Floats] = [percentile_window(image).apply(image) for image in images]
        outlines = {t: outlined(pictures[t], prompt) for t, prompt in said.items()}
        learnt: dict[int, OnImage] = {}
        alike = _alike(pictures)
        masks: list[MaskArray] = []
        for i, picture in enumerate(pictures):
            if i not in outlines:
                t = max(outlines, key=lambda t, i=i: alike(i, t))
                on = learnt.get(t) or learnt.setdefault(t, IMAGE_METHODS[self.name](pictures[t], outlines[t]))
                masks.append(on(picture))
            else:
                masks.append(outlines[i])
        return Found(masks)


def outlines_of(asked: Asked, frames: Sequence[NDArray[np.generic]], said: Said) -> dict[int, MaskArray]:
    """What the prompts mean on their own frames; frames on which that is nothing, or everything, teach nothing."""
    drawn = {t: prompt.mask_hw for t, prompt in said.items() if prompt.mask_hw is not None}
    rest = {t: prompt for t, prompt in said.items() if t not in drawn}
    found = drawn | one_by_one(asked.segmenter, frames, rest)
    useful = {t: mask for t, mask in sorted(found.items()) if mask.any() and not mask.all()}
    if not useful:
        raise PromptError("the network outlines nothing, or everything, at the prompts", "prompt with an outline")
    return useful


def _alike(pictures: Sequence[Floats]) -> Callable[[int, int], float]:
    """Correlation of small grey copies."""
    small: list[NDArray[np.float64]] = []
    for picture in pictures:
        plane = to_input(picture, THUMBNAIL).mean(0).numpy().astype(np.float64).ravel()
        plane -= plane.mean()
        small.append(plane / max(float(np.linalg.norm(plane)), 1e-9))
    return lambda i, j: float(small[i] @ small[j])

"""A baseline that learns from the prompted frames alone: matching of prototypes on the same encoder.

Shapes: T slices of the prompted view, or images of a set; H W pixels.
"""

from collections.abc import Sequence
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
from medical_sam2.intensity_window import percentile_window
from medical_sam2.tracking.frames import to_input
from medical_sam2.tracking.region_of_interest import MARGIN, Canvas, Region, around_all, box_of

Floats = NDArray[np.float32]


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


def outlines_of(asked: Asked, frames: Sequence[NDArray[np.generic]], said: Said) -> dict[int, MaskArray]:
    """What the prompts mean on their own frames; frames on which that is nothing, or everything, teach nothing."""
    drawn = {t: prompt.mask_hw for t, prompt in said.items() if prompt.mask_hw is not None}
    rest = {t: prompt for t, prompt in said.items() if t not in drawn}
    found = drawn | one_by_one(asked.segmenter, frames, rest)
    useful = {t: mask for t, mask in sorted(found.items()) if mask.any() and not mask.all()}
    if not useful:
        raise PromptError("the network outlines nothing, or everything, at the prompts", "prompt with an outline")
    return useful

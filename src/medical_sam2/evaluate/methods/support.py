"""A network that is told a task by a support set of outlined pictures, as UniverSeg: for those who have its code and weights.

    # mine.py; then: medsam2 evaluate --method mine.py:method …
    from universeg import universeg
    from medical_sam2.evaluate.methods.support import SupportSet

    method = SupportSet(universeg(pretrained=True))

Shapes: B tasks (1), K pictures of the support set, S side of the input.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from medical_sam2.evaluate.methods.baselines import outlines_of
from medical_sam2.evaluate.methods.method import Asked, Found, Said, slices_of, window_of
from medical_sam2.evaluate.tasks import MaskArray, VolumeTask
from medical_sam2.intensity_window import percentile_window
from medical_sam2.tracking.frames import to_input


@dataclass(frozen=True)
class SupportSet:
    """The prompted frames are the support set; every other frame is a target.

    Args:
        network: (target (1, 1, S, S) in [0, 1], pictures (1, K, 1, S, S), outlines (1, K, 1, S, S)) → logits (1, 1, S, S).
        size: S.
        most: K, at most; of more prompted frames, those at equal steps.
    """

    network: Callable[[Tensor, Tensor, Tensor], Tensor]
    size: int = 128
    most: int = 16

    def on_volume(self, asked: Asked, task: VolumeTask, said: Said) -> Found:
        """Slice by slice."""
        slices = list(window_of(task, said).apply(slices_of(task)))
        return self._found(slices, outlines_of(asked, slices, said))

    def on_images(self, asked: Asked, images: Sequence[NDArray[np.generic]], said: Said) -> Found:
        """Image by image."""
        pictures = [percentile_window(image).apply(image) for image in images]
        return self._found(pictures, outlines_of(asked, images, said))

    @torch.inference_mode()
    def _found(self, pictures: Sequence[NDArray[np.float32]], outlines: dict[int, MaskArray]) -> Found:
        told = [list(outlines)[i] for i in np.unique(np.linspace(0, len(outlines) - 1, self.most).round().astype(int))]
        seen_1K1SS = torch.stack([self._plane(pictures[t]) for t in told])[None]
        drawn_1K1SS = torch.stack([self._plane(outlines[t].astype(np.float32)) for t in told])[None].round()
        masks: list[MaskArray] = []
        for t, picture in enumerate(pictures):
            if t in outlines:
                masks.append(outlines[t])
                continue
            logits = self.network(self._plane(picture)[None], seen_1K1SS, drawn_1K1SS)
            whole = F.interpolate(logits.float(), size=picture.shape[:2], mode="bilinear", align_corners=False)
            masks.append((whole[0, 0] > 0).cpu().numpy())
        return Found(masks)

    def _plane(self, picture: NDArray[np.float32]) -> Tensor:
        return to_input(picture, self.size).mean(dim=0, keepdim=True)

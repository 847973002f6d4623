"""SAM, MedSAM and SAM 2's image mode for `medsam2 evaluate`, each frame by itself, the prompt repeated; they need transformers.

    medsam2 evaluate --data DATA -o OUT --method self-sorting --method benchmarks/sam_per_frame.py:MEDSAM

Weights come from the Hugging Face hub, or from a folder, in two lines of your own file: `from sam_per_frame import
SamPerFrame`, `MINE = SamPerFrame("folder")`. A slice that nobody prompted gets the prompt of the nearest one that was, as in
the paper's comparison; an image of a set that of the first template. An outline stands for its box, and stays as it is on
its own frame.

Shapes: T slices of the prompted view, or images of a set; H W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from medical_sam2.evaluate.cases import FramePrompts, MaskArray, VolumeTask
from medical_sam2.evaluate.methods.interface import MethodAnswer, MethodInputs
from medical_sam2.intensity_window import percentile_window
from medical_sam2.prompts import FramePrompt

Floats = NDArray[np.float32]
SEED = 20


@lru_cache(maxsize=1)
def loaded(weights: str) -> tuple[Any, Tensor, Tensor]:
    """Network of a folder or a hub id, with the mean and the deviation of its inputs; loaded once."""
    from transformers import AutoModelForMaskGeneration
    from transformers.image_processing_base import ImageProcessingMixin

    told, _ = ImageProcessingMixin.get_image_processor_dict(weights)
    mean, std = (torch.tensor(told[name])[:, None, None] for name in ("image_mean", "image_std"))
    return AutoModelForMaskGeneration.from_pretrained(weights).eval(), mean, std


@dataclass(frozen=True)
class SamPerFrame:
    """A network of the family of SAM on each frame.

    Args:
        weights: folder or hub id.
        jitters: of each box, whose answers are averaged, as SAM-U does; 1 takes the box as it is.
        amount: standard deviation of each edge of a jittered box, over the box's side.
    """

    weights: str
    jitters: int = 1
    amount: float = 0.05

    def on_volume(self, inputs: MethodInputs, task: VolumeTask, prompts: FramePrompts) -> MethodAnswer:
        """Slice by slice, each with the nearest prompt that shows the object."""
        telling = [t for t, prompt in prompts.items() if prompt.shows_object]
        slices = task.window(prompts).apply(task.slices_thw)
        nearest = [min(telling, key=lambda p, t=t: (abs(p - t), p)) for t in range(len(slices))]
        return self._answer(list(slices), prompts, nearest)

    def on_images(self, inputs: MethodInputs, images: Sequence[NDArray[np.generic]], prompts: FramePrompts) -> MethodAnswer:
        """Image by image; those without a prompt of their own with the first template's, at its place within the image."""
        pictures = [percentile_window(image).apply(image) for image in images]
        first = min(prompts)
        return self._answer(pictures, prompts, [i if i in prompts else first for i in range(len(images))])

    def _answer(self, pictures: Sequence[Floats], prompts: FramePrompts, source: Sequence[int]) -> MethodAnswer:
        masks: list[MaskArray] = []
        for t, picture in enumerate(pictures):
            drawn = prompts[t].mask_hw if t in prompts else None
            masks.append(
                self.outline(picture, moved(prompts[source[t]], pictures[source[t]], picture)) if drawn is None else drawn
            )
        return MethodAnswer(masks)

    def outline(self, picture: Floats, prompt: FramePrompt) -> MaskArray:
        """What the network finds on a picture (H, W) or (H, W, 3) in [0, 1]."""
        box, rng = box_of_prompt(prompt), np.random.default_rng(SEED)
        if box is None or self.jitters == 1:
            return probability(self.weights, picture, prompt, box) > 0.5
        side = np.tile(box[2:] - box[:2], 2)
        boxes = [box + rng.normal(0, self.amount, 4) * side for _ in range(self.jitters)]
        return np.mean([probability(self.weights, picture, prompt, each) for each in boxes], axis=0) > 0.5


def box_of_prompt(prompt: FramePrompt) -> NDArray[np.float64] | None:
    """Corners (x, y, x, y) of the box that a prompt gives, or that surrounds its outline."""
    if prompt.mask_hw is not None:
        rows, columns = np.flatnonzero(prompt.mask_hw.any(axis=1)), np.flatnonzero(prompt.mask_hw.any(axis=0))
        return np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float64)
    return None if prompt.box_xyxy is None else prompt.box_xyxy.astype(np.float64)


def moved(prompt: FramePrompt, from_picture: Floats, to_picture: Floats) -> FramePrompt:
    """The prompt of one picture at the same place of another, which may have another size."""
    (height, width), (high, wide) = from_picture.shape[:2], to_picture.shape[:2]
    scale, box = np.array([wide / width, high / height], np.float32), box_of_prompt(prompt)
    scaled = None if box is None else (box * np.tile(scale, 2)).astype(np.float32)
    return FramePrompt(prompt.points_xy * scale, prompt.labels, box_xyxy=scaled)


@torch.inference_mode()
def probability(weights: str, picture: Floats, prompt: FramePrompt, box: NDArray[np.float64] | None) -> Floats:
    """Probability (H, W) of the object: SAM sees the picture at its shape, padded to a square, SAM 2 stretched to one."""
    network, mean, std = loaded(weights)
    height, width = picture.shape[:2]
    side = int(network.config.prompt_encoder_config.image_size)
    padded = network.config.model_type == "sam"
    high, wide = (round(side * each / max(height, width)) for each in (height, width)) if padded else (side, side)
    planes = torch.from_numpy(np.ascontiguousarray(np.atleast_3d(picture).transpose(2, 0, 1))).expand(3, -1, -1)
    seen = F.interpolate(planes[None], size=(high, wide), mode="bilinear", align_corners=False, antialias=True)
    pixels = F.pad((seen - mean) / std, (0, side - wide, 0, side - high))
    scale = torch.tensor([wide / width, high / height])
    said: dict[str, Tensor] = (
        {} if box is None else {"input_boxes": (torch.from_numpy(box).float() * scale.repeat(2))[None, None]}
    )
    if len(prompt.points_xy):
        said["input_points"] = (torch.from_numpy(prompt.points_xy) * scale)[None, None]
        said["input_labels"] = torch.from_numpy(prompt.labels)[None, None]
    logits = network(pixel_values=pixels, multimask_output=False, **said).pred_masks.flatten(0, -3)[None, :1]
    square = F.interpolate(logits.float(), size=(side, side), mode="bilinear", align_corners=False)[..., :high, :wide]
    return F.interpolate(square, size=(height, width), mode="bilinear", align_corners=False)[0, 0].sigmoid().numpy()


SAM = SamPerFrame("facebook/sam-vit-base")
MEDSAM = SamPerFrame("wanglab/medsam-vit-base")
SAM_2 = SamPerFrame("facebook/sam2.1-hiera-tiny")
SAM_U = SamPerFrame("facebook/sam-vit-base", jitters=10)

"""What is tracked where speed is measured: random frames, boxes, and a Hiera network with random weights.

The time depends on neither. Shapes: T frames, S side of the network's square input, B objects, h w mask logits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medical_sam2.model.checkpoint_format import ENCODERS
from medical_sam2.model.image_encoders import initialise_weights
from medical_sam2.model.modules import HieraSizes, Sam2Config
from medical_sam2.model.sam2 import Sam2

PRESENT = 5.0  # bias of the object score: with it no object is judged absent, and logits can be compared
SIDE = 0.3  # of a box, of the frame
SIZES = {"tiny": (96, (1, 2, 7, 2)), "small": (96, (1, 2, 11, 2)), "large": (144, (2, 6, 36, 4))}
"""Channels of the first stage and blocks of each, of the official encoders."""

Steps = Iterator[Tensor]
"""Mask logits (B, h, w), frame by frame."""


@dataclass(frozen=True, eq=False)
class Scene:
    """Frames and what is pointed at.

    Args:
        frames_T3SS: in [0, 1].
        objects: B, each told by a box on the first frame.
    """

    frames_T3SS: Tensor
    objects: int

    @property
    def size(self) -> int:
        """Side S in pixels."""
        return self.frames_T3SS.shape[-1]

    @property
    def boxes(self) -> list[tuple[float, float, float, float]]:
        """One box for each object: x, y, x, y in pixels."""
        room = 1 - SIDE
        corners = ((room * (0.37 * b % 1), room * (0.61 * b % 1)) for b in range(1, self.objects + 1))
        return [(self.size * x, self.size * y, self.size * (x + SIDE), self.size * (y + SIDE)) for x, y in corners]


def scene(size: int, objects: int, frames: int) -> Scene:
    """Smooth random frames that drift."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(frames, 3, 16, 16, generator=generator)
    smooth = coarse[:1] + 0.1 * coarse
    resized = torch.nn.functional.interpolate(smooth, size=size, mode="bilinear")
    return Scene(resized / resized.max(), objects)


def network(encoder: str, size: int) -> Sam2:
    """SAM 2.1 with random weights; memories are rounded to bfloat16, as the official code and transformers do."""
    torch.manual_seed(0)
    made = Sam2(configuration(encoder, size), memory_dtype=torch.bfloat16)
    initialise_weights(made)
    head: Any = made.mask_decoder.pred_obj_score_head
    torch.nn.init.constant_(head.proj_out.bias, PRESENT)
    return made.eval()


def configuration(encoder: str, size: int) -> Sam2Config:
    """That of SAM 2.1 with one of the official encoders."""
    width, blocks = SIZES[encoder]
    widths = tuple(width << stage for stage in range(len(blocks)))
    return Sam2Config(size, HieraSizes(blocks, widths, ENCODERS[blocks]))

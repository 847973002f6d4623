"""Instructions as the prompt encoder takes them: points with their labels, and what can be decoded together."""

import numpy as np

from medical_sam2.model.backbone import Instruction
from medical_sam2.prompts import FramePrompt


def points(prompt: FramePrompt | None) -> tuple[np.ndarray, np.ndarray]:
    """Points (P, 2) and labels (P,): corners of a box first (2 and 3), then clicks (1 inside, 0 outside); −1 is no point."""
    if prompt is None or (prompt.box_xyxy is None and not len(prompt.points_xy)):
        return np.zeros((1, 2), np.float32), np.full(1, -1, np.int64)  # "not a point", as SAM 2 says nothing
    if prompt.box_xyxy is None:
        return prompt.points_xy, prompt.labels
    corners = prompt.box_xyxy.reshape(2, 2)
    return np.concatenate([corners, prompt.points_xy]), np.concatenate([[2, 3], prompt.labels])


def kind(instruction: Instruction | None) -> tuple[object, ...]:
    """What objects must agree in to be decoded together."""
    if instruction is None:
        return ("nothing",)
    prompt = instruction.prompt
    if prompt.mask_hw is not None and not len(prompt.points_xy):
        return ("mask",)
    bare = instruction.earlier_hw is None and prompt.mask_hw is None
    return ("points", len(prompt.points_xy), prompt.box_xyxy is not None, bare)

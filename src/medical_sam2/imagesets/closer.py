"""What a click or a box on an image means, looked at closely: the object fills the network's input, not a corner of it."""

import numpy as np
from numpy.typing import NDArray

from medical_sam2.frames import to_frame, to_network
from medical_sam2.imagesets.viewer import Viewer
from medical_sam2.model.backbone import Backbone, Instruction
from medical_sam2.prompts import FramePrompt
from medical_sam2.region import Canvas, Region
from medical_sam2.zoom import object_box, shown


def closer(backbone: Backbone, viewer: Viewer, index: int, prompt: FramePrompt) -> FramePrompt:
    """An outline in place of clicks or a box, where the object is small enough to be looked at closely.

    Args:
        backbone: the network.
        viewer: of the images.
        index: of the image.
        prompt: in pixels of the image.
    """
    if prompt.mask_hw is not None:
        return prompt
    shape_hw = viewer.shapes[index]

    def look(region: Region | None, t: int, said: FramePrompt) -> tuple[NDArray[np.bool_], float]:
        frame = viewer.features(t) if region is None else viewer.near(t, region)
        told = Instruction(to_network(said, shape_hw, viewer.size, region))
        answer = backbone.decode(frame, backbone.fuse(frame, [[]]), [told])
        return to_frame(answer.logits_Bhw, shape_hw, region)[0] > 0.5, float(answer.confidence_B[0])

    canvas = Canvas(shape_hw)
    region = shown(canvas, object_box(canvas, {index: prompt}, look))
    if region is None:
        return prompt
    mask, _ = look(region, index, prompt)
    return FramePrompt.mask(mask) if mask.any() else prompt

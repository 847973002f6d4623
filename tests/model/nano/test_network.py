"""The network that ships: what it decides in bfloat16 is what it decides in float32."""

import torch

from medical_sam2.model.backbone import Instruction
from medical_sam2.model.nano import nano
from medical_sam2.prompts import FramePrompt

SIDE = 64


@torch.no_grad()
def test_decisions_are_not_rounded() -> None:
    torch.manual_seed(0)
    network = nano(SIDE).eval()
    frame = network.encode(torch.rand(1, 3, SIDE, SIDE))
    told = [Instruction(FramePrompt.click(20, 30))]
    fused = network.fuse(frame, [[]])
    exact = network.decode(frame, fused, told)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = network.decode(frame, fused, told)
    assert torch.equal(exact.candidate_iou_BK, rounded.candidate_iou_BK)
    assert torch.equal(exact.presence_B, rounded.presence_B)
    assert (exact.logits_Bhw - rounded.logits_Bhw).abs().max() < 0.05

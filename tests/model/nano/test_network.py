"""The network that ships: what it decides in bfloat16 is what it decides in float32."""

import torch

from medical_sam2.model.backbone import Instruction, Wanted
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


@torch.no_grad()
def test_roughly_the_same_mask_is_taken_and_of_the_others_only_who_wants_them_gets_them_mended() -> None:
    torch.manual_seed(0)
    network = nano(SIDE).eval()
    for part in (network.mend, network.sharpen):
        part.last.weight.normal_(std=0.3)
    frame = network.encode(torch.rand(1, 3, SIDE, SIDE))
    fused, prompt = network.fuse(frame, [[]]), FramePrompt.click(30, 20)
    kinds: tuple[Wanted, ...] = ("rough", "answer", "every")
    rough, answer, every = (network.decode(frame, fused, [Instruction(prompt, wanted=kind)]) for kind in kinds)
    assert torch.equal(rough.candidate_iou_BK, answer.candidate_iou_BK)
    assert torch.allclose(answer.logits_Bhw, every.logits_Bhw, atol=1e-4)
    assert not torch.allclose(rough.logits_Bhw, answer.logits_Bhw, atol=1e-2)
    others = [k for k in range(3) if k != int(answer.candidate_iou_BK.argmax())]
    assert torch.equal(rough.candidates_BKhw[0, others], answer.candidates_BKhw[0, others])
    assert not torch.allclose(answer.candidates_BKhw[0, others], every.candidates_BKhw[0, others], atol=1e-2)

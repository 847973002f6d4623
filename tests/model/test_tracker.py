"""The loop: objects in lock step are objects alone, corrections, and gradients through eight frames."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from medical_sam2.model.backbone import FramePrediction
from medical_sam2.model.memory_bank import POLICIES, PolicyBank, SelfSorting
from medical_sam2.model.nano import nano
from medical_sam2.model.sam2 import Sam2
from medical_sam2.model.tracker import track, upsample
from medical_sam2.prompts import Fixed, FramePrompt, Prompter
from tests.model.conftest import SIZE, tiny

CLOSE = 1e-5
UNUSED = {"no_memory_positional_encoding"}  # the official code holds it and does not use it either
IF_ABSENT = {"no_object_pointer", "occlusion_spatial_embedding_parameter"}
WITHOUT_PROMPT = {  # the single mask; three are proposed where nobody prompts
    f"mask_decoder.output_hypernetworks_mlps.0.{layer}.{kind}"
    for layer in ("proj_in", "layers.0", "proj_out")
    for kind in ("weight", "bias")
}


def square() -> NDArray[np.bool_]:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[20:40, 10:30] = True
    return mask


KINDS: dict[str, FramePrompt] = {
    "click": FramePrompt.click(20, 30),
    "clicks": FramePrompt.click(20, 30) | FramePrompt.click(50, 8, positive=False),
    "box": FramePrompt.box(10, 20, 29, 39),
    "box and click": FramePrompt.box(10, 20, 29, 39) | FramePrompt.click(20, 30),
    "mask": FramePrompt.mask(square()),
    "mask and click": FramePrompt.mask(square()) | FramePrompt.click(50, 8, positive=False),
}


class Teacher:
    """Opens with a prompt, then corrects the first answers to each frame that it likes to correct."""

    def __init__(self, opening: FramePrompt, corrected: Sequence[int] = (), patience: int = 1) -> None:
        self.opening, self.corrected, self.patience = opening, corrected, patience
        self.asked: list[int] = []

    def corrects(self, t: int) -> bool:
        return True

    def __call__(self, t: int, predicted: NDArray[np.bool_] | None) -> FramePrompt | None:
        if predicted is None:
            return self.opening if t == 0 else None
        assert predicted.shape == (SIZE, SIZE)
        self.asked.append(t)
        return FramePrompt.click(5 + t, 40) if t in self.corrected and self.asked.count(t) <= self.patience else None


def run(
    network: Sam2, frames: Tensor, prompters: Sequence[Prompter], policy: str = "self-sorting"
) -> tuple[list[FramePrediction], PolicyBank]:
    bank = PolicyBank(POLICIES[policy])
    features = [network.encode(frame[None]) for frame in frames]
    return [p for _, p in track(network, features.__getitem__, range(len(frames)), prompters, bank)], bank


def same(together: list[FramePrediction], b: int, alone: list[FramePrediction]) -> None:
    for many, one in zip(together, alone, strict=True):
        for name in ("logits_Bhw", "iou_B", "presence_B", "pointer_BC"):
            assert (getattr(many, name)[b] - getattr(one, name)[0]).abs().max() < CLOSE, name


@pytest.mark.parametrize("policy", POLICIES)
def test_objects_together_are_objects_alone(network: Sam2, frames: Tensor, policy: str) -> None:
    together, _ = run(network, frames, [Fixed({0: prompt}) for prompt in KINDS.values()], policy)
    for b, prompt in enumerate(KINDS.values()):
        alone, _ = run(network, frames, [Fixed({0: prompt})], policy)
        same(together, b, alone)


def test_banks_of_different_size_and_content(network: Sam2, frames: Tensor) -> None:
    """One object is prompted again and again, one is corrected, one is left alone."""

    def prompters() -> list[Prompter]:
        often = Fixed({0: KINDS["box"], 2: KINDS["mask"], 4: KINDS["clicks"], 5: KINDS["mask and click"]})
        return [often, Teacher(KINDS["click"], corrected=(0, 3)), Fixed({0: KINDS["mask"]})]

    together, bank = run(network, frames, prompters(), "fifo")
    prompted = [[m.t for m in memories if m.prompted] for memories in bank.memories]
    assert [sorted(each) for each in prompted] == [[0, 2, 4, 5], [0, 3], [0]]
    for b in range(3):
        alone, _ = run(network, frames, [prompters()[b]], "fifo")
        same(together, b, alone)


def test_clips_in_lock_step(network: Sam2, frames: Tensor) -> None:
    """B clips with frames of their own, as in training."""
    clips = [frames, frames.flip(3)]
    bank = PolicyBank(SelfSorting)
    features = [network.encode(torch.stack([clip[t] for clip in clips])) for t in range(len(frames))]
    prompters = [Fixed({0: KINDS["box"]}), Fixed({0: KINDS["mask"]})]
    together = [p for _, p in track(network, features.__getitem__, range(len(frames)), prompters, bank)]
    for b, (clip, prompter) in enumerate(zip(clips, prompters, strict=True)):
        alone, _ = run(network, clip, [prompter])
        same(together, b, alone)


def test_a_prompted_frame_sees_no_memory(network: Sam2, frames: Tensor) -> None:
    prompters = [Fixed({0: KINDS["box"], 3: KINDS["click"]})]
    after, _ = run(network, frames[:4], prompters)
    alone, _ = run(network, frames[3:4], [Fixed({0: KINDS["click"]})])
    assert (after[3].logits_Bhw - alone[0].logits_Bhw).abs().max() < CLOSE


def test_a_corrected_frame_sees_memory_and_its_earlier_answer(network: Sam2, frames: Tensor) -> None:
    corrected, bank = run(network, frames[:4], [Teacher(KINDS["box"], corrected=(3,))])
    plain, _ = run(network, frames[:4], [Fixed({0: KINDS["box"]})])
    prompted, _ = run(network, frames[:4], [Fixed({0: KINDS["box"], 3: FramePrompt.click(8, 40)})])
    assert (corrected[2].logits_Bhw - plain[2].logits_Bhw).abs().max() == 0
    for other in (plain, prompted):
        assert (corrected[3].logits_Bhw - other[3].logits_Bhw).abs().max() > 1e-3
    assert [m.t for m in bank.memories[0] if m.prompted] == [0, 3]


def test_a_prompter_is_asked_until_it_is_content(network: Sam2, frames: Tensor) -> None:
    patient, content = Teacher(KINDS["box"], corrected=(1,), patience=3), Teacher(KINDS["box"])
    run(network, frames[:2], [patient, content])
    assert patient.asked == [0, 1, 1, 1, 1]
    assert content.asked == [0, 1]


def test_an_object_that_nobody_has_named_yet_disturbs_no_other(network: Sam2, frames: Tensor) -> None:
    together, _ = run(network, frames[:3], [Fixed({0: KINDS["box"]}), Fixed({2: KINDS["mask"]})])
    alone, _ = run(network, frames[:3], [Fixed({0: KINDS["box"]})])
    same(together, 0, alone)
    own, _ = run(network, frames[2:3], [Fixed({0: KINDS["mask"]})])
    same(together[2:], 1, own)


def test_gradients_of_the_last_of_eight_frames_reach_every_part(frames: Tensor) -> None:
    network = tiny().requires_grad_(True)
    answers, _ = run(network, frames, [Fixed({0: KINDS[kind]}) for kind in ("box", "mask", "mask and click")], "fifo")
    assert silent(network, answers[-1]) == UNUSED | WITHOUT_PROMPT | IF_ABSENT


def test_gradients_of_a_frame_where_the_object_is_absent(frames: Tensor) -> None:
    network = tiny().requires_grad_(True)
    torch.nn.init.constant_(network.mask_decoder.pred_obj_score_head.proj_out.bias, -50.0)
    answers, bank = run(network, frames[:2], [Fixed({0: KINDS["box"]})], "fifo")
    assert not silent(network, answers[-1]) & IF_ABSENT
    assert [m.confidence for m in bank.memories[0]] == [0, 0]


def test_gradients_of_a_box_reach_the_single_mask(frames: Tensor) -> None:
    network = tiny().requires_grad_(True).train()
    answers, _ = run(network, frames[:1], [Fixed({0: KINDS["box"]})])
    assert not silent(network, answers[0]) & WITHOUT_PROMPT


def silent(network: Sam2, answer: FramePrediction) -> set[str]:
    """Parameters that no gradient of a loss on this answer reaches."""
    (answer.candidates_BKhw.square().mean() + answer.candidate_iou_BK.sum() + answer.presence_B.sum()).backward()
    return {name for name, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()}


def test_a_memory_holds_its_own_numbers_only(frames: Tensor) -> None:
    """Objects keep different frames: what one keeps must not hold what the others forgot."""
    network = nano(SIZE).eval().requires_grad_(False)
    _, bank = run(network, frames[:2], [Fixed({0: KINDS[kind]}) for kind in ("box", "mask", "click")], "fifo")
    kept = [m for memories in bank.memories for m in memories]
    assert len(kept) == 6
    for m in kept:
        for part in (m.map_Chw, m.pointer_C, m.summary_C, *m.own.values()):
            assert part.untyped_storage().nbytes() == part.numel() * part.element_size()


def test_upsampling_is_bilinear() -> None:
    assert upsample(torch.tensor([[[0.0, 1.0]]]), (1, 4)).tolist() == [[[0.0, 0.25, 0.75, 1.0]]]

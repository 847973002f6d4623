"""The paper's loop: one generator that recalls, fuses, decodes and remembers, frame by frame."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias, TypeVar

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from medical_sam2.model.backbone import Backbone, Features, FramePrediction, Fused, Instruction, Memory, Recall, gather
from medical_sam2.model.memory_bank import MemoryBank
from medical_sam2.prompts import FramePrompt, Prompter

Time = TypeVar("Time", bound=int)
"""A whole number that says when a frame is seen; one of a kind of its own is handed back as it is."""
Superseded: TypeAlias = Callable[[int, Sequence[int], FramePrediction], None]
"""Called with the answers on a frame that prompters corrected afterwards: frame, which objects, what was answered."""


def track(
    backbone: Backbone,
    features: Callable[[Time], Features],
    order: Iterable[Time],
    prompters: Sequence[Prompter],
    bank: MemoryBank,
    *,
    superseded: Superseded | None = None,
    present: Callable[[Time], Sequence[bool]] | None = None,
    on_fused: Callable[[Time], None] = lambda _: None,
    kept: Callable[[Time], bool] = lambda _: True,
) -> Iterator[tuple[Time, FramePrediction]]:
    """Follow B objects through frames, visited in any order; differentiable.

    A frame prompted before it is tracked sees no memory; a correction of a tracked frame does, and gets its earlier logits.

    Args:
        features: frame index → what the encoder saw there (B = 1 where objects share frames, else B).
        order: frame indices in the order in which they are visited; a prompted frame comes first.
        prompters: who prompts each object, in pixels of the network's input.
        bank: memory of all objects, the only state.
        superseded: called with each answer that was corrected on the same frame.
        present: frame index → which objects are known to be on it, whatever the network says of that.
        on_fused: called with each frame before it is decoded.
        kept: frame index → whether it is remembered; what nobody will ask for need not be.

    Yields:
        (t, prediction) for each visited frame.
    """
    for t in order:
        frame = features(t)
        prompts = [prompter(t, None) for prompter in prompters]
        fused = backbone.fuse(frame, _recall(bank, t, frame, prompts))
        on_fused(t)
        instructions = [None if prompt is None else Instruction(prompt) for prompt in prompts]
        prediction = backbone.decode(frame, fused, instructions)
        prediction = prediction if present is None else prediction.assume_present(present(t))
        prompts, prediction = _correct(backbone, frame, fused, (t, prompters, prompts), prediction, superseded)
        if kept(t):
            bank.store(_memorise(backbone, frame, prediction, t, prompts))
        yield t, prediction


def _recall(bank: MemoryBank, t: int, frame: Features, prompts: Sequence[FramePrompt | None]) -> Recall:
    if all(prompts):
        return [[] for _ in prompts]
    recall = bank.recall(t, frame.summary_BC) or [[] for _ in prompts]
    return [[] if prompt else memories for prompt, memories in zip(prompts, recall, strict=True)]


def _memorise(
    backbone: Backbone, frame: Features, prediction: FramePrediction, t: int, prompts: Sequence[FramePrompt | None]
) -> list[Memory]:
    """Memories of a frame: of prompts, of answers, and of estimates with the confidence that they came with."""
    prompted = [prompt is not None and prompt.estimate is None for prompt in prompts]
    memories = backbone.memorise(frame, prediction, t, prompted)
    estimated = [None if prompt is None else prompt.estimate for prompt in prompts]
    return [m if c is None else replace(m, confidence=c) for m, c in zip(memories, estimated, strict=True)]


def _correct(
    backbone: Backbone,
    frame: Features,
    fused: Fused,
    scene: tuple[int, Sequence[Prompter], list[FramePrompt | None]],
    prediction: FramePrediction,
    superseded: Superseded | None,
) -> tuple[list[FramePrompt | None], FramePrediction]:
    """Let the prompters see the prediction and prompt again, until all are content."""
    # prompters are content at different times: those that still correct are decoded by themselves, and put back in place
    t, prompters, prompts = scene
    opened = [prompt is not None for prompt in prompts]
    waiting = [b for b, prompter in enumerate(prompters) if prompter.corrects(t)]
    while waiting:
        masks = upsample(prediction.logits_Bhw[waiting].detach(), backbone.image_size) > 0
        answers = [prompters[b](t, mask.cpu().numpy()) for b, mask in zip(waiting, masks, strict=True)]
        waiting = [b for b, more in zip(waiting, answers, strict=True) if more is not None]
        if not waiting:
            break
        if superseded is not None:
            superseded(t, waiting, prediction.select(waiting))
        corrections = []
        for b, more in zip(waiting, (more for more in answers if more is not None), strict=True):
            earlier = prompts[b]
            prompts[b] = more if earlier is None else earlier | more
            corrections.append(Instruction(prompts[b] or more, prediction.logits_Bhw[b].clamp(-32, 32), opened[b]))
        corrected = backbone.decode(frame.select(waiting), fused.select(waiting), corrections)
        rest = [b for b in range(len(prompters)) if b not in waiting]
        prediction = gather([corrected, prediction.select(rest)], [waiting, rest]) if rest else corrected
    return prompts, prediction


def upsample(logits_Bhw: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Logits at another size, bilinear, as SAM 2 brings masks to the input's size."""
    size = (size, size) if isinstance(size, int) else size
    return F.interpolate(logits_Bhw[:, None].float(), size=size, mode="bilinear", align_corners=False)[:, 0]


def fit_square(mask_B1hw: Tensor, side: int) -> Tensor:
    """A mask or its logits as a square of that side, antialiased."""
    if tuple(mask_B1hw.shape[-2:]) == (side, side):
        return mask_B1hw
    return F.interpolate(mask_B1hw.float(), size=(side, side), mode="bilinear", align_corners=False, antialias=True)

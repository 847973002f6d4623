"""Adaptation to the prompt: a few seconds of training on augmented copies of what the user outlined, undone afterwards.

The outlined frame is remembered as it is; copies of it, moved and recoloured, are tracked, and the masks that are known there
teach the decoder what this structure looks like in this image. The image encoder stays as it is. (Fine-tuning on the first
frame is what OSVOS, Caelles et al., 2017, did for video.)

Shapes: O objects, T frames, S network size.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medical_sam2.data.clips import Augmentation, AugmentationOdds, Clip
from medical_sam2.model.backbone import Backbone
from medical_sam2.model.memory_bank import SelfSorting
from medical_sam2.model.sam2 import Sam2
from medical_sam2.prompts import Mask, Prompt
from medical_sam2.tracking.cropping import Crop
from medical_sam2.tracking.frames import FrameStack, around_all, group_regions, prompt_extent
from medical_sam2.tracking.plan import by_window, grouped
from medical_sam2.train.config import LossWeights, Phase, Recipe
from medical_sam2.train.train_step import Batch, StepPlan, TrainStep
from medical_sam2.volume import Volume

TUNED = ("mend.", "sharpen.", "neighbour.", "regression.", "mask_decoder.", "carry.", "memory_attention.", "memory_encoder.")
KEPT = ("mask_decoder.conv_s", "carry.first", "carry.second", "mask_decoder.pred_obj_score_head")
"""What makes features, so that kept ones stay valid; and the head that judges presence, of which one frame says nothing."""
COPIES = AugmentationOdds(
    rotation=0.7, scaling=0.7, noise=0.3, blur=0.2, intensity=0.3, low_resolution=0.1, gamma=0.5, flip=0.0
)
SHIFT = 0.15  # of a copy, in halves of the frame
FRAMES, CLIPS = 3, 2


@dataclass(frozen=True, eq=False)
class OutlinedFrame:
    """A frame as the network sees it, with what the user outlined."""

    picture_3SS: Tensor  # in [0, 1]
    masks_OSS: NDArray[np.bool_]  # bool

    def clip(self, rng: np.random.Generator) -> Clip:
        """The frame itself, then copies of it."""
        size = self.picture_3SS.shape[-1]
        pictures, masks = self.picture_3SS[None], torch.from_numpy(self.masks_OSS).float()[:, None]
        frames, truths = [pictures], [masks]
        for _ in range(FRAMES - 1):
            drawn = Augmentation.draw(rng, COPIES)
            drawn = replace(drawn, shift=(float(rng.uniform(-SHIFT, SHIFT)), float(rng.uniform(-SHIFT, SHIFT))))
            frames.append(drawn.recolour(drawn.warp(pictures, size)))
            truths.append(drawn.warp(masks, size, nearest=True))
        truth_OTSS = torch.stack([truth[:, 0] > 0.5 for truth in truths], 1)
        return Clip(torch.cat(frames), truth_OTSS.any(0).to(torch.uint8), truth_OTSS)


def examples_of_volume(
    network: Sam2, volume: Volume, prompts: Sequence[Prompt], *, window: str = "auto"
) -> list[OutlinedFrame]:
    """The outlined slices of a volume, in the regions that tracking shows; clicks and boxes are left out.

    Args:
        window: see `intensity_window.choose_window`.
    """
    # Grouped as tracking groups them (windows, views, regions), so that the network learns from what it will see.
    examples: list[OutlinedFrame] = []
    masks = [prompt for prompt in prompts if isinstance(prompt, Mask)]
    crop = Crop.to_content(volume, prompts)
    shown, masks = crop.volume, [crop.prompt(mask) for mask in masks]
    for shown_window, groups in by_window(shown, grouped(shown, masks), window).items() if masks else ():
        for group in groups:
            whole = FrameStack(shown, group.view, shown_window, network.image_size)
            boxes = {
                label: around_all(prompt_extent(one) for one in by_frame.values()) for label, by_frame in group.prompts.items()
            }
            for region, labels in group_regions(whole.canvas, boxes):
                stack, given = replace(whole, region=region), [group.prompts[label] for label in labels]
                for t in sorted({t for by_frame in given for t in by_frame}):
                    shown_here = (stack.to_network(by_frame[t]).mask_hw for by_frame in given if t in by_frame)
                    drawn = np.stack([mask_hw for mask_hw in shown_here if mask_hw is not None])
                    examples.append(OutlinedFrame(stack.input(t), drawn))
    return examples


def warn_without_outlines(prompts: Sequence[Prompt], seconds: float) -> list[str]:
    """A line where tuning is asked for and nothing is outlined."""
    if seconds <= 0 or any(isinstance(prompt, Mask) for prompt in prompts):
        return []
    return ["`adapt` does nothing: it tunes to outlines, and none was given"]


@contextmanager
def adapt_to_outlines(
    network: Backbone, volume: Volume, prompts: Sequence[Prompt], *, window: str, seconds: float
) -> Iterator[None]:
    """With a network that is tuned to what is outlined in a volume for some seconds, if there are any; undone afterwards."""
    if seconds <= 0:
        yield
        return
    loaded = cast("Sam2", network)  # weights that were loaded are nothing else
    with adapt_network(loaded, examples_of_volume(loaded, volume, prompts, window=window), seconds=seconds):
        yield


@contextmanager
def adapt_network(
    network: Sam2,
    examples: Sequence[OutlinedFrame],
    *,
    seconds: float = 10.0,
    steps: int = 200,
    rate: float = 5e-4,
    seed: int = 0,
) -> Iterator[int]:
    """Tune a network to what was outlined, and put its weights back at the end.

    Args:
        network: tuned in place.
        examples: nothing happens where there is none.
        seconds: after which tuning ends.
        steps: after which it ends as well; for results that do not depend on the machine let this come first.

    Yields:
        Steps that were taken.
    """
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    wanted = {name: value.requires_grad for name, value in network.named_parameters()}
    training = network.training
    try:
        with torch.inference_mode(False), torch.enable_grad():
            taken = _tune(network, examples, seconds, steps, rate, seed) if examples else 0
        network.train(training)
        yield taken
    finally:
        network.train(training)
        with torch.no_grad():
            for name, value in network.named_parameters():
                value.copy_(before[name])
                value.requires_grad_(wanted[name])


def _tune(network: Sam2, examples: Sequence[OutlinedFrame], seconds: float, steps: int, rate: float, seed: int) -> int:
    """Train; returns the number of steps."""
    chosen = []
    for name, value in network.named_parameters():
        value.requires_grad_(name.startswith(TUNED) and not name.startswith(KEPT))
        chosen += [value] if value.requires_grad else []
    optimizer = torch.optim.AdamW(chosen, lr=rate, weight_decay=0.0)
    recipe = Recipe(seed=seed, phases=(Phase(steps, FRAMES, CLIPS),), losses=LossWeights(consistency=0.0))
    train_step, rng = TrainStep(network, recipe), np.random.default_rng(seed)
    network.train()
    end = time.monotonic() + seconds
    for step in range(steps):
        clips = [examples[int(rng.integers(len(examples)))].clip(rng) for _ in range(CLIPS)]
        batch = Batch(step, tuple(range(CLIPS)), clips)
        loss = train_step(batch, batch.objects, CLIPS, plan=StepPlan("mask", frozenset(), SelfSorting)).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if time.monotonic() > end:
            return step + 1
    return steps

"""One step's loss: clips are seen, prompted and tracked, and every answer is compared with the truth.

Where prompters correct a frame, each answer on it adds its loss, as in SAM 2's training.

Shapes: B objects of all clips, T frames, O objects of a clip, S network size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from medical_sam2.data.clips import Clip, ClipSampler
from medical_sam2.model.backbone import Features, FramePrediction
from medical_sam2.model.memory import PolicyBank
from medical_sam2.model.sam2 import Sam2
from medical_sam2.model.tracker import track
from medical_sam2.train.config import Recipe
from medical_sam2.train.frugal import Frugal
from medical_sam2.train.losses import Consistency, frame_loss
from medical_sam2.train.pupil import Plan, given


@dataclass(frozen=True, eq=False)
class Batch:
    """The share of a step that one process plays.

    Args:
        step: number of the step.
        places: of its clips in the whole batch of the step.
        clips: at these places.
    """

    step: int
    places: tuple[int, ...]
    clips: list[Clip]

    @property
    def objects(self) -> int:
        """How many objects there are in all clips."""
        return sum(len(clip.truth_OTSS) for clip in self.clips)


class Steps(Dataset[Batch]):
    """Batches by step, so that a run that goes on at step n sees what it would have seen.

    Args:
        sampler: of clips.
        recipe: the run.
        rank: of this process.
        processes: among how many the clips of a step are dealt out.
    """

    def __init__(self, sampler: ClipSampler, recipe: Recipe, rank: int = 0, processes: int = 1) -> None:
        self.sampler, self.recipe, self.rank, self.processes = sampler, recipe, rank, processes

    def __getitem__(self, step: int) -> Batch:
        phase = self.recipe.phase(step)
        places = tuple(range(self.rank, phase.clips, self.processes))
        clips = self.sampler.batch(
            step,
            places,
            frames=phase.frames + phase.context,
            objects=phase.objects,
            size=phase.size,
            smallest=phase.smallest,
        )
        return Batch(step, places, clips)


@dataclass(frozen=True, eq=False)
class Lesson:
    """What came out of a batch.

    Args:
        loss: to be minimised.
        dice: sum over objects and how many, on first frames; the same on tracked ones.
        masks_TBhw: the predicted masks, where they were asked for.
    """

    loss: Tensor
    dice: tuple[float, float, float, float]
    masks_TBhw: Tensor | None = None


class Teacher(nn.Module):
    """The network with its losses, as one module: one forward pass is one lesson.

    Args:
        network: learns.
        recipe: the run.
    """

    def __init__(self, network: Sam2, recipe: Recipe) -> None:
        super().__init__()
        self.network, self.recipe = network, recipe
        self.consistency = Consistency()

    def forward(
        self, batch: Batch, objects: float, clips: float, *, plan: Plan | None = None, looked_at: bool = False
    ) -> Lesson:
        """The loss of a batch.

        Args:
            batch: clips of one length and size.
            objects: by which the losses of all objects are divided: those of the whole step, over the number of processes.
            clips: likewise for the losses of clips.
            plan: what the objects are told; that of the step unless given.
            looked_at: whether masks are returned.
        """
        with torch.autocast(self.network.device.type, dtype=torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            return self._taught(batch, objects, clips, plan, looked_at)

    def _taught(self, batch: Batch, objects: float, clips: float, plan: Plan | None, looked_at: bool) -> Lesson:
        network, recipe, frames = self.network, self.recipe, len(batch.clips[0].frames_T3SS)
        network.resize(batch.clips[0].frames_T3SS.shape[-1])
        plan = plan or Plan.draw(recipe, batch.step, frames)
        player = Frugal(network) if recipe.checkpointing and torch.is_grad_enabled() else network
        pixels = torch.cat([clip.frames_T3SS for clip in batch.clips]).to(network.device)
        context = recipe.phase(batch.step).context if torch.is_grad_enabled() else 0
        learned = [0, *range(context + 1, frames)]
        owner = [c for c, clip in enumerate(batch.clips) for _ in clip.truth_OTSS]
        seen, features = self._seen(player, network.normalised(pixels), (owner, frames, learned))
        pupils = [
            pupil
            for place, clip in zip(batch.places, batch.clips, strict=True)
            for pupil in plan.pupils(recipe, batch.step, place, clip.truth_OTSS.numpy())
        ]
        truth_BTSS = torch.cat([clip.truth_OTSS for clip in batch.clips]).to(network.device)
        outlined = torch.tensor(given(pupils), device=network.device)
        total, scores, masks = torch.zeros((), device=network.device), np.zeros(4), []
        bank = PolicyBank(plan.policy, ordered=[clip.ordered for clip in batch.clips for _ in clip.truth_OTSS])
        corrected: list[Tensor] = []

        def superseded(t: int, places: Sequence[int], answer: FramePrediction) -> None:
            free = torch.zeros_like(outlined[places])
            corrected.append(frame_loss(answer, truth_BTSS[places, t].float(), recipe.losses, given_B=free))

        tracked = track(player, seen, range(frames), pupils, bank, superseded=superseded)
        for t in range(frames):
            with torch.set_grad_enabled(torch.is_grad_enabled() and t in learned):
                _, prediction = next(tracked)
            if t not in learned:
                continue
            known = outlined if t == 0 else torch.zeros_like(outlined)
            total = total + frame_loss(prediction, truth_BTSS[:, t].float(), recipe.losses, given_B=known)
            scores[[0, 1] if t == 0 else [2, 3]] += _dice(prediction, truth_BTSS[:, t], known)
            if looked_at:
                masks.append(prediction.logits_Bhw.detach().float())
        contrast = recipe.losses.consistency * self._contrast(features, batch, learned)
        loss = (total + sum(corrected)) / (objects * len(learned)) + contrast / clips
        first, first_count, tracked, tracked_count = scores.tolist()
        return Lesson(loss, (first, first_count, tracked, tracked_count), torch.stack(masks) if looked_at else None)

    def _seen(
        self, player: Sam2 | Frugal, pixels_N3SS: Tensor, place: tuple[list[int], int, list[int]]
    ) -> tuple[Callable[[int], Features], Features]:
        """What the encoder saw, by frame; and of the frames that are learned from, clip by clip.

        Args:
            player: the network.
            pixels_N3SS: the frames of all clips.
            place: the clip of each object, frames of a clip, and which of these are learned from.
        """
        owner, frames, learned = place
        rest = [t for t in range(frames) if t not in learned]
        clips = range(len(pixels_N3SS) // frames)
        features = player.encode(pixels_N3SS[[c * frames + t for c in clips for t in learned]])
        with torch.no_grad():
            passed = player.encode(pixels_N3SS[[c * frames + t for c in clips for t in rest]]) if rest else features

        def seen(t: int) -> Features:
            part, times = (features, learned) if t in learned else (passed, rest)
            return part.pick([c * len(times) + times.index(t) for c in owner])

        return seen, features

    def _contrast(self, features: Features, batch: Batch, learned: list[int]) -> Tensor:
        """Sum over clips."""
        maps = features.top_BChw if features.key_BDhw is None else features.key_BDhw
        total = maps.new_zeros(())
        if self.recipe.losses.consistency <= 0:
            return total
        for place, clip, map_TChw in zip(batch.places, batch.clips, maps.split(len(learned)), strict=True):
            seed = np.random.SeedSequence([self.recipe.seed, batch.step, place]).generate_state(1)[0]
            total = total + self.consistency(map_TChw, clip.labels_TSS[learned], torch.Generator().manual_seed(int(seed)))
        return total


def _dice(prediction: FramePrediction, truth_BSS: Tensor, skip_B: Tensor) -> Sequence[float]:
    """Sum of Dice over objects that are there, at the size of the logits; and how many there are."""
    logits = prediction.logits_Bhw.detach().float()
    target = nn.functional.interpolate(truth_BSS[:, None].float(), size=logits.shape[-2:], mode="area")[:, 0] > 0.5
    mask, keep = logits > 0, target.flatten(1).any(1) & ~skip_B
    both, sizes = (mask & target).sum((1, 2)), mask.sum((1, 2)) + target.sum((1, 2))
    return [float((2 * both / sizes.clamp(min=1))[keep].sum()), float(keep.sum())]

"""One step's loss: clips are encoded, prompted and tracked, and every prediction is compared with the truth, object by object;
and the same of validation clips, which are drawn.

Where a simulated user corrects a frame, each prediction on it adds its loss, as in SAM 2's training. With activation
checkpointing the network keeps less for the backward pass, and computes it again when gradients pass.

How each object of a step is prompted, and which memory bank the network tracks with, is a function of (seed, step, place of the
clip, object): it does not matter which process trains on which clip.

Shapes: B objects of all clips, T frames, O objects of a clip, K proposed masks, h w logits at stride 4, C channels, S network
size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset

from medical_sam2.data.cases import CaseReader
from medical_sam2.data.clips import Clip, ClipSampler
from medical_sam2.errors import MedicalSam2Error
from medical_sam2.io.atomic import writing
from medical_sam2.model.backbone import Features, FramePrediction, Fused, Instruction, Memory, Recall
from medical_sam2.model.memory_bank import Fifo, PolicyBank, SelfSorting
from medical_sam2.model.sam2 import Sam2
from medical_sam2.model.tracker import track, upsample
from medical_sam2.preview.drawing import paint
from medical_sam2.prompts import FramePrompt
from medical_sam2.simulate import NOISE_LEVELS, jitter_box, jitter_mask, next_click
from medical_sam2.train.config import LossWeights, Recipe
from medical_sam2.train.distributed import local_part

T = TypeVar("T")
KINDS = ("mask", "click", "box")
FIFO = 0.2  # share of steps with SAM 2's own bank
PROMPTS = 1 << 20  # apart from the numbers that draw clips
CLIPS, HELD_OUT = 4, 1 << 24
TRUTH, PREDICTED = (90, 220, 90), (255, 150, 40)
SIDE_PX = 128


@dataclass(frozen=True)
class StepPlan:
    """What all objects of a step share, so that they are decoded together."""

    kind: str  # of the first prompt: "mask", "click" or "box"
    corrected: frozenset[int]  # frames that get corrective clicks once they are tracked
    policy: Callable[[], Fifo | SelfSorting]  # makes the memory of one object

    @classmethod
    def draw(cls, recipe: Recipe, step: int, frames: int) -> "StepPlan":
        """The plan of a step. A mask on a single frame would teach nothing, so there it is never given."""
        rng = np.random.default_rng([recipe.seed, step, PROMPTS])
        odds = np.array(recipe.prompt) * ([0, 1, 1] if frames == 1 else [1, 1, 1])
        kind = str(rng.choice(KINDS, p=odds / odds.sum()))
        return cls(kind, _draw_corrected(recipe, rng, kind, frames), _draw_policy(rng))

    def make_users(self, recipe: Recipe, step: int, place: int, truth_OTSS: NDArray[np.bool_]) -> list["SimulatedUser"]:
        """A user for each object of the clip at a place of the step."""
        return [
            SimulatedUser(
                truth,
                self.kind,
                self.corrected,
                recipe.clicks,
                recipe.from_truth,
                np.random.default_rng([recipe.seed, step, PROMPTS, place, number]),
            )
            for number, truth in enumerate(truth_OTSS)
        ]


@dataclass
class SimulatedUser:
    """Prompts the first frame, corrects some of the others."""

    truth_thw: NDArray[np.bool_]  # (T, S, S) bool
    kind: str  # first prompt: "mask", "click" or "box"
    corrected: frozenset[int]  # frames that get corrective clicks once they are tracked
    clicks: int  # on each of them
    from_truth: float  # probability of a click that does not look at the prediction
    rng: np.random.Generator  # for all of it
    _clicks_left: int = 0

    def __call__(self, t: int, predicted: NDArray[np.bool_] | None) -> FramePrompt | None:
        """The first prompt on frame 0, then corrections."""
        if predicted is None:
            self._clicks_left = self.clicks if t in self.corrected else 0
            return self._prompt_first(self.truth_thw[0]) if t == 0 else None
        if self._clicks_left == 0:
            return None
        self._clicks_left -= 1
        shown = np.zeros_like(predicted) if self.rng.random() < self.from_truth else predicted
        click = next_click(self.truth_thw[t], shown, self.rng)
        return None if click is None else click.on_frame()

    def corrects(self, t: int) -> bool:
        """Whether any click is left for frame t."""
        return self._clicks_left > 0

    def _prompt_first(self, truth: NDArray[np.bool_]) -> FramePrompt | None:
        noise = NOISE_LEVELS["expert"] if self.rng.random() < 0.5 else NOISE_LEVELS["none"]
        if self.kind == "mask":
            return FramePrompt.mask(jitter_mask(truth, noise, self.rng))
        if self.kind == "box":
            return FramePrompt.box(*jitter_box(truth, noise, self.rng))
        click = next_click(truth, np.zeros_like(truth), self.rng, spread=float("inf") if self.rng.random() < 0.5 else 0.0)
        return None if click is None else click.on_frame()


def _draw_corrected(recipe: Recipe, rng: np.random.Generator, kind: str, frames: int) -> frozenset[int]:
    """Up to two frames: the first, unless it is outlined already, and half of the times a later one."""
    if rng.random() >= recipe.corrections:
        return frozenset()
    first = {0} if kind != "mask" else set[int]()
    later = {int(rng.integers(1, frames))} if frames > 1 and rng.random() < 0.5 else set[int]()
    return frozenset(first | later)


def _draw_policy(rng: np.random.Generator) -> Callable[[], Fifo | SelfSorting]:
    """Some steps remember as SAM 2, the others sort themselves: with the settings that ship, and with others around them."""
    if rng.random() < FIFO:
        return partial(Fifo, frames=None)
    return partial(
        SelfSorting,
        size=int(rng.integers(3, 8)),
        threshold=float(rng.uniform(0.3, 0.7)),
        resample="sample" if rng.random() < 0.5 else "expected",
        temporal="prompted" if rng.random() < 0.8 else "rank",
        seed=int(rng.integers(2**31)),
    )


@dataclass(frozen=True, eq=False)
class Batch:
    """The share of a step that one process plays."""

    step: int  # number of the step
    places: tuple[int, ...]  # of its clips in the whole batch of the step
    clips: list[Clip]  # at these places

    @property
    def objects(self) -> int:
        """How many objects there are in all clips."""
        return sum(len(clip.truth_OTSS) for clip in self.clips)


class StepBatches(Dataset[Batch | MedicalSam2Error]):
    """Batches by step, so that a run that goes on at step n sees what it would have seen; an error is handed on as it is."""

    def __init__(self, sampler: ClipSampler, recipe: Recipe, rank: int = 0, processes: int = 1) -> None:
        self.sampler, self.recipe, self.rank, self.processes = sampler, recipe, rank, processes

    # A loader of data raises the errors of its processes anew, with their traceback for a text: so they are handed on instead.
    def __getitem__(self, step: int) -> Batch | MedicalSam2Error:
        try:
            return self.make(step)
        except MedicalSam2Error as error:
            return error

    def make(self, step: int) -> Batch:
        """The batch of a step; raises FormatError if a case is broken, or none shows an object."""
        phase = self.recipe.phase(step)
        places = tuple(range(self.rank, phase.clips, self.processes))
        clips = self.sampler.batch(
            step, places, frames=phase.frames + phase.context, objects=phase.objects, size=phase.size, smallest=phase.smallest
        )
        return Batch(step, places, clips)


@dataclass(frozen=True, eq=False)
class StepResult:
    """Loss and scores of a batch."""

    loss: Tensor  # to be minimised
    dice: tuple[float, float, float, float]  # sum over objects and how many, on first frames; the same on tracked ones
    masks_TBhw: Tensor | None = None  # the predicted masks, where they were asked for


class ActivationCheckpointing:
    """The four verbs of a network under activation checkpointing; frames are seen one by one. A `Backbone`."""

    def __init__(self, network: Sam2) -> None:
        self.network, self.image_size = network, network.image_size

    def encode(self, frames_N3SS: Tensor) -> Features:
        """See N frames, one after the other."""
        return _join_features([_recompute(self.network.encode, frame) for frame in frames_N3SS.split(1)])

    def fuse(self, frame: Features, recall: Recall) -> Fused:
        """As the network."""
        return _recompute(self.network.fuse, frame, recall)

    def decode(self, frame: Features, fused: Fused, instructions: Sequence[Instruction | None]) -> FramePrediction:
        """As the network."""
        return _recompute(self.network.decode, frame, fused, instructions)

    def memorise(self, frame: Features, prediction: FramePrediction, t: int, prompted: Sequence[bool]) -> list[Memory]:
        """As the network."""
        return _recompute(self.network.memorise, frame, prediction, t, prompted)


def _recompute(verb: Callable[..., T], *arguments: Any) -> T:
    return cast(T, checkpoint(verb, *arguments, use_reentrant=False, determinism_check="none"))


def _join_features(frames: Sequence[Features]) -> Features:
    first, second = (torch.cat([frame.fine_BChw[level] for frame in frames]) for level in (0, 1))
    top, summary = torch.cat([frame.top_BChw for frame in frames]), torch.cat([frame.summary_BC for frame in frames])
    own = {name: torch.cat([frame.own[name] for frame in frames]) for name in frames[0].own}
    return Features(top, (first, second), summary, own)


class TrainStep(nn.Module):
    """The network with its losses, as one module: one forward pass is one step."""

    def __init__(self, network: Sam2, recipe: Recipe) -> None:
        super().__init__()
        self.network, self.recipe = network, recipe
        self.consistency = ConsistencyLoss()

    def forward(
        self, batch: Batch, objects: float, clips: float, *, plan: StepPlan | None = None, keep_masks: bool = False
    ) -> StepResult:
        """The loss of a batch.

        Args:
            batch: clips of one length and size.
            objects: by which the losses of all objects are divided: those of the whole step, over the number of processes.
            clips: likewise for the losses of clips.
            plan: how the objects are prompted; that of the step unless given.
        """
        with torch.autocast(self.network.device.type, dtype=torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            return self._compute(batch, objects, clips, plan, keep_masks)

    def _compute(self, batch: Batch, objects: float, clips: float, plan: StepPlan | None, keep_masks: bool) -> StepResult:
        """One pass for all clips: objects are tracked in lock step, and frames of context are passed without gradients."""
        network, recipe, frames = self.network, self.recipe, len(batch.clips[0].frames_T3SS)
        network.resize(batch.clips[0].frames_T3SS.shape[-1])
        plan = plan or StepPlan.draw(recipe, batch.step, frames)
        backbone = ActivationCheckpointing(network) if recipe.checkpointing and torch.is_grad_enabled() else network
        pixels = torch.cat([clip.frames_T3SS for clip in batch.clips]).to(network.device)
        context = recipe.phase(batch.step).context if torch.is_grad_enabled() else 0
        learned = [0, *range(context + 1, frames)]
        owner = [c for c, clip in enumerate(batch.clips) for _ in clip.truth_OTSS]
        features_at, features = self._encode(backbone, network.normalised(pixels), (owner, frames, learned))
        users = [
            user
            for place, clip in zip(batch.places, batch.clips, strict=True)
            for user in plan.make_users(recipe, batch.step, place, clip.truth_OTSS.numpy())
        ]
        truth_BTSS = torch.cat([clip.truth_OTSS for clip in batch.clips]).to(network.device)
        outlined = torch.full((len(users),), plan.kind == "mask", device=network.device)
        total, scores, masks = torch.zeros((), device=network.device), np.zeros(4), []
        bank = PolicyBank(plan.policy, ordered=[clip.ordered for clip in batch.clips for _ in clip.truth_OTSS])
        corrected: list[Tensor] = []

        def superseded(t: int, places: Sequence[int], answer: FramePrediction) -> None:
            free = torch.zeros_like(outlined[places])
            corrected.append(compute_frame_loss(answer, truth_BTSS[places, t].float(), recipe.losses, given_B=free))

        tracked = track(backbone, features_at, range(frames), users, bank, superseded=superseded)
        for t in range(frames):
            with torch.set_grad_enabled(torch.is_grad_enabled() and t in learned):
                _, prediction = next(tracked)
            if t not in learned:
                continue
            given = outlined if t == 0 else torch.zeros_like(outlined)
            total = total + compute_frame_loss(prediction, truth_BTSS[:, t].float(), recipe.losses, given_B=given)
            scores[[0, 1] if t == 0 else [2, 3]] += _sum_dice(prediction, truth_BTSS[:, t], given)
            if keep_masks:
                masks.append(prediction.logits_Bhw.detach().float())
        contrast = recipe.losses.consistency * self._contrast_features(features, batch, learned)
        loss = (total + sum(corrected)) / (objects * len(learned)) + contrast / clips
        first, first_count, tracked, tracked_count = scores.tolist()
        return StepResult(loss, (first, first_count, tracked, tracked_count), torch.stack(masks) if keep_masks else None)

    def _encode(
        self, backbone: Sam2 | ActivationCheckpointing, pixels_N3SS: Tensor, place: tuple[list[int], int, list[int]]
    ) -> tuple[Callable[[int], Features], Features]:
        """What the encoder saw, by frame; and of the frames that are learned from, clip by clip.

        Args:
            backbone: the network.
            pixels_N3SS: the frames of all clips.
            place: the clip of each object, frames of a clip, and which of these are learned from.
        """
        owner, frames, learned = place
        rest = [t for t in range(frames) if t not in learned]
        clips = range(len(pixels_N3SS) // frames)
        features = backbone.encode(pixels_N3SS[[c * frames + t for c in clips for t in learned]])
        with torch.no_grad():
            passed = backbone.encode(pixels_N3SS[[c * frames + t for c in clips for t in rest]]) if rest else features

        def features_at(t: int) -> Features:
            part, times = (features, learned) if t in learned else (passed, rest)
            return part.select([c * len(times) + times.index(t) for c in owner])

        return features_at, features

    def _contrast_features(self, features: Features, batch: Batch, learned: list[int]) -> Tensor:
        maps = features.own.get("key", features.top_BChw)
        total = maps.new_zeros(())
        if self.recipe.losses.consistency <= 0:
            return total
        for place, clip, map_TChw in zip(batch.places, batch.clips, maps.split(len(learned)), strict=True):
            seed = np.random.SeedSequence([self.recipe.seed, batch.step, place]).generate_state(1)[0]
            total = total + self.consistency(map_TChw, clip.labels_TSS[learned], torch.Generator().manual_seed(int(seed)))
        return total


def _sum_dice(prediction: FramePrediction, truth_BSS: Tensor, skip_B: Tensor) -> Sequence[float]:
    """Sum of Dice over objects that are there, at the size of the logits; and how many there are."""
    logits = prediction.logits_Bhw.detach().float()
    target = nn.functional.interpolate(truth_BSS[:, None].float(), size=logits.shape[-2:], mode="area")[:, 0] > 0.5
    mask, keep = logits > 0, target.flatten(1).any(1) & ~skip_B
    both, sizes = (mask & target).sum((1, 2)), mask.sum((1, 2)) + target.sum((1, 2))
    return [float((2 * both / sizes.clamp(min=1))[keep].sum()), float(keep.sum())]


def compute_frame_loss(prediction: FramePrediction, truth_BSS: Tensor, weights: LossWeights, *, given_B: Tensor) -> Tensor:
    """Loss of one frame, summed over objects.

    Of several proposed masks only the one of lowest loss is supervised, but every predicted IoU is. Where the object is
    absent its presence is, and with the weight `absent` every proposed mask, which should be empty.

    Args:
        truth_BSS: float in {0, 1}.
        given_B: bool, objects whose mask was given as prompt: there is nothing to learn from.
    """
    logits = prediction.candidates_BKhw.float()
    target = F.interpolate(truth_BSS[:, None], size=logits.shape[-2:], mode="area").expand_as(logits)
    there = truth_BSS.flatten(1).any(1).float()
    learns = there * (~given_B).float()
    mask_loss = weights.focal * _focal_loss(logits, target, weights) + weights.dice * _dice_loss(logits, target)
    best = mask_loss.argmin(1, keepdim=True)
    with torch.no_grad():
        true_iou = _measure_iou(logits > 0, target > 0.5)
    iou_loss = (prediction.candidate_iou_BK.float() - true_iou).abs().mean(1)
    presence = F.binary_cross_entropy_with_logits(prediction.presence_B.float().clamp(-20, 20), there, reduction="none")
    total = learns * (mask_loss.gather(1, best)[:, 0] + weights.iou * iou_loss)
    total = total + weights.absent * (1 - there) * F.softplus(logits).mean((1, 2, 3))
    return (total + weights.presence * presence * (~given_B)).sum()


def _focal_loss(logits: Tensor, target: Tensor, weights: LossWeights) -> Tensor:
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if weights.gamma > 0:
        probability = logits.sigmoid()
        agreement = probability * target + (1 - probability) * (1 - target)
        entropy = entropy * (1 - agreement) ** weights.gamma
    if weights.alpha >= 0:
        entropy = entropy * (weights.alpha * target + (1 - weights.alpha) * (1 - target))
    return entropy.mean((2, 3))


def _dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    probability = logits.sigmoid()
    both = (probability * target).sum((2, 3))
    return 1 - (2 * both + 1) / (probability.sum((2, 3)) + target.sum((2, 3)) + 1)


def _measure_iou(mask: Tensor, truth: Tensor) -> Tensor:
    both = (mask & truth).sum((2, 3)).float()
    return both / (mask | truth).sum((2, 3)).clamp(min=1)


class ConsistencyLoss(nn.Module):
    """Supervised contrast of feature-map pixels: alike where the structure is the same, on any frame of the clip.

    Every labelled structure teaches, not only the objects that were prompted, so features become distinctive long before
    tracking works. After Khosla et al., Supervised Contrastive Learning (2020).

    Args:
        samples: pixels drawn per frame.
        temperature: of the cosines.
    """

    def __init__(self, samples: int = 48, temperature: float = 0.1) -> None:
        super().__init__()
        self.samples, self.temperature = samples, temperature

    def forward(self, map_TChw: Tensor, labels_TSS: Tensor, generator: torch.Generator) -> Tensor:
        """Mean loss over the drawn pixels of one clip of T frames."""
        count, _, height, width = map_TChw.shape
        labels = F.interpolate(labels_TSS[:, None].float(), size=(height, width), mode="nearest")[:, 0].flatten(1)
        places = torch.rand((count, height * width), generator=generator).argsort(1)[:, : self.samples].to(map_TChw.device)
        tokens = map_TChw.flatten(2).transpose(1, 2).gather(1, places[..., None].expand(-1, -1, map_TChw.shape[1]))
        tokens = F.normalize(tokens.float(), dim=-1).flatten(0, 1)
        labels = labels.to(map_TChw.device).gather(1, places).flatten()
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        score = (tokens @ tokens.T / self.temperature).masked_fill(itself, -1e4)
        same = (labels[:, None] == labels) & ~itself
        anchor = same.any(-1) & (labels > 0)
        log_share = score - score.logsumexp(-1, keepdim=True)
        per_anchor = -(log_share * same).sum(-1) / same.sum(-1).clamp(min=1)
        return (per_anchor * anchor).sum() / anchor.sum().clamp(min=1)


class Validation:
    """Clips that stay the same through the run, prompted alike each time.

    Args:
        folder: of the run; pictures go to its `pictures`.
        reader: of the recipe's validation cases; or of those that are trained on, for other clips of them.
        write: whether this process writes the pictures.
    """

    def __init__(self, recipe: Recipe, folder: Path, reader: CaseReader, *, write: bool = True) -> None:
        self.recipe, self.folder, self.write = recipe, folder / "pictures", write
        phase = recipe.phases[-1]
        sampler = ClipSampler(reader, recipe.seed + HELD_OUT, recipe.sets, regions=recipe.regions)
        clips = sampler.batch(
            0, range(CLIPS), frames=phase.frames, objects=1, size=phase.size, smallest=max(phase.smallest, 0.005)
        )
        self.batch = Batch(HELD_OUT, tuple(range(CLIPS)), clips)
        self.plan = replace(StepPlan.draw(recipe, HELD_OUT, phase.frames), kind="mask" if phase.frames > 1 else "box")
        self.plan = replace(self.plan, corrected=frozenset())

    @torch.no_grad()
    def run(
        self, train_step: nn.Module, network: Sam2, average: dict[str, Tensor], step: int
    ) -> tuple[float, Image.Image | None]:
        """Track the clips with the averaged weights, and draw them.

        Args:
            train_step: as all processes train it; every process at once.
            network: inside of it.
            average: its averaged weights.
            step: in the name of the picture.

        Returns:
            Mean Dice on tracked frames (on prompted ones where clips have one frame); a picture, a row for each clip: the truth
            outlined in green, the prediction in orange.
        """
        network.eval()
        weights = {name: local_part(value).clone() for name, value in network.state_dict().items()}
        _load_weights(network, average)
        try:
            result: StepResult = train_step(self.batch, 1.0, 1.0, plan=self.plan, keep_masks=True)
        finally:
            _load_weights(network, weights)
        total, count = result.dice[2:] if result.dice[3] else result.dice[:2]
        picture = _draw_clips(self.batch.clips, result.masks_TBhw) if result.masks_TBhw is not None else None
        if picture is not None and self.write:
            self.folder.mkdir(exist_ok=True)
            with writing(self.folder / f"{step:07d}.png") as stream:
                picture.save(stream, "PNG")
        return total / count if count else float("nan"), picture


def _load_weights(network: Sam2, weights: dict[str, Tensor]) -> None:
    for name, value in network.state_dict().items():
        local_part(value).copy_(local_part(weights[name]))


def _draw_clips(clips: list[Clip], masks_TBhw: Tensor) -> Image.Image:
    size = clips[0].frames_T3SS.shape[-1]
    frames = len(masks_TBhw)
    sheet = Image.new("RGB", (frames * (SIDE_PX + 2), len(clips) * (SIDE_PX + 2)))
    for t in range(frames):
        found = upsample(masks_TBhw[t], size).cpu().numpy() > 0
        for row, clip in enumerate(clips):
            cell = _draw_cell(clip.frames_T3SS[t].numpy(), clip.truth_OTSS[0, t].numpy(), found[row])
            sheet.paste(cell, (t * (SIDE_PX + 2), row * (SIDE_PX + 2)))
    return sheet


def _draw_cell(frame_3SS: NDArray[np.float32], truth: NDArray[np.bool_], found: NDArray[np.bool_]) -> Image.Image:
    pixels = (frame_3SS.transpose(1, 2, 0).clip(0, 1) * 255).astype(np.uint8)
    cell = Image.fromarray(pixels).resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)
    for mask, colour, fill in ((found, PREDICTED, 0.3), (truth, TRUTH, 0.0)):
        paint(cell, mask, colour, fill=fill)
    return cell

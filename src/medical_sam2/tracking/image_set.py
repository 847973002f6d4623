"""A set of unordered images as a film without time: some are prompted, the others follow, in the order that a policy chooses.

Objects that are prompted on the same images in the same way go in lock step; those that are prompted on others go by
themselves, so that no object is looked for before it was prompted (METHOD §3).

Shapes: B objects, H W image, h w mask logits.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from medical_sam2.errors import PromptError
from medical_sam2.intensity_window import Window
from medical_sam2.model.backbone import Backbone
from medical_sam2.model.memory_bank import Policy, PolicyBank
from medical_sam2.model.tracker import track, upsample
from medical_sam2.plugins import find
from medical_sam2.prompts import Fixed, FramePrompt, Prompter, check_frame_prompt, check_object
from medical_sam2.tracking.click_outline import OutlineJudge
from medical_sam2.tracking.frames import to_network
from medical_sam2.tracking.image_viewer import ImageViewer, outline_closely, unit_vector
from medical_sam2.tracking.limits import redraw
from medical_sam2.tracking.set_consensus import SIDE, PromptedImage, SeenImage, SetConsensus

SetPrompts = Mapping[int, Mapping[int, FramePrompt]]
"""Image → object → prompt, in pixels of that image."""
DRAWN, CLICKED, NEGATIVE = range(3)
BLANK = "all its pixels have the same value: there is nothing to outline"
Likeness: TypeAlias = Callable[[Sequence[int]], NDArray[np.float64]]
"""How much images resemble what the bank holds at this moment: cosines in [-1, 1]."""
Order: TypeAlias = Callable[[Sequence[int], Likeness], Iterator[int]]
"""The images that wait, and their likeness to the bank → the images, each asked for when the one before has been tracked."""
BEFORE_OTHERS = 1e4  # added to the logits of what was pointed at on an image
STRIP_PIXELS = 4_000_000  # of an image that are worked on at once


@dataclass(frozen=True, eq=False)
class ImageMask:
    """Objects outlined on one image of a set.

    Args:
        index: of the image.
        labels: (H, W) unsigned integers, 0 is background, at the image's own size.
        confidence: object → predicted IoU in [0, 1], 0 where the object is judged absent.
        likeness: of the image to what was remembered when it was visited: cosine in [-1, 1], 1 where it was prompted.
        prompted: whether a person prompted it.
        warnings: what was noticed.
        window: the intensities that the network saw as black and white.
    """

    index: int
    labels: NDArray[np.unsignedinteger]
    confidence: Mapping[int, float]
    likeness: float = 1.0
    prompted: bool = False
    warnings: tuple[str, ...] = ()
    window: Window | None = None

    @property
    def lowest(self) -> float:
        """Confidence of the object that is least sure."""
        return min(self.confidence.values())


def given(waiting: Sequence[int], likeness: Likeness) -> Iterator[int]:
    """As they come."""
    yield from waiting


@dataclass(frozen=True)
class Shuffled:
    """At random."""

    seed: int = 0  # the same one shuffles the same

    def __call__(self, waiting: Sequence[int], likeness: Likeness) -> Iterator[int]:
        """In another order."""
        yield from np.random.default_rng(self.seed).permutation(np.asarray(waiting, np.int64)).tolist()


def similar(waiting: Sequence[int], likeness: Likeness) -> Iterator[int]:
    """The one that resembles the bank most, then the one that resembles the bank most after that was tracked, and so on."""
    left = list(waiting)
    while left:
        yield left.pop(int(np.argmax(likeness(left))))


def choose_order(order: str | Order | Iterable[int], images: int) -> tuple[Order, Sequence[int]]:
    """A policy by name or as it is, for all of so many images; or the images as listed; raises ConfigError."""
    if not isinstance(order, str) and not callable(order):
        return given, [*order]
    policy: Order = find(ORDERS, order, what="order")
    return policy, range(images)


ORDERS: Mapping[str, Order] = {"given": given, "shuffled": Shuffled(), "similar": similar}


@dataclass(frozen=True, eq=False)
class ImageSetConfig:
    """What stays the same while a set is outlined."""

    backbone: Backbone  # the network
    viewer: ImageViewer  # of the images
    policy: Callable[[], Policy]  # makes the memory policy of each object
    order: Order  # in which images are visited that nobody prompted
    judge: OutlineJudge | None = None  # of what clicks mean, learnt for these weights
    consensus: SetConsensus | None = None  # that follows tracking on each image that nobody prompted, learnt for these weights


def check_set_prompts(prompts: object) -> None:
    """Refuse what is no mapping of images to objects to prompts; raises PromptError."""
    example = "give {image: {object: prompt}}, such as {0: {1: FramePrompt.click(17, 36)}}"
    if not isinstance(prompts, Mapping):
        raise PromptError(f"prompts of type {type(prompts).__name__} do not say which image they are of", example)
    for i, own in prompts.items():
        if isinstance(i, bool) or not isinstance(i, Integral):
            raise PromptError(f"{repr(i)[:40]} is no image", f"number images from 0: {example}")
        if not isinstance(own, Mapping):
            raise PromptError(f"a {type(own).__name__} on image {i} does not say which object it is of", example)
        for label, prompt in own.items():
            if not isinstance(prompt, FramePrompt):
                problem = f"object {label} on image {i} is prompted by a {type(prompt).__name__}"
                raise PromptError(problem, "give a FramePrompt: .click(x, y), .box(x, y, x2, y2) or .mask(array), in pixels")


def segment_set(config: ImageSetConfig, prompts: SetPrompts, waiting: Sequence[int]) -> Iterator[ImageMask]:
    """Every prompted image, then every one that waits, as soon as all its objects are outlined.

    An image on which an object got nothing but clicks corrects what is remembered of that object, once another image showed
    what it is.

    Raises:
        PromptError: no prompt, or one that cannot work on its image.
    """
    labels = _checked_labels(config.viewer, prompts)
    teams = [_ObjectGroup(config, own, waiting) for own in _group_objects(labels, prompts)]
    partly: dict[int, list[_ImageStep]] = {}
    reported = 0
    for step in _round_robin([team.steps() for team in teams]):
        steps = partly.setdefault(step.index, [])
        steps.append(step)
        if len(steps) == len(teams):
            yield _merge_steps(config.viewer, partly.pop(step.index), prompts.get(step.index, {}))
        for i in config.viewer.blank[reported:]:
            reported += 1
            yield _blank_result(config.viewer, i, labels)
    for i in config.viewer.blank[reported:]:
        yield _blank_result(config.viewer, i, labels)


@dataclass(frozen=True, eq=False)
class _ImageStep:
    """Some objects on one image."""

    index: int
    labels: tuple[int, ...]
    logits_Bhw: Tensor
    confidence: tuple[float, ...]
    likeness: float


@dataclass(eq=False)
class _ObjectGroup:
    """Objects that are prompted on the same images, with an outline or a box on the same of them."""

    config: ImageSetConfig  # what stays the same
    prompts: Mapping[int, Mapping[int, FramePrompt]]  # object → image → prompt
    waiting: Sequence[int]  # images to be outlined
    _likeness: dict[int, float] = field(default_factory=dict)
    _shown: dict[int, list[PromptedImage]] = field(default_factory=dict)
    _believed: dict[tuple[int, int], float] = field(default_factory=dict)  # object, image → IoU of what a click or box means

    def __post_init__(self) -> None:
        self._bank = PolicyBank(self.config.policy, frames=len(self.config.viewer.images))

    def steps(self) -> Iterator[_ImageStep]:
        """Each image that can be used, once."""
        viewer = self.config.viewer
        order, prompters = self._visited(), [self._prompter(label, own) for label, own in self.prompts.items()]
        several = len({*self._templates(), *self.waiting}) > 1
        for i, found in track(self.config.backbone, viewer.features, order, prompters, self._bank, kept=lambda _: several):
            answered: list[float] = found.confidence_B.float().tolist()
            sure = tuple(self._believed.get((label, i), own) for label, own in zip(self.prompts, answered, strict=True))
            likeness = self._likeness.pop(i, 1.0)
            yield _ImageStep(i, tuple(self.prompts), *self._agreed(i, found.logits_Bhw, sure, likeness), likeness)

    def _agreed(
        self, i: int, logits_Bhw: Tensor, confidence: tuple[float, ...], likeness: float
    ) -> tuple[Tensor, tuple[float, ...]]:
        """Logits and predicted IoUs after the consensus; prompted images, from which it learns, keep theirs."""
        consensus = self.config.consensus
        if consensus is None:
            return logits_Bhw, confidence
        seen = SeenImage.of(self.config.viewer.shown(i), self.config.viewer.features(i))
        if any(i in own for own in self.prompts.values()):
            for label, logits in zip(self.prompts, logits_Bhw, strict=True):
                inside = upsample(logits[None], SIDE)[0].cpu().numpy() > 0
                if inside.any():
                    self._shown.setdefault(label, []).append(PromptedImage.of(seen, inside))
            return logits_Bhw, confidence
        changed = [
            consensus.refine(self._shown[label], seen, logits, sure, likeness) if label in self._shown else (logits, sure)
            for label, logits, sure in zip(self.prompts, logits_Bhw, confidence, strict=True)
        ]
        logits, predicted = zip(*changed, strict=True)
        return torch.stack(logits), predicted

    def _visited(self) -> Iterator[int]:
        templates, usable = self._templates(), self.config.viewer.usable
        yield from templates
        for i in self.config.order([i for i in self.waiting if i not in templates], self._resemblance):
            if usable(i):
                self._likeness[i] = float(self._resemblance([i])[0])
                yield i

    def _templates(self) -> list[int]:
        """Outlines and boxes first, then clicks inside: clicks on later images correct what these have shown."""
        own = next(iter(self.prompts.values()))
        return sorted(own, key=lambda i: (_prompt_rank(own[i]), i))

    def _prompter(self, label: int, prompts_here: Mapping[int, FramePrompt]) -> Prompter:
        viewer, (first, *later) = self.config.viewer, self._templates()
        if _prompt_rank(prompts_here[first]) == NEGATIVE:
            raise PromptError("an object has nothing but negative clicks", "click inside of it too, or outline it")
        corrected = [i for i in later if _prompt_rank(prompts_here[i]) != DRAWN]
        plain = dict(prompts_here)
        for i in prompts_here.keys() - corrected:
            plain[i], sure = outline_closely(self.config.backbone, viewer, i, prompts_here[i], self.config.judge)
            if sure is not None:
                self._believed[label, i] = sure
        fitted = {i: to_network(prompt, viewer.shapes[i], viewer.size) for i, prompt in plain.items()}
        corrections = {i: fitted.pop(i) for i in corrected}
        return Fixed(fitted, corrections)

    def _resemblance(self, images: Sequence[int]) -> NDArray[np.float64]:
        """Largest cosine to a memory, mean over the objects; far below any for an image that cannot be used."""
        viewer = self.config.viewer
        worth = np.full(len(images), -2.0)
        places = [place for place, i in enumerate(images) if viewer.usable(i)]
        if places:
            queries = np.stack([viewer.summary(images[place]) for place in places])
            banks = [np.stack([unit_vector(m.summary_C) for m in own]) for own in self._bank.memories if own]
            worth[places] = np.mean([(queries @ bank.T).max(1) for bank in banks], axis=0)
        return worth


def _prompt_rank(prompt: FramePrompt) -> int:
    """How well a prompt shows what its object is: the smaller, the better."""
    if prompt.mask_hw is not None or prompt.box_xyxy is not None:
        return DRAWN
    return CLICKED if prompt.shows_object else NEGATIVE


def _round_robin(walks: Sequence[Iterator[_ImageStep]]) -> Iterator[_ImageStep]:
    """A step of each, again and again, until all have ended."""
    left = list(walks)
    while left:
        for walk in list(left):
            step = next(walk, None)
            if step is None:
                left.remove(walk)
            else:
                yield step


def _group_objects(labels: Sequence[int], prompts: SetPrompts) -> list[dict[int, dict[int, FramePrompt]]]:
    """The objects by the images that they are prompted on, and how: each with its prompts."""
    groups: dict[frozenset[tuple[int, int]], dict[int, dict[int, FramePrompt]]] = {}
    for label in labels:
        prompts_here = {i: own[label] for i, own in prompts.items() if label in own}
        groups.setdefault(frozenset((i, _prompt_rank(prompt)) for i, prompt in prompts_here.items()), {})[label] = prompts_here
    return list(groups.values())


def _merge_steps(viewer: ImageViewer, steps: Sequence[_ImageStep], prompts_here: Mapping[int, FramePrompt]) -> ImageMask:
    """One label map of all objects, with what was outlined as it was drawn."""
    index = steps[0].index
    labels = [label for step in steps for label in step.labels]
    logits = torch.cat([step.logits_Bhw for step in steps])
    shown = [label for label, prompt in prompts_here.items() if prompt.shows_object]
    found = label_map(labels, logits, viewer.shapes[index], shown)
    for label, prompt in prompts_here.items():
        redraw(found[None], label, {0: prompt})
        if prompt.mask_hw is None and not prompt.labels.all():
            found[replace(prompt, mask_hw=found == label).cleared_hw()] = 0
    confidence = dict(zip(labels, (sure for step in steps for sure in step.confidence), strict=True))
    likeness = float(np.mean([step.likeness for step in steps]))
    return ImageMask(index, found, dict(sorted(confidence.items())), likeness, prompted=bool(prompts_here))


def _blank_result(viewer: ImageViewer, index: int, labels: Sequence[int]) -> ImageMask:
    empty = np.zeros(viewer.shapes[index], np.min_scalar_type(max(labels)))
    return ImageMask(index, empty, dict.fromkeys(labels, 0.0), likeness=0.0, warnings=(BLANK,))


def _checked_labels(viewer: ImageViewer, prompts: SetPrompts) -> list[int]:
    """The objects, if their prompts can be used."""
    given = {label for prompts_here in prompts.values() for label in prompts_here}
    if not given:
        raise PromptError("no image is prompted", "outline the object on at least one image")
    for label in given:
        check_object(label)
    labels = sorted(given)
    absent = [i for i in prompts if not 0 <= i < len(viewer.images)]
    if absent:
        raise PromptError(f"there is no image {absent[0]} among {len(viewer.images)}", "number images from 0")
    for i, prompts_here in prompts.items():
        viewer.summary(i)
        for prompt in prompts_here.values():
            check_frame_prompt(prompt, viewer.shapes[i])
    return labels


def label_map(
    labels: Sequence[int], logits_Bhw: Tensor, shape_hw: tuple[int, int], shown: Collection[int] = ()
) -> NDArray[np.unsignedinteger]:
    """Labels (H, W) in the smallest unsigned type: each pixel goes to the object of the largest logit over 0.

    Objects that a person has `shown` on this image come before those that were only found on it.
    Logits are enlarged as in `frames.to_frame`, but in strips of rows: no float for each pixel of a huge image.
    """
    height, width = shape_hw
    table = np.array([0, *labels], np.min_scalar_type(max(labels)))
    found = np.empty(shape_hw, table.dtype)
    rows = max(1, STRIP_PIXELS // (width * len(labels)))
    logits = logits_Bhw.float()
    first = torch.tensor([label in shown for label in labels], device=logits.device)[:, None, None] * BEFORE_OTHERS
    for start in range(0, height, rows):
        stop = min(start + rows, height)
        enlarged = _interpolate_rows(logits, start, stop, height, width)
        top, places = (enlarged + first * (enlarged > 0) if shown else enlarged).max(0)
        found[start:stop] = table[torch.where(top > 0, places + 1, 0).cpu().numpy()]
    return found


def _interpolate_rows(logits_Bhw: Tensor, start: int, stop: int, height: int, width: int) -> Tensor:
    """Rows `start` to `stop` of the logits at (height, width), bilinear between pixel centres."""
    last = logits_Bhw.shape[1] - 1
    y = ((torch.arange(start, stop, device=logits_Bhw.device) + 0.5) * ((last + 1) / height) - 0.5).clamp(0, last)
    upper = y.floor().long()
    share = (y - upper)[None, :, None]
    between = logits_Bhw[:, upper] * (1 - share) + logits_Bhw[:, (upper + 1).clamp(max=last)] * share
    return F.interpolate(between, size=width, mode="linear", align_corners=False)

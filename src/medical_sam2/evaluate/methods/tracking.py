"""How much the memories of a bank tell about each other: their pairwise mutual information (METHOD, equations 7–11; Fig. 6).

The estimate is that of a Gaussian copula (Ince et al. 2017): values become normal scores by their ranks, then
I = ½ log(|Σx|·|Σy| / |Σxy|). It is exact for Gaussians, whatever monotone function was applied to each variable, and a lower
bound otherwise. The paper does not say how it estimates; figures are comparable within this project only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from torch import Tensor

from medical_sam2.errors import GeometryError
from medical_sam2.evaluate.cases import VolumeTask
from medical_sam2.evaluate.methods.interface import MethodAnswer, MethodInputs
from medical_sam2.evaluate.prompting import FramePrompts
from medical_sam2.model.backbone import Memory, Recalled
from medical_sam2.model.memory_bank import Policy
from medical_sam2.prompts import FramePrompt
from medical_sam2.segmenter import Segmenter

Floats = NDArray[np.float64]


def mutual_information(one: ArrayLike, other: ArrayLike) -> float:
    """Mutual information of two variables in nats, from paired samples.

    Args:
        one: (N,) samples, or (N, D) of D variables together.
        other: (N,) or (N, E), sample by sample beside the first.

    Returns:
        At least 0; `inf` where one determines the other linearly after ranking.

    Raises:
        GeometryError: the samples do not pair, or are too few for so many variables.
    """
    x, y = _as_columns(one), _as_columns(other)
    if len(x) != len(y):
        raise GeometryError(f"{len(x)} and {len(y)} samples do not pair", "give as many of each")
    if len(x) <= x.shape[1] + y.shape[1] + 1:
        raise GeometryError(f"{len(x)} samples are too few for {x.shape[1] + y.shape[1]} variables", "give more samples")
    both = np.cov(np.concatenate([_normal_scores(x), _normal_scores(y)], axis=1), rowvar=False)
    d = x.shape[1]
    with np.errstate(divide="ignore"):
        whole, first, second = (np.linalg.slogdet(part)[1] for part in (both, both[:d, :d], both[d:, d:]))
    return float("inf") if whole == -np.inf else max(0.0, float(first + second - whole) / 2)


def mean_bank_information(maps_KChw: Sequence[ArrayLike]) -> float:
    """Mean mutual information in nats of all pairs of memories, value by value; nan for fewer than two.

    Args:
        maps_KChw: outputs of the memory encoder, (C, h, w) each.
    """
    flat = [np.asarray(each, np.float64).ravel() for each in maps_KChw]
    pairs = [mutual_information(flat[i], flat[j]) for i in range(len(flat)) for j in range(i)]
    return float(np.mean(pairs)) if pairs else float("nan")


def _as_columns(values: ArrayLike) -> Floats:
    array = np.asarray(values, np.float64)
    return array[:, None] if array.ndim == 1 else array


def _normal_scores(samples: Floats) -> Floats:
    """Normal scores: equal values share a rank."""
    return np.asarray(stats.norm.ppf(stats.rankdata(samples, axis=0) / (len(samples) + 1)))


def segment_one_by_one(
    segmenter: Segmenter, frames: Sequence[NDArray[np.generic]], prompts: Mapping[int, FramePrompt]
) -> dict[int, NDArray[np.bool_]]:
    """Outlines (H, W) of the prompted frames, each from its own prompt alone; what is not prompted gets no answer.

    Args:
        segmenter: with any weights.
        frames: slices (H, W) or pictures (H, W, 3).
        prompts: frame → its prompt, in its pixels.
    """
    return {
        t: answer.labels > 0
        for t, prompt in prompts.items()
        for answer in segmenter.segment_images([frames[t]], {0: {1: prompt}})
    }


@dataclass(frozen=True)
class TrackingMethod:
    """The network with a memory bank."""

    bank: Callable[[], Policy]  # makes its policy

    def on_volume(self, inputs: MethodInputs, task: VolumeTask, prompts: FramePrompts) -> MethodAnswer:
        """Through the slices, or all views."""
        seen: list[float] = []
        in_voxels = [task.in_volume(t, prompt) for t, prompt in sorted(prompts.items())]
        answer = inputs.segmenter.segment_volume(
            task.volume, in_voxels, views=inputs.views, bank=self._bank(inputs, seen), fusion=inputs.fusion
        )
        axes = task.volume.orientation
        thick = task.volume.shape[task.view.order(axes)[0]]
        back = task.view.flipped(axes)[0]
        sure = {
            thick - 1 - row.slice if back else row.slice: row.confidence
            for row in answer.confidence
            if row.view == task.view.code
        }
        return MethodAnswer(list(task.view.apply(answer.labels > 0, axes)), _drop_prompted(sure, prompts), seen)

    def on_images(self, inputs: MethodInputs, images: Sequence[NDArray[np.generic]], prompts: FramePrompts) -> MethodAnswer:
        """Through the images, in the order that is asked for."""
        seen: list[float] = []
        by_object = {i: {1: prompt} for i, prompt in prompts.items()}
        order = [i for i in inputs.order if i not in prompts]
        answers = inputs.segmenter.segment_images(images, by_object, bank=self._bank(inputs, seen), order=order)
        found = {each.index: each for each in answers}
        masks = [found[i].labels > 0 if i in found else np.zeros(image.shape[:2], bool) for i, image in enumerate(images)]
        return MethodAnswer(masks, _drop_prompted({i: each.confidence[1] for i, each in found.items()}, prompts), seen)

    def _bank(self, inputs: MethodInputs, seen: list[float]) -> Callable[[], Policy]:
        return partial(WatchedPolicy, self.bank, seen) if inputs.watch else self.bank


@dataclass(frozen=True)
class WithoutMemory:
    """Each prompted frame by itself, as SAM is used; what nobody prompted gets no answer, which scores 0."""

    def on_volume(self, inputs: MethodInputs, task: VolumeTask, prompts: FramePrompts) -> MethodAnswer:
        """Slice by slice."""
        return self.on_images(inputs, list(task.window(prompts).apply(task.slices_thw)), prompts)

    def on_images(self, inputs: MethodInputs, images: Sequence[NDArray[np.generic]], prompts: FramePrompts) -> MethodAnswer:
        """Image by image."""
        answers = segment_one_by_one(inputs.segmenter, images, prompts)
        return MethodAnswer([answers.get(i, np.zeros(image.shape[:2], bool)) for i, image in enumerate(images)])


class WatchedPolicy:
    """A policy that notes how much the memories tell about each other that a frame attends to.

    Args:
        make: the policy itself.
        seen: where it is noted, in nats; frames with fewer than two memories are left out.
    """

    def __init__(self, make: Callable[[], Policy], seen: list[float]) -> None:
        self._policy, self._seen = make(), seen

    def keep(self, bank: list[Memory], new: Memory) -> list[Memory]:
        """As the policy itself."""
        return self._policy.keep(bank, new)

    def weigh(self, bank: list[Memory], t: int, query_C: Tensor) -> list[Recalled]:
        """As the policy itself, noted."""
        recalled = self._policy.weigh(bank, t, query_C)
        maps = [each.memory.map_Chw.detach().float().cpu().numpy() for each in recalled if each.map]
        if len(maps) > 1:
            self._seen.append(mean_bank_information(maps))
        return recalled


def _drop_prompted(sure: Mapping[int, float], prompts: FramePrompts) -> dict[int, float]:
    return {t: value for t, value in sure.items() if t not in prompts}

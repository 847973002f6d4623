"""Our own network as a method: with a memory bank, frame by frame, or with its features alone, as prototypes.

How much the memories of a bank tell about each other is their pairwise mutual information (METHOD, equations 7–11; Fig. 6),
by a Gaussian copula (Ince et al. 2017): values become normal scores by their ranks, then I = ½ log(|Σx|·|Σy| / |Σxy|). It is
exact for Gaussians, whatever monotone function was applied to each variable, and a lower bound otherwise. The paper does not
say how it estimates; figures are comparable within this project only.

Prototypes, two baselines on any encoder. Global ones are those of PANet (Wang et al. 2019): the mean feature inside and outside
of the outline; a pixel goes to the nearer by cosine, times 20, through a softmax. Local ones are those of ALPNet (Ouyang et
al. 2020): means of windows as well, each class answering with its prototypes' similarities, weighed by their own softmax.

Shapes: C channels, h w feature map, H W picture, K prototypes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from medical_sam2.errors import GeometryError, PromptError
from medical_sam2.evaluate.cases import FramePrompts, MaskArray, VolumeTask
from medical_sam2.evaluate.methods.interface import MethodAnswer, MethodInputs
from medical_sam2.intensity_window import percentile_window
from medical_sam2.model.backbone import Features, Memory, Recalled
from medical_sam2.model.memory_bank import Policy
from medical_sam2.prompts import FramePrompt
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.frames import MARGIN, Canvas, Region, around_all, box_of, to_input


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
    """Mean mutual information in nats of all pairs of memories (C, h, w), value by value; nan for fewer than two."""
    flat = [np.asarray(each, np.float64).ravel() for each in maps_KChw]
    pairs = [mutual_information(flat[i], flat[j]) for i in range(len(flat)) for j in range(i)]
    return float(np.mean(pairs)) if pairs else float("nan")


def _as_columns(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    return array[:, None] if array.ndim == 1 else array


def _normal_scores(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Normal scores: equal values share a rank."""
    return np.asarray(stats.norm.ppf(stats.rankdata(samples, axis=0) / (len(samples) + 1)))


def segment_one_by_one(
    segmenter: Segmenter, frames: Sequence[NDArray[np.generic]], prompts: Mapping[int, FramePrompt]
) -> dict[int, NDArray[np.bool_]]:
    """Outlines (H, W) of the prompted frames, slices or pictures, each from its own prompt alone; others get no answer."""
    return {
        t: answer.labels > 0
        for t, prompt in prompts.items()
        for answer in segmenter.segment_images([frames[t]], {0: {1: prompt}})
    }


@dataclass(frozen=True)
class TrackingMethod:
    """The network with a memory bank."""

    bank: Callable[[], Policy]  # makes its policy
    views: str | None = None  # of volumes; those of the protocol unless given, and then of no interest in sets

    def on_volume(self, inputs: MethodInputs, task: VolumeTask, prompts: FramePrompts) -> MethodAnswer:
        """Through the slices, or all views."""
        seen, in_voxels = list[float](), inputs.volume_prompts or task.all_in_volume(prompts)
        answer = inputs.segmenter.segment_volume(
            task.volume, in_voxels, views=self.views or inputs.views, bank=self._bank(inputs, seen), fusion=inputs.fusion
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

    def correct_volume(
        self, inputs: MethodInputs, task: VolumeTask, earlier_thw: MaskArray, prompts: FramePrompts
    ) -> MethodAnswer:
        """Around the clicked slice; the rest stays."""
        axes = task.volume.orientation
        earlier = np.zeros(task.volume.shape, np.uint8)
        task.view.apply(earlier, axes)[earlier_thw] = 1
        answer = inputs.segmenter.segment_volume(
            task.volume, task.all_in_volume(prompts), views="one", bank=self.bank, earlier=earlier
        )
        return MethodAnswer(list(task.view.apply(answer.labels > 0, axes)))

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


SHARPNESS = 20.0
FULL = 0.95  # share of a window that must be of one class to make a local prototype, as in ALPNet


@dataclass(frozen=True, eq=False)
class Prototypes:
    """What a template taught."""

    inside_KC: Tensor  # unit vectors of the object
    outside_KC: Tensor  # unit vectors of what is not

    @classmethod
    def learnt(cls, features_Chw: Tensor, mask_HW: Tensor, *, window: int | None = None) -> "Prototypes":
        """From the features of a template and its outline.

        Args:
            mask_HW: bool, of any size.
            window: side of the windows of local prototypes, in cells of the feature map; None for global ones alone.

        Raises:
            PromptError: the outline is empty, or the whole picture.
        """
        if not mask_HW.any() or mask_HW.all():
            raise PromptError("the outline leaves nothing to compare with", "outline a part of the picture")
        _, height, width = features_Chw.shape
        share_hw = F.adaptive_avg_pool2d(mask_HW[None, None].to(features_Chw), (height, width))[0, 0]
        return cls(_class_prototypes(features_Chw, share_hw, window), _class_prototypes(features_Chw, 1 - share_hw, window))

    @classmethod
    def together(cls, taught: "Sequence[Prototypes]", *, mean: bool) -> "Prototypes":
        """What several templates taught: all their prototypes, or for each class the mean of them."""

        def joined(parts: list[Tensor]) -> Tensor:
            every_KC = torch.cat(parts)
            return F.normalize(every_KC.mean(dim=0, keepdim=True), dim=1) if mean else every_KC

        return cls(joined([each.inside_KC for each in taught]), joined([each.outside_KC for each in taught]))

    def likeness(self, features_Chw: Tensor, shape_hw: tuple[int, int]) -> Tensor:
        """Probability (H, W) of the object on a picture with these features; raises GeometryError for another encoder's."""
        if features_Chw.shape[0] != self.inside_KC.shape[1]:
            channels = f"{features_Chw.shape[0]} channels, the template {self.inside_KC.shape[1]}"
            raise GeometryError(f"the features have {channels}", "encode both alike")
        unit_Chw = F.normalize(features_Chw, dim=0)
        scores = torch.stack([_class_score(unit_Chw, each) for each in (self.outside_KC, self.inside_KC)])
        whole = F.interpolate(scores[None], size=shape_hw, mode="bilinear", align_corners=False)[0]
        return whole.softmax(dim=0)[1]


def matching_features(features: Features) -> Tensor:
    """What is matched of an encoded picture: the maps of stride 16 and 8 at stride 8, each of mean length 1, (C, h, w)."""
    fine_Chw, top_Chw = features.fine_BChw[1][0].float(), features.top_BChw[0].float()
    raised_Chw = F.interpolate(top_Chw[None], size=fine_Chw.shape[1:], mode="bilinear", align_corners=False)[0]
    return torch.cat([each / each.norm(dim=0).mean().clamp(min=1e-6) for each in (raised_Chw, fine_Chw)])


def _class_prototypes(features_Chw: Tensor, share_hw: Tensor, window: int | None) -> Tensor:
    """The mean feature of a class, weighed by its share of each cell, and those of windows full of it: (K, C) of length 1."""
    whole_C = (features_Chw * share_hw).sum(dim=(1, 2)) / share_hw.sum()
    found_KC = whole_C[None]
    if window is not None:
        means = F.avg_pool2d(features_Chw[None], window, ceil_mode=True, count_include_pad=False)[0]
        shares = F.avg_pool2d(share_hw[None, None], window, ceil_mode=True, count_include_pad=False)[0, 0]
        found_KC = torch.cat([found_KC, means[:, shares >= FULL].T])
    return F.normalize(found_KC, dim=1)


def _class_score(unit_Chw: Tensor, prototypes_KC: Tensor) -> Tensor:
    similar_Khw = SHARPNESS * torch.einsum("chw,kc->khw", unit_Chw, prototypes_KC)
    return (similar_Khw.softmax(dim=0) * similar_Khw).sum(dim=0)


@dataclass(frozen=True)
class Prototypical:
    """Mean features of the prompted frames against those of every other frame, as PANet; of windows too, as ALPNet.

    What a box or a click means on its own frame is what the network, asked there, answers. The slices of a volume are seen
    in the region that tracking would begin with.
    """

    # side of the windows of local prototypes, in cells of the feature map; None for global ones alone
    window: int | None = None

    def on_volume(self, inputs: MethodInputs, task: VolumeTask, prompts: FramePrompts) -> MethodAnswer:
        """Slice by slice."""
        slices = task.window(prompts).apply(task.slices_thw)
        outlines = outline_prompted(inputs, list(slices), prompts)
        _, high, wide = task.view.spacing(task.volume.spacing_mm, task.volume.orientation)
        canvas = Canvas((slices.shape[1], slices.shape[2]), (high, wide))
        region = canvas.around(around_all(box_of(mask) for mask in outlines.values()), MARGIN)
        return self._matched(inputs, list(slices), outlines, region)

    def on_images(self, inputs: MethodInputs, images: Sequence[NDArray[np.generic]], prompts: FramePrompts) -> MethodAnswer:
        """Image by image."""
        pictures = [percentile_window(image).apply(image) for image in images]
        return self._matched(inputs, pictures, outline_prompted(inputs, images, prompts), None)

    @torch.inference_mode()
    def _matched(
        self,
        inputs: MethodInputs,
        pictures: Sequence[NDArray[np.float32]],
        outlines: dict[int, MaskArray],
        region: Region | None,
    ) -> MethodAnswer:
        def seen(t: int) -> Tensor:
            shown = pictures[t] if region is None else pictures[t][region.rows, region.columns]
            with segmenter.computing():
                return matching_features(segmenter.encode(to_input(shown, segmenter.network.image_size)))

        segmenter = inputs.segmenter
        cut = {t: mask if region is None else mask[region.rows, region.columns] for t, mask in outlines.items()}
        taught = [
            Prototypes.learnt(seen(t), torch.from_numpy(np.ascontiguousarray(mask)), window=self.window)
            for t, mask in cut.items()
        ]
        prototypes = Prototypes.together(taught, mean=self.window is None)
        masks: list[MaskArray] = []
        for t, picture in enumerate(pictures):
            whole: MaskArray = np.zeros((picture.shape[0], picture.shape[1]), bool)
            place = Region(0, 0, picture.shape[0], picture.shape[1]) if region is None else region
            whole[place.rows, place.columns] = (prototypes.likeness(seen(t), place.shape_hw) > 0.5).cpu().numpy()
            masks.append(outlines.get(t, whole))
        return MethodAnswer(masks)


def outline_prompted(
    inputs: MethodInputs, frames: Sequence[NDArray[np.generic]], prompts: FramePrompts
) -> dict[int, MaskArray]:
    """What the prompts mean on their own frames; frames on which that is nothing, or everything, teach nothing."""
    drawn = {t: prompt.mask_hw for t, prompt in prompts.items() if prompt.mask_hw is not None}
    rest = {t: prompt for t, prompt in prompts.items() if t not in drawn}
    found = drawn | segment_one_by_one(inputs.segmenter, frames, rest)
    useful = {t: mask for t, mask in sorted(found.items()) if mask.any() and not mask.all()}
    if not useful:
        raise PromptError("the network outlines nothing, or everything, at the prompts", "prompt with an outline")
    return useful

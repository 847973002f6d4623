"""The network itself: with a memory bank, or each prompted frame by itself.

Shapes: T slices of the prompted view, or images of a set; H W pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medical_sam2.evaluate.information import of_bank
from medical_sam2.evaluate.methods.method import Asked, Found, Said, slices_of, window_of
from medical_sam2.evaluate.methods.without_memory import one_by_one
from medical_sam2.evaluate.tasks import VolumeTask
from medical_sam2.model.backbone import Memory, Recalled
from medical_sam2.model.memory_bank import Policy


@dataclass(frozen=True)
class Tracking:
    """The network with a memory bank.

    Args:
        bank: makes its policy.
    """

    bank: Callable[[], Policy]

    def on_volume(self, asked: Asked, task: VolumeTask, said: Said) -> Found:
        """Through the slices, or all views."""
        seen: list[float] = []
        prompts = [task.in_volume(t, prompt) for t, prompt in sorted(said.items())]
        answer = asked.segmenter.segment_volume(
            task.volume, prompts, views=asked.views, bank=self._bank(asked, seen), fusion=asked.fusion
        )
        axes = task.volume.orientation
        thick = task.volume.shape[task.view.order(axes)[0]]
        back = task.view.flipped(axes)[0]
        sure = {
            thick - 1 - row.slice if back else row.slice: row.confidence
            for row in answer.confidence
            if row.view == task.view.code
        }
        return Found(list(task.view.apply(answer.labels > 0, axes)), _unprompted(sure, said), seen)

    def on_images(self, asked: Asked, images: Sequence[NDArray[np.generic]], said: Said) -> Found:
        """Through the images, in the order that is asked for."""
        seen: list[float] = []
        prompts = {i: {1: prompt} for i, prompt in said.items()}
        order = [i for i in asked.order if i not in said]
        answers = asked.segmenter.segment_images(images, prompts, bank=self._bank(asked, seen), order=order)
        found = {each.index: each for each in answers}
        masks = [found[i].labels > 0 if i in found else np.zeros(image.shape[:2], bool) for i, image in enumerate(images)]
        return Found(masks, _unprompted({i: each.confidence[1] for i, each in found.items()}, said), seen)

    def _bank(self, asked: Asked, seen: list[float]) -> Callable[[], Policy]:
        return partial(Watched, self.bank, seen) if asked.watch else self.bank


@dataclass(frozen=True)
class WithoutMemory:
    """Each prompted frame by itself, as SAM is used; what nobody prompted gets no answer, which scores 0."""

    def on_volume(self, asked: Asked, task: VolumeTask, said: Said) -> Found:
        """Slice by slice."""
        slices = window_of(task, said).apply(slices_of(task))
        return self.on_images(asked, list(slices), said)

    def on_images(self, asked: Asked, images: Sequence[NDArray[np.generic]], said: Said) -> Found:
        """Image by image."""
        answers = one_by_one(asked.segmenter, images, said)
        return Found([answers.get(i, np.zeros(image.shape[:2], bool)) for i, image in enumerate(images)])


class Watched:
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
            self._seen.append(of_bank(maps))
        return recalled


def _unprompted(sure: Mapping[int, float], said: Said) -> dict[int, float]:
    return {t: value for t, value in sure.items() if t not in said}

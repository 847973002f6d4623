"""This package on a scene, with a stopwatch for each verb of the network.

Shapes: B objects, N frames, S side of the network's square input, h w feature map.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from medical_sam2.evaluate.speed.scene import Scene, Steps
from medical_sam2.features import FeatureCache
from medical_sam2.model.backbone import Features, FramePrediction, Instruction, Memory, Recall
from medical_sam2.model.memory import Fifo, PolicyBank
from medical_sam2.model.sam2 import Sam2
from medical_sam2.model.tracker import track
from medical_sam2.prompts import Fixed, FramePrompt
from medical_sam2.segmenter import Precision, Segmenter

VERBS = ("encode", "fuse", "decode", "memorise")
T = TypeVar("T")


@dataclass(eq=False)
class Watched:
    """A network whose verbs are timed, in seconds of the processor.

    Args:
        network: that does the work.
        spent: verb → seconds of each call.
        counting: whether operations are counted in place of seconds, which takes longer.
        counted: verb → operations of the last call that was counted; a multiplication with its addition is two.
    """

    network: Sam2
    spent: dict[str, list[float]] = field(default_factory=lambda: {verb: [] for verb in VERBS})
    counting: bool = False
    counted: dict[str, int] = field(default_factory=dict)

    @property
    def image_size(self) -> int:
        """Side S of the square input in pixels."""
        return self.network.image_size

    def encode(self, frames_N3SS: Tensor) -> Features:
        """See N frames."""
        return self._timed("encode", lambda: self.network.encode(frames_N3SS))

    def fuse(self, frame: Features, recall: Recall) -> Tensor:
        """Memory attention."""
        return self._timed("fuse", lambda: self.network.fuse(frame, recall))

    def decode(self, frame: Features, fused_BChw: Tensor, instructions: Sequence[Instruction | None]) -> FramePrediction:
        """Prompt encoder and mask decoder."""
        return self._timed("decode", lambda: self.network.decode(frame, fused_BChw, instructions))

    def memorise(self, frame: Features, prediction: FramePrediction, t: int, prompted: Sequence[bool]) -> list[Memory]:
        """Memory encoder."""
        return self._timed("memorise", lambda: self.network.memorise(frame, prediction, t, prompted))

    def _timed(self, verb: str, work: Callable[[], T]) -> T:
        if self.counting:
            with FlopCounterMode(display=False) as counter:
                result = work()
            self.counted[verb] = counter.get_total_flops()
            return result
        start = time.process_time()
        result = work()
        self.spent[verb].append(time.process_time() - start)
        return result


def tracked(watched: Watched, scene: Scene, precision: Precision, kept: FeatureCache) -> Steps:
    """Objects in one batch through the frames; what `kept` holds is not encoded again."""
    segmenter = Segmenter(watched.network, device="cpu", precision=precision)

    def features(t: int) -> Features:
        return kept.get((precision, t), lambda: watched.encode(watched.network.normalised(scene.frames_T3SS[t][None])))

    frames = range(len(scene.frames_T3SS))
    bank, prompters = PolicyBank(lambda: Fifo(frames=len(frames))), [Fixed({0: FramePrompt.box(*box)}) for box in scene.boxes]
    steps = track(watched, features, frames, prompters, bank)
    for _ in frames:
        with torch.no_grad() if watched.counting else torch.inference_mode(), segmenter.computing():
            _, prediction = next(steps)
        yield prediction.logits_Bhw.float()

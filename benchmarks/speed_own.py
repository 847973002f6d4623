"""This package on a scene, with a stopwatch for each verb of the network.

Shapes: B objects, N frames, S side of the network's square input, h w feature map.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from medical_sam2.model.backbone import Features, FramePrediction, Fused, Instruction, Memory, Recall
from medical_sam2.model.memory_bank import Fifo, PolicyBank
from medical_sam2.model.sam2 import Sam2
from medical_sam2.model.tracker import track
from medical_sam2.prompts import Fixed, FramePrompt
from medical_sam2.segmenter import Precision, Segmenter
from medical_sam2.tracking.encoding import FeatureCache
from speed_scene import Scene, Steps

VERBS = ("encode", "fuse", "decode", "memorise")
WAYS: Mapping[str, Callable[[Sam2], Segmenter]] = {
    "fp32": lambda network: Segmenter(network, device="cpu", precision="fp32"),
    "bf16": lambda network: Segmenter(network, device="cpu", precision="bf16"),
    "OpenVINO, bf16": lambda network: Segmenter(network, device="cpu", precision="bf16", engine="openvino"),
}
"""Name of a run → this package as it computes in it; one more run is one more line."""
HERE = tuple(name for name in WAYS if find_spec("openvino") or not name.startswith("OpenVINO"))
"""The runs that this installation can do."""
T = TypeVar("T")


@dataclass(eq=False)
class Watched:
    """A network whose verbs are timed, in seconds of the processor.

    Args:
        segmenter: whose network does the work.
        spent: verb → seconds of each call.
        counting: whether operations are counted in place of seconds, which takes longer.
        counted: verb → operations of the last call that was counted; a multiplication with its addition is two.
    """

    segmenter: Segmenter
    spent: dict[str, list[float]] = field(default_factory=lambda: {verb: [] for verb in VERBS})
    counting: bool = False
    counted: dict[str, int] = field(default_factory=dict)

    @property
    def network(self) -> Sam2:
        """That does the work."""
        return self.segmenter.network

    @property
    def precision(self) -> Precision:
        """That it computes in."""
        return self.segmenter.precision

    @property
    def image_size(self) -> int:
        """Side S of the square input in pixels."""
        return self.network.image_size

    def encode(self, frames_N3SS: Tensor) -> Features:
        """See one frame (N is 1), by whatever encoder the segmenter has."""
        if self.counting:  # of operations, which are the same whatever does them
            return self._timed("encode", lambda: self.network.encode(self.network.normalised(frames_N3SS)))
        return self._timed("encode", lambda: self.segmenter.encode(frames_N3SS[0]))

    def fuse(self, frame: Features, recall: Recall) -> Fused:
        """Memory attention."""
        return self._timed("fuse", lambda: self.network.fuse(frame, recall))

    def decode(self, frame: Features, fused: Fused, instructions: Sequence[Instruction | None]) -> FramePrediction:
        """Prompt encoder and mask decoder."""
        return self._timed("decode", lambda: self.network.decode(frame, fused, instructions))

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


def tracked(watched: Watched, scene: Scene, name: str, kept: FeatureCache) -> Steps:
    """Objects in one batch through the frames; what `kept` holds under the name of the run is not encoded again."""

    def features(t: int) -> Features:
        return kept.get((name, t), lambda: watched.encode(scene.frames_T3SS[t][None]))

    frames = range(len(scene.frames_T3SS))
    bank, prompters = PolicyBank(lambda: Fifo(frames=len(frames))), [Fixed({0: FramePrompt.box(*box)}) for box in scene.boxes]
    steps = track(watched, features, frames, prompters, bank)
    for _ in frames:
        with torch.no_grad(), watched.segmenter.computing():
            _, prediction = next(steps)
        yield prediction.logits_Bhw.float()

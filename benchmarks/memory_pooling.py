"""What `pool_memory` saves and costs: time of memory attention and error of its answers, SAM 2 tiny with random weights.

    python benchmarks/memory_pooling.py [--sizes 256 512 1024] [--memories 7] [--margins 0 1 2] [--precision auto]

A disc in noise moves a little from frame to frame; it is outlined on all frames but the last, which is answered for. Printed
for each size: milliseconds of the processor to encode a frame; for each margin: those to fuse the last frame with its
memories, one by one and pooled, in turn; the largest error of the fused map and of the mask's logits, as shares of their
largest value and spread; the pixels that lie on the same side of the median logit. Random weights attend to everything
alike, so that the error says little of trained ones: `ablations.py --parts` has what it costs `nano`.
"""

import argparse
import sys
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medical_sam2.model.backbone import Features, Instruction, Recalled
from medical_sam2.model.device import choose_precision
from medical_sam2.model.modules import Sam2Config
from medical_sam2.model.sam2 import Sam2
from medical_sam2.prompts import FramePrompt


def disc(size: int, t: int) -> NDArray[np.bool_]:
    """What is outlined on a frame."""
    y, x = np.mgrid[:size, :size] / size
    return (y - 0.45 - 0.01 * t) ** 2 + (x - 0.5) ** 2 < 0.15**2


def picture(size: int, t: int) -> Tensor:
    """The frame (1, 3, S, S)."""
    noise = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(t))
    return (0.2 * noise + 0.6 * torch.as_tensor(disc(size, t)).float()).expand(1, 3, -1, -1)


class Clip:
    """Frames of one size, seen by a network with random weights.

    Args:
        size: side of the frames.
        memories: frames that are remembered.
    """

    def __init__(self, size: int, memories: int) -> None:
        torch.manual_seed(0)
        self.network = Sam2(Sam2Config(image_size=size)).eval()
        for part in ("no_memory_embedding", "memory_temporal_positional_encoding", "no_object_pointer"):
            torch.nn.init.normal_(getattr(self.network, part), std=0.02)
        self.frames: list[Features] = [self.network.encode(picture(size, t)) for t in range(memories)]
        began = time.process_time()
        self.frames.append(self.network.encode(picture(size, memories)))
        self.encoder_s = time.process_time() - began

    def answer(self, margin: int | None) -> tuple[Tensor, Tensor, float]:
        """The fused map of the last frame, its logits, and seconds of the processor to fuse."""
        network, recall = self.network, list[Recalled]()
        network.pool_margin = margin
        for t, frame in enumerate(self.frames[:-1]):
            drawn = FramePrompt(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), mask_hw=disc(network.image_size, t))
            found = network.decode(frame, network.fuse(frame, [[]]), [Instruction(drawn)])
            recall += [Recalled(memory, place=0) for memory in network.memorise(frame, found, t, [True])]
        network.fuse(self.frames[-1], [recall])  # keys that are kept are made
        began = time.process_time()
        fused = network.fuse(self.frames[-1], [recall])
        spent = time.process_time() - began
        return fused.map_BChw.float(), network.decode(self.frames[-1], fused, [None]).candidates_BKhw.float(), spent


def compare(clip: Clip, margin: int) -> str:
    """A line of the table."""
    rounds = [(clip.answer(None), clip.answer(margin)) for _ in range(2)]
    (fused, logits, _), (fused_pooled, logits_pooled, _) = rounds[0]
    exact_s, pooled_s = (min(each[i][2] for each in rounds) for i in (0, 1))
    same = (logits > logits.median()) == (logits_pooled > logits_pooled.median())
    return (
        f"{clip.network.image_size:>4} px  margin {margin}  {1000 * exact_s:6.0f} ms, pooled {1000 * pooled_s:6.0f} ms "
        f"({exact_s / pooled_s:.2f} times)  map {float((fused - fused_pooled).abs().max() / fused.abs().max()):.4f}  "
        f"logits {float((logits - logits_pooled).abs().max() / logits.std()):.3f}  same side {float(same.float().mean()):.4f}"
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--memories", type=int, default=7)
    parser.add_argument("--margins", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    told = parser.parse_args()
    torch.set_num_threads(1)
    rounded = choose_precision(told.precision, torch.device("cpu")) == "bf16"
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=rounded):
        for size in told.sizes:
            clip = Clip(size, told.memories)
            sys.stdout.write(f"{size:>4} px  encoder {1000 * clip.encoder_s:6.0f} ms\n")
            for margin in told.margins:
                sys.stdout.write(compare(clip, margin) + "\n")
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())

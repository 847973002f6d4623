"""What a tracked slice costs the processor, here and in another copy of the package, in turn in one process.

    python benchmarks/slice_cost.py ../older/src [--side 256] [--slices 24] [--precision auto] [--rounds 4] [--weights nano]

Printed: milliseconds of one core for a slice, by part; the ratio of both in each round; how far their probabilities are apart.
Other programs change both alike. One object, one view, without the consensus, no slice seen before.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from memory import picture

PACKAGE = "medical_sam2"
PARTS = {  # class, wherever it is defined → what of it is timed
    "Nano": ("encode", "fuse", "decode", "memorise", "_attend"),
    "MaskPropagation": ("forward",),
    "LocalMatching": ("forward",),
    "PixelClassifier": ("forward", "sums"),
    "MaskRefiner": ("forward",),
    "MaskUpsampler": ("forward",),
    "FrameStack": ("input", "to_frame"),
}


class Copy:
    """The package as it lies in a folder, beside others of its name.

    Args:
        folder: that it lies in.
        told: the command's options.
    """

    def __init__(self, folder: Path, told: argparse.Namespace) -> None:
        sys.path.insert(0, str(folder))
        self.spent, self.rounds, self.modules = defaultdict[str, float](float), list[float](), dict[str, ModuleType]()
        with_it = __import__(f"{PACKAGE}.segmenter", fromlist=["Segmenter"])
        prompts, volumes = (__import__(f"{PACKAGE}.{name}", fromlist=["x"]) for name in ("prompts", "volume"))
        array = picture(told.side, told.slices)
        self.volume = volumes.Volume(array, np.diag([0.8, 0.8, 0.8, 1.0]), "CT")
        self.click = prompts.Point((told.side // 2, told.side // 2, told.slices // 2))
        self.segmenter = with_it.Segmenter.from_pretrained(told.weights, device="cpu", precision=told.precision, keep_mb=0.0)
        self.segmenter._see = lambda frames: self.segmenter.network.encode(self.segmenter.network.normalised(frames))
        loaded = [module for name, module in sys.modules.items() if name.partition(".")[0] == PACKAGE]
        for owner, parts in PARTS.items():
            for name in parts:
                self._time(next(getattr(module, owner) for module in loaded if hasattr(module, owner)), name)
        self.modules = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == PACKAGE}
        sys.path.remove(str(folder))

    def _time(self, owner: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def timed(*given: Any, **named: Any) -> Any:
            begin = time.process_time()
            try:
                return original(*given, **named)
            finally:
                self.spent[f"{owner.__name__}.{name}"] += time.process_time() - begin

        setattr(owner, name, timed)

    def track(self) -> Any:
        """One run; seconds of the processor a slice are noted."""
        sys.modules.update(self.modules)
        frames, begin = list[int](), time.process_time()
        found = self.segmenter.segment_volume(
            self.volume, [self.click], consensus=False, probability=True, on_frame=lambda done: frames.append(done.slice)
        )
        self.rounds.append((time.process_time() - begin) / len(frames))
        for name in self.modules:
            sys.modules.pop(name)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("other", type=Path, help="the folder src of another copy of the repository")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--slices", type=int, default=24)
    parser.add_argument("--weights", default="nano")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=4)
    told = parser.parse_args()
    torch.set_num_threads(1)
    copies = Copy(told.other, told), Copy(Path(__file__).resolve().parents[1] / "src", told)
    found = [copy.track() for copy in copies]  # memory, caches and kernels are made
    for copy in copies:
        copy.spent.clear()
        copy.rounds.clear()
    for turn in range(told.rounds):
        for copy in copies if turn % 2 == 0 else copies[::-1]:
            copy.track()
    for part in sorted(copies[0].spent, key=lambda name: -copies[0].spent[name]):
        each = [1000 * copy.spent[part] / told.rounds / told.slices for copy in copies]
        print(f"{part:28} {each[0]:7.2f} there {each[1]:7.2f} here")
    ratios = [there / here for there, here in zip(*(copy.rounds for copy in copies), strict=True)]
    there, here = (1000 * float(np.median(copy.rounds)) for copy in copies)
    spread = f"{np.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"all {there:.1f} ms there, {here:.1f} here: {spread}")
    apart = float(np.abs(found[0].probability[1] - found[1].probability[1]).max())
    print(f"probabilities at most {apart:.2g} apart, {int((found[0].labels != found[1].labels).sum())} voxels differ")


if __name__ == "__main__":
    main()

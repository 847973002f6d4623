"""One core beside two, the same volume in turn in one process: seconds, and whether both find the same to the last bit.

    python benchmarks/cores.py [--side 512] [--slices 300] [--views three] [--weights nano] [--threads 1 2] [--force]

`main` is the processor's time of the thread that waits for nobody: what one core takes over `main` with two is the most that
two can gain, which another program cannot disturb. A second core that others need is not used, unless `--force` is given.
"""

import argparse
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from medical_sam2.model import device
from medical_sam2.prompts import Point
from medical_sam2.segmenter import Segmenter
from medical_sam2.volume import Segmentation, Volume
from memory import picture


def measured(segmenter: Segmenter, volume: Volume, views: str, threads: int) -> tuple[Segmentation, dict[str, float]]:
    """One object, and what it took: wall clock, all threads, the main one, frames."""
    torch.set_num_threads(threads)
    frames = list[int]()
    middle = Point((volume.shape[0] // 2, volume.shape[1] // 2, volume.shape[2] // 2))
    begin = np.array([time.perf_counter(), time.process_time(), time.thread_time()])
    found = segmenter.segment_volume(volume, [middle], views=views, on_frame=lambda done: frames.append(done.slice))
    wall, every, own = np.array([time.perf_counter(), time.process_time(), time.thread_time()]) - begin
    return found, {"wall": wall, "processor": every, "main": own, "frames": len(frames)}


def report(rows: Sequence[dict[str, Any]], threads: Sequence[int]) -> str:
    """A line for each run, and how many times as fast each is as the first, by median."""
    lines = [
        f"{row['threads']} thread(s): {row['wall']:.1f} s, processor {row['processor']:.1f} s, main {row['main']:.1f} s,"
        f" {1000 * row['wall'] / row['frames']:.0f} ms a frame, {row['frames']} frames"
        for row in rows
    ]
    load = f"; load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    first = [row for row in rows if row["threads"] == threads[0]]
    for count in threads[1:]:
        pairs = list(zip(first, (row for row in rows if row["threads"] == count), strict=True))
        gain, most = (np.median([one[name] / other[name] for one, other in pairs]) for name in ("wall", "main"))
        lines.append(f"{count} threads: {gain:.2f} times as fast as {threads[0]}, {most:.2f} at most{load}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--views", default="three")
    parser.add_argument("--weights", default="nano")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--force", action="store_true", help="use the second core whether or not it is free")
    told = parser.parse_args()
    if told.force:
        device.second_core_is_free = lambda: True
    volume = Volume(picture(told.side, told.slices), np.diag([0.8, 0.8, 0.8, 1.0]), "CT")
    segmenter = Segmenter.from_pretrained(told.weights, device="cpu", precision=told.precision, keep_mb=0.0)
    torch.set_num_threads(max(told.threads))
    print(f"{segmenter.precision}; a second core is {'' if device.second_core_is_free() else 'not '}free", flush=True)
    measured(segmenter, Volume(volume.array[:, :, :8], volume.affine, "CT"), "one", told.threads[0])
    rows, found = list[dict[str, Any]](), dict[int, Segmentation]()
    for turn in range(told.rounds):
        for threads in told.threads if turn % 2 == 0 else told.threads[::-1]:
            found[threads], row = measured(segmenter, volume, told.views, threads)
            rows.append({"threads": threads, **row})
    print(report(rows, told.threads))
    same = all(np.array_equal(found[told.threads[0]].labels, other.labels) for other in found.values())
    print("the same labels" if same else "labels differ")
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())

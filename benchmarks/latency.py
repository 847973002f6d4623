"""From click to first mask: a CT of 512 × 512 × 300 through the server's own session, on this processor.

Each click falls on another place; a slice is seen before if somebody clicked on it. Where other work runs beside, the clock
on the wall tells of that too; the processor's time does not.

    python benchmarks/latency.py --threads 2
"""

import os
import platform
import statistics
import time
from argparse import ArgumentParser
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the server does it, and so are large pages
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
import torch

from medical_sam2.segmenter import Segmenter
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.segmentation import SessionVolume
from medical_sam2.server.session import Session
from medical_sam2.server.state import Gesture
from medical_sam2.volume import Volume

SHAPE = (512, 512, 300)


def ct() -> Volume:
    """Ellipsoids in a body, with noise, in Hounsfield units."""
    rng = np.random.default_rng(0)
    i, j, k = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    array = np.full(SHAPE, -1000, np.int16)
    array[((i - 256) / 200) ** 2 + ((j - 256) / 150) ** 2 + 0 * k < 1] = -90
    for _ in range(12):
        centre, radii = rng.uniform((120, 150, 40), (390, 360, 260)), rng.uniform(18, 60, 3)
        inside = sum(((axis - c) / r) ** 2 for axis, c, r in zip((i, j, k), centre, radii, strict=True)) < 1
        array[inside] = rng.integers(20, 160)
    array += rng.integers(-25, 26, SHAPE, dtype=np.int16)
    return Volume(array, np.diag([-0.8, -0.8, 1.5, 1.0]), "CT")


def clicks(session: Session, frames: list[int], rng: np.random.Generator) -> list[tuple[float, float]]:
    """Seconds until the slice's labels are there, on the wall and of the processor, for one click on each frame."""
    taken = list[tuple[float, float]]()
    for t in frames:
        y, x = (float(place) for place in rng.uniform((170, 130), (340, 380)))
        version = session.history.version
        start, busy = time.perf_counter(), time.process_time()
        session.add_gesture(version, Gesture(0, 1, "axial", t, "points", ((y, x),), (True,)))
        session.frame_labels("axial", t)
        taken.append((time.perf_counter() - start, time.process_time() - busy))
        session.undo(session.history.version)
    return taken


def row(name: str, seconds: list[tuple[float, float]]) -> str:
    """A line of the table."""
    wall, busy = (sorted(column) for column in zip(*seconds, strict=True))
    low, high = wall[len(wall) // 20], wall[-1 - len(wall) // 20]
    middle, work = statistics.median(wall), statistics.median(busy)
    return f"| {name} | {1000 * middle:.0f} | {1000 * low:.0f}–{1000 * high:.0f} | {1000 * work:.0f} |"


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clicks", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    queue, rng = InferenceQueue(Segmenter.from_pretrained), np.random.default_rng(1)
    with queue.segmenter(urgent=True) as segmenter:
        precision = segmenter.precision
    with TemporaryDirectory() as folder:
        session = Session("0" * 32, Path(folder), SessionVolume(ct()), queue)
        session.add_structure(0, "structure")
        first = clicks(session, [150], rng)
        frames = [int(t) for t in rng.permutation(np.arange(20, 280))[: arguments.clicks]]
        cold, warm = clicks(session, frames, rng), clicks(session, frames, rng)
    processor = platform.processor() or platform.machine()
    print(f"{processor}, {precision}, {arguments.threads} threads, {SHAPE}, {len(frames)} clicks\n")
    print("| | median ms | 5–95 % | processor ms |\n|---|---|---|---|")
    print("\n".join([row("the very first", first), row("a slice never seen", cold), row("a slice seen before", warm)]))


if __name__ == "__main__":
    main()

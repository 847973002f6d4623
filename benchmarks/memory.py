"""Peak memory and seconds of one object in a large CT, three axes: below 3 GB, and neither memory beside the arrays of the
volume's own size nor the cost of a slice growing with the number of slices.

    python benchmarks/memory.py [--slices 300 600] [--side 512] [--image-size 256] [--weights nano] [--threads 1] [-o OUT.md]

Each length gets a process of its own. What the interpreter holds once torch and this package are imported is taken off; so,
for the growth, are the arrays of the volume's own size: image (int16), summed probability (float32, float16 in large volumes),
labels (uint8) and the outline that is the prompt (bool): 8 bytes a voxel, 6 in large volumes. That is the most that they take:
parts of them that nothing is written to are never there. Without `--weights` the network has random ones, which take the same
memory. The cost of a slice is the time of the axial pass over the slices tracked in it, the first eight left out while the
memory of the network fills. The exit code is 1 where a limit is passed.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

LIMIT_GB, LIMIT_GROWTH = 3.0, 0.10
LEAST_REST_GB = 0.3  # of which the growth is a share where less is held
FILL = 8  # frames while the network's memory fills


@dataclass(frozen=True)
class Tick:
    """When a frame was done, in seconds of the processor."""

    view: str
    processor_s: float


def cost(ticks: Sequence[Tick]) -> float:
    """Seconds of the processor for a slice of the first view: median of the steps from one to the next."""
    own = [tick.processor_s for tick in ticks if tick.view == ticks[0].view][FILL:]
    return statistics.median(after - before for before, after in pairwise(own)) if len(own) > 1 else math.nan


def peak_bytes() -> int:
    """The most that this process has held in memory."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(rows["VmHWM"].split()[0]) * 1024


def measured(side: int, slices: int, image_size: int, weights: str | None) -> dict[str, Any]:
    """Segment one object, in this process."""
    from medical_sam2.model.nano import nano
    from medical_sam2.prompts import Mask
    from medical_sam2.segmenter import Segmenter
    from medical_sam2.tracking.plan import HALF_FROM_VOXELS
    from medical_sam2.volume import Volume

    segmenter = (
        Segmenter.from_pretrained(weights, device="cpu", image_size=image_size)
        if weights
        else Segmenter(certain(nano(image_size)), device="cpu")
    )
    before, ticks = peak_bytes(), list[Tick]()
    volume = Volume(picture(side, slices), np.diag([0.8, 0.8, 0.8, 1.0]), "CT")
    outline = np.zeros(volume.shape, bool)
    outline[side // 4 : -side // 4, side // 4 : -side // 4, slices // 2] = True
    started, worked = time.perf_counter(), time.process_time()
    found = segmenter.segment_volume(
        volume,
        [Mask(outline, axis=2)],
        views="three",
        on_frame=lambda done: ticks.append(Tick(done.view, time.process_time())),
    )
    frames, bytes_a_voxel = [tick.view for tick in ticks], 2 + (2 if volume.array.size >= HALF_FROM_VOXELS else 4) + 1 + 1
    return {
        "slices": slices,
        "peak_gb": (peak_bytes() - before) / 1e9,
        "arrays_gb": volume.array.size * bytes_a_voxel / 1e9,
        "frames": {view: frames.count(view) for view in dict.fromkeys(frames)},
        "voxels": int(np.count_nonzero(found.labels)),
        "seconds": time.perf_counter() - started,
        "processor_s": time.process_time() - worked,
        "slice_s": cost(ticks),
    }


def certain(network: Any) -> Any:
    """The same with its random weights made to judge no object absent: tracking would end after eight such slices."""
    import torch

    torch.nn.init.constant_(network.mask_decoder.pred_obj_score_head.proj_out.bias, 5.0)
    return network


def picture(side: int, slices: int) -> np.ndarray:
    """A body with a column of changing width through all slices, in Hounsfield units, made slice by slice."""
    array = np.empty((side, side, slices), np.int16)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    for k in range(slices):
        body = np.where(x**2 + y**2 < 0.8, 40, -1000)
        body[x**2 + y**2 < 0.25 * (1 + 0.2 * math.sin(k / 20))] = 150
        array[:, :, k] = body + rng.normal(0, 12, body.shape)
    return array


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--slices", type=int, nargs="+", default=[300, 600])
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--image-size", type=int, default=256, help="the network's input; smaller is faster, and takes less")
    parser.add_argument("--weights")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, help="a Markdown file")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    told = parser.parse_args()
    import torch

    torch.set_num_threads(told.threads)
    if told.child:
        print(json.dumps(measured(told.side, told.slices[0], told.image_size, told.weights)))
        return 0
    rows: list[dict[str, Any]] = []
    for slices in told.slices:
        rows.append(child(told, slices))
        if told.output:
            told.output.write_text(page(rows, told), encoding="utf-8")
    return report(rows)


def child(told: argparse.Namespace, slices: int) -> dict[str, Any]:
    """One length in a process of its own."""
    command = [sys.executable, __file__, "--child", "--slices", str(slices), "--side", str(told.side)]
    command += ["--image-size", str(told.image_size), *(["--weights", told.weights] if told.weights else [])]
    command += ["--threads", str(told.threads)]
    row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    row["rest_gb"] = row["peak_gb"] - row["arrays_gb"]
    print(
        f"{told.side}×{told.side}×{slices}, network {told.image_size} px, frames {row['frames']}: "
        f"peak {row['peak_gb']:.2f} GB, {row['arrays_gb']:.2f} GB of it arrays of the volume's size, "
        f"{row['rest_gb']:.2f} GB the rest; {row['seconds']:.0f} s on the clock, {row['processor_s']:.0f} s of the processor, "
        f"{1000 * row['slice_s']:.0f} ms of it a slice",
        flush=True,
    )
    return row


def page(rows: Sequence[dict[str, Any]], told: argparse.Namespace) -> str:
    """Markdown."""
    lines = [
        "# Memory and time of a large CT",
        "",
        f"One object, outlined once, three axes; {told.side} × {told.side} voxels a slice, the network "
        f"({told.weights or 'random weights'}) at {told.image_size} px, {told.threads} thread(s). Peak beyond the interpreter",
        "with torch and the network; arrays: the most that image, sum, labels and outline take; a slice: median of the axial",
        "pass.",
        "",
        "| slices | frames tracked | peak GB | arrays GB | s on the clock | s of the processor | ms of it a slice |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        frames = ", ".join(f"{view} {count}" for view, count in row["frames"].items())
        lines.append(
            f"| {row['slices']} | {frames} | {row['peak_gb']:.2f} | {row['arrays_gb']:.2f} | {row['seconds']:.0f} "
            f"| {row['processor_s']:.0f} | {1000 * row['slice_s']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def report(rows: list[dict[str, Any]]) -> int:
    """Compare with the limits."""
    first, last = rows[0], rows[-1]
    growth, dearer = last["rest_gb"] - first["rest_gb"], last["slice_s"] / first["slice_s"] - 1
    small = all(row["peak_gb"] < LIMIT_GB for row in rows)
    allowed = LIMIT_GROWTH * max(first["rest_gb"], LEAST_REST_GB)
    print(f"growth of the rest from {first['slices']} to {last['slices']} slices: {growth:+.2f} GB (limit {allowed:.2f})")
    print(f"growth of the cost of a slice: {dearer:+.1%} (limit {LIMIT_GROWTH:.0%})")
    print(f"peak below {LIMIT_GB:g} GB: {'yes' if small else 'NO'}")
    return 0 if small and growth < allowed and dearer < LIMIT_GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())

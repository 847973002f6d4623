"""Peak memory of one object in a large CT, three axes: below 3 GB, and not growing with the number of slices.

    python benchmarks/memory.py [--slices 300 600] [--side 512] [--image-size 256] [--weights nano]

Each length gets a process of its own. What the interpreter holds once torch and this package are imported is taken off; so,
for the growth, are the arrays of the volume's own size: image (int16), summed probability (float32), labels (uint8) and the
outline that is the prompt (bool), 8 bytes a voxel. Without `--weights` the network has random ones, which take the same
memory. The exit code is 1 where a limit is passed.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

LIMIT_GB, LIMIT_GROWTH = 3.0, 0.10
BYTES_A_VOXEL = 2 + 4 + 1 + 1


def peak_bytes() -> int:
    """The most that this process has held in memory."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(rows["VmHWM"].split()[0]) * 1024


def measured(side: int, slices: int, image_size: int, weights: str | None) -> dict[str, Any]:
    """Segment one object, in this process."""
    from medical_sam2.model.nano import nano
    from medical_sam2.prompts import Mask
    from medical_sam2.segmenter import Segmenter
    from medical_sam2.volume import Volume

    segmenter = (
        Segmenter.from_pretrained(weights, device="cpu", image_size=image_size)
        if weights
        else Segmenter(nano(image_size), device="cpu")
    )
    before, started, frames = peak_bytes(), time.perf_counter(), []
    volume = Volume(picture(side, slices), np.diag([0.8, 0.8, 0.8, 1.0]), "CT")
    outline = np.zeros(volume.shape, bool)
    outline[side // 4 : -side // 4, side // 4 : -side // 4, slices // 2] = True
    found = segmenter.segment_volume(
        volume, [Mask(outline, axis=2)], views="three", on_frame=lambda done: frames.append(done.view)
    )
    return {
        "slices": slices,
        "peak_gb": (peak_bytes() - before) / 1e9,
        "arrays_gb": volume.array.size * BYTES_A_VOXEL / 1e9,
        "frames": {view: frames.count(view) for view in dict.fromkeys(frames)},
        "voxels": int(np.count_nonzero(found.labels)),
        "seconds": time.perf_counter() - started,
    }


def picture(side: int, slices: int) -> np.ndarray:
    """A body with a ball in it, in Hounsfield units, made slice by slice."""
    array = np.empty((side, side, slices), np.int16)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    for k in range(slices):
        z = 2 * k / slices - 1
        body = np.where(x**2 + y**2 < 0.8, 40, -1000)
        body[x**2 + y**2 + z**2 < 0.25] = 150
        array[:, :, k] = body + rng.normal(0, 12, body.shape)
    return array


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--slices", type=int, nargs="+", default=[300, 600])
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--image-size", type=int, default=256, help="the network's input; smaller is faster, and takes less")
    parser.add_argument("--weights")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.child:
        print(json.dumps(measured(told.side, told.slices[0], told.image_size, told.weights)))
        return 0
    return report([child(told, slices) for slices in told.slices])


def child(told: argparse.Namespace, slices: int) -> dict[str, Any]:
    """One length in a process of its own."""
    command = [sys.executable, __file__, "--child", "--slices", str(slices), "--side", str(told.side)]
    command += ["--image-size", str(told.image_size), *(["--weights", told.weights] if told.weights else [])]
    row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    row["rest_gb"] = row["peak_gb"] - row["arrays_gb"]
    print(
        f"{told.side}×{told.side}×{slices}, network {told.image_size} px, frames {row['frames']}: "
        f"peak {row['peak_gb']:.2f} GB, {row['arrays_gb']:.2f} GB of it arrays of the volume's size, "
        f"{row['rest_gb']:.2f} GB the rest ({row['seconds']:.0f} s)",
        flush=True,
    )
    return row


def report(rows: list[dict[str, Any]]) -> int:
    """Compare with the limits."""
    first, last = rows[0], rows[-1]
    growth = last["rest_gb"] / first["rest_gb"] - 1
    small = all(row["peak_gb"] < LIMIT_GB for row in rows)
    print(f"growth of the rest from {first['slices']} to {last['slices']} slices: {growth:+.1%} (limit {LIMIT_GROWTH:.0%})")
    print(f"peak below {LIMIT_GB:g} GB: {'yes' if small else 'NO'}")
    return 0 if small and growth < LIMIT_GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())

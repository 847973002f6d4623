"""What commands cost before they do anything: seconds of the processor, and on the clock.

    python benchmarks/startup.py [--rounds 5]

Each command runs in a process of its own, in turn, `--rounds` times: `--help`, `info` of a volume, `segment` of a tiny volume
(what is left of it without the network's work), and for comparison `import torch` alone. Printed: medians. Run it once before,
so that compiled bytecode and the system's cache are warm.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from medical_sam2.io import save
from medical_sam2.volume import Volume

PROGRAM = str(Path(sys.executable).with_name("medsam2"))
SIDE, SLICES = 32, 5  # voxels of the volume along a row and a column, and its slices


def measure(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """Seconds of the processor and on the clock of a process.

    Raises:
        CalledProcessError: it failed.
    """
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, cwd=folder, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    clock, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, clock


def write_ball(path: Path) -> None:
    """A bright ball in the middle of a small volume."""
    i, j, k = np.indices((SIDE, SIDE, SLICES))
    inside = (i - SIDE / 2) ** 2 + (j - SIDE / 2) ** 2 + 4 * (k - SLICES / 2) ** 2 < (SIDE / 4) ** 2
    volume = Volume((100 * inside).astype(np.int16), np.diag([1.0, 1.0, 2.0, 1.0]))
    save(volume.array, path, like=volume)


def commands() -> Mapping[str, Sequence[str]]:
    """What is measured, by name."""
    place = [str(SIDE // 2), str(SIDE // 2), str(SLICES // 2)]
    segment = ["segment", "ball.nii.gz", "--point", *place, "-o", "out.nii.gz", "--overwrite", "--views", "one"]
    return {
        "import torch": [sys.executable, "-c", "import torch"],
        "--help": [PROGRAM, "--help"],
        "info": [PROGRAM, "info", "ball.nii.gz"],
        "segment": [PROGRAM, *segment],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    asked, found = commands(), dict[str, list[tuple[float, float]]]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_ball(folder / "ball.nii.gz")
        for _ in range(args.rounds):
            for title, command in asked.items():
                found.setdefault(title, []).append(measure(command, folder))
    print("| command | of the processor, s | on the clock, s |\n|---|---|---|")
    for title, each in found.items():
        processor, clock = (median(part) for part in zip(*each, strict=True))
        print(f"| `{title}` | {processor:.2f} | {clock:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

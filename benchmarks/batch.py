"""Many volumes in one command: killed at random moments, how its memory grows, how fast it is beside a loop.

`python benchmarks/batch.py FOLDER -o OUT --volumes 200 --kills 30`: FOLDER is an nnU-Net raw data set of volumes. Copies of its
training images, moved, turned and recoloured, are outlined from a box on the slice where a structure is largest.

1. One run that nobody stops. Its resident memory is read while it works: the slope over cases that are done, per 50 of them.
2. The same into another folder, killed (SIGKILL) after random times and begun anew with --skip-existing, until it was killed
   as often as wanted; then let finish. After each kill every label file must be readable; at the end all bytes are compared.
3. `medsam2 segment` in a loop over the first `--loop` volumes, against the same volumes in one command.
"""

import argparse
import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

from medical_sam2 import io
from medical_sam2.data.data_sets import read_data_set
from medical_sam2.errors import MedicalSam2Error
from medical_sam2.volume import Volume

COMMAND = [sys.executable, "-c", "import sys; from medical_sam2.cli import main; raise SystemExit(main(sys.argv[1:]))"]
PAGE = 4096


def make_volumes(source: Path, folder: Path, count: int, largest: int) -> list[list[str]]:
    """Volumes that are made by moving, turning and recolouring those of a data set; the rows of their table."""
    data, rng, rows = read_data_set(source), np.random.default_rng(0), list[list[str]]()
    cases = [case for case in data.cases if case.label is not None]
    folder.mkdir()
    number = 0
    while len(rows) < count:
        loaded = data.load(cases[number % len(cases)])
        number += 1
        image, labels = loaded.images[0], loaded.labels
        step = max(1, -(-max(image.shape) // largest))
        array, inside = image.array[::step, ::step], (labels > 0)[::step, ::step]
        shift, turn = (*rng.uniform(-4, 4, 2), 0), rng.uniform(-10, 10)
        array = ndimage.rotate(
            ndimage.shift(array.astype(np.float32), shift, order=1, mode="nearest"),
            turn,
            reshape=False,
            order=1,
            mode="nearest",
        )
        inside = ndimage.rotate(ndimage.shift(inside.astype(np.uint8), shift, order=0), turn, reshape=False, order=0)
        k = int(inside.sum((0, 1)).argmax())
        across, down = (np.flatnonzero(inside[:, :, k].any(axis)) for axis in (1, 0))
        if len(across) < 3 or len(down) < 3:
            continue
        affine = image.affine @ np.diag([step, step, 1, 1])
        moved = (array * rng.uniform(0.9, 1.1)).astype(np.int16)
        name = f"v{len(rows):03d}"
        io.save(moved, folder / f"{name}.nii.gz", Volume(moved, affine))
        rows.append(
            [name, f"{folder.name}/{name}.nii.gz", "1", "box", *map(str, (across[0], down[0], k, across[-1], down[-1], k))]
        )
    return rows


def begin(table: Path, output: Path, *words: str) -> subprocess.Popen[bytes]:
    """The command, in a process of its own."""
    call = [*COMMAND, "segment-volumes", str(table), "-o", str(output), "--threads", "1", "--quiet", *words]
    return subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def done(output: Path) -> int:
    """How many cases are done."""
    return len(list((output / "cases").glob("*.json")))


def watch(child: subprocess.Popen[bytes], output: Path) -> list[tuple[int, float]]:
    """Cases that are done and resident MB, once for each case."""
    seen: dict[int, float] = {}
    while child.poll() is None:
        try:
            seen[done(output)] = int(Path(f"/proc/{child.pid}/statm").read_text().split()[1]) * PAGE / 2**20
        except (OSError, IndexError):
            break
        time.sleep(0.1)
    child.wait()
    return sorted(item for item in seen.items() if item[0] > 0)


def left(output: Path) -> dict[str, bytes]:
    """What a run left, but for times."""
    files = {str(p.relative_to(output)): p.read_bytes() for p in output.rglob("*") if p.is_file() and p.name != "seconds.csv"}
    for name, data in files.items():
        if name.startswith("cases/") and name.endswith(".json"):
            files[name] = json.dumps({key: value for key, value in json.loads(data).items() if key != "seconds"}).encode()
    return files


def kill_often(table: Path, output: Path, kills: int, usual_s: float) -> dict[str, int]:
    """Kill and begin anew; what was half-written."""
    rng, broken, counts = np.random.default_rng(1), 0, list[int]()
    for _ in range(kills):
        child, before, deadline = begin(table, output, "--skip-existing"), done(output), time.monotonic() + 600
        while done(output) == before and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)  # it has begun to work: loading it takes longer than a case
        time.sleep(rng.uniform(0, 1.5 * usual_s))
        child.kill()
        child.wait()
        counts.append(done(output))
        for path in output.glob("*.nii.gz"):
            try:
                io.load(path)
            except MedicalSam2Error:
                broken += 1
    code = begin(table, output, "--skip-existing").wait()
    return {"kills": kills, "half_written": broken, "done_at_last_kill": counts[-1] if counts else 0, "exit_code": code}


def compare_with_a_loop(rows: list[list[str]], table: Path, folder: Path, volumes: int) -> dict[str, float]:
    """Seconds of single commands and of one command for the same volumes."""
    few = folder / "few.csv"
    few.write_text("".join(table.read_text().splitlines(keepends=True)[: volumes + 1]))
    start = time.perf_counter()
    for name, image, _, _, *box in rows[:volumes]:
        call = [*COMMAND, "segment", str(folder / image), "--box", *box, "-o", str(folder / f"{name}.nii.gz")]
        subprocess.run([*call, "--threads", "1", "--quiet"], check=True, capture_output=True)
    middle = time.perf_counter()
    begin(few, folder / "few").wait()
    end = time.perf_counter()
    times = {"volumes": volumes, "loop_s": round(middle - start, 1), "one_command_s": round(end - middle, 1)}
    return {**times, "times_as_fast": round((middle - start) / (end - middle), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--volumes", type=int, default=200)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--loop", type=int, default=20, help="volumes of the loop")
    parser.add_argument("--largest", type=int, default=128, help="longest side of a slice in pixels")
    words = parser.parse_args()
    folder: Path = words.output
    folder.mkdir()
    rows = make_volumes(words.data, folder / "volumes", words.volumes, words.largest)
    table = folder / "prompts.csv"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows([["case", "image", "object", "kind", "i", "j", "k", "i2", "j2", "k2"], *rows])

    start = time.perf_counter()
    memory = watch(begin(table, folder / "whole"), folder / "whole")
    seconds = time.perf_counter() - start
    cases, sizes = (np.array(column) for column in zip(*memory[len(memory) // 4 :], strict=True))
    facts = {
        "volumes": len(rows),
        "seconds": round(seconds, 1),
        "mb_per_50_volumes": round(float(np.polyfit(cases, sizes, 1)[0]) * 50, 2),
        "mb_at_most": round(float(sizes.max())),
        "killed": kill_often(table, folder / "killed", words.kills, seconds / len(rows)),
        "bytes_equal": left(folder / "whole") == left(folder / "killed"),
        "loop": compare_with_a_loop(rows, table, folder, words.loop),
    }
    (folder / "batch.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()

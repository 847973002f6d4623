"""Run every file of a collection of nasty files through the command line and compare with what its manifest expects.

    python benchmarks/nasty.py FOLDER [--known ID …] [--only CLASS] [--verbose]

FOLDER holds `manifest.jsonl`, one row per file: id, path, cls, expect (ok, ok_warn, ask, refuse, clean), and where it holds
shape, affine, must_mention, max_rss_mb, value_at_S. Each file gets a process of its own with a limit of 10 s, whose peak
memory is measured; what it prints, what it leaves behind and what geometry it reports is checked. Files that cannot be stored
(pipes, loops of links, huge sparse files) are made on the spot. The exit code is 1 if anything deviates; `--known` names rows
whose expectation was found to be wrong, which are listed but do not count.
"""

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np

from medical_sam2 import cli, io
from medical_sam2.errors import MedicalSam2Error
from medical_sam2.volume import Volume

LIMIT_S = 10.0
MM = 0.3
CANARY = re.compile(r"CANARY(?!_)|8675309|19010203")
BALLS = {300: (22.0, 0.0, 0.0), 500: (0.0, 18.0, 0.0), 700: (0.0, 0.0, 14.0)}
BALL_MM3 = 4 / 3 * np.pi * 6**3
REFERENCE = "made/nifti/ori/ori_LPS.nii.gz"
HARMLESS = "same value"
"""A constant image deserves its warning, whatever else the row is about."""


@dataclass
class Row:
    """A line of the manifest."""

    id: str
    path: Path
    cls: str
    expect: str
    facts: dict = field(default_factory=dict)
    user: int | None = None


@dataclass
class Run:
    """What a process did."""

    code: int
    out: str
    err: str
    seconds: float
    rss_mb: float
    left: list[str]


def main() -> int:
    told = arguments()
    folder = told.folder.resolve()
    rows = read_manifest(folder)
    io.load(folder / REFERENCE)  # imports what every command needs, once
    if told.only in (None, "dicom_geometry"):
        import medical_sam2.io.dicom  # noqa: F401
    totals: dict[str, Counter] = defaultdict(Counter)
    failed = False
    with tempfile.TemporaryDirectory(prefix="nasty-") as scratch:
        rows += made_here(Path(scratch))
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(scratch, "torch"))  # torch makes it as it is imported
        for row in rows:
            if told.only and row.cls != told.only:
                continue
            run = execute(row, folder, Path(scratch))
            problems = judge(row, run, folder)
            word = "right" if not problems else "disputed" if row.id in told.known else "WRONG"
            failed |= word == "WRONG"
            totals[row.cls][word] += 1
            if problems or told.verbose:
                print(f"{word:8} {row.id:24} expect {row.expect:8} exit {run.code}  {'; '.join(problems)}")
                print(f"         {run.err.strip()[:300]}")
            totals[row.cls]["seconds"] = max(totals[row.cls]["seconds"], run.seconds)
            totals[row.cls]["rss"] = max(totals[row.cls]["rss"], run.rss_mb)
    print_table(totals)
    return int(failed)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--known", nargs="*", default=[], help="ids of rows whose expectation is wrong")
    parser.add_argument("--only", help="one class")
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args()


def read_manifest(folder: Path) -> list[Row]:
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    return [Row(row["id"], folder / row["path"], row["cls"], row["expect"], row) for row in rows]


def made_here(scratch: Path) -> list[Row]:
    """Files that no archive can hold."""
    place = scratch / "made"
    place.mkdir()
    os.chmod(scratch, 0o755)
    os.mkfifo(place / "pipe.nii.gz")
    (place / "loop.nii.gz").symlink_to(place / "loop.nii.gz")
    (place / "folder.nii.gz").mkdir()
    (place / "unreadable.nii.gz").write_bytes(b"x" * 400)
    (place / "unreadable.nii.gz").chmod(0)
    with open(place / "sparse.nii", "wb") as stream:
        stream.truncate(10 << 30)
    save_tiny(place / "new\nline \x1b[31m.nii.gz")
    save_tiny(place / "-dash.nii.gz")
    return [
        Row("fifo", place / "pipe.nii.gz", "made here", "refuse"),
        Row("loop", place / "loop.nii.gz", "made here", "refuse"),
        Row("folder_as_file", place / "folder.nii.gz", "made here", "refuse"),
        Row("missing", place / "absent.nii.gz", "made here", "refuse"),
        Row("unreadable", place / "unreadable.nii.gz", "made here", "refuse", user=65534),
        Row("sparse_10G", place / "sparse.nii", "made here", "refuse", {"max_rss_mb": 800}),
        Row("device", Path("/dev/zero"), "made here", "refuse"),
        Row("name_newline", place / "new\nline \x1b[31m.nii.gz", "made here", "ok"),
        Row("dash", place / "-dash.nii.gz", "made here", "ok"),
    ]


def save_tiny(path: Path) -> None:
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    io.save(array.astype(np.uint8), path, Volume(array, np.eye(4)))


def command_for(row: Row, folder: Path) -> list[str]:
    if row.cls == "model":
        return ["weights", "info", str(row.path)]
    extra = ["--labels-of", str(folder / REFERENCE)] if row.cls == "label" else []
    return ["info", "--json", *extra, "--", str(row.path)]


def execute(row: Row, folder: Path, scratch: Path) -> Run:
    """One process, in an empty folder, watched. It is forked from this one, which has imported the readers already."""
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        os.chmod(place, 0o777)
        work, temporary = Path(place, "work"), Path(place, "tmp")
        for each in (work, temporary):
            each.mkdir()
            os.chmod(each, 0o777)
        with open(Path(place, "out"), "w+b") as out, open(Path(place, "err"), "w+b") as err:
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                become_command(command_for(row, folder), (out, err), (work, temporary), row.user)
            status, usage, seconds = wait(pid)
            texts = [read_back(stream) for stream in (out, err)]
        left = [str(file) for file in (*work.rglob("*"), *temporary.rglob("*"))]
    left += [str(file) for file in Path(tempfile.gettempdir()).glob("NASTY_CANARY*")]
    return Run(os.waitstatus_to_exitcode(status), *texts, seconds, usage.ru_maxrss / 1024, left)


def become_command(arguments: list[str], streams, places: tuple[Path, Path], user: int | None) -> NoReturn:
    """What the child does: it never returns."""
    code = 99
    try:
        for number, stream in enumerate(streams, 1):
            os.dup2(stream.fileno(), number)
        os.chdir(places[0])
        os.environ["TMPDIR"], tempfile.tempdir = str(places[1]), None
        if user is not None:
            os.setuid(user)
        code = cli.main(arguments)
        sys.stdout.flush()
    finally:
        os._exit(code)


def wait(pid: int):
    """Status, resources and seconds of a child, which is killed when its time is over.

    Seconds in which it could have run, but other processes had the machine, do not count.
    """
    start, delayed = time.monotonic(), 0.0
    while True:
        delayed = max(delayed, queued(pid))
        found, status, usage = os.wait4(pid, os.WNOHANG)
        seconds = time.monotonic() - start - delayed
        if not found and seconds > LIMIT_S:
            os.kill(pid, signal.SIGKILL)
            found, status, usage = os.wait4(pid, 0)
        if found:
            return status, usage, seconds
        time.sleep(0.005)


def queued(pid: int) -> float:
    """Seconds that a process has waited for a processor."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def read_back(stream) -> str:
    stream.seek(0)
    return stream.read().decode("utf-8", "backslashreplace")


def judge(row: Row, run: Run, folder: Path) -> list[str]:
    """Everything that deviates."""
    warnings = [line for line in run.err.splitlines() if line.startswith("warning: ")]
    problems = []
    if run.code < 0 or run.code not in (0, 2, 3, 4):
        problems.append("killed by its time limit" if run.seconds > LIMIT_S else f"exit code {run.code}")
    if "Traceback" in run.err or "defect" in run.err:
        problems.append("traceback")
    if CANARY.search(run.out.replace(str(row.path), "") + run.err.replace(str(row.path), "")):
        problems.append("says something of a person")
    if run.left:
        problems.append(f"left files: {run.left}")
    limit = row.facts.get("max_rss_mb")
    if limit and run.rss_mb > limit:
        problems.append(f"{run.rss_mb:.0f} MB of memory, {limit} allowed")
    if run.code != 0:
        problems += judge_refusal(row, run)
    else:
        problems += judge_acceptance(row, run, warnings)
        problems += geometry(row, json.loads(run.out), folder) if row.cls not in ("model", "state") else []
    return problems


def judge_refusal(row: Row, run: Run) -> list[str]:
    codes = {"ok": (), "ok_warn": (2, 3, 4), "ask": (4,), "refuse": (2, 3), "clean": (2, 3, 4)}[row.expect]
    problems = [] if run.code in codes else ["it was refused" if row.expect == "ok" else f"exit code {run.code}"]
    lines = [line for line in run.err.splitlines() if not line.startswith("warning: ")]
    if len(lines) != 1 or ";" not in run.err:
        problems.append("no single line 'FILE: what; what to do'")
    name = row.path.name.split("\n")[0]
    if name not in run.err and row.path.parent.name not in run.err:
        problems.append("the file is not named")
    if row.expect == "ask" and "--" not in run.err:
        problems.append("no option is named")
    if run.out:
        problems.append("something was printed although it was refused")
    return problems + must_mention(row, run.err)


def judge_acceptance(row: Row, run: Run, warnings: list[str]) -> list[str]:
    if row.expect in ("ask", "refuse"):
        return ["it was accepted"]
    if row.expect == "ok" and (told := [line for line in warnings if HARMLESS not in line]):
        return [f"warns: {told}"]
    if row.expect == "ok_warn":
        named = bool(warnings) and all(row.path.name.split("\n")[0] in line for line in warnings)
        return ([] if named else ["no warning names the file"]) + must_mention(row, run.err)
    return []


def must_mention(row: Row, text: str) -> list[str]:
    pattern = row.facts.get("must_mention")
    said = text.replace(str(row.path), "") if pattern not in (row.path.name, None) else text
    return [] if pattern is None or re.search(pattern, said) or re.search(pattern, text) else [f"does not mention {pattern}"]


def geometry(row: Row, said: dict, folder: Path) -> list[str]:
    """Shape and affine as the manifest has them (DICOM slices in either order), and the phantom's balls in their places."""
    problems = []
    if "shape" in row.facts and said["shape"] != row.facts["shape"]:
        problems.append(f"shape {said['shape']}")
    if "affine" in row.facts and said["kind"] == "volume":
        expected = np.array(row.facts["affine"])
        turned = expected.copy()
        turned[:3, 3] += turned[:3, 2] * (said["shape"][2] - 1)
        turned[:3, 2] *= -1
        got = np.array(said["affine"])
        choices = [expected, turned] if "dicom" in str(row.path) else [expected]
        if min(np.abs(got - choice).max() for choice in choices) > 1e-3:
            problems.append(f"affine {got.tolist()}")
    if row.cls != "label" and said["kind"] == "volume":
        problems += balls(row)
    return problems


def balls(row: Row) -> list[str]:
    """Centroids in mm of the balls that can be told apart, for grids of at most 3 mm."""
    try:
        volume = io.load(row.path)
    except MedicalSam2Error as error:
        return [f"a second reading was refused: {error}"]
    if "value_at_S" in row.facts:
        near = volume.array[tuple(np.rint(volume.to_voxel((0.0, 0.0, 14.0))).astype(int))]
        if abs(float(near) - row.facts["value_at_S"]) > row.facts.get("tol", 0.51):
            return [f"value at S is {near}"]
    middle = (volume.affine @ [*((np.array(volume.shape) - 1) / 2), 1.0])[:3]
    if "affine" not in row.facts or np.linalg.norm(middle) > 3:
        return []  # the file places the phantom elsewhere, or holds only a part of it
    problems = []
    for value, place in BALLS.items():
        where = np.argwhere(volume.array == value)
        complete = 0.85 < len(where) * volume.voxel_mm3 / BALL_MM3 < 1.15
        centre = (volume.affine @ [*where.mean(axis=0), 1.0])[:3] if complete else place
        if np.linalg.norm(centre - np.array(place)) > MM:
            problems.append(f"ball {value} at {np.round(centre, 2).tolist()}")
    return problems


def print_table(totals: dict[str, Counter]) -> None:
    print(f"\n{'class':18} {'right':>6} {'wrong':>6} {'disputed':>9} {'slowest s':>10} {'most MB':>8}")
    for cls, count in sorted(totals.items()):
        numbers = f"{count['right']:6} {count['WRONG']:6} {count['disputed']:9}"
        print(f"{cls:18} {numbers} {count['seconds']:10.1f} {count['rss']:8.0f}")
    sums = [sum(count[word] for count in totals.values()) for word in ("right", "WRONG", "disputed")]
    print(f"{'all':18} {sums[0]:6} {sums[1]:6} {sums[2]:9}")


if __name__ == "__main__":
    sys.exit(main())

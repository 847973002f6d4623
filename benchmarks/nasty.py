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
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import NoReturn

import numpy as np

from medical_sam2 import cli, io
from medical_sam2.volume import Volume
from nasty_verdict import LIMIT_S, Row, Run, judge

HOLE = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 1024 1024 10240\nspacings: 1 1 1\nencoding: raw\n\n"
REFERENCE = "made/nifti/ori/ori_LPS.nii.gz"


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
            run = execute(command_for(row, folder), Path(scratch), user=row.user)
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
    with open(place / "hole.nrrd", "wb") as stream:
        stream.write(HOLE)
        stream.truncate((10 << 30) + len(HOLE))
    save_tiny(place / "new\nline \x1b[31m.nii.gz")
    save_tiny(place / "-dash.nii.gz")
    return [
        Row("fifo", place / "pipe.nii.gz", "made here", "refuse"),
        Row("loop", place / "loop.nii.gz", "made here", "refuse"),
        Row("folder_as_file", place / "folder.nii.gz", "made here", "refuse"),
        Row("missing", place / "absent.nii.gz", "made here", "refuse"),
        Row("unreadable", place / "unreadable.nii.gz", "made here", "refuse", user=65534),
        Row("sparse_10G", place / "sparse.nii", "made here", "refuse", {"max_rss_mb": 800}),
        Row("hole_10G", place / "hole.nrrd", "made here", "refuse", {"max_rss_mb": 800}),
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


def execute(command: list[str], scratch: Path, *, user: int | None = None, limit_s: float = LIMIT_S) -> Run:
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
                become_command(command, (out, err), (work, temporary), user)
            status, usage, seconds = wait(pid, limit_s)
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


def wait(pid: int, limit_s: float):
    """Status, resources and seconds of a child, which is killed when its time is over.

    Seconds in which it could have run, but other processes had the machine, do not count.
    """
    start, delayed = time.monotonic(), 0.0
    while True:
        delayed = max(delayed, queued(pid))
        found, status, usage = os.wait4(pid, os.WNOHANG)
        seconds = time.monotonic() - start - delayed
        if not found and seconds > limit_s:
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


def print_table(totals: dict[str, Counter]) -> None:
    print(f"\n{'class':18} {'right':>6} {'wrong':>6} {'disputed':>9} {'slowest s':>10} {'most MB':>8}")
    for cls, count in sorted(totals.items()):
        numbers = f"{count['right']:6} {count['WRONG']:6} {count['disputed']:9}"
        print(f"{cls:18} {numbers} {count['seconds']:10.1f} {count['rss']:8.0f}")
    sums = [sum(count[word] for count in totals.values()) for word in ("right", "WRONG", "disputed")]
    print(f"{'all':18} {sums[0]:6} {sums[1]:6} {sums[2]:9}")


if __name__ == "__main__":
    sys.exit(main())

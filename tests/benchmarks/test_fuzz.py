"""Mutants of sound files: two thousand are read by the command; and what the fuzzer calls wrong, it finds."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fuzz_pool import Limits, Outcome, run

ROOT = Path(__file__).parents[2]


def test_two_thousand_mutants_are_read_or_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "fuzz.py"), "--mutants", "2000", "-o", str(tmp_path / "fuzz.md")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    rows = [[int(cell) for cell in line.split("|")[2:7]] for line in (tmp_path / "fuzz.md").read_text().splitlines()[6:51]]
    read, refused, asked, wrong, agreed = np.sum(rows, axis=0)
    assert (len(rows), read + refused + asked, wrong) == (45, 2000, 0)
    assert agreed > 300  # another reader had its say


def work(number: int) -> Outcome:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 2:
        os._exit(3)
    if number == 3:
        while True:
            time.process_time()
    if number == 4:
        os.write(2, b"Warning")
    if number == 5:
        np.ones(500 << 17)
    if number == 6:
        os.write(2, b"ZIPDecode: incorrect data check.\n")
    return Outcome("read")


@pytest.mark.parametrize("processes", [1, 3])
def test_what_kills_a_process_is_told_and_the_others_go_on(processes: int) -> None:
    own_mb = int(re.findall(r"RssAnon:\s*(\d+)", Path("/proc/self/status").read_text())[0]) / 1024  # which children share
    found = dict(run(work, range(9), processes=processes, limits=Limits(2.0, own_mb + 300)))
    words = ["read", "signal", "exit", "hang", "printed", "memory", "read", "read", "read"]
    assert [found[number].word for number in range(9)] == words
    assert found[1].said == "SIGKILL"


WORSE = """
import sys
from dataclasses import replace
import numpy as np
import fuzz, fuzz_verdict

read = fuzz_verdict._read
sys.argv = ["fuzz", "--formats", "nifti", "mhd", "--mutants", "100"]
codes = []
for worse in (lambda found: 1 / 0,
              lambda found: replace(found, affine=2 * found.affine - np.eye(4)),
              lambda found: replace(found, array=found.array[:2])):
    fuzz_verdict._read = lambda *told: worse(read(*told))
    codes.append(fuzz.main())
sys.exit(codes != [1, 1, 1])
"""


def test_what_is_wrong_is_found() -> None:
    """A reader is made worse, in three ways; a hundred mutants must show each."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "benchmarks"), *sys.path])}
    done = subprocess.run([sys.executable, "-c", WORSE], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    for said in ("exception ZeroDivisionError", "geometry affine", "geometry shape"):
        assert said in done.stderr

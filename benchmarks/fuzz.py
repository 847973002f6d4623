"""Read mutants of sound files of every format: none may crash, hang, eat the memory, or be placed where it does not lie.

    python benchmarks/fuzz.py --mutants 2000
    nice -n 10 python benchmarks/fuzz.py --mutants 100000 -o benchmarks/results/fuzz.md

Mutant `n` of a seed of chance is the same on any machine: `--only n` reads it alone, `--keep FOLDER`
writes down what went wrong.
Wrong is: a signal, more than 10 s of a processor, an exception that is not of `errors.py`, more than 2 GB, words of a library
on standard error, and a volume or picture whose grid another reader (nibabel, SimpleITK, tifffile, Pillow, the tags of DICOM
alone) finds elsewhere. The exit code is 1 if anything was wrong.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import fuzz_verdict
from fuzz_mutate import MUTATORS, mutant
from fuzz_pool import Outcome, run
from fuzz_seeds import Seed, dicom_like, like, seeds

FINE = ("read", "refused", "asked")
HANDED = Path("/dev/shm")


def main() -> int:
    told = arguments()
    sound = [seed for seed in seeds() if not told.formats or seed.name in told.formats]
    base = HANDED if HANDED.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=base) as scratch:
        work = Work(sound, Path(scratch), told.seed)
        start = time.monotonic()
        table = Table(sound, told)
        numbers = told.only or range(told.first, told.first + told.mutants)
        for number, outcome in run(work, numbers, processes=told.processes):
            table.add(number, outcome)
        text = table.page(time.monotonic() - start)
    print(text)
    if told.output:
        told.output.write_text(text, encoding="utf-8")
    keep([number for number, _ in table.wrong], told, sound)
    return int(bool(table.wrong))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--mutants", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0, help="of chance")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--formats", nargs="+", help="these alone, by their names in the table")
    parser.add_argument("--only", type=int, nargs="+", help="these mutants alone")
    parser.add_argument("--keep", type=Path, help="folder for the mutants that went wrong")
    parser.add_argument("-o", "--output", type=Path, help="file for the table")
    return parser.parse_args()


@dataclass
class Work:
    """Make a mutant, read it, judge."""

    sound: list[Seed]
    scratch: Path
    chance: int
    likes: dict = field(default_factory=lambda: {"labels": like(), "dicom seg": dicom_like()})

    def __call__(self, number: int) -> Outcome:
        made, _ = made_from(self.sound, self.chance, number)
        folder = self.scratch / str(os.getpid())
        path = write(made, folder)
        outcome = fuzz_verdict.judge(made.how, path, self.likes)
        for file in folder.iterdir():
            file.unlink()
        return outcome


def made_from(sound: list[Seed], chance: int, number: int) -> tuple[Seed, str]:
    return mutant(sound[number % len(sound)], np.random.default_rng([chance, number]))


def write(made: Seed, folder: Path) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    for name, data in made.files.items():
        (folder / name).write_bytes(data)
    return folder if made.folder else folder / next(iter(made.files))


def keep(numbers: list[int], told: argparse.Namespace, sound: list[Seed]) -> None:
    for number in numbers if told.keep else ():
        write(made_from(sound, told.seed, number)[0], told.keep / str(number))


class Table:
    """What became of the mutants, by format."""

    def __init__(self, sound: list[Seed], told: argparse.Namespace) -> None:
        self.sound, self.told = sound, told
        self.wrong: list[tuple[int, Outcome]] = []
        self.rows: dict[str, Counter] = defaultdict(Counter)
        self.guarded: Counter = Counter()

    def add(self, number: int, outcome: Outcome) -> None:
        row = self.rows[self.sound[number % len(self.sound)].name]
        row[outcome.word if outcome.word in FINE else "wrong"] += 1
        row["agreed"] += outcome.said == fuzz_verdict.AGREED
        row["seconds"] = max(row["seconds"], outcome.seconds)
        row["peak"] = max(row["peak"], outcome.peak_mb)
        self.guarded.update(fuzz_verdict.GUARDED.findall(outcome.said))
        if outcome.word not in FINE:
            self.wrong.append((number, outcome))
            print(
                number, self.sound[number % len(self.sound)].name, outcome.word, outcome.said[:400], file=sys.stderr, flush=True
            )

    def page(self, seconds: float) -> str:
        total = sum(row[word] for row in self.rows.values() for word in (*FINE, "wrong"))
        lines = [
            "# Mutants of sound files\n",
            f"`python benchmarks/fuzz.py --mutants {self.told.mutants} --seed {self.told.seed} --first {self.told.first}`: "
            f"{total} mutants of {len(self.sound)} files by {len(MUTATORS)} mutators ({', '.join(MUTATORS)}) "
            f"in {seconds:.0f} s on {self.told.processes} process(es), Python {platform.python_version()}. "
            f"Wrong: {len(self.wrong)}.\n",
            "| file | read | refused | asked | wrong | as another reader | slowest, s | most MB |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for name, row in self.rows.items():
            counts = " | ".join(str(row[word]) for word in (*FINE, "wrong", "agreed"))
            lines.append(f"| {name} | {counts} | {row['seconds']:.1f} | {row['peak']:.0f} |")
        if self.guarded:
            listed = ", ".join(f"{name} {count}" for name, count in self.guarded.most_common())
            lines.append(f"\nRefused at the border of a reader, by what a library threw: {listed}.")
        lines += [f"\n- {number}: {outcome.word}: {outcome.said[:200]}" for number, outcome in self.wrong[:50]]
        return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())

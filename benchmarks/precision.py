"""What bfloat16 costs: Dice between the answers in fp32 and in bf16, and of both with the truth, on real volumes.

    python benchmarks/precision.py FOLDER -o benchmarks/results [--weights nano] [--cases 3] [--views one] [--only 003 dicom]
        [--prompt mask] [--engine torch]

FOLDER as for `real_volumes.py`. The first `--cases` cases of each set; each structure is outlined on its largest slice (or told
by a box or a click there), all of a case at once, with the same weights in fp32 by torch and in bf16 by `--engine`. Dice is
taken over all other slices; structures that lie on no other slice are left out, and where one precision finds nothing there and
the other something, it is 0. `precision.jsonl` gets a line for each structure as its case is done, under the hash of the
weights: what is there is not computed again. `precision.md` has a table for each prompt, views and engine that these
weights were asked with so far. The exit code is 1 where a case failed or the mean falls short of .995.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from medical_sam2.io.atomic import write_bytes
from medical_sam2.metrics import dice
from medical_sam2.prompts import Point
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.encoding import fingerprint
from medical_sam2.tracking.plan import primary_view
from medical_sam2.volume import Segmentation
from precision_report import GOAL, Row, Way, added, known, line, measured, overall, page
from real_volumes import Case, Loaded, cases, loaded, prompted


def compared(what: Loaded, label: int, fp32: Segmentation, bf16: Segmentation) -> tuple[float, float, float]:
    """Dice of both answers, and of each with the truth, on all slices but the prompted one."""
    view, axes = primary_view(what.volume, [Point((0, 0, 0))]), what.volume.orientation
    truth, one, other = (view.apply(array, axes) == label for array in (what.truth, fp32.labels, bf16.labels))
    others = np.arange(len(truth)) != int(truth.sum(axis=(1, 2)).argmax())
    return dice(one[others], other[others]), dice(truth[others], one[others]), dice(truth[others], other[others])


def answered(case: Case, segmenters: Sequence[Segmenter], way: Way) -> Iterator[Row]:
    """All structures of a case, in fp32 and in bf16."""
    what = loaded(case)
    prompts = [prompted(what, label, way.prompt) for label in what.case.names]
    found: list[Segmentation] = []
    seconds: list[float] = []
    for segmenter in segmenters:
        started = time.process_time()
        found.append(segmenter.segment_volume(what.volume, prompts, views=way.views))
        seconds.append(time.process_time() - started)
    for label, name in what.case.names.items():
        scores = compared(what, label, found[0], found[1])
        yield Row(way, case.dataset, case.name, name, *scores, (seconds[0], seconds[1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--weights", default="nano")
    parser.add_argument("--views", default="one")
    parser.add_argument("--prompt", choices=("mask", "box", "click"), default="mask")
    parser.add_argument("--engine", default="torch", help="that encodes in bf16")
    parser.add_argument("--cases", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of sets")
    parser.add_argument("--threads", type=int, default=1)
    told = parser.parse_args()
    told.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(told.threads)
    one = Segmenter.from_pretrained(told.weights, device="cpu", precision="fp32")
    other = Segmenter.from_pretrained(told.weights, device="cpu", precision="bf16", engine=told.engine)
    way, path = Way(fingerprint(one.network)[:12], told.views, told.prompt, told.engine), told.output / "precision.jsonl"
    asked = list(first(cases(told.folder, everything=True), told.cases, told.only))
    failed: list[str] = []
    for case in asked:
        if not rows_of(known(path), case, way):
            try:
                added(path, tuple(answered(case, (one, other), way)))
            except Exception as error:  # one bad case does not end the rest
                failed.append(f"{case.dataset} {case.name}: {type(error).__name__}: {error}")
        write_bytes(told.output / "precision.md", page(known(path), way.weights, failed).encode())
        print(line(f"{case.dataset} {case.name}", rows_of(known(path), case, way)), flush=True)
    print("\n".join(f"failed: {each}" for each in failed))
    rows = [row for case in asked for row in rows_of(known(path), case, way)]
    return 0 if measured(rows) and overall(rows) >= GOAL and not failed else 1


def first(found: Iterator[Case], count: int, only: Sequence[str]) -> Iterator[Case]:
    """The first cases of each set whose name holds one of these."""
    seen: dict[str, int] = {}
    for case in found:
        seen[case.dataset] = seen.get(case.dataset, 0) + 1
        if seen[case.dataset] <= count and (not only or any(part in case.dataset for part in only)):
            yield case


def rows_of(rows: Sequence[Row], case: Case, way: Way) -> list[Row]:
    """Those of a case."""
    return [row for row in rows if (row.dataset, row.case, row.way) == (case.dataset, case.name, way)]


if __name__ == "__main__":
    sys.exit(main())

"""Does it matter which slice is prompted, and do two or three prompts help? Dice of the same slices, prompted on others.

    python benchmarks/prompted_slices.py FOLDER -o benchmarks/results [--cases 2] [--kinds mask click] [--views one] [--every 1]

FOLDER holds nnU-Net raw data sets of volumes. Of each set CASES are drawn by the seed. Every structure is prompted on its
first, its last, its middle and its largest slice, on the first and the last, on those at a quarter and three quarters, and on
the first, the middle and the last; a slice that is too small for a box gives way to the next one inwards. Scored are the slices
that none of these prompts, so that all answers of a structure are scored on the same ones; structures on fewer than seven
slices are left out. `--every 3` shows every third slice alone, as if slices were thicker: of how flat objects are found. OUT
gets `prompted_slices.jsonl` (a row for each answer; what is there is not computed again) and `prompted_slices.md`.
"""

import argparse
import json
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medical_sam2.data.data_sets import read_data_set
from medical_sam2.errors import MedicalSam2Error, PromptError
from medical_sam2.evaluate.cases import KINDS, VolumeTask, check_boxable, draw_prompt
from medical_sam2.evaluate.tables import mean_interval
from medical_sam2.io.atomic import write_bytes
from medical_sam2.metrics import dice
from medical_sam2.segmenter import Segmenter
from medical_sam2.volume import Volume

PROMPTED = ("first", "last", "middle", "largest", "first and last", "quarters", "first, middle and last")
LEAST = 7  # slices that a structure lies on


def slices_of(truth_thw: NDArray[np.bool_]) -> Mapping[str, Sequence[int]]:
    """The slices to prompt, by the name of the choice."""
    there = [t for t in np.flatnonzero(truth_thw.any(axis=(1, 2))).tolist() if has_box(truth_thw[t])]
    if len(there) < LEAST:
        raise PromptError(f"the structure lies on fewer than {LEAST} slices", "leave it out")
    first, middle, last = there[0], there[len(there) // 2], there[-1]
    largest = int(truth_thw.sum(axis=(1, 2)).argmax())
    quarters = [there[len(there) // 4], there[-1 - len(there) // 4]]
    chosen = ([first], [last], [middle], [largest], [first, last], quarters, [first, middle, last])
    return dict(zip(PROMPTED, chosen, strict=True))


def has_box(truth_hw: NDArray[np.bool_]) -> bool:
    """Whether a box can be drawn around a structure on a slice."""
    try:
        check_boxable(truth_hw)
    except PromptError:
        return False
    return True


def volume_arguments(doc: str | None, cases: int) -> argparse.ArgumentParser:
    """The arguments of a benchmark on volumes: what `structures` takes, where results go, and the weights."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="nnU-Net raw data sets")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=cases, help="volumes of each set")
    parser.add_argument("--seed", type=int, default=0, help="which cases")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of sets")
    parser.add_argument("--weights", default="nano", help="name or folder of the network's weights")
    return parser


def structures(folder: Path, args: argparse.Namespace, every: int = 1) -> Iterator[tuple[str, str, str, VolumeTask]]:
    """Data set, case, structure, and what is to be outlined."""
    for path in sorted(each.parent for each in folder.glob("*/dataset.json")):
        data = read_data_set(path)
        if data.kind != "volume" or (args.only and not any(part in path.name for part in args.only)):
            continue
        labelled = [case for case in data.cases if case.label is not None]
        order = np.random.default_rng([args.seed, zlib.crc32(path.name.encode())]).permutation(len(labelled))
        for case in [labelled[i] for i in order[: args.cases]]:
            loaded = data.load(case)
            for structure in data.structures:
                try:
                    task = thicken(VolumeTask(loaded.images[0], data.mask(loaded.labels, structure)), every)
                    slices_of(task.truth_thw)
                except MedicalSam2Error as error:
                    print(f"{path.name} {case.identifier} {structure}: {error}", file=sys.stderr)
                    continue
                yield path.name, case.identifier, structure, task


def thicken(task: VolumeTask, every: int) -> VolumeTask:
    """The same with every so manieth slice along its view alone, as far apart as they lie."""
    axes = task.volume.orientation
    axis, affine = task.view.order(axes)[0], task.volume.affine.copy()
    affine[:, axis] *= every
    thin = tuple(slice(None, None, every if a == axis else 1) for a in range(3))
    truth_ijk = task.view.invert(task.truth_thw, axes)
    return VolumeTask(Volume(task.volume.array[thin], affine, task.volume.modality), truth_ijk[thin]) if every > 1 else task


def answered(network: Segmenter, task: VolumeTask, kind: str, views: str) -> Iterator[tuple[str, float]]:
    """Dice of each choice of prompted slices, on the slices that no choice prompts."""
    chosen, axes = slices_of(task.truth_thw), task.volume.orientation
    others = np.setdiff1d(np.arange(len(task.truth_thw)), np.concatenate(list(chosen.values())))
    for name, times in chosen.items():
        prompts = [task.in_volume(t, draw_prompt(task.truth_thw[t], kind, np.random.default_rng(0))) for t in times]
        try:
            found = task.view.apply(network.segment_volume(task.volume, prompts, views=views).labels > 0, axes)
            yield name, dice(task.truth_thw[others], found[others])
        except MedicalSam2Error as error:
            print(f"{name} {kind}: {error}", file=sys.stderr)
            yield name, 0.0


def page(rows: Sequence[Mapping], args: argparse.Namespace) -> str:
    """Means over structures, of the means over cases; differences to the largest slice with intervals."""
    lines = [
        "# Which slice is prompted, and how many",
        "",
        f"`python benchmarks/prompted_slices.py FOLDER --cases {args.cases} --views {args.views} --every {args.every}`:"
        " mean Dice over structures,",
        "on slices that none of the choices prompts; in brackets the difference to the largest slice alone, with its 95 %",
        "bootstrap interval over structures.",
        "",
        "| prompt | structures | " + " | ".join(PROMPTED) + " |",
        "|---|---|" + "---|" * len(PROMPTED),
    ]
    for kind in args.kinds:
        of: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            if row["kind"] == kind and (row["views"], row.get("every", 1)) == (args.views, args.every):
                of[row["dataset"], row["structure"]][row["prompted"]].append(row["dice"])
        if not of:
            continue
        table = np.array([[np.mean(own[name]) for name in PROMPTED] for own in of.values()])
        cells = []
        for name, column in zip(PROMPTED, table.T, strict=True):
            gain, low, high = mean_interval(column - table[:, PROMPTED.index("largest")], np.random.default_rng(0))
            cells.append(f"{column.mean():.3f}" + ("" if name == "largest" else f" ({gain:+.3f} [{low:.3f}, {high:.3f}])"))
        lines.append(f"| {kind} | {len(table)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    parser = volume_arguments(__doc__, cases=2)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--views", default="one")
    parser.add_argument("--every", type=int, default=1, help="of so many slices one is shown")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "prompted_slices.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {tuple(row.get(key, 1) for key in ("dataset", "case", "structure", "kind", "views", "every")) for row in rows}
    network = Segmenter.from_pretrained(args.weights)
    with path.open("a") as stream:
        for dataset, case, structure, task in structures(args.folder, args, args.every):
            for kind in args.kinds:
                if (dataset, case, structure, kind, args.views, args.every) in done:
                    continue
                began = time.perf_counter()
                head = {"dataset": dataset, "case": case, "structure": structure, "kind": kind}
                head |= {"views": args.views, "every": args.every}
                new = [
                    {**head, "prompted": name, "dice": round(score, 4)}
                    for name, score in answered(network, task, kind, args.views)
                ]
                rows += new
                stream.write("".join(json.dumps(row) + "\n" for row in new))
                stream.flush()
                scores = " ".join(f"{row['dice']:.2f}" for row in new)
                print(f"{dataset} {structure} {kind}: {scores} ({time.perf_counter() - began:.0f} s)", flush=True)
    write_bytes(args.output / "prompted_slices.md", page(rows, args).encode())
    print(page(rows, args))
    return 0


if __name__ == "__main__":
    sys.exit(main())

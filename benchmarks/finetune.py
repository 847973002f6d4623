"""What fine-tuning on a few cases gains: Dice before and after on cases that it never saw, and the minutes it took.

    python benchmarks/finetune.py data/Dataset001_Hippocampus -o OUT [--train 30] [--held-out 20] [--minutes 10]
    python benchmarks/finetune.py data/Dataset001_Hippocampus -o OUT --prompt box click --rates 3e-5 1e-4 3e-4

Runs `medsam2 finetune`, from `nano` unless told otherwise, once for each rate, every time with the same cases held out, and
prints a table: each structure, prompted once on its largest slice, all other slices. OUT/RATE/report.json holds the same
for a rate, with the names of the cases, the recipe is in OUT/RATE/run/recipe.json, and OUT/finetune.md is the table. A rate
with a report is not run again. A rate that was chosen here has seen the held-out cases: report it with another --seed.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from medical_sam2.cli import main as medsam2

USUAL = "usual"  # the rate that `medsam2 finetune` takes by itself
KINDS = ("mask", "box", "click")


def table(reports: dict[str, dict]) -> str:
    """The reports by rate as Markdown: a row for each structure and prompt, a column for each rate."""
    first = next(iter(reports.values()))
    counts = f"{len(first['train'])} cases trained, {len(first['held_out'])} held out"
    took = ", ".join(f"{rate} {told['minutes']} minutes, {told['steps']} steps" for rate, told in reports.items())
    lines = [f"{first['data_set']}: {counts}. By rate: {took}.", ""]
    lines += ["| structure | prompt | before | " + " | ".join(f"rate {rate}" for rate in reports) + " |"]
    lines += ["|---|---|---|" + "---|" * len(reports)]
    for rows in zip(*(told["dice"] for told in reports.values()), strict=True):
        scores = [row["after"] for row in rows]
        known = [score for score in scores if score is not None]
        cells = ["–" if score is None else f"**{score:.3f}**" if score == max(known) else f"{score:.3f}" for score in scores]
        before = "–" if rows[0]["before"] is None else f"{rows[0]['before']:.3f}"
        lines.append(f"| {rows[0]['structure']} | {rows[0]['prompt']} | {before} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def tuned(told: argparse.Namespace, rate: str) -> int:
    """Fine-tune at a rate into its folder, unless that was done; the exit code."""
    output = told.output / rate
    if (output / "report.json").exists():
        return 0
    options = {
        "--output": output, "--weights": told.weights, "--most": told.train, "--held-out": told.held_out,
        "--max-minutes": told.minutes, "--seed": told.seed, "--device": told.device, "--threads": told.threads,
    }  # fmt: skip
    words = [f"{name}={value}" for name, value in options.items()] + [f"--prompt={kind}" for kind in told.prompt]
    changes = [f"--set={change}" for change in (*told.set, *([] if rate == USUAL else [f"rate={rate}"]))]
    return medsam2(["finetune", str(told.folder), *words, *changes])


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="nnU-Net raw data set")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--weights", default="nano")
    parser.add_argument("--train", type=int, default=30)
    parser.add_argument("--held-out", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=10.0, help="of training at each rate")
    parser.add_argument("--prompt", nargs="+", default=KINDS, choices=KINDS, help="that judge; all three unless told")
    parser.add_argument("--rates", nargs="+", default=[USUAL], help="learning rates to compare")
    parser.add_argument("--set", nargs="+", default=[], help="key=value over the recipe, for all rates")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(words)


def main() -> int:
    told = parsed()
    for rate in told.rates:
        if code := tuned(told, rate):
            return code
    text = table({rate: json.loads((told.output / rate / "report.json").read_text()) for rate in told.rates})
    (told.output / "finetune.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

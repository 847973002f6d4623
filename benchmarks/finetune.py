"""What fine-tuning on a few cases gains: Dice before and after on cases that it never saw, and the minutes it took.

    python benchmarks/finetune.py data/Dataset001_Hippocampus -o OUT [--train 30] [--held-out 20] [--minutes 10]

Runs `medsam2 finetune` from `nano` and prints a table: each structure, prompted once on its largest slice, all other slices.
OUT/report.json holds the same, with the names of the cases; the recipe is in OUT/run/recipe.json.
"""

import argparse
import json
import sys
from pathlib import Path

from medical_sam2.cli import main as medsam2


def table(told: dict[str, object]) -> str:
    """The report as Markdown."""
    rows = told["dice"]
    train, held_out = told["train"], told["held_out"]
    if not isinstance(rows, list) or not isinstance(train, list) or not isinstance(held_out, list):
        raise TypeError("no report of medsam2 finetune")
    head = f"{told['data_set']}: {len(train)} cases trained in {told['minutes']} minutes ({told['steps']} steps)"
    lines = [f"{head}, {len(held_out)} held out.", "", "| structure | prompt | before | after |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {r['structure']} | {r['prompt']} | {r['before']} | {r['after']} |" for r in rows)])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--weights", default="nano")
    parser.add_argument("--train", type=int, default=30)
    parser.add_argument("--held-out", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--prompt", nargs="+", default=["mask", "box", "click"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    told = parser.parse_args()
    options = {
        "--output": told.output, "--weights": told.weights, "--most": told.train, "--held-out": told.held_out,
        "--max-minutes": told.minutes, "--seed": told.seed, "--device": told.device, "--threads": told.threads,
    }  # fmt: skip
    code = medsam2(
        [
            "finetune",
            str(told.folder),
            *(f"{name}={value}" for name, value in options.items()),
            *(f"--prompt={kind}" for kind in told.prompt),
        ]
    )
    if code == 0:
        print(table(json.loads((told.output / "report.json").read_text())))
    return code


if __name__ == "__main__":
    sys.exit(main())

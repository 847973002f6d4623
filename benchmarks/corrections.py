"""Do further clicks make a volume better? Dice after one click, and after each of some corrections by a simulated user.

    python benchmarks/corrections.py FOLDER -o benchmarks/results [--cases 1] [--clicks 3] [--only PART ...] [--unrestricted]

FOLDER holds nnU-Net raw data sets of volumes. A structure is clicked on once, on its largest slice; each correction is a click
in the middle of the largest wrong region of the volume (`medical_sam2.simulate.next_click`). With `--unrestricted` a correction
may change what tracking finds, as if there were no rule of what clicks may add and take away: to compare. OUT gets
`corrections.md` (or `corrections_unrestricted.md`).
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import MedicalSam2Error
from medical_sam2.evaluate.cases import VolumeTask, draw_prompt
from medical_sam2.evaluate.tables import mean_interval
from medical_sam2.io.atomic import write_bytes
from medical_sam2.metrics import dice
from medical_sam2.segmenter import Segmenter
from medical_sam2.simulate import next_click
from medical_sam2.tracking import correction
from prompted_slices import structures, volume_arguments


def scores(network: Segmenter, task: VolumeTask, clicks: int) -> list[float]:
    """Dice of the whole volume after the first click and after each correction; one that is refused changes nothing."""
    t = int(task.truth_thw.sum(axis=(1, 2)).argmax())
    first = task.in_volume(t, draw_prompt(task.truth_thw[t], "click", np.random.default_rng(0)))
    labels, axes = network.segment_volume(task.volume, [first], views="one").labels, task.volume.orientation
    truth = task.view.invert(task.truth_thw, axes)
    found = [dice(truth, labels > 0)]
    for number in range(clicks):
        click = next_click(truth, labels > 0, np.random.default_rng(number))
        try:
            if click is not None:
                labels = network.segment_volume(task.volume, [click.in_volume()], earlier=labels, views="one").labels
        except MedicalSam2Error as error:
            print(error, file=sys.stderr)
        found.append(dice(truth, labels > 0))
    return found


def unrestricted(what: correction._CorrectedObject, t: int, mask_hw: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """All that tracking found on a frame."""
    what.changes[t] = mask_hw & ~what.old_thw[t], what.old_thw[t] & ~mask_hw
    return mask_hw


def page(rows: Sequence[Sequence[float]], args: argparse.Namespace) -> str:
    """Means over structures; differences to the first click with intervals."""
    table = np.array(rows)
    options = f"--cases {args.cases} --image-size {args.image_size}{' --unrestricted' * args.unrestricted}"
    lines = [
        "# Corrections of volumes",
        "",
        f"`python benchmarks/corrections.py FOLDER {options} --only {' '.join(args.only)}`:",
        f"mean Dice of the whole volume over {len(table)} structures; the change from the first click, with its 95 % bootstrap",
        "interval over structures.",
        "",
        "| clicks | Dice | change |",
        "|---|---|---|",
    ]
    for place, column in enumerate(table.T):
        gain, low, high = mean_interval(column - table[:, 0], np.random.default_rng(0))
        lines.append(f"| {place + 1} | {column.mean():.3f} | {f'{gain:+.3f} [{low:.3f}, {high:.3f}]' if place else ''} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = volume_arguments(__doc__, cases=1)
    parser.add_argument("--clicks", type=int, default=3, help="corrections")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--unrestricted", action="store_true", help="without the rule of what clicks may change")
    args = parser.parse_args()
    if args.unrestricted:
        correction._CorrectedObject.restrict = lambda self, t, mask_hw: mask_hw  # type: ignore[method-assign]
        correction._CorrectedObject.spread = unrestricted  # type: ignore[method-assign]
    network, rows = Segmenter.from_pretrained(args.weights, image_size=args.image_size), list[list[float]]()
    for dataset, case, structure, task in structures(args.folder, args):
        rows.append(scores(network, task, args.clicks))
        print(f"{dataset} {case} {structure} {' '.join(f'{score:.3f}' for score in rows[-1])}", flush=True)
    args.output.mkdir(parents=True, exist_ok=True)
    write_bytes(args.output / f"corrections{'_unrestricted' * args.unrestricted}.md", page(rows, args).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())

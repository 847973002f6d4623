"""What each kind of prompt is worth: Dice of the whole volume, by a simulated user who points at the largest slice.

    python benchmarks/prompt_kinds.py FOLDER -o benchmarks/results [--cases 1] [--only PART ...] [--kinds KIND ...] [--slice]

FOLDER holds nnU-Net raw data sets of volumes, or is a pool that recipes/nano/synthesize.py wrote (--structures 1: one of each
case). Each structure is prompted once in each way, in one view; "outlines" are those of the first, the largest and the last
slice that show it, "interpolated" ones are joined by their shapes. A scribble and a diameter are shown to the network in
several ways, to compare. OUT gets `prompt_kinds.md`.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medical_sam2 import strokes
from medical_sam2.data.cases import read_pool
from medical_sam2.errors import MedicalSam2Error, WeightsError
from medical_sam2.evaluate.cases import VolumeTask, draw_prompt
from medical_sam2.evaluate.significance import mean_interval
from medical_sam2.io.atomic import write_bytes
from medical_sam2.metrics import dice
from medical_sam2.model.memory_bank import SelfSorting
from medical_sam2.prompts import Box, FramePrompt, Prompt
from medical_sam2.segmenter import Segmenter
from medical_sam2.simulate import draw_diameters, draw_lasso, draw_scribble
from medical_sam2.strokes import Diameter, Lasso, Scribble, ShapeInterpolation, SliceRange
from medical_sam2.tracking import click_outline, volume_tracker
from medical_sam2.tracking.view_tracker import TrackingConfig, ViewTracker
from medical_sam2.volume import Volume
from prompted_slices import slices_of, structures, volume_arguments


def voxels(task: VolumeTask, t: int, places_xy: Sequence[Sequence[float]]) -> tuple[tuple[float, float, float], ...]:
    """Places on a slice of the view as voxels."""
    axes, found = task.volume.orientation, list[tuple[float, float, float]]()
    for x, y in places_xy:
        index = [0.0, 0.0, 0.0]
        for place, flip, along in zip(task.view.order(axes), task.view.flipped(axes), (t, y, x), strict=True):
            index[place] = task.volume.shape[place] - 1 - along if flip else along
        found.append((index[0], index[1], index[2]))
    return tuple(found)


def simple(kind: str) -> Callable[[VolumeTask], list[Prompt]]:
    return lambda task: [task.prompt(kind, np.random.default_rng(0))]  # type: ignore[arg-type]


def solid_box(task: VolumeTask) -> list[Prompt]:
    low, high = (tuple(map(float, pick(np.argwhere(task.truth_ijk), 0))) for pick in (np.min, np.max))
    return [Box(low, high)]  # type: ignore[arg-type]


def with_slices(task: VolumeTask) -> list[Prompt]:
    axis = task.view.order(task.volume.orientation)[0]
    there = np.flatnonzero(task.truth_ijk.any(axis=tuple({0, 1, 2} - {axis})))
    return [*simple("box")(task), SliceRange(int(there[0]), int(there[-1]))]


def scribble(task: VolumeTask) -> list[Prompt]:
    return [Scribble(voxels(task, task.start, draw_scribble(task.truth_thw[task.start])), width=1)]


def lasso(task: VolumeTask) -> list[Prompt]:
    return [Lasso(voxels(task, task.start, draw_lasso(task.truth_thw[task.start])))]


def diameters(task: VolumeTask) -> list[Prompt]:
    return [Diameter(voxels(task, task.start, draw_diameters(task.truth_thw[task.start])))]


def longest(task: VolumeTask) -> list[Prompt]:
    return [Diameter(voxels(task, task.start, draw_diameters(task.truth_thw[task.start])[:2]))]


def outlines(task: VolumeTask) -> list[Prompt]:
    chosen = slices_of(task.truth_thw)
    times = sorted({*chosen["first and last"], task.start})
    return [task.in_volume(t, draw_prompt(task.truth_thw[t], "mask", np.random.default_rng(0))) for t in times]


def joined(task: VolumeTask) -> list[Prompt]:
    return [*outlines(task), ShapeInterpolation()]


def ellipse(ends_xy: Sequence[Sequence[float]], shape_hw: tuple[int, int]) -> FramePrompt:
    """The ellipse of the diameters as an estimate."""
    ends = np.array(ends_xy, float)
    middle, long = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2
    short = (ends[3] - ends[2]) / 2 if len(ends) == 4 else np.array([-long[1], long[0]]) * strokes.SHORT_OVER_LONG
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)[:, None]
    line = np.clip(middle + np.cos(turn) * long + np.sin(turn) * short, 0, np.array(shape_hw[::-1]) - 1.0)
    return FramePrompt.mask(strokes.fill(line, shape_hw), estimate=0.8)


def box_alone(ends_xy: Sequence[Sequence[float]], shape_hw: tuple[int, int]) -> FramePrompt:
    found = strokes.diameter_prompt(ends_xy, shape_hw)
    return FramePrompt.box(*found.box_xyxy) if found.box_xyxy is not None else found


def box_and_line(ends_xy: Sequence[Sequence[float]], shape_hw: tuple[int, int]) -> FramePrompt:
    """The box, with clicks half-way between the middle and each end of the longest diameter."""
    ends, found = np.array(ends_xy, float)[:2], box_alone(ends_xy, shape_hw)
    for share in (0.25, 0.75):
        found = found | FramePrompt.click(*(ends[0] + share * (ends[1] - ends[0])))
    return found


Way = tuple[Callable[[VolumeTask], list[Prompt]], Mapping[str, Any]]
KINDS: Mapping[str, Way] = {
    "click": (simple("click"), {}),
    "scribble, 1 click": (scribble, {"clicks": 1}),
    "scribble, 3 clicks": (scribble, {"clicks": 3}),
    "scribble, 5 clicks": (scribble, {"clicks": 5}),
    "scribble, 1 click, choosing no mask": (scribble, {"clicks": 1, "chooses": False}),
    "scribble, 3 clicks, choosing no mask": (scribble, {"clicks": 3, "chooses": False}),
    "diameters: box and click": (diameters, {}),
    "diameters: box": (diameters, {"shown": box_alone}),
    "diameters: box and two clicks": (diameters, {"shown": box_and_line}),
    "diameters: ellipse": (diameters, {"shown": ellipse}),
    "longest: box and click": (longest, {}),
    "longest: ellipse": (longest, {"shown": ellipse}),
    "box": (simple("box"), {}),
    "box, slices": (with_slices, {}),
    "box in 3D": (solid_box, {}),
    "lasso": (lasso, {}),
    "mask": (simple("mask"), {}),
    "outlines": (outlines, {}),
    "outlines, interpolated, half": (joined, {}),
    "outlines, interpolated, alone": (joined, {"between": 1.0}),
}


def score(network: Segmenter, task: VolumeTask, way: Way, *, only_slice: bool) -> float:
    """Dice of one way; a refusal finds nothing."""
    draw, how = way
    given = dict(how)
    usual, follow = (strokes.CLICKS, strokes.Diameter.on_image, volume_tracker.BETWEEN), click_outline.share_followed
    shown = given.pop("shown", None)
    strokes.CLICKS, volume_tracker.BETWEEN = given.pop("clicks", usual[0]), given.pop("between", usual[2])
    if not given.pop("chooses", True):
        click_outline.share_followed = lambda _, candidates, __: np.ones(len(candidates), np.float32)
    if shown is not None:
        strokes.Diameter.on_image = lambda _, places, shape: shown(places, shape)  # type: ignore[method-assign]
    try:
        if only_slice:
            return score_slice(network, task, draw(task))
        found = network.segment_volume(task.volume, draw(task), views="one")
        return dice(task.truth_ijk, found.labels > 0)
    except MedicalSam2Error as error:
        print(error, file=sys.stderr)
        return 0.0
    finally:
        click_outline.share_followed = follow
        strokes.CLICKS, strokes.Diameter.on_image, volume_tracker.BETWEEN = usual  # type: ignore[method-assign]


def synthetic(folder: Path, args: argparse.Namespace) -> Iterator[tuple[str, str, str, VolumeTask]]:
    """The structures of a pool, as `structures` gives those of data sets."""
    pool = read_pool(folder)
    for place, entry in enumerate(pool.entries):
        case = pool.load(place)
        for number, labels in enumerate(case.tasks[: args.structures]):
            volume = Volume(np.moveaxis(case.images, 0, 2).astype(np.float32), np.eye(4))
            try:
                yield (
                    entry.name,
                    str(entry.index),
                    str(number),
                    VolumeTask(volume, np.moveaxis(np.isin(case.labels, labels), 0, 2)),
                )
            except MedicalSam2Error as error:
                print(f"{entry.name} {entry.index} {number}: {error}", file=sys.stderr)


def score_slice(network: Segmenter, task: VolumeTask, prompts: Sequence[Prompt]) -> float:
    """Dice of what clicks and scribbles are taken for on the prompted slice, before anything is tracked."""
    if network.judge is None:
        raise WeightsError("these weights have no judge of clicks", "leave --slice out")
    axes = task.volume.orientation
    config = TrackingConfig(
        network.network, network.encode, task.volume, task.window({}), SelfSorting, zoom=True, judge=network.judge
    )
    tracker, view = ViewTracker(config), task.view
    stack = tracker.frames(view)
    picture = stack.picture(task.start, click_outline.reduction(stack.canvas.shape_hw))
    prompt = reduce(or_, (each.project(view, task.volume.shape, axes)[task.start] for each in prompts))
    with torch.no_grad(), network.computing():
        found = network.judge.outline_click(stack.canvas, picture, prompt, lambda r, p: tracker.answer(view, r, task.start, p))
    return 0.0 if found is None else dice(task.truth_thw[task.start], found[0])


def page(names: Sequence[str], rows: Sequence[Sequence[float]], args: argparse.Namespace) -> str:
    """Means over structures."""
    table = np.array(rows)
    lines = [
        "# Kinds of prompts",
        "",
        f"`python benchmarks/prompt_kinds.py FOLDER --seed {args.seed}{' --slice' * args.slice}`: mean Dice of",
        f"{'the prompted slice' if args.slice else 'the whole volume'} over {len(table)} structures, one view, a perfect hand,",
        "with 95 % bootstrap intervals over structures.",
        "",
        "| prompt | Dice |",
        "|---|---|",
    ]
    for place, name in enumerate(names):
        mean, low, high = mean_interval(table[:, place], np.random.default_rng(0))
        lines.append(f"| {name} | {mean:.3f} [{low:.3f}, {high:.3f}] |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = volume_arguments(__doc__, cases=1)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--structures", type=int, default=0, help="FOLDER is a pool: so many structures of each case")
    parser.add_argument("--slice", action="store_true", help="what clicks and scribbles are taken for on their slice, alone")
    args = parser.parse_args()
    network, rows = Segmenter.from_pretrained(args.weights), list[list[float]]()
    for dataset, case, structure, task in (synthetic if args.structures else structures)(args.folder, args):
        rows.append([score(network, task, KINDS[kind], only_slice=args.slice) for kind in args.kinds])
        shown = ", ".join(f"{kind} {value:.3f}" for kind, value in zip(args.kinds, rows[-1], strict=True))
        print(f"{dataset} {case} {structure}: {shown}", flush=True)
    args.output.mkdir(parents=True, exist_ok=True)
    write_bytes(args.output / "prompt_kinds.md", page(args.kinds, rows, args).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())

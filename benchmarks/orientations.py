"""Six orientations of a volume beside transformers' session run six times over the same frames, on the same random weights.

    python benchmarks/orientations.py [--side 160] [--objects 2] [--encoder tiny] [--image-size 256] [-o OUT.md]

A cube of noise, each object outlined on its middle axial slice. This package runs `segment_volume(views="six", zoom=False,
every_slice=True)` in
each `--precision` (auto is its default), whole slices as the session sees them; every frame that was tracked is counted. With
random weights a network may outline anything; where it finds an object absent on eight slices in a row, or sees it end, this
package tracks no further: the frames left out are reported, and count on neither side. Where it takes objects through a view
one by one, a frame with one of two objects counts as half a frame, since the session's frames hold both.

What the session takes is the same for all frames once its memory is full, so it is measured on `--sample` frames after that,
spread over our run so that other programs disturb both alike, and multiplied. The frames that fill the memory are cheaper; they
are 16 of each of the session's six runs, and are counted like the rest (below 1 % of the sum at 160 frames). Seconds of the
processor, and on the clock.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medical_sam2.io.atomic import write_bytes
from medical_sam2.model.sam2 import Sam2
from medical_sam2.prompts import Mask
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.volume_tracker import FrameDone
from medical_sam2.volume import Volume
from speed_peers import session
from speed_run import machine
from speed_scene import Scene, network, scene

FILL = 16  # frames until the session's memory is full: seven maps, sixteen object pointers
ORIENTATIONS, GOAL = 6, 6.0


@dataclass(frozen=True)
class Spent:
    """Seconds of the processor and on the clock."""

    processor_s: float
    wall_s: float

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(self.processor_s - other.processor_s, self.wall_s - other.wall_s)

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.processor_s + other.processor_s, self.wall_s + other.wall_s)


@dataclass(frozen=True)
class Result:
    """One run of this package, and the session's frames measured meanwhile.

    Args:
        precision: as it was asked for, and what it is.
        frames: tracked of each view; a frame with half of the objects is half a frame.
        own: all of our run.
        peer: the session's sampled frames.
        wanted: frames of each view, if none were left out.
    """

    precision: str
    frames: Mapping[str, float]
    own: Spent
    peer: Sequence[Spent]
    wanted: int

    @property
    def tracked(self) -> float:
        """Frames of all views."""
        return sum(self.frames.values())

    @property
    def session(self) -> Spent:
        """The session over as many frames as this package tracked: the median frame times their number."""
        processor_s, wall_s = ([getattr(each, name) for each in self.peer] for name in ("processor_s", "wall_s"))
        return Spent(self.tracked * statistics.median(processor_s), self.tracked * statistics.median(wall_s))

    @property
    def faster(self) -> float:
        """How many times, by the processor."""
        return self.session.processor_s / self.own.processor_s


def now() -> Spent:
    return Spent(time.process_time(), time.perf_counter())


@dataclass(eq=False)
class Beside:
    """The session's frames, taken in the middle of our run; their time is not ours."""

    steps: Iterator[Tensor]
    every: int
    sample: int
    views: list[tuple[str, int]] = field(default_factory=list)
    measured: list[Spent] = field(default_factory=list)
    aside: Spent = field(default_factory=lambda: Spent(0.0, 0.0))

    def fill(self) -> None:
        with torch.autocast("cpu", enabled=False):
            for _ in range(FILL):
                next(self.steps)

    def take(self) -> None:
        before = now()
        with torch.autocast("cpu", enabled=False):
            next(self.steps)
        self.measured.append(now() - before)

    def __call__(self, done: FrameDone) -> None:
        self.views.append((done.view, len(done.objects)))
        if len(self.views) % self.every == 0 and len(self.measured) < self.sample:
            before = now()
            self.take()
            self.aside += now() - before


def cube(frames: Scene, side: int) -> Volume:
    """A volume of smooth noise; its axial slices are the scene's frames at their own size."""
    stack = torch.nn.functional.interpolate(frames.frames_T3SS[:, :1], size=(side, side), mode="bilinear")
    return Volume(stack[:, 0].permute(2, 1, 0).numpy() * 1000, np.eye(4))


def outlines(volume: Volume, objects: int) -> list[Mask]:
    """Squares on the middle slice."""
    side = volume.shape[0]
    masks: list[Mask] = []
    for number in range(objects):
        array = np.zeros(volume.shape, bool)
        low, wide = side * (1 + 2 * number) // (2 * objects + 1), max(2, side // (2 * objects + 1))
        array[low : low + wide, side // 4 : -side // 4, side // 2] = True
        masks.append(Mask(array, number + 1, axis=2))
    return masks


def measured(made: Sam2, precision: str, side: int, objects: int, sample: int) -> Result:
    """Our six orientations, with the session's frames in between."""
    segmenter = Segmenter(made, device="cpu", precision=precision)  # type: ignore[arg-type]
    shown = scene(made.image_size, objects, max(side, FILL + sample))
    beside = Beside(session(made, Scene(shown.frames_T3SS[: FILL + sample], objects)), 1, sample)
    beside.fill()
    beside.every = max(1, ORIENTATIONS * side // (sample + 1))
    volume = cube(Scene(shown.frames_T3SS[:side], objects), side)
    before = now()
    segmenter.segment_volume(volume, outlines(volume, objects), views="six", zoom=False, every_slice=True, on_frame=beside)
    own = now() - before - beside.aside
    while len(beside.measured) < sample:  # fewer frames were tracked than planned
        beside.take()
    named = precision if precision == segmenter.precision else f"{precision} ({segmenter.precision})"
    return Result(named, by_view(beside.views, objects), own, tuple(beside.measured), side)


def by_view(tracked: Sequence[tuple[str, int]], objects: int) -> dict[str, float]:
    """Frames of each view, in frames of all objects."""
    return {view: sum(count for name, count in tracked if name == view) / objects for view in dict(tracked)}


def page(results: Sequence[Result], head: str) -> str:
    """Markdown."""
    lines = [
        "# Six orientations",
        "",
        head,
        "",
        "The session: median of the sampled frames, in fp32, times the frames that this package tracked (a multiplication, not",
        f"a run of them all). Goal: {GOAL:g} times faster.",
        "",
        "| precision | frames tracked | of | s of the processor | s on the clock | session: ms a frame | session: s "
        "| s on the clock | times faster | on the clock |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in results:
        frame, clock = each.session.processor_s / each.tracked, each.session.wall_s / each.own.wall_s
        lines.append(
            f"| {each.precision} | {each.tracked:g} | {ORIENTATIONS * each.wanted} | {each.own.processor_s:.1f} "
            f"| {each.own.wall_s:.1f} | {1000 * frame:.0f} | {each.session.processor_s:.1f} | {each.session.wall_s:.1f} "
            f"| **{each.faster:.2f}** | {clock:.2f} |"
        )
    lines += ["", *(f"Frames of each view, {each.precision}: {_listed(each.frames)}." for each in results)]
    return "\n".join(lines) + "\n"


def _listed(frames: Mapping[str, float]) -> str:
    return ", ".join(f"{view} {count:g}" for view, count in frames.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--objects", type=int, default=2)
    parser.add_argument("--encoder", default="tiny", choices=("tiny", "small", "large"))
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--precision", nargs="+", default=["auto", "fp32"], choices=("auto", "fp32", "bf16"))
    parser.add_argument("--sample", type=int, default=24, help="frames of the session that are measured")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path)
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    made = network(told.encoder, told.image_size)
    head = f"{told.side}³ voxels, {told.objects} objects, SAM 2.1 {told.encoder} with random weights, {told.image_size} px; "
    head += f"{machine()}."
    results: list[Result] = []
    for precision in told.precision:
        results.append(measured(made, precision, told.side, told.objects, told.sample))
        text = page(results, head)
        if told.output:
            write_bytes(told.output, text.encode())
        print(text, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

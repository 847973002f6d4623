"""Images per second of a set, where the time goes, and whether memory grows with the number of images.

    python benchmarks/throughput.py [--weights nano] [--images 200] [--threads 2] [-o benchmarks/results/throughput.md]

A folder of RGB pictures of several sizes is made from noise, one of them prompted by an outline; all are read, outlined and
written as `medsam2 segment-images` does. Seconds on the clock and of the processor: where other programs run beside it, compare
the latter. The first images warm up and are not counted.
"""

import argparse
import platform
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from medical_sam2.cli.installation import capabilities
from medical_sam2.io.image_folder import FolderEntry, ImageFolder, open_folder
from medical_sam2.io.labels import save_label_map
from medical_sam2.prompts import FramePrompt
from medical_sam2.segmenter import Segmenter

SIZES = ((512, 512), (480, 640), (768, 1024), (300, 300))
WARM_UP = 10
PARTS = ("reading", "encoding", "tracking", "writing")


@dataclass
class Clock:
    """Seconds (on the clock, of the processor) of each part; a part within another is taken out of that."""

    spent: dict[str, list[float]] = field(default_factory=lambda: {part: [0.0, 0.0] for part in PARTS})
    _inside: list[str] = field(default_factory=list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        before = (time.perf_counter(), time.process_time())
        self._inside.append(name)
        try:
            yield
        finally:
            self._inside.pop()
            for place, (now, then) in enumerate(zip((time.perf_counter(), time.process_time()), before, strict=True)):
                self.spent[name][place] += now - then
                if self._inside:
                    self.spent[self._inside[-1]][place] -= now - then


class Timed(ImageFolder):
    """A folder whose reading is timed."""

    clock: Clock

    def picture(self, index: int):
        with self.clock.part("reading"):
            return super().picture(index)


def make(folder: Path, count: int) -> NDArray[np.bool_]:
    """Pictures of a dark disc; the outline of the first."""
    rng = np.random.default_rng(0)
    outlines: list[NDArray[np.bool_]] = []
    for i in range(count):
        height, width = SIZES[i % len(SIZES)]
        rows, columns = np.indices((height, width))
        inside = np.hypot(rows - rng.uniform(0.3, 0.7) * height, columns - rng.uniform(0.3, 0.7) * width) < 0.15 * height
        colour = np.where(inside[..., None], (120, 60, 140), (220, 190, 200)) + rng.normal(0, 8, (height, width, 3))
        Image.fromarray(colour.clip(0, 255).astype(np.uint8)).save(folder / f"{i:05d}.png", compress_level=1)
        outlines.append(inside)
    return outlines[0]


def measured(segmenter: Segmenter, images: Timed, outline: NDArray[np.bool_], out: Path) -> tuple[Clock, list[int]]:
    """The clock without the warm-up, and the peak memory in KiB after each image."""
    clock, encode, peaks = images.clock, segmenter.encode, list[int]()

    def timed(frame: torch.Tensor):
        with clock.part("encoding"):
            return encode(frame)

    segmenter.encode = timed  # type: ignore[method-assign]
    found = segmenter.segment_images(images, {0: {1: FramePrompt.mask(outline)}})
    while True:
        with clock.part("tracking"):
            one = next(found, None)
        if one is None:
            return clock, peaks
        with clock.part("writing"):
            save_label_map(one.labels, out / f"{one.index:05d}.png")
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        if len(peaks) == WARM_UP:
            clock.spent = {part: [0.0, 0.0] for part in PARTS}


def table(clock: Clock, peaks: list[int], head: str) -> str:
    count = len(peaks) - WARM_UP
    wall, work = (sum(spent[place] for spent in clock.spent.values()) for place in (0, 1))
    lines = [
        "# Images per second",
        "",
        head,
        "",
        f"{count / wall:.2f} images/s on the clock, {count / work:.2f} images a second of processor.",
        "",
        "| part | ms an image | ms of processor | share of processor |",
        "|---|---|---|---|",
    ]
    for part, (clocked, worked) in clock.spent.items():
        lines.append(f"| {part} | {1000 * clocked / count:.1f} | {1000 * worked / count:.1f} | {worked / work:.0%} |")
    quarter = len(peaks) // 4
    lines += [
        "",
        f"Peak memory after {quarter} images {peaks[quarter - 1] >> 10} MiB, after {len(peaks)} {peaks[-1] >> 10} MiB.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--weights", default="nano")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path)
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    segmenter = Segmenter.from_pretrained(told.weights, device=told.device)
    with TemporaryDirectory() as place:
        folder, out = Path(place) / "set", Path(place) / "out"
        folder.mkdir()
        out.mkdir()
        outline = make(folder, told.images)
        entries: tuple[FolderEntry, ...] = open_folder(folder).entries
        images = Timed(folder, entries)
        images.clock = Clock()
        clock, peaks = measured(segmenter, images, outline, out)
    name = str(capabilities().get("cpu_name") or platform.processor())
    sizes = ", ".join(f"{width}×{height}" for height, width in SIZES)
    head = f"{name}, {told.threads} thread(s), `{told.weights}` at {segmenter.network.image_size} px, {segmenter.precision}, "
    text = table(clock, peaks, f"{head}{told.images} RGB pictures of {sizes}, one object, self-sorting bank.")
    print(text, end="")
    if told.output is not None:
        told.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

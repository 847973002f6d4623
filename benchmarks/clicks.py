"""Which regions should the network be asked on when somebody clicks? Dice on the clicked slice, by what is looked at.

    python benchmarks/clicks.py --clicks 100 [--small] [--folder FOLDER]

Each click is answered in every region; the choice is made afterwards, so all ways of choosing are compared on the same clicks.
Synthetic volumes that nobody trained on, with --small in a frame three times as wide; or the nnU-Net data sets of a folder.
"""

import itertools
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import real_volumes
from medical_sam2.intensity_window import choose_window
from medical_sam2.metrics import dice
from medical_sam2.model.memory_bank import SelfSorting
from medical_sam2.prompts import FramePrompt, Point, intensities
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.plan import primary_view
from medical_sam2.tracking.region_of_interest import (
    NEAR,
    SCALE,
    SMALL,
    Canvas,
    Region,
    _most_agreed,
    _part_under,
    box_of,
    grow_region,
    region_for,
)
from medical_sam2.tracking.view_tracker import TrackingConfig, ViewTracker
from medical_sam2.views import View
from medical_sam2.volume import Volume
from nano_recipe import make_volume

SCALES = (0.1, 0.19, 0.31, 0.5, 0.75)  # shares of the frame's shorter side; 1 is the whole frame
WAYS = {  # what is asked first; what is asked too where the object seems to be small
    "all six": ((1, *SCALES), ()),
    "as it is": ((1, SCALE), (NEAR,)),
    "whole and half": ((1, 0.5), ()),
    "whole": ((1,), ()),
    "closely": ((0.31,), ()),
}
SEED, PADDING = 990_000, 96


@dataclass(frozen=True, eq=False)
class Click:
    """On one slice of one object."""

    tracker: ViewTracker
    view: View
    t: int
    prompt: FramePrompt
    truth: NDArray[np.bool_]

    @property
    def canvas(self) -> Canvas:
        return self.tracker.frames(self.view).canvas

    def look(self, region: Region | None) -> tuple[NDArray[np.bool_], float]:
        mask, sure = self.tracker.ask(self.view, region, self.t, self.prompt)
        return _part_under(self.prompt, mask), sure

    def around(self, scale: float) -> Region | None:
        (x, y), mm = self.prompt.points_xy[0].tolist(), min(np.multiply(self.canvas.shape_hw, self.canvas.pixel_hw))
        return self.canvas.around((x, y, x, y), max(scale * mm / max(self.canvas.pixel_hw), 2.0))

    def outlined(self, mask: NDArray[np.bool_]) -> float:
        """Dice of what the network finds where a first answer says that the object is."""
        region = region_for(self.canvas, box_of(mask)) if mask.any() else None
        while True:
            found, _ = self.tracker.ask(self.view, region, self.t, self.prompt)
            if region is None or not region.touched(found):
                return dice(self.truth, found)
            region = grow_region(self.canvas, region)


def objects(folder: Path | None, small: bool) -> Iterator[tuple[Volume, NDArray[np.bool_]]]:
    if folder is not None:
        for case in real_volumes.cases(folder, everything=False):
            what = real_volumes.loaded(case)
            yield from ((what.volume, what.truth == label) for label in what.case.names)
        return
    width = ((PADDING, PADDING), (PADDING, PADDING), (0, 0)) if small else 0
    for number in itertools.count():
        case = make_volume(np.random.default_rng(SEED + number), 112 if small else 192)
        volume = Volume(np.pad(case.images.transpose(2, 1, 0), width, mode="reflect"), np.eye(4))
        yield from ((volume, np.pad(np.isin(case.labels.transpose(2, 1, 0), task), width)) for task in case.tasks[:4])


def clicks(segmenter: Segmenter, folder: Path | None, small: bool) -> Iterator[Click]:
    rng = np.random.default_rng(5)
    twice = (each for each in objects(folder, small) for _ in range(2))
    for volume, inside in twice:
        view = primary_view(volume, [Point((0, 0, 0))])
        truth = view.apply(inside, volume.orientation)
        if not len(there := np.flatnonzero(truth.sum((1, 2)) >= 12)):
            continue
        t = int(rng.choice(there))
        depth = real_volumes.depth(truth[t])
        y, x = rng.choice(np.argwhere(depth >= depth.max() / 2))
        prompt = FramePrompt.click(float(x), float(y))
        frame = view.apply(volume.array, volume.orientation)[t]
        window = choose_window(volume, inside=intensities(frame, prompt))
        yield Click(
            ViewTracker(TrackingConfig(segmenter.network, segmenter.encode, volume, window, SelfSorting)),
            view,
            t,
            prompt,
            truth[t],
        )


def tried(click: Click) -> list[tuple[float, int]]:
    """Dice, and how often the network was asked, of each way."""
    asked = {click.around(scale) if scale < 1 else None: click for scale in (1, *SCALES)}
    answers, limit = {region: click.look(region) for region in asked}, SMALL * min(click.canvas.shape_hw)
    known: dict[bytes, float] = {}
    rows = []
    for first, near in WAYS.values():
        regions = dict.fromkeys(click.around(scale) if scale < 1 else None for scale in first)
        best = _most_agreed([answers[region] for region in regions])
        if near and (not best.any() or max(best.any(0).sum(), best.any(1).sum()) < limit):
            regions |= dict.fromkeys(map(click.around, near))
            best = _most_agreed([answers[region] for region in regions])
        if best.tobytes() not in known:
            known[best.tobytes()] = click.outlined(best)
        rows.append((known[best.tobytes()], len(regions)))
    return rows


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--clicks", type=int, default=100)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--folder", type=Path)
    told = parser.parse_args()
    segmenter = Segmenter.from_pretrained()
    with torch.inference_mode(), segmenter.computing():
        some = itertools.islice(clicks(segmenter, told.folder, told.small), told.clicks)
        table = np.array([tried(click) for click in some])
    print(f"{len(table)} clicks\n\n| | looks | Dice | against all six |\n|---|---|---|---|")
    for name, (score, looks) in zip(WAYS, table.transpose(1, 2, 0), strict=True):
        more = score - table[:, 0, 0]
        print(
            f"| {name} | {looks.mean():.1f} | {score.mean():.3f} | {more.mean():+.3f} ± {more.std() / len(more) ** 0.5:.3f} |"
        )


if __name__ == "__main__":
    main()

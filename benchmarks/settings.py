"""Which settings are best for a network: swept on synthetic volumes and sets that nobody trained on.

    python benchmarks/settings.py [--weights nano] [--volumes 8] [--sets 8] [-o benchmarks/results/settings.md]

One outline on the largest slice of an object, or on the first image of a set; Dice over the other slices or images. The
cases come from seeds that no training uses, so nothing is chosen on the real images that results are reported on.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from medical_sam2.data.synthetic import make_case
from medical_sam2.model.memory import Fifo, Greedy, SelfSorting
from medical_sam2.prompts import FramePrompt, Mask
from medical_sam2.segmenter import Segmenter
from medical_sam2.volume import Volume

SEED = 777_000_001
BANKS: dict[str, Callable] = {
    "fifo": Fifo,
    "greedy, 7": partial(Greedy, size=7),
    "self-sorting, prompt alone": partial(SelfSorting, threshold=2.0),
    "self-sorting, 4": partial(SelfSorting, size=4),
    "self-sorting, 7": partial(SelfSorting, size=7),
    "self-sorting, 7, threshold 0": partial(SelfSorting, size=7, threshold=0.0),
    "self-sorting, 7, threshold 0.3": partial(SelfSorting, size=7, threshold=0.3),
    "self-sorting, 7, threshold 0.7": partial(SelfSorting, size=7, threshold=0.7),
    "self-sorting, 7, no resampling": partial(SelfSorting, size=7, resample="none"),
    "self-sorting, 7, sampled": partial(SelfSorting, size=7, resample="sample"),
    "self-sorting, 7, softmax 0.05": partial(SelfSorting, size=7, temperature=0.05),
    "self-sorting, 7, no time": partial(SelfSorting, size=7, temporal="none"),
    "self-sorting, 7, by rank": partial(SelfSorting, size=7, temporal="rank"),
    "latest confident, 7": partial(SelfSorting, size=7, sort=False),
    "self-sorting, 12": partial(SelfSorting, size=12),
}
WAYS = {
    "one view": {"views": "one"},
    "one view, islands kept": {"views": "one", "islands": True},
    "three views, mean": {"views": "three"},
    "three views, weighted": {"views": "three", "fusion": "weighted"},
    "three views, vote": {"views": "three", "fusion": "vote"},
    "three views, own banks": {"views": "three", "joint": False},
    "six views, mean": {"views": "six"},
}


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))


def volumes(count: int) -> list[tuple[Volume, Mask, np.ndarray, int]]:
    """Objects with their prompts: at least 200 voxels, on at least 6 slices of the first axis."""
    found = []
    for index in range(count):
        case = make_case(SEED, 2 * index, "volume")
        rng = np.random.default_rng([SEED, index])
        for task in (case.tasks[i] for i in rng.permutation(len(case.tasks))):
            truth = np.isin(case.labels, task)
            areas = truth.sum(axis=(1, 2))
            if (areas > 20).sum() >= 6:
                break
        else:
            continue
        low, high = np.flatnonzero(areas)[[0, -1]]
        part = slice(max(0, low - 8), high + 9)
        truth, start = truth[part], int(areas[part].argmax())
        drawn = np.zeros_like(truth)
        drawn[start] = truth[start]
        image = np.ascontiguousarray(case.images[part])
        found.append((Volume(image, np.diag([1.0, 1.0, 1.0, 1.0])), Mask(drawn, axis=0), truth, start))
    return found


def sets(count: int) -> list[tuple[list[np.ndarray], list[np.ndarray]]]:
    found = []
    for index in range(count):
        case = make_case(SEED, 2 * index + 1, "set")
        truths = [np.isin(labels, case.tasks[0]) for labels in case.labels]
        first = int(np.argmax([truth.mean() for truth in truths]))
        order = [first, *(i for i in range(len(truths)) if i != first)]
        found.append(([case.images[i] for i in order], [truths[i] for i in order]))
    return found


def on_volumes(segmenter: Segmenter, cases: list, **settings: object) -> list[float]:
    scores = []
    for volume, prompt, truth, start in cases:
        result = segmenter.segment_volume(volume, [prompt], **settings).labels > 0
        others = np.arange(len(truth)) != start
        scores.append(dice(result[others], truth[others]))
    return scores


def on_sets(segmenter: Segmenter, cases: list, bank: Callable) -> list[float]:
    scores = []
    for images, truths in cases:
        answers = {
            a.index: a.labels > 0 for a in segmenter.segment_images(images, {0: {1: FramePrompt.mask(truths[0])}}, bank=bank)
        }
        scores.append(float(np.mean([dice(answers[i], truth) for i, truth in enumerate(truths) if i and truth.any()])))
    return scores


def row(name: str, scores: list[float], seconds: float) -> str:
    spread = np.std(scores) / np.sqrt(len(scores))
    return f"| {name} | {np.mean(scores):.3f} ± {spread:.3f} | {len(scores)} | {seconds:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="nano")
    parser.add_argument("--volumes", type=int, default=8)
    parser.add_argument("--sets", type=int, default=8)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--only", default="", help="settings whose names hold this")
    parser.add_argument("-o", "--output", type=Path)
    told = parser.parse_args()
    segmenter = Segmenter.from_pretrained(told.weights, image_size=told.image_size)
    lines = ["| setting | Dice ± standard error | cases | seconds |", "|---|---|---|---|"]
    solid, flat = volumes(told.volumes), sets(told.sets)
    for name, bank in BANKS.items():
        if told.only in name:
            for what, run in (
                ("volumes", partial(on_volumes, segmenter, solid, bank=bank, views="one")),
                ("sets", partial(on_sets, segmenter, flat, bank)),
            ):
                began = time.perf_counter()
                lines.append(row(f"{what}: {name}", run(), time.perf_counter() - began))
                print(lines[-1], flush=True)
    for name, settings in WAYS.items():
        if told.only in name:
            began = time.perf_counter()
            lines.append(row(f"volumes: {name}", on_volumes(segmenter, solid, **settings), time.perf_counter() - began))
            print(lines[-1], flush=True)
    if told.output:
        told.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

"""Which settings are best for a network: swept on synthetic volumes and sets that nobody trained on.

    python benchmarks/settings.py [--weights nano] [--volumes 8] [--sets 8] [-o benchmarks/results/settings.md]

One outline on the largest slice of an object, or on the first image of a set; Dice over the other slices or images. The
cases come from seeds that no training uses, so nothing is chosen on the real images that results are reported on. Each setting
is compared with the default, case by case: bootstrap interval of the difference, Wilcoxon's test with Holm's correction over
all settings of the table. Rows are kept beside the table (.json): what is there for these weights is not computed again.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from unittest import mock

import numpy as np

from medical_sam2.evaluate.tables import compared
from medical_sam2.model.memory_bank import Fifo, Greedy, SelfSorting
from medical_sam2.model.weights import read_weights
from medical_sam2.prompts import FramePrompt, Mask
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.volume_tracker import GroupTracker
from medical_sam2.views import View
from medical_sam2.volume import Volume
from nano_recipe import make_case

SEED = 777_000_001
DEFAULT = "the defaults"
BANKS: dict[str, Callable] = {
    DEFAULT: SelfSorting,
    "bank: fifo": Fifo,
    "bank: greedy, 7": partial(Greedy, size=7),
    "bank: prompt alone": partial(SelfSorting, threshold=2.0),
    "bank: latest confident": partial(SelfSorting, sort=False),
    **{f"K: {size}": partial(SelfSorting, size=size) for size in (2, 4, 12, 16)},
    **{f"c_thresh: {threshold}": partial(SelfSorting, threshold=threshold) for threshold in (0.0, 0.3, 0.7, 0.9)},
    **{f"similarity: softmax {t}": partial(SelfSorting, temperature=t) for t in (0.02, 0.05, 0.2)},
    **{f"resampling: {how}": partial(SelfSorting, resample=how) for how in ("none", "sample")},
    **{f"time: {how}": partial(SelfSorting, temporal=how) for how in ("none", "rank")},
    "prompt not pinned": partial(SelfSorting, pin="none"),
}
WAYS: dict[str, dict[str, object]] = {
    "views: one, islands kept": {"views": "one", "islands": True},
    "views: one, whole slices": {"views": "one", "zoom": False},
    "views: three, mean": {"views": "three", "fusion": "mean"},
    "views: three, weighted": {"views": "three"},
    "views: three, vote": {"views": "three", "fusion": "vote"},
    "views: three, own banks": {"views": "three", "joint": False},
    "views: three, least like the first one first": {"views": "three", "order": "reversed"},
    "views: six, mean": {"views": "six", "fusion": "mean"},
    "views: six, weighted": {"views": "six"},
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


def on_volumes(segmenter: Segmenter, cases: list, order: str = "likeness", **settings: object) -> list[float]:
    scores = []
    likely = GroupTracker._ordered

    def turned(tracker: GroupTracker, first: View, further: Sequence[View]) -> list[View]:
        return likely(tracker, first, further)[::-1]

    with mock.patch.object(GroupTracker, "_ordered", likely if order == "likeness" else turned):
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


def swept(told: argparse.Namespace, known: dict[str, list[float]]) -> Iterator[tuple[str, list[float]]]:
    """What is measured → Dice of each case; what is known comes first, and is not computed again."""
    segmenter = Segmenter.from_pretrained(told.weights, image_size=told.image_size)
    solid, flat = volumes(told.volumes), sets(told.sets)
    for name in [*BANKS, *WAYS]:
        if told.only not in name and name != DEFAULT:
            continue
        runs: dict[str, Callable[[], list[float]]] = {}
        if name in BANKS:
            runs["volumes"] = partial(on_volumes, segmenter, solid, bank=BANKS[name], views="one")
            runs["sets"] = partial(on_sets, segmenter, flat, BANKS[name])
        else:
            runs["volumes"] = partial(on_volumes, segmenter, solid, **WAYS[name])
        for what, run in runs.items():
            key = f"{what}: {name}"
            began = time.perf_counter()
            scores = known[key] if key in known else run()
            print(f"{key}: {np.mean(scores):.3f}, {time.perf_counter() - began:.0f} s", flush=True)
            yield key, scores


def table(found: dict[str, list[float]]) -> str:
    lines = ["| setting | Dice | less the default [95 % interval] | p (Wilcoxon, Holm) | cases |", "|---|---|---|---|---|"]
    for what in ("volumes", "sets"):
        own = {key.removeprefix(f"{what}: "): scores for key, scores in found.items() if key.startswith(what)}
        base = own.pop(DEFAULT, None)
        if base is None:
            continue
        lines.append(f"| {what}: {DEFAULT} | {np.mean(base):.3f} | | | {len(base)} |")
        differences = compared(base, own, np.random.default_rng(0))
        for name, each in differences.items():
            gain = f"{-each.mean:+.3f} [{-each.high:.3f}, {-each.low:.3f}]"
            lines.append(f"| {what}: {name} | {np.mean(own[name]):.3f} | {gain} | {each.p:.3f} | {each.pairs} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--weights", default="nano")
    parser.add_argument("--volumes", type=int, default=8)
    parser.add_argument("--sets", type=int, default=8)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--only", default="", help="settings whose names hold this, and the default")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/settings.md"))
    told = parser.parse_args()
    digest = sha256(read_weights(told.weights).file.read_bytes()).hexdigest()
    how = f"weights SHA-256 `{digest[:16]}`, {told.volumes} volumes, {told.sets} sets"
    how += f", input {told.image_size or 'as trained'}"
    kept = told.output.with_suffix(".json")
    stored = json.loads(kept.read_text()) if kept.exists() else {}
    known = stored.get("scores", {}) if stored.get("how") == how else {}
    for key, scores in swept(told, dict(known)):
        known[key] = scores
        kept.write_text(json.dumps({"how": how, "scores": known}, indent=1) + "\n")
        told.output.write_text(f"# Settings\n\n{how}; seed {SEED}.\n\n{table(known)}\n")


if __name__ == "__main__":
    main()

"""Memory banks on the same network and the same prompts: is self-sorting better than fifo, greedy, or the prompt alone?

    python benchmarks/banks.py [FOLDER] -o benchmarks/results [--seeds 5] [--cases 4] [--images 8] [--weights nano]

Without a FOLDER of nnU-Net raw data sets, the cases are synthetic, of a seed that no training uses. One outline each; Dice on
what was not prompted. A seed draws the prompted slice of a volume (among those at least half as large as the largest), or the
template and the order of a set. OUT gets `banks.jsonl` (a row for each answer; what is there already is not computed again;
`--fresh` starts anew) and `banks.md`: means, and paired differences to self-sorting with their bootstrap intervals over
structures (a structure's seeds are averaged first), p by Wilcoxon and Holm, and the spread of the mean difference over seeds.
"""

import argparse
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from classics import loaded
from medical_sam2.data.data_sets import read_data_set
from medical_sam2.errors import PromptError
from medical_sam2.evaluate.cases import SetTask, VolumeTask
from medical_sam2.evaluate.tables import compared
from medical_sam2.io.atomic import write_bytes
from medical_sam2.metrics import dice
from medical_sam2.model.memory_bank import Fifo, Greedy, Policy, SelfSorting
from medical_sam2.prompts import FramePrompt, Mask
from medical_sam2.segmenter import Segmenter
from medical_sam2.volume import Volume
from nano_recipe import make_case

SEED = 777_200_001
OURS = "self-sorting"
BANKS: Mapping[str, Callable[[], Policy]] = {
    OURS: SelfSorting,
    "fifo": Fifo,
    "greedy": Greedy,
    "prompt alone": partial(SelfSorting, threshold=2.0),
}
Image, Truth = NDArray[np.generic], NDArray[np.bool_]
Key = tuple[str, str, str, int, str]


@dataclass(frozen=True)
class Row:
    """What a bank made of one structure with one seed."""

    kind: str
    dataset: str
    structure: str
    seed: int
    bank: str
    dice: float | None

    @property
    def key(self) -> Key:
        return self.kind, self.dataset, self.structure, self.seed, self.bank


Answer = Callable[[Segmenter, Callable[[], Policy], int], float]
Problem = tuple[str, str, str, Answer]
"""Kind, data set, structure, and how it is answered: (network, bank, seed) → Dice."""


def on_volume(task: VolumeTask, views: str, segmenter: Segmenter, bank: Callable[[], Policy], seed: int) -> float:
    """One outline on a slice that the seed draws."""
    truth, axes = task.truth_thw, task.volume.orientation
    areas = truth.sum(axis=(1, 2))
    start = int(np.random.default_rng(seed).choice(np.flatnonzero(2 * areas >= areas.max())))
    only = np.zeros(task.truth_ijk.shape, bool)
    task.view.apply(only, axes)[start] = truth[start]
    prompt = Mask(only, axis=task.view.order(axes)[0])
    answer = segmenter.segment_volume(task.volume, [prompt], bank=bank, views=views, every_slice=True)
    found = task.view.apply(answer.labels > 0, axes)
    others = np.arange(len(truth)) != start
    return dice(truth[others], found[others])


def on_set(
    images: Sequence[Image], truths: Sequence[Truth], segmenter: Segmenter, bank: Callable[[], Policy], seed: int
) -> float:
    """One outline on a template, and an order, that the seed draws."""
    rng = np.random.default_rng(seed)
    template = int(rng.choice([i for i, truth in enumerate(truths) if truth.any()]))
    order = [int(i) for i in rng.permutation(len(images)) if i != template]
    prompts = {template: {1: FramePrompt.mask(truths[template])}}
    answers = segmenter.segment_images(images, prompts, bank=bank, order=order)
    found = {each.index: each.labels > 0 for each in answers}
    scores = np.array(list(SetTask(images, truths, template).scores(found).values()))
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")


def synthetic(count: int, images: int, views: str) -> Iterator[Problem]:
    """One object of each synthetic case."""
    for index in range(count):
        rng = np.random.default_rng([SEED, index])
        solid, flat = make_case(SEED, 2 * index, "volume"), make_case(SEED, 2 * index + 1, "set", count=images)
        image = Volume(np.ascontiguousarray(solid.images), np.diag([1.0, 1.0, 1.0, 1.0]))
        for task in (solid.tasks[i] for i in rng.permutation(len(solid.tasks))):
            truth = np.isin(solid.labels, task)
            if (truth.sum(axis=(1, 2)) > 20).sum() >= 6:
                yield "synthetic volumes", "synthetic", f"{index} {task}", partial(on_volume, VolumeTask(image, truth), views)
                break
        truths = [np.isin(labels, flat.tasks[0]) for labels in flat.labels]
        yield "synthetic sets", "synthetic", f"{index} {flat.tasks[0]}", partial(on_set, list(flat.images), truths)


def real(folder: Path, cases: int, images: int, views: str) -> Iterator[Problem]:
    """Every structure of a few cases of each data set, drawn by the name of the set."""
    for path in sorted(each.parent for each in folder.glob("*/dataset.json")):
        data = read_data_set(path)
        rng = np.random.default_rng(zlib.crc32(path.name.encode()))
        labelled = [case.identifier for case in data.cases if case.label is not None]
        drawn = [labelled[i] for i in rng.permutation(len(labelled))]
        chosen = [(each, *loaded(data, each)) for each in drawn[: cases if data.kind == "volume" else images]]
        for structure in data.structures:
            truths = [data.mask(labels, structure) for _, _, labels in chosen]
            if data.kind == "set":
                if any(truth.any() for truth in truths):
                    yield "sets", path.name, structure, partial(on_set, [image.array for _, image, _ in chosen], truths)
                continue
            for (name, volume, _), truth in zip(chosen, truths, strict=True):
                try:
                    task = VolumeTask(volume, truth)
                except PromptError as error:
                    print(f"left out: {path.name} {structure} {name}: {error}", flush=True)
                    continue
                yield "volumes", path.name, f"{structure} {name}", partial(on_volume, task, views)


def table(rows: Sequence[Row], kind: str) -> str:
    """Means and paired differences of one kind of cases."""
    own = [row for row in rows if row.kind == kind and row.dice is not None]
    value = {row.key: row.dice for row in own}
    places = sorted({row.key[:3] for row in own})
    seeds = sorted({row.seed for row in own})
    asked = {b: np.array([[value.get((*place, s, b), np.nan) for s in seeds] for place in places]) for b in BANKS}
    if not places or np.isnan(asked[OURS]).all():
        return ""
    complete = ~np.any([np.isnan(each) for each in asked.values()], axis=0)
    asked = {bank: np.where(complete, each, np.nan)[complete.any(axis=1)] for bank, each in asked.items()}
    mean = {bank: np.nanmean(each, axis=1) for bank, each in asked.items()}
    against = compared(mean[OURS], {b: mean[b] for b in BANKS if b != OURS}, np.random.default_rng(0))
    head = f"| bank | Dice | {OURS} − bank | 95 % interval | p | over seeds |\n|---|---|---|---|---|---|\n"
    text = [
        f"\n## {kind}: {len(mean[OURS])} structures, {len(seeds)} seeds\n\n{head}| {OURS} | {mean[OURS].mean():.3f} | | | | |\n"
    ]
    for bank, found in against.items():
        by_seed = np.nanmean(asked[OURS] - asked[bank], axis=0)
        spread = f"{by_seed.mean():+.4f} ± {by_seed.std(ddof=1):.4f}" if len(by_seed) > 1 else "–"
        interval = f"{found.low:+.4f} to {found.high:+.4f}"
        text.append(f"| {bank} | {mean[bank].mean():.3f} | {found.mean:+.4f} | {interval} | {found.p:.3f} | {spread} |\n")
    return "".join(text)


def stored(path: Path) -> dict[Key, Row]:
    rows = [Row(**json.loads(line)) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []
    return {row.key: row for row in rows}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="nnU-Net raw data sets; synthetic cases without it")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cases", type=int, default=4, help="volumes of each set; synthetic cases of each kind")
    parser.add_argument("--images", type=int, default=8, help="pictures of each set")
    parser.add_argument("--views", default="one")
    parser.add_argument("--weights", default="nano")
    parser.add_argument("--fresh", action="store_true")
    return parser.parse_args()


def main() -> int:
    told = parsed()
    told.output.mkdir(parents=True, exist_ok=True)
    path = told.output / "banks.jsonl"
    if told.fresh:
        path.unlink(missing_ok=True)
    rows, segmenter = stored(path), Segmenter.from_pretrained(told.weights)
    limits = told.cases, told.images, told.views
    with path.open("a") as stream:
        for kind, dataset, structure, answer in real(told.folder, *limits) if told.folder else synthetic(*limits):
            for seed in range(told.seeds):
                for name, bank in BANKS.items():
                    if (kind, dataset, structure, seed, name) in rows:
                        continue
                    score = answer(segmenter, bank, seed)
                    row = Row(kind, dataset, structure, seed, name, None if np.isnan(score) else round(score, 4))
                    rows[row.key] = row
                    print(json.dumps(asdict(row)), file=stream, flush=True)
            print(f"{kind} {dataset} {structure}", flush=True)
    what = f"`python benchmarks/banks.py`: weights `{told.weights}`, views `{told.views}`, one outline.\n"
    text = f"# Memory banks, the same network and prompts\n\n{what}"
    text += "".join(table(list(rows.values()), kind) for kind in dict.fromkeys(row.kind for row in rows.values()))
    write_bytes(told.output / "banks.md", text.encode())
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

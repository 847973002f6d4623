"""One prompt for a whole set of images: Dice over all other images, its spread over orders and over templates.

    python benchmarks/sets.py FOLDER -o benchmarks/results [--weights nano] [--only WBC] [--quick] [--sheets DIR]

FOLDER holds nnU-Net raw data sets; those of pictures in no order are taken. Each structure is prompted on TEMPLATES images, one
after the other, in the way that the data set names (click, box, mask) and by its outline; the other images are visited in
ORDERS seeded orders with each memory policy, and once by likeness to the bank. Each image is encoded once. What was computed is
kept in `sets.jsonl`, under the hash of the weights: a run that was stopped goes on, new weights begin anew. `sets.md` is the
table.
`--sheets` leaves a contact sheet for each structure: pictures of patients, to be looked at and not to be published.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from medical_sam2 import preview
from medical_sam2.data.data_sets import DataSet, is_data_set, read_data_set
from medical_sam2.errors import PromptError
from medical_sam2.evaluate.cases import SetTask, check_boxable
from medical_sam2.io.atomic import write_bytes
from medical_sam2.model.memory_bank import POLICIES
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.encoding import fingerprint
from medical_sam2.tracking.image_set import ORDERS, ImageMask, ImageSetConfig, Order, Shuffled, segment_set
from medical_sam2.tracking.image_viewer import ImageViewer

SETS = ("WBC", "OpticDiscCup", "RetinalVessels", "Nuclei", "BreastUltrasound", "PolypCVC", "KidneyCT2D")
WAYS = (("prompted", "given"), ("fifo", "shuffled"), ("self-sorting", "shuffled"), ("self-sorting", "similar"))
NAMES = {
    ("prompted", "given"): "template alone",
    ("fifo", "shuffled"): "fifo",
    ("self-sorting", "shuffled"): "self-sorting",
    ("self-sorting", "similar"): "self-sorting, most alike first",
}
KEEP_MB = 4096.0  # features of a whole set
SEED, SHOWN = 4242, 30


@dataclass(frozen=True)
class Row:
    """One run through a set."""

    weights: str
    dataset: str
    structure: str
    prompt: str
    bank: str
    order: str
    template: int
    seed: int
    images: int
    dice: float | None = None
    seconds: float | None = None

    @property
    def key(self) -> "Row":
        return replace(self, dice=None, seconds=None)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A set in memory, with what the network sees of it."""

    data: DataSet
    images: list[NDArray[np.generic]]
    labels: list[NDArray[np.unsignedinteger]]
    viewer: ImageViewer

    def truths(self, structure: str) -> list[NDArray[np.bool_]]:
        return [self.data.mask(labels, structure) for labels in self.labels]


def loaded(data: DataSet, segmenter: Segmenter, most: int | None) -> Loaded:
    """The images that have labels, some of them drawn by the seed where not all are wanted."""
    cases = [case for case in data.cases if case.label is not None]
    if most is not None and len(cases) > most:
        cases = [cases[i] for i in sorted(np.random.default_rng(SEED).choice(len(cases), most, replace=False))]
    found = [data.load(case) for case in cases]
    images = [np.asarray(each.images[0].array) for each in found]
    viewer = ImageViewer(images, segmenter.encode, segmenter.network.image_size)
    return Loaded(data, images, [each.labels for each in found if each.labels is not None], viewer)


def templates(truths: Sequence[NDArray[np.bool_]], count: int) -> list[int]:
    """Images that show the structure, drawn by the seed: the same for all policies and weights."""
    able: list[int] = []
    for i, truth in enumerate(truths):
        try:
            check_boxable(truth)
        except PromptError:
            continue
        able.append(i)
    return np.random.default_rng(SEED).permutation(able)[:count].tolist()


def planned(what: Loaded, weights: str, told: argparse.Namespace) -> Iterator[Row]:
    """Every run through a set; a bank of nothing but the template needs one order, for any gives the same."""
    for structure in what.data.structures:
        chosen = templates(what.truths(structure), told.templates)
        for kind in dict.fromkeys((what.data.prompt or "mask", *([] if told.quick or told.own_prompt else ["mask"]))):
            for bank, order in WAYS:
                for template in chosen:
                    for seed in range(told.orders if order == "shuffled" else 1):
                        name = what.data.name
                        yield Row(weights, name, structure, kind, bank, order, template, seed, len(what.images))


def run(what: Loaded, row: Row, segmenter: Segmenter) -> tuple[Row, dict[int, ImageMask]]:
    """Go through the set once."""
    task = SetTask(what.images, what.truths(row.structure), row.template)
    said = task.prompt(row.prompt, np.random.default_rng(SEED))  # type: ignore[arg-type]
    order: Order = Shuffled(row.seed) if row.order == "shuffled" else ORDERS[row.order]
    setting = ImageSetConfig(segmenter.network, what.viewer, POLICIES[row.bank], order)
    start = time.perf_counter()
    with segmenter.computing():
        visited = [row.template, *(i for i in range(len(what.images)) if i != row.template)]
        found = {one.index: one for one in segment_set(setting, {row.template: {1: said}}, visited)}
    scores = task.scores({i: one.labels == 1 for i, one in found.items()})
    seconds = time.perf_counter() - start
    return replace(row, dice=round(float(np.nanmean([*scores.values()])), 5), seconds=round(seconds, 3)), found


def sheet(what: Loaded, found: dict[int, ImageMask], structure: str, template: int, path: Path) -> None:
    """The template, then the images by confidence, the least sure first, each with its Dice."""
    truths = what.truths(structure)
    scores = SetTask(what.images, truths, template).scores({i: one.labels == 1 for i, one in found.items()})
    rest = sorted((i for i in found if i != template), key=lambda i: found[i].lowest)
    spread = [rest[int(place)] for place in np.linspace(0, len(rest) - 1, min(SHOWN - 1, len(rest)))]
    shown = [template, *spread]
    captions = ["template", *(f"sure {found[i].lowest:.2f}  Dice {scores[i]:.2f}" for i in spread)]
    preview.contact_sheet([what.images[i] for i in shown], [found[i].labels for i in shown], captions).save(path)


def table(rows: Sequence[Row], head: str) -> str:
    """Mean Dice; spread over orders (standard deviation within a template, mean) and over templates (of their means)."""
    text = [f"# One prompt for a set of images\n\n{head}\n"]
    for kind in dict.fromkeys(row.prompt for row in rows):
        text.append(f"\n## Prompt: {kind}\n\n| set | structure | images | {' | '.join(NAMES.values())} |\n")
        text.append("|---" * (3 + len(NAMES)) + "|\n")
        mine = [row for row in rows if row.prompt == kind]
        for dataset, structure in dict.fromkeys((row.dataset, row.structure) for row in mine):
            own = [row for row in mine if (row.dataset, row.structure) == (dataset, structure)]
            cells = [cell([row for row in own if (row.bank, row.order) == way]) for way in NAMES]
            text.append(f"| {dataset} | {structure} | {max(row.images for row in own)} | {' | '.join(cells)} |\n")
        means = [mean_of_means([row for row in mine if (row.bank, row.order) == way]) for way in NAMES]
        text.append(f"| mean | | | {' | '.join(means)} |\n")
    return "".join(text)


def cell(rows: Sequence[Row]) -> str:
    """ "mean ± over orders / ± over templates"."""
    if not rows:
        return "–"
    each = [[row.dice for row in rows if row.template == template] for template in dict.fromkeys(row.template for row in rows)]
    means = [float(np.mean(scores)) for scores in each]
    orders = f" ± {np.mean([np.std(scores) for scores in each]):.3f}" if max(map(len, each)) > 1 else " ± –"
    return f"{np.mean(means):.3f}{orders} / {np.std(means):.3f}"


def mean_of_means(rows: Sequence[Row]) -> str:
    kinds = dict.fromkeys((row.dataset, row.structure) for row in rows)
    scores = [np.mean([row.dice for row in rows if (row.dataset, row.structure) == kind]) for kind in kinds]
    return f"{np.mean(scores):.3f}" if scores else "–"


def known(path: Path) -> list[Row]:
    return [Row(**json.loads(line)) for line in path.read_text().splitlines()] if path.is_file() else []


def write(folder: Path, rows: Sequence[Row], wanted: set[Row], head: str) -> None:
    write_bytes(folder / "sets.jsonl", "".join(json.dumps(asdict(row)) + "\n" for row in rows).encode())
    write_bytes(folder / "sets.md", table([row for row in rows if row.key in wanted], head).encode())


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--weights", default="nano")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--image-size", type=int, help="side of the network's input; that of the weights unless told")
    parser.add_argument("--only", nargs="*", default=SETS, help="names of sets")
    parser.add_argument("--templates", type=int, default=5)
    parser.add_argument("--orders", type=int, default=5)
    parser.add_argument("--images", type=int, help="of a set, drawn by the seed; all unless told")
    parser.add_argument("--own-prompt", action="store_true", help="no outlines beside the prompt that the data set names")
    parser.add_argument("--quick", action="store_true", help="2 templates, 2 orders, 24 images, the set's own prompt")
    parser.add_argument("--sheets", type=Path)
    told = parser.parse_args()
    if told.quick:
        told.templates, told.orders, told.images = 2, 2, told.images or 24
    return told


def main() -> int:
    told = parsed()
    segmenter = Segmenter.from_pretrained(told.weights, device=told.device, image_size=told.image_size, keep_mb=KEEP_MB)
    weights = fingerprint(segmenter.network, *([told.image_size] if told.image_size else []))[:12]
    told.output.mkdir(parents=True, exist_ok=True)
    head = (
        f"Weights `{told.weights}` ({weights}), {segmenter.precision}, {segmenter.network.image_size} px. "
        f"{told.templates} templates, {told.orders} orders{', quick: few images' if told.quick else ''}. "
        "Mean Dice over all images but the template ± its standard deviation over orders / over templates."
    )
    rows, wanted = known(told.output / "sets.jsonl"), set[Row]()
    for path in sorted(path for path in told.folder.iterdir() if path.is_dir() and is_data_set(path)):
        data = read_data_set(path)
        if data.kind != "set" or data.name not in told.only:
            continue
        what = loaded(data, segmenter, told.images)
        done, drawn = {row.key for row in rows}, set[tuple[str, str]]()
        for row in planned(what, weights, told):
            wanted.add(row)
            first = row.bank == "self-sorting" and (row.structure, row.prompt) not in drawn and told.sheets is not None
            if row.key in done and not first:
                continue
            answer, found = run(what, row, segmenter)
            if first:
                drawn.add((row.structure, row.prompt))
                told.sheets.mkdir(parents=True, exist_ok=True)
                sheet(what, found, row.structure, row.template, told.sheets / f"{data.name}-{row.structure}-{row.prompt}.png")
            if row.key not in done:
                rows.append(answer)
            print(
                f"{row.dataset} {row.structure} {row.prompt} {row.bank} {row.order} {answer.dice} {answer.seconds} s",
                flush=True,
            )
        write(told.output, rows, wanted, head)
    return 0 if wanted else 1


if __name__ == "__main__":
    with torch.inference_mode():
        sys.exit(main())

"""The weights of the geodesic method (`classical/geodesic.py`): a logistic regression, fitted on volumes for training.

    python benchmarks/geodesic_weights.py FOLDER [--cases 3] [--seed 0]

FOLDER holds nnU-Net raw data sets; its sets of volumes are learnt from, and no set that results are reported on belongs there.
Of each set CASES are drawn by the seed, of each up to 14 structures; each is prompted on its largest slice by its outline, and
by its box or a click in turn. Printed: Dice off the prompted slice, each set by weights that were fitted without it, beside
what the geodesic distances, optical flow and the outline itself find alone; then the weights that learnt from all.
"""

import argparse
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from classical.geodesic import WEIGHTS, compute_clues
from classical.start import outlined
from classical.volumes import near_outline
from classical.working import resized
from medical_sam2.data.data_sets import read_data_set
from medical_sam2.errors import MedicalSam2Error
from medical_sam2.evaluate.cases import KINDS, Kind, VolumeTask
from medical_sam2.intensity_window import choose_window
from medical_sam2.prompts import intensities

STRUCTURES = 14  # of one volume, at most
NEAR, REST = 1500, 500  # voxels kept where something is or is likely, and elsewhere
STEPS, RATE, ENTROPY, DECAY = 200, 0.1, 0.1, 1e-3
NAMES = tuple(WEIGHTS)
ALONE = {"edges and greys": 1.0, "edges": 1.0, "moved outline": -1.0, "outline": -1.0}  # clue → its sign inside


@dataclass(frozen=True, eq=False)
class Example:
    """Voxels of one object, the prompted slice left out.

    Args:
        dataset: that it is of.
        kind: of its prompt.
        clues: (N, F) in the order of NAMES.
        share: (N,) of the object in each.
        weight: (N,) voxels of the volume that each stands for, in sizes of the object.
    """

    dataset: str
    kind: Kind
    clues: Tensor
    share: Tensor
    weight: Tensor

    def dice(self, odds: Tensor) -> Tensor:
        """By these voxels; what lies beyond the window counts as missed."""
        found = odds * self.weight
        return 2 * (found * self.share).sum() / (found.sum() + 1)


def tasks(folder: Path, told: argparse.Namespace) -> Iterator[tuple[str, VolumeTask]]:
    """Name of the set, a structure of one of its volumes."""
    for path in sorted(each.parent for each in folder.glob("*/dataset.json")):
        data = read_data_set(path)
        if data.kind != "volume":
            continue
        rng = np.random.default_rng([told.seed, zlib.crc32(path.name.encode())])
        names, labelled = list(data.structures), [case for case in data.cases if case.label is not None]
        for place in rng.permutation(len(labelled))[: told.cases]:
            what = data.load(labelled[place])
            volume = replace(
                what.images[0], modality=what.images[0].modality or (data.modality if data.modality == "CT" else None)
            )
            for structure in [names[i] for i in rng.permutation(len(names))[:STRUCTURES]]:
                try:
                    yield path.name, VolumeTask(volume, data.mask(what.labels, structure))
                except MedicalSam2Error as error:
                    print(f"{path.name} {labelled[place].identifier} {structure}: {error}", file=sys.stderr)


def example(dataset: str, task: VolumeTask, kind: Kind) -> Example:
    """Voxels of one object, with their clues."""
    spacing = task.view.spacing(task.volume.spacing_mm, task.volume.orientation)
    said = task.frame_prompt(task.prompt(kind, np.random.default_rng(0)))
    stack = choose_window(task.volume, inside=intensities(task.slices_thw[task.start], said)).apply(task.slices_thw)
    near, seen, stacked = near_outline(stack, task.start, outlined(stack[task.start], said), spacing)
    clues, region = compute_clues(stacked), seen.region
    truth = [resized(each[region.rows, region.columns], stacked.mask_hw.shape) for each in task.truth_thw[near]]
    share, others = np.stack(truth), (np.arange(len(truth)) != stacked.start)[:, None, None]
    likely = (share > 0) | (clues["edges and greys"] > -0.3) | (clues["moved outline"] < 0.3)
    rng, sets = np.random.default_rng(0), [np.flatnonzero(likely & others), np.flatnonzero(~likely & others)]
    chosen = [rng.permutation(each)[:most] for each, most in zip(sets, (NEAR, REST), strict=True)]
    size = float(task.truth_thw[np.arange(len(stack)) != task.start].sum())
    pixel = np.prod(region.shape_hw) / stacked.mask_hw.size / size
    weight = np.concatenate([np.full(len(c), pixel * len(s) / max(1, len(c))) for s, c in zip(sets, chosen, strict=True)])
    places = np.concatenate(chosen)
    planes = np.stack([clues[name].ravel()[places] for name in NAMES], axis=1, dtype=np.float32)
    return Example(
        dataset, kind, torch.from_numpy(planes), torch.from_numpy(share.ravel()[places]), torch.from_numpy(weight).float()
    )


def fitted(examples: Sequence[Example]) -> Tensor:
    """(F,) weights: one minus the soft Dice, and some entropy; each set counts the same, and each object of it."""
    sets = [each.dataset for each in examples]
    counts = torch.tensor([1 / sets.count(name) / len(set(sets)) for name in sets])
    weights = torch.zeros(len(NAMES), requires_grad=True)
    optimiser = torch.optim.Adam([weights], RATE)
    rates = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, STEPS)
    for _ in range(STEPS):
        loss = DECAY * weights.square().sum()
        for each, count in zip(examples, counts, strict=True):
            odds = each.clues @ weights
            entropy = (F.binary_cross_entropy_with_logits(odds, each.share, reduction="none") * each.weight).sum()
            loss = loss + count * (1 - each.dice(odds.sigmoid()) + ENTROPY * entropy.clamp(max=5))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
    return weights.detach()


def held_out(examples: Sequence[Example]) -> str:
    """A table: each set by weights that were fitted without it."""
    rows: list[tuple[str, NDArray[np.floating]]] = []
    for name in sorted({each.dataset for each in examples}):
        weights = fitted([each for each in examples if each.dataset != name])
        own = [each for each in examples if each.dataset == name]
        alone = [[each.dice(each.clues[:, NAMES.index(n)] * sign > 0) for n, sign in ALONE.items()] for each in own]
        all_of_it = [float(each.dice(each.clues @ weights > 0)) for each in own]
        outlines = [score for score, each in zip(all_of_it, own, strict=True) if each.kind == "mask"]
        rows.append((f"{name} ({len(own)})", np.array([*np.mean(alone, axis=0), np.mean(all_of_it), np.mean(outlines)])))
    rows.append(("mean", np.mean([scores for _, scores in rows], axis=0)))
    head = (
        f"| set (prompts) | {' | '.join(ALONE)} | all, fitted without the set | of outlines |\n{'|---' * (len(ALONE) + 3)}|\n"
    )
    return head + "".join(f"| {name} | {' | '.join(f'{each:.3f}' for each in scores)} |\n" for name, scores in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="nnU-Net raw data sets to learn from")
    parser.add_argument("--cases", type=int, default=3, help="volumes of each set")
    parser.add_argument("--seed", type=int, default=0, help="which volumes and structures")
    told = parser.parse_args()
    torch.set_num_threads(1)
    examples: list[Example] = []
    for number, (dataset, task) in enumerate(tasks(told.folder, told)):
        examples += [example(dataset, task, kind) for kind in (KINDS[0], KINDS[1 + number % 2])]
        print(f"{number + 1} {dataset}", file=sys.stderr, flush=True)
    print(held_out(examples))
    print(
        "".join(f'    "{name}": {weight:.2f},\n' for name, weight in zip(NAMES, fitted(examples).tolist(), strict=True)), end=""
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

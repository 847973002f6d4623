"""The gate of the consensus, fitted to a network's weights: track, learn, and what it gains on sets that it did not learn from.

    python benchmarks/consensus.py FOLDER --examples DIR [--weights nano] [--cases 12] [--synthetic 60] [-o GATE.safetensors]
        [--kinds mask box click]

FOLDER holds nnU-Net raw data sets of volumes to learn from; no set that results are reported on belongs there, and none that
the weights were trained on should: a network is surer of what it has seen than of what is to come. Of each set CASES are drawn
by the seed; each structure is prompted by its outline, its box and a click, on its largest slice or another large one, and by
its outline on its first slice, on its last, on both of them, and on those at a quarter and three quarters; two objects of each
of SYNTHETIC volumes by one of them. DIR keeps what was tracked, under the hash of the weights, so that a run
goes on where it was stopped and fitting again takes ten minutes. Printed: Dice off the prompted slice before and after, set by
set, by gates that were learnt without that set, and their difference with a bootstrap interval over structures. OUT gets the
gate that learnt from all. A gate learns from outlines alone, and from all prompts on synthetic volumes: what a click finds is
often another thing than its example, which teaches nothing (docs/log.md, 2026-11-29).
"""

import argparse
import sys
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from medical_sam2.data.data_sets import read_data_set
from medical_sam2.errors import MedicalSam2Error
from medical_sam2.evaluate.cases import KINDS, VolumeTask, draw_prompt, is_boxable
from medical_sam2.io.atomic import write_bytes
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking import volume_tracker
from medical_sam2.tracking.consensus import FEATURES, Gate, RefinedProbability, TrackedObject, compute_features, working_grid
from medical_sam2.tracking.cropping import Crop
from medical_sam2.tracking.encoding import fingerprint
from medical_sam2.tracking.frames import box_of
from medical_sam2.tracking.fusion import Fusion
from medical_sam2.volume import Volume
from nano_recipe import make_case

SEED = 777_300_017  # of synthetic volumes that no training uses
SYNTHETIC = "synthetic"
STRUCTURES = 14  # of one volume, at most
LARGE = 0.4  # of the largest slice: so large is the one that is prompted
LEAST = 5  # slices that a structure lies on whose ends are prompted
NEAR, REST, EACH = 3000, 1000, 1500  # voxels kept where something is or was found, and elsewhere; shown in one step
STEPS, BATCH, RATE, ENTROPY = 2400, 8, 1e-2, 0.3
GATES = 4  # fitted one by one, and joined in one that gives their mean


@dataclass(frozen=True, eq=False)
class Example:
    """Voxels of one object that was tracked, the prompted slices left out.

    Args:
        dataset: that it is of.
        kind: of its prompt, and where it lay unless on one large slice.
        features: (N, F).
        share: (N,) of the object in each box of the grid.
        weight: (N,) how much of the object each counts for, in sizes of the object.
        extra: what was found beyond the grid, in sizes of the object.
    """

    dataset: str
    kind: str
    features: Tensor
    share: Tensor
    weight: Tensor
    extra: float

    def dice(self, change: Tensor | float) -> float:
        """Estimated from these voxels, the logits changed."""
        found = (self.features[:, 0] + change / 3 > 0).float() * self.weight
        return float(2 * (found * self.share).sum() / (found.sum() + 1 + self.extra))


def jobs(folder: Path, told: argparse.Namespace) -> Iterator[tuple[str, str, Volume, NDArray[np.bool_]]]:
    """Name of the set, of the example, the volume, the structure in it; sets in turn, synthetic volumes between them."""
    queues = [_real(path, told) for path in sorted(each.parent for each in folder.glob("*/dataset.json"))]
    queues.append(_synthetic(told))
    while queues:
        for queue in list(queues):
            job = next(queue, None)
            if job is None:
                queues.remove(queue)
            else:
                yield job


def _real(path: Path, told: argparse.Namespace) -> Iterator[tuple[str, str, Volume, NDArray[np.bool_]]]:
    data = read_data_set(path)
    rng = np.random.default_rng([told.seed, zlib.crc32(path.name.encode())])
    labelled = [case for case in data.cases if case.label is not None and data.kind == "volume"]
    for place in rng.permutation(len(labelled))[: told.cases]:
        what = data.load(labelled[place])
        structures = [[*data.structures][i] for i in rng.permutation(len(data.structures))[:STRUCTURES]]
        volume = what.images[0]
        modality = volume.modality or (data.modality if data.modality == "CT" else None)
        for structure in structures:
            name = f"{path.name}_{labelled[place].identifier}_{structure}"
            yield path.name, name, replace(volume, modality=modality), data.mask(what.labels, structure)


def _synthetic(told: argparse.Namespace) -> Iterator[tuple[str, str, Volume, NDArray[np.bool_]]]:
    for i in range(told.synthetic):
        rng = np.random.default_rng([SEED, i])
        case = make_case(SEED, 2 * i, "volume", size=int(rng.choice([64, 80, 96, 112])))
        depth, height, _ = case.images.shape
        volume = Volume(case.images.transpose(2, 1, 0), np.diag([1.0, 1.0, max(1.0, 0.8 * height / depth), 1.0]))
        for k in rng.permutation(len(case.tasks))[:2]:
            yield SYNTHETIC, f"{SYNTHETIC}_{i}_{k}", volume, np.isin(case.labels, case.tasks[k]).transpose(2, 1, 0)


def tracked(folder: Path, told: argparse.Namespace) -> Iterator[Path]:
    """Files with what the network found; those that are there stay."""
    network = Segmenter.from_pretrained(told.weights)
    network.gate = network.gate or Gate().requires_grad_(False)  # without one nobody asks for a consensus
    kept = told.examples / fingerprint(network.network, network.device, network.precision, network.engine)[:12]
    kept.mkdir(parents=True, exist_ok=True)
    for dataset, name, volume, truth in jobs(folder, told):
        try:
            task = VolumeTask(volume, truth)
        except MedicalSam2Error as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        chance = np.random.default_rng(zlib.crc32(name.encode()))
        chosen = slices_to_prompt(task, told.kinds, chance)
        for kind in chosen if dataset != SYNTHETIC else [[*chosen][zlib.crc32(name.encode()) % len(chosen)]]:
            file = kept / f"{name}_{kind}.npz".replace(" ", "-")
            if not file.exists():
                try:
                    arrays = track(network, task, kind.partition(" ")[0], chosen[kind], chance)
                except MedicalSam2Error as error:
                    print(f"{name}: {error}", file=sys.stderr)
                    continue
                draft = file.with_suffix(".draft.npz")
                np.savez_compressed(draft, dataset=dataset, kind=kind, **arrays)
                draft.replace(file)
            yield file


def slices_to_prompt(task: VolumeTask, kinds: Collection[str], chance: np.random.Generator) -> dict[str, list[int]]:
    """Kind of the prompt, and where, → slices: a large one for each kind; for outlines the ends, too, and the quarters."""
    truth = task.truth_thw
    areas = truth.sum(axis=(1, 2))
    t = int(chance.choice(np.flatnonzero(areas >= LARGE * areas.max())))
    large = t if chance.uniform() < 0.5 and is_boxable(truth[t]) else task.start
    chosen = {kind: [large] for kind in KINDS if kind in kinds}
    there = [t for t in np.flatnonzero(areas).tolist() if is_boxable(truth[t])]
    if "mask" in kinds and len(there) >= LEAST:
        quarters = [there[len(there) // 4], there[-1 - len(there) // 4]]
        places = ("first", [there[0]]), ("last", [there[-1]]), ("ends", [there[0], there[-1]]), ("quarters", quarters)
        chosen |= {f"mask {place}": slices for place, slices in places}
    return chosen


@contextmanager
def asked_of_consensus() -> Iterator[list[TrackedObject]]:
    """The objects that a consensus is asked about meanwhile, as it is asked."""
    objects, ask = list[TrackedObject](), volume_tracker.apply_consensus

    def keep(gate: Gate, what: TrackedObject, fusion: Fusion, judge: Gate | None = None) -> Fusion | RefinedProbability:
        objects.append(what)
        return ask(gate, what, fusion, judge)

    volume_tracker.apply_consensus = keep
    try:
        yield objects
    finally:
        volume_tracker.apply_consensus = ask


def track(network: Segmenter, task: VolumeTask, kind, slices: Sequence[int], chance: np.random.Generator) -> dict[str, Any]:
    """What the network finds in a volume, and all that the consensus sees of it, cut around the object, slices first."""
    prompts = [task.in_volume(t, draw_prompt(task.truth_thw[t], kind, chance)) for t in slices]
    with asked_of_consensus() as objects:
        network.segment_volume(task.volume, prompts)
    what = objects[-1]
    slabs = range(what.estimate.shape[0])
    found, grey = (np.stack([np.asarray(of(i), np.float32) for i in slabs]) for of in (what.estimate.__getitem__, what.grey))
    looked_at = task.truth_ijk[Crop.to_content(task.volume, prompts).box]
    found, grey, truth = (np.moveaxis(each, what.axis, 0) for each in (found, grey, looked_at))
    left, top, right, bottom = (int(x) for x in box_of((found > 0.1).any(0) | truth.any(0)))
    margin = max(right - left, bottom - top) + 8
    cut = (slice(None), slice(max(0, top - margin), bottom + margin + 1), slice(max(0, left - margin), right + margin + 1))
    across = [a for a in range(3) if a != what.axis]
    return {
        "grey": np.round(grey[cut] * 255).astype(np.uint8),
        "prob": np.round(found[cut] * 255).astype(np.uint8),
        "truth": truth[cut],
        "conf": what.confidence.astype(np.float32),
        "prompted": np.array(what.prompted),
        "mm": np.array([what.spacing_mm[a] for a in (what.axis, *across)]),
    }


def load_tracked(file: Path) -> tuple[str, NDArray[np.float32], NDArray[np.bool_], TrackedObject]:
    """What `track` kept: name of the set, probability and truth of the slices, and the object as the consensus sees it."""
    kept = np.load(file)
    found, grey = (kept[name].astype(np.float32) / 255 for name in ("prob", "grey"))
    mm = tuple(float(x) for x in kept["mm"])
    what = TrackedObject(found, lambda i: grey[i], 0, kept["prompted"].tolist(), kept["conf"], mm)
    return str(kept["dataset"]), found, kept["truth"], what


def example(file: Path) -> Example | None:
    """Voxels of one object; None where the network found nothing on the prompted slices."""
    dataset, found, truth, what = load_tracked(file)
    grid = working_grid(what)
    if grid is None:
        return None
    share, likely = (grid.means(lambda i, array=array: array[i].astype(np.float32)) for array in (truth, found))
    off = ~np.isin(np.arange(len(truth)), what.prompted)
    others = off[grid.low[0] : grid.high[0], None, None]
    near, rng = ((likely > 0.02) | (share > 0)) & others, np.random.default_rng(0)
    sets = [np.flatnonzero(near), np.flatnonzero(~near & others)]
    chosen = [rng.permutation(each)[:most] for each, most in zip(sets, (NEAR, REST), strict=True)]
    box = float(np.prod([(h - l) / n for h, l, n in zip(grid.high, grid.low, grid.shape, strict=True)]))  # noqa: E741
    weight = np.concatenate([np.full(len(c), box * len(s) / max(1, len(c))) for s, c in zip(sets, chosen, strict=True)])
    inside = np.zeros(truth.shape, bool)
    inside[tuple(slice(*ends) for ends in zip(grid.low, grid.high, strict=True))] = True
    size, places = float(truth[off].sum()), np.concatenate(chosen)
    if not size:  # nothing lies beside the prompted slices
        return None
    features = torch.from_numpy(np.stack([*compute_features(what, grid)]).reshape(-1, len(FEATURES))[places])
    weight, share = torch.from_numpy(weight / size).float(), torch.from_numpy(share.ravel()[places])
    kind = file.stem.rpartition("_")[2].replace("-", " ")
    return Example(dataset, kind, features, share, weight, float(((found > 0.5) & ~inside)[off].sum()) / size)


def fitted(examples: Sequence[Example], seed: int) -> Gate:
    """The mean of several gates that learnt from outlines and from synthetic volumes, and of their mirror images."""
    shown = [each for each in examples if each.kind.startswith("mask") or each.dataset == SYNTHETIC]
    gates = [fitted_once(shown, seed + n) for n in range(GATES)]
    return joined([*gates, *map(mirrored, gates)])


def mirrored(gate: Gate) -> Gate:
    """What a gate says where light is dark: beside it neither is preferred, as volumes may be stored inverted."""
    found = deepcopy(gate)
    found[0].weight[:, FEATURES.index("lightness")] *= -1  # type: ignore[index, union-attr]
    return found


def joined(gates: Sequence[Gate]) -> Gate:
    """A gate that gives the mean of several: their units side by side, each heard by its own alone."""
    layers = [[gate[n] for gate in gates] for n in (0, 2, 4)]
    found = Gate(sum(len(layer.bias) for layer in layers[0]), layers[0][0].in_features)
    weights = [
        torch.cat([layer.weight for layer in layers[0]]),
        torch.block_diag(*(layer.weight for layer in layers[1])),
        torch.cat([layer.weight for layer in layers[2]], 1) / len(gates),
    ]
    biases = [torch.cat([layer.bias for layer in own]) for own in layers[:2]]
    biases.append(torch.stack([layer.bias for layer in layers[2]]).mean(0))
    parts = {
        f"{n}.{name}": part
        for n, own in zip((0, 2, 4), zip(weights, biases, strict=True), strict=True)
        for name, part in zip(("weight", "bias"), own, strict=True)
    }
    found.load_state_dict(parts)
    return found.requires_grad_(False)


def fitted_once(examples: Sequence[Example], seed: int) -> Gate:
    """A gate: half of what it is shown is synthetic, the sets take turns; the loss is one minus the soft Dice, and entropy."""
    torch.manual_seed(seed)
    rng, gate = np.random.default_rng(seed), Gate()
    torch.nn.init.zeros_(gate[-1].weight)
    torch.nn.init.zeros_(gate[-1].bias)
    optimiser = torch.optim.AdamW(gate.parameters(), RATE, weight_decay=1e-2)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, STEPS, pct_start=0.1)
    sets = defaultdict(list)
    for each in examples:
        sets[each.dataset].append(each)
    real = sorted(sets.keys() - {SYNTHETIC})
    for _ in range(STEPS):
        names = [
            SYNTHETIC if SYNTHETIC in sets and (not real or rng.uniform() < 0.5) else rng.choice(real) for _ in range(BATCH)
        ]
        loss = sum(_loss(gate, sets[name][rng.integers(len(sets[name]))], rng) for name in names) / BATCH
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
    return gate.requires_grad_(False)


def _loss(gate: Gate, what: Example, rng: np.random.Generator) -> Tensor:
    """Of some voxels; the network's own logits are stretched and moved, so that its calibration is not learnt by heart."""
    places = torch.from_numpy(rng.permutation(len(what.share))[:EACH])
    features, share = what.features[places].clone(), what.share[places]
    weight = what.weight[places] * (len(what.share) / len(places))
    features[:, :2] = (features[:, :2] * rng.uniform(0.6, 1.4) + rng.normal(0, 0.25)).clamp(-2, 2)
    logit = 3 * features[:, 0] + gate(features)[:, 0]
    found = logit.sigmoid() * weight
    entropy = (F.binary_cross_entropy_with_logits(logit, share, reduction="none") * weight).sum() / (1 + weight.sum() / 8)
    return 1 - 2 * (found * share).sum() / (found.sum() + 1 + what.extra) + ENTROPY * entropy


def held_out(examples: Sequence[Example], seed: int) -> str:
    """A table: each set by a gate that never saw it; synthetic volumes by one that saw the other half of them."""
    text, gains = ["| set | prompt | objects | tracked | consensus |\n|---|---|---|---|---|\n"], []
    for name in sorted({each.dataset for each in examples}):
        own = [each for each in examples if each.dataset == name]
        tested = own[::2] if name == SYNTHETIC else own
        gate = fitted([each for each in examples if each not in tested], seed)
        before = np.array([each.dice(0.0) for each in tested])
        after = np.array([each.dice(gate(each.features)[:, 0]) for each in tested])
        for kind in sorted({each.kind for each in tested}):
            on = np.array([each.kind == kind for each in tested])
            text.append(f"| {name} | {kind} | {on.sum()} | {before[on].mean():.3f} | {after[on].mean():.3f} |\n")
            print(text[-1], end="", file=sys.stderr, flush=True)
        if name != SYNTHETIC:
            gains.append(after - before)
    rng = np.random.default_rng(seed)
    draws = [np.mean([rng.choice(each, len(each)).mean() for each in gains]) for _ in range(2000)]
    low, high = np.percentile(draws, (2.5, 97.5))
    mean = np.mean([each.mean() for each in gains])
    return "".join(text) + f"\nReal sets: {100 * mean:+.1f} points [{100 * low:.1f}, {100 * high:.1f}]\n"


def learning_arguments(doc: str | None) -> argparse.ArgumentParser:
    """The arguments of what learns from answers in volumes: those of `tracked`, and a seed."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="nnU-Net raw data sets of volumes to learn from")
    parser.add_argument("--examples", type=Path, required=True, help="folder that keeps what was tracked")
    parser.add_argument("--weights", default="nano", help="name or folder of the network's weights")
    parser.add_argument("--cases", type=int, default=12, help="volumes of each set")
    parser.add_argument("--synthetic", type=int, default=60, help="synthetic volumes")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of prompts")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main() -> int:
    parser = learning_arguments(__doc__)
    parser.add_argument("-o", "--output", type=Path, help="the gate; it lies beside the weights as consensus.safetensors")
    told = parser.parse_args()
    torch.set_num_threads(1)
    files = list(tracked(told.folder, told))
    examples = [found for found in map(example, files) if found is not None]
    print(held_out(examples, told.seed))
    if told.output is not None:
        write_bytes(told.output, save(dict(fitted(examples, told.seed).state_dict())))
    return 0


if __name__ == "__main__":
    sys.exit(main())

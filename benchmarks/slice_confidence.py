"""The judge of slices, fitted to a network's weights: how good each slice is after the consensus, and what is found by it.

    python benchmarks/slice_confidence.py FOLDER --examples DIR [-o JUDGE.safetensors]     # learns, printed set by set
    python benchmarks/slice_confidence.py FOLDER --examples DIR --judged                  # what the one that ships says

FOLDER and DIR are those of `consensus.py`, which tracks what is not there yet. A row is a slice that nobody prompted and on
which the answer outlines something. Printed: the calibration error of the decoder's predicted IoU and of the judge's (mean over
ten bins, by slices, of how far the mean prediction lies from the mean IoU), their rank correlations with the IoU; each set by a
judge that did not learn from it. Then, of the answers that have a slice of Dice below one half, the share of which the first
three suggestions of the page's review name one, by the decoder's confidence and by the judge's.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from scipy import stats
from torch import nn
from torch.nn import functional as F  # noqa: N812

from consensus import SYNTHETIC, learning_arguments, load_tracked, tracked
from medical_sam2.io.atomic import write_bytes
from medical_sam2.metrics import dice, iou
from medical_sam2.model.weights import weights_file
from medical_sam2.tracking.confidence import HIDDEN, REACH, SLICE_FEATURES, SLICES_FILE, expect_wrong, rank_wrong
from medical_sam2.tracking.consensus import (
    Gate,
    RefinedProbability,
    change_of_logits,
    compute_features,
    refined_slices,
    working_grid,
)
from medical_sam2.tracking.fusion import Mean
from medical_sam2.views import AXIAL

BINS, STEPS, BATCH, RATE, DECAY, BLUR = 10, 600, 512, 1e-2, 0.1, 0.3
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Answer:
    """Slices of one answer that outline something and were not prompted, and whether any slice is bad.

    Args:
        dataset: that it is of.
        slices: (n,) indices.
        features: (n, S).
        decoder: (n,) predicted IoU of the mask decoder.
        area: (n,) voxels.
        iou: (n,) with the truth.
        dice: (n,) with the truth.
        flawed: whether a slice, outlined or missed, has a Dice below one half.
    """

    dataset: str
    slices: NDArray[np.int64]
    features: Floats
    decoder: Floats
    area: Floats
    iou: Floats
    dice: Floats
    flawed: bool


def answer(file: Path, gate: Gate) -> Answer | None:
    """What `consensus.py` kept of an answer, after the consensus; None where that has nothing to say."""
    dataset, found, truth, what = load_tracked(file)
    grid = working_grid(what)
    if grid is None:
        return None
    seen = compute_features(what, grid)
    change = change_of_logits(gate, what, grid, seen)
    fusion = Mean(found.shape)
    fusion.add(AXIAL, slice(None), AXIAL.apply(found))
    final = RefinedProbability(fusion, grid, change).result() > 0.5
    features, low = refined_slices(what, grid, seen, change).features(), grid.low[0]
    there = [t for t in range(low, grid.high[0]) if t not in what.prompted and final[t].any()]
    if not there:
        return None
    either = truth.any(axis=(1, 2)) | final.any(axis=(1, 2))
    scores = {t: dice(truth[t], final[t]) for t in np.flatnonzero(either).tolist() if t not in what.prompted}
    return Answer(
        dataset,
        np.array(there),
        features[[t - low for t in there]],
        what.confidence[there].astype(np.float32),
        final[there].sum(axis=(1, 2)).astype(np.float32),
        np.array([iou(truth[t], final[t]) for t in there], np.float32),
        np.array([scores[t] for t in there], np.float32),
        min(scores.values()) < 0.5,
    )


class Judged(Protocol):
    """Answers of a data set: what describes each (n, S), and its IoU with the truth (n,)."""

    @property
    def dataset(self) -> str: ...
    @property
    def features(self) -> Floats: ...
    @property
    def iou(self) -> Floats: ...


def fitted(answers: Sequence[Judged], seed: int, build: Callable[[int], nn.Sequential] | None = None) -> nn.Sequential:
    """A judge: sets take turns, synthetic ones as often as three of them; each answer counts alike, however many slices.

    Args:
        answers: to learn from.
        seed: of what is drawn.
        build: makes an untrained judge of so many features, whose first layer is linear; a `Gate` unless given.
    """
    torch.manual_seed(seed)
    sets = defaultdict(list)
    for each in answers:
        sets[each.dataset].append(each)
    features = torch.from_numpy(np.concatenate([each.features for own in sets.values() for each in own]))
    truth = torch.from_numpy(np.concatenate([each.iou for own in sets.values() for each in own]))
    weight = torch.tensor([
        (3.0 if name == SYNTHETIC else 1.0) / len(own) / len(each.iou)
        for name, own in sets.items() for each in own for _ in each.iou
    ])  # fmt: skip
    mean, spread = features.mean(0), features.std(0) + 1e-3
    judge = build(features.shape[1]) if build else Gate(HIDDEN, features.shape[1])
    optimiser = torch.optim.AdamW(judge.parameters(), RATE, weight_decay=DECAY)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, STEPS)
    rows = (features - mean) / spread
    for _ in range(STEPS):
        drawn = torch.multinomial(weight, BATCH, replacement=True)
        shown = rows[drawn] + BLUR * torch.randn(BATCH, rows.shape[1])  # so that no feature is learnt by heart
        loss = F.binary_cross_entropy_with_logits(judge(shown)[:, 0], truth[drawn])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
    with torch.no_grad():  # it takes features as they are
        judge[0].weight /= spread
        judge[0].bias -= judge[0].weight @ mean
    return judge.requires_grad_(False)


def judged(judge: nn.Sequential, each: Answer) -> Floats:
    """Predicted IoU (n,) of an answer's slices."""
    with torch.inference_mode():
        return judge(torch.from_numpy(each.features)).sigmoid()[:, 0].numpy()


def calibration_error(predicted: Floats, truth: Floats) -> float:
    """Mean over bins, by slices, of how far the mean prediction is from the mean truth."""
    bins = np.clip((predicted * BINS).astype(int), 0, BINS - 1)
    return float(sum(abs((predicted - truth)[bins == b].sum()) for b in range(BINS)) / len(truth))


def dice_of(overlap: Floats) -> Floats:
    """The Dice of an IoU."""
    return 2 * overlap / (1 + overlap)


def suggested(each: Answer, sure: Floats) -> NDArray[np.int64]:
    """Places of the slices that the review of the page would name first, three of them."""
    chosen: list[int] = []
    worth = [rank_wrong(expect_wrong(float(c), int(a)), int(a)) for c, a in zip(sure, each.area, strict=True)]
    for place in np.argsort(-np.array(worth), kind="stable"):
        if len(chosen) < 3 and all(abs(each.slices[place] - each.slices[other]) > REACH for other in chosen):
            chosen.append(int(place))
    return np.array(chosen)


def table(answers: Sequence[Answer], sure: Mapping[int, Floats]) -> str:
    """Of each set: calibration error and rank correlation of the decoder and of the judge; then what the review finds."""
    lines = [
        "| set | slices | decoder: error (Dice) | rank | judge: error (Dice) | rank |",
        "|---|---|---|---|---|---|",
    ]
    for name in [*sorted({each.dataset for each in answers}), "all"]:
        own = [n for n, each in enumerate(answers) if name in {each.dataset, "all"}]
        truth = np.concatenate([answers[n].iou for n in own])
        cells = []
        for said in (np.concatenate([answers[n].decoder for n in own]), np.concatenate([sure[n] for n in own])):
            rank = float(np.asarray(stats.spearmanr(said, truth))[0]) if np.ptp(said) and np.ptp(truth) else float("nan")
            error, of_dice = calibration_error(said, truth), calibration_error(dice_of(said), dice_of(truth))
            cells += [f"{error:.3f} ({of_dice:.3f})", f"{rank:.2f}"]
        lines.append(f"| {name} | {len(truth)} | " + " | ".join(cells) + " |")
    flawed = [n for n, each in enumerate(answers) if each.flawed]
    for who, said in (("the decoder's confidence", [each.decoder for each in answers]), ("the judge's", sure)):
        hits = [bool((answers[n].dice[suggested(answers[n], said[n])] < 0.5).any()) for n in flawed]
        lines.append(
            f"\nReview by {who}: a slice of Dice below .5 among the first three in {np.mean(hits):.0%} of {len(hits)}."
        )
    return "\n".join(lines) + "\n"


def held_out(answers: Sequence[Answer], seed: int) -> dict[int, Floats]:
    """Predictions of each answer by a judge that did not learn from its set; synthetic ones by the other half of them."""
    sure: dict[int, Floats] = {}
    for name in sorted({each.dataset for each in answers}):
        own = [n for n, each in enumerate(answers) if each.dataset == name]
        parts = [own[::2], own[1::2]] if name == SYNTHETIC else [own]
        for part in parts:
            judge = fitted([each for n, each in enumerate(answers) if n not in part], seed)
            sure |= {n: judged(judge, answers[n]) for n in part}
    return sure


def main() -> int:
    parser = learning_arguments(__doc__)
    parser.add_argument("--judged", action="store_true", help="by the judge beside the weights, instead of learning")
    parser.add_argument("-o", "--output", type=Path, help=f"the judge; it lies beside the weights as {SLICES_FILE}")
    args = parser.parse_args()
    torch.set_num_threads(1)
    file = weights_file(args.weights)
    gate, shipped = Gate.beside(file), Gate.beside(file, SLICES_FILE, len(SLICE_FEATURES))
    if gate is None or (args.judged and shipped is None):
        parser.error("beside the weights lies no gate of the consensus, or no judge")
    answers = [found for found in (answer(each, gate) for each in tracked(args.folder, args)) if found is not None]
    sure = {n: judged(shipped, each) for n, each in enumerate(answers)} if args.judged else held_out(answers, args.seed)
    print(table(answers, sure))
    if args.output is not None:
        write_bytes(args.output, save(dict(fitted(answers, args.seed).state_dict())))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The network of the consensus in sets of images, fitted to weights: outline sets, learn, and what it gains elsewhere.

    python benchmarks/set_consensus.py FOLDER --examples DIR [--weights nano] [-o NETWORK.safetensors]

FOLDER holds nnU-Net raw data sets to learn from, of pictures or of volumes, four cases or more each; no set that results are
reported on belongs there, and none that the weights were trained on should. Of each set up to three structures are drawn by
the seed, and up to four images in turn are prompted by outlines, a box and a click; six others follow. Of a volume a large
slice of the structure is an image. DIR keeps what was seen, under the hash of the weights. Printed: Dice on the images that
were not prompted before and after, set by set, by networks that learnt without that set, and their difference with a bootstrap
interval over sets, and how far the IoU is known that a judge of the answers predicts. The judge learns from those answers, of
networks that did not know the set. OUT gets a network that learnt from all, and the judge.
"""

import argparse
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from scipy import stats
from torch import Tensor, nn

from medical_sam2.data.data_sets import DataSet, read_data_set
from medical_sam2.errors import MedicalSam2Error
from medical_sam2.evaluate.cases import VolumeTask, draw_prompt
from medical_sam2.evaluate.tables import mean_interval
from medical_sam2.intensity_window import choose_window
from medical_sam2.io.atomic import write_bytes
from medical_sam2.model.tracker import upsample
from medical_sam2.prompts import FramePrompt
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.consensus import MOST_CHANGE
from medical_sam2.tracking.encoding import fingerprint
from medical_sam2.tracking.frames import to_network
from medical_sam2.tracking.set_consensus import (
    ANSWER,
    FEATURES,
    LOGITS,
    SIDE,
    ConsensusNetwork,
    PromptedImage,
    SeenImage,
    SetConsensus,
    compute_features,
    describe_answer,
)
from slice_confidence import calibration_error
from slice_confidence import fitted as fit_slice_judge

CASES, STRUCTURES, KINDS, OTHERS = {"volume": 8}, 3, ("mask", "box", "mask", "click"), 6
MOST_CASES, FEWEST, FOLDS = 16, 4, 4
STEPS, FOLD_STEPS, BATCH, RATE, DECAY, DROPPED, UNLIKE = 4000, 2500, 8, 3e-3, 2e-2, 0.2, 0.003
SMOOTH = 1.0  # pixels in numerator and denominator of the soft Dice


@dataclass(frozen=True, eq=False)
class Examples:
    """Images of a set that followed: `dataset`, features (N, F, h, w) and the truth (N, h, w)."""

    dataset: str
    features: Tensor
    truth: Tensor

    def dice(self, change: Tensor | float = 0.0) -> float:
        """Mean over the images, the logits changed."""
        found, truth = self.features[:, 0].float() * LOGITS + change > 0, self.truth > 0.5
        both, sizes = (found & truth).sum((1, 2)), found.sum((1, 2)) + truth.sum((1, 2))
        return float((2 * both / sizes.clamp(min=1)).mean())

    def answers(self, change: Tensor) -> "Answers":
        """What describes the answers after a change of the logits, and how good they are; those that outline something."""
        found, truth = self.features[:, 0].float() * LOGITS + change > 0, self.truth > 0.5
        iou = ((found & truth).sum((1, 2)) / (found | truth).sum((1, 2)).clamp(min=1)).numpy()
        rows = [describe_answer(*each) for each in zip(self.features.float().numpy(), change.numpy(), strict=True)]
        there = found.flatten(1).any(1).numpy()
        return Answers(self.dataset, np.stack(rows)[there], iou[there].astype(np.float32))


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers of a set: what describes each (n, A), and its IoU with the truth (n,)."""

    dataset: str
    features: NDArray[np.float32]
    iou: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Recorder(SetConsensus):
    """Keeps what a consensus sees, image after image, and changes nothing."""

    seen: list[NDArray[np.float16]] = field(default_factory=list)

    def refine(
        self,
        prompted: Sequence[PromptedImage],
        seen: SeenImage,
        logits_hw: Tensor,
        confidence: float,
        likeness: float,
    ) -> tuple[Tensor, float]:
        logits = upsample(logits_hw[None], SIDE)[0].numpy()
        found = compute_features(prompted[0], seen, logits, confidence, likeness)
        self.seen.append(found.astype(np.float16))
        return logits_hw, confidence


def pairs(
    data: DataSet, structure: str, order: Sequence[int], rng: np.random.Generator
) -> list[tuple[NDArray, NDArray[np.bool_]]]:
    """Images and the structure on them."""
    labelled, found = [case for case in data.cases if case.label is not None], []
    for place in order[: CASES.get(data.kind, MOST_CASES)]:
        what = data.load(labelled[place])
        image, truth = what.images[0], data.mask(what.labels, structure)
        if not truth.any():
            continue
        if data.kind == "volume":
            task = VolumeTask(image, truth)
            areas = task.truth_thw.sum((1, 2))
            t = int(rng.choice(np.flatnonzero(areas >= max(10, 0.6 * areas.max())) if areas.max() >= 10 else [areas.argmax()]))
            slices = task.view.apply(image.array, image.orientation)
            found.append((np.ascontiguousarray(choose_window(image).for_network(slices[t])), task.truth_thw[t]))
        else:
            found.append((image.array, truth))
    return found


def seen(network: Segmenter, data: DataSet, name: str, seed: int) -> Iterator[tuple[NDArray[np.float16], NDArray[np.bool_]]]:
    """Features and truth of each image that followed."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    order = rng.permutation(sum(case.label is not None for case in data.cases)).tolist()
    names = list(data.structures)
    for structure in [names[n] for n in rng.permutation(len(names))[:STRUCTURES]]:
        images = pairs(data, structure, order, rng)
        for first, kind in enumerate(KINDS[: len(images)] if len(images) >= FEWEST else ()):
            others = [n for n in rng.permutation(len(images)).tolist() if n != first][:OTHERS]
            shown, recorder = [images[n] for n in (first, *others)], Recorder(untrained())
            network.set_consensus = recorder
            prompt = draw_prompt(shown[0][1], kind, np.random.default_rng(seed))
            try:
                found = list(network.segment_images([image for image, _ in shown], {0: {1: prompt}}))
            except MedicalSam2Error as error:
                print(f"{name} {structure}: {error}", file=sys.stderr)
                continue
            followed = [one.index for one in found if not one.prompted and not one.warnings]
            if len(followed) == len(recorder.seen):  # else nothing was found on the first one
                yield from ((see, square(shown[i][1])) for see, i in zip(recorder.seen, followed, strict=True))


def untrained() -> ConsensusNetwork:
    """One that changes nothing yet."""
    return ConsensusNetwork(len(FEATURES), len(ANSWER))


def square(mask_hw: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The truth on the grid of the features."""
    fitted = to_network(FramePrompt.mask(mask_hw), mask_hw.shape, SIDE).mask_hw
    assert fitted is not None
    return fitted[::2, ::2]


def gathered(told: argparse.Namespace) -> list[Examples]:
    """The examples of all sets; those of a set are kept, and not made again."""
    network, found = Segmenter.from_pretrained(told.weights), dict[str, list[Examples]]()
    kept = told.examples / fingerprint(network.network, network.device, network.precision, network.engine)[:12]
    kept.mkdir(parents=True, exist_ok=True)
    folders = sorted(path.parent for path in told.folder.glob("*/dataset.json"))
    for folder, seed in product(folders, range(told.seed, told.seed + told.draws)):
        file = kept / f"{folder.name}_{seed}.npz"
        if not file.exists():
            rows = list(seen(network, read_data_set(folder), folder.name, seed))
            features, truths = zip(*rows, strict=True) if rows else ((), ())
            draft = file.with_suffix(".draft.npz")
            np.savez(draft, features=np.array(features, np.float16), truth=np.array(truths, bool))
            draft.replace(file)
        with np.load(file, allow_pickle=False) as arrays:
            features, truth = torch.from_numpy(arrays["features"]), torch.from_numpy(arrays["truth"]).float()
        if len(truth):
            found.setdefault(folder.name, []).append(Examples(folder.name, features, truth))
            print(f"{folder.name}: {len(truth)} images", flush=True)
    return [
        Examples(name, *(torch.cat([*each]) for each in zip(*((e.features, e.truth) for e in own), strict=True)))
        for name, own in found.items()
    ]


def fitted(examples: Sequence[Examples], seed: int, steps: int) -> ConsensusNetwork:
    """Sets take turns, images are turned and mirrored, features dropped; the loss is one minus the soft Dice, for cross-entropy
    learns to leave out what is hard."""
    torch.manual_seed(seed)
    rng, network = np.random.default_rng(seed), untrained().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, steps)
    for step in range(steps):
        features, truth = zip(*(drawn(examples[rng.integers(len(examples))], rng) for _ in range(BATCH)), strict=True)
        x, y = torch.stack(features).contiguous(memory_format=torch.channels_last), torch.stack(truth)
        kept = torch.rand(BATCH, len(FEATURES), 1, 1) > DROPPED
        with torch.autocast("cpu", torch.bfloat16):
            change = network(x * kept)
        change = change.float().clamp(-MOST_CHANGE, MOST_CHANGE)
        share = (x[:, 0] * LOGITS + change).sigmoid()
        overlap, sizes = (share * y).sum((1, 2)), share.sum((1, 2)) + y.sum((1, 2))
        loss = (1 - (2 * overlap + SMOOTH) / (sizes + SMOOTH)).mean() + UNLIKE * change.square().mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        rates.step()
        if step % 500 == 0:
            print(f"step {step} of {steps}", file=sys.stderr, flush=True)
    return network.eval().requires_grad_(False)


def drawn(what: Examples, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """An image in one of eight positions."""
    n, turns, mirrored = int(rng.integers(len(what.truth))), int(rng.integers(4)), bool(rng.integers(2))
    pair = what.features[n].float(), what.truth[n]
    turned = [torch.rot90(each, turns, (-2, -1)) for each in pair]
    return tuple(each.flip(-1) for each in turned) if mirrored else tuple(turned)  # type: ignore[return-value]


def held_out(examples: Sequence[Examples], seed: int) -> tuple[str, list[Answers]]:
    """A table and the answers: each set by a network that never saw it."""
    order, rows, gains = np.random.default_rng(seed).permutation(len(examples)).tolist(), list[str](), list[float]()
    answers = list[Answers]()
    for fold in range(min(FOLDS, len(examples))):
        tested = order[fold::FOLDS]
        network = fitted([examples[n] for n in order if n not in tested], seed, FOLD_STEPS)
        for each in (examples[n] for n in tested):
            change = torch.cat([network(image[None].float()) for image in each.features]).clamp(-MOST_CHANGE, MOST_CHANGE)
            before, after = each.dice(), each.dice(change)
            rows.append(f"| {each.dataset} | {len(each.truth)} | {before:.3f} | {after:.3f} |\n")
            print(rows[-1], end="", file=sys.stderr, flush=True)
            gains.append(after - before)
            answers.append(each.answers(change))
    mean, low, high = mean_interval(gains, np.random.default_rng(seed))
    head = "| set | images | tracked | consensus |\n|---|---|---|---|\n"
    table = f"{head}{''.join(sorted(rows))}\n{100 * mean:+.1f} points [{100 * low:.1f}, {100 * high:.1f}]\n"
    return table, answers


def fit_judge(answers: Sequence[Answers], seed: int) -> nn.Linear:
    """A judge that is no more than a weighted sum, as networks learnt to tell sets from each other by their answers."""
    (judge,) = fit_slice_judge(answers, seed, lambda described: nn.Sequential(nn.Linear(described, 1)))
    return judge  # type: ignore[return-value]


def describe_judge(answers: Sequence[Answers], seed: int) -> str:
    """What tracking and a judge that did not learn from a set know of the IoU of its answers: a line each."""
    told, judged_by = ANSWER.index("confidence"), list[NDArray[np.float32]]()
    for each in answers:
        judge = fit_judge([other for other in answers if other is not each], seed)
        with torch.inference_mode():
            judged_by.append(judge(torch.from_numpy(each.features)).sigmoid()[:, 0].numpy())
    lines = []
    for who, said in (("tracking", [each.features[:, told] for each in answers]), ("the judge", judged_by)):
        errors = [calibration_error(own, each.iou) for own, each in zip(said, answers, strict=True)]
        every, truth = np.concatenate(said), np.concatenate([each.iou for each in answers])
        rank = float(np.asarray(stats.spearmanr(every, truth))[0])
        lines.append(
            f"{who}: calibration error {calibration_error(every, truth):.3f}, of single sets {np.mean(errors):.3f};"
            f" rank correlation {rank:.2f}, {len(truth)} answers"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="nnU-Net raw data sets to learn from")
    parser.add_argument("--examples", type=Path, required=True, help="folder that keeps what was seen")
    parser.add_argument("--weights", default="nano", help="name or folder of the network's weights")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--draws", type=int, default=4, help="of each set, by one seed after the other")
    parser.add_argument(
        "-o", "--output", type=Path, help="the network; it lies beside the weights as set_consensus.safetensors"
    )
    told = parser.parse_args()
    torch.set_num_threads(1)
    examples = gathered(told)
    table, answers = held_out(examples, told.seed)
    print(table, describe_judge(answers, told.seed), sep="\n")
    if told.output is not None:
        network = fitted(examples, told.seed, STEPS).to(memory_format=torch.contiguous_format)
        network.judge.load_state_dict(fit_judge(answers, told.seed).state_dict())
        write_bytes(told.output, save({name: part.contiguous() for name, part in network.state_dict().items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

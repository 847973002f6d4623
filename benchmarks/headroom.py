"""How much could memories gain in sets of images, before it is asked which bank gains it?

    python benchmarks/headroom.py FOLDER -o OUT [--only WBC] [--images 60] [--seeds 5] [--smallest 40] [--weights nano]

FOLDER holds nnU-Net raw data sets; those of at least `--smallest` pictures are taken. One prompt, of the kind that the data set
names; a seed draws the prompted image and the order of the others. What is asked of the network, without the consensus:
the template alone; the bank's own memories; memories admitted by their true IoU, in place of the predicted one; memories of
true masks. A case is a structure of a set; its headroom is the best of the last two less the template alone. On cases with 5
points of it or more the ladder of Table 3 is run too, and
its last step with lower thresholds. `headroom.jsonl` holds each answer (a run that was stopped goes on),
`headroom.md` means over seeds and differences with their bootstrap intervals over images.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from medical_sam2.data.data_sets import is_data_set, read_data_set
from medical_sam2.evaluate.cases import SetTask
from medical_sam2.evaluate.methods import METHODS
from medical_sam2.evaluate.methods.own_network import TrackingMethod
from medical_sam2.evaluate.protocols import LADDER
from medical_sam2.evaluate.significance import difference, mean_interval
from medical_sam2.io.atomic import write_bytes
from medical_sam2.metrics import iou
from medical_sam2.model.backbone import Backbone, Features, FramePrediction, Instruction, Memory
from medical_sam2.model.memory_bank import Policy, SelfSorting
from medical_sam2.model.tracker import upsample
from medical_sam2.prompts import FramePrompt
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.encoding import fingerprint
from medical_sam2.tracking.frames import to_network
from medical_sam2.tracking.image_set import ImageSetConfig, Shuffled, segment_set
from sets import KEEP_MB, SEED, Loaded, loaded, templates

ALONE, OWN, TRUE_IOU, TRUE_MASKS = "template alone", "own memories", "admitted by true IoU", "true masks"
HEADROOM = 0.05  # of Dice, from which on a case can tell one bank from another
Truths = Sequence[NDArray[np.bool_]]
Seen = Callable[[Backbone, Truths, Features, FramePrediction, int, Sequence[bool]], list[Memory]]
Key = tuple[str, str, int, str]


def by_true_iou(
    network: Backbone, truths: Truths, frame: Features, found: FramePrediction, t: int, prompted: Sequence[bool]
) -> list[Memory]:
    """Memories of what was found, as sure as it is right."""
    inside_hw = (upsample(found.logits_Bhw, truths[t].shape)[0] > 0).cpu().numpy()
    right = float(np.nan_to_num(iou(truths[t], inside_hw)))
    return [replace(memory, confidence=right) for memory in network.memorise(frame, found, t, prompted)]


def of_true_masks(
    network: Backbone, truths: Truths, frame: Features, found: FramePrediction, t: int, prompted: Sequence[bool]
) -> list[Memory]:
    """Memories of what a person would have drawn; none of an image without the structure."""
    if any(prompted):
        return network.memorise(frame, found, t, prompted)
    if not truths[t].any():
        return [replace(memory, confidence=0.0) for memory in network.memorise(frame, found, t, prompted)]
    drawn = to_network(FramePrompt.mask(truths[t]), truths[t].shape, network.image_size)
    answer = network.decode(frame, network.fuse(frame, [[]]), [Instruction(drawn)])
    return [replace(memory, confidence=1.0) for memory in network.memorise(frame, answer, t, prompted)]


BANKS: dict[str, tuple[Callable[[], Policy], Seen | None]] = {
    ALONE: (partial(SelfSorting, threshold=2.0), None),
    OWN: (SelfSorting, None),
    TRUE_IOU: (SelfSorting, by_true_iou),
    TRUE_MASKS: (SelfSorting, of_true_masks),
}
STEPS: dict[str, tuple[Callable[[], Policy], Seen | None]] = {
    **{name: (method.bank, None) for name in LADDER if isinstance(method := METHODS[name], TrackingMethod)},
    **{f"all steps, threshold {least:g}": (partial(SelfSorting, threshold=least), None) for least in (0.0, 0.3)},
}


class TruthfulNetwork:
    """A network whose memories know the truth.

    Args:
        network: the network itself.
        truths: of each image (H, W).
        memorise: what is remembered of an image.
    """

    def __init__(self, network: Backbone, truths: Truths, memorise: Seen) -> None:
        self._network, self._truths, self._memorise = network, truths, memorise

    def memorise(self, frame: Features, prediction: FramePrediction, t: int, prompted: Sequence[bool]) -> list[Memory]:
        return self._memorise(self._network, self._truths, frame, prediction, t, prompted)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)


@dataclass(frozen=True)
class Answer:
    """Dice of the images of a set, but the template, which is none."""

    key: Key  # data set, structure, seed, bank
    dice: tuple[float | None, ...]  # of each image; none also where the structure is neither there nor found
    sure: tuple[float, ...] = ()  # predicted IoU of each image


def ask(what: Loaded, structure: str, seed: int, bank: str, segmenter: Segmenter) -> Answer:
    """Go through a set once."""
    truths = what.truths(structure)
    drawn = templates(truths, len(truths))
    task = SetTask(what.images, truths, drawn[seed % len(drawn)])
    policy, seen = (BANKS | STEPS)[bank]
    network: Any = segmenter.network if seen is None else TruthfulNetwork(segmenter.network, truths, seen)
    prompt = task.prompt(what.data.prompt or "mask", np.random.default_rng(SEED))  # type: ignore[arg-type]
    config = ImageSetConfig(network, what.viewer, policy, Shuffled(seed), segmenter.judge)
    with segmenter.computing():
        found = {each.index: each for each in segment_set(config, {task.template: {1: prompt}}, range(len(truths)))}
    scores = task.scores({i: each.labels > 0 for i, each in found.items()})
    dice = [scores.get(i, np.nan) for i in range(len(truths))]
    key = what.data.name, structure, seed, bank
    sure = tuple(round(found[i].confidence[1], 3) for i in range(len(truths)))
    return Answer(key, tuple(None if np.isnan(each) else round(each, 4) for each in dice), sure)


def by_image(answers: Mapping[Key, Answer], case: tuple[str, str], bank: str) -> NDArray[np.float64]:
    """Mean Dice over seeds of each image; nan where no seed has one."""
    own = [[np.nan if d is None else d for d in a.dice] for k, a in answers.items() if (k[0], k[1]) == case and k[3] == bank]
    scores = np.array(own, np.float64)
    counts = np.isfinite(scores).sum(axis=0)
    return np.where(counts > 0, np.nansum(scores, axis=0) / np.maximum(counts, 1), np.nan)


def headroom(answers: Mapping[Key, Answer], case: tuple[str, str]) -> float:
    """How much the better of the memories that know the truth gain over the template alone."""
    alone = by_image(answers, case, ALONE)
    return max(float(np.nanmean(by_image(answers, case, bank) - alone)) for bank in (TRUE_IOU, TRUE_MASKS))


def table(answers: Mapping[Key, Answer], banks: Sequence[str]) -> str:
    """Means with intervals, and what each gains over the first."""
    head = ["set", "structure", "images", *banks, *(f"{bank} − {banks[0]}" for bank in banks[1:])]
    lines = [f"| {' | '.join(head)} |\n", "|---" * len(head) + "|\n"]
    for case in sorted({key[:2] for key in answers}):
        if not all(any(key == (*case, key[2], bank) for key in answers) for bank in banks):
            continue
        scores = [by_image(answers, case, bank) for bank in banks]
        means = ["{:.3f} [{:.3f}, {:.3f}]".format(*mean_interval(each, np.random.default_rng(0))) for each in scores]
        gains = [difference(each, scores[0], np.random.default_rng(0)) for each in scores[1:]]
        less = [f"{each.mean:+.3f} [{each.low:+.3f}, {each.high:+.3f}]" for each in gains]
        lines.append(f"| {' | '.join([*case, str(len(scores[0])), *means, *less])} |\n")
    return "".join(lines)


def trust(answers: Mapping[Key, Answer]) -> str:
    """How far the predicted IoU of the template alone tells who should enter: true and predicted IoU on either side of .5."""
    head = ("set", "structure", "rank correlation", "right, sure", "right, unsure", "wrong, sure", "wrong, unsure")
    lines = [f"| {' | '.join(head)} |\n", "|---" * len(head) + "|\n"]
    for case in sorted({key[:2] for key in answers}):
        own = [each for key, each in answers.items() if key[:2] == case and key[3] == ALONE]
        pairs = [(d / (2 - d), s) for each in own for d, s in zip(each.dice, each.sure, strict=True) if d is not None]
        true, sure = np.array(pairs).T
        rank = float(np.asarray(stats.spearmanr(true, sure))[0])
        good, enters = true >= 0.5, sure >= 0.5
        shares = [float(np.mean(each)) for each in (good & enters, good & ~enters, ~good & enters, ~good & ~enters)]
        lines.append(f"| {case[0]} | {case[1]} | {rank:.2f} | {' | '.join(f'{share:.0%}' for share in shares)} |\n")
    return "".join(lines)


def report(answers: Mapping[Key, Answer], head: str) -> str:
    """All tables, and the names of the cases that can tell banks apart."""
    cases = {case: headroom(answers, case) for case in sorted({key[:2] for key in answers})}
    named = [f"{' '.join(case)} ({room:+.3f})" for case, room in cases.items() if room >= HEADROOM] or ["none"]
    text = f"# Headroom of memories in sets of images\n\n{head}\n\n{table(answers, list(BANKS))}\n"
    text += f"## Predicted IoU of the template alone\n\n{trust(answers)}\n"
    text += f"Cases with {HEADROOM:.2f} of headroom or more: {', '.join(named)}.\n\n## Ladder of Table 3, on these\n\n"
    return text + table({key: each for key, each in answers.items() if cases[key[0], key[1]] >= HEADROOM}, list(STEPS))


@contextmanager
def kept(path: Path, weights: str) -> Iterator[tuple[dict[Key, Answer], Callable[[Answer], None]]]:
    """The answers of these weights so far, and what keeps one more."""
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []
    own = [
        Answer((d, s, int(n), b), tuple(each["dice"]), tuple(each["sure"]))
        for each in lines
        if each["weights"] == weights
        for d, s, n, b in [each["key"]]
    ]
    answers = {each.key: each for each in own}
    with path.open("a") as stream:

        def keep(answer: Answer) -> None:
            answers[answer.key] = answer
            print(
                json.dumps({"weights": weights, "key": answer.key, "dice": answer.dice, "sure": answer.sure}),
                file=stream,
                flush=True,
            )
            print(*answer.key, round(float(np.nanmean(np.array(answer.dice, np.float64))), 3), flush=True)

        yield answers, keep


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="names of sets")
    parser.add_argument("--structure", nargs="*", help="names of structures")
    parser.add_argument("--images", type=int, default=60, help="at most, of a set, drawn by a fixed seed")
    parser.add_argument("--smallest", type=int, default=40, help="sets of fewer images are passed over")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--weights", default="nano")
    return parser.parse_args()


def main() -> int:
    told = parsed()
    told.output.mkdir(parents=True, exist_ok=True)
    segmenter = Segmenter.from_pretrained(told.weights, keep_mb=KEEP_MB)
    network: Any = segmenter.network
    weights = f"{fingerprint(network)[:12]} {told.images}"
    about = f"Weights `{told.weights}` ({weights[:12]}), {segmenter.precision}, one prompt, {told.seeds} seeds."
    with kept(told.output / "headroom.jsonl", weights) as (answers, keep):
        for path in sorted(each for each in told.folder.iterdir() if each.is_dir() and is_data_set(each)):
            data = read_data_set(path)
            labelled = sum(case.label is not None for case in data.cases)
            if data.kind != "set" or labelled < told.smallest or (told.only and data.name not in told.only):
                continue
            what = loaded(data, segmenter, told.images)
            for structure in told.structure or data.structures:
                for names in (BANKS, STEPS):
                    if names is STEPS and headroom(answers, (data.name, structure)) < HEADROOM:
                        continue
                    for key in ((data.name, structure, seed, bank) for seed in range(told.seeds) for bank in names):
                        if key not in answers:
                            keep(ask(what, structure, key[2], key[3], segmenter))
        if not answers:
            print("no set of so many pictures", file=sys.stderr)
            return 1
        write_bytes(told.output / "headroom.md", report(answers, about).encode())
    return 0


if __name__ == "__main__":
    with torch.inference_mode():
        sys.exit(main())

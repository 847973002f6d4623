"""How much could memories gain in sets of images and in volumes, before it is asked which bank gains it?

    python benchmarks/headroom.py FOLDER -o OUT [--kind volume] [--only WBC] [--images 60] [--cases 2] [--seeds 5]

FOLDER holds nnU-Net raw data sets: of images, those of at least `--smallest`, and of volumes, of which some cases are drawn.
One prompt, of the kind that the data set names; a seed draws the prompted image and the order of the others, or the prompted
slice, at least half as large as the largest. What is asked of the network, in one view, without the consensus: the template
alone; the bank's own memories; memories admitted by their true IoU, in place of the predicted one; memories of true masks. On
a volume the network is told besides what was found on the slice before, whatever a bank keeps: that stays as it was found.
A case is a structure of a set or of a volume; its headroom is the best of the last two less the template alone. On cases with
5 points of it or more the ladder of Table 3 is run too, and its last step with lower thresholds. `headroom.jsonl` holds each
answer (a run that was stopped goes on), `headroom.md` means and differences: of a set over seeds, with bootstrap intervals
over images; of a volume, all slices but the prompted one, with intervals over seeds; in the last line with intervals over sets
or volumes.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from medical_sam2.data.data_sets import Case, DataSet, is_data_set, read_data_set
from medical_sam2.errors import PromptError
from medical_sam2.evaluate.cases import EvaluationCase, SetTask, SimulatedReader, load_case
from medical_sam2.evaluate.methods import METHODS
from medical_sam2.evaluate.methods.own_network import TrackingMethod
from medical_sam2.evaluate.protocols import LADDER, ONE, Kind
from medical_sam2.evaluate.tables import difference, mean_interval
from medical_sam2.io.atomic import write_bytes
from medical_sam2.metrics import dice, iou
from medical_sam2.model.backbone import Backbone, Features, FramePrediction, Instruction, Memory, Recalled
from medical_sam2.model.memory_bank import Policy, SelfSorting
from medical_sam2.model.tracker import upsample
from medical_sam2.prompts import FramePrompt
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.cropping import Crop
from medical_sam2.tracking.encoding import fingerprint
from medical_sam2.tracking.frames import Region, to_network
from medical_sam2.tracking.image_set import ImageSetConfig, Shuffled, segment_set
from medical_sam2.tracking.view_tracker import ViewTracker
from medical_sam2.views import View
from sets import KEEP_MB, SEED, Loaded, loaded, templates

ALONE, OWN, TRUE_IOU, TRUE_MASKS = "template alone", "own memories", "admitted by true IoU", "true masks"
HEADROOM = 0.05  # of Dice, from which on a case can tell one bank from another
TRUTH = "truth"
Mask = NDArray[np.bool_]
Truth = Callable[[Features, int], Mask]
"""A frame, and when it is seen → the structure on what the network is shown of it."""
Seen = Callable[[Backbone, Mask, Features, FramePrediction], tuple[FramePrediction, float]]
"""What a bank is offered in place of what was found on a frame, and how sure it is to be of that."""
Key = tuple[str, str, int, str]
Problem = tuple[str, str, Callable[[int, str], "Answer"]]
"""Data set or volume, structure, and how it is answered with a seed and a bank."""


def by_true_iou(network: Backbone, truth: Mask, frame: Features, found: FramePrediction) -> tuple[FramePrediction, float]:
    """What was found, as sure as it is right."""
    inside_hw = (upsample(found.logits_Bhw, truth.shape)[0] > 0).cpu().numpy()
    return found, float(np.nan_to_num(iou(truth, inside_hw)))


def of_true_masks(network: Backbone, truth: Mask, frame: Features, found: FramePrediction) -> tuple[FramePrediction, float]:
    """What a person would have drawn; nothing of a frame without the structure."""
    if not truth.any():
        return found, 0.0
    drawn = to_network(FramePrompt.mask(truth), truth.shape, network.image_size)
    return network.decode(frame, network.fuse(frame, [[]]), [Instruction(drawn)]), 1.0


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


class TruthfulBank:
    """A policy that keeps memories which know the truth; the network itself remembers what it found.

    Args:
        network: whose `memorise` is to be that of the bank.
        policy: that sorts the memories of the one object.
        seen: what is remembered of a frame that nobody prompted.
        truth: of each frame.
    """

    def __init__(self, network: Backbone, policy: Policy, seen: Seen, truth: Truth) -> None:
        self._network, self._policy, self._seen, self._truth = network, policy, seen, truth
        self._memorise, self._known = network.memorise, dict[int, Memory]()

    def memorise(self, frame: Features, found: FramePrediction, t: int, prompted: Sequence[bool]) -> list[Memory]:
        plain = self._memorise(frame, found, t, prompted)
        if not any(prompted):
            right, sure = self._seen(self._network, self._truth(frame, t), frame, found)
            own = plain if right is found else self._memorise(frame, right, t, prompted)
            self._known[t] = replace(own[0], confidence=sure)
        return plain

    def keep(self, bank: list[Memory], new: Memory) -> list[Memory]:
        return self._policy.keep(bank, self._known.pop(new.t, new))

    def weigh(self, bank: list[Memory], t: int, query_C: Tensor) -> list[Recalled]:
        return self._policy.weigh(bank, t, query_C)


@contextmanager
def remembering(network: Backbone, bank: str, truth: Truth) -> Iterator[Callable[[], Policy]]:
    """What makes the policy of a bank, while the context lasts."""
    make, seen = (BANKS | STEPS)[bank]
    if seen is None:
        yield make
        return
    truthful = TruthfulBank(network, make(), seen, truth)
    with patch.object(network, "memorise", truthful.memorise):
        yield lambda: truthful


@contextmanager
def truth_beside_features(truth_ijk: Mask) -> Iterator[Truth]:
    """The structure as far as the network is shown it, region by region: features of a volume's slices carry it."""
    see = ViewTracker.features

    def features(self: ViewTracker, view: View, region: Region | None = None) -> Callable[[int], Features]:
        stack, seen = self.frames(view, region), see(self, view, region)
        truth_thw = view.apply(truth_ijk, stack.axes)

        def carrying(t: int) -> Features:
            frame, truth = seen(t), truth_thw[t] if region is None else truth_thw[t][region.rows, region.columns]
            return replace(frame, own={**frame.own, TRUTH: torch.from_numpy(np.ascontiguousarray(truth))[None]})

        return carrying

    with patch.object(ViewTracker, "features", features):
        yield lambda frame, t: frame.own[TRUTH][0].numpy()


@dataclass(frozen=True)
class Answer:
    """Dice of what was not prompted.

    Args:
        key: data set or volume, structure, seed, bank.
        dice: of each image or slice; none of what was prompted, and where the structure is neither there nor found.
        sure: predicted IoU of each.
        whole: Dice of a volume.
    """

    key: Key
    dice: tuple[float | None, ...]
    sure: tuple[float, ...] = ()
    whole: float | None = None


def answer(key: Key, dice: Sequence[float], sure: Sequence[float], whole: float | None = None) -> Answer:
    rounded = tuple(None if np.isnan(each) else round(float(each), 4) for each in dice)
    return Answer(key, rounded, tuple(round(float(each), 3) for each in sure), None if whole is None else round(whole, 4))


def ask_set(what: Loaded, structure: str, segmenter: Segmenter, seed: int, bank: str) -> Answer:
    """Go through a set once."""
    truths = what.truths(structure)
    drawn = templates(truths, len(truths))
    task = SetTask(what.images, truths, drawn[seed % len(drawn)])
    prompt = task.prompt(what.data.prompt or "mask", np.random.default_rng(SEED))  # type: ignore[arg-type]
    with segmenter.computing(), remembering(segmenter.network, bank, lambda _, t: truths[t]) as policy:
        config = ImageSetConfig(segmenter.network, what.viewer, policy, Shuffled(seed), segmenter.judge)
        found = {each.index: each for each in segment_set(config, {task.template: {1: prompt}}, range(len(truths)))}
    scores = task.scores({i: each.labels > 0 for i, each in found.items()})
    images = range(len(truths))
    key = what.data.name, structure, seed, bank
    return answer(key, [scores.get(i, np.nan) for i in images], [found[i].confidence[1] for i in images])


def ask_volume(case: EvaluationCase, kind: Kind, segmenter: Segmenter, seed: int, bank: str) -> Answer:
    """Go through a volume once, from a slice that the seed draws."""
    name, structure = case.name.rsplit("/", 1)
    reader, task = SimulatedReader(case.truths, ONE[0], kind, True, seed, case.name), case.task
    assert task is not None
    prompts = task.all_in_volume(reader.prompt_frames([reader.start]))
    shown = task.truth_ijk[Crop.to_content(task.volume, prompts).box]
    with truth_beside_features(shown) as truth, remembering(segmenter.network, bank, truth) as policy:
        result = segmenter.segment_volume(task.volume, prompts, bank=policy, consensus=False, every_slice=True)
    axes, others = task.volume.orientation, np.arange(len(case.truths)) != reader.start
    found, sure = task.view.apply(result.labels > 0, axes), np.zeros(len(others))
    for row in result.confidence:
        sure[-1 - row.slice if task.view.flipped(axes)[0] else row.slice] = row.confidence
    scores = [dice(truth, one) if other else np.nan for truth, one, other in zip(case.truths, found, others, strict=True)]
    return answer((name, structure, seed, bank), scores, sure.tolist(), dice(task.truth_thw[others], found[others]))


def of_banks(answers: Mapping[Key, Answer], banks: Collection[str]) -> dict[Key, Answer]:
    """Answers with these banks, of cases and seeds that all of them answered."""
    asked = Counter(key[:3] for key in answers if key[3] in banks)
    return {key: each for key, each in sorted(answers.items()) if key[3] in banks and asked[key[:3]] == len(banks)}


def by_unit(answers: Mapping[Key, Answer], case: tuple[str, str], bank: str) -> NDArray[np.float64]:
    """Mean Dice over seeds of each image of a set, nan where no seed has one; or Dice of a volume of each seed."""
    own = [each for key, each in answers.items() if key[:2] == case and key[3] == bank]
    if own[0].whole is not None:
        return np.array([each.whole for each in own], np.float64)
    scores = np.array([[np.nan if d is None else d for d in each.dice] for each in own], np.float64)
    counts = np.isfinite(scores).sum(axis=0)
    return np.where(counts > 0, np.nansum(scores, axis=0) / np.maximum(counts, 1), np.nan)


def headroom(answers: Mapping[Key, Answer], case: tuple[str, str]) -> float:
    """How much the better of the memories that know the truth gain over the template alone; nothing where not asked."""
    asked = {key: each for key, each in of_banks(answers, BANKS).items() if key[:2] == case}
    if not asked:
        return 0.0
    alone = by_unit(asked, case, ALONE)
    return max(float(np.nanmean(by_unit(asked, case, bank) - alone)) for bank in (TRUE_IOU, TRUE_MASKS))


def table(answers: Mapping[Key, Answer], banks: Sequence[str]) -> str:
    """Means with intervals, and what each gains over the first; the last line is the mean of sets or volumes."""
    head = ["set", "structure", "images or seeds", *banks, *(f"{bank} − {banks[0]}" for bank in banks[1:])]
    lines = [f"| {' | '.join(head)} |\n", "|---" * len(head) + "|\n"]
    asked = of_banks(answers, banks)
    means: dict[str, list[list[float]]] = {}
    for case in dict.fromkeys((key[0], key[1]) for key in asked):
        scores = [by_unit(asked, case, bank) for bank in banks]
        means.setdefault(case[0], []).append([float(np.nanmean(each)) for each in scores])
        lines.append(row(case, scores))
    if len(means) > 1:
        cases = sum(map(len, means.values()))
        lines.append(row(("mean", f"{cases} of {len(means)}"), np.array([np.mean(each, axis=0) for each in means.values()]).T))
    return "".join(lines)


def row(case: tuple[str, str], scores: Iterable[NDArray[np.float64]]) -> str:
    first, *others = scores
    means = ["{:.3f} [{:.3f}, {:.3f}]".format(*mean_interval(each, np.random.default_rng(0))) for each in (first, *others)]
    gains = [difference(each, first, np.random.default_rng(0)) for each in others]
    less = [f"{each.mean:+.3f} [{each.low:+.3f}, {each.high:+.3f}]" for each in gains]
    return f"| {' | '.join([*case, str(len(first)), *means, *less])} |\n"


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


def part(answers: Mapping[Key, Answer], title: str) -> str:
    """All tables of sets or of volumes, and the names of the cases that can tell banks apart."""
    cases = {case: headroom(answers, case) for case in sorted({key[:2] for key in answers})}
    named = [f"{' '.join(case)} ({room:+.3f})" for case, room in cases.items() if room >= HEADROOM] or ["none"]
    text = f"## {title}\n\n{table(answers, list(BANKS))}\n"
    text += f"### Predicted IoU of the template alone\n\n{trust(answers)}\n"
    text += f"Cases with {HEADROOM:.2f} of headroom or more: {', '.join(named)}.\n\n### Ladder of Table 3, on these\n\n"
    return text + table({key: each for key, each in answers.items() if cases[key[0], key[1]] >= HEADROOM}, list(STEPS))


def report(answers: Mapping[Key, Answer], head: str) -> str:
    """Sets and volumes apart."""
    kinds = {
        "Sets of images": {key: each for key, each in answers.items() if each.whole is None},
        "Volumes": {key: each for key, each in answers.items() if each.whole is not None},
    }
    return "\n".join([f"# Headroom of memories\n\n{head}\n", *(part(own, title) for title, own in kinds.items() if own)])


@contextmanager
def kept(path: Path, weights: str) -> Iterator[tuple[dict[Key, Answer], Callable[[Answer], None]]]:
    """The answers of these weights so far, and what keeps one more."""
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []
    own = [
        Answer((d, s, int(n), b), tuple(each["dice"]), tuple(each["sure"]), each.get("whole"))
        for each in lines
        if each["weights"] == weights
        for d, s, n, b in [each["key"]]
    ]
    answers = {each.key: each for each in own}
    with path.open("a") as stream:

        def keep(one: Answer) -> None:
            answers[one.key] = one
            print(json.dumps({"weights": weights, **asdict(one)}), file=stream, flush=True)
            mean = float(np.nanmean(np.array(one.dice, np.float64))) if one.whole is None else one.whole
            print(*one.key, round(mean, 3), flush=True)

        yield answers, keep


def data_sets(told: argparse.Namespace, kind: str) -> Iterator[tuple[Path, DataSet, list[Case]]]:
    """Those that are wanted, with their labelled cases in an order drawn by a fixed seed."""
    for path in sorted(each for each in told.folder.iterdir() if each.is_dir() and is_data_set(each)):
        data = read_data_set(path)
        labelled = [case for case in data.cases if case.label is not None]
        if kind in told.kind and data.kind == kind and (not told.only or data.name in told.only):
            yield path, data, [labelled[i] for i in np.random.default_rng(SEED).permutation(len(labelled))]


def problems(told: argparse.Namespace, segmenter: Segmenter) -> Iterator[Problem]:
    """Every structure of every set, and of some volumes of each set."""
    for _, data, cases in data_sets(told, "set"):
        if len(cases) >= told.smallest:
            what = loaded(data, segmenter, told.images)
            for structure in told.structure or data.structures:
                yield data.name, structure, partial(ask_set, what, structure, segmenter)
    for path, data, cases in data_sets(told, "volume"):
        for case in cases[: told.cases]:
            for structure in told.structure or data.structures:
                try:
                    found = load_case(path, case.identifier, (), structure, ())
                except PromptError as error:
                    print(f"left out: {data.name} {case.identifier} {structure}: {error}", file=sys.stderr)
                    continue
                kind: Any = data.prompt or "mask"
                yield f"{data.name}/{case.identifier}", structure, partial(ask_volume, found, kind, segmenter)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--kind", nargs="+", choices=("set", "volume"), default=("set", "volume"))
    parser.add_argument("--only", nargs="*", help="names of sets")
    parser.add_argument("--structure", nargs="*", help="names of structures")
    parser.add_argument("--images", type=int, default=60, help="at most, of a set, drawn by a fixed seed")
    parser.add_argument("--smallest", type=int, default=40, help="sets of fewer images are passed over")
    parser.add_argument("--cases", type=int, default=2, help="volumes of a set, drawn by a fixed seed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--weights", default="nano")
    parser.add_argument("--image-size", type=int, help="side of the network's input; that of the weights unless told")
    return parser.parse_args()


def main() -> int:
    told = parsed()
    told.output.mkdir(parents=True, exist_ok=True)
    segmenter = Segmenter.from_pretrained(told.weights, image_size=told.image_size, keep_mb=KEEP_MB)
    network: Any = segmenter.network
    weights = f"{fingerprint(network, *([told.image_size] if told.image_size else []))[:12]} {told.images}"
    about = f"Weights `{told.weights}` ({weights[:12]}), {network.image_size} px, {segmenter.precision}, one prompt, "
    with kept(told.output / "headroom.jsonl", weights) as (answers, keep):
        for banks in (BANKS, STEPS):  # all headroom first
            for name, structure, ask in problems(told, segmenter):
                if banks is STEPS and headroom(answers, (name, structure)) < HEADROOM:
                    continue
                for seed, bank in product(range(told.seeds), banks):
                    if (name, structure, seed, bank) not in answers:
                        keep(ask(seed, bank))
            if answers:
                write_bytes(told.output / "headroom.md", report(answers, f"{about}{told.seeds} seeds.").encode())
        if not answers:
            print("no volume, and no set of so many pictures", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    with torch.inference_mode():
        sys.exit(main())

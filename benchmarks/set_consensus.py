"""The gate of the consensus in sets of images, fitted to a network's weights: outline sets, learn, and what it gains elsewhere.

    python benchmarks/set_consensus.py FOLDER --examples DIR [--weights nano] [-o GATE.safetensors]

FOLDER holds nnU-Net raw data sets to learn from, of pictures or of volumes, four cases or more each; no set that results are
reported on belongs there, and none that the weights were trained on should. Of each set up to three structures are drawn by
the seed, and up to three images in turn are prompted by an outline, a box or a click; six others follow. Of a volume a large
slice of the structure is an image. DIR keeps what was seen, under the hash of the weights. Printed: Dice on the images that
were not prompted before and after, set by set, by gates that were learnt without that set, and their difference with a
bootstrap interval over sets. OUT gets a gate that learnt from all.
"""

import argparse
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from medical_sam2.data.data_sets import DataSet, read_data_set
from medical_sam2.errors import MedicalSam2Error
from medical_sam2.evaluate.cases import VolumeTask, draw_prompt
from medical_sam2.evaluate.tables import mean_interval
from medical_sam2.intensity_window import choose_window
from medical_sam2.io.atomic import write_bytes
from medical_sam2.model.tracker import upsample
from medical_sam2.prompts import FramePrompt
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.consensus import MOST_CHANGE, Gate
from medical_sam2.tracking.encoding import fingerprint
from medical_sam2.tracking.frames import to_network
from medical_sam2.tracking.set_consensus import FEATURES, SIDE, PromptedImage, SetConsensus, compute_features

CASES, STRUCTURES, TEMPLATES, OTHERS = {"volume": 8}, 3, 3, 6
MOST_CASES, FEWEST = 16, 4
FOLDS, GATES, HIDDEN = 4, 3, 12
STEPS, BATCH, RATE, DECAY, DROPPED, UNLIKE = 300, 8, 1e-2, 1e-2, 0.3, 0.01
SMOOTH = 1.0  # pixels in numerator and denominator of the soft Dice


@dataclass(frozen=True, eq=False)
class Examples:
    """Images of a set that followed: `dataset`, features (N, h, w, F) and the truth (N, h, w)."""

    dataset: str
    features: Tensor
    truth: Tensor

    def dice(self, change: Tensor | float = 0.0) -> float:
        """Mean over the images, the logits changed."""
        found, truth = self.features[..., 0].float() * 3 + change > 0, self.truth > 0.5
        both, sizes = (found & truth).sum((1, 2)), found.sum((1, 2)) + truth.sum((1, 2))
        return float((2 * both / sizes.clamp(min=1)).mean())


@dataclass(frozen=True, eq=False)
class Recorder(SetConsensus):
    """Keeps what a consensus sees, image after image, and changes nothing."""

    seen: list[NDArray[np.float16]] = field(default_factory=list)

    def refine(
        self,
        prompted: Sequence[PromptedImage],
        picture_3SS: NDArray[np.float32],
        logits_hw: Tensor,
        confidence: float,
        likeness: float,
    ) -> Tensor:
        logits = upsample(logits_hw[None], SIDE)[0].numpy()
        found = compute_features(prompted[0], picture_3SS, logits, confidence, likeness)
        self.seen.append(found.astype(np.float16))
        return logits_hw


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
        for first in range(min(TEMPLATES, len(images)) if len(images) >= FEWEST else 0):
            kind = "mask" if first == 0 else str(rng.choice(["mask", "mask", "box", "click"]))
            others = [n for n in rng.permutation(len(images)).tolist() if n != first][:OTHERS]
            shown, recorder = [images[n] for n in (first, *others)], Recorder(Gate(features=len(FEATURES)))
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


def square(mask_hw: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The truth on the grid of the features."""
    fitted = to_network(FramePrompt.mask(mask_hw), mask_hw.shape, SIDE).mask_hw
    assert fitted is not None
    return fitted[::2, ::2]


def gathered(told: argparse.Namespace) -> list[Examples]:
    """The examples of all sets; those of a set are kept, and not made again."""
    network, found = Segmenter.from_pretrained(told.weights), list[Examples]()
    kept = told.examples / fingerprint(network.network, network.device, network.precision, network.engine)[:12]
    kept.mkdir(parents=True, exist_ok=True)
    for folder in sorted(path.parent for path in told.folder.glob("*/dataset.json")):
        file = kept / f"{folder.name}.npz"
        if not file.exists():
            rows = list(seen(network, read_data_set(folder), folder.name, told.seed))
            features, truths = zip(*rows, strict=True) if rows else ((), ())
            draft = file.with_suffix(".draft.npz")
            np.savez(draft, features=np.array(features, np.float16), truth=np.array(truths, bool))
            draft.replace(file)
        with np.load(file, allow_pickle=False) as arrays:
            if len(arrays["truth"]):
                found.append(
                    Examples(folder.name, torch.from_numpy(arrays["features"]), torch.from_numpy(arrays["truth"]).float())
                )
                print(f"{folder.name}: {len(found[-1].truth)} images", flush=True)
    return found


def fitted(examples: Sequence[Examples], seed: int) -> Gate:
    """A gate: sets take turns; the loss is one minus the soft Dice, for cross-entropy learns to leave out what is hard."""
    torch.manual_seed(seed)
    rng, gate = np.random.default_rng(seed), Gate(HIDDEN, len(FEATURES))
    torch.nn.init.zeros_(gate[-1].weight)
    torch.nn.init.zeros_(gate[-1].bias)
    optimiser = torch.optim.AdamW(gate.parameters(), RATE, weight_decay=DECAY)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, STEPS)
    for _ in range(STEPS):
        features, truth = zip(*(drawn(examples[rng.integers(len(examples))], rng) for _ in range(BATCH)), strict=True)
        x, y = torch.stack(features).float(), torch.stack(truth)
        kept = torch.rand(BATCH, 1, 1, len(FEATURES)) > DROPPED
        change = gate(x * kept)[..., 0].clamp(-MOST_CHANGE, MOST_CHANGE)
        share = (x[..., 0] * 3 + change).sigmoid()
        overlap, sizes = (share * y).sum((1, 2)), share.sum((1, 2)) + y.sum((1, 2))
        loss = (1 - (2 * overlap + SMOOTH) / (sizes + SMOOTH)).mean() + UNLIKE * change.square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
    return gate.requires_grad_(False)


def drawn(what: Examples, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Every second pixel of an image along both axes."""
    n, down, right = int(rng.integers(len(what.truth))), *rng.integers(2, size=2).tolist()
    return what.features[n, down::2, right::2], what.truth[n, down::2, right::2]


def several(examples: Sequence[Examples], seed: int) -> Gate:
    """Gates of several seeds side by side, as one: their mean."""
    gates = [fitted(examples, seed * GATES + n) for n in range(GATES)]
    joined = Gate(HIDDEN * GATES, len(FEATURES))
    state = [gate.state_dict() for gate in gates]
    joined[0].weight.data = torch.cat([each["0.weight"] for each in state])
    joined[0].bias.data = torch.cat([each["0.bias"] for each in state])
    joined[2].weight.data = torch.block_diag(*(each["2.weight"] for each in state))
    joined[2].bias.data = torch.cat([each["2.bias"] for each in state])
    joined[4].weight.data = torch.cat([each["4.weight"] for each in state], 1) / GATES
    joined[4].bias.data = torch.stack([each["4.bias"] for each in state]).mean(0)
    return joined.requires_grad_(False)


def held_out(examples: Sequence[Examples], seed: int) -> str:
    """A table: each set by gates that never saw it."""
    order, rows, gains = np.random.default_rng(seed).permutation(len(examples)).tolist(), list[str](), list[float]()
    for fold in range(min(FOLDS, len(examples))):
        tested = order[fold::FOLDS]
        gate = several([examples[n] for n in order if n not in tested], seed)
        for each in (examples[n] for n in tested):
            change = torch.stack([gate(image.float())[..., 0] for image in each.features]).clamp(-MOST_CHANGE, MOST_CHANGE)
            before, after = each.dice(), each.dice(change)
            rows.append(f"| {each.dataset} | {len(each.truth)} | {before:.3f} | {after:.3f} |\n")
            gains.append(after - before)
    mean, low, high = mean_interval(gains, np.random.default_rng(seed))
    head = "| set | images | tracked | consensus |\n|---|---|---|---|\n"
    return f"{head}{''.join(sorted(rows))}\n{100 * mean:+.1f} points [{100 * low:.1f}, {100 * high:.1f}]\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="nnU-Net raw data sets to learn from")
    parser.add_argument("--examples", type=Path, required=True, help="folder that keeps what was seen")
    parser.add_argument("--weights", default="nano", help="name or folder of the network's weights")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("-o", "--output", type=Path, help="the gate; it lies beside the weights as set_consensus.safetensors")
    told = parser.parse_args()
    torch.set_num_threads(1)
    examples = gathered(told)
    print(held_out(examples, told.seed))
    if told.output is not None:
        write_bytes(told.output, save(dict(several(examples, told.seed).state_dict())))
    return 0


if __name__ == "__main__":
    sys.exit(main())

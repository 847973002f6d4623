"""What is believed of a click: fits the judge of clicks to a network's weights, and measures it on sets that it never saw.

    python benchmarks/clicks.py FOLDER --examples OUT -o src/medical_sam2/weights/nano/click_outline.safetensors
    python benchmarks/clicks.py FOLDER --examples OUT                                       # the table alone

FOLDER holds nnU-Net raw data sets of volumes and of pictures to learn from (none that results are reported on). Of each set
some cases are drawn by the seed; a structure is clicked on twice, in its middle and anywhere inside. The network is asked on
each region (`medical_sam2.tracking.click_outline`), and for every mask that it proposes the features and the true Dice are
kept under --examples: in the plane of a volume against the structure or the part that was clicked on, whichever is nearer; in
a picture, as one of a set, against the whole structure. Printed: Dice of the mask that was chosen so far (predicted IoU and
agreement), by the judge (each set by one that never saw it), and of the best there was; means over sets.
"""

import argparse
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from medical_sam2.data.data_sets import DataSet, read_data_set
from medical_sam2.errors import MedicalSam2Error
from medical_sam2.evaluate.cases import VolumeTask
from medical_sam2.evaluate.tables import mean_interval
from medical_sam2.intensity_window import choose_window
from medical_sam2.io.atomic import write_bytes
from medical_sam2.metrics import dice
from medical_sam2.model.backbone import Instruction
from medical_sam2.prompts import FramePrompt
from medical_sam2.segmenter import Segmenter
from medical_sam2.simulate import next_click
from medical_sam2.tracking.click_outline import FEATURES, Candidate, click_regions, compute_features, list_candidates, reduction
from medical_sam2.tracking.frames import AGREEMENT, Canvas, to_input, to_network
from medical_sam2.tracking.image_viewer import PERCENTILES

LEAST, FOLDS, NETWORKS = 20, 5, 3  # pixels of a structure; parts that sets are dealt into; networks that are averaged
HIDDEN, EPOCHS, RATE, DECAY, DROPPED, LOT = 16, 40, 5e-3, 2e-2, 0.1, 64
SHARP, SOFT = 8.0, 0.08  # of the predicted Dice that is believed, and of the true one

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Frame:
    """A slice or a picture, and a structure on it."""

    key: str
    picture: Floats  # (H, W) or (H, W, 3) in [0, 1]
    truth: NDArray[np.bool_]
    canvas: Canvas
    of_volume: bool


@dataclass(frozen=True, eq=False)
class Example:
    """A click: features (N, F) of its candidates, their true Dice (N,), which one was believed so far, and the set."""

    features: Floats
    scores: Floats
    before: int
    dataset: str

    @property
    def in_set(self) -> bool:
        return bool(self.features[0, FEATURES.index("in a set")])


def frames(data: DataSet, name: str, args: argparse.Namespace) -> Iterator[Frame]:
    """Structures on some slices of some volumes, or on some pictures."""
    rng = np.random.default_rng([args.seed, zlib.crc32(name.encode())])
    labelled = [case for case in data.cases if case.label is not None]
    drawn = [labelled[i] for i in rng.permutation(len(labelled))]
    for case in drawn[: args.volumes if data.kind == "volume" else args.images]:
        loaded = data.load(case)
        for structure in [list(data.structures)[i] for i in rng.permutation(len(data.structures))][: args.structures]:
            mask, image = data.mask(loaded.labels, structure), loaded.images[0]
            if mask.sum() < LEAST:
                continue
            if data.kind != "volume":
                yield Frame(
                    f"{case.identifier}{structure}",
                    PERCENTILES.of(0, image.array).apply(image.array),
                    mask,
                    Canvas(mask.shape),
                    False,
                )
                continue
            task, window = VolumeTask(image, mask), choose_window(image)
            area, axes = task.truth_thw.sum((1, 2)), image.orientation
            there = np.flatnonzero(area >= max(10, area.max() / 10))
            for t in rng.choice(there, min(2, len(there)), replace=False).tolist():
                picture = window.for_network(task.view.apply(image.array, axes)[t])
                _, high, wide = task.view.spacing(image.spacing_mm, axes)
                canvas = Canvas(picture.shape, (high, wide))
                yield Frame(f"{case.identifier}{structure}{t}", picture, task.truth_thw[t], canvas, True)


def examples(network: Segmenter, frame: Frame, dataset: str) -> Iterator[Example]:
    """Two clicks, each as one in a volume, and those on pictures as one in a set, too."""
    rng, size, backbone = np.random.default_rng(zlib.crc32(frame.key.encode())), network.network.image_size, network.network
    for spread in (0.0, float("inf")):
        click = next_click(frame.truth, np.zeros_like(frame.truth), rng, spread=spread)
        if click is None:
            continue
        prompt, answers = click.on_frame(), []
        for region, share in click_regions(frame.canvas, tuple(prompt.points_xy[0].tolist())).items():
            part = frame.picture if region is None else frame.picture[region.rows, region.columns]
            seen = network.encode(to_input(np.ascontiguousarray(part), size))
            asked = Instruction(to_network(prompt, frame.canvas.shape_hw, size, region), wanted="every")
            answers.append((region, share, backbone.decode(seen, backbone.fuse(seen, [[]]), [asked])))
        for in_set in (False,) if frame.of_volume else (False, True):
            candidates = list_candidates(frame.canvas.shape_hw, prompt, answers, all_parts=in_set)
            if candidates:
                yield described(frame, prompt, candidates, in_set, dataset)


def described(frame: Frame, prompt: FramePrompt, candidates: list[Candidate], in_set: bool, dataset: str) -> Example:
    step = reduction(frame.canvas.shape_hw)
    grey = frame.picture.mean(-1) if frame.picture.ndim > 2 else frame.picture
    x, y = (prompt.points_xy[0] / step).tolist()
    truth = frame.truth[::step, ::step]
    parts, _ = ndimage.label(truth)
    hit = parts[min(round(y), truth.shape[0] - 1), min(round(x), truth.shape[1] - 1)]
    wanted = [truth] if in_set or not hit else [truth, parts == hit]
    small = np.ascontiguousarray(grey[::step, ::step], np.float32)
    scores = np.array([max(dice(one, each.mask_hw) for one in wanted) for each in candidates], np.float32)
    return Example(compute_features(small, (x, y), candidates, in_set=in_set), scores, believed_so_far(candidates), dataset)


def believed_so_far(candidates: list[Candidate]) -> int:
    """Of the surest mask of each region the one that is sure and agrees with the others."""
    parts = [n for n, each in enumerate(candidates) if not each.all_parts]
    best = [
        max((n for n in parts if candidates[n].region == region), key=lambda n: candidates[n].ious[candidates[n].place])
        for region in sorted({candidates[n].region for n in parts})
    ]
    worth = [
        candidates[n].ious[candidates[n].place]
        + AGREEMENT * float(np.mean([dice(candidates[n].mask_hw, candidates[m].mask_hw) for m in best if m != n] or [0]))
        for n in best
    ]
    return best[int(np.argmax(worth))]


def gathered(args: argparse.Namespace) -> list[Example]:
    """The examples of all sets; those of a set are kept, and not made again."""
    network, found = Segmenter.from_pretrained(args.weights), list[Example]()
    args.examples.mkdir(parents=True, exist_ok=True)
    for folder in sorted(path.parent for path in args.folder.glob("*/dataset.json")):
        kept = args.examples / f"{folder.name}.npz"
        if not kept.exists():
            rows = list[Example]()
            with torch.inference_mode():
                for frame in frames(read_data_set(folder), folder.name, args):
                    try:
                        rows += examples(network, frame, folder.name)
                    except MedicalSam2Error as error:
                        print(f"{folder.name} {frame.key}: {error}", file=sys.stderr)
            arrays = {
                f"{n}.{name}": getattr(row, name) for n, row in enumerate(rows) for name in ("features", "scores", "before")
            }
            np.savez_compressed(kept, **arrays)
        with np.load(kept, allow_pickle=False) as arrays:
            rows = [
                Example(arrays[f"{n}.features"], arrays[f"{n}.scores"], int(arrays[f"{n}.before"]), folder.name)
                for n in range(len(arrays.files) // 3)
            ]
        found += rows
        print(f"{folder.name}: {len(rows)} clicks", flush=True)
    return found


def fit(rows: list[Example], scale: tuple[Floats, Floats], seed: int) -> nn.Sequential:
    """One network: the Dice of each candidate, and that the best of a click comes first; sets count alike."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Linear(len(FEATURES), HIDDEN),
        nn.ReLU(),
        nn.Dropout(DROPPED),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, 1),
    )
    most, sets = max(len(row.scores) for row in rows), [row.dataset for row in rows]
    x, y, there = (
        torch.zeros(len(rows), most, len(FEATURES)),
        torch.zeros(len(rows), most),
        torch.zeros(len(rows), most, dtype=torch.bool),
    )
    for n, row in enumerate(rows):
        size = len(row.scores)
        x[n, :size], y[n, :size], there[n, :size] = (
            torch.from_numpy((row.features - scale[0]) / scale[1]),
            torch.from_numpy(row.scores),
            True,
        )
    weight = torch.tensor([1 / sets.count(each) for each in sets])
    weight /= weight.mean()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * -(-len(rows) // LOT))
    shuffled = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for lot in torch.randperm(len(rows), generator=shuffled).split(LOT):
            said, mask = network(x[lot])[..., 0].sigmoid(), there[lot]
            squared = ((said - y[lot]) ** 2 * mask).sum(1) / mask.sum(1)
            ranked = F.log_softmax((SHARP * said).masked_fill(~mask, -1e4), 1)
            best = torch.softmax((y[lot] / SOFT).masked_fill(~mask, -1e4), 1)
            loss = ((3 * squared - 0.3 * (best * ranked).sum(1)) * weight[lot]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()
    return network.eval()


def judge_tensors(networks: list[nn.Sequential], scale: tuple[Floats, Floats]) -> dict[str, Tensor]:
    """Networks side by side as the layers of one, which takes features as they are: what `OutlineJudge` reads."""
    layers = [[part for part in network if isinstance(part, nn.Linear)] for network in networks]
    mean, spread = map(torch.from_numpy, scale)
    first = [own[0].weight / spread for own in layers]
    tensors = {
        "0.weight": torch.cat(first),
        "0.bias": torch.cat([own[0].bias - w @ mean for own, w in zip(layers, first, strict=True)]),
    }
    for number in (1, 2):
        tensors[f"{number}.weight"] = torch.block_diag(*[own[number].weight for own in layers])
        tensors[f"{number}.bias"] = torch.cat([own[number].bias for own in layers])
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def scale_of(rows: list[Example]) -> tuple[Floats, Floats]:
    stacked = np.concatenate([row.features for row in rows])
    return stacked.mean(0), stacked.std(0) + np.float32(1e-3)


def table(rows: list[Example]) -> str:
    """Each set by a judge that never saw it."""
    names, scale = sorted({row.dataset for row in rows}), scale_of(rows)
    order, chosen = np.random.default_rng(0).permutation(len(names)), dict[int, float]()
    for fold in range(FOLDS):
        held = {names[i] for i in order[fold::FOLDS]}
        networks = [fit([row for row in rows if row.dataset not in held], scale, seed) for seed in range(NETWORKS)]
        for n, row in enumerate(rows):
            if row.dataset in held:
                with torch.inference_mode():
                    x = torch.from_numpy((row.features - scale[0]) / scale[1])
                    chosen[n] = float(row.scores[int(sum(network(x).sigmoid() for network in networks).argmax())])
    lines = ["| clicks | sets | so far | by the judge | gain | the best there is |", "|---|---|---|---|---|---|"]
    for in_set in (False, True):
        own = {name: [n for n, row in enumerate(rows) if row.dataset == name and row.in_set == in_set] for name in names}
        own = {name: places for name, places in own.items() if places}
        means = np.array(
            [
                [np.mean([(rows[n].scores[rows[n].before], chosen[n], rows[n].scores.max()) for n in places], axis=0)]
                for places in own.values()
            ]
        )[:, 0]
        gain, low, high = mean_interval(means[:, 1] - means[:, 0], np.random.default_rng(0))
        before, by_judge, best = means.mean(0)
        kind = "as in a set" if in_set else "as in a volume"
        lines.append(
            f"| {kind} | {len(own)} | {before:.3f} | {by_judge:.3f} | {gain:+.3f} [{low:.3f}, {high:.3f}] | {best:.3f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="nnU-Net raw data sets to learn from")
    parser.add_argument("--examples", type=Path, required=True, help="where what the network proposed is kept")
    parser.add_argument("-o", "--output", type=Path, help="the judge, to lie beside the weights")
    parser.add_argument("--images", type=int, default=12, help="pictures of each set")
    parser.add_argument("--volumes", type=int, default=4, help="volumes of each set")
    parser.add_argument("--structures", type=int, default=3, help="of each case")
    parser.add_argument("--seed", type=int, default=7, help="which cases")
    parser.add_argument("--weights", default="nano", help="name or folder of the network's weights")
    args = parser.parse_args()
    rows = gathered(args)
    print(table(rows))
    if args.output is not None:
        scale = scale_of(rows)
        tensors = judge_tensors([fit(rows, scale, seed) for seed in range(NETWORKS)], scale)
        write_bytes(args.output, save(tensors))
    return 0


if __name__ == "__main__":
    sys.exit(main())

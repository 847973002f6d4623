"""What each part of `nano`, and each step around it, is worth: Dice with it taken out, on the same prompts.

    python benchmarks/ablations.py FOLDER -o OUT [--cases 1] [--images 8] [--templates 2] [--kinds mask] [--parts …]

FOLDER holds nnU-Net raw data sets; cases, pictures, templates and prompts are those of `classics.py`. A part is silenced, not
trained without: what it found is replaced by what it finds where there is no memory, so a loss is an upper bound of what the
part is worth. OUT gets `ablations.jsonl` (a row for each answer; what is there is not computed again) and `ablations.md`:
means over structures, and the differences to the whole with bootstrap intervals over structures.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from classics import planned, task_of
from medical_sam2.errors import MedicalSam2Error
from medical_sam2.evaluate.cases import KINDS, SetTask, VolumeTask
from medical_sam2.evaluate.tables import mean_interval
from medical_sam2.io.atomic import write_bytes
from medical_sam2.model.nano import Nano
from medical_sam2.segmenter import Segmenter

WHOLE = "whole"


@contextmanager
def replaced(owner: Any, name: str, by: Any) -> Iterator[None]:
    """An attribute, for as long as a part is silenced."""
    kept = getattr(owner, name)
    setattr(owner, name, by)
    try:
        yield
    finally:
        setattr(owner, name, kept)


def silent(part: str) -> Callable[[Segmenter], Any]:
    """A way into memory that finds nothing, as on a frame without a past."""

    def silence(segmenter: Segmenter) -> Any:
        network = nano_of(segmenter)
        kept = network.fuse

        def fuse(frame: Any, recall: Any) -> Any:
            fused = kept(frame, recall)
            own = {name: torch.zeros_like(value) if name == part else value for name, value in fused.own.items()}
            return replace(fused, own=own)

        return replaced(network, "fuse", fuse)

    return silence


def without_attention(segmenter: Segmenter) -> Any:
    """Memory attention, left out: the deepest map as on a frame without a past."""
    network = nano_of(segmenter)
    kept = network.fuse

    def fuse(frame: Any, recall: Any) -> Any:
        alone = kept(frame, [[] for _ in recall])
        return replace(kept(frame, recall), map_BChw=alone.map_BChw)

    return replaced(network, "fuse", fuse)


def without_refiner(segmenter: Segmenter) -> Any:
    """The decoder's masks as they are, enlarged."""

    def refine(frame: Any, fused: Any, proposed: tuple[Tensor, Tensor, Tensor], instructions: Any) -> Any:
        masks, iou, presence = proposed
        return F.interpolate(masks.float(), scale_factor=2, mode="bilinear"), iou, presence

    return replaced(nano_of(segmenter), "refine", refine)


def without_upsampler(segmenter: Segmenter) -> Any:
    """Mended masks, enlarged without looking at the image."""

    def sharpen(masks: Tensor, *_: Any) -> Tensor:
        return F.interpolate(masks.float(), scale_factor=2, mode="bilinear")

    network = nano_of(segmenter)
    return replaced(network.sharpen, "forward", sharpen)


def pooled(margin: int) -> Callable[[Segmenter], Any]:
    """Memories attended to by means of 2 × 2 tokens, farther than so many from the border."""
    return lambda segmenter: replaced(nano_of(segmenter), "pool_margin", margin)


def without(*names: str) -> Callable[[Segmenter], Any]:
    """Steps around the network, left out."""

    @contextmanager
    def silence(segmenter: Segmenter) -> Iterator[None]:
        kept = {name: getattr(segmenter, name) for name in names}
        for name in names:
            setattr(segmenter, name, None)
        try:
            yield
        finally:
            for name, value in kept.items():
                setattr(segmenter, name, value)

    return silence


PARTS: Mapping[str, Callable[[Segmenter], Any]] = {
    "memory attention": without_attention,
    "masks propagated by likeness": silent("propagated"),
    "matching with the slice before": silent("neighbour"),
    "pixel classifier": silent("score"),
    "mask refiner": without_refiner,
    "mask upsampler": without_upsampler,
    "consensus": without("gate", "set_consensus"),
    "judge of clicks": without("judge"),
    "single tokens farther than 0 from borders": pooled(0),
    "single tokens farther than 1 from borders": pooled(1),
}


def nano_of(segmenter: Segmenter) -> Nano:
    """Its network."""
    network = segmenter.network
    if not isinstance(network, Nano):
        raise MedicalSam2Error("only nano has these parts", "give weights of nano")
    return network


def answer(segmenter: Segmenter, task: VolumeTask | SetTask, kind: Any) -> float:
    """Dice off the prompted slice or image."""
    prompt = task.prompt(kind, np.random.default_rng(0))
    if isinstance(task, VolumeTask):
        axes = task.volume.orientation
        return task.score(task.view.apply(segmenter.segment_volume(task.volume, [prompt]).labels > 0, axes))
    found = {each.index: each.labels > 0 for each in segmenter.segment_images(task.images, {0: {1: prompt}})}
    scores = np.array(list(task.scores(found).values()))
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")


def page(rows: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> str:
    """Means over structures of the means over their cases; differences to the whole with intervals."""
    of: dict[tuple[str, bool], dict[tuple[str, str], dict[str, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for row in rows:
        of[row["prompt"], row["volume"]][row["dataset"], row["structure"]][row["part"]].append(row["dice"])
    parts = [part for part in PARTS if any(row["part"] == part for row in rows)]
    lines = ["| prompt | of | structures | whole | " + " | ".join(parts) + " |", "|---|---|---|---|" + "---|" * len(parts)]
    for kind in kinds:
        for volume in (True, False):
            there = of[kind, volume]
            means = {name: {part: float(np.nanmean(own[part])) for part in own} for name, own in there.items()}
            cells = [kind, "volumes" if volume else "sets", str(len(means)), number([own[WHOLE] for own in means.values()])]
            for part in parts:
                losses = [own[part] - own[WHOLE] for own in means.values() if part in own]
                mean, low, high = mean_interval(losses, np.random.default_rng(0))
                cells.append(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" if losses else "–")
            if means:
                lines.append("| " + " | ".join(cells) + " |")
    head = "Dice without a part, less that of the whole, off the prompted slice or image: mean over structures, 95 % interval."
    return f"# What each part of `nano` is worth\n\n{head}\n\n" + "\n".join(lines) + "\n"


def number(values: Sequence[float]) -> str:
    """Their mean."""
    return f"{float(np.nanmean(values)):.3f}" if values else "–"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="nnU-Net raw data sets")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=1, help="volumes of each set")
    parser.add_argument("--images", type=int, default=8, help="pictures of each set")
    parser.add_argument("--templates", type=int, default=2, help="pictures that are prompted in turn")
    parser.add_argument("--seed", type=int, default=0, help="which cases, pictures and templates")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of sets")
    parser.add_argument("--kinds", nargs="+", default=["mask"], choices=KINDS)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--weights", default="nano", help="name or folder of the network's weights")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    torch.set_num_threads(1)
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / "ablations.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["dataset"], row["structure"], row["case"], row["prompt"], row["part"]) for row in rows}
    segmenter = Segmenter.from_pretrained(args.weights)
    with path.open("a") as stream:
        for job in planned(args.folder, args):
            for kind in args.kinds:
                head = {"dataset": job.folder.name, "structure": job.structure, "case": job.identifiers[0], "prompt": kind}
                todo = [part for part in (WHOLE, *args.parts) if (*head.values(), part) not in done]
                try:
                    task = task_of(job) if todo else None
                    for part in todo if task is not None else ():
                        with PARTS[part](segmenter) if part in PARTS else nullcontext():
                            score = answer(segmenter, task, kind)
                        rows.append({**head, "part": part, "volume": isinstance(task, VolumeTask), "dice": round(score, 4)})
                        stream.write(json.dumps(rows[-1]) + "\n")
                        stream.flush()
                        print(*head.values(), part, f"{score:.3f}", flush=True)
                except MedicalSam2Error as error:
                    print(*head.values(), error, file=sys.stderr)
    write_bytes(args.output / "ablations.md", page(rows, args.kinds).encode())
    print(page(rows, args.kinds))
    return 0


if __name__ == "__main__":
    sys.exit(main())

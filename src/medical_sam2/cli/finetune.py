"""`medsam2 finetune`: teach a network a data set of yours, and see on cases that it never saw whether that helped."""

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from medical_sam2.cli._options import FLAG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medical_sam2.evaluate.held_out import Score
    from medical_sam2.model.sam2 import Sam2
    from medical_sam2.train.config import Recipe

REPORT, EVERY_S = "report.json", 10.0
Prompted = Literal["mask", "box", "click"]


def finetune(
    folder: Path,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    weights: str = "nano",
    held_out: float = 0.2,
    most: int | None = None,
    prompts: Annotated[tuple[Prompted, ...], Parameter(name="--prompt", negative="")] = ("mask", "box", "click"),
    seed: int = 0,
    steps: int = 1000,
    max_minutes: float | None = None,
    settings: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    resume: Annotated[bool, FLAG] = False,
    device: str = "auto",
    threads: int | None = None,
) -> int:
    """Fine-tune a network on an nnU-Net raw data set.

    Some cases are held out: one prompt on each of them shows the Dice before and after. OUTPUT is then a folder of weights
    (`medsam2 segment … --weights OUTPUT`), with the figures in report.json.

    Args:
        folder: nnU-Net raw data set.
        output: folder to write.
        weights: to start from: a name, a file, a folder, or an id on the Hugging Face hub.
        held_out: share of the cases that only judge, or how many (from 1); 0 for none.
        most: cases to learn from at most.
        prompts: by which the held-out cases are judged; again for more.
        seed: of the split and of the training.
        steps: of the training; with --max-minutes as many as fit.
        max_minutes: for the training.
        settings: key=value over the recipe that suits the weights; it is shown in run/recipe.json.
        resume: go on with what is in the folder.
        device: auto, cpu or cuda.
        threads: of the processor.
    """
    import torch

    from medical_sam2.data.nnunet import read_data_set
    from medical_sam2.errors import ConfigError
    from medical_sam2.model.weights import load_backbone, save_backbone
    from medical_sam2.train.finetune import prepared, split_cases

    if threads:
        torch.set_num_threads(threads)
    if output.exists() and any(output.iterdir()) and not resume:
        raise ConfigError("the folder is not empty", "add --resume to go on, or choose another one", subject=output)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("several processes fine-tune by a recipe", "use medsam2 prepare, then torchrun with medsam2 train")
    dataset = read_data_set(folder)
    split = split_cases(dataset, held_out, seed, most)
    network = load_backbone(weights)
    _say(f"{len(split.train)} cases to learn from, {len(split.held_out)} held out")
    pool = prepared(dataset, split.train, output / "cases")
    recipe = _recipe(network, weights, pool, output / "run", seed=seed, steps=steps, minutes=max_minutes, device=device)
    recipe = _changed(recipe, settings)

    def judged(what: str) -> "list[Score]":
        from medical_sam2.evaluate.held_out import scores
        from medical_sam2.segmenter import Segmenter

        _say(f"{what}: one prompt on each of {len(split.held_out)} cases")
        segmenter = Segmenter(network, device=device)
        return scores(segmenter, dataset, split.held_out, prompts, seed=seed, on_case=_Counted())

    before = judged("before")
    began = time.monotonic()
    last = _trained(network, recipe, output / "run", max_minutes, device, resume=resume)
    minutes = (time.monotonic() - began) / 60
    save_backbone(network, output)
    after = judged("after")
    dice = _table(before, after)
    told: dict[str, Any] = {
        "weights": weights,
        "data_set": dataset.name,
        "train": [case.identifier for case in split.train],
        "held_out": [case.identifier for case in split.held_out],
        "steps": last,
        "minutes": round(minutes, 2),
        "device": device,
        "dice": dice,
    }
    _write(output / REPORT, told)
    for line in _lines(dice):
        _say(line)
    return 0


def _recipe(
    network: "Sam2", start: str, pool: Path, run: Path, *, seed: int, steps: int, minutes: float | None, device: str
) -> "Recipe":
    """The recipe of the run in the folder if there is one, else the one that suits the network and the time."""
    from dataclasses import replace

    from medical_sam2.io import load_json
    from medical_sam2.train.config import Recipe, build
    from medical_sam2.train.finetune import recipe_for, steps_within
    from medical_sam2.train.loop import RECIPE

    if (run / RECIPE).is_file():
        return build(Recipe, load_json(run / RECIPE, newest=None))
    recipe = recipe_for(network, start, pool, seed=seed, steps=steps)
    if minutes is None:
        return recipe
    fit = steps_within(network, recipe, run, minutes, device)
    phases = tuple(replace(phase, steps=fit) for phase in recipe.phases)
    return replace(recipe, phases=phases, warm_up=min(20, max(1, fit // 10)))


def _changed(recipe: "Recipe", settings: "Sequence[str]") -> "Recipe":
    from medical_sam2.train.config import Recipe, as_told, build, with_settings

    return build(Recipe, with_settings(as_told(recipe), settings)) if settings else recipe


def _trained(network: "Sam2", recipe: "Recipe", run: Path, minutes: float | None, device: str, *, resume: bool) -> int:
    """Train in place; the averaged weights stay in the network. Returns the steps that were done."""
    from medical_sam2.cli._training import follow
    from medical_sam2.train.loop import Training, averaged
    from medical_sam2.train.processes import Processes

    with Processes(device) as processes:
        training = Training(network, recipe, run, processes)
        if resume:
            training.resume()
        follow(training, minutes)
        averaged(training)
        return training.step


def _table(before: "Sequence[Score]", after: "Sequence[Score]") -> list[dict[str, Any]]:
    """Mean Dice for each structure and kind of prompt, and over all structures."""
    rows: list[dict[str, Any]] = []
    for kind in dict.fromkeys(score.prompt for score in before):
        for structure in (*dict.fromkeys(score.structure for score in before), None):
            values = [_mean(scores, kind, structure) for scores in (before, after)]
            rows.append({"structure": structure or "all", "prompt": kind, "before": values[0], "after": values[1]})
    return rows


def _mean(scores: "Sequence[Score]", kind: str, structure: str | None) -> float | None:
    own = [s.dice for s in scores if s.prompt == kind and structure in {None, s.structure} and s.dice == s.dice]
    return round(sum(own) / len(own), 4) if own else None


def _lines(rows: "Sequence[dict[str, Any]]") -> list[str]:
    every = [row for row in rows if row["structure"] == "all" and row["before"] is not None]
    lines = [f"{row['prompt']}: Dice {row['before']:.3f} before, {row['after']:.3f} after" for row in every]
    worse = all(row["after"] <= row["before"] for row in every) and bool(every)
    return [*lines, "the earlier weights are better on the held-out cases: keep those"] if worse else lines


def _write(path: Path, told: dict[str, Any]) -> None:
    from medical_sam2.io.atomic import write_bytes

    write_bytes(path, (json.dumps(told, indent=2) + "\n").encode())


class _Counted:
    """Says now and then how many cases are done."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._said > EVERY_S:
            self._said = time.monotonic()
            _say(f"{done} of {total} cases")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()

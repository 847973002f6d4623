"""`medsam2 finetune`: teach a network a data set of yours, and see on cases that it never saw whether that helped."""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from medical_sam2.cli._options import FLAG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medical_sam2.data.data_sets import DataSet
    from medical_sam2.evaluate.held_out import Score
    from medical_sam2.model.sam2 import Sam2
    from medical_sam2.train.config import Recipe
    from medical_sam2.train.finetune import CaseSplit

REPORT, SPLIT, EVERY_S = "report.json", "split.json", 10.0
Prompted = Literal["mask", "box", "click"]


@Parameter(name="*")
@dataclass(frozen=True)
class FinetuneOptions:
    """What is learnt from, what judges, and for how long.

    Args:
        weights: to start from: a name, a file, a folder, or an id on the Hugging Face hub.
        held_out: share of the cases that only judge, or how many (from 1); 0 for none.
        most: cases to learn from at most.
        prompts: by which the held-out cases are judged; again for more.
        seed: of the split and of the training.
        steps: of the training; with --max-minutes as many as fit.
        max_minutes: for the training.
        settings: key=value over the recipe that suits the weights; it is shown in run/recipe.json.
        resume: go on with what is in the folder, with the cases that it was begun with.
        device: auto, cpu or cuda.
        threads: of the processor.
    """

    weights: str = "nano"
    held_out: float = 0.2
    most: int | None = None
    prompts: Annotated[tuple[Prompted, ...], Parameter(name="--prompt", negative="")] = ("mask", "box", "click")
    seed: int = 0
    steps: int = 1000
    max_minutes: float | None = None
    settings: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = ()
    resume: Annotated[bool, FLAG] = False
    device: str = "auto"
    threads: int | None = None


AS_USUAL = FinetuneOptions()


def finetune(folder: Path, /, *, output: Annotated[Path, Parameter(alias="-o")], how: FinetuneOptions = AS_USUAL) -> int:
    """Fine-tune a network on an nnU-Net raw data set.

    Some cases are held out: one prompt on each of them shows the Dice before and after. OUTPUT is then a folder of weights
    (`medsam2 segment … --weights OUTPUT`), with the figures in report.json.

    Args:
        folder: nnU-Net raw data set.
        output: folder to write.
    """
    import torch

    from medical_sam2.data.data_sets import read_data_set
    from medical_sam2.model.weights import load_backbone, save_backbone
    from medical_sam2.train.finetune import prepare_cases

    _check(output, how)
    if how.threads:
        torch.set_num_threads(how.threads)
    dataset = read_data_set(folder)
    split, network = _split(dataset, output, how), load_backbone(how.weights)
    _say(f"{len(split.train)} cases to learn from, {len(split.held_out)} held out")
    pool = prepare_cases(dataset, split.train, output / "cases")
    recipe = _changed(_recipe(network, pool, output / "run", how), how.settings)
    before = _judged("before", network, dataset, split, how)
    began = time.monotonic()
    steps = _trained(network, recipe, output / "run", how)
    minutes = (time.monotonic() - began) / 60
    save_backbone(network, output)
    dice = _table(before, _judged("after", network, dataset, split, how))
    facts = {"weights": how.weights, "data_set": dataset.name, "steps": steps, "minutes": round(minutes, 2), "dice": dice}
    _write(output / REPORT, {**facts, **_names(split)})
    for line in _lines(dice):
        _say(line)
    return 0


def _check(output: Path, how: FinetuneOptions) -> None:
    from medical_sam2.errors import ConfigError

    if output.exists() and any(output.iterdir()) and not how.resume:
        raise ConfigError("the folder is not empty", "add --resume to go on, or choose another one", subject=output)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("several processes fine-tune by a recipe", "use medsam2 prepare, then torchrun with medsam2 train")


def _split(dataset: "DataSet", output: Path, how: FinetuneOptions) -> "CaseSplit":
    """The cases that are learnt from and those that judge; a run that goes on keeps its own."""
    from medical_sam2.io import load_json
    from medical_sam2.train.finetune import CaseSplit, split_cases

    if not (output / SPLIT).is_file():
        split = split_cases(dataset, how.held_out, how.seed, how.most)
        output.mkdir(parents=True, exist_ok=True)
        _write(output / SPLIT, _names(split))
        return split
    told, known = load_json(output / SPLIT, newest=None), {case.identifier: case for case in dataset.cases}
    train, held_out = (tuple(known[name] for name in told[part] if name in known) for part in ("train", "held_out"))
    return CaseSplit(train, held_out)


def _names(split: "CaseSplit") -> dict[str, Any]:
    return {part: [case.identifier for case in cases] for part, cases in vars(split).items()}


def _judged(what: str, network: "Sam2", dataset: "DataSet", split: "CaseSplit", how: FinetuneOptions) -> "list[Score]":
    from medical_sam2.evaluate.held_out import scores
    from medical_sam2.segmenter import Segmenter

    _say(f"{what}: one prompt on each of {len(split.held_out)} cases")
    segmenter = Segmenter(network, device=how.device)
    return scores(segmenter, dataset, split.held_out, how.prompts, seed=how.seed, on_case=_Counted())


def _recipe(network: "Sam2", pool: Path, run: Path, how: FinetuneOptions) -> "Recipe":
    """The recipe of the run in the folder if there is one, else the one that suits the network and the time."""
    from dataclasses import replace

    from medical_sam2.io import load_json
    from medical_sam2.train.config import Recipe, build_config
    from medical_sam2.train.finetune import choose_recipe, measure_steps
    from medical_sam2.train.loop import RECIPE

    if (run / RECIPE).is_file():
        return build_config(Recipe, load_json(run / RECIPE, newest=None))
    recipe = choose_recipe(network, how.weights, pool, seed=how.seed, steps=how.steps)
    if how.max_minutes is None:
        return recipe
    fit = measure_steps(network, recipe, run, how.max_minutes, how.device)
    phases = tuple(replace(phase, steps=fit) for phase in recipe.phases)
    return replace(recipe, phases=phases, warm_up=min(20, max(1, fit // 10)))


def _changed(recipe: "Recipe", settings: "Sequence[str]") -> "Recipe":
    from dataclasses import asdict

    from medical_sam2.train.config import Recipe, build_config, override_settings

    return build_config(Recipe, override_settings(asdict(recipe), settings)) if settings else recipe


def _trained(network: "Sam2", recipe: "Recipe", run: Path, how: FinetuneOptions) -> int:
    """Train in place; the averaged weights stay in the network. Returns the steps that were done."""
    from medical_sam2.cli._training import follow
    from medical_sam2.train.distributed import ProcessGroup
    from medical_sam2.train.loop import TrainingRun, load_average

    with ProcessGroup(how.device) as processes:
        training = TrainingRun(network, recipe, run, processes)
        if how.resume:
            training.resume()
        follow(training, how.max_minutes)
        load_average(training)
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
    return [*lines, "nothing became better on the held-out cases: keep the earlier weights"] if worse else lines


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

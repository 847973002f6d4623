"""`medsam2 train` and `medsam2 finetune`: run a recipe; teach a network a data set of yours and see whether that helped."""

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from cyclopts import Parameter

from medical_sam2.cli.options import FLAG
from medical_sam2.cli.report import print_note
from medical_sam2.data.data_sets import DataSet, read_data_set
from medical_sam2.errors import ConfigError
from medical_sam2.evaluate.held_out import Score, scores
from medical_sam2.io import load_json
from medical_sam2.io.atomic import write_bytes
from medical_sam2.model.nano import nano
from medical_sam2.model.sam2 import Sam2
from medical_sam2.model.weights import load_backbone, save_backbone
from medical_sam2.segmenter import Segmenter
from medical_sam2.train.checkpoint import NAME
from medical_sam2.train.config import Recipe, build_config, override_settings, read_recipe
from medical_sam2.train.distributed import ProcessGroup
from medical_sam2.train.finetune import CaseSplit, choose_recipe, measure_steps, prepare_cases, split_cases
from medical_sam2.train.loop import RECIPE, TrainingRun, load_average

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


def train(
    recipe: Path,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    settings: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    resume: Annotated[bool, FLAG] = False,
    max_minutes: float | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> int:
    """Train a network by a recipe, on one process, or on many started by `torchrun`.

    SIGTERM ends the run after the step in hand, as --max-minutes does: a checkpoint is written and --resume goes on from it,
    bit for bit.

    Args:
        recipe: TOML file, see `recipes/`.
        output: folder of the run: checkpoint, metrics.jsonl, pictures, curves, and the averaged weights.
        settings: key=value over the recipe; phases.0.steps=10 reaches into the first phase.
        resume: go on with the run that is in the folder.
        max_minutes: stop and save after so long.
        device: auto, cpu or cuda.
        threads: of the processor.
    """
    if threads:
        torch.set_num_threads(threads)
    parsed = read_recipe(recipe, settings)
    if not resume and (output / NAME).exists():
        raise ConfigError("a run is in this folder already", "add --resume to go on, or choose another one", subject=output)
    with ProcessGroup(device) as processes:
        torch.manual_seed(parsed.seed)
        training = TrainingRun(load_backbone(parsed.start) if parsed.start else nano(), parsed, output, processes)
        if resume:
            training.resume()
        _follow(training, max_minutes)
        network = load_average(training)
        if processes.first:
            save_backbone(network, output / "weights", dtype=torch.float16)
        del training, network
    return 0


def finetune(folder: Path, /, *, output: Annotated[Path, Parameter(alias="-o")], options: FinetuneOptions = AS_USUAL) -> int:
    """Fine-tune a network on an nnU-Net raw data set.

    Some cases are held out: one prompt on each of them shows the Dice before and after. OUTPUT is then a folder of weights
    (`medsam2 segment … --weights OUTPUT`), with the figures in report.json.

    Args:
        folder: nnU-Net raw data set.
        output: folder to write.
    """
    _check(output, options)
    if options.threads:
        torch.set_num_threads(options.threads)
    dataset = read_data_set(folder)
    split, network = _split(dataset, output, options), load_backbone(options.weights)
    print_note(f"{len(split.train)} cases to learn from, {len(split.held_out)} held out")
    pool = prepare_cases(dataset, split.train, output / "cases")
    recipe = _override(_choose_recipe(network, pool, output / "run", options), options.settings)
    before = _evaluate("before", network, dataset, split, options)
    began = time.monotonic()
    steps = _train(network, recipe, output / "run", options)
    minutes = (time.monotonic() - began) / 60
    save_backbone(network, output)
    dice = _table(before, _evaluate("after", network, dataset, split, options))
    facts = {"weights": options.weights, "data_set": dataset.name, "steps": steps, "minutes": round(minutes, 2), "dice": dice}
    _write(output / REPORT, {**facts, **_names(split)})
    for line in _lines(dice):
        print_note(line)
    return 0


def _check(output: Path, options: FinetuneOptions) -> None:
    if output.exists() and any(output.iterdir()) and not options.resume:
        raise ConfigError("the folder is not empty", "add --resume to go on, or choose another one", subject=output)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("several processes fine-tune by a recipe", "use medsam2 prepare, then torchrun with medsam2 train")


def _split(dataset: DataSet, output: Path, options: FinetuneOptions) -> CaseSplit:
    """The cases that are learnt from and those that judge; a run that goes on keeps its own."""
    if not (output / SPLIT).is_file():
        split = split_cases(dataset, options.held_out, options.seed, options.most)
        output.mkdir(parents=True, exist_ok=True)
        _write(output / SPLIT, _names(split))
        return split
    names, cases = load_json(output / SPLIT, newest=None), {case.identifier: case for case in dataset.cases}
    learnt, held_out = (tuple(cases[name] for name in names[part] if name in cases) for part in ("train", "held_out"))
    return CaseSplit(learnt, held_out)


def _names(split: CaseSplit) -> dict[str, Any]:
    return {part: [case.identifier for case in cases] for part, cases in vars(split).items()}


def _evaluate(what: str, network: Sam2, dataset: DataSet, split: CaseSplit, options: FinetuneOptions) -> list[Score]:
    print_note(f"{what}: one prompt on each of {len(split.held_out)} cases")
    segmenter = Segmenter(network, device=options.device)
    return scores(segmenter, dataset, split.held_out, options.prompts, seed=options.seed, on_case=_CaseCounter())


def _choose_recipe(network: Sam2, pool: Path, run: Path, options: FinetuneOptions) -> Recipe:
    """The recipe of the run in the folder if there is one, else the one that suits the network and the time."""
    if (run / RECIPE).is_file():
        return build_config(Recipe, load_json(run / RECIPE, newest=None))
    recipe = choose_recipe(network, options.weights, pool, seed=options.seed, steps=options.steps)
    if options.max_minutes is None:
        return recipe
    fit = measure_steps(network, recipe, run, options.max_minutes, options.device)
    phases = tuple(replace(phase, steps=fit) for phase in recipe.phases)
    return replace(recipe, phases=phases, warm_up=min(20, max(1, fit // 10)))


def _override(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    return build_config(Recipe, override_settings(asdict(recipe), settings)) if settings else recipe


def _train(network: Sam2, recipe: Recipe, run: Path, options: FinetuneOptions) -> int:
    """Train in place; the averaged weights stay in the network. Returns the steps that were done."""
    with ProcessGroup(options.device) as processes:
        training = TrainingRun(network, recipe, run, processes)
        if options.resume:
            training.resume()
        _follow(training, options.max_minutes)
        load_average(training)
        return training.step


def _table(before: Sequence[Score], after: Sequence[Score]) -> list[dict[str, Any]]:
    """Mean Dice for each structure and kind of prompt, and over all structures."""
    rows: list[dict[str, Any]] = []
    for kind in dict.fromkeys(score.prompt for score in before):
        for structure in (*dict.fromkeys(score.structure for score in before), None):
            values = [_mean(scores, kind, structure) for scores in (before, after)]
            rows.append({"structure": structure or "all", "prompt": kind, "before": values[0], "after": values[1]})
    return rows


def _mean(scores: Sequence[Score], kind: str, structure: str | None) -> float | None:
    own = [s.dice for s in scores if s.prompt == kind and structure in {None, s.structure} and s.dice == s.dice]
    return round(sum(own) / len(own), 4) if own else None


def _lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    every = [row for row in rows if row["structure"] == "all" and row["before"] is not None]
    lines = [f"{row['prompt']}: Dice {row['before']:.3f} before, {row['after']:.3f} after" for row in every]
    worse = all(row["after"] <= row["before"] for row in every) and bool(every)
    return [*lines, "nothing became better on the held-out cases: keep the earlier weights"] if worse else lines


def _write(path: Path, content: dict[str, Any]) -> None:
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())


class _CaseCounter:
    """Prints now and then how many cases are done."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._last > EVERY_S:
            self._last = time.monotonic()
            print_note(f"{done} of {total} cases")


def _follow(training: TrainingRun, max_minutes: float | None = None) -> None:
    """Run to the end, or for some minutes; a line now and then, with the time that is left."""
    printed, began, first = 0.0, time.monotonic(), training.step
    end = began + 60 * max_minutes if max_minutes else math.inf
    for last in training.run(max_minutes=max_minutes):
        now, steps = time.monotonic(), training.recipe.steps
        if not training.processes.first or (now - printed < EVERY_S and last.step < steps):
            continue
        printed = now
        left = min((steps - last.step) * (now - began) / (last.step - first), max(0.0, end - now))
        dices = [("prompted", last.dice_first), ("tracked", last.dice_tracked)]
        words = [f"{value:.3f} {name}" for name, value in dices if not math.isnan(value)]
        dice = f", Dice {', '.join(words)}" if words else ""
        print_note(f"step {last.step} of {steps}: loss {last.loss:.3f}{dice}, {clock(left)} left")


def clock(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds.

    >>> clock(42), clock(125), clock(7300)
    ('42 s', '2 min 5 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

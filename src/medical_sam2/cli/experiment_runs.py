"""What `medsam2 train`, `medsam2 finetune` and `medsam2 evaluate` do, once their options are known: it loads torch."""

import json
import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from medical_sam2.cli import network, plain
from medical_sam2.cli.experiments import EvaluationOptions, FinetuneOptions
from medical_sam2.cli.options import InferenceOptions
from medical_sam2.cli.report import EVERY_S, Progress, print_note
from medical_sam2.data.data_sets import DataSet, read_data_set
from medical_sam2.data.prepare import CaseSplit, prepare_cases, split_cases
from medical_sam2.data.prepare.units import stamp
from medical_sam2.errors import ConfigError, MedicalSam2Error, list_first, say_count
from medical_sam2.evaluate.methods import find_method
from medical_sam2.evaluate.protocols import BEYOND_PAPER, PRESETS, PROTOCOLS, find_protocol
from medical_sam2.evaluate.report import write_report
from medical_sam2.evaluate.run import Score, run_studies, score_held_out
from medical_sam2.evaluate.study import EvaluationProgress, NetworkSettings, Study, StudyResult, open_data_set
from medical_sam2.io import load_json
from medical_sam2.io.atomic import write_bytes
from medical_sam2.model.device import choose_device
from medical_sam2.model.image_encoders import insert_trainable
from medical_sam2.model.nano import nano
from medical_sam2.model.sam2 import Sam2
from medical_sam2.model.weights import load_backbone, save_backbone
from medical_sam2.segmenter import Segmenter
from medical_sam2.train.config import Recipe, build_config, choose_recipe, freeze_others, override_settings, read_recipe
from medical_sam2.train.distributed import ProcessGroup
from medical_sam2.train.loop import NAME, TrainingRun, check_resumed, load_average, measure_steps, read_begun

REPORT, SPLIT, BEFORE = "report.json", "split.json", "before.json"


def run_recipe(
    recipe: Path,
    output: Path,
    settings: Sequence[str],
    *,
    resume: bool,
    max_minutes: float | None,
    device: str,
    threads: int | None,
) -> None:
    """Train by a recipe; see `medical_sam2.cli.experiments.train`."""
    if threads:
        torch.set_num_threads(threads)
    check_minutes(max_minutes)
    parsed = read_recipe(recipe, settings)
    if not resume and (output / NAME).exists():
        raise ConfigError("a run is in this folder already", "add --resume to go on, or choose another one", subject=output)
    with ProcessGroup(device) as processes:
        if resume and _is_finished(parsed, output, output / "weights", print_it=processes.first):
            return
        torch.manual_seed(parsed.seed)
        training = TrainingRun(load_backbone(parsed.start) if parsed.start else nano(), parsed, output, processes)
        if resume:
            training.resume()
        _follow(training, max_minutes)
        network = load_average(training)
        if processes.first:
            save_backbone(network, output / "weights", dtype=torch.float16)
        stopped = _is_stopped(training)
        del training, network
    if stopped:
        raise KeyboardInterrupt


def check_minutes(minutes: float | None) -> None:
    """Refuse minutes in which nothing is learnt; raises ConfigError."""
    if minutes is not None and not 0 < minutes < math.inf:
        raise ConfigError(f"{minutes:g} minutes leave nothing to learn", "give more than 0", subject="--max-minutes")


def _is_finished(recipe: Recipe, run: Path, outcome: Path, *, print_it: bool = True) -> bool:
    """Whether all steps of a run are done, and its outcome, a file or a folder of files, was written after; a line says so."""
    if check_resumed(recipe, run) < recipe.steps:
        return False
    written = [path.stat().st_mtime_ns for path in (outcome, *outcome.glob("*")) if path.is_file()]
    if not written or min(written) < (run / NAME).stat().st_mtime_ns:
        return False
    if print_it:
        print_note(f"{run}: this run is finished, all {recipe.steps} steps of it; nothing was changed")
    return True


def finetune_network(folder: Path, output: Path, options: FinetuneOptions) -> None:
    """Fine-tune on a data set, and judge; see `medical_sam2.cli.experiments.finetune`."""
    if options.threads:
        torch.set_num_threads(options.threads)
    check_minutes(options.max_minutes)
    for name, given in (("steps", options.steps), ("most", options.most)):
        if given is not None and given < 1:
            raise ConfigError(f"{given} leaves nothing to learn", "give 1 or more", subject=f"--{name}")
    if not 0 <= options.seed < 2**32:
        raise ConfigError(f"{options.seed} begins no random numbers", "give 0 to 4294967295", subject="--seed")
    choose_device(options.device)  # of which nothing is kept: it is refused before anything is prepared
    dataset = read_data_set(folder)
    begun = _go_on(output, dataset, options) if options.resume and (output / "run" / NAME).exists() else None
    if begun is not None and _is_finished(begun, output / "run", output / REPORT):
        return
    start, options = (begun.start, replace(options, seed=begun.seed)) if begun else (options.weights, options)
    network = load_backbone(start)
    if begun is None:
        _check_settings(network, output, options)
    split = _split(dataset, output, options)
    print_note(f"{say_count(len(split.train), 'case')} to learn from, {len(split.held_out)} held out")
    pool = prepare_cases(dataset, split.train, output / "cases")
    recipe = begun or _override(_choose_recipe(network, pool, output / "run", options), options.settings)
    before = _judge_before(network, dataset, split, start, output / BEFORE, options)
    began = time.monotonic()
    steps = _train(network, recipe, output / "run", options)
    minutes = (time.monotonic() - began) / 60
    save_backbone(network, output)
    dice = _table(before, _evaluate("after", network, dataset, split, options))
    facts = {"weights": recipe.start, "data_set": dataset.name, "steps": steps, "minutes": round(minutes, 2), "dice": dice}
    _write(output / REPORT, {**facts, **_names(split)})
    for line in _lines(dice):
        print_note(line)


# A long preparation must not end with a setting that is none.
def _check_settings(network: Sam2, output: Path, options: FinetuneOptions) -> None:
    """Refuse settings that the recipe, or the network, does not have."""
    usual = choose_recipe(network, options.weights, output, seed=options.seed, steps=options.steps)
    recipe = _override(usual, options.settings)
    if recipe.adapter != "none" or recipe.parts:
        tried = deepcopy(network)
        insert_trainable(tried, recipe.adapter, recipe.rank)
        freeze_others(tried, recipe.parts)


# What is not said again stays as it was; what is said otherwise would have no effect, or not the one that was meant.
def _go_on(output: Path, dataset: DataSet, options: FinetuneOptions) -> Recipe:
    """The recipe of the run in the folder, with the settings that may change.

    Raises:
        ConfigError: the options say otherwise than the run was begun with.
    """
    begun, usual = read_begun(output / "run"), FinetuneOptions()
    named = {"start": options.weights != usual.weights, "seed": options.seed != usual.seed}
    asked = {"start": options.weights, "seed": options.seed}
    recipe = replace(begun, **{name: asked[name] for name, given in named.items() if given})
    if options.steps != usual.steps and options.max_minutes is None:
        recipe = replace(recipe, phases=tuple(replace(phase, steps=options.steps) for phase in recipe.phases))
    recipe = _override(recipe, options.settings)
    check_resumed(recipe, output / "run")
    if (options.held_out, options.most) != (usual.held_out, usual.most) and (output / SPLIT).is_file():
        given, kept = (
            _names(each)
            for each in (split_cases(dataset, options.held_out, begun.seed, options.most), _split(dataset, output, options))
        )
        if given != kept:
            problem = "--held-out and --most give other cases than this run was begun with"
            raise ConfigError(problem, "leave them out, or begin another run in a new folder", subject=output)
    return recipe


def _split(dataset: DataSet, output: Path, options: FinetuneOptions) -> CaseSplit:
    """The cases that are learnt from and those that judge; a run that goes on keeps its own."""
    if not (options.resume and (output / SPLIT).is_file()):
        split = split_cases(dataset, options.held_out, options.seed, options.most)
        output.mkdir(parents=True, exist_ok=True)
        _write(output / SPLIT, _names(split))
        for names in split.alike:
            print_note(plain(f"{list_first(names)} have the same image: they lie on one side of the split"))
        return split
    names, cases = load_json(output / SPLIT, newest=None), {case.identifier: case for case in dataset.cases}
    learnt, held_out = (tuple(cases[name] for name in names[part] if name in cases) for part in ("train", "held_out"))
    return CaseSplit(learnt, held_out)


def _names(split: CaseSplit) -> dict[str, Any]:
    return {part: [case.identifier for case in cases] for part, cases in (("train", split.train), ("held_out", split.held_out))}


def _judge_before(
    backbone: Sam2, dataset: DataSet, split: CaseSplit, start: str, kept: Path, options: FinetuneOptions
) -> list[Score]:
    """How good the network is before it learns; a run that goes on finds that in its folder, if it was judged likewise."""
    judges = [[case.identifier, stamp(case)] for case in split.held_out]
    weights = network.weights_digest(start)
    how = {"weights": weights, "prompts": list(options.prompts), "seed": options.seed, "judges": judges}
    with suppress(MedicalSam2Error, OSError, KeyError, TypeError):
        content = load_json(kept, newest=None)
        if {name: content[name] for name in how} == how:
            rows: list[dict[str, Any]] = content["scores"]
            return [Score(r["case"], r["structure"], r["prompt"], math.nan if r["dice"] is None else r["dice"]) for r in rows]
    scores = _evaluate("before", backbone, dataset, split, options)
    finite = [{**asdict(score), "dice": None if math.isnan(score.dice) else score.dice} for score in scores]
    _write(kept, {**how, "scores": finite})
    return scores


def _evaluate(what: str, network: Sam2, dataset: DataSet, split: CaseSplit, options: FinetuneOptions) -> list[Score]:
    if not split.held_out:
        return []
    print_note(f"{what}: one prompt on each of {say_count(len(split.held_out), 'case')}")
    segmenter = Segmenter(network, device=options.device)
    return score_held_out(segmenter, dataset, split.held_out, options.prompts, seed=options.seed, on_answer=_AnswerCounter())


def _choose_recipe(network: Sam2, pool: Path, run: Path, options: FinetuneOptions) -> Recipe:
    """The recipe that suits the network and the time."""
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
        steps, stopped = training.step, _is_stopped(training)
    if stopped:  # nothing is judged, for it is not what was asked for
        raise KeyboardInterrupt
    return steps


def _is_stopped(training: TrainingRun) -> bool:
    """Whether SIGTERM came before the last step was done; all is written, so that the run can go on."""
    return training.stopped and training.step < training.recipe.steps


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


class _AnswerCounter:
    """Prints now and then how many answers are there."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._last > EVERY_S:
            self._last = time.monotonic()
            print_note(f"{done} of {say_count(total, 'answer')}")


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


def measure_studies(
    data: tuple[Path, ...], output: Path, protocols: tuple[str, ...], options: EvaluationOptions, *, quiet: bool
) -> list[dict[str, Any]]:
    """Run the studies of the protocols and write their reports; what there is to tell of each, see `_describe_study`."""
    studies = choose_studies(data, protocols, options)
    folders = [output / study.protocol.name for study in studies]
    with Progress(quiet=quiet) as progress:

        def report(done: EvaluationProgress) -> None:
            if done.done:
                progress.update(plain(done.what), done.done, done.total, "answers", done.share)
            elif not quiet:
                print_note(f"{say_count(done.total, 'answer')} to make")

        outcomes = run_studies(studies, folders, workers=options.processes, on_done=report)
    if find_spec("matplotlib") is None:
        print_note("no figures: matplotlib is missing; pip install 'medical-sam2[evaluate]'")
    write_report(studies, outcomes, output, options.chosen)
    return [_describe_study(*each) for each in zip(studies, outcomes, folders, strict=True)]


# Hours lie behind this: names, numbers and data sets are refused before the first answer is made.
def choose_studies(data: tuple[Path, ...], names: tuple[str, ...], options: EvaluationOptions) -> list[Study]:
    """All that can be refused is refused before the first is run."""
    limits = ("cases", "images", "structures", "seeds")
    for name in (*limits, "workers", "threads", "limit"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise ConfigError(f"--{name} {value} leaves nothing", "give 1 or more")
    threads = options.threads or max(1, (os.cpu_count() or 1) // options.processes)
    given = {name: value for name in (*limits, "image_size") if (value := getattr(options, name)) is not None}
    preset = replace(PRESETS[options.chosen], **given)
    paper = tuple(name for name in PROTOCOLS if name not in BEYOND_PAPER)
    asked = paper if names == ("all",) else names
    chosen = [find_protocol(name, preset=preset, views=options.views, methods=options.methods) for name in asked]
    chosen = [replace(each, limit_s=options.limit) for each in chosen]
    for name in dict.fromkeys(method for each in chosen for method in each.methods):
        find_method(name)
    network.check_settings(InferenceOptions(views=options.views or "one", threads=threads))
    sets = sum(open_data_set(folder).kind == "set" for folder in data)
    for each in chosen:
        if sets < 2 and all(condition.distractors is not None for condition in each.conditions):
            there = "one set of images alone" if sets else "no set of images"
            problem = f"{each.name} mixes images of one set into another one, and --data names {there}"
            raise ConfigError(problem, "give two or more", subject="--protocol")
    settings = NetworkSettings(options.weights, options.device, options.precision, preset.image_size, threads)
    digest = network.weights_digest(options.weights)
    return [
        Study(each, data, settings, digest, preset.cases, preset.slices, preset.images, preset.structures, draws=place == 0)
        for place, each in enumerate(chosen)
    ]


def _describe_study(study: Study, outcome: StudyResult, folder: Path) -> dict[str, Any]:
    """What a person reads at the end, on standard error; and the same for a program."""
    for case, reason in outcome.skipped.items():
        print_note(plain(f"left out: {case}: {reason}"))
    for case, error in outcome.failed.items():
        print_note(plain(f"failed: {case}: {error}; run it again, and report it if it stays"))
    for case, error in outcome.faults.items():
        print_note(plain(f"failed: {case}: {error}, and run it again"))
    answers = sum(not row.skipped for row in outcome.rows)
    fresh = say_count(outcome.fresh, "answer", "were")  # of which each gives rows
    print_note(plain(f"{folder}: {say_count(answers, 'row')}; {fresh} made now; see tables.md"))
    return {
        "protocol": study.protocol.described(),
        "sha256": study.protocol.digest,
        "output": str(folder),
        "answers": answers,
        "fresh": outcome.fresh,
        "skipped": dict(outcome.skipped),
        "failed": dict(outcome.failed),
        "faults": dict(outcome.faults),
    }

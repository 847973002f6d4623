"""`medsam2 train`, `finetune` and `evaluate`: run a recipe; teach a network a data set of yours; measure as the paper does.

Their work is `experiment_runs`, which loads torch.
"""

import json as json_format
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from medical_sam2.cli import DEFECT
from medical_sam2.cli.options import FLAG
from medical_sam2.errors import ConfigError, InputError

Prompted = Literal["mask", "box", "click"]
DATASET = "dataset.json"
BEFORE_TRAINING = ("split.json", "cases", "before.json", "run")
"""What `finetune` leaves before anything was learnt: a run that failed by then begins again."""


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
        max_minutes: for the training; preparing the cases and judging before and after it come on top.
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
    bit for bit; the exit code is 130 then.

    Args:
        recipe: TOML file, see `recipes/`.
        output: folder of the run: checkpoint, metrics.jsonl, pictures, curves, and the averaged weights.
        settings: key=value over the recipe; phases.0.steps=10 reaches into the first phase.
        resume: go on with the run that is in the folder.
        max_minutes: stop and save after so long.
        device: auto, cpu or cuda.
        threads: of the processor.
    """
    from medical_sam2.cli import experiment_runs  # torch takes seconds to load: not for --help

    experiment_runs.run_recipe(recipe, output, settings, resume=resume, max_minutes=max_minutes, device=device, threads=threads)
    return 0


def finetune(
    folder: Path, /, *, output: Annotated[Path, Parameter(alias="-o")], options: FinetuneOptions = FinetuneOptions()
) -> int:
    """Fine-tune a network on an nnU-Net raw data set.

    Some cases are held out: one prompt on each of them shows the Dice before and after. OUTPUT is then a folder of weights
    (`medsam2 segment … --weights OUTPUT`), with the figures in report.json.

    Args:
        folder: nnU-Net raw data set.
        output: folder to write.
    """
    _check_folder(output, options)
    from medical_sam2.cli import (
        experiment_runs,  # torch takes seconds to load: not for --help, nor for a folder that is not empty
    )

    experiment_runs.finetune_network(folder, output, options)
    return 0


def _check_folder(output: Path, options: FinetuneOptions) -> None:
    there = {path.name for path in output.iterdir()} if output.exists() else set[str]()
    nothing_trained = there <= set(BEFORE_TRAINING) and not any((output / "run").glob("*.safetensors"))
    if not (nothing_trained or options.resume):
        raise ConfigError("the folder is not empty", "add --resume to go on, or choose another one", subject=output)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("several processes fine-tune by a recipe", "use medsam2 prepare, then torchrun with medsam2 train")


@Parameter(name="*")
@dataclass(frozen=True)
class EvaluationOptions:
    """What answers, how much is measured, and on what machine.

    Args:
        weights: a name (`medsam2 weights list`), a file, a folder, or an id on the Hugging Face hub.
        methods: other ones than the protocol's; the first is compared with the others; again for more. A name, a plug-in, or
            another program: "LABEL=PROGRAM {image} {prompts} {output}".
        views: of volumes, other than the protocol's: one, three, six, auto, axial, coronal or sagittal.
        preset: how much: full; study, an hour of two cores for some twenty data sets; quick, minutes. See the documentation.
        quick: the same as --preset quick.
        cases: volumes of each data set, spread over its list; other than the preset's.
        images: of each set of images, spread over its list; other than the preset's.
        structures: of each data set, spread over its list; other than the preset's.
        seeds: of each protocol; other than the preset's.
        limit: seconds that another program may take for one answer.
        workers: processes; as many as the processor has cores where a preset other than full is chosen, else one.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32 or bf16.
        image_size: side of the network's input in pixels; that of the preset, or of the weights, unless given.
        threads: of the processor, of each process.
    """

    weights: str = "nano"
    methods: Annotated[tuple[str, ...], Parameter(name="--method", negative="")] = ()
    views: str | None = None
    preset: Literal["full", "study", "quick"] = "full"
    quick: Annotated[bool, FLAG] = False
    cases: int | None = None
    images: int | None = None
    structures: int | None = None
    seeds: int | None = None
    limit: float = 600.0
    workers: int | None = None
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    image_size: int | None = None
    threads: int | None = None

    @property
    def chosen(self) -> str:
        """Name of the preset."""
        return "quick" if self.quick else self.preset

    @property
    def processes(self) -> int:
        """That work beside each other."""
        return self.workers or (1 if self.chosen == "full" else os.cpu_count() or 1)


def evaluate(
    *,
    data: Annotated[tuple[Path, ...], Parameter(consume_multiple=True, negative="")],
    output: Annotated[Path, Parameter(alias="-o")],
    protocols: Annotated[tuple[str, ...], Parameter(name="--protocol", consume_multiple=True, negative="")] = ("all",),
    options: EvaluationOptions = EvaluationOptions(),
    json: Annotated[bool, FLAG] = False,
    quiet: Annotated[bool, FLAG] = False,
) -> int:
    """Measure a network by the paper's protocols; what was measured before stays, and a run that was stopped goes on.

    What cannot be measured is named, and why; that alone is no error. OUTPUT/PROTOCOL holds the description (protocol.json),
    the rows (rows.csv, rows.json), the tables (tables.md, tables.tex) and figures; OUTPUT/report.html holds all of it.

    Args:
        data: folders of nnU-Net raw data sets, or folders that hold some.
        output: folder to write.
        protocols: universal, one-prompt, frequency, ablation, memory, noise, or all of these (the paper's); prompt-kinds,
            challenge, clicks, distractors; a plug-in; several.
        json: print one JSON object.
        quiet: show no progress.
    """
    from medical_sam2.cli import experiment_runs  # torch takes seconds to load: not for --help

    facts = experiment_runs.measure_studies(_data_sets(data), output, protocols, options, quiet=quiet)
    if json:
        print(json_format.dumps({"studies": facts}, ensure_ascii=False))
    if any(each["failed"] for each in facts):
        return DEFECT
    measured = all(each["answers"] and not each["faults"] for each in facts)
    return 0 if measured else InputError.exit_code


def _data_sets(folders: tuple[Path, ...]) -> tuple[Path, ...]:
    """Those that are given, and those that lie in a folder that is none itself."""
    found: dict[Path, None] = {}
    for folder in folders:
        inside = [] if (folder / DATASET).exists() else sorted(path.parent for path in folder.glob(f"*/{DATASET}"))
        found |= dict.fromkeys(inside or [folder])
    return tuple(found)

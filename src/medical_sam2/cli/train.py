"""`medsam2 train` and `medsam2 finetune`: run a recipe; teach a network a data set of yours and see whether that helped."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from medical_sam2.cli.options import FLAG
from medical_sam2.errors import ConfigError

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
    from medical_sam2.cli import experiments  # torch takes seconds to load: not for --help

    experiments.run_recipe(recipe, output, settings, resume=resume, max_minutes=max_minutes, device=device, threads=threads)
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
    from medical_sam2.cli import experiments  # torch takes seconds to load: not for --help, nor for a folder that is not empty

    experiments.finetune_network(folder, output, options)
    return 0


def _check(output: Path, options: FinetuneOptions) -> None:
    if output.exists() and any(output.iterdir()) and not options.resume:
        raise ConfigError("the folder is not empty", "add --resume to go on, or choose another one", subject=output)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("several processes fine-tune by a recipe", "use medsam2 prepare, then torchrun with medsam2 train")

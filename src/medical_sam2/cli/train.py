"""`medsam2 train`: run a recipe, stop at any time, go on where it stopped."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medical_sam2.cli._options import FLAG


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
    import torch

    from medical_sam2.cli._training import follow
    from medical_sam2.errors import ConfigError
    from medical_sam2.model.nano import Nano, nano, with_coarse_classifier
    from medical_sam2.model.weights import load_backbone, save_backbone
    from medical_sam2.train.config import read_recipe
    from medical_sam2.train.distributed import ProcessGroup
    from medical_sam2.train.loop import NAME, TrainingRun, load_average

    if threads:
        torch.set_num_threads(threads)
    told = read_recipe(recipe, settings)
    if not resume and (output / NAME).exists():
        raise ConfigError("a run is in this folder already", "add --resume to go on, or choose another one", subject=output)
    with ProcessGroup(device) as processes:
        torch.manual_seed(told.seed)
        network = load_backbone(told.start) if told.start else nano()
        if told.coarse_classifier:
            if not isinstance(network, Nano):
                raise ConfigError("only nano has a coarse classifier", "leave it out", subject="coarse_classifier")
            network = with_coarse_classifier(network)
        training = TrainingRun(network, told, output, processes)
        if resume:
            training.resume()
        follow(training, max_minutes)
        network = load_average(training)
        if processes.first:
            save_backbone(network, output / "weights", dtype=torch.float16)
        del training, network
    return 0

"""`medsam2 train`: run a recipe, stop at any time, go on where it stopped."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def train(
    recipe: Path,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    settings: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    max_minutes: float | None = None,
    threads: int | None = None,
) -> None:
    """Train a network by a recipe; a run that is already in the folder goes on bit for bit.

    Args:
        recipe: TOML file, see `recipes/`.
        output: folder of the run: checkpoint, metrics.jsonl and the averaged weights.
        settings: key=value over the recipe.
        max_minutes: stop and save after so long.
        threads: of the processor.
    """
    import torch

    from medical_sam2.model.nano import nano
    from medical_sam2.model.weights import load_backbone, save_backbone
    from medical_sam2.train.config import read_recipe
    from medical_sam2.train.loop import Training, averaged

    if threads:
        torch.set_num_threads(threads)
    told = read_recipe(recipe, settings)
    torch.manual_seed(told.seed)
    training = Training(load_backbone(told.start) if told.start else nano(), told, output)
    training.resume()
    for done in training.run(max_minutes=max_minutes):
        if done.step % 20 == 0:
            scores = f"Dice {done.dice_first:.3f} prompted, {done.dice_tracked:.3f} tracked"
            left = (told.steps - done.step) * done.seconds / 60
            sys.stderr.write(f"step {done.step}/{told.steps}  loss {done.loss:.3f}  {scores}  {left:.0f} min left\n")
    save_backbone(averaged(training), output / "weights", dtype=torch.float16)

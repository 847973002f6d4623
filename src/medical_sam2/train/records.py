"""What a run leaves behind beside its weights: metrics.jsonl always, TensorBoard where it is installed; and validation clips.

Shapes: T frames, B objects, S network size, h w mask logits.
"""

import json
import math
import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from medical_sam2.data.cases import CaseReader
from medical_sam2.data.clips import Clip, ClipSampler
from medical_sam2.io.atomic import write_bytes, writing
from medical_sam2.model.sam2 import Sam2
from medical_sam2.model.tracker import upsample
from medical_sam2.preview.drawing import paint
from medical_sam2.train.config import Recipe
from medical_sam2.train.distributed import local_part
from medical_sam2.train.train_step import Batch, StepPlan, StepResult

METRICS, CURVES = "metrics.jsonl", "tensorboard"
CLIPS, HELD_OUT = 4, 1 << 24
TRUTH, PREDICTED = (90, 220, 90), (255, 150, 40)
SIDE_PX = 128


@dataclass(frozen=True)
class StepReport:
    """One step as it is reported."""

    step: int  # how many are done
    loss: float  # of the whole step
    dice_first: float  # mean Dice on prompted frames; nan where all were outlined
    dice_tracked: float  # mean Dice on tracked frames; nan where there were none
    seconds: float  # that the step took, waiting for clips included
    rate: float  # the learning rate
    norm: float  # of the gradient before it was limited


class RunRecords:
    """Curves of a run. Rows that a killed run wrote after its last checkpoint are dropped, so that each step has one; the
    others are on the disk at any time.

    Args:
        step: that the run goes on from.
        write: whether this process is the one that writes.
    """

    def __init__(self, folder: Path, step: int, *, write: bool = True) -> None:
        self._stack, self._file, self._board = ExitStack(), None, None
        if not write:
            return
        path = folder / METRICS
        if path.exists():
            kept = [row for row in path.read_text().splitlines() if _is_before(row, step)]
            write_bytes(path, "".join(f"{row}\n" for row in kept).encode())
        self._file = self._stack.enter_context(path.open("a"))
        self._board = _open_tensorboard(folder / CURVES, step)
        if self._board is not None:
            self._stack.callback(self._board.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, report: StepReport) -> None:
        """A step."""
        self._row(vars(report))

    def add_validation(self, step: int, dice: float, picture: Image.Image | None) -> None:
        """Scores and picture of the validation clips."""
        self._row({"step": step, "validation_dice": dice})
        if self._board is not None and picture is not None:
            self._board.add_image("validation", np.asarray(picture), step, dataformats="HWC")

    def _row(self, values: dict[str, Any]) -> None:
        if self._file is None:
            return
        finite = {key: value for key, value in values.items() if not (isinstance(value, float) and math.isnan(value))}
        self._file.write(json.dumps(finite) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._board is not None:
            for key, value in finite.items():
                if key != "step":
                    self._board.add_scalar(key, value, values["step"])


def _is_before(row: str, step: int) -> bool:
    try:
        return int(json.loads(row)["step"]) <= step
    except (ValueError, KeyError, TypeError):
        return False  # half a line, of a run that was killed


def _open_tensorboard(folder: Path, step: int) -> Any:
    """A writer for TensorBoard; None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


class Validation:
    """Clips that stay the same through the run, prompted alike each time.

    Args:
        folder: of the run; pictures go to its `pictures`.
        reader: of the recipe's validation cases; or of those that are trained on, for other clips of them.
        write: whether this process writes the pictures.
    """

    def __init__(self, recipe: Recipe, folder: Path, reader: CaseReader, *, write: bool = True) -> None:
        self.recipe, self.folder, self.write = recipe, folder / "pictures", write
        phase = recipe.phases[-1]
        sampler = ClipSampler(reader, recipe.seed + HELD_OUT, recipe.sets, regions=recipe.regions)
        clips = sampler.batch(
            0, range(CLIPS), frames=phase.frames, objects=1, size=phase.size, smallest=max(phase.smallest, 0.005)
        )
        self.batch = Batch(HELD_OUT, tuple(range(CLIPS)), clips)
        self.plan = replace(StepPlan.draw(recipe, HELD_OUT, phase.frames), kind="mask" if phase.frames > 1 else "box")
        self.plan = replace(self.plan, corrected=frozenset())

    @torch.no_grad()
    def run(
        self, train_step: nn.Module, network: Sam2, average: dict[str, Tensor], step: int
    ) -> tuple[float, Image.Image | None]:
        """Track the clips with the averaged weights, and draw them.

        Args:
            train_step: as all processes train it; every process at once.
            network: inside of it.
            average: its averaged weights.
            step: in the name of the picture.

        Returns:
            Mean Dice on tracked frames (on prompted ones where clips have one frame); a picture, a row for each clip: the truth
            outlined in green, the prediction in orange.
        """
        network.eval()
        weights = {name: local_part(value).clone() for name, value in network.state_dict().items()}
        _load_weights(network, average)
        try:
            result: StepResult = train_step(self.batch, 1.0, 1.0, plan=self.plan, keep_masks=True)
        finally:
            _load_weights(network, weights)
        total, count = result.dice[2:] if result.dice[3] else result.dice[:2]
        picture = _draw_clips(self.batch.clips, result.masks_TBhw) if result.masks_TBhw is not None else None
        if picture is not None and self.write:
            self.folder.mkdir(exist_ok=True)
            with writing(self.folder / f"{step:07d}.png") as stream:
                picture.save(stream, "PNG")
        return total / count if count else float("nan"), picture


def _load_weights(network: Sam2, weights: dict[str, Tensor]) -> None:
    for name, value in network.state_dict().items():
        local_part(value).copy_(local_part(weights[name]))


def _draw_clips(clips: list[Clip], masks_TBhw: Tensor) -> Image.Image:
    size = clips[0].frames_T3SS.shape[-1]
    frames = len(masks_TBhw)
    sheet = Image.new("RGB", (frames * (SIDE_PX + 2), len(clips) * (SIDE_PX + 2)))
    for t in range(frames):
        found = upsample(masks_TBhw[t], size).cpu().numpy() > 0
        for row, clip in enumerate(clips):
            cell = _draw_cell(clip.frames_T3SS[t].numpy(), clip.truth_OTSS[0, t].numpy(), found[row])
            sheet.paste(cell, (t * (SIDE_PX + 2), row * (SIDE_PX + 2)))
    return sheet


def _draw_cell(frame_3SS: NDArray[np.float32], truth: NDArray[np.bool_], found: NDArray[np.bool_]) -> Image.Image:
    pixels = (frame_3SS.transpose(1, 2, 0).clip(0, 1) * 255).astype(np.uint8)
    cell = Image.fromarray(pixels).resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)
    for mask, colour, fill in ((found, PREDICTED, 0.3), (truth, TRUTH, 0.0)):
        paint(cell, mask, colour, fill=fill)
    return cell

"""A look at the run now and then: clips that it does not learn from, tracked with the averaged weights, as a picture.

Shapes: T frames, B objects, S network size, h w mask logits.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from medical_sam2.data.cases import CaseReader, read_pool
from medical_sam2.data.clips import Clip, ClipSampler
from medical_sam2.io.atomic import writing
from medical_sam2.model.sam2 import Sam2
from medical_sam2.model.tracker import upsampled
from medical_sam2.preview.drawing import paint
from medical_sam2.train.config import Recipe
from medical_sam2.train.lesson import Batch, Lesson
from medical_sam2.train.processes import local
from medical_sam2.train.pupil import Plan

CLIPS, HELD_OUT = 4, 1 << 24
TRUTH, FOUND = (90, 220, 90), (255, 150, 40)
SIDE_PX = 128


@dataclass(frozen=True)
class Look:
    """What was seen.

    Args:
        dice: mean on tracked frames (on prompted ones where clips have one frame).
        picture: a row for each clip; the truth outlined in green, what was found in orange.
    """

    dice: float
    picture: Image.Image | None


class Validation:
    """Clips that stay the same through the run, prompted alike each time.

    Args:
        recipe: the run.
        folder: of the run; pictures go to its `pictures`.
        reader: of the cases that are trained on, for other clips of them where the recipe names no validation cases.
        write: whether this process writes the pictures.
    """

    def __init__(self, recipe: Recipe, folder: Path, reader: CaseReader, *, write: bool = True) -> None:
        self.recipe, self.folder, self.write = recipe, folder / "pictures", write
        reader = read_pool(Path(recipe.validation)) if recipe.validation else reader
        phase = recipe.phases[-1]
        sampler = ClipSampler(reader, recipe.seed + HELD_OUT, recipe.sets, regions=recipe.regions)
        clips = sampler.batch(
            0, range(CLIPS), frames=phase.frames, objects=1, size=phase.size, smallest=max(phase.smallest, 0.005)
        )
        self.batch = Batch(HELD_OUT, tuple(range(CLIPS)), clips)
        self.plan = replace(Plan.draw(recipe, HELD_OUT, phase.frames), kind="mask" if phase.frames > 1 else "box")
        self.plan = replace(self.plan, corrected=frozenset())

    @torch.no_grad()
    def look(self, teacher: nn.Module, network: Sam2, average: dict[str, Tensor], step: int) -> Look:
        """Track the clips with the averaged weights, and draw them.

        Args:
            teacher: as all processes train it; every process looks at once.
            network: inside of it.
            average: its averaged weights.
            step: in the name of the picture.
        """
        network.eval()
        weights = {name: local(value).clone() for name, value in network.state_dict().items()}
        _load(network, average)
        try:
            lesson: Lesson = teacher(self.batch, 1.0, 1.0, plan=self.plan, looked_at=True)
        finally:
            _load(network, weights)
        total, count = lesson.dice[2:] if lesson.dice[3] else lesson.dice[:2]
        picture = _picture(self.batch.clips, lesson.masks_TBhw) if lesson.masks_TBhw is not None else None
        if picture is not None and self.write:
            self._save(picture, step)
        return Look(total / count if count else float("nan"), picture)

    def _save(self, picture: Image.Image, step: int) -> None:
        self.folder.mkdir(exist_ok=True)
        with writing(self.folder / f"{step:07d}.png") as stream:
            picture.save(stream, "PNG")


def _load(network: Sam2, weights: dict[str, Tensor]) -> None:
    for name, value in network.state_dict().items():
        local(value).copy_(local(weights[name]))


def _picture(clips: list[Clip], masks_TBhw: Tensor) -> Image.Image:
    """A row for each clip, a column for each frame."""
    size = clips[0].frames_T3SS.shape[-1]
    frames = len(masks_TBhw)
    sheet = Image.new("RGB", (frames * (SIDE_PX + 2), len(clips) * (SIDE_PX + 2)))
    for t in range(frames):
        found = upsampled(masks_TBhw[t], size).cpu().numpy() > 0
        for row, clip in enumerate(clips):
            cell = _cell(clip.frames_T3SS[t].numpy(), clip.truth_OTSS[0, t].numpy(), found[row])
            sheet.paste(cell, (t * (SIDE_PX + 2), row * (SIDE_PX + 2)))
    return sheet


def _cell(frame_3SS: NDArray[np.float32], truth: NDArray[np.bool_], found: NDArray[np.bool_]) -> Image.Image:
    pixels = (frame_3SS.transpose(1, 2, 0).clip(0, 1) * 255).astype(np.uint8)
    cell = Image.fromarray(pixels).resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)
    for mask, colour, fill in ((found, FOUND, 0.3), (truth, TRUTH, 0.0)):
        paint(cell, mask, colour, fill=fill)
    return cell

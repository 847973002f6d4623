"""A picture of an answer, kept for the qualitative figure (the paper's Figs. 3 and 4): one frame that nobody prompted."""

from io import BytesIO
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image

from medical_sam2.evaluate.job import Job
from medical_sam2.evaluate.methods.method import Found, Said
from medical_sam2.evaluate.scene import Scene
from medical_sam2.io.atomic import write_bytes
from medical_sam2.preview.drawing import PreviewCrop, tile
from medical_sam2.prompts import FramePrompt
from medical_sam2.tracking.region_of_interest import Canvas, box_of

SIDE = 220  # pixels of the picture
ANSWER = 1
COLOURS = {ANSWER: (255, 176, 0)}
MARGIN = 2.2  # side of what is shown over the longer side of the structure


def draw(job: Job, shown: Scene, said: Said, found: Found) -> None:
    """Leave the picture in the folder of the job: the answer in orange, the truth as a white line.

    The frame is the one with the largest cross-section among those that nobody prompted: the same for all methods.
    """
    areas = {t: int(truth.sum()) for t, truth in enumerate(shown.truths) if t not in said}
    t = max(areas, key=lambda t: areas[t], default=-1)
    if job.sketch is None or t < 0 or not areas[t]:
        return
    picture = np.round(255 * shown.seen(said)(t)).astype(np.uint8)
    truth, mask = shown.truths[t], found.masks[t]
    high, wide = (shown.spacings[0] or (1.0, 1.0, 1.0))[-2:] if shown.task is not None else (1.0, 1.0)
    region = Canvas((truth.shape[0], truth.shape[1]), (high, wide)).around(box_of(truth), MARGIN)
    corner, size = ((0, 0), truth.shape) if region is None else ((region.top, region.left), region.shape_hw)
    scale = SIDE / max(size[0] * high, size[1] * wide)
    crop = PreviewCrop(corner, (size[0], size[1]), (scale * high, scale * wide))
    drawn = tile(picture, np.where(mask, ANSWER, 0), crop, COLOURS, [FramePrompt.mask(truth)])
    canvas = Image.new("RGB", (SIDE, SIDE))
    canvas.paste(drawn, ((SIDE - drawn.width) // 2, (SIDE - drawn.height) // 2))
    stream = BytesIO()
    canvas.save(stream, format="png")
    job.sketch.mkdir(parents=True, exist_ok=True)
    write_bytes(sketched(job.sketch, job.blank.dataset, job.structure, job.blank.method), stream.getvalue())


def sketched(folder: Path, dataset: str, structure: str, method: str) -> Path:
    """Where the picture lies; names of structures and methods may hold what no file name may."""
    return folder / f"{crc32(f'{dataset}/{structure}/{method}'.encode()):08x}.png"

"""One answer of one method to the prompts of one structure, and its scores.

Whatever is loaded is kept for the next answer of the same process: the network with what it has encoded, the latest case.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medical_sam2.errors import MedicalSam2Error
from medical_sam2.evaluate.choosing import suggested
from medical_sam2.evaluate.job import Job, Network
from medical_sam2.evaluate.methods.method import Asked, Found, Said, Training
from medical_sam2.evaluate.methods.named import method_named
from medical_sam2.evaluate.prompting import Person
from medical_sam2.evaluate.protocols import Condition
from medical_sam2.evaluate.reporting.sketch import draw
from medical_sam2.evaluate.rows import Row
from medical_sam2.evaluate.scene import Scene, scene
from medical_sam2.evaluate.tasks import MaskArray
from medical_sam2.metrics import dice, iou, score
from medical_sam2.model.weights import load_backbone
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.frames import to_input
from medical_sam2.tracking.image_viewer import unit_vector

KEEP_MB = 1500.0  # of what was encoded: structures, methods, seeds and conditions of a case share it
STAGES = 10  # steps that the bank's mutual information is told at


@dataclass(frozen=True)
class Spoken:
    """Prompts that are told apart by what they say.

    Args:
        digest: of all of it.
        said: frame → prompt.
    """

    digest: bytes
    said: Said = field(compare=False)

    @classmethod
    def of(cls, said: Said) -> "Spoken":
        """With its digest."""
        digest = blake2b(digest_size=16)
        for t, prompt in sorted(said.items()):
            box, mask = prompt.box_xyxy, prompt.mask_hw
            parts = (prompt.points_xy, prompt.labels, *(part for part in (box, mask) if part is not None))
            digest.update(repr((t, box is None, mask is None, len(prompt.labels))).encode())
            for part in parts:
                digest.update(np.ascontiguousarray(part).tobytes())
        return cls(digest.digest(), said)


def answer(job: Job) -> list[Row]:
    """The row of a structure of a volume, or one for each image of a set; what cannot be measured says why."""
    try:
        person = _person(job, scene(job))
        rows = _answered(_bare(job), Spoken.of(person.say(_frames(job, person)))).rows
    except MedicalSam2Error as error:
        return [replace(job.blank, skipped=error.problem)]
    named = job.blank
    own = {name: getattr(named, name) for name in ("prompt", "care", "share", "choice", "seed")}
    return [replace(row, **own) for row in rows]


def _bare(job: Job) -> Job:
    """The same without what decides about prompts and names: answers of equal ones to equal prompts are equal."""
    protocol = replace(job.protocol, name="", about="", conditions=(), methods=(), seeds=())
    seed = 0 if job.case else job.seed  # it shuffles the images of a set
    return replace(job, protocol=protocol, condition=Condition(), seed=seed)


@dataclass(frozen=True)
class Scored:
    """An answer, measured.

    Args:
        rows: of it.
        sure: frames that nobody prompted and on which something was outlined, and how sure the answer is of them.
    """

    rows: tuple[Row, ...]
    sure: tuple[tuple[int, float], ...]


@lru_cache(maxsize=256)
def _answered(job: Job, spoken: Spoken) -> Scored:
    """An answer; conditions, seeds and rounds of suggestions that happen to say the same share it."""
    began = time.monotonic()
    shown = scene(job)
    found = _found(job, shown, spoken.said)
    took = time.monotonic() - began
    if job.sketch is not None:
        draw(job, shown, spoken.said, found)
    rows = (_volume_rows if job.case else _set_rows)(job, shown, spoken.said, found)
    sure = tuple((t, p) for t, p in sorted(found.sure.items()) if found.masks[t].any())
    return Scored(tuple(replace(row, seconds=took / len(rows)) for row in rows), sure)


@lru_cache(maxsize=1)
def _network(network: Network) -> Segmenter:
    if network.threads is not None:
        torch.set_num_threads(network.threads)
    backbone = load_backbone(network.weights, image_size=network.image_size)
    return Segmenter(backbone, device=network.device, precision=network.precision, keep_mb=KEEP_MB)


def _person(job: Job, shown: Scene) -> Person:
    return Person(shown.truths, job.condition, job.kind, of_volume=bool(job.case), seed=job.seed, case=shown.name)


def _found(job: Job, shown: Scene, said: Said) -> Found:
    protocol = job.protocol
    order = np.random.default_rng([job.seed, 2]).permutation(len(shown.truths)).tolist()
    training = Training(job.folder, job.structure, job.others)
    asked = Asked(_network(job.network), protocol.views, protocol.fusion, order, protocol.watch, protocol.limit_s, training)
    return shown.ask(method_named(job.method), asked, said)


def _frames(job: Job, person: Person) -> list[int]:
    """Which are prompted."""
    if job.condition.choice == "random":
        return person.frames
    plain = replace(job, condition=replace(job.condition, volume=None, images=None))  # rounds do not depend on the share
    return suggested(
        person.start,
        person.usable,
        len(person.frames),
        lambda frames: dict(_answered(_bare(job), Spoken.of(person.say(frames))).sure),
        partial(_direction, replace(plain, method="")),  # whoever answers
        person.frames,
    )


@lru_cache(maxsize=512)
def _direction(job: Job, t: int) -> NDArray[np.float32]:
    segmenter = _network(job.network)
    with torch.inference_mode(), segmenter.computing():
        return unit_vector(segmenter.encode(to_input(_seen(job)(t), segmenter.network.image_size)).summary_BC[0])


@lru_cache(maxsize=2)
def _seen(job: Job) -> Callable[[int], NDArray[np.float32]]:
    shown = scene(job)
    person = _person(job, shown)
    return shown.seen(person.say([person.start]))


def _volume_rows(job: Job, shown: Scene, said: Said, found: Found) -> list[Row]:
    truth, outlined = np.stack(shown.truths), np.stack(found.masks)
    told = np.isin(np.arange(len(outlined)), list(said))
    spacing = shown.spacings[0] or (1.0, 1.0, 1.0)
    measures = measured(truth, outlined, spacing, job.protocol.tolerance_mm, {"prompted": told, "propagated": ~told})
    sure = tuple((float(p), iou(truth[t], outlined[t])) for t, p in sorted(found.sure.items()))
    row = replace(job.blank, frames=len(told), prompted=len(said), sure=_finite(sure), information=stages(found.information))
    return [replace(row, **measures)]


def _set_rows(job: Job, shown: Scene, said: Said, found: Found) -> list[Row]:
    rows: list[Row] = []
    for i, (identifier, truth, outlined) in enumerate(zip(job.cases, shown.truths, found.masks, strict=True)):
        spacing = shown.spacings[i]
        part = "prompted" if i in said else "propagated"
        measures = measured(truth, outlined, spacing or (1.0, 1.0), job.protocol.tolerance_mm, {part: ...})
        sure = _finite(((float(found.sure[i]), measures["iou"]),)) if i in found.sure else ()
        row = replace(job.blank, case=identifier, frames=1, prompted=int(i in said), unit="mm" if spacing else "px", sure=sure)
        rows.append(replace(row, information=stages(found.information) if i == 0 else (), **measures))
    return rows


def measured(
    truth: MaskArray, found: MaskArray, spacing: Sequence[float], tolerance: float, parts: Mapping[str, Any]
) -> dict[str, Any]:
    """All measures of `rows.MEASURES`.

    Args:
        truth: (T, H, W) of a volume, or (H, W) of an image.
        found: the same shape.
        spacing: of each axis.
        tolerance: of the surface Dice.
        parts: "prompted", "propagated" → its frames, as numpy indexes them; a part without frames gets no measure.
    """
    whole = asdict(score(truth, found, spacing, tolerance_mm=tolerance))
    whole["hausdorff95"] = whole.pop("hausdorff95_mm")
    for name, index in parts.items():
        whole |= {f"dice_{name}": dice(truth[index], found[index]), f"iou_{name}": iou(truth[index], found[index])}
    return whole


def stages(information: Sequence[float]) -> tuple[float, ...]:
    """Means over `STAGES` equal parts of the time; fewer of fewer frames; what is not finite is left out."""
    finite = np.array([value for value in information if np.isfinite(value)])
    if not finite.size:
        return ()
    return tuple(round(float(part.mean()), 4) for part in np.array_split(finite, min(STAGES, finite.size)))


def _finite(sure: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    return tuple((round(one, 3), round(other, 3)) for one, other in sure if np.isfinite(other))

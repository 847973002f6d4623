"""One answer of one method to the prompts of one structure, and its scores.

Whatever is loaded is kept for the next answer of the same process: the network, the data set, the latest case.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medical_sam2.data.dataset import Case, DataSet, LoadedCase
from medical_sam2.data.nnunet import read_data_set
from medical_sam2.errors import MedicalSam2Error, PromptError
from medical_sam2.evaluate.methods import METHODS, Asked, Method
from medical_sam2.evaluate.prompting import prompted
from medical_sam2.evaluate.protocols import Condition, Protocol
from medical_sam2.evaluate.rows import Row, Task
from medical_sam2.evaluate.tasks import KINDS, Kind, MaskArray, VolumeTask
from medical_sam2.metrics import dice, iou, score
from medical_sam2.plugins import find
from medical_sam2.segmenter import Precision, Segmenter
from medical_sam2.volume import Volume

STAGES = 10  # steps that the bank's mutual information is told at


@dataclass(frozen=True)
class Network:
    """What answers, and on what.

    Args:
        weights: name, file, folder or hub id.
        device: as of `Segmenter`.
        precision: as of `Segmenter`.
        image_size: side of the input in pixels; that of the weights unless given.
        threads: of the processor; as torch chooses unless given.
    """

    weights: str = "nano"
    device: str = "auto"
    precision: Precision = "auto"
    image_size: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Job:
    """One structure of a case, or of all images of a set, for one method.

    Args:
        folder: of the data set.
        case: identifier; empty for a set.
        structure: name.
        method: name.
        condition: of prompting.
        seed: of all draws.
        protocol: that it belongs to.
        network: that answers.
        cases: identifiers of the images of a set.
    """

    folder: Path
    case: str
    structure: str
    method: str
    condition: Condition
    seed: int
    protocol: Protocol
    network: Network
    cases: tuple[str, ...] = ()

    @property
    def blank(self) -> Row:
        """Its row, without an answer."""
        data = data_set(self.folder)
        share = self.condition.share(data.kind)
        told = "one" if share is None else f"{share:g}"
        return Row(
            data.name, data.kind, self.case, self.structure, self.method, self.kind, self.condition.care, told, self.seed
        )

    @property
    def kind(self) -> Kind:
        """Of its prompts."""
        told = data_set(self.folder).prompt if self.condition.prompt == "own" else self.condition.prompt
        known: dict[str, Kind] = {kind: kind for kind in KINDS}
        return known.get(told or "", "box")

    @property
    def task(self) -> Task:
        """What tells it from the other jobs of a study."""
        row = self.blank
        return row.dataset, row.case, row.structure, row.method, row.prompt, row.care, row.share, row.seed


def answer(job: Job) -> list[Row]:
    """The row of a structure of a volume, or one for each image of a set; what cannot be measured says why."""
    began = time.monotonic()
    try:
        rows = _volume(job) if job.case else _set(job)
    except MedicalSam2Error as error:
        return [replace(job.blank, skipped=error.problem)]
    each = (time.monotonic() - began) / len(rows)
    return [replace(row, seconds=each) for row in rows]


@lru_cache(maxsize=64)
def data_set(folder: Path) -> DataSet:
    """The listing of a data set."""
    return read_data_set(folder)


@lru_cache(maxsize=1)
def _network(network: Network) -> Segmenter:
    if network.threads is not None:
        torch.set_num_threads(network.threads)
    return Segmenter.from_pretrained(
        network.weights, device=network.device, precision=network.precision, image_size=network.image_size
    )


@lru_cache(maxsize=1)
def _loaded(folder: Path, identifiers: tuple[str, ...]) -> list[LoadedCase]:
    data = data_set(folder)
    by_name: dict[str, Case] = {case.identifier: case for case in data.cases}
    return [data.load(by_name[identifier]) for identifier in identifiers]


def _volume(job: Job) -> list[Row]:
    data, (loaded,) = data_set(job.folder), _loaded(job.folder, (job.case,))
    volume, labels = loaded.images[0], loaded.labels
    if labels is None or not isinstance(volume, Volume):
        raise PromptError("it has no label map", "add one")
    if volume.modality is None and data.modality == "CT":
        volume = replace(volume, modality="CT")
    truth = data.mask(labels, job.structure)
    if not truth.any():
        raise PromptError("the structure is not in this case")
    task = VolumeTask(volume, truth)
    said = prompted(
        list(task.truth_thw),
        job.condition,
        job.kind,
        of_volume=True,
        seed=job.seed,
        case=f"{data.name}/{job.case}/{job.structure}",
    )
    found = _method(job).on_volume(_asked(job), task, said)
    outlined = _known(np.stack(found.masks), task.view.apply(labels, volume.orientation), data)
    told = np.isin(np.arange(len(outlined)), list(said))
    spacing = task.view.spacing(volume.spacing_mm, volume.orientation)
    measures = measured(task.truth_thw, outlined, spacing, job.protocol.tolerance_mm, {"prompted": told, "propagated": ~told})
    sure = tuple((float(p), iou(task.truth_thw[t], outlined[t])) for t, p in sorted(found.sure.items()))
    row = replace(job.blank, frames=len(told), prompted=len(said), sure=_finite(sure), information=stages(found.information))
    return [replace(row, **measures)]


def _set(job: Job) -> list[Row]:
    data, loaded = data_set(job.folder), _loaded(job.folder, job.cases)
    images = [one.images[0] for one in loaded]
    labels = [one.labels for one in loaded if one.labels is not None]
    truths = [data.mask(each, job.structure) for each in labels]
    name = f"{data.name}/{job.structure}"
    said = prompted(truths, job.condition, job.kind, of_volume=False, seed=job.seed, case=name)
    order = np.random.default_rng([job.seed, 2]).permutation(len(images)).tolist()
    found = _method(job).on_images(replace(_asked(job), order=order), [image.array for image in images], said)
    rows: list[Row] = []
    for i, (identifier, image, truth) in enumerate(zip(job.cases, images, truths, strict=True)):
        spacing = image.spacing_mm if len(image.spacing_mm or ()) == 2 else None
        part = "prompted" if i in said else "propagated"
        outlined = _known(found.masks[i], labels[i], data)
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


def _method(job: Job) -> Method:
    return find(METHODS, job.method, what="method")


def _asked(job: Job) -> Asked:
    protocol = job.protocol
    return Asked(_network(job.network), protocol.views, protocol.fusion, watch=protocol.watch)


def _known(found: MaskArray, labels: NDArray[Any], data: DataSet) -> MaskArray:
    """Without what nobody outlined."""
    return found if data.ignore is None else found & (labels != data.ignore)


def _finite(sure: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    return tuple((round(one, 3), round(other, 3)) for one, other in sure if np.isfinite(other))

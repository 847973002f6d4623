"""What is going to be done, checked as far as it can be before anything is computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import file_digest
from math import inf
from pathlib import Path
from typing import Any

import torch

from medical_sam2.cli._options import InferenceOptions, OutputOptions
from medical_sam2.errors import ConfigError, WeightsError
from medical_sam2.intensity_window import Window, choose_window
from medical_sam2.io.prompt_file import Named
from medical_sam2.io.safe_open import require_memory
from medical_sam2.model.catalogue import NAMED_WEIGHTS, is_hub_id, trained_size
from medical_sam2.model.memory_bank import POLICIES
from medical_sam2.plugins import find, suggestion
from medical_sam2.prompts import Mask
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.fusion import FUSIONS
from medical_sam2.tracking.plan import PLANES, Group, bytes_needed, plan_tracking
from medical_sam2.volume import Volume

VIEWS = ("auto", "one", "three", "six", *PLANES)
UNKNOWN_SIZE = 1024  # of weights that are not here yet: that of SAM 2


@dataclass(frozen=True, eq=False)
class SegmentationPlan:
    """A segmentation that can start.

    Args:
        groups: objects that are tracked together.
        warnings: what was noticed.
        bytes: memory that it will take beside the image.
        window: of intensities, to begin with: on a CT, prompts in lung or bone choose another one.
    """

    groups: tuple[Group, ...]
    warnings: tuple[str, ...]
    bytes: int
    window: Window


def check_settings(how: InferenceOptions) -> None:
    """Refuse names that do not exist, before a large image is read.

    Raises:
        ConfigError: unknown views, bank or fusion, with the nearest valid name; an impossible number of threads or seconds.
    """
    if how.views not in VIEWS:
        raise ConfigError(f"unknown views {how.views!r}", suggestion(how.views, VIEWS))
    find(POLICIES, how.bank, what="bank")
    find(FUSIONS, how.fusion, what="fusion")
    if how.threads is not None and how.threads < 1:
        raise ConfigError(f"{how.threads} threads cannot work", "give --threads 1 or more")
    if not how.adapt >= 0 or how.adapt == inf:
        raise ConfigError(f"nobody can tune for {how.adapt:g} seconds", "give --adapt 0 or more")


def network(how: InferenceOptions) -> Segmenter:
    """The segmenter with its weights, on its device.

    Raises:
        WeightsError, ConfigError: they do not exist or do not fit.
    """
    if how.threads is not None:
        torch.set_num_threads(how.threads)
    return Segmenter.from_pretrained(
        how.weights,
        device=how.device,
        precision=how.precision,  # type: ignore[arg-type]
        image_size=how.image_size,
        engine=how.engine,
    )


def away(how: InferenceOptions) -> bool:
    """Whether the weights would have to be fetched."""
    known = NAMED_WEIGHTS.get(how.weights)
    if known is not None:
        return known.source != "embedded" and not known.here
    return not Path(how.weights).exists() and is_hub_id(how.weights)


def digest(how: InferenceOptions) -> str:
    """SHA-256 of the file of weights."""
    path = weights_file(how.weights)
    try:
        with path.open("rb") as stream:
            return file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError("cannot be read again", "check the file", subject=path) from error


def planned(
    volume: Volume,
    named: Named,
    how: InferenceOptions,
    segmenter: Segmenter | None,
    outputs: OutputOptions,
    earlier: Volume | None,
) -> SegmentationPlan:
    """Group the objects, choose views, look at the prompted slices, count bytes.

    Args:
        volume: the image.
        named: prompts.
        how: settings.
        segmenter: None where the weights are not here.
        outputs: what is asked for.
        earlier: result that is corrected.

    Raises:
        PromptError: prompts that contradict each other.
        ConfigError: an unknown window.
        ResourceError: too little memory.
    """
    window = choose_window(volume, how.window)
    tracking = plan_tracking(volume, named.prompts, how.views, None if earlier is None else earlier.array)
    told = dict.fromkeys([*empty_slices(volume, tracking.groups), *tracking.warnings])
    if how.adapt and not any(isinstance(prompt, Mask) for prompt in named.prompts):
        told["--adapt does nothing: it tunes to outlines, and none was given"] = None
    if outputs.uncertainty is not None and all(len(group.views) == 1 for group in tracking.groups):
        told["one view disagrees with nobody: the uncertainty will be 0 everywhere"] = None
    probability, uncertainty = outputs.probability is not None, outputs.uncertainty is not None
    objects, image_size = len(named.labels), _image_size(how, segmenter)
    size = bytes_needed(volume, objects, image_size, probability=probability, uncertainty=uncertainty)
    require_memory(size, volume.source or "the volume")
    return SegmentationPlan(tracking.groups, tuple(told), size, window)


def described(plan: SegmentationPlan, how: InferenceOptions, segmenter: Segmenter | None) -> dict[str, Any]:
    """Machine, weights and views, for the report."""
    views = {label: [view.name for view in group.views] for group in plan.groups for label in group.prompts}
    return {
        "device": None if segmenter is None else str(segmenter.device),
        "precision": None if segmenter is None else segmenter.precision,
        "engine": how.engine,
        "threads": torch.get_num_threads(),
        "weights": {
            "name": how.weights,
            "image_size": _image_size(how, segmenter),
            "sha256": None if segmenter is None else digest(how),
        },
        "views": views,
        "warnings": list(plan.warnings),
    }


def _image_size(how: InferenceOptions, segmenter: Segmenter | None) -> int:
    if segmenter is not None:
        return segmenter.network.image_size
    return how.image_size or trained_size(how.weights) or UNKNOWN_SIZE


def empty_slices(volume: Volume, groups: Sequence[Group]) -> list[str]:
    """One line for each prompted slice on which all intensities are equal: nothing can be found there."""
    told: list[str] = []
    for group in groups:
        view, axes = group.view, volume.orientation
        stack_thw, axis, flipped = view.apply(volume.array, axes), view.order(axes)[0], view.flipped(axes)[0]
        for t in sorted({t for said in group.prompts.values() for t in said}):
            if stack_thw[t].min() == stack_thw[t].max():
                place = len(stack_thw) - 1 - t if flipped else t
                objects = ", ".join(str(label) for label, said in group.prompts.items() if t in said)
                told.append(
                    f"slice {place} of axis {'ijk'[axis]} holds one grey value only, and object {objects} is prompted there"
                )
    return told

"""What commands need of the network: names checked, weights loaded, a plan and its memory before anything is computed.

Imports torch, which takes seconds: commands import this after they have checked their files.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from hashlib import file_digest, sha256
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medical_sam2.batch import WITHOUT_EFFECT, LabelMapRecord, RunHash, hash_content, hash_files, hash_weights
from medical_sam2.cli.files import OutputOptions, describe_changed_names
from medical_sam2.cli.options import InferenceOptions, NetworkOptions, SetInferenceOptions, TrackingOptions
from medical_sam2.cli.prompts import SetPrompts
from medical_sam2.cli.report import describe_run, print_warnings
from medical_sam2.errors import ConfigError, InputError, WeightsError, gathering_unkept, spell_options
from medical_sam2.intensity_window import Window, choose_window, named_window
from medical_sam2.io.image_folder import ImageFolder
from medical_sam2.io.prompt_file import NamedPrompts
from medical_sam2.io.safe_open import require_memory
from medical_sam2.model.catalogue import NAMED_WEIGHTS, is_hub_id, trained_size
from medical_sam2.model.device import check_threads
from medical_sam2.model.memory_bank import POLICIES, Policy
from medical_sam2.model.weights import weights_file
from medical_sam2.plugins import find
from medical_sam2.segmenter import Segmenter, check_choices, load_by_settings
from medical_sam2.tracking.click_outline import JUDGE_FILE
from medical_sam2.tracking.confidence import Need, slice_needs
from medical_sam2.tracking.cropping import VolumePlan
from medical_sam2.tracking.image_set import ORDERS, ImageMask, Shuffled
from medical_sam2.tracking.plan import array_axis, bytes_needed
from medical_sam2.tracking.set_consensus import NETWORK_FILE
from medical_sam2.train.adapt import adapt_to_outlines, warn_without_outlines
from medical_sam2.views import View
from medical_sam2.volume import Volume

UNKNOWN_SIZE = 1024  # of weights that are not here yet: that of SAM 2
LEAST_BYTES = 100 << 20  # beside the libraries: with less, one of them may end the process without a word of ours


def check_settings(options: InferenceOptions) -> None:
    """Refuse names that do not exist, see `segmenter.check_choices`."""
    check_choices(**vars(options))


def check_set_settings(options: SetInferenceOptions) -> None:
    """The same for a set of images.

    Raises:
        ConfigError: unknown bank, order or window; a plug-in that is none; a seed that changes nothing.
    """
    find(POLICIES, options.bank, what="bank", makes=Policy)
    try:
        signature(find(ORDERS, options.order, what="order")).bind([], None)
    except (TypeError, ValueError):
        remedy = "give a function of the images that wait and their likeness (see medical_sam2.tracking.image_set.Order)"
        raise ConfigError(f"{options.order} is no order", remedy) from None
    if options.bank == "prompted" and options.order != SetInferenceOptions.order:
        problem = "--order changes nothing: --bank prompted remembers nothing but the templates"
        raise ConfigError(problem, "leave it out")
    named_window(options.window)
    if options.seed < 0:
        raise ConfigError(f"--seed {options.seed} is negative", "give 0 or more")
    if options.seed != SetInferenceOptions.seed and options.order != "shuffled":
        raise ConfigError("--seed changes nothing: it belongs to --order shuffled", "leave it out")
    check_threads(options.threads)


def visiting_order(options: SetInferenceOptions) -> str | Shuffled:
    """The order of a set of images, with its seed."""
    return Shuffled(options.seed) if options.order == "shuffled" else options.order


def load_segmenter(options: NetworkOptions) -> Segmenter:
    """The segmenter with its weights, on its device.

    Raises:
        WeightsError, ConfigError: they do not exist or do not fit.
        ResourceError: too little memory to begin with.
        InputError: the folder for features is a file, or cannot be made.
    """
    folder = options.features
    if folder is not None and not (folder.is_dir() or (folder.parent.is_dir() and not folder.exists())):
        raise InputError("the folder for features cannot be made", "give another", subject=folder)
    require_memory(LEAST_BYTES, options.weights, what="the network")
    return load_by_settings(vars(options))


def must_fetch(weights: str) -> bool:
    """Whether the weights are not on this machine."""
    entry = NAMED_WEIGHTS.get(weights)
    if entry is not None:
        return entry.source != "embedded" and not entry.here
    return not Path(weights).exists() and is_hub_id(weights)


def weights_digest(weights: str) -> str:
    """SHA-256 of the file of weights."""
    path = weights_file(weights)
    try:
        with path.open("rb") as stream:
            return file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError("cannot be read again", "check the file", subject=path) from error


@dataclass(frozen=True, eq=False)
class RunPlan:
    """What a run will do."""

    tracked: VolumePlan
    warnings: tuple[str, ...]  # about prompts, views, names and settings
    window: Window  # of intensities, the first
    bytes: int  # of memory, beside the image


def plan(
    volume: Volume,
    named: NamedPrompts,
    options: InferenceOptions,
    segmenter: Segmenter | None,
    outputs: OutputOptions,
    earlier: Volume | None,
) -> RunPlan:
    """What a run will do, with warnings about settings that have no effect.

    Raises:
        PromptError: prompts that contradict each other.
        ConfigError: an unknown window.
        ResourceError: too little memory.
    """
    window = choose_window(volume, options.window)
    tracked = VolumePlan.of(volume, named.prompts, options.views, None if earlier is None else earlier.array)
    notes = (*tracked.tracking.warnings, *describe_changed_names(outputs, named.names), *named.notes)
    warnings = [*_empty_slices(tracked), *notes]
    warnings += warn_without_outlines(named.prompts, options.adapt)
    one_view = all(len(group.views) == 1 for group in tracked.tracking.groups)
    if options.fusion in {"mean", "vote"} and one_view:
        warnings.append("--fusion changes nothing: one view is tracked")
    if outputs.uncertainty is not None and one_view:
        warnings.append("one view disagrees with nobody: the uncertainty will be 0 everywhere")
    maps = {"probability": outputs.probability is not None, "uncertainty": outputs.uncertainty is not None}
    size = bytes_needed(volume, len(named.labels), _image_size(options, segmenter), **maps)
    require_memory(size, volume.source or "the volume")
    return RunPlan(tracked, tuple(dict.fromkeys(warnings)), window, size)


def describe_volume_run(
    file: Path,
    image: Volume,
    named: NamedPrompts,
    options: InferenceOptions,
    *,
    segmenter: Segmenter | None,
    plan: RunPlan,
    earlier: Volume | None,
) -> dict[str, Any]:
    """Image, prompts, machine and settings, for the report; weights may bring no consensus, and a correction does without."""
    there = earlier is None and (segmenter is None or segmenter.gate is not None)
    used = replace(options, consensus=options.consensus and there)
    return describe_run(file, image, named, used) | describe_plan(plan, used, segmenter)


def describe_plan(plan: RunPlan, options: InferenceOptions, segmenter: Segmenter | None) -> dict[str, Any]:
    """Machine, weights and views, for the report."""
    views = {label: [view.name for view in group.views] for group in plan.tracked.tracking.groups for label in group.prompts}
    return {
        **describe_network(options, segmenter),
        "engine": options.engine,
        "pool_memory": options.pool_memory,
        "threads": torch.get_num_threads(),
        "views": views,
        "warnings": list(map(spell_options, plan.warnings)),
    }


def hash_set_run(options: SetInferenceOptions, prompts: SetPrompts, images: ImageFolder) -> RunHash:
    """All that label maps of a set depend on beside their images: settings, weights and what lies beside them, prompts.

    Raises:
        WeightsError: there are no such weights.
    """
    given = {name: str(value) for name, value in vars(options).items() if name not in WITHOUT_EFFECT}
    weights = hash_weights(weights_file(options.weights), (JUDGE_FILE, *[NETWORK_FILE] * options.consensus))
    said = [
        [images.entries[i].name, label, [_hash_array(each) for each in vars(prompt).values()]]
        for i, own in sorted(prompts.prompts.items())
        for label, prompt in sorted(own.items())
    ]
    prompted = hash_files([images.entries[i].file for i in sorted(prompts.prompts)])
    content = {"settings": given, "weights": weights, "prompts": said, "prompted images": prompted}
    return RunHash(hash_content([*content.values()]), {part: hash_content(own) for part, own in content.items()})


def recall_image(record: LabelMapRecord, index: int, labels: NDArray[np.unsignedinteger]) -> ImageMask:
    """What an earlier run found on an image, as its label map tells."""
    return ImageMask(index, labels, record.confidence, record.likeness, prompted=record.prompted, window=record.window)


def _hash_array(array: Any) -> list[Any] | None:
    return None if array is None else [array.shape, sha256(np.asarray(array).tobytes()).hexdigest()]


def describe_network(options: NetworkOptions, segmenter: Segmenter | None) -> dict[str, Any]:
    """Machine and weights, for the report."""
    return {
        "device": None if segmenter is None else str(segmenter.device),
        "precision": None if segmenter is None else segmenter.precision,
        "engine": None if segmenter is None else segmenter.engine,
        "weights": {
            "name": options.weights,
            "image_size": _image_size(options, segmenter),
            "sha256": None if segmenter is None else weights_digest(options.weights),
        },
    }


def _image_size(options: NetworkOptions, segmenter: Segmenter | None) -> int:
    if segmenter is not None:
        return segmenter.network.image_size
    return options.image_size or trained_size(options.weights) or UNKNOWN_SIZE


def _empty_slices(plan: VolumePlan) -> Iterator[str]:
    """One line for each prompted slice on which all intensities are equal: nothing can be found there."""
    volume = plan.crop.whole
    for group in plan.tracking.groups:
        axis = array_axis(volume, group.view)
        for t in sorted({t for frames in group.prompts.values() for t in frames}):
            place = plan.slice_index(group.view, t)
            on_slice = volume.array.take(place, axis)
            if on_slice.min() == on_slice.max():
                objects = ", ".join(str(label) for label, frames in group.prompts.items() if t in frames)
                yield f"slice {place} of axis {'ijk'[axis]} holds one grey value only, and object {objects} is prompted there"


def adapted(
    segmenter: Segmenter, image: Volume, named: NamedPrompts, options: InferenceOptions
) -> AbstractContextManager[None]:
    """With a network that is tuned to the outlines for some seconds, if that is requested; undone afterwards."""
    return adapt_to_outlines(segmenter.network, image, named.prompts, window=options.window, seconds=options.adapt)


def weigh_slices(image: Volume, named: NamedPrompts, options: TrackingOptions) -> tuple[str, list[Need], frozenset[int]]:
    """The axis, how much its slices need a prompt, and those that a report marks for a look."""
    check_settings(InferenceOptions(**vars(options)))
    segmenter = load_segmenter(options)
    zoom, kept = not options.whole_slices, options.features
    with gathering_unkept() as unkept:
        found = segmenter.segment_volume(
            image, named.prompts, bank=options.bank, window=options.window, zoom=zoom, features=kept
        )
    print_warnings(unkept)
    view = View(next(row.view for row in found.confidence if row.prompted))
    outlined = {row.slice for row in found.confidence if row.view == view.code and (row.prompted or row.area_px)}
    directions = segmenter.slice_directions(image, view, next(iter(found.windows.values())), outlined)
    axis = "ijk"[view.order(image.orientation)[0]]
    marked = frozenset(row.slice for row in found.confidence if row.look_here and row.view == view.code)
    return axis, slice_needs(found.confidence, directions), marked

"""One answer, or one after each click in the largest error: the reader prompts, a method outlines, the masks are measured.

At the end what the reader says of a volume that prompts of single slices do not hold: a line, where it ends, joined outlines.

Shapes: T slices of the prompted view, or images of a set; H W pixels.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medical_sam2.errors import MedicalSam2Error, PromptError
from medical_sam2.evaluate.cases import (
    EvaluationCase,
    FramePrompts,
    MaskArray,
    SimulatedReader,
    VolumeTask,
    draw_beside,
    follow_suggestions,
    mix_order,
    open_data_set,
)
from medical_sam2.evaluate.figures import write_sketch
from medical_sam2.evaluate.methods import MethodError, find_method, guard_method, is_by_user
from medical_sam2.evaluate.methods.interface import Correcting, Method, MethodAnswer, MethodInputs, TrainingCases
from medical_sam2.evaluate.protocols import OF_VOLUMES, Condition, Kind
from medical_sam2.evaluate.study import EvaluationJob, NetworkSettings, Row
from medical_sam2.metrics import dice, iou, score
from medical_sam2.model.weights import load_backbone
from medical_sam2.prompts import Box, Index, Prompt
from medical_sam2.segmenter import Segmenter
from medical_sam2.simulate import draw_scribble
from medical_sam2.strokes import Lasso, Scribble, ShapeInterpolation, SliceRange
from medical_sam2.tracking.frames import to_input
from medical_sam2.tracking.image_viewer import unit_vector
from medical_sam2.tracking.limits import limits_of
from medical_sam2.volume import bounding_box

KEEP_MB = 1500.0  # of what was encoded: structures, methods, seeds and conditions of a case share it
PROCESS = Path("/proc/self")  # what Linux tells a program of itself; other systems have no such folder
STAGES = 10  # steps that the bank's mutual information is averaged over


@dataclass(frozen=True)
class HashedPrompts:
    """Prompts that are equal where all of their frames, points, boxes and outlines are."""

    digest: bytes  # of all of it
    prompts: FramePrompts = field(compare=False)  # frame → prompt
    volume_prompts: Sequence[Prompt] = field(default=(), compare=False)  # as of `MethodInputs`

    @classmethod
    def of(cls, prompts: FramePrompts, volume_prompts: Sequence[Prompt] = (), kind: str = "") -> "HashedPrompts":
        """With its digest; what goes beside the prompts follows from their kind."""
        digest = blake2b((kind if volume_prompts else "").encode(), digest_size=16)
        for t, prompt in sorted(prompts.items()):
            box, mask, settled = prompt.box_xyxy, prompt.mask_hw, prompt.settled_hw
            digest.update(repr((t, box is None, mask is None, settled is None, len(prompt.labels))).encode())
            for part in (prompt.points_xy, prompt.labels, box, mask, settled):
                digest.update(b"" if part is None else np.ascontiguousarray(part).tobytes())
        return cls(digest.digest(), prompts, volume_prompts)


def answer_job(job: EvaluationJob) -> list[Row]:
    """The row of a structure of a volume, or one for each image of a set; what cannot be measured says why."""
    blank = job.blank
    try:
        if blank.distractors and not job.distractors:
            raise PromptError("there is no other set of images to take distractors from", "give one with --data")
        reader = _simulate_reader(job, job.load())
        if job.condition.clicks:
            return _clicked_rows(job, job.load(), reader)
        rows, _ = answer_once(_strip_job(job), _prompt_case(job, reader, _choose_frames(job, reader)))
    except MethodError:
        raise  # a fault that will be mended is no answer
    except MedicalSam2Error as error:
        return [replace(blank, skipped=error.problem)]
    own = {name: getattr(blank, name) for name in ("prompt", "care", "share", "choice", "distractors", "seed")}
    return [replace(row, **own) for row in rows]


def _strip_job(job: EvaluationJob) -> EvaluationJob:
    """The same without what decides about prompts and names: answers of equal ones to equal prompts are equal."""
    protocol = replace(job.protocol, name="", about="", conditions=(), methods=(), seeds=())
    seed = 0 if job.case else job.seed  # it shuffles the images of a set
    return replace(job, protocol=protocol, condition=Condition(), seed=seed)


@lru_cache(maxsize=256)
def answer_once(job: EvaluationJob, hashed: HashedPrompts) -> tuple[tuple[Row, ...], Mapping[int, float]]:
    """An answer, measured; conditions, seeds and rounds of suggestions that happen to prompt alike share it.

    Returns:
        Its rows; frames that nobody prompted and on which something was outlined, with how sure the answer is of them.
    """
    prompts, shown, inputs = hashed.prompts, job.load(), _method_inputs(job, job.load())
    began, before = time.monotonic(), reset_peak_memory()
    found = _ask_method(job, shown, hashed, inputs)
    took, peak_mb = time.monotonic() - began, peak_memory() - before
    if job.sketch is not None:
        write_sketch(job, shown, prompts, found.masks)
    rows = (_volume_rows if job.case else _set_rows)(job, shown, prompts, found)
    sure = {t: p for t, p in sorted(found.sure.items()) if found.masks[t].any()}
    return tuple(replace(row, seconds=took / len(rows), peak_mb=peak_mb) for row in rows), sure


def reset_peak_memory() -> float:
    """Begin to watch the most memory that this process holds; returns what it holds in MB, nan where that cannot be told."""
    try:
        (PROCESS / "clear_refs").write_text("5")
    except OSError:
        return math.nan
    return peak_memory()


def peak_memory() -> float:
    """The most memory that this process held since it was last begun to watch, in MB; nan where that cannot be told."""
    try:
        return int((PROCESS / "status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError):
        return math.nan


@lru_cache(maxsize=1)
def load_network(network: NetworkSettings) -> Segmenter:
    """The network, loaded once by a process."""
    if network.threads is not None:
        torch.set_num_threads(network.threads)
    backbone = load_backbone(network.weights, image_size=network.image_size)
    return Segmenter(backbone, device=network.device, precision=network.precision, keep_mb=KEEP_MB)


def _simulate_reader(job: EvaluationJob, shown: EvaluationCase) -> SimulatedReader:
    return SimulatedReader(shown.truths, job.condition, job.kind, of_volume=bool(job.case), seed=job.seed, case=shown.name)


def _method_inputs(job: EvaluationJob, shown: EvaluationCase) -> MethodInputs:
    protocol, training = job.protocol, TrainingCases(job.folder, job.structure, job.others)
    order = np.random.default_rng([job.seed, 2]).permutation(len(shown.truths) - len(job.distractors))
    order = mix_order(order.tolist(), len(job.distractors), np.random.default_rng([job.seed, 4])).tolist()
    how = protocol.views, protocol.fusion, order, protocol.watch, protocol.limit_s
    return MethodInputs(load_network(job.network), *how, training)


def _prompt_case(job: EvaluationJob, reader: SimulatedReader, frames: Sequence[int]) -> HashedPrompts:
    """What the reader says on some frames, and of a volume as a whole."""
    prompts, task = reader.prompt_frames(frames), job.load().task
    if task is None:
        if reader.kind in OF_VOLUMES:
            raise PromptError(f"a prompt of the kind {reader.kind!r} is given in volumes alone", "take another one for images")
        return HashedPrompts.of(prompts)
    whole = prompts_of_volume(task, reader.kind, prompts)
    return HashedPrompts.of(shown_on_slices(task, whole, prompts), whole, reader.kind)


def _find_guarded(name: str) -> Method:
    found = find_method(name)
    return guard_method(name, found) if is_by_user(name) else found


def _ask_method(job: EvaluationJob, shown: EvaluationCase, hashed: HashedPrompts, inputs: MethodInputs) -> MethodAnswer:
    """The answer of a method, without what nobody outlined, and what the prompts settle as outside."""
    method, inputs = _find_guarded(job.method), replace(inputs, volume_prompts=hashed.volume_prompts)
    if shown.task is not None:
        found = method.on_volume(inputs, shown.task, hashed.prompts)
        found = replace(found, masks=cut_to_limits(shown.task, hashed.volume_prompts, found.masks))
    else:
        found = method.on_images(inputs, shown.images, hashed.prompts)
    return replace(found, masks=[mask & ~ignored for mask, ignored in zip(found.masks, shown.ignored, strict=True)])


def _clicked_rows(job: EvaluationJob, shown: EvaluationCase, reader: SimulatedReader) -> list[Row]:
    """One row for each round."""
    if shown.task is None:
        raise PromptError("further clicks are given in volumes alone", "take another protocol for images")
    method, ignored = _find_guarded(job.method), np.stack(shown.ignored)
    return [
        replace(row, clicks=each.clicks, seconds=each.seconds)
        for each in answer_rounds(method, _method_inputs(job, shown), shown.task, reader, ignored)
        for row in _volume_rows(job, shown, each.prompts, MethodAnswer(each.masks))
    ]


@dataclass(frozen=True, eq=False)
class AnsweredRound:
    """An answer after some clicks."""

    clicks: int  # so far
    prompts: FramePrompts  # so far
    masks: Sequence[MaskArray]  # (H, W) bool of every slice
    seconds: float  # that it took


def answer_rounds(
    method: Method, inputs: MethodInputs, task: VolumeTask, reader: SimulatedReader, ignored_thw: MaskArray
) -> Iterator[AnsweredRound]:
    """The first answer, then one after each click; where nothing is wrong, or a click is refused, the answer stays.

    Raises:
        PromptError: the first prompt is refused.
    """
    prompts, given = dict(reader.opening()), int(reader.kind == "click")
    began = time.monotonic()
    masks_thw = np.stack(method.on_volume(inputs, task, prompts).masks) & ~ignored_thw
    yield AnsweredRound(given, dict(prompts), list(masks_thw), time.monotonic() - began)
    for number in range(1, reader.condition.clicks + 1):
        more = reader.further_click(masks_thw, number)
        began = time.monotonic()
        prompts |= {t: prompts[t] | prompt if t in prompts else prompt for t, prompt in more.items()}
        if more:
            masks_thw = _mend(method, inputs, task, masks_thw, (prompts, more)) & ~ignored_thw
        yield AnsweredRound(given + number, dict(prompts), list(masks_thw), time.monotonic() - began)


def _mend(
    method: Method, inputs: MethodInputs, task: VolumeTask, earlier_thw: MaskArray, prompts: tuple[FramePrompts, FramePrompts]
) -> MaskArray:
    everything, latest = prompts
    try:
        if isinstance(method, Correcting):
            return np.stack(method.correct_volume(inputs, task, earlier_thw, latest).masks)
        return np.stack(method.on_volume(inputs, task, everything).masks)
    except PromptError:
        return earlier_thw


def _choose_frames(job: EvaluationJob, reader: SimulatedReader) -> list[int]:
    if job.condition.choice == "random":
        return reader.frames
    plain = replace(job, condition=replace(job.condition, volume=None, images=None))  # rounds do not depend on the share
    return follow_suggestions(
        reader.start,
        reader.usable,
        len(reader.frames),
        lambda frames: answer_once(_strip_job(job), _prompt_case(job, reader, frames))[1],
        partial(embed_frame, replace(plain, method="")),  # whoever answers
        reader.frames,
    )


@lru_cache(maxsize=512)
def embed_frame(job: EvaluationJob, t: int) -> NDArray[np.float32]:
    """A frame's embedding over the length of that."""
    segmenter = load_network(job.network)
    with torch.inference_mode(), segmenter.computing():
        return unit_vector(segmenter.encode(to_input(_view_frames(job)(t), segmenter.network.image_size)).summary_BC[0])


@lru_cache(maxsize=2)
def _view_frames(job: EvaluationJob) -> Callable[[int], NDArray[np.float32]]:
    shown = job.load()
    reader = _simulate_reader(job, shown)
    return shown.viewer(reader.prompt_frames([reader.start]))


def _volume_rows(job: EvaluationJob, shown: EvaluationCase, prompts: FramePrompts, found: MethodAnswer) -> list[Row]:
    truth, outlined = np.stack(shown.truths), np.stack(found.masks)
    prompted = np.isin(np.arange(len(outlined)), list(prompts))
    spacing = shown.spacings[0] or (1.0, 1.0, 1.0)
    parts = {"prompted": prompted, "propagated": ~prompted}
    measures = compute_measures(truth, outlined, spacing, job.protocol.tolerance_mm, parts)
    sure = _keep_finite(tuple((float(p), iou(truth[t], outlined[t])) for t, p in sorted(found.sure.items())))
    row = replace(job.blank, frames=len(prompted), prompted=len(prompts), sure=sure)
    return [replace(row, information=mean_by_stage(found.information), **measures)]


def _set_rows(job: EvaluationJob, shown: EvaluationCase, prompts: FramePrompts, found: MethodAnswer) -> list[Row]:
    rows: list[Row] = []
    names = [*job.cases, *(f"{open_data_set(each.folder).name}/{each.case}" for each in job.distractors)]
    for i, (identifier, truth, outlined) in enumerate(zip(names, shown.truths, found.masks, strict=True)):
        spacing = shown.spacings[i]
        part = "prompted" if i in prompts else "propagated"
        measures = compute_measures(truth, outlined, spacing or (1.0, 1.0), job.protocol.tolerance_mm, {part: ...})
        sure = _keep_finite(((float(found.sure[i]), measures["iou"]),)) if i in found.sure else ()
        row = replace(job.blank, case=identifier, frames=1, prompted=int(i in prompts), unit="mm" if spacing else "px")
        information = mean_by_stage(found.information) if i == 0 else ()
        stray = i >= len(job.cases)
        rows.append(replace(row, stray=stray, sure=sure, information=information, **measures))
    return rows


def compute_measures(
    truth: MaskArray, found: MaskArray, spacing: Sequence[float], tolerance: float, parts: Mapping[str, Any]
) -> dict[str, Any]:
    """All measures of `study.MEASURES`.

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


def mean_by_stage(information: Sequence[float]) -> tuple[float, ...]:
    """Means over `STAGES` equal parts of the time; fewer of fewer frames; what is not finite is left out."""
    finite = np.array([value for value in information if np.isfinite(value)])
    if not finite.size:
        return ()
    return tuple(round(float(part.mean()), 4) for part in np.array_split(finite, min(STAGES, finite.size)))


def _keep_finite(sure: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    return tuple((round(one, 3), round(other, 3)) for one, other in sure if np.isfinite(other))


def prompts_of_volume(task: VolumeTask, kind: Kind, prompts: FramePrompts) -> tuple[Prompt, ...]:
    """All prompts in voxels, of a kind that says more than its slices (frame → prompt) do; empty where they say all."""
    if kind == "scribble":
        lines = {t: draw_scribble(task.truth_thw[t]) for t in sorted(prompts)}
        return tuple(Scribble(_in_voxels(task, t, line), width=1) for t, line in lines.items())
    if kind == "box and negative lasso":
        lines = {t: draw_beside(task.truth_thw[t]) for t in sorted(prompts)}
        boxes = {t: replace(prompt, points_xy=prompt.points_xy[:0], labels=prompt.labels[:0]) for t, prompt in prompts.items()}
        return (
            *task.all_in_volume(boxes),
            *(Lasso(_in_voxels(task, t, line), positive=False) for t, line in lines.items() if line),
        )
    if kind == "box in 3D":
        i, j, k = bounding_box(task.truth_ijk)
        return (Box((i.start, j.start, k.start), (i.stop - 1, j.stop - 1, k.stop - 1)),)
    if kind == "box and slices":
        there = bounding_box(task.truth_ijk)[task.view.order(task.volume.orientation)[0]]
        return (*task.all_in_volume(prompts), SliceRange(there.start, there.stop - 1))
    return (*task.all_in_volume(prompts), ShapeInterpolation()) if kind == "joined outlines" else ()


def shown_on_slices(task: VolumeTask, in_voxels: Sequence[Prompt], prompts: FramePrompts) -> FramePrompts:
    """Frame → its prompt: of a box in 3D its rectangle on the middle slice, else those that there are."""
    boxes = [each for each in in_voxels if isinstance(each, Box) and each.solid]
    return boxes[0].project(task.view, task.volume.shape, task.volume.orientation) if boxes else prompts


def cut_to_limits(task: VolumeTask, in_voxels: Sequence[Prompt], masks_thw: Sequence[MaskArray]) -> list[MaskArray]:
    """Masks (H, W) of all slices without what lies beyond the slices and boxes that were given: so any method can use them."""
    limits = limits_of(in_voxels, task.volume.shape, task.view.order(task.volume.orientation)[0])
    if limits is None:
        return list(masks_thw)
    allowed = np.zeros(task.volume.shape, bool)
    allowed[limits.within] = True
    return [mask & here for mask, here in zip(masks_thw, task.view.apply(allowed, task.volume.orientation), strict=True)]


def _in_voxels(task: VolumeTask, t: int, line_xy: Sequence[tuple[float, float]]) -> tuple[Index, ...]:
    return tuple(task.voxel(t, y, x) for x, y in line_xy)

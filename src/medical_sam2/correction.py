"""Corrections: an earlier result is mended around new prompts, and stays as it is elsewhere.

The corrected slice starts from the earlier outline and the new clicks. Tracking goes outward from it, with the earlier
outline's largest slice as a second reference, until new and old agree again on several slices in a row.

Shapes: I J K voxels, T frames, H W frame.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import GeometryError
from medical_sam2.frames import to_frame
from medical_sam2.model.memory import PolicyBank
from medical_sam2.model.tracker import track
from medical_sam2.orientations import FrameDone, OrientationTracker
from medical_sam2.planning import Group
from medical_sam2.prompts import Fixed, FramePrompt
from medical_sam2.volume import Segmentation, SliceConfidence, Volume

AGREE, IN_A_ROW = 0.9, 3


def corrected(
    volume: Volume,
    groups: Sequence[Group],
    earlier: NDArray[np.unsignedinteger],
    tracker: Callable[..., OrientationTracker],
    names: Mapping[int, str],
) -> Segmentation:
    """The earlier labels, mended where prompts were given.

    Args:
        volume: the image.
        groups: new prompts.
        earlier: (I, J, K) labels of the earlier result.
        tracker: makes an `OrientationTracker` for given fusions.
        names: label → name.

    Raises:
        GeometryError: the earlier result lies in another grid.
    """
    if earlier.shape != volume.shape:
        raise GeometryError(f"the earlier result has shape {earlier.shape}, the image {volume.shape}", "use the image's grid")
    labels = earlier.copy()
    rows: list[SliceConfidence] = []
    for group in groups:
        for label, said in group.prompts.items():
            _mend(labels, volume, Group(group.view, {label: said}), tracker({}), rows)
    return Segmentation(labels, volume.affine, names, confidence=tuple(rows))


def _mend(
    labels: NDArray[np.unsignedinteger], volume: Volume, group: Group, run: OrientationTracker, rows: list[SliceConfidence]
) -> None:
    (label, said), view = next(iter(group.prompts.items())), group.view
    stack_thw = view.apply(labels, volume.orientation)
    old = (stack_thw == label).copy()
    prompts = {t: _joined(prompt, old[t]) for t, prompt in said.items()}
    areas = old.sum(axis=(1, 2))
    support = int(areas.argmax())
    if areas[support] and support not in prompts:
        prompts[support] = FramePrompt.mask(old[support])
    for order in _directions(sorted(said), sorted(set(prompts) - set(said)), len(old)):
        _walk(run, group, prompts, order, (stack_thw, old), rows)


def _joined(prompt: FramePrompt, old_hw: NDArray[np.bool_]) -> FramePrompt:
    """New clicks correct the earlier outline; a new outline replaces it."""
    return prompt if prompt.mask_hw is not None or not old_hw.any() else FramePrompt.mask(old_hw) | prompt


def _directions(clicked: list[int], support: list[int], frames: int) -> list[list[int]]:
    """Reference, corrected slices, then one way; and the same the other way."""
    first = [*support, *clicked]
    return [[*first, *range(clicked[-1] + 1, frames)], [*first, *range(clicked[0] - 1, -1, -1)]]


def _walk(
    run: OrientationTracker,
    group: Group,
    prompts: Mapping[int, FramePrompt],
    order: list[int],
    stacks: tuple[NDArray[np.unsignedinteger], NDArray[np.bool_]],
    rows: list[SliceConfidence],
) -> None:
    label, (stack_thw, old) = next(iter(group.prompts)), stacks
    frames = run.frames(group.view)
    prompter = Fixed({t: frames.to_network(prompt) for t, prompt in prompts.items()})
    agreed = 0
    for done, (t, prediction) in enumerate(track(run.backbone, run.features(group.view), order, [prompter], PolicyBank(run.policy))):
        if t in prompts and t not in group.prompts[label]:
            continue  # the reference stays as it is
        mask = to_frame(prediction.logits_Bhw, frames.shape_thw[1:])[0] > 0.5
        agreed = agreed + 1 if t not in prompts and _dice(mask, old[t]) >= AGREE else 0
        if agreed >= IN_A_ROW:
            return
        stack_thw[t][(stack_thw[t] == label) & ~mask] = 0
        stack_thw[t][mask & (stack_thw[t] == 0)] = label
        sure = float(prediction.confidence_B[0])
        rows.append(SliceConfidence(label, group.view.code, frames.slice_index(t), sure, int(mask.sum()), t in prompts))
        if run.on_frame:
            run.on_frame(FrameDone(done + 1, len(order), group.view.code, frames.slice_index(t), (label,), mask[None]))


def _dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    total = int(one.sum() + other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0

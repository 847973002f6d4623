"""What is tracked where, and in which order: decided before the network is asked anything.

Shapes: T frames of a view, H W a frame; indices of voxels are in the order of the file.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import ConfigError, PromptError
from medical_sam2.prompts import FramePrompt, Mask, Point, Prompt
from medical_sam2.views import AXIAL, AXIS, CORONAL, SAGITTAL, THREE_VIEWS, View
from medical_sam2.volume import Volume

PLANES = {"axial": AXIAL, "coronal": CORONAL, "sagittal": SAGITTAL}
TOO_THICK = 3.0  # slices of an axis whose pixels are this many times longer than wide are left out by "auto"
TOO_FEW = 24  # and so are slices with a side of fewer pixels
MARGIN, LEAST_MARGIN = 0.2, 6  # how far further axes look beyond the first estimate: a share of its extent, frames


@dataclass(frozen=True, eq=False)
class Group:
    """Objects that are tracked in lock step: prompted on the same frames of the same view.

    Args:
        view: in which their prompts lie.
        prompts: object → frame → prompt.
    """

    view: View
    prompts: Mapping[int, Mapping[int, FramePrompt]]


def grouped(volume: Volume, prompts: Sequence[Prompt], only: View | None = None) -> list[Group]:
    """The objects of all prompts, in groups.

    Args:
        volume: the image.
        prompts: of any objects, in any order.
        only: the one view to be used, where the user asked for it.

    Raises:
        PromptError: there is no prompt, none is positive for some object, or one lies outside of the image.
    """
    if not prompts:
        raise PromptError("there is no prompt", "give a point, a box or a mask")
    groups: dict[tuple, dict[int, Mapping[int, FramePrompt]]] = {}
    views: dict[tuple, View] = {}
    for label in sorted({prompt.object for prompt in prompts}):
        own = [prompt for prompt in prompts if prompt.object == label]
        _check(label, own)
        view = only or primary_view(volume, own)
        frames = frame_prompts(volume, own, view)
        key = (view.code, *sorted(frames))
        groups.setdefault(key, {})[label] = frames
        views[key] = view
    return [Group(views[key], members) for key, members in groups.items()]


def _check(label: int, own: Sequence[Prompt]) -> None:
    if label < 1:
        raise PromptError(f"object {label} is no label", "number objects from 1; 0 is background")
    if all(isinstance(prompt, Point) and not prompt.positive for prompt in own):
        raise PromptError(f"object {label} has negative clicks only", "add a click inside the object, a box or a mask")


def frame_prompts(volume: Volume, own: Sequence[Prompt], view: View) -> dict[int, FramePrompt]:
    """What the prompts of one object say on each frame of a view; those drawn in other planes say nothing there."""
    merged: dict[int, FramePrompt] = {}
    for prompt in own:
        for t, said in prompt.project(view, volume.shape, volume.orientation).items():
            merged[t] = merged[t] | said if t in merged else said
    if not merged:
        raise PromptError(f"no prompt of object {own[0].object} lies in the {view.name} plane", "choose its own plane with --views")
    return merged


def primary_view(volume: Volume, own: Sequence[Prompt]) -> View:
    """The view that the prompts of an object were given in: their plane, or for clicks the one of the finest slices."""
    drawn = [prompt.planes() for prompt in own if not isinstance(prompt, Point)]
    axes = drawn[0] if drawn else frozenset({0, 1, 2})
    choices = [view for view in THREE_VIEWS if _array_axis(volume, view) in axes]
    thickest = max(volume.spacing_mm[_array_axis(volume, view)] for view in choices)
    return next(view for view in choices if volume.spacing_mm[_array_axis(volume, view)] >= 0.8 * thickest)


def _array_axis(volume: Volume, view: View) -> int:
    return view.order(volume.orientation)[0]


def views_named(name: str | Sequence[View], volume: Volume, primary: View) -> tuple[tuple[View, ...], tuple[str, ...]]:
    """The views to track, the primary one first, and what to tell the user about them.

    Args:
        name: "one", "three", "six", "auto", a plane ("axial" …), or views.
        volume: the image.
        primary: the view that holds the prompts.
    """
    if not isinstance(name, str):
        chosen = tuple(name)
        return (primary, *(view for view in chosen if view.axis != primary.axis or view.code != primary.code)), ()
    further = tuple(view for view in THREE_VIEWS if view.axis != primary.axis)
    if name == "one" or name in PLANES:
        return (primary,), ()
    if name == "three":
        return (primary, *further), ()
    if name == "six":
        return tuple(each for view in (primary, *further) for each in (view, view.reversed)), ()
    if name != "auto":
        raise ConfigError(f"unknown views {name!r}", f"choose one of one, three, six, auto, {', '.join(PLANES)}")
    kept = tuple(view for view in further if _usable(volume, view))
    left = [view.name for view in further if view not in kept]
    told = f"{' and '.join(left)} slices are left out: too coarse ({_shape_of(volume)}); --views three uses them all the same"
    return (primary, *kept), (told,) if left else ()


def _usable(volume: Volume, view: View) -> bool:
    _, high, wide = view.spacing(volume.spacing_mm, volume.orientation)
    _, rows, columns = (volume.shape[axis] for axis in view.order(volume.orientation))
    return max(high, wide) <= TOO_THICK * min(high, wide) and min(rows, columns) >= TOO_FEW


def _shape_of(volume: Volume) -> str:
    voxels = "×".join(str(n) for n in volume.shape)
    return f"{voxels} voxels of {'×'.join(f'{mm:.3g}' for mm in volume.spacing_mm)} mm"


def outward(prompted: Iterable[int], frames: range) -> list[int]:
    """Prompted frames first, then from the first of them to the end, then from there to the beginning."""
    first = sorted(prompted)
    rest = set(frames) - set(first)
    ahead = [t for t in frames if t > first[0] and t in rest]
    behind = [t for t in reversed(frames) if t < first[0] and t in rest]
    return [*first, *ahead, *behind]


def starting_frame(stack_thw: NDArray[np.floating]) -> int | None:
    """Where a further orientation starts: the frame on which the estimate is largest and surest; None where it is empty.

    Args:
        stack_thw: estimated probability along the orientation.
    """
    surplus = np.array([np.clip(frame.astype(np.float32) - 0.5, 0, None).sum() for frame in stack_thw])
    return int(surplus.argmax()) if surplus.max() > 0 else None


def extent(stack_thw: NDArray[np.floating]) -> range:
    """Frames on which the estimate lies, with a margin."""
    there = np.flatnonzero([frame.max() > 0.5 for frame in stack_thw])
    margin = max(LEAST_MARGIN, round(MARGIN * (there[-1] - there[0] + 1)))
    return range(max(0, int(there[0]) - margin), min(len(stack_thw), int(there[-1]) + margin + 1))


def masks_of(prompts: Sequence[Prompt]) -> list[Mask]:
    """The outlines among prompts."""
    return [prompt for prompt in prompts if isinstance(prompt, Mask)]


def view_of_letter(letter: str) -> View:
    """The view whose frames run along the axis of a letter of RAS/LPI."""
    return next(view for view in THREE_VIEWS if view.axis == AXIS[letter])

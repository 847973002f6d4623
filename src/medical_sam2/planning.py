"""What is tracked where, and in which order: decided before the network is asked anything.

Shapes: I J K voxels in the order of the file, T frames of a view, H W a frame.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import ConfigError, PromptError
from medical_sam2.prompts import FramePrompt, Mask, Point, Prompt
from medical_sam2.views import AXIAL, CORONAL, SAGITTAL, THREE_VIEWS, View
from medical_sam2.volume import Volume

PLANES = {"axial": AXIAL, "coronal": CORONAL, "sagittal": SAGITTAL}
TOO_THICK = 3.0  # slices of an axis whose pixels are this many times longer than wide are left out by "auto"
TOO_FEW = 24  # and so are slices with a side of fewer pixels
SAME_THICKNESS = 0.8  # slices at least this share as thick as the thickest may be the ones that were prompted


@dataclass(frozen=True, eq=False)
class Group:
    """Objects that are tracked in lock step: prompted on the same frames of the same view.

    Args:
        view: in which their prompts lie.
        prompts: object → frame → what was said there.
        said: object → its prompts as they were given.
    """

    view: View
    prompts: Mapping[int, Mapping[int, FramePrompt]]
    said: Mapping[int, tuple[Prompt, ...]]

    def part(self, labels: Iterable[int]) -> "Group":
        """The same for some of the objects."""
        chosen = tuple(labels)
        return Group(self.view, {x: self.prompts[x] for x in chosen}, {x: self.said[x] for x in chosen})


def grouped(volume: Volume, prompts: Sequence[Prompt], only: Sequence[View] = (), known: Collection[int] = ()) -> list[Group]:
    """The objects of all prompts, in groups.

    Args:
        volume: the image.
        prompts: of any objects, in any order.
        only: the views to choose from, where the user named them.
        known: objects of an earlier result, which may be corrected by negative clicks alone.

    Raises:
        PromptError: there is no prompt, none is positive for some object, or one lies outside of the image.
    """
    if not prompts:
        raise PromptError("there is no prompt", "give a point, a box or a mask")
    groups: dict[tuple[object, ...], list[tuple[int, tuple[Prompt, ...], dict[int, FramePrompt]]]] = {}
    for label in sorted({prompt.object for prompt in prompts}):
        own = tuple(prompt for prompt in prompts if prompt.object == label)
        if label not in known:
            _check(label, own)
        view = primary_view(volume, own, only)
        frames = frame_prompts(volume, own, view)
        groups.setdefault((view.code, *sorted(frames)), []).append((label, own, frames))
    return [
        Group(View(str(key[0])), {label: frames for label, _, frames in rows}, {label: own for label, own, _ in rows})
        for key, rows in groups.items()
    ]


def _check(label: int, own: Sequence[Prompt]) -> None:
    if label < 1:
        raise PromptError(f"object {label} is no label", "number objects from 1; 0 is background")
    if all(isinstance(prompt, Point) and not prompt.positive for prompt in own):
        raise PromptError(f"object {label} has negative clicks only", "add a click inside the object, a box or a mask")


def frame_prompts(volume: Volume, own: Sequence[Prompt], view: View) -> dict[int, FramePrompt]:
    """What the prompts of one object say on each frame of a view; those drawn in other planes say nothing there.

    Raises:
        PromptError: none of them lies in this view's plane, or one lies outside of the image.
    """
    merged: dict[int, FramePrompt] = {}
    for prompt in own:
        for t, said in prompt.project(view, volume.shape, volume.orientation).items():
            merged[t] = merged[t] | said if t in merged else said
    if not merged:
        problem = f"no prompt of object {own[0].object} lies in the {view.name} plane"
        raise PromptError(problem, "choose the plane that it was drawn in, or leave the choice of views out")
    return merged


def drawn_prompts(volume: Volume, own: Sequence[Prompt], view: View) -> dict[int, FramePrompt]:
    """The boxes and outlines among prompts that were drawn in the plane of this view and no other."""
    drawn = [p for p in own if not isinstance(p, Point) and p.planes() == frozenset({array_axis(volume, view)})]
    return frame_prompts(volume, drawn, view) if drawn else {}


def primary_view(volume: Volume, own: Sequence[Prompt], only: Sequence[View] = ()) -> View:
    """The view that the prompts of an object were given in: their plane, or for clicks the one of the finest pixels.

    Args:
        volume: the image.
        own: prompts of one object.
        only: the views to choose from; the three planes unless given.
    """
    views = tuple(only) or THREE_VIEWS
    choices = [view for view in views if array_axis(volume, view) in _common_planes(own)]
    choices = [view for view in choices if usable(volume, view)] or choices or list(views)
    thickness = [volume.spacing_mm[array_axis(volume, view)] for view in choices]
    return next(view for view, mm in zip(choices, thickness, strict=True) if mm >= SAME_THICKNESS * max(thickness))


def _common_planes(own: Sequence[Prompt]) -> frozenset[int]:
    """Planes that all boxes and outlines lie in; those of the first of them where they share none."""
    drawn = [prompt.planes() for prompt in own if not isinstance(prompt, Point)]
    if not drawn:
        return frozenset({0, 1, 2})
    return frozenset.intersection(*drawn) or drawn[0]


def array_axis(volume: Volume, view: View) -> int:
    """The array axis that the frames of a view run along."""
    return view.order(volume.orientation)[0]


def views_allowed(views: str | Sequence[View]) -> tuple[View, ...]:
    """The views that prompts may be taken from: a plane or views that the user named; empty where any will do.

    Raises:
        ConfigError: an empty list.
    """
    if isinstance(views, str):
        return (PLANES[views],) if views in PLANES else ()
    if not views:
        raise ConfigError("the list of views is empty", "give at least one view, or a name such as 'auto'")
    return tuple(views)


def views_named(name: str | Sequence[View], volume: Volume, primary: View) -> tuple[tuple[View, ...], tuple[str, ...]]:
    """The views to track, the primary one first, and what to tell the user about them.

    Args:
        name: "one", "three", "six", "auto", a plane ("axial" …), or views.
        volume: the image.
        primary: the view that holds the prompts.

    Raises:
        ConfigError: an unknown name.
    """
    if not isinstance(name, str):
        return (primary, *(view for view in dict.fromkeys(name) if view != primary)), ()
    further = tuple(view for view in THREE_VIEWS if view.axis != primary.axis)
    if name == "one" or name in PLANES:
        return (primary,), ()
    if name == "three":
        return (primary, *further), ()
    if name == "six":
        return tuple(each for view in (primary, *further) for each in (view, view.reversed)), ()
    if name != "auto":
        raise ConfigError(f"unknown views {name!r}", f"choose one of one, three, six, auto, {', '.join(PLANES)}")
    kept = tuple(view for view in further if usable(volume, view))
    return (primary, *kept), _told(volume, [view.name for view in further if view not in kept])


def _told(volume: Volume, left_out: Sequence[str]) -> tuple[str, ...]:
    if not left_out:
        return ()
    voxels = "×".join(str(n) for n in volume.shape)
    size = f"{voxels} voxels of {'×'.join(f'{mm:.3g}' for mm in volume.spacing_mm)} mm"
    return (f"{' and '.join(left_out)} slices are left out: too coarse ({size}); --views three uses them all the same",)


def unheard(volume: Volume, group: Group, views: Sequence[View]) -> list[str]:
    """What to tell the user about boxes and outlines in planes that are not tracked."""
    axes = {array_axis(volume, view) for view in views}
    return [
        f"a {type(prompt).__name__.lower()} of object {label} lies in a plane that is not tracked"
        + (": it counts on its own slice only" if isinstance(prompt, Mask) else " and was not used")
        for label, own in group.said.items()
        for prompt in own
        if not axes & prompt.planes()
    ]


def usable(volume: Volume, view: View) -> bool:
    """Whether the slices of a view are fine enough to be looked at."""
    _, high, wide = view.spacing(volume.spacing_mm, volume.orientation)
    _, rows, columns = (volume.shape[axis] for axis in view.order(volume.orientation))
    return max(high, wide) <= TOO_THICK * min(high, wide) and min(rows, columns) >= TOO_FEW


def outward(prompted: Iterable[int], frames: Iterable[int]) -> list[int]:
    """Prompted frames, the first of them last; from there to the end; then from there back to the beginning."""
    first = sorted(prompted, reverse=True)
    rest = sorted(set(frames) - set(first))
    return [*first, *(t for t in rest if t > first[-1]), *(t for t in reversed(rest) if t < first[-1])]


def redraw(stack_thw: NDArray[np.unsignedinteger], label: int, said: Mapping[int, FramePrompt]) -> None:
    """Put outlines back as they were drawn, in place, unless a click or a box corrects them.

    Args:
        stack_thw: labels along a view.
        label: the object.
        said: frame → what was said of the object there.
    """
    for t, prompt in said.items():
        if prompt.mask_hw is not None and not len(prompt.points_xy) and prompt.box_xyxy is None:
            stack_thw[t][(stack_thw[t] == label) & ~prompt.mask_hw] = 0
            stack_thw[t][prompt.mask_hw] = label

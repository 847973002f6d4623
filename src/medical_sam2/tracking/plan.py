"""What is tracked where, in which order, with how much memory: decided before the network is asked anything.

Shapes: I J K voxels in the order of the file, T frames of a view, H W a frame.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import cast

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import ConfigError, InputError, PromptError, say_count
from medical_sam2.intensity_window import BLANK, Window, Windows, is_blank
from medical_sam2.io.labels import labels_in
from medical_sam2.prompts import FramePrompt, Mask, Point, Prompt, check_object, intensities, is_solid_box, split_planes
from medical_sam2.strokes import Brush, Lasso, Scribble, SliceRange, joins_outlines, only_takes_away, says_where
from medical_sam2.tracking.limits import Limits, check_agreement, limits_of, load_ndimage
from medical_sam2.views import AXIAL, CORONAL, SAGITTAL, THREE_VIEWS, View
from medical_sam2.volume import Volume, check_names

PLANES = {"axial": AXIAL, "coronal": CORONAL, "sagittal": SAGITTAL}
OF_SEVERAL = {"three", "six", "auto"}  # names of several views
TOO_THICK = 3.0  # slices of an axis whose pixels are this many times longer than wide are left out by "auto"
TOO_FEW = 24  # and so are slices with a side of fewer pixels
SAME_THICKNESS = 0.8  # slices at least this share as thick as the thickest may be the ones that were prompted
TOGETHER_BYTES = 1_500_000_000  # probabilities held at once: further objects wait until these are decided
SLIP = 0.02  # area of an outline over that of the next slice, below which it may be a slip of the brush
HALF_FROM_VOXELS = 200_000_000  # volumes from this size on are summed in float16
FEATURE_BYTES, WORK_BYTES = 16, 600  # per pixel of the network's input: features of a slice, what the network works on
KEPT_BYTES = 384 << 20  # of features


@dataclass(frozen=True, eq=False)
class Group:
    """Objects that are tracked in lock step: prompted on the same frames of the same view."""

    views: tuple[View, ...]  # along which they are tracked; their prompts lie in the first
    prompts: Mapping[int, Mapping[int, FramePrompt]]  # object → frame → prompt
    given: Mapping[int, tuple[Prompt, ...]]  # object → its prompts as they were given
    # object → what they settle of single voxels, where they do
    limits: Mapping[int, Limits] = field(default_factory=dict[int, Limits])

    @property
    def view(self) -> View:
        """In which their prompts lie."""
        return self.views[0]

    def part(self, labels: Iterable[int]) -> "Group":
        """The same for some of the objects."""
        chosen = tuple(labels)
        limits = {x: self.limits[x] for x in chosen if x in self.limits}
        return Group(self.views, {x: self.prompts[x] for x in chosen}, {x: self.given[x] for x in chosen}, limits)

    def frames(self, volume: Volume, view: View) -> range:
        """Those of a view on which any of the objects may be."""
        axis, axes = array_axis(volume, view), volume.orientation
        whole = slice(0, volume.shape[axis])
        sides = [self.limits[x].within[axis] if x in self.limits else whole for x in self.prompts]
        first, last = min(side.start for side in sides), max(side.stop for side in sides) - 1
        low, high = sorted(view.slice_index(place, volume.shape[axis], axes) for place in (first, last))
        return range(low, high + 1)


@dataclass(frozen=True, eq=False)
class TrackingPlan:
    """Who is tracked along which views."""

    groups: tuple[Group, ...]  # all objects
    warnings: tuple[str, ...] = ()  # views that are left out, outlines that say next to nothing

    @property
    def labels(self) -> tuple[int, ...]:
        """All objects that are prompted, ascending."""
        return tuple(sorted({label for group in self.groups for label in group.prompts}))

    @property
    def prompts(self) -> list[Prompt]:
        """All that users gave, object by object."""
        return [prompt for group in self.groups for own in group.given.values() for prompt in own]

    @property
    def limits(self) -> dict[int, Limits]:
        """Object → what its prompts settle of single voxels, where they do."""
        return {label: own for group in self.groups for label, own in group.limits.items()}


# On one grey a network still outlines something round at the click, which looks plausible.
def refuse_blank(volume: Volume) -> None:
    """Refuse an image of a single value, or without any; raises InputError."""
    if is_blank(volume.array):
        raise InputError(BLANK, "check that this is the image you mean, or export it again", subject=volume.source)


def listed_prompts(prompts: object) -> tuple[Prompt, ...]:
    """The prompts of a volume, however they are listed; raises PromptError for what is none."""
    listed = tuple(prompts) if isinstance(prompts, Iterable) else ()
    strange = [repr(each)[:60] for each in listed if not hasattr(each, "project")]
    if strange or not isinstance(prompts, Iterable):
        problem = f"{strange[0]} is no prompt" if strange else f"{repr(prompts)[:60]} is not in a list"
        raise PromptError(problem, "give a list of prompts, such as [Point((i, j, k))]")
    return tuple(part for each in listed for part in (split_planes(each) if isinstance(each, Mask) else [each]))


def check_named(names: Mapping[int, str], objects: Collection[int]) -> None:
    """Refuse names of objects that nobody prompts; raises PromptError, and ConfigError for what are no names."""
    check_names(names)
    if unknown := sorted(set(names) - set(objects)):
        raise PromptError(f"a name is given to object {unknown[0]}, which has no prompt", "prompt it, or leave its name out")


def plan_tracking(
    volume: Volume, prompts: Sequence[Prompt], views: str | Sequence[View], earlier: NDArray[np.generic] | None = None
) -> TrackingPlan:
    """Group the objects and choose the views of each group; a correction is tracked in the view of its prompts alone.

    Raises:
        PromptError: see `grouped`.
        ConfigError: unknown views.
    """
    groups, warnings = list[Group](), dict[str, None]()
    for group in grouped(volume, prompts, views_allowed(views), labels_in(earlier)):
        chosen, left_out = views_named(views, volume, group.view)
        if earlier is not None:
            chosen, left_out = chosen[:1], ()
        groups.append(replace(group, views=chosen))
        warnings |= dict.fromkeys([*left_out, *_describe_slips(volume, group)])
    return TrackingPlan(tuple(groups), tuple(warnings))


def _describe_slips(volume: Volume, group: Group) -> Iterator[str]:
    """A line for each object clicked at with a brush, and for each outline that is tiny beside that of the next slice."""
    for label, frames in group.prompts.items():
        areas = {t: int(prompt.mask_hw.sum()) for t, prompt in frames.items() if prompt.mask_hw is not None}
        for t, area in areas.items():
            beside = max(areas.get(t - 1, 0), areas.get(t + 1, 0))
            if area < SLIP * beside:
                where = _slice_name(volume, group.view, t)
                yield (
                    f"object {label} is outlined by {say_count(area, 'pixel')} on {where}, and by {beside} on the next one: "
                    "clear it if that was a slip of the brush, or outline it there"
                )
        if strays := [t for t in sorted(areas) if (mask := frames[t].mask_hw) is not None and _has_stray_part(mask)]:
            where = _slice_name(volume, group.view, strays[0]) + (f" and {len(strays) - 1} more" if len(strays) > 1 else "")
            told = f"object {label} has a part of few pixels far from the rest of its outline on {where}"
            yield f"{told}: clear it if that was a slip of the brush"
        # of an object that ends on a slice one pixel may be left there; one that is nowhere larger was clicked at
        if areas.keys() == frames.keys() and set(areas.values()) == {1}:
            yield f"object {label} is outlined by a single pixel, and is expected to be as small: give a point if that is meant"


def _has_stray_part(mask_hw: NDArray[np.bool_]) -> bool:
    """Whether a part of an outline (H, W) is tiny beside the largest one, and farther from it than that one is wide."""
    parts, count = cast("tuple[NDArray[np.int32], int]", load_ndimage().label(mask_hw, np.ones((3, 3), bool)))
    if count < 2:
        return False
    areas = np.bincount(parts.ravel())[1:]
    largest = int(areas.argmax()) + 1
    rows, columns = np.nonzero(parts == largest)
    low, high = np.array([rows.min(), columns.min()]), np.array([rows.max(), columns.max()])
    for number in np.flatnonzero(areas < SLIP * areas.max()) + 1:
        place = np.argwhere(parts == number).mean(axis=0)
        if np.maximum(low - place, place - high).max() > (high - low).max() + 1:
            return True
    return False


def grouped(
    volume: Volume, prompts: Sequence[Prompt], only: Sequence[View] = (), correctable: Collection[int] = ()
) -> list[Group]:
    """The objects of all prompts, in groups, each with the view that holds its prompts.

    Args:
        volume: the image.
        prompts: of any objects, in any order.
        only: the views to choose from, where the user named them.
        correctable: objects of an earlier result, which may be corrected by negative clicks alone.

    Raises:
        PromptError: there is no prompt, none is positive for some object, or one lies outside of the image.
    """
    if not prompts:
        raise PromptError("there is no prompt", "give a point, a box or a mask")
    groups: dict[tuple[object, ...], list[tuple[int, tuple[Prompt, ...], dict[int, FramePrompt]]]] = {}
    limits = dict[int, Limits]()
    for label in sorted({prompt.object for prompt in prompts}):
        own = tuple(prompt for prompt in prompts if prompt.object == label)
        if label not in correctable:
            _check_prompts(label, own)
        view = primary_view(volume, own, only)
        frames = frame_prompts(volume, own, view, mending=label in correctable)
        if joins_outlines(own) and (label in correctable or not gaps_between(frames)):
            problem = f"object {label} has no slices between outlines that could be interpolated"
            raise PromptError(problem, "outline it on two slices that are apart, or leave the interpolation out")
        settled = limits_of(own, volume.shape, array_axis(volume, view))
        if settled is not None:
            limits[label] = settled
            _check_slices(volume, view, label, settled, frames)
            check_agreement(own, settled, volume.shape, array_axis(volume, view))
        groups.setdefault((view.code, largest_frame(frames), *sorted(frames)), []).append((label, own, frames))
    _check_shared(limits)
    return [
        Group(
            (View(str(key[0])),),
            {label: frames for label, _, frames in rows},
            {label: own for label, own, _ in rows},
            {label: limits[label] for label, _, _ in rows if label in limits},
        )
        for key, rows in groups.items()
    ]


def _check_prompts(label: int, own: Sequence[Prompt]) -> None:
    check_object(label)
    if not any(says_where(prompt) for prompt in own):
        clicks = all(isinstance(prompt, Point) for prompt in own)
        problem = f"object {label} has {'negative clicks only' if clicks else 'no prompt that says where it is'}"
        raise PromptError(problem, "add a click inside the object, a box or a mask")


def _check_slices(volume: Volume, view: View, label: int, limits: Limits, frames: Iterable[int]) -> None:
    """Refuse slices that leave out one on which the object is prompted."""
    axis = array_axis(volume, view)
    side = limits.within[axis]
    for t in frames:
        if not side.start <= view.slice_index(t, volume.shape[axis], volume.orientation) < side.stop:
            problem = f"object {label} is prompted on {_slice_name(volume, view, t)}, which its slices or its box leave out"
            raise PromptError(problem, "prompt it on a slice that is looked at, or widen them")


def _check_shared(limits: Mapping[int, Limits]) -> None:
    """Refuse a voxel that is settled as inside of two objects."""
    owners: dict[tuple[int, ...], int] = {}
    for label, own in limits.items():
        for i, j, k in own.inside.tolist():
            if owners.setdefault((i, j, k), label) != label:
                problem = f"objects {owners[i, j, k]} and {label} are both scribbled on at voxel {i} {j} {k}"
                raise PromptError(problem, "leave one of them out")


def frame_prompts(volume: Volume, own: Sequence[Prompt], view: View, *, mending: bool = False) -> dict[int, FramePrompt]:
    """The prompts of one object on each frame of a view; those drawn in other planes are left out.

    What only says where the object is not counts on frames on which it is prompted besides: alone it does not show it, and a
    network that begins with it takes anything for the object. The rectangle of a box in 3D is shown where nothing closer is: an
    outline, a box or a diameter on its middle slice says more. All count where an earlier result is being mended.

    Raises:
        PromptError: none of them lies in this view's plane, or one lies outside of the image.
    """
    merged: dict[int, FramePrompt] = {}
    for prompt in sorted(own, key=lambda each: (not says_where(each), is_solid_box(each))):
        for t, there in prompt.project(view, volume.shape, volume.orientation).items():
            if t not in merged and not says_where(prompt) and not mending:
                continue
            if is_solid_box(prompt) and t in merged and merged[t].drawn_area:
                continue
            merged[t] = merged[t].joined(there, prompt.object, _slice_name(volume, view, t)) if t in merged else there
    if not merged:
        problem = f"no prompt of object {own[0].object} lies in the {view.name} plane"
        raise PromptError(problem, "choose the plane that it was drawn in, or leave the choice of views out")
    return merged


def gaps_between(prompts: Mapping[int, FramePrompt]) -> list[tuple[int, int]]:
    """Pairs of outlined frames of an object that follow each other, with others between."""
    outlined = sorted(t for t, prompt in prompts.items() if prompt.mask_hw is not None)
    return [(one, other) for one, other in pairwise(outlined) if other - one > 1]


def _slice_name(volume: Volume, view: View, t: int) -> str:
    """A frame as the command line counts it: along the axis of the file."""
    return f"{view.name} slice {view.slice_index(t, volume.shape[array_axis(volume, view)], volume.orientation)}"


def drawn_prompts(volume: Volume, own: Sequence[Prompt], view: View) -> dict[int, FramePrompt]:
    """The boxes and outlines among prompts that were drawn in the plane of this view and no other."""
    axis = frozenset({array_axis(volume, view)})
    drawn = [p for p in own if not isinstance(p, Point) and says_where(p) and p.planes() == axis]
    return frame_prompts(volume, drawn, view) if drawn else {}


def primary_view(volume: Volume, own: Sequence[Prompt], only: Sequence[View] = ()) -> View:
    """The view that the prompts of an object were given in: their plane, or for clicks the one of the finest pixels.

    Args:
        volume: the image.
        own: prompts of one object.
        only: the views to choose from; the three planes unless given.
    """
    # from the strictest choice to the laxest: in the prompts' plane, fine enough to look at, nearly as thick as the thickest
    views = tuple(only) or THREE_VIEWS
    choices = [view for view in views if array_axis(volume, view) in _common_planes(own)]
    choices = [view for view in choices if usable(volume, view)] or choices or list(views)
    thickness = [volume.spacing_mm[array_axis(volume, view)] for view in choices]
    return next(view for view, mm in zip(choices, thickness, strict=True) if mm >= SAME_THICKNESS * max(thickness))


def _common_planes(own: Sequence[Prompt]) -> frozenset[int]:
    """Planes that all boxes and outlines lie in; those of the first of them where they share none."""
    shapes = [prompt for prompt in own if not isinstance(prompt, Point)]
    drawn = [prompt.planes() for prompt in shapes if says_where(prompt)] or [prompt.planes() for prompt in shapes]
    if not drawn:
        return frozenset({0, 1, 2})
    return frozenset.intersection(*drawn) or drawn[0]


def prompted_slices(volume: Volume, group: Group) -> dict[int, tuple[int, tuple[int, ...]]]:
    """Object → the array axis that it is prompted along, and the slices on which a prompt says where it is."""
    axis, axes = array_axis(volume, group.view), volume.orientation
    return {
        label: (axis, tuple(group.view.slice_index(t, volume.shape[axis], axes) for t, each in own.items() if _is_shown(each)))
        for label, own in group.prompts.items()
    }


def _is_shown(prompt: FramePrompt) -> bool:
    """Whether a person said where the object is."""
    return prompt.shows_object and prompt.estimate is None


def array_axis(volume: Volume, view: View) -> int:
    """The array axis that the frames of a view run along."""
    return view.order(volume.orientation)[0]


def voxel_at(volume: Volume, view: View, t: int, row: float, column: float) -> tuple[float, float, float]:
    """A place on a frame of a view as an index of the file; fractions are kept."""
    axes, index = volume.orientation, [0.0, 0.0, 0.0]
    for axis, flip, along in zip(view.order(axes), view.flipped(axes), (t, row, column), strict=True):
        index[axis] = volume.shape[axis] - 1 - along if flip else along
    return index[0], index[1], index[2]


def views_allowed(views: object) -> tuple[View, ...]:
    """The views that prompts may be taken from, as the user named them; empty where any will do; raises ConfigError."""
    if isinstance(views, str):
        return (PLANES[views],) if views in PLANES else ()
    listed = tuple(views) if isinstance(views, Iterable) else (views,)
    if strange := [each for each in listed if not isinstance(each, View)]:
        raise ConfigError(f"{repr(strange[0])[:60]} is no view", "give a name, such as 'three', or views, such as View('SPL')")
    if not listed:
        raise ConfigError("the list of views is empty", "give at least one view, or a name such as 'auto'")
    return cast("tuple[View, ...]", listed)


def several_named(views: object) -> bool:
    """Whether a user named more than one view."""
    return views in OF_SEVERAL if isinstance(views, str) else len(views_allowed(views)) > 1


def views_named(name: str | Sequence[View], volume: Volume, primary: View) -> tuple[tuple[View, ...], tuple[str, ...]]:
    """The views to track, the primary one first, and warnings about those left out.

    Args:
        name: "one", "three", "six", "auto", a plane ("axial" …), or views.
        volume: the image.
        primary: the view that holds the prompts.

    Raises:
        ConfigError: an unknown name.
    """
    # names are few and each has its own rule, so that a table would hold functions of one line
    if not isinstance(name, str):
        chosen = (primary, *(view for view in dict.fromkeys(name) if view != primary))
    elif name == "one" or name in PLANES:
        return (primary,), ()
    elif name in OF_SEVERAL:
        chosen = (primary, *(view for view in THREE_VIEWS if view.axis != primary.axis))
    else:
        raise ConfigError(f"unknown views {name!r}", f"choose one of one, three, six, auto, {', '.join(PLANES)}")
    strips = [view for view in chosen if view != primary and min(frame_shape(volume, view)) == 1]
    coarse = [view for view in chosen[1:] if name == "auto" and view not in strips and not usable(volume, view)]
    kept = tuple(view for view in chosen if view not in (*strips, *coarse))
    if name == "six":
        kept = tuple(each for view in kept for each in (view, view.reversed))
    return kept, _left_out_warnings(volume, strips, coarse)


def _left_out_warnings(volume: Volume, strips: Sequence[View], coarse: Sequence[View]) -> tuple[str, ...]:
    voxels = "×".join(str(n) for n in volume.shape)
    size = f"{voxels} voxels of {'×'.join(f'{mm:.3g}' for mm in volume.spacing_mm)} mm"
    reasons = {
        f"strips of a single row of pixels ({voxels} voxels)": strips,
        f"too coarse ({size}); `views=three` uses them all the same": coarse,
    }
    left_out = ((reason, dict.fromkeys(view.name for view in views)) for reason, views in reasons.items() if views)
    return tuple(f"{' and '.join(names)} slices are left out: {reason}" for reason, names in left_out)


def unused_prompts(volume: Volume, group: Group) -> list[str]:
    """Warnings about boxes and outlines in planes that are not tracked."""
    axes = {array_axis(volume, view) for view in group.views}
    return [
        f"a {type(prompt).__name__.lower()} of object {label} lies in a plane that is not tracked"
        + (": it counts on its own slice only" if isinstance(prompt, Mask | Lasso | Scribble | Brush) else " and was not used")
        for label, own in group.given.items()
        for prompt in own
        if not axes & prompt.planes() and not only_takes_away(prompt) and not isinstance(prompt, SliceRange)
    ]


def frame_shape(volume: Volume, view: View) -> tuple[int, int]:
    """Rows and columns of the slices of a view."""
    _, rows, columns = (volume.shape[axis] for axis in view.order(volume.orientation))
    return rows, columns


def usable(volume: Volume, view: View) -> bool:
    """Whether the slices of a view are fine enough to be looked at."""
    _, high, wide = view.spacing(volume.spacing_mm, volume.orientation)
    return max(high, wide) <= TOO_THICK * min(high, wide) and min(frame_shape(volume, view)) >= TOO_FEW


def order_outward(prompted: Iterable[int], frames: Iterable[int], start: int) -> tuple[list[int], list[int], list[int]]:
    """Prompted frames, the start last; from there to the end; from there back to the beginning."""
    first = [*sorted({*prompted} - {start}, reverse=True), start]
    rest = sorted(set(frames) - set(first))
    return first, [t for t in rest if t > start], [t for t in reversed(rest) if t < start]


def largest_frame(prompts: Mapping[int, FramePrompt]) -> int:
    """The frame on which the largest outline or box of an object was drawn; the first of several, and where none was."""
    return max(sorted(prompts), key=lambda t: prompts[t].drawn_area)


def by_window(volume: Volume, groups: Sequence[Group], name: str | Window) -> dict[Window, list[Group]]:
    """The groups, split where their objects are seen through different windows."""
    seen_through, windows = Windows(volume, name), dict[int, Window]()
    for group in groups:
        stack = group.view.apply(volume.array, volume.orientation)
        for label, frames in group.prompts.items():
            windows[label] = seen_through.of(np.concatenate([intensities(stack[t], prompt) for t, prompt in frames.items()]))
    parts: dict[Window, list[Group]] = {}
    for group in groups:
        for seen in dict.fromkeys(windows[label] for label in group.prompts):
            parts.setdefault(seen, []).append(group.part(label for label in group.prompts if windows[label] == seen))
    return parts


def bytes_of_object(volume: Volume, *, uncertainty: bool) -> int:
    """Memory that the sums of one object take; large volumes are summed in float16."""
    return volume.array.size * (2 if volume.array.size >= HALF_FROM_VOXELS else 4) * (1 + uncertainty)


def objects_at_once(volume: Volume, *, uncertainty: bool) -> int:
    """How many objects may wait at once to be decided."""
    return max(1, TOGETHER_BYTES // bytes_of_object(volume, uncertainty=uncertainty))


def order_objects(priority: Sequence[int | str], labels: Collection[int], names: Mapping[int, str]) -> tuple[int, ...]:
    """The labels of objects that are named by their names or numbers, in that order; a number goes before a name like it.

    Raises:
        ConfigError: no object is called so, several are, or one is named twice.
    """
    order: list[int] = []
    for word in priority:
        numbered = [label for label in labels if str(word) == str(label)]
        called = numbered or [label for label in labels if str(word) == names.get(label)]
        if len(called) != 1:
            known = ", ".join(str(label) if called else names.get(label) or str(label) for label in sorted(called or labels))
            remedy = f"name one of {'them by its number: ' * bool(called)}{known}"
            raise ConfigError(f"priority: {len(called) or 'no'} objects are called {word}", remedy)
        order += called
    if len(set(order)) < len(order):
        raise ConfigError("priority: an object is named twice", "name each once")
    return tuple(order)


def bytes_needed(volume: Volume, objects: int, image_size: int, *, probability: bool, uncertainty: bool) -> int:
    """Memory beside the image: sums of the objects that are tracked together, results, kept features, the network's work."""
    each = bytes_of_object(volume, uncertainty=uncertainty)
    sums = max(each, min(TOGETHER_BYTES, objects * each))
    results = volume.array.size * (4 * objects * probability + 8 * uncertainty + 8)
    features = min(KEPT_BYTES, sum(volume.shape) * FEATURE_BYTES * image_size**2)
    return sums + results + features + WORK_BYTES * image_size**2

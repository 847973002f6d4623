"""What is done to objects once they are outlined: islands, holes, parts, smoothness, size; in millimetres, whatever the grid.

*Islands*: tracking leaves crumbs far from the object, most of all beyond its ends. What a person pointed at is one thing, so
parts that are connected with no prompt are dropped. *Steps* are asked for. The order is always the same, whatever the order of
the options: holes are filled, the largest part is kept, the surface is smoothed, the object grows or shrinks, small parts are
dropped. Objects are taken by their labels, the smallest first. None takes a voxel of another one: what one would take of
another is left to it and reported, so that a voxel of the background that two would take goes to the smaller label.

Smoothing takes the signed distance to the surface through a Gaussian, and cuts it where the volume is as large as before.

Shapes: I J K voxels.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf, isfinite
from numbers import Real
from typing import cast

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import ConfigError, read_number, say_count
from medical_sam2.io.labels import object_boxes
from medical_sam2.prompts import Box, Mask, Prompt, check_object
from medical_sam2.strokes import Lasso, says_where
from medical_sam2.tracking.limits import Limits, describe_missed_points, give_back, labels_before, load_ndimage, touched_voxels
from medical_sam2.volume import Segmentation, add_to_layers, reassign, require_segmentation

KEPT = 0.02  # share of its volume that smoothing may change without a word
FARTHEST_MM = 500.0  # that an object may grow, shrink or be smoothed by: farther than any organ reaches
REACH = 4.0  # of a Gaussian, in standard deviations
LEAST_SIGMA = 0.5  # voxels: a narrower Gaussian leaves more weight to a voxel than to all others, and its side of the surface
MaskArray = NDArray[np.bool_]

BRIDGE = 2  # voxels of a gap across which parts still count as connected: a slice that tracking missed
CRUMB = 0.05  # of the largest part in a box: smaller ones are no part of what the box was drawn around
EVERYWHERE = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class FinishingSteps:
    """What is done to one object.

    Args:
        fill_holes: fill cavities that it encloses in 3D.
        largest: keep its largest part alone; voxels that touch by a corner hang together.
        smooth_mm: standard deviation of the Gaussian that its surface is smoothed by.
        grow_mm: how far it grows on every side; negative: shrinks.
        min_volume_ml: parts that are smaller are dropped.
    """

    fill_holes: bool = False
    largest: bool = False
    smooth_mm: float = 0.0
    grow_mm: float = 0.0
    min_volume_ml: float = 0.0

    def __post_init__(self) -> None:
        for what, given in vars(self).items():
            if not isinstance(given, bool if what in {"fill_holes", "largest"} else Real):
                raise ConfigError(f"{what}={repr(given)[:40]} makes no sense", "give True, False or a number, as it is meant")

    # Millimetres that no voxel is as small as do nothing: whoever wrote them may have meant another unit.
    def check(self, spacing_mm: Sequence[float]) -> None:
        """Refuse steps that cannot change anything.

        Raises:
            ConfigError: a length below the voxels (of a Gaussian: below half of them), or a number that is none.
        """
        numbers = {"smoothing": self.smooth_mm, "growing or shrinking": self.grow_mm, "a least volume": self.min_volume_ml}
        for what, number in numbers.items():
            if not isfinite(number) or (number < 0 and what != "growing or shrinking"):
                raise ConfigError(f"{what} by {number:g} makes no sense", "give a positive number")
        farthest = max(self.smooth_mm, abs(self.grow_mm))
        if farthest > FARTHEST_MM:
            raise ConfigError(f"{farthest:g} mm are farther than any organ reaches", f"give {FARTHEST_MM:g} mm at most")
        finest = min(spacing_mm)
        if 0 < abs(self.grow_mm) < finest:
            problem = f"growing or shrinking by {abs(self.grow_mm):g} mm changes nothing: voxels are {finest:.3g} mm at least"
            raise ConfigError(problem, "give more, or leave it out")
        if 0 < self.smooth_mm < LEAST_SIGMA * finest:
            problem = f"smoothing by {self.smooth_mm:g} mm changes nothing: voxels are {finest:.3g} mm at least"
            raise ConfigError(problem, "give more than half of that, or leave it out")
        if 0 < self.min_volume_ml * 1000 <= float(np.prod(spacing_mm)):
            problem = (
                f"a least volume of {self.min_volume_ml:g} mL drops nothing: a voxel has {np.prod(spacing_mm) / 1000:.3g} mL"
            )
            raise ConfigError(problem, "give more, or leave it out")


@dataclass(frozen=True)
class FinishingSettings:
    """What is done to all objects of an image, or to some of them, as a person says it.

    Args:
        fill_holes, largest: see `FinishingSteps`; of all objects.
        smooth: millimetres, "2" for all objects, "1=2" or "liver=2" for one; a later word counts.
        grow: millimetres, the same.
        shrink: millimetres, the same.
        min_volume: millilitres, the same.
    """

    fill_holes: bool = False
    largest: bool = False
    smooth: tuple[str, ...] = ()
    grow: tuple[str, ...] = ()
    shrink: tuple[str, ...] = ()
    min_volume: tuple[str, ...] = ()

    def steps(self, labels: Sequence[int], names: Mapping[int, str], *, known: bool = True) -> dict[int, FinishingSteps]:
        """Label → what is done to it; nothing where nothing is said.

        Args:
            labels: of the objects.
            names: label → name.
            known: whether who is named must be there.

        Raises:
            ConfigError: a number that is none, an object that there is not, one that is to grow and to shrink.
        """
        found = {option: _by_object(option, words, labels, names, known=known) for option, words in self._words.items()}
        if both := sorted(found["--grow"].keys() & found["--shrink"].keys()):
            raise ConfigError(f"object {both[0]} is to grow and to shrink", "give --grow or --shrink")
        sizes = found["--grow"] | {label: -by for label, by in found["--shrink"].items()}
        smooth, least = found["--smooth"], found["--min-volume"]
        steps = {
            label: FinishingSteps(
                self.fill_holes, self.largest, smooth.get(label, 0.0), sizes.get(label, 0.0), least.get(label, 0.0)
            )
            for label in labels
        }
        return {label: own for label, own in steps.items() if own != FinishingSteps()}

    def check(self, spacing_mm: Sequence[float] | None = None) -> None:
        """Refuse what is wrong whoever is meant, and what would change nothing in a grid.

        Raises:
            ConfigError: see `steps` and `FinishingSteps.check`.
        """
        for option, words in self._words.items():
            for _, _, number in _parse_words(option, words):
                alone = {"--smooth": FinishingSteps(smooth_mm=number), "--min-volume": FinishingSteps(min_volume_ml=number)}
                if spacing_mm is not None:
                    alone.get(option, FinishingSteps(grow_mm=number)).check(spacing_mm)

    def unknown(self, labels: Sequence[int], names: Mapping[int, str]) -> list[str]:
        """Words that speak of none of the objects, as they were typed."""
        return [
            f"{option} {word}"
            for option, words in self._words.items()
            for word in words
            if (who := _who_and_number(option, word)[0]) is not None and not _meant(who, labels, names)
        ]

    @property
    def _words(self) -> dict[str, tuple[str, ...]]:
        return {f"--{name.replace('_', '-')}": getattr(self, name) for name in ("smooth", "grow", "shrink", "min_volume")}


def _who_and_number(option: str, word: str) -> tuple[str | None, float]:
    """The object that "liver=2" speaks of, None where all are meant, and the number."""
    who, equals, text = word.rpartition("=")
    try:
        number = float(read_number(text))
    except (ValueError, OverflowError):
        number = 0.0
    if not 0 < number < inf:
        raise ConfigError(f"{option} {word}: {text!r} is no positive number", f"give {option} NUMBER or {option} NAME=NUMBER")
    return who if equals else None, number


def _meant(who: str | None, labels: Sequence[int], names: Mapping[int, str]) -> list[int]:
    named = [label for label in labels if who == str(label)]  # a number is an object's, whatever another one is called
    return named or [label for label in labels if who is None or who == names.get(label)]


def _parse_words(option: str, words: Sequence[str]) -> list[tuple[str, str | None, float]]:
    """Each word with the object that it names, None where all are meant, and its number; refuses a second one of an object."""
    parsed = [(word, *_who_and_number(option, word)) for word in words]
    for place, (word, who, _) in enumerate(parsed):
        if who in [before for _, before, _ in parsed[:place]]:
            raise ConfigError(f"{option} {word}: it is given twice", "give one number for each object")
    return parsed


def _by_object(
    option: str, words: Sequence[str], labels: Sequence[int], names: Mapping[int, str], *, known: bool
) -> dict[int, float]:
    """Label → number; a word that names an object goes before those that mean all."""
    found: dict[int, float] = {}
    parsed = _parse_words(option, words)
    for word, who, number in sorted(parsed, key=lambda each: each[1] is not None):
        meant = _meant(who, labels, names)
        if known and not meant:
            there = ", ".join(names.get(label, str(label)) for label in labels)
            raise ConfigError(f"{option} {word}: there is no object {who!r}", f"the objects are {there}")
        found |= dict.fromkeys(meant, number)
    return found


@dataclass(frozen=True)
class FinishingChange:
    """What one step did to one object."""

    object: int  # label
    step: str  # its name
    setting: float | bool  # of it, true where it has none
    before: int  # voxels
    after: int  # voxels
    left_to_others: int = 0  # voxels that it would have taken, and that another object has
    changed: int | None = None  # voxels that it took or gave up; None: an earlier version did not count them


def finish(
    found: Segmentation,
    steps: Mapping[int, FinishingSteps],
    prompts: Sequence[Prompt] = (),
    limits: Mapping[int, Limits] | None = None,
    earlier: NDArray[np.generic] | None = None,
) -> tuple[Segmentation, tuple[FinishingChange, ...]]:
    """A segmentation whose objects are finished, and what each step did; probabilities stay as they are.

    Args:
        found: objects, in a grid whose spacing is that of its affine.
        steps: label → what is done.
        prompts: an outline or a scribble among them that is changed is named in a warning.
        limits: label → what its prompts settle: nothing grows into what they leave out.
        earlier: labels (I, J, K) that were corrected: what a finished object took of one that nobody asked about, and gives up,
            goes back to it.

    Returns:
        The segmentation, with a warning for each outline that is changed, each object that has nothing left, gave voxels back
        or could not take what another one has, each length that changed nothing, and each volume that smoothing changed; and
        one row for each step and object.

    Raises:
        ConfigError: see `FinishingSteps.check`; or steps of an object that there is not.
        PromptError: a label that no object can have.
        InputError, FormatError: what is no Segmentation, or are no labels.
        GeometryError: earlier labels of another shape.
    """
    require_segmentation(found)
    spacing = np.linalg.norm(found.affine[:3, :3], axis=0)
    _check_steps(found, steps, prompts, spacing.tolist())
    changes, layers, bounds = list[FinishingChange](), list[NDArray[np.unsignedinteger]](), limits or {}
    before, told = labels_before(found, earlier), list[str]()
    labels = found.labels.astype(np.promote_types(found.labels.dtype, before.dtype))
    if found.layers:
        for label in found.objects():
            own = found.mask(label).astype(np.uint8)
            if label in steps:
                changes += (
                    replace(each, object=label) for each in _finish_object(own, 1, steps[label], spacing, bounds.get(label))
                )
            add_to_layers(layers, label, own != 0)
        reassign(labels, layers)
    else:
        for label in sorted(steps.keys() & object_boxes(found.labels).keys()):
            changes += _finish_object(labels, label, steps[label], spacing, bounds.get(label))
            told += give_back(labels, label, found.labels, before, {*steps, *(prompt.object for prompt in prompts)})
    done = replace(found, labels=labels, layers=tuple(layers))
    followed, missed = (describe_missed_points(each.maps, prompts) for each in (found, done))
    told += (f"{line}, since it was finished" for line in missed if line not in followed)
    warnings = [*_describe_changes(changes), *told, *_changed_drawings(found, done, steps.keys(), prompts, bounds)]
    return replace(done, warnings=(*found.warnings, *warnings)), tuple(changes)


def _check_steps(
    found: Segmentation, steps: Mapping[int, FinishingSteps], prompts: Sequence[Prompt], spacing: Sequence[float]
) -> None:
    """Refuse what are no steps, or of none of the objects: those that are there, and those that were asked for in vain."""
    for label, own in steps.items():
        check_object(label)
        if not isinstance(cast("object", own), FinishingSteps):
            problem = f"object {label} is to be finished by a {type(own).__name__}"
            raise ConfigError(problem, "give FinishingSteps, such as FinishingSteps(largest=True)")
        own.check(spacing)
    known = {*found.names, *(row.object for row in found.confidence), *(prompt.object for prompt in prompts)}
    if steps.keys() - known and (absent := steps.keys() - known.union(found.objects())):
        raise ConfigError(f"there is no object {min(absent)} to finish", "give labels of objects that are there")


def _finish_object(
    labels: NDArray[np.unsignedinteger],
    label: int,
    steps: FinishingSteps,
    spacing: NDArray[np.float64],
    limits: Limits | None,
) -> Iterator[FinishingChange]:
    """All steps on one object that is there, in place."""
    reach = (REACH * steps.smooth_mm + max(0.0, steps.grow_mm)) / spacing
    window = tuple(
        slice(max(0, side.start - ceil(far) - 1), side.stop + ceil(far) + 1)
        for side, far in zip(object_boxes(labels)[label], reach, strict=True)
    )
    part = labels[window]
    mask = part == label
    allowed, drawn = np.ones(part.shape, bool), np.zeros(part.shape, bool)  # by prompts: possible, inside
    if limits is not None:  # what was found within a correction may lie beyond them, and stays
        allowed = limits.apply(allowed, [side.start for side in window]) | mask
        drawn = limits.apply(drawn, [side.start for side in window], cut=False) & mask
    others = (part != 0) & ~mask
    for name, setting, step in _steps_of(steps, spacing):
        wanted = (step(mask) & allowed) | (drawn & mask & (name == "smooth_mm"))
        after = wanted & ~others
        taken, left, changed = (int(each.sum()) for each in (after, wanted & others, after ^ mask))
        yield FinishingChange(label, name, setting, int(mask.sum()), taken, left, changed)
        mask = after
        if not mask.any():
            break
    part[part == label] = 0
    part[mask] = label


def _steps_of(
    steps: FinishingSteps, spacing: NDArray[np.float64]
) -> Iterator[tuple[str, float | bool, Callable[[MaskArray], MaskArray]]]:
    """Name, setting and what does it, in the order in which they are done."""
    if steps.fill_holes:
        yield "fill_holes", True, fill_holes
    if steps.largest:
        yield "largest", True, lambda mask: _parts_from(mask, None)
    if steps.smooth_mm:
        yield "smooth_mm", steps.smooth_mm, lambda mask: smooth(mask, steps.smooth_mm, spacing)
    if steps.grow_mm:
        yield "grow_mm", steps.grow_mm, lambda mask: grow(mask, steps.grow_mm, spacing)
    if steps.min_volume_ml:
        least = steps.min_volume_ml * 1000 / float(np.prod(spacing))
        yield "min_volume_ml", steps.min_volume_ml, lambda mask: _parts_from(mask, least)


def fill_holes(mask: MaskArray) -> MaskArray:
    """A mask (I, J, K) with the cavities that it encloses."""
    return np.asarray(load_ndimage().binary_fill_holes(mask))


def smooth(mask: MaskArray, sigma_mm: float, spacing_mm: Sequence[float] | NDArray[np.float64]) -> MaskArray:
    """A mask (I, J, K), not empty, with a smooth surface and as many voxels as before."""
    inside, outside = (np.asarray(load_ndimage().distance_transform_edt(each, sampling=spacing_mm)) for each in (mask, ~mask))
    if mask.all():
        return mask
    far = load_ndimage().gaussian_filter(inside - outside, sigma_mm / np.asarray(spacing_mm), mode="nearest", truncate=REACH)
    count = int(mask.sum())
    level = np.partition(far, far.size - count, axis=None)[far.size - count]
    found = np.ravel(far > level)
    alike = [np.flatnonzero((far == level) & own) for own in (mask, ~mask)]
    found[np.concatenate(alike)[: count - int(found.sum())]] = True
    return found.reshape(mask.shape)


def grow(mask: MaskArray, by_mm: float, spacing_mm: Sequence[float] | NDArray[np.float64]) -> MaskArray:
    """A mask (I, J, K) with all voxels within a distance of it, or without those within that distance of what is outside.

    The distance is that of the voxels' centres; beyond the image there is nothing, so nothing shrinks away from its border.
    """
    if mask.all():
        return mask
    within = (
        np.asarray(load_ndimage().distance_transform_edt(~mask if by_mm > 0 else mask, sampling=spacing_mm))
        <= abs(by_mm) + 1e-9
    )
    return within if by_mm > 0 else mask & ~within


def _parts_from(mask: MaskArray, least: float | None) -> MaskArray:
    """The parts of at least so many voxels; the largest part where no number is given, the first of equals."""
    parts, _ = cast("tuple[NDArray[np.int32], int]", load_ndimage().label(mask, EVERYWHERE))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    kept = np.arange(len(sizes)) == sizes.argmax() if least is None else sizes >= least
    kept[0] = False
    return kept[parts]


def _describe_changes(changes: Sequence[FinishingChange]) -> Iterator[str]:
    for change in changes:
        step, setting = _as_typed(change)
        if change.left_to_others:
            yield f"object {change.object}: {say_count(change.left_to_others, 'voxel', 'were')} left to other objects ({step})"
        if not change.after:
            yield f"object {change.object} has nothing left ({step}{setting})"
        elif change.changed == 0 and setting and step != "--min-volume" and not change.left_to_others:
            yield f"object {change.object}: {step}{setting} changed no voxel"
        elif change.step == "smooth_mm" and abs(change.after - change.before) > KEPT * change.before:
            yield f"object {change.object}: smoothing changed its volume by {100 * (change.after / change.before - 1):+.1f} %"


def _as_typed(change: FinishingChange) -> tuple[str, str]:
    """The option that a step was asked for by, and its number."""
    name = change.step.rpartition("_")[0] if change.step.endswith(("_mm", "_ml")) else change.step
    shrinks = name == "grow" and change.setting < 0
    number = "" if change.setting is True else f" {abs(change.setting):g}"
    return f"--{'shrink' if shrinks else name.replace('_', '-')}", number


def _changed_drawings(
    before: Segmentation,
    after: Segmentation,
    labels: Container[int],
    prompts: Sequence[Prompt],
    limits: Mapping[int, Limits],
) -> Iterator[str]:
    """One line for each slice whose drawn outline is no longer as it was drawn, and each object that lost a scribble."""
    for label in sorted({prompt.object for prompt in prompts if prompt.object in labels}):
        was, now = before.mask(label), after.mask(label)
        if label in limits and (lost := int((was & ~now)[tuple(limits[label].inside.T)].sum())):
            yield f"object {label} lost {say_count(lost, 'scribbled voxel')}"
        drawn = [prompt for prompt in prompts if prompt.object == label and says_where(prompt)]
        slices = {place for prompt in drawn if isinstance(prompt, Mask | Lasso) for place in _slices_of(prompt, was.shape)}
        for axis, index in sorted(slices):
            place = tuple(index if a == axis else slice(None) for a in range(3))
            if changed := int((was[place] != now[place]).sum()):
                place_name = f"slice {index} of axis {'ijk'[axis]}"
                yield f"the outline of object {label} on {place_name} was changed by {changed} voxels"


def _slices_of(prompt: Mask | Lasso, shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Axis and index of each slice that something was outlined on."""
    planes = prompt.planes()
    axis = min(planes) if len(planes) == 1 or isinstance(prompt, Lasso) else 2
    drawn = np.argwhere(prompt.array_ijk) if isinstance(prompt, Mask) else prompt.region(shape, axis)
    yield from ((axis, index) for index in np.unique(drawn[:, axis]).tolist())


def remove_islands(labels: NDArray[np.unsignedinteger], prompts: Sequence[Prompt]) -> list[str]:
    """Drop, in place, the parts of each prompted object that no prompt of it touches; all stay where no part is touched.

    Args:
        labels: (I, J, K), in the order of the file.
        prompts: of any objects; clicks and outlines touch the parts they lie in, a box those inside of it that are not far
            smaller than the largest. Tracking missed no slice that was prompted, so that on the slice of a rectangle a crumb is
            one however near it lies.

    Returns:
        A line for each object of which parts in a box were dropped for their size.
    """
    boxes, told = object_boxes(labels), list[str]()
    for label in sorted({prompt.object for prompt in prompts}):
        box = boxes.get(label)
        if box is not None:
            own = [prompt for prompt in prompts if prompt.object == label]
            boxed, pointed = ([p for p in own if isinstance(p, Box) == is_box] for is_box in (True, False))
            flat = [each for each in boxed if len(each.planes()) == 1]
            shown = touched_voxels(pointed, labels.shape, box)
            near = _keep_touched(labels[box], label, shown, touched_voxels(flat, labels.shape, box), bridged=False)
            far = _keep_touched(labels[box], label, shown, touched_voxels(boxed, labels.shape, box), bridged=True)
            parts, voxels = (sum(counts) for counts in zip(near, far, strict=True))
            if parts:
                lost = f"{say_count(parts, 'small part')} in its box ({say_count(voxels, 'voxel')})"
                told.append(f"object {label} lost {lost}; `islands` keeps {'it' if parts == 1 else 'them'}")
    return told


def _keep_touched(
    part: NDArray[np.unsignedinteger], label: int, pointed: NDArray[np.bool_], boxed: NDArray[np.bool_], *, bridged: bool
) -> tuple[int, int]:
    """How many parts in a box were dropped for their size, and their voxels; across gaps, what nothing touches goes, too."""
    mask = part == label
    pieces, count = _label_parts(mask)
    if bridged and count > 1:
        del pieces  # as large as the box, and made anew
        pieces, count = _label_parts(load_ndimage().binary_dilation(mask, EVERYWHERE, iterations=BRIDGE // 2))
    if count < 2:
        return 0, 0
    shown, within = (_parts_at(pieces, mask, touched) for touched in (pointed, boxed))
    sizes = np.zeros(count + 1, np.int64)
    for inside, piece in zip(mask, pieces, strict=True):  # of all voxels at once it is several times as large as the box
        sizes += np.bincount(piece[inside], minlength=count + 1)
    keep = np.union1d(shown, within[sizes[within] >= CRUMB * sizes[within].max(initial=0)])
    if not len(keep):
        return 0, 0
    kept = np.full(count + 1, not bridged)
    kept[within], kept[keep] = False, True
    for slab, inside, piece in zip(part, mask, pieces, strict=True):  # no further array of the volume's size
        slab[inside & ~kept[piece]] = 0
    crumbs = within[~kept[within]]
    return len(crumbs), int(sizes[crumbs].sum())


def _label_parts(mask: NDArray[np.bool_]) -> tuple[NDArray[np.unsignedinteger] | NDArray[np.int32], int]:
    """The connected parts by number, in two bytes a voxel unless they are too many, and their count."""
    numbers = np.empty(mask.shape, np.uint16)
    try:
        return numbers, cast("int", load_ndimage().label(mask, EVERYWHERE, output=numbers))
    except RuntimeError:  # more than 65535
        del numbers
        return cast("tuple[NDArray[np.int32], int]", load_ndimage().label(mask, EVERYWHERE))


def _parts_at(pieces: NDArray[np.integer], mask: NDArray[np.bool_], touched: NDArray[np.bool_]) -> NDArray[np.integer]:
    """The numbers of the parts that are touched, in order."""
    slabs = zip(pieces, mask, touched, strict=True)  # no further array of the box's size
    return np.unique(np.concatenate([np.unique(piece[inside & hit]) for piece, inside, hit in slabs]))

"""Label maps and masks as they were drawn: one object or several, or a question."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import AmbiguousError, FormatError, InputError, MedicalSam2Error, PromptError
from medical_sam2.io import atomic, voxels
from medical_sam2.io.label_grid import turn_to_image
from medical_sam2.io.registry import JPEG, Options, Picture, read_file
from medical_sam2.io.safe_open import open_regular
from medical_sam2.plugins import suggestion
from medical_sam2.volume import MOST_OBJECTS, Colour, bounding_box

MADE_BY = "medsam2"  # what a label map calls the text that tells how it was made


THIN = 4  # pixels on either side of the middle of a line
WHITE = frozenset({255, 32_767, 65_535, 2**31 - 1, 2**32 - 1})
"""The largest number of a pixel: programs store "inside" as it. As the only number of a mask it is object 1."""
SHADE = 0.02
FEW, NEAR = 16, 2
"""More numbers than this, of which most differ from their neighbours by one or two places, are shades, not labels."""


@dataclass(frozen=True)
class Outline:
    """One object of a mask.

    Args:
        label: its number, from 1 to 65535.
        inside: where it is; of the mask's shape.
        name: what the mask calls it, "" where it does not.
        colour: in which the mask shows it, where it says so.
        notes: what is odd about the mask, one line each.
    """

    label: int
    inside: NDArray[np.bool_]
    name: str = ""
    colour: Colour | None = None
    notes: tuple[str, ...] = ()


NOWHERE = np.zeros(0, bool)
"""In the place of an outline's voxels where they are not asked for."""


@dataclass(frozen=True)
class MaskRule:
    """How the numbers of a mask are meant.

    Args:
        object: all that is drawn outlines this object; None: each number is an object, white alone is object 1.
        threshold: what is at least this number is drawn, all of it one object.
        each_label: each number is an object, whatever it looks like.
        value: only this number is drawn.
    """

    object: int | None = None
    threshold: float | None = None
    each_label: bool = False
    value: int | None = None


AS_DRAWN = MaskRule()
EMPTY = "the segmentation is empty", "outline at least one voxel"
NEEDS_NOTHING = "its segments need neither a threshold nor a page", "leave them out"


# The order counts: a threshold or a chosen number answers what would be asked about otherwise.
def outlines(array: NDArray[Any], rule: MaskRule = AS_DRAWN, *, lossy: bool = False) -> list[Outline]:
    """The objects that the numbers of a mask tell of, ascending.

    Args:
        array: (H, W) or (I, J, K) numbers, 0 where nothing is drawn.
        rule: how they are meant.
        lossy: the file's compression blurred them.

    Raises:
        AmbiguousError: they look like soft edges, shades or probabilities, not like labels; or like an inverted mask.
        FormatError: NaN, infinite or negative numbers.
        PromptError: nothing is drawn, or a number that no object can have.
    """
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise FormatError("it holds NaN or infinite values: it is no mask", "give labels from 0")
    if rule.threshold is not None:
        return [_reached(array >= rule.threshold, rule.object)]
    if array.dtype.kind != "b" and array.min(initial=0) < 0:
        raise FormatError("it holds negative values: it is no label map", "give labels from 0")
    numbers = _numbers(array)
    if not numbers:
        raise PromptError("the mask is empty", "outline something in it")
    if rule.value is not None:
        _require(rule.value, [int(number) for number in numbers])
        return [Outline(rule.object or rule.value, array == rule.value)]
    _ask_if_soft(array, numbers, rule, lossy)
    white = len(numbers) == 1 and (numbers[0] in WHITE or (array.dtype == np.int8 and numbers[0] == 127))
    if rule.object is not None or (white and not rule.each_label):
        found = [Outline(rule.object or 1, array != 0)]
    else:
        _check_label(numbers[-1])
        found = [Outline(int(number), array == number) for number in numbers]
    if not rule.each_label:
        _ask_if_inverted(found, numbers)
        _ask_if_undecided(found)
    return found


def select_outlines(found: Sequence[Outline], rule: MaskRule) -> list[Outline]:
    """The same for objects that a file tells apart by itself.

    Raises:
        PromptError: none has the number that is asked for, or one that no object can have.
    """
    if rule.value is not None:
        _require(rule.value, [outline.label for outline in found])
        found = [outline for outline in found if outline.label == rule.value]
    if rule.object is not None:
        return [Outline(rule.object, np.logical_or.reduce([outline.inside for outline in found]), notes=found[0].notes)]
    _check_label(max(outline.label for outline in found))
    return list(found)


def refuse_threshold(threshold: float | None) -> None:
    """Refuse a threshold for a file that says itself what is inside; raises InputError."""
    if threshold is not None:
        raise InputError(*NEEDS_NOTHING)


def _require(value: int, labels: Sequence[int]) -> None:
    if value not in labels:
        raise PromptError(f"it has no label {value}", suggestion(str(value), map(str, labels)))


def _check_label(label: float) -> None:
    if label > MOST_OBJECTS:
        remedy = f"number objects from 1 to {MOST_OBJECTS}, or say --object 1 where all are one object"
        raise PromptError(f"label {label:.0f} is too large", remedy)


def _reached(inside: NDArray[np.bool_], label: int | None) -> Outline:
    if not inside.any():
        raise PromptError("nothing of the mask reaches the threshold", "lower it")
    if inside.all():
        raise PromptError("all of the mask reaches the threshold: nothing is left outside", "raise it")
    return Outline(label or 1, inside)


def labels_in(array: NDArray[np.generic] | None) -> set[int]:
    """The labels that occur, background left out; none where there is no array."""
    return set[int]() if array is None else set(map(int, _numbers(array)))


def _numbers(array: NDArray[Any]) -> list[float]:
    """The numbers of a mask without 0, ascending; part by part, which takes little memory."""
    found: set[float] = set()
    for part in array:
        found.update(np.unique(part).tolist())
    return sorted(float(number) for number in found if number)


# A mask with soft edges read as labels would give hundreds of objects; what is doubtful is asked, with the options that answer.
def _ask_if_soft(array: NDArray[Any], numbers: list[float], rule: MaskRule, lossy: bool) -> None:
    fractions = any(number != int(number) for number in numbers)
    if rule.each_label and not fractions:
        return
    only_white = len(numbers) == 1 and numbers[0] in WHITE
    if fractions:
        problem = "its numbers are no integers: soft edges or probabilities"
    elif lossy and not only_white:
        problem = f"JPEG blurred its numbers ({len(numbers)} are left)"
    elif are_shades(array, numbers):
        problem = f"{len(numbers)} numbers lie in thin lines inside each other: soft edges, not labels"
    else:
        return
    half = numbers[-1] / 2 if fractions else np.ceil(numbers[-1] / 2)
    half = 0.5 if fractions and 0.5 <= numbers[-1] <= 1 else half  # of probabilities, whatever the largest is
    choices = [f"--threshold {half:g} (one object: what is at least {half:g})"]
    if not fractions and numbers[-1] <= MOST_OBJECTS:
        choices.append(f"--each-label ({len(numbers)} objects, one for each number)")
    raise AmbiguousError(problem, "say what is meant", choices=choices)


# Of black on white, or of a picture stored the other way round, the ground would be outlined, which looks plausible in a table.
def _ask_if_inverted(found: Sequence[Outline], numbers: Sequence[float]) -> None:
    for outline in found:
        part = _drawn_part(outline.inside)
        if part.ndim > 1 and part.all():
            problem = f"object {outline.label} covers all of the image, so that nothing tells it from what is outside"
            raise AmbiguousError(problem, "say what is meant", choices=["--each-label (as it is)", "another file"])
        if is_ground(outline.inside):
            as_drawn = f"--threshold {numbers[0]:g}" if len(found) == 1 else "--each-label"
            choices = [f"{as_drawn} (as it is)", "the inverted file (the hole is the object)"]
            problem = f"object {outline.label} covers all borders and most of the image, as the ground does: it looks inverted"
            raise AmbiguousError(problem, "say what is meant", choices=choices)


# Label maps of photographs (PASCAL VOC) draw a white line around each object, where nobody decided what it is.
def _ask_if_undecided(found: Sequence[Outline]) -> None:
    if len(found) < 2 or found[-1].label not in WHITE:
        return
    from scipy import ndimage  # takes a while to load

    white, others = found[-1].inside, np.logical_or.reduce([outline.inside for outline in found[:-1]])
    thin = not ndimage.binary_erosion(white, iterations=THIN).any()
    if thin and np.logical_and(white, ndimage.binary_dilation(others)).any():
        problem = f"{found[-1].label} lies in thin lines around other objects, as label maps mark what is undecided"
        choices = [f"--each-label (it is one of {len(found)} objects)", "the file with 0 there"]
        raise AmbiguousError(problem, "say what is meant", choices=choices)


def is_ground(inside: NDArray[np.bool_]) -> bool:
    """Whether what is drawn fills all four borders of slices, and more than half, around a hole.

    Where it lies on one slice, that is looked at; through the others of a volume, the hole may pass along one axis.
    """
    inside = _drawn_part(inside)
    filled = sum(bool(inside.take((0, -1), axis=axis).all()) for axis in range(inside.ndim))
    return bool(filled > 1 and not inside.all() and 2 * np.count_nonzero(inside) > inside.size)


def _drawn_part(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The slice that an object lies on, where it is one; else all."""
    flat = [side.start if side.stop - side.start == 1 else slice(None) for side in bounding_box(inside)]
    return inside[tuple(flat)]


def are_shades(array: NDArray[Any], numbers: list[float]) -> bool:
    """Whether numbers pass into each other as grey values do at soft edges.

    Three signs, each of which is enough. Beside white there is almost white. Or most numbers are mostly met in lines and
    crumbs a pixel wide: on the way from a smaller to a larger neighbour (soft edges), or among other numbers without a
    neighbour of their own (JPEG). Or there are many numbers, and neighbours that differ are next to each other in their order
    (wide blurs, photographs). Labels of anatomy lie beside labels of any number, and are wider than a pixel.
    """
    white = numbers[-1] in WHITE
    if len(numbers) < (2 if white else 3):
        return False
    if white and numbers[-2] > (1 - SHADE) * numbers[-1] and len(numbers) < numbers[-1] / 2:
        return True
    size = len(numbers) + 1
    thin, total, steps = np.zeros(size), np.zeros(size), np.zeros(size)
    table = np.array([0, *numbers], array.dtype)
    for slab in _slabs(array[_box(array)]):
        ranks = np.searchsorted(table, slab).astype(np.int32)
        total += np.bincount(ranks.ravel(), minlength=size)
        thin += np.bincount(ranks[_passed(ranks) | _loose(ranks)], minlength=size)
        for axis in range(ranks.ndim):
            steps += np.bincount(np.abs(np.diff(ranks, axis=axis)).ravel(), minlength=size)
    steps[0] = 0
    smooth = len(numbers) > FEW and steps[1 : NEAR + 1].sum() > steps.sum() / 2
    return bool(smooth or 2 * (thin[1:] >= total[1:] / 2).sum() >= len(numbers))


def _box(array: NDArray[Any]) -> tuple[slice, ...]:
    """The part that holds all that is drawn, and a pixel more."""
    return tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in bounding_box(array))


def _slabs(box: NDArray[Any], most: int = 1 << 24) -> Iterator[NDArray[Any]]:
    """Parts of a mask, so that a large one takes no multiple of its memory."""
    rows = max(3, most // max(1, box[0].size))
    yield from (box[start : start + rows] for start in range(0, len(box), rows))


def _passed(ranks: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Where a smaller number lies on one side and a larger one on the other, along any axis."""
    found = np.zeros(ranks.shape, bool)
    for axis in range(ranks.ndim):
        if ranks.shape[axis] < 3:
            continue
        along, inside = np.moveaxis(ranks, axis, 0), np.moveaxis(found, axis, 0)
        rises = along[1:] > along[:-1]
        falls = along[1:] < along[:-1]
        inside[1:-1] |= (rises[1:] & rises[:-1]) | (falls[1:] & falls[:-1])
    return found


def _loose(ranks: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Where no neighbour along any axis has the same number, and one has another that is not 0."""
    alone, beside = ranks > 0, np.zeros(ranks.shape, bool)
    for axis in range(ranks.ndim):
        along, alone_, beside_ = (np.moveaxis(one, axis, 0) for one in (ranks, alone, beside))
        equal = along[1:] == along[:-1]
        alone_[1:] &= ~equal
        alone_[:-1] &= ~equal
        beside_[1:] |= ~equal & (along[:-1] > 0)
        beside_[:-1] |= ~equal & (along[1:] > 0)
    return alone & beside


def object_boxes(labels: NDArray[np.integer]) -> dict[int, tuple[slice, ...]]:
    """Label → the smallest box around its voxels, found in one pass; 0 is left out."""
    from scipy import ndimage  # takes a while to load

    if labels.size and labels.max() <= MOST_OBJECTS:
        return {label: box for label, box in enumerate(ndimage.find_objects(labels), start=1) if box is not None}
    values, places = np.unique(labels, return_inverse=True)  # find_objects makes a list as long as the largest label
    boxes = ndimage.find_objects(places.reshape(labels.shape) + 1)
    return {int(value): box for value, box in zip(values, boxes, strict=True) if value != 0}


WIDE = 255


def read_label_map(path: Path, page: int | None = None, *, like: Picture | None = None) -> NDArray[np.generic]:
    """The number of each pixel (H, W) of one image: a picture, or a NIfTI, NRRD or DICOM file of one slice.

    A palette counts by its numbers, not its colours, and a TIFF by those that it stores, also where 0 is shown as white. What
    is transparent holds 0, and what is opaque and of one colour is drawn, whatever that colour is.

    Args:
        path: the file.
        page: page or time point of it, from 0.
        like: the image that it belongs to, in whose order of pixels they come where both files say where these lie.

    Raises:
        FormatError: colours, or transparency that says something else than the numbers do.
        GeometryError: a volume, or turned otherwise than the image, or another place in the patient.
        AmbiguousError: several pages, and none was named.
    """
    try:
        picture = voxels.as_picture(read_file(path, Options(frame=page, clean=False)), path)
        if like is not None:
            picture = turn_to_image(picture, like)
        numbers = voxels.one_channel(picture.array) if picture.colour else picture.array
        return numbers if picture.alpha is None else _visible(numbers, picture.alpha)
    except MedicalSam2Error as error:
        raise error.about(path) from None


def is_lossy(path: Path) -> bool:
    """Whether its compression changed numbers."""
    with open_regular(path) as stream:
        return JPEG.matches(stream.read(3))


def _visible(numbers: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """What a mask with transparency shows: its numbers where it is opaque, or how opaque it is where it has one number only."""
    if alpha.min() == alpha.max():
        return numbers  # equally opaque everywhere, or a channel that nobody filled
    opaque = alpha > 0
    sharp = np.array_equal(opaque, alpha == alpha.max())
    shown = np.unique(numbers[opaque])
    if sharp and shown[0] and not (len(shown) == 1 and shown[0] in WHITE):
        return np.where(opaque, numbers, 0)
    if len(shown) == 1 and not opaque.all():
        return np.where(opaque, np.uint8(WIDE), np.uint8(0)) if sharp else alpha
    problem = "its transparency and its numbers say different things about what is drawn"
    raise FormatError(problem, "save it in grey, without transparency")


def save_label_map(labels: NDArray[np.unsignedinteger], path: Path, turned: int = 1, made_by: str = "") -> None:
    """Write labels as a PNG, of 16 bits where a label is larger than 255; whole or not at all.

    Args:
        labels: (H, W), as the image is stored.
        path: the file.
        turned: EXIF orientation of the image, so that viewers turn both alike.
        made_by: kept in the file as a text called `MADE_BY`.

    Raises:
        FormatError: a label beyond 65535.
        InputError, ResourceError: it cannot be written.
    """
    if labels.max(initial=0) > MOST_OBJECTS:
        remedy = f"number objects from 1 to {MOST_OBJECTS}"
        raise FormatError(f"label {labels.max()} does not fit into a PNG", remedy, subject=path)
    from PIL import ExifTags, Image, PngImagePlugin  # takes a while to load

    stream, exif, info = BytesIO(), Image.Exif(), PngImagePlugin.PngInfo()
    if made_by:
        info.add_text(MADE_BY, made_by)
    if turned != 1:
        exif[ExifTags.Base.Orientation] = turned
    deep = labels.dtype.itemsize > 1 and labels.max(initial=0) > WIDE
    image, how = Image.fromarray(labels.astype(np.uint16 if deep else np.uint8)), {"compress_level": atomic.EFFORT}
    image.save(stream, "PNG", exif=exif, pnginfo=info, **how)
    atomic.write_bytes(path, stream.getvalue())

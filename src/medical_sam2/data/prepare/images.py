"""What is done to an image: cropped, its intensities normalised, its label map cut into objects, its slices made smaller.

Intensities, in the order of METHOD §4: crop to non-zero, clip as the modality asks for, minus mean over standard deviation;
inside the mask of non-zero alone where cropping took away a quarter or more. Objects: one for each structure, and one for each
of its connected components. Slices lie in the two axes of highest resolution; nothing is resampled from slice to slice.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medical_sam2.data.cases import Pixel
from medical_sam2.errors import FormatError
from medical_sam2.intensity_window import PERCENTILES, Window
from medical_sam2.tracking.limits import load_ndimage
from medical_sam2.views import AXIAL, CORONAL, SAGITTAL, View
from medical_sam2.volume import Volume, bounding_box

CLIPPED = {"MR", "DX", "CR", "XA", "RF", "CBCT", "US", "IVUS", "MG", "OCT", "OPT"}
"""MR, X-ray (cone-beam CT among it: no Hounsfield units), ultrasound, mammography, optical coherence tomography."""
HOUNSFIELD = "CT"
MUCH = 0.75  # of the voxels are left: from here on, what is left decides
Rule = Literal["window", "percentiles", "whole"]


def rule_for(modality: str) -> Rule:
    """What is clipped: CT by window and foreground, MR and its like by percentiles, the rest not at all."""
    if modality == HOUNSFIELD:
        return "window"
    return "percentiles" if modality in CLIPPED else "whole"


@dataclass(frozen=True)
class Levels:
    """How the intensities of an image were changed."""

    low: float  # intensities under it were raised to it; it becomes black
    high: float  # likewise, white
    mean: float  # subtracted
    std: float  # divided by

    def normalise(self, array: NDArray[Any], inside: NDArray[np.bool_] | None) -> NDArray[np.float32]:
        """Clipped, minus mean, over standard deviation; 0 outside of the mask."""
        z = ((np.clip(array.astype(np.float64), self.low, self.high) - self.mean) / self.std).astype(np.float32)
        if inside is not None:
            z[~inside] = 0
        return z

    def grey(self, array: NDArray[Any], bits: int = 8) -> NDArray[Pixel]:
        """The same intensities from black, 0, to white, the largest number of so many bits."""
        seen = Window(self.low, self.high)
        return seen.as_bytes(array) if bits == 8 else np.rint(WHITE * seen.apply(array)).astype(np.uint16)


def levels_of(array: NDArray[Any], inside: NDArray[np.bool_] | None, rule: Rule) -> Levels:
    """The levels of one image by itself; raises FormatError if all its intensities are the same."""
    values = (array if inside is None else array[inside]).astype(np.float64).ravel()
    low, high = (
        float(x) for x in (np.percentile(values, PERCENTILES) if rule == "percentiles" else (values.min(), values.max()))
    )
    if high <= low:
        low, high = float(values.min()), float(values.max())
    clipped = np.clip(values, low, high)
    std = float(clipped.std(dtype=np.float64))
    if std == 0:
        raise FormatError("all its intensities are the same: there is nothing to see", "remove or replace the image")
    return Levels(low, high, float(clipped.mean(dtype=np.float64)), std)


@dataclass(frozen=True)
class ContentBox:
    """The box around what is not zero."""

    box: tuple[slice, ...]  # slices of each axis
    # within the box, what is not zero with its holes filled; None where cropping took away little
    inside: NDArray[np.bool_] | None


def cut_to_content(images: Sequence[NDArray[Any]], labels: NDArray[Any] | None) -> ContentBox:
    """Where any channel is not zero; labels are never cut off; raises FormatError if everything is zero."""
    content = np.logical_or.reduce([image != 0 for image in images])
    kept = content if labels is None else content | (labels > 0)
    if not content.any():
        raise FormatError("all its intensities are zero: there is nothing to see", "remove or replace the image")
    box = bounding_box(kept)
    inner = kept[box]
    filled = None if inner.size > MUCH * kept.size else np.asarray(load_ndimage().binary_fill_holes(inner), bool)
    return ContentBox(box, filled)


BINS = 4096
WHITE = 65535  # of 16 bits
Depth = TypeVar("Depth", np.uint8, np.uint16, Pixel)


def count_foreground(values: NDArray[Any], window_hu: tuple[float, float]) -> NDArray[np.int64]:
    """Voxels in each of BINS bins from the low to the high end of a window; counts add up, in any order, to the same sum."""
    return np.histogram(np.clip(values.astype(np.float32), *window_hu), BINS, range=window_hu)[0].astype(np.int64)


def levels_of_all(histograms: Iterable[NDArray[np.int64]], window_hu: tuple[float, float]) -> Levels:
    """Percentiles of the foreground of all cases, and its mean and standard deviation between them.

    Raises:
        FormatError: no case has a foreground, or all of it has one intensity.
    """
    counts = sum(histograms, np.zeros(BINS, np.int64))
    total = int(counts.sum())
    if total == 0:
        raise FormatError("no case has a voxel to take the scale of the CT from", "check the images and labels")
    low_hu, high_hu = window_hu
    centres = low_hu + (np.arange(BINS) + 0.5) * (high_hu - low_hu) / BINS
    places = np.searchsorted(np.cumsum(counts), [total * share / 100 for share in PERCENTILES])
    low, high = (float(x) for x in centres[np.minimum(places, BINS - 1)])
    clipped = np.clip(centres, low, high)
    mean = float((counts * clipped).sum() / total)
    std = float(np.sqrt((counts * (clipped - mean) ** 2).sum() / total))
    if std == 0:
        raise FormatError(f"the foreground has one intensity within {low_hu:g} to {high_hu:g} HU", "choose another window")
    return Levels(low, high, mean, std)


MOST_VALUES = 255
BUDGETS = (64, 16, 4, 0)
"""Components of a structure that get a number of their own; fewer where a byte cannot tell them all apart."""


@dataclass(frozen=True)
class DroppedObject:
    """A mask, or an image, that is nothing to train on."""

    structure: str  # its name; "" where all of the image is meant
    component: int  # 0 for the whole structure
    share: float  # of the slice, where it covers most
    why: str  # in words


@dataclass(frozen=True)
class TrainingObject:
    """Something to outline."""

    structure: str  # its name in the data set
    component: int  # 0 for all of the structure, else which connected component, the largest first
    values: tuple[int, ...]  # of the map of parts whose union it is


@dataclass(frozen=True, eq=False)
class LabelParts:
    """A label map cut into parts, so that every object is a union of some."""

    map: NDArray[np.uint8]  # uint8, 0 is background, of the labels' shape
    objects: tuple[TrainingObject, ...]  # whole structures that are there, each before its components
    crumbs: Mapping[str, int]  # components of each structure that are too small or too many to be told apart


def split_labels(
    labels: NDArray[Any], structures: Mapping[str, Sequence[int]], *, components: bool, least: float
) -> LabelParts:
    """Cut a label map into parts.

    Args:
        labels: of any shape.
        structures: name → values of the map; they may overlap.
        components: whether connected components are told apart.
        least: voxels under which a component is not worth it.

    Raises:
        FormatError: more structures than a byte can tell apart.
    """
    places = np.flatnonzero(labels)
    for budget in BUDGETS if components else (0,):
        owners = {name: _label_components(labels, places, tuple(values), budget, least) for name, values in structures.items()}
        numbers, kinds = _combine_owners([owner for owner, _ in owners.values()], len(places))
        if len(kinds) <= MOST_VALUES:
            flat = np.zeros(labels.size, np.uint8)
            flat[places] = numbers + 1
            crumbs = {name: n for name, (_, n) in owners.items() if n}
            return LabelParts(flat.reshape(labels.shape), _list_objects(tuple(structures), kinds), crumbs)
    raise FormatError(f"its structures overlap in more than {MOST_VALUES} ways", "prepare fewer of them at once")


def _label_components(
    labels: NDArray[Any], places: NDArray[np.intp], values: tuple[int, ...], budget: int, least: float
) -> tuple[NDArray[np.int32], int]:
    """At these places 1 for the structure, from 2 for its components, the largest first; and how many were left at 1."""
    inside = np.isin(labels, values)
    owner = inside.astype(np.int32)
    if not budget or not inside.any():
        return owner.ravel()[places], 0
    box = load_ndimage().find_objects(owner)[0]
    found = np.zeros(inside[box].shape, np.int32)
    count = int(load_ndimage().label(inside[box], np.ones((3,) * labels.ndim), found))
    if count < 2:
        return owner.ravel()[places], 0
    sizes = np.bincount(found.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")[:budget]
    kept = [int(n) for n in order if sizes[n] >= least]
    table = np.ones(count + 1, np.int32)
    table[0] = 0
    if len(kept) > 1:
        table[[n + 1 for n in kept]] = np.arange(2, 2 + len(kept))
    owner[box] = table[found]
    return owner.ravel()[places], count - len(kept)


def _combine_owners(owners: Sequence[NDArray[np.int32]], places: int) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """For each labelled voxel the number of its combination of owners, and (K, structures) those combinations."""
    rows = np.stack(owners, axis=1)
    code = np.zeros(places, np.int64)
    for column in range(rows.shape[1]):
        code = np.unique(code * (int(rows[:, column].max(initial=0)) + 1) + rows[:, column], return_inverse=True)[1].ravel()
    _, first, numbers = np.unique(code, return_index=True, return_inverse=True)
    return numbers.ravel(), rows[first]


def _list_objects(names: tuple[str, ...], kinds: NDArray[np.int32]) -> tuple[TrainingObject, ...]:
    found: list[TrainingObject] = []
    for column, name in enumerate(names):
        owners = kinds[:, column]
        if owners.any():
            found.append(TrainingObject(name, 0, _part_values(owners > 0)))
            found += [TrainingObject(name, int(n) - 1, _part_values(owners == n)) for n in np.unique(owners[owners > 1])]
    return tuple(found)


def _part_values(chosen: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(place) + 1 for place in np.flatnonzero(chosen))


def select_objects(
    found: LabelParts, counts: NDArray[np.int64], smallest: float
) -> tuple[tuple[TrainingObject, ...], tuple[DroppedObject, ...]]:
    """Objects that are large enough to train on, and those that are not.

    Args:
        counts: (T, 256) pixels of each value on each slice.
        smallest: share of a slice that an object must cover on one of them.
    """
    # A structure with a single component that is large enough would be the same object twice.
    kept: list[TrainingObject] = []
    dropped = [
        DroppedObject(name, -1, 0.0, f"{n} components, too small or too many to count each") for name, n in found.crumbs.items()
    ]
    for one in found.objects:
        share = float((counts[:, list(one.values)].sum(axis=1) / counts.sum(axis=1)).max())
        if share > 0 and share >= smallest:
            kept.append(one)
        else:
            dropped.append(
                DroppedObject(
                    one.structure, one.component, round(share, 7), f"it covers less than {smallest:.3%} of each slice"
                )
            )
    alone = {name for name in {one.structure for one in kept} if sum(one.structure == name for one in kept) == 2}
    return tuple(one for one in kept if one.structure not in alone or one.component == 0), tuple(dropped)


SAME = 1.05  # spacings that differ by less are the same


def choose_view(volume: Volume) -> View:
    """The view whose slices lie in the two axes of highest resolution; the file's own slices where all are alike."""
    spacing = volume.spacing_mm
    through = max((2, 1, 0), key=spacing.__getitem__)
    if spacing[through] < SAME * spacing[2]:
        through = 2
    return next(view for view in (AXIAL, CORONAL, SAGITTAL) if view.order(volume.orientation)[0] == through)


def shrink_shape(shape_hw: tuple[int, int], size: int) -> tuple[int, int]:
    """Height and width when the longer side shrinks to `size`; smaller slices stay as they are."""
    scale = min(1.0, size / max(shape_hw))
    height, width = (max(1, round(side * scale)) for side in shape_hw)
    return height, width


def resize_slices(pictures: NDArray[Depth], shape_hw: tuple[int, int], *, nearest: bool = False) -> NDArray[Depth]:
    """Each picture of a stack (T, H, W) or (T, H, W, 3) at another size: bicubic for images, nearest for labels."""
    if pictures.shape[1:3] == shape_hw:
        return np.ascontiguousarray(pictures)
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC
    size = (shape_hw[1], shape_hw[0])
    if pictures.dtype == np.uint16:  # Pillow interpolates bytes and floats alone
        deep = (Image.fromarray(np.ascontiguousarray(one, np.float32)).resize(size, method) for one in pictures)
        return np.stack([np.rint(np.asarray(one).clip(0, WHITE)).astype(pictures.dtype) for one in deep])
    return np.stack([np.asarray(Image.fromarray(np.ascontiguousarray(one)).resize(size, method)) for one in pictures])


def count_pixels(parts_thw: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(T, 256) pixels of each value on each slice."""
    return np.stack([np.bincount(one.ravel(), minlength=256) for one in parts_thw])


def as_slice(array_hw: NDArray[Any]) -> NDArray[Any]:
    """A picture (H, W) as a volume of one slice in the order of NIfTI: (W, H, 1)."""
    return np.ascontiguousarray(array_hw.T)[:, :, None]

"""Binary tasks out of a label map: one for each structure, and one for each of its connected components (METHOD §4).

And volumes as stacks of slices to train on: over the two axes of highest resolution, never resampled from slice to slice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from medical_sam2.data.prepare.units import DroppedObject
from medical_sam2.errors import FormatError
from medical_sam2.views import AXIAL, CORONAL, SAGITTAL, View
from medical_sam2.volume import Volume

MOST_VALUES = 255
BUDGETS = (64, 16, 4, 0)
"""Components of a structure that get a number of their own; fewer where a byte cannot tell them all apart."""


@dataclass(frozen=True)
class TrainingObject:
    """Something to outline.

    Args:
        structure: its name in the data set.
        component: 0 for all of the structure, else which connected component, the largest first.
        values: of the map of parts whose union it is.
    """

    structure: str
    component: int
    values: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class LabelParts:
    """A label map cut into parts, so that every object is a union of some.

    Args:
        map: uint8, 0 is background, of the labels' shape.
        objects: whole structures that are there, each before its components.
        crumbs: components of each structure that are too small or too many to be told apart.
    """

    map: NDArray[np.uint8]
    objects: tuple[TrainingObject, ...]
    crumbs: Mapping[str, int]


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
    box = ndimage.find_objects(owner)[0]
    found = np.zeros(inside[box].shape, np.int32)
    count = int(ndimage.label(inside[box], np.ones((3,) * labels.ndim), found))  # type: ignore[arg-type]
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
        found: the parts.
        counts: (T, 256) pixels of each value on each slice.
        smallest: share of a slice that an object must cover on one of them.
    """
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


def count_objects(objects: Sequence[TrainingObject]) -> dict[str, int]:
    """Structure → how many objects of it."""
    names = [one.structure for one in objects]
    return {name: names.count(name) for name in dict.fromkeys(names)}


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


def resize_slices(pictures: NDArray[np.uint8], shape_hw: tuple[int, int], *, nearest: bool = False) -> NDArray[np.uint8]:
    """Each picture of a stack (T, H, W) or (T, H, W, 3) at another size: bicubic for images, nearest for labels."""
    if pictures.shape[1:3] == shape_hw:
        return np.ascontiguousarray(pictures)
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC
    size = (shape_hw[1], shape_hw[0])
    return np.stack([np.asarray(Image.fromarray(np.ascontiguousarray(one)).resize(size, method)) for one in pictures])


def count_pixels(parts_thw: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(T, 256) pixels of each value on each slice."""
    return np.stack([np.bincount(one.ravel(), minlength=256) for one in parts_thw])


def as_slice(array_hw: NDArray[Any]) -> NDArray[Any]:
    """A picture (H, W) as a volume of one slice in the order of NIfTI: (W, H, 1)."""
    return np.ascontiguousarray(array_hw.T)[:, :, None]

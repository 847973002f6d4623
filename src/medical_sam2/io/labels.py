"""Label maps that belong to an image: the same grid in the patient, or refused; never matched by index alone."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import FormatError, GeometryError
from medical_sam2.io import values
from medical_sam2.io.grid import distance
from medical_sam2.volume import Volume

SAME_MM = 1e-3


def fit(labels: Volume, like: Volume) -> Volume:
    """The labels in the voxel order of `like`, as unsigned integers.

    Raises:
        FormatError: values that are no labels.
        GeometryError: another grid.
    """
    return turned(replace(labels, array=integers(labels.array, labels.source)), like)


def turned(labels: Volume, like: Volume) -> Volume:
    """The same numbers in the voxel order of `like`.

    Raises:
        GeometryError: another grid.
    """
    found = _oriented(labels, like)
    if found.shape != like.shape or _apart(labels, like) > SAME_MM:
        _refuse(labels, like)
    return replace(found, affine=like.affine)


def placed(labels: Volume, like: Volume) -> Volume:
    """The same numbers in the grid of `like`, of which they cover a part, or which they exceed where nothing is drawn.

    Raises:
        GeometryError: another grid, or something is drawn outside of the image.
    """
    found = _oriented(labels, like)
    first = np.linalg.inv(like.affine) @ found.affine
    start = np.rint(first[:3, 3]).astype(int)
    beginning = like.affine.copy()
    beginning[:3, 3] += like.affine[:3, :3] @ start
    if distance(found.affine, beginning, found.shape) > SAME_MM:
        _refuse(labels, like)
    low = np.clip(start, 0, like.shape)
    high = np.clip(start + found.shape, low, like.shape)
    array = np.zeros(like.shape, found.array.dtype)
    part = found.array[tuple(slice(*side) for side in zip(low - start, high - start, strict=True))]
    array[tuple(slice(*side) for side in zip(low, high, strict=True))] = part
    if outside := np.count_nonzero(found.array) - np.count_nonzero(part):
        problem = f"{outside} of its voxels lie outside of the image"
        raise GeometryError(problem, "give the segmentation of this image, or crop it to the image", subject=labels.source)
    return replace(found, array=array, affine=like.affine)


def _oriented(labels: Volume, like: Volume) -> Volume:
    """The same voxels in the same places, their axes in the order and direction of `like`."""
    turn = np.linalg.inv(like.affine) @ labels.affine
    signed = np.rint(turn[:3, :3]).astype(int)
    if (
        np.abs(turn[:3, :3] - signed).max() > 1e-2
        or (np.abs(signed).sum(axis=0) != 1).any()
        or (np.abs(signed).sum(axis=1) != 1).any()
    ):
        _refuse(labels, like)
    order = np.abs(signed).argmax(axis=1)
    flips = signed[np.arange(3), order] < 0
    array = labels.array.transpose(order)[tuple(slice(None, None, -1 if flip else None) for flip in flips)]
    affine = labels.affine[:, [*order, 3]].copy()
    for axis in np.flatnonzero(flips):
        affine[:, 3] += affine[:, axis] * (array.shape[axis] - 1)
        affine[:, axis] *= -1
    notes = list(labels.warnings)
    if flips.any() or (order != np.arange(3)).any():
        notes.append(f"the labels were stored as {labels.orientation}; they were turned to the image's {like.orientation}")
    return replace(labels, array=array, affine=affine, warnings=tuple(notes))


def _apart(labels: Volume, like: Volume) -> float:
    """Largest distance in mm between corresponding corners of both boxes of voxels."""
    corners = np.array([[*corner, 1.0] for corner in product(*((0, size - 1) for size in labels.shape))])
    others = np.array([[*corner, 1.0] for corner in product(*((0, size - 1) for size in like.shape))])
    mine, theirs = (corners @ labels.affine.T)[:, :3], (others @ like.affine.T)[:, :3]
    return float(np.linalg.norm(mine[:, None] - theirs[None], axis=2).min(axis=1).max())


def _refuse(labels: Volume, like: Volume) -> NoReturn:
    if sorted(labels.shape) != sorted(like.shape):
        problem = f"the labels have shape {labels.shape}, the image {like.shape}"
    elif labels.shape == like.shape:
        apart = distance(labels.affine, like.affine, like.shape)
        problem = f"the labels lie up to {apart:.3g} mm away from the image's voxels (affine and orientation differ)"
    else:
        problem = f"the labels {labels.shape} and the image {like.shape} do not share a grid"
    raise GeometryError(problem, "resample the labels to the image's grid", subject=labels.source)


def integers(array: NDArray[Any], subject: Path | None) -> NDArray[Any]:
    """The array as the smallest unsigned integers that hold it.

    Raises:
        FormatError: fractions, NaN or negative numbers.
    """
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or not (array == np.rint(array)).all():
            raise FormatError(
                "its values are not integers: it is no label map", "give labels, not probabilities", subject=subject
            )
        array = array.astype(np.int64)
    if array.dtype != bool and array.min() < 0:
        raise FormatError("it holds negative values: it is no label map", "give labels from 0", subject=subject)
    return values.compact(array)

"""Label maps in the grid of their image, whatever the order of their voxels, or refused: volumes, and single 2D images."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import ConfigError, FormatError, GeometryError
from medical_sam2.io import voxels
from medical_sam2.io.registry import Loaded, Options, Picture
from medical_sam2.io.voxels import SAME_MM, grid_distance, thin_axis
from medical_sam2.volume import Volume

Found = TypeVar("Found")
ACROSS = range(5, 9)
"""EXIF orientations with which rows are shown as columns."""


# Labels mostly have the header of their image: where its two forms contradict each other, so do theirs.
def read_as_image(read: Callable[[Path, Options], Found], path: Path, options: Options, like: Volume) -> Found:
    """Labels by the form (sform or qform) that was chosen for their image; as they are where they have no such form.

    Args:
        read: `read_file` or `read_grid` of `registry`; what it raises is raised.
        path: the labels.
        options: how they are read, but for the form.
        like: the image.
    """
    chosen = like.geometry_from if isinstance(like, Loaded) else None
    if chosen is not None:
        with suppress(GeometryError, ConfigError):  # it is not set, or cannot be used; or this is no NIfTI
            return read(path, replace(options, geometry_from=chosen))
    return read(path, options)


def fit(labels: Volume, like: Volume) -> Volume:
    """The labels in the voxel order of `like`, unsigned; raises FormatError for no labels, GeometryError for another grid."""
    return reorient(replace(labels, array=integers(labels.array, labels.source)), like)


def reorient(labels: Volume, like: Volume) -> Volume:
    """The same numbers in the voxel order of `like`; raises GeometryError for another grid."""
    found = _oriented(labels, like)
    if found.shape != like.shape or _corner_distance(labels, like) > SAME_MM:
        _refuse(labels, like)
    return replace(found, affine=like.affine)


def place_part(labels: Volume, like: Volume) -> Volume:
    """The same numbers in the grid of `like`, of which they cover a part, or which they exceed where nothing is drawn.

    Raises:
        GeometryError: another grid, or something is drawn outside of the image.
    """
    found = _oriented(labels, like)
    first = np.linalg.inv(like.affine) @ found.affine
    start = np.rint(first[:3, 3]).astype(int)
    beginning = like.affine.copy()
    beginning[:3, 3] += like.affine[:3, :3] @ start
    if grid_distance(found.affine, beginning, found.shape) > SAME_MM:
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


def _corner_distance(labels: Volume, like: Volume) -> float:
    """Largest distance in mm between corresponding corners of both boxes of voxels."""
    corners = np.array([[*corner, 1.0] for corner in product(*((0, size - 1) for size in labels.shape))])
    others = np.array([[*corner, 1.0] for corner in product(*((0, size - 1) for size in like.shape))])
    mine, theirs = (corners @ labels.affine.T)[:, :3], (others @ like.affine.T)[:, :3]
    return float(np.linalg.norm(mine[:, None] - theirs[None], axis=2).min(axis=1).max())


def _refuse(labels: Volume, like: Volume) -> NoReturn:
    if sorted(labels.shape) != sorted(like.shape):
        problem = f"the labels have shape {labels.shape}, the image {like.shape}"
    elif labels.shape == like.shape:
        distance = grid_distance(labels.affine, like.affine, like.shape)
        problem = f"the labels lie up to {distance:.3g} mm away from the image's voxels (affine and orientation differ)"
    else:
        problem = f"the labels {labels.shape} and the image {like.shape} do not share a grid"
    raise GeometryError(problem, "resample the labels to the image's grid", subject=labels.source)


def integers(array: NDArray[Any], subject: Path | str | None) -> NDArray[Any]:
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
    return voxels.compact(array)


# Who drew on the image as viewers show it drew on other pixels than are stored; sizes tell so only where rows become columns.
def check_turned_alike(mask: Picture, like: Picture) -> None:
    """Refuse a mask whose EXIF orientation is not its image's, where its size does not tell that it was drawn as stored.

    Raises:
        GeometryError: it may lie the wrong way round.
    """
    sizes_tell = (mask.turned in ACROSS) != (like.turned in ACROSS) and like.shape[0] != like.shape[1]
    if mask.turned != like.turned and not sizes_tell:
        problem = f"its EXIF orientation is {mask.turned} and that of the image is {like.turned}: one of the two was turned"
        raise GeometryError(problem, "save both as they are to be seen, without EXIF orientation", subject=mask.source)


def turn_to_image(mask: Picture, like: Picture) -> Picture:
    """A mask with its pixels in the order of its image's, where both files say where they lie in the patient.

    How thick a slice is said to be does not matter.

    Raises:
        GeometryError: it lies elsewhere, or its EXIF orientation is another one.
    """
    check_turned_alike(mask, like)
    if mask.grid is None or like.grid is None or mask.colour:
        return mask
    drawn = np.expand_dims(mask.array.T, thin_axis(mask.grid))
    found = reorient(replace(_unit_thickness(mask.grid), array=drawn, source=mask.source), _unit_thickness(like.grid))
    return replace(mask, array=np.ascontiguousarray(found.array.take(0, thin_axis(like.grid)).T), grid=like.grid)


def _unit_thickness(grid: Volume) -> Volume:
    affine, thin = grid.affine.copy(), thin_axis(grid)
    affine[:, thin] /= np.linalg.norm(affine[:, thin])
    return replace(grid, affine=affine)

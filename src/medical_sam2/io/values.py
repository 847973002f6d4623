"""Voxel values as a network can take them: scaled, finite, and honest about what was changed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import FormatError

PIECE = 1 << 22


def rescale(array: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    """`array * slope + intercept`, in place for floats; integers become float32, or float64 where 24 bits do not hold them."""
    if slope == 1 and intercept == 0:
        return array
    kind = array.dtype if array.dtype.kind == "f" else np.result_type(array.dtype, np.float32)
    scaled = array.astype(kind, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled *= kind.type(slope)
        scaled += kind.type(intercept)
    return scaled


def clean(array: NDArray[Any]) -> tuple[NDArray[Any], list[str]]:
    """Replace NaN and infinities by the smallest finite value, in place, and say what is odd about the values.

    Raises:
        FormatError: no voxel is finite.
    """
    flat = array.reshape(-1, order="A") if array.flags.forc else array.reshape(-1)
    warnings = []
    if flat.dtype.kind == "f" and (bad := sum(int(np.count_nonzero(~np.isfinite(piece))) for piece in _pieces(flat))):
        warnings.append(f"{bad} of {flat.size} voxels are NaN or infinite; they count as background (the smallest value)")
        _fill(flat, bad)
    if _constant(flat):
        warnings.append("all voxels have the same value: there is nothing to outline")
    return array, warnings


def _fill(flat: NDArray[Any], bad: int) -> None:
    if bad == flat.size:
        raise FormatError("no voxel holds a finite value (all are NaN or infinite)", "export the image again")
    lowest = min(piece[np.isfinite(piece)].min(initial=np.inf) for piece in _pieces(flat))
    for piece in _pieces(flat):
        piece[~np.isfinite(piece)] = lowest


def _constant(flat: NDArray[Any]) -> bool:
    return all((piece == flat[0]).all() for piece in _pieces(flat))


def _pieces(flat: NDArray[Any]) -> list[NDArray[Any]]:
    return [flat[start : start + PIECE] for start in range(0, flat.size, PIECE)]


def grey(array_c: NDArray[Any]) -> NDArray[np.uint8]:
    """Luminance of RGB or RGBA values along the last axis (ITU-R BT.601 weights), alpha left out."""
    weighted = array_c[..., :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.rint(weighted).astype(np.uint8)


def one_channel(array_c: NDArray[Any]) -> NDArray[Any]:
    """The number of each pixel or voxel of a mask, which its colours repeat (alpha left out).

    Raises:
        FormatError: they differ.
    """
    if not (array_c[..., :3] == array_c[..., :1]).all():
        raise FormatError("this mask is coloured", "save it in grey, one number for each object")
    return np.ascontiguousarray(array_c[..., 0])


def compact(array: NDArray[Any]) -> NDArray[Any]:
    """Labels in the smallest unsigned type that holds them; floats stay floats, negative integers stay signed.

    Raises:
        FormatError: a type that no image format knows.
    """
    if array.dtype == bool:
        return array.view(np.uint8)
    if array.dtype.kind == "f":
        return array.astype(np.float32) if array.dtype == np.float16 else array
    if array.dtype.kind not in "iu":
        raise FormatError(f"an array of type {array.dtype} is no image", "give integers or floating-point numbers")
    if array.size and array.min() < 0:
        return array
    highest = int(array.max()) if array.size else 0
    return array.astype(np.min_scalar_type(highest), copy=False)

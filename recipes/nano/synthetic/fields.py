"""Smooth random fields and separable resampling, the raw material of every synthetic image."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Field = NDArray[np.floating]


def spline_noise(rng: np.random.Generator, shape: Sequence[int], scale: ArrayLike) -> Field:
    """Smooth noise of zero mean and unit variance: random control points blended by cubic B-splines.

    Args:
        rng: where the control points come from.
        shape: of the result.
        scale: distance of the control points in voxels, one for all axes or one each.
    """
    scales = np.broadcast_to(np.asarray(scale, float), (len(shape),))
    counts = [int(np.ceil(size / step)) + 4 for size, step in zip(shape, scales, strict=True)]
    field = rng.spawn(1)[0].standard_normal(counts, dtype=np.float32)  # leaves rng the same whatever the shape
    for axis, (size, step) in enumerate(zip(shape, scales, strict=True)):
        field = along(field, _spline_matrix(size, field.shape[axis], step, rng.uniform()), axis)
    return field


def resample(field: Field, shape: Sequence[int]) -> Field:
    """The field on a grid of `shape`: averages where it gets coarser, interpolates linearly where it gets finer."""
    for axis, size in enumerate(shape):
        if size != field.shape[axis]:
            field = along(field, _resampling_matrix(size, field.shape[axis]), axis)
    return field


def nearest(labels: NDArray[np.uint8], shape: Sequence[int]) -> NDArray[np.uint8]:
    """The labels on a grid of `shape`, each voxel from the nearest one."""
    index = [((np.arange(n) + 0.5) * old / n).astype(int) for n, old in zip(shape, labels.shape, strict=True)]
    return labels[np.ix_(*index)]


def along(field: Field, matrix: Field, axis: int) -> Field:
    """Multiply every line of the field along one axis by the matrix."""
    return np.ascontiguousarray(np.moveaxis(np.tensordot(matrix, field, (1, axis)), 0, axis))


def _spline_matrix(size: int, count: int, step: float, phase: float) -> Field:
    distance = np.abs(np.arange(size)[:, None] / step + phase + 1 - np.arange(count)[None])
    near, far = 2 / 3 - distance**2 + distance**3 / 2, np.clip(2 - distance, 0, None) ** 3 / 6
    weights = np.where(distance < 1, near, far)
    return (weights / np.sqrt((weights**2).sum(1, keepdims=True))).astype(np.float32)


def _resampling_matrix(size: int, old: int) -> Field:
    centre = (np.arange(size) + 0.5) * old / size - 0.5
    reach = max(1.0, old / size)
    weights = np.clip(1 - np.abs(np.clip(centre, 0, old - 1)[:, None] - np.arange(old)[None]) / reach, 0, None)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)

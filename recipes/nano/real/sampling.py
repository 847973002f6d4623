"""Where a new image takes its pixels from: a box of the source, turned and bent a little."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from synthetic.fields import spline_noise

Coordinates = NDArray[np.float32]


def grid(
    rng: np.random.Generator,
    shape: Sequence[int],
    centre: Sequence[float],
    step: Sequence[float],
    *,
    turn: NDArray[np.floating] | None = None,
    bend: Sequence[float] = (),
) -> Coordinates:
    """Positions in the source, in voxels, of every voxel of a new image.

    Args:
        rng: of the bending.
        shape: of the new image.
        centre: of the box in the source, in voxels.
        step: from one voxel of the new image to the next, in voxels of the source.
        turn: matrix on offsets from the centre, in voxels of the source.
        bend: strength of a smooth displacement along each axis, in voxels of the source.

    Returns:
        (axes, *shape).
    """
    lines = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) * width for n, width in zip(shape, step, strict=True)]
    offsets = np.stack(np.meshgrid(*lines, indexing="ij"))
    if turn is not None:
        offsets = np.tensordot(turn.astype(np.float32), offsets, 1)
    for axis, strength in enumerate(bend):
        if strength > 0:
            offsets[axis] += strength * spline_noise(rng, shape, [max(4.0, n * rng.uniform(0.2, 0.5)) for n in shape])
    return offsets + np.asarray(centre, np.float32).reshape(-1, *(1,) * len(shape))


def take(image: NDArray[np.floating], where: Coordinates, *, outside: float = 0.0) -> NDArray[np.float32]:
    """Intensities at these positions, interpolated linearly; the last axis of a picture in colour is kept."""
    if image.ndim > len(where):
        return np.stack([take(image[..., channel], where, outside=outside) for channel in range(image.shape[-1])], axis=-1)
    return np.asarray(ndimage.map_coordinates(image, where, np.float32, order=1, mode="constant", cval=outside), np.float32)


def pick(labels: NDArray[np.unsignedinteger], where: Coordinates) -> NDArray[np.uint8]:
    """The label nearest to each of these positions; 0 outside."""
    return np.asarray(ndimage.map_coordinates(labels, where, np.uint8, order=0, mode="constant", cval=0), np.uint8)


def softened(image: NDArray[np.float32], step: Sequence[float]) -> NDArray[np.float32]:
    """The image without what is finer than the steps it will be sampled at."""
    sigmas = [0.4 * width if width > 1.4 else 0.0 for width in step]
    if not any(sigmas):
        return image
    return np.asarray(ndimage.gaussian_filter(image, [*sigmas, *(0.0,) * (image.ndim - len(sigmas))], truncate=3), np.float32)

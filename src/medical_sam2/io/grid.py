"""Questions about grids that every format asks."""

from itertools import product

import numpy as np
from numpy.typing import NDArray

RIGHT_ANGLE = 1e-3
"""Cosine up to which axes count as perpendicular: scanners and float32 headers round."""


def sheared(affine: NDArray[np.float64]) -> bool:
    """Whether voxel axes are not at right angles."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > RIGHT_ANGLE)


def shear_warning(affine: NDArray[np.float64]) -> list[str]:
    """One line if voxel axes are not at right angles."""
    if not sheared(affine):
        return []
    return [
        "the voxel axes are not at right angles (sheared); the grid is kept as it is, lengths across slices are approximate"
    ]


def distance(one: NDArray[np.float64], other: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """Largest distance in mm between the corners of two grids of this shape."""
    corners = np.array([[*corner, 1.0] for corner in product(*((0.0, size - 1.0) for size in shape))])
    return float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())


def from_lps(affine_lps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Index → LPS mm to index → RAS mm, and back: signs only, so nothing is rounded."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_lps


def size_warning(shape: tuple[int, ...]) -> list[str]:
    """One line if there is but a single voxel."""
    return ["the image is a single voxel"] if max(shape) == 1 else []

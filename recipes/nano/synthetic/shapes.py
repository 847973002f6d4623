"""Implicit shapes in a warped space: each one is a field on a box of voxels, positive inside, roughly in pixels.

Coordinates are (z, y, x), centred, in units of 1/128 of the field of view; warps and rotations are part of the space,
so that a whole scene deforms together and no mask is ever resampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from synthetic.fields import Field, spline_noise

Box3 = tuple[slice, slice, slice]
_STEP = 4
FAR = -1e3


@dataclass(frozen=True, eq=False)
class Patch:
    """A field on a box of voxels: positive inside the shape, outside of the box negative everywhere.

    Args:
        box: the voxels that it covers.
        field: one value for each of them.
    """

    box: Box3
    field: Field

    def grown(self, margin: float | np.floating | Field) -> "Patch":
        """The shape with its border moved outwards (a field: of the whole grid, different everywhere)."""
        return replace(self, field=self.field + (margin[self.box] if isinstance(margin, np.ndarray) else margin))

    def shell(self, thickness: float | np.floating | Field) -> "Patch":
        """The outer layer of the shape."""
        inner = thickness[self.box] if isinstance(thickness, np.ndarray) else thickness
        return replace(self, field=np.minimum(self.field, inner - self.field))

    def cut(self, field: Field) -> "Patch":
        """The part of the shape where a field of the whole grid is positive."""
        return replace(self, field=np.minimum(self.field, field[self.box]))


@dataclass(frozen=True, eq=False)
class Space:
    """Where every voxel lies.

    Args:
        coords: (3, D, H, W) float32 positions.
    """

    coords: Field

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels of the grid."""
        depth, height, width = self.coords.shape[1:]
        return depth, height, width

    def near(self, centre: ArrayLike, reach: float) -> Box3:
        """A box that holds every voxel within `reach` of a position, with some margin."""
        coarse = self.coords[:, ::_STEP, ::_STEP, ::_STEP]
        middle = np.asarray(centre, np.float32).reshape(3, 1, 1, 1)
        close = np.all(np.abs(coarse - middle) <= reach + 1.3 * _STEP, axis=0)
        if not close.any():
            return slice(0, 0), slice(0, 0), slice(0, 0)
        spans = [np.flatnonzero(np.moveaxis(close, axis, 0).reshape(close.shape[axis], -1).any(axis=1)) for axis in range(3)]
        z, y, x = (slice(max(0, s[0] - 1) * _STEP, (s[-1] + 2) * _STEP) for s in spans)
        return z, y, x

    def everywhere(self, field: Field) -> Patch:
        """A patch over the whole grid."""
        return Patch((slice(None), slice(None), slice(None)), field)

    def ellipsoid(self, centre: ArrayLike, radii: ArrayLike, *, turn: Rotation | None = None, power: int = 2) -> Patch:
        """An ellipsoid, or with `power` 4 and more a box with rounded corners."""
        box = self.near(centre, float(np.max(radii)) * 1.35 + 4)
        offset = self.coords[(slice(None), *box)] - np.asarray(centre, np.float32).reshape(3, 1, 1, 1)
        axes = np.diag(1 / np.asarray(radii, float)) @ (np.eye(3) if turn is None else turn.as_matrix())
        unit = np.tensordot(axes.astype(np.float32), offset, 1)
        square = unit * unit
        norm = np.sqrt(square.sum(0)) if power == 2 else (square ** (power // 2)).sum(0) ** np.float32(1 / power)
        return Patch(box, (1 - norm) * np.float32(np.sort(np.asarray(radii))[:2].mean()))

    def tube(self, path: NDArray[np.floating], radius: float | NDArray[np.floating]) -> Patch:
        """A tube along a polyline of (K, 3) positions, its radius one for all or one for each of them."""
        field = np.full(self.shape, FAR, np.float32)
        self.draw_tube(field, path, radius)
        return self.everywhere(field)

    def draw_tube(self, field: Field, path: NDArray[np.floating], radius: float | NDArray[np.floating]) -> None:
        """Add a tube to a field of the whole grid."""
        radii = np.broadcast_to(np.asarray(radius, np.float32), (len(path),))
        points = np.asarray(path, np.float32)
        for a, b, r_a, r_b in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
            self._capsule(field, a, b, float(r_a), float(r_b))

    def _capsule(self, field: Field, a: Field, b: Field, r_a: float, r_b: float) -> None:
        box = self.near((a + b) / 2, float(np.abs(b - a).max()) / 2 + 1.3 * max(r_a, r_b) + 3)
        offset = self.coords[(slice(None), *box)] - a.reshape(3, 1, 1, 1)
        step = b - a
        share = np.clip(np.tensordot(step, offset, 1) / max(float(step @ step), 1e-6), 0, 1)
        distance = np.sqrt(((offset - share * step.reshape(3, 1, 1, 1)) ** 2).sum(0))
        np.maximum(field[box], r_a + share * np.float32(r_b - r_a) - distance, out=field[box])


def random_space(
    rng: np.random.Generator,
    shape: Sequence[int],
    *,
    extent: Sequence[float] = (128, 128, 128),
    centre: Sequence[float] = (0, 0, 0),
    tilt_deg: float = 12,
    warp: float = 4,
) -> Space:
    """A grid over `extent` units, tilted, scaled and elastically warped.

    Args:
        rng: where the deformation comes from.
        shape: voxels along z, y, x.
        extent: units that the grid covers along each axis.
        centre: the position in its middle.
        tilt_deg: standard deviation of the rotation about each axis.
        warp: typical displacement in units.
    """
    lines = [(np.arange(n) + 0.5) / n * e - e / 2 for n, e in zip(shape, extent, strict=True)]
    tilt = Rotation.from_euler("zyx", rng.normal(0, tilt_deg, 3) * (0.6, 0.6, 1), degrees=True).as_matrix()
    scale = np.exp(rng.normal(0, 0.07, 3))
    axes = (tilt * scale).astype(np.float32)
    flat = [line.astype(np.float32).reshape([-1 if k == axis else 1 for k in range(3)]) for axis, line in enumerate(lines)]
    steps = np.asarray(extent, float) / np.asarray(shape, float)
    coords = np.empty((3, *shape), np.float32)
    for axis in range(3):
        bend = spline_noise(rng, shape, rng.uniform(28, 48) / steps) * np.float32(warp)
        bend += spline_noise(rng, shape, rng.uniform(12, 18) / steps) * np.float32(warp * 0.2)
        coords[axis] = sum(axes[axis, k] * flat[k] for k in range(3)) + bend + np.float32(centre[axis])
    return Space(coords)

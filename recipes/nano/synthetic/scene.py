"""A scene: labelled structures painted one over the other, each with the tissue that it is made of."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synthetic.fields import Field, spline_noise
from synthetic.shapes import FAR, Patch, Space

Labels = NDArray[np.uint8]
Task = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What is where, before anybody takes a picture of it.

    Args:
        labels: (D, H, W) uint8, a number for each structure, labelled for training or not.
        tissues: name of the tissue of each number.
        tasks: objects to segment, each a union of numbers.
        looks: names of the pictures that may be taken of it, "" for any.
    """

    labels: Labels
    tissues: tuple[str, ...]
    tasks: tuple[Task, ...]
    looks: tuple[str, ...] = ()


class Scene:
    """Paints structures into a grid of labels.

    Args:
        rng: where outlines and positions come from.
        space: where every voxel lies.
        own: what differs between patients of one anatomy; without it the scene is the only one of its kind.
    """

    def __init__(self, rng: np.random.Generator, space: Space, own: np.random.Generator | None = None) -> None:
        self.rng, self.space, self.own = rng, space, own
        self.labels: Labels = np.zeros(space.shape, np.uint8)
        self.tissues = ["air"]
        self._rough: dict[float, Field] = {}

    @property
    def pitch(self) -> tuple[float, float, float]:
        """Units between neighbouring voxels along each axis."""
        z, y, x = (_pitch(self.space.coords, axis) for axis in range(3))
        return z, y, x

    def add(self, tissue: str, patch: Patch, *, over: Iterable[int] | None = None, label: int | None = None) -> int:
        """Paint a shape and return its number.

        Args:
            tissue: what it is made of.
            patch: its shape.
            over: numbers that it may replace; None for all.
            label: an existing number to paint with, for a structure of several parts.
        """
        if label is None:
            label = len(self.tissues)
            self.tissues.append(tissue)
        under = self.labels[patch.box]
        inside = patch.field > 0
        if over is not None:
            allowed = np.zeros(256, bool)
            allowed[list(over)] = True
            inside &= allowed[under]
        under[inside] = label
        return label

    def noise(self, scale: float) -> Field:
        """A smooth field of unit variance with structures of `scale` units, a different view of it each time."""
        if scale not in self._rough:
            self._rough[scale] = spline_noise(self.rng, self.space.shape, [scale / step for step in self.pitch])
        flips = tuple(slice(None, None, int(self.rng.choice([-1, 1]))) for _ in range(3))
        return self._rough[scale][flips]

    def forget(self, scale: float) -> None:
        """Make the next noise of that scale a new one."""
        self._rough.pop(scale, None)

    def whole(self, patch: Patch) -> Field:
        """The field of a patch on the whole grid, negative outside of its box."""
        field = np.full(self.space.shape, FAR, np.float32)
        field[patch.box] = patch.field
        return field

    def rough(self, patch: Patch, amount: float) -> Patch:
        """The shape with an irregular outline: `amount` is about how far it strays, in units."""
        wobble = self.noise(24) * np.float32(amount) + self.noise(9) * np.float32(0.4 * amount)
        return patch.grown(wobble)

    def anatomy(self, tasks: Iterable[Iterable[int]], looks: tuple[str, ...] = ()) -> Anatomy:
        """What was painted, with its tasks."""
        return Anatomy(self.labels, tuple(self.tissues), tuple(tuple(sorted(set(task))) for task in tasks), looks)


def _pitch(coords: Field, axis: int) -> float:
    if coords.shape[axis + 1] < 2:
        return 1.0
    first, last = coords.take(0, axis=axis + 1), coords.take(-1, axis=axis + 1)
    return max(float(np.linalg.norm((last - first).mean(axis=(1, 2)))) / (coords.shape[axis + 1] - 1), 1e-3)

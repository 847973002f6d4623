"""A phantom without any symmetry: two blocks with a nose each, one of them in a corner, in any orientation."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medical_sam2.prompts import Box, Mask, Point, Prompt
from medical_sam2.segmenter import Segmenter
from medical_sam2.views import OPPOSITE, View
from medical_sam2.volume import Volume
from tests.backbones import Brightness

SHAPE = (11, 13, 16)
BRIGHT = {0: 0.2, 1: 0.8, 2: 0.5}
INSIDE = {1: (5, 6, 8), 2: (0, 12, 0)}
"""A voxel of each object in RAS order; that of object 2 is a corner of the volume."""


def truth() -> NDArray[np.uint8]:
    """Labels in RAS order."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:8, 4:10, 5:12] = labels[8, 4:6, 5:8] = 1
    labels[0:2, 10:13, 0:9] = labels[2, 12, 0:3] = 2
    return labels


@dataclass(frozen=True, eq=False)
class Phantom:
    """The phantom, stored in the order of a code."""

    code: str
    volume: Volume
    truth: NDArray[np.uint8]

    def voxel(self, label: int) -> tuple[float, float, float]:
        """A voxel of an object, in the order of the file."""
        return View(self.code).project(INSIDE[label], SHAPE)

    def slice_mask(self, label: int, axis: int) -> NDArray[np.bool_]:
        """The object on the slice of its voxel along an array axis."""
        mask = np.zeros(self.truth.shape, bool)
        place = [slice(None)] * 3
        place[axis] = slice(int(self.voxel(label)[axis]), int(self.voxel(label)[axis]) + 1)
        mask[tuple(place)] = self.truth[tuple(place)] == label
        return mask

    def prompt(self, kind: str, label: int, axis: int) -> Prompt:
        """A click, a box or a mask on the slice of the object's voxel along an array axis."""
        if kind == "click":
            return Point(self.voxel(label), label)
        mask = self.slice_mask(label, axis)
        if kind == "mask":
            return Mask(mask, label, axis)
        places = np.argwhere(mask)
        low, high = (tuple(int(x) for x in corner) for corner in (places.min(0), places.max(0)))
        return Box(low, high, label)  # type: ignore[arg-type]


def phantom(code: str = "RAS", *, tilt_deg: float = 0.0, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Phantom:
    """The phantom in an orientation; tilted about an axis that is none of the grid's, with noise that makes slices differ."""
    labels = View(code).apply(truth()).copy()
    picture = np.vectorize(BRIGHT.get)(labels) + np.random.default_rng(0).uniform(-0.01, 0.01, labels.shape)
    affine = np.eye(4)
    affine[:3, :3] = rotation(np.radians(tilt_deg)) @ directions(code) * spacing_mm
    affine[:3, 3] = 12.5, -70, 31
    return Phantom(code, Volume(picture.astype(np.float32), affine), labels)


def directions(code: str) -> NDArray[np.float64]:
    """Columns: where the array axes of a code run to in RAS."""
    columns = [[(letter == axis) - (letter == OPPOSITE[axis]) for axis in "RAS"] for letter in code]
    return np.array(columns, float).T


def rotation(angle: float) -> NDArray[np.float64]:
    """About the axis (1, 2, 3), by Rodrigues' formula."""
    x, y, z = np.array([1, 2, 3]) / 14**0.5
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def segmenter() -> Segmenter:
    """A segmenter whose answer is known."""
    return Segmenter(Brightness(), device="cpu", precision="fp32")

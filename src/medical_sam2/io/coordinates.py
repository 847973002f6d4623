"""Coordinates that a user gave, in voxels or in millimetres, as voxel indices of an image; what is doubtful is told."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from math import isfinite
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import AmbiguousError, PromptError
from medical_sam2.prompts import Box, Index, Point, is_solid_box
from medical_sam2.volume import Volume

LETTERS = "ijk"
FRACTIONS = "fractions count within a slice alone; of slices the nearest one is taken (.5: the next)"
Unit = Literal["voxel", "mm"]
ALIKE, UNLIKE = 0.9, 0.5  # IoU of both readings of a box in millimetres: above nothing is said, below it is asked
SAMPLES = 48  # places along each axis by which that is measured


@dataclass(frozen=True)
class Places:
    """Coordinates that a user gave, as voxel indices of an image."""

    volume: Volume  # the image
    unit: Unit = "voxel"  # "voxel", in the order of its file, or "mm" in RAS+
    # filled with a line for each click and box at fractions of voxels, which mostly were meant otherwise
    notes: list[str] = field(default_factory=list[str])

    def point(self, numbers: Sequence[float], object: int, *, positive: bool = True) -> Point:
        """A click.

        Raises:
            PromptError: it lies outside of the image; the message says where it would lie in the other unit.
        """
        return Point(self._index("point", numbers), object, positive)

    def box(self, numbers: Sequence[float], object: int, *, positive: bool = True) -> Box:
        """A box on one slice or in 3D, from any two opposite corners: six numbers.

        Raises:
            PromptError: it lies outside of the image, or has no area.
            AmbiguousError: it was given in millimetres, and the image's axes are turned far against the scanner's.
        """
        first, second = (self._index("box", part) for part in (numbers[:3], numbers[3:]))
        if self.unit == "mm":
            self._compare_axes(np.array([first, second]), np.array(numbers).reshape(2, 3), object)
        box = Box(first, second, object, positive)
        if self.unit == "mm" and is_solid_box(box):
            self._note_thin(box)
        return box

    # A box between two corners has the image's axes; whoever reads millimetres may have meant the scanner's.
    def _compare_axes(self, corners_ijk: NDArray[np.float64], corners_mm: NDArray[np.float64], object: int) -> None:
        alike = overlap_of_boxes(self.volume, corners_ijk, corners_mm)
        if alike >= ALIKE:
            return
        voxels = " ".join(f"{number:.4g}" for corner in corners_ijk for number in corner)
        if alike < UNLIKE:
            raise AmbiguousError(
                f"object {object}: the image's axes are turned against the scanner's, and a box in millimetres along these is "
                f"another one (IoU {alike:.2f}) than that between its corners along the image's axes",
                "say what is meant",
                choices=[f"that along the image's axes, in voxels: {voxels}", "an outline, a lasso, a diameter or clicks"],
            )
        self.notes.append(
            f"object {object}: its box in millimetres is laid along the image's axes, from and to voxel {voxels}; these are "
            f"turned against the scanner's, and a box along those is another one (IoU {alike:.2f})"
        )

    def _note_thin(self, box: Box) -> None:
        """Tell of a box in 3D that two slices hold: millimetres of one slice fall on two where the axes are oblique."""
        for axis, side in zip(LETTERS, box.slices, strict=True):
            if side.stop - side.start == 2:
                reach = f"from slice {side.start} to {side.start + 1} of axis {axis}"
                what = f"object {box.object}: its box reaches {reach} and is one in 3D"
                self.notes.append(f"{what}: nothing is looked for outside of it; for a box on one slice give voxels")
                return

    def along(self, what: str, numbers: Sequence[float]) -> tuple[Index, ...]:
        """Place after place of something drawn, three numbers each; raises PromptError if one lies outside of the image."""
        return tuple(self._index(what, numbers[n : n + 3]) for n in range(0, len(numbers), 3))

    def _index(self, what: str, numbers: Sequence[float]) -> Index:
        i, j, k = (float(number) for number in numbers)
        if not all(map(isfinite, (i, j, k))):
            raise PromptError(f"{what} {_shown((i, j, k))} is not finite", "give three numbers")
        index = self.volume.to_voxel((i, j, k)) if self.unit == "mm" else (i, j, k)
        if not _lies_in(self.volume, index):
            raise PromptError(*self._outside(what, (i, j, k)))
        if self.unit == "voxel" and what in {"point", "box"} and not all(number.is_integer() for number in index):
            self.notes.append(f"{what} at voxel {_shown(index)}: {FRACTIONS}")
        return index

    def _outside(self, what: str, given: Index) -> tuple[str, str]:
        size = "×".join(map(str, self.volume.shape))
        if self.unit == "mm":
            problem = f"{what} at {_shown(given)} mm lies outside the image of {size} voxels"
            voxels = "these look like voxel indices: say so (leave out --mm, or coordinates: voxel)"
            return problem, voxels if _lies_in(
                self.volume, given
            ) else "give RAS+ millimetres: x to Right, y Anterior, z Superior"
        problem = f"{what} at voxel {_shown(given)} lies outside the image of {size} voxels"
        if _lies_in(self.volume, (given[0] - 1, given[1] - 1, given[2] - 1)):
            last = "×".join(str(size - 1) for size in self.volume.shape)
            return problem, f"indices go from 0 to {last}: these look counted from 1, take 1 off each"
        if _lies_in(self.volume, self.volume.to_voxel(given)):
            return problem, "these look like millimetres: say so (--mm, or coordinates: mm)"
        return problem, "give voxel indices from 0 to the size less one"


def overlap_of_boxes(volume: Volume, corners_ijk: NDArray[np.float64], corners_mm: NDArray[np.float64]) -> float:
    """The IoU of two boxes with the same opposite corners, along the image's axes and along the scanner's, in [0, 1].

    Both reach half a voxel beyond their corners. Of a box on one slice it is that on the slice.

    Args:
        volume: the image.
        corners_ijk: (2, 3) indices.
        corners_mm: (2, 3) the same in RAS+ mm.
    """
    low, high = np.sort(corners_ijk, axis=0)
    half_mm = np.abs(volume.affine[:3, :3]).max(axis=1) / 2
    low_mm, high_mm = np.sort(corners_mm, axis=0)
    others = [volume.to_voxel(corner) for corner in product(*zip(low_mm, high_mm, strict=True))]
    first, last = np.minimum(low, np.min(others, axis=0)) - 0.5, np.maximum(high, np.max(others, axis=0)) + 0.5
    on_one = np.floor(low + 0.5) == np.floor(high + 0.5)
    flat = on_one & (np.arange(3) == np.where(on_one, last - first, np.inf).argmin())  # a line lies on more than one slice
    middle = (low + high) / 2
    steps = (np.arange(SAMPLES) + 0.5) / SAMPLES
    along = [middle[[a]] if flat[a] else first[a] + steps * (last[a] - first[a]) for a in range(3)]
    places = np.stack(np.meshgrid(*along, indexing="ij"), axis=-1).reshape(-1, 3)
    places_mm = places @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    one = ((places >= low - 0.5) & (places <= high + 0.5) | flat).all(axis=1)
    other = ((places_mm >= low_mm - half_mm) & (places_mm <= high_mm + half_mm)).all(axis=1)
    return float((one & other).sum() / max(1, (one | other).sum()))


def _lies_in(volume: Volume, index: Sequence[float]) -> bool:
    return all(-0.5 <= place < size - 0.5 for place, size in zip(index, volume.shape, strict=True))


def _shown(index: Sequence[float]) -> str:
    return f"({', '.join(f'{number:g}' for number in index)})"

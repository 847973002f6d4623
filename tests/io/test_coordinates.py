"""Boxes in millimetres, where the image's axes are turned against the scanner's."""

import numpy as np
import pytest
from numpy.typing import NDArray

from medical_sam2.errors import AmbiguousError
from medical_sam2.io.coordinates import Places, overlap_of_boxes
from medical_sam2.volume import Volume


def turned(degrees: float, around: int = 2, order: tuple[int, int, int] = (0, 1, 2)) -> Volume:
    """An image of 40×40×20 voxels whose axes are turned around one of the scanner's."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    one, other = (axis for axis in range(3) if axis != around)
    rotation = np.eye(4)
    rotation[[one, one, other, other], [one, other, one, other]] = cos, -sin, sin, cos
    affine = rotation @ np.diag([1.0, -1.5, 3.0, 1.0])
    shape = tuple((40, 40, 20)[axis] for axis in order)
    return Volume(np.zeros(shape, np.int16), affine[:, [*order, 3]])


def millimetres(volume: Volume, corners_ijk: NDArray[np.float64]) -> list[float]:
    return [float(x) for corner in corners_ijk for x in (volume.affine @ [*corner, 1])[:3]]


SOLID, FLAT = np.array([[8.0, 8, 4], [28, 24, 12]]), np.array([[8.0, 8, 4], [28, 24, 4]])


@pytest.mark.parametrize("corners", [SOLID, FLAT])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_along_the_scanners_axes_nothing_is_said(corners: NDArray[np.float64], order: tuple[int, int, int]) -> None:
    volume = turned(0, order=order)
    places = Places(volume, "mm")
    box = places.box(millimetres(volume, corners[:, list(order)]), 1)
    assert not [note for note in places.notes if "scanner" in note]
    np.testing.assert_allclose(sorted([box.low_ijk, box.high_ijk]), corners[:, list(order)])


@pytest.mark.parametrize("corners", [SOLID, FLAT])
def test_a_little_turned_it_is_told(corners: NDArray[np.float64]) -> None:
    volume = turned(8)
    places = Places(volume, "mm")
    places.box(millimetres(volume, corners), 1)
    assert "object 1: its box in millimetres is laid along the image's axes, from and to voxel 8 8 4 28 24" in places.notes[0]


@pytest.mark.parametrize("corners", [SOLID, FLAT])
def test_far_turned_it_is_asked(corners: NDArray[np.float64]) -> None:
    """At 45 degrees most of the box that was meant lies elsewhere, and it may be a line."""
    volume = turned(45)
    with pytest.raises(AmbiguousError, match=r"turned against the scanner's.*in voxels: 8 8 4 28 24") as asked:
        Places(volume, "mm").box(millimetres(volume, corners), 1)
    assert len(asked.value.choices) == 2
    x, y, z = millimetres(volume, FLAT)[:3]
    line = [x, y, z, x + 10, y - 10, z]
    with pytest.raises(AmbiguousError, match="in voxels"):
        Places(volume, "mm").box(line, 1)


def test_on_a_slice_that_is_tilted_both_are_the_same() -> None:
    """What the scanner's box shows on the slice that holds both corners is the box between them."""
    volume = turned(25, around=0)
    numbers = millimetres(volume, FLAT)
    assert overlap_of_boxes(volume, FLAT, np.array(numbers).reshape(2, 3)) > 0.9
    places = Places(volume, "mm")
    places.box(numbers, 1)
    assert not places.notes
    assert overlap_of_boxes(volume, SOLID, np.array(millimetres(volume, SOLID)).reshape(2, 3)) < 0.9


def test_voxels_are_never_asked_about() -> None:
    places = Places(turned(45))
    places.box([*FLAT[0], *FLAT[1]], 1)
    assert not places.notes

"""Volumes: the affine is trusted only if it can be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from medical_sam2.errors import GeometryError
from medical_sam2.volume import COLOURS, Segmentation, Volume, add_to_layers, axis_codes, check_affine, colour_of
from tests.strategies import codes, seeds, shapes

DIRECTION = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
lengths = st.floats(0.05, 20)


def affine_of(code: str, spacing: tuple[float, float, float], origin: tuple[float, ...] = (0, 0, 0)) -> NDArray[np.float64]:
    """Affine of an array whose axes run along `code`."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([DIRECTION[letter] for letter in code]).T * spacing
    affine[:3, 3] = origin
    return affine


def rotation(seed: int, largest: float) -> NDArray[np.float64]:
    """A rotation about a random axis by at most `largest` radians."""
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = rng.uniform(-largest, largest)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@given(codes, st.tuples(lengths, lengths, lengths))
def test_orientation_and_spacing_are_read_from_the_affine(code: str, spacing: tuple[float, float, float]) -> None:
    volume = Volume(np.zeros((2, 3, 4)), affine_of(code, spacing))
    assert volume.orientation == code
    np.testing.assert_allclose(volume.spacing_mm, spacing)
    np.testing.assert_allclose(volume.voxel_mm3, np.prod(spacing))


@given(codes, seeds)
def test_a_small_tilt_leaves_the_orientation(code: str, seed: int) -> None:
    affine = affine_of(code, (1, 2, 3))
    affine[:3, :3] = rotation(seed, 0.5) @ affine[:3, :3]
    assert axis_codes(affine) == code


@given(seeds)
def test_any_rotation_names_each_axis_once(seed: int) -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation(seed, np.pi)
    assert {"RL", "AP", "SI"} == {pair for pair in ("RL", "AP", "SI") for letter in axis_codes(affine) if letter in pair}


@given(codes, st.tuples(lengths, lengths, lengths), seeds)
def test_to_voxel_undoes_the_affine(code: str, spacing: tuple[float, float, float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    affine = affine_of(code, spacing, tuple(rng.uniform(-500, 500, 3)))
    affine[:3, :3] = rotation(seed, np.pi) @ affine[:3, :3]
    index = rng.uniform(-10, 600, 3)
    x, y, z = (affine @ [*index, 1])[:3]
    np.testing.assert_allclose(Volume(np.zeros((1, 1, 1)), affine).to_voxel((x, y, z)), index, atol=1e-6)


def test_a_sheared_voxel_has_the_volume_of_its_parallelepiped() -> None:
    affine = np.eye(4)
    affine[1, 2] = 0.5
    assert Volume(np.zeros((1, 1, 1)), affine).voxel_mm3 == pytest.approx(1)


@given(shapes)
def test_shape_is_the_array_s(shape: tuple[int, int, int]) -> None:
    assert Volume(np.zeros(shape), np.eye(4)).shape == shape


@pytest.mark.parametrize("shape", [(), (3,), (3, 3), (3, 3, 3, 3), (3, 0, 3)])
def test_other_arrays_are_no_volume(shape: tuple[int, ...]) -> None:
    with pytest.raises(GeometryError, match="no volume"):
        Volume(np.zeros(shape), np.eye(4))


@pytest.mark.parametrize(
    "affine",
    [
        np.eye(3),
        np.diag([1.0, 0.0, 1.0, 1.0]),
        np.diag([1.0, np.nan, 1.0, 1.0]),
        np.diag([1.0, np.inf, 1.0, 1.0]),
        np.diag([1.0, 1.0, 1.0, 0.0]),
        np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
        np.zeros((4, 4)),
    ],
    ids=["3x3", "flat", "nan", "inf", "projective", "parallel", "zero"],
)
def test_an_affine_that_maps_nowhere_is_refused(affine: NDArray[np.float64]) -> None:
    with pytest.raises(GeometryError, match="affine"):
        check_affine(affine)
    with pytest.raises(GeometryError, match="affine"):
        Volume(np.zeros((1, 1, 1)), affine)


@given(st.floats(1e-4, 1e4))
def test_no_voxel_is_too_small_or_large(size: float) -> None:
    assert check_affine(np.diag([size, 2 * size, 3 * size, 1])).dtype == np.float64


@pytest.mark.parametrize("spacing", [(4e-13, 0.8, 2.5), (1, 1, 1e7), (1e6, 1e6, 1e6), (1e-5, 100, 100)])
def test_voxels_of_no_image_are_refused(spacing: tuple[float, float, float]) -> None:
    with pytest.raises(GeometryError, match="are of no image"):
        check_affine(np.diag([*spacing, 1.0]))


@pytest.mark.parametrize("spacing", [(4e-6, 4e-6, 3e-5), (0.2, 0.2, 0.2), (1e-3, 1e-3, 1), (25, 25, 40_000)])
def test_voxels_of_microscopes_and_maps_are_taken(spacing: tuple[float, float, float]) -> None:
    check_affine(np.diag([*spacing, 1.0]))


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(0, 2**12 - 1)), max_size=6, unique_by=lambda each: each[0]))
def test_layers_hold_every_object_whole(drawn: list[tuple[int, int]]) -> None:
    masks = {label: np.array([bits >> n & 1 for n in range(12)], bool).reshape(2, 3, 2) for label, bits in drawn}
    layers: list[NDArray[np.unsignedinteger]] = []
    for label, mask in masks.items():
        add_to_layers(layers, label, mask)
    empty = Segmentation(np.zeros((2, 3, 2), np.uint8), np.eye(4), layers=tuple(layers))
    assert empty.objects() == tuple(sorted(label for label, mask in masks.items() if mask.any()))
    for label, mask in masks.items():
        assert np.array_equal(empty.mask(label), mask)
    apart = np.sum([*masks.values(), np.zeros((2, 3, 2))], axis=0).max() <= 1
    assert empty.overlaps == (not apart)


def test_an_object_without_a_colour_gets_one() -> None:
    found = Segmentation(np.zeros((1, 1, 1), np.uint8), np.eye(4), colours={2: (1, 2, 3)})
    assert [found.colour(label) for label in (1, 2, 9)] == [COLOURS[0], (1, 2, 3), colour_of(9)]


def test_many_objects_have_colours_that_differ() -> None:
    colours = np.array([colour_of(label) for label in range(1, 41)])
    assert [tuple(colour) for colour in colours[:8].tolist()] == list(COLOURS)
    apart = np.abs(colours[:, None] - colours).max(axis=-1) + 255 * np.eye(len(colours), dtype=int)
    assert apart.min() >= 12
    assert ((colours >= 0) & (colours <= 255)).all()

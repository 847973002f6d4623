"""Fields and shapes of the synthetic images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthetic.fields import nearest, resample, spline_noise
from synthetic.scene import Scene
from synthetic.shapes import Space, random_space

sizes = st.integers(1, 20)


def plain_space(size: int = 40) -> Space:
    """A space without any deformation: coordinates are voxels, centred."""
    line = np.arange(size, dtype=np.float32) - (size - 1) / 2
    return Space(np.stack(np.meshgrid(line, line, line, indexing="ij")))


def test_noise_has_unit_variance_and_is_smooth() -> None:
    field = spline_noise(np.random.default_rng(0), (64, 64, 64), 5)
    assert abs(field.mean()) < 0.1
    assert 0.85 < field.std() < 1.15
    assert np.abs(np.diff(field, axis=0)).mean() < 0.4 * field.std()


def test_noise_leaves_the_generator_the_same_whatever_its_shape() -> None:
    after = []
    for shape in ((8, 8, 8), (20, 30, 10)):
        rng = np.random.default_rng(0)
        spline_noise(rng, shape, 3)
        after.append(rng.uniform())
    assert after[0] == after[1]


@given(sizes, sizes, sizes, sizes, st.floats(-5, 5))
def test_resampling_keeps_a_constant(a: int, b: int, c: int, d: int, value: float) -> None:
    result = resample(np.full((a, b), value, np.float32), (c, d))
    assert result.shape == (c, d)
    np.testing.assert_allclose(result, value, rtol=1e-5, atol=1e-5)


@given(sizes, st.integers(1, 4))
def test_coarser_by_a_factor_and_finer_again_keeps_the_mean(size: int, factor: int) -> None:
    line = np.random.default_rng(size).uniform(size=size * factor)
    inner = resample(np.tile(line, (3, 1)), (3, size))
    assert line.min() - 1e-6 <= inner.min()
    assert inner.max() <= line.max() + 1e-6


@given(sizes, sizes)
def test_nearest_of_the_same_shape_is_the_same(a: int, b: int) -> None:
    labels = np.random.default_rng(a).integers(0, 9, (a, b)).astype(np.uint8)
    np.testing.assert_array_equal(nearest(labels, labels.shape), labels)


def test_an_ellipsoid_has_the_volume_of_an_ellipsoid() -> None:
    patch = plain_space().ellipsoid((0, 0, 0), (9, 12, 15))
    assert (patch.field > 0).sum() == pytest.approx(4 / 3 * np.pi * 9 * 12 * 15, rel=0.02)


def test_a_tube_has_the_volume_of_a_capsule() -> None:
    patch = plain_space().tube(np.array([[-10.0, 0, 0], [0, 0, 0], [10, 0, 0]]), 5)
    assert (patch.field > 0).sum() == pytest.approx(np.pi * 25 * 20 + 4 / 3 * np.pi * 125, rel=0.03)


def test_a_box_near_a_position_holds_all_that_is_near() -> None:
    space = random_space(np.random.default_rng(1), (30, 40, 50))
    box = space.near((5, -10, 20), 12)
    inside = np.zeros(space.shape, bool)
    inside[box] = True
    close = (np.abs(space.coords - np.array([5, -10, 20], np.float32).reshape(3, 1, 1, 1)) <= 12).all(axis=0)
    assert close.any()
    assert not (close & ~inside).any()


def test_a_shell_and_what_it_surrounds_make_the_whole() -> None:
    patch = plain_space().ellipsoid((0, 0, 0), (12, 12, 12))
    inner, shell = patch.grown(-4.0).field > 0, patch.shell(4.0).field > 0
    assert not (inner & shell).any()
    np.testing.assert_array_equal(inner | shell, patch.field > 0)


def test_painting_spares_what_it_may_not_cover() -> None:
    space = plain_space()
    scene = Scene(np.random.default_rng(0), space)
    first = scene.add("organ", space.ellipsoid((0, 0, -5), (8, 8, 8)))
    before = scene.labels == first
    second = scene.add("fat", space.ellipsoid((0, 0, 5), (8, 8, 8)), over=[0])
    np.testing.assert_array_equal(scene.labels == first, before)
    assert (scene.labels == second).any()
    assert scene.tissues == ["air", "organ", "fat"]

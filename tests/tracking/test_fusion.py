"""Fusion: what slices added one by one give is what whole volumes would, in every orientation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from medical_sam2.errors import ConfigError, GeometryError
from medical_sam2.tracking.fusion import FUSIONS, Fusion, FusionFactory, LabelMap, Mean, Vote, Weighted
from medical_sam2.views import AXIAL, CORONAL, SIX_VIEWS, View
from tests.strategies import codes, seeds, shapes, views

Shape = tuple[int, int, int]
Volumes = NDArray[np.float32]
factories = st.sampled_from(sorted(FUSIONS)).map(FUSIONS.__getitem__)


def labels_of(probabilities: Mapping[int, Any]) -> NDArray[np.unsignedinteger]:
    """All objects entered at once."""
    found = LabelMap(next(iter(probabilities.values())).shape, max(probabilities))
    found.add(probabilities, last=True)
    return found.labels


def drawn(seed: int, shape: Shape) -> tuple[Volumes, list[NDArray[np.float64]]]:
    """A probability volume for each of six views, and a weight for each of their slices."""
    rng = np.random.default_rng(seed)
    return rng.random((6, *shape), np.float32), [rng.random(max(shape)) for _ in range(6)]


def fed(fusion: Fusion, axes: str, volumes: Volumes, weights: list[NDArray[np.float64]]) -> Fusion:
    """The fusion, after six views were played through it slice by slice."""
    for view, volume, weight in zip(SIX_VIEWS, volumes, weights, strict=True):
        for t, frame in enumerate(view.apply(volume, axes)):
            fusion.add(view, t, frame, weight=weight[t])
    return fusion


def weight_volumes(axes: str, shape: Shape, weights: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The weights of all views, voxel by voxel."""
    volumes = np.zeros((6, *shape))
    for view, volume, weight in zip(SIX_VIEWS, volumes, weights, strict=True):
        stack = view.apply(volume, axes)
        stack += weight[: len(stack), None, None]
    return volumes


@given(codes, shapes, seeds)
def test_mean_is_the_mean(axes: str, shape: Shape, seed: int) -> None:
    volumes, weights = drawn(seed, shape)
    fusion = fed(Mean(shape, axes, uncertainty=True), axes, volumes, weights)
    np.testing.assert_allclose(fusion.result(), volumes.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(fusion.uncertainty(), 4 * volumes.var(axis=0), atol=1e-5)


@given(codes, shapes, seeds)
def test_weighted_is_the_weighted_mean(axes: str, shape: Shape, seed: int) -> None:
    volumes, weights = drawn(seed, shape)
    fusion = fed(Weighted(shape, axes, uncertainty=True), axes, volumes, weights)
    each = weight_volumes(axes, shape, weights)
    mean = np.average(volumes, axis=0, weights=each)
    np.testing.assert_allclose(fusion.result(), mean, atol=1e-5)
    variance = np.average((volumes - mean) ** 2, axis=0, weights=each)
    np.testing.assert_allclose(fusion.uncertainty(), 4 * variance, atol=1e-4)


@given(codes, shapes, seeds)
def test_vote_counts_views(axes: str, shape: Shape, seed: int) -> None:
    volumes, weights = drawn(seed, shape)
    fusion = fed(Vote(shape, axes), axes, volumes, weights)
    share = (volumes > 0.5).mean(axis=0)
    np.testing.assert_allclose(fusion.result(), share, atol=1e-6)
    np.testing.assert_allclose(fusion.uncertainty(), 4 * share * (1 - share), atol=1e-6)
    np.testing.assert_array_equal(labels_of({1: fusion}), (volumes > 0.5).sum(axis=0) > 3)


@given(factories, codes, shapes, seeds)
def test_stacks_equal_slices_in_any_order(factory: FusionFactory, axes: str, shape: Shape, seed: int) -> None:
    volumes, weights = drawn(seed, shape)
    whole = factory(shape, axes, uncertainty=True)
    for view, volume, weight in reversed(list(zip(SIX_VIEWS, volumes, weights, strict=True))):
        stack = view.apply(volume, axes)
        half = len(stack) // 2
        for part in (slice(half, None), slice(half)):
            whole.add(view, part, stack[part], weight=weight[: len(stack)][part])
    single = fed(factory(shape, axes, uncertainty=True), axes, volumes, weights)
    np.testing.assert_allclose(whole.result(), single.result(), atol=1e-5)
    np.testing.assert_allclose(whole.uncertainty(), single.uncertainty(), atol=1e-4)


@given(factories, views, codes, shapes, seeds)
def test_views_that_agree_are_certain(factory: FusionFactory, view: View, axes: str, shape: Shape, seed: int) -> None:
    volume = np.random.default_rng(seed).integers(0, 2, shape).astype(np.float32)
    fusion = factory(shape, axes, uncertainty=True)
    for each in (view, view.reversed, *SIX_VIEWS):
        fusion.add(each, slice(None), each.apply(volume, axes), weight=0.7)
    np.testing.assert_allclose(fusion.result(), volume, atol=1e-6)
    np.testing.assert_allclose(fusion.uncertainty(), 0, atol=1e-5)


@pytest.mark.parametrize("name", FUSIONS)
def test_views_split_evenly_are_most_uncertain(name: str) -> None:
    fusion = FUSIONS[name]((2, 3, 4), uncertainty=True)
    fusion.add(AXIAL, slice(None), np.ones((4, 3, 2)))
    fusion.add(CORONAL, slice(None), np.zeros((3, 4, 2)))
    np.testing.assert_allclose(fusion.result(), 0.5)
    np.testing.assert_allclose(fusion.uncertainty(), 1)


@given(factories, shapes, seeds)
def test_result_may_be_asked_for_in_between(factory: FusionFactory, shape: Shape, seed: int) -> None:
    volumes, weights = drawn(seed, shape)
    fusion = factory(shape)
    for view, volume, weight in zip(SIX_VIEWS, volumes, weights, strict=True):
        fusion.add(view, slice(None), view.apply(volume), weight=weight[: len(view.apply(volume))])
        np.testing.assert_array_equal(fusion.result(), fusion.result())
        np.testing.assert_array_equal(fusion[0], fusion.result()[0])
    np.testing.assert_allclose(fusion.result(), fed(factory(shape), "RAS", volumes, weights).result(), atol=1e-5)


def test_slices_never_seen_are_background_and_uncounted() -> None:
    fusion = Weighted((2, 3, 4), uncertainty=True)
    fusion.add(AXIAL, 1, np.full((3, 2), 0.8), weight=0.5)
    fusion.add(AXIAL, 2, np.full((3, 2), 0.8), weight=0)
    assert fusion.result()[0, 0].tolist() == [0, pytest.approx(0.8), 0, 0]
    np.testing.assert_allclose(fusion.uncertainty(), 0, atol=1e-6)


@given(seeds)
def test_half_precision_is_wrong_by_less_than_is_promised(seed: int) -> None:
    volumes, weights = drawn(seed, (8, 8, 8))
    volumes[0, 4:] = np.clip(3 - volumes[1:, 4:].sum(axis=0), 0, 1)  # sums near 3, means near the threshold
    exact = volumes.astype(np.float64).mean(axis=0)
    error = np.abs(fed(Mean((8, 8, 8), dtype=np.float16), "RAS", volumes, weights).result() - exact)
    assert error.max() < 0.002
    assert error[np.abs(exact - 0.5) < 0.05].max() < 0.001


@pytest.mark.parametrize(("name", "bytes_per_voxel"), [("mean", 4), ("weighted", 4), ("vote", 1)])
def test_one_array_is_held(name: str, bytes_per_voxel: int) -> None:
    fusion = FUSIONS[name]((64, 64, 64))
    for view in (AXIAL, CORONAL):
        fusion.add(view, 0, np.ones((64, 64)))
    held = sum(value.nbytes for value in vars(fusion).values() if isinstance(value, np.ndarray))
    assert held == 64**3 * bytes_per_voxel


def test_a_wrong_shape_is_refused() -> None:
    fusion = Mean((2, 3, 4))
    with pytest.raises(GeometryError, match=r"axial .* \(2, 3\), these frames \(3, 2\)"):
        fusion.add(AXIAL, 0, np.zeros((2, 3)))
    assert not fusion.result().any()


def test_uncertainty_must_be_asked_for_beforehand() -> None:
    with pytest.raises(ConfigError, match="uncertainty=True"):
        Mean((1, 1, 1)).uncertainty()


@given(shapes, seeds, st.lists(st.integers(1, 70_000), min_size=1, max_size=4, unique=True))
def test_labels_go_to_the_largest_probability(shape: Shape, seed: int, names: list[int]) -> None:
    rng = np.random.default_rng(seed)
    volumes = rng.choice([0.0, 0.3, 0.5, 0.6, 0.9], (len(names), *shape))
    labels = labels_of(dict(zip(names, volumes, strict=True)))
    assert labels.dtype == np.min_scalar_type(max(names))
    for index in np.ndindex(shape):
        best = max(((volume[index], -name) for name, volume in zip(names, volumes, strict=True)))
        assert labels[index] == (-best[1] if best[0] > 0.5 else 0)


@given(shapes, seeds, st.permutations([1, 2, 3, 4]), st.integers(0, 4), st.booleans())
def test_objects_of_priority_take_their_voxels_first(
    shape: Shape, seed: int, order: list[int], count: int, at_once: bool
) -> None:
    volumes = np.random.default_rng(seed).choice([0.0, 0.3, 0.5, 0.6, 0.9], (4, *shape))
    first = order[:count]
    found = LabelMap(shape, 4, first)
    each = {label: volumes[label - 1] for label in order}
    for lot in [each] if at_once else [{label: one} for label, one in each.items()]:
        found.add(lot, last=at_once)
    for index in np.ndindex(shape):
        claims = {label: volumes[label - 1][index] for label in order if volumes[label - 1][index] > 0.5}
        listed = [label for label in first if label in claims]
        best = min(claims, key=lambda label: (-claims[label], label), default=0)
        assert found.labels[index] == (listed[0] if listed else best)


@given(shapes, seeds, st.integers(0, 2), st.booleans(), st.booleans())
def test_on_a_slice_that_it_is_prompted_on_an_object_comes_before_others(
    shape: Shape, seed: int, axis: int, at_once: bool, listed: bool
) -> None:
    rng = np.random.default_rng(seed)
    volumes = rng.choice([0.0, 0.3, 0.5, 0.6, 0.9], (3, *shape)).astype(np.float32)
    slices = {label: np.flatnonzero(rng.integers(0, 2, shape[axis])).tolist() for label in (1, 2)}
    found = LabelMap(shape, 3, [3] if listed else [], {label: (axis, own) for label, own in slices.items()})
    each = {label: volumes[label - 1] for label in (1, 2, 3)}
    for lot in [each] if at_once else [{label: one} for label, one in each.items()]:
        found.add(lot, last=at_once)
    for index in np.ndindex(shape):
        claims = [label for label in each if each[label][index] > 0.5]
        rank = {
            label: (not (listed and label == 3), index[axis] not in slices.get(label, ()), -each[label][index])
            for label in claims
        }
        assert found.labels[index] == min(claims, key=lambda label: (*rank[label], label), default=0)


@pytest.mark.parametrize(("label", "dtype"), [(1, np.uint8), (255, np.uint8), (256, np.uint16), (65_536, np.uint32)])
def test_labels_take_the_smallest_type(label: int, dtype: type) -> None:
    assert labels_of({label: np.ones((1, 1, 1))}).dtype == dtype

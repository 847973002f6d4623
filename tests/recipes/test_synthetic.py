"""Synthetic cases: deterministic, in the promised format, with objects that are there and can be told apart."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medical_sam2.data.cases import TrainingCase
from medical_sam2.errors import ConfigError
from synthetic import make_set, make_volume
from synthetic.quality import border_contrast, distinct, visible
from synthetic.sets import SLICES, STYLES
from synthetic.volumes import ANATOMIES

SIZE = 40
seeds = st.integers(0, 2**32 - 1)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def check(case: TrainingCase) -> None:
    """What every case promises."""
    assert case.images.dtype == case.labels.dtype == np.uint8
    assert case.images.shape[:3] == case.labels.shape
    assert len(case.tasks) > 0
    for task in case.tasks:
        member = np.isin(case.labels, task)
        assert 0 not in task
        assert len(set(task)) == len(task)
        assert member.sum() >= 40
    assert case.images.std() > 1


@pytest.mark.parametrize("name", ANATOMIES)
def test_every_anatomy_gives_a_volume(name: str) -> None:
    case = make_volume(generator(), SIZE, name=name)
    check(case)
    assert case.kind == "volume"
    assert case.name == name
    assert case.images.ndim == 3
    assert max(case.images.shape) == SIZE


@pytest.mark.parametrize("name", [*STYLES, *SLICES])
def test_every_style_gives_a_set_of_colour_images(name: str) -> None:
    case = make_set(generator(), SIZE, count=2, name=name)
    check(case)
    assert case.kind == "set"
    assert case.images.shape == (2, SIZE, SIZE, 3)


@given(seeds)
@settings(max_examples=8)
def test_any_seed_gives_a_volume(seed: int) -> None:
    check(make_volume(generator(seed), 32))


@given(seeds)
@settings(max_examples=8)
def test_any_seed_gives_a_set(seed: int) -> None:
    check(make_set(generator(seed), 32, count=2))


def small_set(rng: np.random.Generator, size: int) -> TrainingCase:
    return make_set(rng, size, count=2)


@pytest.mark.parametrize("make", [make_volume, small_set])
def test_a_seed_decides_everything(make: Callable[[np.random.Generator, int], TrainingCase]) -> None:
    one, two, other = (make(generator(seed), 32) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.images, two.images)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert one.tasks == two.tasks
    assert not (one.images.shape == other.images.shape and np.array_equal(one.images, other.images))


def test_the_images_of_a_set_differ_but_share_their_labels() -> None:
    case = make_set(generator(1), SIZE, count=6, name="cells")
    assert len({image.tobytes() for image in case.images}) == 6
    whole = max(case.tasks, key=len)
    assert np.isin(case.labels, whole).any(axis=(1, 2)).mean() >= 0.5


def test_nested_objects_are_nested() -> None:
    """A nucleus lies in its cell: every task of a cell is a union that holds the nucleus' label."""
    case = make_set(generator(2), SIZE, count=4, name="cells")
    cell, nucleus = sorted(case.tasks, key=len, reverse=True)
    assert set(nucleus) < set(cell)


def test_a_case_too_small_to_see_anything_is_refused() -> None:
    with pytest.raises(ConfigError, match="32 or more"):
        make_volume(generator(), 8)
    with pytest.raises(ConfigError, match="32 or more"):
        make_set(generator(), 8)


def disc_case(step: int) -> tuple[np.ndarray, np.ndarray]:
    """A disc that is `step` grey levels brighter than its surroundings."""
    rows, columns = np.mgrid[:40, :40]
    labels = np.broadcast_to((np.hypot(rows - 20, columns - 20) < 9).astype(np.uint8), (5, 40, 40)).copy()
    return (100 + step * labels.astype(int)).astype(np.uint8), labels


@pytest.mark.parametrize(("step", "seen"), [(0, False), (40, True), (-40, True)])
def test_a_border_counts_as_seen_where_both_sides_differ(step: int, seen: bool) -> None:
    images, labels = disc_case(step)
    assert (border_contrast(generator(), images, labels, (1,)) > 0.4) is seen
    assert bool(distinct(generator(), images, labels, [(1,)], mercy=0)) is seen


def test_mercy_keeps_what_cannot_be_seen() -> None:
    images, labels = disc_case(0)
    assert distinct(generator(), images, labels, [(1,)], mercy=1) == ((1,),)


def test_objects_of_few_voxels_and_absent_labels_are_dropped() -> None:
    labels = np.zeros((4, 20, 20), np.uint8)
    labels[0, :10, :10], labels[1, 0, :3] = 1, 2
    assert visible(labels, [(1,), (2,), (1, 9), (9,)]) == ((1,), (1,))

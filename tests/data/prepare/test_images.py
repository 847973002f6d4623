"""One image: its intensities, its slices, and tasks out of its label map: structures, components, what is too small."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_sam2.data.prepare.images import (
    LabelParts,
    TrainingObject,
    as_slice,
    choose_view,
    count_foreground,
    count_pixels,
    cut_to_content,
    levels_of,
    levels_of_all,
    resize_slices,
    rule_for,
    select_objects,
    shrink_shape,
    split_labels,
)
from medical_sam2.errors import FormatError
from medical_sam2.volume import Volume
from tests.data.nnunet import blob
from tests.strategies import seeds

REGIONS = {"whole": (1, 2, 3), "core": (2, 3), "left": (1,)}


def area(parts: LabelParts, one: TrainingObject) -> np.ndarray:
    return np.isin(parts.map, one.values)


@given(seeds, st.booleans())
def test_objects_are_exactly_the_structures_and_their_components(seed: int, components: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, (3, 8, 8)) * (rng.random((3, 8, 8)) < 0.4)
    found = split_labels(labels, REGIONS, components=components, least=1)
    for name, values in REGIONS.items():
        whole = [one for one in found.objects if one.structure == name and one.component == 0]
        pieces = [area(found, one) for one in found.objects if one.structure == name and one.component > 0]
        np.testing.assert_array_equal(area(found, whole[0]), np.isin(labels, values))
        if pieces:
            assert np.sum(pieces, axis=0).max() == 1  # components never overlap
            if name not in found.crumbs:
                np.testing.assert_array_equal(np.sum(pieces, axis=0), area(found, whole[0]))


def test_one_component_stays_whole_and_two_are_told_apart() -> None:
    labels = blob((4, 20, 20), {1: (slice(None), slice(2, 8), slice(2, 8)), 2: (slice(None), slice(2, 8), slice(12, 18))})
    both = split_labels(labels, {"kidney": (1, 2), "left": (1,)}, components=True, least=1)
    assert [(one.structure, one.component) for one in both.objects] == [
        ("kidney", 0),
        ("kidney", 1),
        ("kidney", 2),
        ("left", 0),
    ]
    alone = split_labels(labels, {"kidney": (1, 2)}, components=False, least=1)
    assert [(one.structure, one.component) for one in alone.objects] == [("kidney", 0)]


def test_small_masks_are_dropped_and_said_so() -> None:
    labels = blob((2, 100, 100), {1: (slice(0, 1), slice(0, 30), slice(0, 30)), 2: (slice(1, 2), slice(50, 53), slice(50, 55))})
    found = split_labels(labels, {"organ": (1, 2), "lesion": (2,)}, components=True, least=0)
    kept, dropped = select_objects(found, count_pixels(found.map), 0.00153)
    assert [(one.structure, one.component) for one in kept] == [("organ", 0)]  # its one large component is no second task
    assert [(one.structure, one.component, one.share) for one in dropped] == [("organ", 2, 0.0015), ("lesion", 0, 0.0015)]
    kept, _ = select_objects(found, count_pixels(found.map), 0.0015)
    assert len(kept) == 4


def test_what_was_not_outlined_belongs_to_no_task() -> None:
    labels = blob((1, 8, 8), {1: (slice(0, 1), slice(0, 4), slice(0, 4)), 9: (slice(0, 1), slice(5, 8), slice(5, 8))})
    found = split_labels(labels, {"organ": (1,)}, components=True, least=1)
    assert found.map.max() == 2
    assert [area(found, one).sum() for one in found.objects] == [16]


def test_dust_is_not_told_apart() -> None:
    labels = np.zeros((1, 64, 64), np.uint8)
    labels[0, ::2, ::2] = 1
    found = split_labels(labels, {"dust": (1,)}, components=True, least=1)
    assert len(found.objects) == 1 + 64
    assert dict(found.crumbs) == {"dust": 32 * 32 - 64}


def test_more_structures_than_a_byte_tells_apart() -> None:
    labels = np.arange(300).reshape(1, 15, 20)
    with pytest.raises(FormatError, match="255"):
        split_labels(labels, {str(n): (n,) for n in range(1, 300)}, components=True, least=1)


@pytest.mark.parametrize(
    ("modality", "rule"),
    [("CT", "window"), ("MR", "percentiles"), ("CBCT", "percentiles"), ("US", "percentiles"), ("RGB", "whole")],
)
def test_what_is_clipped_depends_on_the_modality(modality: str, rule: str) -> None:
    assert rule_for(modality) == rule


@given(seeds)
def test_normalised_intensities_have_no_mean_and_unit_deviation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.normal(rng.uniform(-500, 500), rng.uniform(1, 300), (12, 13))
    inside = rng.random(image.shape) < 0.7
    z = levels_of(image, inside, "whole").normalise(image, inside)
    assert (float(z[inside].mean()), float(z[inside].std())) == pytest.approx((0, 1), abs=1e-4)
    assert not z[~inside].any()


def test_percentiles_take_outliers_away_and_the_whole_range_does_not() -> None:
    image = np.arange(10_000.0)
    image[-1] = 1e9
    clipped, whole = levels_of(image, None, "percentiles"), levels_of(image, None, "whole")
    assert (clipped.low, clipped.high) == pytest.approx((50, 9949), abs=2)
    assert whole.high == 1e9
    grey = clipped.grey(image)
    assert (grey[0], grey[-1]) == (0, 255)
    assert (np.diff(grey[:-1].astype(int)) >= 0).all()
    with pytest.raises(FormatError, match="nothing to see"):
        levels_of(np.full(9, 7), None, "whole")


def test_cropping_keeps_all_labels_and_fills_holes() -> None:
    image = blob((20, 20), {5: (slice(4, 12), slice(6, 14))})
    image[8, 8] = 0
    cut = cut_to_content([image], blob((20, 20), {1: (slice(11, 15), slice(6, 8))}))
    assert [(side.start, side.stop) for side in cut.box] == [(4, 15), (6, 14)]
    assert cut.inside is not None
    assert cut.inside[4, 2], "the hole counts as inside"
    assert not cut.inside[-1, -1]
    little = cut_to_content([np.pad(np.ones((18, 18)), 1)], None)
    assert little.inside is None, "cropping took away less than a quarter"
    with pytest.raises(FormatError, match="nothing to see"):
        cut_to_content([np.zeros((4, 4))], None)


def test_channels_are_cropped_together() -> None:
    one, other = (blob((9, 9), {1: (slice(n, n + 2), slice(n, n + 2))}) for n in (1, 5))
    assert [(side.start, side.stop) for side in cut_to_content([one, other], None).box] == [(1, 7)] * 2


@given(seeds)
def test_the_scale_of_many_cases_does_not_depend_on_how_they_are_dealt_out(seed: int) -> None:
    rng, window = np.random.default_rng(seed), (-160.0, 240.0)
    values = rng.normal(60, 60, 3000)
    whole = levels_of_all([count_foreground(values, window)], window)
    parts = levels_of_all([count_foreground(part, window) for part in np.array_split(rng.permutation(values), 5)], window)
    assert whole == parts
    low, high = np.percentile(np.clip(values, *window), (0.5, 99.5))
    clipped = np.clip(values, low, high)
    assert (whole.low, whole.high) == pytest.approx((low, high), abs=8), "of so few values the outermost are rare"
    assert (whole.mean, whole.std) == pytest.approx((clipped.mean(), clipped.std()), abs=1)


def test_a_scale_needs_a_foreground_of_several_intensities() -> None:
    with pytest.raises(FormatError, match="no case has a voxel"):
        levels_of_all([], (0.0, 100.0))
    with pytest.raises(FormatError, match="0 to 100 HU"):
        levels_of_all([count_foreground(np.full(50, 70.0), (0.0, 100.0))], (0.0, 100.0))


@pytest.mark.parametrize(
    ("spacing", "through"), [((1, 1, 3), 2), ((3, 1, 1), 0), ((1, 3, 1), 1), ((1, 1, 1), 2), ((1.02, 1, 1), 2)]
)
def test_slices_lie_across_the_coarsest_axis(spacing: tuple[float, float, float], through: int) -> None:
    volume = Volume(np.zeros((2, 3, 4)), np.diag([*spacing, 1.0]))
    assert choose_view(volume).order(volume.orientation)[0] == through


def test_slices_shrink_and_never_grow() -> None:
    assert shrink_shape((512, 256), 128) == (128, 64)
    assert shrink_shape((100, 60), 128) == (100, 60)
    assert shrink_shape((1000, 1), 100) == (100, 1)
    labels = blob((2, 40, 40), {9: (slice(None), slice(0, 20), slice(0, 20)), 4: (slice(None), slice(20, 40), slice(20, 40))})
    small = resize_slices(labels, (10, 10), nearest=True)
    assert (small.shape, set(np.unique(small))) == ((2, 10, 10), {0, 4, 9})
    np.testing.assert_array_equal(count_pixels(small)[:, [4, 9]], [[25, 25], [25, 25]])
    assert resize_slices(np.zeros((2, 40, 40, 3), np.uint8), (10, 20)).shape == (2, 10, 20, 3)
    np.testing.assert_array_equal(as_slice(np.arange(6).reshape(2, 3))[..., 0], np.arange(6).reshape(2, 3).T)

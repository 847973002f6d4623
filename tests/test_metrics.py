"""Metrics: equal to MONAI on 200 random masks, to a brute force written otherwise, and the rules for empty masks."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.distance import cdist

from medical_sam2 import metrics
from medical_sam2.errors import GeometryError
from tests.strategies import masks, seeds

Array = NDArray[np.bool_]
GOLDEN = Path(__file__).parent / "golden" / "metrics.npz"
grids = st.lists(st.integers(1, 7), min_size=2, max_size=3).map(tuple)
lengths = st.floats(0.1, 10)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Array, Array, tuple[float, ...]]:
    """Truth, prediction and spacing in two or three dimensions."""
    shape = draw(grids)
    return draw(masks(shape)), draw(masks(shape)), tuple(draw(lengths) for _ in shape)


def brute_force(one: Array, other: Array, spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Distance from each surface voxel of one to the nearest of the other, from all pairs."""
    surfaces = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) * spacing for mask in (one, other)]
    return cdist(*surfaces).min(axis=1, initial=math.inf)


def test_equal_to_monai_on_200_masks() -> None:
    """The file is written by scripts/golden_metrics.py; MONAI computes in float32."""
    golden = np.load(GOLDEN)
    cases = len(golden["shapes"])
    packed = np.unpackbits(golden["masks"])
    edge = round((packed.size / cases / 2) ** (1 / 3))
    boxes = packed.reshape(cases, 2, edge, edge, edge).astype(bool)
    for case in range(cases):
        i, j, k = golden["shapes"][case]
        truth, predicted = boxes[case, :, :i, :j, :k]
        scores = metrics.score(truth, predicted, golden["spacings"][case], tolerance_mm=golden["tolerances"][case])
        hausdorff, surface = golden["scores"][case]
        if truth.any() != predicted.any():
            assert math.isnan(hausdorff), "the one case in which ours differs"
            hausdorff = math.inf
        np.testing.assert_allclose([scores.hausdorff95_mm, scores.surface_dice], [hausdorff, surface], rtol=2e-6)
    assert cases == 200


@given(pairs(), lengths)
def test_equal_to_brute_force(pair: tuple[Array, Array, tuple[float, ...]], tolerance_mm: float) -> None:
    truth, predicted, spacing = pair
    there, back = brute_force(truth, predicted, spacing), brute_force(predicted, truth, spacing)
    for ours, expected in zip(metrics.surface_distances(truth, predicted, spacing), (there, back), strict=True):
        np.testing.assert_allclose(np.sort(ours), np.sort(expected), rtol=1e-9)
    if truth.any() and predicted.any():
        larger = max(np.percentile(there, 95), np.percentile(back, 95))
        assert metrics.hausdorff95(truth, predicted, spacing) == pytest.approx(larger)
        share = metrics.surface_dice(truth, predicted, spacing, tolerance_mm)
        pooled = np.concatenate([there, back])  # a distance at the tolerance may be rounded to either side
        assert (
            np.mean(pooled <= tolerance_mm * (1 - 1e-8)) - 1e-12
            <= share
            <= np.mean(pooled <= tolerance_mm * (1 + 1e-8)) + 1e-12
        )


@pytest.mark.parametrize(("spacing_mm", "steps"), [(0.1, 3), (0.7, 3), (0.9707144805996099, 3), (1.1, 3), (1 / 3, 7)])
def test_a_distance_at_the_tolerance_is_within_it_however_it_is_rounded(spacing_mm: float, steps: int) -> None:
    truth, predicted = np.zeros((2, 12, 3), bool)
    truth[2], predicted[2 + steps] = True, True
    for tolerance_mm in (steps * spacing_mm, float(np.sum([spacing_mm] * steps)), float(f"{steps * spacing_mm:.12g}")):
        assert metrics.surface_dice(truth, predicted, (spacing_mm, 1), tolerance_mm) == 1
        assert metrics.surface_dice(truth, predicted, (spacing_mm, 1), tolerance_mm * 0.999) == 0


@given(pairs())
def test_overlap_is_counted(pair: tuple[Array, Array, tuple[float, ...]]) -> None:
    truth, predicted, _ = pair
    both = sum(bool(a and b) for a, b in zip(truth.flat, predicted.flat, strict=True))
    either = sum(bool(a or b) for a, b in zip(truth.flat, predicted.flat, strict=True))
    if either == 0:
        return
    assert metrics.iou(truth, predicted) == pytest.approx(both / either)
    overlap = metrics.dice(truth, predicted)
    assert overlap == pytest.approx(2 * both / (both + either))
    assert overlap == metrics.dice(predicted, truth)


@given(pairs())
def test_a_perfect_prediction(pair: tuple[Array, Array, tuple[float, ...]]) -> None:
    truth, _, spacing = pair
    if truth.any():
        assert metrics.score(truth, truth.copy(), spacing) == metrics.Scores(1.0, 1.0, 0.0, 1.0, 0.0)


@given(pairs(), st.data())
def test_surroundings_change_nothing(pair: tuple[Array, Array, tuple[float, ...]], data: st.DataObject) -> None:
    truth, predicted, spacing = pair
    margins = [(data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))) for _ in spacing]
    wide = metrics.score(np.pad(truth, margins), np.pad(predicted, margins), spacing)
    np.testing.assert_allclose(list(vars(wide).values()), list(vars(metrics.score(truth, predicted, spacing)).values()))


@given(pairs(), seeds)
def test_axes_may_be_swapped_and_flipped(pair: tuple[Array, Array, tuple[float, ...]], seed: int) -> None:
    truth, predicted, spacing = pair
    order = np.random.default_rng(seed).permutation(truth.ndim)
    turned = metrics.score(*(np.flip(mask.transpose(order)) for mask in (truth, predicted)), [spacing[a] for a in order])
    np.testing.assert_allclose(list(vars(turned).values()), list(vars(metrics.score(truth, predicted, spacing)).values()))


def test_both_empty_is_left_out() -> None:
    empty = np.zeros((3, 4, 5), bool)
    assert all(math.isnan(value) for value in vars(metrics.score(empty, empty, (1, 1, 1))).values())


def test_one_empty_is_the_worst() -> None:
    empty, filled = np.zeros((3, 4, 5), bool), np.ones((3, 4, 5), bool)
    assert metrics.score(filled, empty, (1, 1, 1)) == metrics.Scores(0.0, 0.0, math.inf, 0.0, -1.0)
    assert metrics.score(empty, filled, (1, 1, 1)) == metrics.Scores(0.0, 0.0, math.inf, 0.0, math.inf)


def test_each_measure_is_what_score_says() -> None:
    truth, predicted = np.zeros((2, 6, 8, 9), bool)
    truth[1:5, 2:6, 2:7] = predicted[2:6, 1:6, 3:9] = True
    spacing = (2.5, 0.7, 1.1)
    assert metrics.score(truth, predicted, spacing, tolerance_mm=1.5) == metrics.Scores(
        metrics.dice(truth, predicted),
        metrics.iou(truth, predicted),
        metrics.hausdorff95(truth, predicted, spacing),
        metrics.surface_dice(truth, predicted, spacing, 1.5),
        metrics.volume_error(truth, predicted),
    )
    assert metrics.volume_error(truth, predicted) == pytest.approx((4 * 5 * 6 - 4 * 4 * 5) / (4 * 4 * 5))


def test_numbers_count_as_masks() -> None:
    labels = np.array([[0, 2, 2], [0, 1, 0]])
    assert metrics.dice(labels, labels > 0) == 1.0


def test_grids_that_do_not_fit_are_refused() -> None:
    mask = np.ones((3, 3, 3), bool)
    with pytest.raises(GeometryError, match="one grid"):
        metrics.dice(mask, np.ones((3, 3, 4), bool))
    for spacing in [(1, 1), (1, 1, 0), (1, 1, -1), (1, 1, math.nan), (1, 1, math.inf)]:
        with pytest.raises(GeometryError, match="spacing"):
            metrics.hausdorff95(mask, mask, spacing)

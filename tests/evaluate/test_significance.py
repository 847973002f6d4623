"""Paired statistics: against exact values, and on data whose truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from medical_sam2.errors import ConfigError
from medical_sam2.evaluate.tables import compared, difference, holm, mean_interval

probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_wilcoxon_is_exact_where_all_agree() -> None:
    """Six gains, all positive: the chance of that is 2 of 2⁶."""
    found = difference(np.arange(6) + np.linspace(0.1, 0.6, 6), np.arange(6), rng())
    assert found.p == pytest.approx(2 / 64)
    assert found.pairs == 6
    assert found.mean == pytest.approx(0.35)
    assert 0.1 < found.low < found.mean < found.high < 0.6


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Of 40 samples of 40 normal differences with mean 0.3, about 38 intervals hold the mean."""
    draws = np.random.default_rng(1).normal(0.3, 1.0, (40, 40))
    intervals = [difference(draw, np.zeros(40), rng()) for draw in draws]
    assert 34 <= sum(each.low <= 0.3 <= each.high for each in intervals) <= 39


def test_pairing_matters() -> None:
    """A gain of .01 in cases that differ by far more is seen, because each is compared with itself."""
    cases = rng().uniform(0.2, 0.9, 30)
    gains = rng().normal(0.01, 0.005, 30)
    found = difference(cases + gains, cases, rng())
    assert found.low > 0
    assert found.p < 1e-4


def test_what_says_nothing_is_left_out() -> None:
    found = difference([0.5, math.nan, 0.7, 0.9], [0.4, 0.2, math.nan, 0.8], rng())
    assert found.pairs == 2
    assert found.mean == pytest.approx(0.1)
    assert math.isnan(difference([math.nan], [1.0], rng()).mean)
    assert difference([0.5], [0.2], rng()).p == 1.0
    same = difference([0.5, 0.6, 0.7], [0.5, 0.6, 0.7], rng())
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    with pytest.raises(ConfigError, match="no pairs"):
        difference([0.5, 0.6], [0.5], rng())


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, math.nan, 0.9])[0] == pytest.approx(0.8)
    assert math.isnan(holm([0.4, math.nan, 0.9])[1])
    assert holm([]) == []


@given(probabilities)
def test_holm_is_no_laxer_than_nothing_and_no_stricter_than_bonferroni(values: list[float]) -> None:
    corrected = holm(values)
    for p, adjusted in zip(values, corrected, strict=True):
        assert p <= adjusted <= min(1.0, len(values) * p) + 1e-12
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()


def test_many_comparisons_are_corrected() -> None:
    cases = rng().uniform(0.2, 0.9, 12)
    others = {"worse": cases - np.linspace(0.05, 0.2, 12), "same": cases.copy()}
    found = compared(cases, others, rng())
    assert found["worse"].p == pytest.approx(2 * 2 / 2**12)
    assert found["same"].p == 1.0


def test_the_interval_is_that_of_a_bootstrap_by_hand() -> None:
    """Against resamples of our own: percentiles of means over cases drawn with replacement."""
    values = rng().gamma(2.0, 0.1, 25)
    mean, low, high = mean_interval(values, rng())
    draws = np.random.default_rng(9).integers(0, 25, (20_000, 25))
    expected = np.percentile(values[draws].mean(axis=1), (2.5, 97.5))
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx(expected, abs=0.003)


def test_p_is_that_of_scipy_on_the_pairs() -> None:
    one, other = rng().random(15), rng().random(15) + np.linspace(-0.2, 0.3, 15)
    found = difference(one, other, rng())
    assert found.p == pytest.approx(float(stats.wilcoxon(one, other).pvalue))
    assert found.mean == pytest.approx(float((one - other).mean()))


def test_the_other_way_round_is_the_opposite() -> None:
    one, other = rng().random(12), np.random.default_rng(3).random(12)
    there, back = difference(one, other, rng()), difference(other, one, rng())
    assert (there.mean, there.p, there.pairs) == pytest.approx((-back.mean, back.p, back.pairs))
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=0.01)


def test_the_order_of_cases_decides_nothing() -> None:
    one, other, order = rng().random(12), np.random.default_rng(3).random(12), rng().permutation(12)
    found, shuffled = difference(one, other, rng()), difference(one[order], other[order], rng())
    assert (found.mean, found.p) == pytest.approx((shuffled.mean, shuffled.p))
    assert (found.low, found.high) == pytest.approx((shuffled.low, shuffled.high), abs=0.02)


def test_too_few_values_have_no_interval() -> None:
    assert math.isnan(mean_interval([], rng())[0])
    mean, low, high = mean_interval([0.4, math.nan], rng())
    assert (mean, math.isnan(low), math.isnan(high)) == (0.4, True, True)
    assert mean_interval([0.4, 0.4, 0.4], rng()) == pytest.approx((0.4, 0.4, 0.4))

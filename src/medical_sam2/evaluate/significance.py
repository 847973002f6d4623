"""Whether one method is better than another on the same cases: intervals and tests of paired differences."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from medical_sam2.errors import ConfigError

RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """How much better one method is, over pairs that both have answered."""

    mean: float  # of the differences
    low: float  # lower end of its 95 % bootstrap interval
    high: float  # upper end
    p: float  # of the two-sided Wilcoxon signed-rank test; after `compared`, corrected by Holm
    pairs: int  # that were compared; those with a nan are left out


def difference(one: ArrayLike, other: ArrayLike, rng: np.random.Generator) -> Difference:
    """How much higher `one` scores than `other`, pair by pair.

    The interval is a percentile bootstrap of the mean over pairs; the test drops pairs without a difference, as Wilcoxon did.
    Pairs are taken as independent: give one value for each patient where several structures of a patient were scored.

    Raises:
        ConfigError: the two are not as long as each other.
    """
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ConfigError(f"scores of shapes {first.shape} and {second.shape} are no pairs", "give one of each for every case")
    gains = (first - second)[np.isfinite(first) & np.isfinite(second)]
    if not gains.size:
        return Difference(math.nan, math.nan, math.nan, math.nan, 0)
    if gains.size == 1:
        return Difference(float(gains[0]), math.nan, math.nan, 1.0, 1)
    mean, low, high = mean_interval(gains, rng)
    p = float(np.asarray(stats.wilcoxon(gains))[1]) if gains.any() else 1.0
    return Difference(mean, low, high, p, gains.size)


def mean_interval(values: ArrayLike, rng: np.random.Generator) -> tuple[float, float, float]:
    """Mean of finite values and the ends of its 95 % percentile bootstrap interval; nan for what too few values cannot tell."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if finite.size < 2:
        return (float(finite[0]) if finite.size else math.nan), math.nan, math.nan
    found = stats.bootstrap((finite,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=rng).confidence_interval
    return float(finite.mean()), float(found.low), float(found.high)


def compared(ours: ArrayLike, others: Mapping[str, ArrayLike], rng: np.random.Generator) -> dict[str, Difference]:
    """One method against several others on the same cases, p corrected for their number."""
    found = {name: difference(ours, scores, rng) for name, scores in others.items()}
    corrected = holm([each.p for each in found.values()])
    return {name: replace(each, p=p) for (name, each), p in zip(found.items(), corrected, strict=True)}


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: each p so that comparing it with α keeps the error of all tests together at α.

    A nan (nothing was tested) stays one and does not count.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    tested = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    corrected, highest = list(p_values), 0.0
    for rank, i in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected

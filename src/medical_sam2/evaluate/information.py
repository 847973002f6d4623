"""How much the memories of a bank tell about each other: their pairwise mutual information (METHOD, equations 7–11; Fig. 6).

The estimate is that of a Gaussian copula (Ince et al. 2017): values become normal scores by their ranks, then
I = ½ log(|Σx|·|Σy| / |Σxy|). It is exact for Gaussians, whatever monotone function was applied to each variable, and a lower
bound otherwise. The paper does not say how it estimates; figures are comparable within this project only.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from medical_sam2.errors import GeometryError

Floats = NDArray[np.float64]


def mutual_information(one: ArrayLike, other: ArrayLike) -> float:
    """Mutual information of two variables in nats, from paired samples.

    Args:
        one: (N,) samples, or (N, D) of D variables together.
        other: (N,) or (N, E), sample by sample beside the first.

    Returns:
        At least 0; `inf` where one determines the other linearly after ranking.

    Raises:
        GeometryError: the samples do not pair, or are too few for so many variables.
    """
    x, y = _columns(one), _columns(other)
    if len(x) != len(y):
        raise GeometryError(f"{len(x)} and {len(y)} samples do not pair", "give as many of each")
    if len(x) <= x.shape[1] + y.shape[1] + 1:
        raise GeometryError(f"{len(x)} samples are too few for {x.shape[1] + y.shape[1]} variables", "give more samples")
    both = np.cov(np.concatenate([_normal(x), _normal(y)], axis=1), rowvar=False)
    d = x.shape[1]
    with np.errstate(divide="ignore"):
        whole, first, second = (np.linalg.slogdet(part)[1] for part in (both, both[:d, :d], both[d:, d:]))
    return float("inf") if whole == -np.inf else max(0.0, float(first + second - whole) / 2)


def of_bank(maps_KChw: Sequence[ArrayLike]) -> float:
    """Mean mutual information in nats of all pairs of memories, value by value; nan for fewer than two.

    Args:
        maps_KChw: outputs of the memory encoder, (C, h, w) each.
    """
    flat = [np.asarray(each, np.float64).ravel() for each in maps_KChw]
    pairs = [mutual_information(flat[i], flat[j]) for i in range(len(flat)) for j in range(i)]
    return float(np.mean(pairs)) if pairs else float("nan")


def _columns(values: ArrayLike) -> Floats:
    array = np.asarray(values, np.float64)
    return array[:, None] if array.ndim == 1 else array


def _normal(samples: Floats) -> Floats:
    """Normal scores: equal values share a rank."""
    return np.asarray(stats.norm.ppf(stats.rankdata(samples, axis=0) / (len(samples) + 1)))

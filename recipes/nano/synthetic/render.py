"""Take a picture of an anatomy: intensities, texture, bias, blur, noise and artefacts of many kinds of scanners."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from synthetic import artefacts
from synthetic.fields import Field, resample, spline_noise
from synthetic.scene import Anatomy
from synthetic.tissues import LOOKS

CT = ("ct", "head_ct")


@dataclass(frozen=True)
class Acquisition:
    """How a picture is taken.

    Args:
        shape: voxels of the finished picture.
        matrix: voxels that the scanner measures, where noise is born; coarser than `shape` makes a blurred picture.
        look: name of the scale of intensities, or "random".
    """

    shape: tuple[int, int, int]
    matrix: tuple[int, int, int]
    look: str


def render(rng: np.random.Generator, anatomy: Anatomy, plan: Acquisition) -> Field:
    """A picture of the anatomy: (D, H, W) float32 in 0–1, on the grid that `plan` asks for."""
    clean = _paint(rng, anatomy, _means(rng, anatomy, plan.look))
    clean = resample(_blur(rng, clean), plan.matrix)
    noisy = _spoil(rng, clean * _bias(rng, plan.matrix, plan.look), plan.look)
    picture = resample(noisy, plan.shape)
    return _finish(rng, picture, plan.look)


def _means(rng: np.random.Generator, anatomy: Anatomy, look: str) -> Field:
    """Mean intensity of each structure, 0–1, window already applied."""
    count = len(anatomy.tissues)
    if look == "random":
        reach = rng.uniform(0.15, 1) if rng.uniform() < 0.4 else 1  # small: all tissues look nearly the same
        by_tissue = {name: rng.uniform(0.5 - reach / 2, 0.5 + reach / 2) for name in dict.fromkeys(anatomy.tissues)}
        means = np.array([by_tissue[name] for name in anatomy.tissues]) + rng.normal(0, 0.05 * reach, count)
        means[0] = rng.uniform(0, 0.1) if rng.uniform() < 0.8 else rng.uniform()
    elif look in CT:
        values = np.array([LOOKS["ct"][name] for name in anatomy.tissues])
        values = values + rng.normal(0, 1, count) * np.clip(np.abs(values) * 0.15, 12, 60)
        low, width = _window(rng, look)
        means = (values - low) / width
    else:
        values = np.array([LOOKS[look][name] for name in anatomy.tissues]) / 100
        means = values * np.exp(rng.normal(0, 0.12, count)) + rng.normal(0, 0.02, count)
    return np.clip(means, -0.3, 1.3).astype(np.float32)


def _window(rng: np.random.Generator, look: str) -> tuple[float, float]:
    """Lower end and width of what is shown, in Hounsfield units."""
    if look == "head_ct":
        return rng.uniform(-30, 5), rng.uniform(70, 160)
    if rng.uniform() < 0.2:
        return -1100, rng.uniform(1400, 2000)
    return rng.uniform(-250, -80), rng.uniform(300, 550)


def _paint(rng: np.random.Generator, anatomy: Anatomy, means: Field) -> Field:
    """Means with a texture of their own for each structure."""
    labels, count = anatomy.labels, len(anatomy.tissues)
    overall = rng.uniform(0.0, 0.07)
    picture = means[labels]
    for scale, share in ((rng.uniform(14, 30), 1.2), (rng.uniform(4, 9), 0.7), (rng.uniform(1.6, 3), 0.7)):
        weights = (share * overall * rng.gamma(1.2, 0.7, count)).astype(np.float32)
        weights[0] *= 0.1
        picture += weights[labels] * spline_noise(rng, labels.shape, scale)
    return picture


def _blur(rng: np.random.Generator, picture: Field) -> Field:
    width = rng.uniform(0.3, 1.0)
    sigma = [width * rng.uniform(0.8, 1.2) if size > 1 else 0 for size in picture.shape]
    return ndimage.gaussian_filter(picture, sigma, truncate=2.5)


def _bias(rng: np.random.Generator, shape: tuple[int, ...], look: str) -> Field:
    strength = rng.uniform(0.0, 0.06) if look in CT else rng.uniform(0.0, 0.3)
    field = spline_noise(rng, shape, [max(size * rng.uniform(0.4, 0.9), 4) for size in shape]) * np.float32(strength)
    if rng.uniform() < 0.5:
        field += (rng.standard_normal(shape[0]) * rng.uniform(0, 0.05)).astype(np.float32).reshape(-1, 1, 1)
    return np.exp(field)


def _spoil(rng: np.random.Generator, picture: Field, look: str) -> Field:
    """Noise, and now and then an artefact that such a scanner makes."""
    if look not in CT and rng.uniform() < 0.05:
        return artefacts.with_speckle(rng, picture)
    picture = artefacts.with_noise(rng, picture, signed=look in CT)
    if rng.uniform() < 0.1:
        picture = artefacts.with_streaks(rng, picture) if look in CT else artefacts.with_ghost(rng, picture)
    if rng.uniform() < 0.08:
        picture = artefacts.with_movement(rng, picture)
    return artefacts.with_round_view(rng, picture) if rng.uniform() < 0.06 else picture


def _finish(rng: np.random.Generator, picture: Field, look: str) -> Field:
    low, high = np.percentile(picture[:, ::2, ::2], [rng.uniform(0, 1), rng.uniform(99, 100)])
    if look in CT:
        low, high = 0.0, 1.0
    unit = np.clip((picture - np.float32(low)) / np.float32(max(high - low, 0.05)), 0, 1)
    unit = unit ** np.float32(np.exp(rng.normal(0, 0.2)))
    return 1 - unit if rng.uniform() < 0.05 else unit

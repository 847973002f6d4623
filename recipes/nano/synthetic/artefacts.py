"""What scanners and patients spoil: noise of several kinds, ghosts, streaks, movement, lost corners."""

import numpy as np
from scipy import ndimage

from synthetic.fields import Field, spline_noise


def with_noise(rng: np.random.Generator, picture: Field, *, signed: bool) -> Field:
    """Gaussian noise, white or as smooth as a reconstruction leaves it; Rician where no value is negative."""
    sigma = np.float32(rng.choice([0.01, 0.03, 0.06]) * rng.uniform(0.5, 1.5))
    grain = rng.standard_normal(picture.shape, dtype=np.float32)
    if rng.uniform() < 0.5:
        grain = ndimage.gaussian_filter(grain, _per_axis(picture, rng.uniform(0.4, 0.9)), truncate=2.5)
        grain /= grain.std()
    if signed or rng.uniform() < 0.3:
        return picture + np.float32(rng.uniform(0.3, 1)) * sigma * grain
    other = rng.standard_normal(picture.shape, dtype=np.float32)
    return np.hypot(picture + sigma * grain, sigma * other)


def with_speckle(rng: np.random.Generator, picture: Field) -> Field:
    """Ultrasound: multiplicative grain, longer across the beam than along it, and an echo that fades with depth."""
    grain = rng.standard_exponential(picture.shape, dtype=np.float32)
    grain = ndimage.gaussian_filter(grain, _per_axis(picture, 1.0) * np.array([0.8, 0.6, 1.5]), truncate=2.5)
    fade = np.exp(-np.linspace(0, rng.uniform(0, 1.2), picture.shape[1]), dtype=np.float32).reshape(1, -1, 1)
    return np.sqrt(np.clip(picture, 0, None) * fade) * grain ** np.float32(rng.uniform(0.3, 1))


def with_ghost(rng: np.random.Generator, picture: Field) -> Field:
    """A faint copy along the direction of phase encoding."""
    axis = int(rng.integers(1, 3))
    shift = int(rng.integers(6, max(7, picture.shape[axis] // 2)))
    return picture + np.float32(rng.uniform(0.03, 0.12)) * np.roll(picture, shift, axis=axis)


def with_movement(rng: np.random.Generator, picture: Field) -> Field:
    """Slices that were taken at different moments: each one a little beside its neighbours."""
    size = rng.uniform(0.3, 1.5) * picture.shape[1] / 128
    shifts = rng.normal(0, size, (len(picture), 2))
    return np.stack([ndimage.shift(plane, by, order=1, mode="nearest") for plane, by in zip(picture, shifts, strict=True)])


def with_streaks(rng: np.random.Generator, picture: Field) -> Field:
    """CT: bright and dark rays from a dense spot, strongest near it, on some of the slices."""
    depth, height, width = picture.shape
    y, x = rng.uniform(0.2, 0.8, 2) * (height, width)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    angle = ((np.arctan2(rows - y, columns - x) + np.pi) / (2 * np.pi) * 359).astype(int)
    rays = spline_noise(rng, (360,), rng.uniform(1.5, 5))[angle]
    fall = 1 / (1 + np.hypot(rows - y, columns - x) / (0.2 * width))
    where = np.exp(-(((np.arange(depth) - rng.uniform(0, depth)) / max(2, 0.15 * depth)) ** 2)).astype(np.float32)
    return picture + np.float32(rng.uniform(0.05, 0.4)) * where.reshape(-1, 1, 1) * (rays * fall).astype(np.float32)


def with_round_view(rng: np.random.Generator, picture: Field) -> Field:
    """Nothing is seen outside of a circle."""
    _, height, width = picture.shape
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return np.where(np.hypot(rows, columns) <= rng.uniform(0.92, 1.15), picture, picture.min())


def _per_axis(picture: Field, sigma: float) -> np.ndarray:
    """Along every axis, but not along one of a single voxel."""
    return np.array([sigma if size > 1 else 0 for size in picture.shape])

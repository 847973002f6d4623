"""Intensities of a real image as grey levels, and how another scanner might have shown them."""

import numpy as np
from numpy.typing import NDArray

from medical_sam2.intensity_window import CT_WINDOWS
from synthetic.fields import spline_noise

ODDS = {"soft": 0.68, "lung": 0.08, "bone": 0.1, "brain": 0.14}

GREY = 0.02  # colours that differ by less are none


def window(rng: np.random.Generator, array: NDArray[np.float32], *, hounsfield: bool) -> tuple[float, float]:
    """Intensities that become black and white: a window of CT, or percentiles, never the same ones twice."""
    if hounsfield:
        level, width = CT_WINDOWS[str(rng.choice(list(ODDS), p=list(ODDS.values())))]
        level, width = level + rng.normal(0, 0.08) * width, max(width, 150.0) * float(np.exp(rng.normal(0, 0.25)))
        return level - width / 2, level + width / 2
    low, high = np.percentile(array[:: 1 + array.shape[0] // 32], [rng.uniform(0, 3), rng.uniform(97.5, 99.9)])
    return float(low), float(max(high, low + 1e-3))


def shares(array: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """From 0 at black to 1 at white."""
    return np.clip((array - np.float32(low)) / np.float32(high - low), 0, 1)


def stretched(rng: np.random.Generator, share: NDArray[np.float32]) -> NDArray[np.float32]:
    """A dark picture, more often than not, as bright as others; it may still lie in the dark."""
    top = float(np.percentile(share, 99.7))
    if top > 0.5 or top < 0.01 or rng.uniform() < 0.15:
        return share
    return np.asarray(np.clip(share * np.float32(rng.uniform(0.6, 1) / top), 0, 1), np.float32)


def relit(rng: np.random.Generator, share: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same content with another gamma, sometimes another contrast, uneven light and noise.

    Args:
        rng: every choice comes from it.
        share: (T, H, W), or (H, W, 3) in colour, from 0 to 1.
    """
    share = np.asarray(share ** np.float32(np.exp(rng.normal(0, 0.25))), np.float32)
    colour = share.shape[-1] == 3 and bool(np.ptp(share, axis=-1).max() > GREY)
    if not colour and rng.uniform() < 0.2:
        ends = rng.permutation([0.0, 1.0]) if rng.uniform() < 0.4 else np.array([0.0, 1.0])
        levels = [ends[0], *rng.uniform(0.05, 0.95, 2), ends[1]]
        share = np.interp(share, [0, 0.33, 0.67, 1], levels).astype(np.float32)
    if rng.uniform() < 0.5:
        places = share.shape if share.shape[-1] != 3 else share.shape[:2]
        light = np.exp(rng.uniform(0.03, 0.15) * spline_noise(rng, places, [max(8.0, 0.5 * n) for n in places]))
        share = share * (light[..., None] if share.shape[-1] == 3 else light)
    noise = rng.uniform(0, 0.035) * rng.standard_normal(share.shape, np.float32)
    return np.clip(share * np.float32(rng.uniform(0.85, 1.15)) + noise, 0, 1).astype(np.float32)


def tinted(rng: np.random.Generator, share: NDArray[np.float32]) -> NDArray[np.float32]:
    """A picture (H, W, 3) in other colours: each channel with its own strength and gamma."""
    if np.ptp(share, axis=-1).max() < GREY:
        return share
    gains, gammas = np.exp(rng.normal(0, 0.1, 3)), np.exp(rng.normal(0, 0.12, 3))
    return np.clip(share**gammas * gains, 0, 1).astype(np.float32)


def as_bytes(share: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Grey levels of bytes."""
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)

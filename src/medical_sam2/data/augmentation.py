"""Augmentation of the paper's appendix C.2: drawn first, applied afterwards, to all frames of a clip alike.

Images are in [0, 1]. Template and query of an unordered set are drawn apart, one draw for each image.

Shapes: T frames, C channels, H W frame.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True)
class AugmentationOdds:
    """Probabilities and ranges; the defaults are the paper's table."""

    rotation: float = 0.15
    degrees: float = 25.0
    scaling: float = 0.15
    scale: tuple[float, float] = (0.7, 1.4)
    noise: float = 0.15
    variance: tuple[float, float] = (0.0, 0.1)
    blur: float = 0.15
    sigma: tuple[float, float] = (0.5, 1.5)
    intensity: float = 0.15
    multiply: tuple[float, float] = (0.65, 1.2)
    low_resolution: float = 0.25
    factor: tuple[float, float] = (1.0, 2.0)
    gamma: float = 0.15
    exponent: tuple[float, float] = (0.7, 1.5)
    flip: float = 0.5


@dataclass(frozen=True)
class Augmentation:
    """What is done to a clip; neutral values leave it as it is."""

    degrees: float = 0.0  # rotation in the plane, counter-clockwise
    scale: float = 1.0  # enlargement of the content
    shift: tuple[float, float] = (0.0, 0.0)  # of the content along x and y, in halves of the frame
    # share of the frame that is shown along x and y: a region of interest, its centre given by `shift`
    extent: tuple[float, float] = (1.0, 1.0)
    flip_x: bool = False  # mirror columns
    flip_y: bool = False  # mirror rows
    variance: float = 0.0  # of Gaussian noise on z-scored images
    sigma: float = 0.0  # of Gaussian blur in pixels, 0 for none
    multiply: float = 1.0  # factor on intensities
    invert: bool = False  # whether 1 − x takes the place of multiplication
    factor: float = 1.0  # of down- and upsampling
    gamma: float = 1.0  # exponent on [0, 1]
    gamma_inverted: float = 1.0  # exponent on the inverted image
    seed: int = 0  # of the noise

    @classmethod
    def draw(cls, rng: np.random.Generator, odds: AugmentationOdds | None = None) -> "Augmentation":
        """Draw every row of the table on its own."""
        odds = odds or AugmentationOdds()

        def maybe(probability: float, low: float, high: float, otherwise: float) -> float:
            value = float(rng.uniform(low, high))
            return value if rng.random() < probability else otherwise

        changes_intensity, inverts = rng.random() < odds.intensity, rng.random() < 0.5
        return cls(
            degrees=maybe(odds.rotation, -odds.degrees, odds.degrees, 0.0),
            scale=maybe(odds.scaling, *odds.scale, 1.0),
            flip_x=bool(rng.random() < odds.flip),
            flip_y=bool(rng.random() < odds.flip),
            variance=maybe(odds.noise, *odds.variance, 0.0),
            sigma=maybe(odds.blur, *odds.sigma, 0.0) if rng.random() < 0.5 else 0.0,
            multiply=float(rng.uniform(*odds.multiply)) if changes_intensity and not inverts else 1.0,
            invert=bool(changes_intensity and inverts),
            factor=maybe(odds.low_resolution, *odds.factor, 1.0) if rng.random() < 0.5 else 1.0,
            gamma=maybe(odds.gamma, *odds.exponent, 1.0),
            gamma_inverted=maybe(odds.gamma, *odds.exponent, 1.0),
            seed=int(rng.integers(2**31)),
        )

    def warp(self, frames_TCHW: Tensor, size: int, *, nearest: bool = False) -> Tensor:
        """Rotate, scale, shift, flip and resize to a square of `size` pixels, in one interpolation."""
        radians = np.deg2rad(self.degrees)
        cos, sin = np.cos(radians) / self.scale, np.sin(radians) / self.scale
        x, y = (-1.0 if self.flip_x else 1.0), (-1.0 if self.flip_y else 1.0)
        (wide, high), (right, down) = self.extent, self.shift
        rows = [[wide * x * cos, -wide * y * sin, right], [high * x * sin, high * y * cos, down]]
        matrix = torch.tensor(rows, dtype=torch.float32)
        count, channels = frames_TCHW.shape[:2]
        grid = F.affine_grid(matrix[None], [1, channels, size, size], align_corners=False).expand(count, -1, -1, -1)
        mode = "nearest" if nearest else "bilinear"
        return F.grid_sample(frames_TCHW, grid, mode=mode, padding_mode="zeros", align_corners=False)

    def recolour(self, frames_TCHW: Tensor) -> Tensor:
        """Every change of intensities, in the order of the table; the result is in [0, 1]."""
        x = frames_TCHW
        if self.variance > 0:
            generator = torch.Generator().manual_seed(self.seed)
            x = x + torch.randn(x.shape, generator=generator) * (self.variance**0.5 * x.std())
        if self.sigma > 0:
            x = _blur(x, self.sigma)
        x = 1 - x if self.invert else x * self.multiply
        if self.factor > 1.05:
            sides = [max(1, round(side / self.factor)) for side in x.shape[-2:]]
            small = F.interpolate(x, size=sides, mode="nearest-exact")
            x = F.interpolate(small, size=x.shape[-2:], mode="bicubic", align_corners=False)
        x = x.clamp(0, 1)
        if self.gamma != 1:
            x = x**self.gamma
        if self.gamma_inverted != 1:
            x = 1 - (1 - x) ** self.gamma_inverted
        return x


def _blur(frames_TCHW: Tensor, sigma: float) -> Tensor:
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    flat = frames_TCHW.flatten(0, 1)[:, None]
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="replicate"), kernel)
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode="replicate"), kernel.transpose(2, 3))
    return flat[:, 0].view(frames_TCHW.shape)

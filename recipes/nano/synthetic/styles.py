"""What the pictures of a set share, and how one of them is developed from a painted scene."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from synthetic.fields import Field, spline_noise
from synthetic.scene import Scene
from synthetic.shapes import Patch

Rgb = tuple[float, float, float]
BLANK = 0.05  # share of the pictures in which the object is absent


@dataclass(frozen=True)
class Ink:
    """How one tissue looks: colour 0–1, strength and size (pixels) of its texture."""

    colour: Rgb
    texture: float = 0.03
    scale: float = 4


@dataclass(frozen=True)
class Style:
    """What the pictures of a set share.

    Args:
        inks: look of each tissue; its position, from 1, is the label of the tissue.
        tasks: objects, each a union of tissues.
        paint: paints one picture into a scene; may return an (H, W) factor for its brightness, or 1.
        others: further looks of the same tissues, of which each picture has one.
        jitter: how much the colours differ from picture to picture.
        noise: standard deviation of white noise.
        speckle: strength of multiplicative noise as in ultrasound.
        light: strength of uneven light.
        blur: of the lens, in pixels of the finished picture.
    """

    inks: dict[str, Ink]
    tasks: tuple[tuple[str, ...], ...]
    paint: Callable[[Scene], Field | float]
    others: tuple[dict[str, Ink], ...] = ()
    jitter: float = 0.05
    noise: float = 0.02
    speckle: float = 0
    light: float = 0.1
    blur: float = 0.5


def develop(rng: np.random.Generator, style: Style, scene: Scene, shade: Field | float) -> Field:
    """The picture of a painted scene: (H, W, 3) float32, about 0–1."""
    looks = (style.inks, *style.others)
    chosen = looks[int(rng.integers(len(looks)))]
    inks = [chosen.get(name, Ink((0.0, 0.0, 0.0), 0)) for name in scene.tissues]
    labels = scene.labels[0]
    tinted = rng.uniform() < 0.5 and any(min(ink.colour) < max(ink.colour) for ink in inks)
    shift = rng.normal(0, 0.5 * style.jitter, 3) * tinted + rng.normal(0, style.jitter)
    colours = np.array([ink.colour for ink in inks]) + rng.normal(0, style.jitter * 0.4, (len(inks), 1))
    picture = (colours + shift).astype(np.float32)[labels]
    picture += _grain(rng, inks, labels)[..., None]
    picture *= (np.exp(style.light * spline_noise(rng, labels.shape, labels.shape[0] / 1.5)) * shade)[..., None]
    if style.speckle:
        speckle = ndimage.gaussian_filter(rng.gamma(1.5, 1 / 1.5, labels.shape), (0.8, 2.2))
        picture *= (speckle.astype(np.float32) ** np.float32(2 * style.speckle))[..., None]
    lens = 2 * style.blur * rng.uniform(0.7, 1.5)
    return ndimage.gaussian_filter(picture, (lens, lens, 0), truncate=2.5)


def _grain(rng: np.random.Generator, inks: list[Ink], labels: np.ndarray) -> Field:
    grain = np.zeros(labels.shape, np.float32)
    for scale in {ink.scale for ink in inks if ink.texture}:
        weights = np.array([ink.texture if ink.scale == scale else 0 for ink in inks], np.float32)
        grain += weights[labels] * spline_noise(rng, labels.shape, max(2 * scale, 1.5))
    return grain


def colour(rng: np.random.Generator, base: Rgb, spread: float) -> Rgb:
    """A colour near another one, as bright on the whole or not."""
    r, g, b = np.clip(np.asarray(base) + rng.normal(0, spread) + rng.normal(0, 0.6 * spread, 3), 0, 1)
    return float(r), float(g), float(b)


def grey(rng: np.random.Generator, level: float, spread: float = 0.12) -> Rgb:
    """A shade of grey near another one."""
    value = float(np.clip(level + rng.normal(0, spread), 0, 1))
    return value, value, value


def disk(scene: Scene, centre_yx: tuple[float, float], radii_yx: tuple[float, float]) -> Patch:
    """A flat ellipse."""
    return scene.space.ellipsoid((0, *centre_yx), (200, *radii_yx))


def lines(scene: Scene, paths: list[np.ndarray], width: float) -> Field:
    """How far inside of thin curves each pixel lies: (H, W)."""
    field = np.full(scene.space.shape, -1e3, np.float32)
    for path in paths:
        scene.space.draw_tube(field, path * (0, 1, 1), width)
    return field[0]

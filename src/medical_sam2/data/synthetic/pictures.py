"""Flat pictures of many kinds: each function draws the style that a set shares and returns what paints one picture."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from medical_sam2.data.synthetic.fields import Field, spline_noise
from medical_sam2.data.synthetic.scene import Scene
from medical_sam2.data.synthetic.shapes import Patch

Rgb = tuple[float, float, float]


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
        inks: look of each tissue; its position is the label of the tissue.
        tasks: objects, each a union of tissues.
        paint: paints one picture into a scene.
        jitter: how much the colours differ from picture to picture.
        noise: standard deviation of white noise.
        speckle: strength of multiplicative noise as in ultrasound.
        light: strength of uneven light.
        blur: of the lens, in pixels of the finished picture.
    """

    inks: dict[str, Ink]
    tasks: tuple[tuple[str, ...], ...]
    paint: Callable[[Scene], None]
    jitter: float = 0.05
    noise: float = 0.02
    speckle: float = 0
    light: float = 0.1
    blur: float = 0.5
    extra: tuple[str, ...] = field(default=())


def colour(rng: np.random.Generator, base: Rgb, spread: float) -> Rgb:
    """A colour near another one."""
    r, g, b = np.clip(np.asarray(base) + rng.normal(0, spread, 3), 0, 1)
    return float(r), float(g), float(b)


def disk(scene: Scene, centre_yx: tuple[float, float], radii_yx: tuple[float, float]) -> Patch:
    """A flat ellipse."""
    return scene.space.ellipsoid((0, *centre_yx), (200, *radii_yx))


def cells(rng: np.random.Generator) -> Style:
    """Blood smears: one large cell with a dark nucleus in the middle, pale ones without around it."""
    plasma = colour(rng, (0.88, 0.83, 0.82), 0.06)
    inks = {
        "plasma": Ink(plasma, 0.01, 20),
        "red": Ink(colour(rng, (0.85, 0.62, 0.62), 0.08), 0.03, 8),
        "cell": Ink(colour(rng, (0.72, 0.62, 0.78), 0.1), rng.uniform(0.01, 0.06), 3),
        "nucleus": Ink(colour(rng, (0.42, 0.22, 0.55), 0.1), rng.uniform(0.02, 0.08), 5),
    }
    size, share, lobes = rng.uniform(22, 42), rng.uniform(0.5, 0.8), int(rng.integers(1, 5))
    crowd = int(rng.integers(2, 12))

    def paint(scene: Scene) -> None:
        r = scene.rng
        scene.add("plasma", scene.space.everywhere(np.ones(scene.space.shape, np.float32)))
        for _ in range(crowd + int(r.integers(0, 4))):
            y, x, radius = r.uniform(-64, 64), r.uniform(-64, 64), 15 * r.uniform(0.8, 1.2)
            scene.add("red", disk(scene, (y, x), (radius, radius * r.uniform(0.8, 1.2))))
        if r.uniform() < 0.04:
            return
        big = size * r.uniform(0.75, 1.25)
        y, x = r.normal(0, 7, 2)
        body = scene.rough(disk(scene, (y, x), (big, big * r.uniform(0.8, 1.2))), 1.5)
        cell = scene.add("cell", body)
        nucleus = scene.labels.dtype.type(0)
        for lobe in range(max(1, lobes + int(r.integers(-1, 2)))):
            angle, away = r.uniform(0, 2 * np.pi), (0 if lobes < 2 else big * 0.4)
            spot = (y + away * np.sin(angle), x + away * np.cos(angle))
            part = big * share / max(1, lobes) ** 0.4
            shape = scene.rough(disk(scene, spot, (part * r.uniform(0.7, 1.2), part)), 1.5).cut(
                np.where(scene.labels == cell, np.float32(99), np.float32(-1)) if lobe == 0 else body_field(body, scene)
            )
            scene.add("nucleus", shape, label=None if lobe == 0 else int(nucleus))
            nucleus = np.uint8(len(scene.tissues) - 1)

    return Style(inks, (("cell", "nucleus"), ("nucleus",)), paint)


def body_field(patch: Patch, scene: Scene) -> Field:
    """A patch as a field of the whole grid."""
    whole = np.full(scene.space.shape, -1e3, np.float32)
    whole[patch.box] = patch.field
    return whole


def nuclei(rng: np.random.Generator) -> Style:
    """Many nuclei: bright on dark, dark on light or purple on pink."""
    look = int(rng.integers(0, 3))
    back, front = [((0.04,) * 3, (0.6,) * 3), ((0.8,) * 3, (0.45,) * 3), ((0.85, 0.65, 0.78), (0.45, 0.28, 0.6))][look]
    inks = {
        "ground": Ink(colour(rng, back, 0.04), rng.uniform(0, 0.06), 6),
        "nucleus": Ink(colour(rng, front, 0.08) if look == 2 else _grey(rng, front[0]), rng.uniform(0.01, 0.1), 5),
    }
    radius, count, stretch = np.exp(rng.uniform(np.log(2.5), np.log(16))), rng.uniform(0.05, 0.35), rng.uniform(0, 0.3)

    def paint(scene: Scene) -> None:
        r = scene.rng
        scene.add("ground", scene.space.everywhere(np.ones(scene.space.shape, np.float32)))
        label = None
        for _ in range(int(np.clip(count * r.uniform(0.5, 1.5) * 128**2 / (np.pi * radius**2), 1, 250))):
            y, x = r.uniform(-66, 66, 2)
            high, wide = radius * np.exp(r.normal(0, 0.15 + stretch, 2))
            label = scene.add("nucleus", scene.rough(disk(scene, (y, x), (high, wide)), 0.1 * radius), label=label)

    return Style(inks, (("nucleus",),), paint, noise=rng.uniform(0.01, 0.05))


def _grey(rng: np.random.Generator, level: float) -> Rgb:
    value = float(np.clip(level + rng.normal(0, 0.12), 0, 1))
    return value, value, value


def territories(rng: np.random.Generator) -> Style:
    """Blobs and parts of random colours and textures, the same in every picture."""
    grey = rng.uniform() < 0.6
    names = [f"part{k}" for k in range(int(rng.integers(3, 8)))]
    inks = {}
    for name in names:
        base = _grey(rng, rng.uniform(0.1, 0.9)) if grey else colour(rng, (0.5, 0.5, 0.5), 0.3)
        inks[name] = Ink(base, rng.uniform(0, 0.12), np.exp(rng.uniform(0.5, 3)))
    places = rng.uniform(-40, 40, (len(names), 2))
    sizes = np.exp(rng.uniform(np.log(6), np.log(45), (len(names), 2)))
    scatter = rng.uniform(3, 20)

    def paint(scene: Scene) -> None:
        r = scene.rng
        scene.add(names[0], scene.space.everywhere(np.ones(scene.space.shape, np.float32)))
        order = sorted(range(1, len(names)), key=lambda k: -float(sizes[k].prod()))
        for k in order:
            if r.uniform() < 0.05:
                continue
            y, x = places[k] + r.normal(0, scatter, 2)
            high, wide = sizes[k] * np.exp(r.normal(0, 0.2, 2))
            scene.add(names[k], scene.rough(disk(scene, (y, x), (high, wide)), 0.2 * min(high, wide)))

    return Style(inks, tuple((name,) for name in names[1:]), paint, noise=rng.uniform(0, 0.06))


def develop(rng: np.random.Generator, style: Style, scene: Scene) -> Field:
    """The picture of a painted scene: (H, W, 3) float32 in 0–1."""
    inks = [style.inks.get(name, Ink((0.0, 0.0, 0.0), 0)) for name in scene.tissues]
    labels = scene.labels[0]
    shift = rng.normal(0, style.jitter, 3) * (0.5 if rng.uniform() < 0.5 else 0) + rng.normal(0, style.jitter)
    colours = np.array([ink.colour for ink in inks]) + rng.normal(0, style.jitter * 0.4, (len(inks), 1))
    picture = (colours + shift)[labels].astype(np.float32)
    grain = np.zeros(labels.shape, np.float32)
    for scale in {ink.scale for ink in inks}:
        weights = np.array([ink.texture if ink.scale == scale else 0 for ink in inks], np.float32)
        grain += weights[labels] * spline_noise(rng, labels.shape, 2 * scale)
    light = np.exp(style.light * spline_noise(rng, labels.shape, labels.shape[0] / 1.5))
    picture = (picture + grain[..., None]) * light[..., None]
    if style.speckle:
        picture *= ndimage.gaussian_filter(rng.gamma(1, 1, labels.shape), (1.0, 2.5))[..., None] ** style.speckle
    picture = ndimage.gaussian_filter(picture, (2 * style.blur, 2 * style.blur, 0))
    return picture.astype(np.float32)

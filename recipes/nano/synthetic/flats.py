"""Flat grey pictures: ultrasound, radiographs, and blobs of nobody."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from synthetic.fields import Field
from synthetic.parts import ground
from synthetic.scene import Scene
from synthetic.styles import BLANK, Ink, Style, colour, disk, grey


def territories(rng: np.random.Generator) -> Style:
    """Blobs of random colours and textures, the same in every picture, each about where it always is."""
    plain = rng.uniform() < 0.6
    names = [f"part{k}" for k in range(int(rng.integers(3, 8)))]
    inks = {}
    for name in names:
        base = grey(rng, rng.uniform(0.1, 0.9)) if plain else colour(rng, (0.5, 0.5, 0.5), 0.25)
        inks[name] = Ink(base, rng.uniform(0, 0.12), float(np.exp(rng.uniform(0.5, 3))))
    places = rng.uniform(-40, 40, (len(names), 2))
    sizes = np.exp(rng.uniform(np.log(6), np.log(45), (len(names), 2)))
    scatter, ragged = rng.uniform(3, 20), rng.uniform(0.05, 0.3)

    def paint(scene: Scene) -> float:
        r = scene.rng
        ground(scene, names[0])
        for k in sorted(range(1, len(names)), key=lambda k: -float(sizes[k].prod())):
            if r.uniform() > BLANK:
                y, x = places[k] + r.normal(0, scatter, 2)
                high, wide = sizes[k] * np.exp(r.normal(0, 0.2, 2))
                scene.add(names[k], scene.rough(disk(scene, (y, x), (high, wide)), ragged * min(high, wide)))
        return 1

    return Style(
        inks, tuple((name,) for name in names[1:]), paint, noise=rng.uniform(0, 0.06), speckle=float(rng.choice([0, 0, 0.4]))
    )


def quilt(rng: np.random.Generator) -> Style:
    """A plane divided by smooth fields; the same few textures in every picture, anywhere."""
    plain = rng.uniform() < 0.6
    names = [f"cloth{k}" for k in range(int(rng.integers(2, 6)))]
    inks = {
        name: Ink(
            grey(rng, rng.uniform(0.15, 0.85)) if plain else colour(rng, (0.5, 0.5, 0.5), 0.22),
            rng.uniform(0, 0.14),
            float(np.exp(rng.uniform(0, 2.5))),
        )
        for name in names
    }
    scale, bias = float(rng.choice([12, 20, 40])), rng.normal(0, 0.5, len(names))

    def paint(scene: Scene) -> float:
        fields = []
        for shift in bias:
            scene.forget(scale)
            fields.append(scene.noise(scale) + np.float32(shift))
        best = np.argmax(fields, axis=0)
        for k, name in enumerate(names):
            scene.add(name, scene.space.everywhere(np.where(best == k, np.float32(1), np.float32(-1))))
        return 1

    return Style(inks, tuple((name,) for name in names), paint, noise=rng.uniform(0, 0.06))


def ultrasound(rng: np.random.Generator) -> Style:
    """Layers of tissue under a probe, one dark mass in speckle with a shadow or a bright trail below it, and cysts."""
    level = rng.uniform(0.25, 0.5)
    inks = {
        "fat": Ink(grey(rng, level * 0.6, 0.05), 0.05, 6),
        "gland": Ink(grey(rng, level, 0.05), 0.08, 6),
        "muscle": Ink(grey(rng, level * 0.7, 0.05), 0.06, 4),
        "fascia": Ink(grey(rng, 0.75, 0.1), 0.08, 3),
        "strand": Ink(grey(rng, level * rng.uniform(1, 1.7), 0.05), 0.08, 3),
        "mass": Ink(grey(rng, level * rng.uniform(0.15, 0.85), 0.03), rng.uniform(0.01, 0.08), 4),
        "cyst": Ink((0.03, 0.03, 0.03), 0.005, 4),
    }
    size, tail, wild = rng.uniform(7, 30), rng.uniform(0.5, 1.5), rng.uniform(0.05, 0.3)
    cysts = int(rng.choice([0, 0, 0, 2]))

    def paint(scene: Scene) -> Field | float:
        r = scene.rng
        _layers(scene)
        for _ in range(cysts):
            scene.add("cyst", disk(scene, (r.uniform(-30, 40), r.uniform(-55, 55)), (r.uniform(4, 14), r.uniform(4, 16))))
        if r.uniform() < BLANK:
            return 1
        spot, radii = (r.normal(-5, 14), r.normal(0, 20)), size * np.exp(r.normal(0, 0.2, 2)) * (0.7, 1.2)
        mass = scene.add("mass", scene.rough(disk(scene, spot, tuple(radii)), wild * size))
        fade = np.exp(-np.linspace(0, r.uniform(0, 0.9), scene.space.shape[1]), dtype=np.float32)[:, None]
        return fade * (1 + np.float32(tail - 1) * _below(scene.labels[0] == mass))

    return Style(
        inks,
        (("mass",),),
        paint,
        jitter=0.03,
        speckle=rng.uniform(0.3, 0.8),
        noise=0.01,
        blur=rng.uniform(0.3, 0.8),
        light=0.25,
    )


def _layers(scene: Scene) -> None:
    """Fat, gland and muscle one below the other, fasciae between them, strands in all of them."""
    r, space = scene.rng, scene.space
    y = space.coords[1] + 3 * scene.noise(24)
    ground(scene, "fat")
    top, low = r.uniform(-50, -25), r.uniform(5, 45)
    for name, start in (("fascia", top - 2), ("gland", top), ("fascia", low - 2), ("muscle", low)):
        scene.add(name, space.everywhere(y - np.float32(start)))
    waves = np.sin(y * np.float32(r.uniform(0.3, 0.8))) + 0.8 * scene.noise(9)
    scene.add("strand", space.everywhere(waves - np.float32(1.5)))


def _below(inside: NDArray[np.bool_]) -> Field:
    """The soft column under a mass: 1 where all sound has passed it."""
    below = (np.maximum.accumulate(inside, axis=0) & ~inside).astype(np.float32)
    return ndimage.gaussian_filter(below, (6, 3))


def radiograph(rng: np.random.Generator) -> Style:
    """A chest film: dark lungs under ribs, a bright heart between them, arms and neck beside."""
    inks = {
        "dark": Ink((0.02, 0.02, 0.02), 0),
        "body": Ink(grey(rng, 0.6, 0.08), 0.03, 8),
        "left": Ink(grey(rng, 0.3, 0.07), 0.04, 3),
        "right": Ink(grey(rng, 0.3, 0.07), 0.04, 3),
        "heart": Ink(grey(rng, 0.75, 0.06), 0.02, 10),
        "spine": Ink(grey(rng, 0.82, 0.05), 0.04, 4),
    }
    inks["right"] = Ink(tuple(np.asarray(inks["left"].colour)), 0.04, 3)
    high, wide, ribs = rng.uniform(32, 44), rng.uniform(17, 24), rng.uniform(0.05, 0.25)

    def paint(scene: Scene) -> Field | float:
        r = scene.rng
        ground(scene, "dark")
        scene.add("body", scene.rough(scene.space.ellipsoid((0, 15, 0), (300, 85, 62), power=4), 3))
        scene.add("spine", scene.space.ellipsoid((0, 0, 0), (300, 200, 6), power=4))
        floor = np.float32(r.uniform(22, 38)) - scene.space.coords[1]
        for side, name in ((-1, "left"), (1, "right")):
            x = side * r.uniform(25, 30)
            dome = floor + 8 * np.cos((scene.space.coords[2] - x) / 12).astype(np.float32)
            scene.add(name, scene.rough(disk(scene, (-4, x), (high * r.uniform(0.9, 1.1), wide)), 1.5).cut(dome))
        scene.add(
            "heart",
            scene.rough(disk(scene, (r.normal(14, 3), r.normal(8, 2)), (r.uniform(15, 22), r.uniform(15, 24))), 1.5).cut(
                floor + 6
            ),
        )
        y, x = scene.space.coords[1:, 0]
        wave = np.sin((y + np.abs(x) * r.uniform(0.3, 0.7) - 0.006 * x * x) * np.float32(2 * np.pi / r.uniform(10, 14)))
        return (1 + np.float32(ribs) * np.clip(2 * wave, -0.3, 1)).astype(np.float32)

    tasks = (("left", "right"), ("left",), ("right",), ("heart",))
    return Style(inks, tasks, paint, blur=rng.uniform(0.5, 1.5), light=0.2, noise=rng.uniform(0.01, 0.04))

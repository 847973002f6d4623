"""Photographs through a lens: the back of the eye, the gut, the skin."""

import numpy as np
from numpy.typing import NDArray

from synthetic.fields import Field
from synthetic.parts import ground, tree, vessels, walk
from synthetic.scene import Scene
from synthetic.styles import BLANK, Ink, Rgb, Style, colour, disk, lines


def optic_disc(rng: np.random.Generator) -> Style:
    """The optic disc, bright on orange, a brighter cup in it, vessels across both that do not break their outlines."""
    base = np.asarray(colour(rng, (0.72, 0.35, 0.14), 0.09))
    disc = base + rng.uniform(0.1, 0.3) * np.array([1, 1.1, 0.6])
    cup = disc + rng.uniform(0.06, 0.25) * np.array([0.5, 1, 0.9])
    blood = base * rng.uniform(0.55, 0.8) * np.array([1, 0.7, 0.8])
    inks = {
        name: Ink(_rgb(value), rng.uniform(0.01, 0.05), rng.uniform(4, 12))
        for name, value in (("eye", base), ("disc", disc), ("cup", cup))
    }
    inks |= {
        f"vessel {name}": Ink(_rgb(0.75 * blood + 0.25 * np.asarray(inks[name].colour)), 0.02, 4)
        for name in ("eye", "disc", "cup")
    }
    inks["halo"] = Ink(_rgb(0.5 * base + 0.5 * disc), 0.03, 6)
    size, share, halo = rng.uniform(16, 40), rng.uniform(0.35, 0.75), rng.uniform() < 0.4

    def paint(scene: Scene) -> Field | float:
        r = scene.rng
        eye = ground(scene, "eye")
        y, x = r.normal(0, 9, 2)
        radius = size * r.uniform(0.85, 1.2)
        body = scene.rough(disk(scene, (y, x), (radius, radius * r.uniform(0.85, 1.1))), 0.6)
        if halo:
            scene.add("halo", scene.rough(body.grown(2.5), 2.5))
        disc = scene.add("disc", body)
        inner = share * r.uniform(0.75, 1.2)
        middle = (y + r.normal(0, 0.06) * radius, x + r.normal(0, 0.08) * radius)
        cup = scene.add("cup", scene.rough(disk(scene, middle, (radius * inner, radius * inner)), 0.6), over=[disc])
        net = vessels(scene, _arcades(scene, middle))
        for name, labels in (("eye", list(range(eye, disc))), ("disc", [disc]), ("cup", [cup])):
            scene.add(f"vessel {name}", net, over=labels)
        glow = np.maximum(scene.whole(body)[0], -30) / 30
        return 1 + 0.12 * glow

    whole, inside = ("disc", "cup", "vessel disc", "vessel cup"), ("cup", "vessel cup")
    return Style(inks, (whole, inside), paint, jitter=rng.uniform(0.02, 0.06), blur=rng.uniform(0.5, 1.3), light=0.2)


def _arcades(scene: Scene, middle_yx: tuple[float, float]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Vessels that leave the cup upwards and downwards."""
    r, found = scene.rng, []
    for sign in (-1, -1, 1, 1):
        heading, radius = (0, sign, r.normal(0, 0.7)), r.uniform(1.2, 2.6)
        found += tree(scene, (0, *middle_yx), heading, radius=radius, length=40, depth=3, flat=True)
    return found


def retina(rng: np.random.Generator) -> Style:
    """The whole back of the eye in a round frame, vessels branching from a bright disc, a dark spot."""
    base = np.asarray(colour(rng, (0.72, 0.38, 0.2), 0.1)) if rng.uniform() < 0.8 else np.full(3, rng.uniform(0.3, 0.7))
    inks = {
        "frame": Ink((0.02, 0.02, 0.02), 0),
        "eye": Ink(_rgb(base), rng.uniform(0.01, 0.04), rng.uniform(5, 15)),
        "disc": Ink(_rgb(base + rng.uniform(0.15, 0.3)), 0.03, 4),
        "vessel": Ink(_rgb(base * rng.uniform(0.5, 0.82)), 0.02, 4),
    }
    radius, field = rng.uniform(0.9, 2.2), rng.uniform(55, 75)

    def paint(scene: Scene) -> Field | float:
        r = scene.rng
        ground(scene, "frame")
        eye = scene.add("eye", scene.space.ellipsoid((0, 0, 0), (300, field, field)))
        side = int(r.choice([-1, 1]))
        y, x = r.normal(0, 5), side * r.uniform(8, 45)
        disc = scene.add("disc", disk(scene, (y, x), (field * 0.13, field * 0.12)))
        found = []
        for aim in ((-1, -side * 0.8), (1, -side * 0.8), (-1, side * 0.5), (1, side * 0.5), (0.2, -side)):
            heading = (0, aim[0] + r.normal(0, 0.2), aim[1] + r.normal(0, 0.2))
            found += tree(scene, (0, y, x), heading, radius=radius * r.uniform(0.7, 1.2), length=36, depth=5, flat=True)
        scene.add("vessel", vessels(scene, found), over=[eye, disc])
        spot = scene.whole(disk(scene, (y, x - side * 45), (14, 14)))[0]
        edge = scene.whole(scene.space.ellipsoid((0, 0, 0), (300, field, field)))[0]
        return (1 - 0.2 * np.clip(spot / 12, 0, 1)) * (0.75 + 0.25 * np.clip(edge / 20, 0, 1))

    return Style(inks, (("vessel",), ("vessel",), ("disc",)), paint, blur=rng.uniform(0.2, 0.45), noise=0.015, light=0.2)


def gut(rng: np.random.Generator) -> Style:
    """Endoscopy: one polyp, lit from the camera, on folded pink or yellow wall with a dark way on and bright glints."""
    wall = np.asarray(colour(rng, (0.75, 0.5, 0.4), 0.12))
    inks = {
        "wall": Ink(_rgb(wall), rng.uniform(0.01, 0.05), rng.uniform(3, 10)),
        "lumen": Ink(_rgb(wall * 0.25), 0.03, 10),
        "polyp": Ink(
            _rgb(np.asarray(colour(rng, _rgb(wall + rng.uniform(0, 1.4) * np.array([0.03, -0.06, -0.05])), 0.05))),
            rng.uniform(0.02, 0.07),
            rng.uniform(2, 6),
        ),
        "glint": Ink((0.97, 0.95, 0.95), 0.02, 2),
        "polyp glint": Ink((0.97, 0.95, 0.95), 0.02, 2),
        "frame": Ink((0.03, 0.03, 0.03), 0),
    }
    size, relief, framed, depth = rng.uniform(9, 34), rng.uniform(0.1, 0.5), rng.uniform() < 0.6, rng.uniform(0.05, 0.35)

    def paint(scene: Scene) -> Field | float:
        r = scene.rng
        wall = ground(scene, "wall")
        waves = scene.noise(24)[0]
        folds = (1 + depth * np.tanh(1.5 * waves)) * (1 - 0.6 * depth * np.exp(-((waves / 0.3) ** 2)))
        if r.uniform() < 0.5:
            way = disk(scene, (r.uniform(-45, 45), r.uniform(-45, 45)), (r.uniform(8, 22), r.uniform(8, 22)))
            scene.add("lumen", scene.rough(way, 4))
        shape = scene.rough(
            disk(scene, (r.normal(0, 24), r.normal(0, 24)), tuple(size * np.exp(r.normal(0, 0.25, 2)))), 0.1 * size
        )
        shade = folds
        if r.uniform() > BLANK:
            polyp = scene.add("polyp", shape)
            height = scene.whole(shape)[0]
            dome = 1 + relief * (np.sqrt(np.clip(height / size, 0, 1)) - 0.35)
            shade = np.where(height > 0, dome, folds * (1 - 0.3 * np.exp(-((height / 2.5) ** 2))))
            scene.add("polyp glint", scene.space.everywhere(scene.noise(5) - np.float32(r.uniform(1.9, 2.8))), over=[polyp])
        scene.add("glint", scene.space.everywhere(scene.noise(5) - np.float32(r.uniform(2, 3))), over=[wall])
        if framed:
            scene.add("frame", scene.space.everywhere(-scene.whole(scene.space.ellipsoid((0, 0, 0), (300, 58, 62), power=6))))
        return shade.astype(np.float32)

    return Style(inks, (("polyp", "polyp glint"),), paint, jitter=rng.uniform(0.03, 0.09), light=0.3, blur=rng.uniform(0.4, 1))


def skin(rng: np.random.Generator) -> Style:
    """A mole on skin, in two shades, with hairs across."""
    base = np.asarray(colour(rng, (0.8, 0.62, 0.55), 0.1))
    inks = {
        "skin": Ink(_rgb(base), 0.03, 6),
        "mole": Ink(_rgb(base * rng.uniform(0.45, 0.85)), rng.uniform(0.02, 0.08), rng.uniform(3, 8)),
        "core": Ink(_rgb(base * rng.uniform(0.3, 0.6)), 0.05, 4),
    }
    size, hairs = rng.uniform(14, 42), int(rng.choice([0, 0, 8, 20]))

    def paint(scene: Scene) -> Field | float:
        r = scene.rng
        ground(scene, "skin")
        if r.uniform() > BLANK:
            spot = (r.normal(0, 12), r.normal(0, 12))
            body = scene.rough(disk(scene, spot, tuple(size * np.exp(r.normal(0, 0.25, 2)))), 0.15 * size)
            mole = scene.add("mole", body)
            scene.add("core", scene.space.everywhere(scene.noise(24) - np.float32(0.5)), over=[mole])
        paths = [walk(r, (0, *r.uniform(-64, 64, 2)), (0, *r.normal(0, 1, 2)), length=r.uniform(30, 90)) for _ in range(hairs)]
        hair = lines(scene, paths, 0.5) if paths else np.full(scene.space.shape[1:], -9, np.float32)
        edge = np.clip(1.2 - np.hypot(*scene.space.coords[1:, 0]) / 160, 0.4, 1)
        return np.where(hair > 0, 0.5, 1).astype(np.float32) * edge

    return Style(inks, (("mole", "core"), ("core",)), paint, jitter=rng.uniform(0.03, 0.08), blur=rng.uniform(0.3, 0.9))


def _rgb(values: np.ndarray) -> Rgb:
    r, g, b = np.clip(values, 0.01, 1)
    return float(r), float(g), float(b)

"""Under the microscope: blood cells, nuclei, membranes, glands."""

import numpy as np
from scipy.spatial import KDTree

from synthetic.parts import ground
from synthetic.scene import Scene
from synthetic.styles import BLANK, Ink, Style, colour, disk, grey

SMEARS = ((0.9, 0.87, 0.84), (0.93, 0.88, 0.62), (0.95, 0.93, 0.96), (0.85, 0.72, 0.75), (0.75, 0.78, 0.85))


def cells(rng: np.random.Generator) -> Style:
    """Blood smears: one large cell with a dark nucleus, round or in lobes, pale cells without nucleus around it."""
    inks = _smear(rng, SMEARS[int(rng.integers(len(SMEARS)))])
    others = tuple(_smear(rng, SMEARS[int(rng.integers(len(SMEARS)))]) for _ in range(int(rng.choice([0, 0, 1, 2]))))
    size, share, crowd = rng.uniform(20, 42), rng.uniform(0.55, 0.85), int(rng.integers(0, 12))
    red = rng.uniform(10, 24)

    def paint(scene: Scene) -> float:
        r = scene.rng
        ground(scene, "plasma")
        for _ in range(crowd + int(r.integers(0, 4))):
            y, x, radius = *r.uniform(-66, 66, 2), red * r.uniform(0.8, 1.2)
            body = disk(scene, (y, x), (radius, radius * r.uniform(0.8, 1.2)))
            scene.add("red", body)
            scene.add("pallor", body.grown(-radius * r.uniform(0.3, 0.6)))
        if r.uniform() > BLANK:
            _white_cell(scene, size * r.uniform(0.75, 1.25), share)
        return 1

    return Style(inks, (("cell", "nucleus"), ("nucleus",)), paint, others=others, jitter=rng.uniform(0.02, 0.09))


def _smear(rng: np.random.Generator, base: tuple[float, float, float]) -> dict[str, Ink]:
    plasma = np.asarray(colour(rng, base, 0.03))
    tint = np.asarray(colour(rng, (-0.05, -0.2, -0.17), 0.05)) - rng.uniform(0, 0.15, 3)
    red, pallor, cell = (
        np.clip(plasma + share * tint, 0, 1) for share in (rng.uniform(0.2, 1), rng.uniform(0, 0.3), rng.uniform(0.5, 1.2))
    )
    body = 0.5 * cell + 0.5 * np.asarray(colour(rng, (0.7, 0.6, 0.78), 0.1))
    return {
        "plasma": Ink(tuple(plasma), 0.01, 20),
        "red": Ink(tuple(red), 0.02, 8),
        "pallor": Ink(tuple(pallor), 0.02, 8),
        "cell": Ink(tuple(body), rng.uniform(0.01, 0.07), rng.uniform(2, 5)),
        "nucleus": Ink(colour(rng, (0.42, 0.2, 0.52), 0.1), rng.uniform(0.02, 0.08), 5),
    }


def _white_cell(scene: Scene, radius: float, share: float) -> None:
    r = scene.rng
    y, x = r.normal(0, 7, 2)
    cell = scene.add("cell", scene.rough(disk(scene, (y, x), (radius, radius * r.uniform(0.8, 1.25))), 0.05 * radius))
    lobes, start = int(r.choice([1, 1, 2, 3, 4])), r.uniform(0, 2 * np.pi)
    nucleus = None
    for lobe in range(lobes):
        angle = start + lobe * r.uniform(0.9, 1.6)
        away = 0.12 * radius if lobes == 1 else radius * r.uniform(0.3, 0.5)
        part = radius * share * r.uniform(0.85, 1.1) / lobes**0.45
        shape = disk(scene, (y + away * np.sin(angle), x + away * np.cos(angle)), (part * r.uniform(0.75, 1.1), part))
        nucleus = scene.add("nucleus", scene.rough(shape, 0.08 * radius), over=[cell], label=nucleus)


def nuclei(rng: np.random.Generator) -> Style:
    """Many nuclei: bright on dark, dark on light or purple on pink, sometimes all of that in one set."""
    inks = _nuclear(rng)
    others = tuple(_nuclear(rng) for _ in range(int(rng.choice([0, 0, 0, 2]))))
    radius, share, stretch = np.exp(rng.uniform(np.log(2.5), np.log(17))), rng.uniform(0.05, 0.35), rng.uniform(0, 0.3)
    mixed = rng.uniform(0, 0.5)

    def paint(scene: Scene) -> float:
        r = scene.rng
        ground(scene, "ground")
        size = radius * np.exp(r.normal(0, mixed))
        labels: dict[str, int] = {}
        for _ in range(int(np.clip(share * r.uniform(0.4, 1.6) * 128**2 / (np.pi * size**2), 1, 220))):
            name = f"nucleus{int(r.integers(3))}"
            high, wide = size * np.exp(r.normal(0, 0.12 + stretch, 2))
            shape = scene.rough(disk(scene, (r.uniform(-66, 66), r.uniform(-66, 66)), (high, wide)), 0.1 * size)
            labels[name] = scene.add(name, shape, label=labels.get(name))
        return 1

    return Style(inks, (("nucleus0", "nucleus1", "nucleus2"),), paint, others=others, noise=rng.uniform(0.005, 0.05))


def _nuclear(rng: np.random.Generator) -> dict[str, Ink]:
    look = int(rng.integers(0, 4))
    back = [grey(rng, 0.05, 0.02), grey(rng, 0.8), colour(rng, (0.85, 0.65, 0.78), 0.06), grey(rng, 0.08, 0.04)][look]
    front = [grey(rng, 0.55), grey(rng, 0.5), colour(rng, (0.45, 0.28, 0.6), 0.08), grey(rng, 0.25, 0.05)][look]
    inks = {"ground": Ink(back, rng.uniform(0, 0.05) * (0.3 if look in (0, 3) else 1), rng.uniform(3, 12))}
    spread, texture = rng.uniform(0, 0.3), rng.uniform(0.01, 0.1)
    for k, factor in enumerate((1, 1 - spread / 2, 1 + spread)):
        r, g, b = np.clip(np.asarray(front) * factor, 0, 1)
        inks[f"nucleus{k}"] = Ink((float(r), float(g), float(b)), texture * (0.4 if look in (0, 3) else 1), 4)
    return inks


def membranes(rng: np.random.Generator) -> Style:
    """Electron microscopy: light cell interiors of all sizes with organelles, dark membranes between them."""
    light, dark = rng.uniform(0.55, 0.8), rng.uniform(0.1, 0.35)
    names = ("inside0", "inside1", "inside2", "inside3")
    inks = {name: Ink((v := light + rng.normal(0, 0.06), v, v), rng.uniform(0.02, 0.09), rng.uniform(0.8, 2)) for name in names}
    inks |= {
        "membrane": Ink((dark, dark, dark), 0.06, 1.5),
        "organelle": Ink(grey(rng, 0.4), 0.08, 2),
        "dot": Ink((dark, dark, dark), 0.05, 1),
    }
    count, uneven = int(np.exp(rng.uniform(np.log(15), np.log(160)))), rng.uniform(0, 1.2)
    bend = rng.uniform(0.5, 4)
    width = rng.uniform(0.05, 0.13) * 128 / count**0.5

    def paint(scene: Scene) -> float:
        r = scene.rng
        sway = np.stack([scene.noise(24) + 0.5 * scene.noise(9) for _ in range(2)])
        plane = (scene.space.coords[1:] + bend * sway).reshape(2, -1).T
        seeds = r.uniform(-75, 75, (count, 2)) + uneven * r.normal(0, 12, (count, 2))
        near, which = (np.asarray(part) for part in KDTree(seeds).query(plane, k=2))
        gap = ((near[:, 1] - near[:, 0]) * 0.7).reshape(scene.space.shape).astype(np.float32)
        owner = (which[:, 0] % 4).reshape(scene.space.shape)
        scene.add("membrane", scene.space.everywhere(np.ones(scene.space.shape, np.float32)))
        inner = gap - np.float32(width) * (1 + 0.3 * scene.noise(9))
        insides = [
            scene.add(name, scene.space.everywhere(np.where(owner == k, inner, np.float32(-1)))) for k, name in enumerate(names)
        ]
        for _ in range(int(r.integers(0, 14))):
            spot, radius = (float(r.uniform(-64, 64)), float(r.uniform(-64, 64))), r.uniform(2, 6)
            body = scene.rough(disk(scene, spot, (radius, radius * r.uniform(0.6, 1.2))), 0.4)
            scene.add("dot", body, over=insides)
            scene.add("organelle", body.grown(-0.7), over=[len(scene.tissues) - 1])
        return 1

    inside = (*names, "organelle", "dot")
    return Style(inks, (inside, inside, ("membrane",)), paint, noise=rng.uniform(0.02, 0.08), blur=rng.uniform(0.3, 0.6))


def glands(rng: np.random.Generator) -> Style:
    """Stained tissue: glands with a pale middle and a seam of nuclei, in a stroma with nuclei of its own."""
    inks = {
        "stroma": Ink(colour(rng, (0.85, 0.6, 0.75), 0.07), 0.06, 5),
        "gland": Ink(colour(rng, (0.8, 0.62, 0.8), 0.07), 0.04, 4),
        "lumen": Ink(colour(rng, (0.92, 0.88, 0.92), 0.04), 0.02, 6),
        "nucleus": Ink(colour(rng, (0.45, 0.3, 0.6), 0.07), 0.04, 3),
        "seam": Ink(colour(rng, (0.5, 0.35, 0.65), 0.07), 0.04, 3),
    }
    size, number, dots = rng.uniform(12, 36), rng.uniform(0.15, 0.5), int(rng.integers(30, 150))

    def paint(scene: Scene) -> float:
        r = scene.rng
        stroma = ground(scene, "stroma")
        for _ in range(dots):
            spot = (float(r.uniform(-66, 66)), float(r.uniform(-66, 66)))
            scene.add(
                "nucleus",
                disk(scene, spot, (r.uniform(1, 2.2), r.uniform(1, 2.2))),
                over=[stroma],
                label=_number(scene, "nucleus"),
            )
        for _ in range(max(1, int(number * 128**2 / (np.pi * size**2)))):
            spot, radius = (float(r.uniform(-60, 60)), float(r.uniform(-60, 60))), size * r.uniform(0.6, 1.3)
            body = scene.rough(disk(scene, spot, (radius, radius * r.uniform(0.5, 1))), 0.12 * radius)
            scene.add("seam", body, label=_number(scene, "seam"))
            scene.add("gland", body.grown(-2.2 - scene.noise(9)), label=_number(scene, "gland"))
            scene.add("lumen", scene.rough(body.grown(-radius * 0.35), 1.5), label=_number(scene, "lumen"))
        return 1

    return Style(inks, (("gland", "seam", "lumen"), ("lumen",)), paint, jitter=rng.uniform(0.02, 0.07))


def _number(scene: Scene, tissue: str) -> int | None:
    """The number of a tissue that was painted before: many small parts, one number."""
    return scene.tissues.index(tissue) if tissue in scene.tissues else None

"""Hearts: along their short axis, and the left atrium among other bright chambers and vessels."""

import numpy as np

from synthetic.parts import blob, ground, walk, within
from synthetic.scene import Anatomy, Scene, Task
from synthetic.torso import spine


def short_axis(scene: Scene) -> Anatomy:
    """A ring of muscle around blood with papillary muscles, a crescent beside it, both ending at a base; lungs, liver."""
    rng, space = scene.rng, scene.space
    _chest(scene)
    size, wall, length = rng.uniform(11, 20), rng.uniform(3, 8), rng.uniform(30, 55)
    middle = (length * 0.3, 0.0, 5.0)
    cup = scene.rough(space.ellipsoid(middle, (length, size, size * rng.uniform(0.85, 1.1))), 0.8)
    base = np.float32(middle[0] + length * rng.uniform(0.2, 0.6)) - space.coords[0] + 2 * scene.noise(24)
    beside = (middle[0], -2 + rng.normal(0, 4), middle[2] - size - rng.uniform(2, 10))
    right = scene.rough(space.ellipsoid(beside, (length * 0.85, rng.uniform(16, 26), rng.uniform(11, 20))), 1.5)
    scene.add("fat", scene.rough(space.ellipsoid((6, 0, -6), (length + 14, size + wall + 9, size + wall + 20)), 2))
    thin = scene.add("muscle", right.grown(rng.uniform(1, 3)))
    crescent = scene.add("blood", right)
    outer = scene.add("muscle", cup.grown(wall + 0.5 * scene.noise(24)))
    blood = scene.add("blood", cup, over=[outer])
    cavity = [blood]
    for _ in range(int(rng.integers(0, 4))):
        angle = rng.uniform(0, 2 * np.pi)
        spot = (middle[0] - 8, 0.75 * size * np.sin(angle), middle[2] + 0.75 * size * np.cos(angle))
        cavity.append(
            scene.add("muscle", space.ellipsoid(spot, (length * 0.45, rng.uniform(2, 4), rng.uniform(2, 4))), over=[blood])
        )
    if rng.uniform() < 0.3:
        spot = (middle[0] - rng.uniform(0, 20), *(size + wall / 2) * np.array([np.sin(1), np.cos(1)]))
        scar = [scene.add("scar", blob(scene, spot, rng.uniform(5, 10)), over=[outer])]
    else:
        scar = []
    above = [outer, *cavity, crescent, thin, *scar]
    stub = scene.add(
        "blood", scene.rough(space.ellipsoid((middle[0], 4, 0), (length, size * 1.3, size * 1.6)), 3).cut(-base), over=above
    )
    tasks: list[Task] = [tuple(cavity), (outer, *scar), (outer, *scar, *cavity), (crescent,), (stub,)]
    return scene.anatomy([*tasks, *tasks[:4]], ("cine", "cine", "cine", "lge", "t1", "ct", ""))


def atrium(scene: Scene) -> Anatomy:
    """The left atrium with its veins, among an aorta, a pulmonary artery and other chambers hardly a wall apart."""
    rng, space = scene.rng, scene.space
    _chest(scene)
    spine(scene, (52.0, float(rng.normal(0, 4))), rng.uniform(0.6, 1))
    scene.add(str(rng.choice(["fat", "muscle", "lung"])), scene.rough(space.ellipsoid((0, -4, 0), (70, 42, 52)), 3))
    others = []
    for _ in range(int(rng.integers(3, 7))):
        shape = scene.rough(blob(scene, within(rng, (40, 22, 42), (0, -18, 0)), rng.uniform(12, 26)), 2)
        scene.add("muscle", shape.grown(rng.uniform(0.8, 3)))
        others.append(scene.add("blood", shape))
    for offset in ((-14.0, 6.0), (30.0, 12.0)):
        pipe = space.tube(walk(rng, (-90, *offset), (1, 0, 0), length=180, bend=0.08), rng.uniform(6, 10))
        scene.add("muscle", pipe.grown(1.2))
        others.append(scene.add("blood", pipe))
    radii = np.array([rng.uniform(14, 24), rng.uniform(11, 18), rng.uniform(17, 28)])
    centre = np.array([rng.normal(0, 5), 12.0, 0.0])
    field = scene.whole(scene.rough(space.ellipsoid(centre, radii), 2.5))
    for side in (-1, 1):
        for up in (-1, 1):
            start = centre + np.array([up * radii[0] * 0.4, 2, side * radii[2] * 0.6])
            path = walk(rng, start, (up * 0.5, rng.uniform(-0.2, 0.8), side), length=rng.uniform(18, 45), bend=0.15)
            space.draw_tube(field, path, np.linspace(rng.uniform(5, 8), rng.uniform(2.5, 4.5), len(path)))
    lobe = centre + np.array([6, -10, radii[2] * 0.7])
    space.draw_tube(field, walk(rng, lobe, (0.3, -1, 0.6), length=14), 5.0)
    whole = space.everywhere(field)
    wall = scene.add("muscle", whole.grown(rng.uniform(0.8, 2.2)))
    blood = scene.add("lge_blood", whole)
    if rng.uniform() < 0.5:
        scene.add("scar", space.everywhere(scene.noise(9) - np.float32(1)), over=[wall])
    tasks: list[Task] = [(blood,)] * 4 + [(label,) for label in others]
    return scene.anatomy(tasks, ("lge", "lge", "lge", "cine", "ct", "t1", ""))


def _chest(scene: Scene) -> None:
    """Muscle and fat with lungs on both sides, liver below."""
    rng, space = scene.rng, scene.space
    base = ground(scene, "muscle")
    scene.add("fat", space.everywhere(scene.noise(24) + 0.4 * scene.noise(9) - rng.uniform(0.2, 1)), over=[base])
    skin = scene.rough(space.ellipsoid((0, 20, 0), (300, rng.uniform(58, 90), rng.uniform(60, 90))), 2)
    scene.add("fat", skin.shell(rng.uniform(3, 10)))
    scene.add("air", space.everywhere(-scene.whole(skin)))
    for side in (-1, 1):
        lung = scene.rough(space.ellipsoid((20, 8, side * rng.uniform(40, 58)), (90, 45, rng.uniform(18, 34))), 5)
        scene.add("vessel", space.everywhere(scene.noise(9) - 1.4), over=[scene.add("lung", lung)])
    floor = scene.rough(space.ellipsoid((-70, 5, -20), (50, 50, 60)), 4)
    liver = scene.add("organ", floor)
    scene.add("vessel", space.everywhere(scene.noise(9) - np.float32(1.5)), over=[liver])

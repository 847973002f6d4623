"""Heads: a whole brain, with or without its skull, and a close view of a small bent structure in it."""

import numpy as np

from synthetic.parts import blob, ground, lesion, walk, within
from synthetic.scene import Anatomy, Scene, Task
from synthetic.shapes import Patch

LOOKS = ("t1", "t1", "t2", "flair", "flair", "head_ct", "")


def brain(scene: Scene) -> Anatomy:
    """Folded grey matter around white, ventricles, deep nuclei, cerebellum and stem, skull and eyes; tumours."""
    rng, space = scene.rng, scene.space
    outline = scene.rough(space.ellipsoid((0, 0, 0), (rng.uniform(40, 48), rng.uniform(50, 56), rng.uniform(40, 46))), 0.8)
    skull: list[int] = []
    if rng.uniform() < 0.6:
        skull = _skull(scene, outline)
    csf = scene.add("fluid", outline)
    middle = np.abs(space.coords[2] + np.float32(0.8) * scene.noise(24)) - np.float32(0.5)
    gap = np.maximum(middle, -(space.coords[0] + np.float32(rng.uniform(0, 12))))
    cortex = outline.grown(-rng.uniform(1, 2.5))
    folds = np.abs(scene.noise(9)) - np.float32(0.25)
    grey = scene.add("grey", cortex.cut(gap).cut(np.maximum(3 * folds + 1, scene.whole(cortex) - 9)), over=[csf])
    inner = (
        cortex.grown(-rng.uniform(2, 4))
        .cut(gap - np.float32(rng.uniform(1.5, 3)))
        .cut(np.maximum(6 * folds, scene.whole(cortex) - 12))
    )
    white = scene.add("white", inner, over=[grey])
    under = [csf, grey, white]
    tasks = _hindbrain(scene, under) if rng.uniform() < 0.7 else []
    under += [label for task in tasks for label in task]
    deep = _deep(scene, under)
    tasks += [*deep, (grey, *deep[-1]), (white,)]
    if skull:
        tasks.append(tuple(range(csf, len(scene.tissues))))
    if rng.uniform() < 0.75:
        solid = [label for label in range(csf, len(scene.tissues)) if label != csf]
        for _ in range(int(rng.choice([1, 1, 2, 4]))):
            spot = within(rng, (24, 32, 26), (8, 0, 0))
            found = lesion(scene, spot, float(np.exp(rng.uniform(1.1, 2.9))), over=solid)
            tasks += [*found, found[0]]
    return scene.anatomy(tasks, LOOKS)


def _hindbrain(scene: Scene, over: list[int]) -> list[Task]:
    """The cerebellum with its white matter, and the stem."""
    small = scene.rough(scene.space.ellipsoid((-30, 28, 0), (16, 19, 34)), 1)
    cerebellum = scene.add("grey", small, over=over)
    tree = scene.add("white", small.grown(-4).cut(2 * scene.noise(9)), over=[cerebellum])
    way = scene.space.tube(np.array([[-70.0, 12, 0], [-40, 10, 0], [-15, 4, 0]]), np.array([7.0, 11, 8]))
    return [(cerebellum, tree), (scene.add("white", way, over=[*over, cerebellum]),)]


def _skull(scene: Scene, outline: Patch) -> list[int]:
    rng, space = scene.rng, scene.space
    made = []
    face = space.ellipsoid((-45, -18, 0), (36, 34, 36))
    for tissue, grow in (("fat", rng.uniform(7, 9)), ("bone", rng.uniform(4.5, 6)), ("marrow", 3.6), ("bone", 2.6)):
        made.append(scene.add(tissue, outline.grown(grow)))
        if len(made) == 1:
            made.append(scene.add("muscle", scene.rough(face, 4)))
    for side in (-1, 1):
        scene.add("fluid", space.ellipsoid((-26, -50, side * 18), (8, 8, 8)))
    return made


def _deep(scene: Scene, over: list[int]) -> list[Task]:
    """Ventricles with horns, and two pairs of grey nuclei beside them; the last task is all nuclei."""
    rng, space = scene.rng, scene.space
    wide = rng.uniform(2.2, 5.5)
    field = np.full(space.shape, -1e3, np.float32)
    nuclei = []
    for side in (-1, 1):
        for centre, radii in (((2, -8, 14 * side), (9, 12, 6)), ((4, 6, 10 * side), (8, 9, 6))):
            nuclei.append(scene.add("grey", scene.rough(space.ellipsoid(centre, radii), 0.8), over=over))
        horn = np.array([[12, -22, 6], [15, -10, 5], [15, 4, 6], [12, 16, 10], [2, 20, 15], [-6, 10, 19], [-9, -2, 20]], float)
        space.draw_tube(field, horn * (1, 1, side), wide * np.array([0.8, 1.1, 1, 1.2, 1, 0.7, 0.4]))
    space.draw_tube(field, np.array([[8.0, -4, 0], [-6, 2, 0]]), wide * 0.5)
    ventricles = scene.add("fluid", space.everywhere(field + 0.6 * scene.noise(9)), over=[*over, *nuclei])
    return [(ventricles,), (ventricles,), *((label,) for label in nuclei), tuple(nuclei)]


def hippocampus(scene: Scene) -> Anatomy:
    """A small bent structure between fluid, folded grey and white matter, in two parts along its length."""
    rng, space = scene.rng, scene.space
    white = ground(scene, "white")
    bands = np.abs(scene.noise(24) + rng.uniform(0.2, 0.5) * scene.noise(9))
    grey = scene.add("grey", space.everywhere(rng.uniform(0.4, 0.9) - bands), over=[white])
    scene.add("fluid", space.everywhere(rng.uniform(0.05, 0.2) - bands), over=[grey])
    scene.add("fluid", blob(scene, within(rng, (40, 10, 10), (0, 40, 40)), rng.uniform(14, 30)))
    scene.add(str(rng.choice(["grey", "bone"])), blob(scene, within(rng, (30, 20, 20), (0, -30, -35)), rng.uniform(8, 24)))
    radius, length = rng.uniform(11, 19), rng.uniform(60, 120)
    axis = int(rng.integers(3))
    heading = np.roll([1.0, 0.2, 0.1], axis)
    path = walk(rng, -heading * length / 2, heading, length=length, step=6, bend=0.1)
    path -= path.mean(axis=0) - rng.normal(0, 4, 3)
    share = np.linspace(0, 1, len(path))
    radii = radius * np.interp(share, [0, 0.15, 0.35, 0.8, 1], [0.8, 1.25, 1.1, 0.75, 0.45])
    body = scene.rough(space.tube(path, radii), rng.uniform(0.8, 2))
    horn = scene.rough(space.tube(path + np.roll([0, 4, 5], axis), radii * 1.1), 2)
    scene.add("fluid", horn)
    front = scene.add("hippocampus", body)
    cut = path[int(len(path) * rng.uniform(0.3, 0.6))]
    side = np.tensordot(heading, space.coords, 1).astype(np.float32) - np.float32(heading @ cut) + scene.noise(24)
    back = scene.add("hippocampus", body.cut(side), over=[front])
    scene.add("fluid", space.everywhere(scene.noise(9) - np.float32(2.1)), over=[front, back])
    for _ in range(int(rng.integers(0, 3))):
        scene.add(
            "vessel",
            space.tube(walk(rng, within(rng, (40, 40, 40)), rng.normal(0, 1, 3), length=70), rng.uniform(1.5, 3)),
            over=[white, grey],
        )
    return scene.anatomy([(front,), (back,), (front, back), (front,), (back,)], ("t1", "t1", "t1", "t2", ""))

"""Anatomies of nobody: random shapes of every sort among each other."""

import numpy as np
from scipy.spatial.transform import Rotation

from synthetic.parts import blob, ground, lesion, partition, rope, tree, vessels, walk, within
from synthetic.scene import Anatomy, Scene, Task

TISSUES = ("organ", "muscle", "fluid", "blood", "fat", "lesion", "bone", "lung", "gut", "marrow")
SPREAD = (55.0, 48.0, 48.0)


def zoo(scene: Scene) -> Anatomy:
    """Shapes of all sizes, large ones first, on a plain or divided ground, sometimes in a body with air around."""
    rng = scene.rng
    tasks: list[Task] = []
    under = [ground(scene, _tissue(rng))]
    if rng.uniform() < 0.5:
        frame = scene.rough(scene.space.ellipsoid((0, 0, 0), rng.uniform(46, 75, 3), power=int(rng.choice([2, 4]))), 2)
        scene.tissues[under[0]] = "air"
        under = [scene.add(_tissue(rng), frame)]
        if rng.uniform() < 0.3:
            tasks.append((under[0],))
    if rng.uniform() < 0.6:
        names = [_tissue(rng) for _ in range(int(rng.integers(2, 7)))]
        parts = partition(scene, under, names, scale=rng.uniform(20, 60))
        tasks += [(part,) for part in parts]
    makers = (_single, _single, _halves, _copies, _onion, _tube, _branches, _bean, _tumour)
    sizes = sorted(np.exp(rng.uniform(np.log(3.5), np.log(48), int(rng.integers(3, 11)))), reverse=True)
    for radius in sizes:
        tasks += makers[int(rng.integers(len(makers)))](scene, float(radius))
    return scene.anatomy(tasks)


def _tissue(rng: np.random.Generator) -> str:
    return str(rng.choice(TISSUES))


def _single(scene: Scene, radius: float) -> list[Task]:
    """One ellipsoid, smooth or ragged."""
    rng = scene.rng
    shape = scene.rough(blob(scene, within(rng, SPREAD), radius), rng.choice([0.05, 0.15, 0.35]) * radius)
    return [(scene.add(_tissue(rng), shape),)]


def _halves(scene: Scene, radius: float) -> list[Task]:
    """Two parts of one body, hardly a contrast between them."""
    rng = scene.rng
    centre, tissue = within(rng, SPREAD), _tissue(rng)
    body = scene.rough(blob(scene, centre, radius), 0.1 * radius)
    first = scene.add(tissue, body)
    normal = rng.normal(0, 1, 3)
    side = np.tensordot(normal / np.linalg.norm(normal), scene.space.coords, 1) - normal @ centre / np.linalg.norm(normal)
    second = scene.add(tissue, body.cut(side.astype(np.float32) + scene.noise(24)), over=[first])
    return [(first,), (second,), (first, second)]


def _copies(scene: Scene, radius: float) -> list[Task]:
    """Look-alikes, of which one is meant: a pair or a row."""
    rng = scene.rng
    radius = min(radius, 18)
    count, tissue, turn = int(rng.integers(2, 7)), _tissue(rng), Rotation.random(rng=rng)
    radii = radius * np.exp(rng.normal(0, 0.25, 3))
    step = rng.normal(0, 1, 3)
    step *= radius * rng.uniform(2.2, 4) / np.linalg.norm(step)
    start = np.asarray(within(rng, (25, 25, 25))) - step * (count - 1) / 2
    made = []
    for k in range(count):
        shape = scene.space.ellipsoid(start + k * step, radii * np.exp(rng.normal(0, 0.08, 3)), turn=turn)
        made.append(scene.add(tissue, scene.rough(shape, 0.1 * radius)))
    tasks: list[Task] = [(label,) for label in made]
    return [*tasks, tuple(made)]


def _onion(scene: Scene, radius: float) -> list[Task]:
    """Shells around a core, closed or with a gap."""
    rng = scene.rng
    body = scene.rough(blob(scene, within(rng, SPREAD), radius), 0.08 * radius)
    tasks: list[Task] = []
    for _ in range(int(rng.integers(1, 4))):
        label = scene.add(_tissue(rng), body)
        tasks = [*((*task, label) for task in tasks), (label,)]
        body = scene.rough(body.grown(-radius * rng.uniform(0.12, 0.35)), 0.05 * radius)
    core = scene.add(_tissue(rng), body)
    tasks = [*((*task, core) for task in tasks), *tasks, (core,)]
    if rng.uniform() < 0.3:
        scene.add(_tissue(rng), blob(scene, within(rng, SPREAD), radius))
    return tasks


def _tube(scene: Scene, radius: float) -> list[Task]:
    """A long tube along any direction, with or without a sheath."""
    rng = scene.rng
    width = min(max(radius * 0.3, 1.8), 9)
    path = rope(scene, (rng.uniform(-40, 40), rng.uniform(-40, 40)), rng.uniform(2, 12))
    if rng.uniform() < 0.5:
        path = path[:, rng.permutation(3)]
    if rng.uniform() < 0.4:
        path = path[: int(rng.integers(8, len(path)))]
    sheath = scene.add(_tissue(rng), scene.space.tube(path, width * rng.uniform(1.3, 2.2))) if rng.uniform() < 0.5 else 0
    label = scene.add(_tissue(rng), scene.space.tube(path, width * np.exp(rng.normal(0, 0.1, len(path)))))
    return [(label,), (label, sheath)] if sheath else [(label,)]


def _branches(scene: Scene, radius: float) -> list[Task]:
    """A vessel with its branches."""
    rng = scene.rng
    start, aim = within(rng, SPREAD), rng.normal(0, 1, 3)
    found = tree(scene, start, aim, radius=min(max(radius * 0.2, 2.2), 7), length=rng.uniform(25, 45), depth=3)
    return [(scene.add(_tissue(rng), vessels(scene, found)),)]


def _bean(scene: Scene, radius: float) -> list[Task]:
    """A thick bent sausage, as hippocampi, stomachs and colons are."""
    rng = scene.rng
    radius = min(radius, 16)
    path = walk(
        rng, within(rng, (35, 35, 35)), rng.normal(0, 1, 3), length=radius * rng.uniform(2.5, 7), step=max(radius * 0.6, 2.5)
    )
    radii = (
        radius
        * np.exp(rng.normal(0, 0.15, len(path)))
        * np.interp(np.linspace(0, 1, len(path)), [0, 0.2, 0.8, 1], [0.7, 1, 1, 0.6])
    )
    tissue = _tissue(rng)
    first = scene.add(tissue, scene.rough(scene.space.tube(path, radii), 0.12 * radius))
    if rng.uniform() < 0.5:
        return [(first,)]
    cut = int(rng.integers(1, len(path) - 1))
    second = scene.add(tissue, scene.rough(scene.space.tube(path[cut:], radii[cut:] + 0.5), 0.05 * radius), over=[first])
    return [(first,), (second,), (first, second)]


def _tumour(scene: Scene, radius: float) -> list[Task]:
    return lesion(scene, within(scene.rng, SPREAD), min(radius, 22))

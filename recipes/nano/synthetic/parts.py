"""What several anatomies are built from: lesions, paths, trees, partitions."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from synthetic.fields import spline_noise
from synthetic.scene import Scene, Task
from synthetic.shapes import Patch

Triple = tuple[float, float, float]


def ground(scene: Scene, tissue: str) -> int:
    """Fill the whole space."""
    return scene.add(tissue, scene.space.everywhere(np.ones(scene.space.shape, np.float32)))


def blob(scene: Scene, centre: ArrayLike, radius: float, *, spread: float = 0.22, flat: bool = False) -> Patch:
    """An ellipsoid of any direction; `spread` is how unequal its axes are, `flat` one that looks the same in all slices."""
    rng = scene.rng
    radii = radius * np.exp(rng.normal(0, spread, 3))
    if flat:
        return scene.space.ellipsoid(centre, (300, *radii[1:]), turn=Rotation.from_rotvec((rng.uniform(0, np.pi), 0, 0)))
    return scene.space.ellipsoid(centre, radii, turn=Rotation.random(rng=rng))


def within(rng: np.random.Generator, spread: Triple, centre: Triple = (0, 0, 0)) -> Triple:
    """A position in a box of half widths `spread`."""
    z, y, x = rng.uniform(-1, 1, 3) * spread + centre
    return float(z), float(y), float(x)


def lesion(scene: Scene, centre: Triple, radius: float, *, over: Iterable[int] | None = None) -> list[Task]:
    """A tumour: plain, or with a rim, a dead core and a swollen surrounding, each nested in the next."""
    rng = scene.rng
    kind = rng.uniform() if radius >= 5 else 0
    if scene.own is not None:
        centre, radius = _elsewhere(scene, scene.own, centre, radius)
    body = scene.rough(blob(scene, centre, radius), rng.uniform(0.03, 0.3) * radius)
    if kind < 0.5:
        return [(scene.add("lesion", body, over=over),)]
    tasks: list[Task] = []
    outer: tuple[int, ...] = ()
    if kind > 0.75:
        halo = scene.rough(body.grown(rng.uniform(0.2, 0.6) * radius), 0.3 * radius)
        outer = (scene.add("edema", halo, over=over),)
        over = outer
    rim = scene.add("rim", body, over=over)
    dead = scene.rough(body.grown(-rng.uniform(0.25, 0.5) * radius), 0.1 * radius)
    core = scene.add("necrosis", dead, over=[rim])
    tasks += [(*outer, rim, core), (rim, core), (core,)]
    return tasks


def _elsewhere(scene: Scene, own: np.random.Generator, centre: Triple, radius: float) -> tuple[Triple, float]:
    """The same finding in another patient: another place and size, still in view of a single slice."""
    z, y, x = np.asarray(centre) + own.normal(0, 10, 3)
    if scene.space.shape[0] == 1:
        z = scene.space.coords[0].mean() + own.normal(0, 0.3 * radius)
    return (float(z), float(y), float(x)), radius * float(np.exp(own.normal(0, 0.25)))


def rope(scene: Scene, middle_yx: tuple[float, float], sway: float, *, step: float = 10) -> NDArray[np.float64]:
    """A smooth path along z through the whole space: (K, 3) positions."""
    rng = scene.rng
    z = np.arange(-100, 101, step)
    waves = np.sin(z[:, None] / 90 * np.pi * np.array([0.5, 1, 1.5]) + rng.uniform(0, 2 * np.pi, 3)) / (1, 1.5, 2)
    return np.concatenate([z[:, None], waves @ rng.normal(0, sway, (3, 2)) + np.asarray(middle_yx)], axis=1)


def walk(
    rng: np.random.Generator,
    start: ArrayLike,
    heading: ArrayLike,
    *,
    length: float,
    step: float = 5,
    bend: float = 0.35,
) -> NDArray[np.float64]:
    """A path that keeps turning a little: (K, 3) positions."""
    count = max(2, int(length / step))
    direction = np.asarray(heading, float) / (np.linalg.norm(heading) + 1e-9)
    curl = rng.normal(0, bend * 0.4, 3)
    points = [np.asarray(start, float)]
    for _ in range(count):
        direction = direction + curl + rng.normal(0, bend * 0.4, 3)
        direction /= np.linalg.norm(direction)
        points.append(points[-1] + step * direction)
    return np.array(points)


def tree(
    scene: Scene,
    start: ArrayLike,
    heading: ArrayLike,
    *,
    radius: float,
    length: float,
    depth: int = 4,
    flat: bool = False,
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """A branching vessel as (path, radii) of each branch; `flat` keeps it in one plane."""
    rng = scene.rng
    path = walk(rng, start, heading, length=length * rng.uniform(0.7, 1.3))
    if flat:
        path[:, 0] = path[0, 0]
    branches = [(path, np.linspace(radius, radius * 0.75, len(path)))]
    if depth > 1:
        for _ in range(2 + int(rng.uniform() < 0.3)):
            fork = path[int(rng.integers(len(path) // 2, len(path)))]
            aim = (path[-1] - path[-2]) / 5 + rng.normal(0, 0.75, 3) * ((0, 1, 1) if flat else (1, 1, 1))
            thin = radius * rng.uniform(0.5, 0.8)
            branches += tree(scene, fork, aim, radius=thin, length=length * rng.uniform(0.6, 0.9), depth=depth - 1, flat=flat)
    return branches


def vessels(scene: Scene, branches: Iterable[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Patch:
    """All branches of a tree as one shape."""
    field = np.full(scene.space.shape, -1e3, np.float32)
    for path, radii in branches:
        scene.space.draw_tube(field, path, radii)
    return scene.space.everywhere(field)


def partition(scene: Scene, over: Iterable[int], tissues: Sequence[str], *, scale: float = 40) -> list[int]:
    """Cut structures into as many parts as tissues: where one of several smooth fields is the largest."""
    shape, over = scene.space.shape, list(over)
    steps = [scale / pitch for pitch in scene.pitch]
    best = np.argmax([spline_noise(scene.rng, shape, steps) for _ in tissues], axis=0)
    fields = (np.where(best == part, np.float32(1), np.float32(-1)) for part in range(len(tissues)))
    return [scene.add(name, scene.space.everywhere(field), over=over) for name, field in zip(tissues, fields, strict=True)]

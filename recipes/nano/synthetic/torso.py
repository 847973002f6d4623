"""Trunks: skin, fat, muscle, ribs and spine around the organs of the belly or the chest."""

from dataclasses import dataclass

import numpy as np

from synthetic.parts import Triple, ground, lesion, rope, tree, vessels, within
from synthetic.scene import Anatomy, Scene, Task
from synthetic.shapes import Patch

LOOKS = ("ct", "ct", "ct", "t1", "t2", "")


@dataclass(frozen=True, eq=False)
class Trunk:
    """The wall of a trunk: the number of its cavity, and the cavity's shape."""

    cavity: int
    shape: Patch


def abdomen(scene: Scene) -> Anatomy:
    """Large organs that touch, paired kidneys, bowel, vertebrae and ribs, cord, great vessels, tumours."""
    rng, space = scene.rng, scene.space
    trunk = _wall(scene, "fat")
    inner = [trunk.cavity]
    dome = space.everywhere(45 + 4 * scene.noise(24) - space.coords[0])
    lungs = scene.add("lung", trunk.shape.grown(-1).cut(-dome.field), over=inner)
    bowel = scene.add(
        "gut", trunk.shape.grown(-2).cut(scene.noise(9) + 0.4 * scene.noise(24) - rng.uniform(-0.3, 0.6)), over=inner
    )
    inner.append(bowel)
    scene.add("gas", space.everywhere(scene.noise(9) - np.float32(1.5)), over=[bowel])
    scene.add("contrast", space.everywhere(scene.noise(9) - np.float32(1.2)), over=[bowel])
    inner += [len(scene.tissues) - 2, len(scene.tissues) - 1]
    size = rng.uniform(0.8, 1.25)
    liver = _organ(scene, "organ", (18, -4, -26), np.array([36, 26, 26]) * size, inner, rough=4)
    scene.add("organ", _hug(scene, (24, -10, -6), np.array([16, 12, 26]) * size, 3), over=inner, label=liver)
    spleen = _organ(scene, "spleen", (22, 12, 36), np.array([22, 20, 13]) * rng.uniform(0.7, 1.3), inner, rough=2)
    stomach = _organ(scene, "gut", (24, -12, 18), np.array([20, 13, 16]) * rng.uniform(0.7, 1.3), inner, rough=3)
    tasks: list[Task] = [(liver,), (spleen,), (stomach,), (lungs,)]
    if rng.uniform() < 0.5:
        tasks.append((scene.add("fluid", space.ellipsoid((4, -16, -20), (8, 6, 5)), over=[*inner, liver]),))
    kidneys = [_kidney(scene, side, [*inner, liver, spleen]) for side in (-1, 1)]
    tasks += [task for kidney in kidneys for task in kidney]
    tasks.append(tuple(sorted({label for kidney in kidneys for label in kidney[0]})))
    tasks += spine(scene, (26.0, 0.0), rng.uniform(0.7, 0.95))
    for offset, radius in (((11.0, 4.0), 4.5), ((10.0, -7.0), 5.0)):
        tasks.append((scene.add("blood", space.tube(rope(scene, offset, 1.5), radius * rng.uniform(0.6, 1.2))),))
    for _ in range(int(rng.integers(0, 3))):
        tasks += lesion(scene, within(rng, (20, 12, 12), (18, -4, -26)), rng.uniform(2.5, 12), over=[liver])
    for _ in range(int(rng.integers(0, 3))):
        tasks += lesion(scene, within(rng, (40, 25, 40)), rng.uniform(3, 10), over=[*inner, trunk.cavity])
    return scene.anatomy(tasks, LOOKS)


def thorax(scene: Scene) -> Anatomy:
    """Two lungs with vessels, the heart, great vessels and airway between them, the liver's dome below, a tumour."""
    rng, space = scene.rng, scene.space
    trunk = _wall(scene, "muscle")
    inner = [trunk.cavity]
    floor = 6 * scene.noise(24) + space.coords[0] + np.float32(rng.uniform(15, 50))
    gap = rng.uniform(7, 14)
    lungs = []
    for side in (-1, 1):
        half = trunk.shape.grown(-1.5).cut(np.minimum(floor, side * space.coords[2] - np.float32(gap) + 2 * scene.noise(24)))
        lungs.append(scene.add("lung", half.cut(70 - np.abs(space.coords[0])), over=inner))
    liver = scene.add("organ", trunk.shape.grown(-1).cut(-floor).cut(12 - space.coords[2]), over=inner)
    heart = scene.add("blood", scene.rough(space.ellipsoid((-8, -8, 10), (26, 19, 23)), 2), over=[*inner, *lungs, liver])
    wall = scene.add("muscle", scene.rough(space.ellipsoid((-12, -4, 18), (18, 15, 14)), 1).shell(4.0), over=[heart])
    trachea = scene.add("gas", space.tube(rope(scene, (6, 0), 1)[12:], rng.uniform(3, 5)), over=[*inner, *lungs])
    tasks: list[Task] = [*((lung,) for lung in lungs), tuple(lungs), (liver,), (heart, wall), (trachea,)]
    for side, lung in zip((-1, 1), lungs, strict=True):
        branches = [
            found
            for _ in range(3)
            for found in tree(
                scene,
                (rng.uniform(-8, 12), 2, side * gap),
                (rng.normal(0, 1), rng.normal(0, 1), side),
                radius=2.4,
                length=22,
                depth=3,
            )
        ]
        scene.add("vessel", vessels(scene, branches), over=[lung])
    vessel_labels = [len(scene.tissues) - 2, len(scene.tissues) - 1]
    tasks += [(lung, vessel) for lung, vessel in zip(lungs, vessel_labels, strict=True)] * 2
    tasks += spine(scene, (27.0, 0.0), rng.uniform(0.65, 0.9))
    aorta = rope(scene, (14, 7), 1)
    tasks.append((scene.add("blood", space.tube(aorta, rng.uniform(4, 6.5))),))
    for side in rng.choice([-1, 1], int(rng.integers(1, 4))):
        spot = within(rng, (30, 20, 16), (5, 2, 32.0 * side))
        tasks += lesion(scene, spot, rng.uniform(2.5, 16), over=[*lungs, *vessel_labels, *inner])
    return scene.anatomy(tasks, LOOKS)


def column(scene: Scene) -> Anatomy:
    """A spine seen closely, back muscles around it, a vessel in front."""
    rng, space = scene.rng, scene.space
    base = ground(scene, "fat")
    back = scene.rough(space.ellipsoid((0, 30, 0), (300, 40, rng.uniform(45, 80))), 3)
    muscle = scene.add("muscle", back)
    scene.add("fat", space.everywhere(scene.noise(9) - np.float32(1.3)), over=[muscle])
    tasks = spine(scene, (float(rng.normal(-10, 8)), 0.0), rng.uniform(0.9, 2.2))
    for side in (-1, 1):
        tasks.append(
            (
                scene.add(
                    "blood",
                    space.tube(rope(scene, (-35, side * rng.uniform(5, 20)), 2), rng.uniform(3, 8)),
                    over=[base, muscle],
                ),
            )
        )
    return scene.anatomy(tasks, ("t1", "t2", "t2", "ct", ""))


def spine(scene: Scene, middle_yx: tuple[float, float], scale: float) -> list[Task]:
    """Vertebrae one over the other, discs between them, arches around a canal with fluid and a cord."""
    rng, space = scene.rng, scene.space
    path = rope(scene, middle_yx, 1.5)
    back = path + np.array([0, 13 * scale, 0])
    arch = scene.add("bone", space.tube(back, 7.8 * scale))
    disc = scene.add("disc", space.tube(path, 8.5 * scale))
    pitch, bodies, skip = rng.uniform(13, 20) * scale, [], rng.uniform(0.3, 0.5)
    for z in np.arange(-75 + rng.uniform(0, pitch), 80, pitch):
        y, x = (float(np.interp(z, path[:, 0], path[:, k])) for k in (1, 2))
        outer = space.ellipsoid((z, y, x), (pitch * 0.44, 9 * scale, 11 * scale), power=4)
        shell = scene.add("bone", outer)
        bodies.append((shell, scene.add("marrow", outer.grown(-1.3), over=[shell])))
        scene.add("bone", space.ellipsoid((z - 2, y + 23 * scale, x), (pitch * skip * 0.8, 8 * scale, 2.5)), label=arch)
        for side in (-1, 1):
            scene.add("bone", space.ellipsoid((z, y + 12 * scale, x + side * 12 * scale), (3, 3, 8 * scale)), label=arch)
    canal = scene.add("fluid", space.tube(back, rng.uniform(4.5, 6.5) * scale))
    cord = scene.add("white", space.tube(back, rng.uniform(2.2, 3.6) * scale), over=[canal])
    whole = tuple(label for body in bodies for label in body)
    return [*bodies, whole, (cord,), (cord,), (cord,), (cord, canal), (*whole, arch), (disc,)]


def _wall(scene: Scene, filling: str) -> Trunk:
    """Skin, fat, muscle with ribs, and the cavity; a table below, now and then."""
    rng, space = scene.rng, scene.space
    skin = scene.rough(
        space.ellipsoid((0, 2, 0), (400, rng.uniform(34, 46), rng.uniform(48, 60)), power=int(rng.choice([2, 2, 4]))), 1.5
    )
    if rng.uniform() < 0.4:
        scene.add("table", space.ellipsoid((0, -170, 0), (4000, 225, 260)).shell(1.2))
    scene.add("fat", skin)
    thickness = np.float32(rng.uniform(1.5, 6)) + np.float32(rng.uniform(0.5, 2)) * scene.noise(24)
    inside = skin.grown(-np.maximum(thickness, 1))
    muscle = scene.add("muscle", inside)
    cavity = inside.grown(-np.float32(rng.uniform(4, 8)))
    slope, pitch = rng.uniform(0.2, 0.6), rng.uniform(9, 15)
    wave = np.sin((space.coords[0] + slope * space.coords[1]) * np.float32(2 * np.pi / pitch)) - np.float32(0.2)
    ribs = cavity.grown(3.6).cut(4 * wave)
    bone = scene.add("bone", ribs, over=[muscle])
    scene.add("marrow", ribs.grown(-1.4), over=[bone])
    inner = scene.add(filling, cavity)
    return Trunk(inner, cavity)


def _hug(scene: Scene, centre: Triple, radii: np.ndarray, rough: float) -> Patch:
    shift = scene.rng.normal(0, 3, 3)
    return scene.rough(scene.space.ellipsoid(np.asarray(centre) + shift, radii), rough)


def _organ(scene: Scene, tissue: str, centre: Triple, radii: np.ndarray, over: list[int], *, rough: float) -> int:
    return scene.add(tissue, _hug(scene, centre, radii, rough), over=over)


def _kidney(scene: Scene, side: int, over: list[int]) -> list[Task]:
    """A bean with a bright cortex, fat in its middle and sometimes a tumour; whole first."""
    rng, space = scene.rng, scene.space
    z, y, x = float(rng.normal(-12, 6)), 17.0 + float(rng.normal(0, 2)), side * rng.uniform(21, 27)
    shape = scene.rough(space.ellipsoid((z, y, x), (rng.uniform(16, 24), rng.uniform(8, 11), rng.uniform(7, 10))), 1)
    parts = [scene.add("cortex", shape, over=over)]
    if rng.uniform() < 0.7:
        parts.append(scene.add("medulla", shape.grown(-rng.uniform(2, 4)).cut(scene.noise(9) + 0.3), over=parts[:1]))
    sinus = space.ellipsoid((z, y - 1, x - side * 5), (9, 3, 5))
    hole = scene.add(str(rng.choice(["fat", "fluid", "contrast"])), sinus, over=parts)
    tasks: list[Task] = [tuple(parts), (*parts, hole)]
    if rng.uniform() < 0.35:
        spot = (z + rng.uniform(-14, 14), y + rng.uniform(-6, 6), x + side * rng.uniform(0, 7))
        growth = lesion(scene, spot, rng.uniform(3, 13), over=[*over, *parts, hole])
        tasks = [(*parts, *growth[0]), tuple(parts), growth[0]]
    return tasks

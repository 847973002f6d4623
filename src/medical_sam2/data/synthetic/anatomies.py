"""Bodies in three dimensions: each function paints one kind of anatomy into a scene."""

from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

from medical_sam2.data.synthetic.fields import spline_noise
from medical_sam2.data.synthetic.scene import Anatomy, Scene
from medical_sam2.data.synthetic.shapes import Patch

Triple = tuple[float, float, float]
SOFT = ("organ", "muscle", "fluid", "blood", "fat", "lesion")


def lesion(scene: Scene, centre: Triple, radius: float, *, over: list[int] | None = None) -> list[tuple[int, ...]]:
    """A tumour: plain, or with a rim, a dead core and a swollen surrounding, each nested in the next."""
    rng = scene.rng
    body = scene.rough(blob(scene, centre, radius), rng.uniform(0.05, 0.3) * radius)
    kind = rng.uniform()
    if kind < 0.45 or radius < 5:
        return [(scene.add("lesion", body, over=over),)]
    if kind < 0.75:
        whole = scene.add("rim", body, over=over)
        core = scene.add("necrosis", scene.rough(body.grown(-rng.uniform(0.25, 0.5) * radius), 0.1 * radius), over=[whole])
        return [(whole, core), (core,)]
    outer = scene.add("edema", scene.rough(body.grown(rng.uniform(0.2, 0.6) * radius), 0.3 * radius), over=over)
    rim = scene.add("rim", body, over=[outer])
    core = scene.add("necrosis", scene.rough(body.grown(-rng.uniform(0.25, 0.5) * radius), 0.1 * radius), over=[rim])
    return [(outer, rim, core), (rim, core), (core,)]


def blob(scene: Scene, centre: Triple, radius: float) -> Patch:
    """An ellipsoid of any direction, its axes up to twice as long as each other."""
    rng = scene.rng
    radii = radius * np.exp(rng.normal(0, 0.22, 3))
    return scene.space.ellipsoid(centre, radii, turn=Rotation.random(rng=rng))


def within(rng: np.random.Generator, spread: Triple) -> Triple:
    """A position in a box of half widths `spread` about the middle."""
    z, y, x = rng.uniform(-1, 1, 3) * spread
    return float(z), float(y), float(x)


def blobs(scene: Scene) -> Anatomy:
    """Ellipsoids of all sizes among the parts of a random partition, some of them inside a body with air around."""
    rng = scene.rng
    tasks: list[tuple[int, ...]] = []
    if rng.uniform() < 0.6:
        frame = scene.space.ellipsoid((0, 0, 0), rng.uniform(48, 75, 3), power=int(rng.choice([2, 4])))
        body = scene.add("fat", scene.rough(frame, 2))
    else:
        body = scene.add("muscle", Patch((slice(None),) * 3, np.ones(scene.space.shape, np.float32)))
    parts = partition(scene, body, int(rng.integers(2, 7)))
    tasks += [(part,) for part in parts]
    for _ in range(int(rng.integers(3, 14))):
        radius = float(np.exp(rng.uniform(np.log(4), np.log(42))))
        shape = scene.rough(blob(scene, within(rng, (55, 50, 50)), radius), rng.uniform(0, 0.35) * radius)
        tasks.append((scene.add(str(rng.choice(SOFT)), shape, over=range(1, len(scene.tissues) + 1)),))
    for _ in range(int(rng.integers(0, 4))):
        tasks += lesion(scene, within(rng, (45, 40, 40)), rng.uniform(4, 16))
    return scene.anatomy(tasks)


def partition(scene: Scene, body: int, count: int) -> list[int]:
    """Cut a structure into parts where one of several smooth fields is the largest."""
    rng = scene.rng
    scale = rng.uniform(25, 60)
    shape = scene.space.shape
    fields = [spline_noise(rng, shape, [max(n * scale / 128, 2) for n in shape]) for _ in range(count)]
    best = np.argmax(fields, axis=0)
    parts = []
    for part in range(count):
        mask = np.where(best == part, np.float32(1), np.float32(-1))
        parts.append(scene.add(str(rng.choice(SOFT)), scene.space.everywhere(mask), over=[body]))
    return parts


def organs(scene: Scene) -> Anatomy:
    """A belly: large organs that touch, paired kidneys, vertebrae and ribs, cord, great vessels, a tumour somewhere."""
    rng, space = scene.rng, scene.space
    wide, deep = rng.uniform(50, 60), rng.uniform(34, 46)
    skin = space.ellipsoid((0, 0, 0), (400, deep, wide), power=2)
    fat = scene.add("fat", skin)
    muscle = scene.add("muscle", scene.rough(skin.grown(-rng.uniform(2, 7)), 1))
    cave = scene.add("fat", scene.rough(skin.grown(-rng.uniform(9, 13)), 1), over=[muscle])
    inner = [cave]
    liver = scene.add("organ", scene.rough(space.ellipsoid((25, -4, -24), (40, 24, 26)), 4), over=inner)
    spleen = scene.add("organ", scene.rough(space.ellipsoid((25, 8, 32), (24, 15, 11)), 2), over=inner)
    stomach = scene.add("gut", scene.rough(space.ellipsoid((22, -10, 16), (22, 12, 15)), 3), over=inner)
    tasks = [(liver,), (spleen,), (stomach,)]
    for side in (-1, 1):
        centre = (float(rng.normal(-16, 5)), 15.0 + float(rng.normal(0, 2)), side * rng.uniform(20, 25))
        shape = scene.rough(space.ellipsoid(centre, (21, 9.5, 8.5)), 1)
        kidney = scene.add("organ", shape, over=[*inner, liver, spleen])
        pelvis = scene.add("fat", space.ellipsoid((centre[0], centre[1] - 1, centre[2] - side * 5), (9, 3, 5)), over=[kidney])
        tasks += [(kidney,), (kidney, pelvis)]
        if rng.uniform() < 0.4:
            spot = (centre[0] + rng.uniform(-10, 10), centre[1] + rng.uniform(-6, 6), centre[2] + side * rng.uniform(0, 6))
            tasks += [(*task, kidney, pelvis) for task in lesion(scene, spot, rng.uniform(3, 11))[:1]]
            tasks.append((len(scene.tissues) - 1,))
    bowel = scene.add("gut", space.everywhere(scene.noise(9) - np.float32(0.3)), over=inner)
    tasks += spine(scene, (20.0, 0.0), rng.uniform(0.8, 1.2))
    for offset, radius, tissue in (((10.0, 3.0), 4.5, "blood"), ((9.0, -8.0), 5.5, "blood")):
        tasks.append((scene.add(tissue, space.tube(rope(scene, offset, 3), radius * rng.uniform(0.7, 1.3))),))
    for _ in range(int(rng.integers(0, 3))):
        tasks += lesion(scene, (25 + rng.uniform(-20, 20), rng.uniform(-15, 8), rng.uniform(-38, -12)), rng.uniform(3, 14), over=[liver])
    del fat, bowel
    return scene.anatomy(tasks, looks=("ct", "ct", "t1", "t2", ""))


def rope(scene: Scene, middle_yx: tuple[float, float], sway: float, *, step: float = 9) -> np.ndarray:
    """A smooth path along z through the whole space."""
    z = np.arange(-90, 91, step)
    bends = scene.rng.normal(0, sway, (4, 2))
    waves = np.sin(z[:, None] / 90 * np.pi * np.array([0.5, 1, 1.5, 2]) + scene.rng.uniform(0, 6, 4)) / (1, 1.5, 2, 3)
    return np.concatenate([z[:, None], waves @ bends + np.asarray(middle_yx)], axis=1)


def spine(scene: Scene, middle_yx: tuple[float, float], scale: float) -> list[tuple[int, ...]]:
    """Vertebrae one over the other, discs between them, arches around a canal with fluid and a cord."""
    rng, space = scene.rng, scene.space
    path = rope(scene, middle_yx, 1.5)
    back = path + (0, 12 * scale, 0)
    arch = scene.add("bone", space.tube(back, 7.5 * scale))
    disc = scene.add("disc", space.tube(path, 8.5 * scale))
    pitch, bodies = rng.uniform(13, 20) * scale, []
    for z in np.arange(-70 + rng.uniform(0, pitch), 75, pitch):
        y, x = (float(np.interp(z, path[:, 0], path[:, k])) for k in (1, 2))
        outer = space.ellipsoid((z, y, x), (pitch * 0.42, 9 * scale, 11 * scale), power=4)
        shell = scene.add("bone", outer)
        core = scene.add("marrow", outer.grown(-1.5), over=[shell])
        bodies.append((shell, core))
        scene.add("bone", space.ellipsoid((z - 2, y + 22 * scale, x), (pitch * 0.3, 8 * scale, 2.5)), label=arch)
        for side in (-1, 1):
            scene.add("bone", space.ellipsoid((z, y + 11 * scale, x + side * 12 * scale), (3, 3, 8 * scale)), label=arch)
    canal = scene.add("fluid", space.tube(back, rng.uniform(4.5, 6.5) * scale))
    cord = scene.add("white", space.tube(back, rng.uniform(2, 3.5) * scale), over=[canal])
    return [*bodies, tuple(label for body in bodies for label in body), (cord,), (cord, canal), (arch,), (disc,)]


def heart(scene: Scene) -> Anatomy:
    """Short axis: a ring of muscle around blood, a crescent beside it, an atrium with veins, scars, lungs around."""
    rng, space = scene.rng, scene.space
    chest = scene.add("muscle", scene.rough(space.everywhere(np.full(space.shape, 5, np.float32)), 0))
    for side in (-1, 1):
        scene.add("lung", scene.rough(space.ellipsoid((0, 10, side * rng.uniform(42, 55)), (90, 45, rng.uniform(22, 34))), 5))
    sac = scene.add("fat", scene.rough(space.ellipsoid((0, 0, -6), (55, 34, 38)), 2))
    wall, size = rng.uniform(4, 11), rng.uniform(12, 24)
    length = rng.uniform(25, 55)
    ventricle = scene.rough(space.ellipsoid((0, 3, 8), (length, size, size)), 1)
    right = scene.rough(space.ellipsoid((4, -4, -size - 4), (length * 0.9, rng.uniform(16, 26), rng.uniform(12, 22))), 2)
    crescent = scene.add("blood", right)
    outer = scene.add("muscle", ventricle.grown(wall))
    blood = scene.add("blood", scene.rough(ventricle, 1), over=[outer])
    for _ in range(2):
        angle = rng.uniform(0, 2 * np.pi)
        spot = (0.0, 3 + 0.8 * size * np.sin(angle), 8 + 0.8 * size * np.cos(angle))
        scene.add("muscle", space.ellipsoid(spot, (length * 0.5, 3, 3)), over=[blood], label=outer)
    atrium = scene.add("blood", scene.rough(space.ellipsoid((-length - 8, 12, 0), (18, 20, 26)), 3))
    for _ in range(int(rng.integers(2, 5))):
        start = np.array([-length - 8, 12, 0]) + rng.normal(0, 5, 3)
        away = start + np.array([rng.uniform(-20, 20), rng.uniform(5, 35), rng.choice([-1, 1]) * rng.uniform(25, 45)])
        scene.add("blood", space.tube(np.linspace(start, away, 5), np.linspace(7, 4, 5)), label=atrium)
    tasks = [(blood,), (outer,), (outer, blood), (crescent,), (atrium,), (atrium,)]
    if rng.uniform() < 0.4:
        scene.add("scar", blob(scene, (0, 3 + size, 8), 9), over=[outer])
    del chest, sac
    return scene.anatomy(tasks, looks=("cine", "cine", "lge", "t1", "ct", ""))

"""Cases made from real images: a piece of a volume with objects, or a picture seen anew again and again."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from medical_sam2.data.cases import Kind, Task, TrainingCase
from medical_sam2.errors import ConfigError
from real.looks import as_bytes, relit, shares, stretched, tinted, window
from real.objects import objects_in, outlined
from real.sampling import Coordinates, grid, pick, softened, take
from real.sources import Material, Picked, Shot, Stack, read_material
from synthetic.quality import distinct, visible
from synthetic.volumes import at_least

OBJECTS = 12
LEAST_SLICES = 8
TRIES = 40
ENOUGH = 0.15  # of a picture within outlines: more is no better
CANVAS = 1.5  # side of what a set is cut from, in sides of its images
OWN = 0.35  # share of sets whose images are all of one data set, with the outlines of that


def make_real_case(picked: Picked, seed: int, index: int, kind: Kind, *, size: int = 128, count: int = 10) -> TrainingCase:
    """The case of that index in a pool of that seed, made from these images.

    Args:
        picked: the images.
        seed: of the pool.
        index: of the case.
        kind: "volume" or "set".
        size: voxels along the longest axis.
        count: images in a set.

    Raises:
        ConfigError: no volume for a volume, or nothing in the images that could be an object.
        InputError, FormatError: images that cannot be read.
    """
    material, rng = read_material(picked), np.random.default_rng(np.random.SeedSequence([seed, index]))
    if kind == "volume" and not _deep(material):
        raise ConfigError("there is no volume among the images", "ask for 0 volumes", subject="volumes")
    for _ in range(TRIES):
        made = _volume(rng, material, at_least(size)) if kind == "volume" else _set(rng, material, at_least(size), count)
        if made.tasks:
            return made
    raise ConfigError("nothing in the images has a visible border", "give other images", subject=f"case {index}")


def _deep(material: Material) -> list[Stack]:
    """Volumes that something can be followed through."""
    return [stack for stack in material.stacks if len(stack.array) >= LEAST_SLICES]


@dataclass(frozen=True)
class _Cut:
    """Which part of a stack: shape of the result, and its centre and step in voxels of the stack."""

    shape: tuple[int, int, int]
    centre: tuple[float, ...]
    step: tuple[float, float, float]
    even: bool


def _volume(rng: np.random.Generator, material: Material, size: int) -> TrainingCase:
    stacks = _deep(material)
    stack = stacks[int(rng.integers(len(stacks)))]
    cut = _cut(rng, stack, size)
    turn = Rotation.from_rotvec(rng.normal(0, 0.2 if cut.even else 0.0, 3)) * Rotation.from_rotvec([rng.normal(0, 0.15), 0, 0])
    unit = np.diag(stack.spacing_mm)
    bend = (
        rng.uniform(0.5, 3) * np.array(cut.step) * (1, 1, 1)
        if cut.even
        else rng.uniform(0.5, 3) * np.array(cut.step) * (0, 1, 1)
    )
    where = grid(rng, cut.shape, cut.centre, cut.step, turn=np.linalg.inv(unit) @ turn.as_matrix() @ unit, bend=tuple(bend))
    low, high = window(rng, stack.array, hounsfield=stack.hounsfield)
    share = take(softened(shares(stack.array, low, high), cut.step), where)
    share = np.ascontiguousarray(np.flip(share, tuple(axis for axis in range(3) if rng.uniform() < 0.5)))
    if (share > 0.04).mean() < 0.3 or (share > 0.98).mean() > 0.4:
        return TrainingCase(as_bytes(share), np.zeros(share.shape, np.uint8), (), "volume", stack.name)
    masks = objects_in(rng, share * 255, OBJECTS)
    labels, tasks = outlined(masks, share.shape)
    images = as_bytes(relit(rng, share))
    return TrainingCase(images, labels, distinct(rng, images, labels, visible(labels, tasks), mercy=0.03), "volume", stack.name)


def _cut(rng: np.random.Generator, stack: Stack, size: int) -> _Cut:
    """A box of the stack: square slices, all or most of the slices where they are thick."""
    spacing = np.array(stack.spacing_mm)
    sides_mm = np.array(stack.array.shape) * spacing
    extent_mm = float(sides_mm[1:].max() * np.exp(rng.uniform(np.log(0.4), np.log(1.02))))
    even = bool(spacing.max() < 1.5 * spacing.min()) and stack.array.shape[0] >= 16
    if even:
        depth_mm = min(float(sides_mm[0] * rng.uniform(0.7, 1)), extent_mm)
        depth = int(np.clip(round(size * depth_mm / extent_mm), 16, size))
        if rng.uniform() < 0.35:
            depth = min(depth, int(rng.integers(12, 41)))
    else:
        depth = max(LEAST_SLICES - 2, round(len(stack.array) * rng.uniform(0.65, 1)))
        depth_mm = depth * spacing[0]
    extents = np.array([depth_mm, extent_mm, extent_mm])
    room = np.maximum((sides_mm - extents) / 2, 0.05 * sides_mm * (1 if even else [0, 1, 1]))
    centre = (np.array(stack.array.shape) - 1) / 2 + rng.uniform(-1, 1, 3) * room / spacing
    if not even:
        centre[0] = round(centre[0] - (depth - 1) / 2) + (depth - 1) / 2
    step = extents / (depth, size, size) / spacing
    return _Cut((depth, size, size), tuple(centre), (float(step[0]), float(step[1]), float(step[2])), even)


def _set(rng: np.random.Generator, material: Material, size: int, count: int) -> TrainingCase:
    outlined_sets = sorted({shot.name for shot in material.shots if shot.labels is not None})
    if outlined_sets and rng.uniform() < OWN:
        name = str(rng.choice(outlined_sets))
        shots = [shot for shot in material.shots if shot.name == name and shot.labels is not None]
        return _own(rng, [shots[k] for k in _places(rng, len(shots), count)], size)
    groups = sorted({shot.name for shot in material.shots})
    if material.stacks and (not groups or rng.uniform() < 0.4):
        return _again(rng, _slice(rng, material.stacks[int(rng.integers(len(material.stacks)))]), size, count)
    name = str(rng.choice(groups))
    shots = [shot for shot in material.shots if shot.name == name]
    return _again(rng, shots[int(rng.integers(len(shots)))], size, count)


def _places(rng: np.random.Generator, length: int, count: int) -> NDArray[np.int64]:
    """Every picture once, and some again where there are fewer than are wanted."""
    return np.concatenate([rng.permutation(length) for _ in range(-(-count // length))])[:count]


def _slice(rng: np.random.Generator, stack: Stack) -> Shot:
    """A slice of a volume as a picture, with square pixels along its short side."""
    low, high = window(rng, stack.array, hounsfield=stack.hounsfield)
    depth = len(stack.array)
    plane = shares(stack.array[int(rng.integers(depth // 8, max(depth // 8 + 1, depth - depth // 8)))], low, high)
    return Shot(stack.name, np.repeat(plane[..., None], 3, axis=-1), None, ())


def _own(rng: np.random.Generator, shots: list[Shot], size: int) -> TrainingCase:
    """Different pictures of a set, with its outlines."""
    images: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.uint8]] = []
    for shot in shots:
        canvas, found = _canvas(rng, shot, size, least=0.6)
        looks = [_look(rng, canvas.shape[0], size, upright=False) for _ in range(4)]
        drawn = [pick(found, look) for look in looks]
        best = max(range(len(looks)), key=lambda k: min(float((drawn[k] > 0).mean()), ENOUGH))
        images.append(as_bytes(relit(rng, tinted(rng, take(canvas, looks[best])))))
        labels.append(drawn[best])
    stack = np.stack(labels)
    return TrainingCase(np.stack(images), stack, visible(stack, shots[0].tasks), "set", shots[0].name)


def _again(rng: np.random.Generator, shot: Shot, size: int, count: int) -> TrainingCase:
    """One picture as many patients might have shown it: bent, moved and lit anew each time, its objects with it."""
    canvas, found = _canvas(rng, shot, size, least=0.5)
    mix = rng.dirichlet([1, 1, 1]).astype(np.float32)
    masks = [np.isin(found, task) for task in shot.tasks]
    masks += objects_in(rng, canvas @ mix * 255, OBJECTS, groups=0.5)
    drawn, tasks = outlined(masks, canvas.shape[:2])
    upright, images, labels = bool(rng.uniform() < 0.7), [], []
    for _ in range(count):
        where = _look(rng, canvas.shape[0], size, upright=upright)
        images.append(as_bytes(relit(rng, tinted(rng, take(canvas, where)))))
        labels.append(pick(drawn, where))
    stack, pictures = np.stack(labels), np.stack(images)
    return TrainingCase(pictures, stack, _kept(rng, pictures, stack, tasks), "set", shot.name)


def _kept(
    rng: np.random.Generator, images: NDArray[np.uint8], labels: NDArray[np.uint8], tasks: tuple[Task, ...]
) -> tuple[Task, ...]:
    often = tuple(task for task in tasks if np.isin(labels, task).any(axis=(1, 2)).mean() >= 0.5)
    return distinct(rng, images.mean(axis=-1).astype(np.uint8), labels, visible(labels, often), mercy=0.03)


def _canvas(rng: np.random.Generator, shot: Shot, size: int, *, least: float) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """A square part of a picture, of at least this share of its shorter side, and the labels there."""
    side = round(CANVAS * size)
    height, width = shot.array.shape[:2]
    extent = min(height, width) * float(np.exp(rng.uniform(np.log(least), 0)))
    labels = np.zeros((height, width), np.uint8) if shot.labels is None else shot.labels
    inside = np.argwhere(labels > 0)
    aim = rng.uniform(0, (height - 1, width - 1)) if not len(inside) else inside[int(rng.integers(len(inside)))]
    centre = [float(np.clip(x, extent / 2, n - extent / 2)) for x, n in zip(aim, (height, width), strict=True)]
    where: Coordinates = grid(rng, (side, side), centre, [extent / side] * 2)
    canvas = stretched(rng, take(softened(shot.array, [extent / side] * 2), where))
    flips = tuple(axis for axis in (0, 1) if rng.uniform() < 0.5)
    return np.ascontiguousarray(np.flip(canvas, flips)), np.ascontiguousarray(np.flip(pick(labels, where), flips))


def _look(rng: np.random.Generator, side: int, size: int, *, upright: bool) -> Coordinates:
    """Where an image of a set looks on the canvas."""
    zoom = float(rng.uniform(0.72, 1.0))
    angle = rng.normal(0, 0.15) if upright else rng.uniform(-np.pi, np.pi)
    stretch = np.diag(np.exp(rng.normal(0, 0.07, 2)))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ stretch
    centre = (side - 1) / 2 + rng.uniform(-1, 1, 2) * side * (0.04 + (1 - zoom) / 2)
    bend = rng.uniform(0.005, 0.025, 2) * side
    return grid(rng, (size, size), tuple(centre), [zoom * side / size] * 2, turn=turn, bend=tuple(bend))

"""Synthetic volumes: a random anatomy, a random scanner."""

from collections.abc import Callable

import numpy as np

from medical_sam2.data.cases import TrainingCase
from medical_sam2.errors import ConfigError
from synthetic import heads, hearts, torso, zoo
from synthetic.fields import nearest
from synthetic.quality import distinct, visible
from synthetic.render import Acquisition, render
from synthetic.scene import Anatomy, Scene
from synthetic.shapes import random_space
from synthetic.tissues import LOOKS

FRAMING = {"hippocampus": 0.75, "atrium": 0.85, "short_axis": 0.95}  # how much of the space is seen, typically; 1 where absent

ANATOMIES: dict[str, tuple[float, Callable[[Scene], Anatomy]]] = {
    "zoo": (4, zoo.zoo),
    "abdomen": (2, torso.abdomen),
    "thorax": (1.5, torso.thorax),
    "column": (1, torso.column),
    "brain": (1.5, heads.brain),
    "hippocampus": (1, heads.hippocampus),
    "short_axis": (1, hearts.short_axis),
    "atrium": (1, hearts.atrium),
}


def make_volume(rng: np.random.Generator, size: int = 128, name: str | None = None) -> TrainingCase:
    """A volume of up to size³ voxels with its objects.

    Args:
        rng: every choice comes from it.
        size: voxels along the longest axis.
        name: kind of anatomy; None for a random one.

    Raises:
        ConfigError: a size under 32.
    """
    names = list(ANATOMIES)
    weights = np.array([ANATOMIES[key][0] for key in names])
    chosen = name or str(rng.choice(names, p=weights / weights.sum()))
    case = _volume(rng, at_least(size), chosen)
    return case if case.tasks else make_volume(rng, size, name)


def at_least(size: int, smallest: int = 32) -> int:
    """The size, if objects can be seen at all at it; raises ConfigError where not."""
    if size < smallest:
        raise ConfigError(f"{size} is too small for a synthetic case", f"give {smallest} or more", subject="size")
    return size


def _volume(rng: np.random.Generator, size: int, name: str) -> TrainingCase:
    thick = rng.uniform() < 0.45
    depth = int(rng.integers(12, 41) * size / 128) if thick else int(size * rng.uniform(0.7, 1))
    fine = (min(size, depth * int(np.ceil(0.6 * size / depth))) if thick else depth, size, size)
    zoom = float(np.exp(rng.normal(-0.14, 0.27))) * FRAMING.get(name, 1)
    extent = (128 * zoom * (rng.uniform(0.5, 1) if thick else depth / size), 128 * zoom, 128 * zoom)
    centre = rng.normal(0, (16, 6, 6)) * min(1, zoom)
    space = random_space(rng, fine, extent=extent, centre=tuple(centre), warp=rng.uniform(1, 5))
    anatomy = ANATOMIES[name][1](Scene(rng, space))
    shape = (depth, size, size)
    labels = nearest(anatomy.labels, shape)
    picture = render(rng, anatomy, Acquisition(shape, _matrix(rng, shape), _look(rng, anatomy)))
    images = np.round(picture * 255).astype(np.uint8)
    tasks = distinct(rng, images, labels, visible(labels, anatomy.tasks))
    return TrainingCase(images, labels, tasks, "volume", name)


def _matrix(rng: np.random.Generator, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    if rng.uniform() < 0.65:
        return shape
    share = rng.uniform(0.28, 0.8)
    depth = shape[0] if shape[0] < 50 else round(shape[0] * share)
    return depth, round(shape[1] * share), round(shape[2] * share)


def _look(rng: np.random.Generator, anatomy: Anatomy) -> str:
    look = str(rng.choice(anatomy.looks)) if anatomy.looks else ""
    if look:
        return look
    return "random" if rng.uniform() < 0.6 else str(rng.choice(list(LOOKS)))

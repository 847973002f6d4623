"""Synthetic sets: unordered images that share a kind of object, not a patient."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from medical_sam2.data.cases import TrainingCase
from synthetic import flats, microscopy, photographs
from synthetic.fields import Field, nearest, resample
from synthetic.quality import distinct, visible
from synthetic.render import Acquisition, render
from synthetic.scene import Anatomy, Scene
from synthetic.shapes import Space, random_space
from synthetic.styles import Style, develop
from synthetic.tissues import LOOKS
from synthetic.volumes import ANATOMIES, at_least

STYLES: dict[str, tuple[float, Callable[[np.random.Generator], Style]]] = {
    "cells": (1.2, microscopy.cells),
    "nuclei": (1, microscopy.nuclei),
    "membranes": (0.7, microscopy.membranes),
    "glands": (0.5, microscopy.glands),
    "optic_disc": (1, photographs.optic_disc),
    "retina": (0.7, photographs.retina),
    "gut": (0.9, photographs.gut),
    "skin": (0.4, photographs.skin),
    "ultrasound": (0.9, flats.ultrasound),
    "radiograph": (0.4, flats.radiograph),
    "territories": (1.5, flats.territories),
    "quilt": (0.5, flats.quilt),
}

SLICES = {
    "zoo": 0.6,
    "abdomen": 1.2,
    "thorax": 0.7,
    "column": 0.3,
    "brain": 1.2,
    "short_axis": 0.6,
    "atrium": 0.3,
    "hippocampus": 0.3,
}


def make_set(rng: np.random.Generator, size: int = 128, count: int = 10, name: str | None = None) -> TrainingCase:
    """A set of `count` images of size × size pixels with their objects.

    Args:
        rng: every choice comes from it.
        size: pixels along both sides.
        count: images.
        name: kind of picture or anatomy; None for a random one.
    """
    table = {**{key: weight for key, (weight, _) in STYLES.items()}, **SLICES}
    weights = np.array(list(table.values()), float)
    chosen = name or str(rng.choice(list(table), p=weights / weights.sum()))
    make = _drawn if chosen in STYLES else _sliced
    case = make(rng, at_least(size), count, chosen)
    return case if case.tasks else make_set(rng, size, count, name)


def _drawn(rng: np.random.Generator, size: int, count: int, name: str) -> TrainingCase:
    style = STYLES[name][1](rng)
    numbers = {tissue: number for number, tissue in enumerate(style.inks, start=1)}
    images, labels = [], []
    for _ in range(count):
        scene = Scene(rng, _flat(rng, 2 * size))
        shade = style.paint(scene)
        picture = resample(develop(rng, style, scene, shade), (size, size, 3))
        images.append(_bytes(picture + rng.normal(0, style.noise, picture.shape)))
        table = np.array([numbers.get(tissue, 0) for tissue in scene.tissues], np.uint8)
        labels.append(nearest(table[scene.labels], (1, size, size))[0])
    tasks = tuple(tuple(numbers[tissue] for tissue in task) for task in style.tasks)
    return _case(rng, images, labels, tasks, name)


def _sliced(rng: np.random.Generator, size: int, count: int, name: str) -> TrainingCase:
    """Slices of one kind of anatomy, each of another patient: one recipe, deformed, moved and lit anew."""
    seed, look_seed = (int(value) for value in rng.integers(0, 2**31, 2))
    level, zoom, images, labels, tasks = rng.uniform(-22, 22), np.exp(rng.normal(-0.1, 0.2)), [], [], set[tuple[int, ...]]()
    channels = 3 if rng.uniform() < 0.3 else 1
    for _ in range(count):
        centre = (level + rng.normal(0, 5), *rng.normal(0, 8, 2))
        extent = (1, *(128 * zoom * np.exp(rng.normal(0, 0.1, 2))))
        space = random_space(rng, (1, size, size), extent=extent, centre=centre, tilt_deg=6, warp=rng.uniform(1, 4))
        anatomy = ANATOMIES[name][1](Scene(np.random.default_rng(seed), space, own=rng))
        style = np.random.default_rng(look_seed)
        picture = np.stack([_shot(style, anatomy, size, one=channels == 1) for _ in range(channels)], axis=-1)
        picture = picture * rng.uniform(0.85, 1.15) + rng.normal(0, 0.03) + rng.normal(0, 0.015, picture.shape)
        images.append(_bytes(np.repeat(picture, 3 // channels, axis=-1)))
        labels.append(anatomy.labels[0])
        tasks |= set(anatomy.tasks)
    return _case(rng, images, labels, tuple(sorted(tasks)), name)


def _shot(style: np.random.Generator, anatomy: Anatomy, size: int, *, one: bool) -> Field:
    """A slice in one look; of several channels each has another one, as in composites of MR contrasts."""
    look = str(style.choice(anatomy.looks)) if anatomy.looks and one else ""
    plan = Acquisition((1, size, size), (1, size, size), look or str(style.choice([*LOOKS, "random"])))
    return render(style, anatomy, plan)[0]


def _case(
    rng: np.random.Generator,
    images: list[NDArray[np.uint8]],
    labels: list[NDArray[np.uint8]],
    tasks: tuple[tuple[int, ...], ...],
    name: str,
) -> TrainingCase:
    stack = np.stack(labels)
    often = tuple(task for task in tasks if np.isin(stack, task).any(axis=(1, 2)).mean() >= 0.5)
    stacked = np.stack(images)
    tasks = distinct(rng, stacked.mean(axis=-1).astype(np.uint8), stack, visible(stack, often))
    return TrainingCase(stacked, stack, tasks, "set", name)


def _flat(rng: np.random.Generator, size: int) -> Space:
    """A warped plane; all of it at z = 0, so that nothing flat is lost between planes."""
    space = random_space(rng, (1, size, size), extent=(1, 128, 128), tilt_deg=5, warp=rng.uniform(0.5, 3))
    space.coords[0] = 0
    return space


def _bytes(picture: Field | NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)

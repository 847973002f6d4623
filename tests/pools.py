"""Small pools of training cases: balls in a grey ground, each in another place."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medical_sam2.data.cases import Kind, TrainingCase, write_arrays
from medical_sam2.io.atomic import write_bytes

RADII = (0.6, 0.3, 0.35)
LEVELS = (60, 110, 170, 230)


def balls(seed: int, kind: Kind, *, size: int = 48, count: int = 4) -> TrainingCase:
    """A ball with a smaller one in it, and another beside it; of a set each image shows them elsewhere."""
    rng = np.random.default_rng(seed)
    shape = (size // 2, size, size) if kind == "volume" else (size, size)
    drawn = [_drawn(rng, shape) for _ in range(1 if kind == "volume" else count)]
    labels = drawn[0] if kind == "volume" else np.stack(drawn)
    grey = np.array(LEVELS)[labels] + rng.normal(0, 12, labels.shape) + 20 * np.sin(np.arange(size) / rng.uniform(3, 6))
    images = grey.clip(0, 255).astype(np.uint8)
    return TrainingCase(
        images if kind == "volume" else images[..., None].repeat(3, -1), labels, ((1, 2), (2,), (3,)), kind, "balls"
    )


def _drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"), axis=-1)
    centre = rng.uniform(-0.3, 0.1, len(shape))
    labels = np.zeros(shape, np.uint8)
    for label, (radius, offset) in enumerate(zip(RADII, (0.0, 0.1, 0.75), strict=True), start=1):
        labels[np.hypot.reduce(places - centre - offset * rng.uniform(0.7, 1, len(shape)), axis=-1) < radius] = label
    return labels


def write_case(folder: Path, index: int, case: TrainingCase) -> None:
    """A case with its description."""
    write_arrays(folder, index, case)
    told = {"kind": case.kind, "name": case.name, "tasks": case.tasks}
    write_bytes(folder / f"{index:06d}.json", json.dumps(told).encode())


def write_pool(folder: Path, *, volumes: int = 2, sets: int = 2, seed: int = 0, size: int = 48, count: int = 4) -> None:
    """Volumes at even numbers, sets at odd ones."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds: list[tuple[int, Kind]] = [(2 * k, "volume") for k in range(volumes)] + [(2 * k + 1, "set") for k in range(sets)]
    for index, kind in kinds:
        write_case(folder, index, balls(100 * seed + index, kind, size=size, count=count))

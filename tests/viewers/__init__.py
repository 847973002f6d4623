"""Other people's viewers against `medsam2 serve`, each in an environment of its own: `scripts/viewers` runs what is here.

No ordinary run of the tests collects this folder: its files are named where they are run.
"""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples.phantom import ORGANS, SHAPE_IJK, make

ROOT = Path(__file__).parents[2]
OUT = ROOT / "out" / "viewers"  # what was seen stays here
NAPARI = OUT / "napari-venv" / "bin" / "python"


@cache
def organ(name: str) -> NDArray[np.bool_]:
    """Where an organ of the phantom is, in voxels of its file (L P S)."""
    image, _ = make()
    points = np.moveaxis(np.indices(SHAPE_IJK), 0, -1) @ image.affine[:3, :3].T + image.affine[:3, 3]
    return next(each for each in ORGANS if each.name == name).inside(points)


def middle(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    """The voxel of its largest slice that lies in its middle."""
    k = int(mask.sum((1, 2)).argmax())
    return k, *(round(float(axis.mean())) for axis in np.nonzero(mask[k]))

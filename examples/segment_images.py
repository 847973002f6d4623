"""One outlined picture, and the same kind of thing found in all the others.

python examples/segment_images.py out/images
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medical_sam2 import FramePrompt, Segmenter, preview


def cells(count: int, seed: int = 0) -> tuple[list[NDArray[np.uint8]], NDArray[np.bool_]]:
    """Pictures of a dark round cell somewhere on a bright ground, and the outline of the first."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((128, 128))
    pictures: list[NDArray[np.uint8]] = []
    outlines: list[NDArray[np.bool_]] = []
    for _ in range(count):
        (y, x), radius = rng.uniform(40, 88, 2), rng.uniform(14, 24)
        outlines.append(np.hypot(rows - y, columns - x) < radius)
        grey = np.where(outlines[-1], 90, 190) + rng.normal(0, 9, outlines[-1].shape)
        pictures.append(grey.clip(0, 255).astype(np.uint8))
    return pictures, outlines[0]


def outline_all(pictures: Sequence[NDArray[np.uint8]], first: NDArray[np.bool_]) -> list[NDArray[np.unsignedinteger]]:
    """Labels of every picture, in the order given."""
    found = Segmenter.from_pretrained().segment_images(pictures, {0: {1: FramePrompt.mask(first)}})
    return [one.labels for one in sorted(found, key=lambda one: one.index)]


def main(folder: Path) -> None:
    """Leave a sheet of all pictures with what was found on them."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures, first = cells(8)
    preview.contact_sheet(pictures, outline_all(pictures, first), columns=4).save(folder / "sheet.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A sheet of all images with their outlines, the least sure first; in memory that does not grow with the set."""

from heapq import heappush, heappushpop
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medical_sam2 import preview
from medical_sam2.intensity_window import Window, percentile_window
from medical_sam2.io import atomic
from medical_sam2.tracking.image_set import ImageMask

TILE_PX, COLUMNS, MOST = 190, 6, 120
PROMPTED = -1.0  # templates come before all others


class Sheet:
    """Takes one result after the other, and keeps those that a person should look at first."""

    def __init__(self) -> None:
        self.left_out = 0
        self._tiles: list[tuple[float, int, NDArray[np.generic], NDArray[np.generic], str]] = []

    def add(self, image: NDArray[np.generic], found: ImageMask, name: str) -> None:
        """An image and what was found on it."""
        sure = PROMPTED if found.prompted else found.lowest
        caption = f"{_short(name)}  {'template' if found.prompted else f'{sure:.2f}'}"
        tile = (-sure, -found.index, *_small(image, found.labels, found.window), caption)
        if len(self._tiles) < MOST:
            heappush(self._tiles, tile)
        else:
            heappushpop(self._tiles, tile)
            self.left_out += 1

    def save(self, path: Path) -> None:
        """Write the sheet, whole or not at all."""
        tiles = sorted(self._tiles, reverse=True)
        images, masks, captions = ([tile[place] for tile in tiles] for place in (2, 3, 4))
        sheet = preview.contact_sheet(images, masks, captions, columns=COLUMNS, tile_px=TILE_PX)  # type: ignore[arg-type]
        with TemporaryDirectory() as folder:
            draft = Path(folder) / f"sheet{path.suffix}"
            sheet.save(draft)
            atomic.write_bytes(path, draft.read_bytes())


def _small(
    image: NDArray[np.generic], labels: NDArray[np.generic], window: Window | None
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Image, as the network saw it, and labels with no more pixels than a sharp tile needs."""
    step = max(1, max(labels.shape) // (2 * TILE_PX))
    part = np.ascontiguousarray(image[::step, ::step])
    part = (window or percentile_window(image)).as_bytes(part)
    height, width = part.shape[:2]
    map_of_places = Image.fromarray(labels.astype(np.int32)).resize((width, height), Image.Resampling.NEAREST)
    return part[..., 0] if part.shape[2:] == (1,) else part, np.asarray(map_of_places)


def _short(name: str, most: int = 20) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"

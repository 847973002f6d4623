"""A set of pictures, outlined from one; then a click where the network needs it most, and all of them again.

python examples/correct_images.py out/corrected
"""

import runpy
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medical_sam2 import FramePrompt, ImageMask, Segmenter, preview
from medical_sam2.tracking.confidence import Need, neediest

CELLS = Path(__file__).with_name("segment_images.py")


def neediest_image(results: list[ImageMask]) -> int:
    """The image without a prompt on which the network is unsure, and which is least like what it remembers."""
    needs = [Need(one.index, one.lowest, one.likeness) for one in results if not one.prompted]
    return neediest(needs)[0].index


def darkest(picture: NDArray[np.uint8]) -> FramePrompt:
    """What a person would click: here, the darkest place of a blurred picture."""
    blurred = np.lib.stride_tricks.sliding_window_view(picture.astype(float), (9, 9)).mean((2, 3))
    y, x = np.unravel_index(blurred.argmin(), blurred.shape)
    return FramePrompt.click(float(x) + 4, float(y) + 4)


def main(folder: Path) -> None:
    """Leave a sheet of the corrected set, and what the encoder saw, so that the second run encodes nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures, outline = runpy.run_path(str(CELLS))["cells"](6)
    segmenter, said = Segmenter.from_pretrained(), {0: {1: FramePrompt.mask(outline)}}
    first = list(segmenter.segment_images(pictures, said, features=folder / "features"))
    worst = neediest_image(first)
    print(f"image {worst} needs a prompt most")
    said[worst] = {1: darkest(pictures[worst])}
    second = sorted(segmenter.segment_images(pictures, said, features=folder / "features"), key=lambda one: one.index)
    captions = [f"{one.index}  {'prompted' if one.prompted else f'{one.lowest:.2f}'}" for one in second]
    preview.contact_sheet(pictures, [one.labels for one in second], captions, columns=3).save(folder / "sheet.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A volume, two clicks on two structures, and what to do with the result.

python examples/segment_volume.py out/demo/phantom.nii.gz out/two.nii.gz
"""

import sys
from pathlib import Path

from medical_sam2 import Point, Segmenter, preview
from medical_sam2.io import load, save
from medical_sam2.statistics import measure

CLICKS = [Point((62, 69, 20), object=1), Point((141, 91, 20), object=2)]
NAMES = {1: "liver", 2: "spleen"}


def main(image: Path, result: Path) -> None:
    """Segment, tell the sizes and where to look, save the labels and a picture beside them."""
    volume = load(image)
    found = Segmenter.from_pretrained().segment_volume(volume, CLICKS, views="one", names=NAMES)
    for one in measure(volume, found):
        print(f"{one.name}: {one.volume_ml:.0f} mL")
    for row in found.confidence:
        if row.look_here:
            print(f"look at slice {row.slice} of view {row.view}, object {row.object}")
    save(found, result, like=volume)
    preview.save(result.with_name("two.png"), volume, found, CLICKS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

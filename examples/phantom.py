"""A CT of a phantom, for want of a patient: thick slices, noise, soft edges; prints a box around its liver.

The outline of the liver lies beside it, and in `pages` what the commands of README speak of: a small piece
of both, with voxels twice as wide, a table of prompts, and a folder of smears with an outlined cell.

python examples/phantom.py out/phantom.nii.gz
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

SHAPE_IJK, SPACING_MM = (192, 160, 36), (1.8, 1.8, 5.0)
NOISE_HU, BLUR_MM = 14.0, 1.6
PART = (slice(0, 128, 2), slice(10, 138, 2), slice(16, 24))
PROMPTS = "image,object,name,kind,i,j,k\nct.nii.gz,1,liver,point,32,30,4\n"


@dataclass(frozen=True)
class Organ:
    """Overlapping ellipsoids of one density: centres and radii in mm, x to Right, y to Anterior, z to Superior."""

    name: str
    hounsfield: float
    parts: tuple[tuple[float, float, float, float, float, float], ...]

    def inside(self, points_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of the points (..., 3) belong to it."""
        shapes = np.array(self.parts)
        return np.any([(((points_mm - part[:3]) / part[3:]) ** 2).sum(-1) <= 1 for part in shapes], axis=0)


LIVER = Organ("liver", 105, ((62, 18, 8, 52, 58, 62), (14, 38, 28, 48, 30, 34), (70, -12, -18, 38, 42, 52)))
ORGANS = (  # the later one covers the earlier
    Organ("skin and fat", -95, ((0, 0, 0, 158, 118, 400),)),
    Organ("muscle", 52, ((0, 0, 0, 142, 102, 400),)),
    Organ("abdominal fat", -88, ((0, 12, 0, 120, 80, 400),)),
    LIVER,
    Organ("spleen", 118, ((-84, -22, 22, 22, 36, 40),)),
    Organ("left kidney", 168, ((-52, -38, -28, 22, 26, 44),)),
    Organ("right kidney", 168, ((52, -46, -52, 21, 25, 42),)),
    Organ("stomach", 24, ((-52, 34, 20, 38, 30, 42),)),
    Organ("air in the stomach", -900, ((-50, 52, 22, 22, 9, 26),)),
    Organ("aorta", 185, ((-8, -26, 0, 11, 11, 400),)),
    Organ("vertebrae", 320, ((0, -56, 0, 21, 17, 400),)),
    Organ("spinal canal", 25, ((0, -74, 0, 9, 8, 400),)),
)


def make(seed: int = 0) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """The image in Hounsfield units and the outline of its liver, on one grid that runs Left, Posterior, Superior."""
    affine = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE_IJK) - 1) / 2)
    points_mm = np.moveaxis(np.indices(SHAPE_IJK), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    image = np.full(SHAPE_IJK, -1000.0)
    liver = np.zeros(SHAPE_IJK, np.uint8)
    for organ in ORGANS:
        inside = organ.inside(points_mm)
        image[inside] = organ.hounsfield
        liver[inside] = organ is LIVER
    image = gaussian_filter(image, [BLUR_MM / spacing for spacing in SPACING_MM])
    image += np.random.default_rng(seed).normal(0, NOISE_HU, SHAPE_IJK)
    return nib.Nifti1Image(image.round().astype(np.int16), affine), nib.Nifti1Image(liver, affine)


def widest_box(liver: NDArray[np.uint8]) -> tuple[int, ...]:
    """Two opposite corners (i, j, k, i2, j2, k) of the outline on the slice where it is largest."""
    k = int(liver.sum(axis=(0, 1)).argmax())
    i, j = np.nonzero(liver[:, :, k])
    return int(i.min()), int(j.min()), k, int(i.max()), int(j.max()), k


def write_pages(image: nib.Nifti1Image, liver: nib.Nifti1Image, folder: Path) -> None:
    """Write ct.nii.gz and truth.nii.gz, every second voxel of rows and columns around the liver, prompts.csv, and smears."""
    folder.mkdir(exist_ok=True)
    nib.save(image.slicer[PART], folder / "ct.nii.gz")
    nib.save(liver.slicer[PART], folder / "truth.nii.gz")
    (folder / "prompts.csv").write_text(PROMPTS)
    write_smears(folder)


def write_smears(folder: Path) -> None:
    """Three pictures of a cell with a nucleus, and the outline of the first cell."""
    (folder / "smears").mkdir(exist_ok=True)
    rng, (rows, columns) = np.random.default_rng(0), np.indices((112, 128))
    for number, x in ((7, 68), (19, 60), (31, 70)):
        cell, nucleus = (np.hypot(rows - 60, columns - x - dx) < radius for dx, radius in ((0, 26), (-10, 10)))
        grey = np.where(nucleus, 70, np.where(cell, 130, 220)) + rng.normal(0, 4, rows.shape)
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / "smears" / f"cell_{number:02d}.png")
        if number == 7:
            Image.fromarray(cell.astype(np.uint8)).save(folder / "cell_07_mask.png")


def main(path: Path) -> None:
    """Write the image, the outline beside it and the folder `pages`, and print the box."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image, liver = make()
    nib.save(image, path)
    nib.save(liver, path.with_name("truth.nii.gz"))
    write_pages(image, liver, path.with_name("pages"))
    print(*widest_box(np.asarray(liver.dataobj)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""nnU-Net raw data sets made on the spot."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK
from numpy.typing import NDArray
from PIL import Image

AFFINE = np.array([[-0.8, 0, 0, 20], [0, 0.9, 0, -30], [0, 0, 3.0, 5], [0, 0, 0, 1]])


def describe(folder: Path, **told: Any) -> Path:
    """Write `dataset.json`: CT with a liver, unless told otherwise."""
    usual = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz", "numTraining": 1}
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps({**usual, **told}))
    return folder


def put(path: Path, array: NDArray[Any], affine: NDArray[np.float64] = AFFINE) -> None:
    """Write a volume or a picture, by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.fromarray(array).save(path)
    elif path.name.endswith(".nii.gz"):
        nib.save(nib.Nifti1Image(array, affine), path)
    else:
        image = SimpleITK.GetImageFromArray(array.transpose(2, 1, 0))
        image.SetSpacing([float(x) for x in np.linalg.norm(affine[:3, :3], axis=0)])
        SimpleITK.WriteImage(image, str(path))


def blob(shape: tuple[int, ...], values: Mapping[int, tuple[slice, ...]], *, kind: str = "uint8") -> NDArray[Any]:
    """Zeros with boxes of values in them."""
    array = np.zeros(shape, kind)
    for value, where in values.items():
        array[where] = value
    return array


def volume_set(folder: Path, *, cases: int = 2, ending: str = ".nii.gz", channels: int = 1) -> Path:
    """CT-like volumes: a liver in a body in air, each with other noise."""
    describe(
        folder, file_ending=ending, channel_names={str(c): "CT" if channels == 1 else f"T{c + 1}" for c in range(channels)}
    )
    for number in range(cases):
        rng = np.random.default_rng(number)
        label = blob((24, 20, 8), {1: (slice(6, 16), slice(5, 14), slice(2, 6))})
        image = np.where(label > 0, 100, 40) + rng.normal(0, 5, label.shape)
        image[:2] = -1000
        for channel in range(channels):
            put(folder / "imagesTr" / f"case{number}_{channel:04d}{ending}", (image + channel).astype(np.int16))
        put(folder / "labelsTr" / f"case{number}{ending}", label)
    return folder


def picture_set(folder: Path, *, cases: int = 3) -> Path:
    """Colour pictures with a disc, and a cup inside of it."""
    describe(
        folder,
        file_ending=".png",
        channel_names={"0": "R", "1": "G", "2": "B"},
        labels={"background": 0, "disc": [1, 2], "cup": 2},
    )
    for number in range(cases):
        rng = np.random.default_rng(number)
        label = blob((40, 50), {1: (slice(10, 30), slice(10, 34)), 2: (slice(16, 24), slice(15, 25))})
        image = rng.integers(0, 60, (40, 50, 3)) + 80 * label[..., None]
        put(folder / "imagesTr" / f"eye{number}_0000.png", image.astype(np.uint8))
        put(folder / "labelsTr" / f"eye{number}.png", label)
    return folder

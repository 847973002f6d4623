"""Each row of the augmentation table beside batchgeneratorsv2: the same image and the same parameters, the same result.

    pip install --no-deps batchgeneratorsv2     # its dependencies would replace a torch without CUDA
    python benchmarks/augmentation.py [--write tests/golden/augmentation.npz]

Rows that mean something else there are compared where they agree. Its scale stretches the grid, ours the content: one is the
inverse of the other; its angle turns the other way. It inverts around the mean, the paper writes 1 − x: the results differ by
a constant, which is taken off. It brings low resolution up linearly, the paper by cubic interpolation: it is told to use that.
Blur ends at another distance from the middle of its kernel and pads otherwise: the border is left out. Of noise the standard
deviation is compared.
The file that is written serves the tests, which do without the library.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from medical_sam2.data.clips import Augmentation

SIDE, BORDER, SEED = 64, 8, 11
ROWS: Mapping[str, tuple[Augmentation, float]] = {
    "rotation": (Augmentation(degrees=17.0), 1e-4),
    "scaling": (Augmentation(scale=1.25), 1e-4),
    "rotation and scaling": (Augmentation(degrees=-12.0, scale=0.8), 1e-4),
    "blur": (Augmentation(sigma=1.2), 5e-3),
    "multiply": (Augmentation(multiply=0.8), 1e-6),
    "inversion": (Augmentation(invert=True), 1e-6),
    "low resolution": (Augmentation(factor=1.6), 1e-6),
    "gamma": (Augmentation(gamma=1.4), 1e-5),
    "gamma of the inverted image": (Augmentation(gamma_inverted=0.75), 1e-5),
    "flip of columns": (Augmentation(flip_x=True), 1e-5),
    "flip of rows": (Augmentation(flip_y=True), 1e-5),
    "noise": (Augmentation(variance=0.04, seed=SEED), 0.02),
}
"""What is done, and how far the results may lie apart."""


def image() -> NDArray[np.float32]:
    """A smooth image (H, W) that reaches from 0 to 1."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(SEED).normal(size=(SIDE, SIDE)), 3)
    return ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)


def ours(name: str, picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """The row by `data.augment`."""
    drawn, frames = ROWS[name][0], torch.from_numpy(picture)[None, None]
    return drawn.recolour(drawn.warp(frames, SIDE))[0, 0].numpy()


def theirs(name: str, picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """The row by batchgeneratorsv2."""
    from batchgeneratorsv2.transforms.intensity import brightness, gamma, gaussian_noise, inversion
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

    drawn, frame = ROWS[name][0], torch.from_numpy(picture.copy())[None]
    if name.startswith("flip"):
        return MirrorTransform((0, 1)).apply({"image": frame}, axes=[1 if drawn.flip_x else 0])["image"][0].numpy()
    if name == "low resolution":
        low = SimulateLowResolutionTransform(1 / drawn.factor, True, True, None)
        low.upmodes[2] = "bicubic"
        return low(image=frame)["image"][0].clamp(0, 1).numpy()
    spatial = SpatialTransform(
        (SIDE, SIDE), 0, False, p_elastic_deform=0, p_rotation=1, rotation=float(-np.deg2rad(drawn.degrees)),
        p_scaling=1, scaling=1 / drawn.scale, p_synchronize_scaling_across_axes=1,
    )  # fmt: skip
    change = {
        "blur": lambda: GaussianBlurTransform(drawn.sigma, True, True),
        "multiply": lambda: brightness.MultiplicativeBrightnessTransform(drawn.multiply, True),
        "inversion": lambda: inversion.InvertImageTransform(1),
        "gamma": lambda: gamma.GammaTransform(drawn.gamma, 0, True, 1, 0),
        "gamma of the inverted image": lambda: gamma.GammaTransform(drawn.gamma_inverted, 1, True, 1, 0),
        "noise": lambda: gaussian_noise.GaussianNoiseTransform((drawn.variance**0.5 * float(frame.std()),) * 2),
    }.get(name, lambda: spatial)()
    return change(image=frame)["image"][0].numpy()


def apart(name: str, picture: NDArray[np.float32], mine: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """How far two results of a row lie apart."""
    if name == "noise":  # where the clipping to [0, 1] does not reach
        inner = (picture > 0.4) & (picture < 0.6)
        return abs(float((mine - picture)[inner].std() - (other - picture)[inner].std()))
    difference = mine - other
    if name == "inversion":
        difference = difference - difference.mean()
    if name == "blur":
        difference = difference[BORDER:-BORDER, BORDER:-BORDER]
    return float(np.abs(difference).max())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", type=Path)
    told = parser.parse_args()
    torch.manual_seed(SEED)
    picture = image()
    references = {name: theirs(name, picture) for name in ROWS}
    print("| row | apart | allowed |\n|---|---|---|")
    far = 0
    for name, (_, tolerance) in ROWS.items():
        distance = apart(name, picture, ours(name, picture), references[name])
        far += distance > tolerance
        print(f"| {name} | {distance:.1e} | {tolerance:.0e} |")
    if told.write:
        np.savez_compressed(told.write, image=picture, **{name.replace(" ", "_"): one for name, one in references.items()})
    return int(far > 0)


if __name__ == "__main__":
    sys.exit(main())

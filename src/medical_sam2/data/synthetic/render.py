"""Take a picture of an anatomy: intensities, texture, bias, blur, noise and artefacts of many kinds of scanners."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medical_sam2.data.synthetic.fields import Field, resample, spline_noise
from medical_sam2.data.synthetic.scene import Anatomy

LOOKS: dict[str, dict[str, float]] = {
    "ct": {
        "air": -1000, "lung": -800, "fat": -100, "muscle": 55, "organ": 85, "blood": 120, "bone": 600, "marrow": 200,
        "fluid": 10, "lesion": 50, "rim": 100, "necrosis": 25, "edema": 30, "grey": 40, "white": 30, "disc": 80, "gut": 20,
        "scar": 60, "vessel": 60,
        "gas": -1000, "contrast": 300, "cortex": 170, "medulla": 120, "spleen": 110, "hippocampus": 40, "lge_blood": 130, "table": -300,
    },
    "t1": {
        "air": 0, "lung": 5, "fat": 95, "muscle": 35, "organ": 45, "blood": 25, "bone": 12, "marrow": 65, "fluid": 15,
        "lesion": 35, "rim": 85, "necrosis": 22, "edema": 38, "grey": 45, "white": 60, "disc": 35, "gut": 30, "scar": 70,
        "vessel": 20,
        "gas": 0, "contrast": 60, "cortex": 50, "medulla": 38, "spleen": 35, "hippocampus": 46, "lge_blood": 30, "table": 0,
    },
    "t2": {
        "air": 0, "lung": 5, "fat": 75, "muscle": 22, "organ": 35, "blood": 25, "bone": 8, "marrow": 45, "fluid": 100,
        "lesion": 60, "rim": 50, "necrosis": 85, "edema": 78, "grey": 48, "white": 36, "disc": 40, "gut": 60, "scar": 40,
        "vessel": 10,
        "gas": 0, "contrast": 50, "cortex": 60, "medulla": 65, "spleen": 60, "hippocampus": 52, "lge_blood": 25, "table": 0,
    },
    "flair": {
        "air": 0, "lung": 5, "fat": 60, "muscle": 25, "organ": 40, "blood": 30, "bone": 8, "marrow": 35, "fluid": 8,
        "lesion": 75, "rim": 80, "necrosis": 35, "edema": 85, "grey": 52, "white": 42, "disc": 30, "gut": 40, "scar": 60,
        "vessel": 25,
        "gas": 0, "contrast": 50, "cortex": 60, "medulla": 55, "spleen": 55, "hippocampus": 56, "lge_blood": 30, "table": 0,
    },
    "cine": {
        "air": 0, "lung": 8, "fat": 80, "muscle": 32, "organ": 45, "blood": 90, "bone": 10, "marrow": 50, "fluid": 85,
        "lesion": 60, "rim": 60, "necrosis": 60, "edema": 50, "grey": 50, "white": 45, "disc": 40, "gut": 60, "scar": 45,
        "vessel": 80,
        "gas": 0, "contrast": 60, "cortex": 60, "medulla": 60, "spleen": 55, "hippocampus": 50, "lge_blood": 88, "table": 0,
    },
    "lge": {
        "air": 0, "lung": 10, "fat": 60, "muscle": 25, "organ": 40, "blood": 65, "bone": 10, "marrow": 45, "fluid": 30,
        "lesion": 50, "rim": 70, "necrosis": 30, "edema": 40, "grey": 45, "white": 45, "disc": 35, "gut": 40, "scar": 90,
        "vessel": 60,
        "gas": 0, "contrast": 60, "cortex": 50, "medulla": 55, "spleen": 45, "hippocampus": 45, "lge_blood": 67, "table": 0,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Acquisition:
    """How a picture is taken.

    Args:
        shape: voxels of the finished picture.
        matrix: voxels that the scanner measures, where noise is born; coarser than `shape` makes a blurred picture.
        look: name of the scale of intensities, or "random".
    """

    shape: tuple[int, int, int]
    matrix: tuple[int, int, int]
    look: str


def render(rng: np.random.Generator, anatomy: Anatomy, plan: Acquisition) -> Field:
    """A picture of the anatomy: (D, H, W) float32 in 0–1, on the grid that `plan` asks for."""
    clean = _paint(rng, anatomy, _means(rng, anatomy, plan.look))
    clean = resample(_blur(rng, clean), plan.matrix)
    noisy = _noise(rng, clean * _bias(rng, plan.matrix, plan.look), plan.look)
    picture = resample(_artefacts(rng, noisy, plan.look), plan.shape)
    return _finish(rng, picture, plan.look)


def _means(rng: np.random.Generator, anatomy: Anatomy, look: str) -> Field:
    """Mean intensity of each structure, 0–1, window already applied."""
    count = len(anatomy.tissues)
    if look == "random":
        by_tissue = {name: rng.uniform(0, 1) for name in dict.fromkeys(anatomy.tissues)}
        means = np.array([by_tissue[name] for name in anatomy.tissues]) + rng.normal(0, 0.05, count)
        means[0] = rng.uniform(0, 0.1) if rng.uniform() < 0.8 else rng.uniform()
    elif look == "ct":
        values = np.array([LOOKS["ct"][name] for name in anatomy.tissues])
        values = values + rng.normal(0, 1, count) * np.clip(np.abs(values) * 0.15, 12, 60)
        low, width = rng.uniform(-250, -80), rng.uniform(300, 550)
        if rng.uniform() < 0.2:
            low, width = -1100, rng.uniform(1400, 2000)
        means = (values - low) / width
    else:
        values = np.array([LOOKS[look][name] for name in anatomy.tissues]) / 100
        means = values * np.exp(rng.normal(0, 0.12, count)) + rng.normal(0, 0.02, count)
    return np.clip(means, -0.3, 1.3).astype(np.float32)


def _paint(rng: np.random.Generator, anatomy: Anatomy, means: Field) -> Field:
    """Means with a texture of their own for each structure."""
    labels, count = anatomy.labels, len(anatomy.tissues)
    overall = rng.uniform(0.0, 0.07)
    picture = means[labels]
    for scale, share in ((rng.uniform(14, 30), 1.2), (rng.uniform(4, 9), 0.7), (rng.uniform(1.6, 3), 0.7)):
        weights = (share * overall * rng.gamma(1.2, 0.7, count)).astype(np.float32)
        weights[0] *= 0.1
        picture += weights[labels] * spline_noise(rng, labels.shape, scale)
    return picture


def _blur(rng: np.random.Generator, picture: Field) -> Field:
    width = rng.uniform(0.3, 1.0)
    sigma = [width * rng.uniform(0.8, 1.2) if size > 1 else 0 for size in picture.shape]
    return ndimage.gaussian_filter(picture, sigma, truncate=2.5)


def _bias(rng: np.random.Generator, shape: tuple[int, ...], look: str) -> Field:
    strength = rng.uniform(0.0, 0.06) if look == "ct" else rng.uniform(0.0, 0.3)
    field = spline_noise(rng, shape, [max(size * rng.uniform(0.4, 0.9), 4) for size in shape]) * np.float32(strength)
    if rng.uniform() < 0.5:
        field += (rng.standard_normal(shape[0]) * rng.uniform(0, 0.05)).astype(np.float32).reshape(-1, 1, 1)
    return np.exp(field)


def _noise(rng: np.random.Generator, picture: Field, look: str) -> Field:
    sigma = np.float32(rng.choice([0.01, 0.03, 0.06]) * rng.uniform(0.5, 1.5))
    grain = rng.standard_normal(picture.shape, dtype=np.float32)
    if rng.uniform() < 0.5:
        smooth = rng.uniform(0.4, 0.9)
        grain = ndimage.gaussian_filter(grain, [smooth if size > 1 else 0 for size in picture.shape], truncate=2.5)
        grain /= grain.std()
    if look == "ct" or rng.uniform() < 0.3:
        return picture + np.float32(rng.uniform(0.3, 1)) * sigma * grain
    other = rng.standard_normal(picture.shape, dtype=np.float32)
    return np.hypot(picture + sigma * grain, sigma * other)


def _artefacts(rng: np.random.Generator, picture: Field, look: str) -> Field:
    if look != "ct" and rng.uniform() < 0.1:
        ghost = np.roll(picture, int(rng.integers(6, max(7, picture.shape[1] // 2))), axis=1)
        picture = picture + np.float32(rng.uniform(0.03, 0.12)) * ghost
    return picture


def _finish(rng: np.random.Generator, picture: Field, look: str) -> Field:
    low, high = np.percentile(picture[:, ::2, ::2], [rng.uniform(0, 1), rng.uniform(99, 100)])
    if look == "ct":
        low, high = 0.0, 1.0
    unit = np.clip((picture - np.float32(low)) / np.float32(max(high - low, 0.05)), 0, 1)
    unit = unit ** np.float32(np.exp(rng.normal(0, 0.2)))
    return 1 - unit if rng.uniform() < 0.05 else unit

"""Write tests/golden/metrics.npz: 200 pairs of masks, scored by MONAI (`pip install --no-deps monai`; run once, by hand)."""

import warnings
from pathlib import Path

import monai
import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice
from scipy import ndimage

CASES, LARGEST, SEED = 200, 14, 20260
PATH = Path(__file__).parents[1] / "tests" / "golden" / "metrics.npz"


def blob(rng: np.random.Generator, shape: np.ndarray) -> np.ndarray:
    """A smooth random shape, now and then empty, full or speckled."""
    smooth = ndimage.gaussian_filter(rng.normal(size=shape), rng.uniform(0, 2.5))
    return smooth > np.quantile(smooth, rng.choice([0.0, 0.5, 0.8, 0.95, 1.0], p=[0.03, 0.3, 0.3, 0.27, 0.1]))


def main() -> None:
    rng = np.random.default_rng(SEED)
    shapes = rng.integers(3, LARGEST + 1, (CASES, 3))
    spacings = rng.uniform(0.3, 6.0, (CASES, 3))
    tolerances = rng.uniform(0.2, 6.0, CASES)
    masks = np.zeros((CASES, 2, LARGEST, LARGEST, LARGEST), bool)
    scores = np.zeros((CASES, 2))
    for case, (shape, spacing, tolerance) in enumerate(zip(shapes, spacings, tolerances, strict=True)):
        truth, predicted = blob(rng, shape), blob(rng, shape)
        masks[case][:, : shape[0], : shape[1], : shape[2]] = truth, predicted
        pair = {"y_pred": torch.from_numpy(predicted)[None, None], "y": torch.from_numpy(truth)[None, None]}
        options = {"include_background": True, "spacing": spacing.tolist()}
        hausdorff = compute_hausdorff_distance(**pair, **options, percentile=95)
        surface = compute_surface_dice(**pair, **options, class_thresholds=[float(tolerance)], use_subvoxels=False)
        scores[case] = hausdorff.item(), surface.item()
    np.savez_compressed(
        PATH, version=monai.__version__, shapes=shapes, spacings=spacings, tolerances=tolerances, scores=scores,
        masks=np.packbits(masks),
    )  # fmt: skip
    print(f"{PATH}: {np.isfinite(scores[:, 0]).sum()} of {CASES} with a finite distance")


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()

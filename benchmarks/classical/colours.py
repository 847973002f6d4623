"""A classifier of colours, learnt on one outlined picture: which pixels of another look like the object.

Shapes: H W pixels, F features of a pixel.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

Floats = NDArray[np.float32]
MaskArray = NDArray[np.bool_]

PIXELS = 8_000  # that a forest learns from, at most


@dataclass(frozen=True, eq=False)
class Colours:
    """A random forest (scikit-learn) on the colours of a pixel and its surroundings.

    Args:
        forest: fitted.
    """

    forest: RandomForestClassifier

    @classmethod
    def learnt(cls, picture: Floats, mask_hw: MaskArray, *, trees: int = 25, leaf: int = 5, seed: int = 0) -> "Colours":
        """Learn from a picture (H, W) or (H, W, 3) in [0, 1] and its outline (H, W)."""
        rng = np.random.default_rng(seed)
        described, inside = features(picture).reshape(mask_hw.size, -1), mask_hw.ravel()
        chosen = rng.permutation(mask_hw.size)[:PIXELS]
        if not inside[chosen].any():
            chosen = np.concatenate([chosen, np.flatnonzero(inside)])
        forest = RandomForestClassifier(trees, min_samples_leaf=leaf, max_depth=12, random_state=seed)
        return cls(forest.fit(described[chosen], inside[chosen]))

    def likeness(self, picture: Floats) -> Floats:
        """How likely each pixel (H, W) belongs to the object, smoothed by a pixel."""
        described = features(picture)
        if len(self.forest.classes_) == 1:
            return np.full(described.shape[:2], float(self.forest.classes_[0]), np.float32)
        likely = np.asarray(self.forest.predict_proba(described.reshape(-1, described.shape[2])))[:, 1]
        return np.asarray(cv2.GaussianBlur(likely.reshape(described.shape[:2]).astype(np.float32), (0, 0), 1.0), np.float32)


def features(picture: Floats) -> Floats:
    """Of each pixel (H, W, F): its colour (CIE Lab) or intensity, at four scales, and how it varies at two."""
    if picture.ndim == 3:
        planes = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2Lab) / np.float32(100)
    else:
        planes = picture[..., None]
    scales = [planes, *(np.atleast_3d(cv2.GaussianBlur(planes, (0, 0), sigma)) for sigma in (1.0, 2.5, 6.0))]
    light = np.ascontiguousarray(planes[..., 0])
    spreads = [np.abs(scales[i][..., :1] - scales[i + 1][..., :1]) for i in (0, 1)]
    textures = [cv2.GaussianBlur(spread[..., 0], (0, 0), 2.0)[..., None] for spread in spreads]
    slope = cv2.magnitude(cv2.Sobel(light, cv2.CV_32F, 1, 0), cv2.Sobel(light, cv2.CV_32F, 0, 1))
    return np.concatenate([*scales, *textures, slope[..., None]], axis=2, dtype=np.float32)

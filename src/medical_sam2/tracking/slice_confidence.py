"""How sure an answer is of each slice once the consensus has changed it: a predicted IoU that can be believed.

The mask decoder predicts the IoU of what it saw on one slice. It knows neither how steadily the slices before were tracked nor
what the consensus made of them, and is far too sure beyond an object's end. A small network learnt beside the weights, a `Gate`
of other features, predicts it from all that (`SLICE_FEATURES`).

Shapes: n h w working grid of the consensus with the slices first, S features of a slice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
MaskArray = NDArray[np.bool_]
SLICES_FILE = "slice_confidence.safetensors"
HIDDEN = 8  # units of each of its two hidden layers
SLICE_FEATURES = (
    *("confidence", "least confidence", "agreement", "border tells"),
    *("unchanged", "least overlap", "probability", "sureness", "area over prompted", "distance", "area"),
)


@dataclass(frozen=True, eq=False)
class RefinedSlices:
    """What the consensus made of the slices around an object.

    Args:
        before_nhw: logits as they were tracked.
        after_nhw: logits as they are now.
        known_n4: what the consensus knew of each slice: confidence, the least one on the way from the prompt, how far geodesic
            distances agree, how far edges tell the border.
        prompted: slices that were prompted, some of which show the object.
        box_mm: sides of a box of the grid, across the slices first.
        box_px: voxels of a slice in a box.
    """

    before_nhw: Floats
    after_nhw: Floats
    known_n4: Floats
    prompted: Sequence[int]
    box_mm: Sequence[float]
    box_px: float

    def features(self) -> Floats:
        """Features (n, S) of the slices."""
        before, after = self.before_nhw > 0, self.after_nhw > 0
        inside = 1 / (1 + np.exp(-self.after_nhw))
        boxes = after.sum(axis=(1, 2))
        shown = [t for t in self.prompted if boxes[t]] or [*self.prompted]
        areas = {t: boxes[t] * self.box_mm[1] * self.box_mm[2] for t in shown}
        rows = []
        for t, mask in enumerate(after):
            nearest = min(shown, key=lambda other: abs(other - t))
            way = range(min(t, nearest), max(t, nearest))  # each with the slice after it
            distance = abs(t - nearest) * self.box_mm[0] / np.sqrt(max(areas[nearest], self.box_mm[1] * self.box_mm[2]) / np.pi)
            rows.append([
                dice_of(before[t], mask),
                min((dice_of(after[i], after[i + 1]) for i in way), default=1.0),
                float(inside[t][mask].mean()) if mask.any() else 0.0,
                float((inside[t] > 0.7).sum() / max(1, (inside[t] > 0.3).sum())),
                np.log((boxes[t] + 0.5) / (boxes[nearest] + 0.5)),
                np.log1p(distance),
                np.log1p(boxes[t] * self.box_px),
            ])  # fmt: skip
        return np.concatenate([self.known_n4, np.array(rows, np.float32)], axis=1, dtype=np.float32)


def dice_of(one: MaskArray, other: MaskArray) -> float:
    """Dice of two masks, 0 where both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 0.0

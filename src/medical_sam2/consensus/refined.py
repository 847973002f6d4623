"""Probabilities after the consensus, made slab by slab as they are asked for.

Shapes: I J K voxels of the file.
"""

from dataclasses import dataclass

import numpy as np
import torch

from medical_sam2.consensus.evidence import FEATURES, Floats, described, logit_of
from medical_sam2.consensus.gate import Gate
from medical_sam2.consensus.grid import Grid, Tracked, between, working_grid
from medical_sam2.fusion import Fusion

MOST = 12.0  # that a logit changes by


@dataclass(frozen=True, eq=False)
class Refined:
    """Probabilities (I, J, K) by slabs, as a fusion hands them out: the tracked ones with their logits changed in the region.

    Args:
        estimate: that was tracked.
        grid: of the change.
        change: of the logits, of its shape.
    """

    estimate: Fusion
    grid: Grid
    change: Floats

    def result(self) -> Floats:
        """All slabs."""
        return np.stack([self[index] for index in range(self.shape[0])])

    def uncertainty(self) -> Floats:
        """How much the views disagree; the consensus does not change it."""
        return self.estimate.uncertainty()

    @property
    def shape(self) -> tuple[int, ...]:
        """(I, J, K)."""
        return self.estimate.shape

    def __getitem__(self, index: int) -> Floats:
        """The probability (J, K) of one slab."""
        slab = np.asarray(self.estimate[index], np.float32)
        low, high = self.grid.low, self.grid.high
        if not low[0] <= index < high[0]:
            return slab
        first, second, third = (between(high[a] - low[a], self.grid.shape[a]) for a in range(3))
        change = second @ np.tensordot(first[index - low[0]], self.change, 1) @ third.T
        if not change.any():
            return slab
        slab, rows, columns = slab.copy(), slice(low[1], high[1]), slice(low[2], high[2])
        part = slab[rows, columns]
        changed = 1 / (1 + np.exp(-(logit_of(part) + change)))
        slab[rows, columns] = np.where(change == 0, part, changed)
        return slab


def refined(gate: Gate, what: Tracked, fusion: Fusion) -> Fusion | Refined:
    """The probabilities of an object after the consensus; as they were where nothing was found on the prompted slices."""
    grid = working_grid(what)
    if grid is None:
        return fusion
    seen = described(what, grid)
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        change = gate(torch.from_numpy(seen.reshape(-1, len(FEATURES)))).clamp(-MOST, MOST).numpy().reshape(seen.shape[:3])
    low, high = grid.low[what.axis], grid.high[what.axis]
    change[[t - low for t in what.prompted if low <= t < high]] = 0
    return Refined(fusion, grid, np.ascontiguousarray(np.moveaxis(change, 0, what.axis)))

"""How far a further view of a volume agrees with what the earlier views found: where it does not, it counts for little.

A further view begins on one slice of the estimate so far. Where it then loses the object, or follows another one, the mean of
all views would be less than any of them: half the object is lost beside a sheet of one slice, the one that the view began on.
So a slice of a further view counts by its confidence times the square of its Dice to the estimate there.

Shapes: I J K voxels, T frames, H W frame.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medical_sam2.tracking.fusion import THRESHOLD, Slabs, StartingPoint
from medical_sam2.views import THREE_VIEWS, View

FOREIGN = 0.5  # Dice to the earlier views, below which a further view is named


@dataclass(eq=False)
class Agreement:
    """A further view of an object beside what the earlier views found; it fills as frames are compared.

    Args:
        view: the further one.
        start: frame on which it was given what the earlier ones found.
        inside_thw: what they found along it, cut to the box that holds it.
        low_thw: where that box begins.
        found: voxels that this view finds, but on the frame it started from.
        shared: those of them that the earlier views found, too.
    """

    view: View
    start: int
    inside_thw: NDArray[np.bool_]
    low_thw: tuple[int, int, int]
    found: int = 0
    shared: int = 0

    @classmethod
    def to(cls, estimate: Slabs, start: StartingPoint, view: View, axes: str) -> "Agreement":
        """To an estimate (I, J, K), before anything of this view is added to it."""
        first, second, third = start.box_ijk
        slabs = [np.asarray(estimate[i])[second, third] > THRESHOLD for i in range(first.start, first.stop)]
        along = zip(view.order(axes), view.flipped(axes), strict=True)
        low, row, column = (
            estimate.shape[axis] - start.box_ijk[axis].stop if flip else start.box_ijk[axis].start for axis, flip in along
        )
        return cls(view, start.frame, view.apply(np.stack(slabs), axes), (low, row, column))

    def weigh(self, t: int, mask_hw: NDArray[np.bool_]) -> float:
        """What a frame counts for, in [0, 1]: the square of the Dice of this view (H, W) to the others."""
        (low, row, column), (frames, height, width) = self.low_thw, self.inside_thw.shape
        own = self.inside_thw[t - low] if low <= t < low + frames else np.zeros((height, width), bool)
        found, shared = int(mask_hw.sum()), int((own & mask_hw[row : row + height, column : column + width]).sum())
        if t != self.start:
            self.found, self.shared = self.found + found, self.shared + shared
        total = found + int(own.sum())
        return (2 * shared / total) ** 2 if total else 1.0

    def dice(self) -> tuple[float, int]:
        """Of all frames but the one that this view started from, and how many voxels the earlier views found on them."""
        before = int(self.inside_thw.sum()) - int(self.inside_thw[self.start - self.low_thw[0]].sum())
        total = before + self.found
        return 2 * self.shared / total if total else 1.0, before


def describe_strays(agreements: Mapping[int, Agreement], voxel_mm3: float) -> list[str]:
    """A line for each object, by its label, of which a further view found hardly what the earlier ones did."""
    told: list[str] = []
    for label, each in agreements.items():
        dice, before = each.dice()
        if dice < FOREIGN:
            here, others = (_millilitres(count * voxel_mm3 / 1000) for count in (each.found, before))
            name = f"{each.view.name} slices" + " backwards" * (each.view not in THREE_VIEWS)
            alike = f", with little overlap (Dice {dice:.2f})" if each.found and before else ""
            told.append(
                f"object {label}: {name} found {here}, the views before them {others}{alike}, so they counted for little; "
                f"if it is wrong there, draw a box or an outline on one {each.view.name} slice, too, or take --views one"
            )
    return told


def _millilitres(volume_ml: float) -> str:
    return "nothing" if not volume_ml else f"{volume_ml:.0f} mL" if volume_ml >= 100 else f"{volume_ml:.3g} mL"

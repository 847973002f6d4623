"""Where one more prompt would help most: where the network is unsure, and nothing that it was shown is alike."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medical_sam2.errors import PromptError
from medical_sam2.volume import SliceConfidence


@dataclass(frozen=True)
class Need:
    """How much an image, or a slice, needs a prompt.

    Args:
        index: of the image or slice.
        confidence: predicted IoU in [0, 1], 0 where the object is judged absent.
        likeness: to what is remembered: cosine in [-1, 1].
    """

    index: int
    confidence: float
    likeness: float

    @property
    def size(self) -> float:
        """(1 − confidence) · (1 − likeness): either factor alone asks for what is blurred, or for what is merely different."""
        return (1 - self.confidence) * (1 - self.likeness)


def neediest(needs: Iterable[Need], count: int = 1) -> list[Need]:
    """Those that need a prompt most, the neediest first; of equals, the earlier one.

    >>> [need.index for need in neediest([Need(0, 0.9, 0.9), Need(1, 0.5, 0.8), Need(2, 0.5, 0.9)], 2)]
    [1, 2]
    """
    return sorted(needs, key=lambda need: (-need.size, need.index))[:count]


def slice_needs(rows: Sequence[SliceConfidence], directions: Mapping[int, NDArray[np.float32]]) -> list[Need]:
    """How much the slices of a volume need a prompt, those that got none and on which something was outlined.

    Args:
        rows: confidence of a segmentation; the view that was prompted counts.
        directions: slice of that view → its embedding over the length of that.

    Raises:
        PromptError: no slice was prompted.
    """
    view = next((row.view for row in rows if row.prompted), None)
    if view is None:
        raise PromptError("no slice was prompted", "prompt one")
    own = [row for row in rows if row.view == view]
    told = np.stack([directions[t] for t in sorted({row.slice for row in own if row.prompted})])
    sure: dict[int, float] = {}
    for row in own:
        if row.area_px and not row.prompted:
            sure[row.slice] = min(row.confidence, sure.get(row.slice, 1.0))
    return [Need(t, confidence, float((told @ directions[t]).max())) for t, confidence in sorted(sure.items())]

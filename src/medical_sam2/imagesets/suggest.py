"""Where one more prompt would help most: where the network is unsure, and nothing that it was shown is alike."""

from collections.abc import Iterable
from dataclasses import dataclass


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

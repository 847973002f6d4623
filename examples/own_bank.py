"""A memory bank of your own: one file, no edit elsewhere.

medsam2 segment ct.nii.gz --point 32 30 4 --bank examples/own_bank.py:Anchored -o liver.nii.gz
"""

from dataclasses import dataclass

from torch import Tensor

from medical_sam2.model.backbone import Memory, Recalled


@dataclass
class Anchored:
    """The prompted memories and the surest of the others: the simplest rule that can recover after a bad slice.

    Args:
        size: memories kept beside the prompted ones.
    """

    size: int = 3

    def keep(self, bank: list[Memory], new: Memory) -> list[Memory]:
        """The bank after `new` was offered."""
        offered = [*bank, new]
        anchors = [memory for memory in offered if memory.prompted]
        others = sorted((memory for memory in offered if not memory.prompted), key=lambda memory: -memory.confidence)
        return [*anchors, *others[: self.size]]

    def weigh(self, bank: list[Memory], t: int, query_C: Tensor) -> list[Recalled]:
        """All of them, each once, and each as if it had been prompted."""
        return [Recalled(memory, place=0) for memory in bank]

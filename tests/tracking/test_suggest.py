"""Where one more prompt helps: unsure, and unlike what was told."""

import numpy as np
import pytest

from medical_sam2.errors import PromptError
from medical_sam2.tracking.confidence import Need, neediest, slice_needs
from medical_sam2.volume import SliceConfidence


def test_neither_doubt_nor_difference_alone_is_enough() -> None:
    needs = [Need(0, 1.0, 0.1), Need(1, 0.1, 1.0), Need(2, 0.6, 0.6)]
    assert [need.index for need in neediest(needs, 3)] == [2, 0, 1]
    assert neediest([]) == []


def test_slices() -> None:
    def row(t: int, sure: float, *, label: int = 1, area: int = 5, prompted: bool = False, view: str = "SPL"):
        return SliceConfidence(object=label, view=view, slice=t, confidence=sure, area_px=area, prompted=prompted)

    rows = [
        row(0, 0.9, prompted=True),
        row(1, 0.8),
        row(1, 0.3, label=2),
        row(2, 0.0, area=0),
        row(3, 0.4),
        row(3, 0.1, view="LSP"),
    ]
    directions = {t: np.array([np.cos(t / 4), np.sin(t / 4)], np.float32) for t in (0, 1, 3)}
    needs = slice_needs(rows, directions)
    assert [(need.index, need.confidence) for need in needs] == [(1, 0.3), (3, 0.4)]
    assert needs[1].likeness == pytest.approx(np.cos(0.75), abs=1e-6)
    with pytest.raises(PromptError):
        slice_needs(rows[1:], directions)

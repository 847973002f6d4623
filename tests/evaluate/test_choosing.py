"""Suggestions: one frame first, then those that need a prompt most, never one that cannot be prompted."""

from collections.abc import Mapping, Sequence

import numpy as np

from medical_sam2.evaluate.choosing import suggested

EVEN = {t: np.array([np.cos(t / 3), np.sin(t / 3)], np.float32) for t in range(12)}


def test_rounds_double_and_take_the_neediest() -> None:
    asked: list[list[int]] = []

    def ask(frames: Sequence[int]) -> Mapping[int, float]:
        asked.append(list(frames))
        return {t: 0.9 if t % 2 else 0.2 for t in range(12) if t not in frames}

    found = suggested(0, range(12), 4, ask, EVEN.__getitem__)
    assert asked == [[0], found[:2]]
    assert len(set(found)) == 4
    assert found[1] == 10, "unsure, and the least like what was told"
    assert all(t % 2 == 0 for t in found)


def test_frames_that_cannot_be_prompted_are_passed_over() -> None:
    assert suggested(3, [2, 3, 4], 2, lambda _: {9: 0.0, 4: 0.5}, EVEN.__getitem__) == [3, 4]


def test_what_is_missing_is_filled_up() -> None:
    assert suggested(1, [1, 2, 3], 3, lambda _: {}, EVEN.__getitem__, spare=[3]) == [1, 3, 2]
    assert suggested(1, [1], 5, lambda _: {}, EVEN.__getitem__) == [1]

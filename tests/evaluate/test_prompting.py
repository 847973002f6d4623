"""Prompting: by chance, or by suggestion: one frame first, then those that need a prompt most, never one that cannot be."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from medical_sam2.errors import PromptError
from medical_sam2.evaluate.prompting import SimulatedReader, follow_suggestions
from medical_sam2.evaluate.protocols import Condition

EVEN = {t: np.array([np.cos(t / 3), np.sin(t / 3)], np.float32) for t in range(12)}


def test_rounds_double_and_take_the_neediest() -> None:
    asked: list[list[int]] = []

    def ask(frames: Sequence[int]) -> Mapping[int, float]:
        asked.append(list(frames))
        return {t: 0.9 if t % 2 else 0.2 for t in range(12) if t not in frames}

    found = follow_suggestions(0, range(12), 4, ask, EVEN.__getitem__)
    assert asked == [[0], found[:2]]
    assert len(set(found)) == 4
    assert found[1] == 10, "unsure, and the least like what was told"
    assert all(t % 2 == 0 for t in found)


def test_frames_that_cannot_be_prompted_are_passed_over() -> None:
    assert follow_suggestions(3, [2, 3, 4], 2, lambda _: {9: 0.0, 4: 0.5}, EVEN.__getitem__) == [3, 4]


def test_what_is_missing_is_filled_up() -> None:
    assert follow_suggestions(1, [1, 2, 3], 3, lambda _: {}, EVEN.__getitem__, spare=[3]) == [1, 3, 2]
    assert follow_suggestions(1, [1], 5, lambda _: {}, EVEN.__getitem__) == [1]


def test_frames_of_a_smaller_share_are_among_those_of_a_larger() -> None:
    truths = [np.pad(np.ones((2 + t % 5, 3), bool), ((1, 9 - t % 5), (2, 4))) for t in range(40)]
    truths[3] = np.zeros_like(truths[0])

    def person(share: float | None, seed: int = 0) -> SimulatedReader:
        return SimulatedReader(truths, Condition(volume=share), "box", of_volume=True, seed=seed, case="a")

    def frames(share: float | None, seed: int = 0) -> set[int]:
        return set(person(share, seed).frames)

    assert frames(0.1) <= frames(0.3) <= frames(1.0) == set(range(40)) - {3}
    assert len(frames(None)) == len(frames(1e-9)) == 1
    assert len({min(frames(None, seed)) for seed in range(9)}) > 1
    with pytest.raises(PromptError, match="single row"):
        assert SimulatedReader([np.zeros((4, 4), bool)], Condition(), "box", of_volume=True, seed=0, case="a").frames


def test_what_is_said_on_a_frame_does_not_depend_on_the_others() -> None:
    truths = [np.pad(np.ones((6, 7), bool), 4)] * 5
    person = SimulatedReader(truths, Condition(care="lay"), "box", of_volume=True, seed=0, case="a")
    both, one = person.prompt_frames([1, 3]), person.prompt_frames([3])
    np.testing.assert_array_equal(both[3].box_xyxy, one[3].box_xyxy)
    assert not np.array_equal(both[1].box_xyxy, both[3].box_xyxy)

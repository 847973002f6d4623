"""Prompting: by chance, or by suggestion: one frame first, then those that need a prompt most, never one that cannot be."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from medical_sam2.errors import PromptError
from medical_sam2.evaluate.cases import KINDS, SimulatedReader, draw_prompt, follow_suggestions, is_boxable
from medical_sam2.evaluate.protocols import Condition
from medical_sam2.simulate import NOISE_LEVELS

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


def ring(radius: int = 6) -> np.ndarray:
    rows, columns = np.mgrid[:30, :40]
    return np.hypot(rows - 14, columns - 22) <= radius


def test_a_perfect_hand_draws_exactly() -> None:
    truth, rng = ring(), np.random.default_rng(0)
    outline, box, click = (draw_prompt(truth, kind, rng) for kind in KINDS)
    np.testing.assert_array_equal(outline.mask_hw, truth)
    assert box.box_xyxy is not None
    assert box.box_xyxy.tolist() == [16, 8, 28, 20]
    ((x, y),) = click.points_xy.tolist()
    assert abs(x - 22) + abs(y - 14) <= 1


def test_a_careless_hand_is_off_by_more_and_reproducibly() -> None:
    truth = ring()

    def off(care: str) -> float:
        hand = NOISE_LEVELS[care]
        boxes = [draw_prompt(truth, "box", np.random.default_rng(n), hand).box_xyxy for n in range(60)]
        return float(np.std(boxes, axis=0).mean())

    assert off("none") == 0.0 < off("expert") < off("trained") < off("lay")
    one, again = (draw_prompt(truth, "mask", np.random.default_rng(3), NOISE_LEVELS["lay"]).mask_hw for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, truth)


@pytest.mark.parametrize(
    ("mask", "boxable"),
    [
        (np.eye(3, dtype=bool), True),
        (np.ones((1, 5), bool), False),
        (np.ones((5, 1), bool), False),
        (np.zeros((5, 5), bool), False),
    ],
)
def test_a_box_needs_two_rows_and_two_columns(mask: np.ndarray, boxable: bool) -> None:
    assert is_boxable(mask) == boxable


def reader(share: float | None, *, seed: int = 0, case: str = "a", of_volume: bool = True) -> SimulatedReader:
    """Before slices that grow to the middle and shrink again; the first five and every ninth show nothing."""
    truths = [ring(max(2, 12 - abs(t - 20) // 2)) if t > 4 and t % 9 else np.zeros((30, 40), bool) for t in range(40)]
    return SimulatedReader(truths, Condition("click", share, share), "click", of_volume=of_volume, seed=seed, case=case)


def test_as_many_frames_are_prompted_as_their_share_says() -> None:
    usable = len(reader(0.3).usable)
    counts = [len(reader(0.3, seed=seed).frames) for seed in range(60)]
    assert float(np.mean(counts)) / usable == pytest.approx(0.3, abs=0.04)
    assert all(reader(1.0).truths[t].any() for t in reader(1.0).frames)


def test_the_one_slice_of_a_volume_is_large_and_that_of_a_set_is_any() -> None:
    areas = [int(truth.sum()) for truth in reader(None).truths]
    starts = {seed: reader(None, seed=seed).start for seed in range(40)}
    assert min(areas[t] for t in starts.values()) >= 0.5 * max(areas)
    of_set = [areas[reader(None, seed=seed, of_volume=False).start] for seed in range(40)]
    assert min(of_set) < 0.5 * max(areas)
    assert reader(None, seed=3).frames == [starts[3]]


def test_each_case_and_each_seed_draws_its_own() -> None:
    frames = reader(0.3).frames
    assert frames == reader(0.3).frames
    assert frames != reader(0.3, case="b").frames
    assert frames != reader(0.3, seed=1).frames

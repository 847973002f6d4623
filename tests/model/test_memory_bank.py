"""The three policies against the paper's equations, and a bank that does not grow."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medical_sam2.model.backbone import Memory
from medical_sam2.model.memory_bank import FLOOR, POLICIES, Fifo, Greedy, PolicyBank, SelfSorting, cosine
from tests.strategies import seeds

CHANNELS = 6
confidences = st.floats(0, 1, width=16)


def memory(t: int, seed: int, *, prompted: bool = False, confidence: float = 0.9) -> Memory:
    generator = torch.Generator().manual_seed(1000 * seed + t)
    map_Chw = torch.randn(CHANNELS, 2, 2, generator=generator)
    pointer_C, summary_C = torch.randn(2, CHANNELS, generator=generator)
    return Memory(t, prompted, map_Chw, pointer_C, summary_C, confidence)


def memories(seed: int, count: int, confidence: Sequence[float] = ()) -> list[Memory]:
    """The first one is prompted."""
    rest = [*confidence, *[0.9] * count]
    return [memory(t, seed, prompted=t == 0, confidence=rest[t]) for t in range(count)]


def similarity(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.flatten().double(), b.flatten().double()
    return float(a @ b / (a.norm() * b.norm()))


def frames(bank: Sequence[Memory]) -> list[int]:
    return [m.t for m in bank]


def fill(policy: SelfSorting | Fifo | Greedy, offered: Sequence[Memory]) -> list[Memory]:
    bank: list[Memory] = []
    for new in offered:
        bank = policy.keep(bank, new)
    return bank


@given(seeds)
def test_an_image_is_like_itself(seed: int) -> None:
    summary = memory(0, seed % 1000).summary_C
    assert math.isclose(float(cosine(summary[None], summary[None])), 1, abs_tol=1e-6)


@pytest.mark.parametrize("name", ["self-sorting", "greedy"])
def test_a_branch_draws_by_itself(name: str) -> None:
    """Both may be asked at once, in any order, and answer the same."""

    def counts(first: bool) -> list[float]:
        bank = PolicyBank(partial(POLICIES[name], resample="sample"))
        for t in range(5):
            bank.store([memory(t, t)])
        other = bank.branch()
        for one in (bank, other) if first else (other, bank):
            found = [recalled.log_weight for recalled in one.recall(9, torch.ones(1, CHANNELS))[0]]
            if one is other:
                return found
        return []

    assert counts(first=True) == counts(first=False)


def test_likeness_is_measured_between_the_same_things() -> None:
    bank = memories(3, 3)
    recalled = SelfSorting(temperature=1e-3).weigh(bank, 9, bank[1].summary_C)
    assert max(recalled, key=lambda r: r.log_weight).memory is bank[1]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_bank_does_not_grow(policy: str) -> None:
    bank = PolicyBank(POLICIES[policy])
    held = {}
    for t in range(1000):
        bank.recall(t, torch.zeros(1, CHANNELS))
        bank.store([memory(t, 1, prompted=t == 0), memory(t, 2, prompted=t == 0)])
        if t in {100, 999}:
            parts = [x for object_ in bank.memories for m in object_ for x in (m.map_Chw, m.pointer_C, m.summary_C)]
            held[t] = len(parts), sum(x.untyped_storage().nbytes() for x in parts)
    assert held[100] == held[999]


def test_a_bank_keeps_its_objects_apart() -> None:
    bank = PolicyBank(SelfSorting)
    for t in range(20):
        bank.store([memory(t, seed, prompted=t == 0) for seed in (1, 2)])
    alone = PolicyBank(SelfSorting)
    for t in range(20):
        alone.store([memory(t, 2, prompted=t == 0)])
    assert frames(bank.memories[1]) == frames(alone.memories[0])


def test_what_is_kept_does_not_depend_on_the_precision() -> None:
    for seed in range(20):
        banks = [PolicyBank(lambda: SelfSorting(size=4)) for _ in range(2)]
        for new in memories(seed, 30):
            banks[0].store([new])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                banks[1].store([new])
        assert frames(banks[0].memories[0]) == frames(banks[1].memories[0])


def test_the_images_are_shared_by_objects() -> None:
    bank = PolicyBank(SelfSorting)
    bank.store([memory(0, 1, prompted=True), memory(0, 2, prompted=True)])
    assert [len(recalled) for recalled in bank.recall(1, torch.ones(1, CHANNELS))] == [1, 1]


class TestSelfSorting:
    @given(seeds, st.lists(confidences, min_size=12, max_size=12), st.integers(2, 6))
    def test_equations_2_and_3(self, seed: int, confidence: list[float], size: int) -> None:
        policy = SelfSorting(size=size, threshold=0.5)
        bank: list[Memory] = []
        for new in memories(seed % 1000, 12, confidence):
            expected = self.naive(bank, new, size)
            bank = policy.keep(bank, new)
            assert frames(bank) == expected

    def naive(self, bank: list[Memory], new: Memory, size: int) -> list[int]:
        """Equations 2 and 3 word by word; the prompted memory is pinned (equation 6)."""
        if not new.prompted and new.confidence < 0.5:
            return frames(bank)
        candidates = [*bank, new]
        free = [e for e in candidates if not e.prompted]
        worth = {e.t: sum(1 - similarity(e.map_Chw, other.map_Chw) for other in candidates if other is not e) for e in free}
        best = sorted(free, key=lambda e: -worth[e.t])[: size - (len(candidates) - len(free))]
        chosen = {e.t for e in best} | {e.t for e in candidates if e.prompted}
        return [e.t for e in candidates if e.t in chosen]

    @given(seeds, st.permutations(range(6)))
    def test_what_is_kept_does_not_depend_on_the_order(self, seed: int, order: list[int]) -> None:
        bank, new = memories(seed % 1000, 6), memory(6, seed % 1000)
        kept = SelfSorting(size=6).keep(bank, new)
        shuffled = SelfSorting(size=6).keep([bank[i] for i in order], new)
        assert set(frames(kept)) == set(frames(shuffled))

    @given(seeds, st.integers(1, 5))
    def test_prompted_memories_stay(self, seed: int, size: int) -> None:
        offered = [memory(t, seed % 1000, prompted=t in {0, 3}) for t in range(15)]
        assert {0, 3} <= set(frames(fill(SelfSorting(size=size), offered)))

    def test_without_pins_they_may_go(self) -> None:
        alike = [Memory(t, t == 0, torch.ones(1, 1, 2), *torch.ones(2, 2), 0.9) for t in range(4)]
        odd = [
            Memory(4 + i, False, torch.tensor([[[1.0, -1.0]]]) * sign, *torch.ones(2, 2), 0.9) for i, sign in enumerate((1, -1))
        ]
        assert 0 in frames(fill(SelfSorting(size=3), [*alike, *odd]))
        assert 0 not in frames(fill(SelfSorting(size=2, pin="none"), [*alike, *odd]))

    def test_ten_prompts_of_forty_frames_leave_room_where_the_first_alone_is_pinned(self) -> None:
        offered = [memory(t, 4, prompted=t % 4 == 0) for t in range(40)]
        everyone, first = fill(SelfSorting(), offered), fill(SelfSorting(pin="first"), offered)
        assert frames(everyone) == list(range(0, 40, 4))
        assert len(first) == 7
        assert 0 in frames(first)
        assert any(not m.prompted for m in first)

    def test_the_first_prompt_stays_the_first_where_its_frame_is_shown_anew(self) -> None:
        bank = PolicyBank(lambda: SelfSorting(size=2, pin="first"))
        for t in (0, 1):
            bank.store([memory(t, 5, prompted=True)])
        bank.forget(0, [0])
        for t in (0, *range(2, 12)):
            bank.store([memory(t, 5, prompted=t == 0)])
        assert 0 in frames(bank.memories[0])
        assert 1 not in frames(bank.memories[0])

    def test_of_two_prompts_the_first_alone_is_attended_to_however_unlike_it_is(self) -> None:
        policy = SelfSorting(pin="first")
        bank = fill(policy, [memory(t, 1, prompted=t < 2) for t in range(4)])
        weights = [r.log_weight for t in (0, 1) for r in policy.weigh(bank, 9, -memory(t, 1).summary_C) if r.memory.t == t]
        assert weights[0] == 0
        assert weights[1] < -1

    def test_unsorted_the_latest_confident_stay(self) -> None:
        offered = memories(1, 10, [0.9] * 8 + [0.1])
        assert frames(fill(SelfSorting(size=4, sort=False), offered)) == [0, 6, 7, 9]

    def test_a_frame_seen_again_is_remembered_once(self) -> None:
        assert frames(fill(SelfSorting(), [*memories(1, 4), memory(2, 5)])) == [0, 1, 3, 2]

    @given(seeds, st.integers(1, 7))
    def test_equation_4(self, seed: int, count: int) -> None:
        bank, query = memories(seed % 1000, count), memory(50, seed % 1000).summary_C
        likeness = [max(similarity(query, m.summary_C), FLOOR) for m in bank]
        recalled = SelfSorting(size=7, pin="none").weigh(bank, 50, query)
        expected = [count * each / sum(likeness) for each in likeness]
        assert np.allclose([math.exp(r.log_weight) for r in recalled], expected, rtol=1e-4)

    @given(seeds, st.floats(0.05, 2))
    def test_softmax_with_a_temperature(self, seed: int, temperature: float) -> None:
        bank, query = memories(seed % 1000, 5), memory(50, seed % 1000).summary_C
        likeness = np.array([similarity(query, m.summary_C) for m in bank]) / temperature
        share = np.exp(likeness - likeness.max())
        recalled = SelfSorting(temperature=temperature, pin="none").weigh(bank, 50, query)
        assert np.allclose([math.exp(r.log_weight) for r in recalled], 5 * share / share.sum(), rtol=1e-3)

    def test_equation_5_draws_as_often_as_there_are_memories(self) -> None:
        bank, policy = memories(1, 6), SelfSorting(resample="sample", pin="none")
        for t in range(50):
            recalled = policy.weigh(bank, t, memory(t, 2).summary_C)
            assert round(sum(math.exp(r.log_weight) for r in recalled)) == 6

    def test_expected_is_the_mean_of_sampled(self) -> None:
        bank, query = memories(1, 5), memory(9, 1).summary_C
        expected = {r.memory.t: math.exp(r.log_weight) for r in SelfSorting(pin="none").weigh(bank, 9, query)}
        policy, drawn = SelfSorting(resample="sample", pin="none"), dict.fromkeys(range(5), 0.0)
        for _ in range(4000):
            for r in policy.weigh(bank, 9, query):
                drawn[r.memory.t] += math.exp(r.log_weight) / 4000
        assert np.allclose([drawn[t] for t in range(5)], [expected[t] for t in range(5)], atol=0.08)

    def test_the_prompt_counts_at_least_one_expected_draw_however_unlike_it_is(self) -> None:
        bank, query = memories(1, 6), -memory(0, 1).summary_C
        pinned, free = (SelfSorting(pin=pin).weigh(bank, 9, query)[0].log_weight for pin in ("all", "none"))
        assert free < -1
        assert pinned == 0

    def test_draws_are_seeded_and_a_pinned_memory_always_counts(self) -> None:
        bank, query = memories(1, 6), -memory(0, 1).summary_C
        draws = [[SelfSorting(resample="sample", seed=s).weigh(bank, 9, query) for _ in range(2)] for s in range(20)]
        for first, second in draws:
            assert [(r.memory.t, r.log_weight) for r in first] == [(r.memory.t, r.log_weight) for r in second]
            assert first[0].memory.t == 0

    def test_none_lets_each_count_once(self) -> None:
        recalled = SelfSorting(resample="none").weigh(memories(1, 6), 9, memory(9, 1).summary_C)
        assert [r.log_weight for r in recalled] == [0.0] * 6

    def test_time(self) -> None:
        bank, query = memories(1, 4), memory(2, 1).summary_C
        places = {
            kind: [r.place for r in SelfSorting(temporal=kind).weigh(bank, 9, query)] for kind in ("none", "prompted", "rank")
        }
        assert places["none"] == [None] * 4
        assert places["prompted"] == [0] * 4
        assert places["rank"][0] == 0
        assert places["rank"][2] == 1  # nearest to the query
        assert len(set(places["rank"][1:])) == 3

    def test_an_empty_bank_recalls_nothing(self) -> None:
        assert SelfSorting().weigh([], 0, torch.ones(CHANNELS)) == []


class TestFifo:
    @pytest.mark.parametrize(("length", "longest"), [(None, 15), (40, 15), (16, 15), (6, 5), (2, 1)])
    def test_a_bank_counts_time_in_shares_of_its_sequence(self, length: int | None, longest: int) -> None:
        bank = PolicyBank(Fifo, frames=length)
        for each in memories(1, 20):
            bank.store([each])
        (recalled,) = bank.recall(20, torch.zeros(1, CHANNELS))
        told = {r.memory.t: r.elapsed for r in recalled}
        assert told == {0: 20 / longest} | {20 - elapsed: elapsed / longest for elapsed in range(1, longest + 1)}

    def test_a_length_that_was_given_stays(self) -> None:
        bank = PolicyBank(lambda: Fifo(frames=4), frames=9)
        for each in memories(1, 3):
            bank.store([each])
        assert [r.elapsed for r in bank.recall(3, torch.zeros(1, CHANNELS))[0]] == [1, 2 / 3, 1 / 3]

    @given(st.integers(2, 9), st.integers(1, 40))
    def test_the_last_ones_stay(self, pointers: int, count: int) -> None:
        kept = frames(fill(Fifo(pointers=pointers), memories(1, count)))
        assert kept == [0, *range(max(1, count - pointers + 1), count)]

    @pytest.mark.parametrize("direction", [1, -1])
    def test_each_has_its_distance(self, direction: int) -> None:
        order = range(30) if direction == 1 else range(29, -1, -1)
        policy = Fifo(frames=30)
        bank = fill(policy, [memory(t, 1, prompted=t == order[0]) for t in order[:20]])
        recalled = policy.weigh(bank, order[20], torch.ones(CHANNELS))
        assert [(r.memory.t, r.place) for r in recalled if r.map] == [
            (order[0], 0),
            *((order[20 - d], d) for d in range(6, 0, -1)),
        ]
        pointers = {r.memory.t: r.elapsed for r in recalled if r.pointer}
        assert pointers == {order[0]: 20 / 15} | {order[20 - d]: d / 15 for d in range(1, 16)}

    def test_a_later_prompt_lends_its_map_but_not_its_pointer(self) -> None:
        policy = Fifo()
        bank = fill(policy, [memory(9, 1, prompted=True), *memories(1, 3)])
        later = next(r for r in policy.weigh(bank, 3, torch.ones(CHANNELS)) if r.memory.t == 9)
        assert (later.map, later.pointer) == (True, False)

    def test_a_corrected_frame_is_remembered_once(self) -> None:
        bank = fill(Fifo(), [*memories(1, 4), memory(2, 1, prompted=True)])
        assert sorted(frames(bank)) == [0, 1, 2, 3]


class TestGreedy:
    @given(seeds, st.lists(confidences, min_size=14, max_size=14))
    def test_the_rule(self, seed: int, confidence: list[float]) -> None:
        policy = Greedy(size=4)
        bank: list[Memory] = []
        for new in memories(seed % 1000, 14, confidence):
            expected = self.naive(bank, new)
            bank = policy.keep(bank, new)
            assert frames(bank) == expected

    def naive(self, bank: list[Memory], new: Memory) -> list[int]:
        """a is least like the newcomer, b most like a; the newcomer takes b's place if it is less like a and not less sure."""
        free = [m for m in bank if not m.prompted]
        if new.prompted or len(free) < 4:
            return [*frames(bank), new.t]
        a = min(free, key=lambda m: similarity(new.map_Chw, m.map_Chw))
        b = max((m for m in free if m is not a), key=lambda m: similarity(a.map_Chw, m.map_Chw))
        better = similarity(new.map_Chw, a.map_Chw) < similarity(a.map_Chw, b.map_Chw) and new.confidence > b.confidence - 0.1
        return [new.t if better and m is b else m.t for m in bank]

    def test_it_weighs_as_the_self_sorting_bank(self) -> None:
        bank, query = memories(1, 5), memory(9, 1).summary_C
        ours, sorting = (policy.weigh(bank, 9, query) for policy in (Greedy(), SelfSorting()))
        assert [r.log_weight for r in ours] == [r.log_weight for r in sorting]


def test_neighbours_in_time_are_recalled_whatever_the_policy_keeps() -> None:
    bank = PolicyBank(POLICIES["prompted"], ordered=[True, False])
    for t in (3, 4, 5):
        bank.store([memory(t, seed, prompted=t == 3, confidence=0.2) for seed in (1, 2)])
    first, second = bank.recall(6, torch.ones(1, CHANNELS))
    assert [(r.memory.t, r.map, r.near) for r in first] == [(3, True, False), (5, False, True)]
    assert [(r.memory.t, r.near) for r in second] == [(3, False)]
    assert [r.memory.t for r in bank.recall(2, torch.ones(1, CHANNELS))[0] if r.near] == [3]
    assert not [r for r in bank.recall(50, torch.ones(1, CHANNELS))[0] if r.near]

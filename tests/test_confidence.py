"""Where to look again: one slice for each stretch on which the confidence collapses."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medical_sam2.confidence import DROP, collapses
from medical_sam2.volume import SliceConfidence
from tests.strategies import seeds


def rows(confidence: list[float], *, object: int = 1, view: str = "SPL", area: int = 9) -> list[SliceConfidence]:
    return [SliceConfidence(object, view, t, sure, area) for t, sure in enumerate(confidence)]


def marked(found: list[SliceConfidence]) -> list[int]:
    return [row.slice for row in found if row.look_here]


def test_the_least_sure_slice_of_each_stretch_is_marked() -> None:
    assert marked(collapses(rows([0.9, 0.9, 0.3, 0.1, 0.2, 0.9, 0.8, 0.9, 0.5, 0.9]))) == [3, 8]


def test_a_steady_object_is_left_alone_however_unsure() -> None:
    assert not marked(collapses(rows([0.2, 0.22, 0.19, 0.2])))


def test_slices_without_an_outline_and_prompted_ones_are_left_alone() -> None:
    plain = rows([0.9, 0.9, 0.1, 0.9])
    for change in ({"area_px": 0}, {"prompted": True}):
        assert not marked(collapses([replace(row, **change) if row.slice == 2 else row for row in plain]))


def test_objects_and_views_have_their_own_usual() -> None:
    sure, unsure, coronal = rows([0.9] * 4), rows([0.3] * 4, object=2), rows([0.3] * 4, view="PIL")
    assert not marked(collapses([*sure, *unsure, *coronal]))


def test_too_few_slices_say_nothing() -> None:
    assert not marked(collapses(rows([0.9, 0.1])))
    assert collapses([]) == []


@given(st.lists(st.floats(0, 1), max_size=30), seeds)
def test_marks_only_and_whatever_the_order(confidence: list[float], seed: int) -> None:
    given_rows = rows(confidence)
    found = collapses(given_rows)
    assert [replace(row, look_here=False) for row in found] == given_rows
    assert all(row.confidence < DROP * np.median(confidence) for row in found if row.look_here)
    order = np.random.default_rng(seed).permutation(len(confidence))
    shuffled = collapses([given_rows[i] for i in order])
    assert {row.slice for row in shuffled if row.look_here} == {row.slice for row in found if row.look_here}

"""Where to look again: one slice for each stretch on which the confidence collapses."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_sam2.tracking.confidence import (
    DROP,
    Leak,
    describe_early_ends,
    describe_ends_in,
    find_leaks,
    mark_collapses,
    mark_leaks,
)
from medical_sam2.volume import SliceConfidence, Volume
from tests.strategies import seeds


def rows(confidence: list[float], *, object: int = 1, view: str = "SPL", area: int = 9) -> list[SliceConfidence]:
    return [SliceConfidence(object, view, t, sure, area) for t, sure in enumerate(confidence)]


def marked(found: list[SliceConfidence]) -> list[int]:
    return [row.slice for row in found if row.look_here]


def test_the_least_sure_slice_of_each_stretch_is_marked() -> None:
    assert marked(mark_collapses(rows([0.9, 0.9, 0.3, 0.1, 0.2, 0.9, 0.8, 0.9, 0.5, 0.9]))) == [3, 8]


def test_a_steady_object_is_left_alone_however_unsure() -> None:
    assert not marked(mark_collapses(rows([0.2, 0.22, 0.19, 0.2])))


def test_slices_without_an_outline_and_prompted_ones_are_left_alone() -> None:
    plain = rows([0.9, 0.9, 0.1, 0.9])
    for change in ({"area_px": 0}, {"prompted": True}):
        assert not marked(mark_collapses([replace(row, **change) if row.slice == 2 else row for row in plain]))


def test_objects_and_views_have_their_own_usual() -> None:
    sure, unsure, coronal = rows([0.9] * 4), rows([0.3] * 4, object=2), rows([0.3] * 4, view="PIL")
    assert not marked(mark_collapses([*sure, *unsure, *coronal]))


def test_too_few_slices_say_nothing() -> None:
    assert not marked(mark_collapses(rows([0.9, 0.1])))
    assert mark_collapses([]) == []


@given(st.lists(st.floats(0, 1), max_size=30), seeds)
def test_marks_only_and_whatever_the_order(confidence: list[float], seed: int) -> None:
    given_rows = rows(confidence)
    found = mark_collapses(given_rows)
    assert [replace(row, look_here=False) for row in found] == given_rows
    assert all(row.confidence < DROP * np.median(confidence) for row in found if row.look_here)
    order = np.random.default_rng(seed).permutation(len(confidence))
    shuffled = mark_collapses([given_rows[i] for i in order])
    assert {row.slice for row in shuffled if row.look_here} == {row.slice for row in found if row.look_here}


def tracked(areas: list[int], start: int, *, prompted: bool = True) -> list[SliceConfidence]:
    """Rows in the order of tracking: from the start ahead, then back."""
    order = [start, *range(start + 1, len(areas)), *range(start - 1, -1, -1)]
    return [SliceConfidence(1, "SPL", t, 0.9, areas[t], prompted and t == start) for t in order]


def leaked(areas: list[int], start: int, **told: bool) -> list[tuple[int, ...]]:
    return [leak.slices for leak in find_leaks(tracked(areas, start, **told), {"SPL": 100_000})]


@pytest.mark.parametrize("prompted", [True, False])
def test_a_leak_begins_where_the_area_jumps_going_away_from_the_prompt(prompted: bool) -> None:
    areas = [0, 300, 400, 410, 5200, 5100, 4000, 500, 0]
    assert leaked(areas, 2, prompted=prompted) == [(4, 5, 6)]
    assert leaked(areas[::-1], 6, prompted=prompted) == [(4, 3, 2)]
    (leak,) = find_leaks(tracked(areas, 2, prompted=prompted), {"SPL": 100_000})
    assert leak == Leak(1, "SPL", (4, 5, 6), 410, 5200)
    assert leak.describe("k").startswith("object 1 jumps from 410 to 5200 voxels on slices 4 to 6 of axis k, beginning at 4: ")
    assert [row.slice for row in mark_leaks(tracked(areas, 2), [leak]) if row.look_here] == [4]


@pytest.mark.parametrize("start", range(15))
def test_a_ball_is_no_leak_wherever_it_is_clicked(start: int) -> None:
    heights = np.linspace(-0.98, 0.98, 15)
    ball = [round(1000 * (1 - z**2)) for z in heights]
    assert not leaked([0, 0, *ball, 0], start + 2)


@given(st.integers(1, 10_000), st.integers(1, 20), st.integers(0, 19))
def test_a_pillar_is_no_leak_and_one_that_widens_is(area: int, count: int, start: int) -> None:
    start = min(start, count - 1)
    assert not leaked([0, *[area] * count, 0], start + 1)
    assert leaked([0, *[area] * count, 3 * area], start + 1) == [(count + 1,)]


def test_what_grows_after_it_was_lost_for_a_slice_is_no_leak() -> None:
    assert not leaked([500, 480, 90, 0, 470, 510], 0)


def test_what_fills_most_of_a_slice_is_told_unless_it_was_drawn_so() -> None:
    rows = tracked([10, 60, 62, 61, 20, 70], 2)
    leaks = find_leaks(rows, {"SPL": 100})
    assert [leak.slices for leak in leaks] == [(1, 2, 3), (5,)]
    assert not find_leaks(rows, {"SPL": 100}, drawn={1})
    assert (
        leaks[1]
        .describe("i")
        .startswith(
            "object 1 fills most of slice 5 of axis i: it may have leaked; draw a box around it on that slice, or click"
        )
    )
    assert "slices 1 to 3 of axis i: it may have leaked; draw a box around it on one" in leaks[0].describe("i")
    assert not find_leaks(rows, {"SPL": 1000})


def test_what_runs_through_a_thin_volume_is_no_leak_in_further_views() -> None:
    """Eight slices of 4096 pixels, a quarter of them filled: of a sagittal slice of 512 pixels that is most."""
    axial = tracked([900, 950, 1000, 1000, 1000, 950, 900, 900], 3)
    sagittal = [
        replace(row, view="RPS", prompted=False) for row in tracked([0, 100, 200, 300, 400, 420, 400, 300, 200, 100, 0], 5)
    ]
    sizes = {"SPL": 4096, "RPS": 512}
    assert not find_leaks([*axial, *sagittal], sizes)
    assert [leak.view for leak in find_leaks([*tracked([900, 2100, 2200], 0), *sagittal], sizes)] == ["SPL"]
    assert find_leaks(sagittal, sizes), "where nothing tells which plane was prompted, all are judged"


def early(areas: list[int], at: int, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> list[str]:
    return describe_early_ends(tracked(areas, at), {"SPL": len(areas)}, {"SPL": spacing_mm}, {"SPL": "k"})


def test_an_object_that_ends_at_once_beside_its_prompt_is_named() -> None:
    (line,) = early([0, 0, 300, 280, 0, 0], 2)
    assert line.startswith("object 1 was found on slices 2 to 3 of axis k alone, next to its prompt: if it goes on, ")
    assert early([0, 0, 6, 0, 0, 0], 2)[0].startswith("object 1 was found on slice 2 of axis k")
    assert early([0, 4, 6, 4, 5, 0], 2)
    assert not early([0, 4, 6, 4, 5, 3, 0], 2), "on five slices a small object may well be whole"
    assert not early([0, 0, 300, 280, 0, 0], 2, (5.0, 1.0, 1.0)), "thick slices"
    assert not early([0, 200, 300, 280, 260, 240, 250, 260, 270, 220, 40, 0], 2)
    assert not early([300, 280, 0, 0], 0), "the volume ends there"
    axial, coronal = tracked([0, *[300] * 20, 0], 2), [replace(row, view="PIL") for row in tracked([0, 0, 300, 280, 0, 0], 2)]
    sizes, mm, axes = {"SPL": 22, "PIL": 6}, {"SPL": (1.0, 1.0, 1.0), "PIL": (1.0, 1.0, 1.0)}, {"SPL": "k", "PIL": "j"}
    assert not describe_early_ends([*axial, *coronal], sizes, mm, axes), "a further view, in which the object is thin"
    assert not early([0, 0, 0], 1)


def test_what_was_not_found_between_two_prompts_is_told() -> None:
    """Of one axis: what views across found, nobody counts here."""
    volume = Volume(np.zeros((30, 30, 20), np.int16), np.diag([-1.0, -1.0, 2.0, 1.0]))

    def found(areas: list[int], *more: SliceConfidence) -> list[str]:
        own = [SliceConfidence(1, "SPL", k, 0.9, area, prompted=k in (2, 9)) for k, area in enumerate(areas)]
        return [line for line in describe_ends_in(volume, [*own, *more]) if "between its prompts" in line]

    told = "object 1 was found on 2 of the 6 slices between its prompts on slices 2 and 9 of axis k: outline it on one of them"
    assert found([0, 0, 9, 9, 0, 0, 0, 0, 9, 9]) == [told]
    assert found([0, 0, 9, 9, 9, 0, 0, 0, 9, 9]) == []
    assert found([0, 0, 9, 9, 0, 0, 0, 0, 9, 9], SliceConfidence(1, "LPS", 4, 0.9, 30)) == []

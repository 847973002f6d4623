"""What is reported of memory and time."""

import argparse
import math

import pytest

from benchmarks.memory import FILL, Tick, cost, page, report


def row(slices: int, *, peak: float = 1.0, rest: float = 0.5, slice_s: float = 0.1) -> dict[str, object]:
    frames = {"SPL": slices, "PIL": 8}
    held = {"peak_gb": peak, "arrays_gb": peak - rest, "rest_gb": rest}
    return {"slices": slices, "frames": frames, **held, "seconds": 9.0, "processor_s": 8.0, "slice_s": slice_s}


def test_a_slice_costs_what_lies_between_frames_of_the_first_view() -> None:
    ticks = [Tick("SPL", float(t * t)) for t in range(FILL + 4)] + [Tick("PIL", 1e6)]
    assert cost(ticks) == (FILL + 2) ** 2 - (FILL + 1) ** 2
    assert math.isnan(cost(ticks[:FILL]))


@pytest.mark.parametrize(
    ("last", "code"),
    [({}, 0), ({"peak": 3.1, "rest": 0.5}, 1), ({"rest": 0.6}, 1), ({"slice_s": 0.12}, 1), ({"slice_s": 0.05}, 0)],
)
def test_each_limit_is_watched(last: dict[str, float], code: int) -> None:
    assert report([row(100), row(1500, **last)]) == code


def test_the_page_has_a_row_for_each_length() -> None:
    told = argparse.Namespace(side=512, weights=None, image_size=256, threads=1)
    text = page([row(100), row(300)], told)
    assert "| 300 | SPL 300, PIL 8 | 1.00 | 0.50 | 9 | 8 | 100 |" in text

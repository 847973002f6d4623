"""What training draws matches the paper's probabilities (benchmarks/draws.py, with fewer draws)."""

from collections.abc import Callable

import pytest

from benchmarks import draws


@pytest.mark.parametrize("part", [draws.prompts, draws.tasks, draws.augmentations])
def test_draws_match_the_paper(part: Callable[[int, int], list[draws.Row]]) -> None:
    rows = part(1500, 4)
    assert [row.name for row in rows if abs(row.distance) > draws.LIMIT] == []
    assert len(rows) > 8

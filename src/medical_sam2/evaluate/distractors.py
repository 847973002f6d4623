"""Images that do not show the structure: lent by other sets of the study, so that a bank can go wrong by what it keeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from medical_sam2.data.data_sets import DataSet


@dataclass(frozen=True)
class Distractor:
    """An image of another set."""

    folder: Path  # of that set
    case: str  # its identifier there


def draw_distractors(
    lenders: Sequence[DataSet], borrower: DataSet, structure: str, count: int, seed: int
) -> tuple[Distractor, ...]:
    """So many images in the order of the draw, from all sets in turn; fewer where there are no more.

    Grey sets borrow grey images first, colour sets colour ones. A set with a structure of the same name lends none.
    """
    rng = np.random.default_rng([seed, crc32(f"{borrower.name}/{structure}".encode())])
    turns: list[tuple[bool, int, float, Distractor]] = []
    for data in lenders:
        if data.kind == "set" and data.folder != borrower.folder and structure not in data.structures:
            cases = rng.permutation([case.identifier for case in data.cases]).tolist()
            unlike = data.colour != borrower.colour
            turns += [(unlike, turn, rng.random(), Distractor(data.folder, case)) for turn, case in enumerate(cases)]
    return tuple(found for *_, found in sorted(turns, key=lambda turn: turn[:3])[:count])


def mix_order(order: Sequence[int], more: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """An order of images with so many more, numbered after them, at places that chance takes; the rest follows as before.

    >>> mix_order([1, 0, 2], 2, np.random.default_rng(0)).tolist()
    [1, 0, 4, 2, 3]
    """
    places = rng.integers(0, len(order) + 1, size=more)
    return np.insert(np.asarray(order, np.int64), places, len(order) + np.arange(more))

"""In which order the images of a set are visited, after those that were prompted."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from medical_sam2.plugins import find

Likeness: TypeAlias = Callable[[Sequence[int]], NDArray[np.float64]]
"""How much images resemble what the bank holds at this moment: cosines in [-1, 1]."""
Order: TypeAlias = Callable[[Sequence[int], Likeness], Iterator[int]]
"""The images that wait, and their likeness to the bank → the images, each asked for when the one before has been tracked."""


def given(waiting: Sequence[int], likeness: Likeness) -> Iterator[int]:
    """As they come."""
    yield from waiting


@dataclass(frozen=True)
class Shuffled:
    """At random.

    Args:
        seed: the same one shuffles the same.
    """

    seed: int = 0

    def __call__(self, waiting: Sequence[int], likeness: Likeness) -> Iterator[int]:
        """In another order."""
        yield from np.random.default_rng(self.seed).permutation(np.asarray(waiting, np.int64)).tolist()


def similar(waiting: Sequence[int], likeness: Likeness) -> Iterator[int]:
    """The one that resembles the bank most, then the one that resembles the bank most after that was tracked, and so on."""
    left = list(waiting)
    while left:
        yield left.pop(int(np.argmax(likeness(left))))


def chosen(order: str | Order | Iterable[int], images: int) -> tuple[Order, Sequence[int]]:
    """A policy by name or as it is, for all of so many images; or the images as they are listed.

    Raises:
        ConfigError: no such policy.
    """
    if not isinstance(order, str) and not callable(order):
        return given, [*order]
    policy: Order = find(ORDERS, order, what="order")
    return policy, range(images)


ORDERS: Mapping[str, Order] = {"given": given, "shuffled": Shuffled(), "similar": similar}

"""Which frames a person prompts who follows the program's own suggestions: where it is unsure, and nothing told is alike."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from medical_sam2.tracking.confidence import Need, neediest

Ask: TypeAlias = Callable[[Sequence[int]], Mapping[int, float]]
"""Frames that are prompted → how sure the answer is of each other frame that it outlines something on, in [0, 1]."""
Direction: TypeAlias = Callable[[int], NDArray[np.float32]]
"""A frame → its embedding over the length of that."""


def suggested(
    start: int, usable: Sequence[int], count: int, ask: Ask, direction: Direction, spare: Sequence[int] = ()
) -> list[int]:
    """So many frames: one, then in each round as many as there are already, those that need a prompt most.

    A frame that cannot be prompted (the structure is not on it) is passed over, as chance passes it over too. Where the answer
    outlines too few others, what is left is filled up from `spare`.

    Args:
        start: the first one.
        usable: frames that can be prompted.
        count: how many are wanted.
        ask: prompts frames.
        direction: of a frame's embedding.
        spare: frames to fill up with, in order.
    """
    frames = [start]
    while len(frames) < min(count, len(usable)):
        room = min(len(frames), count - len(frames))
        more = _needed(frames, usable, ask(frames), direction, room)
        left = [t for t in (*spare, *usable) if t not in frames and t not in more]
        frames += [*more, *list(dict.fromkeys(left))[: 1 if not more else 0]]
    return frames


def _needed(
    frames: Sequence[int], usable: Collection[int], sure: Mapping[int, float], direction: Direction, room: int
) -> list[int]:
    told = np.stack([direction(t) for t in frames])
    needs = [
        Need(t, confidence, float((told @ direction(t)).max()))
        for t, confidence in sure.items()
        if t in usable and t not in frames
    ]
    return [need.index for need in neediest(needs, room)]

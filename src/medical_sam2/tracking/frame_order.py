"""In which order the frames of a view are tracked, where that ends, and what lies between two frames that are alike.

Where slices are thin, an object hardly changes from one to the next. So tracking goes ahead by two or four frames where it was
lately so; if the object is alike on both ends of such a step, what lies between is interpolated, and if not, the frame in the
middle is tracked as well. Time is saved where nothing is to be seen, for the same Dice (docs/log.md, 2026-12-01).

Shapes: B objects, H W frame.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from medical_sam2.tracking.confidence import dice_of
from medical_sam2.tracking.frames import FrameStack
from medical_sam2.volume import bounding_box

FRAMES_OF_A_PASS = 1_000_000  # more than any view has: frames of different passes are never neighbours in time
ENDED = 8  # frames in a row without any of the objects, after which tracking ends in that direction
ALIKE = 0.85  # Dice of each object on two frames, from which on what lies between is interpolated
EXPECTED = 0.9  # Dice that is expected at the end of a step, from which on it is taken
LONGEST_STEP = 4  # frames, from one that is tracked to the next
FAINT = 1e-4  # probability that counts as none


class FrameTime(int):
    """When a frame is seen: a number that orders frames by the pass that they are seen in, then along the view.

    The difference of two is how far they are from each other, as memory banks count it.

    Args:
        pass_number: from 0.
        frame: index along the view.
    """

    pass_number: int
    frame: int

    def __new__(cls, pass_number: int, frame: int) -> "FrameTime":
        """The whole number, which keeps what it was made of."""
        time = super().__new__(cls, pass_number * FRAMES_OF_A_PASS + frame)
        time.pass_number, time.frame = pass_number, frame
        return time

    def __reduce__(self) -> tuple[type["FrameTime"], tuple[int, int]]:
        return FrameTime, (self.pass_number, self.frame)


@dataclass(frozen=True, eq=False)
class TrackingResult:
    """What was found at one time."""

    stack: FrameStack  # the frames, as they were shown
    time: FrameTime  # when
    confidence_B: list[float]  # predicted IoU of each object, 0 where it is judged absent
    probability_BHW: NDArray[np.float32]  # of each object, in pixels of the view

    @property
    def frame(self) -> int:
        """Index along the view."""
        return self.time.frame


@dataclass(eq=False)
class PassEnds:
    """Where the objects of a pass end, one way and the other."""

    first: int  # prompted frame
    last: int  # prompted frame
    _absent: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})

    def noted(self, found: Iterable[TrackingResult]) -> Iterator[TrackingResult]:
        """The same, one way outward, with its end noted."""
        for one in found:
            if not self.between(one.time):
                side = one.time > self.last
                self._absent[side] = 0 if any(one.confidence_B) else self._absent[side] + 1
            yield one

    def between(self, t: int) -> bool:
        """Whether a frame lies between prompted ones."""
        return self.first <= t <= self.last

    def passed(self, t: int) -> bool:
        """Whether a frame lies beyond so many without any object that none is expected."""
        return not self.between(t) and self._absent[t > self.last] >= ENDED


class FrameOrder:
    """Frames that are tracked one after the other, each once.

    Args:
        frames: their times, in this order.
    """

    def __init__(self, frames: Iterable[FrameTime]) -> None:
        self._due = dict.fromkeys(frames)
        self.final = next(reversed(self._due), None)  # the one after which nothing more is tracked

    def next_frame(self, after: FrameTime | None = None) -> FrameTime | None:
        """The one that comes next; that which is expected to come after another one that comes next."""
        return next((t for t in self._due if t != after), None)

    def waits_for(self, t: FrameTime) -> bool:
        """Whether nothing is known yet of a frame."""
        return t in self._due

    def note(self, found: TrackingResult) -> list[TrackingResult]:
        """A frame was tracked. Returns what is known by that: it, and others that need not be tracked any more."""
        del self._due[found.time]
        return [found]


class OutwardOrder(FrameOrder):
    """Frames of one way outward, of which only those are tracked between which something changes.

    Args:
        frames: their times, in the order outward.
        ends: where the objects end; between prompted frames each is tracked.
        longest_step: frames from one that is tracked to the next, at most; a power of 2.
    """

    def __init__(self, frames: Sequence[FrameTime], ends: PassEnds, longest_step: int = LONGEST_STEP) -> None:
        super().__init__(frames)
        self._frames, self._ends, self._longest = tuple(frames), ends, longest_step
        self._known, self._step = -1, 1  # up to this place everything is known; frames to the next one that is tracked
        self._latest: TrackingResult | None = None  # what was found on the last known one
        self._ahead: dict[int, TrackingResult] = {}  # place → what was tracked there, farther outward, the nearest one last

    def next_frame(self, after: FrameTime | None = None) -> FrameTime | None:
        """See `FrameOrder`; None where the objects have ended."""
        known, step, ahead = self._known, self._step, [*self._ahead]
        if after is not None:  # all is expected to be alike
            known = max([*ahead, self._frames.index(after)])
            step, ahead = step if self._ahead else min(2 * (known - self._known), self._longest), []
        if ahead:
            return self._frames[(known + ahead[-1]) // 2]
        at = self._frames[known + 1 : known + 1 + step]
        if not at or self._ends.passed(at[0]):
            return None
        return at[0] if self._ends.between(at[0]) else at[-1]

    def waits_for(self, t: FrameTime) -> bool:
        """See `FrameOrder`."""
        return super().waits_for(t) and all(t != one.time for one in self._ahead.values())

    def note(self, found: TrackingResult) -> list[TrackingResult]:
        """See `FrameOrder`: outward, up to where the frames that were tracked are alike."""
        first_try, results = not self._ahead, list[TrackingResult]()
        self._ahead[self._frames.index(found.time)] = found
        while self._ahead:
            place, nearest = [*self._ahead.items()][-1]
            gap = place - self._known
            likeness = 0.0 if self._latest is None else measure_likeness(self._latest, nearest)
            if gap > 1 and likeness < ALIKE:
                self._step = gap // 2
                break
            if self._latest is not None:
                between = enumerate(self._frames[self._known + 1 : place], 1)
                results += [interpolate(self._latest, nearest, n / gap, t) for n, t in between]
            if first_try:  # twice as far off it is expected to differ twice as much
                self._step = min(2 * gap, self._longest) if 2 * likeness - 1 >= EXPECTED else gap
            results.append(self._ahead.pop(place))
            # whoever gets it may change it, and what is interpolated must not see that
            self._latest, self._known = replace(nearest, probability_BHW=nearest.probability_BHW.copy()), place
        for each in results:
            del self._due[each.time]
        return results


def measure_likeness(one: TrackingResult, other: TrackingResult) -> float:
    """The least Dice of an object on one frame and on the other; of what is on none of them there is none, 0 if that is all."""
    pairs = zip(one.probability_BHW > 0.5, other.probability_BHW > 0.5, strict=True)
    return min((dice_of(*pair) for pair in pairs if np.any(pair)), default=0.0)


def interpolate(one: TrackingResult, other: TrackingResult, share: float, time: FrameTime) -> TrackingResult:
    """What lies between two frames, so much of the way from one to the other: means of log-odds, and of confidence."""
    confidence_B = [(1 - share) * a + share * b for a, b in zip(one.confidence_B, other.confidence_B, strict=True)]
    pairs_2BHW = np.stack([one.probability_BHW, other.probability_BHW])
    probability_BHW = np.zeros_like(one.probability_BHW)
    box = (slice(None), *bounding_box(np.max(pairs_2BHW, (0, 1)) > FAINT))
    first, second = logit(np.clip(pairs_2BHW[:, *box], FAINT, 1 - FAINT))
    probability_BHW[box] = expit((1 - share) * first + share * second)
    return TrackingResult(other.stack, time, confidence_B, probability_BHW)

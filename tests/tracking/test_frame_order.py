"""Which frames are tracked, and what lies between them."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from medical_sam2 import Point, Segmenter, Volume
from medical_sam2.metrics import dice
from medical_sam2.tracking.frame_order import (
    ENDED,
    FrameOrder,
    FrameTime,
    OutwardOrder,
    PassEnds,
    TrackingResult,
    interpolate,
    measure_likeness,
)
from tests.backbones import Brightness

Shape = Callable[[int], NDArray[np.bool_]]


def square(low: int, high: int) -> NDArray[np.bool_]:
    mask = np.zeros((40, 40), bool)
    mask[low:high, low:high] = True
    return mask


def result(t: FrameTime, *masks: NDArray[np.bool_], sure: float = 0.9) -> TrackingResult:
    probability = np.where(np.stack(masks), np.float32(0.95), np.float32(0.05))
    return TrackingResult(cast("Any", None), t, [sure if mask.any() else 0.0 for mask in masks], probability)


def follow(
    shape: Shape, frames: int = 30, prompted: Sequence[int] = (0,), **options: Any
) -> tuple[list[int], list[TrackingResult]]:
    """Frames as they were tracked, and what is known of all, as it was handed out."""
    ends = PassEnds(min(prompted), max(prompted))
    way = [FrameTime(0, t) for t in range(1, frames) if t not in prompted]
    order, visited, known = OutwardOrder(way, ends, **options), list[int](), list[TrackingResult]()
    while (t := order.next_frame()) is not None:
        assert order.waits_for(t)
        visited.append(t.frame)
        known += ends.noted(order.note(result(t, shape(t.frame))))
    return visited, known


def test_what_does_not_change_is_tracked_on_every_fourth_frame() -> None:
    visited, known = follow(lambda _: square(10, 30))
    assert visited == [1, 2, 4, 8, 12, 16, 20, 24, 28, 29]
    assert [one.frame for one in known] == [*range(1, 30)]
    assert all(((one.probability_BHW[0] > 0.5) == square(10, 30)).all() for one in known)
    assert all(one.confidence_B == pytest.approx([0.9]) for one in known)


def test_steps_of_one_track_every_frame() -> None:
    assert follow(lambda _: square(10, 30), longest_step=1)[0] == [*range(1, 30)]


def test_what_changes_is_tracked_on_every_frame() -> None:
    assert follow(lambda t: square(t, 10 + t), frames=20)[0] == [*range(1, 20)]


def test_a_change_within_a_step_is_found() -> None:
    """From frame 11 on the object is smaller: frames around that are tracked, farther ones are not, each is known once."""
    visited, known = follow(lambda t: square(10, 30) if t < 11 else square(10, 24))
    assert visited[:6] == [1, 2, 4, 8, 12, 10]
    assert 11 in visited
    assert 9 not in visited
    assert [one.frame for one in known] == [*range(1, 30)]
    for one in known:
        assert ((one.probability_BHW[0] > 0.5) == square(10, 30 if one.frame < 11 else 24)).all()


def test_an_end_within_a_step_is_found_and_tracking_ends_as_far_beyond_it_as_ever() -> None:
    visited, known = follow(lambda t: square(10, 30) if t < 15 else square(0, 0), frames=60)
    assert [one.frame for one in known] == [*range(1, 15 + ENDED)]
    assert [one.frame for one in known if one.probability_BHW.max() > 0.5] == [*range(1, 15)]
    assert max(visited) == 14 + ENDED


def test_each_frame_between_prompts_is_tracked() -> None:
    visited, _ = follow(lambda _: square(10, 30), prompted=(0, 12))
    assert visited[:11] == [*range(1, 12)]
    assert len(visited) < 20


def test_the_frame_that_is_expected_next_is_known_before_one_is_tracked() -> None:
    order = OutwardOrder([FrameTime(0, t) for t in range(1, 30)], PassEnds(0, 0))
    for frame in (1, 2, 4):
        order.note(result(FrameTime(0, frame), square(10, 30)))
    assert order.next_frame() == 8
    assert order.next_frame(FrameTime(0, 8)) == 12
    order.note(result(FrameTime(0, 8), square(10, 20)))  # not alike
    assert order.next_frame() == 6
    assert not order.waits_for(FrameTime(0, 8))
    assert cast("FrameTime", order.next_frame(FrameTime(0, 6))).frame > 8


def test_what_is_interpolated_does_not_see_what_others_make_of_a_result() -> None:
    order = OutwardOrder([FrameTime(0, t) for t in range(1, 30)], PassEnds(0, 0))
    for frame in (1, 2):
        (found,) = order.note(result(FrameTime(0, frame), square(10, 30)))
        found.probability_BHW[:] = 0
    between, last = order.note(result(FrameTime(0, 4), square(10, 30)))
    assert (between.frame, last.frame) == (3, 4)
    assert ((between.probability_BHW[0] > 0.5) == square(10, 30)).all()


def test_frames_in_order_are_each_visited_once() -> None:
    times = [FrameTime(0, t) for t in (5, 4, 6)]
    order = FrameOrder(times)
    assert (order.next_frame(), order.next_frame(times[0]), order.final) == (5, 4, 6)
    order.note(result(times[1], square(1, 2)))  # shown earlier, since the region grew
    assert order.next_frame(times[0]) == 6
    assert not order.waits_for(times[1])


def test_one_object_that_differs_is_enough() -> None:
    one, other = result(FrameTime(0, 1), square(10, 30), square(0, 10)), result(FrameTime(0, 2), square(10, 30), square(5, 15))
    assert measure_likeness(one, other) == 0.25
    nothing = result(FrameTime(0, 3), square(0, 0), square(0, 0))
    assert measure_likeness(nothing, nothing) == 0
    gone = result(FrameTime(0, 3), square(10, 30), square(0, 0))
    assert measure_likeness(one, gone) == 0
    assert measure_likeness(gone, gone) == 1


def test_a_border_that_moves_is_interpolated_halfway() -> None:
    """By log-odds: of soft borders four pixels apart the one between them lies two pixels from each."""
    columns, t = np.arange(40, dtype=np.float32), FrameTime(0, 2)

    def soft(border: int) -> NDArray[np.float32]:
        return np.broadcast_to(1 / (1 + np.exp((columns - border) / 2)), (1, 40, 40)).astype(np.float32)

    first, last = (TrackingResult(cast("Any", None), t, [sure], soft(border)) for border, sure in ((18, 0.8), (22, 0.6)))
    between = interpolate(first, last, 0.5, t)
    np.testing.assert_allclose(between.probability_BHW, soft(20), atol=1e-3)
    assert between.confidence_B == pytest.approx([0.7])
    np.testing.assert_allclose(interpolate(first, last, 0.25, t).probability_BHW, soft(19), atol=1e-3)


def test_a_segmenter_leaves_slices_out_unless_told_to_track_each() -> None:
    """A prism: the same labels, by less than half of the work."""
    truth = np.zeros((40, 40, 60), bool)
    truth[10:20, 10:20, 5:55] = True
    volume, counts, labels = Volume(np.where(truth, np.float32(0.8), np.float32(0.2)), np.eye(4)), list[int](), list[Any]()
    for every_slice in (True, False):
        network = Brightness()
        done: list[int] = []
        found = Segmenter(network).segment_volume(
            volume, [Point((15, 15, 30))], every_slice=every_slice, on_frame=lambda one, done=done: done.append(one.slice)
        )
        counts.append(len(network.counts.decoded))
        labels.append(found.labels)
        assert [*{row.slice for row in found.confidence}] == [*range(60)]
        assert sorted(done) == [*range(60)]
    assert (labels[0] == labels[1]).all()
    assert dice(labels[0] > 0, truth) > 0.8  # the network sees pixels of another size
    assert counts[1] < counts[0] / 2

"""A second core takes whole parts of the work; what is found is the same to the last bit."""

import threading
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch

from medical_sam2.model import device
from medical_sam2.model.device import helped, is_helped, iterate_on_cores, later
from medical_sam2.model.nano import nano
from medical_sam2.segmenter import Segmenter
from medical_sam2.tracking.view_tracker import ViewTracker
from medical_sam2.tracking.volume_tracker import FrameDone
from tests.phantoms import phantom

CPU = torch.device("cpu")


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(device, "second_core_is_free", lambda: True)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.usefixtures("two_threads")
def test_two_cores_find_what_one_finds(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, where = phantom(), set[int]()
    segmenter = Segmenter(nano(64), precision=precision, keep_mb=0.0)  # type: ignore[arg-type]
    encode = segmenter.network.encode

    def watched(frames: torch.Tensor) -> object:
        where.add(threading.get_ident())
        return encode(frames)

    segmenter._see = lambda frames: watched(segmenter.network.normalised(frames))  # type: ignore[assignment, union-attr]
    found = {}
    for threads in (2, 1):
        torch.set_num_threads(threads)
        where.clear()
        found[threads] = segmenter.segment_volume(case.volume, [case.prompt("click", 1, 2)], views="three", probability=True)
        assert (len(where) > 1) == (threads > 1)  # the helper saw frames ahead
        assert torch.get_num_threads() == threads
    assert np.array_equal(found[1].labels, found[2].labels)
    assert np.array_equal(found[1].probability[1], found[2].probability[1])
    assert found[1].confidence == found[2].confidence


@pytest.mark.usefixtures("two_threads")
def test_work_is_done_by_a_helper_in_the_same_precision_and_without_gradients() -> None:
    def state() -> tuple[int, bool, bool, int]:
        return threading.get_ident(), torch.is_autocast_enabled("cpu"), torch.is_grad_enabled(), torch.get_num_threads()

    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), helped(CPU, torch.bfloat16):
        begun = later(state)
        begun._begun.exception()  # type: ignore[union-attr]  # it has done it
        other, *rest = begun.result()
        assert is_helped()
    assert other != threading.get_ident()
    assert rest == [True, False, 1]
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_work_that_must_be_exact_is_exact_on_a_helper() -> None:
    matrix = torch.full((8, 8), 1.001)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), helped(CPU, torch.bfloat16):
        rounded = later(lambda: matrix @ matrix)
        with torch.autocast("cpu", enabled=False):
            exact = later(lambda: matrix @ matrix)
            exact._begun.exception()  # type: ignore[union-attr]
        rounded._begun.exception()  # type: ignore[union-attr]
        assert (rounded.result().dtype, exact.result().dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.usefixtures("two_threads")
def test_what_a_helper_has_not_begun_is_done_by_who_needs_it() -> None:
    wait = threading.Event()
    with torch.no_grad(), helped(CPU, None):
        busy = [later(wait.wait) for _ in range(device.HELPERS)]
        waiting, unwanted = later(threading.get_ident), later(threading.get_ident)
        assert waiting.result() == threading.get_ident()
        unwanted.drop()
        wait.set()
        assert all(one.result() for one in busy)


@pytest.mark.usefixtures("two_threads")
def test_nobody_helps_where_no_core_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "second_core_is_free", lambda: False)
    torch.set_num_threads(4)
    with torch.no_grad(), helped(CPU, None), helped(CPU, None):
        assert not is_helped()
        assert torch.get_num_threads() == 2, "as with a helper: numbers must not depend on what else the machine does"
        assert later(threading.get_ident).result() == threading.get_ident()
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("two_threads")
def test_nobody_helps_where_gradients_are_needed() -> None:
    with torch.enable_grad(), helped(CPU, None):
        assert not is_helped()


@pytest.mark.usefixtures("two_threads")
def test_an_error_of_the_helper_reaches_who_asks() -> None:
    def fail() -> None:
        raise ValueError("of the helper")

    with torch.no_grad(), helped(CPU, None):
        begun = later(fail)
        with pytest.raises(ValueError, match="of the helper"):
            begun.result()


def numbered(count: int, where: list[int]) -> Iterator[int]:
    for number in range(count):
        where.append(threading.get_ident())
        yield number


@pytest.mark.usefixtures("two_threads")
def test_streams_are_followed_on_both_cores_each_in_its_order() -> None:
    own, other, begun = list[int](), list[int](), threading.Event()

    def first() -> Iterator[int]:
        for number in numbered(50, own):
            yield number
            begun.wait(30)
            assert begun.is_set()

    def second() -> Iterator[int]:
        begun.set()
        for number in numbered(80, other):
            yield 100 + number

    with torch.no_grad(), helped(CPU, None):
        came = list(iterate_on_cores([first(), second()]))
        assert is_helped()
    assert [one for one in came if one < 100] == [*range(50)]
    assert [one for one in came if one >= 100] == [*range(100, 180)]
    assert {*own} == {threading.get_ident()}
    assert {threading.get_ident()}.isdisjoint(other)


def test_streams_follow_each_other_where_no_core_is_free() -> None:
    assert list(iterate_on_cores([iter("ab"), iter("cd"), iter("e")])) == [*"abcde"]


@pytest.mark.usefixtures("two_threads")
def test_a_stream_that_no_core_has_begun_with_is_followed_by_who_waits_for_it() -> None:
    wait, where = threading.Event(), list[int]()
    with torch.no_grad(), helped(CPU, None):
        busy = [later(wait.wait) for _ in range(device.HELPERS)]
        assert list(iterate_on_cores([iter("a"), numbered(2, where)])) == ["a", 0, 1]
        wait.set()
        assert all(one.result() for one in busy)
    assert {*where} == {threading.get_ident()}


@pytest.mark.usefixtures("two_threads")
def test_an_error_of_a_stream_reaches_who_follows_it_and_breaking_off_stops_both() -> None:
    def fail() -> Iterator[int]:
        yield 1
        raise ValueError("of the other stream")

    with torch.no_grad(), helped(CPU, None):
        with pytest.raises(ValueError, match="of the other stream"):
            list(iterate_on_cores([iter(()), fail()]))
        endless = iterate_on_cores([iter([0]), count(1)])
        assert [next(endless) for _ in range(3)] == [0, 1, 2]
        endless.close()
        assert is_helped()


@pytest.mark.usefixtures("two_threads")
def test_breaking_off_ends_both_ways_of_a_pass_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    case, segmenter, seen = phantom(), Segmenter(nano(64), keep_mb=0.0), list[int]()
    track = ViewTracker.track_frames

    def slowly(*given: Any, **named: Any) -> Iterator[Any]:
        for found in track(*given, **named):
            seen.append(found.frame)
            time.sleep(0.05)
            yield found

    def cancel(done: FrameDone) -> None:
        if done.done == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(ViewTracker, "track_frames", slowly)
    with pytest.raises(KeyboardInterrupt):
        segmenter.segment_volume(case.volume, [case.prompt("click", 1, 2)], on_frame=cancel)
    assert len(seen) <= 6 < case.volume.shape[2]


@pytest.mark.parametrize(("part", "free"), [(1.0, True), (0.6, False)])
def test_a_core_is_free_where_both_threads_compute_all_of_the_time(
    part: float, free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device.time, "thread_time", lambda: part * time.perf_counter())
    assert device._measure.__wrapped__(0) is free  # not what was found a while ago


def test_whether_a_core_is_free_is_measured() -> None:
    before = torch.get_num_threads()
    assert isinstance(device._measure(-1), bool)
    assert torch.get_num_threads() == before

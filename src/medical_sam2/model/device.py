"""Where the network computes: which device, how exactly, and what a second core of the processor does meanwhile.

More threads within each operation gain next to nothing where operations are small, and may round otherwise. So whole parts
that do not wait for each other are given to a helper, if there is one (`helped`): best a whole way of frames
(`iterate_on_cores`), or parts of one frame's work (`later`). They are the same operations, and so the same numbers. What it
has not begun when it is needed is done by whoever needs it: a helper that other programs keep from working costs little.
"""

import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from queue import Empty, SimpleQueue
from threading import Barrier, Event
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import torch

from medical_sam2.errors import ConfigError

Precision = Literal["auto", "fp32", "bf16"]
S = TypeVar("S")
T = TypeVar("T")
Submit: TypeAlias = Callable[[Callable[[], Any]], Future[Any]]
"""Hands work to a helper."""
_HELPER: ContextVar["_Helper | None"] = ContextVar("_HELPER", default=None)
_HALVED: ContextVar[bool] = ContextVar("_HALVED", default=False)
HELPERS = 2  # threads on the second core: the next frame is seen, and what the present one needs does not wait for that
SIDE = 256  # of the matrices whose products are computed to see whether a second core is free
LOOKS = 4  # at most: threads of the operation before spin for some 20 ms, and seem to be another program
LOOK_S = 0.06 if sys.platform == "win32" else 0.01  # Windows counts a thread's time in ticks of 16 ms
PATIENCE_S = 0.02  # between two looks at whether a stream has ended
MOST_THREADS = max(64, 4 * (os.cpu_count() or 1))  # beyond, OpenMP ends the process where it gets no memory for them
FREE = 0.8  # share of the time that each of two threads computes, at least, where a second core is free


def choose_device(name: str) -> torch.device:
    """The device called so; "auto" takes CUDA, then MPS, then the processor; raises ConfigError if it is not here."""
    # torch names devices that are not there, and refuses others only when they are used: both are told here
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device {name!r}", "choose auto, cpu, cuda, cuda:N or mps") from None
    absent = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if absent or device.type not in {"cpu", "cuda", "mps"}:
        raise ConfigError(f"there is no device {name!r} here", "choose auto or cpu; `medsam2 doctor` lists what there is")
    return device


def choose_precision(name: str, device: torch.device) -> Literal["fp32", "bf16"]:
    """ "bf16" or "fp32"; "auto" takes bf16 where the device computes it by itself."""
    if name not in {"auto", "fp32", "bf16"}:
        raise ConfigError(f"unknown precision {name!r}", "choose auto, fp32 or bf16")
    if name != "auto":
        return "bf16" if name == "bf16" else "fp32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if device.type == "cpu" and _processor_computes_bf16() else "fp32"


def _processor_computes_bf16() -> bool:
    """Whether the processor has bf16, and oneDNN is not held to instructions that lack it (`ONEDNN_MAX_CPU_ISA`)."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16")) and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads that cannot work; raises ConfigError."""
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise ConfigError(f"{threads} threads cannot work", f"give `threads=1` to {MOST_THREADS}")


@dataclass(eq=False)
class _Helper:
    """Another core."""

    submit: Submit  # hands work to it
    taken: bool = False  # whether it follows a stream: parts of other work would only take turns with that


class Later(Generic[T]):
    """What will be there when it is asked for.

    Args:
        work: makes it.
        helper: who may begin with it now; without one nothing happens before it is asked for.
    """

    def __init__(self, work: Callable[[], T], helper: Submit | None) -> None:
        self._work = work
        self._begun: Future[T] | None = helper(work) if helper else None

    def result(self) -> T:
        """What the work gives; here and now unless it is begun."""
        if self._begun is None or self._begun.cancel():
            return self._work()
        return self._begun.result()

    def drop(self) -> None:
        """Nobody wants it any more: it is over when this returns."""
        if self._begun is not None and not self._begun.cancel():
            self._begun.exception()


def later(work: Callable[[], T]) -> Later[T]:
    """Begin with work on another core, if there is one, which is asked for afterwards, in the precision of here and now."""
    if not is_helped() or (helper := _HELPER.get()) is None:
        return Later(work, None)
    return Later(work if torch.is_autocast_enabled("cpu") else partial(_exactly, work), helper.submit)


def map_on_cores(work: Callable[[S], T], parts: Sequence[S]) -> list[T]:
    """What the work gives for each part: for the first one here and now, for the others on another core if there is one."""
    others = [later(partial(work, part)) for part in parts[1:]]
    first = [work(part) for part in parts[:1]]
    return [*first, *(other.result() for other in others)]


def iterate_on_cores(streams: Sequence[Iterator[T]]) -> Generator[T]:
    """What streams give: the first one's here, the others' on another core if there is one, in between as they come.

    Each gives its own in its own order. Those that no other core has begun with when the first one ends follow it here.
    """
    helper = _HELPER.get()
    if helper is None or helper.taken or len(streams) < 2:
        yield from chain(*streams)
        return
    first, others, helper.taken = streams[0], streams[1:], True
    come, stop = SimpleQueue[T](), Event()

    def follow(stream: Iterator[T]) -> None:
        for item in stream:
            come.put(item)
            if stop.is_set():
                return
        helper.taken = False

    begun = [helper.submit(partial(copy_context().run, partial(follow, stream))) for stream in others]
    try:
        for item in first:
            yield item
            while not come.empty():
                yield come.get()
        helper.taken = False
        for stream, work in zip(others, begun, strict=True):
            if work.cancel():
                yield from stream
                continue
            while not (work.done() and come.empty()):
                with suppress(Empty):
                    yield come.get(timeout=PATIENCE_S)
            work.result()
    finally:
        stop.set()
        wait([work for work in begun if not work.cancel()])
        helper.taken = False


def _exactly(work: Callable[[], T]) -> T:
    with torch.autocast("cpu", enabled=False):
        return work()


def is_helped() -> bool:
    """Whether another core takes work."""
    helper = _HELPER.get()
    return helper is not None and not helper.taken


@contextmanager
def helped(device: torch.device, precision: torch.dtype | None) -> Iterator[None]:
    """A helper, where torch may use several cores and one is free.

    Both have half of the threads, and so has whoever gets no helper: numbers must not depend on what else the machine does.

    Args:
        device: only a processor is helped: an accelerator computes beside Python anyway.
        precision: that autocast computes in; None for none.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads < 2 or torch.is_grad_enabled() or _HALVED.get():
        yield
        return

    free = second_core_is_free()
    torch.set_num_threads(threads // 2)
    pending = set[Future[Any]]()

    def submit(work: Callable[[], Any]) -> Future[Any]:
        pending.add(future := _helpers(threads // 2, precision).submit(work))
        future.add_done_callback(pending.discard)
        return future

    halved, token = _HALVED.set(True), _HELPER.set(_Helper(submit) if free else None)
    try:
        yield
    finally:
        _HELPER.reset(token)
        _HALVED.reset(halved)
        wait([*pending])
        torch.set_num_threads(threads)


@lru_cache(maxsize=2)
def _helpers(threads: int, precision: torch.dtype | None) -> ThreadPoolExecutor:
    """Threads of the second core, which stay: the first operations of a new one take some milliseconds longer."""

    def prepare() -> None:  # gradients and precision are a thread's own
        torch.set_grad_enabled(False)
        torch.set_num_threads(threads)
        if precision is not None:
            torch.autocast("cpu", dtype=precision).__enter__()

    return ThreadPoolExecutor(HELPERS, "helper", prepare)


def second_core_is_free() -> bool:
    """Whether two threads compute nearly all of the time, measured once a while: other programs may need a core."""
    return _measure(int(time.monotonic() // 60))


@lru_cache(maxsize=1)
def _measure(_minute: int) -> bool:
    threads, matrix, start = torch.get_num_threads(), torch.empty(SIDE, SIDE).fill_(1), Barrier(2)
    shares: list[list[float]] = [[] for _ in range(LOOKS)]

    def compute(_: int) -> None:
        torch.set_num_threads(1)
        start.wait()
        for seen in shares:
            begin, own = time.perf_counter(), time.thread_time()
            while (took := time.perf_counter() - begin) < LOOK_S:
                torch.mm(matrix, matrix)
            seen.append((time.thread_time() - own) / took)
            if _is_free(shares):
                return

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compute, range(2)))
    torch.set_num_threads(threads)
    return _is_free(shares)


def _is_free(shares: Sequence[Sequence[float]]) -> bool:
    return any(len(seen) == 2 and min(seen) > FREE for seen in shares)

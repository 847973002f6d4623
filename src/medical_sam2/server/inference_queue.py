"""The network, for many sessions: one asks at a time, clicks go before tracking; tracking in the background; freed memory."""

import ctypes
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, cast

from medical_sam2.errors import MedicalSam2Error
from medical_sam2.prompts import Prompt
from medical_sam2.server import refusal_for
from medical_sam2.volume import Segmentation, Volume

if TYPE_CHECKING:  # torch is loaded while the page is already there
    from medical_sam2.segmenter import Segmenter
    from medical_sam2.tracking.frames import FrameDone

ARENAS = -8  # M_ARENA_MAX of <malloc.h>
MOST_ARENAS = 2  # glibc makes one for each thread otherwise, and each keeps what its thread once needed


class PriorityLock:
    """Lets one through at a time: whoever waits for a click first, then whoever tracks, in turn."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: tuple[deque[object], deque[object]] = (deque(), deque())
        self._busy = False

    @contextmanager
    def held(self, *, urgent: bool) -> Iterator[None]:
        """Inside, nobody else is."""
        self._enter(urgent)
        try:
            yield
        finally:
            self._leave()

    def give_way(self) -> None:
        """Let others go first, from inside, if any wait."""
        with self._changed:
            if not any(self._waiting):
                return
        self._leave()
        self._enter(urgent=False)

    def _enter(self, urgent: bool) -> None:
        ticket = object()
        with self._changed:
            self._waiting[0 if urgent else 1].append(ticket)
            self._changed.wait_for(lambda: not self._busy and self._next() is ticket)
            (self._waiting[0] or self._waiting[1]).popleft()
            self._busy = True

    def _next(self) -> object:
        return (self._waiting[0] or self._waiting[1])[0]

    def _leave(self) -> None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()


class InferenceQueue:
    """Where all sessions ask the network.

    Args:
        load: makes the segmenter; called once, when it is first needed.
    """

    def __init__(self, load: "Callable[[], Segmenter]") -> None:
        self._load, self._loading = load, threading.Lock()
        self._lock = PriorityLock()
        self._idle, self._idling = threading.Lock(), cast("threading.Thread | None", None)
        self._tasks: deque[Callable[[Segmenter], object]] = deque()

    @cached_property
    def _segmenter(self) -> "Segmenter":
        return self._load()

    def warm_up(self) -> None:
        """Load the network, if that was not done yet."""
        with self._loading:
            _ = self._segmenter

    @contextmanager
    def segmenter(self, *, urgent: bool) -> "Iterator[Segmenter]":
        """The network, for oneself, while the context lasts."""
        self.warm_up()
        with self._lock.held(urgent=urgent):
            yield self._segmenter

    def segment_volume(
        self,
        volume: Volume,
        prompts: Sequence[Prompt],
        *,
        on_frame: "Callable[[FrameDone], None] | None" = None,
        **options: Any,
    ) -> Segmentation:
        """As `Segmenter.segment_volume`, in turn with all others, who go first between two frames."""

        def go_on(done: "FrameDone") -> None:
            if on_frame:
                on_frame(done)
            self.give_way()

        with self.segmenter(urgent=False) as segmenter:
            return segmenter.segment_volume(volume, prompts, on_frame=go_on, **options)

    def give_way(self) -> None:
        """Let clicks go first, between two frames of tracking."""
        self._lock.give_way()

    def when_idle(self, tasks: "Sequence[Callable[[Segmenter], object]]") -> None:
        """Do these in the background, one after the other, each in turn with all others; the next list takes their place."""
        with self._idle:
            self._tasks = deque(tasks)
            if self._idling is None:
                self._idling = threading.Thread(target=self._work_idle, daemon=True)
                self._idling.start()

    def end_idle(self, seconds: float | None = None) -> None:
        """Drop what waits for an idle moment, and wait for what goes on."""
        with self._idle:
            self._tasks.clear()
            thread = self._idling
        if thread is not None:
            thread.join(seconds)

    def _work_idle(self) -> None:
        while True:
            with self._idle:
                if not self._tasks:
                    self._idling = None
                    return
                task = self._tasks.popleft()
            with suppress(MedicalSam2Error, MemoryError), self.segmenter(urgent=False) as segmenter:
                task(segmenter)  # what goes wrong here is told to whoever really asks


@dataclass(frozen=True)
class JobEvent:
    """What a job reports."""

    kind: Literal["frame", "done", "cancelled", "failed"]  # what happened
    done: int = 0  # frames tracked
    total: int = 0  # frames, as far as they are known
    plane: str = ""  # of the frame
    t: int = 0  # the frame
    message: str = ""  # for the user
    seconds: float = 0.0  # since the job began: whoever listens only now can tell how long the rest may take

    @property
    def last(self) -> bool:
        """Whether nothing follows."""
        return self.kind != "frame"


class Cancelled(Exception):  # noqa: N818 - it is no error
    """Somebody stopped the job."""


@dataclass(eq=False)
class TrackingJob:
    """Tracking in a thread of its own: it reports frame by frame, and can be cancelled at any of them."""

    work: Callable[["TrackingJob"], JobEvent]  # does it, reports, and returns the last event; may raise `Cancelled`
    events: list[JobEvent] = field(default_factory=list[JobEvent])
    keep: bool = False  # whether what was done until it is stopped is kept
    _stop: threading.Event = field(default_factory=threading.Event)

    def start(self) -> "TrackingJob":
        """Begin."""
        self._began = monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def report(self, event: JobEvent) -> None:
        """One more event; raises Cancelled if the job is to stop."""
        if self._stop.is_set():
            raise Cancelled
        self.events.append(replace(event, seconds=monotonic() - self._began))

    def cancel(self, *, keep: bool = False) -> None:
        """Stop at the next frame."""
        self.keep = keep
        self._stop.set()

    def wait(self, seconds: float | None = None) -> None:
        """Until it has ended."""
        self._thread.join(seconds)

    @property
    def running(self) -> bool:
        """Whether more events will come."""
        return not (self.events and self.events[-1].last)

    def _run(self) -> None:
        try:
            last = self.work(self)
        except Cancelled:
            last = JobEvent("cancelled")
        except Exception as error:
            refusal = refusal_for(error)
            defect = f"this is a defect of medsam2 ({type(error).__name__}); please report it"
            last = JobEvent("failed", message=refusal.problem if refusal else defect)
        self.events.append(last)


def limit_heaps() -> None:
    """Let all threads share a few heaps; where the C library is another one than glibc, nothing happens."""
    with suppress(OSError, AttributeError):
        _c_library().mallopt(ARENAS, MOST_ARENAS)


def trim_memory() -> None:
    """Give unused memory back to the system: a server that runs for weeks must not keep the peak of every thread."""
    with suppress(OSError, AttributeError):
        _c_library().malloc_trim(0)


def _c_library() -> ctypes.CDLL:
    if not sys.platform.startswith("linux"):
        raise OSError("no glibc")
    return ctypes.CDLL(None)

"""The network, for many sessions: one asks at a time, clicks go before tracking."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is loaded while the page is already there
    from medical_sam2.segmenter import Segmenter


class Turnstile:
    """Lets one through at a time: whoever waits for a click first, then whoever tracks, in turn."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: tuple[deque[object], deque[object]] = (deque(), deque())
        self._busy = False

    @contextmanager
    def passing(self, *, urgent: bool) -> Iterator[None]:
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


class Desk:
    """Where all sessions ask.

    Args:
        load: makes the segmenter; called once, when it is first needed.
    """

    def __init__(self, load: "Callable[[], Segmenter]") -> None:
        self._load, self._loading = load, threading.Lock()
        self._turnstile = Turnstile()

    @cached_property
    def _segmenter(self) -> "Segmenter":
        return self._load()

    def warm_up(self) -> None:
        """Load the network, if that was not done yet."""
        with self._loading:
            _ = self._segmenter

    @contextmanager
    def asking(self, *, urgent: bool) -> "Iterator[Segmenter]":
        """The network, for oneself, while the context lasts."""
        self.warm_up()
        with self._turnstile.passing(urgent=urgent):
            yield self._segmenter

    def give_way(self) -> None:
        """Called between two frames by who tracks."""
        self._turnstile.give_way()

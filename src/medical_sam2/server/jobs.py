"""Tracking in the background: told frame by frame, to be cancelled at any of them."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Event:
    """What is told of a job.

    Args:
        kind: what happened.
        done: frames tracked.
        total: frames, as far as they are known.
        plane: of the frame.
        t: the frame.
        message: for the user.
    """

    kind: Literal["frame", "done", "cancelled", "failed"]
    done: int = 0
    total: int = 0
    plane: str = ""
    t: int = 0
    message: str = ""

    @property
    def last(self) -> bool:
        """Whether nothing follows."""
        return self.kind != "frame"


class Cancelled(Exception):  # noqa: N818 - it is no error
    """Somebody stopped the job."""


@dataclass(eq=False)
class Job:
    """Work that goes on in a thread of its own.

    Args:
        work: does it, tells of it, and returns the last event; may raise `Cancelled`.
        explain: what to tell the user of any other exception.
    """

    work: Callable[["Job"], Event]
    explain: Callable[[BaseException], str]
    events: list[Event] = field(default_factory=list[Event])
    _stop: threading.Event = field(default_factory=threading.Event)

    def start(self) -> "Job":
        """Begin."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def tell(self, event: Event) -> None:
        """One more event.

        Raises:
            Cancelled: the job is to stop.
        """
        if self._stop.is_set():
            raise Cancelled
        self.events.append(event)

    def cancel(self) -> None:
        """Stop at the next frame."""
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
            last = Event("cancelled")
        except Exception as error:
            last = Event("failed", message=self.explain(error))
        self.events.append(last)

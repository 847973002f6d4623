"""How far tracking is: a bar on a terminal, a line now and then elsewhere; on standard error."""

import sys
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from medical_sam2.tracking.volume_tracker import FrameDone

EVERY_S = 10.0


class Progress(AbstractContextManager["Progress"]):
    """Told of each tracked frame."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.bar: Bar | None = _bar() if sys.stderr.isatty() and not quiet else None
        self._quiet, self._start, self._said = quiet, time.monotonic(), time.monotonic()
        self._task = None if self.bar is None else self.bar.add_task("tracking", total=None)

    def __enter__(self) -> "Progress":
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, frame: "FrameDone") -> None:
        """One more frame."""
        self.tell(f"{_plane(frame.view)} slice {frame.slice}, object {_few(frame.objects)}", frame.done, frame.total, "slices")

    def tell(self, where: str, done: int, total: int, what: str, share: float | None = None) -> None:
        """So many of all are done; `share` of the work, where some are more work than others."""
        if self.bar is not None and self._task is not None:
            self.bar.update(self._task, description=where, completed=done, total=total)
        elif not self._quiet and time.monotonic() - self._said >= EVERY_S:
            self._said = time.monotonic()
            part = share or done / total
            left = (self._said - self._start) * (1 - part) / part
            minutes = f"{left:.0f} s" if left < 120 else f"{left / 60:.0f} min"
            sys.stderr.write(f"{done} of {total} {what}, {where}, about {minutes} left\n")
            sys.stderr.flush()


def _bar() -> "Bar":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _plane(code: str) -> str:
    from medical_sam2.views import View

    return View(code).name


def _few(labels: tuple[int, ...], most: int = 5) -> str:
    return ", ".join(map(str, labels[:most])) + " …" * (len(labels) > most)

"""Work on numbers in limited child processes: what kills one is told, and the others go on.

Many numbers share a process, since starting one costs a hundred times what reading a small file does.
"""

import os
import re
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path

ADDRESSES = 6 << 30
"""More than may be used, so that using too much is seen and not only refused by the system."""
PATIENCE = 12
"""Seconds on the wall for each second of processor time: the machine may be busy with others."""
LIBTIFF = re.compile(r"(\w+: [^\n]*\n)+\s*")
"""What libtiff says itself, in C, on descriptor 2, beside the error that it hands over: NAME OF A FUNCTION: WORDS."""
PEAK = re.compile(r"VmHWM:\s*(\d+)")


@dataclass(frozen=True)
class Outcome:
    """What became of one number.

    Args:
        word: "read", "refused", "asked", or what was wrong.
        said: the message, or what was wrong in detail.
        seconds: of processor time.
        peak_mb: largest resident memory.
    """

    word: str
    said: str = ""
    seconds: float = 0.0
    peak_mb: float = 0.0


Work = Callable[[int], Outcome]


@dataclass(frozen=True)
class _Child:
    process: ForkProcess
    todo: list[int]


@dataclass(frozen=True)
class Limits:
    """What one number may take: seconds of a processor, and resident memory."""

    seconds: float = 10.0
    memory_mb: float = 2048.0


def run(work: Work, numbers: Sequence[int], *, processes: int = 1, limits: Limits = Limits()) -> Iterator[tuple[int, Outcome]]:
    """The outcome of each number, in the order in which they end."""
    context, children = get_context("fork"), dict[Connection, _Child]()

    def start(todo: list[int]) -> None:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(work, todo, limits, sender), daemon=True)
        process.start()
        sender.close()
        children[receiver] = _Child(process, todo)

    for n in range(processes):
        start(list(numbers[n::processes]))
    while children:
        for pipe in wait(list(children)):
            child = children[pipe]  # type: ignore[index]
            try:
                outcome: Outcome = pipe.recv()  # type: ignore[union-attr]
            except EOFError:
                del children[pipe]  # type: ignore[arg-type]
                child.process.join()
                if child.todo:
                    yield child.todo[0], _death(child.process.exitcode or 0)
                    start(child.todo[1:])
            else:
                yield child.todo.pop(0), outcome


def _death(code: int) -> Outcome:
    if -code in (signal.SIGPROF, signal.SIGALRM):
        return Outcome("hang", signal.Signals(-code).name)
    return Outcome("signal", signal.Signals(-code).name) if code < 0 else Outcome("exit", f"code {code}")


def _serve(work: Work, numbers: list[int], limits: Limits, pipe: Connection) -> None:
    """What a child does: one number after the other, each with its own time, memory, and ear for what is printed."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryFile() as ear:
        for descriptor in (1, 2):
            os.dup2(ear.fileno(), descriptor)
        for number in numbers:
            Path("/proc/self/clear_refs").write_text("5")
            start = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, limits.seconds)
            signal.setitimer(signal.ITIMER_REAL, limits.seconds * PATIENCE)
            outcome = work(number)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            pipe.send(_measured(outcome, time.process_time() - start, ear.fileno(), limits.memory_mb))


def _measured(outcome: Outcome, seconds: float, ear: int, most_mb: float) -> Outcome:
    found = PEAK.search(Path("/proc/self/status").read_text())
    peak_mb = int(found[1]) / 1024 if found else 0.0
    outcome = replace(outcome, seconds=seconds, peak_mb=peak_mb)
    if length := os.fstat(ear).st_size:
        heard = os.pread(ear, 4096, 0).decode("utf-8", "replace")
        os.ftruncate(ear, 0)
        os.lseek(ear, 0, os.SEEK_SET)
        if not LIBTIFF.fullmatch(heard):
            return replace(outcome, word="printed", said=f"{length} bytes: {heard[-500:]}")
    return replace(outcome, word="memory", said=f"{peak_mb:.0f} MB: {outcome.said}") if peak_mb > most_mb else outcome

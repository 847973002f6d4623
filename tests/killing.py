"""Kills a writer at each point at which it touches the disk, as kill -9 does: nothing is flushed, nothing is put in order."""

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from itertools import count

POINTS = {"os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir", "os.link"}
CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
KILLED = 9


def each_death(
    begin: Callable[[], object], act: Callable[[], object], judge: Callable[[], object], *, first: int = 1, step: int = 1
) -> int:
    """Let `act` die in a process of its own before its first change on the disk, then before its second, and so on.

    Args:
        begin: puts the disk into the state that `act` finds, before each attempt.
        act: the writer.
        judge: looks at what is left after each death, and after the attempt that nobody killed.
        first: change before which it dies first.
        step: from one death to the next, where each would take too long.

    Returns:
        How many times it died.
    """
    for deaths, number in enumerate(count(first, step)):
        begin()
        status = _in_a_child(act, number)
        assert status in (0, KILLED), f"the writer failed by itself at point {number}: {status}"
        judge()
        if status == 0:
            return deaths
    raise AssertionError


def _in_a_child(act: Callable[[], object], number: int) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of the test runner do not go along, and need not
        child = os.fork()
    if child == 0:
        try:
            _die_at(number)
            act()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _die_at(number: int) -> None:
    points = count(1)
    flush = os.fsync

    def point() -> None:
        if next(points) == number:
            os._exit(KILLED)

    def watched(descriptor: int) -> None:
        point()
        flush(descriptor)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in POINTS or (event == "open" and int(arguments[2] or 0) & CHANGING):  # type: ignore[call-overload]
            point()

    os.fsync = watched
    sys.addaudithook(hook)

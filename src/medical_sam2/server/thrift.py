"""Memory that was freed goes back to the system: a server that runs for weeks must not keep the peak of every thread."""

import ctypes
import sys
from contextlib import suppress

ARENAS = -8  # M_ARENA_MAX of <malloc.h>
MOST_ARENAS = 2  # glibc makes one for each thread otherwise, and each keeps what its thread once needed


def share() -> None:
    """Let all threads share a few heaps; where the C library is another one than glibc, nothing happens."""
    with suppress(OSError, AttributeError):
        _c().mallopt(ARENAS, MOST_ARENAS)


def give_back() -> None:
    """Give unused memory back now; where the C library is another one than glibc, nothing happens."""
    with suppress(OSError, AttributeError):
        _c().malloc_trim(0)


def _c() -> ctypes.CDLL:
    if not sys.platform.startswith("linux"):
        raise OSError("no glibc")
    return ctypes.CDLL(None)

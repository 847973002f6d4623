"""What becomes of memory that was freed, where the C library is glibc; nothing happens where it is another one.

A server that runs for weeks gives it back to the system: it must not keep the peak of every thread. A command that ends when
its work is done uses it again: a page that the system has to provide anew takes longer than what is computed in it.
"""

import ctypes
import sys
from contextlib import suppress

ARENAS, TRIM, MAP = -8, -1, -3  # M_ARENA_MAX, M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of <malloc.h>
MOST_ARENAS = 2  # glibc makes one for each thread otherwise, and each keeps what its thread once needed
KEPT, LARGE = 256 * 2**20, 32 * 2**20  # bytes that stay, and from which on a block is given back by itself all the same


def share() -> None:
    """Let all threads share a few heaps."""
    with suppress(OSError, AttributeError):
        _c().mallopt(ARENAS, MOST_ARENAS)


def reuse() -> None:
    """Keep up to 256 MB of freed memory for what comes next."""
    with suppress(OSError, AttributeError):
        _c().mallopt(TRIM, KEPT)
        _c().mallopt(MAP, LARGE)


def give_back() -> None:
    """Give unused memory back now."""
    with suppress(OSError, AttributeError):
        _c().malloc_trim(0)


def _c() -> ctypes.CDLL:
    if not sys.platform.startswith("linux"):
        raise OSError("no glibc")
    return ctypes.CDLL(None)

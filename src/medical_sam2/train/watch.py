"""Whether the other processes of a job are alive: each counts on a board that all can read, and one that stops is missed.

A process that waits in a collective call for a dead one would wait for ten minutes, or for ever. `torchrun` ends the others of
its own machine when one fails, but those of other machines learn nothing.
"""

import os
import sys
import threading
import time
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

BEAT_S = 2.0
EXIT = 3


class Watch:
    """Beats for this process, and ends it with a line when another has been silent for too long.

    Args:
        rank: of this process.
        count: of processes.
        patience_s: silence after which a process counts as dead.
        beat_s: between beats.
    """

    def __init__(self, rank: int, count: int, patience_s: float, beat_s: float = BEAT_S) -> None:
        self.rank, self.count, self.patience_s, self.beat_s = rank, count, patience_s, beat_s
        self._done = threading.Event()
        self._store = _board(rank, count)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more beats; the others are told that this is no death."""
        self._done.set()
        self._thread.join()
        try:
            self._store.set(f"end{self.rank}", "1")
            deadline = time.monotonic() + 5
            while self.rank == 0 and time.monotonic() < deadline and not self._all_ended():
                time.sleep(0.05)  # the board goes with the process that holds it
        except RuntimeError:
            pass

    def _all_ended(self) -> bool:
        return all(self._store.check([f"end{rank}"]) for rank in range(self.count))

    def _run(self) -> None:
        others = [rank for rank in range(self.count) if rank != self.rank]
        last: dict[int, tuple[int, float]] = {rank: (0, time.monotonic()) for rank in others}
        while not self._done.wait(self.beat_s):
            try:
                self._store.add(f"beat{self.rank}", 1)
                for rank, (seen, since) in last.items():
                    count = self._store.add(f"beat{rank}", 0)
                    if count != seen or self._store.check([f"end{rank}"]):
                        last[rank] = (count, time.monotonic())
                    elif time.monotonic() - since > self.patience_s:
                        self._end(f"process {rank} has been silent for {self.patience_s:.0f} s")
            except RuntimeError:  # the board itself is gone
                if not self._done.wait(5.0):
                    self._end("process 0 has ended")

    def _end(self, what: str) -> None:
        sys.stderr.write(f"{what}: the job ends; start it again with --resume, and it goes on at its checkpoint\n")
        sys.stderr.flush()
        os._exit(EXIT)  # the main thread may wait in a call that nothing interrupts


def _board(rank: int, count: int) -> TCPStore:
    """A board at the first process; the others learn its port through the process group."""
    host = os.environ.get("MASTER_ADDR", "localhost")
    board = TCPStore(host, 0, count, True, timedelta(seconds=60), wait_for_workers=False) if rank == 0 else None
    told: list[int] = [board.port if board else 0]
    dist.broadcast_object_list(told, src=0)
    return board or TCPStore(host, told[0], count, False, timedelta(seconds=60), wait_for_workers=False)

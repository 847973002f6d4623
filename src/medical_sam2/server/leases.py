"""Clients of nnInteractive's protocol, each with an image in memory for as long as its lease."""

import secrets
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus

import numpy as np
from numpy.typing import NDArray

from medical_sam2.prompts import Prompt
from medical_sam2.server.refusals import Full, Refusal, Unusable
from medical_sam2.volume import Volume

IDLE_S, LIVENESS_S = 600.0, 60.0
MOST_LEASES, MOST_UNDO = 8, 50


@dataclass(eq=False)
class Lease:
    """What a client has said so far.

    Args:
        used: when it last did something.
        alive: when it last said that it is there.
    """

    used: float = field(default_factory=time.monotonic)
    alive: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)
    volume: Volume | None = None
    labels: NDArray[np.uint8] | None = None
    said: tuple[Prompt, ...] = ()
    heard: int = 0
    zoom: bool = True
    window: str = "auto"
    past: list[tuple[NDArray[np.uint8], tuple[Prompt, ...], int]] = field(default_factory=list)

    def begin(self, volume: Volume) -> None:
        """An image of which nothing was said yet."""
        self.volume, self.labels = volume, np.zeros(volume.shape, np.uint8)
        self.said, self.heard, self.past = (), 0, []

    def image(self) -> tuple[Volume, NDArray[np.uint8]]:
        """The image, and its labels as they are.

        Raises:
            Unusable: none was sent.
        """
        if self.volume is None or self.labels is None:
            raise Unusable("no image was sent; call set_image first")
        return self.volume, self.labels

    def say(self, *prompts: Prompt) -> None:
        """One more gesture, which can be undone."""
        _, labels = self.image()
        self.past = [*self.past, (labels, self.said, self.heard)][-MOST_UNDO:]
        self.said = (*self.said, *prompts)


class Leases:
    """All clients of the protocol."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leases: dict[str, Lease] = {}

    def claim(self) -> str:
        """A token for a new client.

        Raises:
            Full: there are too many.
        """
        with self._lock:
            now = time.monotonic()
            alive = {k: x for k, x in self._leases.items() if now - x.used < IDLE_S and now - x.alive < 2 * LIVENESS_S}
            self._leases = alive
            if len(alive) >= MOST_LEASES:
                raise Full("too many clients are connected; close one")
            token = secrets.token_urlsafe(24)
            alive[token] = Lease()
            return token

    def get(self, token: str, *, used: bool = True) -> Lease:
        """The lease of a token.

        Raises:
            Refusal: it has ended (410).
        """
        lease = self._leases.get(token)
        now = time.monotonic()
        if lease is None or now - lease.used > IDLE_S:
            raise Refusal(HTTPStatus.GONE, "this lease has ended; connect again")
        lease.alive = now
        if used:
            lease.used = now
        return lease

    def release(self, token: str) -> None:
        """Forget a client."""
        with self._lock:
            self._leases.pop(token, None)

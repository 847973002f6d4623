"""The clients of nnInteractive's protocol: what each has sent and said, and what the network makes of it.

All gestures on a structure count together: what was drawn as inside or outside, a box in 3D, and slices that were outlined hold
through every later gesture, until one says otherwise (`contradictions`). A later gesture corrects what was found; a box in 3D
has it found anew, from all gestures.
"""

import secrets
import threading
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medical_sam2.prompts import Box, Prompt
from medical_sam2.server.inference_queue import InferenceQueue
from medical_sam2.server.refusals import InvalidRequest, LimitReached, Refusal
from medical_sam2.strokes import says_where
from medical_sam2.tracking.contradictions import drop_contradicted, hold_settled, voxels_of
from medical_sam2.volume import Volume

IDLE_S, LIVENESS_S = 600.0, 60.0
MOST_LEASES, MOST_UNDO = 8, 50
Moment: TypeAlias = tuple[NDArray[np.uint8], tuple[Prompt, ...], tuple[Prompt, ...], bool]
"""Labels, gestures, those that they do not include yet, whether they began as an initial segmentation."""


@dataclass(eq=False)
class Lease:
    """A client: its image, its gestures, and what was made of them."""

    used: float = field(default_factory=time.monotonic)  # when it last did something
    alive: float = field(default_factory=time.monotonic)  # when it was last heard of
    lock: threading.Lock = field(default_factory=threading.Lock)
    volume: Volume | None = None
    labels: NDArray[np.uint8] | None = None
    prompts: tuple[Prompt, ...] = ()  # its gestures, less what later ones say otherwise
    fresh: tuple[Prompt, ...] = ()  # those that the labels do not include yet
    given: bool = False  # whether the labels began as an initial segmentation
    zoom: bool = True
    window: str = "auto"
    past: list[Moment] = field(default_factory=list)  # before each gesture

    def begin(self, volume: Volume) -> None:
        """An image without gestures."""
        self.volume, self.labels = volume, np.zeros(volume.shape, np.uint8)
        self.prompts, self.fresh, self.given, self.past = (), (), False, []

    def image(self) -> tuple[Volume, NDArray[np.uint8]]:
        """The image, and its labels as they are.

        Raises:
            InvalidRequest: none was sent.
        """
        if self.volume is None or self.labels is None:
            raise InvalidRequest("no image was sent; call set_image first")
        return self.volume, self.labels

    def add(self, prompt: Prompt) -> None:
        """One more gesture, which can be undone; it counts before those that it contradicts."""
        volume, _ = self.image()
        prompts, fresh = (drop_contradicted(own, prompt, volume.shape) for own in (self.prompts, self.fresh))
        self._remember()
        self.prompts, self.fresh = (*prompts, prompt), (*fresh, prompt)

    def give(self, labels: NDArray[np.uint8]) -> None:
        """An initial segmentation in place of all gestures, which can be undone."""
        self._remember()
        self.labels, self.prompts, self.fresh, self.given = labels, (), (), True

    def found(self, labels: NDArray[np.uint8]) -> None:
        """What all gestures make the structure."""
        self.labels, self.fresh = labels, ()

    def undo(self) -> None:
        """Back to before the last gesture."""
        self.labels, self.prompts, self.fresh, self.given = self.past.pop()

    def _remember(self) -> None:
        _, labels = self.image()
        self.past = [*self.past, (labels, self.prompts, self.fresh, self.given)][-MOST_UNDO:]


class Leases:
    """All clients of the protocol."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leases: dict[str, Lease] = {}

    def claim(self) -> str:
        """A token for a new client.

        Raises:
            LimitReached: there are too many.
        """
        with self._lock:
            now = time.monotonic()
            alive = {k: x for k, x in self._leases.items() if now - x.used < IDLE_S and now - x.alive < 2 * LIVENESS_S}
            self._leases = alive
            if len(alive) >= MOST_LEASES:
                raise LimitReached("too many clients are connected; close one")
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


def predict_labels(lease: Lease, queue: InferenceQueue) -> NDArray[np.uint8]:
    """What was found before, corrected by the gestures since; found anew where there was nothing, or for a box in 3D."""
    volume, before = lease.image()
    options: dict[str, Any] = {"window": lease.window, "zoom": lease.zoom}
    solid = any(isinstance(prompt, Box) and prompt.solid and prompt.positive for prompt in lease.fresh)
    if not before.any() or (solid and not lease.given):
        return (queue.segment_volume(volume, lease.prompts, **options).labels > 0).astype(np.uint8)
    asked = [prompt for prompt in lease.fresh if not _is_followed(prompt, before)]
    found = queue.segment_volume(volume, asked, earlier=before, **options).labels if asked else before
    labels = (found > 0).astype(np.uint8)
    hold_settled(labels, before, lease.prompts, lease.fresh)
    return labels


def _is_followed(prompt: Prompt, labels: NDArray[np.uint8]) -> bool:
    """Whether a prompt says of nothing but what is no structure yet that it is none."""
    if says_where(prompt):
        return False
    there = labels[prompt.slices] if isinstance(prompt, Box) else labels[tuple(voxels_of(prompt, labels.shape).T)]
    return not there.any()

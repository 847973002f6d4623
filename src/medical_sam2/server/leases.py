"""The clients of nnInteractive's protocol: what each has sent and said, and what the network makes of it.

All gestures on a structure count together: what was drawn as inside or outside, a box in 3D, and slices that were outlined
hold through every later gesture, until one says otherwise (`drop_contradicted`). A later gesture corrects what was found; a
box in 3D has it found anew, from all gestures.

A client waits for each answer, and gives up after a minute. So what takes longer than `ANSWER_S` goes on in a thread of its
own: the answer is what is known by then, from the prompted slice on, and the next request gets the rest (`Prediction`).
"""

import secrets
import threading
import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medical_sam2.prompts import Box, Prompt, is_solid_box
from medical_sam2.server import InvalidRequest, LimitReached, Refusal
from medical_sam2.server.inference_queue import Cancelled, InferenceQueue, JobEvent, TrackingJob
from medical_sam2.strokes import says_where
from medical_sam2.tracking.limits import drop_contradicted, hold_settled, voxels_of
from medical_sam2.views import View
from medical_sam2.volume import Volume

if TYPE_CHECKING:
    from medical_sam2.tracking.frames import FrameDone

IDLE_S, LIVENESS_S = 600.0, 60.0
ANSWER_S = 10.0
MOST_LEASES, MOST_UNDO = 8, 50
Moment: TypeAlias = tuple[NDArray[np.uint8], tuple[Prompt, ...], tuple[Prompt, ...], bool]
"""Labels, gestures, those that they do not include yet, whether they began as an initial segmentation."""


@dataclass(eq=False)
class Prediction:
    """What the network makes of a client's gestures, while it does."""

    lease: "Lease"  # of the client, as it was when this began
    queue: InferenceQueue  # where the network is asked
    labels: NDArray[np.uint8] = field(init=False)  # as far as they are known
    done: bool = False
    error: Exception | None = None
    frames: int = 0  # that were tracked
    job: TrackingJob = field(init=False)

    def __post_init__(self) -> None:
        self.labels = self.lease.image()[1].copy()
        self.job = TrackingJob(self._work).start()

    def wait(self) -> NDArray[np.uint8]:
        """What is known after `ANSWER_S`, or sooner where that is all; raises whatever ended it."""
        self.job.wait(ANSWER_S)
        if self.error is not None:
            raise self.error
        return self.labels if self.done else self.labels.copy()

    def _work(self, job: TrackingJob) -> JobEvent:
        def on_frame(frame: "FrameDone") -> None:
            job.report(JobEvent("frame"))
            self.draw(frame)

        try:
            self.labels, self.done = predict_labels(self.lease, self.queue, on_frame), True
        except Cancelled:
            raise
        except Exception as error:
            self.error = error
            raise
        return JobEvent("done")

    # How far a correction spreads is settled at its end: until then it is shown on the slice that it begins on.
    def draw(self, frame: "FrameDone") -> None:
        """Show one more frame."""
        axes = self.lease.image()[0].orientation
        if self.frames == 0 or not _corrects(self.lease):
            stack = (view := View(frame.view)).apply(self.labels, axes)
            stack[view.slice_index(frame.slice, len(stack), axes)] = frame.masks_bhw.any(0)
        self.frames += 1


@dataclass(eq=False)
class Lease:
    """A client: its image, its gestures, and what was made of them."""

    used: float = field(default_factory=time.monotonic)  # when it last did something
    alive: float = field(default_factory=time.monotonic)  # when it was last heard of
    lock: threading.Lock = field(default_factory=threading.Lock)
    volume: Volume | None = None
    labels: NDArray[np.uint8] | None = None
    shown: NDArray[np.uint8] | None = None  # labels that the client has
    running: Prediction | None = None
    prompts: tuple[Prompt, ...] = ()  # its gestures, less what later ones say otherwise
    fresh: tuple[Prompt, ...] = ()  # those that the labels do not include yet
    given: bool = False  # whether the labels began as an initial segmentation
    zoom: bool = True
    window: str = "auto"
    past: list[Moment] = field(default_factory=list)  # before each gesture

    def begin(self, volume: Volume) -> None:
        """An image without gestures."""
        self.cancel()
        self.volume, self.labels = volume, np.zeros(volume.shape, np.uint8)
        self.shown = self.labels
        self.prompts, self.fresh, self.given, self.past = (), (), False, []

    def image(self) -> tuple[Volume, NDArray[np.uint8]]:
        """The image, and its labels as they are; raises InvalidRequest if none was sent."""
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
        self.cancel()
        self._remember()
        self.labels, self.prompts, self.fresh, self.given = labels, (), (), True
        self.shown = labels

    def predict(self, queue: InferenceQueue) -> NDArray[np.uint8]:
        """What all gestures make the structure, as far as that is known in time; asked again, it goes on.

        Raises:
            Exception: the network can do nothing with them.
        """
        if self.running is None or self.running.lease.fresh is not self.fresh:
            self.cancel()
            self.running = Prediction(copy(self), queue)
        labels = self.running.wait()
        if self.running.done:
            self.labels, self.fresh, self.running = labels, (), None
        return labels

    def undo(self) -> None:
        """Back to before the last gesture."""
        self.cancel()
        self.labels, self.prompts, self.fresh, self.given = self.past.pop()

    def cancel(self) -> None:
        """Stop what is being computed."""
        if self.running is not None:
            self.running.job.cancel()
            self.running = None

    def _remember(self) -> None:
        _, labels = self.image()
        self.past = [*self.past, (labels, self.prompts, self.fresh, self.given)][-MOST_UNDO:]


class Leases:
    """All clients of the protocol."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leases: dict[str, Lease] = {}

    def claim(self) -> str:
        """A token for a new client; raises LimitReached if there are too many."""
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
        """The lease of a token; raises Refusal (410) if it has ended."""
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
            if lease := self._leases.pop(token, None):
                lease.cancel()


def predict_labels(lease: Lease, queue: InferenceQueue, on_frame: "Callable[[FrameDone], None]") -> NDArray[np.uint8]:
    """What was found before, corrected by the gestures since; found anew where there was nothing, or for a box in 3D."""
    volume, before = lease.image()
    options: dict[str, Any] = {"window": lease.window, "zoom": lease.zoom, "on_frame": on_frame}
    if not _corrects(lease):
        return (queue.segment_volume(volume, lease.prompts, **options).labels > 0).astype(np.uint8)
    asked = [prompt for prompt in lease.fresh if not _is_followed(prompt, before)]
    found = queue.segment_volume(volume, asked, earlier=before, **options).labels if asked else before
    labels = (found > 0).astype(np.uint8)
    hold_settled(labels, before, lease.prompts, lease.fresh)
    return labels


def _corrects(lease: Lease) -> bool:
    """Whether the gestures correct what was found, which is not found anew."""
    solid = any(is_solid_box(prompt) for prompt in lease.fresh)
    return bool(lease.image()[1].any()) and (lease.given or not solid)


def _is_followed(prompt: Prompt, labels: NDArray[np.uint8]) -> bool:
    """Whether a prompt says of nothing but what is no structure yet that it is none."""
    if says_where(prompt):
        return False
    there = labels[prompt.slices] if isinstance(prompt, Box) else labels[tuple(voxels_of(prompt, labels.shape).T)]
    return not there.any()

"""Which image of the library to label next: the first, any, or the one that helps most by what `medsam2 suggest` goes by.

That is (1 − confidence) · (1 − likeness): likeness of what the network sees of the image to what it sees of the images that are
labelled; confidence of what was found in it here, none where nobody asked yet.
"""

import secrets
import tempfile
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medical_sam2.server.datastore import FINAL, DatastoreImage
from medical_sam2.server.library_sessions import LibrarySessions, Stamp, stamp
from medical_sam2.server.refusals import NotFound, Refusal
from medical_sam2.server.segmentation import SessionVolume
from medical_sam2.server.worker_process import ImageSource, ReadingOptions
from medical_sam2.tracking.confidence import Need, neediest
from medical_sam2.tracking.plan import PLANES, array_axis

USEFUL = "most_useful"
STRATEGIES: Mapping[str, str] = {
    USEFUL: "the image that is least like those that are labelled, and in which what was found is least sure",
    "first": "the first image without labels",
    "random": "any image without labels",
}
LOOK_S = 20.0  # at images that were not seen before; the others wait for the next time
DEPTHS = (0.25, 0.5, 0.75)  # of the axial slices that are looked at


@dataclass(frozen=True)
class ImageSuggestion:
    """An image, and why."""

    image: DatastoreImage
    weight: float  # how useful its labels would be, in [0, 2]; 0 where that was not asked
    reason: str


@dataclass(eq=False)
class ActiveLearning:
    """Chooses images that have no labels yet.

    Args:
        library: of the images.
    """

    library: LibrarySessions
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _seen: dict[Stamp, NDArray[np.float32] | None] = field(default_factory=dict[Stamp, "NDArray[np.float32] | None"])
    _sure: dict[Stamp, float] = field(default_factory=dict[Stamp, float])

    def remember(self, name: str, confidence: float | None) -> None:
        """How sure the network was of what it found in an image of the library; other images are left alone."""
        with suppress(NotFound):
            if confidence is not None:
                self._sure[stamp(self.library.datastore.get(name).entry.path)] = confidence

    def choose(self, strategy: str) -> ImageSuggestion | None:
        """An image without labels; nothing where all have some.

        Raises:
            NotFound: no such strategy.
        """
        if strategy not in STRATEGIES:
            raise NotFound("strategy")
        labels, images = self.library.datastore.labels(), self.library.datastore.images().values()
        done = [image for image in images if FINAL in labels.get(image.id, {})]
        left = [image for image in images if image not in done]
        if not left:
            return None
        if strategy == USEFUL and done:
            return self._most_useful(left, done)
        image = secrets.choice(left) if strategy == "random" else left[0]
        return ImageSuggestion(image, 0.0, "nothing is labelled yet" if strategy == USEFUL else STRATEGIES[strategy])

    def _most_useful(self, left: Sequence[DatastoreImage], done: Sequence[DatastoreImage]) -> ImageSuggestion | None:
        with self._lock:
            ends = time.monotonic() + LOOK_S
            known = [seen for image in done if (seen := self._look(image, ends)) is not None]
            mine = {i: seen for i, image in enumerate(left) if (seen := self._look(image, ends)) is not None}
        if not known or not mine:
            return ImageSuggestion(left[0], 0.0, "none of the images could be compared in time; ask again")
        needs = [Need(i, self._sure.get(stamp(left[i].entry.path), 0.0), _likeness(seen, known)) for i, seen in mine.items()]
        best = neediest(needs)[0]
        reason = f"confidence {best.confidence:.2f}, likeness to what is labelled {best.likeness:.3f}"
        waiting = len(left) - len(mine)
        return ImageSuggestion(
            left[best.index], best.size, f"{reason}; {waiting} images were not looked at" if waiting else reason
        )

    def _look(self, image: DatastoreImage, ends: float) -> NDArray[np.float32] | None:
        """What the network sees of an image, as a direction; None where it cannot be read, or not in time."""
        key = stamp(image.entry.path)
        if key not in self._seen:
            if time.monotonic() > ends:
                return None
            self._seen[key] = self._see(image)
        return self._seen[key]

    def _see(self, image: DatastoreImage) -> NDArray[np.float32] | None:
        store, root = self.library.store, self.library.store.settings.library
        within = root.resolve() if root and root.is_dir() else None
        with tempfile.TemporaryDirectory(dir=store.settings.state, prefix="look") as folder:
            try:
                store.workers.decode(
                    ImageSource(image.entry.path.resolve(), ReadingOptions(), within), Path(folder) / "decoded"
                )
                found = store.load_image(Path(folder) / "decoded")
            except Refusal:
                return None
            return self._direction(found) if isinstance(found, SessionVolume) else None

    def _direction(self, shown: SessionVolume) -> NDArray[np.float32]:
        volume, axial = shown.volume, PLANES["axial"]
        slices = {int(depth * volume.shape[array_axis(volume, axial)]) for depth in DEPTHS}
        with self.library.store.queue.segmenter(urgent=False) as segmenter:
            parts = segmenter.slice_directions(volume, axial, shown.window, slices).values()
        mean = np.mean([*parts], axis=0)
        return (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)


def _likeness(seen: NDArray[np.float32], known: Collection[NDArray[np.float32]]) -> float:
    return max(float(seen @ each) for each in known)

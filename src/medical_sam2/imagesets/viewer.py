"""The images of a set as the network sees them: read when they are visited, encoded once, forgotten again.

Shapes: H W image, S side of the network's square input.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medical_sam2.errors import GeometryError, MedicalSam2Error
from medical_sam2.frames import to_input
from medical_sam2.imagesets.windows import AS_IT_IS, SetWindows
from medical_sam2.intensity_window import Window
from medical_sam2.model.backbone import Features
from medical_sam2.region import Region

OnError = Callable[[int, MedicalSam2Error], None]
MANY = 8  # an image with so many times the network's pixels along an axis is averaged first
ENOUGH = 4


class Viewer:
    """Looks at images, one after the other.

    Args:
        images: (H, W) or (H, W, 3) each; one that is read when it is asked for may raise what `errors` knows.
        encode: one image (3, S, S) in [0, 1] → features, kept as far as there is room.
        size: S.
        on_error: told of an image that cannot be used, which is then left out; without it the error is raised.
        windows: of CT images; unless given, the percentiles of each image.
    """

    def __init__(
        self,
        images: Sequence[NDArray[np.generic]],
        encode: Callable[[Tensor], Features],
        size: int,
        *,
        on_error: OnError | None = None,
        windows: SetWindows = AS_IT_IS,
    ) -> None:
        self.images, self.size = images, size
        self.shapes: dict[int, tuple[int, int]] = {}
        self.blank: list[int] = []
        self.windows: dict[int, Window] = {}
        self._encode, self._on_error, self._windows = encode, on_error, windows
        self._held = WeakValueDictionary[int, Features]()  # as long as the encoder keeps them, no image is read again
        self._summaries, self._useless = dict[int, NDArray[np.float32]](), set[int]()

    def features(self, i: int) -> Features:
        """What the encoder sees on an image.

        Raises:
            GeometryError: it is no image, or holds one grey value only.
        """
        features = self._held.get(i)
        if features is None:
            features = self._held[i] = self._seen(i)
        return features

    def near(self, i: int, region: Region) -> Features:
        """What the encoder sees in a region of an image that it has seen as a whole."""
        image = self.images[i]
        part = image[region.rows, region.columns]
        return self._look(i, image, part)

    def summary(self, i: int) -> NDArray[np.float32]:
        """The direction of its embedding (C,), kept for all images."""
        if i not in self._summaries:
            self._summaries[i] = direction(self.features(i).summary_BC[0])
        return self._summaries[i]

    def usable(self, i: int) -> bool:
        """Whether there is something to outline; else it is told, or noted as blank, once."""
        if i in self._useless:
            return False
        try:
            self.summary(i)
        except _BlankError:
            self.blank.append(i)
        except MedicalSam2Error as error:
            if self._on_error is None:
                raise
            self._on_error(i, error)
        else:
            return True
        self._useless.add(i)
        return False

    def _seen(self, i: int) -> Features:
        image = self.images[i]
        if image.ndim not in {2, 3} or image.shape[2:] not in {(), (1,), (3,)} or 0 in image.shape:
            raise GeometryError(f"image {i} has shape {image.shape}", "give arrays (H, W) or (H, W, 3)")
        self.shapes[i] = image.shape[0], image.shape[1]
        if image.min() == image.max():
            raise _BlankError(f"image {i} holds one grey value only", "there is nothing to outline; prompt another one")
        return self._look(i, image, image)

    def _look(self, i: int, image: NDArray[np.generic], part: NDArray[np.generic]) -> Features:
        if i not in self.windows:
            self.windows[i] = self._windows.of(i, image)
        return self._encode(to_input(self.windows[i].apply(_reduced(part, self.size)), self.size))


def direction(vector_C: Tensor) -> NDArray[np.float32]:
    """A vector over its length."""
    numbers = vector_C.float().cpu().numpy()
    return (numbers / max(float(np.linalg.norm(numbers)), 1e-12)).astype(np.float32)


class _BlankError(GeometryError):
    """All pixels are equal."""


def _reduced(image: NDArray[np.generic], size: int) -> NDArray[np.generic]:
    """A huge image as means over blocks, so that no float is made of each of its pixels; others as they are."""
    for axis in (0, 1):
        length = image.shape[axis]
        if length > MANY * size:
            image = _averaged(image, axis, ENOUGH * size)
    return image


def _averaged(image: NDArray[np.generic], axis: int, parts: int) -> NDArray[np.float64]:
    edges = np.arange(parts + 1) * image.shape[axis] // parts
    cut = (slice(None),) * axis
    means = [image[(*cut, slice(low, high))].mean(axis, dtype=np.float64) for low, high in pairwise(edges)]
    return np.stack(means, axis)

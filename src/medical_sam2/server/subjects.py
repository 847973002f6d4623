"""What is outlined in a session: a volume in three planes, or a set of images; frames for the eye, questions to the network.

A canvas holds the labels of a subject as one byte each: for a volume one array in the order of its file, for a set one for
each image. Shapes: H W a frame.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medical_sam2.intensity_window import Window
from medical_sam2.prompts import FramePrompt
from medical_sam2.server.refusals import Unusable
from medical_sam2.server.state import Said, State
from medical_sam2.volume import SliceConfidence

if TYPE_CHECKING:  # torch is loaded while the page is already there
    from medical_sam2.segmenter import Segmenter

Canvas: TypeAlias = tuple[NDArray[np.uint8], ...]
Frame: TypeAlias = NDArray[np.uint8]
OnFrame: TypeAlias = Callable[[int, int, str, int, Mapping[int, NDArray[np.bool_]]], None]
"""(done, total, plane, t, label → mask (H, W))"""


@dataclass(frozen=True, eq=False)
class Found:
    """What tracking found.

    Args:
        canvas: labels.
        rows: how sure it was of each structure on each frame that was tracked; `slice` is the frame of the plane.
        doubt: 0 (sure) to 255 (undecided) for each voxel, where it is known.
        warnings: for the user.
    """

    canvas: Canvas
    rows: tuple[SliceConfidence, ...] = ()
    doubt: Canvas | None = None
    warnings: tuple[str, ...] = ()

    @cached_property
    def voxels(self) -> Mapping[int, int]:
        """Label → how many voxels it has; labels that have none are left out."""
        counts = np.zeros(256, np.int64)
        for array in self.canvas:
            for slab in array.T:  # in the order of the memory for most files
                counts += np.bincount(slab.ravel(), minlength=256)
        return {int(label): int(counts[label]) for label in np.flatnonzero(counts) if label}


class Subject(Protocol):
    """What a session is about."""

    @property
    def planes(self) -> Mapping[str, int]:
        """Plane → how many frames it has."""
        ...

    @property
    def voxel_ml(self) -> float | None:
        """Volume of a voxel, where there are voxels."""
        ...

    def spacing(self, plane: str) -> tuple[float, float]:
        """Distance in mm between rows and between columns."""
        ...

    def size(self, plane: str, t: int) -> tuple[int, int]:
        """Rows and columns of a frame."""
        ...

    def pixels(self, plane: str, t: int) -> NDArray[np.generic]:
        """A frame (H, W) of intensities, or (H, W, 3) of colours."""
        ...

    def range(self, t: int, said: Sequence[Said]) -> Window:
        """The intensities of a frame that are told to the page: of a volume nearly all, of an image what the network sees."""
        ...

    def seen(self, said: Sequence[Said]) -> Window:
        """What the network sees through, by the gestures that it is asked with; the window to begin with without any."""
        ...

    def blank(self) -> Canvas:
        """A canvas with nothing on it."""
        ...

    def view(self, canvas: Canvas, plane: str, t: int) -> Frame:
        """A frame (H, W) of a canvas; writing on it writes on the canvas."""
        ...

    def sketch(self, segmenter: "Segmenter", said: Sequence[Said], earlier: Frame | None) -> NDArray[np.bool_]:
        """What one structure is on one frame, by what was said of it there.

        Args:
            segmenter: the network.
            said: gestures on that frame, of one structure.
            earlier: labels (H, W) of the frame that the gestures correct.
        """
        ...

    def track(self, segmenter: "Segmenter", state: State, before: Found | None, views: str, on_frame: OnFrame) -> Found:
        """Everything that was said, carried through the whole; `before` is corrected where it stands."""
        ...


def frame_prompt(said: Said, shape_hw: tuple[int, int]) -> FramePrompt:
    """A gesture in pixels of its frame."""
    if said.kind == "mask":
        return FramePrompt.mask(unpacked(said.runs, shape_hw))
    if said.kind == "box":
        (y_low, x_low), (y_high, x_high) = ((min(pair), max(pair)) for pair in zip(*said.points_yx, strict=True))
        return FramePrompt.box(x_low, y_low, x_high, y_high)
    points_xy = np.array([(x, y) for y, x in said.points_yx], np.float32).reshape(-1, 2)
    return FramePrompt(points_xy, np.array(said.positive, np.int64))


def unpacked(runs: Sequence[int], shape_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H, W) of runs: start and length, row by row, one after the other.

    Raises:
        Unusable: they leave the frame, or are out of order.
    """
    starts, lengths = np.array(runs[::2], np.int64), np.array(runs[1::2], np.int64)
    size = shape_hw[0] * shape_hw[1]
    if len(starts) != len(lengths) or not len(starts) or (lengths < 1).any() or (starts < 0).any():
        raise Unusable("the outline is broken or empty; draw it again")
    ends = starts + lengths
    if ends[-1] > size or (starts[1:] < ends[:-1]).any():
        raise Unusable("the outline leaves the slice; draw it again")
    steps = np.zeros(size + 1, np.int8)
    np.add.at(steps, starts, 1)
    np.add.at(steps, ends, -1)
    return (steps[:-1].cumsum() > 0).reshape(shape_hw)


def check(said: Said, subject: Subject) -> None:
    """Refuse a gesture that cannot be one on its frame.

    Raises:
        Unusable: another plane, another frame, outside, or empty.
    """
    if said.plane not in subject.planes:
        raise Unusable(f"there is no plane {said.plane!r} here")
    if not 0 <= said.t < subject.planes[said.plane]:
        raise Unusable(f"there is no slice {said.t} in this plane")
    height, width = subject.size(said.plane, said.t)
    if said.kind == "mask":
        unpacked(said.runs, (height, width))
        return
    if not all(-0.5 <= y < height - 0.5 and -0.5 <= x < width - 0.5 for y, x in said.points_yx):
        raise Unusable("the click lies outside of the image")
    if said.kind == "points" and (not said.points_yx or len(said.points_yx) != len(said.positive)):
        raise Unusable("each click needs to say whether it lies inside")
    if said.kind == "box" and (
        len(said.points_yx) != 2 or any(round(low) == round(high) for low, high in zip(*said.points_yx, strict=True))
    ):
        raise Unusable("a box needs two corners with some room between them")


def doubt(probabilities: Sequence[NDArray[np.floating]]) -> NDArray[np.uint8]:
    """0 (sure) to 255 (undecided): how near the most undecided structure is to one half."""
    worst = np.zeros(probabilities[0].shape, np.uint8)
    for probability in probabilities:
        for slab, out in zip(probability, worst, strict=True):
            np.maximum(out, np.rint(255 * (1 - np.abs(2 * slab.astype(np.float32) - 1))).astype(np.uint8), out=out)
    return worst


def packed(mask_hw: NDArray[np.bool_]) -> tuple[int, ...]:
    """The runs of a mask: start and length, row by row."""
    edges = np.flatnonzero(np.diff(mask_hw.ravel().astype(np.int8), prepend=0, append=0))
    return tuple(int(x) for start, end in zip(edges[::2], edges[1::2], strict=True) for x in (start, end - start))


def put(frame: Frame, label: int, mask: NDArray[np.bool_], yielding: set[int]) -> None:
    """Draw a structure anew on a frame, where there is nothing else but what yields."""
    taken = mask & np.isin(frame, list(yielding))
    frame[frame == label] = 0
    frame[taken] = label

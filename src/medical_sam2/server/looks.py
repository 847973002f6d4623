"""Frames as bytes for the page, and the whole as a small solid for the 3D view. Shapes: H W a frame."""

import gzip
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medical_sam2.intensity_window import Window
from medical_sam2.server.subjects import Canvas
from medical_sam2.server.volumes import VolumeSubject

SOLID = 160  # voxels along each axis of the 3D view, at most


@dataclass(frozen=True, eq=False)
class Look:
    """A frame to be shown.

    Args:
        data: rows of 16-bit codes, or of red, green, blue bytes.
        rows: of the frame.
        columns: of it.
        channels: 1 or 3.
        low: intensity of code 0.
        high: intensity of code 65535.
    """

    data: bytes
    rows: int
    columns: int
    channels: int
    low: float
    high: float

    def headers(self) -> dict[str, str]:
        """What the page needs to know beside the bytes."""
        size = {"x-rows": str(self.rows), "x-columns": str(self.columns), "x-channels": str(self.channels)}
        return {**size, "x-low": repr(self.low), "x-high": repr(self.high)}


def look(frame: NDArray[np.generic], window: Window, side: int) -> Look:
    """A frame (H, W) or (H, W, 3) in codes.

    Args:
        frame: intensities or colours.
        window: of a volume the range of all its intensities, which the page narrows; of an image what the network sees.
        side: longest side that is wanted; rows and columns are left out for it. 0 for all.
    """
    frame = thinned(frame, side)
    height, width = frame.shape[:2]
    if frame.ndim == 3:
        return Look(np.ascontiguousarray(window.as_bytes(frame)).tobytes(), height, width, 3, window.low, window.high)
    codes = np.rint(65_535 * window.apply(frame)).astype("<u2")
    return Look(codes.tobytes(), height, width, 1, window.low, window.high)


def thinned(frame: NDArray[np.generic], side: int) -> NDArray[np.generic]:
    """Every so many rows and columns, so that none is longer than `side`."""
    step = max(1, -(-max(frame.shape[:2]) // side)) if side else 1
    return frame[::step, ::step]


def solid(subject: VolumeSubject, canvas: Canvas | None) -> bytes:
    """The volume, or its labels, thinned, as NIfTI: in the file's own order with its own directions, so nothing is mirrored."""
    import nibabel as nib  # slow to load, and the page is there before it is needed

    volume = subject.volume
    steps = [max(1, -(-size // SOLID)) for size in volume.shape]
    cut = tuple(slice(None, None, step) for step in steps)
    affine = volume.affine @ np.diag([*steps, 1.0])
    small = np.ascontiguousarray(canvas[0][cut]) if canvas is not None else subject.window.as_bytes(volume.array[cut])
    return gzip.compress(nib.Nifti1Image(small, affine).to_bytes(), 1, mtime=0)  # type: ignore[no-untyped-call]

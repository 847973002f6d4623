"""What a caller may say about how a file is to be read, and what reading it brings along."""

from dataclasses import dataclass
from typing import Literal

from medical_sam2.volume import Volume

Form = Literal["sform", "qform"]


@dataclass(frozen=True)
class Options:
    """How to read.

    Args:
        geometry_from: which of two contradicting NIfTI forms counts.
        frame: which time point or page, from 0.
        series: which DICOM series of a folder, from 1, or its SeriesInstanceUID.
        allow_gap: fill missing slices by interpolation instead of refusing.
        max_bytes: most bytes of voxels that may be unpacked.
        all_frames: each page or frame is a picture.
        clean: replace NaN and infinities, turn colours to grey, look for constant images (not for masks, whose numbers count).
        layer: which of the numbers of a voxel, from 0.
    """

    geometry_from: Form | None = None
    frame: int | None = None
    series: int | str | None = None
    allow_gap: bool = False
    max_bytes: int | None = None
    all_frames: bool = False
    clean: bool = True
    layer: int | None = None


@dataclass(frozen=True, eq=False)
class Loaded(Volume):
    """A volume that remembers what its format needs for writing something beside it, bit for bit in the same grid.

    Args:
        origin: the reader's own notes; writers of the same format understand them.
    """

    origin: object | None = None

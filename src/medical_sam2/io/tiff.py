"""Which images a TIFF file holds: its directories tell less than half of it.

A directory may be a smaller copy of the one before it (pyramids), one directory may stand for a whole stack (ImageJ,
MetaMorph, tifffile), and a pixel may hold numbers of several channels that are no colours.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from medical_sam2.errors import FormatError
from medical_sam2.io.files import check_expansion, open_regular

GREY = {0, 1}
INVERTED = 0
"""What PhotometricInterpretation calls grey values, and those of which 0 is white."""
ALPHA = {1, 2}
RGB = 3
YCBCR = 6
UNCOMPRESSED = 1
DEPTHS, SAMPLE_FORMAT = 0x0102, 0x0153
UNSIGNED = 1


@dataclass(frozen=True)
class Plane:
    """One image of a TIFF file.

    Args:
        page: its directory, from 0.
        offset: where its pixels start, if they follow those of the only directory.
        channel: which of a pixel's numbers, where these are no colours.
        channels: how many there are.
    """

    page: int
    offset: int | None = None
    channel: int | None = None
    channels: int = 1

    @property
    def plain(self) -> bool:
        """Whether it is all that its directory speaks of."""
        return self.offset is None and self.channel is None


def open_tiff(stream: BinaryIO, name: str) -> tifffile.TiffFile:
    """Read the directories; files that an OME description names are not opened."""
    return tifffile.TiffFile(stream, name=name, is_ome=False)


@contextmanager
def seen_by_pillow(path: Path) -> Iterator[Image.Image | None]:
    """The same file as Pillow opens it, if it knows its kind of pixels."""
    with open_regular(path) as stream:
        try:
            image = Image.open(stream, formats=("TIFF",))
        except UnidentifiedImageError:
            yield None
        else:
            with image:
                yield image


def cut_by_pillow(image: Image.Image) -> bool:
    """Whether Pillow would take deep colours for bytes, or large numbers for negative ones, which it does without a word."""
    tags = getattr(image, "tag_v2", {})
    deepest = max(np.atleast_1d(tags.get(DEPTHS, 8)))
    return (image.mode in {"RGB", "RGBA"} and deepest > 8) or (
        image.mode == "I" and UNSIGNED in tags.get(SAMPLE_FORMAT, (UNSIGNED,))
    )


def check_pages(file: tifffile.TiffFile, size: int, path: Path) -> None:
    """Hold what each directory claims against the file, before anything of that size is asked for or filled with zeros.

    Raises:
        FormatError: strips or tiles that lie outside of the file, too few of them, or too little in them.
        ResourceError: a few bytes that would unpack to gigabytes.
    """
    for index in range(len(file.pages)):
        page: Any = file.pages[index]
        held = [int(count) for count in page.databytecounts]
        ends = [int(offset) + count for offset, count in zip(page.dataoffsets, held, strict=False) if count]
        if not all(isinstance(length, int) and length > 0 for length in page.shape):
            raise FormatError(f"page {index} declares an impossible size", "save it again", subject=path)
        if len(page.dataoffsets) < prod(page.chunked) or max(ends, default=0) > size:
            problem = f"page {index} is truncated: strips or tiles are missing, or lie behind the end of the file"
            raise FormatError(problem, "copy or download it again", subject=path)
        bits = page.size * int(page.bitspersample)
        if page.compression == UNCOMPRESSED and page.photometric != YCBCR and 0 not in held and 8 * sum(held) < bits:
            problem = f"page {index} is truncated: it declares {bits // 8} bytes, and {sum(held)} are there"
            raise FormatError(problem, "copy or download it again", subject=path)
        check_expansion(page.nbytes, sum(held), path)


def planes(file: tifffile.TiffFile, size: int) -> list[Plane]:
    """The images of a file, in its order: no smaller copies, no masks of transparency.

    Args:
        file: as `open_tiff` gives it.
        size: bytes of the file.

    Raises:
        FormatError: fewer planes than its description promises.
    """
    pages: list[Any] = [file.pages[index] for index in range(len(file.pages))]
    whole = [page for page in pages if not (page.is_reduced or page.is_mask)] or pages
    if len(pages) == 1 and (promised := _promised(file)) > 1:
        return _stack(pages[0], promised, size)
    return [plane for page in whole for plane in _channels(page)]


def _promised(file: tifffile.TiffFile) -> int:
    """Planes that the description of the only directory speaks of."""
    page: Any = file.pages[0]
    if file.is_stk:
        return int((file.stk_metadata or {}).get("NumberPlanes", 1))
    if file.is_imagej:
        return int((file.imagej_metadata or {}).get("images", 1))
    told = (file.shaped_metadata or ({},))[0] if file.is_shaped else {}
    count = prod(told.get("shape", page.shape))
    return count // page.size if page.size and count % page.size == 0 else 1


def _stack(page: Any, promised: int, size: int) -> list[Plane]:
    """Planes that lie behind each other without directories of their own."""
    first, step = int(page.dataoffsets[0]), int(page.nbytes)
    plain = page.is_contiguous and page.compression == 1 and page.bitspersample % 8 == 0
    if not plain or not step or first + promised * step > size:
        held = (size - first) // step if plain and step else 1
        problem = f"its description promises {promised} planes, the file holds {held}"
        raise FormatError(problem, "copy it again, or save the stack again")
    return [Plane(0, first + number * step) for number in range(promised)]


def _channels(page: Any) -> list[Plane]:
    samples = int(page.samplesperpixel) - sum(extra in ALPHA for extra in page.extrasamples)
    if page.photometric not in GREY or samples in (1, RGB):
        return [Plane(page.index)]
    return [Plane(page.index, channel=channel, channels=samples) for channel in range(samples)]


def read_plane(file: tifffile.TiffFile, plane: Plane) -> NDArray[Any]:
    """The pixels of an image: (H, W), (H, W, C) or (C, H, W)."""
    page: Any = file.pages[plane.page]
    if plane.offset is not None:
        file.filehandle.seek(plane.offset)
        data = file.filehandle.read(page.nbytes)
        array = np.frombuffer(data, page.dtype.newbyteorder(file.byteorder)).reshape(page.shape).astype(page.dtype)
    else:
        array = page.asarray()
    if plane.channel is not None:
        array = array.take(plane.channel, axis=page.axes.index("S"))
    return np.invert(array) if page.photometric == INVERTED and array.dtype == np.uint8 else array


def read_alpha(file: tifffile.TiffFile, plane: Plane) -> NDArray[Any] | None:
    """The opacity of each pixel, where the file stores it."""
    page: Any = file.pages[plane.page]
    places = [place for place, extra in enumerate(page.extrasamples) if extra in ALPHA]
    if not places or plane.offset is not None:
        return None
    number = int(page.samplesperpixel) - len(page.extrasamples) + places[0]
    return page.asarray().take(number, axis=page.axes.index("S"))

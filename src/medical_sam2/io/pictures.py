"""Ordinary 2D images: PNG, JPEG, TIFF, BMP; one file is one picture, or several pages."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from medical_sam2.errors import AmbiguousError, FormatError, InputError, ResourceError
from medical_sam2.io import deep_colours
from medical_sam2.io.files import guarded, open_regular, require_memory
from medical_sam2.io.options import Options
from medical_sam2.io.registry import TIFF

if TYPE_CHECKING:
    from tifffile import TiffFile

    from medical_sam2.io.tiff import Plane

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
GREY = {"1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
ORIENTATION = 0x0112
MOST_PIXELS = 1 << 30
EXTRA_SAMPLES = 0x0152
ENDS = {b"\x89PNG": b"IEND\xaeB`\x82", b"\xff\xd8": b"\xff\xd9"}
TAIL = 1 << 16
"""Where the end marker is looked for: some cameras and programs append notes of their own."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A 2D image, as its file stores it (rows downwards, columns to the right).

    Args:
        array: (H, W) intensities, or (H, W, 3) RGB bytes.
        spacing_mm: distance between rows and between columns, where the file tells.
        modality: DICOM code of the modality where known.
        source: the file.
        frame: which page or frame of it, from 0.
        warnings: what the reader noticed, one line each.
        alpha: (H, W) how opaque each pixel is, where a mask was read and stores it.
    """

    array: NDArray[np.generic]
    spacing_mm: tuple[float, float] | None = None
    modality: str | None = None
    source: Path | None = None
    frame: int = 0
    warnings: tuple[str, ...] = ()
    alpha: NDArray[np.generic] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.array.shape[0], self.array.shape[1]

    @property
    def colour(self) -> bool:
        """Whether it has three channels."""
        return self.array.ndim == 3


def read(path: Path, options: Options) -> tuple[Picture, ...]:
    """Read a picture, or the pages of one: of a TIFF file all images that it holds, but no smaller copies of them.

    Raises:
        FormatError: broken, or of another format.
        AmbiguousError: several pages, and neither `frame` nor `all_frames` among the options.
    """
    if not _is_tiff(path):
        _check_end(path)
        return _with_pillow(path, options)
    from medical_sam2.io import tiff

    with _opened_tiff(path) as (file, planes), tiff.seen_by_pillow(path) as image:
        pages = _pages(len(planes), options, path)
        return tuple(_plane(file, image, planes[page], path, options, page=page) for page in pages)


def page_count(path: Path) -> int:
    """How many pages a picture has; no pixel is read.

    Raises:
        FormatError: broken, or of another format.
    """
    if _is_tiff(path):
        with _opened_tiff(path) as (_, planes):
            return len(planes)
    with open_regular(path) as stream, _quiet(path), Image.open(stream, formats=FORMATS) as image:
        return getattr(image, "n_frames", 1)


def _is_tiff(path: Path) -> bool:
    with open_regular(path) as stream:
        return TIFF.matches(stream.read(4))


@contextmanager
def _opened_tiff(path: Path) -> Iterator[tuple["TiffFile", list["Plane"]]]:
    from medical_sam2.io import tiff

    with open_regular(path) as stream, _quiet(path), tiff.open_tiff(stream, path.name) as file:
        size = os.fstat(stream.fileno()).st_size
        tiff.check_pages(file, size, path)
        yield file, tiff.planes(file, size)


def _plane(file: "TiffFile", image: Image.Image | None, plane: "Plane", path: Path, options: Options, *, page: int) -> Picture:
    """With Pillow where it can, since it knows more compressions: one plain image of numbers that it does not cut."""
    from medical_sam2.io import tiff

    if image is not None and plane.plain and 0 not in file.pages[plane.page].databytecounts:  # it knows no tiles left out
        with suppress(UnidentifiedImageError):
            image.seek(plane.page)
            if not tiff.cut_by_pillow(image):
                _check_size(image, path, options)
                return _page(image, page, path, options)
    require_memory(file.pages[plane.page].nbytes, path, options.max_bytes)
    found = _from_array(tiff.read_plane(file, plane), page, path, options)
    if not options.clean:
        return replace(found, alpha=tiff.read_alpha(file, plane))
    told = f"a pixel holds {plane.channels} numbers that are no colours: each of them counts as a page"
    return found if plane.channel is None else replace(found, warnings=(*found.warnings, told))


def _with_pillow(path: Path, options: Options) -> tuple[Picture, ...]:
    with open_regular(path) as stream, _quiet(path), Image.open(stream, formats=FORMATS) as image:
        _check_size(image, path, options)
        pages = getattr(image, "n_frames", 1)
        return tuple(_page_of(image, page, path, options) for page in _pages(pages, options, path))


def _check_size(image: Image.Image, path: Path, options: Options) -> None:
    require_memory(4 * image.width * image.height, path, options.max_bytes)
    if image.width * image.height > MOST_PIXELS:
        raise FormatError(f"it has {image.width} × {image.height} pixels", "crop it", subject=path)


def _from_array(array: NDArray[Any], page: int, path: Path, options: Options) -> Picture:
    notes: list[str] = []
    if array.ndim == 3 and array.shape[0] in (3, 4) and array.shape[2] not in (3, 4):
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype.name in {"uint8", "uint16"}:
        if array.dtype == np.uint16 and options.clean:
            array, told = deep_colours.to_bytes(array[..., :3])
            notes.append(told)
        return Picture(np.ascontiguousarray(array[..., :3]), source=path, frame=page, warnings=tuple(notes))
    if array.ndim == 3 and array.shape[2] == 2:
        array = array[..., 0]  # the other one is how opaque it is
    if array.ndim != 2 or array.dtype.kind not in "iuf":
        raise FormatError(f"its pixels are {array.dtype} of shape {array.shape}", "convert it to grey or RGB", subject=path)
    return Picture(_finite(array, notes), source=path, frame=page, warnings=tuple(notes))


def _check_end(path: Path) -> None:
    """Refuse a PNG or JPEG without its end marker: Pillow is content as soon as it has all pixels."""
    with open_regular(path) as stream:
        start = stream.read(8)
        stream.seek(max(os.fstat(stream.fileno()).st_size - TAIL, 0))
        tail = stream.read()
    marker = next((marker for magic, marker in ENDS.items() if start.startswith(magic)), b"")
    if marker not in tail:
        raise FormatError("the image is truncated: its end is missing", "copy or download it again", subject=path)


def _pages(pages: int, options: Options, path: Path) -> range:
    if (frame := options.frame) is not None:
        if not 0 <= frame < pages:
            raise InputError(f"there is no page {frame} among {pages}", f"use 0 to {pages - 1}", subject=path)
        return range(frame, frame + 1)
    if pages > 1 and not options.all_frames:
        listed = (f"--frame 0 (first page) to --frame {pages - 1} (last page)", "--all-frames (each page a picture)")
        raise AmbiguousError(f"it holds {pages} pages", "choose one or all", subject=path, choices=listed)
    return range(pages)


def _page_of(image: Image.Image, page: int, path: Path, options: Options) -> Picture:
    image.seek(page)
    return _page(image, page, path, options)


def _page(image: Image.Image, page: int, path: Path, options: Options) -> Picture:
    notes = []
    turned = image.getexif().get(ORIENTATION, 1)
    if turned not in (0, 1):
        notes.append(
            f"viewers turn it (EXIF orientation {turned}); the pixels are used as stored, rows and columns refer to those"
        )
    if max(image.size) == 1:
        notes.append("the image is a single pixel")
    if image.mode == "CMYK":
        notes.append("its colours are inks for printing (CMYK); they were turned to red, green and blue")
    if image.mode == "RGB" and (extra := len(getattr(image, "tag_v2", {}).get(EXTRA_SAMPLES, ()))):
        notes.append(f"a pixel holds {3 + extra} numbers; red, green and blue are used")
    if image.mode in {"RGB", "RGBA"} and _sixteen_bit_png(image, path):
        pixels = _deep(path, notes, options)
    else:
        pixels = _pixels(image, notes) if options.clean else _numbers(image, notes)
    alpha = None if options.clean else _alpha(image)
    return Picture(pixels, source=path, frame=page, warnings=tuple(notes), alpha=alpha)


def _sixteen_bit_png(image: Image.Image, path: Path) -> bool:
    """Byte 24 of a PNG is its bit depth; Pillow reduces colours to 8 bits without a word."""
    if image.format != "PNG":
        return False
    with open_regular(path) as stream:
        return stream.read(25)[24:] == b"\x10"


def _deep(path: Path, notes: list[str], options: Options) -> NDArray[Any]:
    array = deep_colours.read_png(path)
    if array.ndim == 2 or not options.clean:
        return array
    colours, told = deep_colours.to_bytes(array)
    notes.append(told)
    return colours


def _numbers(image: Image.Image, notes: list[str]) -> NDArray[Any]:
    """The numbers of a mask: those of a palette, not its colours."""
    return np.array(image.getchannel("P")) if image.mode in {"P", "PA"} else _pixels(image, notes)


def _alpha(image: Image.Image) -> NDArray[Any] | None:
    """How opaque each pixel is, if that is stored: in a channel, for the colours of a palette, or as one colour that is not."""
    if "A" in image.getbands() or "a" in image.getbands():
        return np.array(image.getchannel(image.getbands()[-1]))
    key = image.info.get("transparency")
    if key is None:
        return None
    if image.mode == "P":
        return np.array(image.convert("RGBA").getchannel("A"))
    return ~np.all(np.atleast_3d(np.array(image)) == np.reshape(key, -1), axis=2) * np.uint8(255)


def _pixels(image: Image.Image, notes: list[str]) -> NDArray[Any]:
    if image.mode in GREY:
        array = np.array(image)
        if array.dtype == bool:
            return array.astype(np.uint8) * np.uint8(255)
        return _finite(array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("=")), notes)
    if image.mode in {"LA", "La"}:
        return np.array(image.getchannel("L"))
    colours = np.array(image.convert("RGB"))
    return colours[..., 0].copy() if image.mode == "P" and _grey(colours) else colours


def _finite(array: NDArray[Any], notes: list[str]) -> NDArray[Any]:
    bad = ~np.isfinite(array) if array.dtype.kind == "f" else np.zeros(1, bool)
    if bad.all():
        raise FormatError("no pixel holds a finite value", "export the image again")
    if bad.any():
        notes.append(f"{int(bad.sum())} pixels are NaN or infinite; they count as background (the smallest value)")
        array[bad] = array[~bad].min()
    return array


def _grey(colours: NDArray[np.uint8]) -> bool:
    return bool((colours == colours[..., :1]).all())


@contextmanager
def _quiet(path: Path) -> Iterator[None]:
    """Turn what Pillow throws at damaged files into FormatError."""
    for library in ("PIL", "tifffile"):  # which tell of each damage twice: there, and by an exception
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
    with guarded(path), _damage(path):
        yield


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Say which damage it is, where the exception tells."""
    try:
        yield
    except (InputError, AmbiguousError) as error:
        raise error.about(path) from None
    except UnidentifiedImageError:
        raise FormatError("it cannot be read as a PNG, JPEG, TIFF or BMP image", "convert it", subject=path) from None
    except Image.DecompressionBombError:
        raise FormatError("it declares an absurd number of pixels", "check where it came from", subject=path) from None
    except (ResourceError, MemoryError, RecursionError):
        raise
    except Exception as error:
        cut = "truncated" in str(error) or isinstance(error, EOFError)
        problem = "the image is truncated" if cut else "the image is damaged"
        if "requires the 'imagecodecs' package" in str(error):
            raise FormatError("its compression cannot be read", "save it without compression", subject=path) from None
        raise FormatError(problem, "copy or download it again", subject=path) from None

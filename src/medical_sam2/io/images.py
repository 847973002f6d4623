"""Ordinary 2D images: PNG, JPEG, TIFF, BMP; one file is one picture, or several pages.

A TIFF file's directories tell less than half of what it holds: one may be a smaller copy of the one before it (pyramids), one
may stand for a whole stack (ImageJ, MetaMorph, tifffile), and a pixel may hold numbers of several channels that are no colours.
Colours of 16 bits are stretched by their percentiles, as grey images are, before they become bytes: scanners and cameras fill a
small part of the range, and with the lower byte cut off, little or nothing would be left.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from medical_sam2.errors import AmbiguousError, FormatError, InputError, ResourceError, require_index
from medical_sam2.intensity_window import percentile_window
from medical_sam2.io.labels import is_ground
from medical_sam2.io.registry import TIFF, Options, Picture
from medical_sam2.io.safe_open import check_expansion, guarded, open_regular, require_memory
from medical_sam2.io.voxels import CONVERT

if TYPE_CHECKING:
    from tifffile import TiffFile

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
GREY_MODES = {"1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
ORIENTATION = 0x0112
MOST_PIXELS = 1 << 30
PHOTOMETRIC, EXTRA_SAMPLES = 0x0106, 0x0152
ENDS = {b"\x89PNG": b"IEND\xaeB`\x82", b"\xff\xd8": b"\xff\xd9"}
TAIL = 1 << 16
"""Where the end marker is looked for: some cameras and programs append notes of their own."""


@dataclass(frozen=True)
class TiffPlane:
    """One image of a TIFF file."""

    page: int  # its directory, from 0
    offset: int | None = None  # where its pixels start, if they follow those of the only directory
    channel: int | None = None  # which of a pixel's numbers, where these are no colours
    channels: int = 1  # how many there are

    @property
    def plain(self) -> bool:
        """Whether it is all that its directory speaks of."""
        return self.offset is None and self.channel is None


def read(path: Path, options: Options) -> tuple[Picture, ...]:
    """Read a picture, or the pages of one: of a TIFF file all images that it holds, but no smaller copies of them.

    Raises:
        FormatError: broken, or of another format.
        AmbiguousError: several pages, and neither `frame` nor `all_frames` among the options.
    """
    if not _is_tiff(path):
        _check_end(path)
        return _with_pillow(path, options)
    with _opened_tiff(path) as (file, planes), seen_by_pillow(path) as image:
        pages = _pages(len(planes), options, path)
        return tuple(_plane(file, image, planes[page], path, options, page=page) for page in pages)


def page_count(path: Path) -> int:
    """How many pages a picture has, with no pixel read; raises FormatError if it is broken, or of another format."""
    if _is_tiff(path):
        with _opened_tiff(path) as (_, planes):
            return len(planes)
    with open_regular(path) as stream, _quiet(path), Image.open(stream, formats=FORMATS) as image:
        return getattr(image, "n_frames", 1)


def _is_tiff(path: Path) -> bool:
    with open_regular(path) as stream:
        return TIFF.matches(stream.read(4))


@contextmanager
def _opened_tiff(path: Path) -> Iterator[tuple["TiffFile", list[TiffPlane]]]:
    with open_regular(path) as stream, _quiet(path), open_tiff(stream, path.name) as file:
        size = os.fstat(stream.fileno()).st_size
        if not len(file.pages):
            raise FormatError("it holds no image: whatever wrote it was stopped", "save it again", subject=path)
        check_pages(file, size, path)
        yield file, planes_of(file, size)


def _plane(
    file: "TiffFile", image: Image.Image | None, plane: TiffPlane, path: Path, options: Options, *, page: int
) -> Picture:
    """With Pillow where it can, since it knows more compressions: one plain image of numbers that it does not cut."""
    if image is not None and plane.plain and 0 not in file.pages[plane.page].databytecounts:  # it knows no tiles left out
        with suppress(UnidentifiedImageError):
            image.seek(plane.page)
            if not cut_by_pillow(image):
                _check_size(image, path, options)
                return _page(image, page, path, options)
    require_memory(file.pages[plane.page].nbytes, path, options.max_bytes)
    found = _from_array(read_plane(file, plane, as_shown=options.clean), page, path, options)
    notes = list(found.warnings)
    page_here: Any = file.pages[plane.page]
    tag = page_here.tags.get(ORIENTATION)
    found = replace(found, turned=_orientation(getattr(tag, "value", 1), notes), warnings=tuple(notes))
    if not options.clean:
        return replace(found, alpha=read_alpha(file, plane))
    note = f"a pixel holds {plane.channels} numbers that are no colours: each of them counts as a page"
    return found if plane.channel is None else replace(found, warnings=(*found.warnings, note))


def _with_pillow(path: Path, options: Options) -> tuple[Picture, ...]:
    with open_regular(path) as stream, _quiet(path), Image.open(stream, formats=FORMATS) as image:
        _check_size(image, path, options)
        pages = getattr(image, "n_frames", 1)
        return tuple(_page_of(image, page, path, options) for page in _pages(pages, options, path))


def _check_size(image: Image.Image, path: Path, options: Options) -> None:
    require_memory(4 * image.width * image.height, path, options.max_bytes)
    if image.width * image.height > MOST_PIXELS:
        raise FormatError(f"it has {image.width} × {image.height} pixels", "crop it", subject=path)


# Writers disagree on where channels lie and what a second one means; three or four are colours, two grey and alpha.
def _from_array(array: NDArray[Any], page: int, path: Path, options: Options) -> Picture:
    notes: list[str] = []
    if array.ndim == 3 and array.shape[0] in (3, 4) and array.shape[2] not in (3, 4):
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype.name in {"uint8", "uint16"}:
        if array.dtype == np.uint16 and options.clean:
            array, note = to_bytes(array[..., :3])
            notes.append(note)
        return Picture(np.ascontiguousarray(array[..., :3]), source=path, frame=page, warnings=tuple(notes))
    if array.ndim == 3 and array.shape[2] == 2:
        array = array[..., 0]  # the other one is how opaque it is
    if array.ndim != 2 or array.dtype.kind not in "iuf":
        raise FormatError(f"its pixels are {array.dtype} of shape {array.shape}", "convert it to grey or RGB", subject=path)
    array = _finite(array, notes) if options.clean else array
    return Picture(array, source=path, frame=page, warnings=tuple(notes))


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
        require_index("page", frame, pages, path)
        return range(frame, frame + 1)
    if pages > 1 and not options.all_frames:
        listed = (f"--frame 0 (first page) to --frame {pages - 1} (last page)", "--all-frames (each page a picture)")
        choices = (*listed, f"or {CONVERT}")
        raise AmbiguousError(f"it holds {pages} pages", "choose one or all", subject=path, choices=choices)
    return range(pages)


def _page_of(image: Image.Image, page: int, path: Path, options: Options) -> Picture:
    image.seek(page)
    return _page(image, page, path, options)


def _page(image: Image.Image, page: int, path: Path, options: Options) -> Picture:
    notes: list[str] = []
    turned = _orientation(image.getexif().get(ORIENTATION), notes)
    if max(image.size) == 1:
        notes.append("the image is a single pixel")
    if image.mode == "CMYK":
        notes.append("its colours are inks for printing (CMYK); they were turned to red, green and blue")
    if image.mode == "RGB" and (extra := len(getattr(image, "tag_v2", {}).get(EXTRA_SAMPLES, ()))):
        notes.append(f"a pixel holds {3 + extra} numbers; red, green and blue are used")
    if image.mode in {"RGB", "RGBA"} and image.format == "PNG" and _stored_bits(image, path) == 16:
        pixels = _deep(path, notes, options)
    else:
        pixels = _finite(_pixels(image), notes) if options.clean else _numbers(image, _stored_bits(image, path))
    alpha = None if options.clean else _alpha(image)
    if image.format == "TIFF":  # Pillow has turned it, and tifffile would not
        pixels, alpha = _as_stored(pixels, turned), None if alpha is None else _as_stored(alpha, turned)
    return Picture(pixels, source=path, frame=page, warnings=tuple(notes), alpha=alpha, turned=turned)


def _orientation(value: object, notes: list[str]) -> int:
    """The EXIF orientation that a file gives, 1 where it gives none."""
    if value not in range(2, 9):
        return 1
    notes.append(f"viewers turn it (EXIF orientation {value}); the pixels are used as stored, rows and columns refer to those")
    return int(str(value))


def _as_stored(array: NDArray[Any], turned: int) -> NDArray[Any]:
    """What was turned by its EXIF orientation, as it was before."""
    back = np.rot90(array, {3: 2, 4: 2, 6: 1, 7: 2, 8: -1}.get(turned, 0))
    if turned in (2, 4):
        back = back[:, ::-1]
    return np.ascontiguousarray(back.swapaxes(0, 1) if turned in (5, 7) else back)


def _stored_bits(image: Image.Image, path: Path) -> int:
    """Bits of each number in the file: Pillow makes 8 of the 16 of a colour in PNG, and of 2 or 4 of a grey, without a word."""
    if image.format == "TIFF":
        return int(max(np.atleast_1d(getattr(image, "tag_v2", {}).get(DEPTHS, 8))))
    if image.format != "PNG":
        return 8
    with open_regular(path) as stream:
        return stream.read(25)[24]


def _deep(path: Path, notes: list[str], options: Options) -> NDArray[Any]:
    array = read_deep_png(path)
    if array.ndim == 2 or not options.clean:
        return array
    colours, note = to_bytes(array)
    notes.append(note)
    return colours


def _numbers(image: Image.Image, bits: int) -> NDArray[Any]:
    """The numbers of a mask as they are stored: those of a palette, not its colours; not inverted, stretched or made finite."""
    if image.mode in {"P", "PA"}:
        return np.array(image.getchannel("P"))
    inverted = image.mode in {"1", "L"} and getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == INVERTED
    pixels = _drawn(np.invert(_pixels(image))) if inverted else _pixels(image)
    return pixels // np.uint8(255 // (2**bits - 1)) if image.mode == "L" and bits in {2, 4} else pixels


# Some programs store 255 where an object is and call 0 white (ImageJ), others store what is shown the other way round.
def _drawn(stored: NDArray[Any]) -> NDArray[Any]:
    """A mask whose 0 is white: as stored, or where it is 0 and 255 and the ground would be drawn so, as shown."""
    if stored.dtype != np.uint8 or not np.isin(stored, (0, 255)).all():
        return stored
    return np.invert(stored) if is_ground(stored > 0) and not is_ground(stored == 0) else stored


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


def _pixels(image: Image.Image) -> NDArray[Any]:
    if image.mode in GREY_MODES:
        array = np.array(image)
        if array.dtype == bool:
            return array.astype(np.uint8) * np.uint8(255)
        return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
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


GREY = {0, 1}
INVERTED = 0
"""What PhotometricInterpretation calls grey values, and those of which 0 is white."""
ALPHA = {1, 2}
RGB = 3
YCBCR = 6
UNCOMPRESSED = 1
DEPTHS, SAMPLE_FORMAT = 0x0102, 0x0153
UNSIGNED, SIGNED = 1, 2


def open_tiff(stream: BinaryIO, name: str) -> "TiffFile":
    """Read the directories; files that an OME description names are not opened."""
    import tifffile  # takes a while to load, and only TIFF files need it

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
    """Whether Pillow would take deep colours for bytes, or numbers of the wrong sign, which it does without a word."""
    tags = getattr(image, "tag_v2", {})
    deepest, sign = max(np.atleast_1d(tags.get(DEPTHS, 8))), tags.get(SAMPLE_FORMAT, (UNSIGNED,))
    cut = image.mode in {"RGB", "RGBA"} and deepest > 8
    return cut or (image.mode == "I" and UNSIGNED in sign) or (image.mode == "L" and SIGNED in sign)


# tifffile asks for memory by what a directory claims, and fills what is missing with zeros: both before it could be noticed.
def check_pages(file: "TiffFile", size: int, path: Path) -> None:
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


def planes_of(file: "TiffFile", size: int) -> list[TiffPlane]:
    """The images of a file of so many bytes, in its order: no smaller copies, no masks of transparency.

    Raises:
        FormatError: fewer planes than its description promises.
    """
    pages: list[Any] = [file.pages[index] for index in range(len(file.pages))]
    whole = [page for page in pages if not (page.is_reduced or page.is_mask)] or pages
    if len(pages) == 1 and (promised := _promised(file)) > 1:
        return _stack(pages[0], promised, size)
    return [plane for page in whole for plane in _channels(page)]


def _promised(file: "TiffFile") -> int:
    """Planes that the description of the only directory speaks of."""
    page: Any = file.pages[0]
    if file.is_stk:
        return int((file.stk_metadata or {}).get("NumberPlanes", 1))
    if file.is_imagej:
        return int((file.imagej_metadata or {}).get("images", 1))
    shaped = (file.shaped_metadata or ({},))[0] if file.is_shaped else {}
    count = prod(shaped.get("shape", page.shape))
    return count // page.size if page.size and count % page.size == 0 else 1


def _stack(page: Any, promised: int, size: int) -> list[TiffPlane]:
    """Planes that lie behind each other without directories of their own."""
    first, step = int(page.dataoffsets[0]), int(page.nbytes)
    plain = page.is_contiguous and page.compression == 1 and page.bitspersample % 8 == 0
    if not plain or not step or first + promised * step > size:
        held = (size - first) // step if plain and step else 1
        problem = f"its description promises {promised} planes, the file holds {held}"
        raise FormatError(problem, "copy it again, or save the stack again")
    return [TiffPlane(0, first + number * step) for number in range(promised)]


def _channels(page: Any) -> list[TiffPlane]:
    samples = int(page.samplesperpixel) - sum(extra in ALPHA for extra in page.extrasamples)
    if page.photometric not in GREY or samples in (1, RGB):
        return [TiffPlane(page.index)]
    return [TiffPlane(page.index, channel=channel, channels=samples) for channel in range(samples)]


def read_plane(file: "TiffFile", plane: TiffPlane, *, as_shown: bool) -> NDArray[Any]:
    """The pixels of an image: (H, W), (H, W, C) or (C, H, W); as shown, bytes of which 0 is white are inverted."""
    page: Any = file.pages[plane.page]
    if plane.offset is not None:
        file.filehandle.seek(plane.offset)
        data = file.filehandle.read(page.nbytes)
        array = np.frombuffer(data, page.dtype.newbyteorder(file.byteorder)).reshape(page.shape).astype(page.dtype)
    else:
        array = page.asarray()
    if plane.channel is not None:
        array = array.take(plane.channel, axis=page.axes.index("S"))
    if page.photometric != INVERTED:
        return array
    return _drawn(array) if not as_shown else np.invert(array) if array.dtype == np.uint8 else array


def read_alpha(file: "TiffFile", plane: TiffPlane) -> NDArray[Any] | None:
    """The opacity of each pixel, where the file stores it."""
    page: Any = file.pages[plane.page]
    places = [place for place, extra in enumerate(page.extrasamples) if extra in ALPHA]
    if not places or plane.offset is not None:
        return None
    number = int(page.samplesperpixel) - len(page.extrasamples) + places[0]
    return page.asarray().take(number, axis=page.axes.index("S"))


HIGH_OF_GREY = "LA;16B"


def to_bytes(colours: NDArray[np.uint16]) -> tuple[NDArray[np.uint8], str]:
    """Colours (H, W, 3) as bytes, the same for all channels so that they stay what they are; and what was done."""
    window = percentile_window(colours)
    note = f"its colours are 16 bits deep; {window.low:g} to {window.high:g} of them, by percentiles, became 8 bits"
    return window.as_bytes(colours), note


def read_deep_png(path: Path) -> NDArray[np.uint16]:
    """A PNG of 16 bits with colours (H, W, 3) or with grey and transparency (H, W), which is left out.

    Pillow keeps one byte of two, the upper one of big-endian numbers; asked for little-endian ones it keeps the lower one.
    """
    with open_regular(path) as stream, Image.open(stream, formats=("PNG",)) as image:
        kept = str(image.tile[0].args)
        if kept == HIGH_OF_GREY:
            bytes_of = _raw(image, "RGBA")
            return _joined(bytes_of[..., 0], bytes_of[..., 1])
        upper = np.array(image)[..., :3]
    with open_regular(path) as stream, Image.open(stream, formats=("PNG",)) as image:
        return _joined(upper, _raw(image, kept.replace("16B", "16L"))[..., :3])


def _joined(upper: NDArray[Any], lower: NDArray[Any]) -> NDArray[np.uint16]:
    return np.stack([lower, upper], axis=-1).astype(np.uint8).view("<u2")[..., 0].astype(np.uint16)


def _raw(image: Image.Image, order: str) -> NDArray[Any]:
    """The pixels, with their bytes taken in another order."""
    image.tile = [tile._replace(args=order) for tile in image.tile]  # type: ignore[attr-defined]
    return np.array(image)
